"""Procedural noise generators, because recorded noise is the scarcest training material."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from rtmtass.training.data.mixing import energy, speech_track
from rtmtass.training.data.recordings import Sampler
from rtmtass.types import SAMPLE_RATE, Samples

Rng = np.random.Generator
Maker = Callable[[int, Rng], Samples]


def coloured(n: int, rng: Rng, slope_db: float | None = None) -> Samples:
    """Return noise with a spectral slope of `slope_db` per octave.

    Args:
        n: length in samples.
        rng: draws the noise and, if not given, the slope.
        slope_db: 0 is white, -3 pink, -6 brown; by default uniform in -9 to +3.
    """
    slope = rng.uniform(-9.0, 3.0) if slope_db is None else slope_db
    hz = fft.rfftfreq(n, 1 / SAMPLE_RATE)
    # Flat below 20 Hz, or brown noise would be nothing but drift.
    gain = (np.maximum(hz, 20.0) / 1000.0) ** (slope / 20 / np.log10(2.0))
    return _unit(fft.irfft(_white_spectrum(n, rng) * gain, n))


def hum(n: int, rng: Rng, mains_hz: float | None = None) -> Samples:
    """Return mains hum: the mains frequency, its harmonics, and a little hiss."""
    base = float(rng.choice([50.0, 60.0])) if mains_hz is None else mains_hz
    phase = 2 * np.pi * base * np.arange(n) / SAMPLE_RATE
    tones = np.zeros(n)
    for k in range(1, int(rng.integers(8, 40))):
        odd = 1.0 if k % 2 or k == 2 else 0.3
        tones += odd * rng.uniform(0.1, 1.0) / k * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    return _unit(_unit(tones) + rng.uniform(0.01, 0.3) * coloured(n, rng, -3.0))


def fan(n: int, rng: Rng) -> Samples:
    """Return a fan: band-limited air noise and the blades' tones at a slightly varying speed."""
    air = _band(coloured(n, rng, rng.uniform(-6.0, -2.0)), 60.0, rng.uniform(2000.0, 7000.0))
    blades_hz = rng.uniform(25.0, 300.0) * (1 + 0.01 * _slow(n, rng, 0.5))
    phase = 2 * np.pi * np.cumsum(blades_hz) / SAMPLE_RATE
    tones: Any = sum(rng.uniform(0.2, 1.0) / k * np.sin(k * phase) for k in range(1, 6))
    return _unit(air * (1 + 0.2 * np.sin(phase / 3)) + rng.uniform(0.02, 0.6) * _unit(tones))


def engine(n: int, rng: Rng) -> Samples:
    """Return an engine: uneven pulses at a varying rate, through body resonances."""
    bangs_hz = rng.uniform(12.0, 110.0) * np.exp(0.3 * _slow(n, rng, rng.uniform(0.05, 0.6)))
    turns = np.cumsum(bangs_hz) / SAMPLE_RATE
    fires = np.flatnonzero(np.diff(np.floor(turns), prepend=0.0))
    pulses = np.zeros(n)
    pulses[fires] = 1 + 0.3 * rng.standard_normal(len(fires))
    body: Any = 0.0
    for _ in range(4):
        body = body + _ring(pulses, rng.uniform(60.0, 2500.0), rng.uniform(0.004, 0.03))
    hiss = coloured(n, rng, -4.0) * (1 + 0.5 * np.sin(2 * np.pi * turns))
    return _unit(_unit(body) + rng.uniform(0.1, 0.8) * hiss)


def clicks(n: int, rng: Rng) -> Samples:
    """Return clicks and crackle at random times, over faint hiss."""
    pulses = _poisson(n, rng, 0.5 * 100.0 ** rng.random())
    sound = _ring(pulses, rng.uniform(500.0, 5000.0), rng.uniform(0.0003, 0.006))
    return _unit(_unit(sound) + rng.uniform(0.0, 0.1) * coloured(n, rng))


