"""`rtmtass separate`: split recordings into stems."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import (
    add_model,
    add_passes,
    add_precision,
    count,
    gains,
    model_name,
    words,
)
from rtmtass.errors import InputError, UsageError
from rtmtass.io.encodings import CHANNEL_MODES, FORMATS, RAW_ENCODINGS, SUBTYPES

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.fullband import StreamSeparator
    from rtmtass.io.pipes import RawFormat
    from rtmtass.offline.plan import Result, SeparateOptions
    from rtmtass.offline.separate import ProgressListener


def register(commands: Commands) -> None:
    """Add `separate`."""
    parser = commands.add_parser(
        "separate",
        help="split recordings into speech, music and noise",
        description="Splits recordings into speech, music and noise, each as long as the input"
        " and sample-aligned with it.",
        epilog="rtmtass separate talk.flac writes talk.speech.flac, talk.music.flac and"
        " talk.noise.flac beside it.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "inputs", nargs="+", metavar="FILE", help="recordings, folders of them, or - for stdin"
    )
    _add_output_options(parser)
    _add_model_options(parser)
    pipes = parser.add_argument_group("stdin and stdout (-)")
    pipes.add_argument(
        "--rate", type=int, metavar="HZ", help="stdin holds raw samples at this rate, not a WAV"
    )
    pipes.add_argument(
        "--channels-in",
        type=count,
        metavar="N",
        help="channels of raw samples (default: 1)",
    )
    pipes.add_argument(
        "--raw", choices=RAW_ENCODINGS, help="encoding of raw samples (default: f32)"
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("outputs").add_argument
    add("-o", "--output", metavar="DIR", help="folder of the stems (default: the input's); - is"
        " stdout, for one stem")  # fmt: skip
    add("--stems", type=words, metavar="A,B", help="stems to write (default: all; none:"
        " only the remix)")  # fmt: skip
    add("--format", choices=FORMATS, help="default: the input's, or wav")
    add("--subtype", choices=SUBTYPES, type=str.upper, help="default: nearest to the input's")
    add("--gain", type=gains, metavar="STEM=DB,…", help="levels of the remix, as in"
        " speech=0,music=-12,noise=-inf")  # fmt: skip
    add("--mix", metavar="FILE", help="where to write the remix: a file, for several inputs a"
        " folder, or -")  # fmt: skip
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("--recursive", action="store_true", help="also search subfolders")
    add("--channels", choices=CHANNEL_MODES, default="linked", help="linked: one set of masks for"
        " all channels, which keeps the stereo image (default); independent; mono: mix down"
        )  # fmt: skip
    add("--allow-truncated", action="store_true", help="separate what is left of a truncated"
        " file")  # fmt: skip
    add("--report", type=Path, metavar="FILE", help="also write a page of spectrograms, levels and"
        " a player with a fader for each stem")  # fmt: skip
    add("--quiet", action="store_true", help="no progress, only errors")
    add("--json", action="store_true", help="print one JSON object per file")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add_model(add)
    add("--runtime", choices=("numba", "torch"), default="numba", help="default: %(default)s")
    add("--device", default="cpu", help="for --runtime torch: cpu, cuda, cuda:1 … (default: cpu)")
    add_precision(add)
    add_passes(add)


def run(arguments: argparse.Namespace) -> int:
    """Run `rtmtass separate`; return 1 if a file failed."""
    from rtmtass.cli.report import add_result, open_report
    from rtmtass.offline.plan import plan
    from rtmtass.offline.separate import Interrupted, separate_files

    options = _options(arguments)
    jobs = plan([Path(name) for name in arguments.inputs], options, recursive=arguments.recursive)
    if len(jobs) > 1 and "-" in (arguments.output, arguments.mix):
        raise UsageError(f"stdout takes one recording, not {len(jobs)}; add -o FOLDER")
    results: list[Result] = []
    load = loader(arguments)
    report = open_report(arguments, jobs)
    with _progress(arguments, len(jobs)) as progress:
        try:
            for result in separate_files(jobs, options, load, progress, report):
                results.append(result)
                if report:
                    add_result(report, result)
                if arguments.json:
                    print(json.dumps(result.to_dict(), ensure_ascii=False), flush=True)
        except Interrupted as stop:
            stop.finished = sum(r.status == "done" for r in results)
            raise
        finally:
            if report:
                report.close()
    exit_code = _report(results, is_quiet=arguments.quiet)
    if report:  # last, so that failures are printed even if the disk is full
        report.save()
    return exit_code


def loader(arguments: argparse.Namespace) -> Callable[[], StreamSeparator]:
    """Return a function that opens the model at its first call and returns it again later."""

    @functools.cache
    def load() -> StreamSeparator:
        import rtmtass

        return rtmtass.load(
            model_name(arguments),
            runtime=arguments.runtime,
            device=arguments.device,
            precision=arguments.precision,
            passes=arguments.passes,
            on_compile=None if arguments.quiet else print_compiling,
        )

    return load


def print_compiling() -> None:
    """Print why a first run takes long."""
    print("rtmtass: compiling for this CPU, once (about 20 s) …", file=sys.stderr, flush=True)


def _options(arguments: argparse.Namespace) -> SeparateOptions:
    from rtmtass.config import STEMS
    from rtmtass.offline.plan import STREAM, SeparateOptions

    only_mix = arguments.mix == "-" and arguments.output is None
    stems = arguments.stems or (("none",) if only_mix else STEMS)
    stems = () if stems == ("none",) else tuple(dict.fromkeys(stems))
    for name in (*stems, *(arguments.gain or {})):
        if name not in STEMS:
            raise InputError(f"unknown stem {name!r}; choose from {', '.join(STEMS)}")
    options = SeparateOptions(
        stems=stems,
        folder=None if arguments.output is None else Path(arguments.output),
        format=arguments.format,
        subtype=arguments.subtype,
        gains_db=arguments.gain or {},
        mix=None if arguments.mix is None else Path(arguments.mix),
        overwrite=arguments.overwrite,
        channels=arguments.channels,
        raw=_raw_format(arguments),
        allow_truncated=arguments.allow_truncated,
    )
    if (arguments.gain is None) != (arguments.mix is None):
        raise UsageError(
            "a remix needs both: its gains, as in --gain speech=0,music=-12, and --mix FILE"
        )
    n_streamed = len(stems) * (options.folder == STREAM) + (options.mix == STREAM)
    if n_streamed > 1:
        raise UsageError("stdout takes one stem; choose it: --stems speech -o -")
    if n_streamed and arguments.json:
        raise UsageError("stdout is used for audio; leave out --json or add -o FOLDER")
    if not stems and options.mix is None:
        raise UsageError("nothing to write; name stems with --stems, or a remix with --mix")
    if "-" in arguments.inputs and stems and options.folder is None:
        raise UsageError("stdin has no folder; add -o FOLDER, or --stems speech -o -")
    return options


def _raw_format(arguments: argparse.Namespace) -> RawFormat | None:
    from rtmtass.io.files import check_rate
    from rtmtass.io.pipes import RawFormat

    options = [arguments.rate, arguments.channels_in, arguments.raw]
    if all(value is None for value in options):
        return None
    if "-" in arguments.inputs:
        if arguments.rate is None:
            raise UsageError("raw samples have no header; give their rate, as in --rate 16000")
        check_rate(arguments.rate, "stdin")
    elif arguments.raw is None or "-" not in (arguments.output, arguments.mix):
        raise UsageError("--rate, --channels-in and --raw describe stdin; add - as input")
    return RawFormat(arguments.raw or "f32", arguments.rate or 0, arguments.channels_in or 1)


def _progress(
    arguments: argparse.Namespace, n_files: int
) -> AbstractContextManager[ProgressListener]:
    from rtmtass.offline.separate import NullProgress

    if arguments.quiet or not sys.stderr.isatty():
        return nullcontext(NullProgress())
    from rtmtass.cli.console import Progress

    return Progress(n_files)


def _report(results: list[Result], *, is_quiet: bool) -> int:
    for result in results:
        if result.clipped and not is_quiet:
            counts = ", ".join(f"{n} in {name}" for name, n in result.clipped.items())
            print(
                f"rtmtass: {result.path}: samples above full scale were clipped ({counts});"
                " --format wav --subtype FLOAT keeps them",
                file=sys.stderr,
            )
    failures = [result for result in results if result.status == "failed"]
    if len(results) > 1 and failures:
        print(f"rtmtass: {len(failures)} of {len(results)} recordings failed:", file=sys.stderr)
        for result in failures:
            print(f"  {result.error}", file=sys.stderr)
    elif failures:
        print(f"rtmtass: {failures[0].error}", file=sys.stderr)
    return 1 if failures else 0
