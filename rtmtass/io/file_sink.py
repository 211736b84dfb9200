"""Writes sound files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from rtmtass.errors import InputError, OutputError
from rtmtass.io.encodings import Encoding, compression_level
from rtmtass.io.part_file import (
    WAV_LIMIT,
    PartFile,
    check_replaceable,
    part_path,
    why_unwritable,
)
from rtmtass.io.tags.model import Metadata
from rtmtass.io.tags.writer import container_for, with_metadata
from rtmtass.types import Samples

_PCM_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}


def _rounded(block: Samples, subtype: str) -> Samples | NDArray[np.int32]:
    """Return a block as libsndfile is to write it: rounded to the nearest step if it is PCM.

    libsndfile floors floats if it clips them, which lowers the mean by half a step.

    Args:
        block: float32, full scale is 1.0.
        subtype: of the file.

    Returns:
        The steps in the upper bits of int32, as libsndfile takes them; other subtypes unchanged.
    """
    bits = _PCM_BITS.get(subtype)
    if bits is None:
        return block
    limit = 2.0 ** (bits - 1)
    steps = np.clip(np.rint(block * np.float64(limit)), -limit, limit - 1)
    return steps.astype(np.int32) << (32 - bits)


def _constant_bitrate(bitrate: int | None, sample_rate: int) -> dict[str, Any]:
    """Return soundfile's arguments for an MP3 of a bit rate in kbit/s; none for None."""
    if bitrate is None:
        return {}
    level = compression_level(bitrate, sample_rate)
    return {"bitrate_mode": "CONSTANT", "compression_level": level}


class FileSink:
    """One output file, written as `NAME.part` and renamed when it is complete.

    Call `write` any number of times, then either `finalise` (completes the .part file)
    and `publish` (renames it), or `abandon` (removes it).

    Args:
        target: final path; its folder exists.
        sample_rate: in Hz.
        channels: of the blocks.
        encoding: of the file.
        frames: expected length; None if unknown.
        tags: text fields, by soundfile's names; beside `metadata`, only "software" is written.
        metadata: written as far as the format can hold it.

    Attributes:
        part: the temporary path.
        frames: written so far.
        clipped: samples beyond full scale, where the encoding clips them.

    Raises:
        OutputError: from any method: permission denied, disk full, and the like.
    """

    def __init__(
        self,
        target: Path,
        sample_rate: int,
        channels: int,
        encoding: Encoding,
        *,
        frames: int | None = None,
        tags: Mapping[str, str] | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        self.target = target
        self.part = part_path(target)
        self.encoding = encoding
        self.frames = 0
        self.clipped = 0
        fields = Metadata.from_fields(tags or {})
        metadata = replace(metadata, software=fields.software) if metadata else fields
        container = container_for(encoding, metadata)
        if container in ("WAV", "WAVEX") and (frames is None or frames * channels * 8 > WAV_LIMIT):
            container = "RF64"  # `finalise` turns it into a plain WAV if it fits one
        self._is_rf64 = container == "RF64"
        try:
            check_replaceable(target)
            self._bytes = PartFile(self.part)
        except OSError as error:
            raise OutputError(why_unwritable(target, error)) from error
        self._tagged = with_metadata(self._bytes, container, channels, metadata)
        try:
            self._file = soundfile.SoundFile(
                cast(BinaryIO, self._tagged),
                "w",
                sample_rate,
                channels,
                encoding.subtype,
                format=container,
                **_constant_bitrate(encoding.bitrate, sample_rate),
            )
        except soundfile.SoundFileError as error:
            self._bytes.close()
            self._bytes.remove()
            raise self._failure(error) from error
        self._is_open = True

    def write(self, block: Samples) -> None:
        """Append (n, channels)."""
        if self.encoding.clips:
            self.clipped += int(np.count_nonzero(np.abs(block) > 1.0))
        try:
            self._file.write(_rounded(block, self.encoding.subtype))
        except (soundfile.SoundFileError, AssertionError) as error:  # soundfile asserts full writes
            raise self._failure(error) from error
        if self._bytes.error:
            raise self._failure(self._bytes.error)
        self.frames += len(block)

    def finalise(self) -> None:
        """Complete the header and close the file, which keeps its .part name."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._file.close()
            if self._is_rf64:
                self._bytes.make_plain_wav()
            if not self._bytes.error:
                self._tagged.finish()
        except (soundfile.SoundFileError, InputError) as error:
            raise self._failure(error) from error
        finally:
            self._bytes.close()
        if self._bytes.error:
            raise self._failure(self._bytes.error)

    def publish(self) -> None:
        """Finalise the file and rename it to its final name."""
        self.finalise()
        try:
            self._bytes.publish(self.target)
        except OSError as error:
            raise OutputError(why_unwritable(self.target, error)) from error

    def leave(self) -> None:
        """Finalise the file and leave it under its .part name, for other runs to replace."""
        self.finalise()
        self._bytes.release()

    def abandon(self) -> None:
        """Close and remove the .part file; never raises."""
        with contextlib.suppress(OutputError):
            self.finalise()
        self._bytes.remove()

    def _failure(self, error: BaseException) -> OutputError:
        cause = self._bytes.error or error
        if isinstance(cause, OSError):
            return OutputError(why_unwritable(self.target, cause))
        return OutputError(
            f"{self.target} can't be written as {self.encoding.format}"
            f" {self.encoding.subtype}: {cause}; try --format wav"
        )
