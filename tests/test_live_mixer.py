"""The mixer: settings take effect, and no change of them clicks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmtass.errors import UsageError
from rtmtass.live.mixer import FADE_MS, RAMP_MS, Mixer, MixSettings

STEMS = ("speech", "music", "noise")
RATE, HOP = 16000, 256
RAMP, FADE = round(RAMP_MS * 16), round(FADE_MS * 16)


def tones(n, *, hz=(150.0, 330.0, 710.0), level=0.25):
    t = np.arange(n) / RATE
    return np.stack([level * np.sin(2 * np.pi * f * t + k) for k, f in enumerate(hz)]).astype("f4")


def run(mixer, stems, *, late=(), changes=None):
    """Mix hop by hop; hops in `late` have no stems, `changes` maps hops to changes."""
    out = np.zeros((mixer.n_rows, stems.shape[1], 1), np.float32)
    mixture = stems.sum(axis=0)[:, None]
    for hop in range(stems.shape[1] // HOP):
        if changes and hop in changes:
            changes[hop](mixer)
        span = slice(hop * HOP, (hop + 1) * HOP)
        block = np.ascontiguousarray(stems[:, span, None])
        if hop in late:
            block[:] = np.nan  # must not be read
        mixer.process(block, mixture[span], out[:, span], has_stems=hop not in late)
    return out[..., 0]


def step_of(x):
    return np.abs(np.diff(x)).max()


def test_by_default_the_mix_is_the_mixture():
    stems = tones(HOP * 40)
    np.testing.assert_allclose(run(Mixer(STEMS, RATE), stems)[0], stems.sum(axis=0), atol=1e-6)


def test_levels_stop_at_a_floor():
    mixer = Mixer(STEMS, RATE)
    run(mixer, tones(HOP * 20))
    assert mixer.levels().output[0] > -20
    run(mixer, np.zeros((3, HOP * 200), np.float32))  # 3 s: the power falls below -400 dB
    levels = mixer.levels()
    assert {*levels.stems.values(), levels.mixture, levels.output} == {(-math.inf, -math.inf)}


@pytest.mark.parametrize("when_late", ["dry", "silence"])
def test_late_stems_are_replaced_without_a_click(when_late):
    stems, late = tones(HOP * 60), range(20, 40)
    mixer = Mixer(STEMS, RATE, when_late=when_late)
    out = run(mixer, stems, late=late)[0]
    mixture = stems.sum(axis=0)
    assert step_of(out) < 1.2 * step_of(mixture) + 1.0 / FADE * np.pi / 2
    inside = slice(20 * HOP + FADE, 40 * HOP)
    np.testing.assert_allclose(out[: 20 * HOP], mixture[: 20 * HOP], atol=1e-6)
    expected = mixture[inside] if when_late == "dry" else 0 * mixture[inside]
    np.testing.assert_allclose(out[inside], expected, atol=2e-3 if when_late == "dry" else 0)
    np.testing.assert_allclose(out[41 * HOP :], mixture[41 * HOP :], atol=1e-6)


def test_a_bypass_is_not_silenced_while_stems_are_late():
    stems = tones(HOP * 60)
    mixer = Mixer(STEMS, RATE, when_late="silence")
    out = run(mixer, stems, late=range(30, 50), changes={10: lambda m: m.set_bypass(True)})[0]
    np.testing.assert_allclose(out[20 * HOP :], stems.sum(axis=0)[20 * HOP :], atol=2e-3)
    assert step_of(out) < 1.2 * step_of(stems.sum(axis=0))


def test_gain_mute_and_solo():
    stems = tones(HOP * 20)
    mixer = Mixer(STEMS, RATE, gains_db={"music": -20, "noise": -math.inf})
    np.testing.assert_allclose(run(mixer, stems)[0], stems[0] + 0.1 * stems[1], atol=1e-6)
    mixer.set_solo("noise", True)
    mixer.set_gain("noise", 6.0)
    assert mixer.settings.factors() == pytest.approx(
        {"speech": 0, "music": 0, "noise": 1.9953}, abs=1e-4
    )
    mixer.set_mute("noise", True)
    assert set(mixer.settings.factors().values()) == {0.0}
    mixer.set_solo("noise", False)
    mixer.set_mute("noise", False)
    mixer.set_mute("speech", True)
    assert mixer.settings.factors()["speech"] == 0.0


@pytest.mark.parametrize(
    ("strength", "music", "noise"),
    [(0, 1, 1), (6, 10 ** (-6 / 20), 10 ** (-6 / 20)), (30, 0.1, 10 ** (-1.5)), (math.inf, 0.1, 0)],
)
def test_strength_limits_the_distance_to_the_loudest_stem(strength, music, noise):
    gains = {"speech": 0.0, "music": -20.0, "noise": -math.inf}
    factors = MixSettings(gains, strength_db=strength).factors()
    assert factors == pytest.approx({"speech": 1, "music": music, "noise": noise})


CHANGES = {
    "gain down": lambda m: m.set_gain("speech", -math.inf),
    "gain up": lambda m: m.set_gain("music", 0.0),
    "mute": lambda m: m.set_mute("speech", True),
    "solo": lambda m: m.set_solo("noise", True),
    "bypass": lambda m: m.set_bypass(True),
    "strength": lambda m: m.set_strength(0.0),
    "end": lambda m: m.fade_out(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_change_clicks(name):
    stems = tones(HOP * 60)
    mixer = Mixer(STEMS, RATE, gains_db={"music": -30})
    before = run(mixer, stems[:, : HOP * 30]).copy()[0]
    after = run(mixer, stems[:, HOP * 30 :], changes={5: CHANGES[name]})[0]
    whole = np.concatenate([before, after])
    settled = after[HOP * 10 :]
    assert step_of(whole) <= 1.02 * max(step_of(before), step_of(settled), step_of(stems.sum(0)))
    assert np.abs(settled - before[HOP * 10 :][: len(settled)]).max() > 0.05  # it did change


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 39), st.sampled_from(sorted(CHANGES)[1:])), max_size=8),
       st.sets(st.integers(1, 39)))  # fmt: skip
def test_no_sequence_of_changes_and_late_hops_clicks(changes, late):
    stems = tones(HOP * 40, hz=(110.0, 200.0, 300.0), level=0.3)
    by_hop = {}
    for hop, name in changes:
        by_hop[hop] = CHANGES[name]
    out = run(Mixer(STEMS, RATE, gains_db={"music": -30}), stems, late=late, changes=by_hop)[0]
    # The sum of the tones' largest slopes, and of a fade and a ramp at the same time.
    signal_slope = sum(0.3 * 2 * np.pi * f / RATE for f in (110.0, 200.0, 300.0))
    ramp_slope = (np.pi / 2) * (0.9 / RAMP + 2 * 1.8 / FADE)
    assert step_of(out) <= signal_slope + ramp_slope
    assert np.isfinite(out).all()


def test_a_late_hop_crossfades_to_the_input_and_back_in_10_ms():
    stems = tones(HOP * 200)
    mixture = stems.sum(axis=0)
    mixer = Mixer(STEMS, RATE, gains_db={"speech": 0, "music": -40, "noise": -40})
    late = {100, 101, 102}
    out = run(mixer, stems, late=late)[0]
    clean = run(Mixer(STEMS, RATE, gains_db={"speech": 0, "music": -40, "noise": -40}), stems)[0]
    start, end = 100 * HOP, 103 * HOP
    np.testing.assert_allclose(out[:start], clean[:start], atol=1e-6)
    inside = out[start + FADE : end]
    match = np.sqrt((clean[:start] ** 2).mean() / (mixture[:start] ** 2).mean())
    np.testing.assert_allclose(inside, match * mixture[start + FADE : end], atol=0.01)
    np.testing.assert_allclose(out[end + FADE :], clean[end + FADE :], atol=1e-6)
    assert step_of(out) <= 1.02 * max(step_of(clean), step_of(match * mixture) + 0.5 / FADE)


def test_bypass_is_as_loud_as_the_mix():
    stems = tones(HOP * 400, level=0.2)
    mixer = Mixer(STEMS, RATE, gains_db={"music": -20, "noise": -math.inf})
    out = run(mixer, stems, changes={200: CHANGES["bypass"]})[0]
    mix, bypassed = out[HOP * 100 : HOP * 200], out[HOP * 220 :]
    assert abs(20 * np.log10(bypassed.std() / mix.std())) < 0.3
    shape = stems.sum(axis=0)[HOP * 220 :]
    assert np.corrcoef(bypassed, shape)[0, 1] > 0.9999


def test_split_rows_are_the_stems_and_equal_parts_of_the_input_when_late():
    stems = tones(HOP * 60)
    mixer = Mixer(STEMS, RATE, gains_db={"music": -6}, is_split=True)
    out = run(mixer, stems, late=set(range(40, 60)))
    assert out.shape[0] == 3
    np.testing.assert_allclose(out[0, : HOP * 40], stems[0, : HOP * 40], atol=1e-6)
    np.testing.assert_allclose(
        out[1, : HOP * 40], 10 ** (-6 / 20) * stems[1, : HOP * 40], atol=1e-6
    )
    np.testing.assert_allclose(out[0, HOP * 45 :], out[1, HOP * 45 :], atol=1e-6)


def test_meters_show_rms_and_peak():
    stems = np.zeros((3, HOP * 40), np.float32)
    stems[0] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(HOP * 40) / RATE)
    mixer = Mixer(STEMS, RATE, gains_db={"speech": -20})
    run(mixer, stems)
    levels = mixer.levels()
    assert levels.stems["speech"][0] == pytest.approx(20 * np.log10(0.05 / np.sqrt(2)), abs=0.1)
    assert levels.stems["music"] == (-math.inf, -math.inf)
    assert levels.mixture[1] == pytest.approx(20 * np.log10(0.5), abs=2.5)
    assert levels.output[0] == pytest.approx(levels.stems["speech"][0], abs=0.01)


def test_reset_restores_the_initial_state():
    stems = tones(HOP * 20)
    mixer = Mixer(STEMS, RATE, gains_db={"noise": -10})
    first = run(mixer, stems).copy()
    mixer.fade_out()
    run(mixer, stems, late={3, 4})
    mixer.reset()
    np.testing.assert_array_equal(run(mixer, stems), first)


@pytest.mark.parametrize(("change", "message"), [
    (lambda m: m.set_gain("vocals", 0), "unknown stem 'vocals'; choose from speech, music"),
    (lambda m: m.set_gain("noise", math.nan), "a gain of NaN dB"),
    (lambda m: m.set_strength(-3), "a strength of -3 dB was given; give 0 or more"),
])  # fmt: skip
def test_invalid_settings_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        change(Mixer(STEMS, RATE))
