"""The native library's model files: whole, the same everywhere, and refused unless safe."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from native_models import (
    CHANNELS,
    CONFIGS,
    HOPS,
    KINDS_OF_FILES,
    Stream,
    file_of,
    in_memory,
    instructions_of,
    model_of,
    noise,
    result_of,
    seal,
)
from networks import tiny

from rtmtass.config import PRECISIONS, ModelConfig
from rtmtass.errors import ModelError, UsageError
from rtmtass.jit.cpu import VARIABLE
from rtmtass.native.model_check import check_bytes
from rtmtass.native.model_file import c_header, read_header, sealed, section, write_model
from rtmtass.native.model_words import (
    HEADER_BYTES,
    MAGIC,
    MOST_STEMS,
    N_WORDS,
    RESULT,
    SECTIONS,
    VERSION,
    WORD,
)
from rtmtass.runtime.compiled.program import (
    AFFINE,
    GRU,
    OP_AFFINE,
    OP_GRU,
)
from rtmtass.runtime.compiled.runtime import CompiledRuntime
from rtmtass.weights import open_model, released

C_INTERFACE = Path(__file__).parent.parent / "rtmtass" / "native" / "c" / "rtmtass.h"


def with_stft(**changes: int) -> ModelConfig:
    return dataclasses.replace(tiny(), stft=dataclasses.replace(tiny().stft, **changes))


# Files that are right


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("folder", released(), ids=lambda folder: folder.name)
def test_every_released_model_passes(folder: Path, precision: str) -> None:
    assert check_bytes(write_model(open_model(str(folder)), precision)) == RESULT.ok


@pytest.mark.parametrize("seed", range(8))
def test_networks_of_any_widths_pass(seed: int) -> None:
    rng = np.random.default_rng(seed)
    widths = {
        name: int(rng.integers(1, 40))
        for name in ("channels", "hidden", "compensation_channels", "compensation_hidden")
    }
    config = tiny(
        "multiscale" if seed % 4 == 3 else "recurrent",
        **widths,
        kernel=int(rng.integers(1, 4)),
        dilations=tuple(rng.integers(1, 6, 2).tolist()),
        lookahead=int(rng.integers(0, 3)),
        level_by_power=True,
        level_pop_s=float(rng.integers(0, 2)) / 4,
        expander_db=-5.0 * (seed % 2),
        expander_ratio=2 + seed % 3,
    )
    config = dataclasses.replace(config, stems=("a", "b", "c", "d", "é")[: 1 + seed % 5])
    assert check_bytes(write_model(model_of(config), PRECISIONS[seed % 3])) == RESULT.ok


@pytest.mark.parametrize(("name", "precision"), KINDS_OF_FILES)
def test_a_file_separates_like_its_model(name: str, precision: str) -> None:
    """To the bit: nothing that a stream needs is missing from the file."""
    config = CONFIGS[name]
    model, header = model_of(config), read_header(file_of(name, precision))
    stream = CompiledRuntime(config, model.weights, precision).stream(CHANNELS)
    samples, n_stems = noise(header.hop), len(config.stems)
    stems = np.zeros((n_stems, len(samples), CHANNELS), np.float32)
    highband_weights = np.zeros((n_stems, len(samples)), np.float32)
    stream.run(samples, stems, highband_weights, HOPS)
    stream_of_file = Stream(in_memory(file_of(name, precision)), 0.0)
    stream_of_file.run()
    inside = stream_of_file.inside
    np.testing.assert_array_equal(inside["out"], stems.ravel())
    np.testing.assert_array_equal(inside["highband_weights"], highband_weights.ravel())
    assert np.abs(stems).max() > 0.01


def test_the_header_and_names_are_the_models() -> None:
    config = CONFIGS["look-ahead"]
    data = file_of("look-ahead", "int8")
    header = read_header(data)
    assert header.magic.to_bytes(8, "little") == b"RTMTASS\0"
    assert header.version == 2  # as older libraries read it
    assert read_header(file_of("gated", "int8")).version == 1
    assert read_header(file_of("bands", "int8")).version == 3
    assert read_header(file_of("steep", "int8")).version == VERSION
    assert (header.delay, header.hop) == (config.delay, config.stft.hop)
    assert header.file_bytes == len(data)
    assert PRECISIONS[header.precision] == "int8"
    assert section(data, "names").decode() == "tiny\0speech\0music\0noise\0"
    assert all(getattr(header, f"{name}_at") % 64 == 0 for name in SECTIONS)


def test_all_int8_instruction_sets_give_the_same_file() -> None:
    """A file made on one processor runs on every other: layout and scratch don't differ."""
    script = (
        "import sys\n"
        "from rtmtass.runtime.compiled.lowering import build\n"
        "from rtmtass.weights import open_model\n"
        "model = open_model()\n"
        "program = build(model.config, model.weights, precision='int8')\n"
        "sys.stdout.buffer.write(program.instructions.tobytes() + program.weights.tobytes())\n"
    )
    environment = {**os.environ, VARIABLE: "portable"}
    portable = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True
    )
    data = write_model(open_model(), "int8")
    assert portable.stdout == section(data, "instructions") + section(data, "weights")


def test_results_and_limits_are_those_of_the_c_interface() -> None:
    text = C_INTERFACE.read_text()
    enum = text[: text.index("} rtmtass_result;")]
    results = re.findall(r"RTMTASS_(?:ERROR_)?(\w+) = (\d+)", enum)
    assert {name.lower(): int(number) for name, number in results} == RESULT._asdict()
    assert f"#define RTMTASS_MAX_STEMS {MOST_STEMS}\n" in text


