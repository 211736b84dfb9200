"""Prints the sound devices as JSON, as a script: a process of its own sees those just plugged in.

PortAudio looks for devices when it starts only, and no process that plays may restart it. Unlike
`rtmtass devices` this asks none for its rates, which opens it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from rtmtass.errors import DeviceError, RtmtassError
from rtmtass.live.devices.listing import Device, Kind, find_device, list_devices

_MODULE = "rtmtass.web.list_devices"
_TIMEOUT_S = 15.0


async def read_devices() -> list[Device]:
    """Return the devices of this moment.

    Raises:
        DeviceError: the sound system can't be asked, or takes too long.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _MODULE, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
    except TimeoutError:
        raise DeviceError(
            f"the sound system hasn't listed its devices within {_TIMEOUT_S:.0f} s; see rtmtass"
            " doctor"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = stderr.decode("utf-8", "replace").strip().splitlines()
        raise DeviceError((lines or ["no reason given"])[-1].removeprefix("rtmtass: "))
    return [Device(**values) for values in json.loads(stdout)]


def describe(
    devices: Sequence[Device], kind: Kind, chosen: str | None
) -> tuple[list[dict[str, Any]], str]:
    """Return devices of one direction as pages show them, and a problem or an empty string.

    Args:
        devices: all.
        kind: the direction.
        chosen: the default as named by the user; None for the system's.
    """
    able = [device for device in devices if device.channels(kind)]
    default, problem = None, ""
    try:
        default = find_device(chosen, kind, devices)
    except DeviceError as error:
        problem = " ".join(str(error).split()) if chosen is not None or not able else ""
    shown = [
        {
            "id": str(device.index),
            "name": f"{device.name}, {device.host}",
            "isDefault": device == default,
        }
        for device in able
    ]
    return shown, problem


def main() -> int:
    """Print the devices; 1 if there is no sound system."""
    from rtmtass.live.devices.portaudio import quiet_libraries

    try:
        with quiet_libraries():
            found = [dataclasses.asdict(device) for device in list_devices()]
    except RtmtassError as error:
        print(f"rtmtass: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
