"""Offline jobs: planning, outputs, and what remains after errors and interrupts."""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from failing_file import Once, fail
from fakes import FakeSeparator

from rtmtass.config import STEMS
from rtmtass.errors import InputError, ModelError, OutputError, UsageError
from rtmtass.fullband import FullBandSeparator
from rtmtass.io import part_file
from rtmtass.io.encodings import Encoding
from rtmtass.io.file_sink import FileSink
from rtmtass.io.paths import fit_name
from rtmtass.offline import plan as planning
from rtmtass.offline.plan import Job, SeparateOptions, plan, unread_files
from rtmtass.offline.separate import NullProgress, separate_file, separate_files
from rtmtass.offline.writers import MIX, StemWriters, WriterThread
from rtmtass.signals import Interrupted, Terminated, catch_stops, defer_signals, exit_code

HOP = FakeSeparator.hop
EXACT = {"format": "wav", "subtype": "FLOAT"}


def noise(n, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, (n, channels)).astype(np.float32)


def record(path, n=5000, rate=16000, channels=1, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = noise(n, channels)
    soundfile.write(path, x, rate, subtype)
    return x


def separate(path, **keywords):
    options = SeparateOptions(**keywords)
    (job,) = plan([path], options)
    return separate_file(job, options, FakeSeparator, NullProgress())


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def peak_db(x):
    return 20 * np.log10(np.abs(x).max() + 1e-12)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
@pytest.mark.parametrize(("channels", "mode"), [(1, "linked"), (2, "linked"), (3, "independent")])
def test_stems_of_a_float_file_sum_to_it(tmp_path, rate, channels, mode):
    x = record(tmp_path / "a.wav", rate * 2 + 77, rate, channels, "FLOAT")
    result = separate(tmp_path / "a.wav", channels=mode)
    stems = [read(result.outputs[stem]) for stem in STEMS]
    assert all(s.shape == x.shape for s in stems)
    assert all(soundfile.info(p).samplerate == rate for p in result.outputs.values())
    assert all(soundfile.info(p).subtype == "FLOAT" for p in result.outputs.values())
    assert peak_db(sum(stems) - x) < -90
    assert (result.status, result.frames, result.channels) == ("done", len(x), channels)


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
def test_stems_of_an_integer_file_sum_to_it_within_rounding(tmp_path, subtype, bits):
    record(tmp_path / "a.flac", 50000, 44100, 2, subtype)
    x = read(tmp_path / "a.flac")
    stems = [read(p) for p in separate(tmp_path / "a.flac").outputs.values()]
    assert np.abs(sum(stems) - x).max() <= 3 * 0.5 * 2.0 ** (1 - bits) + 1e-6


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
@pytest.mark.parametrize("n", [1, HOP - 1, HOP, HOP + 1, 16000, 44101])
def test_outputs_are_as_long_as_the_input(tmp_path, rate, n):
    x = record(tmp_path / "a.wav", n, rate, 2, "FLOAT")
    stems = [read(p) for p in separate(tmp_path / "a.wav").outputs.values()]
    assert [len(s) for s in stems] == [n] * 3
    assert peak_db(sum(stems) - x) < -90


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_outputs_are_aligned_with_the_input(tmp_path, rate):
    x = np.zeros((rate, 2), np.float32)
    x[12345] = 0.5
    soundfile.write(tmp_path / "a.wav", x, rate, "FLOAT")
    options = SeparateOptions()
    (job,) = plan([tmp_path / "a.wav"], options)
    speech_only = FakeSeparator(weights=(1, 0, 0))
    result = separate_file(job, options, lambda: speech_only, NullProgress())
    speech = read(result.outputs["speech"])
    assert np.abs(speech).argmax(axis=0).tolist() == [12345, 12345]
    assert peak_db(speech - x) < -90


def test_empty_input_is_rejected(tmp_path):
    record(tmp_path / "a.wav", 0)
    with pytest.raises(InputError, match="no samples"):
        separate(tmp_path / "a.wav")
    assert os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("name", ["flac", "ogg", "mp3", "opus", "wav"])
def test_every_format_keeps_length_and_tags(tmp_path, name):
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 48000, 2) as file:
        file.title, file.artist = "Talk", "Someone"
        file.write(noise(33333, 2))
    result = separate(tmp_path / "a.flac", format=name)
    for path in result.outputs.values():
        assert path.suffix == f".{name}"
        with soundfile.SoundFile(path) as file:
            assert (file.frames, file.samplerate, file.channels) == (33333, 48000, 2)
            assert (file.title, file.artist) == ("Talk", "Someone")


