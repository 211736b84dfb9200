"""Backpropagation through a GRU on a CPU, faster than torch's own.

torch calls a dozen operations a frame; here all frames are one compiled loop, see
`net.gru_kernels`, and the recurrent weight's gradient is one matmul at the end. Used only
for training on a CPU; a test pins it to torch.nn.GRU. Without numba, torch's own is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtmtass.net import cpu_kernels


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


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """Turn (T, G * B, n) into (G, T * B, n)."""
    frames, _, width = rows.shape
    return rows.view(frames, groups, -1, width).transpose(0, 1).flatten(1, 2)


class _Scan(torch.autograd.Function):
    """h[t] = GRU(gi[t], h[t-1]) over T frames with a hand-written gradient.

    G parallel GRUs: gi (T, B, G * 3 H), weight (G, 3 H, H), bias (G, 3 H), h
    (B, G * H) -> (T, B, G * H), all float32.
    """

    @staticmethod
    def forward(ctx: Any, gi: Tensor, weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
        groups = len(weight)
        inputs, start = (_split_groups(x, groups).contiguous().numpy() for x in (gi, h))
        ctx.weight, ctx.threads = weight.numpy(), torch.get_num_threads()
        ctx.trace = cpu_kernels.gru.scan(inputs, ctx.weight, bias.numpy(), start, ctx.threads)
        return _join_groups(torch.from_numpy(ctx.trace.states)[1:], groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        trace: cpu_kernels.gru.Trace = ctx.trace
        groups, wide, hidden = ctx.weight.shape
        grad = _split_groups(grads[0], groups).contiguous().numpy()
        parts = cpu_kernels.gru.scan_back(grad, ctx.weight, trace, ctx.threads)
        d_gi, d_held, d_h = map(torch.from_numpy, parts)
        before = _by_group(torch.from_numpy(trace.states)[:-1], groups)
        d_rows = [_by_group(part, groups) for part in (d_gi[..., : wide - hidden], d_held)]
        d_weight = torch.cat([torch.bmm(rows.transpose(1, 2), before) for rows in d_rows], 1)
        d_bias = torch.cat([rows.sum(1) for rows in d_rows], 1)
        return _join_groups(d_gi, groups), d_weight, d_bias, _join_groups(d_h, groups)


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
        Outputs (B, T, G * H) and the new states (B, G * H), both float32 or wider. It is
        fastest with an x whose memory is time first, as its outputs' is.

    Source: Cho et al., arXiv 1406.1078, in the form of torch.nn.GRU.
    """
    wide = next(grus[0].parameters()).dtype
    if not cpu_kernels.HAS_KERNELS or wide != torch.float32:
        with torch.autocast(x.device.type, enabled=False):
            slow: tuple[Tensor, Tensor] = torch_grus(x.to(wide), state.to(wide), *grus)
            return slow
    w_ih, w_hh, b_ih, b_hh = zip(*(gru.parameters() for gru in grus), strict=True)
    frames = x.transpose(0, 1).contiguous()
    gi = torch.nn.functional.linear(frames, torch.cat(w_ih), torch.cat(b_ih)).to(wide)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _Scan.apply(  # type: ignore[no-untyped-call]
            gi, torch.stack(w_hh), torch.stack(b_hh), state.to(wide)
        )
    return out.transpose(0, 1), out[-1]


def run_grus(x: Tensor, state: Tensor, *grus: torch.nn.GRU) -> tuple[Tensor, Tensor]:
    """Run parallel GRUs over the same x: `gru_scan` where a CPU trains, else `torch_grus`."""
    if torch.is_grad_enabled() and x.device.type == "cpu":
        return gru_scan(x, state, *grus)  # type: ignore[no-any-return]
    return torch_grus(x, state.to(x.dtype), *grus)  # type: ignore[no-any-return]
