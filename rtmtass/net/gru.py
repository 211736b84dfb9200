"""Backpropagation through a GRU on a CPU, faster than torch's own.

torch's gradient forms the recurrent weight's gradient once per frame; here it
is one product at the end, and what a frame needs is worked out beforehand.
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
        r, z = gates[..., :hidden], gates[..., hidden:]
        to_new = (1 - z) * (1 - news * news)
        to_reset = to_new * inner * r * (1 - r)
        to_update = (out[:-1] - news) * z * (1 - z)
        slopes = torch.stack([to_reset, to_update, to_new * r], dim=2)
        low = weight.to(ctx.dtype)
        d_gh = torch.empty_like(slopes)
        d_h = torch.empty_like(news)
        flow = torch.zeros_like(news[0])
        for t in range(len(news) - 1, -1, -1):
            now = torch.add(flow, grad[t], out=d_h[t])
            step = torch.mul(now[:, None], slopes[t], out=d_gh[t])
            back = torch.mm(step.flatten(1).to(ctx.dtype), low)
            flow = torch.addcmul(back.to(now.dtype), now, z[t])
        flat = d_gh.flatten(2)
        d_gi = torch.cat([flat[..., : 2 * hidden], d_h * to_new], dim=-1)
        rows = flat.flatten(0, 1)
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
