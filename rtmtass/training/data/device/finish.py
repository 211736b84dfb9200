"""Augmentation of drawn stems, for a whole batch: rooms, filters, clipping, cuts and pops."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.config import STEMS
from rtmtass.training.data.device import augment
from rtmtass.training.data.device.rng import amplitude, capacity, pick, replace_rows
from rtmtass.training.data.device.stems import BatchContext
from rtmtass.training.data.recipe import (
    BELL_HZ,
    BELL_Q,
    DRIVE_DB,
    EDGE_AT,
    EDGE_FADE_S,
    HIGH_EDGE_HZ,
    LOW_EDGE_HZ,
    POP_HZ,
    POP_S,
    SHELF_HZ,
    TILT_DB,
)
from rtmtass.types import SAMPLE_RATE


def finish(context: BatchContext, stems: Tensor) -> None:
    """Augment stems (B, 3, N) in place: rooms, tilt, overdrive, start or stop, band limit."""
    flat = stems.flatten(0, 1)
    is_speech = (torch.arange(len(flat), device=flat.device) % len(STEMS)) == 0
    _filter(context, flat, is_speech)
    _overdrive(context, flat)
    _cut_off(context, flat, is_speech)
    _limit_band(context, stems)


def pops(context: BatchContext, n_rows: int) -> Tensor:
    """Return pops (n_rows, N), at the level for a mixture with a root mean square of 1."""
    draws, n = context.draws, context.n
    length_s, corner_hz = draws.log_between(n_rows, POP_S, POP_HZ)
    length = (length_s * SAMPLE_RATE).long().clamp(max=n)
    noise = draws.normal(n_rows, min(n, int(POP_S[1] * SAMPLE_RATE)))
    pop = augment.pops(noise, length, corner_hz, draws.below(n - length + 1), n)
    peak = amplitude(draws.between(n_rows, context.recipe.pop_db)[0])
    return pop.mul_(peak[:, None])


def _filter(context: BatchContext, flat: Tensor, is_speech: Tensor) -> None:
    """Apply rooms and tilts to random rows (R, N), in place, with one transform for both."""
    r, draws, n, bank = context.recipe, context.draws, context.n, context.bank
    p_speech, p_other = (context.prob("rooms", p) for p in (r.speech_room, r.other_room))
    has_room = draws.uniform(len(flat)) < is_speech * (p_speech - p_other) + p_other
    has_tilt = draws.hits(r.tilt, len(flat))
    n_speech, n_other = context.batch, (len(STEMS) - 1) * context.batch
    p_both = [1 - (1 - r.tilt) * (1 - p) for p in (p_speech, p_other)]
    n_rows = capacity((n_speech, p_both[0]), (n_other, p_both[1]))
    if n_rows == 0:
        return
    rows, is_hit = pick(has_room | has_tilt, n_rows)
    n_room = bank.longest["rooms"] if p_speech or p_other else 0
    size = augment.filter_size(n, n_room)
    spec = torch.fft.rfft(flat.index_select(0, rows), size)
    response = _tilts(context, size, has_tilt[rows])
    n_rooms = capacity((n_speech, p_speech), (n_other, p_other))
    if n_rooms:
        among, is_room = pick(has_room[rows], n_rooms)
        room = augment.equal_energy(spec.index_select(0, among), _rooms(context, size, n_rooms))
        with_room = response.index_select(0, among) * room
        replace_rows(response, among, is_room, with_room)
    replace_rows(flat, rows, is_hit, torch.fft.irfft(spec.mul_(response), size)[:, :n])


def _tilts(context: BatchContext, size: int, is_hit: Tensor) -> Tensor:
    """Return frequency responses of random tilts and bells, (R, F); 1 where `is_hit` is false."""
    n_rows = len(is_hit)
    corner_hz, *gains_db, q = context.draws.between(n_rows, SHELF_HZ, TILT_DB, TILT_DB, BELL_Q)
    (centre_hz,) = context.draws.log_between(n_rows, BELL_HZ)
    shelf_db, bell_db = (gain_db * is_hit for gain_db in gains_db)
    return augment.tilt(size, (corner_hz, shelf_db), (centre_hz, bell_db, q))


def _rooms(context: BatchContext, size: int, n_rows: int) -> Tensor:
    """Return frequency responses of random rooms, (n_rows, F)."""
    bank, draws = context.bank, context.draws
    number = torch.full((n_rows,), bank.number["rooms"], device=bank.device)
    room = bank.draw_in_group(bank.draw_group(number, draws.uniform(n_rows)), draws.uniform(n_rows))
    t = torch.arange(bank.longest["rooms"], device=bank.device)
    is_inside = t < bank.lengths[room][:, None]
    samples = bank.windows(bank.starts[room], len(t)).mul_(is_inside)
    response: Tensor = torch.fft.rfft(samples, size)
    return response


def _overdrive(context: BatchContext, flat: Tensor) -> None:
    """Clip and compand random rows (R, N), in place."""
    r, draws = context.recipe, context.draws
    n_rows = capacity((len(flat), 1 - (1 - r.soft_clip) * (1 - r.compand)))
    if n_rows == 0:
        return
    clips, compands = draws.hits(r.soft_clip, len(flat)), draws.hits(r.compand, len(flat))
    rows, is_hit = pick(clips | compands, n_rows)
    samples = flat.index_select(0, rows)
    clipped = augment.soft_clip(samples, draws.between(n_rows, DRIVE_DB)[0])
    samples = torch.where(clips[rows][:, None], clipped, samples)
    companded = augment.compand(samples)
    samples = torch.where(compands[rows][:, None], companded, samples)
    replace_rows(flat, rows, is_hit, samples)


def _cut_off(context: BatchContext, flat: Tensor, is_speech: Tensor) -> None:
    """Let random rows (R, N), except speech, start late or stop early, in place."""
    draws, prob, n = context.draws, context.recipe.start_or_stop, context.n
    n_rows = capacity(((len(STEMS) - 1) * context.batch, prob))
    if n_rows == 0:
        return
    rows, is_hit = pick(draws.hits(prob, len(flat)) & ~is_speech, n_rows)
    fade_s, position = draws.between(n_rows, EDGE_FADE_S, EDGE_AT)
    fade = (fade_s * SAMPLE_RATE).long().clamp(max=n // 4)
    at = (position * (n - fade)).long()
    gain = augment.edges(n, at, fade, draws.hits(0.5, n_rows))
    replace_rows(flat, rows, is_hit, flat.index_select(0, rows) * gain)


def _limit_band(context: BatchContext, stems: Tensor) -> None:
    """Band-pass random examples (B, 3, N), all stems alike, in place."""
    draws, prob, n = context.draws, context.recipe.band_limit, context.n
    n_rows = capacity((context.batch, prob))
    if n_rows == 0:
        return
    rows, is_hit = pick(draws.hits(prob, context.batch), n_rows)
    low_hz, high_hz = draws.between(n_rows, LOW_EDGE_HZ, HIGH_EDGE_HZ)
    size = augment.filter_size(n)
    response = augment.band_pass(size, low_hz, high_hz)[:, None]
    spec = torch.fft.rfft(stems.index_select(0, rows), size)
    limited = torch.fft.irfft(spec.mul_(response), size)[:, :, :n]
    replace_rows(stems.flatten(1), rows, is_hit, limited.flatten(1))
