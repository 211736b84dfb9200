"""Lowers a network to a program: folds, packs and allocates, layer by layer."""

from __future__ import annotations

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError
from rtmtass.jit.simd import in_vectors
from rtmtass.runtime.compiled.builder import Builder
from rtmtass.runtime.compiled.lowering_bands import lower_bands
from rtmtass.runtime.compiled.lowering_shared import (
    Spectra,
    expander,
    mixture_consistency,
    parallel_grus,
    running_level,
)
from rtmtass.runtime.compiled.program import Program, Register, encode
from rtmtass.runtime.folding import TrackedWeights, Weights, fold, read_grus


def build(
    config: ModelConfig,
    weights: Weights,
    chunk: int = 1,
    precision: str = "f32",
    streams: int = 1,
) -> Program:
    """Lower a network to a program.

    Args:
        config: the model.
        weights: its arrays by name, float32, as in `model.safetensors`.
        chunk: most frames of one stream that run together; 1 keeps the work arena in L1 cache.
        precision: of the matmuls' weights, one of `config.PRECISIONS`.
        streams: streams that run together, one frame each; then `chunk` is 1.

    Raises:
        ModelError: the weights don't fit this config.
    """
    net, n_bins, n_stems = config.net, config.stft.n_bins, len(config.stems)
    make, weights = Builder(chunk * streams, precision, chunk), TrackedWeights(weights)
    imag_offset = in_vectors(n_bins)
    mixture = make.register(2 * imag_offset, 1)
    level = running_level(make, config, mixture, imag_offset)
    aligned = mixture
    if net.lookahead:
        both = make.taps(mixture, 2, net.lookahead)
        aligned = both.columns(0, mixture.width)
    stems = make.register(2 * imag_offset * n_stems, 1)
    limit = make.store(np.array([net.mask_limit], np.float32))
    spectra = Spectra(make, n_bins, imag_offset, level, limit, mixture, aligned, stems)
    lower = lower_bands if net.backbone == "bands" else _network
    lower(config, weights, spectra)
    mixture_consistency(make, config, aligned, stems, imag_offset)
    if net.expander_db:
        expander(make, config, aligned, stems, imag_offset)
    if unused := weights.unused():
        raise ModelError(
            f"the weights hold layers the config doesn't know: {', '.join(unused[:3])}"
            f"{' …' if len(unused) > 3 else ''}; config and weights belong to different networks"
        )
    make.finish()
    return Program(
        config=config,
        instructions=encode(make.instructions),
        weights=make.weights(),
        state_size=make.state,
        work_size=make.work,
        mixture=mixture,
        aligned=aligned,
        stems=stems,
        imag_offset=imag_offset,
        chunk=chunk,
    )


def _network(config: ModelConfig, weights: Weights, spectra: Spectra) -> None:
    """Lower `net.mtass.MtassNet`, up to the stems' spectra."""
    net, make, n_bins = config.net, spectra.make, config.stft.n_bins
    features = spectra.compress(spectra.mixture, 1 if net.backbone == "multiscale" else 3)
    hidden = _trunk(make, config, weights, features)
    outputs = 1 if net.target == "magnitude_mask" else 2
    heads = [
        make.affine(hidden, fold(weights, f"heads.{s}", outputs * n_bins))
        for s in range(len(config.stems))
    ]
    if net.subband_bins:
        with make.reused():
            _subbands(make, config, weights, features, hidden, heads)
    for s, head in enumerate(heads):
        stem = spectra.stem(s)
        spectra.estimate(head, spectra.aligned, stem, net.target)
        if net.compensation_target != "none":
            with make.reused():
                residual = make.subtract(spectra.aligned, stem)
                output = _compensation(config, weights, spectra, s, residual, hidden)
                spectra.estimate(output, residual, stem, net.compensation_target, adds=True)


def _gated(
    make: Builder, weights: Weights, name: str, x: Register, hidden: int, size: int, dilation: int
) -> None:
    """Lower `net.layers.GatedBlock`, added to x."""
    with make.reused():
        reduced = make.affine(x, fold(weights, f"{name}.reduce", hidden))
        taps = make.taps(reduced, size, dilation)
        both = make.affine(taps, fold(weights, f"{name}.gate.affine", 2 * hidden))
        make.affine(make.gate(both), fold(weights, f"{name}.expand", x.width), x, add=True)


def _recurrent(
    make: Builder, weights: Weights, name: str, x: Register, hidden: int, groups: int = 1
) -> None:
    """Lower `net.layers.RecurrentBlock`, added to x."""
    with make.reused():
        out = parallel_grus(make, x, read_grus(weights, name, hidden, groups))
        make.affine(out, fold(weights, f"{name}.expand", x.width), x, add=True)


