"""Metadata of media files, in the words of `tags.model`."""

from __future__ import annotations

from collections.abc import Mapping

from rtmtass.io.tags.model import Metadata, is_kept

_NAMES = {
    "track": "TRACKNUMBER", "disc": "DISCNUMBER", "album_artist": "ALBUMARTIST",
    "encoded_by": "ENCODED-BY", "year": "DATE", "wm/year": "DATE",
    "wm/tracknumber": "TRACKNUMBER", "wm/genre": "GENRE", "wm/albumtitle": "ALBUM",
    "wm/albumartist": "ALBUMARTIST",
}  # fmt: skip
"""Vorbis' names for FFmpeg's, where they differ."""
_OF_THE_CONTAINER = (
    "major_brand", "minor_version", "compatible_brands", "creation_time", "encoding_tool",
    "encoder", "software", "duration", "handler_name", "vendor_id", "language", "media_type",
    "gapless_playback", "isvbr", "devicemanufacturerid", "metadatacreator", "hasvideo", "hasaudio",
)  # fmt: skip
_SPEAKERS = {
    "mono": 0x4, "stereo": 0x3, "2.1": 0xB, "3.0": 0x7, "3.0(back)": 0x103, "4.0": 0x107,
    "quad": 0x33, "quad(side)": 0x603, "3.1": 0xF, "5.0": 0x37, "5.0(side)": 0x607, "4.1": 0x10F,
    "5.1": 0x3F, "5.1(side)": 0x60F, "6.0": 0x707, "6.1": 0x70F, "6.1(back)": 0x13F,
    "7.0": 0x637, "7.1": 0x63F, "7.1(wide)": 0xFF,
}  # fmt: skip
"""WAV's dwChannelMask of FFmpeg's layouts."""


def metadata_of(tags: Mapping[str, str], layout: str) -> Metadata:
    """Return what applies to the stems of a media file.

    Args:
        tags: of the file, by FFmpeg's names; those of the container itself are left out.
        layout: FFmpeg's name of the speakers; that of one or two channels goes without saying.
    """
    comments = tuple(
        (_NAMES.get(name.lower(), name.upper()), text)
        for name, text in tags.items()
        if text and name.lower() not in _OF_THE_CONTAINER and is_kept(name) and _is_field(name)
    )
    speakers = None if layout in ("mono", "stereo") else _SPEAKERS.get(layout)
    return Metadata(comments=comments, speakers=speakers)


def tags_of(given: Mapping[str, str] | Metadata | None, software: str) -> dict[str, str]:
    """Return the tags of a file to be written, by FFmpeg's names.

    Args:
        given: a media file's tags, or the metadata of another recording.
        software: what writes the file; it goes where an encoder's name does.
    """
    if isinstance(given, Metadata):
        names = {vorbis: name for name, vorbis in reversed(_NAMES.items())}
        given = {names.get(name.upper(), name.lower()): text for name, text in given.comments}
    dropped = set(_OF_THE_CONTAINER) - {"creation_time"}
    tags = {
        name: text
        for name, text in (given or {}).items()
        if text and name.lower() not in dropped and is_kept(name)
    }
    return tags | ({"encoding_tool": software} if software else {})


def _is_field(name: str) -> bool:
    """Whether a name can be that of a Vorbis comment."""
    return all(" " <= c <= "}" and c != "=" for c in name)
