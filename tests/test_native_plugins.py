"""The CLAP, LV2 and LADSPA plugins, over a stand-in for the library whose output is known."""

from __future__ import annotations

import ctypes
import os
import plistlib
import re
import shutil
import subprocess
import threading
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_int,
    c_ulong,
    c_void_p,
)
from pathlib import Path
from typing import Any

import clap_host
import numpy as np
import pytest
import soundfile

from rtmtass.errors import ModelError
from rtmtass.native import controls, lv2_ttl, plugin_files
from rtmtass.native.parts import C_FOLDER

HERE = Path(__file__).parent / "native"
MODEL = "rtmtass-small"
STEMS = ("speech", "music", "noise")
PARTS = {"speech": 0.5, "music": 0.25, "noise": 0.125}
"""The stand-in's stems, as parts of the input: powers of two, so that sums are exact."""
WHOLE = sum(PARTS.values())
RATE = 48000
DELAY = RATE // 100
RAMP = 64
PACKAGES = {
    "cc": "gcc",
    "listplugins": "ladspa-sdk",
    "analyseplugin": "ladspa-sdk",
    "applyplugin": "ladspa-sdk",
    "sox": "sox",
    "ffmpeg": "ffmpeg",
    "lv2apply": "lilv-utils",
    "lv2info": "lilv-utils",
    "lv2_validate": "lv2-dev",
    "sord_validate": "sordi",
}


def needs(*programs):
    """Skip a test where a program isn't installed, except in CI, which has to have them."""
    missing = [program for program in programs if not shutil.which(program)]
    reason = "apt-get install " + " ".join(sorted({PACKAGES[program] for program in missing}))
    return pytest.mark.skipif(bool(missing) and os.environ.get("CI") != "true", reason=reason)


pytestmark = needs("cc")


def build(folder, plugin_format, *, stems=STEMS, standin_stems=STEMS, magic="standin"):
    """Build a plugin over the stand-in, as an export lays it out; return the library's path."""
    library = folder / plugin_files.file_name(plugin_format, MODEL, ".so")
    library.parent.mkdir(parents=True, exist_ok=True)
    (folder / plugin_files.HEADER).write_text(controls.header(MODEL, stems))
    (folder / "numbers.inc").write_text(", ".join(str(byte) for byte in magic.encode()))
    for name, text in plugin_files.extra_files(plugin_format, MODEL, stems, ".so").items():
        (folder / name).write_text(text)
    sources = [C_FOLDER / name for name in plugin_files.FORMATS[plugin_format].sources]
    names = ", ".join(f'"{stem}"' for stem in standin_stems)
    subprocess.run(
        ["cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC",
         "-fvisibility=hidden", "-Wl,-Bsymbolic", f"-I{folder}", f"-I{C_FOLDER}",
         '-DRTMTASS_MODEL_NUMBERS="numbers.inc"', f"-DSTANDIN_STEMS={names}", *sources,
         HERE / "standin.c", "-o", library, "-lm"],
        check=True,
    )  # fmt: skip
    return library


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """The plugins of every format: the path of each library."""
    return {name: build(tmp_path_factory.mktemp(name), name) for name in plugin_files.FORMATS}


def noise(channels, n, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, n)).astype(np.float32)


def delayed(x, gain=WHOLE, delay=DELAY):
    """What the stand-in makes of x at a steady gain."""
    return np.float32(gain) * np.pad(x, [(0, 0), (delay, 0)])[:, : x.shape[1]]


def run(*command, **options):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True, **options
    )


# The table and what is generated from it.


def test_every_model_gets_a_gain_for_each_of_its_stems():
    table = controls.controls(["a", "b"])
    assert [control.symbol for control in table] == ["a_gain", "b_gain", "strength", "bypass"]
    assert len({control.id for control in table}) == 4


def test_ids_of_parameters_never_change():
    """Projects that were saved with one release open in the next."""
    assert {control.symbol: control.id for control in controls.controls(STEMS)} == {
        "speech_gain": 0x619A1BFB,
        "music_gain": 0x84A4299B,
        "noise_gain": 0xAEF15709,
        "strength": 0xD6B9E1D8,
        "bypass": 0xEF088674,
    }


