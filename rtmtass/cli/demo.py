"""`rtmtass demo`: separates a clip, draws spectrograms and measures speed and error."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.cli.loading import run_interruptibly
from rtmtass.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rtmtass.cli.arguments import Commands
    from rtmtass.fullband import StreamSeparator

    Samples = npt.NDArray[np.float32]


def register(commands: Commands) -> None:
    """Add `demo`."""
    parser = commands.add_parser(
        "demo",
        help="separate the bundled clip, draw and measure the result",
        description="Separates a clip (default: the bundled one) into DIR, draws DIR/report.png,"
        " and prints speed, latency and error.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", nargs="?", metavar="FILE", help="the clip")
    parser.add_argument("-o", "--output", default="demo", metavar="DIR", help="default: demo")


def run(arguments: argparse.Namespace) -> int:
    """Run `rtmtass demo`."""
    import rtmtass
    from rtmtass.cli.console import print_table
    from rtmtass.cli.loading import print_compiling
    from rtmtass.io.part_file import why_unwritable
    from rtmtass.offline.plan import Job, SeparateOptions
    from rtmtass.offline.separate import NullProgress, separate_file
    from rtmtass.spectrogram import write_report
    from rtmtass.weights import demo_clip

    clip = Path(arguments.file) if arguments.file else demo_clip()
    folder = Path(arguments.output)
    separator = run_interruptibly(lambda: rtmtass.load(on_compile=print_compiling))
    targets = {stem: folder / f"{stem}.wav" for stem in separator.stems}
    options = SeparateOptions(format="wav", subtype="FLOAT", overwrite=True)
    result = separate_file(Job(clip, targets), options, lambda: separator, NullProgress())
    mixture, sample_rate = _read(clip)
    stems = {name: _read(target)[0] for name, target in targets.items()}
    tracks = {"mixture": mixture} | stems
    try:
        (folder / f"mixture{clip.suffix}").write_bytes(clip.read_bytes())
    except OSError as error:
        raise OutputError(why_unwritable(folder, error)) from error
    report = folder / "report.png"
    write_report(report, {k: v.mean(axis=1) for k, v in tracks.items()}, sample_rate)
    error_db = _peak_db(sum(stems.values()) - mixture)
    rows = [
        ("duration", f"{result.duration_s:.2f} s"),
        *_timing_rows(separator, mixture, sample_rate),
        ("real-time factor, as a file", f"{result.rtf:.4f}"),
        *((f"level of {k}", f"{_rms_db(v):.1f} dBFS") for k, v in tracks.items()),
        ("error of the stems' sum", f"{error_db:.0f} dBFS at most"),
    ]
    print_table(("", ""), rows)
    print(f"\nListen: {'  '.join(str(target) for target in targets.values())}\nLook:   {report}")
    return 0


def _timing_rows(
    separator: StreamSeparator, mixture: Samples, sample_rate: int
) -> list[tuple[str, str]]:
    """Time a separation hop by hop, as in a live stream."""
    import numpy as np

    from rtmtass.dsp.resample import Resampler

    mono = mixture.mean(axis=1, keepdims=True)
    rate = separator.sample_rate
    if sample_rate != rate:
        resampler = Resampler(sample_rate, rate, 1)
        mono = np.concatenate((resampler.process(mono), resampler.flush()))
    hop = separator.hop
    stream = separator.fork(block=hop, channels=1)
    steps_s = []
    for start in range(0, len(mono) - hop + 1, hop):
        block = mono[start : start + hop, 0].copy()
        started = time.perf_counter()
        stream.process(block)
        steps_s.append(time.perf_counter() - started)
    if not steps_s:
        return []
    p50, p99 = np.percentile(steps_s, (50, 99)) * 1000
    latency_ms = 1000 * stream.algorithmic_latency / rate
    return [
        ("algorithmic latency", f"{latency_ms:.0f} ms"),
        ("step time p50 / p99 / max", f"{p50:.3f} / {p99:.3f} / {max(steps_s) * 1000:.3f} ms"
         f" for {1000 * hop / rate:.0f} ms of sound"),
        ("real-time factor, hop by hop", f"{sum(steps_s) * rate / (len(steps_s) * hop):.4f}"),
    ]  # fmt: skip


def _read(path: Path) -> tuple[Samples, int]:
    from rtmtass.io.files import read_file

    return read_file(path)


def _rms_db(track: Any) -> float:
    import numpy as np

    return float(10 * np.log10(np.mean(np.square(track, dtype=np.float64)) + 1e-20))


def _peak_db(track: Any) -> float:
    import numpy as np

    return float(20 * np.log10(np.abs(track).max() + 1e-10))
