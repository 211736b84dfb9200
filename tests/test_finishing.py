"""What `separate` does beyond three stems: parts, two stems, limited remixes, names, bit rates."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from typing import cast

import numpy as np
import pytest
import soundfile
import soxr
from fakes import FakeSeparator
from test_files import read, separate

from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.fullband import FullBandSeparator
from rtmtass.io.encodings import mp3_bitrates
from rtmtass.io.tags.id3 import tag_size
from rtmtass.offline.excerpt import TimeRange
from rtmtass.offline.limiter import CEILING_DB, Limiter
from rtmtass.offline.naming import NameTemplate
from rtmtass.offline.plan import SeparateOptions, plan
from rtmtass.offline.separate import NullProgress, separate_file
from rtmtass.offline.writers import MIX, BlockWriter, StemWriters

TWO = ("speech", "rest")


def noise(n, channels=1, level=0.5):
    return np.random.default_rng(0).uniform(-level, level, (n, channels)).astype(np.float32)


def record(path, n, rate=16000, channels=1, subtype="FLOAT"):
    x = noise(n, channels)
    soundfile.write(path, x, rate, subtype)
    return path


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 1.3), (0.7, 2.1), (2.5, None), (4.9, 5.0)])
def test_a_part_is_that_slice_of_the_whole(tmp_path, rate, start_s, end_s):
    path = record(tmp_path / "a.wav", 5 * rate + 7, rate, 2)
    whole = separate(path, folder=tmp_path / "whole").outputs
    result = separate(path, folder=tmp_path, part=TimeRange(start_s, end_s))
    first = round(start_s * rate)
    last = 5 * rate + 7 if end_s is None else round(end_s * rate)
    assert (result.start, result.frames) == (first, last - first)
    for stem, output in result.outputs.items():
        np.testing.assert_array_equal(read(output), read(whole[stem])[first:last])


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("run_in_s", [0.0, 1.0, 2.5])
def test_a_part_is_aligned_whatever_the_run_in(tmp_path, rate, run_in_s):
    """The fake separator's weights depend on time since its start, so those differ; sums don't."""
    path = record(tmp_path / "a.wav", 8 * rate, rate)
    part = TimeRange(6.123, 7.0, run_in_s)
    result = separate(path, part=part)
    total = sum(read(output) for output in result.outputs.values())
    np.testing.assert_allclose(total, read(path)[round(6.123 * rate) : 7 * rate], atol=1e-6)


def test_separation_starts_with_the_run_in_and_ends_soon_after_the_part(tmp_path):
    seen = []

    class Counting(NullProgress):
        def advanced(self, frames):
            seen.append(frames)

    path = record(tmp_path / "a.wav", 20 * 16000)
    options = SeparateOptions(part=TimeRange(11.0, 12.0, 3.0))
    (job,) = plan([path], options)
    separate_file(job, options, FakeSeparator, Counting())
    assert sum(seen) == 4 * 16000 + FakeSeparator().delay


def test_a_part_behind_the_end_is_refused_with_the_length(tmp_path):
    path = record(tmp_path / "a.wav", 32000)
    with pytest.raises(InputError, match=re.escape("is 2.00 s long, and --from 5.00")):
        separate(path, part=TimeRange(5.0))
    assert not list(tmp_path.glob("a.speech*"))


def test_a_part_of_a_pipe_of_unknown_length(tmp_path):
    from test_io import Pipe

    from rtmtass.io.pipes import StreamSource
    from rtmtass.io.wav_header import stream_header
    from rtmtass.offline.excerpt import Excerpt, ExcerptSink, ExcerptSource
    from rtmtass.offline.separate import run

    x = noise(32000)
    for start_s, is_inside in ((1.5, True), (2.5, False)):
        source = StreamSource(Pipe(stream_header(16000, 1, "f32") + x.tobytes()), "stdin")
        separator = FullBandSeparator(FakeSeparator(), 16000, 1)
        excerpt = Excerpt(TimeRange(start_s, 3.0), "stdin", 16000, source.frames, separator.delay)
        taken = Taken()
        sink = ExcerptSink(taken, excerpt)
        if is_inside:
            run(ExcerptSource(source, excerpt), separator, sink, lambda n: None)
            np.testing.assert_allclose(taken.total, x[24000:], atol=1e-6)
        else:
            with pytest.raises(InputError, match="lies behind its end"):
                run(ExcerptSource(source, excerpt), separator, sink, lambda n: None)


class Taken:
    """A sink that adds the stems up."""

    def __init__(self):
        self.total = np.zeros((0, 1), np.float32)

    def write(self, stems):
        self.total = np.concatenate((self.total, stems.sum(axis=0)))

    def close(self):
        pass


def test_markers_and_the_time_of_a_broadcast_follow_the_part(tmp_path):
    from test_tags import bext, chunk, chunks_of, cue, wav

    source = wav(tmp_path / "a.wav", chunk(b"bext", bext(time=1000)), chunk(b"cue ", cue(10, 5000)))
    outputs = separate(source, part=TimeRange(0.1, 0.15), stems=("speech",)).outputs
    found = chunks_of(outputs["speech"])
    assert struct.unpack_from("<Q", found[b"bext"], 338)[0] == 1000 + 4800
    assert struct.unpack_from("<II4s3I", found[b"cue "], 4)[5] == 5000 - 4800


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16", "PCM_24"])
def test_two_stems_sum_to_the_input(tmp_path, subtype):
    path = record(tmp_path / "a.wav", 44100, 44100, 2, subtype)
    result = separate(path, stems=TWO, folder=tmp_path)
    assert [p.name for p in result.outputs.values()] == ["a.speech.wav", "a.rest.wav"]
    step = {"FLOAT": 0.0, "PCM_16": 2.0**-15, "PCM_24": 2.0**-23}[subtype]
    total = sum(read(p).astype(np.float64) for p in result.outputs.values())
    assert np.abs(total - read(path)).max() <= step + 2e-7
    assert [job.path for job in plan([tmp_path], SeparateOptions())] == [path]


# Limiter


def loud(kind, rate, seconds=2.0):
    n = int(rate * seconds)
    rng = np.random.default_rng(1)
    at = np.arange(n)
    if kind == "between samples":  # a sine whose samples all are 3 dB below its crest
        x = 1.3 * np.sin(np.pi / 2 * at + np.pi / 4)
    elif kind == "clicks":
        x = np.where(rng.random(n) < 1e-3, 3.0, 0.0)
    elif kind == "music":
        tones = rng.uniform(50, 0.4 * rate, 20)
        x = np.sin(2 * np.pi * tones[:, None] * at / rate + rng.uniform(0, 6, (20, 1))).sum(0) / 4
        x *= 1 + np.sin(2 * np.pi * 1.5 * at / rate)
    else:
        x = rng.normal(0, 0.5, n)
    return np.stack([x, 0.5 * x], axis=1).astype(np.float32)


def true_peak_db(x, rate):
    padded = np.pad(x.astype(np.float64), ((500, 500), (0, 0)))
    return 20 * np.log10(np.abs(soxr.resample(padded, rate, 4 * rate, "VHQ")).max())


def limit(x, rate, *splits):
    limiter = Limiter(rate, x.shape[1])
    parts = [limiter.process(block) for block in np.split(x, splits)]
    return np.concatenate([*parts, limiter.flush()]), limiter


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
@pytest.mark.parametrize("kind", ["between samples", "clicks", "music", "noise"])
def test_true_peaks_stay_below_the_ceiling(kind, rate):
    x = loud(kind, rate)
    assert true_peak_db(x, rate) > 1
    y, limiter = limit(x, rate, rate, rate + 1)
    assert y.shape == x.shape
    assert CEILING_DB - 2 < true_peak_db(y, rate) <= CEILING_DB
    expected = true_peak_db(x, rate) - CEILING_DB
    assert limiter.limiting.deepest_db == pytest.approx(expected, abs=1.2)


def test_the_limiter_gives_the_same_for_blocks_of_any_length():
    x = loud("music", 16000)
    whole, _ = limit(x, 16000)
    for splits in ([1, 2, 9, 100, 101, 9999], range(0, 32000, 77)):
        np.testing.assert_allclose(limit(x, 16000, *splits)[0], whole, atol=1e-6)
    for n in (0, 1, 31, 32, 33, 81):
        assert len(limit(x[:n], 16000)[0]) == n


def test_the_limiter_changes_nothing_between_peaks():
    x = noise(96000, 2, 0.2)
    assert np.array_equal(limit(x, 48000, 1000)[0], x)
    x[24000] = 2.0
    y, limiter = limit(x, 48000)
    assert np.array_equal(y[:23700], x[:23700])
    assert np.array_equal(y[-1000:], x[-1000:])
    assert limiter.limiting.times == 1
    assert limiter.limiting.deepest_db == pytest.approx(7.5, abs=0.3)
    assert 0.2 < limiter.limiting.seconds < 0.8


def test_the_limiter_keeps_the_stereo_image():
    x = loud("music", 16000)
    y, _ = limit(x, 16000)
    np.testing.assert_allclose(y[:, 1], 0.5 * y[:, 0], atol=1e-6)


def test_flushing_twice_returns_nothing_more():
    limiter = Limiter(16000, 1)
    limiter.process(noise(1000))
    limiter.flush()
    assert limiter.flush().shape == (0, 1)


def test_a_remix_is_limited_and_stems_are_not(tmp_path):
    path = record(tmp_path / "a.wav", 32000, subtype="PCM_16")
    gains = {"speech": 12.0, "music": 12.0}
    result = separate(path, gains_db=gains, mix=tmp_path / "m.wav", limit=True)
    assert true_peak_db(read(tmp_path / "m.wav"), 16000) <= CEILING_DB
    assert result.clipped == {}
    assert result.limiting is not None
    assert result.limiting.times >= 1
    report = result.to_dict()["limiter"]
    assert report["ceiling_dbtp"] == CEILING_DB
    assert report["deepest_db"] > 3
    total = sum(read(result.outputs[stem]) for stem in ("speech", "music", "noise"))
    np.testing.assert_allclose(total, read(path), atol=2.0**-14)
    assert len(read(result.outputs[MIX])) == 32000


def test_an_interrupted_remix_keeps_what_the_limiter_holds():
    written: list[np.ndarray] = []

    class Writer:
        frames, clipped, part = 0, 0, None
        write = staticmethod(written.append)

        def finalise(self):
            self.frames = 1

        def abandon(self):
            pass

    writers = StemWriters(("speech",), {}, Limiter(16000, 1))
    writers.writers = {MIX: cast(BlockWriter, Writer())}
    writers.write(noise(1000)[None])
    writers.leave_parts()
    assert sum(len(block) for block in written) == 1000


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_another_meter_reads_the_same_true_peak(tmp_path):
    y, _ = limit(loud("music", 48000), 48000)
    soundfile.write(tmp_path / "a.wav", y, 48000, "FLOAT")
    words = ["ffmpeg", "-nostats", "-i", tmp_path / "a.wav", "-af", "ebur128=peak=true"]
    said = subprocess.run([*words, "-f", "null", "-"], capture_output=True, text=True, check=True)
    (peak,) = re.findall(r"True peak:\s+Peak:\s+(\S+) dBFS", said.stderr)
    assert CEILING_DB - 1 < float(peak) <= CEILING_DB


# Names


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{name}", "add {stem}"),
        ("{name}.{what}", "{what} is unknown; use {name} and {stem}"),
        ("{name.__class__}.{stem}", "{name.__class__} is unknown"),
        ("{}.{stem}", "{} is unknown"),
        ("{stem", "isn't a template"),
        ("{stem!r}", "take no format"),
        ("{stem:>9}", "take no format"),
        ("../{stem}", "not below the folder"),
        ("{stem}/../../{name}", "not below the folder"),
        ("/{stem}", "not below the folder"),
        ("C:/{stem}", "not below the folder"),
        ("{stem}/", "not below the folder"),
        ("a//{stem}", "not below the folder"),
        ("{stem}\0", "can't be in a file's name"),
        ("a\\{stem}", "can't be in a file's name"),
    ],
)
def test_templates_that_name_no_file_are_refused(template, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        NameTemplate(template)


def test_a_recordings_name_leads_nowhere_else():
    with pytest.raises(UsageError, match="not below the folder"):
        NameTemplate("{stem}/{name}").fill("..", "speech")
    assert NameTemplate("{stem}/{name}").fill("{stem}", "music") == "music/{stem}"


def test_outputs_are_named_by_the_template(tmp_path):
    record(tmp_path / "a.wav", 100)
    naming = NameTemplate("{stem}/{name}-x")
    result = separate(tmp_path / "a.wav", folder=tmp_path / "o", naming=naming, stems=TWO)
    assert result.outputs == {s: tmp_path / "o" / s / "a-x.wav" for s in TWO}
    assert all(path.is_file() for path in result.outputs.values())


def test_outputs_by_any_template_are_not_separated_again(tmp_path):
    for template in ("{stem}_of_{name}", "{stem}/{name}"):
        folder = tmp_path / template[:7]
        folder.mkdir()
        record(folder / "a.wav", 100)
        options = SeparateOptions(naming=NameTemplate(template))
        for _ in range(2):
            (job,) = plan([folder], options, recursive=True)
            separate_file(job, options, FakeSeparator, NullProgress())


# Bit rates


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_mp3s_have_the_bit_rate_asked_for(tmp_path, rate):
    path = record(tmp_path / "a.wav", rate, rate)
    for bitrate in (mp3_bitrates(rate)[0], mp3_bitrates(rate)[5], mp3_bitrates(rate)[-1]):
        options = {"format": "mp3", "stems": ("speech",), "overwrite": True}
        (output,) = separate(path, bitrate=bitrate, **options).outputs.values()
        assert bit_rates(output.read_bytes(), rate) == {bitrate}


def bit_rates(data, rate):
    """Return the bit rates of an MP3's frames in kbit/s, without the first, which describes it."""
    version1 = rate >= 32000
    table = (0, *mp3_bitrates(48000)) if version1 else (0, *mp3_bitrates(16000))
    at, found = 10 + tag_size(data) if data.startswith(b"ID3") else 0, []
    while at + 4 <= len(data) and data[at] == 0xFF:
        bitrate, padding = table[data[at + 2] >> 4], data[at + 2] >> 1 & 1
        found.append(bitrate)
        at += (144 if version1 else 72) * bitrate * 1000 // rate + padding
    assert len(found) > 10
    return set(found[1:])


