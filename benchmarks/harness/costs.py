"""Cost of quality: multiply-adds, processor time and latency, and their plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.harness.tables import several_axes
from rtmtass.config import ModelConfig

PUBLISHED_MACS_PER_S = {
    "GTCRN": (33.0e6, "Rong et al., ICASSP 2024"),
    "DeepFilterNet3": (0.35e9, "Schröter et al., Interspeech 2023"),
    "RNNoise": (0.04e9, "Valin, MMSP 2018"),
}
"""MAC/s and source, as published, at the network's own sample rate; others are counted."""
CAUSAL_LATENCY_MS = {"NSNet2": 20.0}
"""Algorithmic latency of causal networks whose package only processes whole clips."""

RTF_TICKS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
MMAC_TICKS = (20, 50, 100, 200, 500, 1000)


_SHARED_BY_BANDS = ("band_gru", "band_expand", "reduce", "expand")
"""Layers of `net.bands.BandBlock` that every band applies."""


def macs_per_hop(shapes: Mapping[str, Sequence[int]], config: ModelConfig) -> int:
    """Return the multiply-adds per hop of one of our networks.

    Each matrix is applied once per frame, and those that bands or sub-bands share once for
    each of them; each application takes one multiply-add per entry.

    Args:
        shapes: of all weights, by name; vectors aren't counted.
        config: of the network.
    """
    net = config.net
    in_bands = net.backbone == "bands"
    repeats = len(net.band_bins) if in_bands else 1
    if net.subband_bins:
        repeats = net.n_subbands(config.stft.n_bins)
    macs = 0
    for name, shape in shapes.items():
        if in_bands:
            is_shared = any(f".{part}." in name for part in _SHARED_BY_BANDS)
        else:  # the sub-bands' context is projected for all of them in one matmul
            is_shared = name.startswith("subbands.") and ".context_proj." not in name
        if len(shape) > 1:
            macs += prod(shape) * (repeats if is_shared else 1)
    return macs


def macs_per_s(shapes: Mapping[str, Sequence[int]], config: ModelConfig) -> float:
    """Return the multiply-adds per second of audio of one of our networks; see `macs_per_hop`."""
    return macs_per_hop(shapes, config) * config.stft.sample_rate / config.stft.hop


def latency_ms(name: str, delay_ms: float, chunk: str) -> float | None:
    """Return the algorithmic latency; None for a network that needs the whole clip."""
    amount, _, unit = chunk.partition(" ")
    if unit == "ms":
        return delay_ms + float(amount)
    return CAUSAL_LATENCY_MS.get(name)


def cost_of(name: str, counted: float | None) -> dict[str, Any]:
    """Return a rival's MAC/s and their source."""
    if name in PUBLISHED_MACS_PER_S:
        value, source = PUBLISHED_MACS_PER_S[name]
        return {"macs_per_s": value, "macs_source": source}
    return {"macs_per_s": counted, "macs_source": "counted: every weight once per frame"}


def points(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the points to plot: all candidates, and our other precisions and passes."""
    model, plotted = result["model"], []
    for name, figures in result["speech"].items():
        latency = figures["latency_ms"]
        label = f"{name}, {latency:.0f} ms" if latency else f"{name}, whole files"
        plotted.append({"label": label, "is_ours": name == model["name"], **figures})
    ours = result["speech"][model["name"]]
    for precision, figures in result["precisions"].items():
        if precision != model["precision"]:
            values = {"si_sdri": figures["si_sdri"]["speech"], "rtf": figures["rtf"]}
            values |= {"label": precision, "is_ours": True, "macs_per_s": None}
            plotted.append({**ours, **values})
    for passes, figures in result["passes"].items():
        if passes != "1":
            values = {"si_sdri": figures["si_sdri"]["speech"], "rtf": figures["rtf"]}
            values |= {"label": f"{passes} passes", "is_ours": True}
            values |= {"latency_ms": figures["latency_ms"]}
            plotted.append({**ours, **values, "macs_per_s": int(passes) * ours["macs_per_s"]})
    return plotted


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot the SI-SDRi of speech over RTF and over MAC/s; up and to the left is better."""

    def plot(axes: list[Any]) -> None:
        for each, key, label, ticks in (
            (axes[0], "rtf", "RTF on one thread (processor time / audio time, median)", RTF_TICKS),
            (axes[1], "macs_per_s", "multiply-adds per second of audio, millions", MMAC_TICKS),
        ):
            scatter(each, points(result), key)
            each.set_xlabel(label)
            each.set_ylabel("SI-SDRi of speech, dB")
            each.set_xscale("log")
            scale = 1 if key == "rtf" else 1e6
            each.set_xticks([scale * tick for tick in ticks], [f"{tick:g}" for tick in ticks])
            each.minorticks_off()
            each.margins(x=0.2, y=0.15)
            each.grid(alpha=0.3, which="major")
        axes[0].set_title(
            f"Speech from mixtures of speech, music and noise, {result['set']['clips']} clips"
        )
        axes[1].set_title("larger dot: higher latency; square: whole files")

    several_axes(path, 2, plot, size=(13, 5.5))


def scatter(axes: Any, candidates: list[dict[str, Any]], key: str) -> None:
    """Plot the candidates that have the figure `key`."""
    for point in candidates:
        x = point[key]["p50"] if key == "rtf" else point[key]
        if x is None:
            continue
        value, latency = point["si_sdri"], point["latency_ms"]
        error = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
        colour = "#c0392b" if point["is_ours"] else "#5b6770"
        axes.errorbar(x, value["mean"], yerr=error, color=colour, capsize=3, linewidth=1)
        marker = {"s": 4 * latency, "marker": "o"} if latency else {"s": 120, "marker": "s"}
        axes.scatter(x, value["mean"], color=colour, alpha=0.8, **marker)
        axes.annotate(
            point["label"], (x, value["high"]), (0, 4), textcoords="offset points", ha="center",
            fontsize=8, color=colour, weight="bold" if point["is_ours"] else "normal",
        )  # fmt: skip
