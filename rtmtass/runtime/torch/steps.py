"""Steps the torch network with its state as a value, or in place for a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtmtass.net.layers import Affine
from rtmtass.net.separation import SeparationNet
from rtmtass.runtime.folding import Weights, fold
from rtmtass.types import Floats

Body = Callable[[], None]
Capture = Callable[[Body], Body]

WARM_UP = 3
"""Steps before a capture: libraries choose their kernels during the first ones."""


class _Bf16Linear(nn.Module):
    """A linear layer with bfloat16 weights and inputs and a float32 output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=False)
        self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        return nn.functional.linear(x.bfloat16(), self.weight).float() + self.bias


def build_net(net: SeparationNet, weights: Weights, *, is_bf16: bool) -> SeparationNet:
    """Fold the norms into the linear layers, and convert those to bfloat16 if `is_bf16`.

    Args:
        net: a network with its weights loaded; changed and returned.
        weights: the same weights, as arrays.
        is_bf16: linear layers in bfloat16; GRUs, state and all else stay float32.
    """
    net = net.eval().requires_grad_(False)
    for name, module in net.named_modules():
        if not isinstance(module, Affine):
            continue
        if module.norm is not None:
            layer = fold(weights, name, module.linear.out_features)
            module.linear.weight.copy_(torch.from_numpy(layer.weight))
            module.linear.bias.copy_(torch.from_numpy(layer.bias))
            module.norm = None
        if is_bf16:
            module.linear = _Bf16Linear(module.linear)  # type: ignore[assignment]
    return net


@contextmanager
def cuda_matmul_precision(is_tf32: bool) -> Iterator[None]:
    """Set, within the context, whether a GPU's float32 matmuls may round their inputs to TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    settings: list[tuple[Any, str]] = [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
    value: Any = is_tf32
    if hasattr(matmul, "fp32_precision"):  # torch 2.9 renamed it, and warns of the old name
        settings = [(matmul, "fp32_precision"), (cudnn.rnn, "fp32_precision")]
        value = "tf32" if is_tf32 else "ieee"
    before = [getattr(module, name) for module, name in settings]
    try:
        for module, name in settings:
            setattr(module, name, value)
        yield
    finally:
        for (module, name), old in zip(settings, before, strict=True):
            setattr(module, name, old)


def leaves(state: Any) -> list[Tensor]:
    """Return all tensors of a state; the first axis of each is the streams."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]


class EagerStepper:
    """State as a value, passed from step to step; for CPUs."""

    def __init__(self, net: SeparationNet, streams: int) -> None:
        self._net, self._streams = net, streams
        self.reset()

    def reset(self, stream: int | None = None) -> None:
        """Reset the state of one stream, or of all."""
        if stream is None:
            self._state = self._net.init_state(self._streams)
            return
        with torch.inference_mode():
            for leaf in leaves(self._state):
                leaf[stream] = 0

    def advance(self, mixture: Floats) -> Floats:
        """Process the next frames; see `external_network.Network`."""
        streams, frames = mixture.shape[:2]
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(mixture)).reshape(streams, frames, 2, -1)
            y, self._state = self._net.step(x, self._state)
            stems: Floats = y.reshape(streams, frames, -1).numpy()
        return stems


class _Slot:
    """The buffers for steps of one length, and the function that runs such a step."""

    def __init__(self, net: SeparationNet, device: torch.device, streams: int, frames: int) -> None:
        bins, n_stems = net.config.stft.n_bins, net.n_stems
        pinned = device.type == "cuda"
        shape = (streams, frames, 2, bins)
        self.host_in = torch.zeros(shape, pin_memory=pinned)
        self.x = torch.zeros(shape, device=device)
        self.y = torch.zeros((streams, frames, n_stems, 2, bins), device=device)
        self.host_out = torch.zeros(self.y.shape, pin_memory=pinned)
        self.run: Body = lambda: None


