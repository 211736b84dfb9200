"""Draws mixture and stems as spectrograms on one colour scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rtmtass.errors import OutputError
from rtmtass.io.part_file import why_unwritable
from rtmtass.types import Samples

_WINDOW_S = 0.032
_MAX_COLUMNS = 2000
_RANGE_DB = 80.0


def write_report(
    path: Path, tracks: Mapping[str, Samples], sample_rate: int, *, is_small: bool = False
) -> None:
    """Write a PNG of spectrograms, one per track, stacked vertically.

    Args:
        path: of the .png file.
        tracks: (n,) each, by title; the first, the mixture, sets the colour scale.
        sample_rate: in Hz.
        is_small: half as wide and in few colours, about 300 kB instead of 2 MB.

    Raises:
        OutputError: the file can't be written.
    """
    dpi, colours = (60, 24) if is_small else (110, 256)
    levels = {name: spectrogram_db(track, sample_rate) for name, track in tracks.items()}
    top_db = float(next(iter(levels.values())).max())
    duration_s = len(next(iter(tracks.values()))) / sample_rate
    figure = Figure(figsize=(11, 2.1 * len(tracks) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tracks), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, level_db) in zip(axes, levels.items(), strict=True):
        image = axis.imshow(
            level_db.T,
            origin="lower",
            aspect="auto",
            extent=(0, duration_s, 0, sample_rate / 2000),
            vmin=top_db - _RANGE_DB,
            vmax=top_db,
            cmap=colormaps["magma"].resampled(colours),
            interpolation="nearest" if is_small else None,  # blending would add colours
        )
        axis.set_title(name, loc="left")
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("s")
    figure.colorbar(image, ax=list(axes), label="dB re full scale", shrink=0.6)
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise OutputError(why_unwritable(path, error, "")) from error


def spectrogram_db(track: Samples, sample_rate: int) -> Samples:
    """Return the levels (T, F) of a track (n,), in dB: a sine of amplitude 1.0 reads 0 dB.

    The hop grows with the track's length, so that T stays near the width of the picture.
    """
    n_fft = 1 << int(np.ceil(np.log2(sample_rate * _WINDOW_S)))
    padded = np.pad(track, (n_fft // 2, n_fft))
    hop = max(n_fft // 4, len(track) // _MAX_COLUMNS)
    window = np.hanning(n_fft).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    magnitude = np.abs(np.fft.rfft(frames * window)) * (2 / window.sum())
    level_db: Samples = (20 * np.log10(magnitude + 1e-7)).astype(np.float32)
    return level_db
