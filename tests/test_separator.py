"""`Separator` with released weights: block sizes, delay, sum of the stems, level."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

import rtmtass
from rtmtass import Separator
from rtmtass.config import PRECISIONS
from rtmtass.errors import BlockSizeError, InputError, ModelError, UsageError
from rtmtass.fullband import FullBandSeparator
from rtmtass.runtime.compiled.runtime import CompiledStream

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def separator() -> Separator:
    return rtmtass.load()


def sound(n: int, seed: int = 0, level: float = 0.1) -> Floats:
    """An amplitude-modulated tone in noise bursts, (n,)."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / 16000
    tone = np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 3 * t))
    burst = np.repeat(rng.random(n // 800 + 1), 800)[:n]
    return (level * (tone + burst * rng.standard_normal(n))).astype(np.float32)


def feed(separator: Separator, x: Floats, sizes: list[int]) -> Floats:
    stream, out, at, i = separator.fork(), [], 0, 0
    while at < len(x):
        size = sizes[i % len(sizes)] or 1
        block = x[at : at + size]
        stems = stream.process(block)
        assert stems.shape == (3, len(block))
        out.append(stems)
        at, i = at + size, i + 1
    return np.concatenate([*out, stream.flush()], axis=1)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=5), st.integers(0, 90_000))
def test_any_block_sizes_match_separate(sizes: list[int], n: int) -> None:
    separator, x = rtmtass.load(), sound(n + 1)
    if sum(sizes) < 200:
        x = x[:3000]
    late = feed(separator, x, sizes)
    assert late.shape == (3, len(x) + separator.delay)
    np.testing.assert_allclose(late[:, separator.delay :], separator.separate(x), atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 255, 256, 257, 100_000])
def test_one_block_size_equals_separate(separator: Separator, size: int) -> None:
    x = sound(4000 if size == 1 else 40_000)
    late = feed(separator, x, [size])
    np.testing.assert_array_equal(late[:, separator.delay :], separator.separate(x))


def test_empty_block(separator: Separator) -> None:
    stream = separator.fork()
    assert stream.process(np.zeros(0, np.float32)).shape == (3, 0)
    assert separator.separate(np.zeros(0, np.float32)).shape == (3, 0)


