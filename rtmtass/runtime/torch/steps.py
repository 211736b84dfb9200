"""The torch network behind `spectral.Network`: memory as a value, or in place for a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rtmtass.net.layers import Affine
from rtmtass.net.mtass import MtassNet
from rtmtass.runtime.folding import Weights, fold

Floats = NDArray[np.float32]
Body = Callable[[], None]
Capture = Callable[[Body], Body]

WARM_UP = 3
"""Times a step runs before it is captured: libraries choose their kernels in the first ones."""


class _LowLinear(nn.Module):
    """A product of bfloat16 weights and inputs; its answer is float32 again."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=False)
        self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        return nn.functional.linear(x.bfloat16(), self.weight).float() + self.bias


def build_net(net: MtassNet, weights: Weights, *, is_low: bool) -> MtassNet:
    """Fold the norms into the products, and round these to bfloat16 where `is_low`.

    Args:
        net: a network with its weights loaded; changed and returned.
        weights: those, as arrays.
        is_low: products in bfloat16; GRUs, memories and all else stay float32.
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
        if is_low:
            module.linear = _LowLinear(module.linear)  # type: ignore[assignment]
    return net


@contextmanager
def cuda_products(is_tf32: bool) -> Iterator[None]:
    """Set for a while whether a GPU's float32 products may round their factors to TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    places: list[tuple[Any, str]] = [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
    wanted: Any = is_tf32
    if hasattr(matmul, "fp32_precision"):  # torch 2.9 renamed it, and warns of the old name
        places = [(matmul, "fp32_precision"), (cudnn.rnn, "fp32_precision")]
        wanted = "tf32" if is_tf32 else "ieee"
    before = [getattr(place, name) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, wanted)
        yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)


def leaves(state: Any) -> list[Tensor]:
    """Return all tensors of a memory; each has the streams as its first axis."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]


class EagerStepper:
    """Memory as a value: each step's is the next one's. What a CPU runs."""

    def __init__(self, net: MtassNet, streams: int) -> None:
        self._net, self._streams = net, streams
        self.reset()

    def reset(self, stream: int | None = None) -> None:
        """Forget what one stream heard, or all."""
        if stream is None:
            self._state = self._net.init_state(self._streams)
            return
        with torch.inference_mode():
            for leaf in leaves(self._state):
                leaf[stream] = 0

    def advance(self, mixture: Floats) -> Floats:
        """Answer the next frames; see `spectral.Network`."""
        streams, frames = mixture.shape[:2]
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(mixture)).reshape(streams, frames, 2, -1)
            y, self._state = self._net.step(x, self._state)
            answer: Floats = y.reshape(streams, frames, -1).numpy()
        return answer


class _Slot:
    """The buffers of steps of one length, and what runs such a step."""

    def __init__(self, net: MtassNet, device: torch.device, streams: int, frames: int) -> None:
        bins, n_stems = net.config.stft.n_bins, net.n_stems
        pinned = device.type == "cuda"
        shape = (streams, frames, 2, bins)
        self.given = torch.zeros(shape, pin_memory=pinned)
        self.x = torch.zeros(shape, device=device)
        self.y = torch.zeros((streams, frames, n_stems, 2, bins), device=device)
        self.answer = torch.zeros(self.y.shape, pin_memory=pinned)
        self.run: Body = lambda: None


class GraphStepper:
    """Memory and buffers that stay where they are, as a captured CUDA graph wants them.

    A step is: samples' spectra into a page-locked buffer, one copy in, the
    network (captured for the lengths in `fixed`, kernel by kernel for others),
    one copy out and the only synchronisation.

    Args:
        net: on `device`.
        device: where it runs; a CPU too, which then captures nothing.
        streams: B.
        fixed: lengths T whose steps are captured when they first come.
        capture: turns a step into something that replays it; `cuda_graph`.
        is_tf32: let a GPU round the factors of float32 products.

    Attributes:
        trouble: why a step couldn't be captured; empty as long as all could.
    """

    def __init__(
        self,
        net: MtassNet,
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
            # Blank memories may share storage; in place, each needs its own.
            self._state = _moved(blank, device)
            self._leaves = leaves(self._state)

    def reset(self, stream: int | None = None) -> None:
        """Forget what one stream heard, or all."""
        with torch.inference_mode():
            for leaf in self._leaves:
                leaf[slice(None) if stream is None else stream] = 0

    def advance(self, mixture: Floats) -> Floats:
        """Answer the next frames; see `spectral.Network`."""
        streams, frames = mixture.shape[:2]
        with torch.inference_mode():
            slot = self._slots.get(frames) or self._make_slot(frames)
            slot.given.numpy().reshape(streams, frames, -1)[:] = mixture
            slot.x.copy_(slot.given, non_blocking=True)
            slot.run()
            slot.answer.copy_(slot.y, non_blocking=True)
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
        answer: Floats = slot.answer.numpy().reshape(streams, frames, -1)
        return answer

    def _make_slot(self, frames: int) -> _Slot:
        slot = _Slot(self._net, self._device, self._streams, frames)

        def body() -> None:
            y, state = self._net.step(slot.x, self._state)
            slot.y.copy_(y)
            for leaf, new in zip(self._leaves, leaves(state), strict=True):
                leaf.copy_(new)

        def eager() -> None:
            with cuda_products(self._is_tf32):
                body()

        slot.run = eager
        self._slots[frames] = slot
        if frames in self._fixed and not self.trouble:
            heard = [leaf.clone() for leaf in self._leaves]
            with cuda_products(self._is_tf32):
                replay, self.trouble = try_capture(self._capture, body, self._device)
            slot.run = replay or eager
            for leaf, kept in zip(self._leaves, heard, strict=True):
                leaf.copy_(kept)  # the capture and its rehearsals have advanced them
        return slot


def _moved(state: Any, device: torch.device) -> Any:
    """Return the same memory on a device, each tensor with storage of its own."""
    if isinstance(state, Tensor):
        return state.to(device, copy=True).contiguous()
    parts = [_moved(part, device) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def try_capture(capture: Capture, body: Body, device: torch.device) -> tuple[Body | None, str]:
    """Return what replays `body`, or None and why it can't be captured, which is warned of.

    Args:
        capture: turns a step into something that replays it.
        body: the step.
        device: where it runs; a GPU is made torch's current one, on which graphs are recorded.
    """
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with current:
            return capture(body), ""
    except RuntimeError as error:
        trouble = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"no CUDA graph: {trouble}; each step starts its kernels one by one,"
            " with the same result, slower",
            RuntimeWarning,
            stacklevel=3,
        )
        return None, trouble


def cuda_graph(body: Body) -> Body:
    """Run `body` a few times, record it as a CUDA graph, and return what replays it.

    Raises:
        RuntimeError: something in it can't be recorded.
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
