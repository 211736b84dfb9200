"""Projections of bands with hand-written gradients, for training on a CPU.

Neighbouring bands of one width are one batch of matmuls, whose rows compiled loops gather
from the spectra: torch's own copies of a few bins at a time take longer than the arithmetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rtmtass.net import cpu_kernels
from rtmtass.net.band_blocks import add_norm_back, normed_sum


class _Run(NamedTuple):
    """Neighbouring bands of one width: the first band and bin, and how many bands."""

    band: int
    start: int
    bands: int
    width: int

    def of(self, bands: Any) -> Any:
        """Return the run's part of a sequence over all bands."""
        return bands[self.band : self.band + self.bands]


def _runs(widths: Sequence[int]) -> Iterator[_Run]:
    band = start = 0
    for width, same in itertools.groupby(widths):
        bands = len(list(same))
        yield _Run(band, start, bands, width)
        band, start = band + bands, start + bands * width


def _gathered(planes: Tensor, run: _Run) -> Tensor:
    batch, frames, n_planes, _ = planes.shape
    out = np.empty((run.bands, frames * batch, n_planes * run.width), np.float32)
    cpu_kernels.bands.gather_bands(planes.numpy(), run.start, out)
    return torch.from_numpy(out)


def _scattered(rows: Tensor, bias: Tensor, run: _Run, planes: Tensor) -> None:
    cpu_kernels.bands.scatter_bands(rows.numpy(), bias.numpy(), run.start, planes.numpy())


class _Encode(torch.autograd.Function):
    """Planes (B, T, P, F), each run's weights (n, C, P * width), biases (n, C) -> (T, B, K, C)."""

    @staticmethod
    def forward(ctx: Any, widths: Sequence[int], planes: Tensor, *layers: Tensor) -> Tensor:
        planes = planes.detach().contiguous()
        batch, frames = planes.shape[:2]
        out = planes.new_empty(frames, batch, len(widths), layers[0].shape[1])
        by_band = out.flatten(0, 1).transpose(0, 1)
        ctx.runs, ctx.weights, ctx.rows = list(_runs(widths)), layers[::2], []
        ctx.shape = planes.shape
        for run, weight, bias in zip(ctx.runs, layers[::2], layers[1::2], strict=True):
            x = _gathered(planes, run)
            ctx.rows.append(x)
            y = torch.bmm(x, weight.transpose(1, 2))
            torch.add(y, bias[:, None], out=run.of(by_band))
        return out

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        by_band = outputs[0].contiguous().flatten(0, 1).transpose(0, 1)
        grads: list[Tensor] = []
        to_planes = by_band.new_empty(ctx.shape) if ctx.needs_input_grad[1] else None
        for run, weight, x in zip(ctx.runs, ctx.weights, ctx.rows, strict=True):
            to = run.of(by_band).contiguous()
            if to_planes is not None:
                nothing = weight.new_zeros(run.bands, weight.shape[2])
                _scattered(torch.bmm(to, weight), nothing, run, to_planes)
            grads += (torch.bmm(to.transpose(1, 2), x), to.sum(1))
        return None, to_planes, *grads


class _Decode(torch.autograd.Function):
    """Rows (T, B, K, C), a norm (C,), each run's weights and biases -> planes (B, T, P, F)."""

    @staticmethod
    def forward(
        ctx: Any, widths: Sequence[int], x: Tensor, norm: Tensor, *layers: Tensor
    ) -> Tensor:
        n_planes = layers[0].shape[1] // widths[0]
        frames, batch = x.shape[:2]
        out = x.new_empty(batch, frames, n_planes, sum(widths))
        ctx.x, ctx.norm = x.detach().contiguous().flatten(0, 2), norm
        normed, ctx.scales = normed_sum(ctx.x[:0], ctx.x, norm)
        by_band = normed.view(frames * batch, *x.shape[2:]).transpose(0, 1)
        ctx.runs, ctx.weights, ctx.rows = list(_runs(widths)), layers[::2], []
        for run, weight, bias in zip(ctx.runs, layers[::2], layers[1::2], strict=True):
            rows = run.of(by_band).contiguous()
            ctx.rows.append(rows)
            _scattered(torch.bmm(rows, weight.transpose(1, 2)), bias, run, out)
        return out

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        grad = outputs[0].contiguous()
        bands, channels = sum(run.bands for run in ctx.runs), ctx.rows[0].shape[2]
        batch, frames = grad.shape[:2]
        to_rows = grad.new_empty(frames, batch, bands, channels)
        by_band = to_rows.flatten(0, 1).transpose(0, 1)
        grads: list[Tensor] = []
        for run, weight, rows in zip(ctx.runs, ctx.weights, ctx.rows, strict=True):
            to = _gathered(grad, run)
            run.of(by_band).copy_(torch.bmm(to, weight))
            grads += (torch.bmm(to.transpose(1, 2), rows), to.sum(1))
        grad = torch.zeros_like(to_rows)
        to_norm = add_norm_back(
            to_rows.flatten(0, 2), ctx.x, ctx.norm, ctx.scales, grad.view(ctx.x.shape)
        )
        return None, grad, to_norm, *grads


def _layers(linears: Sequence[nn.Linear], widths: Sequence[int]) -> Iterator[Tensor]:
    """Yield each run's weights and biases, stacked."""
    for run in _runs(widths):
        yield torch.stack([linear.weight for linear in run.of(linears)])
        yield torch.stack([linear.bias for linear in run.of(linears)])


@torch.compiler.disable  # type: ignore[untyped-decorator]
def encode(planes: Tensor, linears: Sequence[nn.Linear], widths: Sequence[int]) -> Tensor:
    """Project each band's bins: (B, T, P, F) -> (B, T, K, C), time first in memory."""
    out = _Encode.apply(widths, planes, *_layers(linears, widths))  # type: ignore[no-untyped-call]
    return out.transpose(0, 1)  # type: ignore[no-any-return]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def decode(x: Tensor, norm: Tensor, linears: Sequence[nn.Linear], widths: Sequence[int]) -> Tensor:
    """Norm and project each band's channels to its bins: (B, T, K, C) -> (B, T, P, F)."""
    layers = _layers(linears, widths)
    return _Decode.apply(widths, x.transpose(0, 1), norm, *layers)  # type: ignore[no-any-return,no-untyped-call]
