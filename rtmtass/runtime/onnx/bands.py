"""Writes `net.bands.BandNet` as nodes: bands are rows, (T * K, channels), frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rtmtass.config import ModelConfig
from rtmtass.net.constants import RMS_EPSILON
from rtmtass.runtime.folding import Gru, Layer, Weights, read_gru
from rtmtass.runtime.onnx.nodes import Nodes


class Writer(Protocol):
    """The part of `graph.Writer` that this module uses; see there."""

    config: ModelConfig
    weights: Weights
    nodes: Nodes
    bins: int
    stems: int

    def layer(self, name: str, n: int, norm: str = "") -> Layer:
        """Fold a layer."""

    def grus(self, x: str, name: str, grus: list[Gru], channels: int, rows: int) -> str:
        """Write parallel GRUs."""

    def compress(self, spectrum: str, level: str) -> tuple[str, str, str]:
        """Write `net.layers.compress`."""

    def estimate(self, head: str, source: str, level: str, target: str) -> str:
        """Write the step from head outputs to spectra."""

    def aligned(self, mixture: str) -> str:
        """Write the mixture's older frames."""


def write_bands(writer: Writer, mixture: str, level: str) -> tuple[str, str]:
    """Write the network up to the stems' spectra, (T, S, 2, F), before they sum.

    Returns:
        these, and the mixture's frames that belong to them.
    """
    g, net = writer.nodes, writer.config.net
    hidden = _encode(writer, "encoder", writer.compress(mixture, level))
    for i in range(net.recurrent_layers):
        hidden = _block(writer, hidden, f"trunk.layers.{i}")
    mixture = writer.aligned(mixture)
    head = _decode(writer, "heads", hidden, net.target)
    estimates = writer.estimate(head, mixture, level, net.target)
    if net.compensation_target != "none":
        residual = g.put("Sub", mixture, estimates)
        rest = _encode(writer, "residual_encoder", writer.compress(residual, level))
        hidden = g.put("Add", hidden, rest) if net.compensation_uses_trunk else rest
        for i in range(net.compensation_layers):
            hidden = _block(writer, hidden, f"compensation.layers.{i}")
        head = _decode(writer, "compensation_heads", hidden, net.compensation_target)
        correction = writer.estimate(head, residual, level, net.compensation_target)
        estimates = g.put("Add", estimates, correction)
    return estimates, mixture


def _encode(writer: Writer, name: str, parts: Sequence[str]) -> str:
    """Three parts of spectra, each (T, S, 1, F), to rows; see `net.bands.BandEncoder`."""
    g, net = writer.nodes, writer.config.net
    planes = g.put("Concat", *parts, axis=2)
    rows = []
    for k, piece in enumerate(g.split(planes, list(net.band_bins), 3)):
        layer = writer.layer(f"{name}.projs.{k}", net.channels)
        flat = g.reshape(piece, -1, layer.weight.shape[1])
        rows.append(g.affine(flat, layer))
    return g.reshape(g.put("Concat", *rows, axis=1), -1, net.channels)


def _decode(writer: Writer, name: str, x: str, target: str) -> str:
    """Rows to head outputs, (T, S, 1 or 2, F); see `net.bands.BandDecoder`."""
    g, net = writer.nodes, writer.config.net
    outputs = 1 if target == "magnitude_mask" else 2
    planes, bands = writer.stems * outputs, len(net.band_bins)
    normed = g.reshape(_rms_norm(g, x), -1, bands, net.channels)
    pieces = []
    for k, row in enumerate(g.split(normed, [1] * bands, 1)):
        layer = writer.layer(f"{name}.projs.{k}", planes * net.band_bins[k], f"{name}.norm")
        y = g.affine(g.reshape(row, -1, net.channels), layer)
        pieces.append(g.reshape(y, -1, planes, net.band_bins[k]))
    return g.reshape(g.put("Concat", *pieces, axis=2), -1, writer.stems, outputs, writer.bins)


def _rms_norm(g: Nodes, x: str) -> str:
    """Rows over their root mean squares; the norm's weights are folded into what reads them."""
    mean = g.put("ReduceMean", g.put("Mul", x, x), axes=[1], keepdims=1)
    return g.put("Div", x, g.put("Sqrt", g.put("Add", mean, g.constant([RMS_EPSILON]))))


def _block(writer: Writer, x: str, name: str) -> str:
    """See `net.bands.BandBlock`."""
    g, net, weights = writer.nodes, writer.config.net, writer.weights
    bands, narrow = len(net.band_bins), net.band_context
    gru = read_gru(weights, f"{name}.band_gru", net.hidden, norm=f"{name}.band_norm")
    y = writer.grus(_rms_norm(g, x), f"{name}.band", [gru], net.channels, bands)
    x = g.put("Add", x, g.affine(y, writer.layer(f"{name}.band_expand", net.channels)))

    reduce = writer.layer(f"{name}.reduce", narrow, f"{name}.norm")
    whole = g.reshape(g.affine(_rms_norm(g, x), reduce), -1, bands * narrow)
    y = g.affine(whole, writer.layer(f"{name}.in_proj", net.recurrent))
    gru = read_gru(weights, f"{name}.gru", net.recurrent)
    y = writer.grus(y, name, [gru], net.recurrent, 1)
    y = g.affine(y, writer.layer(f"{name}.out_proj", bands * narrow))
    y = g.affine(g.reshape(y, -1, narrow), writer.layer(f"{name}.expand", net.channels))
    return g.put("Add", x, y)
