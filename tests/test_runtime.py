"""The compiled runtime equals torch, frame by frame and in chunks, and allocates nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from networks import SUBBANDS, arrays, seasoned, tiny
from numba.core.runtime import _nrt_python, rtsys
from numpy.typing import NDArray

from rtmtass.config import PRECISIONS, ModelConfig
from rtmtass.errors import ModelError
from rtmtass.jit.simd import exp, sigmoid, tanh
from rtmtass.matmul.packing import pack, pack_f32
from rtmtass.runtime.compiled import program
from rtmtass.runtime.compiled.builder import Builder
from rtmtass.runtime.compiled.interpreter import execute
from rtmtass.runtime.compiled.lowering import build
from rtmtass.runtime.compiled.program import KINDS, Gate, Instruction, Program, encode
from rtmtass.runtime.compiled.runtime import CompiledRuntime
from rtmtass.runtime.torch.runtime import TorchRuntime

CONFIGS = {
    "recurrent": tiny(),
    "multiscale": tiny("multiscale"),
    "bands": tiny("bands"),
    "bands_alone": tiny("bands", compensation_target="none", target="magnitude_mask", lookahead=1),
    "bands_apart": tiny("bands", compensation_uses_trunk=False, expander_db=-5.0, hidden=17),
    "lookahead": tiny(lookahead=2),
    "magnitude_mask": tiny(target="magnitude_mask", compensation_target="none"),
    "level_by_power": tiny(level_by_power=True),
    "spectral_mapping": tiny(target="spectral_mapping", recurrent=13),
    "subbands": tiny(**SUBBANDS),
    "pops": tiny(level_pop_s=0.02),
    "expander": tiny(expander_db=-5.0),
    "steep_expander": tiny(expander_db=-5.0, expander_ratio=3),
    "groups": tiny(
        recurrent=9, recurrent_groups=3, **{**SUBBANDS, "subband_channels": 14, "subband_groups": 2}
    ),
}


def run(network: Program, x: NDArray[np.float32], chunk: int) -> NDArray[np.float32]:
    """Run the interpreter on spectra (T, 2, F); return (T, S, 2, F)."""
    bins, imag_offset, n_stems = x.shape[2], network.imag_offset, len(network.config.stems)
    state, work = np.zeros(network.state_size, np.float32), np.zeros(network.work_size, np.float32)
    out = np.zeros((len(x), n_stems, 2, bins), np.float32)
    for start in range(0, len(x), chunk):
        n = min(chunk, len(x) - start)
        for t in range(n):
            at = network.mixture.at + t * network.mixture.stride
            work[at : at + 2 * imag_offset].reshape(2, imag_offset)[:, :bins] = x[start + t]
        execute(network.instructions, network.weights, state, work, start, n, 0)
        for t in range(n):
            at = network.stems.at + t * network.stems.stride
            row = work[at : at + n_stems * 2 * imag_offset].reshape(n_stems, 2, imag_offset)
            out[start + t] = row[..., :bins]
    return out


def spectra(config: ModelConfig, frames: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((frames, 2, config.stft.n_bins)) * rng.random((frames, 1, 1))
    return x.astype(np.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_thousand_frames_match_torch(name: str) -> None:
    net = seasoned(CONFIGS[name])
    x = spectra(net.config, 1000)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)[None])[0].numpy()
    ours = run(build(net.config, arrays(net)), x, 1)
    scale = np.abs(expected).max()
    delta = np.abs(ours - expected)
    print(f"{name}: max {delta.max() / scale:.1e}, mean {delta.mean() / scale:.1e} of full scale")
    assert delta.max() / scale < 1e-4


@pytest.mark.parametrize("chunk", [2, 7, 32])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_frame_has_the_same_bits_alone_and_in_a_chunk(
    name: str, precision: str, chunk: int
) -> None:
    net = seasoned(CONFIGS[name])
    x = spectra(net.config, 100)
    alone = run(build(net.config, arrays(net), 1, precision), x, 1)
    together = run(build(net.config, arrays(net), chunk, precision), x, chunk)
    np.testing.assert_array_equal(together, alone)


def test_an_instruction_needs_every_field_by_its_name() -> None:
    make = Builder(1)
    fields = {"x": 0, "x_stride": 16, "width": 8, "y": 16, "y_stride": 16}
    make.emit(Gate(**fields))
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'y_stride'"):
        make.emit(Gate(**{k: v for k, v in fields.items() if k != "y_stride"}))
    with pytest.raises(TypeError, match="unexpected keyword argument 'slope'"):
        make.emit(Gate(**fields, slope=1))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        make.emit(Gate(*fields.values()))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"emit takes an instruction of program\.KINDS, not list"):
        make.emit([2, *fields.values()])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_name_the_fields_of_an_encoded_instruction(kind: type[Instruction]) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    instruction = kind(**{name: 100 + i for i, name in enumerate(names)})
    (code,) = encode([instruction])
    columns = program.columns(kind)
    assert KINDS[code[0]] is kind
    for name in names:
        assert code[getattr(columns, name)] == getattr(instruction, name)
    assert not code[1 + len(names) :].any()


def test_packing_pads_the_outputs_and_keeps_every_weight() -> None:
    weight = np.arange(70 * 3, dtype=np.float32).reshape(70, 3)
    packed = pack(weight, pack_f32).view(np.float32)
    assert packed.size == 80 * 3
    np.testing.assert_array_equal(packed[: 64 * 3].reshape(3, 64).T, weight[:64])
    np.testing.assert_array_equal(packed[64 * 3 :].reshape(3, 16).T[:6], weight[64:])


def test_weights_of_another_network_are_refused() -> None:
    config = tiny()
    right = arrays(seasoned(config))
    lacking = {k: v for k, v in right.items() if k != "trunk.in_proj.linear.weight"}
    with pytest.raises(ModelError, match=r"lack 'trunk.in_proj.linear.weight'"):
        build(config, lacking)
    with pytest.raises(ModelError, match="layers the config doesn't know: extra"):
        build(config, {**right, "extra": np.zeros(3, np.float32)})
    with pytest.raises(ModelError, match="different networks"):
        build(tiny(channels=32), right)


def test_activations_match_numpy() -> None:
    from numba import njit

    @njit
    def apply(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        for i in range(x.size):
            out[0, i] = exp(x[i])
            out[1, i] = sigmoid(x[i])
            out[2, i] = tanh(x[i])

    x = np.linspace(-30, 30, 10001, dtype=np.float32)
    out = np.empty((3, x.size), np.float32)
    apply(x, out)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(out[0], np.exp(wide), rtol=3e-6)
    np.testing.assert_allclose(out[1], 1 / (1 + np.exp(-wide)), rtol=3e-6, atol=1e-9)
    np.testing.assert_allclose(out[2], np.tanh(wide), atol=5e-7)
    extreme = np.array([-1e30, 1e30], np.float32)
    apply(extreme, out[:, :2].copy())
    result = np.empty((3, 2), np.float32)
    apply(extreme, result)
    np.testing.assert_allclose(result[1:], [[0, 1], [-1, 1]], atol=1e-30)


def test_hops_dont_allocate() -> None:
    """A call allocates only for its arguments: as often for forty hops as for one."""
    net = seasoned(tiny())
    stream = CompiledRuntime(net.config, arrays(net)).stream(2, 4)
    n = 40 * net.config.stft.hop
    x, out, highband_weights = (
        np.zeros(shape, np.float32) for shape in ((n, 2), (3, n, 2), (3, n))
    )
    stream.run(x, out, highband_weights, 1)
    _nrt_python.memsys_enable_stats()
    allocations = []
    for hops in (1, 40):
        before = rtsys.get_allocation_stats()
        stream.run(x, out, highband_weights, hops)
        after = rtsys.get_allocation_stats()
        allocations.append((after.alloc - before.alloc, after.mi_alloc - before.mi_alloc))
    assert allocations[0] == allocations[1]
    assert sum(allocations[0]) > 0  # the statistics are on


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["recurrent", "lookahead", "spectral_mapping"])
def test_compiled_and_torch_runtimes_agree(name: str, channels: int) -> None:
    net = seasoned(CONFIGS[name])
    hop = net.config.stft.hop
    x = np.random.default_rng(0).standard_normal((70 * hop, channels)).astype(np.float32) * 0.1
    results = []
    for runtime in (
        CompiledRuntime(net.config, arrays(net)),
        TorchRuntime(net.config, arrays(net)),
    ):
        stream = runtime.stream(channels, 16)
        out, highband_weights = (
            np.zeros((3, len(x), channels), np.float32),
            np.zeros((3, len(x)), np.float32),
        )
        stream.run(x, out, highband_weights, 70)
        results.append((out, highband_weights))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=2e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=2e-5)


def test_a_reset_stream_equals_a_new_one_on_both_runtimes() -> None:
    net = seasoned(tiny(lookahead=1))
    hop = net.config.stft.hop
    x = np.random.default_rng(0).standard_normal((20 * hop, 2)).astype(np.float32)
    for runtime in (
        CompiledRuntime(net.config, arrays(net)),
        TorchRuntime(net.config, arrays(net)),
    ):
        stream, outs = runtime.stream(2, 8), []
        for _ in range(2):
            out, highband_weights = (
                np.zeros((3, len(x), 2), np.float32),
                np.zeros((3, len(x)), np.float32),
            )
            stream.run(x, out, highband_weights, 20)
            outs.append(out)
            stream.reset()
        np.testing.assert_array_equal(outs[0], outs[1])
