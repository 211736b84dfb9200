"""How long does a hop take in the C library and in WebAssembly, beside Python and rivals in C?

The library is built from the kernels that Python runs, for each processor that it may meet.
All its builds that this processor runs take turns with Python's `Separator` and with the
WebAssembly module in Node, on one core; ratios are to Python in the same precision. Each is
fed a hop of the demo clip a call, "hot" one after the other, then "paced", one every 16 ms
(the preferred build only). Their outputs are compared first.

RNNoise and DeepFilterNet take turns with them, called in the same way. They remove noise
from speech, one stem; ours makes three. They run at 48 kHz in frames of 10 ms, so they are
compared by real-time factor, with ours at 48 kHz, resampling included.

    python -m benchmarks.native [--json] [--python RIVALS/bin/python] [--seconds 60]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
import soundfile
import soxr

from benchmarks.harness.affinity import stay_on_one_core
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.native_calls import (
    RIVAL_HOP,
    RIVAL_RATE,
    NativeLibrary,
    NodeHops,
    Samples,
    Step,
    rivals,
)
from benchmarks.harness.tables import Table, print_result
from rtmtass import load
from rtmtass.benchmark import TURN, Hops, pace, take_turns
from rtmtass.errors import RtmtassError
from rtmtass.native.export import Settings, export_library, export_wasm
from rtmtass.native.model_file import write_model
from rtmtass.native.targets import find_target
from rtmtass.weights import DEFAULT, demo_clip, open_model

PRECISIONS = ("int8", "f32")
COMPARED = 60
"""Hops used to compare the outputs, before the timing."""
GOAL_BYTES = 1_000_000
"""Most bytes of a library without its model."""
TIME_FRACTIONS = {"hot": 0.5, "paced": 0.5}
WIDE = 48000
"""Rate in Hz at which ours is compared with the rivals."""
HOP_S = 0.016


class Clip:
    """The demo clip.

    Attributes:
        narrow, wide: at the model's rate and at `WIDE`, (n,).
    """

    def __init__(self) -> None:
        sound, rate = soundfile.read(demo_clip(), dtype="float32", always_2d=True)
        mono = sound.mean(axis=1)
        self.narrow = soxr.resample(mono, rate, 16000).astype(np.float32)
        self.wide = soxr.resample(mono, rate, WIDE).astype(np.float32)


class Candidates:
    """What is timed.

    Attributes:
        calls: by name; each returns the time of a hop in seconds.
        hop_s: duration of its hop, by name.
        paced: names of what is timed at the live rate too.
        peers: name of what Python runs, by name of what it is compared with.
        delta: largest difference to the peer's output, by name.
        missing: why the others aren't timed.
    """

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[], float]] = {}
        self.hop_s: dict[str, float] = {}
        self.paced: set[str] = set()
        self.peers: dict[str, str] = {}
        self.delta: dict[str, float] = {}
        self.missing: dict[str, str] = {}

    def add(self, name: str, call: Callable[[], float], hop_s: float, *, is_paced: bool) -> None:
        self.calls[name], self.hop_s[name] = call, hop_s
        if is_paced:
            self.paced.add(name)

    def compare(self, name: str, peer: str, late: Samples, stems: Samples) -> None:
        """Compare the hops of a stream, (n, S, hop), with those of a peer a hop - 1 earlier."""
        late, stems = (np.concatenate(list(hops), axis=1) for hops in (late, stems))
        shift = stems.shape[1] // COMPARED - 1
        self.peers[name] = peer
        self.delta[name] = float(np.abs(late[:, shift:] - stems[:, :-shift]).max())


def first_hops(step: Step, sound: Samples, hop: int) -> Samples:
    """Return what a step makes of the first hops, (COMPARED, S, hop)."""
    blocks = sound[: COMPARED * hop].reshape(COMPARED, hop, 1)
    return np.array([np.array(step(block)).reshape(-1, hop) for block in blocks])


def our_candidates(found: Candidates, folder: Path, clip: Clip) -> dict[str, int]:
    """Add Python, the library and WebAssembly; return the sizes of their files in bytes."""
    sizes = {}
    target = find_target()
    library = NativeLibrary(folder / "native" / "lib" / target.shared_name)
    (folder / "sound.f32").write_bytes(clip.narrow.tobytes())
    for precision in PRECISIONS:
        path = folder / f"{precision}.rtm"
        path.write_bytes(write_model(open_model(DEFAULT), precision))
        sizes[f"model, {precision}"] = path.stat().st_size
        separator = load(DEFAULT, block=256, precision=precision)
        hop = separator.hop

        def python(block: Samples, process: Step = separator.process) -> Any:
            return process(block[:, 0])

        peer = f"Python {precision}"
        stems = first_hops(python, clip.narrow, hop)
        found.add(peer, Hops(python, hop, sound=clip.narrow), HOP_S, is_paced=True)
        add_variants(found, library, path, peer, stems, clip)
        try:
            node = NodeHops(folder / "wasm", path, folder / "sound.f32", hop, COMPARED)
        except RuntimeError as error:
            found.missing[f"WebAssembly {precision}"] = str(error)
            continue
        name = f"WebAssembly {precision}"
        found.compare(name, peer, node.first, stems)
        found.add(name, node, HOP_S, is_paced=True)
    sizes |= {
        target.shared_name: (folder / "native" / "lib" / target.shared_name).stat().st_size,
        "rtmtass.wasm": (folder / "wasm" / "rtmtass.wasm").stat().st_size,
    }
    return sizes


def add_variants(
    found: Candidates, library: NativeLibrary, path: Path, peer: str, stems: Samples, clip: Clip
) -> None:
    """Add the builds of the library that this processor runs, and the preferred one at `WIDE`."""
    n_stems, hop, precision = stems.shape[1], stems.shape[2], path.stem
    is_preferred = True
    for variant in find_target().variants:
        name = f"C {variant.name} {precision}"
        try:
            model = library.open(path.read_bytes(), variant.name)
        except RuntimeError as error:
            found.missing[name] = str(error)
            continue
        step = library.step(model, n_stems, 16000, hop)
        found.compare(name, peer, first_hops(step, clip.narrow, hop), stems)
        found.add(name, Hops(step, hop, sound=clip.narrow), HOP_S, is_paced=is_preferred)
        if is_preferred and precision == PRECISIONS[0]:
            wide = WIDE * hop // 16000
            step = library.step(model, n_stems, WIDE, wide)
            found.add(f"{name}, 48 kHz", Hops(step, wide, sound=clip.wide), HOP_S, is_paced=True)
        is_preferred = False


def build(folder: Path) -> None:
    """Export what an earlier run hasn't left in a folder."""
    for name, export in (("native", export_library), ("wasm", export_wasm)):
        if not (folder / name).exists():
            print(f"building {name}: a minute or more", file=sys.stderr)
            export(DEFAULT, folder / name, Settings())


