"""Lets `python -m rtmtass` do what `rtmtass` does."""

from rtmtass.cli.main import main

raise SystemExit(main())
