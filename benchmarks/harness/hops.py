"""Who takes part in step.py: one hop of the whole engine, by every runtime there is.

Each is a function from (hop, 1) samples to stems, blank at first, on one thread.
What isn't installed is left out and named.
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
from rtmtass.config import PRESETS, ModelConfig
from rtmtass.dsp.stft import analyse_hop, fft_tables, synthesise_hop, windows, work_size
from rtmtass.runtime.protocols import Stream
from rtmtass.weights import as_safetensors, open_model, released, save_model

Samples = NDArray[np.float32]
Step = Callable[[Samples], Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to run a hop; `weight_bytes` is set for ours."""

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

    It is the released one, or is made in `folder`: speed doesn't depend on what the weights are.
    """
    config = PRESETS[preset]()
    if config.name in {path.name for path in released()}:
        return config.name, False
    import torch

    from rtmtass.net.mtass import MtassNet

    torch.manual_seed(0)
    state = MtassNet(config).state_dict()
    kept = {k: v.numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_model(folder / config.name, config, as_safetensors(kept), {"version": "random"})
    return str(folder / config.name), True


def ours(model: str) -> Iterator[Candidate]:
    """The compiled runtime, in every precision."""
    for precision, separator in open_precisions(model).items():
        yield Candidate("numba", precision, step_of(separator), separator.weight_bytes)


def torch_eager(model: str) -> Iterator[Candidate]:
    """The network that was trained, as it was trained, between our transforms."""
    import torch

    torch.set_num_threads(1)
    yield Candidate("torch eager", "f32", step_of(rtmtass.load(model, runtime="torch", block=256)))


def torch_traced(model: str) -> Iterator[Candidate]:
    """The same, traced and frozen: torch's own compiler for inference."""
    import torch

    from rtmtass.net.mtass import MtassNet

    torch.set_num_threads(1)
    opened = open_model(model)
    net = MtassNet(opened.config).eval()
    net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in opened.weights.items()})
    yield Candidate("torch.jit trace + freeze", "f32", Spectral(opened.config, Traced(net)))


class Spectral:
    """Our transform, compiled, at the edges of somebody's network: spectrum in, stems out."""

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
        """(hop, 1) -> (S, hop)."""
        tables, work, (re, im) = self._tables, self._work, self._spec
        analyse_hop(block[:, 0], self._history, self._analysis, tables, work, re, im)
        stems = self._network(self._spec)
        for (re, im), overlap, out in zip(stems, self._overlaps, self._out, strict=True):
            synthesise_hop(re, im, overlap, self._synthesis, tables, work, out)
        return self._out


class Traced:
    """A network whose step is a frozen trace; its state is a flat list of tensors."""

    def __init__(self, net: Any) -> None:
        import torch

        self._inference, self._tensor = torch.inference_mode, torch.from_numpy
        like = net.init_state(1)

        class Flat(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Any, *state: Any) -> Any:
                y, after = self.net.step(x, rebuild(like, iter(state)))
                return (y, *flatten(after))

        self._state = flatten(like)
        x = torch.zeros(1, 1, 2, net.config.stft.n_bins)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is old, and a rival still
            traced = torch.jit.trace(Flat().eval(), (x, *self._state), check_trace=False)
            self._run = torch.jit.freeze(traced.eval())

    def __call__(self, spec: Samples) -> Samples:
        """Advance by a frame: (2, F) -> (S, 2, F)."""
        with self._inference():
            y, *self._state = self._run(self._tensor(spec)[None, None], *self._state)
            return y[0, 0].numpy()


def flatten(state: Any) -> list[Any]:
    """Return the tensors of nested tuples."""
    if not isinstance(state, tuple):
        return [state]
    return [inner for imag_offset in state for inner in flatten(imag_offset)]


def rebuild(like: Any, tensors: Iterator[Any]) -> Any:
    """Return `tensors` in the nesting of `like`."""
    if not isinstance(like, tuple):
        return next(tensors)
    parts = [rebuild(imag_offset, tensors) for imag_offset in like]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def onnx(model: str, folder: Path) -> Iterator[Candidate]:
    """The exported graph in onnxruntime, as it is and with its own dynamic int8.

    One scale a matrix: with one a channel, onnxruntime 1.32 refuses to run the graph.
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
        yield Candidate("onnxruntime", precision, through(runtime.config, runtime.stream()))


def through(config: ModelConfig, stream: Stream) -> Step:
    """Return a stream of any runtime as a function that takes hops and returns the stems."""
    out = np.zeros((len(config.stems), config.stft.hop, 1), np.float32)
    highband_weights = np.zeros(out.shape[:2], np.float32)

    def step(block: Samples) -> Samples:
        stream.run(block, out, highband_weights, 1)
        return out

    return step


def openvino(model: str, folder: Path) -> Iterator[Candidate]:
    """The exported graph in OpenVINO, on one thread; its default precision and f32."""
    from openvino import Core

    opened = open_model(model)
    path = folder / f"{opened.config.name}.onnx"
    for hint in ("bf16", "f32"):
        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY",
                   "INFERENCE_PRECISION_HINT": hint}  # fmt: skip
        compiled = Core().compile_model(str(path), "CPU", options)
        yield Candidate("openvino", hint, Spectral(opened.config, Vino(compiled)))


class Vino:
    """A compiled graph of `rtmtass export`; two requests change places, so nothing is copied."""

    def __init__(self, compiled: Any) -> None:
        from openvino import Tensor

        def shared(port: Any) -> Samples:
            return np.zeros(port.shape, np.float32)

        first, *inputs = compiled.inputs
        last = next(port for port in compiled.outputs if port.any_name == "stems")
        self._given, self._answer = shared(first), shared(last)
        # OpenVINO keeps pointers, not the arrays.
        carryover = [{port.any_name: shared(port) for port in inputs} for _ in range(2)]
        self._carryover = carryover
        self._requests, self._turn = [], 0
        for turn in range(2):
            request = compiled.create_infer_request()
            bound = {first.any_name: self._given, "stems": self._answer, **carryover[turn]}
            for name, memory in carryover[1 - turn].items():
                bound[name.replace("state.", "next.", 1)] = memory
            for name, array in bound.items():
                request.set_tensor(name, Tensor(array, shared_memory=True))
            self._requests.append(request)

    def __call__(self, spec: Samples) -> Samples:
        """Advance by a frame: (2, F) -> (S, 2, F)."""
        self._given[:] = spec[None]
        self._requests[self._turn].infer()
        self._turn = 1 - self._turn
        return self._answer[0]


def candidates(model: str, folder: Path) -> tuple[list[Candidate], dict[str, str]]:
    """Return all that run here, and why the others don't."""
    found, missing = list(ours(model)), {}
    makers: dict[str, Callable[[], Iterator[Candidate]]] = {
        "onnxruntime": lambda: onnx(model, folder),
        "openvino": lambda: openvino(model, folder),
        "torch eager": lambda: torch_eager(model),
        "torch.jit": lambda: torch_traced(model),
    }
    for name, make in makers.items():
        try:
            found += make()
        except (ImportError, rtmtass.errors.MissingPartError) as error:
            missing[name] = str(error)
    return found, missing
