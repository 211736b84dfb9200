"""`rtmtass live` over a long time: drift, dropouts and memory growth.

jackd with a dummy driver replaces the device. Another process is the microphone and the
loudspeaker: it loops the demo clip, and since all gains are 0 dB, it must receive the
same clip, sample by sample, after the reported delay. Samples that differ by more than
1e-4 are counted. The engine's statistics and memory are read once a second; the result
has a row per ten seconds, and histograms. Needs jackd and JACK-Client, see
tests/jack_rig.py.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import FOLDER, RESULTS, module_command
from benchmarks.harness.machine_info import machine_card

sys.path.insert(0, str(FOLDER.parent / "tests"))

from jack_rig import JackServer, missing_parts

CLIP = FOLDER.parent / "models" / "rtmtass-small" / "demo.flac"
TOLERANCE = 1e-4
BUFFER = 1 << 15
"""Samples kept of what was sent and received."""
ROW_S = 10
"""Seconds per row of the result."""
BINS = 20


def play_and_compare(rate: int) -> None:
    """Loop the clip and compare what comes back; print a line of JSON every second."""
    import jack

    from rtmtass.dsp.resample import Resampler
    from rtmtass.io.files import read_file

    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    clip, clip_rate = read_file(CLIP)
    if clip_rate != rate:
        resampler = Resampler(clip_rate, rate, 1)
        clip = np.concatenate([resampler.process(clip[:, :1]), resampler.flush()])
    clip = 0.5 * clip[:, 0]
    client = jack.Client("card", no_start_server=True)
    microphone, speaker = client.outports.register("mic"), client.inports.register("spk")
    sent, received = np.zeros(BUFFER, np.float32), np.zeros(BUFFER, np.float32)
    position = np.zeros(1, np.int64)
    delay: list[int] = []
    counts = {"wrong": 0, "worst": 0.0, "xruns": 0, "compared": 0}
    phase = np.arange(client.blocksize)

    @client.set_process_callback
    def process(n: int) -> None:
        t = int(position[0])
        x = clip[(t + phase) % len(clip)]
        microphone.get_array()[:] = x
        y = speaker.get_array()
        sent[(t + phase) % BUFFER] = x
        received[(t + phase) % BUFFER] = y
        if delay:
            error = np.abs(y - sent[(t + phase - delay[0]) % BUFFER])
            counts["wrong"] += int((error > TOLERANCE).sum())
            counts["worst"] = max(counts["worst"], float(error.max()))
            counts["compared"] += n
        position[0] = t + n

    @client.set_xrun_callback
    def xrun(_delay: float) -> None:
        counts["xruns"] += 1

    gc.collect()
    gc.disable()
    with client:
        live_ports: list[Any] = []
        while len(live_ports) < 2:
            time.sleep(0.1)
            ports = client.get_ports("PortAudio", is_audio=True)
            live_ports = [p for p in ports if p.shortname in ("in_0", "out_0")]
        time.sleep(0.5)
        for port in live_ports:
            for other in client.get_all_connections(port):
                client.disconnect(*((other, port) if port.is_input else (port, other)))
        client.connect(microphone, next(p for p in live_ports if p.is_input))
        client.connect(next(p for p in live_ports if p.is_output), speaker)
        time.sleep(3)
        order = (int(position[0]) + np.arange(BUFFER)) % BUFFER
        size = 2 * BUFFER
        spec = np.fft.rfft(received[order], size) * np.conj(np.fft.rfft(sent[order], size))
        delay.append(int(np.argmax(np.fft.irfft(spec)[: BUFFER // 2])))
        while True:
            time.sleep(1)
            print(json.dumps({"delay": delay[0], **counts}), flush=True)


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def soak(minutes: float, rate: int, period: int) -> dict[str, Any]:
    """Measure everything; plain values for JSON."""
    server = JackServer(rate=rate, period=period, channels=1)
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}

    def start(command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    live = [sys.executable, "-m", "rtmtass", "live", "--json", "--duration", str(60 * minutes)]
    if period != 256:
        live += ["--block", str(period)]
    card = [*module_command("benchmarks.soak"), "--card", str(rate)]
    seconds: list[dict[str, Any]] = []
    card_counts: dict[str, Any] = {}
    try:
        with start(live) as engine, start(card) as other:
            assert engine.stdout
            assert other.stdout
            os.set_blocking(other.stdout.fileno(), False)
            for line in engine.stdout:
                stats = json.loads(line)
                if "event" in stats or "summary" in stats:
                    continue
                stats["memory_mb"] = memory_mb(engine.pid)
                while card_line := other.stdout.readline():
                    card_counts = json.loads(card_line)
                stats["card"] = card_counts
                seconds.append(stats)
            other.kill()
            if engine.wait():
                raise SystemExit(f"rtmtass live exited with status {engine.returncode}")
    finally:
        server.close()
    return {
        "benchmark": "soak",
        "machine": machine_card(),
        "minutes": minutes,
        "rate": rate,
        "block": period,
        "summary": summary(seconds),
        "histograms": histograms(seconds),
        "course": course(seconds),
    }


def summary(seconds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the totals: counts that should be zero, and figures that should not grow."""
    last, card = seconds[-1], seconds[-1]["card"]
    settled = seconds[min(len(seconds) - 1, 30)]
    return {
        "start_up_s": last["start_up_s"],
        "latency_ms": last["device"]["latency"]["total_ms"],
        "hops": last["hops"],
        "deadline_misses": last["deadline_misses"],
        "skipped": last["skipped"],
        "overruns": last["device"]["overruns"],
        "underruns": last["device"]["underruns"],
        "xruns_of_jackd": card.get("xruns"),
        "samples_compared": card.get("compared"),
        "samples_wrong": card.get("wrong"),
        "delay_samples": card.get("delay"),
        "step_ms": last["steps"],
        "memory_mb_at_30_s": settled["memory_mb"],
        "memory_mb_at_the_end": last["memory_mb"],
        "cpu_share_mean": float(np.mean([s["cpu_share"] for s in seconds])),
        "drift_ppm": last["device"]["drift_ppm"],
    }