def test_mono_mixes_down(tmp_path):
    x = record(tmp_path / "a.wav", 9000, 44100, 2, "FLOAT")
    stems = [read(p) for p in separate(tmp_path / "a.wav", channels="mono").outputs.values()]
    assert peak_db(sum(stems)[:, 0] - x.mean(axis=1)) < -90


def test_only_the_selected_stems_are_written(tmp_path):
    record(tmp_path / "a.wav")
    result = separate(tmp_path / "a.wav", stems=("music",), folder=tmp_path / "new" / "out")
    assert result.outputs == {"music": tmp_path / "new" / "out" / "a.music.wav"}
    assert os.listdir(tmp_path / "new" / "out") == ["a.music.wav"]


def test_remix_is_the_weighted_sum_of_the_stems(tmp_path):
    record(tmp_path / "a.wav", 20000, 44100, 2, "FLOAT")
    gains = {"music": -12.0, "noise": -np.inf}
    mix = tmp_path / "mix.wav"
    outputs = separate(tmp_path / "a.wav", gains_db=gains, mix=mix).outputs
    assert outputs[MIX] == mix
    expected = read(outputs["speech"]) + 10 ** (-12 / 20) * read(outputs["music"])
    np.testing.assert_allclose(read(mix), expected, atol=1e-6)


def test_remix_format_follows_its_suffix(tmp_path):
    record(tmp_path / "a.wav", subtype="PCM_16")
    separate(tmp_path / "a.wav", gains_db={"noise": -6}, mix=tmp_path / "m.flac", stems=())
    assert soundfile.info(tmp_path / "m.flac").format == "FLAC"
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "m.flac"]


def test_integer_clipping_is_reported(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full((4000, 1), 1.5, np.float32), 16000, "FLOAT")
    loud = FakeSeparator(weights=(1, 0, 0))
    options = SeparateOptions(subtype="PCM_16")
    (job,) = plan([tmp_path / "a.wav"], options)
    assert separate_file(job, options, lambda: loud, NullProgress()).clipped == {"speech": 4000}


# --- plans


def names(jobs, root):
    return [str(job.path.relative_to(root)) for job in jobs]


def test_folder_expands_to_recordings_without_earlier_outputs(tmp_path):
    for name in ("b.wav", "a.flac", "sub/c.wav", "a.speech.flac", "b.mix.wav"):
        record(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    options = SeparateOptions(folder=tmp_path / "out")
    assert names(plan([tmp_path], options), tmp_path) == ["a.flac", "b.wav"]
    deep = plan([tmp_path, tmp_path / "b.wav"], options, recursive=True)
    assert names(deep, tmp_path)[:3] == ["a.flac", "b.wav", "sub/c.wav"]
    assert deep[2].targets["speech"] == tmp_path / "out" / "sub" / "c.speech.wav"


def test_folder_without_recordings_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"without recordings; .* add --recursive"):
        plan([tmp_path], SeparateOptions())


def test_duplicate_inputs_are_separated_once(tmp_path):
    record(tmp_path / "a.wav")
    assert len(plan([tmp_path / "a.wav", tmp_path / "a.wav"], SeparateOptions())) == 1


def test_output_over_an_input_is_rejected(tmp_path):
    path = tmp_path / "a.wav"
    record(path)
    with pytest.raises(OutputError, match="is an input too"):
        plan([path], SeparateOptions(mix=path))
    os.link(path, tmp_path / "a.speech.wav")
    with pytest.raises(OutputError, match="is an input too"):
        plan([path], SeparateOptions(overwrite=True))
    (tmp_path / "a.speech.wav").unlink()
    (tmp_path / "a.speech.wav").symlink_to(path)
    with pytest.raises(OutputError, match="is an input too"):
        plan([path], SeparateOptions())


