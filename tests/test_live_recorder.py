"""Recordings: aligned, valid after a crash; a failure stops the recording, not the audio."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator

from rtmtass.errors import OutputError
from rtmtass.io.pipes import open_source
from rtmtass.live.full_band import HopSchedule
from rtmtass.live.growing_wav import GrowingWav, Syncer
from rtmtass.live.recorder import TakeRecorder, check_folder

STEMS = ("speech", "music", "noise")
HOP, RATE = 256, 16000
SCHEDULE = HopSchedule(FakeSeparator(delay=256), RATE)
WEIGHTS = np.full((3, HOP), 1 / 3, np.float32)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}


def hop(number, channels=1):
    """A hop whose mixture encodes its position; the stems are fractions of it."""
    ramp = np.arange(number * HOP, (number + 1) * HOP, dtype=np.float32) / 1e6
    mixture = np.stack([ramp * (c + 1) for c in range(channels)], axis=1)
    return mixture, np.stack([0.5 * mixture, 0.3 * mixture, 0.2 * mixture])


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def take_of(folder):
    (take,) = folder.glob("take-*")
    return {
        p.stem: soundfile.read(p, dtype="float32", always_2d=True)[0] for p in take.glob("*.wav")
    }


@pytest.mark.parametrize("channels", [1, 2])
def test_stems_and_mixture_are_aligned(tmp_path, channels):
    recorder = TakeRecorder(tmp_path / "new", STEMS, SCHEDULE, channels)
    for number in range(100):
        mixture, stems = hop(number, channels)
        if number == 10:
            recorder.start()
        recorder.add_mixture(number, mixture)
        recorder.add_stems(number, stems, WEIGHTS)
        if number == 59:
            recorder.stop()
    recorder.close()
    take = take_of(tmp_path / "new")
    expected = np.concatenate([hop(n, channels)[0] for n in range(10, 60)])
    np.testing.assert_array_equal(take["mixture"], expected)
    for stem, fraction in zip(STEMS, (0.5, 0.3, 0.2), strict=True):
        np.testing.assert_allclose(take[stem], fraction * expected, rtol=1e-6)


def test_late_and_missing_stems_stay_aligned(tmp_path):
    recorder = TakeRecorder(tmp_path, STEMS, SCHEDULE)
    recorder.start()
    late = []
    for number in range(50):
        mixture, stems = hop(number)
        recorder.add_mixture(number, mixture)
        if number in (20, 21):
            continue  # never separated
        if number in (30, 31):
            late.append((number, stems))
            continue
        for item in late:
            recorder.add_stems(*item, WEIGHTS)
        late.clear()
        recorder.add_stems(number, stems, WEIGHTS)
    recorder.close()
    take = take_of(tmp_path)
    total = take["speech"] + take["music"] + take["noise"]
    gap = slice(20 * HOP, 22 * HOP)
    assert not total[gap].any()
    total[gap] = take["mixture"][gap]
    np.testing.assert_allclose(total, take["mixture"], atol=1e-7)
    assert len(total) == 50 * HOP


def test_each_take_has_a_folder(tmp_path):
    recorder, number = TakeRecorder(tmp_path, STEMS, SCHEDULE), 0
    for _ in range(2):
        recorder.start()
        for _ in range(20):
            recorder.add_mixture(number, hop(number)[0])
            recorder.add_stems(number, hop(number)[1], WEIGHTS)
            number += 1
        recorder.stop()
        recorder.add_mixture(number, hop(number)[0])
        recorder.add_stems(number, hop(number)[1], WEIGHTS)
        number += 1
        wait_for(lambda: not recorder.stats().is_running)
    recorder.close()
    takes = sorted(tmp_path.glob("take-*"))
    assert len(takes) == 2
    for take, first in zip(takes, (0, 21), strict=True):
        expected = np.concatenate([hop(n)[0] for n in range(first, first + 20)])
        np.testing.assert_array_equal(
            soundfile.read(take / "mixture.wav", dtype="float32")[0], expected[:, 0]
        )


def test_a_full_disk_ends_the_recording_with_valid_files(tmp_path, monkeypatch):
    append, n_left = GrowingWav.append, [150]

    def until_full(self, block):
        n_left[0] -= 1
        if n_left[0] < 0:
            append(self, block[: len(block) // 2])  # half of it still fits
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, block)

    monkeypatch.setattr(GrowingWav, "append", until_full)
    recorder = TakeRecorder(tmp_path, STEMS, SCHEDULE)
    recorder.start()
    n_left[0] = 3  # fail at the fourth file
    for number in range(200):
        recorder.add_mixture(number, hop(number)[0])
        recorder.add_stems(number, hop(number)[1], WEIGHTS)
        if number % 20 == 0:
            time.sleep(0.01)
    wait_for(lambda: recorder.stats().message)
    assert recorder.stats().message == "the disk is full: recording stopped, the audio continues"
    recorder.add_mixture(200, hop(200)[0])
    recorder.close()
    take = take_of(tmp_path)
    assert len({len(x) for x in take.values()}) == 1
    assert not recorder.is_requested


CRASH = """
import sys, time, os, signal
sys.path.insert(0, {tests!r})
from test_live_recorder import *
if {has_slow_disk}:
    os.fsync = lambda descriptor: time.sleep(60)
