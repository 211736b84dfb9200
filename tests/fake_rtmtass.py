"""Runs the command line with the fake Separator, which skips loading and running the network."""

from __future__ import annotations

import sys

from fakes import FakeSeparator

import rtmtass
from rtmtass.cli.main import main


def load(_model="fake", **_):
    return FakeSeparator()


rtmtass.load = load

if __name__ == "__main__":
    sys.exit(main())
