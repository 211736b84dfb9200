"""Spectrogram pictures: levels, size, write errors."""

from __future__ import annotations

import numpy as np
import pytest

from rtmtass.errors import OutputError
from rtmtass.spectrogram import spectrogram_db, write_report


def sine(n, amplitude=1.0):
    return (amplitude * np.sin(2 * np.pi * 1000 * np.arange(n) / 16000)).astype(np.float32)


@pytest.mark.parametrize(("amplitude", "level_db"), [(1.0, 0.0), (0.01, -40.0)])
def test_level_of_a_sine(amplitude, level_db):
    level = spectrogram_db(sine(32000, amplitude), 16000)
    middle = level[len(level) // 2]
    assert middle.argmax() == 32  # 1000 Hz at 31.25 Hz a bin
    assert middle.max() == pytest.approx(level_db, abs=0.1)


def test_number_of_columns_is_bounded():
    assert len(spectrogram_db(np.zeros(3_000_000, np.float32), 16000)) <= 2010


def test_write_report(tmp_path):
    tracks = {"mixture": sine(8000), "speech": sine(8000, 0.1)}
    write_report(tmp_path / "report.png", tracks, 16000)
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(OutputError, match="none is not a folder"):
        write_report(tmp_path / "none" / "report.png", tracks, 16000)
