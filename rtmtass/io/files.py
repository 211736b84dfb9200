"""Reads and writes sound files; the only module here that imports soundfile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from rtmtass.amplitude import first_damaged
from rtmtass.errors import InputError, OutputError
from rtmtass.io.encodings import Encoding
from rtmtass.io.part_file import WAV_LIMIT, PartFile, why_unreadable, why_unwritable
from rtmtass.io.wav_header import read_header
from rtmtass.types import Samples

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
COPIED_TAGS = (
    "title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license",
)  # fmt: skip
"""Tags copied from input to output; not `software`, which names the encoder."""

_UNKNOWN_FRAMES = 2**48
"""libsndfile returns a huge length, 2**63 - 1 with rounding, where a FLAC header has none."""
_PCM_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_MP3_SLACK = 4 * 1152  # frames an MP3's length tag may be off by: encoder delay and padding


def check_rate(sample_rate: int, name: str) -> None:
    """Check that a sample rate is supported.

    Raises:
        InputError: `sample_rate` is below 4 kHz or above 384 kHz.
    """
    if not MIN_RATE_HZ <= sample_rate <= MAX_RATE_HZ:
        raise InputError(
            f"{name} has a sample rate of {sample_rate} Hz; rtmtass supports {MIN_RATE_HZ}"
            f" to {MAX_RATE_HZ} Hz: check the header, or give the true one with --rate"
        )


def check_finite(block: Samples, first_frame: int, sample_rate: int, name: str) -> None:
    """Check that a block is finite, and small enough for its power to be.

    Args:
        block: (n, channels).
        first_frame: position of the block in the stream, in frames.
        sample_rate: in Hz.
        name: of the stream, for the error.

    Raises:
        InputError: a sample is NaN, Inf or beyond `amplitude.LARGEST`; the message gives the
            position of the first.
    """
    index = first_damaged(block)
    if index is not None:
        frame = first_frame + index
        samples = block[index]
        kind = "NaN" if np.isnan(samples).any() else "Inf"
        if np.isfinite(samples).all():
            kind = f"a sample of {samples[np.argmax(np.abs(samples))]:.3g} (full scale is 1)"
        raise InputError(
            f"{name} contains {kind} at {frame / sample_rate:.3f} s (frame {frame}); export it"
            " again, or convert it to integers: ffmpeg -i … -c:a pcm_s24le repaired.wav"
        )


class FileSource:
    """A `Source` that reads a sound file; memory use doesn't depend on its length.

    Args:
        path: of any file that libsndfile can read.
        allow_truncated: accept a file that is shorter than its header says.

    Attributes:
        name: the path, for errors.
        sample_rate: in Hz.
        channels: number of channels.
        frames: length according to the header; None if it doesn't say.
        container, subtype: soundfile's names for the file's format.
        tags: those of `COPIED_TAGS` that are present.

    Raises:
        InputError: the file is missing, unreadable, empty, not audio, of an unsupported
            sample rate, or shorter than its header says.
    """

    def __init__(self, path: Path, *, allow_truncated: bool = False) -> None:
        self.name = str(path)
        self._allow_truncated = allow_truncated
        self._position = 0
        self._check_before_opening(path)
        try:
            self._file = soundfile.SoundFile(str(path))
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{path} is not audio that libsndfile can read; convert it first:"
                f" ffmpeg -i {path.name} {path.stem}.wav"
            ) from error
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        frames = int(self._file.frames)
        self.frames = frames if frames < _UNKNOWN_FRAMES else None
        self._bytes: BinaryIO | None = None
        if self.frames is None:  # the position in the bytes will tell the end from damage
            self._file.close()
            self._bytes = path.open("rb")
            self._file = soundfile.SoundFile(self._bytes)
        self.container = str(self._file.format)
        self.subtype = str(self._file.subtype)
        tags = self._file.copy_metadata()
        self.tags = {k: str(v) for k, v in tags.items() if k in COPIED_TAGS and v}
        try:
            check_rate(self.sample_rate, self.name)
            if self.frames == 0:
                raise InputError(f"{path} holds no samples (0 s); record or export it again")
        except InputError:
            self.close()
            raise

    def read(self, out: Samples) -> int:
        """See `Source`.

        Raises:
            InputError: a sample is NaN or Inf, or the file is truncated.
        """
        out[:] = np.nan  # so that what was decoded before an error can be told from the rest
        try:
            count = len(self._file.read(len(out), dtype="float32", always_2d=True, out=out))
        except soundfile.SoundFileError as error:
            count = int(np.argmax(np.append(np.isnan(out).all(axis=1), True)))
            if not self._allow_truncated and not self._has_read_all():
                raise InputError(
                    f"{self.name} is damaged or cut short after {self._seconds(count)};"
                    " fetch it again, or separate what is there with --allow-truncated"
                ) from error
        if self.frames is not None:
            slack = _MP3_SLACK if self.container == "MP3" else 0
            missing = self.frames - self._position - count
            if count < len(out) and missing > slack and not self._allow_truncated:
                self._raise_truncated(self.frames, self._position + count, self.sample_rate)
        check_finite(out[:count], self._position, self.sample_rate, self.name)
        self._position += count
        return count

    def _has_read_all(self) -> bool:
        """Whether a file of unknown length was read to its last byte."""
        return self._bytes is not None and not self._bytes.read(1)

    def _seconds(self, count: int) -> str:
        """Return how much has been decoded, `count` frames of it by the last read."""
        decoded = f"{(self._position + count) / self.sample_rate:.2f} s"
        if self.frames is None:
            return decoded
        return f"{decoded} of {self.frames / self.sample_rate:.2f} s"

    def close(self) -> None:
        """See `Source`."""
        self._file.close()
        if self._bytes is not None:
            self._bytes.close()

    def _check_before_opening(self, path: Path) -> None:
        """Raise for a missing, empty or truncated file; libsndfile ignores a truncated WAV."""
        try:
            with path.open("rb") as file:
                n_bytes = os.fstat(file.fileno()).st_size
                is_wav = file.read(4) in (b"RIFF", b"RF64")
                file.seek(0)
                header = read_header(file.read, self.name) if is_wav else None
        except OSError as error:
            raise InputError(why_unreadable(path, error)) from error
        if n_bytes == 0:
            raise InputError(f"{path} is empty (0 bytes); record or fetch it again")
        if header is None or header.frames is None or self._allow_truncated:
            return
        present = max(0, n_bytes - header.data_offset) // header.block_align
        if present < header.frames and header.encoding:
            self._raise_truncated(header.frames, present, max(1, header.sample_rate))

    def _raise_truncated(self, expected: int, present: int, sample_rate: int) -> None:
        raise InputError(
            f"{self.name} is cut short: its header promises {expected / sample_rate:.2f} s"
            f" ({expected} frames), it holds {present / sample_rate:.2f} s ({present}); fetch it"
            " again, or separate what is there with --allow-truncated"
        )


def read_file(path: Path) -> tuple[Samples, int]:
    """Read a whole file into memory.

    Returns:
        (n, channels) float32, and the sample rate in Hz.

    Raises:
        InputError: see `FileSource`.
    """
    blocks = []
    count = 1
    with contextlib.closing(FileSource(path)) as source:
        while count:
            block = np.empty((source.frames or 1 << 20, source.channels), np.float32)
            count = source.read(block)
            blocks.append(block[:count])
    return np.concatenate(blocks) if len(blocks) > 2 else blocks[0], source.sample_rate


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
        tags: written if the format supports them.

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
    ) -> None:
        self.target = target
        self.part = target.with_name(target.name + ".part")
        self.encoding = encoding
        self.frames = 0
        self.clipped = 0
        container = encoding.container
        if container == "WAV" and (frames is None or frames * channels * 8 > WAV_LIMIT):
            container = "RF64"  # `finalise` turns it into a plain WAV if it fits one
        self._is_rf64 = container == "RF64"
        try:
            self._bytes = PartFile(self.part)
        except OSError as error:
            raise OutputError(why_unwritable(target, error)) from error
        try:
            self._file = soundfile.SoundFile(
                cast(BinaryIO, self._bytes),
                "w",
                sample_rate,
                channels,
                encoding.subtype,
                format=container,
            )
        except soundfile.SoundFileError as error:
            self._bytes.close()
            self.part.unlink(missing_ok=True)
            raise self._failure(error) from error
        for tag, text in (tags or {}).items():
            try:
                setattr(self._file, tag, text)
            except soundfile.SoundFileError:
                continue  # the format doesn't support this tag
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
            if self._is_rf64 and not self._bytes.error:
                self._bytes.make_plain_wav()
        except (soundfile.SoundFileError, OSError) as error:
            raise self._failure(error) from error
        finally:
            self._bytes.close()
        if self._bytes.error:
            raise self._failure(self._bytes.error)

    def publish(self) -> None:
        """Finalise the file and rename it to its final name."""
        self.finalise()
        try:
            self.part.replace(self.target)
        except OSError as error:
            raise OutputError(why_unwritable(self.target, error)) from error

    def abandon(self) -> None:
        """Close and remove the .part file; never raises."""
        with contextlib.suppress(OutputError):
            self.finalise()
        with contextlib.suppress(OSError):
            self.part.unlink(missing_ok=True)

    def _failure(self, error: BaseException) -> OutputError:
        cause = self._bytes.error or error
        if isinstance(cause, OSError):
            return OutputError(why_unwritable(self.target, cause))
        return OutputError(
            f"{self.target} can't be written as {self.encoding.format}"
            f" {self.encoding.subtype}: {cause}; try --format wav"
        )
