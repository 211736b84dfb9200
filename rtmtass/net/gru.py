"""Backpropagation through a GRU on a CPU, faster than torch's own.

torch's gradient forms the recurrent weight's gradient once per frame; here it
is one product at the end.
Only training on a CPU takes this path; a test pins it to torch.nn.GRU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
        # Frame by frame, so that what a frame needs stays in the cache.
        for t in range(len(news) - 1, -1, -1):
            new, reset, update = news[t], gates[t, :, :hidden], gates[t, :, hidden:]
            to_reset, to_update, to_new = d_gi[t].split(hidden, dim=1)  # type: ignore[no-untyped-call]
            now = flow + grad[t]
            kept = now * update
            left = now - kept
            torch.addcmul(left, left * new, new, value=-1, out=to_new)
            slope = (to_new * inner[t]).mul_(reset)
            torch.addcmul(slope, slope, reset, value=-1, out=to_reset)
            slope = (out[t] - new).mul_(kept)
            torch.addcmul(slope, slope, update, value=-1, out=to_update)
            d_gh[t, :, : 2 * hidden] = d_gi[t, :, : 2 * hidden]
            torch.mul(to_new, reset, out=d_gh[t, :, 2 * hidden :])
            flow = kept.add_(torch.mm(d_gh[t].to(ctx.dtype), low))
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
    low = torch.is_autocast_enabled(x.device.type)
    w_ih, w_hh, b_ih, b_hh = gru.parameters()
    dtype = torch.get_autocast_dtype(x.device.type) if low else w_hh.dtype
    frames = x.transpose(0, 1).contiguous()
    gi = torch.nn.functional.linear(frames, w_ih, b_ih).to(w_hh.dtype)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _Scan.apply(gi, w_hh, b_hh, state.to(gi.dtype), dtype)  # type: ignore[no-untyped-call]
    return out.transpose(0, 1), out[-1]