def _multiscale(
    make: Builder,
    config: ModelConfig,
    weights: Weights,
    name: str,
    x: Register,
    magnitude: Register,
    dilation: int,
) -> None:
    """Lower `net.layers.MultiScaleBlock`, added to x."""
    net, n_bins = config.net, config.stft.n_bins
    width, extra = divmod(2 * n_bins, net.bands)
    widths = [width + (band < extra) for band in range(net.bands)]
    starts = np.concatenate([[0], np.cumsum(widths)]).tolist()
    parts = make.register(2 * n_bins)
    make.affine(x, fold(weights, f"{name}.reduce", n_bins), parts.columns(0, n_bins))
    make.copy(magnitude, parts.columns(n_bins, n_bins))
    sums = make.register(2 * n_bins)
    for chain in range(2):
        order = list(range(net.bands))
        before: Register | None = None
        for i, band in enumerate(order if chain == 0 else reversed(order)):
            conv_in = make.register(widths[band] + (before.width if before else 0))
            make.copy(parts.columns(starts[band], widths[band]), conv_in.columns(0, widths[band]))
            if before:
                make.copy(before, conv_in.columns(widths[band], before.width))
            taps = make.taps(conv_in, net.kernel, dilation)
            conv = f"{name}.chains.{chain}.{i}.affine"
            before = make.affine(taps, fold(weights, conv, widths[band]))
            make.copy(before, sums.columns(starts[band], widths[band]), add=chain == 1)
    make.affine(sums, fold(weights, f"{name}.expand", x.width), x, add=True)


def _subbands(
    make: Builder,
    config: ModelConfig,
    weights: Weights,
    features: Register,
    hidden: Register,
    heads: list[Register],
) -> None:
    """Lower `net.subbands.SubBands`: correct the heads' outputs in place."""
    net, n_bins = config.net, config.stft.n_bins
    bins, context, width = net.subband_bins, net.subband_context, net.subband_channels
    bands, outputs = net.n_subbands(n_bins), heads[0].width // n_bins
    planes = [head.columns(n_bins * i, n_bins) for head in heads for i in range(outputs)]
    wide = bins + 2 * net.subband_overlap
    x = make.register(3 * wide + len(planes) * bins + context, rows=bands)
    for i in range(3):
        piece = x.columns(i * wide, wide)
        make.cut(features.columns(i * n_bins, n_bins), piece, bins, -net.subband_overlap)
    for i, plane in enumerate(planes):
        make.cut(plane, x.columns(3 * wide + i * bins, bins), bins)
    projected = make.affine(hidden, fold(weights, "subbands.context_proj", bands * context))
    make.cut(projected, x.columns(x.width - context, context), context)
    y = make.affine(x, fold(weights, "subbands.in_proj", width))
    _recurrent(make, weights, "subbands.memory", y, width // net.subband_groups, net.subband_groups)
    correction = make.affine(y, fold(weights, "subbands.out_proj", len(planes) * bins))
    for i, plane in enumerate(planes):
        make.join(correction.columns(i * bins, bins), plane)


def _trunk(make: Builder, config: ModelConfig, weights: Weights, x: Register) -> Register:
    """Lower stage 1 up to its heads."""
    net = config.net
    y = make.affine(x, fold(weights, "trunk.in_proj", net.channels))
    for i, dilation in enumerate(net.dilations):
        name = f"trunk.blocks.{i}"
        if net.backbone == "multiscale":
            _multiscale(make, config, weights, name, y, x, dilation)
        else:
            _gated(make, weights, name, y, net.hidden, net.kernel, dilation)
    for i in range(net.recurrent_layers):
        name = f"trunk.blocks.{len(net.dilations) + i}"
        _recurrent(make, weights, name, y, net.recurrent, net.recurrent_groups)
    return make.affine(y, fold(weights, "trunk.out_proj", net.channels))


def _compensation(
    config: ModelConfig,
    weights: Weights,
    spectra: Spectra,
    stem: int,
    residual: Register,
    hidden: Register,
) -> Register:
    """Lower stage 2 of one stem up to its head output."""
    net, make, n_bins = config.net, spectra.make, config.stft.n_bins
    parts = 2 if net.backbone == "multiscale" else 3
    extra = hidden.width if net.compensation_uses_trunk else 0
    x = spectra.compress(residual, parts, extra)
    if extra:
        make.copy(hidden, x.columns(parts * n_bins, extra))
    name = f"compensations.{stem}"
    y = make.affine(x, fold(weights, f"{name}.in_proj", net.compensation_channels))
    for i, dilation in enumerate(net.compensation_dilations):
        block = f"{name}.blocks.layers.{i}"
        _gated(make, weights, block, y, net.compensation_hidden, net.kernel, dilation)
    outputs = 1 if net.compensation_target == "magnitude_mask" else 2
    return make.affine(y, fold(weights, f"{name}.out_proj", outputs * n_bins))
