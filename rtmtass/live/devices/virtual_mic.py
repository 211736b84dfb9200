"""A virtual microphone on PipeWire and PulseAudio, for as long as `rtmtass live` runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from rtmtass.errors import DeviceError, MissingPartError

SINK, MICROPHONE = "rtmtass_output", "rtmtass_microphone"
TITLE = "rtmtass"

_MARK = "rtmtass.run"
"""Property of our modules: process, its start, and its PID namespace."""
_MARKED = re.compile(rf"^(\d+)\t.*{re.escape(_MARK)}=(\d+)-(\d+)-(\d+)", re.M)
_START_FIELD = 22  # of /proc/PID/stat, from 1: proc(5)

_RECIPES = (
    "without it: JACK: connect the ports PortAudio:out_* · macOS: install BlackHole and add"
    " --output BlackHole · Windows: install VB-Cable and add --output CABLE"
)


class VirtualMicrophone:
    """A null sink to play the mix into, and a microphone that is its monitor.

    Enter it before PortAudio starts, which reads PULSE_SINK and PULSE_SOURCE then: playback
    goes to the null sink, capture stays on what was the default microphone.

    Raises:
        MissingPartError: pactl isn't installed.
        DeviceError: the sound server refuses, or isn't running.
    """

    def __init__(self) -> None:
        self._modules: list[str] = []
        self._environment = {name: os.environ.get(name) for name in ("PULSE_SINK", "PULSE_SOURCE")}

    def __enter__(self) -> VirtualMicrophone:
        """Create both."""
        if not shutil.which("pactl"):
            raise MissingPartError(
                "a virtual microphone needs pactl (Debian and Ubuntu: apt install pulseaudio-utils"
                f" · Fedora: dnf install pulseaudio-utils); {_RECIPES}"
            )
        taken = _remove_abandoned()
        suffix = f"_{os.getpid()}" if re.search(rf"sink_name={SINK}\b", taken) else ""
        sink, microphone, title = SINK + suffix, MICROPHONE + suffix, TITLE + suffix
        mark = f"{_MARK}={'-'.join(map(str, _identity(os.getpid())))}"
        # Without another microphone this one would become the default, and feed back.
        default = _pactl("get-default-source")
        try:
            self._load(
                "module-null-sink",
                f"sink_name={sink}",
                f"sink_properties='device.description={title} {mark}'",
            )
            self._load(
                "module-remap-source",
                f"master={sink}.monitor",
                f"source_name={microphone}",
                f"source_properties='device.description={title}-microphone {mark}'",
            )
        except DeviceError:
            self._unload()
            raise
        os.environ["PULSE_SINK"] = sink
        if not default.returncode and default.stdout.strip():
            os.environ.setdefault("PULSE_SOURCE", default.stdout.strip())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove both."""
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._unload()

    def _load(self, module: str, *arguments: str) -> None:
        done = _pactl("load-module", module, *arguments)
        if done.returncode:
            raise DeviceError(
                f"the sound server refused a virtual microphone: {done.stderr.strip()};"
                " is PipeWire or PulseAudio running? try: pactl info"
            )
        self._modules.append(done.stdout.strip())

    def _unload(self) -> None:
        while self._modules:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                _pactl("unload-module", self._modules.pop())


def _remove_abandoned() -> str:
    """Unload the modules of runs that were killed; return the list of all modules after that."""
    modules = _pactl("list", "short", "modules").stdout
    found = [tuple(map(int, match)) for match in _MARKED.findall(modules)]
    for number, process, started, namespace in sorted(found, reverse=True):
        # In another container the same number is another process.
        is_here = namespace == _identity(os.getpid())[2]
        if is_here and _identity(process) != (process, started, namespace):
            _pactl("unload-module", str(number))
    return _pactl("list", "short", "modules").stdout if found else modules


def _identity(process: int) -> tuple[int, int, int]:
    """Return a process's number, start and PID namespace; the start is 0 if it isn't running.

    A killed process that its parent hasn't noticed isn't running either.
    """
    started = namespace = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = (
            Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        )
        started = 0 if fields[0] in "ZX" else int(fields[_START_FIELD - 3])
    with contextlib.suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    return process, started, namespace


def _pactl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["pactl", *words], capture_output=True, text=True, check=False, timeout=10
    )
