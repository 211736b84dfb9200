"""Does a pop degrade what follows? How long after a clap the separation has recovered.

Every spectrum is divided by a running level, which stays too high after a clap if it
follows the clap. The same mixtures are separated with and without one clap, under the
level's old rule (weights up to 0.6) and the new one (`NetConfig.level_pop_s`), with the
same weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.dsp.stft import analyse_hop, fft_tables, windows, work_size
from rtmtass.evaluation.evaluate import Clip
from rtmtass.evaluation.metrics import si_sdr
from rtmtass.presets import small
from rtmtass.separator import Separator, open_runtime
from rtmtass.weights import Model

Samples = NDArray[np.float32]
Values = NDArray[np.float64]

CLAP_DB, CLAP_S, CLAP_AT_S = 25.0, 0.1, 3.0
"""The noise burst: RMS above the mixture's, duration, start."""
JOINED = 3
"""Clips per mixture: under the old rule recovery takes longer than one clip."""
WINDOW_S = 0.5
"""SI-SDR is measured in windows of this length."""
SILENT_DB = -30.0
"""Windows in which a stem is this far below the mixture don't count."""
SHOWN_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
RECOVERED_DB, GOAL_S = 1.0, 1.0
RULES = {"old": 0.0, "new": small().net.level_pop_s}
"""`level_pop_s` by name."""


def with_rule(config: ModelConfig, pop_s: float) -> ModelConfig:
    """Return a copy of the config with another `level_pop_s`."""
    return dataclasses.replace(config, net=dataclasses.replace(config.net, level_pop_s=pop_s))


def with_clap(sound: Samples, sample_rate: int, rng: np.random.Generator) -> Samples:
    """Return a copy with the clap added; may exceed full scale."""
    clapped, first = sound.copy(), round(CLAP_AT_S * sample_rate)
    rms = np.sqrt(np.mean(np.square(sound, dtype=np.float64)))
    burst = rng.standard_normal(round(CLAP_S * sample_rate))
    clapped[first : first + len(burst)] += (10 ** (CLAP_DB / 20) * rms * burst).astype(np.float32)
    return clapped


def recovery_s(excess_db: Values, step_s: float) -> float:
    """Return the end of the last window beyond `RECOVERED_DB`; infinity if it is the final one.

    Args:
        excess_db: (n,), differences to the run without a clap, from the clap's end.
        step_s: duration of a window.
    """
    exceeding = np.flatnonzero(np.abs(excess_db) > RECOVERED_DB)
    if not len(exceeding):
        return 0.0
    last = int(exceeding[-1])
    return float("inf") if last == len(excess_db) - 1 else step_s * (last + 1)


