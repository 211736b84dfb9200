"""Output formats, and the choice of one that supports a recording's rate and channels."""

from __future__ import annotations

from dataclasses import dataclass

from rtmtass.errors import OutputError, UsageError


@dataclass(frozen=True)
class Encoding:
    """How an output file is encoded.

    Attributes:
        format: the value of `--format`, one of `FORMATS`.
        container: soundfile's format name.
        subtype: soundfile's subtype name.
    """

    format: str
    container: str
    subtype: str

    @property
    def clips(self) -> bool:
        """Whether samples beyond full scale are clipped."""
        return self.subtype not in ("FLOAT", "DOUBLE")


@dataclass(frozen=True)
class _Format:
    """The limits of one `--format`.

    Attributes:
        container: soundfile's format name.
        subtypes: supported; the first is the default for inputs of unknown bit depth.
        max_channels: channels at most.
        rates: supported sample rates in Hz; empty for any up to `max_rate`.
        max_rate: in Hz.
        any_rate_to: in Hz; beyond it a rate has to be a multiple of 10 Hz.
    """

    container: str
    subtypes: tuple[str, ...]
    max_channels: int
    rates: tuple[int, ...] = ()
    max_rate: int = 384_000
    any_rate_to: int = 384_000

    def supports(self, sample_rate: int) -> bool:
        """Whether a sample rate is supported."""
        if self.rates:
            return sample_rate in self.rates
        is_coarse = sample_rate > self.any_rate_to
        return sample_rate <= self.max_rate and not (is_coarse and sample_rate % 10)


_FORMATS = {
    "wav": _Format("WAV", ("FLOAT", "PCM_16", "PCM_24", "PCM_32", "DOUBLE", "PCM_U8"), 1024),
    "flac": _Format("FLAC", ("PCM_24", "PCM_16", "PCM_S8"), 8, any_rate_to=65_535),
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

_OUTPUT_DEPTHS = {"PCM_16": "PCM_16", "PCM_24": "PCM_24", "PCM_32": "PCM_32", "DOUBLE": "FLOAT"}
_LOW_RESOLUTION = ("PCM_U8", "PCM_S8", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "G721_32", "GSM610")


def choose_encoding(
    *,
    suffix: str,
    subtype: str,
    sample_rate: int,
    channels: int,
    requested_format: str | None = None,
    requested_subtype: str | None = None,
) -> Encoding:
    """Choose the output's encoding: as requested, else as the input's, else WAV.

    Args:
        suffix: of the input, such as ".flac".
        subtype: of the input, in soundfile's terms; "" if unknown.
        sample_rate: of the output, in Hz.
        channels: of the output.
        requested_format: one of `FORMATS`; None for the input's.
        requested_subtype: one of `SUBTYPES`; None for the nearest to the input's.

    Raises:
        UsageError: the format doesn't support the requested subtype.
        OutputError: the format doesn't support this sample rate or channel count.
    """
    input_format = suffix.lstrip(".").lower()
    name = requested_format or (input_format if input_format in _FORMATS else "wav")
    limits = _FORMATS[name]
    chosen = requested_subtype or _nearest(limits, subtype)
    if chosen not in limits.subtypes:
        raise UsageError(
            f"{name} doesn't support --subtype {chosen}; choose from {', '.join(limits.subtypes)}"
        )
    rates = _FORMATS["opus"] if chosen == "OPUS" else limits
    if channels > limits.max_channels:
        raise OutputError(
            f"{name} supports at most {limits.max_channels} channels, not {channels};"
            " add --format wav, or --channels mono"
        )
    if not rates.supports(sample_rate):
        others = "wav" if name == "flac" else "flac, or wav"
        raise OutputError(f"{name} doesn't support {sample_rate} Hz; add --format {others}")
    return Encoding(name, limits.container, chosen)


def _nearest(limits: _Format, subtype: str) -> str:
    if subtype in _LOW_RESOLUTION:
        subtype = "PCM_16"  # 8 bits would add audible quantisation noise to each stem
    depth = _OUTPUT_DEPTHS.get(subtype, subtype)
    return depth if depth in limits.subtypes else limits.subtypes[0]
