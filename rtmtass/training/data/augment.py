"""Augmentations of a stem before mixing, each fast enough to run during training."""

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
    """Return `n` samples played `factor` times as fast, which also shifts the pitch.

    Args:
        samples: (M,) float32, M at least `n_before_speed(n, factor)`.
        factor: above 1 is faster and higher.
        n: length of the result; padded with silence if `samples` are too short.
    """
    changed = soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE)
    if len(changed) >= n:
        return np.ascontiguousarray(changed[:n], dtype=np.float32)
    return np.asarray(np.pad(changed, (0, n - len(changed))), dtype=np.float32)


def n_before_speed(n: int, factor: float) -> int:
    """Return how many input samples `change_speed` needs for `n` output samples."""
    return int(np.ceil(n * factor)) + 1


def add_room(samples: Samples, response: Samples) -> Samples:
    """Return `samples` with a room's reverberation, of the same length and energy.

    Args:
        samples: (N,) float32.
        response: impulse response of the room, with the direct sound at sample 0.
    """
    wet = signal.oaconvolve(samples, response)[: len(samples)]
    before, after = float(samples @ samples), float(wet @ wet)
    gain = np.float32(np.sqrt(before / after) if after > 0 else 1.0)
    return np.asarray(wet * gain, dtype=np.float32)


def random_tilt(samples: Samples, rng: np.random.Generator) -> Samples:
    """Return `samples` through a random tilt and a random bell filter, (N,) float32."""
    shelf = _shelf(rng.uniform(*SHELF_HZ), rng.uniform(*TILT_DB))
    bell = _bell(_log_uniform(BELL_HZ, rng), rng.uniform(*TILT_DB), rng.uniform(*BELL_Q))
    return np.asarray(signal.sosfilt(np.stack([shelf, bell]), samples), dtype=np.float32)


def band_limit(stems: Samples, low_hz: float, high_hz: float) -> Samples:
    """Return all stems through the same band-pass, so that they still sum to the mixture.

    Args:
        stems: (..., N) float32.
        low_hz, high_hz: cut-off frequencies, rounded to about 3 %.
    """
    sections = _band_pass(round(np.log(low_hz) * 32), round(np.log(high_hz) * 32))
    return np.asarray(signal.sosfilt(sections, stems, axis=-1), dtype=np.float32)


def soft_clip(samples: Samples, drive_db: float) -> Samples:
    """Return `samples` through a tanh clipper whose knee is `drive_db` below their peak."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return samples
    drive = np.float32(10 ** (drive_db / 20) / peak)
    return np.asarray(np.tanh(samples * drive) / drive, dtype=np.float32)


def compand(samples: Samples, *, bits: int = COMPAND_BITS) -> Samples:
    """Return `samples` after mu-law coding, as in telephony.

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
    """Silence `samples` before or after a random time, with a fade of 5 to 300 ms, in place."""
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
    """Return a short burst, like a clap, knock or plosive, in `n` samples of silence, (n,) float32.

    Low-passed noise with a random corner between 100 Hz and 7 kHz that decays by 60 dB
    over 20 to 300 ms; its peak is 1.
    """
    length = min(n, int(SAMPLE_RATE * _log_uniform(POP_S, rng)))
    corner_hz = _log_uniform(POP_HZ, rng)
    low_pass = signal.butter(2, corner_hz, fs=SAMPLE_RATE)
    burst = signal.lfilter(*low_pass, rng.standard_normal(length))
    burst *= 10 ** (-3 * np.arange(length) / length)  # -60 dB at the end
    burst /= np.abs(burst).max() + 1e-9
    pop = np.zeros(n, np.float32)
    at = int(rng.integers(0, n - length + 1))
    pop[at : at + length] = burst
    return pop


def _log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    low, high = bounds
    return float(low * (high / low) ** rng.random())


def _shelf(corner_hz: float, gain_db: float) -> Sections:
    """Return a first-order tilt filter: +gain/2 below the corner, -gain/2 above."""
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
