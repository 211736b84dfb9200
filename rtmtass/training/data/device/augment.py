"""Augmentations of whole batches on a device: the counterpart of `data.augment`.

Filters multiply spectra by the frequency responses, phase included, of the recursive
filters in `data.augment`. Functions of samples take (R, N) float32 and parameters for
each row, and return (R, N).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtmtass.training.data.device.rng import amplitude
from rtmtass.training.data.recipe import COMPAND_BITS
from rtmtass.types import SAMPLE_RATE

_OVERSAMPLING = 3
_TAPS = 4  # of a cubic spline
_PHASE_BITS = 10  # resolution of a position between two samples
_PHASES = 1 << _PHASE_BITS
_TRANSITION = 0.07  # roll-off of a change of speed, as a fraction of the band, below its edge
_RING_OUT = 4096  # decay time of the slowest filter here, samples
_NYQUIST = 1e5  # stands for tan(pi / 2): the square of its cube must be finite in float32
_TINY = 1e-20


def n_before_speed(n: int, speed: Tensor) -> Tensor:
    """Return how many input samples `change_speed` needs for `n` output samples, int64."""
    return torch.ceil(n * speed).long() + 1


def change_speed(samples: Tensor, speed: Tensor, n: int) -> Tensor:
    """Return `n` samples played `speed` times as fast, which also shifts the pitch.

    Low-passed to the new band and oversampled three times in the spectrum, then
    interpolated by cubic B-splines; images and aliases are below -50 dB.

    Args:
        samples: (R, M) float32.
        speed: (R,), above 1 is faster and higher.
        n: length of the result.

    Returns:
        (R, n) float32.
    """
    n_rows, n_raw = samples.shape
    size = good_size(n_raw + 256)
    spec = torch.fft.rfft(samples, size)
    edge = (1 / speed.float()).clamp(max=1.0)[:, None]
    frequency, to_spline = _spline(size, samples.device)
    roll_off = (frequency / edge - (1 - _TRANSITION)).mul_(math.pi / _TRANSITION)
    spec = spec.mul_(roll_off.clamp_(0.0, math.pi).cos_().add_(1)).mul_(to_spline)
    fine: Tensor = torch.fft.irfft(spec, _OVERSAMPLING * size)
    # Integer positions, in phases, so that all devices agree.
    step = torch.round(speed.double() * (_OVERSAMPLING * 2.0**32)).long()
    exact = torch.arange(n, device=samples.device) * step[:, None]
    width = fine.shape[1]
    fits_int32 = max(n_rows, _PHASES) * width < 2**31
    position = (exact >> (32 - _PHASE_BITS)).to(torch.int32 if fits_int32 else torch.int64)
    phase = position & (_PHASES - 1)
    first = torch.arange(n_rows, dtype=position.dtype, device=samples.device) * width
    left = (position >> _PHASE_BITS).add_(first[:, None])
    windows = fine.view(-1).as_strided((n_rows * width - _TAPS + 1, _TAPS), (1, 1))
    taps: Tensor = windows.index_select(0, left.view(-1))
    kernels = _kernels(samples.device).index_select(0, phase.view(-1))
    return taps.mul_(kernels).sum(dim=1).view(n_rows, n)


@lru_cache(maxsize=16)
def _spline(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a transform's frequencies relative to Nyquist, and the spline prefilter, (F,) each.

    A cubic B-spline interpolates samples if their spectrum is divided by that of the
    spline's values at the samples, 1/6, 4/6, 1/6. The prefilter has half that gain (the
    roll-off has twice) and delays by one sample, for the spline's support.

    Source: M. Unser, "Splines", IEEE SPM 16(6), 1999.
    """
    frequency = np.arange(size // 2 + 1) / (size // 2)
    w = np.pi * frequency / _OVERSAMPLING
    factor = _OVERSAMPLING * 3 / (4 + 2 * np.cos(w)) * np.exp(-1j * w)
    return _on(frequency, device), torch.from_numpy(factor.astype(np.complex64)).to(device)


@lru_cache(maxsize=8)
def _kernels(device: torch.device) -> Tensor:
    """Return the B-spline's weights of four samples for each phase, (phases, 4)."""
    u = np.arange(_PHASES) / _PHASES
    weights = [(1 - u) ** 3, 4 - 6 * u**2 + 3 * u**3, 4 - 6 * (1 - u) ** 2 + 3 * (1 - u) ** 3, u**3]
    return _on(np.stack(weights, axis=1) / 6, device)


@lru_cache(maxsize=64)
def good_size(n: int) -> int:
    """Return the smallest even transform size >= `n` without prime factors above 5."""
    size = n + n % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def filter_size(n: int, n_response: int = 0) -> int:
    """Return a transform size that prevents circular wrap-around when filtering `n` samples."""
    return good_size(n + max(n_response, _RING_OUT))


def tilt(size: int, shelf: tuple[Tensor, Tensor], bell: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the frequency responses of tilt and bell filters, (R, F) complex64.

    Args:
        size: of the transform; F = size // 2 + 1.
        shelf: corner frequencies in Hz and gains in dB of the tilt, (R,) each.
        bell: centre frequencies in Hz, gains in dB and Qs, (R,) each.
    """
    corner_hz, gain_db = shelf
    x, root = (1 / _warp(corner_hz))[:, None], torch.exp(gain_db * (math.log(10) / 40))[:, None]
    centre_hz, gain_db, q = bell
    y, width = (1 / _warp(centre_hz))[:, None], torch.exp(gain_db * (math.log(10) / 40))[:, None]
    rise, fall = y * width / q[:, None], y / (width * q[:, None])
    t = _half_tangent(size, gain_db.device)
    # With s = j t: (root + s x / root) / (1 + s x) times (1 + s rise + s² y²) / (1 + s fall + ...)
    zeros = _cubic(
        t, root, root * rise + x / root, root * y * y + x * rise / root, x * y * y / root
    )
    poles = _cubic(t, 1.0, fall + x, y * y + x * fall, x * y * y)
    return zeros.div_(poles)


def _cubic(t: Tensor, c0: Tensor | float, c1: Tensor, c2: Tensor, c3: Tensor) -> Tensor:
    """Return c0 + c1 s + c2 s² + c3 s³ at s = j t: coefficients (R, 1), t (F,), (R, F)."""
    square = t * t
    return torch.complex(c0 - c2 * square, (c1 - c3 * square).mul_(t))


def band_pass(size: int, low_hz: Tensor, high_hz: Tensor) -> Tensor:
    """Return the frequency responses of third-order Butterworth band-passes, (R, F) complex64."""
    x = _half_tangent(size, low_hz.device)[1:-1]
    low, high = _warp(low_hz)[:, None], _warp(high_hz)[:, None]
    p = (x - low * high / x) / (high - low)  # the low-pass prototype's frequency
    response = 1 / (torch.complex(torch.ones_like(p), p) * torch.complex(1 - p * p, p))
    return torch.nn.functional.pad(response, (1, 1))  # zero at 0 Hz and at Nyquist


def low_pass(size: int, corner_hz: Tensor) -> Tensor:
    """Return the frequency responses of second-order Butterworth low-passes, (R, F) complex64."""
    x = _half_tangent(size, corner_hz.device) / _warp(corner_hz)[:, None]
    return 1 / torch.complex(1 - x * x, math.sqrt(2) * x)


@lru_cache(maxsize=16)
def _half_tangent(size: int, device: torch.device) -> Tensor:
    """Return tan(w / 2) for a transform's frequencies w, (F,), as in the bilinear transform."""
    w = np.linspace(0.0, np.pi, size // 2 + 1)
    return _on([*np.minimum(np.tan(w[:-1] / 2), _NYQUIST), _NYQUIST], device)


def _warp(hz: Tensor) -> Tensor:
    """Return tan(w / 2) for frequencies in Hz."""
    return torch.tan(hz * (math.pi / SAMPLE_RATE))


def _on(values: Any, device: torch.device) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32, device=device)


def equal_energy(spec: Tensor, response: Tensor) -> Tensor:
    """Scale responses (R, F), in place, so that filtering keeps the energy of spectra (R, F)."""
    dry, wet = (torch.linalg.vector_norm(x, dim=1) for x in (spec, spec * response))
    return response.mul_((dry / wet.clamp(min=_TINY))[:, None])


def soft_clip(samples: Tensor, drive_db: Tensor) -> Tensor:
    """Return samples through a tanh clipper whose knee is `drive_db` below their peaks."""
    drive = amplitude(drive_db)[:, None] / _peak(samples)
    return torch.tanh(samples * drive) / drive


def compand(samples: Tensor) -> Tensor:
    """Return samples after mu-law coding, as in telephony."""
    peak = _peak(samples)
    mu, steps = 2.0**COMPAND_BITS - 1.0, 2.0 ** (COMPAND_BITS - 1)
    law = torch.log1p(samples.abs() * (mu / peak)) / math.log1p(mu)
    law = torch.round(law * steps) / steps
    return torch.sign(samples) * torch.expm1(law * math.log1p(mu)) * (peak / mu)


def edges(n: int, at: Tensor, fade: Tensor, is_stop: Tensor) -> Tensor:
    """Return gains that fade from 0 to 1, or from 1 to 0, (R, N).

    Args:
        n: N.
        at, fade: (R,) int64, start and length of the fade, samples.
        is_stop: (R,) bool, true for a fade to 0.
    """
    t = torch.arange(n, device=at.device)
    rise = ((t - at[:, None]) / (fade[:, None] - 1).clamp(min=1)).clamp(0.0, 1.0)
    return (rise - is_stop[:, None].float()).abs_()


def pops(noise: Tensor, length: Tensor, corner_hz: Tensor, at: Tensor, n: int) -> Tensor:
    """Return short bursts in silence, with a peak of 1, (R, n).

    Args:
        noise: (R, M), white noise.
        length: (R,) int64, at most M: samples in which a burst decays by 60 dB.
        corner_hz: (R,), corner of the low-pass.
        at: (R,) int64, start of each burst.
        n: length of the result.
    """
    n_raw = noise.shape[1]
    size = filter_size(n_raw)
    burst = torch.fft.irfft(torch.fft.rfft(noise, size) * low_pass(size, corner_hz), size)
    t = torch.arange(n_raw, device=noise.device)
    decay = torch.exp(t * (-3 * math.log(10) / length[:, None]))
    burst = burst[:, :n_raw] * decay.mul_(t < length[:, None])
    burst = burst / _peak(burst)
    # A zero is appended, and read for all times outside the burst.
    padded = torch.nn.functional.pad(burst, (0, 1))
    index = torch.arange(n, device=noise.device) - at[:, None]
    index = torch.where((index >= 0) & (index < n_raw), index, n_raw)
    return padded.gather(1, index)


def _peak(samples: Tensor) -> Tensor:
    peak: Tensor = torch.linalg.vector_norm(samples, ord=math.inf, dim=1, keepdim=True)
    return peak.clamp(min=_TINY)
