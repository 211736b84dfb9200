"""Does the static page separate a microphone in real time, in Chromium, on one core?

Exports the page, serves it with Python's static server and opens it in headless Chromium on one
core, drawing included, with a fake microphone that plays the demo clip. The figures are those
that the page shows: the mean time of a step against the hop's duration, and the sound that the
browser's output missed. Chromium's own count of underruns is printed beside them, and how far the
audio clock fell behind the computer's. Then the engine alone runs on the page's main thread,
whose clock is finer, for the spread of its step times.

The browser runs as it does for an ordinary user, without the right to real-time scheduling. With
it, as root has it (--realtime), Chromium 156 on a single core lost up to a second of sound half a
minute after the start in most runs, with near-empty AudioWorklets too. A trace shows the audio
thread busy with the garbage collector's sweeper then, which seems to wait for a thread that gets
no time on the same core.

    python -m benchmarks.page [--json] [--seconds 60] [--core 0] [--keep FOLDER] [--realtime]
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import http.server
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile
import soxr

from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.tables import Table, print_result
from rtmtass.errors import RtmtassError
from rtmtass.native.export import Settings, export_page
from rtmtass.weights import DEFAULT, demo_clip

RATE = 44100
"""Of Chromium's fake microphone."""
HOPS_ALONE = 2000
_PR_CAPBSET_DROP, _CAP_SYS_NICE = 24, 23  # linux/prctl.h, linux/capability.h
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_MS = 120_000

_WATCH = """() => {
    const Context = window.AudioContext;
    window.AudioContext = class extends Context {
        constructor(options) { super(options); window.context = this; }
    };
}"""
_CLOCKS = """() => {
    const { contextTime, performanceTime } = context.getOutputTimestamp();
    const { underrunEvents = null, underrunDuration = null } = context.playbackStats ?? {};
    return { lag_ms: performanceTime - 1000 * contextTime, events: underrunEvents,
        seconds: underrunDuration, rate: context.sampleRate,
        latency_ms: 1000 * (context.baseLatency + context.outputLatency) };
}"""
_ALONE = """async ([hops, file]) => {
    const { open } = await import("./rtmtass.js");
    const bytes = async (name) => (await fetch(name)).arrayBuffer();
    const module = await WebAssembly.compile(await bytes("rtmtass.wasm"));
    const model = open(module, await bytes(file));
    const rate = context.sampleRate, size = Math.floor((model.hop * rate) / model.sampleRate);
    const stream = model.stream({ sampleRate: rate, output: "both" });
    const input = [Float32Array.from({ length: size }, (_, i) => Math.sin(i * i / 500) / 4)];
    const outs = Array.from({ length: stream.outputs }, () => new Float32Array(size));
    const times = [];
    for (let hop = -200; hop < hops; hop++) { // the first ones are compiled
        const began = performance.now();
        stream.process(input, outs);
        if (hop >= 0) times.push(performance.now() - began);
        if (hop % 50 === 0) await new Promise((resolve) => setTimeout(resolve));
    }
    times.sort((a, b) => a - b);
    const at = (share) => times[Math.min(times.length - 1, Math.floor(share * times.length))];
    return { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1) };
}"""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder; yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_clip(path: Path) -> None:
    """Write the demo clip as the fake microphone takes it."""
    sound, rate = soundfile.read(demo_clip(), dtype="float32", always_2d=True)
    soundfile.write(path, soxr.resample(sound.mean(axis=1), rate, RATE), RATE, "PCM_16")


