"""`rtmtass separate`: recordings in, stems out."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import add_passes, add_precision, count, gains, words
from rtmtass.errors import InputError, UsageError
from rtmtass.io.encodings import CHANNEL_MODES, FORMATS, RAW_ENCODINGS, SUBTYPES

if TYPE_CHECKING:
    # argparse has no public name for it.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

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
        " and in time with it to the sample.",
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
        "--raw", choices=RAW_ENCODINGS, help="how raw samples are written (default: f32)"
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("outputs").add_argument
    add("-o", "--output", metavar="DIR", help="where stems go (default: beside the input); - is"
        " stdout, for one stem")  # fmt: skip
    add("--stems", type=words, metavar="A,B", help="which to write (default: all; none:"
        " only the remix)")  # fmt: skip
    add("--format", choices=FORMATS, help="default: the input's, or wav")
    add("--subtype", choices=SUBTYPES, type=str.upper, help="default: nearest to the input's")
    add("--gain", type=gains, metavar="STEM=DB,…", help="levels of the remix, as in"
        " speech=0,music=-12,noise=-inf")  # fmt: skip
    add("--mix", metavar="FILE", help="where the remix goes: a file, for several inputs a folder,"
        " or -")  # fmt: skip
    add("--overwrite", action="store_true", help="do again what is done already")
    add("--recursive", action="store_true", help="search the folders in a folder too")
    add("--channels", choices=CHANNEL_MODES, default="linked", help="linked: one set of masks for"
        " all channels, the image stays put (default); independent; mono: mix to one"
        )  # fmt: skip
    add("--allow-truncated", action="store_true", help="separate what is there of a file that was"
        " cut short")  # fmt: skip
    add("--quiet", action="store_true", help="no progress, only errors")
    add("--json", action="store_true", help="print one JSON object per file")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model", default="rtmtass-small", metavar="NAME", help="see rtmtass models"
        " (default: %(default)s)")  # fmt: skip
    add("--runtime", choices=("numba", "torch"), default="numba", help="default: %(default)s")
    add("--device", default="cpu", help="for --runtime torch: cpu, cuda, cuda:1 … (default: cpu)")
    add_precision(add)
    add_passes(add)


def run(arguments: argparse.Namespace) -> int:
    """Separate what the command line asks for; 1 if a file failed."""
    from rtmtass.offline.plan import plan
    from rtmtass.offline.separate import Interrupted, separate_files

    options = _options(arguments)
    jobs = plan([Path(name) for name in arguments.inputs], options, recursive=arguments.recursive)
    if len(jobs) > 1 and "-" in (arguments.output, arguments.mix):
        raise UsageError(f"stdout takes one recording, not {len(jobs)}; add -o FOLDER")
    results: list[Result] = []
    load = loader(arguments)
    with _progress(arguments, len(jobs)) as progress:
        try:
            for result in separate_files(jobs, options, load, progress):
                results.append(result)
                if arguments.json:
                    print(json.dumps(result.to_dict(), ensure_ascii=False), flush=True)
        except Interrupted as stop:
            stop.finished = sum(r.status == "done" for r in results)
            raise
    return _report(results, is_quiet=arguments.quiet)


def loader(arguments: argparse.Namespace) -> Callable[[], StreamSeparator]:
    """Return what opens the model the first time it is called, and hands it out again later."""

    @functools.cache
    def load() -> StreamSeparator:
        import rtmtass

        return rtmtass.load(
            arguments.model,
            runtime=arguments.runtime,
            device=arguments.device,
            precision=arguments.precision,
            passes=arguments.passes,
            on_compile=None if arguments.quiet else say_compiling,
        )

    return load


def say_compiling() -> None:
    """Explain the wait of a first run."""
    print("rtmtass: compiling for this CPU, once (about 20 s) …", file=sys.stderr, flush=True)


def _options(arguments: argparse.Namespace) -> SeparateOptions:
    from rtmtass.config import STEMS
    from rtmtass.offline.plan import STREAM, SeparateOptions

    only_mix = arguments.mix == "-" and arguments.output is None
    stems = arguments.stems or (("none",) if only_mix else STEMS)
    stems = () if stems == ("none",) else tuple(dict.fromkeys(stems))
    for name in (*stems, *(arguments.gain or {})):
        if name not in STEMS:
            raise InputError(f"there is no stem {name!r}; choose of {', '.join(STEMS)}")
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
            "a remix needs both: --gain speech=0,music=-12 says what, --mix FILE where to"
        )
    n_streamed = len(stems) * (options.folder == STREAM) + (options.mix == STREAM)
    if n_streamed > 1:
        raise UsageError("stdout carries one stem; choose it: --stems speech -o -")
    if n_streamed and arguments.json:
        raise UsageError("stdout carries sound already; leave out --json or add -o FOLDER")
    if not stems and options.mix is None:
        raise UsageError("nothing to write; name stems with --stems, or a remix with --mix")
    if "-" in arguments.inputs and stems and options.folder is None:
        raise UsageError("stdin has no folder; add -o FOLDER, or --stems speech -o -")
    return options


def _raw_format(arguments: argparse.Namespace) -> RawFormat | None:
    from rtmtass.io.files import check_rate
    from rtmtass.io.pipes import RawFormat

    asked = [arguments.rate, arguments.channels_in, arguments.raw]
    if all(value is None for value in asked):
        return None
    if "-" in arguments.inputs:
        if arguments.rate is None:
            raise UsageError("raw samples don't say their rate; add --rate 16000")
        check_rate(arguments.rate, "stdin")
    elif arguments.raw is None or "-" not in (arguments.output, arguments.mix):
        raise UsageError("--rate, --channels-in and --raw say what stdin holds; add - as input")
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
                f"rtmtass: {result.path}: samples beyond full scale were clipped ({counts});"
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
