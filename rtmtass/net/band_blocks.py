"""A block of a network in bands with a hand-written gradient, for training on a CPU.

torch's own way reads and writes its largest tensors a dozen times between the matmuls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtmtass.net import cpu_kernels
from rtmtass.net.constants import RMS_EPSILON
from rtmtass.types import Floats

_EPSILON = np.float32(RMS_EPSILON)


def normed_sum(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Floats]:
    """Add x, if it has rows, to y; return the sum's RMS norm, and 1 over the roots."""
    out, scales = torch.empty_like(y), np.empty(len(y), np.float32)
    cpu_kernels.bands.add_and_norm(
        x.numpy(), y.numpy(), weight.numpy(), _EPSILON, out.numpy(), scales
    )
    return out, scales


def add_norm_back(to: Tensor, x: Tensor, weight: Tensor, scales: Floats, grad: Tensor) -> Tensor:
    """Add the gradient of a norm's input to `grad`; return the weight's."""
    to_weight = torch.zeros_like(weight)
    cpu_kernels.bands.add_norm_back(
        to.numpy(), x.numpy(), weight.numpy(), scales, grad.numpy(), to_weight.numpy()
    )
    return to_weight


class _Gru:
    """A GRU over (T, R, C), its gradient written out."""

    def __init__(self, parameters: tuple[Tensor, ...], threads: int) -> None:
        self.w_ih, self.w_hh, self.b_ih, self.b_hh = parameters
        self._threads = threads

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the states (T, R, H) after each frame; x is (T, R, C)."""
        self._x = x.flatten(0, 1)
        gates = torch.addmm(self.b_ih, self._x, self.w_ih.t()).view(*x.shape[:2], -1)
        weight, bias = self.w_hh[None].numpy(), self.b_hh[None].numpy()
        self._trace = cpu_kernels.gru.scan(
            gates.numpy(), weight, bias, state.numpy(), self._threads
        )
        self._states = torch.from_numpy(self._trace.states)
        return self._states[1:]

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the gradients of x, (T * R, C), of the state, and of the parameters."""
        parts = cpu_kernels.gru.scan_back(
            grad.numpy(), self.w_hh[None].numpy(), self._trace, self._threads
        )
        to_gates, to_held, to_state = (torch.from_numpy(part) for part in parts)
        to_gates, to_held = to_gates.flatten(0, 1), to_held.flatten(0, 1)
        both = to_gates[:, : -self.w_hh.shape[1]]  # reset and update: the same for both matmuls
        before = self._states[:-1].flatten(0, 1)
        to_b_ih = to_gates.sum(0)
        to_parameters = [
            to_gates.t() @ self._x,
            torch.cat([both.t() @ before, to_held.t() @ before]),
            to_b_ih,
            torch.cat([to_b_ih[: both.shape[1]], to_held.sum(0)]),
        ]
        return to_gates @ self.w_ih, to_state, to_parameters


class _Block(torch.autograd.Function):
    """x (T, B, K, C), states (B * K, H) and (B, W), parameters -> x and the states after it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, band_state: Tensor, wide_state: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        threads = torch.get_num_threads()
        frames, batch, bands, channels = x.shape
        band_norm, norm = parameters[0], parameters[7]
        w_out, b_out = parameters[5:7]
        w_reduce, b_reduce, w_in, b_in, slope = parameters[8:13]
        w_whole, b_whole, w_expand, b_expand = parameters[17:21]
        ctx.band_gru, ctx.gru = _Gru(parameters[1:5], threads), _Gru(parameters[13:17], threads)
        x = x.detach().contiguous().view(-1, channels)
        nothing = x[:0]
        normed, ctx.band_scales = normed_sum(nothing, x, band_norm)
        states = ctx.band_gru.forward(normed.view(frames, batch * bands, channels), band_state)
        y = torch.addmm(b_out, states.flatten(0, 1), w_out.t())
        ctx.normed, ctx.scales = normed_sum(x, y, norm)
        ctx.reduced = torch.addmm(b_reduce, ctx.normed, w_reduce.t()).view(frames * batch, -1)
        ctx.entered = torch.addmm(b_in, ctx.reduced, w_in.t())
        bent = torch.empty_like(ctx.entered)
        cpu_kernels.bands.prelu(ctx.entered.numpy(), slope.numpy(), bent.numpy())
        wide_states = ctx.gru.forward(bent.view(frames, batch, -1), wide_state)
        whole = torch.addmm(b_whole, wide_states.flatten(0, 1), w_whole.t())
        ctx.whole = whole.view(-1, w_expand.shape[1])
        out = torch.addmm(b_expand, ctx.whole, w_expand.t())
        out += y
        ctx.x, ctx.y, ctx.states, ctx.wide_states = x, y, states, wide_states
        ctx.parameters = parameters
        after = states[-1].clone(), wide_states[-1].clone()
        ctx.mark_non_differentiable(*after)
        return out.view(frames, batch, bands, channels), *after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parameters = ctx.parameters
        band_norm, norm = parameters[0], parameters[7]
        w_out, w_reduce, w_in, slope = (parameters[i] for i in (5, 8, 10, 12))
        w_whole, w_expand = parameters[17], parameters[19]
        shape, channels = grads[0].shape, grads[0].shape[-1]
        grad = grads[0].contiguous().view(-1, channels)
        to = grad @ w_expand
        to_expand = [grad.t() @ ctx.whole, grad.sum(0)]
        to = to.view(ctx.wide_states.shape[0] * ctx.wide_states.shape[1], -1)
        to_whole = [to.t() @ ctx.wide_states.flatten(0, 1), to.sum(0)]
        to, to_wide_state, to_gru = ctx.gru.backward((to @ w_whole).view(ctx.wide_states.shape))
        to_slope = torch.zeros_like(slope)
        cpu_kernels.bands.prelu_back(
            to.numpy(), ctx.entered.numpy(), slope.numpy(), to_slope.numpy()
        )
        to_in = [to.t() @ ctx.reduced, to.sum(0), to_slope]
        to = (to @ w_in).view(-1, w_reduce.shape[0])
        to_reduce = [to.t() @ ctx.normed, to.sum(0)]
        grad = grad.clone()
        to_norm = add_norm_back(to @ w_reduce, ctx.y, norm, ctx.scales, grad)
        to_out = [grad.t() @ ctx.states.flatten(0, 1), grad.sum(0)]
        to, to_band_state, to_band_gru = ctx.band_gru.backward(
            (grad @ w_out).view(ctx.states.shape)
        )
        to_band_norm = add_norm_back(to, ctx.x, band_norm, ctx.band_scales, grad)
        return (
            grad.view(shape), to_band_state, to_wide_state, to_band_norm, *to_band_gru, *to_out,
            to_norm, *to_reduce, *to_in, *to_gru, *to_whole, *to_expand,
        )  # fmt: skip


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_block(
    x: Tensor, band_state: Tensor, wide_state: Tensor, parameters: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a block over T frames.

    Args:
        x: (B, T, K, C), fastest if time is first in memory.
        band_state: (B * K, hidden).
        wide_state: (B, recurrent).
        parameters: the block's, in the order of its layers.

    Returns:
        (B, T, K, C), time first in memory, and the states after it, without a gradient.
    """
    out, band_after, wide_after = _Block.apply(  # type: ignore[no-untyped-call]
        x.transpose(0, 1), band_state, wide_state, *parameters
    )
    return out.transpose(0, 1), band_after, wide_after
