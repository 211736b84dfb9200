"""Which containers a remix can be written to, and what of the input each of them can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rtmtass.errors import OutputError
from rtmtass.io.media.contents import Contents, Stream, describe
from rtmtass.io.paths import quoted

_AAC_RATES = (
    7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000,
)  # fmt: skip
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP4_VIDEO = (
    "h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "vvc", "png",
)  # fmt: skip
_MP4_AUDIO = ("aac", "alac", "ac3", "eac3", "mp3", "mp2", "opus", "flac", "dts")
_MKV_TEXT = ("subrip", "ass", "ssa", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle")


@dataclass(frozen=True)
class Encoder:
    """An encoder of the remix.

    Attributes:
        codec: FFmpeg's name of the codec.
        encoder: FFmpeg's name of the encoder.
        rates: sample rates in Hz; empty for any.
        channels: numbers of channels.
        bitrate: of one channel in kbit/s, unless the user chooses; 0 if it has none.
    """

    codec: str
    encoder: str
    rates: Sequence[int]
    channels: Sequence[int]
    bitrate: int

    def supports(self, sample_rate: int, channels: int) -> bool:
        """Whether it takes a sample rate in Hz and a number of channels."""
        return (not self.rates or sample_rate in self.rates) and channels in self.channels

    def bits_per_s(self, sample_rate: int, channels: int, kbits: int | None) -> int:
        """Return the bit rate, of all channels, or 0; `kbits` is the user's choice."""
        if not self.bitrate:
            return 0
        usual = min(self.bitrate, 2 * sample_rate // 1000) * channels
        return 1000 * (kbits or usual)


AAC = Encoder("aac", "aac", _AAC_RATES, (1, 2, 3, 4, 5, 6, 8), 96)
OPUS = Encoder("opus", "libopus", _OPUS_RATES, range(1, 9), 80)
VORBIS = Encoder("vorbis", "libvorbis", (), range(1, 9), 80)
FLAC = Encoder("flac", "flac", (), range(1, 9), 0)


@dataclass(frozen=True)
class Target:
    """A container.

    Attributes:
        muxer: FFmpeg's name.
        encoders: of the remix; the first that supports its rate and channels is used.
        video, audio, subtitles: codecs that it can hold as they are; None for all that FFmpeg
            knows.
        has_pictures: it can hold a cover.
        is_sound_only: the remix is its only track.
    """

    muxer: str
    encoders: Sequence[Encoder]
    video: Sequence[str] | None = _MP4_VIDEO
    audio: Sequence[str] | None = _MP4_AUDIO
    subtitles: Sequence[str] = ("mov_text",)
    has_pictures: bool = True
    is_sound_only: bool = False

    @property
    def is_mp4(self) -> bool:
        """Whether it is of the family of MP4."""
        return self.muxer in ("mp4", "mov", "ipod")

    @property
    def is_matroska(self) -> bool:
        """Whether it is Matroska or WebM, whose times are in whole milliseconds."""
        return self.muxer in ("matroska", "webm")

    def takes(self, stream: Stream) -> bool:
        """Whether it can hold a stream of the input as it is."""
        if stream.is_cover:
            return self.has_pictures
        if self.is_sound_only:
            return False
        if stream.kind == "attachment":
            return self.muxer == "matroska"
        allowed = {"video": self.video, "audio": self.audio, "subtitle": self.subtitles}
        codecs = allowed.get(stream.kind, ())
        return bool(stream.codec) and (codecs is None or stream.codec in codecs)


_MKV = Target("matroska", (OPUS, AAC, FLAC), None, None, _MKV_TEXT, has_pictures=False)
TARGETS = {
    "mp4": Target("mp4", (AAC,)),
    "m4v": Target("mp4", (AAC,)),
    "mov": Target("mov", (AAC,), None, None),
    "mkv": _MKV,
    "webm": Target(
        "webm", (OPUS, VORBIS), ("vp8", "vp9", "av1"), ("opus", "vorbis"), ("webvtt",), False
    ),
    "m4a": Target("ipod", (AAC,), is_sound_only=True),
    "mka": Target("matroska", (OPUS, AAC, FLAC), has_pictures=False, is_sound_only=True),
}
"""By suffix, without a dot."""
VIDEO_SUFFIXES = tuple(f".{name}" for name, target in TARGETS.items() if not target.is_sound_only)


def is_target(path: Path) -> bool:
    """Whether an output is written by FFmpeg, by its name."""
    return path.suffix.lower().lstrip(".") in TARGETS


def choose_encoder(path: Path, sample_rate: int, channels: int) -> tuple[Target, Encoder]:
    """Return the container of an output, by its suffix, and the encoder of its sound.

    Raises:
        OutputError: the container has no codec for that rate or that many channels.
    """
    suffix = path.suffix.lower().lstrip(".")
    target = TARGETS[suffix]
    for encoder in target.encoders:
        if encoder.supports(sample_rate, channels):
            return target, encoder
    others = quoted(path.with_suffix(".mka" if target.is_sound_only else ".mkv").name)
    codecs = " and ".join(encoder.codec.upper() for encoder in target.encoders)
    raise OutputError(
        f"{path} can't be written: {suffix} takes {codecs}, which don't support {sample_rate} Hz"
        f" with {channels} channel(s); name it {others}, or add --channels mono"
    )


@dataclass(frozen=True)
class Selection:
    """What of a media file goes into its remix.

    Attributes:
        streams: in the output's order; the one that is separated is replaced by the remix.
        left_out: streams that the container can't hold.
    """

    streams: Sequence[Stream] = ()
    left_out: Sequence[Stream] = field(default=())


def select_streams(contents: Contents, track: Stream, path: Path, name: str) -> Selection:
    """Choose what is kept of a media file: all that the output's container takes as it is.

    Timecodes and other data are left out without a word, and from a container for sound all but
    the remix and a cover.

    Args:
        contents: of the file.
        track: that is separated.
        path: of the output.
        name: of the file, for the error.

    Raises:
        OutputError: the container can't hold the pictures.
    """
    target = TARGETS[path.suffix.lower().lstrip(".")]
    kept, left_out = [], []
    for stream in contents.streams:
        if stream.index == track.index or target.takes(stream):
            kept.append(stream)
        elif stream.kind == "video" and not stream.is_cover and not target.is_sound_only:
            raise OutputError(
                f"{path} can't hold the {stream.codec or 'unknown'} video of {name}; name the remix"
                f" {quoted(path.with_suffix('.mkv').name)}"
            )
        elif stream.kind != "data" and not target.is_sound_only:
            left_out.append(stream)
    return Selection(kept, left_out)


def in_words(stream: Stream) -> str:
    """Return a stream in a few words, such as "video h264"."""
    if stream.kind == "audio":
        return f"audio {describe(stream)}"
    kind = "cover" if stream.is_cover else stream.kind
    return " ".join(filter(None, (kind, stream.codec, stream.language, stream.title)))
