"""Backpropagation through a GRU on a CPU, faster than torch's own.

torch computes the recurrent weight's gradient frame by frame; here it is one matmul at the
end, and the elementwise part is one compiled loop. Used only for training on a CPU; a test
pins it to torch.nn.GRU. Without numba, torch's own gradient is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., object])

try:
    from rtmtass.jit.compiler import kernel_noalias
except ModuleNotFoundError as missing:
    if missing.name not in ("numba", "llvmlite"):
        raise
    HAS_KERNEL = False

    def kernel_noalias(function: F) -> F:
        """Return the function unchanged; it is never called."""
        return function
else:
    HAS_KERNEL = True

Numbers = np.ndarray[Any, Any]


@kernel_noalias
def _back(
    grad: Numbers,
    new: Numbers,
    gates: Numbers,
    inner: Numbers,
    before: Numbers,
    d_gi: Numbers,
    d_gh: Numbers,
) -> None:
    """Backpropagate through the gates of one frame.

    `grad` (B, H) is the gradient of the frame's output; it becomes the direct part of the
    gradient of the state `before`. The parts through the gates go to d_gi and d_gh,
    (B, 3 H) each.
    """
    hidden = grad.shape[1]
    for row in range(len(grad)):
        for i in range(hidden):
            reset, update = gates[row, i], gates[row, hidden + i]
            kept = grad[row, i] * update
            left = grad[row, i] - kept
            to_new = left - left * new[row, i] * new[row, i]  # a 1 - x would be a double
            slope = to_new * inner[row, i] * reset
            to_reset = slope - slope * reset
            slope = (before[row, i] - new[row, i]) * kept
            to_update = slope - slope * update
            d_gi[row, i] = d_gh[row, i] = to_reset
            d_gi[row, hidden + i] = d_gh[row, hidden + i] = to_update
            d_gi[row, 2 * hidden + i] = to_new
            d_gh[row, 2 * hidden + i] = to_new * reset
            grad[row, i] = kept


def _by_group(rows: Tensor, weights: Tensor, shift: Tensor | None = None) -> Tensor:
    """Multiply (G * B, n), group by group, by (G, n, m), and add (G, 1, m): (G * B, m).

    One batched matmul is two to three times as fast as one per group.
    """
    groups, _, width = weights.shape
    if groups == 1:
        one = weights[0]
        return torch.mm(rows, one) if shift is None else torch.addmm(shift[0], rows, one)
    grouped = rows.view(groups, -1, rows.shape[1])
    both = torch.bmm(grouped, weights) if shift is None else torch.baddbmm(shift, grouped, weights)
    return both.view(-1, width)


def _split_groups(x: Tensor, groups: int) -> Tensor:
    """Turn (..., B, G * n) into (..., G * B, n)."""
    *outer, batch, wide = x.shape
    width = wide // groups
    parts = x.reshape(*outer, batch, groups, width).transpose(-3, -2)
    return parts.reshape(*outer, groups * batch, width)


def _join_groups(rows: Tensor, groups: int) -> Tensor:
    """Inverse of `_split_groups`."""
    *outer, count, width = rows.shape
    parts = rows.view(*outer, groups, count // groups, width).transpose(-3, -2)
    return parts.flatten(-2)


class _Scan(torch.autograd.Function):
    """h[t] = GRU(gi[t], h[t-1]) over T frames with a hand-written gradient.

    G parallel GRUs: gi (T, B, G * 3 H), weight (G, 3 H, H), bias (G, 3 H), h
    (B, G * H) -> (T, B, G * H). Inside, every GRU of every example is a row, (G * B, H).
    """

    @staticmethod
    def forward(
        ctx: Any, gi: Tensor, weight: Tensor, bias: Tensor, h: Tensor, dtype: torch.dtype
    ) -> Tensor:
        groups, _, hidden = weight.shape
        gi, h = _split_groups(gi, groups), _split_groups(h, groups)
        transposed = weight.to(dtype).transpose(1, 2).contiguous()
        shift = bias.to(dtype)[:, None]
        frames, rows = gi.shape[:2]
        gates = gi.new_empty(frames, rows, 2 * hidden)
        news = gi.new_empty(frames, rows, hidden)
        inner = torch.empty_like(news)
        out = gi.new_empty(frames + 1, rows, hidden)
        out[0] = h
        for t in range(frames):
            gh = _by_group(out[t].to(dtype), transposed, shift)
            gate = torch.add(gi[t, :, : 2 * hidden], gh[:, : 2 * hidden], out=gates[t]).sigmoid_()
            inner[t].copy_(gh[:, 2 * hidden :])
            new = torch.addcmul(
                gi[t, :, 2 * hidden :], gate[:, :hidden], inner[t], out=news[t]
            ).tanh_()
            torch.lerp(new, out[t], gate[:, hidden:], out=out[t + 1])
        ctx.save_for_backward(weight, gates, news, inner, out)
        ctx.dtype = dtype
        return _join_groups(out[1:], groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, gates, news, inner, out = ctx.saved_tensors
        groups, wide, _ = weight.shape
        grad = _split_groups(grads[0], groups)
        low = weight.to(ctx.dtype)
        d_gi = torch.empty(*news.shape[:2], wide, dtype=news.dtype)
        d_gh = torch.empty_like(d_gi)
        flow = torch.zeros_like(news[0])
        parts = [part.numpy() for part in (news, gates, inner, out, d_gi, d_gh)]
        # Frame by frame, so that a frame's data stays in the cache.
        for t in range(len(news) - 1, -1, -1):
            step_grad = flow + grad[t]
            _back(step_grad.numpy(), *(part[t] for part in parts))
            flow = step_grad.add_(_by_group(d_gh[t].to(ctx.dtype), low))
        by_group = [
            part.view(len(part), groups, -1, part.shape[-1]).transpose(0, 1).flatten(1, 2)
            for part in (d_gh, out[:-1])
        ]
        d_rows, before = (part.to(ctx.dtype) for part in by_group)
        d_weight = torch.bmm(d_rows.transpose(1, 2), before).to(weight.dtype)
        d_bias = by_group[0].sum(1)
        return _join_groups(d_gi, groups), d_weight, d_bias, _join_groups(flow, groups), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it doesn't take GRUs
def torch_grus(x: Tensor, state: Tensor, *grus: torch.nn.GRU) -> tuple[Tensor, Tensor]:
    """As `gru_scan`, with torch's own kernels, one GRU after the other."""
    parts = state.split(grus[0].hidden_size, dim=1)  # type: ignore[no-untyped-call]
    pairs = [gru(x, part[None].contiguous()) for gru, part in zip(grus, parts, strict=True)]
    if len(pairs) == 1:  # nothing to join: saves a copy per hop
        y, last = pairs[0]
    else:
        y, last = (torch.cat(each, dim=-1) for each in zip(*pairs, strict=True))
    return y, last[0]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def gru_scan(x: Tensor, state: Tensor, *grus: torch.nn.GRU) -> tuple[Tensor, Tensor]:
    """Run parallel GRUs over the same x, with a fast gradient.

    Args:
        x: (B, T, C).
        state: (B, G * H), the hidden states before the first frame.
        grus: G single-layer GRUs of one size, batch first; gradients reach their weights.

    Returns:
        Outputs (B, T, G * H) and the new states (B, G * H), both float32 or wider.

    Source: Cho et al., arXiv 1406.1078, in the form of torch.nn.GRU.
    """
    if not HAS_KERNEL:
        with torch.autocast(x.device.type, enabled=False):
            wide = next(grus[0].parameters()).dtype
            slow: tuple[Tensor, Tensor] = torch_grus(x.to(wide), state.to(wide), *grus)
            return slow
    low = torch.is_autocast_enabled(x.device.type)
    w_ih, w_hh, b_ih, b_hh = zip(*(gru.parameters() for gru in grus), strict=True)
    dtype = torch.get_autocast_dtype(x.device.type) if low else w_hh[0].dtype
    frames = x.transpose(0, 1).contiguous()
    gi = torch.nn.functional.linear(frames, torch.cat(w_ih), torch.cat(b_ih)).to(w_hh[0].dtype)
    with torch.autocast(x.device.type, enabled=False):
        h = state.to(gi.dtype)
        out: Tensor = _Scan.apply(gi, torch.stack(w_hh), torch.stack(b_hh), h, dtype)  # type: ignore[no-untyped-call]
    return out.transpose(0, 1), out[-1]


def run_grus(x: Tensor, state: Tensor, *grus: torch.nn.GRU) -> tuple[Tensor, Tensor]:
    """Run parallel GRUs over the same x: `gru_scan` where a CPU trains, else `torch_grus`."""
    if torch.is_grad_enabled() and x.device.type == "cpu":
        return gru_scan(x, state, *grus)  # type: ignore[no-any-return]
    return torch_grus(x, state.to(x.dtype), *grus)  # type: ignore[no-any-return]
