"""The audio callback, compiled: it copies between a device and rings without the GIL.

A callback in Python would block on the GIL. This one doesn't allocate, block or raise.
On an underrun the last sample decays instead of cutting off, and playback fades back in
when data arrives: an underrun doesn't click.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from rtmtass.dsp.ring import Ring
from rtmtass.jit.compiler import kept_cfunc, kernel
from rtmtass.types import Longs

_LINE = 8  # a ring's counters lie a cache line apart: eight int64
_DATA = 5 * _LINE
_ULONG = types.uint64 if ctypes.sizeof(ctypes.c_ulong) == 8 else types.uint32

# Fields of the callback's table: the rings, the counters, then the sizes of the last bursts.
(
    _IN, _IN_SIZE, _IN_CHANNELS, _OUT, _OUT_SIZE, _OUT_CHANNELS, _VOICE, _FADE,
    _CALLS, _XRUNS, _FRAMES, _LOSSES, _TIME, _GRAIN, _N_BURSTS, _BURSTS,
) = range(16)  # fmt: skip
N_BURSTS = 32
"""How many of the last bursts are kept."""
_N_FIELDS = _BURSTS + N_BURSTS
_CURRENT_TIME = 1  # of the doubles of PaStreamCallbackTimeInfo
_CONTINUE = 0  # paContinue
_XRUN_FLAGS = 0xF  # paInputUnderflow, paInputOverflow, paOutputUnderflow, paOutputOverflow


@intrinsic  # type: ignore[untyped-decorator]
def _floats_at(typing_context: Any, address: Any) -> Any:
    """Return an address as a pointer to float32."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def _longs_at(typing_context: Any, address: Any) -> Any:
    """Return an address as a pointer to int64."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def _fence(typing_context: Any) -> Any:
    """Keep loads and stores from being reordered across this point."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


@kernel
def _capture(address: int, size: int, channels: int, capture: Any, frames: int) -> int:
    """Write to a ring as much as fits and count the rest as overruns; the twin of Ring.write.

    Returns:
        Samples that didn't fit.
    """
    head = carray(_longs_at(address), (_DATA,))
    data = carray(_floats_at(address + 8 * _DATA), (size, channels))
    written = head[0]
    n = min(frames, size - (written - head[_LINE]))
    _fence()
    index = written % size
    for t in range(n):
        for c in range(channels):
            data[index, c] = capture[t, c]
        index += 1
        if index == size:
            index = 0
    _fence()
    head[0] = written + n
    n_lost: int = frames - n
    head[2 * _LINE] += n_lost
    return n_lost


@kernel
def _play(
    address: int, size: int, channels: int, out: Any, frames: int, voice: Any, fade: int
) -> int:
    """Read from a ring and count missing samples, the twin of Ring.read; `voice` masks gaps.

    Args:
        address, size, channels: of the ring.
        out: (frames, channels), filled.
        frames: samples per channel.
        voice: (1 + 2 * channels,) float32: gain, then the last output of each channel, then
            its decaying tail.
        fade: length of a fade in samples.

    Returns:
        Samples that were missing.
    """
    head = carray(_longs_at(address), (_DATA,))
    data = carray(_floats_at(address + 8 * _DATA), (size, channels))
    read = head[_LINE]
    n = min(frames, head[0] - read)
    _fence()
    index = read % size
    decay = np.float32(1.0) - np.float32(5.0) / np.float32(fade)
    for t in range(frames):
        if t == n:
            voice[0] = np.float32(0.0)
            for c in range(channels):
                voice[1 + channels + c] = voice[1 + c]
        if t < n:
            voice[0] = min(np.float32(1.0), voice[0] + np.float32(1.0) / np.float32(fade))
        for c in range(channels):
            tail = voice[1 + channels + c] * decay
            if abs(tail) < np.float32(1e-6):
                tail = np.float32(0.0)
            voice[1 + channels + c] = tail
            y = tail
            if t < n:
                y += voice[0] * data[index, c]
            out[t, c] = y
            voice[1 + c] = y
        if t < n:
            index += 1
            if index == size:
                index = 0
    _fence()
    head[_LINE] = read + n
    n_missing: int = frames - n
    head[3 * _LINE] += n_missing
    return n_missing


