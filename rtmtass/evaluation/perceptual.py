"""Metrics computed by optional packages: PESQ, STOI and BSS-eval SDR."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import MissingPartError

Array = NDArray[np.floating]

PACKAGES = {"bss_sdri": "fast-bss-eval", "pesq": "pesq", "stoi": "pystoi"}
"""Metric → the pip package that computes it; all are in the extra `train`."""
_MODULES = {"bss_sdri": "fast_bss_eval", "pesq": "pesq", "stoi": "pystoi"}

MEASURES = tuple(PACKAGES)
BSS_FILTER = 512
"""Taps of the distortion filter that BSS-eval, version 3, allows."""
BSS_CLAMP_DB = 100.0
"""Limit of the score: a perfect estimate would have an infinite one, and so would any mean."""


def available() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the metrics that can be computed here, and those whose package is missing."""
    usable, missing = [], []
    for measure in MEASURES:
        try:
            _module(measure)
        except MissingPartError:
            missing.append(measure)
        else:
            usable.append(measure)
    return tuple(usable), tuple(missing)


def require(measures: Iterable[str]) -> None:
    """Check that all of `measures` can be computed.

    Raises:
        MissingPartError: packages are missing; the message names all of them.
    """
    _, missing = available()
    lacking = [measure for measure in measures if measure in missing]
    if lacking:
        raise MissingPartError(f"{describe_missing(lacking)}, or --no-perceptual")


def describe_missing(measures: Iterable[str]) -> str:
    """Return a line with the missing metrics and the command that installs their packages."""
    lacking = list(measures)
    packages = [PACKAGES[measure] for measure in lacking]
    return (
        f"{', '.join(lacking)} can't be measured without {', '.join(packages)};"
        f" get it with: pip install {' '.join(packages)}"
    )


def _module(measure: str) -> ModuleType:
    # Imported by name: the packages have no type hints, and a broken one counts as missing.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(_MODULES[measure])
    except ImportError as error:
        raise MissingPartError(describe_missing([measure])) from error


def bss_sdr(estimate: Array, target: Array) -> Array:
    """Return the SDR of BSS-eval version 3, dB, which allows any filter of 512 taps.

    Args:
        estimate: (K, N).
        target: (K, N), in the order of `estimate`; no permutation is tried.

    Returns:
        (K,), at most `BSS_CLAMP_DB`; NaN if the estimate or the target is silent.

    Raises:
        MissingPartError: fast-bss-eval is not installed.

    Source: Vincent et al., IEEE Trans. ASLP 14(4), 2006; computed as in
    Scheibler, arXiv 2110.06440.
    """
    sdr = _module("bss_sdri").sdr
    values = np.full(len(target), np.nan)
    audible = (np.ptp(estimate, axis=-1) > 0) & (np.ptp(target, axis=-1) > 0)
    if audible.any():
        pair = (x[audible, None].astype(np.float64) for x in (target, estimate))
        values[audible] = sdr(*pair, filter_length=BSS_FILTER, clamp_db=BSS_CLAMP_DB)[:, 0]
    return values


def pesq(estimate: Array, target: Array, sample_rate: int) -> float:
    """Return wide-band PESQ, 1.0 (bad) to 4.64; NaN if no speech is detected.

    Args:
        estimate: (N,).
        target: (N,), clean speech.
        sample_rate: in Hz; wide-band PESQ is only defined at 16000.

    Raises:
        MissingPartError: pesq is not installed.

    Source: ITU-T P.862.2.
    """
    package = _module("pesq")
    if not np.any(target) or not np.any(estimate):
        return float("nan")
    try:
        return float(package.pesq(sample_rate, target, estimate, "wb"))
    except package.PesqError:
        return float("nan")


def stoi(estimate: Array, target: Array, sample_rate: int) -> float:
    """Return STOI, short-time objective intelligibility, 0 to 1; NaN for too little speech.

    Args:
        estimate: (N,).
        target: (N,), clean speech.
        sample_rate: in Hz.

    Raises:
        MissingPartError: pystoi is not installed.

    Source: Taal et al., IEEE Trans. ASLP 19(7), 2011.
    """
    package = _module("stoi")
    if not np.any(target) or not np.any(estimate):
        return float("nan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(package.stoi(target, estimate, sample_rate))
    # With less than 30 frames of speech pystoi returns 1e-5 and warns.
    if any("Not enough STFT frames" in str(warning.message) for warning in caught):
        return float("nan")
    return value
