"""A virtual microphone on PipeWire and PulseAudio: made when asked for, gone when we go."""

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
    "without it: JACK users connect our ports; macOS: install BlackHole and add --output BlackHole;"
    " Windows: install VB-Cable and add --output CABLE"
)


class VirtualMicrophone:
    """A null sink that the mix is played into, and a microphone that hears it.

    Enter it before PortAudio starts, as PULSE_SINK and PULSE_SOURCE are read then: we
    play into the sink, and go on hearing what was the default microphone before ours.

    Raises:
        MissingPartError: this system has no pactl.
        DeviceError: the sound server refuses, or doesn't run.
    """

    def __init__(self) -> None:
        self._modules: list[str] = []
        self._before = {name: os.environ.get(name) for name in ("PULSE_SINK", "PULSE_SOURCE")}

    def __enter__(self) -> VirtualMicrophone:
        """Create both."""
        if not shutil.which("pactl"):
            raise MissingPartError(
                "a virtual microphone needs pactl (Debian and Ubuntu: apt install pulseaudio-utils"
                f" · Fedora: dnf install pulseaudio-utils); {_RECIPES}"
            )
        # On a system without another microphone ours would become the default, and hear itself.
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
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._unload()

    def _load(self, module: str, *arguments: str) -> None:
        done = _pactl("load-module", module, *arguments)
        if done.returncode:
            raise DeviceError(
                f"the sound server made no virtual microphone: {done.stderr.strip()};"
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
