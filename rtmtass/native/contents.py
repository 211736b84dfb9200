"""The texts of an export: how pkg-config finds it, its licences, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path

from rtmtass.errors import OutputError
from rtmtass.io.paths import quoted
from rtmtass.native import controls
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


def next_for_model(path: Path) -> str:
    """Return how a program takes the file."""
    return (
        f"rtmtass_open() takes the bytes of {path}; the C library: rtmtass export MODEL"
        " --native FOLDER"
    )


def next_for_library(folder: Path, target: Target) -> str:
    """Return the command that compiles the example."""
    example = quoted(folder / "example.c")
    if target.name == this_machine() and target.name.startswith(("linux", "macos")):
        found = f"PKG_CONFIG_PATH={quoted(folder / 'lib' / 'pkgconfig')} pkg-config"
        rpath = shlex.quote(f"-Wl,-rpath,{(folder / 'lib').absolute()}")
        return f"cc {example} $({found} --cflags --libs rtmtass) {rpath} -o example"
    include, lib = (shlex.quote(f"-{x}{folder / y}") for x, y in (("I", "include"), ("L", "lib")))
    suffix = {"windows": ".exe", "wasm32": ".wasm"}.get(target.system, "")
    return (
        f"python -m ziglang cc -target {target.zig} {example} {include} {lib} -lrtmtass"
        f" -o example{suffix}"
    )


def next_for_plugin(plugin: str, folder: Path, model: str, target: Target) -> str:
    """Return a command that tries a plugin of this machine."""
    if target.name != this_machine():
        return f"copy it to the {plugin.upper()} folder of a {target.name} machine"
    where = quoted(folder.absolute())
    if plugin == "lv2":
        name = controls.uri(model, "stereo").replace(":", "\\\\:")
        return f"LV2_PATH={where} ffmpeg -i in.wav -af {shlex.quote(f'lv2=p={name}')} out.wav"
    if plugin == "ladspa":
        words = shlex.quote(f"ladspa={model}:{controls.label(model, 'stereo')}")
        return f"LADSPA_PATH={where} ffmpeg -i in.wav -af {words} out.wav"
    return f"start your host with CLAP_PATH={where}, or let it scan that folder"


def next_for_wasm(folder: Path) -> str:
    """Return the command that serves the folder, as browsers load no module from a file."""
    return f"python -m http.server --directory {quoted(folder)}"