@pytest.mark.parametrize(
    ("stems", "words"),
    [
        ([], "0 stems"),
        ([f"s{i}" for i in range(9)], "9 stems"),
        (["a-b", "a b"], "differ"),
    ],
)
def test_stems_that_no_plugin_can_have_are_refused(stems, words):
    with pytest.raises(ModelError, match=words):
        controls.controls(stems)


def test_names_with_quotes_are_valid_in_c_and_turtle():
    header = controls.header('a"b\\c', ['spe"ech', "música"])
    assert r'"a\042b\134c mono"' in header
    assert r'"m\303\272sica"' in header
    assert 'lv2:name "Spe\\"ech gain"' in lv2_ttl.plugins("m", ['spe"ech'])


def test_a_clap_plugin_for_macos_is_a_bundle():
    model = "a & b"
    (name, text), *rest = plugin_files.extra_files("clap", model, STEMS, ".dylib").items()
    assert not rest
    entries = plistlib.loads(text.encode())
    library = plugin_files.file_name("clap", model, ".dylib")
    assert library == str(Path(name).parent / "MacOS" / entries["CFBundleExecutable"])
    assert re.fullmatch(r"[A-Za-z0-9.-]+", entries["CFBundleIdentifier"])


def test_our_headers_match_the_installed_ones(tmp_path):
    found = 0
    for name, header in (("LADSPA", "ladspa.h"), ("LV2", "lv2/core/lv2.h")):
        if not Path("/usr/include", header).exists():
            continue
        layouts = []
        for options in ([], ["-DINSTALLED"]):
            program = tmp_path / "probe"
            run("cc", "-std=c11", "-Wall", "-Werror", f"-I{C_FOLDER}",
                f"-DPROBE_{name}", *options, HERE / "abi_probe.c", "-o", program)  # fmt: skip
            layouts.append(run(program).stdout)
        assert layouts[0] == layouts[1]
        assert layouts[0].count("\n") > 10
        found += 1
    if not found:
        pytest.skip("apt-get install ladspa-sdk lv2-dev")


@pytest.mark.parametrize(
    "fault",
    [
        {"standin_stems": ("speech", "music")},
        {"standin_stems": ("speech", "music", "voice")},
        {"stems": ("speech", "music")},
        {"magic": "junk"},
    ],
)
def test_a_model_that_does_not_fit_its_plugin_is_refused(tmp_path, fault):
    assert not Ladspa(build(tmp_path, "ladspa", **fault)).instantiate(RATE)


def test_a_model_with_other_stems_has_other_controls(tmp_path):
    stems = ("voice", "rest")
    library = build(tmp_path, "ladspa", stems=stems, standin_stems=stems[::-1])
    plugin = Ladspa(library)
    assert plugin.names[2:] == [
        "Voice gain (dB)",
        "Rest gain (dB)",
        "Strength (dB)",
        "Bypass",
        "latency",
    ]
    plugin.instantiate(RATE)
    x = noise(1, 2000)
    # The model has them in the other order: "rest" is its first, half of the input.
    np.testing.assert_array_equal(plugin.run(x, [-60, 0, 60, 0]), delayed(x, 0.5))


# LADSPA and LV2: one pointer per port.


class LadspaDescriptor(Structure):
    _fields_ = [
        ("unique_id", c_ulong), ("label", c_char_p), ("properties", c_int), ("name", c_char_p),
        ("maker", c_char_p), ("copyright", c_char_p), ("n_ports", c_ulong),
        ("ports", POINTER(c_int)), ("port_names", POINTER(c_char_p)), ("hints", c_void_p),
        ("data", c_void_p), ("instantiate", CFUNCTYPE(c_void_p, c_void_p, c_ulong)),
        ("connect_port", CFUNCTYPE(None, c_void_p, c_ulong, c_void_p)),
        ("activate", CFUNCTYPE(None, c_void_p)), ("run", CFUNCTYPE(None, c_void_p, c_ulong)),
        ("run_adding", c_void_p), ("set_gain", c_void_p), ("deactivate", c_void_p),
        ("cleanup", CFUNCTYPE(None, c_void_p)),
    ]  # fmt: skip


