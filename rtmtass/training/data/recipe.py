"""What training examples are made of, and how often what happens to them, wherever they are made.

Two makers follow the recipe: `examples`, one example after the other on the host, and
`device_examples`, whole batches by torch. What both must agree on is here, and needs
nothing but numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from rtmtass.training.data.recordings import Recordings
from rtmtass.types import SAMPLE_RATE

if TYPE_CHECKING:
    from rtmtass.training.data.corpus import Corpus

Range = tuple[float, float]

BANKS = ("singing", "generated", "rooms", "revoiced")
"""Synthetic sound that is used where it has been made: see `synthesis`."""

PEAK = 0.99
"""No mixture is louder."""

AUDIBLE = 1e-7
"""Mean square, at full-scale recordings, below which a stem is left out."""

# Layout in time. Speech: one speaker's recordings, joined with gaps.
GAP_S: Range = (0.05, 0.6)
LONG_GAP_S: Range = (0.3, 3.0)
LATEST_WORD = 0.5  # share of the example before the first word, where there are long pauses
# Noise: from this length on a recording is cropped; a shorter one is an effect, and repeated.
LONG_S = 5.0
FADE = int(0.02 * SAMPLE_RATE)  # where a piece too short is repeated, samples
LONG_ALONE, NOT_EFFECTS_ALONE = 0.55, 0.85  # shares of noise, cumulative; between them: both
MOST_EFFECTS = 3
SHORTEST_EFFECT_GAP_S = 0.02
LONGEST_EFFECT_GAP_S: Range = (0.05, 2.5)
LATEST_EFFECT = 0.5  # share of an effect's length before it is first played

# Levels, dB: how far the second is below the first.
SECOND_SPEAKER_DB: Range = (0.0, 10.0)
SECOND_PIECE_DB: Range = (-6.0, 6.0)
PIECE_UNDER_SINGING_DB: Range = (0.0, 8.0)
RECORDED_UNDER_GENERATED_DB: Range = (-10.0, 10.0)
AMBIENCE_DB: Range = (0.0, 15.0)
EFFECT_DB: Range = (-9.0, 0.0)  # of an effect
REPEAT_DB: Range = (-6.0, 0.0)  # of each of its repeats
SNR_DB: Range = (-5.0, 5.0)  # of music and noise against speech, in the paper

# Sound. Music's speed is uniform in its logarithm, as are a bell's and a pop's frequency.
SPEECH_SPEED: Range = (0.88, 1.14)
MUSIC_SPEED: Range = (0.8, 1.25)
NOISE_SPEED: Range = (0.7, 1.4)
TILT_DB: Range = (-8.0, 8.0)
SHELF_HZ: Range = (300.0, 3500.0)
BELL_HZ: Range = (200.0, 7000.0)
BELL_Q: Range = (0.5, 2.0)
DRIVE_DB: Range = (0.0, 15.0)
COMPAND_BITS = 8
EDGE_FADE_S: Range = (0.005, 0.3)
EDGE_AT: Range = (0.1, 0.9)
LOW_EDGE_HZ: Range = (30.0, 300.0)
HIGH_EDGE_HZ: Range = (3000.0, 7500.0)
POP_S: Range = (0.02, 0.3)
POP_HZ: Range = (100.0, 7000.0)


@dataclass(frozen=True)
class Recipe:
    """How often what happens to a training example, as shares of the examples.

    `recorded_singing` is the share of the singing that is drawn from recordings of
    voices (the corpus's role "singing"), where there are any, instead of synthetic.
    A `pop` peaks `pop_db` above the root mean square of the rest; it is noise, also
    where there is no other.
    """

    one_alone: float = 0.12
    one_missing: float = 0.2
    all_silent: float = 0.03
    long_pauses: float = 0.2
    second_speaker: float = 0.08
    revoiced: float = 0.12
    speech_speed: float = 0.25
    speech_room: float = 0.2
    second_piece: float = 0.15
    music_speed: float = 0.4
    singing: float = 0.23
    recorded_singing: float = 0.4
    a_cappella: float = 0.1
    other_room: float = 0.05
    generated_noise: float = 0.3
    generated_and_recorded: float = 0.3
    noise_speed: float = 0.3
    tilt: float = 0.4
    soft_clip: float = 0.05
    compand: float = 0.01
    coded: float = 0.015
    start_or_stop: float = 0.12
    pop: float = 0.05
    pop_db: Range = (15.0, 40.0)
    band_limit: float = 0.06
    paper_snr: float = 0.55
    snr_spread_db: float = 7.0
    widest_snr_db: float = 20.0
    level_db: Range = (-45.0, -10.0)


@dataclass(frozen=True)
class Ingredients:
    """The recordings and banks of one split, as far as they exist.

    `singing` holds recorded voices, `banks` the synthetic ones among the rest of `BANKS`.
    """

    speech: Recordings
    music: Recordings
    noise: Recordings
    singing: Recordings | None
    banks: Mapping[str, Recordings]

    @classmethod
    def of(
        cls, corpus: Corpus, split: str, bank_sizes: Mapping[str, int] | None = None
    ) -> Ingredients:
        """Open the recordings of a split, decoding them now if need be.

        Args:
            corpus: whose recordings, and the banks in whose cache, are used.
            split: "train" or "dev".
            bank_sizes: how many entries of each bank to use; all if not given.

        Raises:
            DataError: the corpus lacks speech, music or noise.
        """
        speech = corpus.recordings("speech", split, keep_muffled=False)
        music, noise = (corpus.recordings(role, split) for role in ("music", "noise"))
        sizes = bank_sizes or {}
        banks = {name: corpus.bank(name, split, sizes.get(name)) for name in BANKS}
        sung = corpus.recordings("singing", split) if corpus.has("singing", split) else None
        made = {name: bank for name, bank in banks.items() if bank is not None}
        return cls(speech, music, noise, sung, made)

    @property
    def bank_sizes(self) -> dict[str, int]:
        """How many entries of each bank there are."""
        return {name: len(self.banks.get(name, ())) for name in BANKS}

    def fingerprint(self, recipe: Recipe) -> str:
        """Return what changes whenever the recordings in use or the recipe change."""
        used = (self.speech, self.music, self.noise, self.singing, *self.banks.values())
        prints = [recordings.fingerprint for recordings in used if recordings is not None]
        text = "|".join([*prints, repr(asdict(recipe))])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def long_and_short(noise: Recordings) -> tuple[list[int], list[int]]:
    """Return the indices of noise that is cropped and of noise that is repeated."""
    is_long = noise.lengths >= LONG_S * SAMPLE_RATE
    return np.flatnonzero(is_long).tolist(), np.flatnonzero(~is_long).tolist()
