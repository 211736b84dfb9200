"""Separate many independent streams with one call per hop; weights are read once for all.

python -m rtmtass.examples.batch 16
"""

from __future__ import annotations

import sys
import time

import numpy as np

import rtmtass


def main(streams: int = 16, seconds: float = 1.0) -> None:
    """Step `streams` streams of noise through `seconds` of audio; print the worst step."""
    batch = rtmtass.load_batch(streams=streams)
    deadline_ms = 1000 * batch.hop / batch.sample_rate
    rng = np.random.default_rng(0)
    steps_ms = []
    for _ in range(int(seconds * batch.sample_rate / batch.hop)):
        blocks = 0.1 * rng.standard_normal((streams, batch.hop), np.float32)
        started = time.perf_counter()
        batch.process(blocks)  # (16, 256) -> (16, 3, 256)
        steps_ms.append(1000 * (time.perf_counter() - started))
    batch.reset(0)  # stream 0 ends here; a new one takes its slot, the others run on
    p50, p99 = np.percentile(steps_ms, [50, 99])
    print(f"{streams} streams, a hop every {deadline_ms:.0f} ms:", end=" ")
    print(f"step p50 {p50:.2f}, p99 {p99:.2f}, max {max(steps_ms):.2f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
