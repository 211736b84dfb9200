"""How many live streams does `rtmtass serve` serve, and how late are they?

A server and its clients on loopback, in processes of their own: the server on one core, the clients
on the others where there are any. Each client sends a hop of 16 ms when a microphone would, at a
phase of its own, and reads its stems. The added latency of a hop is the time from when its last
sample was sent until its stems arrived; the algorithm's own delay isn't in it. It should stay below
a hop and an interval, 32 ms, for 99 of 100 hops, and no sample may be lost.

First the load is raised until that fails, with admission off. Then 50, 80 and 100 % of the largest
load that kept the bound are run for longer, and at last the server decides alone: twice as many
clients come as fit, and those admitted must keep the bound. On a computer with one core the clients
share it with the server, and the figures are too low.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import aiohttp
import numpy as np

from benchmarks.harness import module_command
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.tables import Table, print_result
from rtmtass.benchmark import sound_of, summarise
from rtmtass.weights import DEFAULT

RATE, HOP = 16000, 256
HOP_S = HOP / RATE
SIZES = (16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256)
FRACTIONS = (0.5, 0.8, 1.0)
MOST_CLIENTS, MOST_SECONDS = 512, 60.0
"""Loads are bounded, whatever the options say."""
CONNECTING_S = 0.02
START_S = 300.0
_QUIT = '{"do": "end"}'


@dataclass
class Run:
    """What the clients of one load measured.

    Attributes:
        clients: that connected.
        refused: by the server, with 1013.
        latencies_s: added latency of every hop.
        lost: samples that were sent and not returned.
        broken: reasons of other ends.
    """

    clients: int
    refused: int = 0
    latencies_s: list[float] = field(default_factory=list)
    lost: int = 0
    broken: list[str] = field(default_factory=list)


async def talk(url: str, session: aiohttp.ClientSession, hops: int, number: int, run: Run) -> None:
    """Stream `hops` hops in real time."""
    sound = np.roll(sound_of(4), 7 * number)
    pcm = np.rint(sound * 32767).astype("<i2")
    blocks = [pcm[i : i + HOP].tobytes() for i in range(0, len(pcm) - HOP, HOP)]
    async with session.ws_connect(url, max_msg_size=1 << 22) as socket:
        await socket.send_json({"rate": RATE})
        ready = await socket.receive()
        if ready.type is not aiohttp.WSMsgType.TEXT:
            if socket.close_code == 1013:
                run.refused += 1
            else:
                run.broken.append(f"{socket.close_code} {ready.extra}")
            return
        delay = json.loads(ready.data)["delay"]
        sent_s: list[float] = []
        reading = asyncio.create_task(read(socket, sent_s, run))
        start_s = time.perf_counter() + HOP_S * (number * 0.618 % 1)
        for k in range(hops):
            await asyncio.sleep(max(0.0, start_s + k * HOP_S - time.perf_counter()))
            sent_s.append(time.perf_counter())
            await socket.send_bytes(blocks[k % len(blocks)])
        await socket.send_str(_QUIT)
        run.lost += abs(hops * HOP + delay - await reading)


async def read(socket: aiohttp.ClientWebSocketResponse, sent_s: list[float], run: Run) -> int:
    """Read stems until the end; note each hop's latency; return the number of samples."""
    n_bytes = noted = 0
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY:
            continue
        n_bytes += len(message.data)
        now_s = time.perf_counter()
        whole = min(n_bytes // (6 * HOP), len(sent_s))
        run.latencies_s += [now_s - sent_s[k] for k in range(noted, whole)]
        noted = max(noted, whole)
    if socket.close_code != 1000:
        run.broken.append(f"closed with {socket.close_code}")
    return n_bytes // 6


async def load(url: str, clients: int, seconds: float) -> Run:
    """Run `clients` at once; they connect one after the other."""
    run = Run(clients)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = []
        for number in range(clients):
            hops = round(seconds / HOP_S)
            tasks.append(asyncio.create_task(talk(url, session, hops, number, run)))
            await asyncio.sleep(CONNECTING_S)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    run.broken += [repr(each) for each in results if isinstance(each, BaseException)]
    return run


def run_clients(url: str, clients: int, seconds: float) -> Run:
    """Run the clients in a process of their own."""
    words = ["--clients-of", url, "--sizes", str(clients), "--seconds", str(seconds)]
    process = subprocess.run(
        [*module_command("benchmarks.serve"), *words],
        stdout=subprocess.PIPE, text=True, check=True,
        timeout=clients * CONNECTING_S + 4 * seconds + START_S,
    )  # fmt: skip
    return Run(**json.loads(process.stdout))


def cores() -> tuple[set[int], set[int]]:
    """Return the server's core, and those of the clients; the same if there is one only."""
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    allowed = os.sched_getaffinity(0)
    return {max(allowed)}, allowed - {max(allowed)} or allowed


class ServerProcess:
    """`rtmtass serve` on one core, as a context manager."""

    def __init__(self, model: str, *words: str) -> None:
        code = "import sys; from rtmtass.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "serve", "--json", "--port", "0", "--model", model]
        self._process = subprocess.Popen(
            [*command, "--drain", "0", *words], stdout=subprocess.PIPE, text=True
        )
        if core := cores()[0]:
            os.sched_setaffinity(self._process.pid, core)
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"rtmtass serve exited with status {self._process.wait()}")
        self.ready = json.loads(line)
        self.url: str = self.ready["listening"]

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def metrics(self) -> dict[str, float]:
        """Return the samples of `/metrics`."""
        import urllib.request

        url = self.url.replace("ws://", "http://").replace("/stream", "/metrics")
        with urllib.request.urlopen(url, timeout=120) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def measure_load(server: ServerProcess, clients: int, seconds: float) -> dict[str, Any]:
    """Measure one load; plain values for JSON."""
    before, start = server.metrics(), time.perf_counter()
    run = run_clients(server.url, clients, seconds)
    after, elapsed_s = server.metrics(), time.perf_counter() - start
    change = {name: after[name] - before.get(name, 0.0) for name in after}
    point = summarise(run.latencies_s) if run.latencies_s else {}
    return {
        **point,
        "clients": clients,
        "served": clients - run.refused - len(run.broken),
        "refused": run.refused,
        "lost_samples": run.lost,
        "broken": run.broken[:5],
        "late_hops": change["rtmtass_late_hops_total"],
        "cpu": change["process_cpu_seconds_total"] / elapsed_s,
        "cpu_us": 1e6 * change["process_cpu_seconds_total"] / max(change["rtmtass_hops_total"], 1),
    }


