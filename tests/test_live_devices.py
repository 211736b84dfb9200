"""Finding devices, the doctor's checks, and the virtual microphone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jack_rig
import pytest

import rtmtass
from rtmtass.errors import DeviceError, MissingPartError, ModelError
from rtmtass.live.devices import doctor, virtual_mic
from rtmtass.live.devices.listing import JACK, Device, find_again, find_device
from rtmtass.live.devices.virtual_mic import VirtualMicrophone

MISSING = jack_rig.missing_parts()
IS_CI = os.environ.get("CI") == "true"
on_a_sound_card = pytest.mark.skipif(bool(MISSING) and not IS_CI, reason=MISSING)

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parent.parent),
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def card():
    server = jack_rig.JackServer(rate=48000, period=256, channels=2)
    yield server
    server.close()


def run(*words, code=0, path=""):
    environment = {**ENVIRONMENT, **os.environ}
    if path:
        environment["PYTHONPATH"] = f"{path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    command = [sys.executable, "-m", "rtmtass", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    return done


# --- names


def device(index, name, host="ALSA", inputs=2, outputs=2, **marks):
    marks = {"is_default_input": False, "is_default_output": False, **marks}
    return Device(index, name, host, inputs, outputs, 48000, (1, 2), (1, 2), **marks)


DEVICES = [
    device(0, "HDA Intel", is_default_input=True),
    device(3, "Scarlett 2i2 USB"),
    device(5, "Speakers", inputs=0, is_default_output=True),
    device(7, "Scarlett 2i2 USB", host="JACK"),
    device(9, "Monitor of HDA Intel", host="Pulse", outputs=0),
]


@pytest.mark.parametrize(("name", "kind", "index"), [
    (None, "input", 0), (None, "output", 5), ("7", "input", 7), ("hda intel", "input", 0),
    ("monitor", "input", 9), ("2i2 usb, jack", "output", 7), ("speak", "output", 5),
])  # fmt: skip
def test_a_device_is_found_by_number_or_part_of_its_name(name, kind, index):
    assert find_device(name, kind, DEVICES).index == index


def test_an_ambiguous_name_lists_the_candidates():
    with pytest.raises(DeviceError) as caught:
        find_device("scarlett", "input", DEVICES)
    assert str(caught.value) == (
        "'scarlett' matches 2 input devices:\n"
        "  [3] Scarlett 2i2 USB, ALSA\n"
        "  [7] Scarlett 2i2 USB, JACK\n"
        "Name one by its number:  rtmtass live --input 3"
    )


@pytest.mark.parametrize(("name", "kind", "message"), [
    ("speakers", "input", r"'speakers' matches no input device; there are:\n  \[0\] HDA"),
    ("5", "input", "there is no input device number 5; there are:"),
    ("monitor of", "output", "matches no output device"),
])  # fmt: skip
def test_a_name_without_a_match_lists_the_devices(name, kind, message):
    with pytest.raises(DeviceError, match=message):
        find_device(name, kind, DEVICES)
    with pytest.raises(DeviceError, match="no output device; plug one in"):
        find_device(name, "output", [])


def test_monitors_are_recognised_by_name():
    assert [d.index for d in DEVICES if d.is_monitor] == [9]


def test_a_device_is_found_again_by_name():
    twins = [device(2, "USB Audio"), device(4, "USB Audio"), device(6, "USB Audio", host="JACK")]
    assert find_again(twins[1], "input", twins) == twins[1]
    moved = [device(0, "HDA"), device(1, "USB Audio"), device(3, "USB Audio", inputs=0)]
    assert find_again(twins[1], "input", moved) == moved[1]
    assert find_again(twins[2], "input", moved) is None


# --- on a sound card


@on_a_sound_card
def test_devices_are_listed(card):
    facts = map(json.loads, run("devices", "--json").stdout.splitlines())
    (fact,) = (fact for fact in facts if fact["host"] == JACK)
    assert (fact["name"], fact["inputs"], fact["outputs"], fact["rates"]) == (
        "system",
        2,
        2,
        [48000],
    )
    assert "JACK Audio Connection Kit" in run("devices").stdout


@on_a_sound_card
def test_the_doctor_runs_all_checks(card):
    printed = run("doctor", "--json").stdout
    results = {check["name"]: check for check in map(json.loads, printed.splitlines())}
    assert {"PortAudio", "input devices", "real-time priority", "locked memory", "processor",
            "int8", "machine code", "model", "speed"} <= set(results)  # fmt: skip
    assert results["PortAudio"]["is_ok"]
    assert all(check["is_ok"] or check["advice"] for check in results.values())


# --- the doctor


def test_the_doctor_says_how_to_install_portaudio(tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    lines = run("doctor", "--json", code=1, path=tmp_path).stdout.splitlines()
    first, *others = map(json.loads, lines)
    assert (first["name"], first["is_ok"], first["is_needed"]) == ("PortAudio", False, True)
    for system in ("apt install libportaudio2", "dnf install portaudio", "macOS", "Windows"):
        assert system in first["advice"]
    assert {"processor", "model", "speed"} <= {check["name"] for check in others}


def test_without_devices_the_doctor_advises_for_every_system(monkeypatch):
    monkeypatch.setattr(doctor, "list_devices", lambda: [])
    monkeypatch.setattr(doctor, "portaudio", FakePortAudio)
    missing = [check for check in doctor._sound() if not check.is_ok]
    assert [check.name for check in missing] == ["input devices", "output devices"]
    for system in ("Debian", "Fedora", "macOS", "Windows"):
        assert system in missing[0].advice


def test_the_doctor_says_the_same_advice_once(monkeypatch, capsys):
    from rtmtass.cli.main import build_parser

    found = [doctor.Check(f"{kind} devices", False, "none", "plug one in") for kind in "ab"]
    monkeypatch.setattr(doctor, "checks", lambda: found)
    arguments = build_parser().parse_args(["doctor"])
    assert arguments.run(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines[1::2]] == ["→ plug one in", "→ as above"]


class FakePortAudio:
    def get_portaudio_version(self):
        return 1, "PortAudio, fake"


def test_the_doctor_finds_damaged_weights(monkeypatch):
    def load(**_):
        raise ModelError("model.safetensors was altered: install rtmtass again")

    monkeypatch.setattr(rtmtass, "load", load)
    (check,) = doctor._model()
    assert (check.is_ok, check.is_needed) == (False, True)
    assert check.advice == "model.safetensors was altered: install rtmtass again"


# --- the virtual microphone, with a script as pactl

PACTL = """#!/bin/sh
echo "$@" >> {log}
case "$1 $2" in
  "get-default-source ") echo usb_microphone;;
  "load-module module-null-sink") echo 21;;
  "list short") cat {listed};;
  "load-module module-remap-source") {second};;
