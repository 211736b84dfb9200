"""From released weights to a plan: norms folded, weights packed, every address decided.

Reads plain arrays, so that running a network never imports what trained it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError
from rtmtass.runtime import machine as op
from rtmtass.runtime.vectors import LANES, PANEL

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]

NORM_EPSILON = 1e-5
"""What torch's batch norm adds to a variance."""


class Register(NamedTuple):
    """A place in the work arena: `width` floats for each frame of a chunk."""

    at: int
    stride: int
    width: int

    def part(self, start: int, width: int) -> Register:
        """Return a slice of every frame."""
        return Register(self.at + start, self.stride, width)


class Layer(NamedTuple):
    """One folded product: y = W x + b, then slope * y where y is negative."""

    weight: Floats
    bias: Floats
    slope: Floats


@dataclass(frozen=True)
class Plan:
    """A network ready to run; shared, read-only, by any number of streams.

    Attributes:
        rows: (n_operations, FIELDS) int64 for `machine.execute`.
        weights: packed float32 arena.
        state_size, work_size: floats each stream needs; zeros at first.
        mixture: register of the spectrum that goes in, [re | im], parts `part` apart.
        aligned: register of the mixture's spectrum the stems belong to (older by the look-ahead).
        stems: register of the stems' spectra, S times [re | im].
        part: floats from the real to the imaginary part.
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
    part: int
    chunk: int


def fold(weights: Weights, name: str, n: int) -> Layer:
    """Return the affine layer `name`, `n` outputs wide, with its norm folded in.

    Raises:
        ModelError: the weights hold no such layer, or one of another width.
    """
    try:
        weight = np.asarray(weights[f"{name}.linear.weight"], np.float64)
        bias = np.asarray(weights[f"{name}.linear.bias"], np.float64)
    except KeyError as error:
        raise ModelError(f"the weights lack {error}: they belong to another network") from None
    if len(weight) != n:
        raise ModelError(
            f"layer {name} of the weights is {len(weight)} wide where the config says {n}:"
            " config and weights belong to different networks"
        )
    if f"{name}.norm.weight" in weights:
        norm = {k: np.asarray(weights[f"{name}.norm.{k}"], np.float64) for k in (
            "weight", "bias", "running_mean", "running_var")}  # fmt: skip
        gain = norm["weight"] / np.sqrt(norm["running_var"] + NORM_EPSILON)
        weight = weight * gain[:, None]
        bias = (bias - norm["running_mean"]) * gain + norm["bias"]
        slope = np.asarray(weights.get(f"{name}.slope", np.zeros_like(bias, np.float32)))
    else:
        slope = np.ones_like(bias)
    return Layer(*(np.ascontiguousarray(a, np.float32) for a in (weight, bias, slope)))


def pack(weight: Floats) -> Floats:
    """Lay (n, m) weights out in panels of PANEL outputs, then of LANES: [panel][m][outputs]."""
    n, m = weight.shape
    padded = np.zeros((-(-n // LANES) * LANES, m), np.float32)
    padded[:n] = weight
    parts, start = [], 0
    while start < len(padded):
        size = PANEL if len(padded) - start >= PANEL else LANES
        parts.append(padded[start : start + size].T.ravel())
        start += size
    return np.concatenate(parts)


class _Ledger(dict[str, Floats]):
    """Weights by name that remember which of them were asked for."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Floats:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def left_over(self) -> list[str]:
        """Return the names nobody asked for; torch's step counters don't count."""
        return sorted(
            name for name in set(self) - self.asked if not name.endswith("num_batches_tracked")
        )


