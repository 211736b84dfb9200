"""Recordings: aligned, valid after a crash; a failure stops the recording, not the audio."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator

from rtmtass.errors import OutputError
from rtmtass.live.full_band import HopSchedule
from rtmtass.live.recorder import GrowingWav, TakeRecorder, check_folder

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
recorder = TakeRecorder(Path({folder!r}), STEMS, SCHEDULE)
recorder.start()
began = time.monotonic()
for number in range(100000):
    recorder.add_mixture(number, hop(number)[0])
    recorder.add_stems(number, hop(number)[1], WEIGHTS)
    print(number, flush=True)
    time.sleep(max(0, began + number * 0.016 - time.monotonic()))
"""


def test_a_crash_loses_at_most_a_second(tmp_path):
    script = CRASH.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
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
    assert min(lengths) >= (last - 63) * HOP
    shortest = min(lengths)
    expected = np.concatenate([hop(n)[0] for n in range(last + 1)])[:shortest]
    np.testing.assert_array_equal(take["mixture"][:shortest], expected)
    np.testing.assert_allclose(take["music"][:shortest], 0.3 * expected, rtol=1e-6)


def test_an_unwritable_folder_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file can't be written"):
        check_folder(tmp_path / "file")
    check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
