"""The formats to choose from, and whether one can hold a recording, known before work begins."""

from __future__ import annotations

from dataclasses import dataclass

from rtmtass.errors import OutputError, UsageError


@dataclass(frozen=True)
class Encoding:
    """How an output file is written: `--format` word, soundfile container and subtype."""

    format: str
    container: str
    subtype: str

    @property
    def clips(self) -> bool:
        """Whether samples beyond full scale are lost."""
        return self.subtype not in ("FLOAT", "DOUBLE")


@dataclass(frozen=True)
class _Format:
    """One choice of `--format`; `subtypes` begins with the one for material of unknown depth."""

    container: str
    subtypes: tuple[str, ...]
    max_channels: int
    rates: tuple[int, ...] = ()
    max_rate: int = 384_000


_FORMATS = {
    "wav": _Format("WAV", ("FLOAT", "PCM_16", "PCM_24", "PCM_32", "DOUBLE", "PCM_U8"), 1024),
    "flac": _Format("FLAC", ("PCM_24", "PCM_16", "PCM_S8"), 8),
    # libvorbis crashes the process at 384 kHz instead of refusing it.
    "ogg": _Format("OGG", ("VORBIS", "OPUS"), 255, max_rate=192_000),
    "mp3": _Format(
        "MP3",
        ("MPEG_LAYER_III",),
        2,
        (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    ),
    "opus": _Format("OGG", ("OPUS",), 255, (8000, 12000, 16000, 24000, 48000)),
}
FORMATS = tuple(_FORMATS)
CHANNEL_MODES = ("linked", "independent", "mono")
RAW_ENCODINGS = ("f32", "s16")
SUBTYPES = tuple(dict.fromkeys(s for f in _FORMATS.values() for s in f.subtypes))

_KEPT_DEPTHS = {"PCM_16": "PCM_16", "PCM_24": "PCM_24", "PCM_32": "PCM_32", "DOUBLE": "FLOAT"}
_COARSE = ("PCM_U8", "PCM_S8", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "G721_32", "GSM610")


def choose_encoding(
    *,
    suffix: str,
    subtype: str,
    sample_rate: int,
    channels: int,
    wanted_format: str | None = None,
    wanted_subtype: str | None = None,
) -> Encoding:
    """Pick the output's format: what was asked for, else the input's own, else WAV.

    Args:
        suffix: the input's, such as ".flac".
        subtype: the input's, in soundfile's words; "" if unknown.
        sample_rate: in Hz, of the output.
        channels: of the output.
        wanted_format: one of FORMATS, None for the input's own.
        wanted_subtype: one of SUBTYPES, None for the one nearest to the input's.

    Raises:
        UsageError: the format has no such subtype.
        OutputError: the format can't hold this rate or number of channels.
    """
    own = suffix.lstrip(".").lower()
    name = wanted_format or (own if own in _FORMATS else "wav")
    rule = _FORMATS[name]
    chosen = wanted_subtype or _nearest(rule, subtype)
    if chosen not in rule.subtypes:
        raise UsageError(
            f"--subtype {chosen} doesn't go with {name}; it takes {', '.join(rule.subtypes)}"
        )
    rates = _FORMATS["opus"].rates if chosen == "OPUS" else rule.rates
    if channels > rule.max_channels:
        raise OutputError(
            f"{name} holds at most {rule.max_channels} channels, not {channels};"
            " add --format wav, or --channels mono"
        )
    if (rates and sample_rate not in rates) or sample_rate > rule.max_rate:
        raise OutputError(f"{name} can't hold {sample_rate} Hz; add --format flac, or wav")
    return Encoding(name, rule.container, chosen)


def _nearest(rule: _Format, subtype: str) -> str:
    if subtype in _COARSE:
        subtype = "PCM_16"  # stems of an 8-bit recording deserve a finer grid than its own
    kept = _KEPT_DEPTHS.get(subtype, subtype)
    return kept if kept in rule.subtypes else rule.subtypes[0]
