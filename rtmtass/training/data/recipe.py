"""The recipe of training examples: probabilities and ranges of mixing and augmentation.

Two implementations follow it: `examples`, one example at a time on the host, and
`device.examples`, whole batches in torch. This module needs only numpy.
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
"""Banks of synthetic sounds, each optional; see `synthesis`."""

PEAK = 0.99
"""Highest peak of a mixture."""

AUDIBLE = 1e-7
"""Mean square, of recordings normalised to full scale, below which a stem is muted."""

# Layout in time. Speech: recordings of one speaker, joined with gaps.
GAP_S: Range = (0.05, 0.6)
LONG_GAP_S: Range = (0.3, 3.0)
LATEST_WORD = 0.5  # latest start of speech with long pauses, as a fraction of the example
# Noise: recordings of at least this length are cropped, shorter ones are repeated as effects.
LONG_S = 5.0
FADE = int(0.02 * SAMPLE_RATE)  # cross-fade of a looped recording, samples
LONG_ALONE, NOT_EFFECTS_ALONE = 0.55, 0.85  # cumulative probabilities; in between: both
MOST_EFFECTS = 3
SHORTEST_EFFECT_GAP_S = 0.02
LONGEST_EFFECT_GAP_S: Range = (0.05, 2.5)
LATEST_EFFECT = 0.5  # latest first start of an effect, as a fraction of its length

# Levels in dB: the second signal relative to, and below, the first.
SECOND_SPEAKER_DB: Range = (0.0, 10.0)
SECOND_PIECE_DB: Range = (-6.0, 6.0)
PIECE_UNDER_SINGING_DB: Range = (0.0, 8.0)
RECORDED_UNDER_GENERATED_DB: Range = (-10.0, 10.0)
AMBIENCE_DB: Range = (0.0, 15.0)
EFFECT_DB: Range = (-9.0, 0.0)  # level of an effect
REPEAT_DB: Range = (-6.0, 0.0)  # level of each repeat
SNR_DB: Range = (-5.0, 5.0)  # speech against music, and against noise, as in the paper

# Augmentation. The speed of music and the frequencies of bells and pops are log-uniform.
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
    """Probabilities and ranges of mixing and augmentation.

    Fields without a unit are probabilities, 0..1, drawn once per example unless stated
    otherwise. Most examples are mixtures of all three stems by the paper's rule, hardly
    augmented: with two to four times as many augmentations, 35 % of the examples lacking a
    stem and half of them starting in foreign states, a trained network was 0.5 to 1 dB
    worse on every validation set. Not tuned one by one; the table [recipe] of a training
    config changes them.

    Attributes:
        one_alone: exactly one stem is present. With `one_missing` and `all_silent`,
            13 % of the examples lack a stem. With 35 % absent stems leak 5 to 7 dB less,
            but mixtures of all three lose.
        one_missing: exactly one stem is absent.
        all_silent: no stem is present.
        long_pauses: a speaker pauses for 0.3 to 3 s (`LONG_GAP_S`) instead of 0.05 to
            0.6 s and may start late; drawn for each speaker.
        second_speaker: a second speaker is added, 0 to 10 dB below the first
            (`SECOND_SPEAKER_DB`).
        revoiced: a speaker is taken from the bank "revoiced", so that traces of the
            vocoder don't occur in synthetic singing only; drawn for each speaker.
        speech_speed: speech is played at 0.88 to 1.14 times its speed (`SPEECH_SPEED`).
        speech_room: speech gets a room response from the bank "rooms".
        second_piece: a second piece of music is added, -6 to 6 dB below the first
            (`SECOND_PIECE_DB`).
        music_speed: music is played at 0.8 to 1.25 times its speed (`MUSIC_SPEED`);
            drawn for each piece.
        singing: singing is mixed over the music, 0 to 8 dB above it
            (`PIECE_UNDER_SINGING_DB`), as most music at hand is instrumental.
        recorded_singing: of the examples with singing, fraction that takes it from
            recordings (role "singing" of the corpus) instead of the synthetic bank.
            If only one of the two exists, that one is always used.
        a_cappella: of the examples with singing, fraction without other music.
        other_room: music or noise gets a room response; drawn for each of the two.
        generated_noise: noise is taken from the bank "generated" instead of recordings.
        generated_and_recorded: of the examples with generated noise, fraction to which
            recorded noise is added.
        noise_speed: noise is played at 0.7 to 1.4 times its speed (`NOISE_SPEED`).
        tilt: a stem gets a random tilt and bell filter of up to 8 dB (`TILT_DB`), as
            microphones and equalisers vary; drawn for each stem.
        soft_clip: a stem is overdriven by 0 to 15 dB (`DRIVE_DB`); drawn for each stem.
        compand: a stem is mu-law coded, as in telephony; drawn for each stem.
        coded: a stem goes through a lossy codec; drawn for each stem, never together
            with `compand`. Ignored on a device, where codecs don't run.
        start_or_stop: music or noise starts or stops within the example; drawn for each
            of the two. Speech is excluded, as it has pauses.
        pop: a short burst (clap, knock, plosive) is added to the noise stem, even if no
            other noise is present. Such pops disturb the network's running level.
        pop_db: peak of a pop above the root mean square of the rest, range in dB.
        band_limit: all stems go through a band-pass with edges of 30 to 300 Hz and 3 to
            7.5 kHz (`LOW_EDGE_HZ`, `HIGH_EDGE_HZ`).
        paper_snr: SNRs are uniform in -5 to 5 dB as in the paper (`SNR_DB`) instead of
            normally distributed; drawn separately for music and noise.
        snr_spread_db: standard deviation of the other SNRs, in dB; their mean is 0.
        widest_snr_db: limit of the other SNRs, plus or minus, in dB.
        level_db: level of the mixture, range in dBFS (root mean square). Lower only
            where the peak would exceed `PEAK`.
    """

    one_alone: float = 0.04
    one_missing: float = 0.08
    all_silent: float = 0.01
    long_pauses: float = 0.1
    second_speaker: float = 0.03
    revoiced: float = 0.03
    speech_speed: float = 0.1
    speech_room: float = 0.08
    second_piece: float = 0.05
    music_speed: float = 0.2
    singing: float = 0.15
    recorded_singing: float = 0.6
    a_cappella: float = 0.05
    other_room: float = 0.02
    generated_noise: float = 0.1
    generated_and_recorded: float = 0.5
    noise_speed: float = 0.15
    tilt: float = 0.12
    soft_clip: float = 0.01
    compand: float = 0.0
    coded: float = 0.0
    start_or_stop: float = 0.05
    pop: float = 0.03
    pop_db: Range = (15.0, 40.0)
    band_limit: float = 0.02
    paper_snr: float = 0.9
    snr_spread_db: float = 7.0
    widest_snr_db: float = 20.0
    level_db: Range = (-45.0, -10.0)


@dataclass(frozen=True)
class Ingredients:
    """The recordings and banks of one split.

    Attributes:
        speech, music, noise: recordings.
        singing: recordings of unaccompanied singing; None if there are none.
        banks: the existing banks of `BANKS`, by name.
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
        """Open the recordings and banks of a split, decoding them first if necessary.

        Args:
            corpus: its recordings and the banks in its cache are used.
            split: "train" or "dev".
            bank_sizes: entries of each bank to use; all if not given.

        Raises:
            DataError: the corpus lacks speech, music or noise.
        """
        speech = corpus.recordings("speech", split, keep_muffled=False)
        music, noise = (corpus.recordings(role, split) for role in ("music", "noise"))
        sizes = bank_sizes or {}
        banks = {name: corpus.bank(name, split, sizes.get(name)) for name in BANKS}
        singing = corpus.recordings("singing", split) if corpus.has("singing", split) else None
        existing = {name: bank for name, bank in banks.items() if bank is not None}
        return cls(speech, music, noise, singing, existing)

    @property
    def bank_sizes(self) -> dict[str, int]:
        """Number of entries of each bank."""
        return {name: len(self.banks.get(name, ())) for name in BANKS}

    def fingerprint(self, recipe: Recipe) -> str:
        """Return a hash of the recordings in use and the recipe."""
        used = (self.speech, self.music, self.noise, self.singing, *self.banks.values())
        prints = [recordings.fingerprint for recordings in used if recordings is not None]
        text = "|".join([*prints, repr(asdict(recipe))])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def long_and_short(noise: Recordings) -> tuple[list[int], list[int]]:
    """Return the indices of noise recordings to crop, and of those to repeat as effects."""
    is_long = noise.lengths >= LONG_S * SAMPLE_RATE
    return np.flatnonzero(is_long).tolist(), np.flatnonzero(~is_long).tolist()