class GraphStepper:
    """State and buffers at fixed addresses, as a captured CUDA graph needs them.

    A step writes the spectra to a page-locked buffer, copies them to the device, runs the
    network (a graph for the lengths in `fixed`, kernel by kernel for others), copies the
    stems back and synchronises once.

    Args:
        net: on `device`.
        device: where it runs; a CPU works too, for tests.
        streams: B.
        fixed: lengths T that are captured when first called.
        capture: records a step and returns what replays it; `cuda_graph`.
        is_tf32: let a GPU round the inputs of float32 matmuls to TF32.

    Attributes:
        trouble: why a step couldn't be captured; empty if none failed.
    """

    def __init__(
        self,
        net: SeparationNet,
        device: torch.device,
        streams: int,
        fixed: frozenset[int],
        capture: Capture,
        is_tf32: bool = False,
    ) -> None:
        self._net, self._device, self._streams = net, device, streams
        self._fixed, self._capture, self._is_tf32 = fixed, capture, is_tf32
        self._slots: dict[int, _Slot] = {}
        self.trouble = ""
        with torch.inference_mode():
            blank = net.init_state(streams)
            # Tensors of a fresh state may share storage; in place, each needs its own.
            self._state = _moved(blank, device)
            self._leaves = leaves(self._state)

    def reset(self, stream: int | None = None) -> None:
        """Reset the state of one stream, or of all."""
        with torch.inference_mode():
            for leaf in self._leaves:
                leaf[slice(None) if stream is None else stream] = 0

    def advance(self, mixture: Floats) -> Floats:
        """Process the next frames; see `external_network.Network`."""
        streams, frames = mixture.shape[:2]
        with torch.inference_mode():
            slot = self._slots.get(frames) or self._make_slot(frames)
            slot.host_in.numpy().reshape(streams, frames, -1)[:] = mixture
            slot.x.copy_(slot.host_in, non_blocking=True)
            slot.run()
            slot.host_out.copy_(slot.y, non_blocking=True)
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
        stems: Floats = slot.host_out.numpy().reshape(streams, frames, -1)
        return stems

    def _make_slot(self, frames: int) -> _Slot:
        slot = _Slot(self._net, self._device, self._streams, frames)

        def body() -> None:
            y, state = self._net.step(slot.x, self._state)
            slot.y.copy_(y)
            for leaf, new in zip(self._leaves, leaves(state), strict=True):
                leaf.copy_(new)

        def eager() -> None:
            with cuda_matmul_precision(self._is_tf32):
                body()

        slot.run = eager
        self._slots[frames] = slot
        if frames in self._fixed and not self.trouble:
            before = [leaf.clone() for leaf in self._leaves]
            with cuda_matmul_precision(self._is_tf32):
                replay, self.trouble = try_capture(self._capture, body, self._device)
            slot.run = replay or eager
            for leaf, kept in zip(self._leaves, before, strict=True):
                leaf.copy_(kept)  # warm-up and capture have advanced them
        return slot


def _moved(state: Any, device: torch.device) -> Any:
    """Return the state on a device, each tensor with storage of its own."""
    if isinstance(state, Tensor):
        return state.to(device, copy=True).contiguous()
    parts = [_moved(part, device) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def try_capture(capture: Capture, body: Body, device: torch.device) -> tuple[Body | None, str]:
    """Return what replays `body`, or, with a warning, None and why it can't be captured.

    Args:
        capture: records a step and returns what replays it.
        body: the step.
        device: where it runs; made torch's current GPU, since graphs are recorded there.
    """
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with current:
            return capture(body), ""
    except RuntimeError as error:
        trouble = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"no CUDA graph: {trouble}; each step launches its kernels one by one,"
            " with the same result, but slower",
            RuntimeWarning,
            stacklevel=3,
        )
        return None, trouble


def cuda_graph(body: Body) -> Body:
    """Run `body` a few times, record it as a CUDA graph, and return its replay.

    Raises:
        RuntimeError: part of it can't be recorded.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            body()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    replay: Body = graph.replay
    return replay
