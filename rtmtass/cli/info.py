"""`rtmtass info` and `rtmtass models`: describe a recording, list the released models."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.cli.arguments import add_model, count, model_name
from rtmtass.cli.loading import run_interruptibly
from rtmtass.cli.streams import print_json
from rtmtass.errors import InputError, OutputError
from rtmtass.io.encodings import CHANNEL_MODES

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.fullband import FullBandSeparator
    from rtmtass.io.opening import Recording
    from rtmtass.offline.plan import Job, SeparateOptions
    from rtmtass.separator import Separator

_MEASURED_S = 3.0


def register(commands: Commands) -> None:
    """Add `info` and `models`."""
    info = commands.add_parser(
        "info",
        help="describe recordings and what separate would write",
        description="Describes recordings, what separate would write, and how long it would take.",
    )
    info.set_defaults(run=run_info)
    info.add_argument("files", nargs="+", metavar="FILE", help="recordings, or folders of them")
    info.add_argument("--channels", choices=CHANNEL_MODES, default="linked")
    info.add_argument("--recursive", action="store_true", help="also search subfolders")
    info.add_argument(
        "--track", type=count, metavar="N", help="audio track of a video (default: as separate)"
    )
    add_model(info.add_argument)
    info.add_argument("--json", action="store_true", help="print one JSON object per file")
    models = commands.add_parser(
        "models",
        help="list the released models",
        description="Lists the released models with size, latency, metrics and licence.",
    )
    models.set_defaults(run=run_models)
    models.add_argument("--json", action="store_true", help="print one JSON object per model")


def run_info(arguments: argparse.Namespace) -> int:
    """Run `rtmtass info`; return 1 if a file can't be read."""
    from rtmtass.cli.console import print_table
    from rtmtass.offline.plan import SeparateOptions, plan, unread_files, why_unread

    inputs = [Path(name) for name in arguments.files]
    options = SeparateOptions(
        channels=arguments.channels, stems=_stems_of(inputs), track=arguments.track
    )
    jobs = plan(inputs, options, recursive=arguments.recursive)
    unread = unread_files(inputs, recursive=arguments.recursive)
    if unread:
        print(f"rtmtass: {why_unread(unread)}", file=sys.stderr)
    load = functools.cache(lambda: run_interruptibly(functools.partial(_load, arguments)))
    n_failed = 0
    for i, job in enumerate(jobs):
        try:
            facts = _facts(job, options, load)
        except (InputError, OutputError) as error:
            n_failed += 1
            print(f"rtmtass: {error}", file=sys.stderr)
            continue
        if arguments.json:
            print_json(facts)
            continue
        print("\n" * (i > n_failed), end="")
        print_table(("", ""), _rows(facts))
    return 1 if n_failed else 0


def _stems_of(inputs: list[Path]) -> tuple[str, ...]:
    """Return the stems that `separate` would write; none for a pipe, which has no folder."""
    from rtmtass.config import STEMS
    from rtmtass.io.special_files import has_no_folder

    return () if any(has_no_folder(path) for path in inputs) else STEMS


def _load(arguments: argparse.Namespace) -> Separator:
    import rtmtass

    return rtmtass.load(model_name(arguments))


def _facts(job: Job, options: SeparateOptions, load: Callable[[], Separator]) -> dict[str, Any]:
    """Return a recording's description in plain values; None is unknown.

    Raises:
        InputError: it can't be read.
    """
    from rtmtass.fullband import FullBandSeparator
    from rtmtass.io.opening import expected_frames
    from rtmtass.offline.outputs import choose_file_encoding
    from rtmtass.offline.separate import open_input

    if job.error:
        raise InputError(job.error)
    with contextlib.closing(open_input(job.path, track=options.track)) as source:
        model = load()
        separator = FullBandSeparator(model, source.sample_rate, source.channels, options.channels)
        target = next(iter(job.targets.values()), job.path)
        encoding = choose_file_encoding(source, job.path, target, separator.channels, options)
        expected = expected_frames(source)
        seconds = None if expected is None else expected / source.sample_rate
        return {
            "input": str(job.path),
            "format": _format(source, job.path),
            "subtype": source.subtype,
            "sample_rate": source.sample_rate,
            "channels": source.channels,
            "frames": source.frames,
            "duration_s": seconds,
            "tags": dict(source.tags),
            **_media_facts(source),
            "outputs": {name: str(path) for name, path in job.targets.items()},
            "output_format": encoding.format,
            "output_subtype": encoding.subtype,
            "output_channels": separator.channels,
            "model_sample_rate": model.sample_rate,
            "channel_mode": options.channels if source.channels > 1 else "mono",
            "needed_s": None if seconds is None else seconds * _measure_rtf(source, separator),
        }


def _format(source: Recording, path: Path) -> str:
    """Return the name of a recording's format: its suffix, unless that is of another one."""
    from rtmtass.io.media.source import MediaSource

    suffix = path.suffix.lstrip(".").lower()
    if not isinstance(source, MediaSource):
        return suffix
    names = source.container.split(",")
    return suffix if suffix in (*names, "mkv", "mka") else names[0]


def _media_facts(source: Recording) -> dict[str, Any]:
    """Return what only a media file has: its tracks and what else is in it."""
    from rtmtass.io.media.contents import describe
    from rtmtass.io.media.source import MediaSource

    if not isinstance(source, MediaSource):
        return {}
    contents = source.contents
    others = [s for s in contents.streams if s.kind != "audio"]
    return {
        "container": source.container,
        "codec": source.track.codec,
        "track": source.number,
        "tracks": [describe(track) for track in contents.audio],
        "other_streams": [f"{s.kind} {s.codec}".strip() for s in others],
        "start_s": float(source.timeline.start),
    }


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    length = "unknown"
    if facts["frames"] is not None:
        length = f"{_duration(facts['duration_s'])} ({facts['frames']} frames)"
    elif facts["duration_s"] is not None:
        length = f"about {_duration(facts['duration_s'])}"
    needed_s = facts["needed_s"]
    mode = _CHANNELS[facts["channel_mode"]] if facts["channels"] > 1 else "mono"
    written = f"{facts['output_format']} {facts['output_subtype']}"
    channels = (
        "1 channel" if facts["output_channels"] == 1 else f"{facts['output_channels']} channels"
    )
    return [
        ("recording", facts["input"]),
        ("format", f"{facts['format']} {facts['subtype']}"),
        ("sample rate", f"{facts['sample_rate']} Hz"),
        ("channels", str(facts["channels"])),
        ("length", length),
        *_media_rows(facts),
        *facts["tags"].items(),
        ("outputs", "  ".join(facts["outputs"].values())),
        ("written as", f"{written}, {channels}"),
        ("separated at", _describe_rate(facts["sample_rate"], facts["model_sample_rate"])),
        ("channel mode", mode),
        ("time needed", "unknown" if needed_s is None else f"about {_duration(needed_s)}"),
    ]


def _media_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    if "tracks" not in facts:
        return []
    tracks = [f"{number} {track}" for number, track in enumerate(facts["tracks"], 1)]
    chosen = f"; separated: {facts['track']}" * (len(tracks) > 1)
    rows = [("audio tracks", ", ".join(tracks) + chosen)]
    return rows + [("beside them", ", ".join(facts["other_streams"]))] * bool(
        facts["other_streams"]
    )


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


def _measure_rtf(source: Recording, separator: FullBandSeparator) -> float:
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
            print_json(fact)
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