class Lv2Descriptor(Structure):
    _fields_ = [
        ("uri", c_char_p),
        ("instantiate", CFUNCTYPE(c_void_p, c_void_p, c_double, c_char_p, c_void_p)),
        ("connect_port", CFUNCTYPE(None, c_void_p, ctypes.c_uint32, c_void_p)),
        ("activate", CFUNCTYPE(None, c_void_p)),
        ("run", CFUNCTYPE(None, c_void_p, ctypes.c_uint32)),
        ("deactivate", c_void_p),
        ("cleanup", CFUNCTYPE(None, c_void_p)),
        ("extension_data", c_void_p),
    ]


class Ported:
    """A plugin and its connected ports: inputs, outputs, controls, latency."""

    descriptor: Any

    def __init__(self, library, channels):
        self.dll = ctypes.CDLL(str(library))
        self.channels = channels
        self.handle = None
        self.latency = np.full(1, -1, np.float32)

    @property
    def calls(self):
        """How often a setting was passed on to the library."""
        return ctypes.c_uint.in_dll(self.dll, "standin_calls").value

    def connect(self, arrays):
        for port, array in enumerate(arrays):
            self.descriptor.connect_port(self.handle, port, array.ctypes.data)
        self._connected = arrays

    def run(self, x, values, outputs=None):
        """Process (channels, n) in one call; return (channels, n)."""
        out = np.full_like(x, 9.0) if outputs is None else outputs
        settings = [np.array([value], np.float32) for value in values]
        self.connect([*x, *out, *settings, self.latency])
        self.descriptor.run(self.handle, x.shape[1])
        return out

    def activate(self):
        self.descriptor.activate(self.handle)

    def instantiate(self, rate):
        self.handle = self.create(rate)
        if self.handle:
            self.activate()
        return self.handle

    def create(self, rate):
        raise NotImplementedError

    def close(self):
        self.descriptor.cleanup(self.handle)


class Ladspa(Ported):
    plain = (0, 0, 0, 60, 0)

    def __init__(self, library, channels=1):
        super().__init__(library, channels)
        self.dll.ladspa_descriptor.restype = POINTER(LadspaDescriptor)
        self.dll.ladspa_descriptor.argtypes = [c_ulong]
        self.pointer = self.dll.ladspa_descriptor(channels - 1)
        self.descriptor = self.pointer.contents
        names = self.descriptor.port_names[: self.descriptor.n_ports]
        self.names = [name.decode() for name in names]

    def create(self, rate):
        return self.descriptor.instantiate(self.pointer, rate)


class Lv2(Ported):
    plain = (0, 0, 0, 60, 1)

    def __init__(self, library, channels=1):
        super().__init__(library, channels)
        self.dll.lv2_descriptor.restype = POINTER(Lv2Descriptor)
        self.dll.lv2_descriptor.argtypes = [ctypes.c_uint32]
        self.pointer = self.dll.lv2_descriptor(channels - 1)
        self.descriptor = self.pointer.contents

    def create(self, rate):
        features = c_void_p()
        return self.descriptor.instantiate(self.pointer, rate, b"/", ctypes.addressof(features))


@pytest.fixture(params=["ladspa", "lv2"])
def make(request, libraries):
    """A function that makes an instance of a number of channels at RATE."""
    made = []

    def make(channels=1, rate=RATE):
        plugin = {"ladspa": Ladspa, "lv2": Lv2}[request.param](libraries[request.param], channels)
        if plugin.instantiate(rate):
            made.append(plugin)
        return plugin

    yield make
    for plugin in made:
        plugin.close()


def test_a_library_holds_two_plugins_with_unique_names(libraries):
    mono, stereo = (Ladspa(libraries["ladspa"], channels).descriptor for channels in (1, 2))
    assert 1000 < mono.unique_id != stereo.unique_id < 0x1000000
    assert [mono.label, stereo.label] == [b"rtmtass_small_mono", b"rtmtass_small_stereo"]
    assert not Ladspa(libraries["ladspa"]).dll.ladspa_descriptor(2)
    uris = [Lv2(libraries["lv2"], channels).descriptor.uri for channels in (1, 2)]
    assert uris == [b"urn:rtmtass:rtmtass_small:mono", b"urn:rtmtass:rtmtass_small:stereo"]
    assert not Lv2(libraries["lv2"]).dll.lv2_descriptor(2)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("block", [1, 7, 255, 256, 257, 1000, 5000])
