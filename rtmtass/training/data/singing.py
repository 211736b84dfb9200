"""Synthetic singing from speech, because most music at hand is instrumental."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from rtmtass.errors import MissingPartError
from rtmtass.types import SAMPLE_RATE, Samples

Rng = np.random.Generator
Curve = NDArray[np.float64]

FRAME_S = 0.005
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "pentatonic": (0, 2, 4, 7, 9),
}
_LOWEST_HZ, _HIGHEST_HZ = 65.0, 900.0


@dataclass(frozen=True)
class Voice:
    """Vocoder parameters of a voice, one row per frame of 5 ms.

    Attributes:
        pitch: (T,), Hz; 0 if unvoiced.
        envelope: (T, F), power spectral envelope.
        aperiodicity: (T, F), 0..1.
    """

    pitch: Curve
    envelope: NDArray[np.float64]
    aperiodicity: NDArray[np.float64]


def analyse_voice(speech: Samples) -> Voice:
    """Analyse speech with the WORLD vocoder.

    Raises:
        MissingPartError: pyworld isn't installed.

    Source: M. Morise et al., WORLD, IEICE Trans. E99-D(7), 2016.
    """
    world = _world()
    x = speech.astype(np.float64)
    # Dither at -80 dB: WORLD divides by the power, which is 0 for digital silence.
    x += 1e-4 * np.abs(x).max() * np.random.default_rng(0).standard_normal(len(x))
    pitch, times = world.dio(x, SAMPLE_RATE, frame_period=1000 * FRAME_S)
    pitch = world.stonemask(x, pitch, times, SAMPLE_RATE)
    envelope = world.cheaptrick(x, pitch, times, SAMPLE_RATE)
    return Voice(pitch, envelope, world.d4c(x, pitch, times, SAMPLE_RATE))


def synthesise_voice(voice: Voice) -> Samples:
    """Return a voice as samples, (N,) float32.

    Raises:
        MissingPartError: pyworld isn't installed.
    """
    samples = _world().synthesize(
        np.ascontiguousarray(voice.pitch),
        np.ascontiguousarray(voice.envelope),
        np.ascontiguousarray(voice.aperiodicity),
        SAMPLE_RATE,
        1000 * FRAME_S,
    )
    return np.asarray(samples, dtype=np.float32)


def sing(speech: Samples, rng: Rng) -> Samples:
    """Return `speech` sung to a random melody, with random doubling, harmonies and reverb.

    Args:
        speech: (N,) float32, several seconds of one speaker without long pauses.
        rng: random generator.

    Returns:
        (M,) float32, about as long or longer; empty if less than 0.5 s is voiced.
    """
    spoken = analyse_voice(speech)
    if (spoken.pitch > 0).sum() * FRAME_S < 0.5:
        return np.zeros(0, np.float32)
    stretched, notes = set_to_melody(shift_formants(spoken, rng.uniform(0.88, 1.15)), rng)
    lead = synthesise_voice(_with_notes(stretched, notes, rng))
    choir = lead
    for _ in range(int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))):
        shift = float(rng.choice([0.0, 0.0, -12.0, 12.0, 4.0, 7.0, -5.0]))
        other = synthesise_voice(_with_notes(stretched, notes + shift, rng))
        other = np.roll(other, int(rng.uniform(0.0, 0.03) * SAMPLE_RATE))
        choir = choir + other * np.float32(rng.uniform(0.3, 0.9))
    return _add_reverb(choir, rng) if rng.random() < 0.7 else choir


def revoice(speech: Samples, rng: Rng) -> Samples:
    """Return `speech` with another pitch, pitch range and formants; empty if unvoiced.

    If vocoder artefacts occurred only in synthetic singing, a network would learn to
    recognise music by them.
    """
    voice = shift_formants(analyse_voice(speech), rng.uniform(0.85, 1.2))
    voiced = voice.pitch > 0
    if not voiced.any():
        return np.zeros(0, np.float32)
    middle = np.exp(np.log(voice.pitch[voiced]).mean())
    target = np.clip(middle * np.exp(rng.uniform(-0.35, 0.35)), 75.0, 320.0)
    spread = rng.uniform(0.5, 1.8)
    pitch = np.zeros_like(voice.pitch)
    pitch[voiced] = np.clip(target * (voice.pitch[voiced] / middle) ** spread, 55.0, 600.0)
    return synthesise_voice(Voice(pitch, voice.envelope, voice.aperiodicity))


def shift_formants(voice: Voice, factor: float) -> Voice:
    """Return the voice with all formant frequencies multiplied by `factor`."""
    n_bins = voice.envelope.shape[1]
    position = np.minimum(np.arange(n_bins) / factor, n_bins - 1.0)
    left = np.minimum(position.astype(int), n_bins - 2)
    u = position - left

    def warp(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(rows[:, left] * (1 - u) + rows[:, left + 1] * u)

    return Voice(voice.pitch, warp(voice.envelope), warp(voice.aperiodicity))


def set_to_melody(voice: Voice, rng: Rng) -> tuple[Voice, Curve]:
    """Stretch a voice in time to the notes of a random melody.

    Each syllable gets a note, long ones sometimes two or three. Unvoiced frames keep
    their duration; voiced ones are stretched to the length of the note.

    Returns:
        The stretched voice, whose pitch only marks voiced frames, and the note of every
        frame as a MIDI number (69 is 440 Hz).
    """
    beat = 60.0 / rng.uniform(60.0, 150.0) / FRAME_S
    melody = _Melody(voice.pitch, rng)
    source: list[Curve] = []
    notes: list[Curve] = []
    for first, last in syllables(voice):
        voiced = voice.pitch[first:last] > 0
        if not voiced.any():
            source.append(np.arange(first, min(last, first + int(beat)), dtype=np.float64))
            notes.append(np.full(len(source[-1]), melody.note()))
            continue
        length = float(
            rng.choice([0.5, 1.0, 1.0, 1.5, 2.0, 3.0], p=[0.3, 0.3, 0.1, 0.1, 0.15, 0.05])
        )
        n_voiced = max(length * beat - (~voiced).sum(), 0.0)
        stretch = np.where(voiced, np.clip(n_voiced / voiced.sum(), 0.6, 15.0), 1.0)
        ends = np.cumsum(stretch)
        n = int(ends[-1])
        source.append(np.interp(np.arange(n), ends - stretch, np.arange(first, last)))
        parts = 1 if n < 60 or rng.random() < 0.8 else int(rng.integers(2, 4))
        steps = [melody.next(rng) for _ in range(parts)]
        notes.append(np.repeat(steps, -(-n // parts))[:n].astype(np.float64))
    return _resample(voice, np.concatenate(source)), np.concatenate(notes)


def syllables(voice: Voice) -> list[tuple[int, int]]:
    """Return the first and last frame (exclusive) of each syllable.

    A syllable is a peak of the voiced level, at least 0.12 s from the next one; cuts are
    at the minima in between.
    """
    level = np.sqrt(voice.envelope.sum(axis=1)) * (voice.pitch > 0)
    smooth = ndimage.gaussian_filter1d(level, 0.03 / FRAME_S)
    peaks, _ = signal.find_peaks(
        smooth, distance=int(0.12 / FRAME_S), prominence=0.05 * smooth.max() + 1e-12
    )
    cuts = [0]
    for left, right in pairwise(peaks):
        cuts.append(int(left + np.argmin(smooth[left:right])))
    cuts.append(len(level))
    return [(a, b) for a, b in pairwise(cuts) if b > a]


class _Melody:
    """A random walk over the notes of a scale, in the singer's register."""

    def __init__(self, pitch: Curve, rng: Rng) -> None:
        middle = float(np.median(pitch[pitch > 0]))
        centre = 69 + 12 * np.log2(middle / 440.0) + rng.uniform(-1.0, 7.0)
        scale = SCALES[str(rng.choice(list(SCALES)))]
        tonic = int(rng.integers(12))
        lowest, highest = (69 + 12 * np.log2(hz / 440.0) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
        low, high = max(centre - 8.0, lowest), min(centre + 9.0, highest)
        self._notes = [m for m in range(128) if (m - tonic) % 12 in scale and low <= m <= high]
        self._index = len(self._notes) // 2

    def note(self) -> float:
        return float(self._notes[self._index])

    def next(self, rng: Rng) -> float:
        step = int(rng.choice([-3, -2, -1, 0, 1, 2, 4], p=[0.06, 0.12, 0.25, 0.2, 0.22, 0.1, 0.05]))
        self._index = int(np.clip(self._index + step, 0, len(self._notes) - 1))
        return self.note()


def _resample(voice: Voice, frames: Curve) -> Voice:
    """Return a voice interpolated at fractional frame indices."""
    left = np.minimum(frames.astype(int), len(voice.pitch) - 2)
    u = (frames - left)[:, None]
    log = np.log(voice.envelope + 1e-16)
    envelope = np.exp(log[left] * (1 - u) + log[left + 1] * u)
    aperiodicity = voice.aperiodicity[left] * (1 - u) + voice.aperiodicity[left + 1] * u
    return Voice(voice.pitch[np.round(frames).astype(int)], envelope, aperiodicity)


def _with_notes(voice: Voice, notes: Curve, rng: Rng) -> Voice:
    """Set a voice's pitch to its notes, with glides, vibrato and drift."""
    glide = ndimage.gaussian_filter1d(notes, rng.uniform(0.012, 0.04) / FRAME_S, mode="nearest")
    n = len(notes)
    starts = np.flatnonzero(np.diff(notes, prepend=notes[0] - 1.0))
    age_s = (np.arange(n) - np.repeat(starts, np.diff(np.append(starts, n)))) * FRAME_S
    depth = rng.uniform(0.0, 0.6) * np.clip((age_s - 0.15) / 0.25, 0.0, 1.0)
    phase = 2 * np.pi * rng.uniform(4.8, 6.8) * np.arange(n) * FRAME_S
    drift = ndimage.gaussian_filter1d(rng.standard_normal(n), 0.2 / FRAME_S, mode="nearest")
    tuning = rng.uniform(-0.06, 0.06)
    semitones = glide + depth * np.sin(phase + rng.uniform(0, 6.3)) + 0.5 * drift + tuning
    hz = 440.0 * 2 ** ((semitones - 69) / 12)
    return Voice(np.where(voice.pitch > 0, hz, 0.0), voice.envelope, voice.aperiodicity)


def _add_reverb(voice: Samples, rng: Rng) -> Samples:
    """Add artificial reverb: convolution with exponentially decaying noise."""
    rt60_s = rng.uniform(0.4, 2.2)
    n = int(rt60_s * SAMPLE_RATE)
    tail = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail = signal.lfilter([1.0], [1.0, -rng.uniform(0.2, 0.8)], tail)
    delayed = np.concatenate([np.zeros(int(rng.uniform(0.005, 0.05) * SAMPLE_RATE)), tail])
    wet = signal.oaconvolve(voice, delayed.astype(np.float32))[: len(voice)]
    gain = 10 ** (rng.uniform(-14.0, 0.0) / 20) * np.linalg.norm(voice) / np.linalg.norm(wet)
    return np.asarray(voice + gain * wet, dtype=np.float32)


@cache
def _world() -> Any:
    """Return pyworld's compiled module, without importing its package.

    The package's `__init__` needs pkg_resources, which setuptools 81 removed.

    Raises:
        MissingPartError: pyworld isn't installed.
    """
    package = importlib.util.find_spec("pyworld")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = Path(folder) / f"pyworld{suffix}"
            if path.exists():
                spec = importlib.util.spec_from_file_location("pyworld.pyworld", path)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise MissingPartError("singing needs the package pyworld: pip install 'rtmtass[train]'")
