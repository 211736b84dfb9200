"""A stream of the native library: hops, resampling, mixing and the queue, over memory of C.

A stream is one block of memory: int64 words, named by `Word`, then the arrays whose
addresses are among the words. It does what a `Separator` opened for any block length does
at the model's rate, and what a live stream does at any other.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from rtmtass.amplitude import LARGEST
from rtmtass.jit.compiler import kernel
from rtmtass.native.arrays import (
    doubles,
    doubles2,
    doubles3,
    floats,
    floats2,
    floats3,
    floats4,
    longs,
    longs2,
)
from rtmtass.types import Longs

_LARGEST = np.float32(LARGEST)
_LINE = 64


class Word(IntEnum):
    """Indices of a stream's words; C reads the first few."""

    CHANNELS = 0
    OUTPUTS = 1
    """Pointers that `process` writes to."""
    LATENCY = 2
    BYTES = 3
    """Of the words and all arrays."""
    MIXES = 4
    """1 if the stems are mixed, 0 if they are the output."""
    RESAMPLES = 5
    RATE = 6
    NUMBER = 7
    """Of the next hop."""
    FILLED = 8
    """Samples of `BLOCK` that have been received."""
    BLOCK_SIZE = 9
    """Samples of the next hop's block."""
    LONGEST = 10
    """Samples of the longest block."""
    DELAY = 11
    """Of a hop's output against its input, in samples."""
    QUEUE_SIZE = 12
    """Samples of each row of `QUEUE`."""
    READ = 13
    QUEUED = 14
    """Where the samples that wait in `QUEUE` begin, and where they end."""
    CONVERTED = 15
    """Samples in `DOWN_HISTORY`."""
    STEP = 16
    WAIT = 17
    UP_STEP = 18
    UP_WAIT = 19
    KEPT = 20
    """Samples in front of a hop in `UP_HISTORY`."""
    # Addresses: first of what is computed once, then, from CLOCK on, of what a reset clears.
    SIZES = 21
    REGISTERS = 22
    DOWN_TABLE = 23
    UP_TABLE = 24
    TARGETS = 25
    LENGTHS = 26
    CLOCK = 27
    POSITION = 28
    STATE = 29
    WORK = 30
    STFT_STATE = 31
    SCRATCH = 32
    BLOCK = 33
    DRY = 34
    HOP_INPUT = 35
    STEMS = 36
    WEIGHTS = 37
    DOWN_HISTORY = 38
    UP_HISTORY = 39
    UP_WEIGHTS = 40
    UP_TAPS = 41
    FULL_BAND = 42
    MIX = 43
    RAMPS = 44
    MIX_STATE = 45
    MIX_LAST = 46
    METERS = 47
    QUEUE = 48


N_WORDS = len(Word)
_FIRST_ADDRESS, _FIRST_CLEARED = int(Word.SIZES), int(Word.CLOCK)
