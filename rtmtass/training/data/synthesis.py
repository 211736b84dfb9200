"""`rtmtass data synthesise`: makes the banks, synthetic sounds too slow to make during training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from scipy import signal

from rtmtass.training.data import noises, singing
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.mixing import speech_track
from rtmtass.training.data.recordings import PendingRecording, Sampler, store
from rtmtass.types import SAMPLE_RATE, Progress, Samples

SPEED_OF_SOUND = 343.0
"""In m/s."""
ITEM_S = 12.0
"""Length of an entry, other than a room's."""

_VERSION = 1  # increment to rebuild existing banks after a change of the code
_LONGEST_ROOM_S = 0.8

Make = Callable[[np.random.Generator], Samples]


@dataclass(frozen=True)
class BankPlan:
    """Size of each bank; a bank that is already larger isn't changed.

    Attributes:
        singing_minutes, revoiced_minutes, generated_minutes: length of these banks.
        rooms: number of room responses.
    """

    singing_minutes: float = 40.0
    revoiced_minutes: float = 40.0
    generated_minutes: float = 60.0
    rooms: int = 300

    @classmethod
    def of(cls, minutes: float) -> Self:
        """Return a plan of `minutes` in all, with the default's proportions and some of each."""
        usual = cls()
        total = usual.singing_minutes + usual.revoiced_minutes + usual.generated_minutes
        share = minutes / total
        return cls(
            usual.singing_minutes * share,
            usual.revoiced_minutes * share,
            usual.generated_minutes * share,
            math.ceil(usual.rooms * share),
        )

    def counts(self) -> dict[str, int]:
        """Return the number of entries of each bank."""
        minutes = {name: value for name, value in asdict(self).items() if name != "rooms"}
        counts = {
            name.removesuffix("_minutes"): int(np.ceil(60 * value / ITEM_S))
            for name, value in minutes.items()
        }
        return {**counts, "rooms": self.rooms}


