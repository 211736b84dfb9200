"""`rtmtass info` and `rtmtass models`: describe a recording, list the released models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.cli.arguments import add_model, model_name
from rtmtass.io.encodings import CHANNEL_MODES

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.fullband import FullBandSeparator
    from rtmtass.io.files import FileSource
    from rtmtass.io.pipes import StreamSource

_MEASURED_S = 3.0


def register(commands: Commands) -> None:
    """Add `info` and `models`."""
    info = commands.add_parser(
        "info",
        help="describe a recording and what separate would write",
        description="Describes a recording, what separate would write, and how long it would take.",
    )
    info.set_defaults(run=run_info)
    info.add_argument("file", metavar="FILE")
    info.add_argument("--channels", choices=CHANNEL_MODES, default="linked")
    add_model(info.add_argument)
    models = commands.add_parser(
        "models",
        help="list the released models",
        description="Lists the released models with size, latency, metrics and licence.",
    )
    models.set_defaults(run=run_models)
    models.add_argument("--json", action="store_true", help="print one JSON object per model")


def run_info(arguments: argparse.Namespace) -> int:
    """Run `rtmtass info`."""
    import rtmtass
    from rtmtass.cli.console import print_table
    from rtmtass.fullband import FullBandSeparator
    from rtmtass.io.pipes import open_source
    from rtmtass.offline.plan import SeparateOptions, plan
    from rtmtass.offline.separate import choose_file_encoding

    path = Path(arguments.file)
    options = SeparateOptions(channels=arguments.channels)
    source = open_source(path)
    (job,) = plan([path], options)
    model = rtmtass.load(model_name(arguments))
    separator = FullBandSeparator(model, source.sample_rate, source.channels, arguments.channels)
    target = next(iter(job.targets.values()))
    encoding = choose_file_encoding(source, path, target, separator.channels, options)
    seconds = (source.frames or 0) / source.sample_rate
    needed_s = seconds * _measure_rtf(source, separator)
    rows = [
        ("recording", str(path)),
        ("format", f"{path.suffix.lstrip('.')} {source.subtype}"),
        ("sample rate", f"{source.sample_rate} Hz"),
        ("channels", str(source.channels)),
        (
            "length",
            f"{_duration(seconds)} ({source.frames} frames)" if source.frames else "unknown",
        ),
        *((tag, text) for tag, text in source.tags.items()),
        ("outputs", "  ".join(str(p) for p in job.targets.values())),
        ("written as", f"{encoding.format} {encoding.subtype}, {separator.channels} channel(s)"),
        ("separated at", _describe_rate(source.sample_rate, model.sample_rate)),
        ("channel mode", _CHANNELS[arguments.channels] if source.channels > 1 else "mono"),
        ("time needed", f"about {_duration(needed_s)}" if source.frames else "unknown"),
    ]
    source.close()
    print_table(("", ""), rows)
    return 0


_CHANNELS = {
    "linked": "linked: one set of masks, the stereo image stays",
    "independent": "independent: each separated by itself",
    "mono": "mono: mixed down",
}


def _describe_rate(sample_rate: int, model_rate: int) -> str:
    if sample_rate == model_rate:
        return f"{model_rate} Hz, without resampling"
    above = "; the band above is split by weights" if sample_rate > model_rate else ""
    return f"{model_rate} Hz, resampled to it and back{above}"


def _measure_rtf(source: FileSource | StreamSource, separator: FullBandSeparator) -> float:
    """Measure the real-time factor on the first seconds of the recording."""
    import time

    import numpy as np

    block = np.zeros((int(source.sample_rate * _MEASURED_S), source.channels), np.float32)
    block = block[: source.read(block)]
    separator.process(block)  # warm-up
    started = time.perf_counter()
    separator.process(block)
    return (time.perf_counter() - started) * source.sample_rate / len(block)


def _duration(seconds: float) -> str:
    from rtmtass.cli.console import clock

    return f"{seconds:.2f} s" if seconds < 60 else clock(seconds)


def run_models(arguments: argparse.Namespace) -> int:
    """Run `rtmtass models`."""
    from rtmtass.cli.console import print_table
    from rtmtass.weights import released

    facts = [_model_facts(folder) for folder in released()]
    if arguments.json:
        for fact in facts:
            print(json.dumps(fact))
        return 0
    rows = [
        (
            fact["name"],
            fact["version"],
            f"{fact['size_mb']:.1f} MB",
            f"{fact['algorithmic_latency_ms']:.0f} ms",
            _decibels(fact["si_sdri_db"]),
            _decibels(fact["sdri_db"]),
            fact["licence"],
        )
        for fact in facts
    ]
    columns = ("model", "version", "size", "latency", "SI-SDRi", "SDRi", "licence")
    print_table(columns, rows)
    return 0


def _model_facts(folder: Path) -> dict[str, Any]:
    from rtmtass.weights import describe

    config, about = describe(folder)
    metrics_path, weights = folder / "metrics.json", folder / "model.safetensors"
    metrics = json.loads(metrics_path.read_text("utf-8")) if metrics_path.is_file() else {}
    return {
        "name": config.name,
        "version": str(about.get("version", "")),
        "size_mb": weights.stat().st_size / 1e6 if weights.is_file() else 0.0,
        "sample_rate": config.stft.sample_rate,
        "algorithmic_latency_ms": 1000 * config.algorithmic_latency / config.stft.sample_rate,
        "si_sdri_db": _average(metrics, "si_sdri"),
        "sdri_db": _average(metrics, "sdri"),
        "licence": str(about.get("licence", "")),
    }


def _average(metrics: dict[str, Any], name: str) -> float | None:
    """Return the mean over stems and clips, or None for a model without metrics."""
    value = metrics.get(name, {}).get("average", {}).get("mean")
    return None if value is None else float(value)


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} dB"
