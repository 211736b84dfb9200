"""Synthetic singing: steady notes of a scale, syllables, formants, and the missing package."""

from __future__ import annotations

import importlib.util
from itertools import pairwise

import numpy as np
import pytest
from corpora import hiss, level_db, voice

from rtmtass.errors import MissingPartError
from rtmtass.training.data import singing
from rtmtass.types import Samples

needs_world = pytest.mark.skipif(
    importlib.util.find_spec("pyworld") is None,
    reason="the package pyworld isn't installed: pip install 'rtmtass[train]'",
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def f32(sound: np.ndarray) -> Samples:
    return sound.astype(np.float32)


def semitones(hz: np.ndarray) -> np.ndarray:
    return np.asarray(69 + 12 * np.log2(hz / 440.0))


def spread(pitch: np.ndarray) -> float:
    """Return the typical change of pitch within 0.2 s, in semitones."""
    windows = [pitch[k : k + 40] for k in range(0, len(pitch) - 40, 10)]
    moves = [np.ptp(semitones(w)) for w in windows if (w > 0).all()]
    assert len(moves) > 5
    return float(np.median(moves))


@pytest.fixture(scope="module")
def spoken() -> singing.Voice:
    return singing.analyse_voice(f32(voice(3.0)))


@needs_world
@pytest.mark.parametrize("seed", range(3))
def test_singing_holds_its_notes(
    spoken: singing.Voice, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    melodies: list[np.ndarray] = []
    leads: list[Samples] = []
    set_to_melody, synthesise_voice = singing.set_to_melody, singing.synthesise_voice

    def keep_notes(*given: object) -> tuple[singing.Voice, np.ndarray]:
        stretched, notes = set_to_melody(*given)  # type: ignore[arg-type]
        melodies.append(notes)
        return stretched, notes

    def keep_sound(given: singing.Voice) -> Samples:
        leads.append(synthesise_voice(given))
        return leads[-1]

    monkeypatch.setattr(singing, "set_to_melody", keep_notes)
    monkeypatch.setattr(singing, "synthesise_voice", keep_sound)
    sung = singing.sing(f32(voice(3.0)), rng(seed))
    assert sung.dtype == np.float32
    assert np.isfinite(sung).all()
    assert level_db(sung) > -40
    notes = melodies[0]
    pitch = singing.analyse_voice(leads[0]).pitch[: len(notes)]
    voiced = np.flatnonzero(pitch > 0)
    assert len(voiced) > 0.8 * len(notes)
    off = np.abs(semitones(pitch[voiced]) - notes[voiced])
    assert np.median(off) < 0.4
    # In speech, the pitch moves by semitones within the length of a note.
    assert spread(pitch) < 1.5 < 3.0 < spread(spoken.pitch)


@needs_world
def test_a_melody_stays_in_its_scale_and_stretches_vowels(spoken: singing.Voice) -> None:
    for seed in range(5):
        stretched, notes = singing.set_to_melody(spoken, rng(seed))
        assert len(notes) == len(stretched.pitch) == len(stretched.envelope)
        classes = {int(note) % 12 for note in notes}
        assert any(
            classes <= {(tonic + step) % 12 for step in scale}
            for tonic in range(12)
            for scale in singing.SCALES.values()
        )
        assert len(set(notes)) > 2
        hz = 440 * 2 ** ((notes - 69) / 12)
        assert hz.min() >= 65
        assert hz.max() <= 900
        held = np.diff(np.flatnonzero(np.diff(notes, prepend=-1, append=-1)))
        assert np.median(held) * singing.FRAME_S > 0.15


@needs_world
def test_syllables_are_the_peaks_of_the_voiced_level(spoken: singing.Voice) -> None:
    cuts = singing.syllables(spoken)
    assert len(cuts) == 9  # three per second
    assert cuts[0][0] == 0
    assert cuts[-1][1] == len(spoken.pitch)
    assert all(end == begin for (_, end), (begin, _) in pairwise(cuts))
    lengths = [(end - begin) * singing.FRAME_S for begin, end in cuts]
    assert lengths == pytest.approx([1 / 3] * 9, abs=0.04)


@needs_world
def test_revoicing_keeps_the_words(spoken: singing.Voice) -> None:
    middle = np.median(spoken.pitch[spoken.pitch > 0])
    factors = []
    for seed in range(3):
        sound = singing.revoice(f32(voice(3.0)), rng(seed))
        assert len(sound) == pytest.approx(48000, abs=160)
        assert np.isfinite(sound).all()
        other = singing.analyse_voice(sound)
        factors.append(np.median(other.pitch[other.pitch > 0]) / middle)
        assert len(singing.syllables(other)) == 9
    assert all(0.6 < factor < 1.6 for factor in factors)
    assert max(factors) / min(factors) > 1.1


@needs_world
@pytest.mark.parametrize("sound", [np.zeros(16000), hiss(1.0)], ids=["silence", "hiss"])
def test_unvoiced_input_gives_no_singing(sound: np.ndarray) -> None:
    assert singing.sing(f32(sound), rng()).shape == (0,)


@needs_world
def test_shift_formants_moves_the_spectrum(spoken: singing.Voice) -> None:
    def middle(v: singing.Voice) -> float:
        power = v.envelope.mean(axis=0)
        return float((power * np.arange(len(power))).sum() / power.sum())

    higher = singing.shift_formants(spoken, 1.2)
    assert middle(higher) == pytest.approx(1.2 * middle(spoken), rel=0.05)
    np.testing.assert_array_equal(higher.pitch, spoken.pitch)


def test_missing_pyworld_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singing, "_world", singing._world.__wrapped__)  # without touching the cache
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match=r"pip install 'rtmtass\[train\]'"):
        singing.analyse_voice(f32(voice(0.5)))