def stems_of(jobs):
    return {str(job.path.name): job.targets["speech"].name for job in jobs}


@pytest.mark.parametrize("order", [1, -1])
def test_two_inputs_of_one_name_have_distinct_outputs_in_any_order(tmp_path, order):
    names = ["talk.aiff", "talk.wav", "talk.WAV", "other.wav"]
    inputs = [tmp_path / name for name in names][::order]
    assert stems_of(plan(inputs, SeparateOptions())) == {
        "talk.aiff": "talk.aiff.speech.wav",
        "talk.wav": "talk.speech.wav",
        "talk.WAV": "talk.WAV.speech.wav",
        "other.wav": "other.speech.wav",
    }
    both = [tmp_path / "talk.flac", tmp_path / "talk.mp3"][::order]
    assert stems_of(plan(both, SeparateOptions(format="ogg"))) == {
        "talk.flac": "talk.flac.speech.ogg",
        "talk.mp3": "talk.mp3.speech.ogg",
    }
    assert stems_of(plan(both, SeparateOptions()))["talk.mp3"] == "talk.speech.mp3"


def test_inputs_of_one_name_from_two_folders_are_kept_apart(tmp_path):
    inputs = [tmp_path / "monday" / "talk.wav", tmp_path / "sunday" / "talk.wav"]
    options = SeparateOptions(folder=Path("out"), gains_db={"music": -3}, mix=Path("mixes"))
    jobs = plan(inputs, options)
    assert [str(job.targets["noise"]) for job in jobs] == [
        "out/monday/talk.noise.wav",
        "out/sunday/talk.noise.wav",
    ]
    assert [str(job.targets[MIX]) for job in jobs] == [
        "mixes/monday/talk.mix.wav",
        "mixes/sunday/talk.mix.wav",
    ]


@pytest.mark.parametrize("first", ["a.wav", "a.aiff.wav", "a.aiff"])
def test_made_up_names_are_distinct_too(tmp_path, first):
    names = ["a.wav", "a.aiff.wav", "a.aiff"]
    inputs = [tmp_path / name for name in sorted(names, key=lambda name: name != first)]
    outputs = stems_of(plan(inputs, SeparateOptions()))
    assert len(set(outputs.values())) == 3
    assert outputs == stems_of(plan(inputs[::-1], SeparateOptions()))


def test_a_remix_in_the_place_of_a_stem_is_refused(tmp_path):
    record(tmp_path / "a.wav")
    options = SeparateOptions(gains_db={"music": -3}, mix=tmp_path / "b" / ".." / "a.speech.wav")
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match=r"written twice, as speech of .* and as mix of"):
        plan([tmp_path / "a.wav"], options)


def test_the_folder_of_remixes_may_be_named_for_one_recording(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "v1.2").mkdir()
    for folder in ("new", "v1.2"):
        options = SeparateOptions(gains_db={"music": -3}, mix=tmp_path / folder)
        (job,) = plan([tmp_path / "a.wav"], options)
        assert job.targets[MIX] == tmp_path / folder / "a.mix.wav"


def test_one_file_cannot_hold_the_remixes_of_two_recordings(tmp_path):
    options = SeparateOptions(gains_db={"music": -3}, mix=Path("remix.wav"))
    with pytest.raises(UsageError, match=r"is one file, and there are 2 .* --mix remixes"):
        plan([tmp_path / "a.wav", tmp_path / "b.wav"], options)


def test_planning_looks_at_each_file_a_few_times_only(tmp_path, monkeypatch):
    for k in range(40):
        (tmp_path / f"{k}.wav").touch()
    calls = []
    stat = os.stat

    def counted(*args, **keywords):
        calls.append(args)
        return stat(*args, **keywords)

    monkeypatch.setattr(os, "stat", counted)
    assert len(plan([tmp_path], SeparateOptions())) == 40
    assert len(calls) < 40 * 3 * 8  # a comparison of all pairs needs 40 * 40 * 3


