"""Tracks of the three stems, the paper's mixing rule, and evaluation sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rtmtass.config import STEMS
from rtmtass.errors import DataError
from rtmtass.io.decode import WAV, encode
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.recipe import (
    AMBIENCE_DB,
    EFFECT_DB,
    FADE,
    LATEST_EFFECT,
    LONG_ALONE,
    LONGEST_EFFECT_GAP_S,
    MOST_EFFECTS,
    NOT_EFFECTS_ALONE,
    PEAK,
    PIECE_UNDER_SINGING_DB,
    REPEAT_DB,
    SHORTEST_EFFECT_GAP_S,
    SNR_DB,
    long_and_short,
)
from rtmtass.training.data.recordings import Recordings, Sampler
from rtmtass.types import SAMPLE_RATE, Progress, Samples

_TRIES = 100


def energy(samples: Samples) -> float:
    """Return the mean square of `samples`, over all axes."""
    flat = samples.reshape(-1)
    return float(np.dot(flat, flat)) / max(len(flat), 1)


def scale_to_snr(samples: Samples, reference: Samples, snr_db: float) -> Samples:
    """Return `samples` scaled so that `reference` is `snr_db` above them; silence is unchanged."""
    power = energy(samples)
    if power == 0.0:
        return samples
    return samples * np.float32(np.sqrt(energy(reference) / power) * 10 ** (-snr_db / 20))


def mix_paper(
    speech: Samples, music: Samples, noise: Samples, rng: np.random.Generator
) -> tuple[Samples, Samples]:
    """Mix three stems by the paper's rule.

    Music and noise are each scaled to an SNR against speech drawn from
    U(-5, 5) dB, with energies over the whole segment. If the mixture peaks above
    0.99, all stems are scaled down together.

    Args:
        speech, music, noise: (N,) float32 each.
        rng: draws the two SNRs, music's first.

    Returns:
        The mixture (N,) and its stems (3, N); the stems sum to the mixture.

    Source: Zhang, Li, Deng, Wang, "Multi-Task Audio Source Separation", ASRU 2021.
    """
    music = scale_to_snr(music, speech, rng.uniform(*SNR_DB))
    noise = scale_to_snr(noise, speech, rng.uniform(*SNR_DB))
    stems = np.stack([speech, music, noise]).astype(np.float32)
    peak = float(np.abs(stems.sum(axis=0)).max(initial=0.0))
    if peak > PEAK:
        stems *= np.float32(PEAK / peak)
    return stems.sum(axis=0), stems


@dataclass(frozen=True)
class NoiseSamplers:
    """Noise samplers: `long` recordings to crop, and `short` effects to repeat."""

    long: Sampler | None
    short: Sampler | None

    @classmethod
    def of(cls, recordings: Recordings) -> NoiseSamplers:
        """Split recordings at `LONG_S`."""
        kinds = long_and_short(recordings)
        return cls(*(Sampler(recordings, kind) if kind else None for kind in kinds))


def speech_track(
    sampler: Sampler,
    n: int,
    rng: np.random.Generator,
    *,
    gap_s: tuple[float, float] = (0.1, 0.6),
    from_start: bool = False,
    offset: int = 0,
) -> Samples:
    """Return a track of one speaker: recordings joined with short gaps.

    Args:
        sampler: draws the speaker, then the speaker's recordings.
        n: length of the track, in samples.
        rng: random generator.
        gap_s: shortest and longest gap between two recordings.
        from_start: begin at the start of a recording instead of at a random point.
        offset: silence before the first recording, in samples.

    Returns:
        (n,) float32, with every recording normalised to full scale.
    """
    track = np.zeros(n, np.float32)
    group = sampler.draw_group(rng)
    at, first = offset, not from_start
    while at < n:
        index = sampler.draw_in_group(group, rng)
        length = int(sampler.recordings.lengths[index])
        start = int(rng.integers(0, max(length - n // 2, 1))) if first else 0
        part = sampler.recordings.crop(index, start, n - at)
        track[at : at + len(part)] = part
        at += len(part) + int(rng.uniform(*gap_s) * SAMPLE_RATE)
        first = False
    return track


def music_track(sampler: Sampler, n: int, rng: np.random.Generator) -> Samples:
    """Return a random crop of one recording, (n,) float32; a shorter one is looped."""
    return _crop_or_loop(sampler, n, rng)


def noise_track(noise: NoiseSamplers, n: int, rng: np.random.Generator) -> Samples:
    """Return noise, (n,) float32: a long recording, repeated effects, or both mixed."""
    kind = rng.random()
    if noise.short is None or (noise.long is not None and kind < LONG_ALONE):
        if noise.long is None:
            raise DataError("there are no noise recordings; add some with: rtmtass data build")
        return _crop_or_loop(noise.long, n, rng)
    effects = np.zeros(n, np.float32)
    for _ in range(int(rng.integers(1, MOST_EFFECTS + 1))):
        _repeat_effect(noise.short, effects, rng)
    if noise.long is None or kind > NOT_EFFECTS_ALONE:
        return effects
    ambience = _crop_or_loop(noise.long, n, rng)
    return effects + scale_to_snr(ambience, effects, rng.uniform(*AMBIENCE_DB))


def _crop_or_loop(sampler: Sampler, n: int, rng: np.random.Generator) -> Samples:
    index = sampler.draw(rng)
    length = int(sampler.recordings.lengths[index])
    if length >= n:
        return sampler.recordings.crop(index, int(rng.integers(0, length - n + 1)), n)
    piece = sampler.recordings.crop(index, 0, length)
    fade = min(FADE, length // 2)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    piece[:fade] *= ramp
    piece[length - fade :] *= ramp[::-1]
    period, phase = length - fade, int(rng.integers(0, length))
    track = np.zeros(n + 2 * length, np.float32)
    for at in range(0, n + length, period):
        track[at : at + length] += piece
    return track[phase : phase + n]


def _repeat_effect(sampler: Sampler, track: Samples, rng: np.random.Generator) -> None:
    """Add one short effect to `track` repeatedly, with random gaps and levels, in place."""
    index = sampler.draw(rng)
    effect = sampler.recordings.crop(index, 0, len(track))
    level = energy(effect)
    if level == 0.0:
        return
    effect *= np.float32(0.1 / np.sqrt(level) * 10 ** (rng.uniform(*EFFECT_DB) / 20))
    longest_gap_s = rng.uniform(*LONGEST_EFFECT_GAP_S)
    at = int(rng.uniform(0.0, LATEST_EFFECT) * len(effect))
    while at < len(track):
        part = effect[: len(track) - at]
        track[at : at + len(part)] += part * np.float32(10 ** (rng.uniform(*REPEAT_DB) / 20))
        at += len(effect) + int(rng.uniform(SHORTEST_EFFECT_GAP_S, longest_gap_s) * SAMPLE_RATE)


def dev_mixtures(
    corpus: Corpus,
    n: int,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    split: str = "dev",
    singing: Recordings | None = None,
) -> Iterator[tuple[Samples, Samples]]:
    """Yield an evaluation set: `n` mixtures by the paper's rule, determined by the seed.

    Speech is one speaker at -35 to -20 dBFS, music one piece, noise one recording or
    several effects; none of the three is silent. Mixture k doesn't depend on `n`.

    Args:
        corpus: its recordings of `split` are used.
        n: number of mixtures.
        seconds: length of each.
        seed: seed of the set.
        split: "train" or "dev".
        singing: a bank of singing to mix over every piece, 0 to 8 dB above it.

    Yields:
        The mixture (N,) and its stems (3, N), float32.
    """
    samples = round(seconds * SAMPLE_RATE)
    speech = Sampler(corpus.recordings("speech", split))
    music = Sampler(corpus.recordings("music", split))
    noise = NoiseSamplers.of(corpus.recordings("noise", split))
    voices = None if singing is None else Sampler(singing)
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        voice = _until_audible(partial(speech_track, speech, samples, rng, from_start=True))
        level_db = 10 * np.log10(energy(voice))
        voice = voice * np.float32(10 ** ((rng.uniform(-35.0, -20.0) - level_db) / 20))
        piece = _until_audible(partial(music_track, music, samples, rng))
        if voices is not None:
            sung = _until_audible(partial(music_track, voices, samples, rng))
            piece = piece + scale_to_snr(sung, piece, -rng.uniform(*PIECE_UNDER_SINGING_DB))
        rest = _until_audible(partial(noise_track, noise, samples, rng))
        yield mix_paper(voice, piece, rest, rng)


def _until_audible(draw: Callable[[], Samples]) -> Samples:
    for _ in range(_TRIES):
        samples = draw()
        if is_audible(samples):
            return samples
    raise DataError(
        f"{_TRIES} draws in a row were nearly silent: the recordings are too quiet or too short;"
        " check them with: rtmtass data build"
    )


def is_audible(samples: Samples, *, fraction: float = 0.3) -> bool:
    """Return whether at least `fraction` of the 0.1 s segments hold sound.

    A segment holds sound if it is within 40 dB of the loudest one; the mean power of
    all must be above -60 dBFS.
    """
    n = min(SAMPLE_RATE // 10, len(samples))
    frames = samples[: len(samples) // n * n].reshape(-1, n)
    power = np.einsum("tn,tn->t", frames, frames) / n
    return bool(power.mean() > 1e-6 and (power > 1e-4 * power.max()).mean() >= fraction)


def write_evaluation_set(
    corpus: Corpus,
    out: Path,
    n: int,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    split: str = "dev",
    singing: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write an evaluation set: a folder per mixture, and `list.csv` that lists them.

    Each folder holds `mixture.wav`, `speech.wav`, `music.wav` and `noise.wav`,
    16 kHz 16-bit; the stems sum exactly to the mixture. `set.json` holds the set's
    parameters. Existing mixtures are overwritten.

    Args:
        corpus: its recordings are mixed.
        out: folder of the set; created if missing.
        n: number of mixtures.
        seconds, seed, split: see `dev_mixtures`.
        singing: mix synthetic singing over every piece, from the bank.
        progress: called with the set's name, how many are written, and of how many.

    Returns:
        Path of `list.csv`: name, mixture, speech, music, noise (paths relative to
        it), seconds, music_snr_db, noise_snr_db.

    Raises:
        DataError: the corpus lacks recordings or the bank of singing.
        OutputError: the set can't be written.
    """
    voices = corpus.bank("singing", split) if singing else None
    if singing and voices is None:
        raise DataError(
            f"there is no synthetic singing for {split}; make it with: rtmtass data synthesise"
        )
    rows: list[dict[str, object]] = []
    mixtures = dev_mixtures(corpus, n, seconds=seconds, seed=seed, split=split, singing=voices)
    for number, (_, stems) in enumerate(mixtures):
        name = f"{number:05d}"
        (out / name).mkdir(parents=True, exist_ok=True)
        # Stems are rounded before they are summed, so that the files sum exactly. Where stems
        # cancel, one may be louder than the mixture: all are scaled so that none clips.
        loudest = float(np.abs(stems).max())
        steps = np.round(stems * np.float32(32767.0 * min(1.0, PEAK / loudest)))
        tracks = {"mixture": steps.sum(axis=0), **dict(zip(STEMS, steps, strict=True))}
        for track, samples in tracks.items():
            # libsndfile rounds down when it writes a WAV; a quarter step prevents an error of 1.
            encode(out / name / f"{track}.wav", (samples + 0.25) / np.float32(32768.0), WAV)
        levels = [10 * np.log10(energy(stem)) for stem in stems]
        row: dict[str, object] = {"name": name, **{t: f"{name}/{t}.wav" for t in tracks}}
        row["seconds"] = seconds
        row["music_snr_db"], row["noise_snr_db"] = (f"{levels[0] - x:.2f}" for x in levels[1:])
        rows.append(row)
        if progress is not None:
            progress(out.name, number + 1, n)
    parameters = {"n": n, "seconds": seconds, "seed": seed, "split": split, "singing": singing}
    (out / "set.json").write_text(json.dumps(parameters, indent=2) + "\n")
    with open(out / "list.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return out / "list.csv"
