"""Runs the command line as `python -m rtmtass`."""

from rtmtass.cli.main import main

raise SystemExit(main())
