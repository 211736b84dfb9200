"""What happens to stems between bank and mixture, a batch at once: `augment`, on a device.

Filters are applied as products of spectra, with the very responses, phases included,
that the recursive filters of `augment` have. All functions take (R, N) float32 and
parameters for each row, and return (R, N).
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
_PHASE_BITS = 10  # to which a position between two samples is cut
_PHASES = 1 << _PHASE_BITS
_TRANSITION = 0.07  # of the band, below its edge: where a change of speed rolls off
_RING_OUT = 4096  # samples in which the slowest filter here decays
_NYQUIST = 1e5  # for infinity: its cube must leave room for a square in float32
_TINY = 1e-20


def n_before_speed(n: int, speed: Tensor) -> Tensor:
    """Return how many samples `change_speed` needs to give `n`, int64."""
    return torch.ceil(n * speed).long() + 1


def change_speed(samples: Tensor, speed: Tensor, n: int) -> Tensor:
    """Return `n` samples played `speed` times as fast; pitch goes with tempo.

    By a Fourier transform to three times the rate, where nothing above the new band is
    left, and from there by cubic B-splines: images and aliases are below -50 dB.

    Args:
        samples: (R, M) float32.
        speed: (R,), above 1 is faster and higher.
        n: length of the result.
    """
    n_rows, n_raw = samples.shape
    size = good_size(n_raw + 256)
    spec = torch.fft.rfft(samples, size)
    edge = (1 / speed.float()).clamp(max=1.0)[:, None]
    place, to_spline = _spline(size, samples.device)
    roll_off = (place / edge - (1 - _TRANSITION)).mul_(math.pi / _TRANSITION)
    spec = spec.mul_(roll_off.clamp_(0.0, math.pi).cos_().add_(1)).mul_(to_spline)
    fine: Tensor = torch.fft.irfft(spec, _OVERSAMPLING * size)
    # Positions as integers, counted in phases: the same on every device.
    step = torch.round(speed.double() * (_OVERSAMPLING * 2.0**32)).long()
    exact = torch.arange(n, device=samples.device) * step[:, None]
    width = fine.shape[1]
    is_small = max(n_rows, _PHASES) * width < 2**31
    position = (exact >> (32 - _PHASE_BITS)).to(torch.int32 if is_small else torch.int64)
    phase = position & (_PHASES - 1)
    first = torch.arange(n_rows, dtype=position.dtype, device=samples.device) * width
    left = (position >> _PHASE_BITS).add_(first[:, None])
    windows = fine.view(-1).as_strided((n_rows * width - _TAPS + 1, _TAPS), (1, 1))
    taps: Tensor = windows.index_select(0, left.view(-1))
    kernels = _kernels(samples.device).index_select(0, phase.view(-1))
    return taps.mul_(kernels).sum(dim=1).view(n_rows, n)


@lru_cache(maxsize=16)
def _spline(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a transform's frequencies over Nyquist's, and factors that lead to a spline, (F,).

    A cubic B-spline passes through samples if their spectrum is first divided by that of
    its own values at them, 1/6, 4/6, 1/6. The factors are half as large, and delay by the
    one sample that the spline looks back. Source: M. Unser, "Splines", IEEE SPM 16(6), 1999.
    """
    place = np.arange(size // 2 + 1) / (size // 2)
    w = np.pi * place / _OVERSAMPLING
    factor = _OVERSAMPLING * 3 / (4 + 2 * np.cos(w)) * np.exp(-1j * w)
    return _on(place, device), torch.from_numpy(factor.astype(np.complex64)).to(device)


@lru_cache(maxsize=8)
def _kernels(device: torch.device) -> Tensor:
    """Return the weights of four points for a position between the middle two, (phases, 4)."""
    u = np.arange(_PHASES) / _PHASES
    weights = [(1 - u) ** 3, 4 - 6 * u**2 + 3 * u**3, 4 - 6 * (1 - u) ** 2 + 3 * (1 - u) ** 3, u**3]
    return _on(np.stack(weights, axis=1) / 6, device)


@lru_cache(maxsize=64)
def good_size(n: int) -> int:
    """Return the smallest even size from `n` on without prime factors above 5."""
    size = n + n % 2
    while True:
        left = size
        for factor in (2, 3, 5):
            while left % factor == 0:
                left //= factor
        if left == 1:
            return size
        size += 2


def filter_size(n: int, n_response: int = 0) -> int:
    """Return a transform's size that keeps the end of `n` filtered samples off their beginning."""
    return good_size(n + max(n_response, _RING_OUT))


def tilt(size: int, shelf: tuple[Tensor, Tensor], bell: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the response of a shelf and a bell, (R, F) complex64.

    Args:
        size: of the transform; F = size // 2 + 1.
        shelf: corners in Hz and gains in dB, (R,) each.
        bell: centres in Hz, gains in dB and Qs, (R,) each.
    """
    corner_hz, gain_db = shelf
    x, root = (1 / _warp(corner_hz))[:, None], torch.exp(gain_db * (math.log(10) / 40))[:, None]
    centre_hz, gain_db, q = bell
    y, width = (1 / _warp(centre_hz))[:, None], torch.exp(gain_db * (math.log(10) / 40))[:, None]
    rise, fall = y * width / q[:, None], y / (width * q[:, None])
    t = _half_tangent(size, gain_db.device)
    # With s = j t: (root + s x / root) / (1 + s x) times (1 + s rise + s² y²) / (1 + s fall + ...)
    over = _cubic(t, root, root * rise + x / root, root * y * y + x * rise / root, x * y * y / root)
    under = _cubic(t, 1.0, fall + x, y * y + x * fall, x * y * y)
    return over.div_(under)


def _cubic(t: Tensor, c0: Tensor | float, c1: Tensor, c2: Tensor, c3: Tensor) -> Tensor:
    """Return c0 + c1 s + c2 s² + c3 s³ at s = j t: coefficients (R, 1), t (F,), (R, F)."""
    square = t * t
    return torch.complex(c0 - c2 * square, (c1 - c3 * square).mul_(t))


def band_pass(size: int, low_hz: Tensor, high_hz: Tensor) -> Tensor:
    """Return the response of a third-order Butterworth band-pass, (R, F) complex64."""
    x = _half_tangent(size, low_hz.device)[1:-1]
    low, high = _warp(low_hz)[:, None], _warp(high_hz)[:, None]
    p = (x - low * high / x) / (high - low)  # the low-pass prototype's frequency
    response = 1 / (torch.complex(torch.ones_like(p), p) * torch.complex(1 - p * p, p))
    return torch.nn.functional.pad(response, (1, 1))  # nothing at either end of the band


def low_pass(size: int, corner_hz: Tensor) -> Tensor:
    """Return the response of a second-order Butterworth low-pass, (R, F) complex64."""
    x = _half_tangent(size, corner_hz.device) / _warp(corner_hz)[:, None]
    return 1 / torch.complex(1 - x * x, math.sqrt(2) * x)


@lru_cache(maxsize=16)
def _half_tangent(size: int, device: torch.device) -> Tensor:
    """Return tan(w / 2) of a transform's frequencies w, (F,): the bilinear transform's axis."""
    w = np.linspace(0.0, np.pi, size // 2 + 1)
    return _on([*np.minimum(np.tan(w[:-1] / 2), _NYQUIST), _NYQUIST], device)


def _warp(hz: Tensor) -> Tensor:
    """Return tan(w / 2) of frequencies."""
    return torch.tan(hz * (math.pi / SAMPLE_RATE))


def _on(values: Any, device: torch.device) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32, device=device)


def equal_energy(spec: Tensor, response: Tensor) -> Tensor:
    """Scale responses (R, F) in place to leave the energies of spectra (R, F) as they are."""
    dry, wet = (torch.linalg.vector_norm(x, dim=1) for x in (spec, spec * response))
    return response.mul_((dry / wet.clamp(min=_TINY))[:, None])


def soft_clip(samples: Tensor, drive_db: Tensor) -> Tensor:
    """Return samples overdriven: their peaks lie `drive_db` above where clipping sets in."""
    drive = amplitude(drive_db)[:, None] / _peak(samples)
    return torch.tanh(samples * drive) / drive


def compand(samples: Tensor) -> Tensor:
    """Return samples as a telephone's codec leaves them: mu-law and back."""
    peak = _peak(samples)
    mu, steps = 2.0**COMPAND_BITS - 1.0, 2.0 ** (COMPAND_BITS - 1)
    law = torch.log1p(samples.abs() * (mu / peak)) / math.log1p(mu)
    law = torch.round(law * steps) / steps
    return torch.sign(samples) * torch.expm1(law * math.log1p(mu)) * (peak / mu)


def edges(n: int, at: Tensor, fade: Tensor, is_stop: Tensor) -> Tensor:
    """Return gains of 0 before a moment and 1 after, or the reverse, (R, N).

    Args:
        n: N.
        at, fade: (R,) int64 samples, where the fade begins and how long it is.
        is_stop: (R,) bool, for the reverse.
    """
    t = torch.arange(n, device=at.device)
    rise = ((t - at[:, None]) / (fade[:, None] - 1).clamp(min=1)).clamp(0.0, 1.0)
    return (rise - is_stop[:, None].float()).abs_()


def pops(noise: Tensor, length: Tensor, corner_hz: Tensor, at: Tensor, n: int) -> Tensor:
    """Return short bursts in silence, (R, n), that peak at 1.

    Args:
        noise: (R, M), white.
        length: (R,) int64, at most M: in these samples a burst decays by 60 dB.
        corner_hz: (R,), of the low-pass.
        at: (R,) int64, where each begins.
        n: length of the result.
    """
    n_raw = noise.shape[1]
    size = filter_size(n_raw)
    burst = torch.fft.irfft(torch.fft.rfft(noise, size) * low_pass(size, corner_hz), size)
    t = torch.arange(n_raw, device=noise.device)
    decay = torch.exp(t * (-3 * math.log(10) / length[:, None]))
    burst = burst[:, :n_raw] * decay.mul_(t < length[:, None])
    burst = burst / _peak(burst)
    # One more sample, of silence, for all that lies outside the burst.
    padded = torch.nn.functional.pad(burst, (0, 1))
    place = torch.arange(n, device=noise.device) - at[:, None]
    place = torch.where((place >= 0) & (place < n_raw), place, n_raw)
    return padded.gather(1, place)


def _peak(samples: Tensor) -> Tensor:
    peak: Tensor = torch.linalg.vector_norm(samples, ord=math.inf, dim=1, keepdim=True)
    return peak.clamp(min=_TINY)