def test_ports_any_block_length_gives_the_same_output(make, channels, block):
    plugin, x = make(channels), noise(channels, 5000)
    blocks = [np.ascontiguousarray(x[:, i : i + block]) for i in range(0, 5000, block)]
    y = np.hstack([plugin.run(part, plugin.plain) for part in blocks])
    np.testing.assert_array_equal(y, delayed(x))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ports_an_output_may_share_memory_with_any_input(make, order):
    plugin, x = make(2), noise(2, 3000)
    shared = [row.copy() for row in x]
    y = plugin.run(np.array(x), plugin.plain)
    plugin.activate()
    plugin.connect(
        [*shared, *(shared[i] for i in order),
         *(np.array([value], np.float32) for value in plugin.plain), plugin.latency]
    )  # fmt: skip
    plugin.descriptor.run(plugin.handle, 3000)
    np.testing.assert_array_equal([shared[i] for i in order], y)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
def test_ports_the_latency_reported_is_the_one_measured(make, rate):
    plugin = make(1, rate)
    x = np.zeros((1, 5000), np.float32)
    x[0, 100] = 1
    plugin.run(x[:, :0], plugin.plain)  # before the first sample, as LV2 hosts do
    assert plugin.latency[0] == rate // 100
    assert np.argmax(plugin.run(x, plugin.plain)[0]) == 100 + plugin.latency[0]


@pytest.mark.parametrize("rate", [0, 1999, 768001, 10**8])
def test_ports_a_rate_out_of_range_is_refused(make, rate):
    assert make(1, rate).handle is None


def test_ports_the_first_block_has_the_hosts_gains_without_a_ramp(make):
    plugin, x = make(), noise(1, 2000)
    values = [-60, -60, *plugin.plain[2:]]
    np.testing.assert_array_equal(plugin.run(x, values), delayed(x, PARTS["noise"]))


def test_ports_activate_returns_to_silence(make):
    plugin, x = make(), noise(1, 2000)
    first = plugin.run(x, plugin.plain)
    plugin.activate()
    np.testing.assert_array_equal(plugin.run(x, plugin.plain), first)


def test_ports_only_changes_are_passed_on(make):
    plugin, x = make(), noise(1, 100)
    plugin.run(x, plugin.plain)
    before = plugin.calls
    for _ in range(5):
        plugin.run(x, plugin.plain)
    assert plugin.calls == before
    plugin.run(x, [-3, *plugin.plain[1:]])
    assert plugin.calls == before + 1


@pytest.mark.parametrize(
    ("values", "gain"),
    [
        ({0: -60}, WHOLE - PARTS["speech"]),
        ({0: -1000, 2: -70}, PARTS["music"]),  # below the range
        ({0: 12}, WHOLE + PARTS["speech"] * (10**0.6 - 1)),
        ({0: 99}, WHOLE + PARTS["speech"] * (10**0.6 - 1)),  # above it
        ({0: np.nan}, WHOLE),  # keeps the value before
        ({0: -60, 3: 0}, WHOLE),  # strength 0: the input as it is
        ({0: -60, 3: 20}, WHOLE - 0.9 * PARTS["speech"]),
        ({0: -60, "bypass": True}, 1),
    ],
)
def test_ports_controls_do_what_they_say(make, values, gain):
    plugin, x = make(), noise(1, 2000)
    settings = list(plugin.plain)
    for port, value in values.items():
        if port == "bypass":
            settings[-1] = 1 - settings[-1]
        else:
            settings[port] = value
    np.testing.assert_allclose(plugin.run(x, settings), delayed(x, gain), atol=1e-6)


# LADSPA and LV2 in real programs.


def write(path, x, rate=RATE):
    soundfile.write(path, x.T, rate, subtype="FLOAT")
    return path


