"""Starts a larger network at a smaller one's function, so that its training isn't lost.

Every width may grow, blocks, recurrent layers, parallel GRUs and sub-bands may be added; to
a network in bands, blocks of either stage.
The smaller network's units keep their weights and read nothing from the new ones; the new
ones begin at random, and what reads them at zero. So the output is the smaller network's
until the first step.

Source: function-preserving growth, Chen et al., "Net2Net", ICLR 2016 (arXiv 1511.05641);
the zeros instead of copies are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rtmtass.config import NetConfig
from rtmtass.net.bands import BandNet
from rtmtass.net.layers import Affine, GatedBlock, RecurrentBlock
from rtmtass.net.mtass import MtassNet
from rtmtass.net.separation import SeparationNet
from rtmtass.net.subbands import SubBands

_WIDTHS = (
    "channels",
    "hidden",
    "recurrent",
    "recurrent_groups",
    "recurrent_layers",
    "compensation_channels",
    "compensation_hidden",
    "subband_context",
    "subband_channels",
    "subband_groups",
)
_WEIGHTLESS = ("level_half_life_s", "level_pop_s", "expander_db", "expander_ratio")
_DEPTHS = ("dilations", "compensation_dilations")
_BAND_DEPTHS = ("recurrent_layers", "compensation_layers")


def can_grow(small: NetConfig, large: NetConfig) -> bool:
    """Return whether a network can be grown into another; always true of two equal ones.

    What has no weights may differ: the level's half-life and pops, and the expander.
    """
    changes: dict[str, Any] = {name: getattr(large, name) for name in _WEIGHTLESS}
    if small.backbone == large.backbone == "recurrent":
        changes |= {name: getattr(large, name) for name in (*_WIDTHS, *_DEPTHS)}
        if not small.subband_bins:
            changes |= {k: v for k, v in vars(large).items() if k.startswith("subband_")}
    if small.backbone == large.backbone == "bands":
        changes |= {name: getattr(large, name) for name in _BAND_DEPTHS}
    if dataclasses.replace(small, **changes) != large:
        return False
    widths = [name for name in _WIDTHS if small.subband_bins or not name.startswith("subband_")]
    unit = small.subband_channels // small.subband_groups
    return (
        all(getattr(large, name) >= getattr(small, name) for name in (*widths, *_BAND_DEPTHS))
        and all(_begins_with(getattr(large, name), getattr(small, name)) for name in _DEPTHS)
        and (not small.subband_bins or large.subband_channels // large.subband_groups >= unit)
    )


def _begins_with(longer: tuple[int, ...], shorter: tuple[int, ...]) -> bool:
    return longer[: len(shorter)] == shorter


@torch.no_grad()
def grow(small: SeparationNet, large: SeparationNet) -> None:
    """Give a network the function of a smaller one, for which `can_grow` is true; in place."""
    if isinstance(small, BandNet) and isinstance(large, BandNet):
        _grow_bands(small, large)
    elif isinstance(small, MtassNet) and isinstance(large, MtassNet):
        _grow_mtass(small, large)


def _grow_bands(small: BandNet, large: BandNet) -> None:
    """Copy all that both have; blocks that are added change nothing yet."""
    large.load_state_dict(small.state_dict(), strict=False)
    chains = [(small.trunk, large.trunk)]
    if small.compensates:
        chains.append((small.compensation, large.compensation))
    for old, new in chains:
        added: Any = new.layers[len(old.layers) :]
        for block in added:
            _zero(block.band_expand)
            _zero(block.expand)


def _grow_mtass(small: MtassNet, large: MtassNet) -> None:
    if small.trunk.multiscale:  # equal, apart from the level
        large.load_state_dict(small.state_dict())
        return
    _grow_affine(small.trunk.in_proj, large.trunk.in_proj)
    for kind in (GatedBlock, RecurrentBlock):
        old, new = ([b for b in n.trunk.blocks if isinstance(b, kind)] for n in (small, large))
        _grow_blocks(old, new)
    _grow_affine(small.trunk.out_proj, large.trunk.out_proj)
    heads: Iterable[Any] = zip(small.heads, large.heads, strict=True)
    for head, wider in heads:
        _grow_affine(head, wider)
    if small.subbands is not None and large.subbands is not None:
        _grow_subbands(small.subbands, large.subbands)
    parts: Iterable[Any] = zip(small.compensations, large.compensations, strict=True)
    for part, wider in parts:
        _grow_affine(part.in_proj, wider.in_proj)  # the trunk's channels come last
        _grow_blocks(part.blocks.layers, wider.blocks.layers)
        _grow_affine(part.out_proj, wider.out_proj)


def _grow_blocks(small: Any, large: Any) -> None:
    """Grow blocks of one kind, in order; those that are added change nothing yet."""
    for index, block in enumerate(large):
        if index >= len(small):
            _zero(block.expand)
        elif isinstance(block, GatedBlock):
            _grow_gated(small[index], block)
        else:
            _grow_recurrent(small[index], block)


def _grow_gated(small: GatedBlock, large: GatedBlock) -> None:
    hidden, wide = small.gate.c_in, large.gate.c_in
    _grow_affine(small.reduce, large.reduce)
    taps = _places(small.gate.kernel, hidden, wide)
    _grow_affine(small.gate.affine, large.gate.affine, taps, _places(2, hidden, wide))
    _grow_affine(small.expand, large.expand)


def _grow_recurrent(small: RecurrentBlock, large: RecurrentBlock) -> None:
    rows = _places(3, small.hidden, large.hidden)
    for old, new in zip(small.all_grus(), large.all_grus(), strict=False):
        for name in ("weight_ih_l0", "weight_hh_l0"):
            _place(getattr(old, name), getattr(new, name), rows)
        for name in ("bias_ih_l0", "bias_hh_l0"):
            getattr(new, name)[rows] = getattr(old, name)
    _grow_affine(small.expand, large.expand, _places(small.groups, small.hidden, large.hidden))


def _grow_subbands(small: SubBands, large: SubBands) -> None:
    _grow_affine(
        small.context_proj,
        large.context_proj,
        rows=_places(small.bands, small.context, large.context),
    )
    _grow_affine(small.in_proj, large.in_proj)  # the context channels come last
    _grow_recurrent(small.memory, large.memory)
    _grow_affine(small.out_proj, large.out_proj)


def _zero(layer: Affine) -> None:
    """Make a layer's output zero, so that what it is added to stays."""
    layer.linear.weight.zero_()
    layer.linear.bias.zero_()


def _grow_affine(
    small: Affine, large: Affine, columns: Tensor | None = None, rows: Tensor | None = None
) -> None:
    """Copy a layer into a wider one.

    Args:
        small, large: the layers.
        columns: where the wider one has the inputs of the other; the first, if not given.
        rows: the same for outputs.
    """
    rows = torch.arange(small.linear.out_features) if rows is None else rows
    _place(small.linear.weight, large.linear.weight, rows, columns)
    large.linear.bias[rows] = small.linear.bias
    if small.slope is not None and large.slope is not None:
        large.slope[rows] = small.slope
    if small.norm is not None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(large.norm, name)[rows] = getattr(small.norm, name)


def _place(small: Tensor, large: Tensor, rows: Tensor, columns: Tensor | None = None) -> None:
    """Copy a matrix into given rows and columns of another; the rest of those rows is zero."""
    columns = torch.arange(small.shape[1]) if columns is None else columns
    large[rows] = 0
    large[rows[:, None], columns] = small


def _places(parts: int, narrow: int, wide: int) -> Tensor:
    """Return where `parts` runs of `narrow` values are among runs of `wide`."""
    return (torch.arange(parts)[:, None] * wide + torch.arange(narrow)).flatten()