def test_bit_rates_that_cannot_be_are_refused(tmp_path):
    path = record(tmp_path / "a.wav", 16000)
    with pytest.raises(UsageError, match="--bitrate is of MP3"):
        separate(path, bitrate=128)
    with pytest.raises(OutputError, match="no bit rate of 320 kbit/s; add --bitrate 160"):
        separate(path, bitrate=320, format="mp3")
    result = separate(path, bitrate=64, gains_db={}, mix=tmp_path / "m.mp3")  # of it alone
    assert result.outputs["speech"].suffix == ".wav"


# The command line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--from", "5", "--to", "4"], "--to 4 s isn't after --from 5 s"),
        (["--from", "1:75"], "'1:75' is not a time"),
        (["--to", "1:2:3:4"], "is not a time"),
        (["--run-in", "-1"], "is not a time"),
        (["--limit"], "--limit is of a remix"),
        (["--two", "--stems", "speech"], "leave out one"),
        (["--name", "x"], "add {stem}"),
        (["--bitrate", "193"], "MP3 has no bit rate of 193 kbit/s; choose from 8, "),
        (["--gain", "rest=0,music=1", "--mix", "m.wav"], "rest is music and noise"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys, words, line):
    from rtmtass.cli.main import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main(["separate", "talk.wav", *words]))
    assert stop.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said


def test_all_options_together(tmp_path):
    from test_cli import run as command

    record(tmp_path / "talk.wav", 5 * 16000)
    words = "--two --from 0:01 --to 9 --name {stem}/{name} --gain speech=12,rest=6 --mix m.mp3"
    words = f"{words} --limit --bitrate 64 --json"
    process = command(tmp_path, "separate", "talk.wav", *words.split(), code=0)
    said = json.loads(process.stdout)
    assert (said["start_s"], said["end_s"], said["duration_s"]) == (1.0, 5.0, 4.0)
    assert said["outputs"] == {
        "speech": "speech/talk.wav", "rest": "rest/talk.wav", "mix": "m.mp3"}  # fmt: skip
    assert said["limiter"]["times"] >= 1
    lines = process.stderr.decode().splitlines()
    assert re.search(r"the remix was limited (once|\d+ times), by up to \d+\.\d dB", lines[0])
    assert lines[1] == "rtmtass: talk.wav ends at 5.00 s, before --to 9"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1:30", 90.0),
        ("90:00", 5400.0),
        ("1:02:03.25", 3723.25),
    ],
)
def test_times_are_seconds_or_a_clocks(text, value):
    from rtmtass.cli.arguments import moment

    assert moment(text) == value
