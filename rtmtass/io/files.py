"""Where samples come from and go to; the only room that knows soundfile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile

from rtmtass.errors import InputError, OutputError
from rtmtass.io.encodings import Encoding
from rtmtass.io.part_file import WAV_LIMIT, PartFile, why_unreadable, why_unwritable
from rtmtass.io.wav_header import read_header

Samples = npt.NDArray[np.float32]

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
COPIED_TAGS = (
    "title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license",
)  # fmt: skip
"""Words carried from input to output; `software` isn't among them: we wrote it, not they."""

_MP3_SLACK = 4 * 1152  # frames an MP3's length tag may be off by: encoder delay and padding


def check_rate(sample_rate: int, name: str) -> None:
    """Refuse a rate that no recording has.

    Raises:
        InputError: below 4 kHz or above 384 kHz.
    """
    if not MIN_RATE_HZ <= sample_rate <= MAX_RATE_HZ:
        raise InputError(
            f"{name} has a sample rate of {sample_rate} Hz; rtmtass takes {MIN_RATE_HZ}"
            f" to {MAX_RATE_HZ} Hz: check the header, or give the true one with --rate"
        )


def check_finite(block: Samples, first_frame: int, sample_rate: int, name: str) -> None:
    """Refuse NaN and infinity, and say where the first one is.

    Raises:
        InputError: a sample isn't finite.
    """
    # A sum is one pass without a temporary; only an overflow makes it lie, hence the second look.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(block)):
            return
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if bad.size:
        frame = first_frame + int(bad[0])
        kind = "NaN" if np.isnan(block[bad[0]]).any() else "infinity"
        raise InputError(
            f"{name} holds {kind} at {frame / sample_rate:.3f} s (frame {frame}), not a sample;"
            " export it again, or as integers: ffmpeg -i … -c:a pcm_s24le repaired.wav"
        )


class FileSource:
    """A sound file, read by block; memory doesn't grow with its length.

    Args:
        path: any file soundfile reads.
        allow_truncated: take what is there when the header promises more.

    Raises:
        InputError: missing, unreadable, empty, not audio, without samples, of an
            unknown rate, or shorter than its header says.
    """

    def __init__(self, path: Path, *, allow_truncated: bool = False) -> None:
        self.name = str(path)
        self._allow_truncated = allow_truncated
        self._position = 0
        self._refuse_at_a_glance(path)
        try:
            self._file = soundfile.SoundFile(str(path))
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{path} is no audio that libsndfile reads; convert it first:"
                f" ffmpeg -i {path.name} {path.stem}.wav"
            ) from error
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.frames = int(self._file.frames)
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
        """See Source.

        Raises:
            InputError: a sample isn't finite, or the file ends before its header says.
        """
        try:
            count = len(self._file.read(len(out), dtype="float32", always_2d=True, out=out))
        except soundfile.SoundFileError as error:
            if not self._allow_truncated:
                where = self._position / self.sample_rate
                raise InputError(
                    f"{self.name} is damaged or cut short after {where:.2f} s of"
                    f" {self.frames / self.sample_rate:.2f} s; fetch it again, or separate what"
                    " is there with --allow-truncated"
                ) from error
            count = 0
        slack = _MP3_SLACK if self.container == "MP3" else 0
        missing = self.frames - self._position - count
        if count < len(out) and missing > slack and not self._allow_truncated:
            self._raise_truncated(self.frames, self._position + count, self.sample_rate)
        check_finite(out[:count], self._position, self.sample_rate, self.name)
        self._position += count
        return count

    def close(self) -> None:
        """See Source."""
        self._file.close()

    def _refuse_at_a_glance(self, path: Path) -> None:
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
        there = max(0, n_bytes - header.data_offset) // header.block_align
        if there < header.frames and header.encoding:
            self._raise_truncated(header.frames, there, max(1, header.sample_rate))

    def _raise_truncated(self, promised: int, there: int, sample_rate: int) -> None:
        raise InputError(
            f"{self.name} is cut short: its header promises {promised / sample_rate:.2f} s"
            f" ({promised} frames), it holds {there / sample_rate:.2f} s ({there}); fetch it"
            " again, or separate what is there with --allow-truncated"
        )


def read_file(path: Path) -> tuple[Samples, int]:
    """Read a short file whole: (n, channels), and its sample rate.

    Raises:
        InputError: see FileSource.
    """
    source = FileSource(path)
    samples = np.zeros((source.frames, source.channels), np.float32)
    count = source.read(samples)
    source.close()
    return samples[:count], source.sample_rate


class FileSink:
    """One output file, written as `NAME.part` and renamed only when it is whole.

    `write` … then `finalise` (a valid file, still under its .part name) and
    `publish` (renamed), or `abandon` (removed).

    Args:
        target: the final name; its folder exists.
        frames: how many frames will come, None if unknown.
        tags: written where the format can hold them.

    Raises:
        OutputError: here and in every method: no right to write, disk full, and the like.
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
            container = "RF64"  # made a plain WAV again in the end, if it turns out to fit
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
                continue  # this format has no place for this tag
        self._is_open = True

    def write(self, block: Samples) -> None:
        """Append (n, channels); counts what the format will clip."""
        if self.encoding.clips:
            self.clipped += int(np.count_nonzero(np.abs(block) > 1.0))
        try:
            self._file.write(block)
        except (soundfile.SoundFileError, AssertionError) as error:  # it asserts a full write
            raise self._failure(error) from error
        if self._bytes.error:
            raise self._failure(self._bytes.error)
        self.frames += len(block)

    def finalise(self) -> None:
        """Complete the header and close; the file is valid under its .part name."""
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
        """Give the finalised file its final name."""
        self.finalise()
        try:
            self.part.replace(self.target)
        except OSError as error:
            raise OutputError(why_unwritable(self.target, error)) from error

    def abandon(self) -> None:
        """Remove what was written; never raises."""
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
