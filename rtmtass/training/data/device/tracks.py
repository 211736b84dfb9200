"""How recordings are laid out in time for a whole batch at once: `mixing`, on a device.

Each function returns R tracks of N samples, the most that any row can need; a row's
track itself is as long as its `n_raw`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rtmtass.training.data.device.bank import DeviceBank
from rtmtass.training.data.device.rng import Draws, amplitude, pick, replace_rows
from rtmtass.training.data.recipe import (
    EFFECT_DB,
    FADE,
    GAP_S,
    LATEST_EFFECT,
    LATEST_WORD,
    LONG_GAP_S,
    LONGEST_EFFECT_GAP_S,
    REPEAT_DB,
    SHORTEST_EFFECT_GAP_S,
)
from rtmtass.types import SAMPLE_RATE

_EFFECT_LEVEL = 0.1
_SILENT = 1e-12  # instead of zero, to divide by: what is silent stays so at any gain
_STEPS = 1 << 24  # of a repeat's gain: integers add up exactly


def voices(
    bank: DeviceBank,
    draws: Draws,
    sampler: Tensor,
    n_raw: Tensor,
    n: int,
    *,
    shortest: int,
    long_pauses: float,
) -> Tensor:
    """Return speakers talking: recordings of one speaker each, joined with gaps.

    Args:
        bank: holds the recordings.
        draws: draws everything.
        sampler: (R,) int64, which sampler draws a row's speaker.
        n_raw: (R,) int64.
        n: N.
        shortest: samples of the shortest recording of all these samplers.
        long_pauses: share of the rows with long gaps and, perhaps, a late first word.

    Returns:
        (R, N) float32, silent behind a row's `n_raw`.
    """
    n_rows = len(sampler)
    n_pieces = math.ceil(n / (shortest + int(GAP_S[0] * SAMPLE_RATE))) + 1
    has_pauses = draws.hits(long_pauses, n_rows)
    late = draws.uniform(n_rows) * (LATEST_WORD * n_raw) * has_pauses
    group = bank.draw_group(sampler, draws.uniform(n_rows))
    pieces = bank.draw_in_group(
        group[:, None].expand(-1, n_pieces), draws.uniform(n_rows, n_pieces)
    )
    start, length = bank.starts[pieces], bank.lengths[pieces]
    # The first recording begins in its middle.
    skipped = draws.below((length[:, 0] - n_raw // 2).clamp(min=1))
    start[:, 0] += skipped
    length[:, 0] -= skipped
    short_s, long_s = draws.between(n_rows * n_pieces, GAP_S, LONG_GAP_S)
    gap_s = torch.where(has_pauses[:, None], long_s.view_as(length), short_s.view_as(length))
    follows = length + (gap_s * SAMPLE_RATE).long()
    begin = late.long()[:, None] + follows.cumsum(1) - follows
    return bank.read(_addresses(bank, begin, start, length, n_raw, n))


def crops(
    bank: DeviceBank, draws: Draws, sampler: Tensor, n_raw: Tensor, n: int, *, n_short: int
) -> Tensor:
    """Return a random crop of one recording for each row; a shorter one is repeated.

    Args:
        bank, draws, sampler, n_raw, n: see `voices`.
        n_short: how many rows may draw a recording that must be repeated.

    Returns:
        (R, N) float32; what lies behind a row's `n_raw` is any sound.
    """
    group = bank.draw_group(sampler, draws.uniform(len(sampler)))
    piece = bank.draw_in_group(group, draws.uniform(len(sampler)))
    start, length = bank.starts[piece], bank.lengths[piece]
    is_short = length < n_raw
    phase = draws.below(torch.where(is_short, length, length - n_raw + 1))
    tracks = bank.windows(torch.where(is_short, start, start + phase), n)
    if n_short:
        rows, is_hit = pick(is_short, n_short)
        again = _repeated(bank, start[rows], length[rows], phase[rows], n)
        replace_rows(tracks, rows, is_hit, again)
    return tracks


def _repeated(bank: DeviceBank, start: Tensor, length: Tensor, phase: Tensor, n: int) -> Tensor:
    """Return recordings over and over from a phase on, each fading into its next, (R, n)."""
    start, length = start[:, None].to(bank.address), length[:, None].to(torch.int32)
    fade = (length // 2).clamp(max=FADE)
    period = length - fade
    place = phase[:, None].int() + torch.arange(n, dtype=torch.int32, device=bank.device)
    turn = (place / period.double()).int()  # in float64: exact
    place -= turn * period
    ramp = (place / (fade - 1).clamp(min=1)).clamp(max=1.0)
    rising = bank.read(start + place)
    # The one before is still to be heard while this one fades in.
    overlaps = (turn > 0) & (place < fade)
    falling = bank.read((start + period + place).mul_(overlaps))
    return torch.addcmul(falling, rising - falling, ramp)


def effects(bank: DeviceBank, draws: Draws, number: int, n_raw: Tensor, n: int) -> Tensor:
    """Return one short effect for each row, over and over, with gaps and at varying levels.

    Args:
        bank, draws, n_raw, n: see `voices`.
        number: the sampler's, the same for all rows.

    Returns:
        (R, N) float32, silent behind a row's `n_raw`.
    """
    n_rows, name = len(n_raw), list(bank.number)[number]
    group = bank.draw_group(torch.full_like(n_raw, number), draws.uniform(n_rows))
    piece = bank.draw_in_group(group, draws.uniform(n_rows))
    start = bank.starts[piece][:, None]
    length = torch.minimum(bank.lengths[piece], n_raw)[:, None]
    once = bank.windows(start[:, 0], min(n, bank.longest[name]))
    once *= torch.arange(once.shape[1], device=bank.device) < length
    rms = torch.linalg.vector_norm(once, dim=1) / length[:, 0].float().sqrt()
    level_db, longest_s = draws.between(n_rows, EFFECT_DB, LONGEST_EFFECT_GAP_S)
    level = _EFFECT_LEVEL * amplitude(level_db) / rms.clamp(min=_SILENT)

    shortest_gap = int(SHORTEST_EFFECT_GAP_S * SAMPLE_RATE)
    n_repeats = math.ceil(n / (bank.shortest[name] + shortest_gap)) + 1
    varying_s = longest_s[:, None] - SHORTEST_EFFECT_GAP_S
    gap_s = SHORTEST_EFFECT_GAP_S + draws.uniform(n_rows, n_repeats) * varying_s
    follows = length + (gap_s * SAMPLE_RATE).long()
    first = (draws.uniform(n_rows, 1) * (LATEST_EFFECT * length)).long()
    begin = first + follows.cumsum(1) - follows
    repeat = amplitude(draws.between(n_rows * n_repeats, REPEAT_DB))
    steps = (repeat * _STEPS).int().view(n_rows, n_repeats)
    gain = _held(begin, steps, n_raw, n) * (level[:, None] / _STEPS)
    start, length = start.expand(-1, n_repeats), length.expand(-1, n_repeats)
    return bank.read(_addresses(bank, begin, start, length, n_raw, n)).mul_(gain)


def gain_to_snr(samples: Tensor, reference: Tensor, snr_db: Tensor) -> Tensor:
    """Return gains (R,) that put `samples` (R, N) `snr_db` below `reference`."""
    here: Tensor = torch.linalg.vector_norm(samples, dim=1)
    there: Tensor = torch.linalg.vector_norm(reference, dim=1)
    return there / here.clamp(min=_SILENT) * amplitude(-snr_db)


def _addresses(
    bank: DeviceBank, begin: Tensor, start: Tensor, length: Tensor, n_raw: Tensor, n: int
) -> Tensor:
    """Return where each sample of tracks lies in the bank, (R, N).

    Args:
        bank: whose addresses.
        begin: (R, K) int64, where in its track a recording is heard first, ascending.
        start, length: (R, K) int64, the recordings' places in the bank.
        n_raw: (R,) int64, where the tracks end.
        n: N.
    """
    end = begin + length
    # An address is the time plus an offset. Of a recording the offset leads to its start;
    # of a gap it leads to zero, and so through the silence at the bank's front.
    moments = torch.stack([begin, end], dim=2).flatten(1)
    offsets = torch.stack([start - begin, -end], dim=2).flatten(1)
    moments = torch.cat([moments, n_raw[:, None]], dim=1)
    offsets = torch.cat([offsets, -n_raw[:, None]], dim=1)
    held = _held(moments, offsets.to(bank.address), n_raw, n)
    return held + torch.arange(n, dtype=bank.address, device=bank.device)


def _held(moments: Tensor, values: Tensor, n_raw: Tensor, n: int) -> Tensor:
    """Return integers (R, K) each held from its moment to the next, zero before, (R, N)."""
    steps = torch.diff(values, dim=1, prepend=values.new_zeros(len(values), 1))
    track = values.new_zeros(len(values), n + 1)
    track.scatter_add_(1, torch.minimum(moments, n_raw[:, None]), steps)
    return track.cumsum_(1)[:, :n]
