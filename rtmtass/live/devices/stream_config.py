"""Chooses devices, rates, blocks, channels and buffers of the streams to open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rtmtass.errors import DeviceError, UsageError
from rtmtass.live.devices.listing import (
    JACK,
    Device,
    Kind,
    find_device,
    have_one_clock,
    takes_rate,
)
from rtmtass.live.limits import check_rate
from rtmtass.live.worker import LiveSeparator

LARGEST_BLOCK, LARGEST_EXTRA_BUFFER_MS = 8192, 250.0


@dataclass(frozen=True)
class StreamRequest:
    """Which devices to open, and how; None means the default.

    Attributes:
        input, output: number or part of a name.
        more_outputs: likewise, for the second and later stems if each stem has a device;
            `output` is then that of the first.
        input_channels: channels to use, from 1; empty: the first, or the first two if the
            separator has two channels.
        sample_rate: of the devices, in Hz; None: their own, or the model's if that is higher
            and they support it.
        block: samples per callback.
        extra_buffer_ms: playback buffer beyond the minimum.
        has_input, has_output: whether to open a device on this side; False where the engine
            has another source or sink.

    Raises:
        UsageError: rate, block or extra buffer out of range.
    """

    input: str | None = None
    output: str | None = None
    input_channels: tuple[int, ...] = ()
    sample_rate: int | None = None
    block: int | None = None
    extra_buffer_ms: float | None = None
    more_outputs: tuple[str, ...] = ()
    has_input: bool = True
    has_output: bool = True

    def __post_init__(self) -> None:
        if self.sample_rate is not None:
            check_rate(self.sample_rate, "a rate")
        if self.block is not None and not 1 <= self.block <= LARGEST_BLOCK:
            raise UsageError(
                f"a block of {self.block} samples was given; give 1 to {LARGEST_BLOCK}"
            )
        if (
            self.extra_buffer_ms is not None
            and not 0 <= self.extra_buffer_ms <= LARGEST_EXTRA_BUFFER_MS
        ):
            raise UsageError(
                f"an extra buffer of {self.extra_buffer_ms:g} ms was given;"
                f" give 0 to {LARGEST_EXTRA_BUFFER_MS:g} ms"
            )


@dataclass(frozen=True)
class StreamConfig:
    """The streams to open; pairs are (input, output).

    Attributes:
        capture, playback: the devices; None where the stream has no such side. Its rate and
            block are then those at which the engine processes.
        is_duplex: both share a clock and are one stream.
        rates, blocks: in Hz, and samples per callback, as far as known before it is open.
        picked: input channels to use, from 0.
        out_channels: output channels to open.
        has_host_blocks: the callbacks get what the host has, not blocks of one length: PortAudio
            would collect those for another block of latency, and no sooner.
    """

    capture: Device | None
    playback: Device | None
    is_duplex: bool
    rates: tuple[int, int]
    blocks: tuple[int, int]
    picked: tuple[int, ...]
    out_channels: int
    has_host_blocks: tuple[bool, bool] = (False, False)

    @property
    def title(self) -> str:
        """The devices for people: "[0] input, host → [1] output, host"."""
        return " → ".join(str(device) for device in (self.capture, self.playback) if device)


def stream_config_of(
    request: StreamRequest, devices: Sequence[Device], separator: LiveSeparator, n_rows: int
) -> StreamConfig:
    """Find the devices and choose all parameters of their streams.

    Args:
        request: see StreamRequest.
        devices: all devices of this system.
        separator: that the engine uses.
        n_rows: 1 to play a mix, S to play the stems side by side.

    Raises:
        DeviceError: no such device, or it has too few channels.
        UsageError: no such input channel, or the request is for no device.
    """
    if not request.has_input and not request.has_output:
        raise UsageError("no input and no output device was requested; request at least one")
    capture = find_device(request.input, "input", devices) if request.has_input else None
    playback = find_device(request.output, "output", devices) if request.has_output else None
    is_duplex = bool(capture and playback and have_one_clock(capture, playback))
    rates = _rates(request, capture, playback, separator.sample_rate, is_duplex=is_duplex)
    return StreamConfig(
        capture,
        playback,
        is_duplex,
        rates,
        (
            _block(request, rates[0], separator) if capture else separator.hop,
            _block(request, rates[1], separator) if playback else separator.hop,
        ),
        _picked(request, capture, separator),
        _out_channels(playback, separator, n_rows),
        (_has_host_blocks(request, capture), _has_host_blocks(request, playback)),
    )


def _has_host_blocks(request: StreamRequest, device: Device | None) -> bool:
    return request.block is None and device is not None and device.host == JACK


def _picked(
    request: StreamRequest, capture: Device | None, separator: LiveSeparator
) -> tuple[int, ...]:
    """Return the input channels to use, from 0."""
    if not capture:
        return tuple(range(separator.channels))
    picked = request.input_channels or tuple(range(1, 1 + min(separator.channels, capture.inputs)))
    for channel in picked:
        if not 1 <= channel <= capture.inputs:
            raise UsageError(
                f"input channel {channel} was requested, but {capture} has 1 to {capture.inputs}"
            )
    return tuple(channel - 1 for channel in picked)


def _out_channels(playback: Device | None, separator: LiveSeparator, n_rows: int) -> int:
    """Return the output channels to open."""
    needed = n_rows * separator.channels
    if not playback:
        return needed
    if n_rows == 1:
        return min(max(2, needed), playback.outputs)
    if playback.outputs < needed:
        raise DeviceError(
            f"stems need {needed} output channels, but {playback} has {playback.outputs};"
            " choose another --output, or name a device for each: --stems-out A,B,C"
        )
    return needed


def more_configs(
    request: StreamRequest, devices: Sequence[Device], separator: LiveSeparator, main: StreamConfig
) -> list[StreamConfig]:
    """Return the configs of further outputs, for the second and later stems.

    Raises:
        DeviceError: no such device.
    """
    configs = []
    for name in request.more_outputs:
        playback = find_device(name, "output", devices)
        rates = _rates(request, None, playback, separator.sample_rate, is_duplex=False)
        blocks = main.blocks[0], _block(request, rates[1], separator)
        channels = min(max(2, separator.channels), playback.outputs)
        configs.append(
            replace(
                main,
                capture=None,
                playback=playback,
                is_duplex=False,
                rates=(main.rates[0], rates[1]),
                blocks=blocks,
                out_channels=channels,
                has_host_blocks=(False, _has_host_blocks(request, playback)),
            )
        )
    return configs


def _rates(
    request: StreamRequest,
    capture: Device | None,
    playback: Device | None,
    model: int,
    *,
    is_duplex: bool,
) -> tuple[int, int]:
    in_rate = _rate(request, capture, "input", model)
    out_rate = _rate(request, playback, "output", model)
    if is_duplex and capture and in_rate != out_rate:
        return capture.sample_rate, capture.sample_rate
    return in_rate, out_rate


def _rate(request: StreamRequest, device: Device | None, kind: Kind, model: int) -> int:
    if not device:
        return model
    if request.sample_rate:
        return request.sample_rate
    is_lower = device.sample_rate < model
    return model if is_lower and takes_rate(device, kind, model) else device.sample_rate


def _block(request: StreamRequest, rate: int, separator: LiveSeparator) -> int:
    if request.block:
        return request.block
    # At the model's rate a block is a hop; at others small blocks give the least latency.
    return separator.hop if rate == separator.sample_rate else 64 * max(1, round(rate / 12000))
