"""`rtmtass separate`: split recordings into stems."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.loading import model_opener, run_interruptibly
from rtmtass.cli.separate_options import add_options, name_streams, options_of
from rtmtass.cli.streams import print_json
from rtmtass.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.offline.plan import Job, Result, SeparateOptions
    from rtmtass.report.separation import SeparationReport


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
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run `rtmtass separate`; return 1 if a file failed."""
    from rtmtass.cli.report import add_result, open_report
    from rtmtass.offline.plan import plan, unread_files, why_unread
    from rtmtass.signals import Interrupted

    name_streams(arguments)
    options = options_of(arguments)
    if arguments.ray is not None:
        from rtmtass.cli.cluster import run_on_cluster

        return run_on_cluster(arguments, options)
    if arguments.results is not None:
        raise UsageError("--results is of a cluster; add --ray ADDRESS, or leave it out")
    inputs = [Path(name) for name in arguments.inputs]
    jobs = plan(inputs, options, recursive=arguments.recursive)
    unread = unread_files(inputs, recursive=arguments.recursive)
    if unread and not arguments.quiet:
        print(f"rtmtass: {why_unread(unread)}", file=sys.stderr)
    if len(jobs) > 1 and "-" in (arguments.output, arguments.mix):
        raise UsageError(f"stdout takes one recording, not {len(jobs)}; add -o FOLDER")
    jobs = _of_shard(jobs, arguments.shard)
    if not jobs and not arguments.quiet:
        print("rtmtass: no recording is in this part (--shard)", file=sys.stderr)
    results: list[Result] = []
    untold: list[OutputError] = []
    report = open_report(arguments, jobs)
    with _open_results(arguments, jobs, options, report) as separated:
        try:
            for result in separated:
                results.append(result)
                if report:
                    add_result(report, result)
                if arguments.json:
                    try:
                        print_json(result.to_dict())
                    except OutputError as error:  # the recordings are separated nevertheless
                        untold.append(error)
        except Interrupted as stop:
            stop.finished = sum(r.status == "done" for r in results)
            raise
        finally:
            if report:
                report.close()
    if not arguments.quiet:
        _report_limits(results, options)
    code = _report(results, is_quiet=arguments.quiet)
    if report:  # last, so that failures are printed even if the disk is full
        report.save()
    if untold:
        raise untold[0]
    return code


def _of_shard(jobs: list[Job], shard: tuple[int, int] | None) -> list[Job]:
    """Return the jobs that --shard leaves."""
    from rtmtass.offline.parallel import shard_of

    if shard is None:
        return jobs
    number, n = shard
    return [job for job in jobs if shard_of(job.path, n) == number - 1]


@contextmanager
def _open_results(
    arguments: argparse.Namespace,
    jobs: Sequence[Job],
    options: SeparateOptions,
    report: SeparationReport | None,
) -> Iterator[Iterator[Result]]:
    """Within this context, progress is shown; its value gives the results of the jobs."""
    n = _n_processes(arguments, jobs)
    open_model = model_opener(arguments)
    is_quiet = arguments.quiet or not sys.stderr.isatty()
    if n > 1:
        from rtmtass.offline.parallel import NullSeries, separate_in_parallel

        if is_quiet:
            yield separate_in_parallel(jobs, options, open_model, n, NullSeries())
            return
        from rtmtass.cli.console import SeriesProgress

        with SeriesProgress(len(jobs)) as series:
            yield separate_in_parallel(jobs, options, open_model, n, series)
        return
    from rtmtass.offline.separate import NullProgress, separate_files

    load = functools.partial(run_interruptibly, functools.cache(open_model))
    if is_quiet:
        yield separate_files(jobs, options, load, NullProgress(), report)
        return
    from rtmtass.cli.console import Progress

    with Progress(len(jobs)) as progress:
        yield separate_files(jobs, options, load, progress, report)


def _n_processes(arguments: argparse.Namespace, jobs: Sequence[Job]) -> int:
    """Return how many processes to use: as many as are asked for, or as are worth starting."""
    from rtmtass.offline.parallel import n_physical_cores, n_processes

    needs_one = {
        "--report": arguments.report is not None,
        "stdin or stdout": "-" in (*arguments.inputs, arguments.output, arguments.mix),
    }
    for name, is_given in needs_one.items():
        if is_given and (arguments.jobs or 1) > 1:
            raise UsageError(f"{name} goes with one process; leave out --jobs {arguments.jobs}")
    if any(needs_one.values()):
        return 1
    if arguments.jobs is None:  # torch uses all cores, or a GPU, by itself
        return n_processes(jobs, n_physical_cores()) if arguments.runtime == "numba" else 1
    return min(int(arguments.jobs), len(jobs))


def _report_limits(results: list[Result], options: SeparateOptions) -> None:
    """Print what a limiter did, what a video lacks, and where a recording ended before --to."""
    for result in results:
        limiting = result.limiting
        if limiting and limiting.times:
            print(
                f"rtmtass: {result.path}: the remix was limited"
                f" {'once' if limiting.times == 1 else f'{limiting.times} times'}, by up to"
                f" {limiting.deepest_db:.1f} dB and for {limiting.seconds:.1f} s in all",
                file=sys.stderr,
            )
        if result.remix and result.remix["left_out"]:
            print(
                f"rtmtass: {result.outputs['mix']} can't hold all of {result.path}, and lacks:"
                f" {', '.join(result.remix['left_out'])}; an .mkv holds most",
                file=sys.stderr,
            )
        end_s = options.part.end_s if options.part else None
        if end_s and result.status == "done" and result.end_s < end_s - 0.5 / result.sample_rate:
            print(
                f"rtmtass: {result.path} ends at {result.end_s:.2f} s, before --to {end_s:g}",
                file=sys.stderr,
            )


def _report(results: list[Result], *, is_quiet: bool) -> int:
    for result in results:
        if result.clipped and not is_quiet:
            counts = ", ".join(f"{n} in {name}" for name, n in result.clipped.items())
            print(
                f"rtmtass: {result.path}: samples above full scale were clipped ({counts});"
                f" {_how_to_keep(result)}",
                file=sys.stderr,
            )
    failures = [result for result in results if result.status == "failed"]
    if len(results) > 1 and failures:
        print(f"rtmtass: {len(failures)} of {len(results)} recordings failed:", file=sys.stderr)
        for result in failures:
            print(f"  {result.error}", file=sys.stderr)
    elif failures:
        print(f"rtmtass: {failures[0].error}", file=sys.stderr)
    for result in failures:
        print(result.traceback, file=sys.stderr, end="")
    return 1 if failures else 0


def _how_to_keep(result: Result) -> str:
    """Return what keeps samples above full scale."""
    only_mix = set(result.clipped) == {"mix"}
    return f"{'--limit or ' if only_mix else ''}--format wav --subtype FLOAT keeps them"