def test_the_c_header_names_every_word() -> None:
    found = dict(re.findall(r"^#define RTMTASS_(\w+) (\S+)$", c_header(), re.M))
    words = {key.removeprefix("WORD_").lower(): found[key] for key in found if "WORD_" in key}
    assert words == {name: str(at) for name, at in WORD._asdict().items()}
    assert found["MODEL_MAGIC"] == f"INT64_C({MAGIC:#x})"
    assert (found["MODEL_VERSION"], found["MODEL_HEADER_BYTES"]) == ("4", str(HEADER_BYTES))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (dataclasses.replace(tiny(), stems=tuple("abcdefghi")), "has 9 stems, and the native"),
        (with_stft(sample_rate=7999), "works at 7999 Hz, and the native"),
        (with_stft(sample_rate=192_001), "works at 192001 Hz, and the native"),
        (with_stft(hop=1), "has a hop of 1 at 16000 Hz, and the native"),
        (tiny(hidden=24, kernel=64, dilations=(65536,)), "is too large, and the native"),
    ],
)
def test_a_model_beyond_the_limits_is_one_clear_line(config: ModelConfig, reason: str) -> None:
    with pytest.raises(ModelError, match=f"tiny {reason} library takes up to .*; run it from"):
        write_model(model_of(config), "f32")


def test_an_unknown_precision_lists_the_known() -> None:
    with pytest.raises(UsageError, match="unknown precision 'int4'; choose one of f32, bf16, int8"):
        write_model(model_of(tiny()), "int4")


# Files that are wrong


def test_what_is_no_model_is_told_from_a_newer_one() -> None:
    data = file_of("gated", "f32")
    assert check_bytes(b"") == RESULT.not_a_model
    assert check_bytes(data[:7]) == RESULT.not_a_model
    assert check_bytes(b"RIFF" + bytes(400)) == RESULT.not_a_model
    newer = data[:8] + (VERSION + 1).to_bytes(8, "little") + data[16:]
    assert check_bytes(newer) == RESULT.version
    assert check_bytes(newer[:HEADER_BYTES]) == RESULT.version
    assert check_bytes(data[:8] + bytes(8) + data[16:]) == RESULT.damaged


def test_a_file_cut_short_or_too_long_is_damaged() -> None:
    data = file_of("sub-bands", "int8")
    sizes = [8, 9, 100, *range(64, len(data), 64), len(data) - 1]
    assert {check_bytes(data[:size]) for size in sizes} == {RESULT.damaged}
    assert check_bytes(data + bytes(64)) == RESULT.damaged


def test_a_flipped_bit_is_damage() -> None:
    file = in_memory(file_of("gated", "int8"))
    rng = np.random.default_rng(0)
    bits = np.left_shift(np.int64(1), np.arange(64))
    header = [(word, bit) for word in range(N_WORDS) for bit in bits]
    rest = zip(rng.integers(N_WORDS, file.size, 3000), rng.choice(bits, 3000), strict=True)
    for word, bit in (*header, *rest):
        file[word] ^= bit
        result = result_of(file)
        file[word] ^= bit
        expected = {RESULT.damaged}
        if word == WORD.magic:
            expected = {RESULT.not_a_model}
        elif word == WORD.version:
            expected |= {RESULT.version}
        assert result in expected, (word, bit)
    assert result_of(file) == RESULT.ok


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_and_tables_that_arent_finite_are_damage(precision: str, value: float) -> None:
    data = file_of("sub-bands", precision)
    file, header = in_memory(data), read_header(data)
    floats = file.view(np.float32)
    weights = header.weights_at // 4
    places = [getattr(header, f"{name}_at") // 4 for name in SECTIONS[2:7]]
    for op in instructions_of(file):
        if op[0] in (OP_AFFINE, OP_GRU):
            fields, n, m = (AFFINE, op[AFFINE.n], op[AFFINE.m])
            if op[0] == OP_GRU:
                fields, n, m = (GRU, op[GRU.padded], op[GRU.width])  # type: ignore[assignment]
            places.append(weights + op[fields.bias])
            first_panel = min(int(n), 64) if n >= 64 else 16
            offset = {"f32": m * n - 1, "bf16": m * n // 2 - 1, "int8": -(-m // 4) * first_panel}
            places.append(weights + op[fields.weights] + offset[precision])
    assert len(places) > 40
    for place in places:
        kept = floats[place]
        floats[place] = value
        seal(file)
        assert result_of(file) == RESULT.damaged
        floats[place] = kept
    seal(file)
    assert result_of(file) == RESULT.ok


def test_names_are_lines_of_utf8() -> None:
    data = file_of("gated", "f32")
    file = in_memory(data)
    names = file.view(np.uint8)[read_header(data).names_at :]
    rng = np.random.default_rng(0)
    leads = np.array([0x00, 0x1F, 0x41, 0x7F, 0x80, 0xC1, 0xC3, 0xE0, 0xED, 0xF0, 0xF4, 0xF5])
    tails = np.array([0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF])
    seen = set()
    for _ in range(4000):
        text = bytes([rng.choice(leads), *rng.choice(tails, 3)])
        names[:4] = list(text)
        seal(file)
        try:
            is_right = all(
                character.isprintable() or character >= "\x80" for character in text.decode()
            )
        except UnicodeDecodeError:
            is_right = False
        assert (result_of(file) == RESULT.ok) == is_right, text
        seen.add(is_right)
    assert seen == {True, False}


def test_the_crc_is_zlibs() -> None:
    data = file_of("gated", "bf16")
    blank = data[: 8 * WORD.crc] + bytes(8) + data[8 * WORD.crc + 8 :]
    assert read_header(data).crc == zlib.crc32(blank)
    assert sealed(blank) == data
