"""The command `rtmtass`: parses arguments, runs a subcommand, maps errors to exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn, cast

from rtmtass.errors import RtmtassError
from rtmtass.signals import catch_stops, exit_code

COMMANDS = (
    "separate", "live", "web", "serve", "devices", "info", "demo", "bench", "data", "train",
    "evaluate", "export",
)  # fmt: skip
"""Modules whose `register` adds subcommands; their heavy imports are inside `run`."""


class _Parser(argparse.ArgumentParser):
    """Prints usage errors in one line, like all other errors, with the nearest known word."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"rtmtass: {message}; see {self.prog} --help\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments; unknown ones are reported by the command that was given them."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self._chosen(getattr(found, "command", None))
            known = [word for action in parser._actions for word in action.option_strings]
            near = _nearest(unknown[0].partition("=")[0], known)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            known = list(map(str, action.choices or ()))
            error.message += _nearest(str(value), known)
            raise

    def _chosen(self, command: str | None) -> argparse.ArgumentParser:
        """Return the parser of a subcommand, or this one."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and command in action.choices:
                return cast(argparse.ArgumentParser, action.choices[command])
        return self


def _nearest(word: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


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
        import_module(f"rtmtass.cli.{command}").register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 input or environment error, 2 usage error, 130 or 143 signals."""
    try:
        with catch_stops():  # from the first imports on
            from rtmtass.cli.streams import prepare_streams, quiet_c_libraries

            prepare_streams()
            quiet_c_libraries()
            arguments = _parse(argv)
            code: int = arguments.run(arguments)
            sys.stdout.flush()
            return code
    except RtmtassError as error:
        print(f"rtmtass: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader closed the pipe
        from rtmtass.cli.streams import discard_stdout

        discard_stdout()
        return 0
    except KeyboardInterrupt as stop:
        from rtmtass.cli.loading import end_after_signal

        cause = getattr(stop, "cause", stop)
        print(f"rtmtass: {_stop_message(stop)}", file=sys.stderr)
        return end_after_signal(exit_code(cause))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    try:
        return build_parser().parse_args(argv)
    except SystemExit:
        sys.stdout.flush()  # of --help
        raise


def _stop_message(stop: KeyboardInterrupt) -> str:
    """Return what is left after a signal, which `signals.Interrupted` carries."""
    from rtmtass.io.paths import quoted

    parts = [quoted(part) for part in getattr(stop, "parts", ())]
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
