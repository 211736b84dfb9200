"""Both stages' masks with hand-written gradients, for training on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtmtass.jit.threads import run_parts
from rtmtass.net import cpu_kernels
from rtmtass.types import Floats


def _over_rows(run: Callable[..., None], arrays: list[Floats], threads: int) -> None:
    """Call run(*arrays) with parts of the rows of all of them, in so many threads."""
    rows = len(arrays[0])
    size = -(-rows // threads)
    starts = range(0, rows, size)
    parts = [tuple(array[at : at + size] for array in arrays) for at in starts]
    run_parts(run, parts, threads)


def _rows(x: Tensor, *shape: int) -> Floats:
    array: Floats = x.detach().contiguous().view(-1, *shape).numpy()
    return array


class _FirstStage(torch.autograd.Function):
    """(R, S, 2, F), (R, 2, F), (R,) -> estimates (R, S, 2, F), residuals (R, S, 3, F)."""

    @staticmethod
    def forward(
        ctx: Any, heads: Tensor, mixture: Tensor, level: Tensor, limit: float
    ) -> tuple[Tensor, Tensor]:
        rows, n_stems, _, bins = heads.shape
        known = [_rows(heads, n_stems, 2, bins), _rows(mixture, 2, bins), _rows(level)]
        stems = np.empty_like(known[0])
        planes = np.empty((rows, n_stems, 3, bins), np.float32)
        ctx.limit, ctx.threads = np.float32(limit), torch.get_num_threads()

        def run(heads: Floats, mixture: Floats, level: Floats, *out: Floats) -> None:
            cpu_kernels.masks.first_stage(heads, mixture, level, ctx.limit, *out)

        _over_rows(run, [*known, stems, planes], ctx.threads)
        ctx.known = [*known, planes]
        return torch.from_numpy(stems), torch.from_numpy(planes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _, n_stems, _, bins = ctx.known[0].shape
        out = np.empty_like(ctx.known[0])

        def run(heads: Floats, mixture: Floats, level: Floats, *rest: Floats) -> None:
            cpu_kernels.masks.first_stage_back(heads, mixture, level, ctx.limit, *rest)

        to = [_rows(grads[0], n_stems, 2, bins), _rows(grads[1], n_stems, 3, bins)]
        _over_rows(run, [*ctx.known, *to, out], ctx.threads)
        return torch.from_numpy(out), None, None, None


class _SecondStage(torch.autograd.Function):
    """(R, S, 2, F) twice, (R, 2, F) -> stems (R, S, 2, F)."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, first: Tensor, mixture: Tensor, limit: float) -> Tensor:
        _, n_stems, _, bins = heads.shape
        ctx.known = [_rows(x, n_stems, 2, bins) for x in (heads, first)]
        ctx.known.append(_rows(mixture, 2, bins))
        ctx.limit, ctx.threads = np.float32(limit), torch.get_num_threads()
        stems = np.empty_like(ctx.known[0])

        def run(heads: Floats, first: Floats, mixture: Floats, out: Floats) -> None:
            cpu_kernels.masks.second_stage(heads, first, mixture, ctx.limit, out)

        _over_rows(run, [*ctx.known, stems], ctx.threads)
        return torch.from_numpy(stems)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _, n_stems, _, bins = ctx.known[0].shape
        out = [np.empty_like(ctx.known[0]) for _ in range(2)]

        def run(heads: Floats, first: Floats, mixture: Floats, *rest: Floats) -> None:
            cpu_kernels.masks.second_stage_back(heads, first, mixture, ctx.limit, *rest)

        _over_rows(run, [*ctx.known, _rows(grads[0], n_stems, 2, bins), *out], ctx.threads)
        return torch.from_numpy(out[0]), torch.from_numpy(out[1]), None, None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def first_stage(
    heads: Tensor, mixture: Tensor, level: Tensor, limit: float
) -> tuple[Tensor, Tensor]:
    """Mask the mixture, and compress what each estimate leaves of it.

    Args:
        heads: (B, T, S, 2, F), the heads' outputs; gradients reach them.
        mixture: (B, T, 2, F).
        level: (B, T, 1), to compress by.
        limit: of the masks' parts.

    Returns:
        Estimates (B, T, S, 2, F) and compressed residuals (B, T, S, 3, F).
    """
    shape = heads.shape[:2]
    stems, planes = _FirstStage.apply(  # type: ignore[no-untyped-call]
        heads.flatten(0, 1), mixture.flatten(0, 1), level.flatten(), limit
    )
    return stems.view(heads.shape), planes.view(*shape, *planes.shape[1:])


@torch.compiler.disable  # type: ignore[untyped-decorator]
def second_stage(heads: Tensor, first: Tensor, mixture: Tensor, limit: float) -> Tensor:
    """Add masked residuals to stage 1's estimates, and make the stems sum to the mixture.

    Args:
        heads: (B, T, S, 2, F), the heads' outputs; gradients reach them.
        first: (B, T, S, 2, F), stage 1's estimates, likewise.
        mixture: (B, T, 2, F).
        limit: of the masks' parts.

    Returns:
        (B, T, S, 2, F).
    """
    stems = _SecondStage.apply(  # type: ignore[no-untyped-call]
        heads.flatten(0, 1), first.flatten(0, 1), mixture.flatten(0, 1), limit
    )
    return stems.view(heads.shape)  # type: ignore[no-any-return]
