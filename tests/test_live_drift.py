"""Two clocks: the conversion is exact, and drift is tracked at constant latency."""

from __future__ import annotations

import numpy as np
import pytest

from rtmtass.dsp.live_resample import Converter
from rtmtass.live.devices.drift import DriftControl


def convert(converter, x, sizes):
    out, parts, start, turn = np.zeros((converter.room, x.shape[1]), np.float32), [], 0, 0
    while start < len(x):
        n = sizes[turn % len(sizes)]
        n_out = converter.process(x[start : start + n], out)
        parts.append(out[:n_out].copy())
        start, turn = start + n, turn + 1
    return np.concatenate(parts)


def tone(rate, n, hz, phase=0.0):
    return np.sin(2 * np.pi * hz * np.arange(n) / rate + phase).astype(np.float32)[:, None]


@pytest.mark.parametrize(("in_rate", "out_rate"), [
    (48000, 16000), (16000, 48000), (44100, 16000), (16000, 44100), (8000, 16000), (16000, 16000),
    (96000, 16000),
])  # fmt: skip
@pytest.mark.parametrize("hz", [100.0, 1000.0, 3000.0])
def test_a_converted_tone_is_exact_and_aligned(in_rate, out_rate, hz):
    out = convert(Converter(in_rate, out_rate, 1, 1000), tone(in_rate, in_rate, hz), [1000])
    expected = tone(out_rate, len(out), hz)
    edge = out_rate // 50
    np.testing.assert_allclose(out[edge:-edge], expected[edge:-edge], atol=2e-4)


def test_tones_above_the_band_are_rejected():
    for hz in (9000.0, 15000.0, 20000.0):
        out = convert(Converter(48000, 16000, 1, 1000), tone(48000, 48000, hz), [1000])
        assert 20 * np.log10(np.abs(out[500:]).max()) < -75


@pytest.mark.parametrize("sizes", [[1], [7, 300, 1], [999]])
def test_the_output_is_the_same_for_any_block_size(sizes):
    x = np.random.default_rng(0).standard_normal((9000, 2)).astype(np.float32)
    whole = convert(Converter(44100, 16000, 2, 9000), x, [9000])
    np.testing.assert_array_equal(convert(Converter(44100, 16000, 2, 999), x, sizes), whole)


@pytest.mark.parametrize(("in_rate", "out_rate"), [(48000, 16000), (16000, 44100), (16000, 48000)])
def test_ready_after_predicts_the_output_length(in_rate, out_rate):
    converter, out = Converter(in_rate, out_rate, 1, 100), np.zeros((400, 1), np.float32)
    n_in = n_out = 0
    for _ in range(300):
        n_out += converter.process(np.zeros((97, 1), np.float32), out)
        n_in += 97
        assert abs(n_out - converter.ready_after(n_in)) <= 1


def test_the_ratio_can_change_without_a_step():
    converter = Converter(16000, 16000, 1, 256)
    x, out, parts = tone(16000, 64000, 200.0), np.zeros((converter.room, 1), np.float32), []
    for hop in range(250):
        converter.ratio = 1.0 + 1e-3 * np.sin(hop / 10)
        n_out = converter.process(x[hop * 256 : hop * 256 + 256], out)
        parts.append(out[:n_out].copy())
    y = np.concatenate(parts)[200:]
    assert np.abs(np.diff(y[:, 0])).max() < 1.01 * 2 * np.pi * 200 / 16000


def simulate(drift_ppm, seconds, *, jitter_s=0.0008, writer_block=256, reader_block=480, seed=0):
    """Two devices at 16 and 48 kHz; return the errors of the fill before each write, and ratios."""
    rng = np.random.default_rng(seed)
    reader_s = reader_block / (48000 * (1 + drift_ppm * 1e-6))
    writer_s = writer_block / 16000
    target = 2 * reader_block + 3 * writer_block
    control = DriftControl(target, 48000)
    fill, ratio, carry = float(target), 1.0, 0.0
    next_read, called, fills, ratios = 0.3 * reader_s, 0.0, [], []
    for turn in range(1, int(seconds / writer_s)):
        now = turn * writer_s
        while next_read <= now:
            fill -= reader_block
            called = next_read + rng.uniform(0, jitter_s)
            next_read += reader_s
        polled = now + rng.uniform(0, jitter_s)
        estimate = fill - max(0.0, polled - called) * 48000
        ratio = control.update(estimate, writer_s)
        produced = 3 * writer_block * ratio + carry
        carry = produced % 1
        fill += int(produced)
        fills.append(estimate)
        ratios.append(ratio)
    return np.array(fills) - target, np.array(ratios), control


@pytest.mark.parametrize("drift_ppm", [-300.0, -40.0, 0.0, 100.0, 300.0])
def test_the_latency_is_constant_while_clocks_drift(drift_ppm):
    errors, ratios, control = simulate(drift_ppm, 600)
    settled = errors[len(errors) // 10 :]
    assert abs(settled.mean()) < 5  # 0.1 ms
    assert np.abs(settled).max() < 100  # 2 ms, most of it the simulated jitter
    assert control.drift_ppm == pytest.approx(drift_ppm, abs=15)
    assert ratios[len(ratios) // 10 :].mean() == pytest.approx(1 + drift_ppm * 1e-6, abs=3e-6)
    assert np.abs(np.diff(ratios)).max() < 2e-4  # the pitch never jumps


def test_a_step_in_the_fill_settles_with_little_overshoot():
    control, fill = DriftControl(1000, 16000), 1400.0
    course = []
    for _ in range(3000):
        fill += 256 * (control.update(fill, 0.016) - 1)
        course.append(fill)
    assert abs(course[-1] - 1000) < 5
    assert min(course) > 850


def test_the_ratio_is_limited():
    control = DriftControl(1000, 16000)
    for _ in range(10000):
        ratio = control.update(0.0, 0.016)
    assert ratio == pytest.approx(1.001)
