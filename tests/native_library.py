"""The native library as a C program sees it, called through ctypes."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Mapping, Sequence
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
from native_builds import MODEL

from rtmtass import load
from rtmtass.dsp.live_resample import Converter
from rtmtass.live.full_band import HopSchedule, StemUpsampler
from rtmtass.live.mixer import Mixer
from rtmtass.native.model_file import write_model
from rtmtass.types import Floats
from rtmtass.weights import open_model

STEMS, MIX, MIX_AND_STEMS = range(3)


@cache
def model_bytes(precision: str) -> bytes:
    """Return the `.rtm` file of `MODEL`."""
    return write_model(open_model(MODEL), precision)


class Config(ctypes.Structure):
    """rtmtass_config of rtmtass.h, typed by hand: a change of it has to be meant."""

    _fields_ = [
        ("size", c_uint32),
        ("sample_rate", c_uint32),
        ("channels", c_uint32),
        ("output", c_uint32),
    ]


_FUNCTIONS = {
    "abi_version": (c_uint32, []),
    "version": (c_char_p, []),
    "error_text": (c_char_p, [c_int]),
    "open": (c_int, [c_char_p, c_size_t, c_void_p]),
    "open_variant": (c_int, [c_char_p, c_size_t, c_char_p, c_void_p]),
    "close": (None, [c_void_p]),
    "model_name": (c_char_p, [c_void_p]),
    "n_stems": (c_uint32, [c_void_p]),
    "stem_name": (c_char_p, [c_void_p, c_uint32]),
    "model_rate": (c_uint32, [c_void_p]),
    "hop": (c_uint32, [c_void_p]),
    "variant": (c_char_p, [c_void_p]),
    "new_stream": (c_int, [c_void_p, c_void_p, c_void_p]),
    "free_stream": (None, [c_void_p]),
    "process": (None, [c_void_p, c_void_p, c_void_p, c_size_t]),
    "outputs": (c_uint32, [c_void_p]),
    "latency": (c_uint32, [c_void_p]),
    "reset": (None, [c_void_p]),
    "set_gain": (c_int, [c_void_p, c_uint32, c_float]),
    "set_strength": (c_int, [c_void_p, c_float]),
    "set_mute": (c_int, [c_void_p, c_uint32, c_int]),
    "set_solo": (c_int, [c_void_p, c_uint32, c_int]),
    "set_bypass": (None, [c_void_p, c_int]),
    "levels": (c_int, [c_void_p, c_void_p]),
    "factors": (c_int, [c_void_p, c_void_p]),
    "hops": (c_uint32, [c_void_p]),
    "last_stems": (POINTER(c_float), [c_void_p]),
}
"""The functions of rtmtass.h without their prefix: result and arguments."""


class Refused(Exception):
    """A call returned an rtmtass_result that isn't 0, which is `code`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Library:
    """A shared library.

    Attributes:
        c: its functions, as `c.rtmtass_open`.
    """

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self.c, f"rtmtass_{name}")
            function.restype, function.argtypes = result, arguments

    def check(self, code: int) -> None:
        """Raise `Refused` unless a result is 0."""
        if code:
            raise Refused(code, self.c.rtmtass_error_text(code).decode())

    def open(self, data: bytes, variant: str | None = None) -> Model:
        """Open a model, with the best build of the kernels or a given one."""
        handle = c_void_p(1)
        if variant is None:
            code = self.c.rtmtass_open(data, len(data), ctypes.byref(handle))
        else:
            name = variant.encode()
            code = self.c.rtmtass_open_variant(data, len(data), name, ctypes.byref(handle))
        if code:
            assert not handle
        self.check(code)
        return Model(self, handle)

    def runs(self, variant: str) -> bool:
        """Whether this processor runs a build of the kernels."""
        try:
            self.open(model_bytes("int8"), variant)
        except Refused:
            return False
        return True


