"""The texts of an export: how pkg-config finds it, its licences, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path

from rtmtass.errors import OutputError
from rtmtass.io.paths import quoted
from rtmtass.native.targets import Target, this_machine
from rtmtass.weights import Model

_PACKAGE = Path(__file__).parent.parent

_PC = """\
prefix=${{pcfiledir}}/../..
libdir=${{prefix}}/lib
includedir=${{prefix}}/include

Name: rtmtass
Description: Separates live sound into speech, music and noise
Version: {version}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -lrtmtass
Libs.private: -lm
"""


def pkg_config() -> bytes:
    """Return rtmtass.pc, which holds no path: the folder may be moved."""
    from rtmtass import __version__

    return _PC.format(version=__version__).encode()


def licence() -> bytes:
    """Return our licence: in the installed package, or beside it in a checkout.

    Raises:
        OutputError: it is missing from this installation.
    """
    for path in (_PACKAGE / "LICENSE", _PACKAGE.parent / "LICENSE"):
        if path.is_file():
            return path.read_bytes()
    raise OutputError(f"{_PACKAGE / 'LICENSE'} is missing; install rtmtass again")


def licences(model: Model, name: str) -> dict[str, bytes]:
    """Return our licence, and the model's card, which names its training sources and their terms.

    Args:
        model: that is exported; one without a card has none.
        name: of the model.
    """
    path = model.folder / "CARD.md"
    return {"LICENSE": licence(), **({f"{name}.md": path.read_bytes()} if path.is_file() else {})}


def plugin_place(plugin: str, target: Target) -> tuple[str, str]:
    """Return the folder within the hosts' folder, empty or with a slash, and the binary's name."""
    name = f"rtmtass{target.plugin_suffixes[plugin]}"
    if plugin == "lv2":
        return "rtmtass.lv2/", name
    if plugin == "clap" and target.name.startswith("macos"):
        return "rtmtass.clap/Contents/MacOS/", "rtmtass"
    return "", name
