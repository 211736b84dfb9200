"""The three stems of a whole batch before anything happens to their sound, drawn on a device."""

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
class Makers:
    """All it takes to make batches: where from, by which numbers, how often what, how many."""

    bank: DeviceBank
    draws: Draws
    recipe: Recipe
    batch: int
    n: int

    def share(self, name: str, share: float) -> float:
        """Return the share of what is drawn from a sampler: none where there is no such."""
        return share if name in self.bank.number else 0.0

    def n_raw(self, speed: Tensor) -> Tensor:
        """Return how many samples rows need before their change of speed, int64."""
        return torch.where(speed == 1.0, self.n, n_before_speed(self.n, speed))

    def n_short(self, n: int, *parts: tuple[int, tuple[str, ...]]) -> int:
        """Return how many rows may draw a recording of less than `n` samples.

        Args:
            n: samples.
            parts: so many rows draw from any of the samplers of these names.
        """
        return capacity(
            *(
                (n_rows, max((self.bank.share_shorter(x, n) for x in names), default=0.0))
                for n_rows, names in parts
            )
        )

    def at_speed(self, tracks: Tensor, speed: Tensor, n_rows: int) -> Tensor:
        """Return tracks (R, M) as (R, N); at most `n_rows` have a speed other than 1."""
        if n_rows:
            rows, is_hit = pick(speed != 1.0, n_rows)
            changed = change_speed(tracks.index_select(0, rows), speed[rows], self.n)
            replace_rows(tracks[:, : self.n], rows, is_hit, changed)
        return tracks[:, : self.n]


def samplers(given: Ingredients) -> dict[str, Sampler]:
    """Return all that is drawn from, by name."""
    long, short = long_and_short(given.noise)
    all_of = {"speech": given.speech, "music": given.music, "recorded_singing": given.singing}
    found = {name: Sampler(made) for name, made in {**all_of, **given.banks}.items() if made}
    for name, kind in (("long", long), ("short", short)):
        if kind:
            found[name] = Sampler(given.noise, kind)
    return found


def longest_raw(n: int) -> int:
    """Return how many samples any track may need before its change of speed."""
    return _longest(n, max(SPEECH_SPEED[1], MUSIC_SPEED[1], NOISE_SPEED[1]))


def speech(makers: Makers) -> Tensor:
    """Return one speaker each, sometimes with a second, (B, N)."""
    r, draws, n_rows = makers.recipe, makers.draws, makers.batch
    speed = _speeds(draws.between(n_rows, SPEECH_SPEED)[0], draws.hits(r.speech_speed, n_rows))
    n = _longest(makers.n, SPEECH_SPEED[1]) if r.speech_speed else makers.n
    second, has_second = pick(
        draws.hits(r.second_speaker, n_rows), capacity((n_rows, r.second_speaker))
    )
    n_raw = makers.n_raw(speed)
    n_raw = torch.cat([n_raw, n_raw[second]])
    number, revoiced = makers.bank.number, makers.share("revoiced", r.revoiced)
    sampler = torch.where(
        draws.hits(revoiced, len(n_raw)), number.get("revoiced", 0), number["speech"]
    )
    used = ["speech", "revoiced"] if revoiced else ["speech"]
    shortest = min(makers.bank.shortest[name] for name in used)
    tracks = voices(
        makers.bank, draws, sampler, n_raw, n, shortest=shortest, long_pauses=r.long_pauses
    )
    voice = tracks[:n_rows]
    _add(voice, second, has_second, tracks[n_rows:], draws, SECOND_SPEAKER_DB)
    return makers.at_speed(voice, speed, capacity((n_rows, r.speech_speed)))


def music(makers: Makers) -> Tensor:
    """Return one piece each, sometimes with a second, sometimes sung over, (B, N)."""
    r, draws, n_rows, number = makers.recipe, makers.draws, makers.batch, makers.bank.number
    singers = tuple(x for x in ("singing", "recorded_singing") if x in number)
    singing = r.singing if singers else 0.0
    recorded = makers.share("recorded_singing", r.recorded_singing if "singing" in number else 1.0)
    second, has_second = pick(
        draws.hits(r.second_piece, n_rows), capacity((n_rows, r.second_piece))
    )
    sung, is_sung = pick(draws.hits(singing, n_rows), capacity((n_rows, singing)))
    is_recorded = draws.hits(recorded, len(sung))
    # Pieces, second pieces and voices are the rows of one batch.
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
    n = _longest(makers.n, MUSIC_SPEED[1]) if n_changed else makers.n
    n_short = makers.n_short(n, (n_pieces, ("music",)), (len(sung), singers))
    tracks = crops(
        makers.bank, draws, torch.cat([piece_of, voice_of]), makers.n_raw(speed), n, n_short=n_short
    )
    tracks = makers.at_speed(tracks, speed, n_changed)
    piece, voice = tracks[:n_rows], tracks[n_pieces:]
    _add(piece, second, has_second, tracks[n_rows:n_pieces], draws, SECOND_PIECE_DB)
    if len(sung):
        (under_db,) = draws.between(len(sung), PIECE_UNDER_SINGING_DB)
        under = piece.index_select(0, sung)
        over = under + voice * gain_to_snr(voice, under, -under_db)[:, None]
        over = torch.where(draws.hits(r.a_cappella, len(sung))[:, None], voice, over)
        replace_rows(piece, sung, is_sung, over)
    return piece