@needs("analyseplugin", "applyplugin", "listplugins")
def test_the_ladspa_sdk_lists_and_applies_the_plugin(libraries, tmp_path):
    library = libraries["ladspa"]
    listing = run("listplugins", env={**os.environ, "LADSPA_PATH": str(library.parent)}).stdout
    assert "rtmtass-small mono" in listing
    text = run("analyseplugin", library, "rtmtass_small_stereo").stdout
    assert '"Speech gain (dB)" input, control, -60 to 12, default 0' in text
    assert '"Strength (dB)" input, control, 0 to 60, default 60' in text
    assert '"Bypass" input, control, toggled, default 0' in text
    assert "Hard Real-Time" in text
    x = noise(2, 5000)
    soundfile.write(tmp_path / "in.wav", x.T, RATE, subtype="PCM_16")
    run("applyplugin", tmp_path / "in.wav", tmp_path / "out.wav", library,
        "rtmtass_small_stereo", -60, 0, 0, 60, 0)  # fmt: skip
    y = soundfile.read(tmp_path / "out.wav", always_2d=True)[0].T
    np.testing.assert_allclose(y, delayed(x, WHOLE - PARTS["speech"]), atol=2 / 32768)


@needs("sox")
@pytest.mark.parametrize("channels", [1, 2])
def test_sox_applies_the_ladspa_plugin_and_compensates_its_latency(libraries, tmp_path, channels):
    x = noise(channels, 5000)
    label = controls.label(MODEL, "mono" if channels == 1 else "stereo")
    run("sox", write(tmp_path / "in.wav", x), "-e", "float", tmp_path / "out.wav", "ladspa", "-l",
        libraries["ladspa"].stem, label, "0", "-60", "0",
        env={**os.environ, "LADSPA_PATH": str(libraries["ladspa"].parent)})  # fmt: skip
    y = soundfile.read(tmp_path / "out.wav", always_2d=True)[0].T
    np.testing.assert_allclose(
        y[:, : 5000 - DELAY], np.float32(0.625) * x[:, : 5000 - DELAY], atol=1e-6
    )


@needs("ffmpeg")
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("plugin_format", ["ladspa", "lv2"])
def test_ffmpeg_applies_the_plugin(libraries, tmp_path, channels, plugin_format):
    x, library = noise(channels, 5000), libraries[plugin_format]
    layout = "mono" if channels == 1 else "stereo"
    graph = {
        "ladspa": f"ladspa=file={library}:plugin={controls.label(MODEL, layout)}:controls=c0=-60",
        "lv2": "lv2=p=" + controls.uri(MODEL, layout).replace(":", r"\\:") + ":c=speech_gain=-60",
    }[plugin_format]
    run("ffmpeg", "-v", "error", "-i", write(tmp_path / "in.wav", x), "-af", graph,
        "-c:a", "pcm_f32le", tmp_path / "out.wav",
        env={**os.environ, "LV2_PATH": f"{library.parent.parent}:/usr/lib/lv2"})  # fmt: skip
    y = soundfile.read(tmp_path / "out.wav", always_2d=True)[0].T
    np.testing.assert_allclose(y, delayed(x, WHOLE - PARTS["speech"]), atol=1e-6)


@needs("lv2apply")
def test_lv2apply_applies_the_plugin(libraries, tmp_path):
    x = noise(2, 5000)
    path = {"LV2_PATH": f"{libraries['lv2'].parent.parent}:/usr/lib/lv2"}
    run("lv2apply", "-i", write(tmp_path / "in.wav", x), "-o", tmp_path / "out.wav", "-c",
        "enabled", "0", controls.uri(MODEL, "stereo"), env={**os.environ, **path})  # fmt: skip
    y = soundfile.read(tmp_path / "out.wav", always_2d=True)[0].T
    np.testing.assert_array_equal(y, delayed(x, 1))


@needs("lv2info")
def test_lv2info_finds_ports_units_and_latency(libraries):
    path = {"LV2_PATH": f"{libraries['lv2'].parent.parent}:/usr/lib/lv2"}
    text = run("lv2info", controls.uri(MODEL, "stereo"), env={**os.environ, **path}).stdout
    assert "Has latency:       yes, reported by port 9" in text
    assert "Class:             Spectral Plugin" in text
    assert '-60.0 = "off"' in text
    assert "lv2core#enabled" in text
    assert "hardRTCapable" in text


