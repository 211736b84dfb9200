"""Long recordings: how fast, and does memory stay flat however long they are?

Each length is a 48 kHz stereo 16-bit WAV separated into three stems by the
command itself, in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile
import soxr
from card import machine_card

from rtmtass.weights import demo_clip


def write_recording(path: Path, minutes: float) -> None:
    """Write the demo clip over and over, as 48 kHz stereo with something above 8 kHz."""
    clip, rate = soundfile.read(demo_clip(), dtype="float32")
    wide = soxr.resample(clip, rate, 48000)
    hiss = 0.003 * np.random.default_rng(0).standard_normal(len(wide)).astype(np.float32)
    stereo = np.stack([wide + hiss, 0.5 * wide - hiss], axis=1)
    left = round(minutes * 60 * 48000)
    with soundfile.SoundFile(path, "w", 48000, 2, "PCM_16") as file:
        while left > 0:
            file.write(stereo[:left])
            left -= len(stereo)


def separate(path: Path) -> dict[str, float]:
    """Run the command on a file; seconds, times real time, peak memory."""
    duration = soundfile.info(path).duration
    command = [sys.executable, "-m", "rtmtass", "separate", str(path), "--quiet"]
    start = time.perf_counter()
    child = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(child, 0)
    elapsed = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    return {
        "minutes": duration / 60,
        "seconds": elapsed,
        "times_real_time": duration / elapsed,
        "peak_rss_mb": usage.ru_maxrss / 1024,
    }


def main() -> None:
    """Print the curve, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--folder", type=Path, help="where the recordings go (25 GB for 8 hours)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        warm = Path(folder) / "warm.wav"
        write_recording(warm, 0.1)
        separate(warm)
        for minutes in arguments.minutes:
            path = Path(folder) / "recording.wav"
            write_recording(path, minutes)
            rows.append(separate(path))
            for made in Path(folder).glob("recording*"):
                made.unlink()
    result: dict[str, Any] = {
        "benchmark": "files",
        "machine": machine_card(),
        "48 kHz stereo": rows,
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(result["machine"])
    for row in rows:
        print("  ".join(f"{k} {v:9.1f}" for k, v in row.items()))


if __name__ == "__main__":
    main()
