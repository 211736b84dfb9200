"""Lowers `net.bands.BandNet`: bands are the rows of a frame's registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rtmtass.config import ModelConfig, NetConfig
from rtmtass.runtime.compiled.builder import Builder
from rtmtass.runtime.compiled.lowering_shared import Spectra, parallel_grus
from rtmtass.runtime.compiled.program import Register
from rtmtass.runtime.folding import Layer, Weights, fold, read_gru


def lower_bands(config: ModelConfig, weights: Weights, spectra: Spectra) -> None:
    """Lower the network, up to the stems' spectra."""
    net, make, stems = config.net, spectra.make, range(len(config.stems))
    hidden = make.register(net.channels, rows=len(net.band_bins))
    features = spectra.compress(spectra.mixture)
    _encode(make, net, weights, "encoder", [features], hidden, spectra.n_bins)
    for i in range(net.recurrent_layers):
        _block(make, net, weights, f"trunk.layers.{i}", hidden)
    heads = _decode(config, weights, "heads", spectra, hidden, net.target)
    for s in stems:
        spectra.estimate(heads[s], spectra.aligned, spectra.stem(s), net.target)
    if net.compensation_target == "none":
        return
    residuals = [make.subtract(spectra.aligned, spectra.stem(s)) for s in stems]
    features_of = [spectra.compress(residual) for residual in residuals]
    adds = net.compensation_uses_trunk
    _encode(make, net, weights, "residual_encoder", features_of, hidden, spectra.n_bins, adds)
    for i in range(net.compensation_layers):
        _block(make, net, weights, f"compensation.layers.{i}", hidden)
    target = net.compensation_target
    heads = _decode(config, weights, "compensation_heads", spectra, hidden, target)
    for s in stems:
        spectra.estimate(heads[s], residuals[s], spectra.stem(s), target, adds=True)


def _runs(widths: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the runs of bands of one width: first band, number of bands, first bin, width."""
    band = start = 0
    for width, group in groupby(widths):
        n = len(list(group))
        yield band, n, start, width
        band, start = band + n, start + n * width


def _encode(
    make: Builder,
    net: NetConfig,
    weights: Weights,
    name: str,
    features: Sequence[Register],
    out: Register,
    n_bins: int,
    add: bool = False,
) -> None:
    """Lower `net.bands.BandEncoder`: three planes of each of `features`, to the rows of out."""
    planes = [x.columns(n_bins * i, n_bins) for x in features for i in range(3)]
    for band, n, start, width in _runs(net.band_bins):
        with make.reused():
            rows = make.register(len(planes) * width, rows=n)
            for i, plane in enumerate(planes):
                run = plane.columns(start, n * width)
                make.cut(run, rows.columns(i * width, width), width)
            for k in range(n):
                with make.reused():
                    layer = fold(weights, f"{name}.projs.{band + k}", net.channels)
                    make.affine(rows.row(k), layer, out.row(band + k), add=add)


def _decode(
    config: ModelConfig,
    weights: Weights,
    name: str,
    spectra: Spectra,
    x: Register,
    target: str,
) -> list[Register]:
    """Lower `net.bands.BandDecoder`; return the head output of each stem."""
    make, n_bins, n_stems = spectra.make, spectra.n_bins, len(config.stems)
    outputs = 1 if target == "magnitude_mask" else 2
    heads = [make.register(outputs * n_bins) for _ in range(n_stems)]
    planes = [head.columns(n_bins * i, n_bins) for head in heads for i in range(outputs)]
    with make.reused():
        normed = make.rms_norm(x)
        for band, n, start, width in _runs(config.net.band_bins):
            with make.reused():
                rows = make.register(len(planes) * width, rows=n)
                for k in range(n):
                    proj, size = f"{name}.projs.{band + k}", len(planes) * width
                    layer = fold(weights, proj, size, norm=f"{name}.norm")
                    make.affine(normed.row(band + k), layer, rows.row(k))
                for i, plane in enumerate(planes):
                    run = plane.columns(start, n * width)
                    make.join(rows.columns(i * width, width), run, add=False)
    return heads


def _block(make: Builder, net: NetConfig, weights: Weights, name: str, x: Register) -> None:
    """Lower `net.bands.BandBlock`, added to x."""
    narrow, bands = net.band_context, len(net.band_bins)

    def layer(part: str, n: int, norm: str = "") -> Layer:
        return fold(weights, f"{name}.{part}", n, norm)

    with make.reused():
        gru = read_gru(weights, f"{name}.band_gru", net.hidden, norm=f"{name}.band_norm")
        y = parallel_grus(make, make.rms_norm(x), [gru])
        make.affine(y, layer("band_expand", x.width), x, add=True)
    with make.reused():
        rows = make.affine(make.rms_norm(x), layer("reduce", narrow, norm=f"{name}.norm"))
        whole = make.register(bands * narrow)
        make.join(rows, whole, add=False)
        y = make.affine(whole, layer("in_proj", net.recurrent))
        y = parallel_grus(make, y, [read_gru(weights, f"{name}.gru", net.recurrent)])
        y = make.affine(y, layer("out_proj", bands * narrow))
        rows = make.register(narrow, rows=bands)
        make.cut(y, rows, narrow)
        make.affine(rows, layer("expand", x.width), x, add=True)