def test_files_that_cannot_be_read_are_named_once(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "has_backend", lambda: False)
    for name in ("a.m4a", "b.mp4", "c.MKV", "d.webm", "notes.txt", "sub/e.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert len(unread_files([tmp_path])) == 4
    assert len(unread_files([tmp_path], recursive=True)) == 5
    with pytest.raises(InputError, match=r"that can be read: 4 files skipped: .*, or install ff"):
        plan([tmp_path], SeparateOptions())


def test_remixes_of_several_inputs_go_to_a_folder(tmp_path):
    record(tmp_path / "a.wav")
    record(tmp_path / "b.wav")
    jobs = plan(
        [tmp_path / "a.wav", tmp_path / "b.wav"], SeparateOptions(mix=tmp_path / "m", stems=())
    )
    assert [job.targets[MIX].name for job in jobs] == ["a.mix.wav", "b.mix.wav"]


# --- series


class RecordingProgress(NullProgress):
    def __init__(self):
        self.paths, self.frames, self.statuses = [], 0, []

    def started(self, path, frames, sample_rate):
        self.paths.append((path.name, frames, sample_rate))

    def advanced(self, frames):
        self.frames += frames

    def finished(self, result):
        self.statuses.append(result.status)


def test_a_failed_file_does_not_end_the_series(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("not sound")
    record(tmp_path / "c.wav", 7000)
    options, progress = SeparateOptions(), RecordingProgress()
    results = list(separate_files(plan([tmp_path], options), options, FakeSeparator, progress))
    assert [r.status for r in results] == ["done", "failed", "done"] == progress.statuses
    assert "b.wav is not audio" in results[1].error
    assert progress.paths == [("a.wav", 5000, 16000), ("c.wav", 7000, 16000)]
    assert progress.frames == 12000
    again = list(separate_files(plan([tmp_path], options), options, FakeSeparator, progress))
    assert [r.status for r in again] == ["skipped", "failed", "skipped"]


def test_existing_outputs_are_kept_and_missing_ones_written(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "a.music.wav").write_text("mine")
    result = separate(tmp_path / "a.wav")
    assert set(result.outputs) == {"speech", "noise"}
    assert (tmp_path / "a.music.wav").read_text() == "mine"
    assert set(separate(tmp_path / "a.wav", overwrite=True).outputs) == set(STEMS)
    assert len(read(tmp_path / "a.music.wav")) == 5000


def test_model_error_ends_the_series(tmp_path):
    def broken():
        raise ModelError("altered")

    record(tmp_path / "a.wav")
    options = SeparateOptions()
    with pytest.raises(ModelError):
        list(separate_files(plan([tmp_path], options), options, broken, NullProgress()))
    assert os.listdir(tmp_path) == ["a.wav"]


def test_late_input_error_leaves_no_partial_files(tmp_path):
    x = noise(40000)
    x[39000] = np.nan
    soundfile.write(tmp_path / "a.wav", x, 16000, "FLOAT")
    with pytest.raises(InputError, match=r"NaN at 2.438 s"):
        separate(tmp_path / "a.wav")
    assert os.listdir(tmp_path) == ["a.wav"]


def test_full_disk_leaves_no_partial_files(tmp_path, monkeypatch):
    record(tmp_path / "a.wav", 160000, subtype="FLOAT")
    monkeypatch.setattr(part_file, "FileIO", part_file.FileIO)
    fail(lambda n, name, path: n > 20 and name == "write")
    with pytest.raises(OutputError, match="disk is full"):
        separate(tmp_path / "a.wav")
    assert os.listdir(tmp_path) == ["a.wav"]


class Stopping(NullProgress):
    """Interrupts after a number of blocks."""

    def __init__(self, blocks, stop):
        self._blocks, self._stop, self.frames = blocks, stop, 0

    def advanced(self, frames):
        self.frames += frames
        self._blocks -= 1
        if not self._blocks:
            raise self._stop


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_interrupt_keeps_valid_part_files(tmp_path, suffix):
    record(tmp_path / f"a.{suffix}", 16000 * 5)
    options = SeparateOptions()
    (job,) = plan([tmp_path / f"a.{suffix}"], options)
    stopping = Stopping(3, KeyboardInterrupt())
    with pytest.raises(Interrupted) as interrupted:
        separate_file(job, options, FakeSeparator, stopping)
    assert [p.name for p in interrupted.value.parts] == [f"a.{s}.{suffix}.part" for s in STEMS]
    for part in interrupted.value.parts:
        assert soundfile.info(part).frames == stopping.frames - 511
    assert exit_code(interrupted.value.cause) == 130
    # The next run starts from the beginning and leaves no part files.
    assert separate_file(job, options, FakeSeparator, NullProgress()).status == "done"
    assert not list(tmp_path.glob("*.part"))


def test_interrupt_before_the_first_output_leaves_no_files(tmp_path):
    record(tmp_path / "a.wav", 300)
    (job,) = plan([tmp_path / "a.wav"], SeparateOptions())
    with pytest.raises(Interrupted) as interrupted:
        separate_file(job, SeparateOptions(), FakeSeparator, Stopping(1, Terminated()))
    assert interrupted.value.parts == ()
    assert exit_code(interrupted.value.cause) == 143
    assert os.listdir(tmp_path) == ["a.wav"]


def test_signals_are_deferred_to_the_end_of_the_block():
    import signal

    reached = []

    def close_files():
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            reached.append("end")

    with catch_stops():
        with pytest.raises(KeyboardInterrupt):
            close_files()
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert reached == ["end"]


# --- the thread that writes


class Writer:
    part = Path("x.part")
    clipped = 0

    def __init__(self, error_at=-1):
        self.blocks, self.frames, self._error_at = [], 0, error_at

    def write(self, block):
        if len(self.blocks) == self._error_at:
            raise OutputError("full")
        self.blocks.append(block.copy())
        self.frames += len(block)

    def finalise(self):
        pass

    def publish(self):
        pass

    def abandon(self):
        pass


def test_writer_thread_keeps_order_and_raises_errors():
    sink = StemWriters(("speech", "music"), {})
    writer = Writer()
    sink.writers = {"music": writer}
    thread = WriterThread(sink)
    for i in range(50):
        thread.write(np.full((2, 3, 1), i, np.float32))
    thread.close()
    thread.close()
    assert [b[0, 0] for b in writer.blocks] == list(range(50))
    sink.writers = {"music": Writer(error_at=2)}
    thread = WriterThread(sink)

    def write_on():
        for _ in range(50):
            thread.write(np.zeros((2, 3, 1), np.float32))
        thread.close()

    with pytest.raises(OutputError, match="full"):
        write_on()
    thread.stop()
    assert not [t for t in threading.enumerate() if t.name == "rtmtass-writer"]


def test_result_as_json(tmp_path):
    record(tmp_path / "a.wav", 16000)
    values = separate(tmp_path / "a.wav", stems=("speech",)).to_dict()
    assert values["outputs"] == {"speech": str(tmp_path / "a.speech.wav")}
    assert (values["duration_s"], values["channels"]) == (1.0, 1)


def test_file_output_equals_the_streamed_output(tmp_path):
    """Files and streams share one implementation."""
    x = record(tmp_path / "a.wav", 30000, 44100, 2, "FLOAT")
    separator = FullBandSeparator(FakeSeparator(), 44100, 2)
    parts = [separator.process(x[i : i + 999]) for i in range(0, len(x), 999)]
    streamed = np.concatenate([*parts, separator.flush()], axis=1)[:, separator.delay :]
    job = Job(tmp_path / "a.wav", {"noise": tmp_path / "n.wav"})
    separate_file(job, SeparateOptions(), FakeSeparator, NullProgress())
    np.testing.assert_allclose(read(tmp_path / "n.wav"), streamed[2], atol=1e-6)


# --- stems that belong together


@pytest.mark.parametrize("change", [{"channels": "mono"}, {"model": "b"}, {"subtype": "PCM_24"}])
def test_stems_of_other_settings_are_not_kept(tmp_path, change):
    record(tmp_path / "a.wav", channels=2)
    assert separate(tmp_path / "a.wav").status == "done"
    assert separate(tmp_path / "a.wav").status == "skipped"
    (tmp_path / "a.noise.wav").unlink()
    with pytest.raises(OutputError, match=r"exists and is of other settings; add --overwrite"):
        separate(tmp_path / "a.wav", **change)
    assert not (tmp_path / "a.noise.wav").exists()
    assert separate(tmp_path / "a.wav", overwrite=True, **change).status == "done"


def test_other_gains_concern_the_remix_only(tmp_path):
    record(tmp_path / "a.wav")
    mixed = {"mix": tmp_path / "m.wav", "gains_db": {"music": -6}}
    separate(tmp_path / "a.wav", **mixed)
    assert separate(tmp_path / "a.wav").status == "skipped"
    assert separate(tmp_path / "a.wav", **mixed).status == "skipped"
    with pytest.raises(OutputError, match=r"m\.wav exists and is of other settings"):
        separate(tmp_path / "a.wav", **{**mixed, "gains_db": {"music": -7}})


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus"])
def test_stems_of_a_replaced_recording_are_not_kept(tmp_path, suffix):
    soundfile.write(tmp_path / "older.wav", noise(4800, seed=1), 48000)
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(4800, seed=2), 48000)
    assert separate(path, format=suffix).status == "done"
    times = path.stat().st_mtime_ns
    os.utime(path, ns=(times + 10**9, times + 10**9))  # touched, but the same
    assert separate(path, format=suffix).status == "skipped"
    (tmp_path / "older.wav").replace(path)
    with pytest.raises(OutputError, match=r"exists and is of another recording"):
        separate(path, format=suffix)
    with pytest.raises(OutputError, match=r"exists and is of another recording"):
        separate(path, format=suffix, stems=("speech",))


def test_an_output_without_a_mark_must_not_be_older_than_its_input(tmp_path):
    record(tmp_path / "a.mp3", 16000)
    for stem in STEMS:
        (tmp_path / f"a.{stem}.mp3").write_bytes(b"made by an earlier version")
    assert separate(tmp_path / "a.mp3").status == "skipped"
    os.utime(tmp_path / "a.speech.mp3", (1e9, 1e9))
    with pytest.raises(OutputError, match=r"a\.speech\.mp3 exists and is older than"):
        separate(tmp_path / "a.mp3")


# --- whatever happens in one file


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ZeroDivisionError("by zero"),
            r"b.wav failed by a bug in rtmtass \(ZeroDivisionError: by",
        ),
        (MemoryError(), "b.wav needs more memory than there is"),
        (UsageError("no such subtype"), "b.wav: no such subtype"),
        (OSError(5, "Input/output error"), "b.wav failed by a bug"),
    ],
)
def test_no_error_of_one_file_ends_the_series(tmp_path, error, message):
    for name in "abc":
        record(tmp_path / f"{name}.wav")

    class Broken(NullProgress):
        def started(self, path, frames, sample_rate):
            if path.name == "b.wav":
                raise error

    jobs = plan([tmp_path], SeparateOptions())
    results = list(separate_files(jobs, SeparateOptions(), FakeSeparator, Broken()))
    assert [r.status for r in results] == ["done", "failed", "done"]
    assert re.search(message, results[1].error)
    assert ("Traceback" in results[1].traceback) == ("bug" in results[1].error)
    assert len(os.listdir(tmp_path)) == 9


