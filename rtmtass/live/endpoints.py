"""Opens the sources and sinks of `rtmtass live --source` and `--sink`, named as SCHEME:LOCATION.

Another kind of source or sink is a class and an entry in `SOURCES` or `SINKS`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rtmtass.errors import InputError, OutputError, RtmtassError, UsageError
from rtmtass.live.limits import check_rate

if TYPE_CHECKING:  # this module is imported for --help, which doesn't need numpy
    from rtmtass.io.protocols import Sink, Source

T = TypeVar("T")
_ANY_ADDRESS = "0.0.0.0"
MOST_CHANNELS = 64


@dataclass(frozen=True)
class StreamFormat:
    """What a stream without a header holds, and how late its stems may be.

    Attributes:
        sample_rate: in Hz.
        channels: interleaved.
        extra_buffer_ms: see StreamRequest.
        on_message: called with lines about what is wrong with the stream, see UdpSource.

    Raises:
        UsageError: rate or channels out of range.
    """

    sample_rate: int
    channels: int
    extra_buffer_ms: float = 0.0
    on_message: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        check_rate(self.sample_rate, "a stream")
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise UsageError(
                f"a stream of {self.channels} channels was given; give 1 to {MOST_CHANNELS}"
            )


@dataclass(frozen=True)
class Scheme(Generic[T]):
    """One kind of source or sink.

    Attributes:
        form: how it is written, such as "udp:HOST:PORT".
        about: what it is, for --help.
        parse: checks a location and returns it as `open` takes it; raises UsageError.
        open: opens a parsed location; raises RtmtassError.
    """

    form: str
    about: str
    parse: Callable[[str], Any]
    open: Callable[[Any, StreamFormat], T]


@dataclass(frozen=True)
class Endpoint(Generic[T]):
    """A source or sink as named by the user, checked but not open yet."""

    text: str
    scheme: Scheme[T]
    location: Any

    def open(self, stream_format: StreamFormat) -> T:
        """Open it.

        Raises:
            InputError, OutputError: it can't be opened; the message says why.
        """
        return self.scheme.open(self.location, stream_format)

    def __str__(self) -> str:
        return self.text


def parse_source(text: str) -> Endpoint[Source]:
    """Parse the name of a source, such as "udp:9000" or "file:talk.flac".

    Raises:
        UsageError: unknown scheme, or a location that the scheme doesn't take.
    """
    return _parse(text, SOURCES)


def parse_sink(text: str) -> Endpoint[Sink]:
    """Parse the name of a sink, such as "udp:192.168.1.20:9001".

    Raises:
        UsageError: unknown scheme, or a location that the scheme doesn't take.
    """
    return _parse(text, SINKS)


def describe(schemes: Mapping[str, Scheme[Any]]) -> str:
    """Return the forms of all schemes and what they are, for --help."""
    return "; ".join(f"{scheme.form}, {scheme.about}" for scheme in schemes.values())


def _parse(text: str, schemes: Mapping[str, Scheme[T]]) -> Endpoint[T]:
    name, _, location = text.partition(":")
    scheme = schemes.get(name)
    if scheme is None:
        known = " or ".join(each.form for each in schemes.values())
        raise UsageError(f"{text!r} has no known scheme; write it as {known}")
    if not location:
        raise UsageError(f"{text!r} names no location; write it as {scheme.form}")
    try:
        return Endpoint(text, scheme, scheme.parse(location))
    except UsageError as error:
        raise UsageError(f"{text!r}: {error}; write it as {scheme.form}") from None


def _parse_listen_address(location: str) -> tuple[str, int]:
    host, _, port = location.rpartition(":")
    return host or _ANY_ADDRESS, parse_port(port)


def _parse_send_address(location: str) -> tuple[str, int]:
    host, _, port = location.rpartition(":")
    if not host:
        raise UsageError("the host to send to is missing")
    return host, parse_port(port)


def parse_port(text: str) -> int:
    """Parse the number of a port.

    Raises:
        UsageError: it isn't 1 to 65535.
    """
    is_number = text.isascii() and text.isdecimal() and len(text) <= 5
    if not is_number or not 1 <= int(text) <= 65535:
        raise UsageError(f"{text!r} is not a port, 1 to 65535")
    return int(text)


def _resolve(host: str, port: int, error_type: type[RtmtassError]) -> str:
    """Return the IPv4 address of a host, so that no datagram waits for a DNS lookup."""
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise error_type(
            f"the host {host!r} can't be resolved: {why}; check the spelling, or give its IPv4"
            f" address, as in udp:127.0.0.1:{port}"
        ) from error
    return str(found[0][4][0])


def _open_udp_source(address: tuple[str, int], stream_format: StreamFormat) -> Source:
    from rtmtass.io.udp import UdpSource

    host, port = address
    address_of_host = _resolve(host, port, InputError)
    return UdpSource(
        address_of_host,
        port,
        stream_format.sample_rate,
        stream_format.channels,
        stream_format.on_message,
    )


def _open_file_source(path: Path, stream_format: StreamFormat) -> Source:
    from rtmtass.io.pipes import open_source
    from rtmtass.live.sources import PacedSource

    extra_buffer_s = stream_format.extra_buffer_ms / 1000
    return PacedSource(open_source(path), extra_buffer_s=extra_buffer_s)


def _open_udp_sink(address: tuple[str, int], _format: StreamFormat) -> Sink:
    from rtmtass.io.udp import UdpSink

    host, port = address
    return UdpSink(_resolve(host, port, OutputError), port)


SOURCES: dict[str, Scheme[Source]] = {
    "udp": Scheme(
        "udp:[HOST:]PORT", "raw float32 datagrams", _parse_listen_address, _open_udp_source
    ),
    "file": Scheme("file:PATH", "a sound file at the pace of real time", Path, _open_file_source),
}
"""The sources by scheme."""

SINKS: dict[str, Scheme[Sink]] = {
    "udp": Scheme("udp:HOST:PORT", "raw float32 datagrams", _parse_send_address, _open_udp_sink),
}
"""The sinks by scheme."""
