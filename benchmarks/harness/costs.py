"""What quality costs: multiply-adds, processor time and latency, and the pictures of it."""

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
"""By their authors, at their own rates; the others count their own weights, if they can."""
WHOLE_FILES_MS = {"NSNet2": 20.0}
"""Algorithmic latency of networks that are causal, though their package takes whole clips."""


RTFS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
MACS = (20, 50, 100, 200, 500, 1000)


def macs_per_hop(shapes: Mapping[str, Sequence[int]], config: ModelConfig) -> int:
    """Return multiply-adds a hop of a network of ours.

    Every matrix meets every frame once, those that sub-bands share once a sub-band; so
    often its entries are the multiplications of a frame.

    Args:
        shapes: of all its weights, by name; only matrices multiply.
        config: of the network.
    """
    stft, net = config.stft, config.net
    again = net.n_subbands(stft.n_bins) - 1 if net.subband_bins else 0
    macs = 0
    for name, shape in shapes.items():
        # What the trunk tells the sub-bands is worked out for all of them at once.
        is_shared = name.startswith("subbands.") and not name.startswith("subbands.context_proj.")
        if len(shape) > 1:
            macs += prod(shape) * (1 + again if is_shared else 1)
    return macs


def macs_per_s(shapes: Mapping[str, Sequence[int]], config: ModelConfig) -> float:
    """Return multiply-adds a second of a network of ours; see `macs_per_hop`."""
    return macs_per_hop(shapes, config) * config.stft.sample_rate / config.stft.hop


def latency_ms(name: str, delay_ms: float, fed: str) -> float | None:
    """Return from capture to playback on an infinitely fast computer; None needs the whole clip."""
    amount, _, unit = fed.partition(" ")
    if unit == "ms":
        return delay_ms + float(amount)
    return WHOLE_FILES_MS.get(name)


def cost_of(name: str, counted: float | None) -> dict[str, Any]:
    """Return a rival's multiply-adds and who says so."""
    if name in PUBLISHED_MACS_PER_S:
        value, source = PUBLISHED_MACS_PER_S[name]
        return {"macs_per_s": value, "macs_source": source}
    return {"macs_per_s": counted, "macs_source": "counted: every weight once a frame"}


def points(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return everyone's place in the pictures; our precisions where time counts, our passes."""
    model, found = result["model"], []
    for name, figures in result["speech"].items():
        late = figures["latency_ms"]
        said = f"{name}, {late:.0f} ms" if late else f"{name}, whole files"
        found.append({"said": said, "is_ours": name == model["name"], **figures})
    ours = result["speech"][model["name"]]
    for precision, figures in result["precisions"].items():
        if precision != model["precision"]:
            place = {"si_sdri": figures["si_sdri"]["speech"], "rtf": figures["rtf"]}
            place |= {"said": precision, "is_ours": True, "macs_per_s": None}
            found.append({**ours, **place})
    for passes, figures in result["passes"].items():
        if passes != "1":
            place = {"si_sdri": figures["si_sdri"]["speech"], "rtf": figures["rtf"]}
            place |= {"said": f"{passes} passes", "is_ours": True}
            place |= {"latency_ms": figures["latency_ms"]}
            found.append({**ours, **place, "macs_per_s": int(passes) * ours["macs_per_s"]})
    return found


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw SI-SDRi of speech over RTF and over MAC/s: up and to the left is better."""

    def into(axes: list[Any]) -> None:
        for each, key, label, ticks in (
            (axes[0], "rtf", "RTF on one thread (processor time over audio time, median)", RTFS),
            (axes[1], "macs_per_s", "multiply-adds a second of sound, millions", MACS),
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
            f"Speech out of speech, music and noise, {result['set']['clips']} mixtures"
        )
        axes[1].set_title("the larger the dot, the later the sound")

    several_axes(path, 2, into, size=(13, 5.5))


def scatter(axes: Any, them: list[dict[str, Any]], key: str) -> None:
    """Draw everyone who has this figure."""
    for point in them:
        x = point[key]["p50"] if key == "rtf" else point[key]
        if x is None:
            continue
        value, late = point["si_sdri"], point["latency_ms"]
        error = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
        colour = "#c0392b" if point["is_ours"] else "#5b6770"
        axes.errorbar(x, value["mean"], yerr=error, color=colour, capsize=3, linewidth=1)
        marker = {"s": 4 * late, "marker": "o"} if late else {"s": 120, "marker": "s"}
        axes.scatter(x, value["mean"], color=colour, alpha=0.8, **marker)
        axes.annotate(
            point["said"], (x, value["high"]), (0, 4), textcoords="offset points", ha="center",
            fontsize=8, color=colour, weight="bold" if point["is_ours"] else "normal",
        )  # fmt: skip
