"""The options of `rtmtass separate`: how they are read, and what they mean together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import (
    add_model,
    add_passes,
    add_precision,
    count,
    gains,
    model_name,
    moment,
    run_in,
    shard,
    words,
)
from rtmtass.errors import InputError, UsageError
from rtmtass.io.encodings import CHANNEL_MODES, FORMATS, RAW_ENCODINGS, SUBTYPES

if TYPE_CHECKING:
    from rtmtass.io.pipes import RawFormat
    from rtmtass.offline.excerpt import TimeRange
    from rtmtass.offline.plan import SeparateOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of `separate`."""
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
    add("--two", action="store_true", help="two stems: speech and the rest (music and noise)")
    add("--name", metavar="TEMPLATE", help="names of the stems, without suffix: {name}, {stem} and"
        " / for folders (default: {name}.{stem})")  # fmt: skip
    add("--from", dest="start", type=moment, metavar="TIME", help="start there: seconds, m:ss or"
        " h:mm:ss")  # fmt: skip
    add("--to", dest="end", type=moment, metavar="TIME", help="end there")
    add("--run-in", type=run_in, default=30.0, metavar="S", help="seconds before --from to separate"
        " too, for the model to settle; inf: all, which gives exactly that slice of the whole"
        " (default: 30)")  # fmt: skip
    add("--format", choices=FORMATS, help="default: the input's, or wav")
    add("--subtype", choices=SUBTYPES, type=str.upper, help="default: nearest to the input's")
    add("--gain", type=gains, metavar="STEM=DB,…", help="levels of the remix, as in"
        " speech=0,music=-12,noise=-inf")  # fmt: skip
    add("--mix", metavar="FILE", help="where to write the remix: a file, a folder, or -; a"
        " video's goes into a copy of it, as in --mix talk.quiet.mp4")  # fmt: skip
    add("--limit", action="store_true", help="keep the remix's true peaks below -1 dBTP with a"
        " limiter, instead of clipping it")  # fmt: skip
    add("--bitrate", type=count, metavar="KBITS", help="constant bit rate of MP3 outputs, such as"
        " 192 (default: variable), and of the sound of a remixed video")  # fmt: skip
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("--recursive", action="store_true", help="also search subfolders")
    add("--channels", choices=CHANNEL_MODES, default="linked", help="linked: one set of masks for"
        " all channels, which keeps the stereo image (default); independent; mono: mix down"
        )  # fmt: skip
    add("--track", type=count, metavar="N", help="audio track of a video, from 1 (default: the one"
        " marked as default, else the first)")  # fmt: skip
    add("--allow-truncated", action="store_true", help="separate what is left of a truncated"
        " file")  # fmt: skip
    add("--report", type=Path, metavar="FILE", help="also write a page of spectrograms, levels and"
        " a player with a fader for each stem")  # fmt: skip
    add("--jobs", type=count, metavar="N", help="processes that separate at the same time"
        " (default: as many as there are cores, if there is work for them)")  # fmt: skip
    add("--shard", type=shard, metavar="I/N", help="only the I-th of N parts of the recordings,"
        " chosen by their paths: for N computers")  # fmt: skip
    add("--ray", metavar="ADDRESS", help="separate on a Ray cluster: HOST:PORT, auto (the one of"
        " this machine) or local (started here); FILE may be a URL, such as s3://bucket/talk.wav,"
        " or a list: .txt, one path or URL a line")  # fmt: skip
    add("--results", metavar="DIR", help="with --ray: folder or URL of the table of results, a"
        " Parquet file (default: that of -o, else the list's)")  # fmt: skip
    add("--quiet", action="store_true", help="no progress, only errors")
    add("--json", action="store_true", help="print one JSON object per file")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add_model(add)
    add("--runtime", choices=("numba", "torch"), default="numba", help="default: %(default)s")
    add("--device", default="cpu", help="for --runtime torch: cpu, cuda, cuda:1 … (default: cpu)")
    add_precision(add)
    add_passes(add)


