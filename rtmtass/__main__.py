"""Lets `python -m rtmtass` do what `rtmtass` does."""

from rtmtass.cli import main

raise SystemExit(main())
