"""The command line: one file per command; the only rooms that know rich."""
