"""`rtmtass serve`: separates many live streams over WebSocket."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import add_model, count, model_name, run_in, seconds
from rtmtass.config import PRECISIONS
from rtmtass.errors import InputError, MissingPartError

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.serve.options import Options
    from rtmtass.serve.server import Server
    from rtmtass.serve.service import Served, Service

TOKEN_VARIABLE = "RTMTASS_SERVE_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SOCKETS = 16384
"""Open files that are wanted: streams, those refused, and clients without a request yet."""
_SWITCH_S = 0.0005
"""After which a thread that holds the GIL gives it to one that waits. The clock's thread asks for
it after every compiled call, and Python's 5 ms would be a third of a hop."""


def register(commands: Commands) -> None:
    """Add `serve`."""
    parser = commands.add_parser(
        "serve",
        help="separate many live streams over WebSocket",
        description="Separates many live streams over WebSocket, all in one batch on a fixed clock."
        " A stream is refused rather than be late. The protocol, with clients in Python and for"
        " browsers: rtmtass/serve/README.md.",
        epilog="A token is read from --token-file, or from the environment variable"
        f" {TOKEN_VARIABLE}. SIGTERM and Ctrl-C drain: running streams may finish; a second one"
        " ends them.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
        help="to listen on (default: %(default)s, this computer only)")  # fmt: skip
    parser.add_argument("--port", type=_port, default=8650,
        help="to listen on; 0: any free one (default: %(default)s)")  # fmt: skip
    _add_limits(parser)
    access = parser.add_argument_group("access")
    access.add_argument("--token-file", type=Path, metavar="FILE",
        help="holds a token that clients must send")  # fmt: skip
    access.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN",
        help="let browsers connect from pages of ORIGIN, as in https://example.org; may be given"
        " more than once, * for all (default: none)")  # fmt: skip
    access.add_argument("--cert", type=Path, metavar="FILE", help="certificate chain for TLS, PEM")
    access.add_argument("--key", type=Path, metavar="FILE", help="its private key, PEM")
    add_model(parser.add_argument)
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto",
        help="precision of the weights: int8 is fastest, f32 exact; auto: int8"
        " (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true",
        help="print one JSON object when listening, and one at the end")  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-streams", type=count, metavar="N",
        help="channels at most (default: as many as fit the measured time of a step)"
        )  # fmt: skip
    limits.add_argument("--budget", type=_budget, default=0.8, metavar="F",
        help="fraction of the interval that a step may take; beyond it new streams are refused;"
        " inf: never (default: %(default)g)")  # fmt: skip
    limits.add_argument("--interval", type=count, default=1, metavar="HOPS",
        help="hops between two steps of all streams, 16 ms each (default: %(default)s)"
        )  # fmt: skip
    limits.add_argument("--ahead", type=seconds, default=2.0, metavar="S",
        help="sound that a client may send ahead of what was processed; beyond it, its socket"
        " isn't read (default: %(default)g)")  # fmt: skip
    limits.add_argument("--idle", type=seconds, default=30.0, metavar="S",
        help="close a stream that sends no sound for this long (default: %(default)g)"
        )  # fmt: skip
    limits.add_argument("--max-seconds", type=seconds, metavar="S",
        help="close a stream after this long (default: never)")  # fmt: skip
    limits.add_argument("--drain", type=run_in, default=30.0, metavar="S",
        help="let running streams go on for this long after SIGTERM (default: %(default)g)"
        )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Run `rtmtass serve`."""
    # One core: the matmuls are ours, and other threads of numpy would only be in the way.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if find_spec("aiohttp") is None:
        raise MissingPartError('rtmtass serve needs aiohttp: pip install "rtmtass[serve]"')
    from rtmtass.cli.loading import print_compiling, run_interruptibly
    from rtmtass.serve.access import tls_context
    from rtmtass.serve.opening import open_served

    options = _options(arguments)
    if options.certificate and options.key:
        tls_context(options.certificate, options.key)  # now: opening the model takes a while
    served = run_interruptibly(
        lambda: open_served(model_name(arguments), arguments.precision, options, print_compiling)
    )
    _serve(served, options, is_json=arguments.json)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 0 to 65535")
    return int(text)


def _budget(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value <= 1 or value == math.inf):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a budget; give more than 0 and at most 1, or inf"
        )
    return value


def _options(arguments: argparse.Namespace) -> Options:
    from rtmtass.serve.options import Options

    return Options(
        host=arguments.host,
        port=arguments.port,
        max_streams=arguments.max_streams,
        interval_hops=arguments.interval,
        limit=arguments.budget,
        ahead_s=arguments.ahead,
        idle_s=arguments.idle,
        longest_s=arguments.max_seconds,
        drain_s=arguments.drain,
        token=_token(arguments.token_file),
        origins=tuple(arguments.allow_origin),
        certificate=arguments.cert,
        key=arguments.key,
    )


def _token(path: Path | None) -> str:
    """Return the token of a file or of the environment; "" if neither is given."""
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it isn't text"
        raise InputError(f"{path} can't be read: {why}; give a text file with the token") from None
    if not token:
        raise InputError(f"{path} is empty; give a text file with the token")
    return token


def _serve(served: Served, options: Options, *, is_json: bool) -> None:
    """Serve until a signal, and what it leaves to do."""
    import asyncio
    import gc

    from rtmtass.serve.server import Server
    from rtmtass.serve.service import Service

    async def main() -> None:
        service = Service(served, options)
        server = Server(service)
        await server.start()
        service.start()
        _drain_on_signals(service)
        _announce(server, service, is_json)
        try:
            await service.wait()
        finally:
            await server.stop()
        _conclude(service, is_json)

    _allow_sockets()
    gc.freeze()  # what was loaded lives as long as the process: no collection need visit it
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        asyncio.run(main())
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()


def _allow_sockets() -> None:
    """Raise the limit of open files as far as the system lets us: each client is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SOCKETS if most == resource.RLIM_INFINITY else min(_SOCKETS, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _drain_on_signals(service: Service) -> None:
    import asyncio
    import signal

    loop = asyncio.get_running_loop()

    def drain() -> None:
        if not service.is_draining:
            print("rtmtass: draining; running streams may finish", file=sys.stderr, flush=True)
        service.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, drain)
        except NotImplementedError:  # Windows: called between two steps of the loop
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(drain) and None)