def measure(python: str, seconds: float, kept: Path | None = None) -> dict[str, Any]:
    """Build, then measure everything; plain values for JSON."""
    found, clip = Candidates(), Clip()
    with tempfile.TemporaryDirectory() as name:
        folder = kept or Path(name)
        build(folder)
        shutil.copy(folder / "wasm" / "rtmtass.js", folder / "wasm" / "rtmtass.mjs")
        sizes = our_candidates(found, folder, clip)
        steps, missing = rivals(python)
        found.missing |= missing
        for rival, step in steps.items():
            call = Hops(step, RIVAL_HOP, sound=clip.wide)
            found.add(rival, call, RIVAL_HOP / RIVAL_RATE, is_paced=True)
        return {
            "benchmark": "native",
            "machine": machine_card(),
            "node": next((c.version for c in nodes(found)), ""),
            "rows": rows(found, seconds),
            "bytes": sizes,
            "not_run": found.missing,
        }


def nodes(found: Candidates) -> list[NodeHops]:
    return [call for call in found.calls.values() if isinstance(call, NodeHops)]


def rows(found: Candidates, seconds: float) -> dict[str, Any]:
    """Return the times and ratios of all candidates."""
    for node in nodes(found):
        node.turn = TURN
    try:
        hot = take_turns(found.calls, TIME_FRACTIONS["hot"] * seconds)
        for node in nodes(found):
            node.turn = 1
        live = {name: call for name, call in found.calls.items() if name in found.paced}
        paced = pace(live, TIME_FRACTIONS["paced"] * seconds, HOP_S)
    finally:
        for node in nodes(found):
            node.close()
    return {name: row(name, found, hot, paced) for name in found.calls}


