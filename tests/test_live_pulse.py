"""Sources and sinks of PulseAudio and PipeWire by name, and native JACK before ALSA's detour."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rtmtass.errors import DeviceError
from rtmtass.live.devices import listing, pulse
from rtmtass.live.devices.feedback import NOTE, feedback_note
from rtmtass.live.devices.listing import ALSA, JACK, Device, find_device, have_one_clock
from rtmtass.live.devices.pulse import Node, list_nodes, parse_nodes

INSTALL = "apt-get install -y pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
TOOLS = ("pulseaudio", "pactl", "pacat")
IS_MISSING = not all(map(shutil.which, TOOLS))

# As PipeWire 0.3.65 and PulseAudio 16.1 print them, without what isn't read.
SOURCES = """[{"index":47,"state":"SUSPENDED","name":"alsa_input.usb-Focusrite_Scarlett_2i2_USB-00.\
analog-stereo","description":"Scarlett 2i2 USB Analog Stereo","driver":"PipeWire",\
"sample_specification":"s32le 2ch 48000Hz","mute":false,"balance":0.00,"properties":\
{"device.class":"sound"},"ports":[]},{"index":46,"name":"alsa_output.usb-Focusrite_Scarlett_2i2_\
USB-00.analog-stereo.monitor","description":"Monitor of Scarlett 2i2 USB Analog Stereo",\
"sample_specification":"s32le 2ch 48000Hz"},{"index":3,"name":"bluez_input.headset",\
"description":"Kopfhörer „Größe“","sample_specification":"s16le 1ch 16000Hz"}]"""
SINKS = """[{"index":46,"name":"alsa_output.usb-Focusrite_Scarlett_2i2_USB-00.analog-stereo",\
"description":"Scarlett 2i2 USB Analog Stereo","sample_specification":"s32le 2ch 48000Hz"},\
{"index":49,"name":"alsa_output.pci-0000_00_1f.3.analog-stereo","description":null,\
"sample_specification":"s16le 2ch 44100Hz"}]"""


def device(index, name, host=ALSA, inputs=2, outputs=2, **marks):
    marks = {"is_default_input": False, "is_default_output": False, **marks}
    return Device(index, name, host, inputs, outputs, 48000, (1, 2), (1, 2), **marks)


# --- the server's list


def test_nodes_are_read_from_what_pactl_prints():
    first, monitor, headset = parse_nodes(SOURCES.encode(), "input")
    assert first == Node(
        "alsa_input.usb-Focusrite_Scarlett_2i2_USB-00.analog-stereo",
        "Scarlett 2i2 USB Analog Stereo", "input", 2, 48000,
    )  # fmt: skip
    assert monitor.name.endswith(".monitor")
    assert (headset.title, headset.channels, headset.sample_rate) == ("Kopfhörer „Größe“", 1, 16000)
    _, onboard = parse_nodes(SINKS.encode(), "output")
    assert onboard.title == onboard.name == "alsa_output.pci-0000_00_1f.3.analog-stereo"


@pytest.mark.parametrize("text", [
    b"", b"Connection refused", b"{}", b"[1, null, {}]", b"[{\"name\": 3}]", b"\xff\xfe[",
    b'[{"name":"a","sample_specification":"s16le"}]', SOURCES.encode()[:300],
])  # fmt: skip
def test_what_isnt_a_list_of_nodes_is_none(text):
    assert parse_nodes(text, "input") == []


def test_without_pactl_or_a_server_there_are_no_nodes(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_nodes() == []
    script = tmp_path / "pactl"
    script.write_text("#!/bin/sh\necho refused >&2; exit 1\n")
    script.chmod(0o755)
    assert list_nodes() == []


# --- choosing by name


@pytest.fixture
def nodes(monkeypatch):
    found = [*parse_nodes(SOURCES.encode(), "input"), *parse_nodes(SINKS.encode(), "output")]
    monkeypatch.setattr(pulse, "list_nodes", lambda: found)


def with_nodes(*devices):
    return [*devices, *listing._nodes(devices)]


@pytest.mark.parametrize(("name", "kind", "title", "node"), [
    ("scarlett", "input", "Scarlett 2i2 USB Analog Stereo",
     {"PULSE_SOURCE": "alsa_input.usb-Focusrite_Scarlett_2i2_USB-00.analog-stereo"}),
    ("scarlett", "output", "Scarlett 2i2 USB Analog Stereo",
     {"PULSE_SINK": "alsa_output.usb-Focusrite_Scarlett_2i2_USB-00.analog-stereo"}),
    ("monitor of scar", "input", "Monitor of Scarlett 2i2 USB Analog Stereo",
     {"PULSE_SOURCE": "alsa_output.usb-Focusrite_Scarlett_2i2_USB-00.analog-stereo.monitor"}),
    ("größe", "input", "Kopfhörer „Größe“", {"PULSE_SOURCE": "bluez_input.headset"}),
    ("bluez_input", "input", "Kopfhörer „Größe“", {"PULSE_SOURCE": "bluez_input.headset"}),
    ("pulse", "output", "pulse", {}),
    ("hw:1", "input", "Scarlett 2i2 USB: Audio (hw:1,0)", {}),
])  # fmt: skip
def test_a_source_or_sink_is_found_by_its_name(nodes, name, kind, title, node):
    hardware = device(0, "Scarlett 2i2 USB: Audio (hw:1,0)")
    devices = with_nodes(hardware, device(1, "pulse"), device(2, "default"))
    found = find_device(name, kind, devices)
    assert (found.name, found.variables(kind)) == (title, node)
    assert found.portaudio_index == (1 if node else found.index)
    assert find_device(str(found.index), kind, devices) == found
    assert len({each.index for each in devices}) == len(devices)


def test_pipewires_own_device_takes_its_variable(nodes):
    devices = with_nodes(device(0, "pipewire"), device(1, "default"))
    found = find_device("scarlett", "output", devices)
    assert found.host == "PipeWire"
    assert found.variables("output") == {
        "PIPEWIRE_NODE": "alsa_output.usb-Focusrite_Scarlett_2i2_USB-00.analog-stereo"
    }
    assert with_nodes(device(0, "default")) == [device(0, "default")]  # no server


def test_an_ambiguous_name_lists_the_nodes(nodes):
    devices = with_nodes(device(0, "pulse"))
    with pytest.raises(DeviceError) as caught:
        find_device("analog-stereo", "output", devices)
    lines = str(caught.value).splitlines()
    assert lines[0] == "'analog-stereo' matches 2 output devices:"
    assert lines[1] == "  [4] Scarlett 2i2 USB Analog Stereo, PulseAudio"
    assert lines[-1] == "Name one by its number:  rtmtass live --output 4"


def test_source_and_sink_may_have_two_clocks(nodes):
    devices = with_nodes(device(0, "pulse"))
    capture, playback = (find_device("scarlett", kind, devices) for kind in ("input", "output"))
    assert not have_one_clock(capture, playback)


def test_the_environment_is_restored(monkeypatch):
    monkeypatch.setenv("PULSE_SINK", "before")
    monkeypatch.delenv("PULSE_SOURCE", raising=False)
    with pulse.chosen({"PULSE_SINK": "now", "PULSE_SOURCE": "mic"}):
        assert (os.environ["PULSE_SINK"], os.environ["PULSE_SOURCE"]) == ("now", "mic")
    assert os.environ["PULSE_SINK"] == "before"
    assert "PULSE_SOURCE" not in os.environ


# --- headphones


@pytest.mark.parametrize(("capture", "playback", "is_noted"), [
    ("Built-in Audio Analog Stereo", "Built-in Audio Analog Stereo", True),
    ("HDA Intel PCH: ALC257 Analog (hw:0,0)", "HDA Intel PCH: ALC257 Analog (hw:0,0)", True),
    ("MacBook Pro Microphone", "MacBook Pro Speakers", True),
    ("Microphone Array (Realtek(R) Audio)", "Speakers (Realtek(R) Audio)", True),
    ("HD Webcam C270", "Speakers", True),
    ("Internes Mikrofon", "Lautsprecher", True),
    ("MacBook Pro Microphone", "External Headphones", False),
    ("Jabra Headset", "Speakers", False),
    ("Internal Microphone", "AirPods Pro", False),
    ("Scarlett 2i2 USB Analog Stereo", "Scarlett 2i2 USB Analog Stereo", False),
    ("MacBook Pro Microphone", "BlackHole 2ch", False),
    ("Built-in Microphone", "CABLE Input (VB-Audio Virtual Cable)", False),
    ("Monitor of Built-in Audio Analog Stereo", "Built-in Audio Analog Stereo", False),
    ("something", "something else", False),
])  # fmt: skip
def test_headphones_are_advised_where_the_microphone_hears_the_loudspeaker(
    capture, playback, is_noted
):
    note = feedback_note(device(0, capture, "Core Audio"), device(1, playback, "Core Audio"))
    assert note == (NOTE if is_noted else "")
    assert feedback_note(device(0, capture, JACK), device(0, playback, JACK)) == ""
    assert feedback_note(None, device(1, playback)) == feedback_note(device(0, capture), None) == ""


def test_headphones_are_advised_for_the_servers_default_too(nodes, monkeypatch):
    built_in = [Node("mic", "Built-in Audio", "input", 2, 48000),
                Node("out", "Built-in Audio", "output", 2, 48000)]  # fmt: skip
    monkeypatch.setattr(pulse, "list_nodes", lambda: built_in)
    answers = {"get-default-source": b"mic\n", "get-default-sink": b"out\n"}
    monkeypatch.setattr(pulse, "_pactl", lambda *words: answers[words[0]])
    for name in ("PULSE_SINK", "PULSE_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    assert feedback_note(device(0, "default"), device(0, "pulse")) == NOTE
    monkeypatch.setenv("PULSE_SINK", "rtmtass_output")  # the virtual microphone's
    assert feedback_note(device(0, "default"), device(0, "pulse")) == ""


# --- JACK


def test_native_jack_is_preferred_to_alsas_detour():
    marks = {"is_default_input": True, "is_default_output": True}
    devices = [device(0, "jack", **marks), device(1, "pulse"), device(2, "system", JACK)]
    devices = listing._with_native_defaults(devices)
    for kind in ("input", "output"):
        for name in (None, "jack", "system", "2"):
            assert find_device(name, kind, devices).host == JACK
        assert find_device("jack, alsa", kind, devices).index == 0  # if it is meant
        assert find_device("0", kind, devices).index == 0


def test_other_defaults_stay():
    marks = {"is_default_input": True, "is_default_output": True}
    for devices in (
        [device(0, "default", **marks), device(1, "jack"), device(2, "system", JACK)],
        [device(0, "jack", **marks), device(1, "pulse")],
        [device(0, "mic", outputs=0, is_default_input=True), device(1, "out", inputs=0)],
    ):
        assert listing._with_native_defaults(devices) == devices


# --- a real PulseAudio


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A PulseAudio with two null sinks, of this test alone."""
    if IS_MISSING:
        pytest.skip(f"PulseAudio isn't installed: {INSTALL}")
    (tmp_path / "run").mkdir(mode=0o700)
    for name, value in (("XDG_RUNTIME_DIR", "run"), ("PULSE_RUNTIME_PATH", "run"), ("HOME", "")):
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.delenv("PULSE_SERVER", raising=False)
    search = os.environ.get("PULSE_MODULES")
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disable-shm=yes"]
    command += [f"--dl-search-path={search}"] if search else []
    scarlett = "sink_name=scarlett sink_properties=device.description=Scarlett_2i2"
    for module in ("native-protocol-unix", "null-sink sink_name=speakers", f"null-sink {scarlett}"):
        command += ["-L", f"module-{module}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 10
        while len(list_nodes()) < 4 and time.monotonic() < until:
            time.sleep(0.1)
        try:
            yield
        finally:
            process.terminate()


HOLD = """
from rtmtass.live.devices.virtual_mic import VirtualMicrophone
import os
with VirtualMicrophone():
    print(os.environ["PULSE_SINK"], flush=True)
    input()
"""


def test_the_virtual_microphone_of_a_killed_run_is_removed_by_the_next(server):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}

    def hold():
        command = [sys.executable, "-c", HOLD]
        process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def sinks():
        return {node.name for node in list_nodes() if "rtmtass" in node.name}

    (killed, first), (running, second) = hold(), hold()
    with killed, running:
        assert first == "rtmtass_output"
        assert second == f"rtmtass_output_{running.pid}"
        killed.kill()
        killed.wait()
        assert first in sinks()
        third, name = hold()
        with third:
            assert name == first
            assert {first, second, "rtmtass_microphone"} <= sinks()
            third.communicate("\n")
        assert first not in sinks()
        assert second in sinks()
        running.communicate("\n")
    assert not sinks()


