"""Writes a network as an ONNX graph: norms folded, state explicit, real inputs and outputs.

Written node by node from the released arrays, so that neither torch nor its exporter is
needed and onnxruntime gets few nodes, with the stems stacked wherever their arithmetic is
the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.net.constants import COMPRESS_FLOOR, CONSISTENCY_FLOOR, CONSISTENCY_TINY
from rtmtass.runtime.folding import Gru, Layer, Weights, fold, input_layer, read_grus
from rtmtass.runtime.onnx.bands import write_bands
from rtmtass.runtime.onnx.expander import write_expander
from rtmtass.runtime.onnx.level import write_level
from rtmtass.runtime.onnx.nodes import Nodes, value, write_model

MIXTURE, STEMS = "mixture", "stems"


class _Writer:
    """Writes one network; its methods mirror the layers of `net.layers` and `net.mtass`."""

    def __init__(
        self, config: ModelConfig, weights: Weights, is_single: bool, is_unstacked: bool
    ) -> None:
        self.config, self.weights, self.is_single = config, weights, is_single
        self.nodes = Nodes(is_unstacked)
        self.bins, self.stems = config.stft.n_bins, len(config.stems)

    def layer(self, name: str, n: int, norm: str = "") -> Layer:
        """Fold a layer; with a * in its name the layers of all stems, stacked."""
        if "*" not in name:
            return fold(self.weights, name, n, norm)
        layers = [fold(self.weights, name.replace("*", str(s)), n) for s in range(self.stems)]
        return Layer(*(np.stack(arrays) for arrays in zip(*layers, strict=True)))

    def network(self) -> None:
        """Write the network, from the mixture's spectrum to the stems'."""
        g, net, bins, stems = self.nodes, self.config.net, self.bins, self.stems
        frames = 1 if self.is_single else "frames"
        g.inputs.append(value(MIXTURE, (frames, 2, bins)))
        g.outputs.append(value(STEMS, (frames, stems, 2, bins)))
        mixture = g.reshape(MIXTURE, -1, 1, 2, bins)
        rows = g.reshape(MIXTURE, -1, 2 * bins)
        level = write_level(g, self.config, rows, is_single=self.is_single)
        if net.backbone == "bands":
            estimates, mixture = write_bands(self, mixture, level)
        else:
            estimates, mixture = self.two_stages(mixture, level)
        if net.expander_db:
            summing = self.mixture_consistency(estimates, mixture)
            write_expander(g, self.config, summing, mixture, to=STEMS, is_single=self.is_single)
        else:
            self.mixture_consistency(estimates, mixture, to=STEMS)

    def two_stages(self, mixture: str, level: str) -> tuple[str, str]:
        """Write `net.mtass.MtassNet`; see `bands.write_bands`."""
        g, net, bins = self.nodes, self.config.net, self.bins
        re, im, magnitude = self.compress(mixture, level)
        if net.backbone == "multiscale":
            features = g.reshape(magnitude, -1, bins)
        else:
            features = g.reshape(g.put("Concat", re, im, magnitude, axis=2), -1, 3 * bins)
        hidden = self.trunk(features)
        mixture = self.aligned(mixture)
        head = self.heads(hidden)
        if net.subband_bins:
            head = self.subbands(features, hidden, head)
        estimates = self.estimate(head, mixture, level, net.target)
        if net.compensation_target != "none":
            residual = g.put("Sub", mixture, estimates)
            output = self.compensations(self.compress(residual, level), hidden)
            correction = self.estimate(output, residual, level, net.compensation_target)
            estimates = g.put("Add", estimates, correction)
        return estimates, mixture

    def compress(self, spectrum: str, level: str) -> tuple[str, str, str]:
        """(T, S, 2, F) over the level, magnitude square-rooted: re, im, magnitude (T, S, 1, F)."""
        g = self.nodes
        x = g.put("Div", spectrum, level)
        power = g.put("ReduceSumSquare", x, axes=[2], keepdims=1)
        power = g.put("Add", power, g.constant([COMPRESS_FLOOR]))
        magnitude = g.put("Sqrt", g.put("Sqrt", power))
        re, im = g.split(g.put("Div", x, magnitude), [1, 1], 2)
        return re, im, magnitude

    def aligned(self, mixture: str) -> str:
        """The mixture's frames that belong to the heads' outputs: older by the look-ahead."""
        g, lookahead = self.nodes, self.config.net.lookahead
        if not lookahead:
            return mixture
        before, after = g.state("mixture", lookahead, 1, 2, self.bins)
        waiting = g.put("Concat", before, mixture, axis=0)
        g.take(waiting, -lookahead, to=after)
        return g.take(waiting, 0, -lookahead)

    def convolution(self, x: str, name: str, width: int, c_out: int, dilation: int) -> str:
        """A dilated convolution over time; see `net.layers.DilatedConv`."""
        g, kernel = self.nodes, self.config.net.kernel
        size = (kernel - 1) * dilation
        shape = (self.stems, size, width) if "*" in name else (size, width)
        time = len(shape) - 2
        before, after = g.state(name, *shape)
        padded = g.put("Concat", before, x, axis=time)
        g.take(padded, -size, axis=time, to=after)
        taps = [
            g.take(padded, i * dilation, (i + 1 - kernel) * dilation, axis=time)
            for i in range(kernel - 1)
        ]
        layer = self.layer(f"{name}.affine", c_out)
        return g.affine(g.put("Concat", *taps, x, axis=-1), layer)

    def gated(self, x: str, name: str, hidden: int, channels: int, dilation: int) -> str:
        """A gated block; see `net.layers.GatedBlock`."""
        g = self.nodes
        reduced = g.affine(x, self.layer(f"{name}.reduce", hidden))
        both = self.convolution(reduced, f"{name}.gate", hidden, 2 * hidden, dilation)
        passed, gate = g.split(both, [hidden, hidden], -1)
        y = g.put("Mul", passed, g.put("Sigmoid", gate))
        return g.put("Add", x, g.affine(y, self.layer(f"{name}.expand", channels)))

    def recurrent(
        self, x: str, name: str, n: int, channels: int, *, groups: int = 1, rows: int = 1
    ) -> str:
        """A block of GRUs of (T * rows, channels); see `net.layers.RecurrentBlock`."""
        g = self.nodes
        y = self.grus(x, name, read_grus(self.weights, name, n, groups), channels, rows)
        return g.put("Add", x, g.affine(y, self.layer(f"{name}.expand", channels)))

    def grus(self, x: str, name: str, grus: list[Gru], channels: int, rows: int) -> str:
        """Parallel GRUs of (T * rows, channels), their outputs side by side."""
        g = self.nodes
        if self.is_single:
            return self.grus_as_matmuls(x, name, grus, rows)
        inputs = g.reshape(x, -1, rows, channels)
        outs = [
            self.one_gru(inputs, f"{name}.gru{k or ''}", gru, rows) for k, gru in enumerate(grus)
        ]
        return outs[0] if len(grus) == 1 else g.put("Concat", *outs, axis=1)

    def grus_as_matmuls(self, x: str, name: str, grus: list[Gru], rows: int) -> str:
        """One step of parallel GRUs written as matmuls; one state, (rows, G * n)."""
        g, groups, n = self.nodes, len(grus), grus[0].w_state.shape[1]
        before, after = g.state(f"{name}.gru", rows, groups * n)
        layer = input_layer(grus)
        inputs = g.linear(x, layer.weight, layer.bias)
        if groups == 1:
            axis, state = 1, before
            recurrent = g.linear(before, grus[0].w_state, grus[0].b_state)
        else:
            axis, state = 2, g.put("Transpose", g.reshape(before, rows, groups, n), perm=[1, 0, 2])
            inputs = g.put("Transpose", g.reshape(inputs, rows, groups, 3 * n), perm=[1, 0, 2])
            w_state, b_state = (np.stack(arrays) for arrays in list(zip(*grus, strict=True))[1::2])
            recurrent = g.linear(state, w_state, b_state)
        in_gates, in_new = g.split(inputs, [2 * n, n], axis)
        state_gates, state_new = g.split(recurrent, [2 * n, n], axis)
        gates = g.put("Sigmoid", g.put("Add", in_gates, state_gates))
        reset, update = g.split(gates, [n, n], axis)
        new = g.put("Tanh", g.put("Add", in_new, g.put("Mul", reset, state_new)))
        kept = g.put("Mul", update, g.put("Sub", state, new))
        if groups == 1:
            return g.put("Add", new, kept, to=after)
        y = g.put("Transpose", g.put("Add", new, kept), perm=[1, 0, 2])
        return g.put("Reshape", y, g.constant([rows, groups * n], np.int64), to=after)

    def one_gru(self, x: str, name: str, gru: Gru, rows: int) -> str:
        """ONNX's own GRU operator: (T, rows, channels) -> (T * rows, n)."""
        g, n = self.nodes, gru.w_state.shape[1]
        before, after = g.state(name, rows, n)
        # ONNX orders the gates update, reset, new.
        order = np.r_[n : 2 * n, 0:n, 2 * n : 3 * n]
        biases = np.concatenate([gru.b_in[order], gru.b_state[order]])[None]
        out, last = f"{name}.out", f"{name}.last"
        inputs = [x, g.constant(gru.w_in[order][None]), g.constant(gru.w_state[order][None])]
        inputs += [g.constant(biases), "", g.reshape(before, 1, rows, n)]
        g.put_many("GRU", inputs, [out, last], hidden_size=n, linear_before_reset=1)
        g.put("Reshape", last, g.constant([rows, n], np.int64), to=after)
        return g.reshape(out, -1, n)

    def subbands(self, features: str, hidden: str, heads: str) -> str:
        """Stage 1's head outputs (T, S, 1 or 2, F), corrected; see `net.subbands.SubBands`."""
        g, net, n_bins = self.nodes, self.config.net, self.bins
        bins, overlap, context = net.subband_bins, net.subband_overlap, net.subband_context
        width, bands = net.subband_channels, net.n_subbands(n_bins)
        missing, wide = bands * bins - n_bins, bins + 2 * overlap
        outputs = 1 if net.target == "magnitude_mask" else 2
        planes = self.stems * outputs

        def padded(x: str, parts: int, before: int, after: int) -> str:
            ends = g.constant([0, 0, before, 0, 0, after], np.int64)
            return g.put("Pad", g.reshape(x, -1, parts, n_bins), ends)

        starts = np.arange(bands)[:, None] * bins + np.arange(wide)
        spectrum = padded(features, 3, overlap, overlap + missing)
        spectrum = g.put("Gather", spectrum, g.constant(starts, np.int64), axis=2)
        estimates = g.reshape(padded(heads, planes, 0, missing), -1, planes, bands, bins)
        pieces = [
            g.reshape(g.put("Transpose", x, perm=[0, 2, 1, 3]), -1, bands, parts * size)
            for x, parts, size in ((spectrum, 3, wide), (estimates, planes, bins))
        ]
        projected = g.affine(hidden, self.layer("subbands.context_proj", bands * context))
        x = g.put("Concat", *pieces, g.reshape(projected, -1, bands, context), axis=2)
        x = g.reshape(x, -1, 3 * wide + planes * bins + context)
        y = g.affine(x, self.layer("subbands.in_proj", width))
        n, groups = width // net.subband_groups, net.subband_groups
        y = self.recurrent(y, "subbands.memory", n, width, groups=groups, rows=bands)
        y = g.affine(y, self.layer("subbands.out_proj", planes * bins))
        correction = g.put("Transpose", g.reshape(y, -1, bands, planes, bins), perm=[0, 2, 1, 3])
        correction = g.take(g.reshape(correction, -1, planes, bands * bins), 0, n_bins, axis=2)
        correction = g.reshape(correction, -1, self.stems, outputs, n_bins)
        return g.put("Add", heads, correction)

    def multiscale(self, x: str, magnitude: str, name: str, dilation: int) -> str:
        """A multi-scale block; see `net.layers.MultiScaleBlock`."""
        g, net, bins = self.nodes, self.config.net, self.bins
        width, extra = divmod(2 * bins, net.bands)
        widths = [width + (band < extra) for band in range(net.bands)]
        reduced = g.affine(x, self.layer(f"{name}.reduce", bins))
        parts = g.split(g.put("Concat", reduced, magnitude, axis=1), widths, 1)
        chains = []
        for chain in range(2):
            order = list(range(net.bands))[:: 1 - 2 * chain]
            conv_out: dict[int, str] = {}
            for i, band in enumerate(order):
                conv_in, c_in = parts[band], widths[band]
                if i:
                    conv_in = g.put("Concat", conv_in, conv_out[order[i - 1]], axis=1)
                    c_in += widths[order[i - 1]]
                conv = f"{name}.chains.{chain}.{i}"
                conv_out[band] = self.convolution(conv_in, conv, c_in, widths[band], dilation)
            chains.append(g.put("Concat", *(conv_out[b] for b in range(net.bands)), axis=1))
        expanded = g.affine(g.put("Add", *chains), self.layer(f"{name}.expand", net.channels))
        return g.put("Add", x, expanded)

    def trunk(self, features: str) -> str:
        """Stage 1 up to its heads, (T, channels)."""
        net = self.config.net
        y = self.nodes.affine(features, self.layer("trunk.in_proj", net.channels))
        for i, dilation in enumerate(net.dilations):
            name = f"trunk.blocks.{i}"
            if net.backbone == "multiscale":
                y = self.multiscale(y, features, name, dilation)
            else:
                y = self.gated(y, name, net.hidden, net.channels, dilation)
        for i in range(net.recurrent_layers):
            name = f"trunk.blocks.{len(net.dilations) + i}"
            y = self.recurrent(y, name, net.recurrent, net.channels, groups=net.recurrent_groups)
        return self.nodes.affine(y, self.layer("trunk.out_proj", net.channels))

    def heads(self, hidden: str) -> str:
        """The outputs of all heads, one matmul, (T, S, 1 or 2, F)."""
        outputs = 1 if self.config.net.target == "magnitude_mask" else 2
        layers = [self.layer(f"heads.{s}", outputs * self.bins) for s in range(self.stems)]
        output = self.nodes.linear(
            hidden,
            np.concatenate([layer.weight for layer in layers]),
            np.concatenate([layer.bias for layer in layers]),
        )
        return self.nodes.reshape(output, -1, self.stems, outputs, self.bins)

    def compensations(self, residual: tuple[str, str, str], hidden: str) -> str:
        """The outputs of stage 2, (T, S, 1 or 2, F)."""
        g, net, bins = self.nodes, self.config.net, self.bins
        pieces = residual[:2] if net.backbone == "multiscale" else residual
        width = len(pieces) * bins
        rows = g.reshape(g.put("Concat", *pieces, axis=2), -1, self.stems, width)
        x = g.put("Transpose", rows, perm=[1, 0, 2])
        if net.compensation_uses_trunk:
            shape = g.constant([self.stems, 1, 1], np.int64)
            x = g.put("Concat", x, g.put("Expand", hidden, shape), axis=2)
        channels, hidden_width = net.compensation_channels, net.compensation_hidden
        y = g.affine(x, self.layer("compensations.*.in_proj", channels))
        for i, dilation in enumerate(net.compensation_dilations):
            name = f"compensations.*.blocks.layers.{i}"
            y = self.gated(y, name, hidden_width, channels, dilation)
        outputs = 1 if net.compensation_target == "magnitude_mask" else 2
        output = g.affine(y, self.layer("compensations.*.out_proj", outputs * bins))
        output = g.put("Transpose", output, perm=[1, 0, 2])
        return g.reshape(output, -1, self.stems, outputs, bins)

    def estimate(self, head: str, source: str, level: str, target: str) -> str:
        """Turn head outputs into spectra, (T, S, 2, F): masks on `source`, or spectra."""
        g, limit = self.nodes, self.config.net.mask_limit
        if target == "magnitude_mask":
            return g.put("Mul", source, g.put("Sigmoid", head))
        if target == "spectral_mapping":
            power = g.put("ReduceSumSquare", head, axes=[2], keepdims=1)
            power = g.put("Add", power, g.constant([COMPRESS_FLOOR]))
            return g.put("Mul", head, g.put("Mul", g.put("Sqrt", power), level))
        mask = g.put("Tanh", g.put("Mul", head, g.constant([1 / limit])))
        mask = g.put("Mul", mask, g.constant([limit]))
        a, b = g.split(mask, [1, 1], 2)
        re, im = g.split(source, [1, 1], 2)
        rotated = g.put("Concat", g.put("Neg", im), re, axis=2)
        return g.put("Add", g.put("Mul", a, source), g.put("Mul", b, rotated))

    def mixture_consistency(self, stems: str, mixture: str, to: str = "") -> str:
        """Make the stems sum to the mixture; see `net.separation.mixture_consistency`."""
        g = self.nodes
        floor = g.put("ReduceSumSquare", mixture, axes=[2], keepdims=1)
        floor = g.put(
            "Add",
            g.put("Mul", floor, g.constant([CONSISTENCY_FLOOR])),
            g.constant([CONSISTENCY_TINY]),
        )
        power = g.put("Add", g.put("ReduceSumSquare", stems, axes=[2], keepdims=1), floor)
        axis = g.constant([1], np.int64)
        fractions = g.put("Div", power, g.put("ReduceSum", power, axis, keepdims=1))
        residual = g.put("Sub", mixture, g.put("ReduceSum", stems, axis, keepdims=1))
        return g.put("Add", stems, g.put("Mul", fractions, residual), to=to)


def write_graph(
    config: ModelConfig,
    weights: Weights,
    about: dict[str, str],
    *,
    is_single: bool = False,
    is_unstacked: bool = False,
) -> Any:
    """Return the network as an ONNX model.

    Inputs: `mixture` (frames, 2, F), real and imaginary parts, and every `state.X`.
    Outputs: `stems` (frames, S, 2, F) and every `next.X`.

    Args:
        config, weights: the model's.
        about: the file's metadata.
        is_single: for one frame a call; otherwise for 1 to `nodes.MAX_FRAMES`.
        is_unstacked: write stacked matmuls one by one, as quantisation needs them.

    Raises:
        ModelError: the weights don't fit `config`.
    """
    writer = _Writer(config, weights, is_single, is_unstacked)
    writer.network()
    return write_model(writer.nodes, config.name, about)