esac
"""


def pactl(folder, second="echo 22", modules=""):
    script, log, listed = folder / "pactl", folder / "log", folder / "modules"
    listed.write_text(modules)
    script.write_text(PACTL.format(log=log, second=second, listed=listed))
    script.chmod(0o755)
    return log


def test_a_virtual_microphone_is_created_and_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("PULSE_SINK", raising=False)
    monkeypatch.delenv("PULSE_SOURCE", raising=False)
    log = pactl(tmp_path)
    with VirtualMicrophone():
        assert os.environ["PULSE_SINK"] == "rtmtass_output"
        assert os.environ["PULSE_SOURCE"] == "usb_microphone"  # not the one just created
    assert not {"PULSE_SINK", "PULSE_SOURCE"} & set(os.environ)
    lines = [line for line in log.read_text().splitlines() if "load-module" in line]
    assert lines[0].startswith("load-module module-null-sink sink_name=rtmtass_output")
    assert lines[1].startswith("load-module module-remap-source master=rtmtass_output.monitor")
    assert lines[2:] == ["unload-module 22", "unload-module 21"]


def test_a_virtual_microphone_that_fails_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    log = pactl(tmp_path, "echo refused >&2; exit 1")
    with pytest.raises(DeviceError, match="refused; is PipeWire or PulseAudio running"):
        VirtualMicrophone().__enter__()
    assert log.read_text().splitlines()[-1] == "unload-module 21"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(MissingPartError, match="needs pactl"):
        VirtualMicrophone().__enter__()


def marked(number, name, process, started, namespace):
    properties = f"'device.description=rtmtass rtmtass.run={process}-{started}-{namespace}'"
    return f"{number}\tmodule-null-sink\tsink_name={name} sink_properties={properties}\t\n"


def test_what_a_killed_run_left_is_removed_and_what_others_use_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with subprocess.Popen(["sleep", "60"]) as other:
        running, (_, _, namespace) = virtual_mic._identity(other.pid), virtual_mic._identity(1)
        modules = "".join((
            "3\tmodule-null-sink\tsink_name=someone_elses\t\n",
            marked(5, "rtmtass_output_9", *running),
            marked(6, "rtmtass_output", running[0], running[1] - 1, namespace),  # a reused number
            marked(7, "rtmtass_output", 2**22 + 1, 4, namespace),  # gone
            marked(8, "rtmtass_output_8", 2**22 + 1, 4, namespace + 1),  # of another container
        ))  # fmt: skip
        log = pactl(tmp_path, modules=modules)
        with VirtualMicrophone():
            assert os.environ["PULSE_SINK"] == f"rtmtass_output_{os.getpid()}"  # still listed
        other.kill()
    lines = [line for line in log.read_text().splitlines() if "unload-module" in line]
    assert lines == [f"unload-module {number}" for number in (7, 6, 22, 21)]


def test_a_killed_process_that_nobody_waits_for_is_gone():
    with subprocess.Popen(["sleep", "60"]) as process:
        running = virtual_mic._identity(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert running[1] > 0
        assert virtual_mic._identity(process.pid)[1] == 0
