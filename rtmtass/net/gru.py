"""Backpropagation through a GRU on a CPU, faster than torch's own.

torch's gradient forms the recurrent weight's gradient once per frame; here it
is one product at the end, and what is done number by number is one compiled loop.
Only training on a CPU takes this path; a test pins it to torch.nn.GRU. Without numba
torch's own gradient serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., object])

try:
    from rtmtass.dsp.compiling import kernel_apart
except ModuleNotFoundError as missing:
    if missing.name not in ("numba", "llvmlite"):
        raise
    HAS_KERNEL = False

    def kernel_apart(function: F) -> F:
        """Leave the loop as it is; nothing calls it."""
        return function
else:
    HAS_KERNEL = True

Numbers = np.ndarray[Any, Any]


@kernel_apart
def _back(
    now: Numbers,
    new: Numbers,
    gates: Numbers,
    inner: Numbers,
    before: Numbers,
    d_gi: Numbers,
    d_gh: Numbers,
) -> None:
    """Go back through one frame's gates.

    `now` (B, H) is the gradient of the frame's output and becomes that of the state
    `before`, but for what came through the gates: d_gi and d_gh, (B, 3 H) each.
    """
    hidden = now.shape[1]
    for row in range(len(now)):
        for i in range(hidden):
            reset, update = gates[row, i], gates[row, hidden + i]
            kept = now[row, i] * update
            left = now[row, i] - kept
            to_new = left - left * new[row, i] * new[row, i]  # a 1 - x would be a double
            slope = to_new * inner[row, i] * reset
            to_reset = slope - slope * reset
            slope = (before[row, i] - new[row, i]) * kept
            to_update = slope - slope * update
            d_gi[row, i] = d_gh[row, i] = to_reset
            d_gi[row, hidden + i] = d_gh[row, hidden + i] = to_update
            d_gi[row, 2 * hidden + i] = to_new
            d_gh[row, 2 * hidden + i] = to_new * reset
            now[row, i] = kept


class _Scan(torch.autograd.Function):
    """h[t] = GRU(gi[t], h[t-1]) over T frames with a hand-written gradient."""

    @staticmethod
    def forward(
        ctx: Any, gi: Tensor, weight: Tensor, bias: Tensor, h: Tensor, dtype: torch.dtype
    ) -> Tensor:
        frames, batch, hidden = gi.shape[0], gi.shape[1], h.shape[1]
        turned = weight.to(dtype).t().contiguous()
        shift = bias.to(dtype)
        gates = gi.new_empty(frames, batch, 2 * hidden)
        news = gi.new_empty(frames, batch, hidden)
        inner = gi.new_empty(frames, batch, hidden)
        out = gi.new_empty(frames + 1, batch, hidden)
        out[0] = h
        for t in range(frames):
            gh = torch.addmm(shift, out[t].to(dtype), turned)
            gate = torch.add(gi[t, :, : 2 * hidden], gh[:, : 2 * hidden], out=gates[t]).sigmoid_()
            inner[t].copy_(gh[:, 2 * hidden :])
            new = torch.addcmul(
                gi[t, :, 2 * hidden :], gate[:, :hidden], inner[t], out=news[t]
            ).tanh_()
            torch.lerp(new, out[t], gate[:, hidden:], out=out[t + 1])
        ctx.save_for_backward(weight, gates, news, inner, out)
        ctx.dtype = dtype
        return out[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, gates, news, inner, out = ctx.saved_tensors
        grad, hidden = grads[0], news.shape[2]
        low = weight.to(ctx.dtype)
        d_gi = torch.empty(*news.shape[:2], 3 * hidden, dtype=news.dtype)
        d_gh = torch.empty_like(d_gi)
        flow = torch.zeros_like(news[0])
        parts = [part.numpy() for part in (news, gates, inner, out, d_gi, d_gh)]
        # Frame by frame, so that what a frame needs stays in the cache.
        for t in range(len(news) - 1, -1, -1):
            now = flow + grad[t]
            _back(now.numpy(), *(part[t] for part in parts))
            flow = now.add_(torch.mm(d_gh[t].to(ctx.dtype), low))
        rows = d_gh.flatten(0, 1)
        d_weight = torch.mm(rows.to(ctx.dtype).t(), out[:-1].flatten(0, 1).to(ctx.dtype))
        return d_gi, d_weight.to(weight.dtype), rows.sum(0), flow, None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def gru_scan(x: Tensor, state: Tensor, gru: torch.nn.GRU) -> tuple[Tensor, Tensor]:
    """Run `gru` over x with a fast gradient.

    Args:
        x: (B, T, C).
        state: (B, H), the hidden state before the first frame.
        gru: one layer, batch first; its weights are used and learn.

    Returns:
        outputs (B, T, H) and the new state (B, H), both float32 or wider.

    Source: Cho et al., arXiv 1406.1078, in the form of torch.nn.GRU.
    """
    if not HAS_KERNEL:
        with torch.autocast(x.device.type, enabled=False):
            wide = next(gru.parameters()).dtype
            y, last = gru(x.to(wide), state[None].to(wide).contiguous())
        return y, last[0]
    low = torch.is_autocast_enabled(x.device.type)
    w_ih, w_hh, b_ih, b_hh = gru.parameters()
    dtype = torch.get_autocast_dtype(x.device.type) if low else w_hh.dtype
    frames = x.transpose(0, 1).contiguous()
    gi = torch.nn.functional.linear(frames, w_ih, b_ih).to(w_hh.dtype)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _Scan.apply(gi, w_hh, b_hh, state.to(gi.dtype), dtype)  # type: ignore[no-untyped-call]
    return out.transpose(0, 1), out[-1]
