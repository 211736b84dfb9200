"""The candidates of step.py: one hop of the whole engine in each available runtime.

Each is a function from (hop, 1) samples to stems that starts from a zero state and uses
one thread. Runtimes that aren't installed are listed with the reason.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rtmtass
from rtmtass.benchmark import open_precisions, step_of
from rtmtass.config import ModelConfig
from rtmtass.dsp.stft import analyse_hop, fft_tables, synthesise_hop, windows, work_size
from rtmtass.presets import PRESETS
from rtmtass.runtime.protocols import Stream
from rtmtass.weights import as_safetensors, open_model, released, save_model

Samples = NDArray[np.float32]
Step = Callable[[Samples], Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A runtime and precision for one hop; `weight_bytes` is set for our own runtime only."""

    runtime: str
    precision: str
    step: Step
    weight_bytes: int = 0

    @property
    def name(self) -> str:
        """Runtime and precision."""
        return f"{self.runtime} {self.precision}"


def model_of(preset: str, folder: Path) -> tuple[str, bool]:
    """Return a model of a preset, and whether its weights are random.

    Presets without a released model get random weights, saved in `folder`: speed doesn't
    depend on the weights' values.
    """
    config = PRESETS[preset]()
    if config.name in {path.name for path in released()}:
        return config.name, False
    import torch

    from rtmtass.net.networks import new_network

    torch.manual_seed(0)
    state = new_network(config).state_dict()
    weights = {k: v.numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_model(folder / config.name, config, as_safetensors(weights), {"version": "random"})
    return str(folder / config.name), True


def our_candidates(model: str) -> Iterator[Candidate]:
    """Yield the compiled runtime in every precision."""
    for precision, separator in open_precisions(model).items():
        yield Candidate("numba", precision, step_of(separator), separator.weight_bytes)


def torch_eager(model: str) -> Iterator[Candidate]:
    """Yield the network as trained, in eager torch, with our STFT."""
    import torch

    torch.set_num_threads(1)
    yield Candidate("torch eager", "f32", step_of(rtmtass.load(model, runtime="torch", block=256)))


def torch_traced(model: str) -> Iterator[Candidate]:
    """Yield the same network traced and frozen by torch.jit."""
    import torch

    from rtmtass.net.networks import new_network

    torch.set_num_threads(1)
    opened = open_model(model)
    net = new_network(opened.config).eval()
    net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in opened.weights.items()})
    step = SpectralStep(opened.config, TracedNetwork(net))
    yield Candidate("torch.jit trace + freeze", "f32", step)


class SpectralStep:
    """Our compiled STFT around any network from a spectrum to the stems' spectra."""

    def __init__(self, config: ModelConfig, network: Callable[[Samples], Samples]) -> None:
        stft, self._network = config.stft, network
        self._analysis, self._synthesis = windows(stft)
        self._tables = fft_tables(stft.n_fft)
        self._work = np.zeros(work_size(stft.n_fft), np.float32)
        self._history = np.zeros(stft.n_fft, np.float32)
        self._overlaps = np.zeros((len(config.stems), stft.synthesis), np.float32)
        self._spec = np.zeros((2, stft.n_bins), np.float32)
        self._out = np.zeros((len(config.stems), stft.hop), np.float32)

    def __call__(self, block: Samples) -> Samples:
        """Process a hop: (hop, 1) -> (S, hop)."""
        tables, work, (re, im) = self._tables, self._work, self._spec
        analyse_hop(block[:, 0], self._history, self._analysis, tables, work, re, im)
        stems = self._network(self._spec)
        for (re, im), overlap, out in zip(stems, self._overlaps, self._out, strict=True):
            synthesise_hop(re, im, overlap, self._synthesis, tables, work, out)
        return self._out


class TracedNetwork:
    """A network whose step is a frozen trace; the state is a flat list of tensors."""

    def __init__(self, net: Any) -> None:
        import torch

        self._inference, self._tensor = torch.inference_mode, torch.from_numpy
        initial = net.init_state(1)

        class Flat(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Any, *state: Any) -> Any:
                y, next_state = self.net.step(x, rebuild(initial, iter(state)))
                return (y, *flatten(next_state))

        self._state = flatten(initial)
        x = torch.zeros(1, 1, 2, net.config.stft.n_bins)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, but still in use
            trace: Any = torch.jit.trace  # untyped in torch
            traced = trace(Flat().eval(), (x, *self._state), check_trace=False)
            self._run = torch.jit.freeze(traced.eval())

    def __call__(self, spec: Samples) -> Samples:
        """Process a frame: (2, F) -> (S, 2, F)."""
        with self._inference():
            y, *self._state = self._run(self._tensor(spec)[None, None], *self._state)
            stems: Samples = y[0, 0].numpy()
            return stems