def _announce(server: Server, service: Service, is_json: bool) -> None:
    """Say where the service listens, and how many streams fit."""
    from rtmtass.cli.streams import print_json

    options = service.options
    if is_json:
        found = {"listening": server.url, "port": server.port, "pid": os.getpid()}
        print_json({**found, "capacity": service.capacity, "interval_s": service.interval_s})
        sys.stdout.flush()
    else:
        print(f"rtmtass: {server.url}, up to {service.capacity} channels at 16 kHz", flush=True)
    if options.host not in _LOOPBACK and not options.token:
        print("rtmtass: anyone who reaches this address may use it: no token is set; see"
              " rtmtass serve --help", file=sys.stderr)  # fmt: skip
    if options.token and options.host not in _LOOPBACK and not options.has_tls:
        print("rtmtass: the token and the sound cross the network unencrypted; add --cert and"
              " --key, or a proxy that has them", file=sys.stderr)  # fmt: skip


def _conclude(service: Service, is_json: bool) -> None:
    """Say what was served."""
    from rtmtass.cli.streams import print_json

    metrics = service.metrics
    if is_json:
        found = {"streams": metrics.n_streams, "hops": metrics.n_hops, "late": metrics.n_late}
        print_json({**found, "refused": sum(metrics.refusals.values())})
    else:
        print(f"rtmtass: {metrics.n_streams} streams served, {metrics.n_late} of"
              f" {metrics.n_hops} hops late", flush=True)  # fmt: skip