def course(seconds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per `ROW_S` seconds: counts at its end, medians and means within it."""
    rows = []
    for start in range(0, len(seconds), ROW_S):
        part = seconds[start : start + ROW_S]
        last, card = part[-1], part[-1]["card"]
        rows.append(
            {
                "s": round(last["seconds"], 1),
                "late": last["deadline_misses"] + last["skipped"],
                "lost": last["device"]["overruns"] + last["device"]["underruns"],
                "xruns": card.get("xruns", 0),
                "wrong": card.get("wrong", 0),
                "p50_ms": round(float(np.median([s["steps"]["recent_ms"] for s in part])), 3),
                "p99_ms": round(last["steps"]["p99_ms"], 3),
                "max_ms": round(last["steps"]["max_ms"], 3),
                "drift_ppm": round(last["device"]["drift_ppm"], 1),
                "cpu": round(float(np.mean([s["cpu_share"] for s in part])), 4),
                "memory_mb": round(last["memory_mb"], 1),
            }
        )
    return rows


def histograms(seconds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return histograms of the per-second figures: {name: {from, to, counts}}."""
    values = {
        "step_ms": [s["steps"]["recent_ms"] for s in seconds],
        "cpu_share": [s["cpu_share"] for s in seconds],
        "fill_samples": [s["device"]["fill"] for s in seconds],
    }
    by_name = {}
    for name, each in values.items():
        counts, edges = np.histogram(each, BINS)
        ends = {"from": round(float(edges[0]), 4), "to": round(float(edges[-1]), 4)}
        by_name[name] = {**ends, "counts": counts.tolist()}
    return by_name


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot the figures over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = result["course"]
    minutes = [row["s"] / 60 for row in rows]
    panels = (
        ("ms per step", ("p50_ms", "p99_ms", "max_ms")),
        ("total count", ("late", "lost", "xruns", "wrong")),
        ("MB resident", ("memory_mb",)),
        ("drift in ppm", ("drift_ppm",)),
    )
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True)
    for axis, (label, keys) in zip(axes, panels, strict=True):
        for key in keys:
            axis.plot(minutes, [row[key] for row in rows], label=key.replace("_", " "))
        axis.set_ylabel(label)
        values = [row[key] for key in keys for row in rows]
        axis.set_ylim(1.2 * min(0.0, *values), 1.2 * max(1.0, *values))
        axis.legend(loc="upper left", ncols=4)
    axes[-1].set_xlabel("minutes")
    figure.suptitle(f"rtmtass live, {result['minutes']:g} min, {result['rate']} Hz")
    figure.savefig(path, dpi=110)


def as_text(result: dict[str, Any]) -> str:
    """Return JSON with one line per entry and per row of the course."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    rows = ",\n  ".join(map(json.dumps, result["course"]))
    lines = [line for line in lines if not line.startswith('"course"')]
    return "{\n" + ",\n".join([*lines, f'"course": [\n  {rows}\n]']) + "\n}\n"


def main() -> None:
    """Measure, print the summary, save JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=int, default=16000)
    parser.add_argument("--period", type=int, default=256, help="samples per block")
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.json")
    parser.add_argument("--card", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.card:
        play_and_compare(arguments.card)
    if why := missing_parts():
        raise SystemExit(why)
    result = soak(arguments.minutes, arguments.rate, arguments.period)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(as_text(result))
    draw(result, arguments.output.with_suffix(".png"))
    print(json.dumps(result["summary"], indent=2))


if __name__ == "__main__":
    main()