def typing(n: int, rng: Rng) -> Samples:
    """Return typing: key presses and releases, with pauses between words."""
    down, up = np.zeros(n), np.zeros(n)
    at, pace_s = 0.0, rng.uniform(0.08, 0.25)
    while at < n:
        stroke, release = int(at), int(at + rng.uniform(0.05, 0.12) * SAMPLE_RATE)
        down[stroke] += rng.uniform(0.5, 1.0)
        if release < n:
            up[release] += rng.uniform(0.2, 0.5)
        pause_s = rng.uniform(0.5, 3.0) if rng.random() < 0.08 else 0.0
        at += (pace_s * rng.lognormal(0.0, 0.35) + pause_s) * SAMPLE_RATE
    burst = coloured(n, rng, 0.0)
    keys = _ring(down, rng.uniform(1200, 2500), 0.006) + _ring(up, rng.uniform(2500, 5000), 0.003)
    thump = _ring(down, rng.uniform(120, 300), 0.02)
    rattle = burst * _decay(down + up, 0.004)
    return _unit(
        _unit(keys) + rng.uniform(0.1, 0.6) * _unit(thump) + 0.7 * _unit(rattle) + 0.01 * burst
    )


def rain(n: int, rng: Rng) -> Samples:
    """Return rain: drops of various sizes over hiss."""
    hiss = _band(coloured(n, rng, rng.uniform(-3.0, 1.0)), rng.uniform(200.0, 1500.0), 7500.0)
    drops: Any = 0.0
    for _ in range(3):
        pulses = _poisson(n, rng, 10.0 * 40.0 ** rng.random())
        drops = drops + _ring(pulses, rng.uniform(800.0, 5500.0), rng.uniform(0.0005, 0.004))
    swell = np.exp(0.3 * _slow(n, rng, 0.2))
    return _unit((_unit(hiss) + rng.uniform(0.2, 1.5) * _unit(drops)) * swell)


def wind(n: int, rng: Rng) -> Samples:
    """Return wind: low-frequency noise in gusts, sometimes with a whistle that follows them."""
    gusts = np.exp(rng.uniform(0.4, 1.0) * _slow(n, rng, rng.uniform(0.1, 1.0)))
    roar = coloured(n, rng, rng.uniform(-10.0, -5.0)) * gusts
    if rng.random() < 0.5:
        centre_hz = rng.uniform(300.0, 1500.0)
        whistle = _band(coloured(n, rng, 0.0), 0.93 * centre_hz, 1.07 * centre_hz)
        roar = roar + rng.uniform(0.05, 0.4) * _unit(whistle) * gusts**2
    return _unit(roar)


def applause(n: int, rng: Rng) -> Samples:
    """Return applause of slowly varying loudness."""
    crowd: Any = 0.0
    for _ in range(4):
        claps = _decay(_poisson(n, rng, rng.uniform(8.0, 80.0)), rng.uniform(0.004, 0.015))
        low_hz = rng.uniform(500.0, 1200.0)
        crowd = crowd + _band(claps * rng.standard_normal(n), low_hz, low_hz * 3.0)
    return _unit(crowd * np.exp(0.4 * _slow(n, rng, 0.3)))


def knocks(n: int, rng: Rng) -> Samples:
    """Return steps or knocks: dull impacts at a nearly even pace."""
    blows, at, pace_s = np.zeros(n), 0.0, rng.uniform(0.2, 0.9)
    while at < n:
        blows[int(at)] += rng.uniform(0.4, 1.0)
        at += pace_s * rng.lognormal(0.0, 0.12) * SAMPLE_RATE
    body = _ring(blows, rng.uniform(70, 400), 0.025) + _ring(blows, rng.uniform(400, 1500), 0.01)
    scrape = coloured(n, rng, -3.0) * _decay(blows, rng.uniform(0.005, 0.05))
    return _unit(_unit(body) + rng.uniform(0.1, 1.0) * _unit(scrape))