def flatten(state: Any) -> list[Any]:
    """Return the tensors of nested tuples."""
    if not isinstance(state, tuple):
        return [state]
    return [tensor for item in state for tensor in flatten(item)]


def rebuild(template: Any, tensors: Iterator[Any]) -> Any:
    """Return `tensors` nested like `template`."""
    if not isinstance(template, tuple):
        return next(tensors)
    parts = [rebuild(item, tensors) for item in template]
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)


def onnx(model: str, folder: Path) -> Iterator[Candidate]:
    """Yield the exported graph in onnxruntime, in f32 and in onnxruntime's dynamic int8.

    Quantised with one scale per matrix: with one per channel, onnxruntime 1.32 can't run
    the graph.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from rtmtass.runtime.onnx.export import export_onnx
    from rtmtass.runtime.onnx.runtime import OnnxRuntime

    name = open_model(model).config.name
    exported, quantised = folder / f"{name}.onnx", folder / f"{name}-int8.onnx"
    export_onnx(model, exported, frames="1")
    quantize_dynamic(
        exported, quantised, weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": True}
    )
    for precision, path in (("f32", exported), ("int8 dynamic", quantised)):
        runtime = OnnxRuntime(path)
        yield Candidate("onnxruntime", precision, stream_step(runtime.config, runtime.stream()))


def stream_step(config: ModelConfig, stream: Stream) -> Step:
    """Return a function from (hop, 1) to (S, hop, 1) that runs a stream of any runtime."""
    out = np.zeros((len(config.stems), config.stft.hop, 1), np.float32)
    highband_weights = np.zeros(out.shape[:2], np.float32)

    def step(block: Samples) -> Samples:
        stream.run(block, out, highband_weights, 1)
        return out

    return step


def openvino(model: str, folder: Path) -> Iterator[Candidate]:
    """Yield the exported graph in OpenVINO, on one thread, in bf16 and f32."""
    from openvino import Core

    opened = open_model(model)
    path = folder / f"{opened.config.name}.onnx"
    for hint in ("bf16", "f32"):
        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY",
                   "INFERENCE_PRECISION_HINT": hint}  # fmt: skip
        compiled = Core().compile_model(str(path), "CPU", options)
        yield Candidate("openvino", hint, SpectralStep(opened.config, OpenVinoNetwork(compiled)))


class OpenVinoNetwork:
    """A compiled graph of `rtmtass export`.

    Two requests alternate, each reading the state tensors that the other writes, so that
    no state is copied.
    """

    def __init__(self, compiled: Any) -> None:
        from openvino import Tensor

        def buffer(port: Any) -> Samples:
            return np.zeros(port.shape, np.float32)

        first, *inputs = compiled.inputs
        last = next(port for port in compiled.outputs if port.any_name == "stems")
        self._input, self._output = buffer(first), buffer(last)
        # OpenVINO keeps only pointers, so the arrays must stay alive here.
        states = [{port.any_name: buffer(port) for port in inputs} for _ in range(2)]
        self._states = states
        self._requests, self._turn = [], 0
        for turn in range(2):
            request = compiled.create_infer_request()
            bound = {first.any_name: self._input, "stems": self._output, **states[turn]}
            for name, state in states[1 - turn].items():
                bound[name.replace("state.", "next.", 1)] = state
            for name, array in bound.items():
                request.set_tensor(name, Tensor(array, shared_memory=True))
            self._requests.append(request)

    def __call__(self, spec: Samples) -> Samples:
        """Process a frame: (2, F) -> (S, 2, F)."""
        self._input[:] = spec[None]
        self._requests[self._turn].infer()
        self._turn = 1 - self._turn
        stems: Samples = self._output[0]
        return stems


def candidates(model: str, folder: Path) -> tuple[list[Candidate], dict[str, str]]:
    """Return the candidates that run here, and by name why the others don't."""
    running, missing = list(our_candidates(model)), {}
    makers: dict[str, Callable[[], Iterator[Candidate]]] = {
        "onnxruntime": lambda: onnx(model, folder),
        "openvino": lambda: openvino(model, folder),
        "torch eager": lambda: torch_eager(model),
        "torch.jit": lambda: torch_traced(model),
    }
    for name, make in makers.items():
        try:
            running += make()
        except (ImportError, rtmtass.errors.MissingPartError) as error:
            missing[name] = str(error)
    return running, missing
