"""Shared by the scripts: paths, subprocesses, machine info, rival packages and tables."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent
RESULTS = FOLDER / "results"


def module_command(module: str) -> list[str]:
    """Return the command that runs a module of this package from any working directory."""
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(FOLDER.parent)!r});"
        f" runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code]
