"""The network's blocks as operations: each lays out its part of a plan."""

from __future__ import annotations

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.runtime.compiled import interpreter as op
from rtmtass.runtime.compiled.builder import Builder, Register
from rtmtass.runtime.compiled.packing import pack
from rtmtass.runtime.compiled.simd import LANES
from rtmtass.runtime.compiled.spectral_ops import MAGNITUDE, MAPPING, MASK
from rtmtass.runtime.folding import Weights, fold, input_layer, read_grus


def running_level(make: Builder, config: ModelConfig, mixture: Register, imag_offset: int) -> int:
    """Lay out the level of a spectrum whose parts lie `imag_offset` apart; return where it is."""
    net, window = config.net, config.level_window
    level = make.register(1, 1).at
    constants = make.store(np.array([config.level_decay, config.level_fall], np.float32))
    make.emit(
        op.LEVEL, mixture.at, mixture.stride, config.stft.n_bins, imag_offset, level,
        make.remember(3 + window if window else 2), constants, int(net.level_by_power), window,
        config.level_rank,
    )  # fmt: skip
    return level


def compress(
    make: Builder, x: Register, n_bins: int, imag_offset: int, level: int, parts: int, room: int = 0
) -> Register:
    """Lay out a spectrum as the network hears it: over the level, its magnitude square-rooted."""
    out = make.register(parts * n_bins + room)
    make.emit(
        op.COMPRESS, x.at, x.stride, n_bins, imag_offset, level, out.at, out.stride, parts
    )  # fmt: skip
    return out


def estimate(
    make: Builder,
    answer: Register,
    of: Register,
    out: Register,
    n_bins: int,
    imag_offset: int,
    level: int,
    target: str,
    limit: int,
    adds: int,
) -> None:
    """Lay out a head's answer becoming a spectrum: written to `out`, or added to it."""
    kinds = {
        "complex_ratio_mask": MASK,
        "magnitude_mask": MAGNITUDE,
        "spectral_mapping": MAPPING,
    }
    make.emit(
        op.ESTIMATE, answer.at, answer.stride, n_bins, of.at, of.stride, imag_offset, level, out.at,
        out.stride, 2 * kinds[target] + adds, limit,
    )  # fmt: skip


def _gated(
    make: Builder, weights: Weights, name: str, x: Register, hidden: int, size: int, step: int
) -> None:
    """One gated block, added to x."""
    reduced = make.affine(x, fold(weights, f"{name}.reduce", hidden))
    taps = make.taps(reduced, size, step)
    both = make.affine(taps, fold(weights, f"{name}.gate.affine", 2 * hidden))
    make.affine(make.gate(both), fold(weights, f"{name}.expand", x.width), x, add=True)


def _recurrent(
    make: Builder, weights: Weights, name: str, x: Register, hidden: int, groups: int = 1
) -> None:
    """One block of GRUs side by side, added to x: one product of x for all of them."""
    grus = read_grus(weights, name, hidden, groups)
    wide = 3 * hidden
    given = make.affine(x, input_layer(grus))
    out = make.register(groups * hidden, rows=x.rows)
    padded, held = (-(-size // LANES) * LANES for size in (wide, hidden))
    scratch = make.register(padded, 1, x.rows).at
    for g, gru in enumerate(grus):
        make.emit(
            op.GRU, given.at + g * wide, given.stride, hidden, out.at + g * hidden, out.stride,
            make.store(pack(gru.w_state, make.precision)), make.store(gru.b_state),
            make.remember(held * x.rows), scratch, make.kind(hidden), x.rows, 0, 0, padded, held,
        )  # fmt: skip
    make.affine(out, fold(weights, f"{name}.expand", x.width), x, add=True)


def _multiscale(
    make: Builder, config: ModelConfig, weights: Weights, name: str, x: Register,
    magnitude: Register, dilation: int,
) -> None:  # fmt: skip
    """One multi-scale block, added to x."""
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
            heard = make.register(widths[band] + (before.width if before else 0))
            make.copy(parts.columns(starts[band], widths[band]), heard.columns(0, widths[band]))
            if before:
                make.copy(before, heard.columns(widths[band], before.width))
            taps = make.taps(heard, net.kernel, dilation)
            conv = f"{name}.chains.{chain}.{i}.affine"
            before = make.affine(taps, fold(weights, conv, widths[band]))
            make.copy(before, sums.columns(starts[band], widths[band]), add=chain == 1)
    make.affine(sums, fold(weights, f"{name}.expand", x.width), x, add=True)


def subbands(
    make: Builder, config: ModelConfig, weights: Weights, heard: Register, hidden: Register,
    answers: list[Register],
) -> None:  # fmt: skip
    """Lay out the sub-bands that correct stage 1's answers."""
    net, n_bins = config.net, config.stft.n_bins
    bins, context, width = net.subband_bins, net.subband_context, net.subband_channels
    bands, outputs = net.n_subbands(n_bins), answers[0].width // n_bins
    halves = [
        answer.columns(n_bins * imag_offset, n_bins)
        for answer in answers
        for imag_offset in range(outputs)
    ]
    broad = bins + 2 * net.subband_overlap
    x = make.register(3 * broad + len(halves) * bins + context, rows=bands)
    for imag_offset in range(3):
        to = x.columns(imag_offset * broad, broad)
        make.cut(heard.columns(imag_offset * n_bins, n_bins), to, bins, -net.subband_overlap)
    for i, half in enumerate(halves):
        make.cut(half, x.columns(3 * broad + i * bins, bins), bins)
    said = make.affine(hidden, fold(weights, "subbands.context_proj", bands * context))
    make.cut(said, x.columns(x.width - context, context), context)
    y = make.affine(x, fold(weights, "subbands.in_proj", width))
    _recurrent(make, weights, "subbands.memory", y, width // net.subband_groups, net.subband_groups)
    change = make.affine(y, fold(weights, "subbands.out_proj", len(halves) * bins))
    for i, half in enumerate(halves):
        make.join(change.columns(i * bins, bins), half)


def trunk(make: Builder, config: ModelConfig, weights: Weights, x: Register) -> Register:
    """Lay out stage 1 up to its heads."""
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


def compensation(
    make: Builder, config: ModelConfig, weights: Weights, stem: int, residual: Register,
    hidden: Register, level: int, imag_offset: int,
) -> Register:  # fmt: skip
    """Lay out stage 2 of one stem up to its answer."""
    net, n_bins = config.net, config.stft.n_bins
    parts = 2 if net.backbone == "multiscale" else 3
    room = hidden.width if net.compensation_uses_trunk else 0
    x = compress(make, residual, n_bins, imag_offset, level, parts, room)
    if room:
        make.copy(hidden, x.columns(parts * n_bins, room))
    name = f"compensations.{stem}"
    y = make.affine(x, fold(weights, f"{name}.in_proj", net.compensation_channels))
    for i, dilation in enumerate(net.compensation_dilations):
        block = f"{name}.blocks.layers.{i}"
        _gated(make, weights, block, y, net.compensation_hidden, net.kernel, dilation)
    outputs = 1 if net.compensation_target == "magnitude_mask" else 2
    return make.affine(y, fold(weights, f"{name}.out_proj", outputs * n_bins))
