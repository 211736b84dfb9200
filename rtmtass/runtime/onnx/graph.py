"""A network written as an ONNX graph: norms folded, memory explicit, real numbers at its edges.

Written node by node from the released arrays, so that neither torch nor its
exporter is needed, and so that onnxruntime gets what suits it: few nodes, and
the stems side by side wherever their arithmetic is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.net.constants import COMPRESS_FLOOR, CONSISTENCY_FLOOR, CONSISTENCY_TINY
from rtmtass.runtime.folding import Gru, Layer, Weights, fold, input_layer, read_grus
from rtmtass.runtime.onnx.level import write_level
from rtmtass.runtime.onnx.nodes import Nodes, value, write_model

MIXTURE, STEMS = "mixture", "stems"


class _Writer:
    """Writes one network; its methods are the layers of `net.layers` and `net.mtass`."""

    def __init__(
        self, config: ModelConfig, weights: Weights, is_single: bool, is_apart: bool
    ) -> None:
        self.config, self.weights, self.is_single = config, weights, is_single
        self.nodes = Nodes(is_apart)
        self.bins, self.stems = config.stft.n_bins, len(config.stems)

    def layer(self, name: str, n: int) -> Layer:
        """Fold a layer; with a * in its name those of all stems, stacked."""
        if "*" not in name:
            return fold(self.weights, name, n)
        layers = [fold(self.weights, name.replace("*", str(s)), n) for s in range(self.stems)]
        return Layer(*(np.stack(arrays) for arrays in zip(*layers, strict=True)))

    def network(self) -> None:
        """Write it, from the mixture's spectrum to the stems'."""
        g, net, bins, stems = self.nodes, self.config.net, self.bins, self.stems
        frames = 1 if self.is_single else "frames"
        g.inputs.append(value(MIXTURE, (frames, 2, bins)))
        g.outputs.append(value(STEMS, (frames, stems, 2, bins)))
        mixture = g.reshape(MIXTURE, -1, 1, 2, bins)
        rows = g.reshape(MIXTURE, -1, 2 * bins)
        level = write_level(g, self.config, rows, is_single=self.is_single)
        re, im, magnitude = self.compress(mixture, level)
        if net.backbone == "multiscale":
            features = g.reshape(magnitude, -1, bins)
        else:
            features = g.reshape(g.put("Concat", re, im, magnitude, axis=2), -1, 3 * bins)
        hidden = self.trunk(features)
        mixture = self.late(mixture)
        answer = self.heads(hidden)
        if net.subband_bins:
            answer = self.subbands(features, hidden, answer)
        found = self.estimate(answer, mixture, level, net.target)
        if net.compensation_target != "none":
            residual = g.put("Sub", mixture, found)
            answer = self.compensations(self.compress(residual, level), hidden)
            more = self.estimate(answer, residual, level, net.compensation_target)
            found = g.put("Add", found, more)
        self.share(found, mixture)

    def compress(self, spectrum: str, level: str) -> tuple[str, str, str]:
        """(T, S, 2, F) over the level, magnitude square-rooted: re, im, magnitude (T, S, 1, F)."""
        g = self.nodes
        x = g.put("Div", spectrum, level)
        power = g.put("ReduceSumSquare", x, axes=[2], keepdims=1)
        power = g.put("Add", power, g.constant([COMPRESS_FLOOR]))
        magnitude = g.put("Sqrt", g.put("Sqrt", power))
        re, im = g.split(g.put("Div", x, magnitude), [1, 1], 2)
        return re, im, magnitude

    def late(self, mixture: str) -> str:
        """The mixture's frames that the answers belong to: older by the look-ahead."""
        g, lookahead = self.nodes, self.config.net.lookahead
        if not lookahead:
            return mixture
        before, after = g.memory("mixture", lookahead, 1, 2, self.bins)
        waiting = g.put("Concat", before, mixture, axis=0)
        g.take(waiting, -lookahead, to=after)
        return g.take(waiting, 0, -lookahead)

    def convolution(self, x: str, name: str, width: int, c_out: int, dilation: int) -> str:
        """A dilated convolution over time; see `net.layers.DilatedConv`."""
        g, kernel = self.nodes, self.config.net.kernel
        size = (kernel - 1) * dilation
        shape = (self.stems, size, width) if "*" in name else (size, width)
        time = len(shape) - 2
        before, after = g.memory(name, *shape)
        heard = g.put("Concat", before, x, axis=time)
        g.take(heard, -size, axis=time, to=after)
        taps = [
            g.take(heard, i * dilation, (i + 1 - kernel) * dilation, axis=time)
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
        g, grus = self.nodes, read_grus(self.weights, name, n, groups)
        if self.is_single:
            y = self.grus_spelled_out(x, name, grus, rows)
        else:
            given = g.reshape(x, -1, rows, channels)
            outs = [
                self.one_gru(given, f"{name}.gru{k or ''}", gru, rows) for k, gru in enumerate(grus)
            ]
            y = outs[0] if groups == 1 else g.put("Concat", *outs, axis=1)
        return g.put("Add", x, g.affine(y, self.layer(f"{name}.expand", channels)))

    def grus_spelled_out(self, x: str, name: str, grus: list[Gru], rows: int) -> str:
        """One step of GRUs side by side, the states in one memory, (rows, G * n)."""
        g, groups, n = self.nodes, len(grus), grus[0].w_state.shape[1]
        before, after = g.memory(f"{name}.gru", rows, groups * n)
        layer = input_layer(grus)
        given = g.linear(x, layer.weight, layer.bias)
        if groups == 1:
            axis, state = 1, before
            heard = g.linear(before, grus[0].w_state, grus[0].b_state)
        else:
            axis, state = 2, g.put("Transpose", g.reshape(before, rows, groups, n), perm=[1, 0, 2])
            given = g.put("Transpose", g.reshape(given, rows, groups, 3 * n), perm=[1, 0, 2])
            w_state, b_state = (np.stack(arrays) for arrays in list(zip(*grus, strict=True))[1::2])
            heard = g.linear(state, w_state, b_state)
        given_gates, given_new = g.split(given, [2 * n, n], axis)
        heard_gates, heard_new = g.split(heard, [2 * n, n], axis)
        gates = g.put("Sigmoid", g.put("Add", given_gates, heard_gates))
        reset, update = g.split(gates, [n, n], axis)
        new = g.put("Tanh", g.put("Add", given_new, g.put("Mul", reset, heard_new)))
        kept = g.put("Mul", update, g.put("Sub", state, new))
        if groups == 1:
            return g.put("Add", new, kept, to=after)
        y = g.put("Transpose", g.put("Add", new, kept), perm=[1, 0, 2])
        return g.put("Reshape", y, g.constant([rows, groups * n], np.int64), to=after)

    def one_gru(self, x: str, name: str, gru: Gru, rows: int) -> str:
        """A GRU of (T, rows, channels) by ONNX's own operator, (T * rows, n)."""
        g, n = self.nodes, gru.w_state.shape[1]
        before, after = g.memory(name, rows, n)
        # ONNX has the gates in the order update, reset, new.
        order = np.r_[n : 2 * n, 0:n, 2 * n : 3 * n]
        biases = np.concatenate([gru.b_in[order], gru.b_state[order]])[None]
        out, last = f"{name}.out", f"{name}.last"
        inputs = [x, g.constant(gru.w_in[order][None]), g.constant(gru.w_state[order][None])]
        inputs += [g.constant(biases), "", g.reshape(before, 1, rows, n)]
        g.put_many("GRU", inputs, [out, last], hidden_size=n, linear_before_reset=1)
        g.put("Reshape", last, g.constant([rows, n], np.int64), to=after)
        return g.reshape(out, -1, n)

    def subbands(self, features: str, hidden: str, answer: str) -> str:
        """Stage 1's answers (T, S, 1 or 2, F), corrected; see `net.subbands.SubBands`."""
        g, net, n_bins = self.nodes, self.config.net, self.bins
        bins, overlap, context = net.subband_bins, net.subband_overlap, net.subband_context
        width, bands = net.subband_channels, net.n_subbands(n_bins)
        missing, broad = bands * bins - n_bins, bins + 2 * overlap
        outputs = 1 if net.target == "magnitude_mask" else 2
        answers = self.stems * outputs

        def padded(x: str, parts: int, before: int, after: int) -> str:
            ends = g.constant([0, 0, before, 0, 0, after], np.int64)
            return g.put("Pad", g.reshape(x, -1, parts, n_bins), ends)

        starts = np.arange(bands)[:, None] * bins + np.arange(broad)
        heard = padded(features, 3, overlap, overlap + missing)
        heard = g.put("Gather", heard, g.constant(starts, np.int64), axis=2)
        own = g.reshape(padded(answer, answers, 0, missing), -1, answers, bands, bins)
        pieces = [
            g.reshape(g.put("Transpose", x, perm=[0, 2, 1, 3]), -1, bands, parts * size)
            for x, parts, size in ((heard, 3, broad), (own, answers, bins))
        ]
        said = g.affine(hidden, self.layer("subbands.context_proj", bands * context))
        x = g.put("Concat", *pieces, g.reshape(said, -1, bands, context), axis=2)
        x = g.reshape(x, -1, 3 * broad + answers * bins + context)
        y = g.affine(x, self.layer("subbands.in_proj", width))
        n, groups = width // net.subband_groups, net.subband_groups
        y = self.recurrent(y, "subbands.memory", n, width, groups=groups, rows=bands)
        y = g.affine(y, self.layer("subbands.out_proj", answers * bins))
        change = g.put("Transpose", g.reshape(y, -1, bands, answers, bins), perm=[0, 2, 1, 3])
        change = g.take(g.reshape(change, -1, answers, bands * bins), 0, n_bins, axis=2)
        change = g.reshape(change, -1, self.stems, outputs, n_bins)
        return g.put("Add", answer, change)

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
            answers: dict[int, str] = {}
            for i, band in enumerate(order):
                heard, c_in = parts[band], widths[band]
                if i:
                    heard = g.put("Concat", heard, answers[order[i - 1]], axis=1)
                    c_in += widths[order[i - 1]]
                conv = f"{name}.chains.{chain}.{i}"
                answers[band] = self.convolution(heard, conv, c_in, widths[band], dilation)
            chains.append(g.put("Concat", *(answers[b] for b in range(net.bands)), axis=1))
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
        """The answers of all heads, one product, (T, S, 1 or 2, F)."""
        outputs = 1 if self.config.net.target == "magnitude_mask" else 2
        layers = [self.layer(f"heads.{s}", outputs * self.bins) for s in range(self.stems)]
        answer = self.nodes.linear(
            hidden,
            np.concatenate([layer.weight for layer in layers]),
            np.concatenate([layer.bias for layer in layers]),
        )
        return self.nodes.reshape(answer, -1, self.stems, outputs, self.bins)

    def compensations(self, left: tuple[str, str, str], hidden: str) -> str:
        """The answers of stage 2, (T, S, 1 or 2, F)."""
        g, net, bins = self.nodes, self.config.net, self.bins
        pieces = left[:2] if net.backbone == "multiscale" else left
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
        answer = g.affine(y, self.layer("compensations.*.out_proj", outputs * bins))
        answer = g.put("Transpose", answer, perm=[1, 0, 2])
        return g.reshape(answer, -1, self.stems, outputs, bins)

    def estimate(self, answer: str, of: str, level: str, target: str) -> str:
        """Turn answers into spectra, (T, S, 2, F): masks on `of`, or the thing itself."""
        g, limit = self.nodes, self.config.net.mask_limit
        if target == "magnitude_mask":
            return g.put("Mul", of, g.put("Sigmoid", answer))
        if target == "spectral_mapping":
            power = g.put("ReduceSumSquare", answer, axes=[2], keepdims=1)
            power = g.put("Add", power, g.constant([COMPRESS_FLOOR]))
            return g.put("Mul", answer, g.put("Mul", g.put("Sqrt", power), level))
        mask = g.put("Tanh", g.put("Mul", answer, g.constant([1 / limit])))
        mask = g.put("Mul", mask, g.constant([limit]))
        a, b = g.split(mask, [1, 1], 2)
        re, im = g.split(of, [1, 1], 2)
        turned = g.put("Concat", g.put("Neg", im), re, axis=2)
        return g.put("Add", g.put("Mul", a, of), g.put("Mul", b, turned))

    def share(self, found: str, mixture: str) -> None:
        """Make the stems sum to the mixture; see `net.mtass.mixture_consistency`."""
        g = self.nodes
        floor = g.put("ReduceSumSquare", mixture, axes=[2], keepdims=1)
        floor = g.put(
            "Add",
            g.put("Mul", floor, g.constant([CONSISTENCY_FLOOR])),
            g.constant([CONSISTENCY_TINY]),
        )
        power = g.put("Add", g.put("ReduceSumSquare", found, axes=[2], keepdims=1), floor)
        axis = g.constant([1], np.int64)
        highband_weights = g.put("Div", power, g.put("ReduceSum", power, axis, keepdims=1))
        residue = g.put("Sub", mixture, g.put("ReduceSum", found, axis, keepdims=1))
        g.put("Add", found, g.put("Mul", highband_weights, residue), to=STEMS)


def write_graph(
    config: ModelConfig,
    weights: Weights,
    about: dict[str, str],
    *,
    is_single: bool = False,
    is_apart: bool = False,
) -> Any:
    """Return the network as an ONNX model.

    Inputs: `mixture` (frames, 2, F), real and imaginary parts, and a `state.X`
    for every memory. Outputs: `stems` (frames, S, 2, F) and the `next.X`.

    Args:
        config, weights: the model's.
        about: what stands in the file's metadata.
        is_single: for one frame a call; otherwise for 1 to `onnx_nodes.MANY`.
        is_apart: no stacked products, as quantisation needs them.

    Raises:
        ModelError: the weights are not those of `config`.
    """
    writer = _Writer(config, weights, is_single, is_apart)
    writer.network()
    return write_model(writer.nodes, config.name, about)
