"""Separate a recording to files, then as an array at its own rate, with the same samples.

python -m rtmtass.examples.recording talk.flac stems
"""

from __future__ import annotations

import sys

import soundfile

import rtmtass
from rtmtass.errors import RtmtassError


def main(path: str, folder: str) -> None:
    """Write the stems of `path` into `folder` as float WAV, and compare them with an array's."""
    separator = rtmtass.load()
    result = rtmtass.separate_file(
        path,
        folder,
        separator=separator,
        format="wav",
        subtype="FLOAT",
        overwrite=True,
        progress=lambda done, total: print(f"\r{done} of {total} frames", end=""),
    )
    print(f"\n{result.duration_s:.2f} s at {result.sample_rate} Hz, {result.channels} channels")

    recording, rate = soundfile.read(path, dtype="float32", always_2d=True)
    stems = separator.separate(recording, rate)  # (N, C) -> (3, N, C)
    for name, stem in zip(separator.stems, stems, strict=True):
        written, _ = soundfile.read(result.outputs[name], dtype="float32", always_2d=True)
        print(f"{result.outputs[name]}: equals the array: {(written == stem).all()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m rtmtass.examples.recording RECORDING FOLDER")
    try:
        main(*sys.argv[1:])
    except RtmtassError as error:
        sys.exit(str(error))
