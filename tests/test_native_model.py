"""The native library's model files: whole, the same everywhere, and refused unless safe."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import SUBBANDS, arrays, seasoned, tiny
from numpy.typing import NDArray

from rtmtass.config import PRECISIONS, ModelConfig
from rtmtass.errors import ModelError, UsageError
from rtmtass.jit.cpu import VARIABLE
from rtmtass.native.model_check import check, check_bytes
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
    Words,
)
from rtmtass.runtime.compiled.program import (
    AFFINE,
    COPY,
    GRU,
    KINDS,
    OP_AFFINE,
    OP_COPY,
    OP_GRU,
    WORDS,
)
from rtmtass.runtime.compiled.runtime import CompiledRuntime, run_hops
from rtmtass.weights import Model, open_model, released

Longs = NDArray[np.int64]
C_INTERFACE = Path(__file__).parent.parent / "rtmtass" / "native" / "c" / "rtmtass.h"
CONFIGS = {
    "gated": tiny(),
    "multiscale": tiny("multiscale", bands=3, kernel=2, lookahead=1),
    "sub-bands": tiny(**SUBBANDS, recurrent=13, recurrent_groups=2),
    "look-ahead": tiny(lookahead=2, level_pop_s=0.35),
    "one stage": tiny(target="magnitude_mask", compensation_target="none", recurrent_layers=0),
    "mapping": tiny(
        target="spectral_mapping", compensation_target="magnitude_mask", level_by_power=False
    ),
}
KINDS_OF_FILES = [(name, precision) for name in CONFIGS for precision in PRECISIONS]
HOPS, CHANNELS, MARGIN = 4, 2, 4096


def model_of(config: ModelConfig) -> Model:
    return Model(Path(), config, arrays(seasoned(config)), {"version": "1", "licence": "MIT"})


@cache
def file_of(name: str, precision: str) -> bytes:
    return write_model(model_of(CONFIGS[name]), precision)


def in_memory(data: bytes) -> Longs:
    return np.frombuffer(data, np.int64).copy()


def seal(file: Longs) -> None:
    """Give a file in memory the CRC of its content, so that the rest of the check is reached."""
    file[WORD.crc] = 0
    file[WORD.crc] = zlib.crc32(file)


def result_of(file: Longs) -> int:
    return check(file.ctypes.data, file.nbytes)


def instructions_of(file: Longs) -> Longs:
    """The instructions of a file in memory, (n, WORDS); a view."""
    start, n = file[WORD.instructions_at] // 8, file[WORD.n_instructions]
    return file[start : start + n * WORDS].reshape(n, WORDS)


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
    got = Stream(in_memory(file_of(name, precision)), 0.0)
    got.run()
    np.testing.assert_array_equal(got.inside("out"), stems.ravel())
    np.testing.assert_array_equal(got.inside("highband_weights"), highband_weights.ravel())
    assert np.abs(stems).max() > 0.01


def test_the_header_and_names_are_the_models() -> None:
    config = CONFIGS["look-ahead"]
    data = file_of("look-ahead", "int8")
    header = read_header(data)
    assert header.magic.to_bytes(8, "little") == b"RTMTASS\0"
    assert header.version == VERSION
    assert (header.delay, header.hop) == (config.delay, config.stft.hop)
    assert header.file_bytes == len(data)
    assert PRECISIONS[header.precision] == "int8"
    assert section(data, "names").decode() == "tiny\0speech\0music\0noise\0"
    assert all(getattr(header, f"{name}_at") % 64 == 0 for name in SECTIONS)


def test_all_int8_instruction_sets_give_the_same_file() -> None:
    """A file made on one processor runs on every other: layout and scratch don't differ."""
    program = (
        "import hashlib\n"
        "from rtmtass.native.model_file import write_model\n"
        "from rtmtass.weights import open_model\n"
        "print(hashlib.sha256(write_model(open_model(), 'int8')).hexdigest())\n"
    )
    environment = {**os.environ, VARIABLE: "portable"}
    portable = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    here = hashlib.sha256(write_model(open_model(), "int8")).hexdigest()
    assert portable.stdout.strip() == here


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
    assert (found["MODEL_VERSION"], found["MODEL_HEADER_BYTES"]) == ("1", str(HEADER_BYTES))