def row(
    name: str,
    found: Candidates,
    hot: Mapping[str, dict[str, float]],
    paced: Mapping[str, dict[str, float]],
) -> dict[str, Any]:
    """Return one candidate's figures."""
    peer = found.peers.get(name)
    ours = next((each for each in found.calls if each.endswith(", 48 kHz")), name)
    p50_s = hot[name]["p50_us"] / 1e6
    rtf = p50_s / found.hop_s[name]
    is_wide = name == ours or found.hop_s[name] != HOP_S
    return {
        "hot": hot[name],
        "paced": paced.get(name),
        "rtf": rtf,
        "to_python": hot[name]["p50_us"] / hot[peer]["p50_us"] if peer else None,
        "to_ours_at_48_khz": rtf / (hot[ours]["p50_us"] / 1e6 / HOP_S) if is_wide else None,
        "largest_difference": found.delta.get(name),
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the result as tables."""
    keys = ("p50_us", "p99_us", "max_us")
    lines = []
    for name, values in result["rows"].items():
        cells = [name, *(f"{values['hot'][k]:.0f}" for k in keys)]
        cells += [f"{values['paced'][k]:.0f}" for k in keys] if values["paced"] else [""] * 3
        delta = values["largest_difference"]
        to_python, to_ours = values["to_python"], values["to_ours_at_48_khz"]
        cells += [
            "" if to_python is None else f"{to_python:.2f}x",
            f"{values['rtf']:.4f}",
            "" if to_ours is None else f"{to_ours:.2f}x",
            "" if delta is None else f"{delta:.0e}" if delta else "0",
        ]
        lines.append(cells)
    columns = ["µs per call", "hot p50", "p99", "max", "paced p50", "p99", "max"]
    columns += ["over Python", "RTF", "RTF over ours at 48 kHz", "largest difference to Python"]
    sizes = [
        [name, f"{n / 1e6:.2f}", "" if name.startswith("model") else f"{GOAL_BYTES / 1e6:g}"]
        for name, n in result["bytes"].items()
    ]
    hops = next(iter(result["rows"].values()))["hot"]["n"]
    return [
        Table(
            "A call processes 16 ms, of RNNoise and DeepFilterNet3 10 ms at 48 kHz; these remove"
            " noise only, ours makes three stems. The real-time factor (RTF) is hot p50 over the"
            " duration of a call."
        ),
        Table(f"rtmtass-small, {hops} calls each, Node {result['node'] or 'missing'}",
              columns, lines),
        Table("Files", ["file", "MB", "goal, at most"], sizes),
        *(Table(f"not run: {name}: {why}") for name, why in result["not_run"].items()),
    ]  # fmt: skip


def main() -> None:
    """Measure; print tables or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter with the rivals")
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, about")
    parser.add_argument("--keep", type=Path, help="folder to build in, and to reuse as it is")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    stay_on_one_core()
    try:
        result = measure(arguments.python, arguments.seconds, arguments.keep)
    except RtmtassError as error:
        sys.exit(f"native: {error}")
    print_result(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
