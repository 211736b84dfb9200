"""rtmtass splits live sound into speech, music and noise.

    import rtmtass
    separator = rtmtass.load()
    stems = separator.separate(mixture)      # (N,) at 16 kHz -> (3, N), aligned
    late = separator.process(block)          # any block -> as many samples, `delay` late

The words of this library mean one thing each:

block       what a device or file hands over: samples, (n, channels) at the doors, (n,) inside
frame       one column of the STFT; a hop is its advance, a window its weighting
spec        a complex spectrum; a mask multiplies it
mixture     the input; a stem is a separated output, in the order of `STEMS`
delay       samples the output stream is late against the input stream
algorithmic_latency  samples from capture to playback with an infinitely fast computer
rtf         processing time over audio time; p50, p99 and max
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmtass.config import STEMS

if TYPE_CHECKING:
    from rtmtass.batch import StreamBatch, load_batch
    from rtmtass.separator import Separator, load

__version__ = "0.1.0"
__all__ = ["STEMS", "Separator", "StreamBatch", "__version__", "load", "load_batch"]


def __getattr__(name: str) -> Any:
    # Numba and NumPy are imported when first needed: `rtmtass --help` is instant.
    if name in ("Separator", "load"):
        from rtmtass import separator

        return getattr(separator, name)
    if name in ("StreamBatch", "load_batch"):
        from rtmtass import batch

        return getattr(batch, name)
    raise AttributeError(f"module 'rtmtass' has no attribute {name!r}")
