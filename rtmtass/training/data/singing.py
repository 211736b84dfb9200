"""Speech made to sing, because the music at hand is instrumental and singing belongs to music."""

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
    """A voice taken apart, one row per 5 ms: pitch in Hz (0 unvoiced), envelope, breathiness."""

    pitch: Curve
    envelope: NDArray[np.float64]
    breath: NDArray[np.float64]


def analyse_voice(speech: Samples) -> Voice:
    """Analyse speech with the WORLD vocoder.

    Raises:
        MissingPartError: pyworld isn't installed.

    Source: M. Morise et al., WORLD, IEICE Trans. E99-D(7), 2016.
    """
    world = _world()
    x = speech.astype(np.float64)
    # A dither 80 dB down: WORLD divides by the power of digital silence.
    x += 1e-4 * np.abs(x).max() * np.random.default_rng(0).standard_normal(len(x))
    pitch, times = world.dio(x, SAMPLE_RATE, frame_period=1000 * FRAME_S)
    pitch = world.stonemask(x, pitch, times, SAMPLE_RATE)
    envelope = world.cheaptrick(x, pitch, times, SAMPLE_RATE)
    return Voice(pitch, envelope, world.d4c(x, pitch, times, SAMPLE_RATE))


def synthesise_voice(voice: Voice) -> Samples:
    """Synthesise a voice, (N,) float32."""
    sound = _world().synthesize(
        np.ascontiguousarray(voice.pitch),
        np.ascontiguousarray(voice.envelope),
        np.ascontiguousarray(voice.breath),
        SAMPLE_RATE,
        1000 * FRAME_S,
    )
    return np.asarray(sound, dtype=np.float32)


def sing(speech: Samples, rng: Rng) -> Samples:
    """Return `speech` sung: a melody of its own, doubled or harmonised, in a hall.

    Args:
        speech: (N,) float32, some seconds of one speaker, mostly talking.
        rng: draws the melody and the manner.

    Returns:
        (M,) float32, about as long or longer; empty if too little is voiced.
    """
    spoken = analyse_voice(speech)
    if (spoken.pitch > 0).sum() * FRAME_S < 0.5:
        return np.zeros(0, np.float32)
    stretched, notes = set_to_melody(reshape_throat(spoken, rng.uniform(0.88, 1.15)), rng)
    lead = synthesise_voice(_at_pitch(stretched, notes, rng))
    choir = lead
    for _ in range(int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))):
        shift = float(rng.choice([0.0, 0.0, -12.0, 12.0, 4.0, 7.0, -5.0]))
        other = synthesise_voice(_at_pitch(stretched, notes + shift, rng))
        other = np.roll(other, int(rng.uniform(0.0, 0.03) * SAMPLE_RATE))
        choir = choir + other * np.float32(rng.uniform(0.3, 0.9))
    return _in_hall(choir, rng) if rng.random() < 0.7 else choir


def revoice(speech: Samples, rng: Rng) -> Samples:
    """Return `speech` in another voice: other pitch, pitch range and throat, same words.

    The vocoder must not be heard in sung music alone, or its traces would be
    what a network takes for music.
    """
    voice = reshape_throat(analyse_voice(speech), rng.uniform(0.85, 1.2))
    voiced = voice.pitch > 0
    if not voiced.any():
        return np.zeros(0, np.float32)
    middle = np.exp(np.log(voice.pitch[voiced]).mean())
    wanted = np.clip(middle * np.exp(rng.uniform(-0.35, 0.35)), 75.0, 320.0)
    spread = rng.uniform(0.5, 1.8)
    pitch = np.zeros_like(voice.pitch)
    pitch[voiced] = np.clip(wanted * (voice.pitch[voiced] / middle) ** spread, 55.0, 600.0)
    return synthesise_voice(Voice(pitch, voice.envelope, voice.breath))


