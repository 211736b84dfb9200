"""The three stems of a whole batch, drawn on a device, before augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtmtass.training.data.device.augment import change_speed, n_before_speed
from rtmtass.training.data.device.bank import DeviceBank
from rtmtass.training.data.device.rng import Draws, capacity, constant, pick, replace_rows
from rtmtass.training.data.device.tracks import crops, effects, gain_to_snr, voices
from rtmtass.training.data.recipe import (
    AMBIENCE_DB,
    LONG_ALONE,
    MOST_EFFECTS,
    MUSIC_SPEED,
    NOISE_SPEED,
    NOT_EFFECTS_ALONE,
    PIECE_UNDER_SINGING_DB,
    RECORDED_UNDER_GENERATED_DB,
    SECOND_PIECE_DB,
    SECOND_SPEAKER_DB,
    SPEECH_SPEED,
    Ingredients,
    Range,
    Recipe,
    long_and_short,
)
from rtmtass.training.data.recordings import Sampler


@dataclass(frozen=True)
class BatchContext:
    """What the functions that make a batch share.

    Attributes:
        bank: the recordings.
        draws: the random numbers.
        recipe: probabilities and ranges of the augmentations.
        batch: examples per batch, B.
        n: length of an example in samples, N.
    """

    bank: DeviceBank
    draws: Draws
    recipe: Recipe
    batch: int
    n: int

    def prob(self, name: str, prob: float) -> float:
        """Return `prob` if there is a sampler of this name, else 0."""
        return prob if name in self.bank.number else 0.0

    def n_raw(self, speed: Tensor) -> Tensor:
        """Return how many samples rows need before their change of speed, int64."""
        return torch.where(speed == 1.0, self.n, n_before_speed(self.n, speed))

    def n_short(self, n: int, *parts: tuple[int, tuple[str, ...]]) -> int:
        """Return the capacity for rows that draw a recording of less than `n` samples.

        Args:
            n: samples.
            parts: number of rows, and the names of the samplers they draw from.
        """
        return capacity(
            *(
                (n_rows, max((self.bank.prob_shorter(x, n) for x in names), default=0.0))
                for n_rows, names in parts
            )
        )

    def at_speed(self, tracks: Tensor, speed: Tensor, n_rows: int) -> Tensor:
        """Change the speed of tracks (R, M), at most `n_rows` of them; return (R, N)."""
        if n_rows:
            rows, is_hit = pick(speed != 1.0, n_rows)
            changed = change_speed(tracks.index_select(0, rows), speed[rows], self.n)
            replace_rows(tracks[:, : self.n], rows, is_hit, changed)
        return tracks[:, : self.n]


def samplers(sources: Ingredients) -> dict[str, Sampler]:
    """Return the samplers of all recordings and banks, by name."""
    long, short = long_and_short(sources.noise)
    named = {"speech": sources.speech, "music": sources.music, "recorded_singing": sources.singing}
    result = {
        name: Sampler(recordings)
        for name, recordings in {**named, **sources.banks}.items()
        if recordings
    }
    for name, kind in (("long", long), ("short", short)):
        if kind:
            result[name] = Sampler(sources.noise, kind)
    return result


def longest_raw(n: int) -> int:
    """Return the most samples that a track can need before its change of speed."""
    return _longest(n, max(SPEECH_SPEED[1], MUSIC_SPEED[1], NOISE_SPEED[1]))


def speech(context: BatchContext) -> Tensor:
    """Return tracks of one speaker, some with a second one, (B, N)."""
    r, draws, n_rows = context.recipe, context.draws, context.batch
    speed = _speeds(draws.between(n_rows, SPEECH_SPEED)[0], draws.hits(r.speech_speed, n_rows))
    n = _longest(context.n, SPEECH_SPEED[1]) if r.speech_speed else context.n
    second, has_second = pick(
        draws.hits(r.second_speaker, n_rows), capacity((n_rows, r.second_speaker))
    )
    n_raw = context.n_raw(speed)
    n_raw = torch.cat([n_raw, n_raw[second]])
    number, revoiced = context.bank.number, context.prob("revoiced", r.revoiced)
    sampler = torch.where(
        draws.hits(revoiced, len(n_raw)), number.get("revoiced", 0), number["speech"]
    )
    used = ["speech", "revoiced"] if revoiced else ["speech"]
    shortest = min(context.bank.shortest[name] for name in used)
    tracks = voices(
        context.bank, draws, sampler, n_raw, n, shortest=shortest, long_pauses=r.long_pauses
    )
    voice = tracks[:n_rows]
    _add(voice, second, has_second, tracks[n_rows:], draws, SECOND_SPEAKER_DB)
    return context.at_speed(voice, speed, capacity((n_rows, r.speech_speed)))


def music(context: BatchContext) -> Tensor:
    """Return one piece of music each, some with a second one or with singing, (B, N)."""
    r, draws, n_rows, number = context.recipe, context.draws, context.batch, context.bank.number
    singers = tuple(x for x in ("singing", "recorded_singing") if x in number)
    singing = r.singing if singers else 0.0
    recorded = context.prob("recorded_singing", r.recorded_singing if "singing" in number else 1.0)
    second, has_second = pick(
        draws.hits(r.second_piece, n_rows), capacity((n_rows, r.second_piece))
    )
    sung, is_sung = pick(draws.hits(singing, n_rows), capacity((n_rows, singing)))
    is_recorded = draws.hits(recorded, len(sung))
    # Pieces, second pieces and singing are drawn as the rows of one batch.
    n_pieces = n_rows + len(second)
    is_changed = draws.hits(r.music_speed, n_pieces)
    is_changed[n_rows:] &= has_second
    is_changed = torch.cat([is_changed, is_recorded & is_sung])
    speed = _speeds(draws.log_between(len(is_changed), MUSIC_SPEED)[0], is_changed)
    voice_of = torch.where(is_recorded, number.get("recorded_singing", 0), number.get("singing", 0))
    piece_of = torch.full((n_pieces,), number["music"], device=sung.device)
    n_changed = capacity(
        (n_rows, r.music_speed),
        (n_rows, r.second_piece * r.music_speed),
        (n_rows, singing * recorded),
    )
    n = _longest(context.n, MUSIC_SPEED[1]) if n_changed else context.n
    n_short = context.n_short(n, (n_pieces, ("music",)), (len(sung), singers))
    tracks = crops(
        context.bank,
        draws,
        torch.cat([piece_of, voice_of]),
        context.n_raw(speed),
        n,
        n_short=n_short,
    )
    tracks = context.at_speed(tracks, speed, n_changed)
    piece, voice = tracks[:n_rows], tracks[n_pieces:]
    _add(piece, second, has_second, tracks[n_rows:n_pieces], draws, SECOND_PIECE_DB)
    if len(sung):
        (under_db,) = draws.between(len(sung), PIECE_UNDER_SINGING_DB)
        under = piece.index_select(0, sung)
        over = under + voice * gain_to_snr(voice, under, -under_db)[:, None]
        over = torch.where(draws.hits(r.a_cappella, len(sung))[:, None], voice, over)
        replace_rows(piece, sung, is_sung, over)
    return piece


def noise(context: BatchContext) -> Tensor:
    """Return recorded noise (long, effects or both), generated noise, or a mix, (B, N)."""
    r, draws, n_rows, number = context.recipe, context.draws, context.batch, context.bank.number
    speed = _speeds(draws.between(n_rows, NOISE_SPEED)[0], draws.hits(r.noise_speed, n_rows))
    n = _longest(context.n, NOISE_SPEED[1]) if r.noise_speed else context.n
    p_generated = context.prob("generated", r.generated_noise)
    is_generated = draws.hits(p_generated, n_rows)
    p_both = p_generated * r.generated_and_recorded
    is_both = is_generated & draws.hits(r.generated_and_recorded, n_rows)
    # One row per example, generated or recorded, and one more for each example that has both.
    both, is_both = pick(is_both, capacity((n_rows, p_both)))
    is_recorded = torch.cat([~is_generated, is_both])
    n_raw = context.n_raw(speed)
    n_raw = torch.cat([n_raw, n_raw[both]])

    # Recorded noise is a long recording, effects over a long one, or effects alone.
    kind = draws.uniform(len(n_raw))
    has_effects, has_long = kind >= LONG_ALONE, kind < NOT_EFFECTS_ALONE
    p_effects = (1 - p_generated + p_both) * (1 - LONG_ALONE)
    if "long" not in number:
        has_effects, has_long, p_effects = kind >= 0, kind < 0, 1 - p_generated + p_both
    elif "short" not in number:
        has_effects, has_long, p_effects = kind < 0, kind >= 0, 0.0
    tracks = _long_or_generated(context, is_generated, n_raw, n)
    n_effects = capacity((n_rows, p_effects))
    if n_effects:
        rows, is_hit = pick(is_recorded & has_effects, n_effects)
        repeated = _several_effects(context, is_hit, n_raw[rows], n, p_effects)
        long = tracks.index_select(0, rows)
        (ambience_db,) = draws.between(n_effects, AMBIENCE_DB)
        gain = gain_to_snr(long, repeated, ambience_db) * has_long[rows]
        replace_rows(tracks, rows, is_hit, repeated.addcmul_(long, gain[:, None]))
    _add(tracks[:n_rows], both, is_both, tracks[n_rows:], draws, RECORDED_UNDER_GENERATED_DB)
    return context.at_speed(tracks[:n_rows], speed, capacity((n_rows, r.noise_speed)))


def _long_or_generated(
    context: BatchContext, is_generated: Tensor, n_raw: Tensor, n: int
) -> Tensor:
    """Return generated noise where `is_generated`, else long recordings, (R, n).

    Args:
        context: of the batch.
        is_generated: (B,) bool; further rows get long recordings.
        n_raw: (R,) int64, length of each row.
        n: samples.
    """
    bank, number, n_rows = context.bank, context.bank.number, len(is_generated)
    names = tuple(x for x in ("long", "generated") if x in number)
    if not names:
        return torch.zeros(len(n_raw), n, device=bank.device)
    plain, more = number.get("long", number[names[0]]), len(n_raw) - n_rows
    sampler = torch.where(is_generated, number.get("generated", plain), plain)
    sampler = torch.nn.functional.pad(sampler, (0, more), value=plain)
    n_short = context.n_short(n, (n_rows, names), (more, names[:1]))
    tracks = crops(bank, context.draws, sampler, n_raw, n, n_short=n_short)
    first = min(n, int(context.n * NOISE_SPEED[0]))  # no row ends earlier
    t = torch.arange(first, n, device=bank.device)
    tracks[:, first:].masked_fill_(t >= n_raw[:, None], 0.0)
    return tracks


def _several_effects(
    context: BatchContext, is_hit: Tensor, n_raw: Tensor, n: int, prob: float
) -> Tensor:
    """Return one to three effects for each row, each repeated independently, (C, n).

    Args:
        context: of the batch.
        is_hit, n_raw: (C,), which rows are used, and their lengths.
        n: samples.
        prob: probability that an example has effects.
    """
    count = 1 + context.draws.below(torch.full_like(n_raw, MOST_EFFECTS))
    more = [
        pick(is_hit & (count > k), min(len(n_raw), capacity((context.batch, prob * p))))
        for k, p in ((k, 1 - k / MOST_EFFECTS) for k in range(1, MOST_EFFECTS))
    ]
    lengths = torch.cat([n_raw, *(n_raw[rows] for rows, _ in more)])
    tracks = effects(context.bank, context.draws, context.bank.number["short"], lengths, n)
    first, at = tracks[: len(n_raw)], len(n_raw)
    for rows, has_more in more:
        other = tracks[at : at + len(rows)]
        replace_rows(first, rows, has_more, other + first.index_select(0, rows))
        at += len(rows)
    return first


def _add(
    samples: Tensor, rows: Tensor, is_hit: Tensor, more: Tensor, draws: Draws, below_db: Range
) -> None:
    """Add `more` (C, N) to rows of `samples` where `is_hit`, `below_db` below them, in place."""
    if len(rows) == 0:
        return
    under = samples.index_select(0, rows)
    gain = gain_to_snr(more, under, draws.between(len(rows), below_db)[0])
    replace_rows(samples, rows, is_hit, torch.addcmul(under, more, gain[:, None]))


def _speeds(speed: Tensor, is_changed: Tensor) -> Tensor:
    return torch.where(is_changed, speed, constant(1.0, speed.device))


def _longest(n: int, speed: float) -> int:
    return int(n * speed) + 3