@needs("lv2_validate", "sord_validate")
def test_the_lv2_bundle_is_valid(libraries):
    process = run("lv2_validate", *sorted(libraries["lv2"].parent.glob("*.ttl")))
    assert "Found 0 errors" in process.stdout


# CLAP.


@pytest.fixture
def clap_library(libraries):
    return clap_host.Library(libraries["clap"])


@pytest.fixture
def clap(clap_library):
    """A function that creates an instance of a number of channels."""
    library = clap_library
    made = []

    def create(channels=2, extensions=True):
        identity = library.descriptors()[channels - 1].id
        made.append(library.create(identity, extensions))
        return made[-1]

    yield create
    for instance in made:
        instance.close()


def test_clap_describes_two_plugins(clap_library):
    mono, stereo = clap_library.descriptors()
    assert (mono.id, stereo.id) == (b"rtmtass.rtmtass_small.mono", b"rtmtass.rtmtass_small.stereo")
    assert (mono.version.major, mono.version.minor) == (1, 1)
    for descriptor, layout in ((mono, b"mono"), (stereo, b"stereo")):
        features = [descriptor.features[i] for i in range(4)]
        assert features == [b"audio-effect", b"restoration", b"utility", layout]
        assert descriptor.features[4] is None
        assert all((descriptor.name, descriptor.vendor, descriptor.release, descriptor.description))
    assert not clap_library.factory.create(clap_library.address, None, b"unknown")


def test_clap_audio_ports(clap):
    for channels, kind in ((1, b"mono"), (2, b"stereo")):
        instance = clap(channels)
        ports = instance.extension("clap.audio-ports", clap_host.AudioPorts)
        for is_input in (True, False):
            info = clap_host.PortInfo()
            assert ports.count(instance.pointer, is_input) == 1
            assert ports.get(instance.pointer, 0, is_input, ctypes.byref(info))
            assert (info.channel_count, info.port_type, info.flags) == (channels, kind, 1)
            assert info.in_place_pair == info.id
            assert not ports.get(instance.pointer, 1, is_input, ctypes.byref(info))
    assert instance.extension("clap.gui", clap_host.State) is None


def test_clap_parameters(clap):
    infos = clap().by_name
    assert list(infos) == ["Speech gain", "Music gain", "Noise gain", "Strength", "Bypass"]
    ranges = [(i.minimum, i.maximum, i.default) for i in infos.values()]
    assert ranges == [(-60, 12, 0)] * 3 + [(0, 60, 60), (0, 1, 0)]
    automatable = clap_host.AUTOMATABLE
    flags = [info.flags for info in infos.values()]
    assert flags == [automatable] * 4 + [automatable | clap_host.STEPPED | clap_host.BYPASS]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("Speech gain", 0.0, "0.0 dB"), ("Speech gain", -0.04, "0.0 dB"),
        ("Speech gain", 6.0, "+6.0 dB"), ("Speech gain", -12.34, "-12.3 dB"),
        ("Speech gain", -0.4, "-0.4 dB"), ("Speech gain", -60.0, "off"),
        ("Speech gain", -59.96, "off"), ("Speech gain", 99.0, "+12.0 dB"),
        ("Speech gain", np.nan, None), ("Strength", 60.0, "no limit"),
        ("Strength", 12.0, "12.0 dB"), ("Strength", np.inf, "no limit"),
        ("Bypass", 0.0, "off"), ("Bypass", 1.0, "on"),
    ],
)  # fmt: skip
def test_clap_text_of_values(clap, name, value, text):
    instance = clap()
    assert instance.text(name, value) == text
    if text is not None:
        parsed = instance.parsed(name, text)
        assert instance.text(name, parsed) == text


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("Speech gain", "-3.5", -3.5), ("Speech gain", "  +2,5 DB ", 2.5),
        ("Speech gain", "Off", -60), ("Speech gain", "100", 12), ("Speech gain", "", None),
        ("Speech gain", "dB", None), ("Speech gain", "3 dBm", None), ("Speech gain", "1e5", None),
        ("Speech gain", "offside", None), ("Speech gain", "--3", None),
        ("Speech gain", "9" * 99, None), ("Strength", "no limit", 60), ("Strength", "off", None),
        ("Strength", "0", 0), ("Bypass", "on", 1), ("Bypass", "OFF", 0), ("Bypass", "1", 1),
    ],
)  # fmt: skip
def test_clap_values_of_text(clap, name, text, value):
    assert clap().parsed(name, text) == value