def keeps(point: dict[str, Any], bound_us: float) -> bool:
    """Return whether a load lost nothing, refused nobody and kept the bound."""
    is_whole = not (point["lost_samples"] or point["broken"] or point["refused"])
    return is_whole and point.get("p99_us", np.inf) <= bound_us


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; plain values for JSON."""
    bound_us = 1e6 * HOP_S * (1 + arguments.interval)
    interval = ["--interval", str(arguments.interval)]
    curve, best = {}, 0
    free = ["--budget", "inf", "--max-streams", str(MOST_CLIENTS)]
    with ServerProcess(arguments.model, *interval, *free) as server:
        for clients in arguments.sizes:
            print(f"{clients} clients …", file=sys.stderr, flush=True)
            curve[str(clients)] = point = measure_load(server, clients, arguments.seconds)
            if not keeps(point, bound_us):
                break
            best = clients
        shares = {}
        for fraction in FRACTIONS if best else ():
            clients = max(1, int(fraction * best))
            print(f"{clients} clients, {100 * fraction:.0f} % …", file=sys.stderr, flush=True)
            shares[str(fraction)] = measure_load(server, clients, 2 * arguments.seconds)
    with ServerProcess(arguments.model, *interval) as server:
        clients = min(MOST_CLIENTS, 2 * max(best, 1))
        print(f"{clients} clients, admission on …", file=sys.stderr, flush=True)
        admitted = measure_load(server, clients, arguments.seconds)
    own, others = cores()
    return {
        "benchmark": "serve",
        "machine": machine_card(),
        "bound_ms": bound_us / 1000,
        "interval_hops": arguments.interval,
        "shares_a_core": own == others or own <= others,
        "streams_per_core": best,
        "curve": curve,
        "fractions": shares,
        "admission": admitted,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the result as tables."""
    columns = ["clients", "served", "p50, ms", "p99, ms", "max, ms", "late hops", "lost samples",
               "server's CPU", "µs of it a hop"]  # fmt: skip

    def row(name: str, point: dict[str, Any]) -> list[str]:
        keys = ("p50_us", "p99_us", "max_us")
        times = [f"{point[key] / 1000:.1f}" if key in point else "" for key in keys]
        return [name, f"{point['served']}", *times, f"{point['late_hops']:.0f}",
                f"{point['lost_samples']}", f"{100 * point['cpu']:.0f} %",
                f"{point['cpu_us']:.0f}"]  # fmt: skip

    best, bound = result["streams_per_core"], result["bound_ms"]
    rows = [row(name, point) for name, point in result["curve"].items()]
    shares = [row(f"{100 * float(f):.0f} % of {best}: {point['clients']}", point)
              for f, point in result["fractions"].items()]  # fmt: skip
    admission = result["admission"]
    shares.append(row(f"{admission['clients']}, admission on", admission))
    remarks = [Table("The clients ran on the server's core")] if result["shares_a_core"] else []
    title = f"{best} streams on one core with p99 of the added latency below {bound:.0f} ms"
    return [Table(title, columns, rows), Table("Longer, and with admission", columns, shares),
            *remarks]  # fmt: skip


def main() -> None:
    """Measure; print tables or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, help="of sound per client and load")
    parser.add_argument("--interval", type=int, default=1, help="hops between two steps")
    parser.add_argument("--clients-of", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if max(arguments.sizes) > MOST_CLIENTS or not 0 < arguments.seconds <= MOST_SECONDS:
        parser.error(f"give up to {MOST_CLIENTS} clients and {MOST_SECONDS:g} seconds")
    if arguments.clients_of:
        if others := cores()[1]:
            os.sched_setaffinity(0, others)
        run = asyncio.run(load(arguments.clients_of, arguments.sizes[0], arguments.seconds))
        print(json.dumps(asdict(run)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended, too
    result = measure(arguments)
    print_result(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
