"""Training examples made one at a time on the host: drawing, augmentation and levels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rtmtass.config import STEMS
from rtmtass.training.data import augment
from rtmtass.training.data.codecs import random_codec
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.mixing import (
    NoiseSamplers,
    energy,
    music_track,
    noise_track,
    scale_to_snr,
    speech_track,
)
from rtmtass.training.data.recipe import (
    AUDIBLE,
    DRIVE_DB,
    GAP_S,
    HIGH_EDGE_HZ,
    LATEST_WORD,
    LONG_GAP_S,
    LOW_EDGE_HZ,
    MUSIC_SPEED,
    NOISE_SPEED,
    PEAK,
    PIECE_UNDER_SINGING_DB,
    RECORDED_UNDER_GENERATED_DB,
    SECOND_PIECE_DB,
    SECOND_SPEAKER_DB,
    SNR_DB,
    SPEECH_SPEED,
    Ingredients,
    Recipe,
)
from rtmtass.training.data.recordings import Sampler
from rtmtass.types import Samples


class ExampleMaker:
    """Makes single examples, stems (3, N), from the recordings of one split.

    Args:
        corpus: its recordings and the banks in its cache are used.
        split: "train" or "dev".
        recipe: probabilities and ranges of the augmentations.
        bank_sizes: entries of each bank to use; all if not given.

    Attributes:
        bank_sizes: entries of each bank in use.
        fingerprint: hash of recipe and recordings.

    Raises:
        DataError: the corpus lacks speech, music or noise.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        recipe: Recipe | None = None,
        bank_sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.recipe = recipe or Recipe()
        sources = Ingredients.of(corpus, split, bank_sizes)
        self._recorded_singing = None if sources.singing is None else Sampler(sources.singing)
        self._speech_sampler, self._music_sampler = Sampler(sources.speech), Sampler(sources.music)
        self._noise_samplers = NoiseSamplers.of(sources.noise)
        self._banks = {name: Sampler(bank) for name, bank in sources.banks.items()}
        self.bank_sizes = sources.bank_sizes
        self.fingerprint = sources.fingerprint(self.recipe)

    def make(self, n: int, rng: np.random.Generator) -> Samples:
        """Return the stems of one example, (3, n) float32; they sum to the mixture."""
        present = self._present(rng)
        stems = np.zeros((len(STEMS), n), np.float32)
        for stem, draw in enumerate((self._speech, self._music, self._noise)):
            if present[stem]:
                stems[stem] = self._finish(draw(n, rng), rng, is_speech=stem == 0)
        if rng.random() < self.recipe.band_limit:
            stems = augment.band_limit(stems, rng.uniform(*LOW_EDGE_HZ), rng.uniform(*HIGH_EDGE_HZ))
        return self._level(stems, rng)

    def _present(self, rng: np.random.Generator) -> tuple[bool, ...]:
        r, u, which = self.recipe, rng.random(), int(rng.integers(3))
        if u < r.all_silent:
            return (False, False, False)
        if u < r.all_silent + r.one_alone:
            return tuple(stem == which for stem in range(3))
        if u < r.all_silent + r.one_alone + r.one_missing:
            return tuple(stem != which for stem in range(3))
        return (True, True, True)

    def _speech(self, n: int, rng: np.random.Generator) -> Samples:
        r = self.recipe
        speed = rng.uniform(*SPEECH_SPEED) if rng.random() < r.speech_speed else 1.0
        n_raw = n if speed == 1.0 else augment.n_before_speed(n, speed)
        voice = self._voice(n_raw, rng)
        if rng.random() < r.second_speaker:
            voice = voice + scale_to_snr(
                self._voice(n_raw, rng), voice, rng.uniform(*SECOND_SPEAKER_DB)
            )
        if speed != 1.0:
            voice = augment.change_speed(voice, speed, n)
        return self._maybe_room(voice, r.speech_room, rng)

    def _voice(self, n: int, rng: np.random.Generator) -> Samples:
        has_pauses = rng.random() < self.recipe.long_pauses
        offset = int(rng.uniform(0.0, LATEST_WORD) * n) if has_pauses else 0
        gap_s = LONG_GAP_S if has_pauses else GAP_S
        bank = self._bank("revoiced", self.recipe.revoiced, rng)
        return speech_track(bank or self._speech_sampler, n, rng, gap_s=gap_s, offset=offset)

    def _music(self, n: int, rng: np.random.Generator) -> Samples:
        r = self.recipe
        piece = self._piece(n, rng)
        if rng.random() < r.second_piece:
            piece = piece + scale_to_snr(self._piece(n, rng), piece, rng.uniform(*SECOND_PIECE_DB))
        sung = self._singing(n, rng) if rng.random() < r.singing else None
        if sung is not None:
            if rng.random() < r.a_cappella:
                piece = sung
            else:
                piece = piece + scale_to_snr(sung, piece, -rng.uniform(*PIECE_UNDER_SINGING_DB))
        return self._maybe_room(piece, r.other_room, rng)

    def _singing(self, n: int, rng: np.random.Generator) -> Samples | None:
        """Return singing, recorded or synthetic; None if there is neither."""
        synthetic, recorded = self._banks.get("singing"), self._recorded_singing
        if recorded and (synthetic is None or rng.random() < self.recipe.recorded_singing):
            return self._at_random_speed(recorded, n, rng)
        return None if synthetic is None else music_track(synthetic, n, rng)

    def _piece(self, n: int, rng: np.random.Generator) -> Samples:
        if rng.random() >= self.recipe.music_speed:
            return music_track(self._music_sampler, n, rng)
        return self._at_random_speed(self._music_sampler, n, rng)

    def _at_random_speed(self, sampler: Sampler, n: int, rng: np.random.Generator) -> Samples:
        speed = float(np.exp(rng.uniform(*np.log(MUSIC_SPEED))))
        raw = music_track(sampler, augment.n_before_speed(n, speed), rng)
        return augment.change_speed(raw, speed, n)

    def _noise(self, n: int, rng: np.random.Generator) -> Samples:
        r = self.recipe
        speed = rng.uniform(*NOISE_SPEED) if rng.random() < r.noise_speed else 1.0
        n_raw = n if speed == 1.0 else augment.n_before_speed(n, speed)
        generated = self._bank("generated", r.generated_noise, rng)
        if generated is not None:
            noise = music_track(generated, n_raw, rng)
            if rng.random() < r.generated_and_recorded:
                more = noise_track(self._noise_samplers, n_raw, rng)
                noise = noise + scale_to_snr(more, noise, rng.uniform(*RECORDED_UNDER_GENERATED_DB))
        else:
            noise = noise_track(self._noise_samplers, n_raw, rng)
        if speed != 1.0:
            noise = augment.change_speed(noise, speed, n)
        return self._maybe_room(noise, r.other_room, rng)

    def _maybe_room(self, samples: Samples, prob: float, rng: np.random.Generator) -> Samples:
        rooms = self._bank("rooms", prob, rng)
        if rooms is None:
            return samples
        index = rooms.draw(rng)
        length = int(rooms.recordings.lengths[index])
        return augment.add_room(samples, rooms.recordings.crop(index, 0, length))

    def _bank(self, name: str, prob: float, rng: np.random.Generator) -> Sampler | None:
        """Return a bank with probability `prob`, else None; None too if it doesn't exist."""
        return self._banks.get(name) if rng.random() < prob else None

    def _finish(self, samples: Samples, rng: np.random.Generator, *, is_speech: bool) -> Samples:
        r = self.recipe
        tilt, clip, code, edge = rng.random(4)
        if tilt < r.tilt:
            samples = augment.random_tilt(samples, rng)
        if clip < r.soft_clip:
            samples = augment.soft_clip(samples, rng.uniform(*DRIVE_DB))
        if code < r.compand:
            samples = augment.compand(samples)
        elif code < r.compand + r.coded:
            samples = random_codec(samples, rng)
        if edge < r.start_or_stop and not is_speech:  # speech already has pauses
            samples = augment.start_or_stop(samples, rng)
        return samples

    def _level(self, stems: Samples, rng: np.random.Generator) -> Samples:
        """Set the SNRs against speech, then the mixture's level, limited to `PEAK`."""
        music_db, noise_db = self._snr(rng), self._snr(rng)
        level_db = rng.uniform(*self.recipe.level_db)
        for stem, snr_db in enumerate((0.0, music_db, noise_db)):
            power = energy(stems[stem])
            # A nearly silent crop is muted: amplified, it would only be hiss.
            stems[stem] *= np.float32(
                10 ** (-snr_db / 20) / np.sqrt(power) if power > AUDIBLE else 0.0
            )
        mixture = stems.sum(axis=0)
        power = energy(mixture)
        if power == 0.0:
            return np.zeros_like(stems)
        if rng.random() < self.recipe.pop:
            pop_db = rng.uniform(*self.recipe.pop_db)
            pop = augment.make_pop(stems.shape[1], rng) * np.float32(np.sqrt(power))
            stems[2] += pop * np.float32(10 ** (pop_db / 20))
            mixture = stems.sum(axis=0)
        gain = 10 ** (level_db / 20) / np.sqrt(power)
        peak = float(np.abs(mixture).max())
        stems *= np.float32(min(gain, PEAK / peak))
        return stems

    def _snr(self, rng: np.random.Generator) -> float:
        r = self.recipe
        if rng.random() < r.paper_snr:
            return float(rng.uniform(*SNR_DB))
        return float(
            np.clip(r.snr_spread_db * rng.standard_normal(), -r.widest_snr_db, r.widest_snr_db)
        )