def test_clap_text_fits_its_buffer_or_is_refused(clap):
    instance = clap()
    assert instance.text("Speech gain", -12.3, capacity=8) is None
    assert instance.text("Speech gain", -12.3, capacity=9) == "-12.3 dB"
    assert instance.text("Speech gain", 0.0, capacity=0) is None


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("block", [1, 64, 1000])
def test_clap_processes_any_block(clap, channels, in_place, block):
    x = noise(channels, 3000)
    with clap(channels).active(RATE) as instance:
        parts = [instance.process(x[:, i : i + block], in_place=in_place, constant_mask=3)
                 for i in range(0, 3000, block)]  # fmt: skip
        np.testing.assert_array_equal(np.hstack(parts), delayed(x))
        assert instance.status == clap_host.TAIL
        assert instance.output_mask == 0
        assert instance.process(x[:, :0]).size == 0
        assert instance.process(noise(3 - channels, 5)).size
        assert instance.status == clap_host.ERROR


@pytest.mark.parametrize("times", [(0,), (1,), (333,), (999,), (10, 500), (10, 10)])
def test_clap_events_act_at_their_sample(clap, times):
    """Every change starts the stand-in's ramp at its sample, wherever that is in a block."""
    ones = np.ones((2, 1000), np.float32)
    changes = [(time, "Speech gain", [-60.0, 0.0][i]) for i, time in enumerate(times)]
    with clap().active(RATE) as instance:
        instance.process(ones)
        y = instance.process(ones, changes)[0]
        instance.plugin.reset(instance.pointer)
    if len(set(times)) < len(times):  # two at one sample: the last counts
        np.testing.assert_array_equal(y, np.float32(WHOLE))
        return
    assert np.all(y[: times[0]] == np.float32(WHOLE))
    assert y[times[0]] < WHOLE
    for time, settled in zip(times, (WHOLE - 0.5, WHOLE), strict=False):
        assert np.all(y[time + RAMP - 1 : time + RAMP + 20] == np.float32(settled))


def test_clap_events_of_others_are_ignored(clap):
    ones = np.ones((2, 100), np.float32)
    with clap().active(RATE) as instance:
        y = instance.process(ones, [(3, 12345, -60.0), (4, "Speech gain", np.nan)])
        assert instance.value("Speech gain") == 0
    np.testing.assert_array_equal(y, delayed(ones))


def test_clap_an_event_beyond_the_block_acts_at_its_end(clap):
    ones = np.ones((2, 1000), np.float32)
    with clap().active(RATE) as instance:
        instance.process(ones)
        np.testing.assert_array_equal(
            instance.process(ones, [(5000, "Bypass", 1.0)]), np.float32(WHOLE)
        )
        assert instance.process(ones)[0, -1] == 1
        # No samples: the event is taken all the same.
        instance.process(ones[:, :0], [(0, "Bypass", 0.0)])
        assert instance.value("Bypass") == 0


def test_clap_flush_sets_parameters_active_or_not(clap):
    instance, x = clap(), noise(2, 1000)
    instance.flush((0, "Music gain", -60.0), (0, "Bypass", 0.9))
    assert (instance.value("Music gain"), instance.value("Bypass")) == (-60, 0)
    with instance.active(RATE):
        np.testing.assert_array_equal(instance.process(x), delayed(x, 0.625))
        instance.flush((0, "Music gain", 0.0))
        instance.process(x)
        assert instance.value("Music gain") == 0


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 44099.9, 96000])
def test_clap_latency_is_the_one_measured_and_told_when_it_changes(clap, rate):
    instance = clap()
    with instance.active(rate):
        latency = instance.samples("latency")
        assert latency == round(rate) // 100
        assert instance.samples("tail") >= latency
        impulse = np.zeros((2, 3000), np.float32)
        impulse[:, 5] = 1
        assert np.argmax(instance.process(impulse)[0]) == 5 + latency
    with instance.active(rate):
        pass
    main = threading.get_ident()
    assert instance.calls == [("latency.changed", main)]  # at the first activation only
    with instance.active(2 * rate):
        pass
    assert len(instance.calls) == 2


