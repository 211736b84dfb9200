"""The page's server beside a live stream: started by `rtmtass live --web`, ends with it."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from multiprocessing.connection import Connection

from rtmtass.errors import RtmtassError
from rtmtass.live.linked_process import PAGE, connect
from rtmtass.live.messages import Message
from rtmtass.live.page_controls import initial_state
from rtmtass.web.link import EngineLink, Hello, read_hello
from rtmtass.web.server import Server, Setup, run
from rtmtass.web.stream import LoopListener, Stream
from rtmtass.weights import describe, find


class _RunningEngine:
    """The engine that has started this process; it ends by its own terminal."""

    def __init__(self, link: EngineLink) -> None:
        self._link = link

    def send(self, message: Message) -> bool:
        return self._link.send(message.to_json())

    def stop(self) -> None:
        raise AssertionError("a stream without `start` isn't stopped")


class _Listener(LoopListener):
    """Passes on what the engine reports, and ends the server with it."""

    def __init__(
        self, stream: Stream, loop: asyncio.AbstractEventLoop, ending: asyncio.Event
    ) -> None:
        super().__init__(stream, loop)
        self._ending = ending

    def ended(self, problem: str) -> None:
        super().ended(problem)
        self._call(lambda _: self._ending.set(), None)


async def serve(connection: Connection, hello: Hello) -> None:
    """Serve the page until the engine disconnects.

    Args:
        connection: to the engine.
        hello: from it; `more` has "model", "precision", "passes", "port" and
            "opens_browser".

    Raises:
        UsageError: the port is taken.
    """
    ending = asyncio.Event()

    def begin(server: Server) -> None:
        connection.send_bytes(server.address.encode())
        listener = _Listener(server.stream, asyncio.get_running_loop(), ending)
        link = EngineLink(
            connection, hello, on_snapshot=listener.snapshot, on_columns=listener.columns
        )
        server.stream.engine = _RunningEngine(link)

        def read() -> None:
            link.read()
            listener.ended("")

        threading.Thread(target=read, name="rtmtass-read", daemon=True).start()

    more = hello.more
    config = describe(find(more["model"]))[0]
    controls = initial_state(config.stems, {})
    setup = Setup(more["model"], config, more["precision"], more["passes"], controls, start=None)
    await run(
        setup, port=more["port"], opens_browser=more["opens_browser"], on_ready=begin, until=ending
    )


def main() -> int:
    """Connect to the engine's process and serve until it ends."""
    # Ctrl-C is for the engine's process, which then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        connection = connect(PAGE)
        asyncio.run(serve(connection, read_hello(connection)))
    except (EOFError, OSError):
        return 0
    except RtmtassError as error:
        print(f"rtmtass: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
