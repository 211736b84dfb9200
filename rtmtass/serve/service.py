"""The service behind the sockets: admits streams, sends their output, reports, and drains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rtmtass import __version__
from rtmtass.serve.budget import Budget, weigh
from rtmtass.serve.clock import Clock, Member, Tick
from rtmtass.serve.connection import Connection
from rtmtass.serve.metrics import Metrics
from rtmtass.serve.options import MOST_STREAMS, Options
from rtmtass.serve.protocol import LONGEST_MESSAGE, ClosingError, Code, Hello
from rtmtass.serve.slots import Slots
from rtmtass.serve.stream import ServedStream

_CHECK_S = 0.1
_NICENESS = 5


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        slots: of the model.
        model, version, precision: of the model, as clients are told.
        fixed_s, channel_s: see `budget.measure`.
    """

    slots: Slots
    model: str
    version: str
    precision: str
    fixed_s: float
    channel_s: float


class Service:
    """Serves streams until it has drained.

    Use it in one event loop: `start`, then `wait`; `drain` from a signal handler.

    Args:
        served: the model, for this service alone.
        options: settings.
    """

    def __init__(self, served: Served, options: Options) -> None:
        self.options, self.metrics = options, Metrics()
        self.stems = served.slots.stems
        self._served, slots = served, served.slots
        self.interval_s = options.interval_hops * slots.hop / slots.sample_rate
        self._hop_s = slots.hop / slots.sample_rate
        self.budget = Budget(
            self.interval_s, options.interval_hops, options.limit, served.fixed_s, served.channel_s
        )
        self._connections: set[Connection] = set()
        self._streams: dict[ServedStream, Connection] = {}
        self._n_channels, self._weight = 0, 0.0
        self._ticks: deque[Tick] = deque()
        self._has_ticks, self._is_over = asyncio.Event(), asyncio.Event()
        self._drains_until_s: float | None = None
        self._error: BaseException | None = None
        # One at a time and below the clock's priority: filters of odd rates take a while.
        self._preparer = ThreadPoolExecutor(1, "rtmtass-prepare", _lower_priority)

    def start(self) -> None:
        """Start the clock, in the running event loop."""
        self._loop = loop = asyncio.get_running_loop()
        self._clock = Clock(
            self._served.slots, self.interval_s, self._on_tick, self._on_error, self.metrics
        )
        self._clock.start()
        self._tasks = [loop.create_task(self._pump()), loop.create_task(self._check())]

    @property
    def capacity(self) -> int:
        """Channels that are admitted."""
        most = self.options.max_streams or MOST_STREAMS
        return min(self._served.slots.n, most, self.budget.capacity)

    @property
    def is_draining(self) -> bool:
        """Whether the service was told to stop."""
        return self._drains_until_s is not None

    def drain(self) -> None:
        """Admit no more streams; end those running by `drain_s` from now, or, called again, now."""
        now_s = self._loop.time()
        self._drains_until_s = now_s + (0.0 if self.is_draining else self.options.drain_s)
        for connection in list(self._connections):
            if connection.member is None:
                connection.conclude(_draining())

    async def wait(self) -> None:
        """Return after the service has drained.

        Raises:
            what the clock died of: a bug.
        """
        try:
            await self._is_over.wait()
        finally:
            await asyncio.to_thread(self._clock.stop)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._preparer.shutdown(wait=False)
        if self._error:
            raise self._error

    async def open_stream(self, hello: Hello, connection: Connection) -> Member:
        """See `connection.Desk`."""
        weight = weigh(hello, self._served.slots.sample_rate)
        self._admit(hello, weight)
        self._n_channels += hello.channels
        self._weight += weight
        try:
            stream = await self._loop.run_in_executor(
                self._preparer, ServedStream, hello, self._served.slots
            )
        except BaseException:
            self._free(hello)
            raise
        member = Member(stream)
        self._streams[stream] = connection
        self._clock.add(member)
        self.metrics.n_streams += 1
        return member

    def close_stream(self, member: Member) -> None:
        """See `connection.Desk`."""
        self._clock.remove(member)
        del self._streams[member.stream]
        self._free(member.stream.hello)
        if not self._streams:
            self.budget.forget()

    def greeting(self, stream: ServedStream) -> dict[str, object]:
        """See `connection.Desk`."""
        hello, served = stream.hello, self._served
        return {
            "kind": "ready",
            "rtmtass": __version__,
            "model": served.model,
            "model_version": served.version,
            "precision": served.precision,
            "stems": list(self.stems),
            "rate": hello.rate,
            "channels": hello.channels,
            "format": hello.format,
            "output": hello.output,
            "delay": stream.delay,
            "max_ahead_s": self.options.ahead_s,
            "max_message_bytes": LONGEST_MESSAGE,
        }

    def _admit(self, hello: Hello, weight: float) -> None:
        """Raise a ClosingError if there is no room for a stream."""
        most = min(self.options.max_streams or MOST_STREAMS, self._served.slots.n)
        label, reason = "full", ""
        if self.is_draining:
            raise self._refused(_draining())
        if self._n_channels + hello.channels > most:
            reason = f"the server is full: {self._n_channels} of {most} channels are in use"
        else:
            label, reason = "busy", self.budget.refusal(self._weight, weight)
        if reason:
            raise self._refused(ClosingError(Code.FULL, label, f"{reason}; try again later"))

    def _refused(self, closing: ClosingError) -> ClosingError:
        self.metrics.refusals[closing.label] += 1
        return closing

    def _free(self, hello: Hello) -> None:
        self._n_channels -= hello.channels
        self._weight -= weigh(hello, self._served.slots.sample_rate)

    def _on_tick(self, tick: Tick) -> None:
        """Hand a tick to the loop; called by the clock."""
        self._ticks.append(tick)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._has_ticks.set)

    def _on_error(self, error: BaseException) -> None:
        """End the service; called by the clock or by a task, about a bug."""
        self._error = error
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._is_over.set)

    async def _pump(self) -> None:
        """Send the outputs of ticks, and what waits for room in its socket."""
        try:
            while True:
                await self._has_ticks.wait()
                self._has_ticks.clear()
                while self._ticks:
                    await self._send(self._ticks.popleft())
        except Exception as error:
            self._on_error(error)

    async def _send(self, tick: Tick) -> None:
        for output in tick.outputs:
            if connection := self._streams.get(output.stream):
                await connection.deliver(output)
        if tick.is_extra:
            return
        if tick.channels:
            elapsed_s = self._loop.time() - tick.due_s
            self.metrics.ticks.observe(elapsed_s)
            self.budget.observe(tick.channels, elapsed_s)
            if elapsed_s > self._hop_s:
                self.metrics.n_late += tick.channels
        for connection in list(self._streams.values()):
            if connection.member and connection.member.is_held:
                await connection.send()

    async def _check(self) -> None:
        """End connections whose time is over; end the service once it has drained."""
        try:
            while True:
                await asyncio.sleep(_CHECK_S)
                now_s = self._loop.time()
                for connection in list(self._connections):
                    connection.check(now_s)
                    if self._drains_until_s is not None and now_s >= self._drains_until_s:
                        connection.expire(_stopped())
                if self.is_draining and not self._connections:
                    self._is_over.set()
        except Exception as error:
            self._on_error(error)

    async def serve(self, connection: Connection) -> None:
        """Serve a client until its connection has ended."""
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    @property
    def n_waiting(self) -> int:
        """Clients that have no stream yet."""
        return len(self._connections) - len(self._streams)

    def health(self) -> dict[str, object]:
        """Return the body of `/healthz`."""
        return {
            "status": "draining" if self.is_draining else "ok",
            "streams": len(self._streams),
            "channels": self._n_channels,
            "capacity": self.capacity,
            "load": round(self.budget.load, 3),
        }

    def report(self) -> str:
        """Return the text of `/metrics`."""
        served = self._served
        n_held = sum(bool(c.member and c.member.is_held) for c in self._streams.values())
        gauges = {
            "streams": ("Streams that are open.", len(self._streams)),
            "channels": ("Channels of these streams.", self._n_channels),
            "capacity_channels": ("Channels that are admitted.", self.capacity),
            "load_ratio": ("95th percentile of ticks over the interval.", self.budget.load),
            "held_streams": ("Streams whose output isn't read.", n_held),
            "draining": ("1 while the service is being stopped.", int(self.is_draining)),
        }
        info = {"version": __version__, "model": served.model, "precision": served.precision}
        return self.metrics.render(gauges, info)


def _draining() -> ClosingError:
    return ClosingError(Code.FULL, "draining", "the server is being stopped; try another")


def _stopped() -> ClosingError:
    return ClosingError(Code.GOING_AWAY, "stopped", "the server is being stopped")


def _lower_priority() -> None:
    """Let the clock go first; a thread has a niceness of its own on Linux only."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
