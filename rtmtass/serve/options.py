"""The settings of the service, all with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rtmtass.errors import UsageError
from rtmtass.serve.budget import LIMIT

PORT = 8650
MOST_STREAMS = 1024


@dataclass(frozen=True)
class Options:
    """Settings of the service; times in seconds.

    Attributes:
        host, port: to listen on; port 0 is any free one.
        max_streams: channels that are admitted at most; None for what the budget allows.
        interval_hops: hops between two ticks of the clock.
        limit: fraction of the interval that a tick may take, see Budget.
        ahead_s: sound that a client may send ahead of what was processed; then its socket isn't
            read.
        hello_s: within which the first message has to arrive.
        idle_s: without sound, after which a stream is closed.
        stall_s: after which a client that doesn't read its output is closed.
        longest_s: of a connection; None for no limit.
        drain_s: that running streams may go on after the service was told to stop.
        linger_s: that a client has to answer a close frame.
        token: that clients must name; "" for none.
        origins: of pages that browsers may connect from; "*" for all.
        certificate, key: PEM files for TLS; None for plain HTTP.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    max_streams: int | None = None
    interval_hops: int = 1
    limit: float = LIMIT
    ahead_s: float = 2.0
    hello_s: float = 5.0
    idle_s: float = 30.0
    stall_s: float = 10.0
    longest_s: float | None = None
    drain_s: float = 30.0
    linger_s: float = 2.0
    token: str = ""
    origins: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise UsageError("TLS needs both files: give --cert FILE and --key FILE")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port} was given; give 0 to 65535")
        if not 1 <= self.interval_hops <= 16:
            raise UsageError(f"{self.interval_hops} hops per interval were given; give 1 to 16")
        if self.max_streams is not None and not 1 <= self.max_streams <= MOST_STREAMS:
            raise UsageError(f"{self.max_streams} streams were given; give 1 to {MOST_STREAMS}")
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise UsageError("the token holds characters beyond printable ASCII; choose another")

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.certificate is not None