class Model:
    """An open model; closed when it and its streams are garbage."""

    def __init__(self, library: Library, handle: c_void_p) -> None:
        self.library, self.handle, self.c = library, handle, library.c
        self.variant = self.c.rtmtass_variant(handle).decode()
        self.n_stems = self.c.rtmtass_n_stems(handle)
        weakref.finalize(self, self.c.rtmtass_close, handle)

    def stream(self, sample_rate: int = 16000, channels: int = 1, output: int = STEMS) -> Stream:
        """Start a stream."""
        config = Config(ctypes.sizeof(Config), sample_rate, channels, output)
        handle = c_void_p(1)
        code = self.c.rtmtass_new_stream(self.handle, ctypes.byref(config), ctypes.byref(handle))
        if code:
            assert not handle
        self.library.check(code)
        return Stream(self, handle)


class Stream:
    """A stream; freed when it is garbage."""

    def __init__(self, model: Model, handle: c_void_p) -> None:
        self.model, self.handle, self.c = model, handle, model.c
        self.latency = self.c.rtmtass_latency(handle)
        self.outputs = self.c.rtmtass_outputs(handle)
        weakref.finalize(self, self.c.rtmtass_free_stream, handle)

    def process(self, x: Floats, blocks: Iterable[int] | None = None) -> Floats:
        """Process (C, n) or (n,), in blocks of these lengths in turn; return (outputs, n)."""
        x = np.atleast_2d(x)
        out = np.full((self.outputs, x.shape[1]), np.nan, np.float32)
        self.into(x, out, blocks)
        return out

    def into(self, x: Floats, out: Floats, blocks: Iterable[int] | None = None) -> None:
        """As `process`, into an array, which may be `x`."""
        assert x.dtype == out.dtype == np.float32
        assert x.strides[1] == out.strides[1] == 4
        lengths = iter([x.shape[1]] if blocks is None else blocks)
        done = 0
        while done < x.shape[1]:
            n = min(next(lengths), x.shape[1] - done)
            self.c.rtmtass_process(self.handle, _rows(x, done), _rows(out, done), n)
            done += n

    def set_gains(self, *gains_db: float) -> None:
        """Set the gains of all stems."""
        for stem, gain_db in enumerate(gains_db):
            self.model.library.check(self.c.rtmtass_set_gain(self.handle, stem, gain_db))

    def set_strength(self, strength_db: float) -> None:
        """Set how far a stem may lie below the loudest."""
        self.model.library.check(self.c.rtmtass_set_strength(self.handle, strength_db))

    def set_mute(self, stem: int, is_muted: bool) -> None:
        """Silence a stem, or don't."""
        self.model.library.check(self.c.rtmtass_set_mute(self.handle, stem, is_muted))

    def set_solo(self, stem: int, is_soloed: bool) -> None:
        """Silence all stems that aren't soloed, or don't."""
        self.model.library.check(self.c.rtmtass_set_solo(self.handle, stem, is_soloed))

    def set_bypass(self, is_bypassed: bool) -> None:
        """Output the input, or the mix."""
        self.c.rtmtass_set_bypass(self.handle, is_bypassed)

    def reset(self) -> None:
        """Return to silence before the first sample."""
        self.c.rtmtass_reset(self.handle)

    def levels(self) -> Floats:
        """Return the meters as amplitudes: (stems, mixture, output), each (RMS, peak)."""
        levels = np.full((self.model.n_stems + 2, 2), np.nan, np.float32)
        self.model.library.check(self.c.rtmtass_levels(self.handle, levels.ctypes.data))
        return levels

    def factors(self) -> Floats:
        """Return the factor of every stem."""
        factors = np.full(self.model.n_stems, np.nan, np.float32)
        self.model.library.check(self.c.rtmtass_factors(self.handle, factors.ctypes.data))
        return factors

    def last_stems(self, channels: int) -> Floats:
        """Return the stems of the last hop at the model's rate, (S, hop, C)."""
        pointer = self.c.rtmtass_last_stems(self.handle)
        shape = self.model.n_stems, self.c.rtmtass_hop(self.model.handle), channels
        return np.ctypeslib.as_array(pointer, shape).copy()


