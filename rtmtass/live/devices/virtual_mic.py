"""A virtual microphone on PipeWire and PulseAudio, for as long as `rtmtass live` runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from types import TracebackType

from rtmtass.errors import DeviceError, MissingPartError

SINK, MICROPHONE = "rtmtass_output", "rtmtass_microphone"
TITLE = "rtmtass"

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
        # Without another microphone this one would become the default, and feed back.
        default = _pactl("get-default-source")
        try:
            self._load(
                "module-null-sink",
                f"sink_name={SINK}",
                f"sink_properties=device.description={TITLE}",
            )
            self._load(
                "module-remap-source",
                f"master={SINK}.monitor",
                f"source_name={MICROPHONE}",
                f"source_properties=device.description={TITLE}-microphone",
            )
        except DeviceError:
            self._unload()
            raise
        os.environ["PULSE_SINK"] = SINK
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


def _pactl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["pactl", *words], capture_output=True, text=True, check=False, timeout=10
    )
