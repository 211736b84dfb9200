"""A block of a network in bands with a hand-written gradient, for training on a CPU.

torch's own way reads and writes its largest tensors a dozen times between the matmuls.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


class BlockParameters(NamedTuple):
    """A block's parameters, layer by layer as `net.bands.BandBlock` names them; or their gradients.

    Matrices are (outputs, inputs); a layer's bias follows its matrix.
    """

    band_norm: Tensor
    band_w_ih: Tensor
    band_w_hh: Tensor
    band_b_ih: Tensor
    band_b_hh: Tensor
    band_expand: Tensor
    band_expand_bias: Tensor
    norm: Tensor
    reduce: Tensor
    reduce_bias: Tensor
    in_proj: Tensor
    in_proj_bias: Tensor
    slope: Tensor
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor
    b_hh: Tensor
    out_proj: Tensor
    out_proj_bias: Tensor
    expand: Tensor
    expand_bias: Tensor


class _Block(torch.autograd.Function):
    """x (T, B, K, C), states (B * K, H) and (B, W), parameters -> x and the states after it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, band_state: Tensor, wide_state: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        threads, p = torch.get_num_threads(), BlockParameters(*parameters)
        frames, batch, bands, channels = x.shape
        ctx.band_gru = _Gru((p.band_w_ih, p.band_w_hh, p.band_b_ih, p.band_b_hh), threads)
        ctx.gru = _Gru((p.w_ih, p.w_hh, p.b_ih, p.b_hh), threads)
        x = x.detach().contiguous().view(-1, channels)
        normed, ctx.band_scales = normed_sum(x[:0], x, p.band_norm)
        states = ctx.band_gru.forward(normed.view(frames, batch * bands, channels), band_state)
        y = torch.addmm(p.band_expand_bias, states.flatten(0, 1), p.band_expand.t())
        ctx.normed, ctx.scales = normed_sum(x, y, p.norm)
        reduced = torch.addmm(p.reduce_bias, ctx.normed, p.reduce.t())
        ctx.reduced = reduced.view(frames * batch, -1)
        ctx.entered = torch.addmm(p.in_proj_bias, ctx.reduced, p.in_proj.t())
        bent = torch.empty_like(ctx.entered)
        cpu_kernels.bands.prelu(ctx.entered.numpy(), p.slope.numpy(), bent.numpy())
        wide_states = ctx.gru.forward(bent.view(frames, batch, -1), wide_state)
        whole = torch.addmm(p.out_proj_bias, wide_states.flatten(0, 1), p.out_proj.t())
        ctx.whole = whole.view(frames * batch * bands, -1)
        out = torch.addmm(p.expand_bias, ctx.whole, p.expand.t())
        out += y
        ctx.x, ctx.y, ctx.states, ctx.wide_states, ctx.parameters = x, y, states, wide_states, p
        after = states[-1].clone(), wide_states[-1].clone()
        ctx.mark_non_differentiable(*after)
        return out.view(frames, batch, bands, channels), *after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        p: BlockParameters = ctx.parameters
        shape, wide_shape = grads[0].shape, ctx.wide_states.shape
        grad = grads[0].contiguous().view(ctx.x.shape)
        to = grad @ p.expand
        expand = grad.t() @ ctx.whole, grad.sum(0)
        to = to.view(wide_shape[0] * wide_shape[1], -1)
        out_proj = to.t() @ ctx.wide_states.flatten(0, 1), to.sum(0)
        to, to_wide_state, gru = ctx.gru.backward((to @ p.out_proj).view(wide_shape))
        slope = torch.zeros_like(p.slope)
        cpu_kernels.bands.prelu_back(
            to.numpy(), ctx.entered.numpy(), p.slope.numpy(), slope.numpy()
        )
        in_proj = to.t() @ ctx.reduced, to.sum(0), slope
        to = (to @ p.in_proj).view(len(ctx.x), -1)
        reduce = to.t() @ ctx.normed, to.sum(0)
        grad = grad.clone()
        norm = add_norm_back(to @ p.reduce, ctx.y, p.norm, ctx.scales, grad)
        band_expand = grad.t() @ ctx.states.flatten(0, 1), grad.sum(0)
        to = (grad @ p.band_expand).view(ctx.states.shape)
        to, to_band_state, band_gru = ctx.band_gru.backward(to)
        band_norm = add_norm_back(to, ctx.x, p.band_norm, ctx.band_scales, grad)
        to_parameters = (
            band_norm, *band_gru, *band_expand, norm, *reduce, *in_proj, *gru, *out_proj, *expand
        )  # fmt: skip
        return grad.view(shape), to_band_state, to_wide_state, *to_parameters


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_block(
    x: Tensor, band_state: Tensor, wide_state: Tensor, parameters: BlockParameters
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a block over T frames.

    Args:
        x: (B, T, K, C), fastest if time is first in memory.
        band_state: (B * K, hidden).
        wide_state: (B, recurrent).
        parameters: the block's.

    Returns:
        (B, T, K, C), time first in memory, and the states after it, without a gradient.
    """
    out, band_after, wide_after = _Block.apply(  # type: ignore[no-untyped-call]
        x.transpose(0, 1), band_state, wide_state, *parameters
    )
    return out.transpose(0, 1), band_after, wide_after