def noise(makers: Makers) -> Tensor:
    """Return recorded noise, long, short or both, or generated, or both, (B, N)."""
    r, draws, n_rows, number = makers.recipe, makers.draws, makers.batch, makers.bank.number
    speed = _speeds(draws.between(n_rows, NOISE_SPEED)[0], draws.hits(r.noise_speed, n_rows))
    n = _longest(makers.n, NOISE_SPEED[1]) if r.noise_speed else makers.n
    p_generated = makers.share("generated", r.generated_noise)
    is_generated = draws.hits(p_generated, n_rows)
    p_both = p_generated * r.generated_and_recorded
    is_both = is_generated & draws.hits(r.generated_and_recorded, n_rows)
    # Each example is one row, generated or recorded; recorded noise beside generated is one more.
    both, is_both = pick(is_both, capacity((n_rows, p_both)))
    is_recorded = torch.cat([~is_generated, is_both])
    n_raw = makers.n_raw(speed)
    n_raw = torch.cat([n_raw, n_raw[both]])

    # Of recorded noise: a long recording alone, effects over a long one, or effects alone.
    kind = draws.uniform(len(n_raw))
    has_effects, has_long = kind >= LONG_ALONE, kind < NOT_EFFECTS_ALONE
    p_effects = (1 - p_generated + p_both) * (1 - LONG_ALONE)
    if "long" not in number:
        has_effects, has_long, p_effects = kind >= 0, kind < 0, 1 - p_generated + p_both
    elif "short" not in number:
        has_effects, has_long, p_effects = kind < 0, kind >= 0, 0.0
    tracks = _long_or_generated(makers, is_generated, n_raw, n)
    n_effects = capacity((n_rows, p_effects))
    if n_effects:
        rows, is_hit = pick(is_recorded & has_effects, n_effects)
        repeated = _several_effects(makers, is_hit, n_raw[rows], n, p_effects)
        long = tracks.index_select(0, rows)
        (ambience_db,) = draws.between(n_effects, AMBIENCE_DB)
        gain = gain_to_snr(long, repeated, ambience_db) * has_long[rows]
        replace_rows(tracks, rows, is_hit, repeated.addcmul_(long, gain[:, None]))
    _add(tracks[:n_rows], both, is_both, tracks[n_rows:], draws, RECORDED_UNDER_GENERATED_DB)
    return makers.at_speed(tracks[:n_rows], speed, capacity((n_rows, r.noise_speed)))


def _long_or_generated(makers: Makers, is_generated: Tensor, n_raw: Tensor, n: int) -> Tensor:
    """Return generated noise for the rows that are to have it, for the others long recordings."""
    bank, number, n_rows = makers.bank, makers.bank.number, len(is_generated)
    names = tuple(x for x in ("long", "generated") if x in number)
    if not names:
        return torch.zeros(len(n_raw), n, device=bank.device)
    plain, more = number.get("long", number[names[0]]), len(n_raw) - n_rows
    sampler = torch.where(is_generated, number.get("generated", plain), plain)
    sampler = torch.nn.functional.pad(sampler, (0, more), value=plain)
    n_short = makers.n_short(n, (n_rows, names), (more, names[:1]))
    tracks = crops(bank, makers.draws, sampler, n_raw, n, n_short=n_short)
    first = min(n, int(makers.n * NOISE_SPEED[0]))  # no row ends before
    t = torch.arange(first, n, device=bank.device)
    tracks[:, first:].masked_fill_(t >= n_raw[:, None], 0.0)
    return tracks


def _several_effects(makers: Makers, is_hit: Tensor, n_raw: Tensor, n: int, share: float) -> Tensor:
    """Return one to three effects for each row, each repeated on its own, (C, n).

    Args:
        makers: draws them.
        is_hit, n_raw: (C,), which rows are wanted at all, and how long they are.
        n: samples.
        share: of a batch's examples have effects.
    """
    count = 1 + makers.draws.below(torch.full_like(n_raw, MOST_EFFECTS))
    more = [
        pick(is_hit & (count > k), min(len(n_raw), capacity((makers.batch, share * p))))
        for k, p in ((k, 1 - k / MOST_EFFECTS) for k in range(1, MOST_EFFECTS))
    ]
    lengths = torch.cat([n_raw, *(n_raw[rows] for rows, _ in more)])
    tracks = effects(makers.bank, makers.draws, makers.bank.number["short"], lengths, n)
    first, at = tracks[: len(n_raw)], len(n_raw)
    for rows, has_more in more:
        other = tracks[at : at + len(rows)]
        replace_rows(first, rows, has_more, other + first.index_select(0, rows))
        at += len(rows)
    return first


def _add(
    samples: Tensor, rows: Tensor, is_hit: Tensor, more: Tensor, draws: Draws, below_db: Range
) -> None:
    """Add `more` (C, N) to the rows of `samples` that are hit, so far below them, in place."""
    if len(rows) == 0:
        return
    under = samples.index_select(0, rows)
    gain = gain_to_snr(more, under, draws.between(len(rows), below_db)[0])
    replace_rows(samples, rows, is_hit, torch.addcmul(under, more, gain[:, None]))


def _speeds(speed: Tensor, is_changed: Tensor) -> Tensor:
    return torch.where(is_changed, speed, constant(1.0, speed.device))


def _longest(n: int, speed: float) -> int:
    return int(n * speed) + 3
