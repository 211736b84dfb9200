"""Runs the command line with the fake Separator, which skips loading and running the network."""

from __future__ import annotations

import sys
from typing import Any

from fakes import FakeSeparator

import rtmtass
from rtmtass.cli.main import main


def load(model: str = "fake", **_: Any) -> Any:
    return FakeSeparator()


rtmtass.load = load

if __name__ == "__main__":
    sys.exit(main())
