"""Buffers follow what a device really takes at once: any period, changing while it runs."""

from __future__ import annotations

import ctypes
from typing import cast

import numpy as np
import pytest

from rtmtass.dsp.live_resample import Converter
from rtmtass.live.devices import connection as connection_room
from rtmtass.live.devices.buffers import BUDGET_S, smallest_fill
from rtmtass.live.devices.connection import Connection
from rtmtass.live.devices.listing import JACK, Device
from rtmtass.live.devices.periods import LossWatch
from rtmtass.live.devices.stream_config import StreamConfig
from rtmtass.live.full_band import HopSchedule

POINTER, ULONG = ctypes.c_void_p, ctypes.c_ulong
C_TYPE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, ULONG, POINTER, ULONG, POINTER)
HOP = 256
CARD = Device(0, "card", JACK, 1, 1, 16000, (1, 2), (1, 2), True, True)


class Passthrough:
    """What a Connection needs of a separator."""

    stems, sample_rate, hop, delay, algorithmic_latency, channels = (
        ("speech", "music", "noise"), 16000, HOP, 0, HOP, 1,
    )  # fmt: skip


class Stream:
    """Stands in for PortAudio's stream: its callback is called by the test."""

    is_jack, is_active, latency_s = False, True, (0.0, 0.0)

    def __init__(self, capture, playback, channels, rate, block, callback):
        self.block, self.callback = block, callback
        self._function, self._times = C_TYPE(callback.function), np.zeros(3)

    def start(self):
        pass

    def close(self, *, is_silent=False):
        pass

    def call(self, x, now):
        """Return what the callback plays while it captures `x`, (n,), at a time."""
        out, self._times[1] = np.zeros(len(x), np.float32), now
        self._function(
            x.ctypes.data, out.ctypes.data, len(x), self._times.ctypes.data, 0, self.callback.table
        )
        return out


class Rig:
    """A duplex stream between a simulated host and an engine that is always in time."""

    def __init__(self, monkeypatch, rate=16000, engine_rate=None, extra_buffer_ms=None):
        monkeypatch.setattr(connection_room, "DeviceStream", Stream)
        config = StreamConfig(CARD, CARD, True, (rate, rate), (HOP, HOP), (0,), 1)
        self.schedule = HopSchedule(Passthrough(), engine_rate or rate)
        self.connection = Connection(config, self.schedule, 1, 1, extra_buffer_ms)
        self.connection.start()
        (self.stream,) = cast(list[Stream], self.connection._streams)
        self._block, self._filled = np.zeros((self.schedule.longest, 1), np.float32), 0
        self._n_hops = 0
        self.now = 0.0
        self.captured, self.played = [], []

    def run(self, x, calls):
        """Run a burst for each list of calls, and after each the engine."""
        start = 0
        for burst in calls:
            self.now += 1.0
            for n in burst:
                block = np.ascontiguousarray(x[start : start + n], np.float32)
                self.played.append(self.stream.call(block, self.now))
                self.captured.append(block)
                start += n
            self.process()

    def process(self):
        self.connection.poll()
        while n := self.connection.read(self._block[self._filled : self._length]):
            self._filled += n
            if self._filled == self._length:
                self.connection.write(self._block[None, : self._length])
                self._filled, self._n_hops = 0, self._n_hops + 1
        self.connection.poll()

    @property
    def _length(self):
        return self.schedule.block(self._n_hops)

    def settled(self, n):
        """Return the last `n` samples played, and the input that they should be."""
        captured, played = np.concatenate(self.captured), np.concatenate(self.played)
        end = len(captured) - self.connection.fill
        return played[-n:], captured[end - n : end]


def noise(n, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n).astype(np.float32)


