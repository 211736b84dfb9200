"""The command `rtmtass`: parses arguments, runs a subcommand, maps errors to exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rtmtass.cli import bench, data, demo, devices, evaluate, export, info, live, separate, train
from rtmtass.errors import RtmtassError
from rtmtass.signals import catch_stops, exit_code

COMMANDS = (separate, live, devices, info, demo, bench, data, train, evaluate, export)
"""Modules whose `register` adds subcommands; their heavy imports are inside `run`."""


class _Parser(argparse.ArgumentParser):
    """Prints usage errors in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"rtmtass: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands, each of which sets `run`, a function of arguments."""
    parser = _Parser(
        prog="rtmtass",
        description="Splits sound into speech, music and noise.",
        epilog="For the options of a command: rtmtass COMMAND --help",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 input or environment error, 2 usage error, 130 or 143 signals."""
    arguments = build_parser().parse_args(argv)
    try:
        with catch_stops():
            code: int = arguments.run(arguments)
            sys.stdout.flush()
            return code
    except RtmtassError as error:
        print(f"rtmtass: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader closed the pipe. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        cause = getattr(stop, "cause", stop)
        print(f"rtmtass: {_stop_message(stop)}", file=sys.stderr)
        return exit_code(cause)


def _stop_message(stop: KeyboardInterrupt) -> str:
    """Return what is left after a signal, which `offline.separate.Interrupted` carries."""
    parts = [str(part) for part in getattr(stop, "parts", ())]
    finished = getattr(stop, "finished", 0)
    clauses = ["stopped"]
    if finished:
        clauses.append(f"{finished} finished file{'s' * (finished > 1)} kept")
    if parts:
        clauses.append(f"unfinished files are playable as {', '.join(parts)}")
    return "; ".join(clauses)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from rtmtass import __version__

        print(f"rtmtass {__version__}")
        parser.exit()
