"""A warning of acoustic feedback from loudspeaker to microphone, by the names of the devices."""

from __future__ import annotations

import re

from rtmtass.live.devices import pulse
from rtmtass.live.devices.listing import ALSA, ONE_CLOCK_HOSTS, Device, Kind

NOTE = (
    "the microphone can hear the loudspeaker: use headphones, or what is played comes back as"
    " echo or howling"
)
_WORN_OR_VIRTUAL = re.compile(
    r"head-?(set|phone)|kopfh|casque|ear-?(phone|bud|pod)|airpods|buds\b|hands-?free|bluez|bluetooth"
    r"|monitor|loopback|stereo mix|blackhole|soundflower|vb-audio|cable|virtual|null|dummy|rtmtass"
    r"|line[ -]?(in|out)|s/?pdif|iec958",
    re.I,
)
_BUILT_IN = (
    r"built-?in|internal|eingebaut|intern[eo]?\b|\bhda\b|\balc\d|realtek|macbook|imac|sof-|array"
)
_MICROPHONE = re.compile(rf"\bmic|mikro|micro\b|webcam|camera|{_BUILT_IN}", re.I)
_LOUDSPEAKER = re.compile(rf"speaker|lautsprecher|haut-parleur|hdmi|displayport|{_BUILT_IN}", re.I)
_SERVER_DEFAULTS = ("default", "pulse", "pipewire", "sysdefault")


def feedback_note(capture: Device | None, playback: Device | None) -> str:
    """Return a note if these are a microphone and a loudspeaker of one machine, else nothing.

    Names that are neither get no note, nor do headsets, JACK's ports and virtual devices.
    """
    if not capture or not playback:
        return ""
    if {capture.host, playback.host} & set(ONE_CLOCK_HOSTS):
        return ""
    names = _title(capture, "input"), _title(playback, "output")
    if any(_WORN_OR_VIRTUAL.search(name) for name in names):
        return ""
    is_open_air = _MICROPHONE.search(names[0]) and _LOUDSPEAKER.search(names[1])
    return NOTE if is_open_air else ""


def _title(device: Device, kind: Kind) -> str:
    """Return the name of a device, or of the one behind the sound server's default."""
    if device.host == ALSA and device.name in _SERVER_DEFAULTS:
        return pulse.default_title(kind)
    return device.name
