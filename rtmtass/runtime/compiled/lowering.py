"""Lowers a network to a program: folds, packs and allocates, layer by layer."""

from __future__ import annotations

import numpy as np

from rtmtass.config import TARGETS, ModelConfig
from rtmtass.errors import ModelError
from rtmtass.jit.simd import LANES
from rtmtass.runtime.compiled.builder import Builder
from rtmtass.runtime.compiled.program import (
    Compress,
    Estimate,
    Expander,
    Gru,
    Level,
    MixtureConsistency,
    Program,
    Register,
    Subtract,
    encode,
)
from rtmtass.runtime.folding import TrackedWeights, Weights, fold, input_layer, read_grus


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
    imag_offset = -(-n_bins // LANES) * LANES
    mixture = make.register(2 * imag_offset, 1)
    level = running_level(make, config, mixture, imag_offset)
    limit = make.store(np.array([net.mask_limit], np.float32))
    parts = 1 if net.backbone == "multiscale" else 3
    features = _compress(make, mixture, n_bins, imag_offset, level, parts)
    hidden = _trunk(make, config, weights, features)

    aligned = mixture
    if net.lookahead:
        both = make.taps(mixture, 2, net.lookahead)
        aligned = both.columns(0, mixture.width)
    stems = make.register(2 * imag_offset * n_stems, 1)
    outputs = 1 if net.target == "magnitude_mask" else 2
    heads = [
        make.affine(hidden, fold(weights, f"heads.{s}", outputs * n_bins)) for s in range(n_stems)
    ]
    if net.subband_bins:
        _subbands(make, config, weights, features, hidden, heads)
    for s, head in enumerate(heads):
        stem = stems.columns(2 * imag_offset * s, 2 * imag_offset)
        _estimate(make, head, aligned, stem, n_bins, imag_offset, level, net.target, limit)
        if net.compensation_target == "none":
            continue
        residual = make.register(2 * imag_offset, 1)
        make.emit(
            Subtract(
                a=aligned.at,
                a_stride=aligned.stride,
                b=stem.at,
                b_stride=stem.stride,
                y=residual.at,
                y_stride=residual.stride,
                width=2 * imag_offset,
            )
        )
        output = _compensation(make, config, weights, s, residual, hidden, level, imag_offset)
        target = net.compensation_target
        _estimate(
            make, output, residual, stem, n_bins, imag_offset, level, target, limit, adds=True
        )
    make.emit(
        MixtureConsistency(
            x=aligned.at,
            x_stride=aligned.stride,
            bins=n_bins,
            imag_offset=imag_offset,
            stems=stems.at,
            stems_stride=stems.stride,
            n_stems=n_stems,
        )
    )
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


def running_level(make: Builder, config: ModelConfig, mixture: Register, imag_offset: int) -> int:
    """Lower `net.layers.RunningLevel`; return the address of the levels."""
    net, window = config.net, config.level_window
    level = make.register(1, 1).at
    make.emit(
        Level(
            x=mixture.at,
            x_stride=mixture.stride,
            bins=config.stft.n_bins,
            imag_offset=imag_offset,
            level=level,
            constants=make.store(np.array([config.level_decay, config.level_fall], np.float32)),
            state=make.allocate_state(3 + window if window else 2),
            by_power=int(net.level_by_power),
            window=window,
            rank=config.level_rank,
        )
    )
    return level


def expander(
    make: Builder, config: ModelConfig, mixture: Register, stems: Register, imag_offset: int
) -> None:
    """Lower `net.expander.StemExpander`, in place."""
    n_stems = len(config.stems)
    constants = np.array([*config.expander_decays, config.expander_threshold], np.float32)
    make.emit(
        Expander(
            x=mixture.at,
            x_stride=mixture.stride,
            bins=config.stft.n_bins,
            imag_offset=imag_offset,
            stems=stems.at,
            stems_stride=stems.stride,
            n_stems=n_stems,
            state=make.allocate_state(2 * (n_stems + 1)),
            constants=make.store(constants),
            gains=make.register(2 * n_stems, 1).at,
        )
    )


def _compress(
    make: Builder,
    x: Register,
    n_bins: int,
    imag_offset: int,
    level: int,
    parts: int,
    extra: int = 0,
) -> Register:
    """Lower `net.layers.compress`; `extra` channels after the spectrum are left to the caller."""
    out = make.register(parts * n_bins + extra)
    make.emit(
        Compress(
            x=x.at,
            x_stride=x.stride,
            bins=n_bins,
            imag_offset=imag_offset,
            level=level,
            y=out.at,
            y_stride=out.stride,
            parts=parts,
        )
    )
    return out


def _estimate(
    make: Builder,
    head: Register,
    source: Register,
    out: Register,
    n_bins: int,
    imag_offset: int,
    level: int,
    target: str,
    limit: int,
    adds: bool = False,
) -> None:
    """Lower the step from a head's output to a spectrum: written to `out`, or added to it."""
    make.emit(
        Estimate(
            head=head.at,
            head_stride=head.stride,
            bins=n_bins,
            x=source.at,
            x_stride=source.stride,
            imag_offset=imag_offset,
            level=level,
            y=out.at,
            y_stride=out.stride,
            target=TARGETS.index(target),
            adds=int(adds),
            limit=limit,
        )
    )


def _gated(
    make: Builder, weights: Weights, name: str, x: Register, hidden: int, size: int, dilation: int
) -> None:
    """Lower `net.layers.GatedBlock`, added to x."""
    reduced = make.affine(x, fold(weights, f"{name}.reduce", hidden))
    taps = make.taps(reduced, size, dilation)
    both = make.affine(taps, fold(weights, f"{name}.gate.affine", 2 * hidden))
    make.affine(make.gate(both), fold(weights, f"{name}.expand", x.width), x, add=True)


def _recurrent(
    make: Builder, weights: Weights, name: str, x: Register, hidden: int, groups: int = 1
) -> None:
    """Lower `net.layers.RecurrentBlock`, added to x: one input matmul for all its GRUs."""
    grus = read_grus(weights, name, hidden, groups)
    wide = 3 * hidden
    inputs = make.affine(x, input_layer(grus))
    out = make.register(groups * hidden, rows=x.rows)
    padded, state_stride = (-(-size // LANES) * LANES for size in (wide, hidden))
    scratch = make.register(padded, 1, x.rows).at
    for g, gru in enumerate(grus):
        make.emit(
            Gru(
                x=inputs.at + g * wide,
                x_stride=inputs.stride,
                width=hidden,
                y=out.at + g * hidden,
                y_stride=out.stride,
                weights=make.store_weight(gru.w_state),
                bias=make.store(gru.b_state),
                state=make.allocate_state(state_stride * x.rows),
                scratch=scratch,
                precision=make.precision_number(hidden),
                rows=x.rows,
                padded=padded,
                state_stride=state_stride,
            )
        )
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
    make: Builder,
    config: ModelConfig,
    weights: Weights,
    stem: int,
    residual: Register,
    hidden: Register,
    level: int,
    imag_offset: int,
) -> Register:
    """Lower stage 2 of one stem up to its head output."""
    net, n_bins = config.net, config.stft.n_bins
    parts = 2 if net.backbone == "multiscale" else 3
    extra = hidden.width if net.compensation_uses_trunk else 0
    x = _compress(make, residual, n_bins, imag_offset, level, parts, extra)
    if extra:
        make.copy(hidden, x.columns(parts * n_bins, extra))
    name = f"compensations.{stem}"
    y = make.affine(x, fold(weights, f"{name}.in_proj", net.compensation_channels))
    for i, dilation in enumerate(net.compensation_dilations):
        block = f"{name}.blocks.layers.{i}"
        _gated(make, weights, block, y, net.compensation_hidden, net.kernel, dilation)
    outputs = 1 if net.compensation_target == "magnitude_mask" else 2
    return make.affine(y, fold(weights, f"{name}.out_proj", outputs * n_bins))
