"""Works out what the streams will be: devices, rates, blocks, channels and buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rtmtass.dsp.live_resample import Converter
from rtmtass.errors import DeviceError, UsageError
from rtmtass.live.devices.listing import Device, find_device, have_one_clock, takes_rate
from rtmtass.live.worker import LiveSeparator

BUDGET_S = 0.008
"""What a step may take; shorter device blocks get so much extra buffer."""
JITTER_S = 0.004
"""Between two clocks, what waits beyond the need."""
LARGEST_BLOCK, LARGEST_EXTRA_BUFFER_MS = 8192, 250.0


@dataclass(frozen=True)
class StreamRequest:
    """What is asked of the devices; None chooses.

    Attributes:
        input, output: number or part of a name, None for the default.
        more_outputs: likewise, of the second stem and those after it, if each
            has a device of its own; `output` is the first one's then.
        input_channels: which to use, from 1; empty: the first, or the first two
            if the separator has two channels.
        sample_rate: of the devices, in Hz; None: the model's if they take it.
        block: samples a device hands over at once.
        extra_buffer_ms: waits in the output besides what must.

    Raises:
        UsageError: block or extra buffer are beyond what the buffers hold.
    """

    input: str | None = None
    output: str | None = None
    input_channels: tuple[int, ...] = ()
    sample_rate: int | None = None
    block: int | None = None
    extra_buffer_ms: float | None = None
    more_outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.block is not None and not 1 <= self.block <= LARGEST_BLOCK:
            raise UsageError(
                f"a block of {self.block} samples was asked for; give 1 to {LARGEST_BLOCK}"
            )
        if (
            self.extra_buffer_ms is not None
            and not 0 <= self.extra_buffer_ms <= LARGEST_EXTRA_BUFFER_MS
        ):
            raise UsageError(
                f"an extra buffer of {self.extra_buffer_ms:g} ms was asked for;"
                f" give 0 to {LARGEST_EXTRA_BUFFER_MS:g} ms"
            )


@dataclass(frozen=True)
class StreamConfig:
    """What the streams will be; pairs are (input, output).

    Attributes:
        given, wanted: the devices.
        is_duplex: both share a clock and are one stream.
        has_input: whether `capture` is opened too; else its rate and block only say
            when sound comes.
        rates, blocks: Hz, and samples a call.
        picked: input channels to hear, from 0.
        out_channels: to open.
    """

    capture: Device
    playback: Device
    is_duplex: bool
    rates: tuple[int, int]
    blocks: tuple[int, int]
    picked: tuple[int, ...]
    out_channels: int
    has_input: bool = True


def stream_config_of(
    request: StreamRequest, devices: Sequence[Device], separator: LiveSeparator, n_rows: int
) -> StreamConfig:
    """Find the devices and decide on everything.

    Args:
        request: what is asked for.
        devices: that there are.
        separator: that will be used.
        n_rows: 1 to play a mix, or as many stems side by side.

    Raises:
        DeviceError: a device isn't there, or has too few channels.
        UsageError: an input channel isn't there.
    """
    capture = find_device(request.input, "input", devices)
    playback = find_device(request.output, "output", devices)
    is_duplex = have_one_clock(capture, playback)
    rates = _rates(request, capture, playback, separator.sample_rate, is_duplex=is_duplex)
    picked = request.input_channels or tuple(range(1, 1 + min(separator.channels, capture.inputs)))
    for channel in picked:
        if not 1 <= channel <= capture.inputs:
            raise UsageError(
                f"input channel {channel} was asked for, but {capture} has 1 to {capture.inputs}"
            )
    needed = n_rows * separator.channels
    if n_rows > 1 and playback.outputs < needed:
        raise DeviceError(
            f"stems need {needed} output channels, but {playback} has {playback.outputs};"
            " choose another --output, or name a device for each: --stems-out A,B,C"
        )
    return StreamConfig(
        capture,
        playback,
        is_duplex,
        rates,
        (_block(request, rates[0], separator), _block(request, rates[1], separator)),
        tuple(channel - 1 for channel in picked),
        needed if n_rows > 1 else min(max(2, needed), playback.outputs),
    )


def more_configs(
    request: StreamRequest, devices: Sequence[Device], separator: LiveSeparator, main: StreamConfig
) -> list[StreamConfig]:
    """Return the shapes of further outputs, which hear what `main` captures.

    Raises:
        DeviceError: a device isn't there.
    """
    shapes = []
    for name in request.more_outputs:
        playback = find_device(name, "output", devices)
        rates = _rates(request, main.capture, playback, separator.sample_rate, is_duplex=False)
        blocks = main.blocks[0], _block(request, rates[1], separator)
        channels = min(max(2, separator.channels), playback.outputs)
        shapes.append(
            replace(
                main,
                playback=playback,
                is_duplex=False,
                rates=(main.rates[0], rates[1]),
                blocks=blocks,
                out_channels=channels,
                has_input=False,
            )
        )
    return shapes


def _rates(
    request: StreamRequest, capture: Device, playback: Device, model: int, *, is_duplex: bool
) -> tuple[int, int]:
    if request.sample_rate:
        return request.sample_rate, request.sample_rate
    in_rate = model if takes_rate(capture, "input", model) else capture.sample_rate
    out_rate = model if takes_rate(playback, "output", model) else playback.sample_rate
    if is_duplex and in_rate != out_rate:
        return capture.sample_rate, capture.sample_rate
    return in_rate, out_rate


def _block(request: StreamRequest, rate: int, separator: LiveSeparator) -> int:
    if request.block:
        return request.block
    # At its own rate a hop fits a block exactly; else small blocks cost the least latency.
    return separator.hop if rate == separator.sample_rate else 64 * max(1, round(rate / 12000))


def smallest_fill(
    block: int, hop: int, capture: Converter | None, playback: Converter | None
) -> int:
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
        model = capture.ready_after(there) - 1 if capture else there
        made = max(0, model) // hop * hop
        written = playback.ready_after(made) - 1 if playback and made else made
        behind = max(behind, (call + 1) * block - max(0, written))
    return behind


def fills(
    shape: StreamConfig,
    separator: LiveSeparator,
    extra_buffer_ms: float | None,
    capture: Converter | None,
    playback: Converter | None,
) -> tuple[int, int]:
    """Return what waits in the output at first, and for two clocks before each write.

    Samples at the output's rate. The first is also what the buffers add to the
    latency: exactly for one clock, on average for two.
    """
    out_rate, out_block = shape.rates[1], shape.blocks[1]
    if shape.is_duplex:
        extra_s = (
            max(0.0, BUDGET_S - out_block / out_rate)
            if extra_buffer_ms is None
            else extra_buffer_ms / 1000
        )
        least = smallest_fill(out_block, separator.hop, capture, playback)
        return least + round(extra_s * out_rate), 0
    target = out_block + round((JITTER_S + (extra_buffer_ms or 0.0) / 1000) * out_rate)
    longest_s = max(shape.blocks[0] / shape.rates[0], separator.hop / separator.sample_rate)
    return target + round(longest_s * out_rate), target