@dataclass
class _Builder:
    """Hands out addresses and collects operations."""

    chunk: int
    rows: list[list[int]] = field(default_factory=list)
    arena: list[Floats] = field(default_factory=list)
    used: int = 0
    state: int = 0
    work: int = 0

    def store(self, values: Floats) -> int:
        """Put constants into the weights' arena, on a cache line; return their address."""
        at = self.used
        padded = np.zeros(-(-values.size // LANES) * LANES, np.float32)
        padded[: values.size] = values.ravel()
        self.arena.append(padded)
        self.used += padded.size
        return at

    def remember(self, size: int) -> int:
        """Reserve state; return its address."""
        at = self.state
        self.state += -(-size // LANES) * LANES
        return at

    def register(self, width: int, slack: int = LANES) -> Register:
        """Reserve work space for `width` floats a frame, and for a product's padding."""
        stride = -(-(width + slack - 1) // LANES) * LANES
        at = self.work
        self.work += stride * self.chunk
        return Register(at, stride, width)

    def emit(self, code: int, *fields: int) -> None:
        """Append an operation."""
        self.rows.append([code, *fields] + [0] * (op.FIELDS - 1 - len(fields)))

    def affine(
        self, x: Register, layer: Layer, out: Register | None = None, add: bool = False
    ) -> Register:
        """Y = layer(x), into a new register, into `out`, or added to `out`."""
        n, m = layer.weight.shape
        if m != x.width:
            raise ModelError(
                f"a layer of the weights reads {m} channels where the config gives {x.width}:"
                " config and weights belong to different networks"
            )
        n_padded = -(-n // LANES) * LANES
        if out is None:
            out = self.register(n)
        at = self.store(pack(layer.weight))
        both = np.zeros(2 * n_padded, np.float32)
        both[:n], both[n_padded : n_padded + n] = layer.bias, layer.slope
        bias = self.store(both)
        scratch = self.register(n_padded, 1).at if add else -1
        self.emit(
            op.AFFINE, x.at, x.stride, m, out.at, out.stride, n_padded, at, bias, scratch
        )  # fmt: skip
        return out

    def taps(self, x: Register, size: int, dilation: int) -> Register:
        """Lay the frames `dilation` apart side by side, oldest first."""
        capacity = 1 << ((size - 1) * dilation + self.chunk - 1).bit_length()
        ring = self.remember(capacity * x.width)
        out = self.register(size * x.width)
        self.emit(
            op.TAPS, x.at, x.stride, x.width, out.at, out.stride, size, dilation, ring, capacity - 1
        )  # fmt: skip
        return out

    def copy(self, x: Register, out: Register, add: bool = False) -> None:
        """Copy x to out, or add it."""
        self.emit(op.ADD if add else op.COPY, x.at, x.stride, x.width, out.at, out.stride)

    def gate(self, x: Register) -> Register:
        """Let the second half pass the first."""
        out = self.register(x.width // 2)
        self.emit(op.GATE, x.at, x.stride, x.width // 2, out.at, out.stride)
        return out


def build(config: ModelConfig, weights: Weights, chunk: int = 1) -> Plan:
    """Fold, pack and lay out a network.

    Args:
        config: the model.
        weights: its arrays by name, float32, as `model.safetensors` holds them.
        chunk: frames that run together at most; 1 keeps the work space in the first cache.

    Raises:
        ModelError: the weights are not those of this config.
    """
    net, n_bins, n_stems = config.net, config.stft.n_bins, len(config.stems)
    make, weights = _Builder(chunk), _Ledger(weights)
    part = -(-n_bins // LANES) * LANES
    mixture = make.register(2 * part, 1)
    level = make.register(1, 1).at
    decay = 0.5 ** (config.stft.hop / (net.level_half_life_s * config.stft.sample_rate))
    constants = make.store(np.array([decay, net.mask_limit], np.float32))
    make.emit(
        op.LEVEL, mixture.at, mixture.stride, n_bins, part, level, make.remember(2), constants
    )

    parts = 1 if net.backbone == "multiscale" else 3
    features = _compress(make, mixture, n_bins, part, level, parts)
    hidden = _trunk(make, config, weights, features)

    aligned = mixture
    if net.lookahead:
        both = make.taps(mixture, 2, net.lookahead)
        aligned = both.part(0, mixture.width)
    stems = make.register(2 * part * n_stems, 1)
    outputs = 1 if net.target == "magnitude_mask" else 2
    for s in range(n_stems):
        stem = stems.part(2 * part * s, 2 * part)
        answer = make.affine(hidden, fold(weights, f"heads.{s}", outputs * n_bins))
        _estimate(make, answer, aligned, stem, n_bins, part, level, net.target, constants, 0)
        if net.compensation_target == "none":
            continue
        residual = make.register(2 * part, 1)
        make.emit(
            op.SUBTRACT, aligned.at, aligned.stride, stem.at, stem.stride, residual.at,
            residual.stride, 2 * part,
        )  # fmt: skip
        answer = _compensation(make, config, weights, s, residual, hidden, level, part)
        _estimate(
            make, answer, residual, stem, n_bins, part, level, net.compensation_target, constants, 1
        )
    make.emit(op.SHARE, aligned.at, aligned.stride, n_bins, part, stems.at, stems.stride, n_stems)
    if left_over := weights.left_over():
        raise ModelError(
            f"the weights hold layers the config doesn't know: {', '.join(left_over[:3])}"
            f"{' …' if len(left_over) > 3 else ''}; config and weights belong to different networks"
        )
    return Plan(
        config=config,
        rows=np.array(make.rows, np.int64),
        weights=np.concatenate(make.arena),
        state_size=make.state,
        work_size=make.work,
        mixture=mixture,
        aligned=aligned,
        stems=stems,
        part=part,
        chunk=chunk,
    )


def _compress(
    make: _Builder, x: Register, n_bins: int, part: int, level: int, parts: int, room: int = 0
) -> Register:
    out = make.register(parts * n_bins + room)
    make.emit(
        op.COMPRESS, x.at, x.stride, n_bins, part, level, out.at, out.stride, parts
    )  # fmt: skip
    return out


def _estimate(
    make: _Builder,
    answer: Register,
    of: Register,
    out: Register,
    n_bins: int,
    part: int,
    level: int,
    target: str,
    constants: int,
    adds: int,
) -> None:
    kinds = {
        "complex_ratio_mask": op.MASK,
        "magnitude_mask": op.MAGNITUDE,
        "spectral_mapping": op.MAPPING,
    }
    make.emit(
        op.ESTIMATE, answer.at, answer.stride, n_bins, of.at, of.stride, part, level, out.at,
        out.stride, 2 * kinds[target] + adds, constants + 1,
    )  # fmt: skip


def _gated(
    make: _Builder, weights: Weights, name: str, x: Register, hidden: int, size: int, step: int
) -> None:
    """One gated block, added to x."""
    squeezed = make.affine(x, fold(weights, f"{name}.squeeze", hidden))
    taps = make.taps(squeezed, size, step)
    both = make.affine(taps, fold(weights, f"{name}.gate.affine", 2 * hidden))
    make.affine(make.gate(both), fold(weights, f"{name}.widen", x.width), x, add=True)


def _recurrent(make: _Builder, weights: Weights, name: str, x: Register, hidden: int) -> None:
    """One GRU block, added to x."""
    try:
        inner = {k: weights[f"{name}.gru.{k}_l0"] for k in (
            "weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
    except KeyError as error:
        raise ModelError(f"the weights lack {error}: they belong to another network") from None
    wide, width = inner["weight_hh"].shape
    if width != hidden:
        raise ModelError(
            f"the GRU {name} of the weights is {width} wide where the config says {hidden}:"
            " config and weights belong to different networks"
        )
    ones = np.ones(wide, np.float32)
    given = make.affine(x, Layer(inner["weight_ih"], inner["bias_ih"], ones))
    out = make.register(width)
    padded = -(-wide // LANES) * LANES
    make.emit(
        op.GRU, given.at, given.stride, width, out.at, out.stride,
        make.store(pack(inner["weight_hh"])), make.store(inner["bias_hh"]), make.remember(width),
        make.register(padded, 1).at, padded,
    )  # fmt: skip
    make.affine(out, fold(weights, f"{name}.widen", x.width), x, add=True)


def _multiscale(
    make: _Builder, config: ModelConfig, weights: Weights, name: str, x: Register,
    magnitude: Register, dilation: int,
) -> None:  # fmt: skip
    """One multi-scale block, added to x."""
    net, n_bins = config.net, config.stft.n_bins
    width, extra = divmod(2 * n_bins, net.bands)
    widths = [width + (band < extra) for band in range(net.bands)]
    starts = np.concatenate([[0], np.cumsum(widths)]).tolist()
    parts = make.register(2 * n_bins)
    make.affine(x, fold(weights, f"{name}.squeeze", n_bins), parts.part(0, n_bins))
    make.copy(magnitude, parts.part(n_bins, n_bins))
    sums = make.register(2 * n_bins)
    for chain in range(2):
        order = list(range(net.bands))
        before: Register | None = None
        for i, band in enumerate(order if chain == 0 else reversed(order)):
            heard = make.register(widths[band] + (before.width if before else 0))
            make.copy(parts.part(starts[band], widths[band]), heard.part(0, widths[band]))
            if before:
                make.copy(before, heard.part(widths[band], before.width))
            taps = make.taps(heard, net.kernel, dilation)
            conv = f"{name}.chains.{chain}.{i}.affine"
            before = make.affine(taps, fold(weights, conv, widths[band]))
            make.copy(before, sums.part(starts[band], widths[band]), add=chain == 1)
    make.affine(sums, fold(weights, f"{name}.widen", x.width), x, add=True)


def _trunk(make: _Builder, config: ModelConfig, weights: Weights, x: Register) -> Register:
    net = config.net
    y = make.affine(x, fold(weights, "trunk.enter", net.channels))
    for i, dilation in enumerate(net.dilations):
        name = f"trunk.blocks.{i}"
        if net.backbone == "multiscale":
            _multiscale(make, config, weights, name, y, x, dilation)
        else:
            _gated(make, weights, name, y, net.hidden, net.kernel, dilation)
    for i in range(net.recurrent_layers):
        name = f"trunk.blocks.{len(net.dilations) + i}"
        _recurrent(make, weights, name, y, net.recurrent)
    return make.affine(y, fold(weights, "trunk.leave", net.channels))


def _compensation(
    make: _Builder, config: ModelConfig, weights: Weights, stem: int, residual: Register,
    hidden: Register, level: int, part: int,
) -> Register:  # fmt: skip
    net, n_bins = config.net, config.stft.n_bins
    parts = 2 if net.backbone == "multiscale" else 3
    room = hidden.width if net.compensation_hears_stage_one else 0
    x = _compress(make, residual, n_bins, part, level, parts, room)
    if room:
        make.copy(hidden, x.part(parts * n_bins, room))
    name = f"compensations.{stem}"
    y = make.affine(x, fold(weights, f"{name}.enter", net.compensation_channels))
    for i, dilation in enumerate(net.compensation_dilations):
        block = f"{name}.blocks.layers.{i}"
        _gated(make, weights, block, y, net.compensation_hidden, net.kernel, dilation)
    outputs = 1 if net.compensation_target == "magnitude_mask" else 2
    return make.affine(y, fold(weights, f"{name}.leave", outputs * n_bins))
