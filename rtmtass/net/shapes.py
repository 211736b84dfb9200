"""The arrays of a network and their shapes, from its config alone; imports no torch.

Weights come from files. The compiled runtime reads them without bounds checks, so every
array is compared with this list before it is packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from rtmtass.config import ModelConfig, NetConfig
from rtmtass.errors import ModelError

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

MOST_PARAMETERS = 250_000_000
"""About nine times the largest preset."""
MOST_STATE = 64_000_000
"""Floats of a stream's state, and of the widest layer's inputs."""
_CHUNK = 32  # frames that run together, at most


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Return the shape of every array of `net.networks.new_network`, by name.

    Raises:
        ModelError: there are more than `MOST_PARAMETERS` parameters, or a stream's state
            is larger than `MOST_STATE`.
    """
    shapes: dict[str, Shape] = {}
    total = 0
    for name, shape in _network(config):
        shapes[name] = shape
        total += prod(shape)
        if total > MOST_PARAMETERS:
            raise ModelError(
                f"the config's network has more than {MOST_PARAMETERS // 10**6} million"
                " parameters; give a smaller one"
            )
    if (state := _state_size(config)) > MOST_STATE:
        raise ModelError(
            f"a stream of the config's network would take {4e-6 * state:.0f} MB, at most"
            f" {4e-6 * MOST_STATE:.0f} MB are allowed; give smaller dilations or sub-bands"
        )
    return shapes


def _network(config: ModelConfig) -> Named:
    net, n_bins, n_stems = config.net, config.stft.n_bins, len(config.stems)
    if net.backbone == "bands":
        yield from _band_net(net, n_stems)
        return
    outputs = 1 if net.target == "magnitude_mask" else 2
    yield from _trunk(net, n_bins)
    for stem in range(n_stems):
        yield from _affine(f"heads.{stem}", net.channels, outputs * n_bins, "none")
    if net.subband_bins:
        yield from _subbands(net, n_bins, outputs * n_stems)
    if net.compensation_target != "none":
        for stem in range(n_stems):
            yield from _compensation(net, n_bins, f"compensations.{stem}")


def _trunk(net: NetConfig, n_bins: int) -> Named:
    multiscale = net.backbone == "multiscale"
    activation = "relu" if multiscale else "prelu"
    yield from _affine(
        "trunk.in_proj", n_bins if multiscale else 3 * n_bins, net.channels, activation
    )
    for i in range(len(net.dilations)):
        name = f"trunk.blocks.{i}"
        if multiscale:
            yield from _multiscale(name, net, n_bins)
        else:
            yield from _gated(name, net.channels, net.hidden, net.kernel, "prelu")
    for i in range(net.recurrent_layers):
        name = f"trunk.blocks.{len(net.dilations) + i}"
        yield from _recurrent(name, net.channels, net.recurrent, net.recurrent_groups)
    yield from _affine("trunk.out_proj", net.channels, net.channels, activation)


def _compensation(net: NetConfig, n_bins: int, name: str) -> Named:
    published = net.backbone == "multiscale"
    activation, width = "relu" if published else "prelu", net.compensation_channels
    c_in = (2 if published else 3) * n_bins + net.channels * net.compensation_uses_trunk
    yield from _affine(f"{name}.in_proj", c_in, width, activation)
    for i in range(len(net.compensation_dilations)):
        block = f"{name}.blocks.layers.{i}"
        yield from _gated(block, width, net.compensation_hidden, net.kernel, activation)
    outputs = 1 if net.compensation_target == "magnitude_mask" else 2
    yield from _affine(f"{name}.out_proj", width, outputs * n_bins, "none")


