"""What happens to a stem between corpus and mixture, each cheap enough to do while training."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from rtmtass.training.data.recipe import (
    BELL_HZ,
    BELL_Q,
    COMPAND_BITS,
    EDGE_AT,
    EDGE_FADE_S,
    POP_HZ,
    POP_S,
    SHELF_HZ,
    TILT_DB,
)
from rtmtass.types import SAMPLE_RATE, Samples

Sections = NDArray[np.float32]


def change_speed(samples: Samples, factor: float, n: int) -> Samples:
    """Return `n` samples played `factor` times as fast; pitch goes with tempo.

    Args:
        samples: (M,) float32; `n_before_speed(n, factor)` of them are enough.
        factor: above 1 is faster and higher.
        n: length of the result, padded with silence if `samples` run out.
    """
    changed = soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE)
    if len(changed) >= n:
        return np.ascontiguousarray(changed[:n], dtype=np.float32)
    return np.asarray(np.pad(changed, (0, n - len(changed))), dtype=np.float32)


def n_before_speed(n: int, factor: float) -> int:
    """Return how many samples `change_speed` needs to give `n`."""
    return int(np.ceil(n * factor)) + 1


def add_room(samples: Samples, response: Samples) -> Samples:
    """Return `samples` heard in a room, equally long, at the same energy as before.

    Args:
        samples: (N,) float32.
        response: the room's impulse response; the direct sound comes first.
    """
    wet = signal.oaconvolve(samples, response)[: len(samples)]
    before, after = float(samples @ samples), float(wet @ wet)
    gain = np.float32(np.sqrt(before / after) if after > 0 else 1.0)
    return np.asarray(wet * gain, dtype=np.float32)


def random_tilt(samples: Samples, rng: np.random.Generator) -> Samples:
    """Return `samples` through a shelf and a bell of random place and gain, (N,) float32."""
    shelf = _shelf(rng.uniform(*SHELF_HZ), rng.uniform(*TILT_DB))
    bell = _bell(_log_uniform(BELL_HZ, rng), rng.uniform(*TILT_DB), rng.uniform(*BELL_Q))
    return np.asarray(signal.sosfilt(np.stack([shelf, bell]), samples), dtype=np.float32)


def band_limit(stems: Samples, low_hz: float, high_hz: float) -> Samples:
    """Return all stems through one band-pass, so that they still sum to the mixture.

    Args:
        stems: (..., N) float32.
        low_hz, high_hz: edges, rounded to about 3 %.
    """
    sections = _band_pass(round(np.log(low_hz) * 32), round(np.log(high_hz) * 32))
    return np.asarray(signal.sosfilt(sections, stems, axis=-1), dtype=np.float32)


def soft_clip(samples: Samples, drive_db: float) -> Samples:
    """Return `samples` overdriven: their peak lies `drive_db` above where clipping sets in."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return samples
    drive = np.float32(10 ** (drive_db / 20) / peak)
    return np.asarray(np.tanh(samples * drive) / drive, dtype=np.float32)


def compand(samples: Samples, *, bits: int = COMPAND_BITS) -> Samples:
    """Return `samples` as a telephone's codec leaves them: mu-law and back.

    Source: ITU-T G.711, with the continuous law instead of its segments.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return samples
    mu, steps = 2.0**bits - 1.0, 2.0 ** (bits - 1)
    law = np.log1p(mu * np.abs(samples) / peak) / np.log1p(mu)
    law = np.round(law * steps) / steps
    back = np.sign(samples) * np.expm1(law * np.log1p(mu)) * (peak / mu)
    return np.asarray(back, dtype=np.float32)


def start_or_stop(samples: Samples, rng: np.random.Generator) -> Samples:
    """Return `samples` silent before or after a random moment, faded over 5 to 300 ms."""
    n = len(samples)
    fade = min(int(rng.uniform(*EDGE_FADE_S) * SAMPLE_RATE), n // 4)
    at = int(rng.uniform(*EDGE_AT) * (n - fade))
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    if rng.random() < 0.5:
        samples[:at] = 0.0
        samples[at : at + fade] *= ramp
    else:
        samples[at : at + fade] *= ramp[::-1]
        samples[at + fade :] = 0.0
    return samples


def make_pop(n: int, rng: np.random.Generator) -> Samples:
    """Return a clap, a knock or a plosive somewhere in `n` samples of silence, (n,) float32.

    Noise below a random corner, between 100 Hz and 7 kHz, that sets in as fast as its
    corner lets it and decays by 60 dB over 20 to 300 ms; its peak is 1.
    """
    length = min(n, int(SAMPLE_RATE * _log_uniform(POP_S, rng)))
    corner_hz = _log_uniform(POP_HZ, rng)
    low_pass = signal.butter(2, corner_hz, fs=SAMPLE_RATE)
    burst = signal.lfilter(*low_pass, rng.standard_normal(length))
    burst *= 10 ** (-3 * np.arange(length) / length)  # by 60 dB
    burst /= np.abs(burst).max() + 1e-9
    pop = np.zeros(n, np.float32)
    at = int(rng.integers(0, n - length + 1))
    pop[at : at + length] = burst
    return pop


def _log_uniform(between: tuple[float, float], rng: np.random.Generator) -> float:
    low, high = between
    return float(low * (high / low) ** rng.random())


def _shelf(corner_hz: float, gain_db: float) -> Sections:
    """Return a first-order tilt: +gain/2 below the corner, -gain/2 above."""
    root, w = 10 ** (gain_db / 40), np.tan(np.pi * corner_hz / SAMPLE_RATE)
    a = 1 / root
    b0, b1 = a + root * w, root * w - a
    a0, a1 = 1 + w, w - 1
    return np.array([b0 / a0, b1 / a0, 0.0, 1.0, a1 / a0, 0.0], dtype=np.float32)


def _bell(centre_hz: float, gain_db: float, q: float) -> Sections:
    """Return a peaking equaliser. Source: R. Bristow-Johnson, Audio EQ Cookbook."""
    w = 2 * np.pi * centre_hz / SAMPLE_RATE
    a, alpha = 10 ** (gain_db / 40), np.sin(w) / (2 * q)
    b = np.array([1 + alpha * a, -2 * np.cos(w), 1 - alpha * a])
    d = np.array([1 + alpha / a, -2 * np.cos(w), 1 - alpha / a])
    return np.concatenate([b / d[0], d / d[0]]).astype(np.float32)


@lru_cache(maxsize=1024)
def _band_pass(low: int, high: int) -> Sections:
    edges = [np.exp(low / 32), min(np.exp(high / 32), 0.499 * SAMPLE_RATE)]
    sections = signal.butter(3, edges, "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(sections, dtype=np.float32)
