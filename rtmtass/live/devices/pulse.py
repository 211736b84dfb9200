"""The sources and sinks of PulseAudio and PipeWire, by their names.

PortAudio opens only the server's default, as ALSA's device "pulse" or "pipewire". Which source or
sink that is, these plugins read from the environment when a stream is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

VARIABLES = {
    "pulse": {"input": "PULSE_SOURCE", "output": "PULSE_SINK"},
    "pipewire": {"input": "PIPEWIRE_NODE", "output": "PIPEWIRE_NODE"},
}
"""ALSA's devices of the two servers, and the variables that choose the source or sink."""
_TIMEOUT_S = 3.0
_SPECIFICATION = re.compile(r"(\d+)ch (\d+)Hz")


@dataclass(frozen=True)
class Node:
    """A source or a sink.

    Attributes:
        name: unique, as the server calls it.
        title: as people call it.
        kind: direction, seen from here.
        channels, sample_rate: of the device behind it.
    """

    name: str
    title: str
    kind: Literal["input", "output"]
    channels: int
    sample_rate: int


def list_nodes() -> list[Node]:
    """Return sources and sinks; none if the server or its tool `pactl` isn't there."""
    sources = parse_nodes(_pactl("--format=json", "list", "sources"), "input")
    return sources + parse_nodes(_pactl("--format=json", "list", "sinks"), "output")


def default_title(kind: Literal["input", "output"]) -> str:
    """Return what people call the source or sink that is used by default, or nothing."""
    name = os.environ.get(VARIABLES["pulse"][kind])
    if not name:
        what = "get-default-source" if kind == "input" else "get-default-sink"
        name = _pactl(what).decode(errors="replace").strip()
    return next((node.title for node in list_nodes() if (node.name, node.kind) == (name, kind)), "")


def _pactl(*words: str) -> bytes:
    if not shutil.which("pactl"):
        return b""
    # With a decimal comma from the locale, pactl's JSON isn't JSON.
    environment = {**os.environ, "LC_NUMERIC": "C"}
    environment.pop("LC_ALL", None)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(
            ["pactl", *words], capture_output=True, check=False, timeout=_TIMEOUT_S, env=environment
        ).stdout
    return b""


def parse_nodes(text: bytes, kind: Literal["input", "output"]) -> list[Node]:
    """Return the nodes in what `pactl --format=json list` printed; none if it isn't JSON."""
    try:
        entries = json.loads(text.decode(errors="replace"))
    except ValueError:
        return []
    nodes = []
    for entry in entries if isinstance(entries, list) else []:
        found = _SPECIFICATION.search(str(_get(entry, "sample_specification")))
        name = _get(entry, "name")
        if isinstance(name, str) and name and found:
            title = _get(entry, "description")
            title = title if isinstance(title, str) and title else name
            nodes.append(Node(name, title, kind, int(found[1]), int(found[2])))
    return nodes


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


@contextmanager
def chosen(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment while a stream is opened.

    Args:
        variables: values by name.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