def name_streams(arguments: argparse.Namespace) -> None:
    """Replace other names of stdin and stdout, as /dev/stdout, by -."""
    from rtmtass.io.special_files import is_stdin, is_stdout

    arguments.inputs = ["-" if is_stdin(Path(name)) else name for name in arguments.inputs]
    for option in ("output", "mix"):
        name = getattr(arguments, option)
        if name is not None and is_stdout(Path(name)):
            setattr(arguments, option, "-")


def options_of(arguments: argparse.Namespace) -> SeparateOptions:
    """Return the options of a command line.

    Raises:
        InputError: there is no such stem.
        UsageError: two options don't fit.
    """
    from rtmtass.config import STEMS
    from rtmtass.offline.naming import NameTemplate
    from rtmtass.offline.plan import STREAM, SeparateOptions
    from rtmtass.offline.provenance import describe_model
    from rtmtass.offline.writers import REST

    only_mix = arguments.mix == "-" and arguments.output is None
    stems = arguments.stems or (("none",) if only_mix else STEMS)
    stems = () if stems == ("none",) else tuple(dict.fromkeys(stems))
    gains_db = _with_rest(arguments.gain or {})
    for name in (*stems, *gains_db):
        if name not in (*STEMS, REST):
            raise InputError(f"unknown stem {name!r}; choose from {', '.join(STEMS)}")
    if arguments.two:
        if arguments.stems:
            raise UsageError("--two and --stems both choose stems; leave out one")
        stems = ("speech", REST)
    options = SeparateOptions(
        stems=stems,
        folder=None if arguments.output is None else Path(arguments.output),
        format=arguments.format,
        subtype=arguments.subtype,
        gains_db=gains_db,
        mix=None if arguments.mix is None else Path(arguments.mix),
        overwrite=arguments.overwrite,
        channels=arguments.channels,
        raw=_raw_format(arguments),
        allow_truncated=arguments.allow_truncated,
        naming=NameTemplate() if arguments.name is None else NameTemplate(arguments.name),
        part=_part(arguments),
        limit=arguments.limit,
        bitrate=_bitrate(arguments),
        track=arguments.track,
        model=describe_model(
            model_name(arguments), arguments.precision, arguments.passes, arguments.runtime
        ),
    )
    if options.limit and options.mix is None:
        raise UsageError(
            "--limit is of a remix; add its gains and --mix FILE, or leave out --limit"
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


def _with_rest(gains_db: dict[str, float]) -> dict[str, float]:
    """Return gains by stem; that of the rest is one of music and noise."""
    from rtmtass.config import STEMS
    from rtmtass.offline.writers import REST, SPEECH

    if REST not in gains_db:
        return gains_db
    others = {name: gain for name, gain in gains_db.items() if name != REST}
    rest = [stem for stem in STEMS if stem != SPEECH]
    if not others.keys().isdisjoint(rest):
        raise UsageError(f"{REST} is {' and '.join(rest)}; give the gain of either, not of both")
    return others | dict.fromkeys(rest, gains_db[REST])


def _part(arguments: argparse.Namespace) -> TimeRange | None:
    from rtmtass.offline.excerpt import TimeRange

    if arguments.start is None and arguments.end is None:
        return None
    part = TimeRange(arguments.start or 0.0, arguments.end, arguments.run_in)
    if part.end_s is not None and part.end_s <= part.start_s:
        raise UsageError(
            f"--to {part.end_s:g} s isn't after --from {part.start_s:g} s; give a later time"
        )
    return part


def _bitrate(arguments: argparse.Namespace) -> int | None:
    from rtmtass.io.encodings import MP3_BITRATES
    from rtmtass.io.media.targets import is_target

    bitrate: int | None = arguments.bitrate
    is_mp3 = arguments.mix is None or not is_target(Path(arguments.mix))
    if bitrate is not None and is_mp3 and bitrate not in MP3_BITRATES:
        known = ", ".join(map(str, MP3_BITRATES))
        raise UsageError(f"MP3 has no bit rate of {bitrate} kbit/s; choose from {known}")
    return bitrate


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
