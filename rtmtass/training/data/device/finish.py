"""What happens to the stems of a whole batch after they are drawn: rooms, filters, faults, pops."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.config import STEMS
from rtmtass.training.data.device import augment
from rtmtass.training.data.device.rng import amplitude, capacity, pick, replace_rows
from rtmtass.training.data.device.stems import Makers
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


def finish(makers: Makers, stems: Tensor) -> None:
    """Put stems (B, 3, N) into rooms, tilt, overdrive, cut off and band-limit them, in place."""
    flat = stems.flatten(0, 1)
    is_speech = (torch.arange(len(flat), device=flat.device) % len(STEMS)) == 0
    _filter(makers, flat, is_speech)
    _overdrive(makers, flat)
    _cut_off(makers, flat, is_speech)
    _limit_band(makers, stems)


def pops(makers: Makers, n_rows: int) -> Tensor:
    """Return pops (n_rows, N), as loud as if the rest had a root mean square of 1."""
    draws, n = makers.draws, makers.n
    length_s, corner_hz = draws.log_between(n_rows, POP_S, POP_HZ)
    length = (length_s * SAMPLE_RATE).long().clamp(max=n)
    noise = draws.normal(n_rows, min(n, int(POP_S[1] * SAMPLE_RATE)))
    pop = augment.pops(noise, length, corner_hz, draws.below(n - length + 1), n)
    peak = amplitude(draws.between(n_rows, makers.recipe.pop_db)[0])
    return pop.mul_(peak[:, None])


def _filter(makers: Makers, flat: Tensor, is_speech: Tensor) -> None:
    """Put rows (R, N) into rooms and through shelves and bells, in one transform for both."""
    r, draws, n, bank = makers.recipe, makers.draws, makers.n, makers.bank
    p_speech, p_other = (makers.share("rooms", p) for p in (r.speech_room, r.other_room))
    has_room = draws.uniform(len(flat)) < is_speech * (p_speech - p_other) + p_other
    has_tilt = draws.hits(r.tilt, len(flat))
    n_speech, n_other = makers.batch, (len(STEMS) - 1) * makers.batch
    p_both = [1 - (1 - r.tilt) * (1 - p) for p in (p_speech, p_other)]
    n_rows = capacity((n_speech, p_both[0]), (n_other, p_both[1]))
    if n_rows == 0:
        return
    rows, is_hit = pick(has_room | has_tilt, n_rows)
    n_room = bank.longest["rooms"] if p_speech or p_other else 0
    size = augment.filter_size(n, n_room)
    spec = torch.fft.rfft(flat.index_select(0, rows), size)
    response = _tilts(makers, size, has_tilt[rows])
    n_rooms = capacity((n_speech, p_speech), (n_other, p_other))
    if n_rooms:
        among, is_roomy = pick(has_room[rows], n_rooms)
        room = augment.equal_energy(spec.index_select(0, among), _rooms(makers, size, n_rooms))
        with_room = response.index_select(0, among) * room
        replace_rows(response, among, is_roomy, with_room)
    replace_rows(flat, rows, is_hit, torch.fft.irfft(spec.mul_(response), size)[:, :n])


def _tilts(makers: Makers, size: int, is_hit: Tensor) -> Tensor:
    """Return random shelves and bells as responses, (R, F); 1 where not `is_hit`, (R,)."""
    n_rows = len(is_hit)
    corner_hz, *gains_db, q = makers.draws.between(n_rows, SHELF_HZ, TILT_DB, TILT_DB, BELL_Q)
    (centre_hz,) = makers.draws.log_between(n_rows, BELL_HZ)
    shelf_db, bell_db = (gain_db * is_hit for gain_db in gains_db)
    return augment.tilt(size, (corner_hz, shelf_db), (centre_hz, bell_db, q))


def _rooms(makers: Makers, size: int, n_rows: int) -> Tensor:
    """Return random rooms as responses, (n_rows, F)."""
    bank, draws = makers.bank, makers.draws
    number = torch.full((n_rows,), bank.number["rooms"], device=bank.device)
    room = bank.draw_in_group(bank.draw_group(number, draws.uniform(n_rows)), draws.uniform(n_rows))
    t = torch.arange(bank.longest["rooms"], device=bank.device)
    is_inside = t < bank.lengths[room][:, None]
    samples = bank.windows(bank.starts[room], len(t)).mul_(is_inside)
    response: Tensor = torch.fft.rfft(samples, size)
    return response


def _overdrive(makers: Makers, flat: Tensor) -> None:
    """Clip and compand rows (R, N) here and there."""
    r, draws = makers.recipe, makers.draws
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


def _cut_off(makers: Makers, flat: Tensor, is_speech: Tensor) -> None:
    """Let rows (R, N) other than speech, which has pauses of its own, start late or stop early."""
    draws, share, n = makers.draws, makers.recipe.start_or_stop, makers.n
    n_rows = capacity(((len(STEMS) - 1) * makers.batch, share))
    if n_rows == 0:
        return
    rows, is_hit = pick(draws.hits(share, len(flat)) & ~is_speech, n_rows)
    fade_s, place = draws.between(n_rows, EDGE_FADE_S, EDGE_AT)
    fade = (fade_s * SAMPLE_RATE).long().clamp(max=n // 4)
    at = (place * (n - fade)).long()
    gain = augment.edges(n, at, fade, draws.hits(0.5, n_rows))
    replace_rows(flat, rows, is_hit, flat.index_select(0, rows) * gain)


def _limit_band(makers: Makers, stems: Tensor) -> None:
    """Put all stems of some examples, (B, 3, N), through one band-pass."""
    draws, share, n = makers.draws, makers.recipe.band_limit, makers.n
    n_rows = capacity((makers.batch, share))
    if n_rows == 0:
        return
    rows, is_hit = pick(draws.hits(share, makers.batch), n_rows)
    low_hz, high_hz = draws.between(n_rows, LOW_EDGE_HZ, HIGH_EDGE_HZ)
    size = augment.filter_size(n)
    response = augment.band_pass(size, low_hz, high_hz)[:, None]
    spec = torch.fft.rfft(stems.index_select(0, rows), size)
    limited = torch.fft.irfft(spec.mul_(response), size)[:, :, :n]
    replace_rows(stems.flatten(1), rows, is_hit, limited.flatten(1))
