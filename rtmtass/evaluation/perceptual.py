"""What ears would say, estimated by the packages the field agrees on: PESQ, STOI, BSS-eval SDR."""

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
"""Figure → the pip package that measures it; all are in the extra `train`."""
_MODULES = {"bss_sdri": "fast_bss_eval", "pesq": "pesq", "stoi": "pystoi"}

MEASURES = tuple(PACKAGES)
BSS_FILTER = 512
"""Taps of the filter by which BSS-eval forgives: that of its version 3."""
BSS_CLAMP_DB = 100.0
"""A perfect estimate would score infinity, which no mean survives."""


def available() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the figures that can be measured here, and those whose package is missing."""
    there, missing = [], []
    for measure in MEASURES:
        try:
            _module(measure)
        except MissingPartError:
            missing.append(measure)
        else:
            there.append(measure)
    return tuple(there), tuple(missing)


def require(measures: Iterable[str]) -> None:
    """Make sure that all of `measures` can be measured.

    Raises:
        MissingPartError: some can't; names all their packages at once.
    """
    _, missing = available()
    lacking = [measure for measure in measures if measure in missing]
    if lacking:
        raise MissingPartError(f"{describe_missing(lacking)}, or --no-perceptual")


def describe_missing(measures: Iterable[str]) -> str:
    """Return which figures are missing and what to type to get them."""
    lacking = list(measures)
    packages = [PACKAGES[measure] for measure in lacking]
    return (
        f"{', '.join(lacking)} can't be measured without {', '.join(packages)};"
        f" get it with: pip install {' '.join(packages)}"
    )


def _module(measure: str) -> ModuleType:
    # By name: the packages carry no types, and a broken one is as good as none.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(_MODULES[measure])
    except ImportError as error:
        raise MissingPartError(describe_missing([measure])) from error


def bss_sdr(estimate: Array, target: Array) -> Array:
    """Return the SDR of BSS-eval version 3, dB: any filter of 512 taps is forgiven.

    Args:
        estimate: (K, N).
        target: (K, N), each beside its estimate; nothing is permuted.

    Returns:
        (K,); nan where either is silent, at most `BSS_CLAMP_DB`.

    Raises:
        MissingPartError: fast-bss-eval is not installed.

    Source: Vincent et al., IEEE Trans. ASLP 14(4), 2006; computed as in
    Scheibler, arXiv 2110.06440.
    """
    sdr = _module("bss_sdri").sdr
    values = np.full(len(target), np.nan)
    heard = (np.ptp(estimate, axis=-1) > 0) & (np.ptp(target, axis=-1) > 0)
    if heard.any():
        truth, guess = (x[heard, None].astype(np.float64) for x in (target, estimate))
        values[heard] = sdr(truth, guess, filter_length=BSS_FILTER, clamp_db=BSS_CLAMP_DB)[:, 0]
    return values


def pesq(estimate: Array, target: Array, sample_rate: int) -> float:
    """Return wide-band PESQ, 1.0 (bad) to 4.64; nan where no speech is found.

    Args:
        estimate: (N,).
        target: (N,), clean speech.
        sample_rate: 16000, in Hz: the only rate of the wide band.

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
    """Return short-time intelligibility, 0 to 1; nan where there is too little speech.

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
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        value = float(package.stoi(target, estimate, sample_rate))
    # It returns 1e-5, and says so, where less than 30 frames of speech are left.
    if any("Not enough STFT frames" in str(warning.message) for warning in said):
        return float("nan")
    return value