def drop_realtime_right() -> None:
    """Let no program that is started from here set priorities; without effect for a user."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE, 0, 0, 0)


def measure(folder: Path, clip: Path, seconds: float, core: int) -> dict[str, Any]:
    """Run the page of a folder; `clip` is written. Plain values for JSON."""
    from playwright.sync_api import sync_playwright

    browser_path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if browser_path is None:
        raise RtmtassError("there is no Chromium; apt-get install chromium")
    write_clip(clip)
    os.sched_setaffinity(0, {core})  # inherited by the browser
    with serving(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={clip}",
            ],
        )
        try:
            return {
                "benchmark": "page",
                "machine": machine_card(),
                "chromium": browser.version,
                "seconds": seconds,
                **run_page(browser.new_page(), address, seconds),
            }
        finally:
            browser.close()


def run_page(page: Any, address: str, seconds: float) -> dict[str, Any]:
    """Start the page by its button, wait, and return what it and the browser report."""
    page.set_default_timeout(_START_MS)
    page.add_init_script(f"({_WATCH})()")
    page.goto(address)
    page.get_by_role("button", name="Start").click()
    running = ".devices .dot[data-tone=good]"
    page.wait_for_function(f"document.querySelector({running!r})", polling=100)
    before = page.evaluate(_CLOCKS)
    page.wait_for_timeout(1000 * seconds)
    after = page.evaluate(_CLOCKS)
    figures = {
        name: page.inner_text(f".figures [data-name={name}]").replace("\n", " ")
        for name in ("latency", "step", "cpu", "xruns", "late")
    }
    step_ms, hop_ms = (float(word) for word in _step_words(figures["step"]))
    page.get_by_role("button", name="Stop").click()
    page.wait_for_function("document.querySelector('.dot[data-tone=idle]')", polling=100)
    file = page.evaluate("fetch('about.json').then((answer) => answer.json())")["file"]
    return {
        "rate": after["rate"],
        "shown": figures,
        "mean_step_ms": step_ms,
        "share_of_deadline": step_ms / hop_ms,
        "output_latency_ms": after["latency_ms"],
        "underruns": _difference(after, before, "events"),
        "underrun_s": _difference(after, before, "seconds"),
        "clock_behind_ms": after["lag_ms"] - before["lag_ms"],
        "engine_alone": page.evaluate(_ALONE, [HOPS_ALONE, file]),
    }


def _step_words(text: str) -> tuple[str, str]:
    """Return step and deadline from "Step 1.06 ms of 16 · longest 3.0"."""
    words = text.split()
    return words[1], words[4]


def _difference(after: dict[str, Any], before: dict[str, Any], name: str) -> Any:
    return None if after[name] is None else after[name] - before[name]


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the result as tables."""
    alone = result["engine_alone"]
    rows = [
        ["step in the audio thread, mean", f"{result['mean_step_ms']:.2f} ms"],
        ["share of the deadline", f"{100 * result['share_of_deadline']:.0f} %"],
        ["engine alone: p50, p99, max",
         f"{alone['p50_ms']:.2f}, {alone['p99_ms']:.2f}, {alone['max_ms']:.2f} ms"],
        ["underruns that Chromium counts", f"{result['underruns']}"],
        ["sound missed", f"{1000 * (result['underrun_s'] or 0):.0f} ms"],
        ["audio clock behind the computer's", f"{result['clock_behind_ms']:.1f} ms"],
        ["buffers of the output", f"{result['output_latency_ms']:.0f} ms"],
        *([f"the page shows: {name}", text] for name, text in result["shown"].items()),
    ]  # fmt: skip
    caption = (
        f"Chromium {result['chromium']}, {result['seconds']:g} s at {result['rate']} Hz on one core"
    )
    return [Table(caption, ["figure", "value"], rows)]


def main() -> None:
    """Measure; print tables or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of sound")
    parser.add_argument("--core", type=int, default=0, help="on which all runs")
    parser.add_argument("--keep", type=Path, help="folder to export to, and to reuse as it is")
    parser.add_argument("--realtime", action="store_true", help="leave the browser that right")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.realtime:
        drop_realtime_right()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = arguments.keep or Path(name) / "site"
            if not (folder / "about.json").exists():
                print("exporting the page: a minute or more", file=sys.stderr)
                export_page(DEFAULT, folder, Settings())
            result = measure(folder, Path(name) / "clip.wav", arguments.seconds, arguments.core)
    except RtmtassError as error:
        sys.exit(f"page: {error}")
    print_result(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
