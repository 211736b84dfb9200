"""Who takes part in step.py: one hop of the whole engine, by every runtime there is.

Each is a function from (hop, 1) samples to stems, blank at first, on one thread.
What isn't installed is left out and named.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rtmtass
from rtmtass.config import PRESETS
from rtmtass.speed import PRECISIONS, bytes_of_weights, open_precisions, step_of
from rtmtass.weights import DEFAULT, save_model

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


def model_of(preset: str, folder: Path) -> str:
    """Return a model of a preset: the released one, or one with random weights, made in `folder`.

    Speed doesn't depend on what the weights are.
    """
    config = PRESETS[preset]()
    if preset == "small":
        return DEFAULT
    import torch
    from safetensors.torch import save

    from rtmtass.net.mtass import MtassNet

    torch.manual_seed(0)
    state = MtassNet(config).state_dict()
    kept = {k: v.contiguous() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_model(folder / config.name, config, save(kept), {"version": "random"})
    return str(folder / config.name)


def ours(model: str) -> Iterator[Candidate]:
    """The compiled runtime, in every precision."""
    for precision, separator in open_precisions(model, PRECISIONS).items():
        yield Candidate("numba", precision, step_of(separator), bytes_of_weights(separator))


def torch_eager(model: str) -> Iterator[Candidate]:
    """The network that was trained, as it was trained, between our transforms."""
    import torch

    torch.set_num_threads(1)
    yield Candidate("torch eager", "f32", step_of(rtmtass.load(model, runtime="torch", block=256)))


def torch_traced(model: str) -> Iterator[Candidate]:
    """The same, traced and frozen: torch's own compiler for inference."""
    import torch

    from rtmtass.net.mtass import MtassNet
    from rtmtass.runtime.torch_runtime import TorchStream
    from rtmtass.weights import open_model

    torch.set_num_threads(1)
    opened = open_model(model)
    net = MtassNet(opened.config).eval()
    net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in opened.weights.items()})
    stream = TorchStream(Traced(net), "cpu", 1, 1)  # type: ignore[arg-type]
    hop, n_stems = opened.config.stft.hop, len(opened.config.stems)
    out = np.zeros((n_stems, hop, 1), np.float32)
    shares = np.zeros((n_stems, hop), np.float32)

    def step(block: Samples) -> Samples:
        stream.run(block, out, shares, 1)
        return out

    yield Candidate("torch.jit trace + freeze", "f32", step)


class Traced:
    """A network whose step is a frozen trace; its state is a flat tuple of tensors."""

    def __init__(self, net: Any) -> None:
        import torch

        self.config = net.config
        like = net.init_state(1)

        class Flat(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Any, *state: Any) -> Any:
                y, after = self.net.step(x, rebuild(like, iter(state)))
                return (y, *flatten(after))

        self._blank = tuple(flatten(like))
        x = torch.zeros(1, 1, 2, net.config.stft.n_bins)
        with torch.inference_mode():
            traced = torch.jit.trace(Flat().eval(), (x, *self._blank), check_trace=False)
            self._run = torch.jit.freeze(traced.eval())

    def init_state(self, batch: int) -> tuple[Any, ...]:
        """Return silence."""
        return tuple(each.clone() for each in self._blank)

    def step(self, x: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """Advance by a frame."""
        y, *after = self._run(x, *state)
        return y, tuple(after)


def flatten(state: Any) -> list[Any]:
    """Return the tensors of nested tuples."""
    if not isinstance(state, tuple):
        return [state]
    return [inner for part in state for inner in flatten(part)]


def rebuild(like: Any, tensors: Iterator[Any]) -> Any:
    """Return `tensors` in the nesting of `like`."""
    if not isinstance(like, tuple):
        return next(tensors)
    parts = [rebuild(part, tensors) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def onnx(model: str, folder: Path) -> Iterator[Candidate]:
    """The exported graph in onnxruntime, as it is and with its own dynamic int8."""
    from rtmtass.export import OnnxStep, export_onnx

    path = folder / "exported.onnx"
    export_onnx(model, path)
    yield Candidate("onnxruntime", "f32", columns(OnnxStep(path)))
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it has advice for another kind of graph
    quantised = folder / "exported-int8.onnx"
    quantize_dynamic(path, quantised, weight_type=QuantType.QInt8)
    yield Candidate("onnxruntime", "int8 dynamic", columns(OnnxStep(quantised)))


def columns(step: Callable[[Samples], Any]) -> Step:
    """Let a step that takes (hop,) take (hop, 1)."""
    return lambda block: step(block[:, 0])


def candidates(model: str, folder: Path) -> tuple[list[Candidate], dict[str, str]]:
    """Return all that run here, and why the others don't."""
    found, missing = list(ours(model)), {}
    makers: dict[str, Callable[[], Iterator[Candidate]]] = {
        "onnxruntime": lambda: onnx(model, folder),
        "torch eager": lambda: torch_eager(model),
        "torch.jit": lambda: torch_traced(model),
    }
    for name, make in makers.items():
        try:
            found += make()
        except (ImportError, rtmtass.errors.MissingPartError) as error:
            missing[name] = str(error)
    if importlib.util.find_spec("openvino") is None:
        missing["openvino"] = "not installed"
    return found, missing
