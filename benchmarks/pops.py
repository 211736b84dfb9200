"""Does a pop spoil what follows? How long after a clap the separation is as good as without it.

Every spectrum is divided by a running level, and a level that follows a clap is too high
afterwards. The same mixtures run with and without one clap, under the level's old rule
(weights up to 0.6) and the new one (`NetConfig.level_pop_s`), with the same weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig, small
from rtmtass.dsp.stft import analyse_hop, fft_tables, windows, work_size
from rtmtass.evaluation.evaluate import Clip
from rtmtass.evaluation.metrics import si_sdr
from rtmtass.separator import Separator, open_runtime
from rtmtass.weights import Model

Samples = NDArray[np.float32]
Values = NDArray[np.float64]

CLAP_DB, CLAP_S, CLAP_AT_S = 25.0, 0.1, 3.0
"""A burst of noise: its RMS over that of the rest, how long it lasts, when it comes."""
JOINED = 3
"""Clips in a row: the old rule needs longer than one lasts."""
WINDOW_S = 0.5
"""SI-SDR is measured in windows of this length."""
SILENT_DB = -30.0
"""A stem this far below its mixture has no SI-SDR to lose in a window."""
SHOWN_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
BACK_DB, GOAL_S = 1.0, 1.0
RULES = {"old": 0.0, "new": small().net.level_pop_s}
"""`level_pop_s` by name."""


def with_rule(config: ModelConfig, pop_s: float) -> ModelConfig:
    """Return the config with another rule for the level."""
    return dataclasses.replace(config, net=dataclasses.replace(config.net, level_pop_s=pop_s))


def with_clap(sound: Samples, sample_rate: int, rng: np.random.Generator) -> Samples:
    """Return a copy with the clap in it; may exceed full scale."""
    clapped, first = sound.copy(), round(CLAP_AT_S * sample_rate)
    rms = np.sqrt(np.mean(np.square(sound, dtype=np.float64)))
    burst = rng.standard_normal(round(CLAP_S * sample_rate))
    clapped[first : first + len(burst)] += (10 ** (CLAP_DB / 20) * rms * burst).astype(np.float32)
    return clapped


def back_after(excess_db: Values, step_s: float) -> float:
    """Return when the last value beyond `BACK_DB` is over; infinity if that is the last of all.

    Args:
        excess_db: (n,), values of windows `step_s` long that follow on the clap.
    """
    late = np.flatnonzero(np.abs(excess_db) > BACK_DB)
    if not len(late):
        return 0.0
    return float("inf") if late[-1] == len(excess_db) - 1 else float(step_s * (late[-1] + 1))


def powers(sound: Samples, config: ModelConfig) -> Samples:
    """Return the mean power of every frame of the compiled transform, (T,)."""
    stft = config.stft
    analysis, tables = windows(stft)[0], fft_tables(stft.n_fft)
    work = np.zeros(work_size(stft.n_fft), np.float32)
    history, spec = np.zeros(stft.n_fft, np.float32), np.zeros((2, stft.n_bins), np.float32)
    found = []
    for block in sound[: len(sound) // stft.hop * stft.hop].reshape(-1, stft.hop):
        analyse_hop(block, history, analysis, tables, work, *spec)
        found.append(np.square(spec).sum() / stft.n_bins)
    return np.array(found, np.float32)


def levels_db(sound: Samples, config: ModelConfig) -> Values:
    """Return the running level of every frame, (T,)."""
    import torch

    from rtmtass.net.layers import RunningLevel

    rule = RunningLevel(
        config.level_decay,
        config.net.level_by_power,
        config.level_window,
        config.level_rank,
        config.level_fall,
    )
    x = torch.from_numpy(powers(sound, config))[None, :, None]
    with torch.inference_mode():
        level, _ = rule.step(x, rule.init_state(1))
    return 20 * np.log10(level[0, :, 0].double().numpy())


def level_back_s(sound: Samples, clapped: Samples, config: ModelConfig) -> float:
    """Return how long after the clap's last frame the level is as without it."""
    stft = config.stft
    excess_db = levels_db(clapped, config) - levels_db(sound, config)
    # The clap's last sample leaves the analysis window n_fft later.
    end = round((CLAP_AT_S + CLAP_S) * stft.sample_rate) + stft.n_fft
    return back_after(excess_db[-(-end // stft.hop) :], stft.hop / stft.sample_rate)


def window_scores(stems: Samples, truth: Samples, sample_rate: int) -> Values:
    """Return SI-SDR in windows from the clap's end on, (windows, S); nan where a stem is silent."""
    start, size = round((CLAP_AT_S + CLAP_S) * sample_rate), round(WINDOW_S * sample_rate)
    least = np.mean(np.square(truth.sum(axis=0), dtype=np.float64)) * 10 ** (SILENT_DB / 10)
    scores = []
    for at in range(start, truth.shape[1] - size + 1, size):
        piece = truth[:, at : at + size]
        is_silent = np.square(piece, dtype=np.float64).mean(axis=1) < least
        scores.append(np.where(is_silent, np.nan, si_sdr(stems[:, at : at + size], piece)))
    return np.array(scores)


def joined(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Yield every `JOINED` clips as one; a rest that is fewer is left out."""
    row: list[Clip] = []
    for clip in clips:
        row.append(clip)
        if len(row) == JOINED:
            mixture = np.concatenate([each.mixture for each in row])
            stems = np.concatenate([each.stems for each in row], axis=1)
            yield Clip(row[0].name, mixture, stems)
            row = []


def measure_pops(opened: Model, clips: Iterable[Clip]) -> dict[str, Any]:
    """Return by rule when the level and the stems are back after a clap; plain values.

    Args:
        opened: the model; its own rule doesn't matter.
        clips: longer than the old rule needs, see `joined`.
    """
    separators = {}
    for name, pop_s in RULES.items():
        config = with_rule(opened.config, pop_s)
        runtime = open_runtime(dataclasses.replace(opened, config=config), "numba", "cpu")
        separators[name] = Separator(config, runtime, block=config.stft.hop)
    rate, rng = opened.config.stft.sample_rate, np.random.default_rng(0)
    levels: dict[str, list[float]] = {name: [] for name in RULES}
    losses: dict[str, list[Values]] = {name: [] for name in RULES}
    for clip in clips:
        clapped = with_clap(clip.mixture, rate, rng)
        # The clap must fit full scale; the level takes a common factor out again.
        scale = np.float32(1 / max(1.0, np.abs(clapped).max()))
        sound, clapped, truth = (scale * x for x in (clip.mixture, clapped, clip.stems))
        for name, each in separators.items():
            without, after = (
                window_scores(each.separate(x), truth, rate) for x in (sound, clapped)
            )
            losses[name].append(without - after)
            levels[name].append(level_back_s(sound, clapped, each.config))
    return {
        "clap": {"db": CLAP_DB, "s": CLAP_S},
        "mixtures": len(levels["old"]),
        "rules": {name: summary(levels[name], losses[name]) for name in RULES},
    }


def summary(levels: list[float], losses: list[Values]) -> dict[str, Any]:
    """Return a rule's figures: the level's per mixture, the stems' on average over mixtures."""
    n = min(map(len, losses))
    lost_db = np.nanmean(np.stack([each[:n] for each in losses]), axis=(0, 2))
    return {
        "stems_back_s": or_none(back_after(lost_db, WINDOW_S)),
        "level_back_s": {
            "p50": or_none(float(np.median(levels))),
            "max": or_none(max(levels)),
        },
        "lost_db_after_s": {f"{t:g}": float(lost_db[round(t / WINDOW_S)]) for t in SHOWN_S
                            if round(t / WINDOW_S) < n},
    }  # fmt: skip


def or_none(seconds: float) -> float | None:
    """Return None for infinity, which JSON doesn't know."""
    return seconds if np.isfinite(seconds) else None


def back_words(seconds: float | None) -> str:
    """Return a time, or that it is beyond the end of the mixtures."""
    return "not back" if seconds is None else f"{seconds:.2f} s"


def pop_table(pops: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows."""
    rows = []
    for name, values in pops["rules"].items():
        level = values["level_back_s"]
        rows.append([
            f"{name}, level_pop_s = {RULES[name]:g}",
            f"{back_words(values['stems_back_s'])} ({GOAL_S:g} s)",
            f"{back_words(level['p50'])} / {back_words(level['max'])}",
            *(f"{db:+.1f}" for db in values["lost_db_after_s"].values()),
        ])  # fmt: skip
    after = next(iter(pops["rules"].values()))["lost_db_after_s"]
    head = ["rule of the level", "stems back after (goal)", "level back, p50 / max"]
    return [*head, *(f"lost after {t} s, dB" for t in after)], rows


def pop_line(pops: dict[str, Any]) -> str:
    """Say what was measured."""
    clap = pops["clap"]
    return (
        f"A clap of {clap['s']:g} s, {clap['db']:g} dB above the rest, in {pops['mixtures']}"
        f" mixtures: when the stems' SI-SDR, averaged over stems and mixtures in windows of"
        f" {WINDOW_S:g} s, and the running level are back to within {BACK_DB:g} dB of a run"
        " without it, and what SI-SDR is lost on the way."
    )
