"""Tiny videos and recordings for tests, made by PyAV: short noise, and a picture that changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from rtmtass.types import Samples

try:
    import av
except ImportError:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip("needs PyAV: pip install 'rtmtass[video]'", allow_module_level=True)

HAS_FFMPEG = shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None
needs_ffmpeg = pytest.mark.skipif(
    not HAS_FFMPEG and os.environ.get("CI") != "true", reason="needs ffmpeg and ffprobe"
)
PICTURES_PER_S = 10


@dataclass
class Track:
    """An audio track to be written.

    Attributes:
        samples: (n, channels).
        rate: in Hz.
        codec: FFmpeg's name of the encoder.
        start_s: time of the first sample.
        tags: such as a language.
        is_default: marked as the one to play.
        gap: (sample, seconds) of a pause in its times.
    """

    samples: Samples
    rate: int = 48000
    codec: str = "aac"
    start_s: Fraction = Fraction(0)
    tags: Mapping[str, str] = field(default_factory=dict)
    is_default: bool = True
    gap: tuple[int, Fraction] = (1 << 40, Fraction(0))


def noise(seconds: float = 0.6, rate: int = 48000, channels: int = 2, seed: int = 0) -> Samples:
    """Return (n, channels) of noise with a click each 0.1 s, full scale is 1.0."""
    samples = np.random.default_rng(seed).normal(0, 0.05, (round(seconds * rate), channels))
    samples[rate // 20 :: rate // 10] = 0.9
    return samples.astype(np.float32)


def write_clip(
    path: Path,
    tracks: Sequence[Track],
    *,
    video: str | None = "mpeg4",
    seconds: float = 0.6,
    container: str | None = None,
    tags: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write a clip; return its path.

    Args:
        path: of the file, whose suffix decides on the container if `container` is None.
        tracks: of audio.
        video: FFmpeg's name of the encoder; None for no pictures.
        seconds: length of the video.
        container: FFmpeg's name.
        tags: of the file.
        options: of the muxer.
    """
    with av.open(str(path), "w", format=container, options=dict(options or {})) as out:
        out.metadata.update(tags or {})
        packets = []
        pictures = None
        if video:
            pictures = out.add_stream(video, rate=PICTURES_PER_S)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        streams = []
        for track in tracks:
            stream = out.add_stream(track.codec, rate=track.rate)
            stream.bit_rate = 128_000
            stream.layout = "mono" if track.samples.shape[1] == 1 else "stereo"
            stream.metadata.update(track.tags)
            stream.disposition = av.stream.Disposition(int(track.is_default))
            streams.append(stream)
        for stream, track in zip(streams, tracks, strict=True):
            packets += _encode_track(stream, track)
        if pictures:
            for i in range(round(seconds * PICTURES_PER_S)):
                image = np.full((48, 64, 3), 20 * i % 256, np.uint8)
                image[:, : 8 * (i % 8)] = 255
                packets += pictures.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
            packets += pictures.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def _encode_track(stream: av.AudioStream, track: Track) -> list[av.Packet]:
    packets: list[av.Packet] = []
    at, late = track.gap
    first = round(track.start_s * track.rate)
    for begin, end in ((0, min(at, len(track.samples))), (at, len(track.samples))):
        for i in range(begin, end, 960):
            block = np.ascontiguousarray(track.samples[i : min(i + 960, end)].T)
            frame = av.AudioFrame.from_ndarray(block, "fltp", stream.layout.name)
            frame.sample_rate, frame.time_base = track.rate, Fraction(1, track.rate)
            frame.pts = first + i + (round(late * track.rate) if i >= at else 0)
            packets += stream.encode(frame)
    return packets + stream.encode(None)
