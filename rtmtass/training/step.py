"""One training step, without waiting for the device: forward, backward, optimiser, EMA.

Everything it reads and writes stays where it is, and whether a batch is skipped is
decided on the device. So the whole step can be recorded as one CUDA graph; on a CPU
the same code runs as it stands.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtmtass.net.mtass import MtassNet, NetState
from rtmtass.runtime.torch.steps import Body, Capture, try_capture
from rtmtass.training.accumulator import Tally
from rtmtass.training.distillation import Teacher
from rtmtass.training.distributed import Compute, DistributedContext
from rtmtass.training.ema import EMA
from rtmtass.training.losses import SeparationLoss
from rtmtass.training.optimisers import Optimisers
from rtmtass.training.state_carryover import StateCarryover

Mark = Callable[[str], None]
"""Called with a part's name when it is done."""


class Objective:
    """The loss of a batch.

    Args:
        net: the network that learns.
        loss: against the true stems.
        device: where it computes.
        bf16: autocast to bfloat16.
        teacher: to distil from, if there is one.
        teacher_share: how much of the loss is against the teacher's stems, 0..1.
    """

    def __init__(
        self,
        net: MtassNet,
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
        """Return the loss of stems (B, S, N), a scalar, and the state after them."""
        with torch.no_grad():
            spec = self.stft(stems)
        mixture = spec.sum(dim=1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            stages, after = self.net.stages(mixture, state)
            target = self.teacher.stems(mixture) if self.teacher else None
        loss = self.loss(stages, stems, spec)
        if self.teacher and target is not None:
            share = self.teacher_share
            distilled = self.teacher.loss(stages.final, target, stems.sum(dim=1))
            loss = (1 - share) * loss + share * distilled
        return loss, after


class _Buffers:
    """The network's buffers, norms' statistics above all, kept to be put back after a bad batch."""

    def __init__(self, net: MtassNet) -> None:
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for buffer in net.buffers():
            kinds.setdefault(buffer.dtype, []).append(buffer)
        self._kinds = list(kinds.values())
        self._held: list[Tensor] = []

    def hold(self) -> None:
        self._held = [torch.cat([b.flatten() for b in kind]) for kind in self._kinds]

    def restore_unless(self, is_good: Tensor) -> None:
        for kind, held in zip(self._kinds, self._held, strict=True):
            now = torch.cat([b.flatten() for b in kind])
            parts = torch.where(is_good, now, held).split([b.numel() for b in kind])  # type: ignore[no-untyped-call]
            torch._foreach_copy_(kind, [p.view_as(b) for p, b in zip(parts, kind, strict=True)])


class StepGraph:
    """A training step over tensors that stay where they are; a CUDA graph where it can be one.

    A batch whose loss or gradient isn't finite changes nothing: neither weights nor
    norms' statistics, optimiser, EMA or carried state.

    Args:
        net: the network that learns.
        compute: (stems, state) -> (loss, state after); see `Objective`.
        optimiser, average, memories: what moves with it.
        distributed: processes that train together.
        device: where all of it lies.
        clip: limit of the gradient's norm.
        scale: the loss is multiplied by it before the backward pass, and the gradients
            are divided by it after; a power of two.
        seed: what dropout depends on, beside the batch's number; None without dropout.
        capture: turns a step into something that replays it, as `cuda_graph` does;
            None runs every step as it stands.

    Attributes:
        tally: losses and skipped steps so far.
        mark: called with the name of each part of a step when it is done.
        trouble: why a step couldn't be captured; empty as long as it could.
    """

    def __init__(
        self,
        net: MtassNet,
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
        self.tally = Tally(device)
        self.mark: Mark = _no_mark
        self.trouble = ""

    @property
    def is_captured(self) -> bool:
        """Whether the next step of this shape is a replay."""
        return self._replay is not None

    def release(self) -> None:
        """Drop what was captured; from now on every step runs as it stands."""
        self._replay, self._capture = None, None

    def run(self, stems: Tensor, number: int, step: int, rate: float) -> None:
        """Learn from a batch.

        Args:
            stems: (B, S, N), on the device; N a multiple of the hop.
            number: of the batch; it decides what is drawn.
            step: of the run; training is young where it is small.
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
            self._is_warm = True  # all tensors that a step needs are there now

    def _body(self) -> None:
        self._optimiser.zero_grad()
        self._buffers.hold()
        loss, after = self._compute(self._stems, self._carryover.begin())
        self.mark("forward")
        (loss * self._scale).backward()
        self.mark("backward")
        value = self._distributed.mean(loss.detach())
        norm = self._clipped()
        is_good = norm.isfinite() & value.isfinite()
        self._optimiser.step(1 - is_good.float())
        self._buffers.restore_unless(is_good)
        self.mark("clip, optimiser")
        self._ema.update(is_good)
        self.mark("EMA")
        self._carryover.end(after, is_good)
        self.tally.add(value, norm, is_good)
        self.mark("state, tally")

    @torch.no_grad()
    def _clipped(self) -> Tensor:
        """Limit the gradients' norm; return what it was.

        torch.nn.utils.clip_grad_norm_, with the loss's scale taken out in the same pass.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms)) / self._scale
        factor = (self._clip / (norm + 1e-6)).clamp(max=1.0) / self._scale
        torch._foreach_mul_(gradients, factor)
        return norm

    def _tensors(self) -> list[Tensor]:
        """Return all that a step changes."""
        return [
            *self._parameters,
            *self._net.buffers(),
            *self._ema.values.values(),
            *self._optimiser.tensors(),
            self._carryover.rows,
            self.tally.values,
        ]

    def _record(self, capture: Capture) -> None:
        """Capture the step, and put back what capture and rehearsals have changed."""
        self._stems = self._stems.clone()  # a place of its own, which later batches are copied to
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
    """Mark nothing."""
