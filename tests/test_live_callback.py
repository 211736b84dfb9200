"""The compiled callback matches the rings in Python, and masks underruns."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rtmtass.dsp.ring import Ring
from rtmtass.live.devices.callback import DeviceCallback, device_ring

ROOT = Path(__file__).parent.parent
POINTER, ULONG = ctypes.c_void_p, ctypes.c_ulong
C_TYPE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, ULONG, POINTER, ULONG, POINTER)


class Device:
    """Calls the callback as PortAudio does."""

    def __init__(self, callback, channels_in, channels_out):
        self.callback, self._call = callback, C_TYPE(callback.function)
        self._channels = channels_in, channels_out

    def __call__(self, capture, frames, flags=0):
        out = np.full((frames, self._channels[1] or 1), np.nan, np.float32)
        capture = np.ascontiguousarray(capture, np.float32) if self._channels[0] else None
        code = self._call(
            capture.ctypes.data if capture is not None else None,
            out.ctypes.data if self._channels[1] else None,
            frames, None, flags, self.callback.table,
        )  # fmt: skip
        assert code == 0
        return out


def noise(n, channels, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_callback_matches_ring_read_and_write(channels):
    rng = np.random.default_rng(channels)
    rings = [device_ring(1000, channels) for _ in range(2)]
    twins = [Ring(1000, channels) for _ in range(2)]
    device = Device(DeviceCallback(rings[0], rings[1], fade=100), channels, channels)
    for turn in range(300):
        n, capture = int(rng.integers(1, 400)), noise(400, channels, turn)
        twins[1].write(capture[:n]), rings[1].write(capture[:n])
        n_play = min(int(rng.integers(1, 400)), rings[1].available)  # no underrun
        expected = np.zeros((n_play, channels), np.float32)
        twins[1].read(expected)
        np.testing.assert_array_equal(device(noise(n_play, channels, turn), n_play), expected)
        twins[0].write(noise(n_play, channels, turn))
        a, b = (np.zeros((int(n * 0.9), channels), np.float32) for _ in range(2))
        a_n, b_n = twins[0].read(a), rings[0].read(b)
        assert a_n == b_n
        np.testing.assert_array_equal(a[:a_n], b[:b_n])
    for twin, ring in zip(twins, rings, strict=True):
        assert (twin.overruns, twin.underruns, twin.available) == (
            ring.overruns, ring.underruns, ring.available,
        )  # fmt: skip
        assert twin.overruns > 0


ALLOCATION = re.compile(r"\bcall\b[^@\n]*@\"?(NRT_(?:Allocate|MemInfo_\w*alloc|MemInfo_new)\w*)")
SHOW_CODE = """
import numba, numpy as np
from rtmtass.live.devices.callback import _compiled
print(_compiled().inspect_llvm())
print("=====")
control = numba.njit("f4[:](i8)")(lambda n: np.empty(n, np.float32))
print(next(iter(control.inspect_llvm().values())))
"""


def test_the_machine_code_calls_no_allocator(tmp_path):
    # Compiled anew: cached code has no LLVM IR.
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SHOW_CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    code, control = done.stdout.split("=====")
    assert ALLOCATION.search(control)
    assert "_capture" in code
    assert "_play" in code
    assert ALLOCATION.findall(code) == []


def test_an_underrun_decays_and_fades_back_without_a_click():
    ring = device_ring(4000, 1)
    callback = DeviceCallback(None, ring, fade=160)
    device = Device(callback, 0, 1)
    tone = (0.5 * np.sin(2 * np.pi * 200 * np.arange(3000) / 16000)).astype(np.float32)[:, None]
    ring.write(tone[:970])  # ends far from zero
    parts = [device(None, 256) for _ in range(8)]
    ring.write(tone[970:])
    parts += [device(None, 256) for _ in range(5)]
    out = np.concatenate(parts)[:, 0]
    np.testing.assert_array_equal(out[:970], tone[:970, 0])
    assert np.abs(np.diff(out)).max() < 0.5 * 2 * np.pi * 200 / 16000 + 0.5 * 5 / 160
    assert np.abs(out[970 + 400 : 2048]).max() < 1e-3
    back = out[2048 + 200 : 2048 + 1200]
    np.testing.assert_array_equal(back, tone[1170:2170, 0])
    assert ring.underruns == 8 * 256 - 970
    assert (callback.calls, callback.frames, callback.xruns) == (13, 13 * 256, 0)


def test_xruns_are_counted_but_not_priming():
    device = Device(DeviceCallback(device_ring(100, 1), None, fade=100), 1, 0)
    for flags in (0, 1, 2, 0x10, 0x12):
        device(np.zeros((10, 1)), 10, flags)
    assert device.callback.xruns == 3


def test_two_threads_lose_no_sample():
    ring = device_ring(2048, 2)
    device = Device(DeviceCallback(ring, None, fade=100), 2, 0)
    n_blocks, block = 3000, 96

    def capture():
        for turn in range(n_blocks):
            while ring.free < block:
                time.sleep(0)
            first = np.arange(turn * block, (turn + 1) * block, dtype=np.float32)
            device(np.stack([first, -first], axis=1), block)

    thread = threading.Thread(target=capture)
    thread.start()
    n_read, out = 0, np.zeros((77, 2), np.float32)
    while n_read < n_blocks * block and (thread.is_alive() or ring.available):
        n = ring.read(out[: min(77, ring.available)])
        expected = np.arange(n_read, n_read + n, dtype=np.float32)
        assert np.array_equal(out[:n, 0], expected)
        assert np.array_equal(out[:n, 1], -expected)
        n_read += n
    thread.join()
    assert n_read == n_blocks * block
    assert ring.overruns == 0