def rtmtass(*words):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "rtmtass", *words], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_sound_goes_from_a_named_source_to_a_named_sink(server, tmp_path):
    listed = rtmtass("devices", "--json").communicate(timeout=60)[0]
    names = [json.loads(line)["name"] for line in listed.splitlines()]
    if "pulse" not in names:
        pytest.skip(f"ALSA has no device for PulseAudio: {INSTALL}")
    assert {"Scarlett_2i2", "Monitor of Null Output"} <= set(names)
    raw = [
        "pacat",
        "--raw",
        "--rate=48000",
        "--channels=1",
        "--format=float32le",
        "--latency-msec=100",
        "-d",
    ]
    x = (0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)).astype("<f4").tobytes()
    with contextlib.ExitStack() as stack:
        player = stack.enter_context(subprocess.Popen([*raw, "speakers", "-p"], stdin=-1))
        stack.callback(player.kill)
        recording = stack.enter_context((tmp_path / "raw").open("wb"))
        recorder = subprocess.Popen([*raw, "scarlett.monitor", "-r"], stdout=recording)
        stack.enter_context(recorder)
        stack.callback(recorder.kill)
        live = stack.enter_context(
            rtmtass("live", "--json", "--duration", "4", "--input", "monitor of null",
                    "--output", "scarlett")
        )  # fmt: skip
        assert player.stdin is not None
        while live.poll() is None:
            player.stdin.write(x)  # blocks at the pace of the server
        assert live.returncode == 0, live.stderr.read()
        stats = json.loads(live.stdout.read().splitlines()[-1])
    out = np.fromfile(tmp_path / "raw", "<f4")
    levels = np.sqrt((out[: len(out) // 4800 * 4800].reshape(-1, 4800) ** 2).mean(axis=1))
    assert np.median(levels[levels > 0.05]) == pytest.approx(0.3 / 2**0.5, rel=0.05)
    assert (levels > 0.05).sum() > 20  # 2 s
    assert stats["device"]["latency"]["total_ms"] > 30
