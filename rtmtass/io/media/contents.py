"""What a media file holds, in the same words whichever program has looked into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from rtmtass.errors import InputError

SUFFIXES = frozenset(
    f".{word}"
    for words in (
        "m4a m4b mp4 m4v aac ac3 eac3 mka mkv webm mov avi wma wmv asf 3gp amr ape wv",
        "mpg mpeg ts mts m2ts flv dts tta spx ra ogv vob qt",
    )
    for word in words.split()
)
"""File types with sound that libsndfile can't read."""

DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,live_flv,mpeg,mpegts,mpegvideo,aac,ac3,"
    "eac3,dts,dtshd,amr,amrnb,amrwb,ape,wv,tta,rm,ogg,wav,w64,aiff,caf,au,flac,mp3,truehd,mlp,loas"
)
"""FFmpeg's names of the formats that are opened: none that refers to other files or addresses."""
PROTOCOLS = "file,pipe"

_PCM = {
    "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "u8": "PCM_U8", "s8": "PCM_S8",
    "f32": "FLOAT", "f64": "DOUBLE", "mulaw": "ULAW", "alaw": "ALAW",
}  # fmt: skip
"""soundfile's names for FFmpeg's codecs `pcm_…`."""
_LOSSLESS = frozenset(
    ("alac", "flac", "wavpack", "tta", "ape", "truehd", "mlp", "wmalossless", "tak", "shorten")
)


@dataclass(frozen=True)
class Stream:
    """One stream of a file.

    Attributes:
        index: in the file, from 0, over all kinds.
        kind: "audio", "video", "subtitle", "data" or "attachment".
        codec: FFmpeg's name; "" if it is unknown.
        sample_format: of decoded audio, FFmpeg's name, such as "fltp".
        sample_rate: in Hz; 0 if unknown, or not audio.
        channels: 0 if unknown, or not audio.
        language: such as "eng"; "" if unknown.
        title: in words, or "".
        is_default: marked as the one to play.
        is_cover: a still picture, as of an album.
        duration_s: None if unknown.
    """

    index: int
    kind: str
    codec: str
    sample_format: str = ""
    sample_rate: int = 0
    channels: int = 0
    language: str = ""
    title: str = ""
    is_default: bool = False
    is_cover: bool = False
    duration_s: float | None = None

    @property
    def subtype(self) -> str:
        """The codec by soundfile's name if it has one, such as "PCM_16", else in capitals."""
        if self.codec.startswith("pcm_"):
            return _PCM.get(self.codec[4:].removesuffix("_planar")[:-2], "") or _PCM.get(
                self.codec[4:].removesuffix("_planar"), "PCM_24"
            )
        if self.codec in _LOSSLESS:
            return "PCM_16" if self.sample_format.startswith("s16") else "PCM_24"
        return "MPEG_LAYER_III" if self.codec == "mp3" else self.codec.upper()


@dataclass(frozen=True)
class Contents:
    """The streams and the metadata of a file.

    Attributes:
        container: FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        streams: all, in the file's order.
        duration_s: of the longest stream; None if unknown.
        start: time of the earliest stream in seconds; None if unknown.
        tags: of the whole file, by FFmpeg's names.
        chapters: number of them.
    """

    container: str
    streams: tuple[Stream, ...]
    duration_s: float | None = None
    start: Fraction | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    chapters: int = 0

    @property
    def audio(self) -> tuple[Stream, ...]:
        """The audio tracks, which --track counts from 1."""
        return tuple(stream for stream in self.streams if stream.kind == "audio")

    @property
    def has_video(self) -> bool:
        """Whether there are moving pictures, and not only a cover."""
        return any(stream.kind == "video" and not stream.is_cover for stream in self.streams)


def choose_track(contents: Contents, number: int | None, name: str) -> tuple[int, Stream]:
    """Return an audio track and its number: the one given, else the default, else the first.

    Raises:
        InputError: there is no such track, or no audio at all.
    """
    tracks = contents.audio
    if not tracks:
        kind = "is a video without sound" if contents.has_video else "has no sound"
        raise InputError(f"{name} {kind}, so there is nothing to separate; name another file")
    if number is None:
        number = next((i for i, track in enumerate(tracks, 1) if track.is_default), 1)
    if number > len(tracks):
        listed = ", ".join(f"{i} {describe(track)}" for i, track in enumerate(tracks, 1))
        raise InputError(
            f"{name} has {len(tracks)} audio track{'s' * (len(tracks) > 1)}, not {number}:"
            f" {listed}; add --track {len(tracks)}"
        )
    return number, tracks[number - 1]


def describe(track: Stream) -> str:
    """Return an audio track in a few words, such as "aac 48000 Hz 2 channels eng"."""
    channels = f"{track.channels} channel{'s' * (track.channels != 1)}"
    words = [track.codec or "unknown codec", f"{track.sample_rate} Hz", channels]
    return " ".join([*words, *filter(None, (track.language, track.title))])