def test_a_folder_without_recordings_does_not_end_the_series(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "empty").mkdir()
    jobs = plan([tmp_path / "empty", tmp_path / "a.wav"], SeparateOptions())
    results = list(separate_files(jobs, SeparateOptions(), FakeSeparator, NullProgress()))
    assert [r.status for r in results] == ["done", "failed"]


LONG = ("x" * 246, "ä" * 123, "x" + "ä" * 122 + "y", b"\xe0" * 246)


@pytest.mark.parametrize("name", [b"mod\xe0.wav", "日本 – ’.wav", "a\nb.wav", *LONG])
def test_names_of_any_bytes_and_length(tmp_path, name):
    """A suffix for the stem or for the unfinished file never makes a name too long."""
    path = tmp_path / (os.fsdecode(name) + ".wav")
    record(tmp_path / "t.wav")
    (tmp_path / "t.wav").rename(path)
    result = separate(path)
    assert result.status == "done"
    assert len(set(result.outputs.values())) == 3
    assert all(p.suffixes[-2] == f".{stem}" for stem, p in result.outputs.items())
    assert separate(path).status == "skipped"
    assert len(plan([tmp_path], SeparateOptions())) == 1


def test_long_names_that_differ_at_their_end_stay_distinct():
    names = {fit_name("x" * 249 + end, ".speech.wav") for end in "abc"}
    assert len(names) == 3
    assert all(len(name) == 255 for name in names)


