"""One training step, without waiting for the device: forward, backward, optimiser, EMA.

All tensors it reads and writes stay where they are, and the device decides whether a
batch is skipped, so the whole step can be recorded as one CUDA graph. On a CPU the same
code runs eagerly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtmtass.net.separation import NetState, SeparationNet
from rtmtass.runtime.torch.steps import Body, Capture, try_capture
from rtmtass.training.accumulator import MetricAccumulator
from rtmtass.training.distillation import Teacher
from rtmtass.training.distributed import Compute, DistributedContext
from rtmtass.training.ema import EMA
from rtmtass.training.losses import SeparationLoss
from rtmtass.training.optimisers import Optimisers
from rtmtass.training.state_carryover import StateCarryover

Mark = Callable[[str], None]
"""Called with the name of each part of a step when the part is done."""


class Objective:
    """The loss of a batch.

    Args:
        net: the network to train.
        loss: loss against the true stems.
        device: where it computes.
        bf16: autocast to bfloat16.
        teacher: to distil from; None for none.
        teacher_share: weight of the distillation loss, 0..1.
    """

    def __init__(
        self,
        net: SeparationNet,
        loss: SeparationLoss,
        device: torch.device,
        *,
        bf16: bool = False,
        teacher: Teacher | None = None,
        teacher_share: float = 0.0,
    ) -> None:
        self.net, self.loss, self.stft = net, loss, loss.stft
        self.device, self.bf16 = device, bf16
        self.teacher, self.teacher_share = teacher, teacher_share

    def compute(self, stems: Tensor, state: NetState) -> tuple[Tensor, NetState]:
        """Return the loss of a batch, a scalar, and the network's state after it.

        Args:
            stems: (B, S, N).
            state: the network's state before it.
        """
        with torch.no_grad():
            spec = self.stft(stems)
        mixture = spec.sum(dim=1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            stages, after = self.net.stages(mixture, state)
            teacher_stems = self.teacher.stems(mixture) if self.teacher else None
        loss = self.loss(stages, stems, spec)
        if self.teacher and teacher_stems is not None:
            weight = self.teacher_share
            distillation = self.teacher.loss(stages.final, teacher_stems, stems.sum(dim=1))
            loss = (1 - weight) * loss + weight * distillation
        return loss, after


class _Buffers:
    """Backup of the network's buffers, mainly norms' statistics, to undo a bad batch."""

    def __init__(self, net: SeparationNet) -> None:
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for buffer in net.buffers():
            kinds.setdefault(buffer.dtype, []).append(buffer)
        self._kinds = list(kinds.values())
        self._saved: list[Tensor] = []

    def save(self) -> None:
        self._saved = [torch.cat([b.flatten() for b in kind]) for kind in self._kinds]

    def restore_unless(self, is_good: Tensor) -> None:
        for kind, saved in zip(self._kinds, self._saved, strict=True):
            now = torch.cat([b.flatten() for b in kind])
            parts = torch.where(is_good, now, saved).split([b.numel() for b in kind])  # type: ignore[no-untyped-call]
            torch._foreach_copy_(kind, [p.view_as(b) for p, b in zip(parts, kind, strict=True)])


class StepGraph:
    """A training step, replayed as a CUDA graph if it can be captured.

    A batch whose loss or gradient isn't finite changes nothing: not the weights, norms'
    statistics, optimiser, EMA or carried states.

    Args:
        net: the network to train.
        compute: (stems, state) -> (loss, state after); see `Objective`.
        optimiser, ema, carryover: updated by every step.
        distributed: processes that train together.
        device: where all tensors are.
        clip: limit of the gradient's norm.
        scale: the loss is multiplied by it before the backward pass, and the gradients
            are divided by it afterwards; a power of two.
        seed: seed of dropout, together with the batch's number; None without dropout.
        capture: captures a step and returns a function that replays it, as `cuda_graph`
            does; None runs every step eagerly.

    Attributes:
        accumulator: losses and skipped steps since the last read.
        mark: called with the name of each part of a step when the part is done.
        trouble: why a step couldn't be captured; empty if none failed.
    """

    def __init__(
        self,
        net: SeparationNet,
        compute: Compute,
        optimiser: Optimisers,
        ema: EMA,
        carryover: StateCarryover,
        distributed: DistributedContext,
        device: torch.device,
        *,
        clip: float,
        scale: float = 1.0,
        seed: int | None = None,
        capture: Capture | None = None,
    ) -> None:
        self._net, self._compute = net, compute
        self._optimiser, self._ema, self._carryover = optimiser, ema, carryover
        self._distributed, self._device = distributed, device
        self._clip, self._scale, self._seed, self._capture = clip, scale, seed, capture
        self._parameters = list(net.parameters())
        self._buffers = _Buffers(net)
        self._stems = torch.zeros(0)
        self._is_warm = False
        self._replay: Body | None = None
        self.accumulator = MetricAccumulator(device)
        self.mark: Mark = _no_mark
        self.trouble = ""

    @property
    def is_captured(self) -> bool:
        """Whether the next step of the same shape is a replay."""
        return self._replay is not None

    def release(self) -> None:
        """Drop the captured graph; from now on every step runs eagerly."""
        self._replay, self._capture = None, None

    def run(self, stems: Tensor, number: int, step: int, rate: float) -> None:
        """Train on one batch.

        Args:
            stems: (B, S, N), on the device; N a multiple of the hop.
            number: the batch's number, which seeds its random draws.
            step: the run's step, for the EMA's warm-up.
            rate: the learning rate.
        """
        if self._replay is not None and stems.shape == self._stems.shape:
            self._stems.copy_(stems)
        else:
            self._stems, self._replay = stems, None
        self.mark("data copy")
        self._carryover.draw(len(stems), number)
        self._optimiser.set_rate(rate)
        self._ema.set_weight(step)
        if self._capture is not None and self._is_warm and self._replay is None:
            self._record(self._capture)
        if self._seed is not None:
            torch.manual_seed(
                hash((self._seed, number - self._distributed.rank, self._distributed.rank))
            )
        if self._replay is not None:
            self._replay()
            self.mark("whole step")
        else:
            self._body()
            self._is_warm = True  # all tensors of a step are allocated now

    def _body(self) -> None:
        self._optimiser.zero_grad()
        self._buffers.save()
        loss, after = self._compute(self._stems, self._carryover.begin())
        self.mark("forward")
        (loss * self._scale).backward()
        self.mark("backward")
        value = self._distributed.mean(loss.detach())
        norm = self._clip_gradients()
        is_good = norm.isfinite() & value.isfinite()
        self._optimiser.step(1 - is_good.float())
        self._buffers.restore_unless(is_good)
        self.mark("clip, optimiser")
        self._ema.update(is_good)
        self.mark("EMA")
        self._carryover.end(after, is_good)
        self.accumulator.add(value, norm, is_good)
        self.mark("state, metrics")

    @torch.no_grad()
    def _clip_gradients(self) -> Tensor:
        """Limit the gradients' norm; return the norm before.

        As torch.nn.utils.clip_grad_norm_, but also divides by the loss's scale.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms)) / self._scale
        factor = (self._clip / (norm + 1e-6)).clamp(max=1.0) / self._scale
        torch._foreach_mul_(gradients, factor)
        return norm

    def _tensors(self) -> list[Tensor]:
        """Return all tensors that a step changes."""
        return [
            *self._parameters,
            *self._net.buffers(),
            *self._ema.values.values(),
            *self._optimiser.tensors(),
            self._carryover.final_states,
            self.accumulator.values,
        ]

    def _record(self, capture: Capture) -> None:
        """Capture the step, and restore the tensors that capture and its warm-up changed."""
        self._stems = self._stems.clone()  # a fixed buffer that later batches are copied into
        before = [tensor.detach().clone() for tensor in self._tensors()]
        mark, self.mark = self.mark, _no_mark
        self._replay, self.trouble = try_capture(capture, self._body, self._device)
        if self._replay is None:
            self._capture = None
        self.mark = mark
        with torch.no_grad():
            for tensor, old in zip(self._tensors(), before, strict=True):
                tensor.copy_(old)


def _no_mark(part: str) -> None:
    """Ignore the mark."""
