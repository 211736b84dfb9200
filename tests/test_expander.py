"""The expander: what it lowers and by how much, the same in all runtimes, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import arrays, seasoned, tiny
from numpy.typing import NDArray

from rtmtass.config import EXPANDER_S, ModelConfig
from rtmtass.net.expander import StemExpander
from rtmtass.runtime.compiled.builder import Builder
from rtmtass.runtime.compiled.interpreter import execute
from rtmtass.runtime.compiled.lowering_shared import expander
from rtmtass.runtime.compiled.program import encode
from rtmtass.separator import Separator, open_runtime
from rtmtass.weights import Model

Floats = NDArray[np.float32]
CONFIG = tiny(expander_db=-15.0)
BINS, STEMS = CONFIG.stft.n_bins, len(CONFIG.stems)
FRAMES_PER_S = CONFIG.stft.sample_rate / CONFIG.stft.hop


def spectra(shares_db: list[float], frames: int, seed: int = 0) -> Floats:
    """Return noise in every stem, (T, S, 2, F), at levels relative to the first."""
    rng = np.random.default_rng(seed)
    scale = 10 ** (np.array(shares_db) / 20)
    noise = rng.standard_normal((frames, STEMS, 2, BINS)) * scale[:, None, None]
    return noise.astype(np.float32)


def by_torch(
    stems: Floats, dtype: torch.dtype = torch.float64, *, ratio: int = 2
) -> NDArray[np.floating]:
    module = StemExpander(STEMS, CONFIG.expander_decays, CONFIG.expander_threshold, ratio)
    x = torch.from_numpy(stems).to(dtype)[None]
    y, _ = module.step_with(x, x.sum(dim=2), module.init_state(1))
    out: NDArray[np.floating] = y[0].numpy()
    return out


def by_compiled(stems: Floats, *, ratio: int = 2) -> Floats:
    config = tiny(expander_db=-15.0, expander_ratio=ratio)
    make = Builder(1, "f32", 1)
    mixture, register = make.register(2 * BINS, 1), make.register(2 * BINS * STEMS, 1)
    expander(make, config, mixture, register, BINS)
    instructions, weights = encode(make.instructions), make.weights()
    state, work = np.zeros(make.state, np.float32), np.zeros(make.work, np.float32)
    out = np.empty_like(stems)
    for t, frame in enumerate(stems):
        work[mixture.at :][: 2 * BINS] = frame.sum(axis=0).ravel()
        work[register.at :][: frame.size] = frame.ravel()
        execute(instructions, weights, state, work, t, 1, 0)
        out[t] = work[register.at :][: frame.size].reshape(frame.shape)
    return out


def level_db(spectrum: NDArray[np.floating]) -> float:
    return float(10 * np.log10(np.mean(np.square(spectrum, dtype=np.float64))))


@pytest.mark.parametrize("ratio", [2, 3, 5])
@pytest.mark.parametrize("share_db", [-20.0, -25.0, -40.0])
def test_a_stem_below_the_threshold_falls_by_the_ratio(share_db: float, ratio: int) -> None:
    stems = spectra([0, 0, share_db], 2000)
    settled = slice(1000, None)
    below_db = -15 - (level_db(stems[settled, 2]) - level_db(stems[settled].sum(axis=1)))
    for run in (by_torch, by_compiled):
        out = run(stems, ratio=ratio)
        gain_db = level_db(out[settled, 2]) - level_db(stems[settled, 2])
        assert gain_db == pytest.approx(-(ratio - 1) * below_db, abs=0.4), run.__name__


def test_stems_above_the_threshold_pass_unchanged() -> None:
    stems = spectra([0, -3, -10], 400)
    np.testing.assert_array_equal(by_compiled(stems), stems)
    np.testing.assert_array_equal(by_torch(stems), stems.astype(np.float64))


def test_the_sum_stays() -> None:
    stems = spectra([0, -18, -30], 400)
    out = by_torch(stems)
    assert np.abs(out - stems).max() > 0.01
    np.testing.assert_allclose(out.sum(axis=1), stems.sum(axis=1, dtype=np.float64), atol=1e-12)
    np.testing.assert_allclose(by_compiled(stems).sum(axis=1), stems.sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("ratio", [2, 5])
def test_both_runtimes_agree_through_onsets_and_silence(ratio: int) -> None:
    rng = np.random.default_rng(3)
    gain = np.repeat(10 ** rng.uniform(-3, 0, (40, STEMS)), 25, axis=0)
    gain[300:400] = 0
    gain[600:, 1] = 0
    stems = spectra([0, 0, 0], 1000) * gain[:, :, None, None].astype(np.float32)
    expected = by_torch(stems, ratio=ratio)
    atol = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(by_compiled(stems, ratio=ratio), expected, atol=atol)
    np.testing.assert_allclose(by_torch(stems, torch.float32, ratio=ratio), expected, atol=atol)


def test_an_onset_passes_at_once() -> None:
    """A stem that begins as loud as another loses 1 dB at most in its first 0.1 s, 3 in 16 ms."""
    begin = 2000
    stems = spectra([0, -60, 0], begin + 100)
    stems[begin:, 1] = stems[begin:, 0][:, :, ::-1]
    out = by_compiled(stems)
    assert level_db(out[:begin, 1]) < level_db(stems[:begin, 1]) - 30
    for seconds, most_db in ((0.016, 3), (0.1, 1)):
        first = slice(begin, begin + round(seconds * FRAMES_PER_S))
        assert level_db(out[first, 1]) - level_db(stems[first, 1]) > -most_db


def test_the_expander_closes_seconds_after_a_stem_was_loud() -> None:
    """The long average still holds the loud part 2 s later: quiet word endings aren't cut."""
    end = 2000
    stems = spectra([0, 0, 0], end + round(12 * FRAMES_PER_S))
    stems[end:, 1] *= np.float32(0.1)  # 23 dB below the sum of the other two
    out = by_compiled(stems)
    held = end + round(2 * EXPANDER_S[1] * FRAMES_PER_S)
    np.testing.assert_array_equal(out[:held], stems[:held])
    late = slice(end + round(10 * FRAMES_PER_S), None)
    assert level_db(out[late, 1]) - level_db(stems[late, 1]) == pytest.approx(-8, abs=0.4)


def test_silence_stays_silent_and_finite() -> None:
    stems = np.zeros((600, STEMS, 2, BINS), np.float32)
    stems[:50] = spectra([0, -30, -40], 50)
    for run in (by_torch, by_compiled):
        out = run(stems, ratio=5)
        assert np.isfinite(out).all()
        assert not out[50:].any()


def untrained(config: ModelConfig) -> Separator:
    model = Model(Path(), config, arrays(seasoned(config)), {})
    return Separator(config, open_runtime(model, "numba", "cpu", "f32"), block=config.stft.hop)


def test_a_separator_with_an_expander_still_sums_to_its_input() -> None:
    rng = np.random.default_rng(0)
    mixture = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    plain, lowered = (untrained(tiny(expander_db=db)).separate(mixture) for db in (0.0, -5.0))
    assert np.abs(plain - lowered).max() > 1e-3
    np.testing.assert_allclose(lowered.sum(axis=0), mixture, atol=2e-6)


def test_the_expander_has_no_weights() -> None:
    assert arrays(seasoned(CONFIG)).keys() == arrays(seasoned(tiny())).keys()
    assert dataclasses.replace(CONFIG.net, expander_db=0.0) == tiny().net
