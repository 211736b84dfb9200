"""Model files of small networks of every kind, to read, alter and seal again."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

import numpy as np
from networks import SUBBANDS, arrays, seasoned, tiny

from rtmtass.config import PRECISIONS, ModelConfig
from rtmtass.native.model_check import check
from rtmtass.native.model_file import write_model
from rtmtass.native.model_words import N_WORDS, SECTIONS, WORD, Words
from rtmtass.runtime.compiled.program import WORDS
from rtmtass.runtime.compiled.runtime import run_hops
from rtmtass.types import Floats, Longs
from rtmtass.weights import Model

CONFIGS = {
    "gated": tiny(),
    "bands": tiny("bands"),
    "steep": tiny(expander_db=-5.0, expander_ratio=4),
    "multiscale": tiny("multiscale", bands=3, kernel=2, lookahead=1),
    "sub-bands": tiny(**SUBBANDS, recurrent=13, recurrent_groups=2),
    "look-ahead": tiny(lookahead=2, level_pop_s=0.35, expander_db=-5.0),
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
    file[WORD.crc] = zlib.crc32(file.data)


def result_of(file: Longs) -> int:
    return check(file.ctypes.data, file.nbytes)


def instructions_of(file: Longs) -> Longs:
    """The instructions of a file in memory, (n, WORDS); a view."""
    start, n = file[WORD.instructions_at] // 8, file[WORD.n_instructions]
    return file[start : start + n * WORDS].reshape(n, WORDS)


@cache
def noise(hop: int) -> Floats:
    """The input of a `Stream`, (HOPS * hop, CHANNELS)."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((HOPS * hop, CHANNELS)).astype(np.float32)


class Stream:
    """A stream of a file in memory, with all its arenas in one buffer full of `fill`.

    Between any two arenas, before the first and behind the last is a margin.
    """

    def __init__(self, file: Longs, fill: float) -> None:
        self._file, self._header = file, Words(*file[:N_WORDS].tolist())
        h, n_stems = self._header, self._header.n_stems
        per_channel = h.n_fft + n_stems * h.synthesis + h.ring * 2 * h.imag_offset
        sizes = {name: getattr(h, f"{name}_bytes") // 4 for name in SECTIONS[1:6]} | {
            "state": h.state_size,
            "work_arena": h.work_size,
            "stft_state": n_stems * h.synthesis + n_stems + 1 + CHANNELS * per_channel,
            "scratch": h.work + 2 * h.hop + (2 * n_stems + 2) * h.imag_offset,
            "out": n_stems * HOPS * h.hop * CHANNELS,
            "highband_weights": n_stems * HOPS * h.hop,
        }
        buffer = np.full(sum(sizes.values()) + (1 + len(sizes)) * MARGIN, fill, np.float32)
        self.inside: dict[str, Floats] = {}
        self._margins, at = [buffer[:MARGIN]], MARGIN
        for name, size in sizes.items():
            self.inside[name] = buffer[at : at + size]
            self.inside[name][:] = 0
            self._margins.append(buffer[at + size : at + size + MARGIN])
            at += size + MARGIN
        for name in SECTIONS[1:6]:
            self.inside[name][:] = self._section(name)
        self.inside["stft_state"][: n_stems * h.synthesis] = self._section("silence")
        self._untouched = self._margins[0].tobytes()

    def _section(self, name: str) -> Floats:
        at, n_bytes = (getattr(self._header, f"{name}_{what}") for what in ("at", "bytes"))
        return self._file.view(np.float32)[at // 4 : (at + n_bytes) // 4]

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
            inside["out"].reshape(1, h.n_stems, HOPS * h.hop, CHANNELS),
            inside["highband_weights"].reshape(h.n_stems, HOPS * h.hop),
            HOPS,
            instructions_of(self._file),
            inside["weights"],
            np.array(registers, np.int64),
            np.array(sizes, np.int64),
            (inside["analysis"], inside["synthesis"], inside["product"], inside["tables"]),
            (inside["state"], inside["work_arena"], inside["stft_state"], inside["scratch"]),
            np.zeros(1, np.int64),
        )

    def has_whole_margins(self) -> bool:
        """Whether nothing was written outside an arena."""
        return all(margin.tobytes() == self._untouched for margin in self._margins)