def bursts_of(period, block, n):
    """Return the calls that PortAudio makes for a host's period and blocks of a length."""
    left, calls = 0, []
    for _ in range(n):
        left += period
        calls.append([block] * (left // block))
        left %= block
    return [burst for burst in calls if burst]


@pytest.mark.parametrize("period", [64, 128, 441, 512, 1000, 1024, 2048, 4096])
@pytest.mark.parametrize("block", [64, 256, None])
def test_nothing_is_lost_at_any_period(monkeypatch, period, block):
    rig = Rig(monkeypatch)
    calls = bursts_of(period, block or period, 12 + 12000 // period)
    if block is None:  # as PortAudio calls for a host's own blocks: at most 1024 at once
        calls = [[1024] * (period // 1024) + [period % 1024] * (period % 1024 > 0)] * len(calls)
    rig.run(noise(sum(map(sum, calls))), calls)
    played, expected = rig.settled(4000)
    np.testing.assert_array_equal(played, expected)  # at the latency that is reported
    assert (rig.connection.underruns, rig.connection.xruns) == (0, 0)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize("period", [96, 441, 1024])
def test_nothing_is_lost_at_another_rate_than_the_models(monkeypatch, rate, period):
    rig = Rig(monkeypatch, rate)
    calls = [[period]] * (40000 // period)
    rig.run(noise(sum(map(sum, calls))), calls)
    played, expected = rig.settled(20000)
    np.testing.assert_array_equal(played, expected)
    assert (rig.connection.underruns, rig.connection.xruns) == (0, 0)


@pytest.mark.parametrize("period", [96, 441, 1024])
def test_the_latency_is_the_reported_one_through_converters(monkeypatch, period):
    rig = Rig(monkeypatch, 48000, engine_rate=16000)
    calls = [[period]] * (36000 // period)
    rig.run(np.convolve(noise(sum(map(sum, calls))), np.hanning(31) / 15, "same"), calls)
    captured = np.concatenate(rig.captured)[:, None]
    for rates in ((48000, 16000), (16000, 48000)):
        converter = Converter(*rates, 1, len(captured))
        out = np.zeros((converter.room, 1), np.float32)
        captured = out[: converter.process(captured, out)]
    played = np.concatenate(rig.played)[rig.connection.fill :]
    n = min(len(played), len(captured))
    np.testing.assert_allclose(played[9000:n], captured[9000:n, 0], atol=1e-6)
    assert n > 25000
    assert (rig.connection.underruns, rig.connection.xruns) == (0, 0)


@pytest.mark.parametrize("engine_rate", [16000, 44100])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_the_fill_is_the_smallest_without_underruns(rate, engine_rate):
    schedule, is_equal = HopSchedule(Passthrough(), engine_rate), rate == engine_rate
    down, up = Converter(rate, engine_rate, 1, 9), Converter(engine_rate, rate, 1, 9)
    converters = (None, None) if is_equal else (down, up)
    for period, grain in ((256, 256), (441, 441), (1000, 40), (1024, 64)):
        counted = 0
        for n in range(0, 4 * 44100 + 1, grain):
            done = schedule.completed(max(0, n if is_equal else down.ready_after(n) - 1))
            written = done if is_equal else up.ready_after(done) - 1
            counted = max(counted, n + period - max(0, written))
        assert smallest_fill(period, schedule, *converters, grain=grain) == counted


@pytest.mark.parametrize("periods", [(256, 1024, 256), (64, 4096), (1000, 441, 1024, 64)])
def test_a_period_may_change_while_running(monkeypatch, periods):
    rig = Rig(monkeypatch, extra_buffer_ms=0.0)
    for period in periods:
        n_bursts = 60 + 12000 // period
        before = rig.connection.xruns
        rig.run(noise(period * n_bursts), bursts_of(period, period, n_bursts))
        played, expected = rig.settled(4000)
        np.testing.assert_array_equal(played, expected)
        assert rig.connection.xruns - before <= 3  # what the first longer periods lost is counted
    assert rig.connection.xruns > 0
    assert rig.connection.underruns > 0
    assert "samples at once now: the buffer was raised by" in rig.connection.notes[0]


def test_the_buffer_shrinks_with_the_period_but_not_again(monkeypatch):
    rig = Rig(monkeypatch, extra_buffer_ms=0.0)
    fills = []
    for period in (1024, 256, 1024, 256):
        rig.run(noise(period * 80), [[period]] * 80)
        fills.append(rig.connection.fill)
    assert fills == [1024, 256, 1024, 1024]
    assert rig.connection.xruns == 1


def test_a_change_of_the_period_does_not_click(monkeypatch):
    rig = Rig(monkeypatch)
    t = np.arange(1024 * 160) / 16000
    x = (0.5 * np.sin(2 * np.pi * 100 * t)).astype(np.float32)
    rig.run(x, [[1024]] * 40)
    rig.run(x[1024 * 40 :], [[256]] * 80)
    out = np.concatenate(rig.played)[8000:]
    assert rig.connection.fill < 1024
    assert np.abs(np.diff(out)).max() < 0.5 * 2 * np.pi * 100 / 16000 + 1 / 80


def test_calls_of_any_size_are_followed(monkeypatch):
    rig, rng = Rig(monkeypatch), np.random.default_rng(5)
    calls = [[int(n) for n in rng.integers(1, 700, rng.integers(1, 4))] for _ in range(300)]
    calls[3] = [700, 700, 700]  # the longest comes early: nothing else can be lost
    rig.run(noise(sum(map(sum, calls))), calls)
    played, expected = rig.settled(20000)
    np.testing.assert_array_equal(played, expected)


class Late(Rig):
    """An engine that is a burst late now and then."""

    def process(self):
        self.turn = getattr(self, "turn", 0) + 1
        if self.turn < 20 or self.turn % 7:
            super().process()


def test_the_buffer_rises_where_sound_is_lost_again_and_again(monkeypatch):
    rig = Late(monkeypatch)
    rig.run(noise(256 * 400), [[256]] * 400)
    assert 3 <= rig.connection.xruns <= 12
    played, expected = rig.settled(8000)
    np.testing.assert_array_equal(played, expected)
    assert "sound was lost again and again: the buffer was raised by 8 ms" in rig.connection.notes


def test_a_fixed_buffer_is_kept_and_advised_on(monkeypatch):
    rig = Late(monkeypatch, extra_buffer_ms=2.0)
    fill = rig.connection.fill
    rig.run(noise(256 * 100), [[256]] * 100)
    assert rig.connection.fill == fill
    assert rig.connection.xruns > 5
    assert "--extra-buffer 14" in rig.connection.advice


def test_a_host_without_times_counts_each_call(monkeypatch):
    rig = Rig(monkeypatch)
    for _ in range(40):
        rig.now = -1.0  # becomes 0: unknown
        rig.run(noise(256), [[256]])
    assert rig.connection.fill == 256 + 0
    assert rig.stream.callback.n_bursts == 40


def test_only_losses_that_recur_soon_count():
    watch = LossWatch()
    assert [watch.recurs(n, t) for n, t in ((1, 0), (1, 1), (2, 8), (3, 15), (3, 16), (4, 17))] == [
        False, False, False, False, False, True,
    ]  # fmt: skip
    assert not watch.recurs(5, 17.1)
    assert BUDGET_S > 0