@kernel
def _note_size(table: Any, times: int, frames: int) -> None:
    """Add a call's samples to those of its burst: the calls that PortAudio makes at once.

    A host whose period is longer than our block makes several calls, all of one current time.

    Args:
        table: of the callback.
        times: address of the PaStreamCallbackTimeInfo, or 0.
        frames: samples per channel of this call.
    """
    grain, rest = table[_GRAIN], frames
    while rest:
        grain, rest = rest, grain % rest
    table[_GRAIN] = grain
    now = types.int64(0)
    if times:
        now = carray(_longs_at(times), (_CURRENT_TIME + 1,))[_CURRENT_TIME]
    n_bursts = table[_N_BURSTS]
    if n_bursts and now and now == table[_TIME]:
        table[_BURSTS + (n_bursts - 1) % N_BURSTS] += frames
        return
    table[_TIME] = now
    table[_BURSTS + n_bursts % N_BURSTS] = frames
    _fence()
    table[_N_BURSTS] = n_bursts + 1


@functools.cache
def _compiled() -> Any:
    """Return the callback, compiled when the first device opens rather than at import."""
    samples = types.CPointer(types.float32)
    table = types.CPointer(types.int64)
    signature = types.int32(samples, samples, _ULONG, types.intp, _ULONG, table)

    @kept_cfunc(signature)  # recompiling takes about a second
    def callback(capture: Any, out: Any, frames: Any, times: Any, flags: Any, user: Any) -> Any:
        table = carray(user, (_N_FIELDS,))
        n = types.int64(frames)
        n_lost = types.int64(0)
        _note_size(table, types.int64(times), n)
        if table[_IN]:
            channels = table[_IN_CHANNELS]
            block = carray(capture, (n, channels))
            n_lost += _capture(table[_IN], table[_IN_SIZE], channels, block, n)
        if table[_OUT]:
            channels = table[_OUT_CHANNELS]
            voice = carray(_floats_at(table[_VOICE]), (1 + 2 * channels,))
            block = carray(out, (n, channels))
            n_lost += _play(table[_OUT], table[_OUT_SIZE], channels, block, n, voice, table[_FADE])
        if flags & _XRUN_FLAGS:
            table[_XRUNS] += 1
        elif n_lost:
            table[_LOSSES] += 1
        table[_FRAMES] += n
        _fence()
        table[_CALLS] += 1
        return _CONTINUE

    return callback


def device_ring(capacity: int, channels: int) -> Ring:
    """Return a ring whose Python side has the memory ordering that the compiled side needs."""
    return Ring.in_memory(
        np.zeros(Ring.bytes_needed(capacity, channels), np.uint8), capacity, channels
    )


class DeviceCallback:
    """The callback of one stream and the table that it reads and writes.

    Args:
        capture: ring that the device writes to; None for output only.
        playback: ring that the device reads from; None for input only.
        fade: length of the fades at underruns, in samples.

    Attributes:
        function: address of the C function, a PaStreamCallback.
        table: address of its `userData`.
    """

    def __init__(self, capture: Ring | None, playback: Ring | None, fade: int) -> None:
        self._rings = capture, playback  # the callback has only addresses: keep them alive
        self._voice = np.zeros(1 + 2 * (playback.channels if playback else 0), np.float32)
        self._voice[0] = 1.0
        self._table = np.zeros(_N_FIELDS, np.int64)
        self._table[_VOICE], self._table[_FADE] = self._voice.ctypes.data, max(fade, 10)
        for ring, field in ((capture, _IN), (playback, _OUT)):
            if ring:
                self._table[field : field + 3] = (
                    ring._written.ctypes.data,
                    ring.capacity,
                    ring.channels,
                )
        self.function = int(_compiled().address)
        self.table = int(self._table.ctypes.data)

    @property
    def calls(self) -> int:
        """Number of callbacks so far."""
        return int(self._table[_CALLS])

    @property
    def frames(self) -> int:
        """Samples per channel captured or played so far."""
        return int(self._table[_FRAMES])

    @property
    def xruns(self) -> int:
        """Callbacks for which the sound system reported an overrun or underrun."""
        return int(self._table[_XRUNS])

    @property
    def losses(self) -> int:
        """Callbacks that lost input or found too little output, and weren't reported as xruns."""
        return int(self._table[_LOSSES])

    @property
    def n_bursts(self) -> int:
        """Number of bursts so far; the last may not be over."""
        return int(self._table[_N_BURSTS])

    def bursts(self) -> Longs:
        """Return the samples per channel of the last bursts in no order, at most `N_BURSTS`."""
        return self._table[_BURSTS : _BURSTS + min(self.n_bursts, N_BURSTS)].copy()

    @property
    def grain(self) -> int:
        """Greatest common divisor of the samples of all calls so far; 0 before the first."""
        return int(self._table[_GRAIN])