recorder = TakeRecorder(Path({folder!r}), STEMS, SCHEDULE)
recorder.start()
for number in range(100000):
    recorder.add_mixture(number, hop(number)[0])
    recorder.add_stems(number, hop(number)[1], WEIGHTS)
    print(number, flush=True)
    time.sleep(0.016)  # never faster than sound, also after a stall
"""


@pytest.mark.parametrize("has_slow_disk", [False, True])
def test_a_crash_loses_at_most_a_second(tmp_path, has_slow_disk):
    script = CRASH.format(
        tests=str(Path(__file__).parent), folder=str(tmp_path), has_slow_disk=has_slow_disk
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 200:
                break
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    last = int(rest[-1]) if rest else 200
    take = take_of(tmp_path)
    lengths = {len(x) for x in take.values()}
    assert set(take) == {*STEMS, "mixture"}
    assert len(lengths) == 1
    assert min(lengths) >= (last - 63) * HOP
    shortest = min(lengths)
    expected = np.concatenate([hop(n)[0] for n in range(last + 1)])[:shortest]
    np.testing.assert_array_equal(take["mixture"][:shortest], expected)
    np.testing.assert_allclose(take["music"][:shortest], 0.3 * expected, rtol=1e-6)


def record(recorder, numbers):
    """Record hops with a mix that is half the mixture."""
    for number in numbers:
        mixture, stems = hop(number, recorder.channels)
        recorder.add_mixture(number, mixture)
        recorder.add_stems(number, stems, WEIGHTS)
        recorder.add_mix(number, 0.5 * mixture[None])


@pytest.mark.parametrize("channels", [1, 2])
def test_the_mix_is_recorded_beside_the_stems(tmp_path, channels):
    recorder = TakeRecorder(tmp_path, STEMS, SCHEDULE, channels, has_mix=True)
    record(recorder, range(5))
    recorder.start()
    record(recorder, range(5, 70))
    recorder.stop()
    record(recorder, range(70, 80))
    recorder.close()
    take = take_of(tmp_path)
    assert set(take) == {*STEMS, "mixture", "mix"}
    np.testing.assert_array_equal(
        take["mixture"], np.concatenate([hop(n, channels)[0] for n in range(5, 70)])
    )
    np.testing.assert_array_equal(take["mix"], 0.5 * take["mixture"])
    (finished,) = recorder.takes
    assert finished.tracks == (*STEMS, "mixture", "mix")
    assert finished.seconds == 65 * HOP / RATE


def test_split_outputs_are_added_up_to_the_mix(tmp_path):
    recorder = TakeRecorder(tmp_path, STEMS, SCHEDULE, has_mix=True)
    recorder.start()
    for number in range(20):
        mixture, stems = hop(number)
        recorder.add_mixture(number, mixture)
        recorder.add_stems(number, stems, WEIGHTS)
        recorder.add_mix(number, stems)
    recorder.close()
    take = take_of(tmp_path)
    np.testing.assert_allclose(take["mix"], take["mixture"], rtol=1e-6)


@pytest.mark.parametrize(("frames", "kind"), [(900, "WAV"), (1100, "RF64")])
def test_a_recording_beyond_the_limit_of_wav_is_rf64(tmp_path, frames, kind):
    x = np.random.default_rng(0).standard_normal((frames, 2)).astype(np.float32)
    path = tmp_path / "long.wav"
    file = GrowingWav(path, RATE, 2, limit=8000)
    for block in np.array_split(x, 7):
        file.append(block)
        file.update_header()
        assert soundfile.info(path).frames == file.frames  # valid while it grows
    file.close()
    assert soundfile.info(path).format == kind
    np.testing.assert_array_equal(soundfile.read(path, dtype="float32")[0], x)
    source, out = open_source(path), np.zeros((2 * frames, 2), np.float32)
    n = filled = source.read(out)
    while n:
        n = source.read(out[filled:])
        filled += n
    source.close()
    np.testing.assert_array_equal(out[:filled], x)


@pytest.mark.parametrize(("n_hops", "kind"), [(15, "WAV"), (16, "RF64")])
def test_a_take_beyond_the_limit_says_so(tmp_path, n_hops, kind):
    recorder = TakeRecorder(tmp_path, STEMS, SCHEDULE, has_mix=True, wav_limit=16 * 4 * HOP)
    recorder.start()
    record(recorder, range(n_hops))
    recorder.close()
    (take,) = recorder.takes
    assert take.is_rf64 == (kind == "RF64")
    infos = [soundfile.info(path) for path in take.folder.iterdir()]
    assert {(info.format, info.frames) for info in infos} == {(kind, n_hops * HOP)}
    assert set(take_of(tmp_path)) == set(take.tracks)


def test_a_cut_turns_rf64_back_into_wav(tmp_path):
    file = GrowingWav(tmp_path / "a.wav", RATE, 1, limit=1000)
    file.append(np.ones((500, 1), np.float32))
    file.update_header()
    file.cut(100)
    file.close()
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.format, info.frames) == ("WAV", 100)


def test_a_slow_disk_does_not_hold_up_the_end(tmp_path, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _descriptor: gate.wait(30))
    recorder = TakeRecorder(tmp_path, STEMS, SCHEDULE)
    recorder.start()
    record(recorder, range(30))
    recorder.close()  # while the sync still hangs
    assert not gate.is_set()
    assert {len(x) for x in take_of(tmp_path).values()} == {30 * HOP}
    gate.set()


def test_a_write_lost_after_the_fact_ends_the_recording(tmp_path, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    recorder = TakeRecorder(tmp_path, STEMS, SCHEDULE)
    recorder.start()
    record(recorder, range(5))
    wait_for(lambda: recorder.stats().message)
    record(recorder, range(5, 8))
    recorder.close()
    assert recorder.failure == "Input/output error: recording stopped, the audio continues"


def test_syncs_close_their_descriptors(tmp_path):
    file, syncer = GrowingWav(tmp_path / "a.wav", RATE, 1), Syncer()
    syncer.request([file] * 3)
    wait_for(lambda: syncer.is_idle)
    file.close()
    syncer.close(10)
    assert syncer.error is None
    if Path("/proc/self/fd").exists():
        opened = {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}
        assert str(tmp_path / "a.wav") not in opened


def test_a_disk_that_is_full_from_the_start_leaves_no_take(tmp_path, monkeypatch):
    start, n_left = GrowingWav._write, [2]

    def until_full(self, data):
        n_left[0] -= 1
        if n_left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        start(self, data)

    monkeypatch.setattr(GrowingWav, "_write", until_full)
    recorder = TakeRecorder(tmp_path, STEMS, SCHEDULE)
    recorder.start()
    record(recorder, range(3))
    wait_for(lambda: recorder.failure)
    recorder.close()
    assert recorder.failure.startswith("the disk is full")
    assert list(tmp_path.iterdir()) == []
    assert recorder.takes == []


def test_takes_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _form: "take-20261127-120000")
    outside = tmp_path / "outside"
    (tmp_path / "take-20261127-120000").symlink_to(outside)  # dangling: it doesn't "exist"
    recorders = [TakeRecorder(tmp_path, STEMS, SCHEDULE) for _ in range(4)]
    for recorder in recorders:
        recorder.start()
        record(recorder, range(4))
    for recorder in recorders:
        recorder.close()
    folders = {str(take.folder) for recorder in recorders for take in recorder.takes}
    assert folders == {str(tmp_path / f"take-20261127-120000-{n}") for n in (2, 3, 4, 5)}
    assert not outside.exists()


def test_the_check_of_a_folder_follows_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    takes = tmp_path / "takes"
    takes.mkdir()
    (takes / ".rtmtass-probe").symlink_to(victim)
    check_folder(takes)
    assert victim.read_text() == "kept"
    with pytest.raises(FileExistsError):
        GrowingWav(takes / ".rtmtass-probe", RATE, 1)
    assert victim.read_text() == "kept"


def test_an_unwritable_folder_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OutputError, match=r"file can't be written: .*; name another folder with --record DIR"
    ):
        check_folder(tmp_path / "file")
    check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
