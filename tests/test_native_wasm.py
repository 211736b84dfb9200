"""The WebAssembly module in Node, through its JavaScript: the library's output, errors, memory."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_builds import C_FOLDER, Builds, needs
from native_library import delayed, model_bytes, noise, snr_db

from rtmtass import load
from rtmtass.types import Floats

pytestmark = needs("node")

BLOCKS = "[480, 0, 1, 255, 256, 257, 3000, 7]"
Script = Callable[[str], Any]


@pytest.fixture(scope="module")
def folder(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder; its JavaScript has the name by which Node knows a module."""
    folder = tmp_path_factory.mktemp("site") / "site"
    shutil.copytree(builds.wasm(), folder)
    (folder / "rtmtass.js").rename(folder / "rtmtass.mjs")
    shutil.copy(C_FOLDER / "wasm.mjs", folder)
    for precision in ("f32", "bf16", "int8"):
        (folder / f"{precision}.rtm").write_bytes(model_bytes(precision))
    return folder


@pytest.fixture
def node(folder: Path) -> Script:
    """A function that runs a script, and returns what it gives to `tell`."""

    def run(script: str) -> Any:
        names = "open, module, read, readSamples, writeSamples, process, thrown"
        (folder / "script.mjs").write_text(
            f'import {{ {names} }} from "./wasm.mjs";\n'
            "const tell = (value) => console.log(JSON.stringify(value));\n"
            'const model = open(module, read("int8.rtm"));\n' + script
        )
        done = subprocess.run(
            ["node", "script.mjs"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return json.loads(done.stdout)

    return run


def processed(node: Script, folder: Path, x: Floats, setup: str) -> Floats:
    """Process x (C, n) with the `stream` that a script makes; return (outputs, n)."""
    (folder / "in.f32").write_bytes(x.tobytes())
    node(f"""{setup}
        const rows = readSamples("in.f32", {len(x)});
        writeSamples("out.f32", process(stream, rows, {BLOCKS}));
        tell(stream.latency);""")
    return np.fromfile(folder / "out.f32", np.float32).reshape(-1, x.shape[1])


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_stems_are_the_separators(precision: str, node: Script, folder: Path) -> None:
    x = noise(1, 16000)
    setup = f'const stream = open(module, read("{precision}.rtm")).stream();'
    found = processed(node, folder, x, setup)
    expected = load("rtmtass-small", precision=precision, block=1).process(x[0])
    if precision == "int8":
        assert snr_db(expected, found) > 45  # roundings to int8 that fall to the other side
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_the_mix_is_as_late_as_reported(rate: int, node: Script, folder: Path) -> None:
    x = noise(2, rate // 2)
    setup = f'const stream = model.stream({{sampleRate: {rate}, channels: 2, output: "mix"}});'
    latency = node(setup + "tell([stream.latency, stream.outputs, stream.channels]);")
    assert latency[1:] == [2, 2]
    found = processed(node, folder, x, setup)
    np.testing.assert_allclose(found, delayed(x, latency[0]), rtol=0, atol=1e-6)


def test_a_gain_a_strength_and_a_bypass_change_the_mix(node: Script, folder: Path) -> None:
    x = noise(1, 8000)
    whole = delayed(x, 511)
    begin = 'const stream = model.stream({output: "mix"});'
    for stem in ("speech", "music", "noise"):
        begin += f'stream.setGain("{stem}", -60);'
    for more, expected in (
        ("", 0 * whole),
        ("""stream.setGain("music", 3); stream.setStrength(0);""", 10 ** (3 / 20) * whole),
        ("stream.setBypass(true);", whole),
        ("stream.setBypass(true); stream.setBypass(false);", 0 * whole),
    ):
        found = processed(node, folder, x, f"{begin} {more} stream.reset();")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_mix_and_stems_come_from_one_stream_with_figures(node: Script, folder: Path) -> None:
    x = noise(2, 8000)
    begin = """const stream = model.stream({channels: 2, output: "both"});
        stream.setGain("music", -6); stream.setMute("noise", true); stream.reset();"""
    found = processed(node, folder, x, begin).reshape(4, 2, -1)
    stems = processed(node, folder, x, "const stream = model.stream({channels: 2});")
    np.testing.assert_array_equal(found[1:], stems.reshape(3, 2, -1))
    mix = found[1] + 10 ** (-6 / 20) * found[2]
    np.testing.assert_allclose(found[0], mix, rtol=0, atol=1e-6)
    hops, factors, levels, hop = node(f"""{begin}
        stream.setSolo("speech", true);
        process(stream, readSamples("in.f32", 2), {BLOCKS});
        tell([stream.hops(), [...stream.factors()], [...stream.levels()],
            [...stream.hopStems()]]);""")
    assert hops == 8000 // 256
    assert factors == [1, 0, 0]
    assert len(levels) == 10
    assert levels[0] > 0
    assert levels[8:] == pytest.approx(
        levels[:2], rel=0.01, abs=1e-6
    )  # what is output is the speech
    last = np.float32(hop).reshape(3, 256, 2).transpose(0, 2, 1)
    n = 8000 - 8000 // 256 * 256  # samples after the last hop; its first one is heard n later
    np.testing.assert_array_equal(last[:, :, : n + 1], stems.reshape(3, 2, -1)[:, :, -n - 1 :])


def test_a_reset_stream_is_a_new_stream(node: Script) -> None:
    assert node(f"""
        const stream = model.stream({{sampleRate: 48000}});
        const x = [Float32Array.from({{length: 9000}}, (_, i) => Math.sin(i * i / 5000) / 4)];
        const first = process(stream, x, {BLOCKS});
        stream.reset();
        const second = process(stream, x, {BLOCKS});
        tell([first.flat().every((row, i) => row.every((y, k) => y === second[i][k])),
            Math.max(...first[0]) > 0.001]);""") == [True, True]


def test_a_model_tells_about_itself(node: Script) -> None:
    assert node("tell([model.name, model.stems, model.sampleRate]);") == [
        "rtmtass-small",
        ["speech", "music", "noise"],
        16000,
    ]


def test_errors_are_thrown_with_their_words(node: Script) -> None:
    messages = node("""
        const stream = model.stream({output: "mix"});
        const bytes = read("int8.rtm");
        tell([
            () => open(module, new Uint8Array(0)),
            () => open(module, read("rtmtass.mjs")),
            () => open(module, bytes.subarray(0, 5000)),
            () => model.stream({sampleRate: 100}),
            () => model.stream({channels: 9}),
            () => model.stream({output: "all"}),
            () => stream.setGain("drums", 0),
            () => stream.setGain("speech", NaN),
            () => stream.setStrength(NaN),
        ].map(thrown));""")
    words = [
        "not a .rtm file", "not a .rtm file", "damaged", "2000 to 768000 Hz", "1 to 8", "RTMTASS_",
        "no stem of that number", "not NaN", "not NaN",
    ]  # fmt: skip
    for message, word in zip(messages, words, strict=True):
        assert message.startswith("rtmtass: ")
        assert word in message


def test_a_stream_goes_on_while_memory_grows_and_freed_memory_is_used_again(node: Script) -> None:
    is_same, grown, again = node(f"""
        const x = [Float32Array.from({{length: 20000}}, (_, i) => Math.sin(i * i / 9000) / 4)];
        const half = 10000, parts = [x[0].subarray(0, half), x[0].subarray(half)];
        const alone = process(model.stream(), x, {BLOCKS});
        const stream = model.stream();
        const first = process(stream, [parts[0]], {BLOCKS});
        const buffer = model.library.memory.buffer;
        const many = Array.from({{length: 40}}, () => model.stream({{channels: 8}}));
        const size = model.library.memory.buffer.byteLength;
        const second = process(stream, [parts[1]], {BLOCKS});
        for (const one of many) one.free();
        for (let k = 0; k < 200; k++) model.stream({{channels: 8}}).free();
        const joined = first.map((row, s) => [...row, ...second[s]]);
        tell([alone.every((row, s) => row.every((y, i) => y === joined[s][i])),
            buffer.byteLength === 0, model.library.memory.buffer.byteLength - size]);""")
    assert is_same
    assert grown  # the old buffer is gone
    assert again == 0