def prepare_banks(
    corpus: Corpus,
    split: str,
    plan: BankPlan | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Make the banks of a split from that split's recordings.

    An interrupted run resumes where it stopped, and a larger plan only adds entries.

    Args:
        corpus: source of the speech; the banks are stored in its cache.
        split: "train" or "dev".
        plan: size of each bank.
        seed: entry k is a function of seed, split and k.
        progress: called with a bank's name, how many entries are done, and of how many.

    Raises:
        MissingPartError: pyworld isn't installed and singing is planned.
    """
    speech = corpus.recordings("speech", split, keep_muffled=False)
    sampler = Sampler(speech)
    makers: dict[str, Make] = {
        "rooms": make_room,
        "generated": lambda rng: make_noise(sampler, rng),
        "singing": lambda rng: make_singing(sampler, rng),
        "revoiced": lambda rng: make_revoiced(sampler, rng),
    }
    counts = (plan or BankPlan()).counts()
    for number, (name, make) in enumerate(makers.items()):
        if not counts[name]:
            continue
        seeds = [seed, sum(split.encode()), number]
        stamp = f"{name} {_VERSION} {seed} {speech.fingerprint if name != 'rooms' else ''}"
        entries = _entries(name, make, counts[name], seeds)
        store(corpus.cache / f"{name}-{split}", entries, stamp, progress, counts[name])


def _entries(name: str, make: Make, count: int, seeds: list[int]) -> Iterator[PendingRecording]:
    for number in range(count):

        def load(number: int = number) -> Samples:
            return make(np.random.default_rng([*seeds, number]))

        yield PendingRecording(name, f"{name}-{number:06d}", f"{number:06d}", load)


def make_noise(sampler: Sampler, rng: np.random.Generator) -> Samples:
    """Return one entry of generated noise: one kind, or two mixed; babble is one draw in six."""
    n = round(ITEM_S * SAMPLE_RATE)

    def draw() -> Samples:
        if rng.random() < 1 / 6:
            return noises.babble(sampler, n, rng)
        return noises.MAKERS[str(rng.choice(list(noises.MAKERS)))](n, rng)

    sound = draw()
    if rng.random() < 0.3:
        sound = sound + draw() * np.float32(10 ** (rng.uniform(-15.0, 0.0) / 20))
    return sound


def make_singing(sampler: Sampler, rng: np.random.Generator) -> Samples:
    """Return one speaker singing, cut to the entry's length; empty if too little is voiced."""
    speech = speech_track(sampler, round(0.7 * ITEM_S * SAMPLE_RATE), rng, from_start=True)
    return singing.sing(speech, rng)[: round(ITEM_S * SAMPLE_RATE)]


def make_revoiced(sampler: Sampler, rng: np.random.Generator) -> Samples:
    """Return one speaker in another voice; empty if nothing is voiced."""
    speech = speech_track(sampler, round(ITEM_S * SAMPLE_RATE), rng, from_start=True)
    return singing.revoice(speech, rng)


def make_room(rng: np.random.Generator) -> Samples:
    """Return the impulse response of a random room, the direct sound at sample 0.

    Source: image sources, J. Allen and D. Berkley, JASA 65(4), 1979; jittered against
    sweeping echoes, E. De Sena et al., IEEE TASLP 23(4), 2015.
    """
    size = np.array([rng.uniform(2.5, 10.0), rng.uniform(2.0, 8.0), rng.uniform(2.2, 4.0)])
    rt60_s = rng.uniform(0.1, _LONGEST_ROOM_S)
    microphone = size * rng.uniform(0.15, 0.85, 3)
    direction = rng.standard_normal(3)
    distance = rng.uniform(0.2, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, 4.0)
    offset = direction / np.linalg.norm(direction) * distance
    source = np.clip(microphone + offset, 0.1, size - 0.1)
    return image_sources(size, source, microphone, rt60_s, rng)


def image_sources(
    size: np.ndarray,
    source: np.ndarray,
    microphone: np.ndarray,
    rt60_s: float,
    rng: np.random.Generator,
) -> Samples:
    """Return the impulse response of a shoebox room, the direct sound at sample 0.

    Args:
        size, source, microphone: (3,), metres.
        rt60_s: reverberation time at low frequencies; it is shorter at high ones.
        rng: jitters the images and draws the walls' absorption of treble.
    """
    reach = SPEED_OF_SOUND * rt60_s
    counts = np.minimum(np.ceil(reach / (2 * size)).astype(int) + 1, 32)
    grids = np.meshgrid(*(np.arange(-c, c + 1) for c in counts), indexing="ij")
    cells = np.stack([g.ravel() for g in grids], axis=1)
    response = np.zeros(int(rt60_s * SAMPLE_RATE) + 2)
    direct = float(np.linalg.norm(source - microphone))
    for corner in range(8):
        flip = np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        images = (1 - 2 * flip) * source + 2 * cells * size
        distance = np.linalg.norm(images - microphone, axis=1)
        is_reflection = (cells != 0).any(axis=1) | flip.any()
        distance += rng.uniform(-0.04, 0.04, len(distance)) * is_reflection
        delay = np.maximum(distance - direct, 0.0) / SPEED_OF_SOUND * SAMPLE_RATE
        left = delay.astype(int)
        is_near = left < len(response) - 1
        left, u = left[is_near], (delay - left)[is_near]
        # All walls absorb equally, so the decay depends only on the delay.
        gain = 10 ** (-3 * left / (rt60_s * SAMPLE_RATE)) / np.maximum(distance[is_near], 0.05)
        np.add.at(response, left, gain * (1 - u))
        np.add.at(response, left + 1, gain * u)
    return _shape_spectrum(response, rt60_s, rng)


def _shape_spectrum(response: np.ndarray, rt60_s: float, rng: np.random.Generator) -> Samples:
    """Make the treble decay faster, and remove the excess bass of all-positive images."""
    corner_hz = rng.uniform(1000.0, 4000.0)
    lows = signal.lfilter(*signal.butter(1, corner_hz, fs=SAMPLE_RATE), response)
    faster = 10 ** (-3 * np.arange(len(response)) / (rt60_s * SAMPLE_RATE) * rng.uniform(0.0, 1.5))
    shaped = lows + (response - lows) * faster
    high_pass = signal.butter(1, 60.0, "highpass", fs=SAMPLE_RATE)
    return np.asarray(signal.lfilter(*high_pass, shaped), dtype=np.float32)