def test_nothing_but_a_plain_file_is_replaced(tmp_path):
    record(tmp_path / "a.wav")
    (tmp_path / "precious.wav").write_text("precious")
    (tmp_path / "a.speech.wav").symlink_to("precious.wav")
    os.link(tmp_path / "precious.wav", tmp_path / "a.music.wav.part")
    assert separate(tmp_path / "a.wav", overwrite=True).status == "done"
    assert (tmp_path / "precious.wav").read_text() == "precious"
    assert not (tmp_path / "a.speech.wav").is_symlink()
    (tmp_path / "a.noise.wav").unlink()
    (tmp_path / "a.noise.wav").mkdir()
    with pytest.raises(OutputError, match=r"a\.noise\.wav can't be written: it is a folder"):
        separate(tmp_path / "a.wav", overwrite=True)


@pytest.mark.parametrize("kind", ["a link to nothing", "a folder"])
def test_what_is_no_output_is_not_taken_for_one(tmp_path, kind):
    """A stem counted as done that isn't there would be missed only later."""
    record(tmp_path / "a.wav")
    target = tmp_path / "a.speech.wav"
    target.mkdir() if kind == "a folder" else target.symlink_to("nowhere.wav")
    with pytest.raises(OutputError, match=rf"a\.speech\.wav .*is {kind}; "):
        separate(tmp_path / "a.wav")
    assert not list(tmp_path.glob("*.music.wav"))
    assert not (tmp_path / "nowhere.wav").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_nothing_else_is_taken_for_an_unfinished_file(tmp_path, kind):
    record(tmp_path / "a.wav")
    (tmp_path / "precious").write_text("precious")
    part = tmp_path / "a.music.wav.part"
    {"link": lambda: part.symlink_to("precious"), "pipe": lambda: os.mkfifo(part),
     "folder": part.mkdir}[kind]()  # fmt: skip
    with pytest.raises(OutputError, match=r"a\.music\.wav\.part is not a plain file; rm "):
        separate(tmp_path / "a.wav")
    assert (tmp_path / "precious").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["a.music.wav.part", "a.wav", "precious"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("frames", [None, 3000])
def test_every_operation_that_fails_is_told_and_damages_nothing(
    tmp_path, monkeypatch, code, suffix, frames
):
    """Each read, write, seek and close of an output fails in turn, once."""
    monkeypatch.setattr(part_file, "FileIO", part_file.FileIO)
    target, x = tmp_path / f"a.{suffix}", noise(3000)
    encoding = Encoding(suffix, suffix.upper(), "PCM_16")
    seen: set[str] = set()
    at, is_over = 0, False
    while not is_over:
        once, told = Once(at), ""
        target.write_text("finished before")
        fail(once, code)
        try:
            sink = FileSink(target, 16000, 1, encoding, frames=frames)
            try:
                sink.write(x)
                sink.publish()
            finally:
                sink.abandon()
        except OutputError as error:
            told = str(error)
        if told:
            assert told.startswith(str(target))
            assert target.read_text() == "finished before"
        else:
            np.testing.assert_allclose(read(target), x, atol=2**-15)
        assert os.listdir(tmp_path) == [target.name]
        seen.add(once.failed)
        at, is_over = at + 1, not once.failed
    assert seen >= {"write", "seek", "close"}


def test_a_failed_rename_is_told(tmp_path, monkeypatch):
    record(tmp_path / "a.wav")
    replace = os.replace

    def refuse(source, target):
        if "music" in str(target):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=r"a\.music\.wav can't be written: Input/output error"):
        separate(tmp_path / "a.wav")
    assert not list(tmp_path.glob("*.part"))
