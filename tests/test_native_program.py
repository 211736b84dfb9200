"""Programs that somebody altered: refused, or they stay inside their stream's arenas."""

from __future__ import annotations

import dataclasses
from itertools import cycle

import numpy as np
import pytest
from native_models import (
    CONFIGS,
    KINDS_OF_FILES,
    Stream,
    file_of,
    in_memory,
    instructions_of,
    result_of,
    seal,
)

from rtmtass.config import PRECISIONS
from rtmtass.native.model_words import N_WORDS, RESULT, WORD
from rtmtass.runtime.compiled.program import AFFINE, COPY, KINDS, OP_AFFINE, OP_COPY
from rtmtass.types import Longs


def stays_inside(file: Longs) -> bool:
    """Whether a file's stream writes nothing outside its arenas, and reads nothing there.

    It runs twice, among NaN and among a number: what came from a margin would differ.
    """
    streams = [Stream(file, fill) for fill in (np.nan, 0.75)]
    for stream in streams:
        stream.run()
    return all(stream.has_whole_margins() for stream in streams) and all(
        inside.tobytes() == streams[1].inside[name].tobytes()
        for name, inside in streams[0].inside.items()
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
    places = header_words + (start + rng.permutation(count)[:60]).tolist()
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
    assert n_refused > 600
    assert n_ran > 50


@pytest.mark.parametrize(("name", "precision"), list(zip(CONFIGS, cycle(PRECISIONS), strict=False)))
def test_the_largest_value_that_passes_stays_inside(name: str, precision: str) -> None:
    """Of every field of an instruction of each kind: the check's very edge."""
    file = in_memory(file_of(name, precision))
    instructions = instructions_of(file)
    rng = np.random.default_rng(0)
    for code in range(len(KINDS)):
        for row in rng.permutation(np.flatnonzero(instructions[:, 0] == code))[:1]:
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