def alarm(n: int, rng: Rng) -> Samples:
    """Return a beeper or siren over hiss: tonal sounds that aren't music."""
    t = np.arange(n) / SAMPLE_RATE
    period_s, base_hz = rng.uniform(0.15, 2.0), rng.uniform(400.0, 3500.0)
    turn = (t / period_s) % 1.0
    if rng.random() < 0.5:
        hz = base_hz * np.exp(rng.uniform(0.0, 0.5) * np.abs(2 * turn - 1))
        gate: Any = 1.0
    else:
        hz = np.full(n, base_hz)
        gate = signal.lfilter([0.01], [1.0, -0.99], turn < rng.uniform(0.2, 0.7))
    tone = np.tanh(rng.uniform(0.5, 4.0) * np.sin(2 * np.pi * np.cumsum(hz) / SAMPLE_RATE))
    return _unit(_unit(tone * gate) + rng.uniform(0.05, 1.0) * coloured(n, rng))


def babble(sampler: Sampler, n: int, rng: Rng) -> Samples:
    """Return unintelligible babble of six to twelve speakers at once."""
    crowd = np.zeros(n, np.float32)
    for _ in range(int(rng.integers(6, 13))):
        voice = speech_track(sampler, n, rng, gap_s=(0.0, 0.4))
        level = energy(voice)
        if level > 0.0:
            crowd += voice * np.float32(10 ** (rng.uniform(-4.0, 0.0) / 20) / np.sqrt(level))
    return _unit(crowd)


MAKERS: dict[str, Maker] = {
    "coloured": coloured, "hum": hum, "fan": fan, "engine": engine, "clicks": clicks,
    "typing": typing, "rain": rain, "wind": wind, "applause": applause, "knocks": knocks,
    "alarm": alarm,
}  # fmt: skip
"""Name → generator, of all that need no recordings."""


def _unit(samples: NDArray[Any]) -> Samples:
    """Return `samples` at a mean square of 1."""
    level = float(np.sqrt(np.mean(np.square(samples))))
    return np.asarray(samples / (level if level > 0 else 1.0), dtype=np.float32)


def _white_spectrum(n: int, rng: Rng) -> NDArray[np.complex64]:
    real, imag = rng.standard_normal((2, n // 2 + 1), dtype=np.float32)
    return np.asarray(real + 1j * imag, dtype=np.complex64)


def _slow(n: int, rng: Rng, rate_hz: float) -> NDArray[np.float64]:
    """Return a smooth random curve of mean 0, deviation 1 and about `rate_hz` bandwidth."""
    n_points = max(int(n / SAMPLE_RATE * rate_hz * 2), 2) + 4
    points = rng.standard_normal(n_points)
    position = np.linspace(1.0, n_points - 3.0, n)
    left, u = np.floor(position).astype(int), position % 1.0
    weight = (1 - np.cos(np.pi * u)) / 2
    return np.asarray(points[left] * (1 - weight) + points[left + 1] * weight)


def _poisson(n: int, rng: Rng, per_second: float) -> NDArray[np.float64]:
    """Return pulses of random height at random times."""
    pulses = np.zeros(n)
    count = max(int(rng.poisson(per_second * n / SAMPLE_RATE)), 1)
    np.add.at(pulses, rng.integers(0, n, count), rng.exponential(1.0, count))
    return pulses


def _ring(pulses: NDArray[Any], hz: float, decay_s: float) -> NDArray[np.float64]:
    """Return `pulses` through a resonance that decays by 8.7 dB per `decay_s`."""
    radius = np.exp(-1 / (decay_s * SAMPLE_RATE))
    pole = 2 * radius * np.cos(2 * np.pi * hz / SAMPLE_RATE)
    return np.asarray(signal.lfilter([1.0, -1.0], [1.0, -pole, radius**2], pulses))


def _decay(pulses: NDArray[Any], decay_s: float) -> NDArray[np.float64]:
    return np.asarray(signal.lfilter([1.0], [1.0, -np.exp(-1 / (decay_s * SAMPLE_RATE))], pulses))


def _band(samples: NDArray[Any], low_hz: float, high_hz: float) -> NDArray[np.float64]:
    sections = signal.butter(2, [low_hz, high_hz], "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(signal.sosfilt(sections, samples))