@pytest.mark.parametrize("block", [1, 32, 100, 128, 256, 1024])
def test_reported_delay_is_the_measured_one(separator: Separator, block: int) -> None:
    stream = separator.fork(block=block)
    x = np.zeros(20 * 1024 * 25, np.float32)[: 12_800 * 2]
    x[3000] = 1.0
    out = np.concatenate([stream.process(b) for b in np.split(x, len(x) // 12800)], axis=1)
    assert int(np.argmax(np.abs(out.sum(axis=0)))) - 3000 == stream.delay
    assert stream.delay + stream.grain == stream.algorithmic_latency == 512


def test_delay_of_whole_hops_is_the_window_minus_a_hop(separator: Separator) -> None:
    assert separator.fork(block=256).delay == 256
    assert separator.algorithmic_latency / separator.sample_rate == 0.032


def test_output_is_causal(separator: Separator) -> None:
    x, at = sound(30_000), 17_003
    rewritten = np.concatenate([x[:at], sound(30_000 - at, seed=9)])
    a, b = (feed(separator, v, [1000]) for v in (x, rewritten))
    np.testing.assert_array_equal(a[:, :at], b[:, :at])
    assert np.abs(a[:, at + separator.delay :] - b[:, at + separator.delay :]).max() > 0.01


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_stems_sum_to_the_input(channels: int) -> None:
    separator = rtmtass.load(channels=channels)
    x = np.stack([sound(20_000, seed=c) for c in range(channels)], axis=1)
    stems = separator.separate(x)
    assert stems.shape == (3, 20_000, channels)
    error_db = 20 * np.log10(np.abs(stems.sum(axis=0) - x).max())
    assert error_db < -110


@pytest.mark.parametrize("db", [-40, -20, 12])
def test_separation_is_independent_of_level(separator: Separator, db: float) -> None:
    x, gain = sound(48_000), 10 ** (db / 20)
    plain, changed = separator.separate(x), separator.separate(x * np.float32(gain)) / gain
    for a, b in zip(plain, changed, strict=True):
        assert abs(10 * np.log10((b**2).mean() / (a**2).mean())) < 0.5
    assert np.abs(changed - plain).max() < 0.02 * np.abs(plain).max()


def test_stereo_image_is_preserved() -> None:
    # Not int8: its rounding depends on the last bits of the channels' mean.
    mono, stereo = (rtmtass.load(precision="f32", channels=n) for n in (1, 2))
    x = sound(20_000)
    panned = stereo.separate(np.stack([0.8 * x, 0.3 * x], axis=1))
    alone = mono.separate(x)
    np.testing.assert_allclose(panned[:, :, 0], 0.8 * alone, atol=1e-4)
    np.testing.assert_allclose(panned[:, :, 1], 0.3 * alone, atol=1e-4)


def test_opposite_channels_still_sum_to_the_input() -> None:
    x = sound(20_000)
    stems = rtmtass.load(channels=2).separate(np.stack([x, -x], axis=1))
    np.testing.assert_allclose(stems.sum(axis=0)[:, 0], x, atol=1e-6)
    assert np.isfinite(stems).all()


def test_two_streams_of_one_network_are_independent(separator: Separator) -> None:
    a, b = sound(20_000, seed=1), sound(20_000, seed=2)
    one, two = separator.fork(), separator.fork()
    outs: tuple[list[Floats], list[Floats]] = ([], [])
    for at in range(0, 20_000, 500):
        outs[0].append(one.process(a[at : at + 500]))
        outs[1].append(two.process(b[at : at + 500]))
    for x, out in ((a, outs[0]), (b, outs[1])):
        np.testing.assert_array_equal(
            np.concatenate(out, axis=1), feed(separator, x, [500])[:, :20_000]
        )


def test_flush_and_reset_clear_the_state(separator: Separator) -> None:
    stream, x = separator.fork(), sound(5000)
    first = np.concatenate([stream.process(x), stream.flush()], axis=1)
    silence = stream.flush()
    assert silence.shape == (3, stream.delay)
    assert np.abs(silence).max() < 1e-4
    again = np.concatenate([stream.process(x), stream.flush()], axis=1)
    np.testing.assert_array_equal(first, again)
    stream.process(sound(3333, seed=4))
    stream.reset()
    np.testing.assert_array_equal(
        np.concatenate([stream.process(x), stream.flush()], axis=1), first
    )


def test_silence_after_sound_stays_silent(separator: Separator) -> None:
    x = np.concatenate([sound(16_000), np.zeros(64_000, np.float32)])
    tail = separator.separate(x)[:, -32_000:]
    assert 20 * np.log10(np.abs(tail).max() + 1e-12) < -80


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_denormals_after_sound_fades(precision: str) -> None:
    separator = rtmtass.load(precision=precision)
    fading = sound(32_000) * np.exp(-np.arange(32_000) / 200).astype(np.float32)
    stream = separator.fork(block=256)
    for at in range(0, 32_000, 256):
        stream.process(fading[at : at + 256])
    stream.process(np.zeros(16_000 * 4 // 256 * 256, np.float32))
    inner = stream._stream
    assert isinstance(inner, CompiledStream)
    arenas = [inner._state, inner._stft_state]
    if precision != "int8":  # with int8 the work space also holds bytes
        arenas.append(inner._work)
    for arena in arenas:
        small = np.abs(arena[arena != 0])
        assert (small < np.finfo(np.float32).tiny).sum() == 0


def test_highband_weights_sum_to_one(separator: Separator) -> None:
    stream = separator.fork()
    stems, highband_weights = stream.process_with_highband(sound(30_000))
    assert stems.shape == highband_weights.shape
    np.testing.assert_allclose(highband_weights.sum(axis=0), 1, atol=1e-5)
    assert highband_weights.min() >= 0


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros((10, 2)), r"shape \(10, 2\)"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
    ],
)
def test_wrong_shapes_are_rejected(separator: Separator, block: Floats, message: str) -> None:
    with pytest.raises(BlockSizeError, match=message):
        separator.fork().process(block)


def test_wrong_block_lengths_are_rejected(separator: Separator) -> None:
    with pytest.raises(BlockSizeError, match=r"7 samples.* multiple of 256; .*load\(block=1\)"):
        separator.fork(block=256).process(np.zeros(7, np.float32))


def test_separate_accepts_any_length(separator: Separator) -> None:
    x = sound(5001)
    whole = separator.separate(x)
    np.testing.assert_array_equal(separator.fork(block=256).separate(x), whole)


DAMAGE = [np.nan, np.inf, -np.inf, 1e30, -1.1e9]


@pytest.mark.parametrize("value", DAMAGE)
def test_damaged_samples_are_refused_and_leave_the_state_as_it_was(
    separator: Separator, value: float
) -> None:
    stream, clean = separator.fork(), separator.fork()
    bad = sound(1000)
    bad[42] = value
    for seed in range(3):
        x = sound(777, seed)
        with pytest.raises(InputError, match=r"sample 42 of the block is .*full scale is 1.0"):
            stream.process(bad)
        np.testing.assert_array_equal(stream.process(x), clean.process(x))
    np.testing.assert_array_equal(stream.flush(), clean.flush())


@pytest.mark.parametrize("channels", [1, 2])
def test_zeros_in_place_of_a_refused_block_give_what_zeros_give(channels: int) -> None:
    """As live streams do: a damaged block is treated as silence, and time goes on."""
    opened = rtmtass.load(channels=channels)
    stream, zeroed = opened.fork(), opened.fork()
    shape = (512,) if channels == 1 else (512, channels)
    for seed in range(6):
        x = np.resize(sound(512 * channels, seed), shape)
        if seed == 2:
            with pytest.raises(InputError):
                stream.process(np.full(shape, np.nan))
            x = np.zeros(shape, np.float32)
        np.testing.assert_array_equal(stream.process(x), zeroed.process(x))


@pytest.mark.parametrize(
    ("block", "kind"), [(np.ones(300, np.complex64), "complex64"), ("talk.wav", "<U8")]
)
def test_complex_numbers_and_text_are_refused(
    separator: Separator, block: ArrayLike, kind: str
) -> None:
    stream = separator.fork()
    for call in (stream.process, stream.separate, lambda x: stream.separate(x, 44100)):
        with pytest.raises(InputError, match=f"got an array of {kind}, expected samples as real"):
            call(block)


def test_numbers_too_large_for_float32_are_refused_without_a_warning(separator: Separator) -> None:
    with pytest.raises(InputError, match="sample 1 of the block is inf"):
        separator.fork().process([0.0, 1e300])


@pytest.mark.parametrize("value", [1e3, 1e6, 1e9])
def test_the_largest_samples_give_finite_stems_that_sum_to_them(
    separator: Separator, value: float
) -> None:
    x = sound(64_000)
    x[8000:8010] = value
    x[9000] = -value
    stems = separator.separate(x)
    assert np.isfinite(stems).all()
    assert np.abs(stems.sum(axis=0) - x).max() <= 1e-6 * value
    # Behind the click: the sum is exact to the rounding of what is there, not of the click.
    assert np.abs(stems.sum(axis=0) - x)[12_000:].max() < 1e-5


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("value", DAMAGE)
def test_full_band_streams_follow_the_same_rule(
    separator: Separator, rate: int, value: float
) -> None:
    stream, clean = (FullBandSeparator(separator, rate, 1) for _ in range(2))
    bad, x = sound(1000)[:, None], sound(20_000)[:, None]
    bad[42] = value
    stream.process(x), clean.process(x)
    with pytest.raises(InputError, match="sample 42 of the block"):
        stream.process(bad)
    np.testing.assert_array_equal(stream.process(x), clean.process(x))
    np.testing.assert_array_equal(stream.flush(), clean.flush())
    with pytest.raises(InputError, match="sample 42 of the block"):
        separator.separate(bad, rate)


def test_the_largest_samples_pass_the_resamplers(separator: Separator) -> None:
    x = sound(44_100)
    x[20_000:20_400] = 1e9 * np.sign(np.sin(np.arange(400)))  # overshoots when it is resampled
    stems = separator.separate(x, 44_100)
    assert np.isfinite(stems).all()
    assert np.abs(stems.sum(axis=0) - x).max() < 1e-6 * 1e9


@pytest.mark.parametrize("shape", [(3000,), (3000, 1), (3000, 2)])
def test_a_sample_rate_makes_any_number_of_channels_full_band(
    separator: Separator, shape: tuple[int, ...]
) -> None:
    x = np.resize(sound(6000), shape)
    for rate in (8000, 16000, 48000):
        stems = separator.separate(x, rate)
        assert stems.shape == (3, *shape)
        assert stems.dtype == np.float32
        np.testing.assert_allclose(stems.sum(axis=0), x, atol=1e-5)


def test_the_models_own_rate_gives_the_same_bits(separator: Separator) -> None:
    x = sound(20_000)
    np.testing.assert_array_equal(separator.separate(x, sample_rate=16000), separator.separate(x))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_short_arrays_at_any_rate(separator: Separator, n: int, rate: int) -> None:
    assert separator.separate(sound(n), rate).shape == (3, n)


@pytest.mark.parametrize("mode", ["independent", "mono"])
def test_channel_modes_of_separate(separator: Separator, mode: str) -> None:
    x = np.stack([sound(6000, 1), sound(6000, 2)], axis=1)
    stems = separator.separate(x, 44_100, channel_mode=mode)
    expected = x if mode == "independent" else x.mean(axis=1, keepdims=True)
    assert stems.shape == (3, *expected.shape)
    np.testing.assert_allclose(stems.sum(axis=0), expected, atol=1e-5)


@pytest.mark.parametrize("rate", [0, -1, 3999, 16000.5, float("nan"), 10**9])
def test_unsupported_rates_are_refused(separator: Separator, rate: int) -> None:
    with pytest.raises(UsageError, match=r"expected a whole number of Hz from 4000 to 384000"):
        separator.separate(sound(100), rate)


def test_other_shapes_and_modes_are_refused(separator: Separator) -> None:
    with pytest.raises(BlockSizeError, match=r"shape \(2, 2, 2\), expected \(N,\) or"):
        separator.separate(np.zeros((2, 2, 2)), 16000)
    with pytest.raises(UsageError, match="unknown channel mode 'left'"):
        separator.separate(sound(100), 16000, channel_mode="left")


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'nope'.*rtmtass-small"):
        rtmtass.load("nope")
    with pytest.raises(UsageError, match="numba, torch"):
        rtmtass.load(runtime="tensorflow")
    with pytest.raises(UsageError, match="set runtime to torch"):
        rtmtass.load(device="cuda")


def test_torch_and_numba_agree() -> None:
    pytest.importorskip("torch")
    x = sound(30_000)
    numba, torch = (
        rtmtass.load(runtime=runtime, precision="f32").separate(x) for runtime in ("numba", "torch")
    )
    np.testing.assert_allclose(numba, torch, atol=1e-5)


def test_default_precision_and_unknown_precision(separator: Separator) -> None:
    assert separator.precision == "int8"
    assert separator.weight_bytes < 0.3 * rtmtass.load(precision="f32").weight_bytes
    with pytest.raises(
        UsageError, match=r"numba runtime has no precision 'fp4'; choose from auto, f32, bf16, int8"
    ):
        rtmtass.load(precision="fp4")


def test_processing_releases_the_gil(separator: Separator) -> None:
    """Another Python thread runs during the compiled call."""
    stream, ticks, stop = separator.fork(block=8192), [0], threading.Event()
    block = sound(8192)  # drawn here: numpy releases the GIL, too

    def tick() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # now only a released GIL lets the other thread run
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        ticks_before, end = ticks[0], time.monotonic() + 30
        while ticks[0] == ticks_before:  # at once, where a core is free
            assert time.monotonic() < end
            stream.process(block)
    finally:
        stop.set()
        sys.setswitchinterval(before)
        thread.join(timeout=5)


class Waiting:
    """A stream that waits inside `run`, as one does while compiled code runs without the GIL."""

    def __init__(self) -> None:
        self.inside, self.leave = threading.Event(), threading.Event()

    def run(self, *_: object) -> None:
        self.inside.set()
        assert self.leave.wait(60)

    def reset(self, stream: int | None = None) -> None:
        """Do nothing."""


def test_a_second_thread_gets_an_error(separator: Separator) -> None:
    own, waiting = separator.fork(), Waiting()
    sounding, own._stream = own._stream, waiting
    block = np.zeros(own.hop, np.float32)
    first = threading.Thread(target=own.process, args=(block,))
    first.start()
    assert waiting.inside.wait(60)
    try:
        for call in (lambda: own.process(block), own.flush, own.reset):
            with pytest.raises(UsageError, match=r"another thread .*: separator\.fork\(\)$"):
                call()
        assert own.fork().process(block).shape == (3, own.hop)
        assert own.separate(block).shape == (3, own.hop)
    finally:
        waiting.leave.set()
        first.join()
    own._stream = sounding
    own.reset()
    x = sound(3 * own.hop)
    np.testing.assert_array_equal(own.process(x), separator.fork().process(x))


def test_an_error_inside_leaves_the_separator_usable(separator: Separator) -> None:
    own = separator.fork()
    sounding, own._stream = own._stream, None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        own.process(np.zeros(own.hop, np.float32))
    own._stream = sounding
    own.reset()
    assert own.process(np.zeros(8, np.float32)).shape == (3, 8)