def powers(sound: Samples, config: ModelConfig) -> Samples:
    """Return the mean power of each frame of the compiled STFT, (T,)."""
    stft = config.stft
    analysis, tables = windows(stft)[0], fft_tables(stft.n_fft)
    work = np.zeros(work_size(stft.n_fft), np.float32)
    history, spec = np.zeros(stft.n_fft, np.float32), np.zeros((2, stft.n_bins), np.float32)
    frames = []
    for block in sound[: len(sound) // stft.hop * stft.hop].reshape(-1, stft.hop):
        analyse_hop(block, history, analysis, tables, work, *spec)
        frames.append(np.square(spec).sum() / stft.n_bins)
    return np.array(frames, np.float32)


def levels_db(sound: Samples, config: ModelConfig) -> Values:
    """Return the running level of each frame in dB, (T,)."""
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
    values: Values = 20 * np.log10(level[0, :, 0].double().numpy())
    return values


def level_recovery_s(sound: Samples, clapped: Samples, config: ModelConfig) -> float:
    """Return how long after the clap's last frame the level takes to recover, in s."""
    stft = config.stft
    excess_db = levels_db(clapped, config) - levels_db(sound, config)
    # The clap's last sample leaves the analysis window n_fft samples later.
    end = round((CLAP_AT_S + CLAP_S) * stft.sample_rate) + stft.n_fft
    return recovery_s(excess_db[-(-end // stft.hop) :], stft.hop / stft.sample_rate)


def window_scores(stems: Samples, truth: Samples, sample_rate: int) -> Values:
    """Return SI-SDR per window after the clap, (windows, S); NaN where a stem is silent."""
    start, size = round((CLAP_AT_S + CLAP_S) * sample_rate), round(WINDOW_S * sample_rate)
    threshold = np.mean(np.square(truth.sum(axis=0), dtype=np.float64)) * 10 ** (SILENT_DB / 10)
    scores = []
    for i in range(start, truth.shape[1] - size + 1, size):
        piece = truth[:, i : i + size]
        is_silent = np.square(piece, dtype=np.float64).mean(axis=1) < threshold
        scores.append(np.where(is_silent, np.nan, si_sdr(stems[:, i : i + size], piece)))
    return np.array(scores)


def joined(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Yield each `JOINED` consecutive clips as one; an incomplete last group is dropped."""
    group: list[Clip] = []
    for clip in clips:
        group.append(clip)
        if len(group) == JOINED:
            mixture = np.concatenate([each.mixture for each in group])
            stems = np.concatenate([each.stems for each in group], axis=1)
            yield Clip(group[0].name, mixture, stems)
            group = []


def measure_pops(opened: Model, clips: Iterable[Clip]) -> dict[str, Any]:
    """Return each rule's recovery times of level and stems; plain values for JSON.

    Args:
        opened: the model; its own `level_pop_s` is replaced.
        clips: long enough for the old rule to recover, see `joined`.
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
        # Scale the clap to full scale; the level normalisation cancels a common factor.
        scale = np.float32(1 / max(1.0, np.abs(clapped).max()))
        sound, clapped, truth = (scale * x for x in (clip.mixture, clapped, clip.stems))
        for name, each in separators.items():
            without, after = (
                window_scores(each.separate(x), truth, rate) for x in (sound, clapped)
            )
            losses[name].append(without - after)
            levels[name].append(level_recovery_s(sound, clapped, each.config))
    return {
        "clap": {"db": CLAP_DB, "s": CLAP_S},
        "mixtures": len(levels["old"]),
        "rules": {name: summary(levels[name], losses[name]) for name in RULES},
    }


def summary(levels: list[float], losses: list[Values]) -> dict[str, Any]:
    """Return a rule's figures: p50 and max of the level over mixtures, the mean of the stems."""
    n = min(map(len, losses))
    lost_db = np.nanmean(np.stack([each[:n] for each in losses]), axis=(0, 2))
    return {
        "stems_back_s": or_none(recovery_s(lost_db, WINDOW_S)),
        "level_back_s": {
            "p50": or_none(float(np.median(levels))),
            "max": or_none(max(levels)),
        },
        "lost_db_after_s": {f"{t:g}": float(lost_db[round(t / WINDOW_S)]) for t in SHOWN_S
                            if round(t / WINDOW_S) < n},
    }  # fmt: skip


def or_none(seconds: float) -> float | None:
    """Return None for infinity, which JSON can't represent."""
    return seconds if np.isfinite(seconds) else None


def format_recovery(seconds: float | None) -> str:
    """Return a recovery time as text."""
    return "longer than the mixtures" if seconds is None else f"{seconds:.2f} s"


def pop_table(pops: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the table's columns and rows."""
    rows = []
    for name, values in pops["rules"].items():
        level = values["level_back_s"]
        rows.append([
            f"{name}, level_pop_s = {RULES[name]:g}",
            f"{format_recovery(values['stems_back_s'])} ({GOAL_S:g} s)",
            f"{format_recovery(level['p50'])} / {format_recovery(level['max'])}",
            *(f"{db:+.1f}" for db in values["lost_db_after_s"].values()),
        ])  # fmt: skip
    after = next(iter(pops["rules"].values()))["lost_db_after_s"]
    head = ["level rule", "stems recover in (goal)", "level recovers in, p50 / max"]
    return [*head, *(f"loss after {t} s, dB" for t in after)], rows


def pop_line(pops: dict[str, Any]) -> str:
    """Return a description of the measurement."""
    clap = pops["clap"]
    return (
        f"A clap of {clap['s']:g} s, {clap['db']:g} dB above the mixture, in {pops['mixtures']}"
        f" mixtures: the time until the stems' SI-SDR, averaged over stems and mixtures in"
        f" windows of {WINDOW_S:g} s, and the running level are within {RECOVERED_DB:g} dB of a"
        " run without it, and the SI-SDR lost meanwhile."
    )