def _rows(x: Floats, first: int) -> ctypes.Array[c_void_p]:
    """Return the pointers to the channels of x (C, n) from a sample on."""
    start = x.ctypes.data + 4 * first
    return (c_void_p * len(x))(*(start + c * x.strides[0] for c in range(len(x))))


def noise(channels: int, n: int, seed: int = 0) -> Floats:
    """Return bursts of noise, (C, n): loud and quiet, so that every stage has work."""
    rng = np.random.default_rng(seed)
    level = np.repeat(10 ** rng.uniform(-3, -0.5, n // 1000 + 1), 1000)[:n]
    return np.asarray(level * rng.standard_normal((channels, n)), np.float32)


def random_blocks(
    seed: int, lengths: Sequence[int] = (0, 1, 7, 64, 255, 256, 257, 4097)
) -> Iterable[int]:
    """Yield block lengths for ever."""
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.choice(lengths))


def delayed(x: Floats, n: int) -> Floats:
    """Return x (C, n) late by n samples, of the same length."""
    return np.pad(x, [(0, 0), (n, 0)])[:, : x.shape[1]]


def snr_db(expected: Floats, found: Floats) -> float:
    """Return the ratio of a signal to the difference from it, in dB."""
    error = (expected.astype(np.float64) - found) ** 2
    return float(10 * np.log10((expected.astype(np.float64) ** 2).sum() / error.sum()))


def live(
    x: Floats, rate: int, mixer: Mixer | None = None, changes: Mapping[int, float] | None = None,
    *, precision: str = "f32",
) -> tuple[int, Floats]:  # fmt: skip
    """What the parts of a live session make of x (C, n): the delay, then (outputs, n).

    A session waits for the filter's reach beyond a hop; the library's stream has silence
    there, before its first sample.

    Args:
        x: (C, n), at `rate`.
        rate: in Hz.
        mixer: mixes the stems; without one they are the outputs.
        changes: speech's gain in dB, by the number of the hop from which it is set.
        precision: of the model.
    """
    channels = len(x)
    separator = load(MODEL, precision=precision, channels=channels, block=256)
    schedule = HopSchedule(separator, rate)
    down = Converter(rate, 16000, channels, schedule.longest)
    wait = down.wait if schedule.needs_resampling else 0
    up = StemUpsampler(schedule, 3, channels)
    heard = np.pad(x.T, [(wait, 0), (0, 0)])
    late = np.pad(heard, [(schedule.delay, 0), (0, 0)])
    outs, number = [], 0
    while schedule.end(number + 1) <= len(heard):
        span = slice(schedule.end(number), schedule.end(number + 1))
        hop = heard[span]
        if schedule.needs_resampling:
            hop = np.zeros((down.room, channels), np.float32)
            assert down.process(heard[span], hop) == 256
        stems, weights = separator.process_with_highband(hop[:256].reshape(256, -1).squeeze())
        mixture = np.ascontiguousarray(late[span])
        out = np.zeros((3, len(mixture), channels), np.float32)
        up.process(stems.reshape(3, 256, channels), weights, mixture, out)
        if mixer is not None:
            if changes and number in changes:
                mixer.set_gain("speech", changes[number])
            stems, out = out, np.zeros((1, len(mixture), channels), np.float32)
            mixer.process(stems, mixture, out)
        outs.append(out.transpose(0, 2, 1).reshape(-1, len(mixture)))
        number += 1
    return schedule.delay, np.hstack(outs)[:, wait:]


def assert_late(found: Floats, expected: Floats, late: int, atol: float) -> None:
    """Check that `found` is silence, then all that there is of `expected`."""
    assert late >= 0
    n = min(found.shape[1] - late, expected.shape[1])
    assert n > 0.9 * found.shape[1]
    np.testing.assert_allclose(found[:, :late], 0, rtol=0, atol=atol)
    np.testing.assert_allclose(found[:, late : late + n], expected[:, :n], rtol=0, atol=atol)
