"""`rtmtass info` and `rtmtass models`: what would happen, and by which model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.io.encodings import CHANNEL_MODES

if TYPE_CHECKING:
    # argparse has no public name for it.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

    from rtmtass.fullband import FullBandSeparator
    from rtmtass.io.files import FileSource
    from rtmtass.io.pipes import StreamSource

_MEASURED_S = 3.0


def register(commands: Commands) -> None:
    """Add `info` and `models`."""
    info = commands.add_parser(
        "info",
        help="say what would happen to a recording",
        description="Says what a recording is, what separate would write, and how long it takes.",
    )
    info.set_defaults(run=run_info)
    info.add_argument("file", metavar="FILE")
    info.add_argument("--channels", choices=CHANNEL_MODES, default="linked")
    info.add_argument("--model", default="rtmtass-small", metavar="NAME")
    models = commands.add_parser(
        "models",
        help="list the released models",
        description="Lists the released models with size, latency, metrics and licence.",
    )
    models.set_defaults(run=run_models)
    models.add_argument("--json", action="store_true", help="print one JSON object per model")


def run_info(arguments: argparse.Namespace) -> int:
    """Describe one file."""
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
    model = rtmtass.load(arguments.model)
    separator = FullBandSeparator(model, source.sample_rate, source.channels, arguments.channels)
    target = next(iter(job.targets.values()))
    encoding = choose_file_encoding(source, path, target, separator.channels, options)
    seconds = (source.frames or 0) / source.sample_rate
    rows = [
        ("recording", str(path)),
        ("format", f"{path.suffix.lstrip('.')} {source.subtype}"),
        ("sample rate", f"{source.sample_rate} Hz"),
        ("channels", str(source.channels)),
        ("length", f"{_clock(seconds)} ({source.frames} frames)"),
        *((tag, text) for tag, text in source.tags.items()),
        ("becomes", "  ".join(str(p) for p in job.targets.values())),
        ("written as", f"{encoding.format} {encoding.subtype}, {separator.channels} channel(s)"),
        ("separated at", _how(source.sample_rate, model.sample_rate)),
        ("channels are", _CHANNELS[arguments.channels] if source.channels > 1 else "one"),
        ("time needed", f"about {_clock(seconds * _measure_rtf(source, separator))}"),
    ]
    source.close()
    print_table(("", ""), rows)
    return 0


_CHANNELS = {
    "linked": "linked: one set of masks, the image stays put",
    "independent": "separated each by itself",
    "mono": "mixed to one",
}


def _how(sample_rate: int, model_rate: int) -> str:
    if sample_rate == model_rate:
        return f"{model_rate} Hz, its own rate"
    above = "; what lies above is shared out" if sample_rate > model_rate else ""
    return f"{model_rate} Hz, resampled there and back{above}"


def _measure_rtf(source: FileSource | StreamSource, separator: FullBandSeparator) -> float:
    """Separate the first seconds for nothing, to see how fast this machine is."""
    import time

    import numpy as np

    block = np.zeros((int(source.sample_rate * _MEASURED_S), source.channels), np.float32)
    block = block[: source.read(block)]
    separator.process(block)  # the first time pays for memory and caches
    started = time.perf_counter()
    separator.process(block)
    return (time.perf_counter() - started) * source.sample_rate / len(block)


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def run_models(arguments: argparse.Namespace) -> int:
    """List what is installed."""
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
    """Pick the mean over stems and clips; a model that was never measured has none."""
    value = metrics.get(name, {}).get("average", {}).get("mean")
    return None if value is None else float(value)


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} dB"