@pytest.mark.parametrize("rate", [0, -1, 1999, 768001, 1e12, np.nan, np.inf])
def test_clap_a_rate_out_of_range_is_refused(clap, rate):
    instance = clap()
    assert not instance.plugin.activate(instance.pointer, rate, 1, 64)
    with instance.active(RATE):
        instance.process(noise(2, 10))


def test_clap_reset_returns_to_silence_and_keeps_the_parameters(clap):
    x = noise(2, 1000)
    with clap().active(RATE) as instance:
        first = instance.process(x, [(0, "Speech gain", -60.0)])
        instance.plugin.reset(instance.pointer)
        np.testing.assert_array_equal(instance.process(x), first)
        assert instance.value("Speech gain") == -60


def test_clap_state_is_restored(clap):
    saved, restored = clap(), clap()
    saved.flush((0, "Speech gain", -3.3), (0, "Strength", 12.0), (0, "Bypass", 1.0))
    restored.flush((0, "Noise gain", 5.0))
    assert restored.load(saved.saved())
    for name in saved.by_name:
        assert restored.value(name) == saved.value(name)
    assert restored.calls == [("params.rescan", 1, threading.get_ident())]
    assert clap(extensions=False).load(saved.saved(step=1000), step=1000)


def test_clap_state_loaded_while_active_acts_at_the_next_block(clap):
    donor, x = clap(), noise(2, 1000)
    donor.flush((0, "Bypass", 1.0))
    with clap().active(RATE) as instance:
        instance.process(x)
        assert instance.load(donor.saved())
        y = instance.process(x)
        np.testing.assert_array_equal(y[:, DELAY:], x[:, : 1000 - DELAY])


def damaged_states(state):
    yield b""
    yield b"junk" * 100
    yield state[:15]
    yield state[:-1]
    yield b"X" + state[1:]
    yield state[:8] + b"\x02" + state[9:]  # a newer version
    yield state[:12] + b"\xff" * 4 + state[16:]  # 4 billion values
    yield state[:20] + np.float64(np.nan).tobytes() + state[28:]


def test_clap_a_state_that_is_not_ours_is_refused_and_changes_nothing(clap):
    instance = clap()
    instance.flush((0, "Speech gain", -7.0))
    for data in damaged_states(instance.saved()):
        assert not instance.load(data)
        assert instance.value("Speech gain") == -7
    assert not instance.calls


def test_clap_state_of_another_model_keeps_what_is_known(clap):
    instance = clap()
    instance.flush((0, "Speech gain", -7.0))
    state = bytearray(instance.saved())
    state[16:20] = b"\1\2\3\4"  # the speech gain's id
    assert instance.load(bytes(state))
    assert instance.value("Speech gain") == 0


def test_clap_two_instances_on_two_threads_are_independent(clap):
    x = noise(2, 20000)
    results = {}

    def process(gain):
        instance = clap()
        with instance.active(RATE):
            blocks = [x[:, i : i + 100] for i in range(0, 20000, 100)]
            first, *rest = blocks
            parts = [instance.process(first, [(0, "Speech gain", gain)])]
            results[gain] = np.hstack(parts + [instance.process(part) for part in rest])

    threads = [threading.Thread(target=process, args=(gain,)) for gain in (0.0, -60.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(results[0.0], delayed(x))
    np.testing.assert_array_equal(results[-60.0][:, RAMP:], delayed(x, 0.375)[:, RAMP:])


def test_each_library_exports_its_entry(libraries):
    for name, library in libraries.items():
        assert hasattr(ctypes.CDLL(str(library)), plugin_files.FORMATS[name].symbol)
