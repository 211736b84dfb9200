"""The exported plugins, with library and model in them, give the C library's mix in every host."""

from __future__ import annotations

import os
from pathlib import Path

import clap_host
import numpy as np
import pytest
import soundfile
from native_builds import MODEL, Builds, needs
from native_library import MIX, Library, delayed, model_bytes, noise
from test_native_plugins import Ladspa, Lv2, run

from rtmtass.native import controls, plugin_files
from rtmtass.native.targets import find_target
from rtmtass.types import Floats

pytestmark = needs()

RATES = [16000, 44100, 48000, 96000]
FORMATS = list(plugin_files.FORMATS)


def binary(builds: Builds, plugin_format: str) -> Path:
    suffix = find_target().library_suffix
    return builds.plugin(plugin_format) / plugin_files.file_name(plugin_format, MODEL, suffix)


def expected_mix(library: Library, rate: int, x: Floats, *gains_db: float) -> tuple[int, Floats]:
    """The latency, and the mix at these gains from the first sample on."""
    stream = library.open(model_bytes("int8")).stream(rate, len(x), MIX)
    stream.set_gains(*gains_db)
    stream.reset()
    return stream.latency, stream.process(x)


def mixed(
    builds: Builds, plugin_format: str, rate: int, x: Floats, *gains_db: float
) -> tuple[int, Floats]:
    """The latency that a host is told, and the mix that it gets."""
    path, channels = binary(builds, plugin_format), len(x)
    blocks = [np.ascontiguousarray(x[:, i : i + 333]) for i in range(0, x.shape[1], 333)]
    if plugin_format == "clap":
        name = controls.uri(MODEL, "mono" if channels == 1 else "stereo")
        plugin = clap_host.Library(path).create(name.replace(":", ".")[4:].encode())
        stems = ("Speech", "Music", "Noise")
        gains = [(0, f"{stem} gain", gain) for stem, gain in zip(stems, gains_db, strict=True)]
        with plugin.active(rate):
            latency = plugin.samples("latency")
            outs = [plugin.process(block, () if i else gains) for i, block in enumerate(blocks)]
        plugin.close()
        return latency, np.hstack(outs)
    ported = Ladspa(path, channels) if plugin_format == "ladspa" else Lv2(path, channels)
    assert ported.instantiate(rate)
    settings = [*gains_db, *ported.plain[3:]]
    found = np.hstack([ported.run(block, settings) for block in blocks])
    latency = int(ported.latency[0])
    ported.close()
    return latency, found


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("plugin_format", FORMATS)
def test_plugins_give_the_librarys_mix_as_late_as_they_say(
    plugin_format: str, rate: int, channels: int, builds: Builds, library: Library
) -> None:
    x, gains = noise(channels, rate // 2), (-60.0, 3.0, -7.5)
    latency, expected = expected_mix(library, rate, x, *gains)
    assert np.abs(expected).max() > 0.01
    told, found = mixed(builds, plugin_format, rate, x, *gains)
    assert told == latency
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stem", range(3))
@pytest.mark.parametrize("plugin_format", FORMATS)
def test_a_plugin_alone_with_a_stem_is_that_stem(
    plugin_format: str, stem: int, builds: Builds, library: Library
) -> None:
    x = noise(1, 16000)
    stems = library.open(model_bytes("int8")).stream().process(x)
    gains = [0.0 if s == stem else -60.0 for s in range(3)]
    _, found = mixed(builds, plugin_format, 16000, x, *gains)
    np.testing.assert_allclose(found[0], stems[stem], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("plugin_format", FORMATS)
def test_a_plugin_with_nothing_turned_returns_an_impulse_when_it_says(
    plugin_format: str, rate: int, builds: Builds
) -> None:
    x = np.zeros((1, rate // 4), np.float32)
    x[0, 100] = 0.5
    told, found = mixed(builds, plugin_format, rate, x, 0.0, 0.0, 0.0)
    assert np.argmax(np.abs(found)) == 100 + told
    np.testing.assert_allclose(found, delayed(x, told), rtol=0, atol=1e-6)


# In programs that load plugins

RATE = 48000
GAINS = (-60.0, 0.0, 0.0)


def write(path: Path, x: Floats) -> Path:
    soundfile.write(path, x.T, RATE, subtype="FLOAT")
    return path


def read(path: Path) -> Floats:
    samples = soundfile.read(path, dtype="float32", always_2d=True)[0]
    return np.ascontiguousarray(samples.T)


def sixteen_bits(x: Floats) -> Floats:
    """Round to what programs with integer samples pass on exactly."""
    return np.asarray(np.round(x.clip(-0.9, 0.9) * 32768) / 32768, np.float32)


@needs("sox")
def test_sox_gives_the_librarys_mix(builds: Builds, library: Library, tmp_path: Path) -> None:
    x, path = sixteen_bits(noise(1, RATE // 2)), binary(builds, "ladspa")
    latency, expected = expected_mix(library, RATE, x, *GAINS)
    run("sox", write(tmp_path / "in.wav", x), "-e", "float", tmp_path / "out.wav", "ladspa", "-l",
        path.stem, controls.label(MODEL, "mono"), *map(str, GAINS),
        env={**os.environ, "LADSPA_PATH": str(path.parent)})  # fmt: skip
    n = x.shape[1] - latency  # sox takes the latency away
    np.testing.assert_allclose(read(tmp_path / "out.wav")[:, :n], expected[:, latency:], atol=1e-6)


@needs("applyplugin")
def test_applyplugin_gives_the_librarys_mix(
    builds: Builds, library: Library, tmp_path: Path
) -> None:
    x = sixteen_bits(noise(2, RATE // 2))
    soundfile.write(tmp_path / "in.wav", x.T, RATE, subtype="PCM_16")
    run("applyplugin", tmp_path / "in.wav", tmp_path / "out.wav", binary(builds, "ladspa"),
        controls.label(MODEL, "stereo"), *map(str, GAINS), "60", "0")  # fmt: skip
    _, expected = expected_mix(library, RATE, read(tmp_path / "in.wav"), *GAINS)
    np.testing.assert_allclose(read(tmp_path / "out.wav"), expected, atol=2 / 32768)


@needs("ffmpeg")
@pytest.mark.parametrize("plugin_format", ["ladspa", "lv2"])
def test_ffmpeg_gives_the_librarys_mix(
    plugin_format: str, builds: Builds, library: Library, tmp_path: Path
) -> None:
    x, path = noise(2, RATE // 2), binary(builds, plugin_format)
    _, expected = expected_mix(library, RATE, x, *GAINS)
    graph = {
        "ladspa": f"ladspa=file={path}:plugin={controls.label(MODEL, 'stereo')}:controls=c0=-60",
        "lv2": "lv2=p=" + controls.uri(MODEL, "stereo").replace(":", r"\\:") + ":c=speech_gain=-60",
    }[plugin_format]
    run("ffmpeg", "-v", "error", "-i", write(tmp_path / "in.wav", x), "-af", graph,
        "-c:a", "pcm_f32le", tmp_path / "out.wav",
        env={**os.environ, "LV2_PATH": f"{path.parent.parent}:/usr/lib/lv2"})  # fmt: skip
    np.testing.assert_allclose(read(tmp_path / "out.wav"), expected, rtol=0, atol=1e-6)


@needs("lv2apply")
def test_lv2apply_gives_the_librarys_mix(builds: Builds, library: Library, tmp_path: Path) -> None:
    x, path = noise(2, RATE // 2), binary(builds, "lv2")
    _, expected = expected_mix(library, RATE, x, *GAINS)
    run("lv2apply", "-i", write(tmp_path / "in.wav", x), "-o", tmp_path / "out.wav",
        "-c", "speech_gain", "-60", controls.uri(MODEL, "stereo"),
        env={**os.environ, "LV2_PATH": f"{path.parent.parent}:/usr/lib/lv2"})  # fmt: skip
    np.testing.assert_allclose(read(tmp_path / "out.wav"), expected, rtol=0, atol=1e-6)
