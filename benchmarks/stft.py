"""How long does a hop through the STFT take, with our code and with other libraries?

The work is the same for all: the next `hop` samples in, window, FFT, a real mask on every
bin, inverse FFT, window, overlap-add, `hop` samples out. First hop by hop, as when live;
then a long recording at once, as from a file. One thread. The candidates take turns in
short rounds, so that other load on the machine affects all alike; ratios are more
reliable than times. A hop in a compiled loop is too short for the clock: its times are
means over the hops of a round.

    python -m benchmarks.stft [--json] [--rounds 60] [--seconds 600]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.harness.affinity import stay_on_one_core
from benchmarks.harness.machine_info import machine_card
from rtmtass.config import StftConfig
from rtmtass.dsp.stft import (
    analyse_hop,
    analyse_hops,
    fft_tables,
    synthesise_hop,
    synthesise_hops,
    windows,
    work_size,
)

HOPS_PER_ROUND = 200
Floats = NDArray[Any]
Hop = Callable[[Floats], Floats]
Bulk = Callable[[Floats], Floats]


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# Ours


@njit(nogil=True)
def masked_hop(
    block: Floats,
    history: Floats,
    overlap: Floats,
    mask: Floats,
    windows_of: tuple[Floats, Floats],
    tables: Any,
    work: Floats,
    spec: Floats,
    out: Floats,
) -> None:
    analyse_hop(block, history, windows_of[0], tables, work, spec[0], spec[1])
    for part in range(2):
        for k in range(mask.size):
            spec[part, k] *= mask[k]
    synthesise_hop(spec[0], spec[1], overlap, windows_of[1], tables, work, out)


@njit(nogil=True)
def masked_hops(
    samples: Floats,
    history: Floats,
    overlap: Floats,
    mask: Floats,
    windows_of: tuple[Floats, Floats],
    tables: Any,
    work: Floats,
    spec: Floats,
    outs: Floats,
) -> None:
    hop = outs.shape[1]
    for t in range(outs.shape[0]):
        block = samples[t * hop : (t + 1) * hop]
        masked_hop(block, history, overlap, mask, windows_of, tables, work, spec, outs[t])


def initial_state(config: StftConfig, mask: Floats) -> tuple[Any, ...]:
    return (
        np.zeros(config.n_fft, np.float32),
        np.zeros(config.synthesis, np.float32),
        mask,
        windows(config),
        fft_tables(config.n_fft),
        np.zeros(work_size(config.n_fft), np.float32),
        np.zeros((2, config.n_bins), np.float32),
    )


def our_hop(config: StftConfig, mask: Floats) -> Hop:
    state, out = initial_state(config, mask), np.zeros(config.hop, np.float32)

    def step(block: Floats) -> Floats:
        masked_hop(block, *state, out)
        return out

    return step


def our_loop(config: StftConfig, mask: Floats) -> Bulk:
    state = initial_state(config, mask)
    outs = np.zeros((HOPS_PER_ROUND, config.hop), np.float32)

    def run(samples: Floats) -> Floats:
        masked_hops(samples, *state, outs)
        return outs.ravel()

    return run


def our_bulk(config: StftConfig, n: int) -> Bulk:
    analysis, synthesis = windows(config)
    tables, work = fft_tables(config.n_fft), np.zeros(work_size(config.n_fft), np.float32)
    specs = np.zeros((2, n // config.hop, config.n_bins), np.float32)
    out = np.zeros(n, np.float32)

    def run(samples: Floats) -> Floats:
        history, overlap = (np.zeros(m, np.float32) for m in (config.n_fft, config.synthesis))
        analyse_hops(samples, history, analysis, tables, work, specs[0], specs[1])
        synthesise_hops(specs[0], specs[1], overlap, synthesis, tables, work, out)
        return out[config.delay :]

    return run


# Other libraries


def array_hop(
    config: StftConfig,
    mask: Floats,
    rfft: Callable[..., Any],
    irfft: Callable[..., Any],
    dtype: Any = np.float32,
) -> Hop:
    """Return a hop of array operations around a pair of FFTs; all buffers are reused."""
    analysis, synthesis = (w.astype(dtype) for w in windows(config))
    history, overlap = np.zeros(config.n_fft, dtype), np.zeros(config.synthesis, dtype)
    frame, out = np.zeros(config.n_fft, dtype), np.zeros(config.hop, dtype)
    n_fft, hop, start = config.n_fft, config.hop, config.n_fft - config.synthesis

    def step(block: Floats) -> Floats:
        history[:-hop] = history[hop:]
        history[-hop:] = block
        np.multiply(history, analysis, out=frame)
        spec = rfft(frame)
        spec *= mask
        overlap[:] += irfft(spec, n_fft)[start:] * synthesis
        out[:] = overlap[:hop]
        overlap[:-hop] = overlap[hop:]
        overlap[-hop:] = 0.0
        return out

    return step


def scipy_hop(config: StftConfig, mask: Floats) -> Hop:
    import scipy.fft

    return array_hop(config, mask, scipy.fft.rfft, scipy.fft.irfft)


def fftw_hop(config: StftConfig, mask: Floats) -> Hop:
    import pyfftw

    samples = pyfftw.empty_aligned(config.n_fft, np.float32)
    bins = pyfftw.empty_aligned(config.n_bins, np.complex64)
    forward = pyfftw.FFTW(samples, bins, flags=("FFTW_MEASURE",))
    masked_bins = pyfftw.empty_aligned(config.n_bins, np.complex64)
    frame = pyfftw.empty_aligned(config.n_fft, np.float32)
    inverse = pyfftw.FFTW(masked_bins, frame, direction="FFTW_BACKWARD", flags=("FFTW_MEASURE",))
    return array_hop(config, mask, forward, lambda spec, n: inverse(spec))


def torch_hop(config: StftConfig, mask_array: Floats) -> Hop:
    import torch

    torch.set_num_threads(1)
    analysis, synthesis = (torch.from_numpy(w) for w in windows(config))
    history, overlap = torch.zeros(config.n_fft), torch.zeros(config.synthesis)
    mask, start, hop = torch.from_numpy(mask_array), config.n_fft - config.synthesis, config.hop
    zeros = torch.zeros(hop)

    @torch.inference_mode()
    def step(block: Floats) -> Floats:
        nonlocal history, overlap
        history = torch.cat([history[hop:], torch.from_numpy(block)])
        spec = torch.fft.rfft(history * analysis) * mask
        overlap = overlap + torch.fft.irfft(spec)[start:] * synthesis
        out: Floats = overlap[:hop].numpy()
        overlap = torch.cat([overlap[hop:], zeros])
        return out

    return step


def numpy_bulk(config: StftConfig, n: int) -> Bulk:
    analysis, synthesis = windows(config)
    start, hops = config.n_fft - config.synthesis, config.synthesis // config.hop

    def run(samples: Floats) -> Floats:
        padded = np.concatenate([np.zeros(config.n_fft - config.hop, np.float32), samples])
        frames = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft)[:: config.hop]
        spec = np.fft.rfft(frames * analysis)
        parts = np.fft.irfft(spec, config.n_fft)[:, start:] * synthesis
        parts = parts.reshape(len(parts), hops, config.hop)
        out = np.zeros((len(parts) + hops - 1, config.hop), np.float32)
        for i in range(hops):
            out[i : len(parts) + i] += parts[:, i]
        return out.ravel()[config.delay : n]

    return run


def scipy_bulk(config: StftConfig, n: int) -> Bulk:
    from scipy.signal import ShortTimeFFT

    window = np.sqrt(np.hanning(config.n_fft + 1)[:-1]).astype(np.float32)
    transform = ShortTimeFFT(window, config.hop, fs=1)
    return lambda samples: transform.istft(transform.stft(samples), k1=n)


def torch_bulk(config: StftConfig, n: int) -> Bulk:
    import torch

    torch.set_num_threads(1)
    window = torch.hann_window(config.n_fft).sqrt()

    def run(samples: Floats) -> Floats:
        with torch.inference_mode():
            spec = torch.stft(
                torch.from_numpy(samples), config.n_fft, config.hop, window=window,
                return_complex=True, pad_mode="constant",
            )  # fmt: skip
            return torch.istft(spec, config.n_fft, config.hop, window=window, length=n).numpy()

    return run


def librosa_bulk(config: StftConfig, n: int) -> Bulk:
    import librosa

    window = np.sqrt(np.hanning(config.n_fft + 1)[:-1]).astype(np.float32)
    shape = {"n_fft": config.n_fft, "hop_length": config.hop, "window": window}
    return lambda samples: librosa.istft(librosa.stft(samples, **shape), length=n, **shape)


# Measuring


def percentiles(times_us: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times_us, [50, 99])
    return {"p50_us": float(p50), "p99_us": float(p99), "max_us": max(times_us)}


def with_ratios(rows: dict[str, dict[str, float]], ours: str) -> dict[str, dict[str, float]]:
    for row in rows.values():
        row["ratio"] = row["p50_us"] / rows[ours]["p50_us"]
    return rows


def measure_hops(config: StftConfig, rounds: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    mask = rng.uniform(0, 1, config.n_bins).astype(np.float32)
    samples = rng.uniform(-1, 1, HOPS_PER_ROUND * config.hop).astype(np.float32)
    blocks = samples.reshape(-1, config.hop)
    exact = array_hop(config, mask.astype(float), np.fft.rfft, np.fft.irfft, np.float64)
    expected = np.concatenate([exact(block).copy() for block in blocks])
    candidates = {
        "rtmtass, called from Python": our_hop(config, mask),
        "numpy": array_hop(config, mask, np.fft.rfft, np.fft.irfft),
    }
    for name, make in (("scipy", scipy_hop), ("torch", torch_hop), ("pyfftw", fftw_hop)):
        if is_installed(name):
            candidates[name] = make(config, mask)
    loop = our_loop(config, mask)
    ours = "rtmtass, in a compiled loop"
    # The first pass warms up, and compares the outputs from a zero state.
    deltas = {ours: loop(samples) - expected}
    for name, step in candidates.items():
        deltas[name] = np.concatenate([np.array(step(block)) for block in blocks]) - expected
    times: dict[str, list[float]] = {name: [] for name in deltas}
    clock = time.perf_counter_ns
    for _ in range(rounds):
        start = clock()
        loop(samples)
        times[ours].append((clock() - start) / 1e3 / HOPS_PER_ROUND)
        for name, step in candidates.items():
            for block in blocks:
                start = clock()
                step(block)
                times[name].append((clock() - start) / 1e3)
    rows = {name: percentiles(times[name]) for name in times}
    for name, delta in deltas.items():
        rows[name]["max_delta"] = float(np.abs(delta).max())
    return with_ratios(rows, ours)


def measure_bulk(config: StftConfig, seconds: int, rounds: int) -> dict[str, dict[str, float]]:
    n = seconds * config.sample_rate // config.hop * config.hop
    samples = np.random.default_rng(0).uniform(-1, 1, n).astype(np.float32)
    makers = {"rtmtass": our_bulk, "numpy": numpy_bulk}
    # The others need equal analysis and synthesis windows.
    if config.synthesis == config.n_fft:
        peers = {"scipy": scipy_bulk, "torch": torch_bulk, "librosa": librosa_bulk}
        makers |= {name: make for name, make in peers.items() if is_installed(name)}
    candidates = {name: make(config, n) for name, make in makers.items()}
    rows: dict[str, dict[str, float]] = {}
    for name, run in candidates.items():
        out = np.asarray(run(samples))
        # Without the first and last frames, which not all libraries reconstruct.
        inner = slice(config.n_fft, len(out) - config.n_fft)
        delta = np.abs(out[inner] - samples[: len(out)][inner]).max()
        rows[name] = {"max_delta": float(delta)}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter_ns()
            run(samples)
            times[name].append((time.perf_counter_ns() - start) / 1e3)
    for name, row in rows.items():
        row.update(percentiles(times[name]))
        row["rtf"] = row["p50_us"] / 1e6 / seconds
    return with_ratios(rows, "rtmtass")


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows in result["measurements"].items():
        table = Table(title=title)
        table.add_column("candidate")
        for name in ("p50 µs", "p99 µs", "max µs", "ratio", "max delta"):
            table.add_column(name, justify="right")
        for name, row in rows.items():
            cells = [f"{row[key]:,.2f}" for key in ("p50_us", "p99_us", "max_us")]
            table.add_row(name, *cells, f"{row['ratio']:.2f}", f"{row['max_delta']:.1e}")
        console.print(table)
    for name, value in result["machine"].items():
        console.print(f"{name}: {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--rounds", type=int, default=60, help="turns of each candidate, hop by hop"
    )
    parser.add_argument(
        "--bulk-rounds", type=int, default=5, help="turns of each candidate, whole recording"
    )
    parser.add_argument("--seconds", type=int, default=600, help="length of the recording")
    arguments = parser.parse_args()
    stay_on_one_core()
    measurements = {}
    for n_fft, hop, synthesis in ((512, 256, 512), (512, 128, 256), (512, 64, 128)):
        config = StftConfig(n_fft=n_fft, hop=hop, synthesis=synthesis)
        title = f"one hop, n_fft {n_fft}, hop {hop}, synthesis {synthesis}"
        measurements[title] = measure_hops(config, arguments.rounds)
    title = f"{arguments.seconds} s at once, n_fft 512, hop 256"
    measurements[title] = measure_bulk(StftConfig(), arguments.seconds, arguments.bulk_rounds)
    result = {"benchmark": "stft", "machine": machine_card(), "measurements": measurements}
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