def test_models_that_no_file_can_hold_are_one_clear_line() -> None:
    many = dataclasses.replace(tiny(), stems=tuple("abcdefghi"))
    with pytest.raises(ModelError, match="tiny has 9 stems and the native library takes up to 8"):
        write_model(Model(Path(), many, {}, {}), "f32")
    with pytest.raises(UsageError, match="unknown precision 'int4'; choose one of f32, bf16, int8"):
        write_model(model_of(tiny()), "int4")
    long = tiny(hidden=24, kernel=64, dilations=(65536,))
    with pytest.raises(ModelError, match="tiny is too large for the native library"):
        write_model(model_of(long), "f32")


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
    words = [*range(N_WORDS), *np.random.default_rng(0).integers(N_WORDS, file.size, 300).tolist()]
    for word in words:
        for bit in range(64):
            file[word] ^= np.int64(-(1 << 63) if bit == 63 else 1 << bit)
            result = result_of(file)
            file[word] ^= np.int64(-(1 << 63) if bit == 63 else 1 << bit)
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
            is_right = all(character.isprintable() or character >= "\x80" for character in text.decode())
        except UnicodeDecodeError:
            is_right = False
        assert (result_of(file) == RESULT.ok) == is_right, text
        seen.add(is_right)
    assert seen == {True, False}


# Programs that somebody altered: refused, or they stay inside their arenas


