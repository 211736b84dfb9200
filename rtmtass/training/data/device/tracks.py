"""Tracks for a whole batch on a device: the counterpart of the tracks in `mixing`.

Each function returns R tracks of N samples, the most that any row can need; only the
first `n_raw` samples of a row are used.
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
_SILENT = 1e-12  # smallest divisor, which avoids a division by zero for silence
_STEPS = 1 << 24  # resolution of a repeat's gain as an integer, whose cumulative sums are exact


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
    """Return tracks of one speaker each: recordings joined with gaps.

    Args:
        bank: the recordings.
        draws: the random numbers.
        sampler: (R,) int64, number of each row's sampler.
        n_raw: (R,) int64, samples used of each row.
        n: N.
        shortest: length of the shortest recording of these samplers, in samples.
        long_pauses: probability of long gaps and a possibly late first word.

    Returns:
        (R, N) float32, silent after a row's `n_raw`.
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
    # The first recording starts at a random point.
    skipped = draws.below((length[:, 0] - n_raw // 2).clamp(min=1))
    start[:, 0] += skipped
    length[:, 0] -= skipped
    short_s, long_s = draws.between(n_rows * n_pieces, GAP_S, LONG_GAP_S)
    gap_s = torch.where(has_pauses[:, None], long_s.view_as(length), short_s.view_as(length))
    period = length + (gap_s * SAMPLE_RATE).long()
    begin = late.long()[:, None] + period.cumsum(1) - period
    return bank.read(_addresses(bank, begin, start, length, n_raw, n))


def crops(
    bank: DeviceBank, draws: Draws, sampler: Tensor, n_raw: Tensor, n: int, *, n_short: int
) -> Tensor:
    """Return a random crop of one recording for each row; a shorter one is looped.

    Args:
        bank, draws, sampler, n_raw, n: see `voices`.
        n_short: capacity for rows whose recording must be looped.

    Returns:
        (R, N) float32; samples after a row's `n_raw` are undefined.
    """
    group = bank.draw_group(sampler, draws.uniform(len(sampler)))
    piece = bank.draw_in_group(group, draws.uniform(len(sampler)))
    start, length = bank.starts[piece], bank.lengths[piece]
    is_short = length < n_raw
    phase = draws.below(torch.where(is_short, length, length - n_raw + 1))
    tracks = bank.windows(torch.where(is_short, start, start + phase), n)
    if n_short:
        rows, is_hit = pick(is_short, n_short)
        looped = _looped(bank, start[rows], length[rows], phase[rows], n)
        replace_rows(tracks, rows, is_hit, looped)
    return tracks


def _looped(bank: DeviceBank, start: Tensor, length: Tensor, phase: Tensor, n: int) -> Tensor:
    """Return looped recordings from a phase on, with a cross-fade at each repeat, (R, n)."""
    start, length = start[:, None].to(bank.address), length[:, None].to(torch.int32)
    fade = (length // 2).clamp(max=FADE)
    period = length - fade
    position = phase[:, None].int() + torch.arange(n, dtype=torch.int32, device=bank.device)
    turn = (position / period.double()).int()  # in float64: exact
    position -= turn * period
    ramp = (position / (fade - 1).clamp(min=1)).clamp(max=1.0)
    rising = bank.read(start + position)
    # The end of the previous repeat fades out while this one fades in.
    overlaps = (turn > 0) & (position < fade)
    falling = bank.read((start + period + position).mul_(overlaps))
    return torch.addcmul(falling, rising - falling, ramp)


def effects(bank: DeviceBank, draws: Draws, number: int, n_raw: Tensor, n: int) -> Tensor:
    """Return one short effect for each row, repeated with random gaps and levels.

    Args:
        bank, draws, n_raw, n: see `voices`.
        number: number of the sampler, the same for all rows.

    Returns:
        (R, N) float32, silent after a row's `n_raw`.
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
    period = length + (gap_s * SAMPLE_RATE).long()
    first = (draws.uniform(n_rows, 1) * (LATEST_EFFECT * length)).long()
    begin = first + period.cumsum(1) - period
    repeat = amplitude(draws.between(n_rows * n_repeats, REPEAT_DB))
    steps = (repeat * _STEPS).int().view(n_rows, n_repeats)
    gain = _piecewise_constant(begin, steps, n_raw, n) * (level[:, None] / _STEPS)
    start, length = start.expand(-1, n_repeats), length.expand(-1, n_repeats)
    return bank.read(_addresses(bank, begin, start, length, n_raw, n)).mul_(gain)


def gain_to_snr(samples: Tensor, reference: Tensor, snr_db: Tensor) -> Tensor:
    """Return gains (R,) that scale `samples` (R, N) to `snr_db` below `reference`."""
    norm: Tensor = torch.linalg.vector_norm(samples, dim=1)
    reference_norm: Tensor = torch.linalg.vector_norm(reference, dim=1)
    return reference_norm / norm.clamp(min=_SILENT) * amplitude(-snr_db)


def _addresses(
    bank: DeviceBank, begin: Tensor, start: Tensor, length: Tensor, n_raw: Tensor, n: int
) -> Tensor:
    """Return the index in the bank of each sample of tracks, (R, N).

    Args:
        bank: the recordings.
        begin: (R, K) int64, start of each recording in its track, ascending.
        start, length: (R, K) int64, the recordings' positions in the bank.
        n_raw: (R,) int64, ends of the tracks.
        n: N.
    """
    end = begin + length
    # An index is the time plus an offset. In a recording the offset leads to its start; in
    # a gap it leads to index 0 and on through the silence at the front of the bank.
    times = torch.stack([begin, end], dim=2).flatten(1)
    offsets = torch.stack([start - begin, -end], dim=2).flatten(1)
    times = torch.cat([times, n_raw[:, None]], dim=1)
    offsets = torch.cat([offsets, -n_raw[:, None]], dim=1)
    offset = _piecewise_constant(times, offsets.to(bank.address), n_raw, n)
    return offset + torch.arange(n, dtype=bank.address, device=bank.device)


def _piecewise_constant(times: Tensor, values: Tensor, n_raw: Tensor, n: int) -> Tensor:
    """Return integer values (R, K), each from its time to the next, as a track (R, N)."""
    steps = torch.diff(values, dim=1, prepend=values.new_zeros(len(values), 1))
    track = values.new_zeros(len(values), n + 1)
    track.scatter_add_(1, torch.minimum(times, n_raw[:, None]), steps)
    return track.cumsum_(1)[:, :n]
