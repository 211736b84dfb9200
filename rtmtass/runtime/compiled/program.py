"""From released weights to a plan: weights packed, every address decided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError
from rtmtass.runtime.compiled import interpreter as op
from rtmtass.runtime.compiled.builder import Builder, Register
from rtmtass.runtime.compiled.lowering import (
    compensation,
    compress,
    estimate,
    running_level,
    subbands,
    trunk,
)
from rtmtass.runtime.compiled.simd import LANES
from rtmtass.runtime.folding import TrackedWeights, Weights, fold

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Program:
    """A network ready to run; shared, read-only, by any number of streams.

    Attributes:
        rows: (n_operations, FIELDS) int64 for `machine.execute`.
        weights: packed float32 arena.
        state_size, work_size: floats each stream needs; zeros at first.
        mixture: register of the spectrum that goes in, [re | im], parts `imag_offset` apart.
        aligned: register of the mixture's spectrum the stems belong to (older by the look-ahead).
        stems: register of the stems' spectra, S times [re | im].
        imag_offset: floats from the real to the imaginary part.
        chunk: frames that run together at most.
    """

    config: ModelConfig
    rows: NDArray[np.int64]
    weights: Floats
    state_size: int
    work_size: int
    mixture: Register
    aligned: Register
    stems: Register
    imag_offset: int
    chunk: int


def build(
    config: ModelConfig,
    weights: Weights,
    chunk: int = 1,
    precision: str = "f32",
    streams: int = 1,
) -> Program:
    """Fold, pack and lay out a network.

    Args:
        config: the model.
        weights: its arrays by name, float32, as `model.safetensors` holds them.
        chunk: frames that run together at most; 1 keeps the work space in the first cache.
        precision: what the weights of products are kept in, of `config.PRECISIONS`.
        streams: streams that run together, each by one frame; then `chunk` is 1.

    Raises:
        ModelError: the weights are not those of this config.
    """
    net, n_bins, n_stems = config.net, config.stft.n_bins, len(config.stems)
    make, weights = Builder(chunk * streams, precision, chunk), TrackedWeights(weights)
    imag_offset = -(-n_bins // LANES) * LANES
    mixture = make.register(2 * imag_offset, 1)
    level = running_level(make, config, mixture, imag_offset)
    limit = make.store(np.array([net.mask_limit], np.float32))
    parts = 1 if net.backbone == "multiscale" else 3
    features = compress(make, mixture, n_bins, imag_offset, level, parts)
    hidden = trunk(make, config, weights, features)

    aligned = mixture
    if net.lookahead:
        both = make.taps(mixture, 2, net.lookahead)
        aligned = both.columns(0, mixture.width)
    stems = make.register(2 * imag_offset * n_stems, 1)
    outputs = 1 if net.target == "magnitude_mask" else 2
    answers = [
        make.affine(hidden, fold(weights, f"heads.{s}", outputs * n_bins)) for s in range(n_stems)
    ]
    if net.subband_bins:
        subbands(make, config, weights, features, hidden, answers)
    for s, answer in enumerate(answers):
        stem = stems.columns(2 * imag_offset * s, 2 * imag_offset)
        estimate(make, answer, aligned, stem, n_bins, imag_offset, level, net.target, limit, 0)
        if net.compensation_target == "none":
            continue
        residual = make.register(2 * imag_offset, 1)
        make.emit(
            op.SUBTRACT, aligned.at, aligned.stride, stem.at, stem.stride, residual.at,
            residual.stride, 2 * imag_offset,
        )  # fmt: skip
        answer = compensation(make, config, weights, s, residual, hidden, level, imag_offset)
        target = net.compensation_target
        estimate(make, answer, residual, stem, n_bins, imag_offset, level, target, limit, 1)
    make.emit(
        op.SHARE, aligned.at, aligned.stride, n_bins, imag_offset, stems.at, stems.stride, n_stems
    )
    if left_over := weights.left_over():
        raise ModelError(
            f"the weights hold layers the config doesn't know: {', '.join(left_over[:3])}"
            f"{' …' if len(left_over) > 3 else ''}; config and weights belong to different networks"
        )
    make.finish()
    return Program(
        config=config,
        rows=np.array(make.rows, np.int64),
        weights=make.weights(),
        state_size=make.state,
        work_size=make.work,
        mixture=mixture,
        aligned=aligned,
        stems=stems,
        imag_offset=imag_offset,
        chunk=chunk,
    )
