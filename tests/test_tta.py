"""Test-time augmentation: the mean of its passes, aligned, causal and without allocations."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import rtmtass
from rtmtass import Separator
from rtmtass.cli.main import main
from rtmtass.errors import UsageError

Floats = NDArray[np.float32]
MORE = (2, 4)


def sound(n: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    t = np.arange(n) / 16000
    tone = np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (0.1 * (tone + rng.standard_normal(n))).astype(np.float32)


@pytest.fixture(scope="module", params=MORE)
def separator(request: pytest.FixtureRequest) -> Separator:
    return rtmtass.load(passes=request.param)


def feed(separator: Separator, x: Floats, size: int) -> Floats:
    stream = separator.fork()
    blocks = [stream.process(x[at : at + size]) for at in range(0, len(x), size)]
    return np.concatenate([*blocks, stream.flush()], axis=1)


def test_stems_are_the_mean_of_separate_passes() -> None:
    once, x = rtmtass.load(), sound(20_000)
    inverted = (once.separate(x) - once.separate(-x)) / 2
    np.testing.assert_allclose(rtmtass.load(passes=2).separate(x), inverted, atol=1e-6)
    late = np.concatenate([np.zeros(128, np.float32), x])
    later = ((once.separate(late) - once.separate(-late)) / 2)[:, 128:]
    both = (inverted + later) / 2
    np.testing.assert_allclose(rtmtass.load(passes=4).separate(x), both, atol=1e-6)
    assert np.abs(inverted - later).max() > 1e-3  # the passes do differ


@pytest.mark.parametrize("size", [1, 100, 256, 9000])
def test_streaming_equals_offline(separator: Separator, size: int) -> None:
    x = sound(2000 if size == 1 else 30_001)
    late = feed(separator, x, size)
    np.testing.assert_array_equal(late[:, separator.delay :], separator.separate(x))


@pytest.mark.parametrize("block", [1, 128, 256])
def test_the_delay_is_the_measured_one(separator: Separator, block: int) -> None:
    stream, x = separator.fork(block=block), np.zeros(12_800, np.float32)
    x[3000] = 1.0
    out = stream.process(x)
    assert int(np.argmax(np.abs(out.sum(axis=0)))) - 3000 == stream.delay
    assert stream.delay + stream.grain == stream.algorithmic_latency
    assert stream.algorithmic_latency == {2: 512, 4: 640}[stream.passes]


def test_the_future_cannot_reach_the_past(separator: Separator) -> None:
    x, at = sound(20_000), 11_003
    rewritten = np.concatenate([x[:at], sound(20_000 - at, seed=9)])
    a, b = (feed(separator, v, 1000) for v in (x, rewritten))
    np.testing.assert_array_equal(a[:, :at], b[:, :at])
    assert np.abs(a[:, at + separator.delay :] - b[:, at + separator.delay :]).max() > 0.01


def test_stems_sum_to_the_input_and_highband_weights_to_one(separator: Separator) -> None:
    stereo = np.stack([sound(20_000), sound(20_000, seed=1)], axis=1)
    stems = separator.fork(channels=2).separate(stereo)
    assert 20 * np.log10(np.abs(stems.sum(axis=0) - stereo).max()) < -110
    _, highband_weights = separator.fork().process_with_highband(sound(20_000))
    np.testing.assert_allclose(highband_weights.sum(axis=0), 1, atol=1e-5)


def test_reset_resets_every_pass(separator: Separator) -> None:
    stream, x = separator.fork(), sound(5000)
    first = np.concatenate([stream.process(x), stream.flush()], axis=1)
    stream.process(sound(3333, seed=4))
    stream.reset()
    again = np.concatenate([stream.process(x), stream.flush()], axis=1)
    np.testing.assert_array_equal(first, again)


def test_hops_allocate_no_sample_buffers(separator: Separator) -> None:
    stream = separator.fork(block=256)
    block, out = sound(256)[:, None], np.empty((3, 256, 1), np.float32)
    highband_weights = np.empty((3, 256), np.float32)
    tracemalloc.start()
    try:
        for _ in range(20):
            stream.process_into(block, out, highband_weights)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(20):
            stream.process_into(block, out, highband_weights)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{stream.passes} passes: {after - before} bytes stayed, {peak - before} at most")
    assert after - before < 1024
    assert peak - before < out.nbytes


def test_an_unknown_number_of_passes_is_refused() -> None:
    with pytest.raises(UsageError, match="passes must be one of 1, 2, 4, not 3"):
        rtmtass.load(passes=3)


def test_the_command_line_runs_four_passes(tmp_path: Path) -> None:
    x = sound(20_000)
    soundfile.write(tmp_path / "talk.wav", x, 16000, "FLOAT")
    command = ["separate", str(tmp_path / "talk.wav"), "--format", "wav", "--quiet"]
    assert main([*command, "--passes", "4"]) == 0
    written = [soundfile.read(tmp_path / f"talk.{s}.wav", dtype="float32")[0]
               for s in ("speech", "music", "noise")]  # fmt: skip
    np.testing.assert_allclose(written, rtmtass.load(passes=4).separate(x), atol=1e-4)
