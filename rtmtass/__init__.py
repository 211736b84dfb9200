"""rtmtass splits live sound into speech, music and noise.

    import rtmtass
    separator = rtmtass.load()
    stems = separator.separate(mixture)      # (N,) at 16 kHz -> (3, N), aligned
    stems = separator.separate(song, 44100)  # (N, C) -> (3, N, C), of the full band
    late = separator.process(block)          # (n,), any n -> (3, n), `delay` samples late
    rtmtass.separate_file("talk.mp3", "out") # a recording of any length, to files

Terms, as used throughout the package:

block         samples as a device or file delivers them: (n, channels) in I/O, (n,) mono inside
frame         one STFT column; a hop is its advance, a window its weighting
spec, mask    a complex spectrum, and the complex ratio mask that multiplies it
mixture       the input; a stem is a separated output, in the order of `STEMS`
state         what a stream remembers between calls
lookahead     future frames that a layer waits for, in frames
delay         offset of the output stream against the input stream, in samples
algorithmic_latency  capture to playback with an infinitely fast computer: delay + hop, in
              samples; plain latency is only ever measured
rtf           processing time / audio time; p50, p99 and max
xrun          overruns (input lost) and underruns (output starved), counted
si_sdr, si_sdri  the quality metric and its improvement over the mixture, in dB

Shape letters: B batch, S stems, C channels, F bins, T frames, N samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmtass.config import STEMS

if TYPE_CHECKING:
    from rtmtass.batch import StreamBatch, load_batch
    from rtmtass.offline.from_python import separate_file
    from rtmtass.separator import Separator, load

__version__ = "0.1.0"
__all__ = [
    "STEMS",
    "Separator",
    "StreamBatch",
    "__version__",
    "load",
    "load_batch",
    "separate_file",
]


def __getattr__(name: str) -> Any:
    # Numba and NumPy are imported on first use, which keeps `rtmtass --help` fast.
    if name in ("Separator", "load"):
        from rtmtass import separator

        return getattr(separator, name)
    if name in ("StreamBatch", "load_batch"):
        from rtmtass import batch

        return getattr(batch, name)
    if name == "separate_file":
        from rtmtass.offline import from_python

        return from_python.separate_file
    raise AttributeError(f"module 'rtmtass' has no attribute {name!r}")