def _subbands(net: NetConfig, n_bins: int, planes: int) -> Named:
    width, groups = net.subband_channels, net.subband_groups
    context = net.n_subbands(n_bins) * net.subband_context
    yield from _affine("subbands.context_proj", net.channels, context, "none")
    yield from _affine("subbands.in_proj", _subband_inputs(net, planes), width, "prelu")
    yield from _recurrent("subbands.memory", width, width // groups, groups)
    yield from _affine("subbands.out_proj", width, planes * net.subband_bins, "none")


def _subband_inputs(net: NetConfig, planes: int) -> int:
    spectra = 3 * (net.subband_bins + 2 * net.subband_overlap)
    return spectra + planes * net.subband_bins + net.subband_context


def _band_net(net: NetConfig, n_stems: int) -> Named:
    yield from _encoder("encoder", net, 3)
    for i in range(net.recurrent_layers):
        yield from _band_block(f"trunk.layers.{i}", net)
    yield from _decoder("heads", net, n_stems, net.target)
    if net.compensation_target != "none":
        yield from _encoder("residual_encoder", net, 3 * n_stems)
        for i in range(net.compensation_layers):
            yield from _band_block(f"compensation.layers.{i}", net)
        yield from _decoder("compensation_heads", net, n_stems, net.compensation_target)


def _encoder(name: str, net: NetConfig, planes: int) -> Named:
    for k, width in enumerate(net.band_bins):
        yield from _affine(f"{name}.projs.{k}", planes * width, net.channels, "none")


def _decoder(name: str, net: NetConfig, n_stems: int, target: str) -> Named:
    planes = n_stems * (1 if target == "magnitude_mask" else 2)
    yield f"{name}.norm.weight", (net.channels,)
    for k, width in enumerate(net.band_bins):
        yield from _affine(f"{name}.projs.{k}", net.channels, planes * width, "none")


def _band_block(name: str, net: NetConfig) -> Named:
    channels, narrow, wide = net.channels, net.band_context, net.recurrent
    whole = len(net.band_bins) * narrow
    yield f"{name}.band_norm.weight", (channels,)
    yield from _gru(f"{name}.band_gru", channels, net.hidden)
    yield from _affine(f"{name}.band_expand", net.hidden, channels, "none")
    yield f"{name}.norm.weight", (channels,)
    yield from _affine(f"{name}.reduce", channels, narrow, "none")
    yield from _affine(f"{name}.in_proj", whole, wide, "none")
    yield f"{name}.in_proj.slope", (wide,)
    yield from _gru(f"{name}.gru", wide, wide)
    yield from _affine(f"{name}.out_proj", wide, whole, "none")
    yield from _affine(f"{name}.expand", narrow, channels, "none")


def _affine(name: str, c_in: int, c_out: int, activation: str) -> Named:
    yield f"{name}.linear.weight", (c_out, c_in)
    yield f"{name}.linear.bias", (c_out,)
    if activation != "none":
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.norm.{part}", (c_out,)
    if activation == "prelu":
        yield f"{name}.slope", (c_out,)


def _gated(name: str, channels: int, hidden: int, kernel: int, activation: str) -> Named:
    yield from _affine(f"{name}.reduce", channels, hidden, activation)
    yield from _affine(f"{name}.gate.affine", kernel * hidden, 2 * hidden, "none")
    yield from _affine(f"{name}.expand", hidden, channels, "none")


def _recurrent(name: str, channels: int, hidden: int, groups: int) -> Named:
    for gru in [f"{name}.gru"] if groups == 1 else [f"{name}.grus.{g}" for g in range(groups)]:
        yield from _gru(gru, channels, hidden)
    yield from _affine(f"{name}.expand", groups * hidden, channels, "none")


def _gru(name: str, channels: int, hidden: int) -> Named:
    yield f"{name}.weight_ih_l0", (3 * hidden, channels)
    yield f"{name}.weight_hh_l0", (3 * hidden, hidden)
    yield f"{name}.bias_ih_l0", (3 * hidden,)
    yield f"{name}.bias_hh_l0", (3 * hidden,)


def _multiscale(name: str, net: NetConfig, n_bins: int) -> Named:
    yield from _affine(f"{name}.reduce", net.channels, n_bins, "relu")
    for chain, widths in enumerate(_chains(net, n_bins)):
        for i, width in enumerate(widths):
            c_in = net.kernel * (width + (widths[i - 1] if i else 0))
            yield from _affine(f"{name}.chains.{chain}.{i}.affine", c_in, width, "relu")
    yield from _affine(f"{name}.expand", 2 * n_bins, net.channels, "relu")


def _chains(net: NetConfig, n_bins: int) -> tuple[list[int], list[int]]:
    """Return the widths of both chains' sub-bands, in the order they run."""
    width, extra = divmod(2 * n_bins, net.bands)
    widths = [width + (band < extra) for band in range(net.bands)]
    return widths, widths[::-1]


def _state_size(config: ModelConfig) -> int:
    """Return about how many floats a stream keeps, by the compiled runtime's ring buffers."""
    net, n_bins, n_stems = config.net, config.stft.n_bins, len(config.stems)
    outputs = 1 if net.target == "magnitude_mask" else 2
    size = config.level_window + _ring(net.lookahead) * 2 * n_bins
    if net.backbone == "bands":
        bands, layers = len(net.band_bins), net.recurrent_layers + net.compensation_layers
        widest = max(3 * net.hidden, net.channels, 3 * n_stems * max(net.band_bins))
        size += layers * (bands * net.hidden + net.recurrent) + _CHUNK * bands * widest
        return size
    width = 4 * n_bins if net.backbone == "multiscale" else net.hidden
    size += sum(_ring((net.kernel - 1) * dilation) * width for dilation in net.dilations)
    if net.compensation_target != "none":
        for dilation in net.compensation_dilations:
            size += n_stems * _ring((net.kernel - 1) * dilation) * net.compensation_hidden
    if net.subband_bins:
        c_in = _subband_inputs(net, outputs * n_stems)
        widest = max(c_in, 3 * net.subband_channels, outputs * n_stems * net.subband_bins)
        size += _CHUNK * net.n_subbands(n_bins) * widest
    return size


def _ring(frames: int) -> int:
    return 1 << (frames + _CHUNK - 1).bit_length()