def noise(hop: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((HOPS * hop, CHANNELS)).astype(np.float32)


class Stream:
    """A stream of a file in memory, each of its arenas between margins full of `fill`."""

    def __init__(self, file: Longs, fill: float) -> None:
        header = Words(*file[:N_WORDS].tolist())
        n_stems, n = header.n_stems, HOPS * header.hop
        self._header, self._fill = header, np.float32(fill)
        self._instructions = instructions_of(file).copy()
        floats = file.view(np.float32)
        self.buffers = {}
        for name in SECTIONS[1:6]:
            at, n_bytes = (getattr(header, f"{name}_{what}") for what in ("at", "bytes"))
            self._reserve(name, n_bytes // 4, floats[at // 4 : (at + n_bytes) // 4])
        silence = floats[header.silence_at // 4 :][: header.silence_bytes // 4]
        per_channel = (
            header.n_fft + n_stems * header.synthesis + header.ring * 2 * header.imag_offset
        )
        stft_state = n_stems * header.synthesis + n_stems + 1 + CHANNELS * per_channel
        self._reserve("state", header.state_size)
        self._reserve("work_arena", header.work_size)
        self._reserve("stft_state", stft_state, silence)
        scratch = header.work + 2 * header.hop + (2 * n_stems + 2) * header.imag_offset
        self._reserve("scratch", scratch)
        self._reserve("out", n_stems * n * CHANNELS)
        self._reserve("highband_weights", n_stems * n)

    def _reserve(self, name: str, size: int, values: Any = ()) -> None:
        buffer = np.full(size + 2 * MARGIN, self._fill, np.float32)
        buffer[MARGIN : MARGIN + size] = 0
        buffer[MARGIN : MARGIN + len(values)] = values
        self.buffers[name] = buffer

    def inside(self, name: str) -> NDArray[np.float32]:
        return self.buffers[name][MARGIN:-MARGIN]

    def run(self) -> None:
        """Separate `HOPS` hops of noise as the native library would, without any check."""
        h, inside = self._header, self.inside
        registers = [
            h.mixture_at, h.mixture_stride, h.aligned_at, h.aligned_stride, h.stems_at,
            h.stems_stride, 1,
        ]  # fmt: skip
        sizes = [
            h.n_fft, h.hop, h.synthesis, h.bins, h.imag_offset, h.n_stems, CHANNELS, h.ring,
            h.top, h.top_end, h.lookahead, h.work,
        ]  # fmt: skip
        run_hops(
            noise(h.hop)[None],
            inside("out").reshape(1, h.n_stems, HOPS * h.hop, CHANNELS),
            inside("highband_weights").reshape(h.n_stems, HOPS * h.hop),
            HOPS,
            self._instructions,
            inside("weights"),
            np.array(registers, np.int64),
            np.array(sizes, np.int64),
            (inside("analysis"), inside("synthesis"), inside("product"), inside("tables")),
            (inside("state"), inside("work_arena"), inside("stft_state"), inside("scratch")),
            np.zeros(1, np.int64),
        )

    def has_whole_margins(self) -> bool:
        """Whether nothing was written outside an arena."""
        expected = np.full(MARGIN, self._fill).tobytes()
        return all(
            part.tobytes() == expected
            for buffer in self.buffers.values()
            for part in (buffer[:MARGIN], buffer[-MARGIN:])
        )


def stays_inside(file: Longs) -> bool:
    """Whether a file's stream writes nothing outside its arenas, and reads nothing there.

    It runs twice, among NaN and among a number: what came from a margin would differ.
    """
    streams = [Stream(file, fill) for fill in (np.nan, 0.75)]
    for stream in streams:
        stream.run()
    return all(stream.has_whole_margins() for stream in streams) and all(
        streams[0].inside(name).tobytes() == streams[1].inside(name).tobytes()
        for name in streams[0].buffers
    )


def test_the_margins_notice_what_leaves_an_arena() -> None:
    file = in_memory(file_of("multiscale", "f32"))
    assert stays_inside(file)
    op = next(op for op in instructions_of(file) if op[0] == OP_COPY and not op[COPY.adds])
    for field in (COPY.x, COPY.y):
        kept = op[field]
        op[field] = file[WORD.work_size] - op[COPY.width] + 1
        assert not stays_inside(file)
        op[field] = kept


def values_for(word: int, others: Longs, rng: np.random.Generator) -> list[int]:
    """What to put in a word's place: extremes, neighbours, and another word of the program."""
    extremes = [0, -1, 1, 2**31 - 1, 2**31, 2**62, -(2**62), -(2**63)]
    near = [word - 1, word + 1, word + 16, 2 * word]
    return [*extremes, *near, int(rng.choice(others))]


@pytest.mark.parametrize(("name", "precision"), KINDS_OF_FILES)
def test_an_altered_file_is_refused_or_stays_inside(name: str, precision: str) -> None:
    """Every word of the header, and a sample of the instructions' words, with the right CRC."""
    file = in_memory(file_of(name, precision))
    rng = np.random.default_rng(KINDS_OF_FILES.index((name, precision)))
    start, count = file[WORD.instructions_at] // 8, instructions_of(file).size
    program = file[start : start + count].copy()
    header_words = [at for at in range(N_WORDS) if at not in (WORD.magic, WORD.version, WORD.crc)]
    places = header_words + (start + rng.permutation(count)[:150]).tolist()
    n_refused = n_ran = 0
    for place in places:
        kept = int(file[place])
        for value in values_for(kept, program, rng):
            if value == kept or not -(2**63) <= value < 2**63:
                continue
            file[place] = value
            seal(file)
            if result_of(file) == RESULT.ok:
                n_ran += 1
                assert stays_inside(file), (place, value)
            else:
                n_refused += 1
        file[place] = kept
    assert n_refused > 1000
    assert n_ran > 100


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_largest_value_that_passes_stays_inside(name: str, precision: str) -> None:
    """Of every field of some instructions of each kind: the check's very edge."""
    file = in_memory(file_of(name, precision))
    instructions = instructions_of(file)
    rng = np.random.default_rng(0)
    for code in range(len(KINDS)):
        rows = np.flatnonzero(instructions[:, 0] == code)
        for row in rng.permutation(rows)[:2]:
            op = instructions[row]
            for field in range(1, 1 + len(dataclasses.fields(KINDS[code]))):
                kept = int(op[field])
                passes, fails = kept, 2**31
                while fails - passes > 1:
                    op[field] = (passes + fails) // 2
                    seal(file)
                    if result_of(file) == RESULT.ok:
                        passes = int(op[field])
                    else:
                        fails = int(op[field])
                op[field] = passes
                if passes != kept:
                    assert stays_inside(file), (KINDS[code].__name__, field, passes)
                op[field] = kept


def test_a_program_that_would_run_for_hours_is_refused() -> None:
    """Rows on top of each other need no memory, only time."""
    file = in_memory(file_of("gated", "f32"))
    op = next(op for op in instructions_of(file) if op[0] == OP_AFFINE)
    op[AFFINE.x_stride] = op[AFFINE.y_stride] = 0
    for rows, expected in ((1000, RESULT.ok), (1 << 19, RESULT.damaged)):
        op[AFFINE.rows] = rows
        seal(file)
        assert result_of(file) == expected


def test_the_crc_is_zlibs() -> None:
    data = file_of("gated", "bf16")
    blank = data[: 8 * WORD.crc] + bytes(8) + data[8 * WORD.crc + 8 :]
    assert read_header(data).crc == zlib.crc32(blank)
    assert sealed(blank) == data
