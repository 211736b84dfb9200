"""A batch equals separate streams to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from networks import SUBBANDS, arrays, seasoned, tiny
from numpy.typing import NDArray

import rtmtass
from rtmtass.batch import StreamBatch
from rtmtass.config import PRECISIONS
from rtmtass.errors import BlockSizeError, InputError, UsageError
from rtmtass.runtime.compiled.runtime import CompiledRuntime
from rtmtass.separator import Separator

Floats = NDArray[np.float32]
CONFIGS = {
    "recurrent": tiny(),
    "multiscale": tiny("multiscale"),
    "bands": tiny("bands"),
    "lookahead": tiny(lookahead=2),
    "subbands": tiny(**SUBBANDS),
    "pops": tiny(level_pop_s=0.02),
    "expander": tiny(expander_db=-5.0),
    "groups": tiny(
        recurrent=9, recurrent_groups=3, **{**SUBBANDS, "subband_channels": 14, "subband_groups": 2}
    ),
}


def sounds(streams: int, n: int) -> Floats:
    x = np.random.default_rng(3).standard_normal((streams, n)) * 0.1
    return x.astype(np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("streams", [1, 2, 7])
def test_a_stream_has_the_same_bits_alone_and_in_a_batch(
    kind: str, precision: str, streams: int
) -> None:
    net = seasoned(CONFIGS[kind])
    runtime = CompiledRuntime(net.config, arrays(net), precision)
    batch = StreamBatch(net.config, runtime, streams)
    x = sounds(streams, 90 * batch.hop)
    ours = batch.process(x)
    for stream in range(streams):
        alone = Separator(net.config, runtime, block=batch.hop)
        assert alone.delay == batch.delay
        np.testing.assert_array_equal(ours[stream], alone.process(x[stream]))


def test_one_stream_can_be_reset() -> None:
    net = seasoned(tiny())
    runtime = CompiledRuntime(net.config, arrays(net))
    batch = StreamBatch(net.config, runtime, 3)
    x = sounds(3, 20 * batch.hop)
    batch.process(x)
    batch.reset(1)
    again = batch.process(x)
    fresh = Separator(net.config, runtime, block=batch.hop)
    np.testing.assert_array_equal(again[1], fresh.process(x[1]))
    gone_on = Separator(net.config, runtime, block=batch.hop)
    gone_on.process(x[0])
    np.testing.assert_array_equal(again[0], gone_on.process(x[0]))
    batch.reset()
    np.testing.assert_array_equal(batch.process(x)[2], Separator(
        net.config, runtime, block=batch.hop).process(x[2]))  # fmt: skip


def test_stems_sum_to_each_input() -> None:
    batch = rtmtass.load_batch(streams=2)
    assert (batch.streams, batch.precision, batch.stems) == (2, "int8", rtmtass.STEMS)
    x = sounds(2, 40 * batch.hop)
    out = batch.process(x).sum(axis=1)
    np.testing.assert_allclose(out[:, batch.delay :], x[:, : -batch.delay], atol=1e-6)


def test_invalid_input_is_refused() -> None:
    net = seasoned(tiny())
    runtime = CompiledRuntime(net.config, arrays(net))
    batch = StreamBatch(net.config, runtime, 2)
    with pytest.raises(UsageError, match="streams must be 1 or more, got 0"):
        StreamBatch(net.config, runtime, 0)
    with pytest.raises(BlockSizeError, match=r"got blocks of shape \(3, 32\), expected \(2, n\)"):
        batch.process(sounds(3, 32))
    with pytest.raises(BlockSizeError, match="a multiple of 32"):
        batch.process(sounds(2, 33))
    with pytest.raises(UsageError, match="no stream 2; choose from 0 to 1"):
        batch.reset(2)
    x = sounds(2, 32)
    x[1, 7] = np.nan
    with pytest.raises(InputError, match="sample 7 of stream 1 is nan"):
        batch.process(x)


def test_a_second_thread_gets_an_error() -> None:
    batch = StreamBatch(CONFIGS["recurrent"], CompiledRuntime(
        CONFIGS["recurrent"], arrays(seasoned(CONFIGS["recurrent"]))), 2)  # fmt: skip
    blocks = sounds(2, batch.hop)
    batch._in_use.acquire()  # as a thread does that is inside
    for call in (lambda: batch.process(blocks), batch.reset):
        with pytest.raises(UsageError, match=r"another thread .* with load_batch\(\)$"):
            call()
    batch._in_use.release()
    assert batch.process(blocks).shape == (2, 3, batch.hop)
