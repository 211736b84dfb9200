"""Works out what the streams will be: devices, rates, blocks, channels and buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rtmtass.dsp.live_resample import Converter
from rtmtass.errors import DeviceError, UsageError
from rtmtass.live.devices.listing import Device, find_device, share_a_clock, takes_rate
from rtmtass.live.worker import LiveSeparator

BUDGET_S = 0.008
"""What a step may take; shorter device blocks get so much slack."""
JITTER_S = 0.004
"""Between two clocks, what waits beyond the need."""
LARGEST_BLOCK, LARGEST_SLACK_MS = 8192, 250.0


@dataclass(frozen=True)
class LinkWishes:
    """What is asked of the devices; None chooses.

    Attributes:
        input, output: number or part of a name, None for the default.
        more_outputs: likewise, of the second stem and those after it, if each
            has a device of its own; `output` is the first one's then.
        input_channels: which to use, from 1; empty: the first, or the first two
            if the separator has two channels.
        sample_rate: of the devices, in Hz; None: the model's if they take it.
        block: samples a device hands over at once.
        slack_ms: waits in the output besides what must.

    Raises:
        UsageError: block or slack are beyond what the buffers hold.
    """

    input: str | None = None
    output: str | None = None
    input_channels: tuple[int, ...] = ()
    sample_rate: int | None = None
    block: int | None = None
    slack_ms: float | None = None
    more_outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.block is not None and not 1 <= self.block <= LARGEST_BLOCK:
            raise UsageError(
                f"a block of {self.block} samples was asked for; give 1 to {LARGEST_BLOCK}"
            )
        if self.slack_ms is not None and not 0 <= self.slack_ms <= LARGEST_SLACK_MS:
            raise UsageError(
                f"a slack of {self.slack_ms:g} ms was asked for; give 0 to {LARGEST_SLACK_MS:g} ms"
            )


@dataclass(frozen=True)
class LinkShape:
    """What the streams will be; pairs are (input, output).

    Attributes:
        given, wanted: the devices.
        is_duplex: both share a clock and are one stream.
        has_input: whether `given` is opened too; else its rate and block only say
            when sound comes.
        rates, blocks: Hz, and samples a call.
        picked: input channels to hear, from 0.
        out_channels: to open.
    """

    given: Device
    wanted: Device
    is_duplex: bool
    rates: tuple[int, int]
    blocks: tuple[int, int]
    picked: tuple[int, ...]
    out_channels: int
    has_input: bool = True


def shape_of(
    wishes: LinkWishes, devices: Sequence[Device], separator: LiveSeparator, n_rows: int
) -> LinkShape:
    """Find the devices and decide on everything.

    Args:
        wishes: what is asked for.
        devices: that there are.
        separator: that will be used.
        n_rows: 1 to play a mix, or as many stems side by side.

    Raises:
        DeviceError: a device isn't there, or has too few channels.
        UsageError: an input channel isn't there.
    """
    given = find_device(wishes.input, "input", devices)
    wanted = find_device(wishes.output, "output", devices)
    is_duplex = share_a_clock(given, wanted)
    rates = _rates(wishes, given, wanted, separator.sample_rate, is_duplex=is_duplex)
    picked = wishes.input_channels or tuple(range(1, 1 + min(separator.channels, given.inputs)))
    for channel in picked:
        if not 1 <= channel <= given.inputs:
            raise UsageError(
                f"input channel {channel} was asked for, but {given} has 1 to {given.inputs}"
            )
    needed = n_rows * separator.channels
    if n_rows > 1 and wanted.outputs < needed:
        raise DeviceError(
            f"stems need {needed} output channels, but {wanted} has {wanted.outputs};"
            " choose another --output, or name a device for each: --stems-out A,B,C"
        )
    return LinkShape(
        given,
        wanted,
        is_duplex,
        rates,
        (_block(wishes, rates[0], separator), _block(wishes, rates[1], separator)),
        tuple(channel - 1 for channel in picked),
        needed if n_rows > 1 else min(max(2, needed), wanted.outputs),
    )


def more_shapes(
    wishes: LinkWishes, devices: Sequence[Device], separator: LiveSeparator, main: LinkShape
) -> list[LinkShape]:
    """Return the shapes of further outputs, which hear what `main` captures.

    Raises:
        DeviceError: a device isn't there.
    """
    shapes = []
    for name in wishes.more_outputs:
        wanted = find_device(name, "output", devices)
        rates = _rates(wishes, main.given, wanted, separator.sample_rate, is_duplex=False)
        blocks = main.blocks[0], _block(wishes, rates[1], separator)
        channels = min(max(2, separator.channels), wanted.outputs)
        shapes.append(
            replace(
                main,
                wanted=wanted,
                is_duplex=False,
                rates=(main.rates[0], rates[1]),
                blocks=blocks,
                out_channels=channels,
                has_input=False,
            )
        )
    return shapes


def _rates(
    wishes: LinkWishes, given: Device, wanted: Device, model: int, *, is_duplex: bool
) -> tuple[int, int]:
    if wishes.sample_rate:
        return wishes.sample_rate, wishes.sample_rate
    in_rate = model if takes_rate(given, "input", model) else given.sample_rate
    out_rate = model if takes_rate(wanted, "output", model) else wanted.sample_rate
    if is_duplex and in_rate != out_rate:
        return given.sample_rate, given.sample_rate
    return in_rate, out_rate


def _block(wishes: LinkWishes, rate: int, separator: LiveSeparator) -> int:
    if wishes.block:
        return wishes.block
    # At its own rate a hop fits a block exactly; else small blocks cost the least latency.
    return separator.hop if rate == separator.sample_rate else 64 * max(1, round(rate / 12000))


def smallest_fill(block: int, hop: int, given: Converter | None, wanted: Converter | None) -> int:
    """Return how many samples must wait in the output of one clock so that it never runs dry.

    Before call k + 1 of the device, all that calls 1 … k made possible has been
    written. So it is the most by which the output can be behind, found by counting.

    Args:
        block: samples a call.
        hop: of the separator, at its rate.
        given, wanted: converters before and after it, None where rates are equal.
    """
    behind = 0
    for call in range(1 + 4 * 44100 // block):
        there = call * block
        model = given.ready_after(there) - 1 if given else there
        made = max(0, model) // hop * hop
        written = wanted.ready_after(made) - 1 if wanted and made else made
        behind = max(behind, (call + 1) * block - max(0, written))
    return behind


def fills(
    shape: LinkShape,
    separator: LiveSeparator,
    slack_ms: float | None,
    given: Converter | None,
    wanted: Converter | None,
) -> tuple[int, int]:
    """Return what waits in the output at first, and for two clocks before each write.

    Samples at the output's rate. The first is also what the buffers add to the
    latency: exactly for one clock, on average for two.
    """
    out_rate, out_block = shape.rates[1], shape.blocks[1]
    if shape.is_duplex:
        slack_s = max(0.0, BUDGET_S - out_block / out_rate) if slack_ms is None else slack_ms / 1000
        least = smallest_fill(out_block, separator.hop, given, wanted)
        return least + round(slack_s * out_rate), 0
    target = out_block + round((JITTER_S + (slack_ms or 0.0) / 1000) * out_rate)
    longest_s = max(shape.blocks[0] / shape.rates[0], separator.hop / separator.sample_rate)
    return target + round(longest_s * out_rate), target
