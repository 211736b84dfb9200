"""Separate a NumPy array: all at once, then block by block with the same bits.

python -m rtmtass.examples.numpy_array
"""

from __future__ import annotations

import numpy as np

import rtmtass

BLOCK = 480


def main() -> None:
    """Print the level of each stem of two seconds of tone and noise."""
    separator = rtmtass.load()
    rate = separator.sample_rate
    t = np.arange(2 * rate) / rate
    noise = 0.03 * np.random.default_rng(0).standard_normal(len(t))
    mixture = (0.1 * np.sin(2 * np.pi * 440 * t) + noise).astype(np.float32)

    stems = separator.separate(mixture)  # (N,) -> (3, N), aligned with the mixture

    # A stream: any block length; output lags the input by `delay` samples.
    parts = [separator.process(mixture[i : i + BLOCK]) for i in range(0, len(mixture), BLOCK)]
    parts.append(separator.flush())
    streamed = np.concatenate(parts, axis=1)[:, separator.delay :]

    for name, stem in zip(separator.stems, stems, strict=True):
        print(f"{name:7} {10 * np.log10(np.mean(stem**2) + 1e-12):6.1f} dBFS")
    print(f"stream equals array: {np.array_equal(streamed, stems)}")
    print(f"stems sum to the mixture within {np.abs(stems.sum(axis=0) - mixture).max():.0e}")


if __name__ == "__main__":
    main()
