"""The command `rtmtass`: finds the subcommand, and turns errors and signals into exit codes."""

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
"""Modules whose `register` adds subcommands; they import their rooms only when they run."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in the first line, as all our errors do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"rtmtass: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the whole command line; every subcommand sets `run`, a function of its arguments."""
    parser = _Parser(
        prog="rtmtass",
        description="Splits sound into speech, music and noise.",
        epilog="rtmtass COMMAND --help says more of each.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 the user's world, 2 usage, 130, 143."""
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
        # Whoever listened has heard enough. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        cause = getattr(stop, "cause", stop)
        print(f"rtmtass: {_farewell(stop)}", file=sys.stderr)
        return exit_code(cause)


def _farewell(stop: KeyboardInterrupt) -> str:
    """Say what is left after a stop; `files.Interrupted` knows, a bare one had nothing open."""
    parts = [str(part) for part in getattr(stop, "parts", ())]
    finished = getattr(stop, "finished", 0)
    said = ["stopped"]
    if finished:
        said.append(f"{finished} finished file{'s' * (finished > 1)} kept")
    if parts:
        said.append(f"the unfinished are playable as {', '.join(parts)}")
    return "; ".join(said)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from rtmtass import __version__

        print(f"rtmtass {__version__}")
        parser.exit()