def reshape_throat(voice: Voice, factor: float) -> Voice:
    """Return the voice with all formants `factor` times as high."""
    n_bins = voice.envelope.shape[1]
    place = np.minimum(np.arange(n_bins) / factor, n_bins - 1.0)
    left = np.minimum(place.astype(int), n_bins - 2)
    u = place - left

    def warp(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(rows[:, left] * (1 - u) + rows[:, left + 1] * u)

    return Voice(voice.pitch, warp(voice.envelope), warp(voice.breath))


def set_to_melody(voice: Voice, rng: Rng) -> tuple[Voice, Curve]:
    """Stretch a voice to the notes of a melody it is given.

    Each syllable gets a note, long ones sometimes two or three. Consonants keep
    their pace; vowels are stretched until the note is full.

    Returns:
        The stretched voice, with its pitch only telling voiced from unvoiced, and
        the note of every frame in semitones (MIDI numbers, 69 is 440 Hz).
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
        wanted = max(length * beat - (~voiced).sum(), 0.0)
        pace = np.where(voiced, np.clip(wanted / voiced.sum(), 0.6, 15.0), 1.0)
        ends = np.cumsum(pace)
        n = int(ends[-1])
        source.append(np.interp(np.arange(n), ends - pace, np.arange(first, last)))
        parts = 1 if n < 60 or rng.random() < 0.8 else int(rng.integers(2, 4))
        steps = [melody.next(rng) for _ in range(parts)]
        notes.append(np.repeat(steps, -(-n // parts))[:n].astype(np.float64))
    return _resample(voice, np.concatenate(source)), np.concatenate(notes)


def syllables(voice: Voice) -> list[tuple[int, int]]:
    """Return where syllables begin and end, in frames: cut where the voice is weakest.

    A syllable is a swell of voiced energy; two are at least 0.12 s apart.
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
    """A random walk over a scale, in the singer's register."""

    def __init__(self, pitch: Curve, rng: Rng) -> None:
        middle = float(np.median(pitch[pitch > 0]))
        centre = 69 + 12 * np.log2(middle / 440.0) + rng.uniform(-1.0, 7.0)
        scale = SCALES[str(rng.choice(list(SCALES)))]
        tonic = int(rng.integers(12))
        lowest, highest = (69 + 12 * np.log2(hz / 440.0) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
        low, high = max(centre - 8.0, lowest), min(centre + 9.0, highest)
        self._notes = [m for m in range(128) if (m - tonic) % 12 in scale and low <= m <= high]
        self._place = len(self._notes) // 2

    def note(self) -> float:
        return float(self._notes[self._place])

    def next(self, rng: Rng) -> float:
        step = int(rng.choice([-3, -2, -1, 0, 1, 2, 4], p=[0.06, 0.12, 0.25, 0.2, 0.22, 0.1, 0.05]))
        self._place = int(np.clip(self._place + step, 0, len(self._notes) - 1))
        return self.note()


def _resample(voice: Voice, place: Curve) -> Voice:
    """Read a voice's frames at fractional places."""
    left = np.minimum(place.astype(int), len(voice.pitch) - 2)
    u = (place - left)[:, None]
    log = np.log(voice.envelope + 1e-16)
    envelope = np.exp(log[left] * (1 - u) + log[left + 1] * u)
    breath = voice.breath[left] * (1 - u) + voice.breath[left + 1] * u
    return Voice(voice.pitch[np.round(place).astype(int)], envelope, breath)


def _at_pitch(voice: Voice, notes: Curve, rng: Rng) -> Voice:
    """Give a stretched voice the pitch of its notes: glides, vibrato, a human's drift."""
    glide = ndimage.gaussian_filter1d(notes, rng.uniform(0.012, 0.04) / FRAME_S, mode="nearest")
    n = len(notes)
    starts = np.flatnonzero(np.diff(notes, prepend=notes[0] - 1.0))
    age_s = (np.arange(n) - np.repeat(starts, np.diff(np.append(starts, n)))) * FRAME_S
    depth = rng.uniform(0.0, 0.6) * np.clip((age_s - 0.15) / 0.25, 0.0, 1.0)
    phase = 2 * np.pi * rng.uniform(4.8, 6.8) * np.arange(n) * FRAME_S
    drift = ndimage.gaussian_filter1d(rng.standard_normal(n), 0.2 / FRAME_S, mode="nearest")
    tuning = rng.uniform(-0.06, 0.06)
    cents = glide + depth * np.sin(phase + rng.uniform(0, 6.3)) + 0.5 * drift + tuning
    hz = 440.0 * 2 ** ((cents - 69) / 12)
    return Voice(np.where(voice.pitch > 0, hz, 0.0), voice.envelope, voice.breath)


def _in_hall(voice: Samples, rng: Rng) -> Samples:
    """Add a tail of decaying noise, as a plate or a hall on a record does."""
    rt60_s = rng.uniform(0.4, 2.2)
    n = int(rt60_s * SAMPLE_RATE)
    tail = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail = signal.lfilter([1.0], [1.0, -rng.uniform(0.2, 0.8)], tail)
    delayed = np.concatenate([np.zeros(int(rng.uniform(0.005, 0.05) * SAMPLE_RATE)), tail])
    wet = signal.oaconvolve(voice, delayed.astype(np.float32))[: len(voice)]
    share = 10 ** (rng.uniform(-14.0, 0.0) / 20) * np.linalg.norm(voice) / np.linalg.norm(wet)
    return np.asarray(voice + share * wet, dtype=np.float32)


@cache
def _world() -> Any:
    """Return pyworld's compiled module.

    Its package asks pkg_resources for its version, which setuptools dropped in
    version 81; so the package's own first file is passed by.
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
