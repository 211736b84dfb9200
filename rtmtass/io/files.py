"""Reads sound files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import soundfile

from rtmtass.amplitude import first_damaged
from rtmtass.errors import InputError
from rtmtass.io.libsndfile import Decoder
from rtmtass.io.part_file import (
    why_unreadable,
)
from rtmtass.io.paths import converted, quoted
from rtmtass.io.wav_header import read_header
from rtmtass.types import Samples

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
MAX_SAMPLES_PER_S = 64 * 192_000
"""Of all channels together: a second of them and of their stems has to fit into memory."""
COPIED_TAGS = (
    "title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license",
)  # fmt: skip
"""Tags copied from input to output; not `software`, which names the encoder."""

_MP3_SLACK = 1152  # frames an MP3's header may be off by: some encoders count the header itself


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


def check_format(sample_rate: int, channels: int, name: str) -> None:
    """Check that a sample rate is supported, and a number of channels at this rate.

    Raises:
        InputError: see `check_rate`, or more than `MAX_SAMPLES_PER_S`.
    """
    check_rate(sample_rate, name)
    if sample_rate * channels > MAX_SAMPLES_PER_S:
        raise InputError(
            f"{name} has {channels} channels at {sample_rate} Hz; rtmtass supports"
            f" {MAX_SAMPLES_PER_S // sample_rate} at this rate: check the header, or split the"
            " channels into several files"
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
            f" again, or convert it to integers: {_to_integers(name)}"
        )


def _to_integers(name: str) -> str:
    """Return the command that makes integers of a file, or of what a program writes to stdin."""
    if name == "stdin":
        return "ffmpeg -i IN -c:a pcm_s24le -f wav - | rtmtass separate - -o OUT"
    path = Path(name)
    repaired = path.with_name(f"{path.stem}-repaired.wav")
    return f"ffmpeg -i {quoted(path)} -c:a pcm_s24le {quoted(repaired)}"


class NotSoundError(InputError):
    """A file isn't sound that libsndfile can read."""


class FileSource:
    """A `Source` that reads a sound file; memory use doesn't depend on its length.

    Args:
        path: of any file that libsndfile can read.
        allow_truncated: accept a file that is shorter than its header says.

    Attributes:
        name: the path, for errors.
        sample_rate: in Hz.
        channels: number of channels.
        frames: true length; None if it is known only at the end.
        container, subtype: soundfile's names for the file's format.
        tags: those of `COPIED_TAGS` that are present.

    Raises:
        InputError: the file is missing, unreadable, empty, of an unsupported sample rate, or
            shorter than its header says; a `NotSoundError`: it isn't audio.
    """

    def __init__(self, path: Path, *, allow_truncated: bool = False) -> None:
        self.name = str(path)
        self._allow_truncated = allow_truncated
        self._position = 0
        self._check_before_opening(path)
        try:
            self._decoder = Decoder(path)
        except soundfile.SoundFileError as error:
            raise NotSoundError(
                f"{path} is not audio that libsndfile can read; convert it first:"
                f" ffmpeg -i {quoted(path)} {quoted(converted(path))}"
            ) from error
        except OSError as error:
            raise InputError(why_unreadable(path, error)) from error
        self.sample_rate = self._decoder.sample_rate
        self.channels = self._decoder.channels
        self.frames = self._decoder.frames
        self.container = self._decoder.container
        self.subtype = self._decoder.subtype
        self.tags = {k: str(v) for k, v in self._decoder.tags.items() if k in COPIED_TAGS and v}
        try:
            check_format(self.sample_rate, self.channels, self.name)
            if self.frames == 0:
                self._raise_empty()
            promised = self._decoder.promised
            if self.frames is not None and promised is not None and not allow_truncated:
                self._check_length(promised, self.frames)
        except InputError:
            self.close()
            raise

    def read(self, out: Samples) -> int:
        """See `Source`.

        Raises:
            InputError: a sample is NaN or Inf, or the file is truncated or has no samples.
        """
        count = self._decoder.read(out)
        if self._decoder.is_damaged and not self._allow_truncated and not self._is_whole(count):
            raise InputError(
                f"{self.name} is damaged or cut short after {self._seconds(count)};"
                " fetch it again, or separate what is there with --allow-truncated"
            )
        if not count:
            self._check_end()
        check_finite(out[:count], self._position, self.sample_rate, self.name)
        self._position += count
        return count

    def close(self) -> None:
        """See `Source`."""
        self._decoder.close()

    def _check_end(self) -> None:
        """Raise if the file has ended too early."""
        if not self._position:
            self._raise_empty()
        expected = self._decoder.promised if self.frames is None else self.frames
        if expected is not None and not self._allow_truncated:
            self._check_length(expected, self._position)
        if self._decoder.is_cut and not self._allow_truncated:
            raise InputError(
                f"{self.name} is cut short: it ends within a page, after"
                f" {self._position / self.sample_rate:.2f} s; fetch it again, or separate what is"
                " there with --allow-truncated"
            )

    def _check_length(self, expected: int, present: int) -> None:
        """Raise if `present` frames are fewer than the header promises."""
        slack = _MP3_SLACK if self.subtype.startswith("MPEG") else 0
        if expected - present > slack:
            self._raise_truncated(expected, present, self.sample_rate)

    def _is_whole(self, count: int) -> bool:
        """Whether all promised frames are decoded, `count` of them by the last read."""
        promised = self._decoder.promised
        return promised is not None and self._position + count >= promised

    def _seconds(self, count: int) -> str:
        """Return how much has been decoded, `count` frames of it by the last read."""
        decoded = f"{(self._position + count) / self.sample_rate:.2f} s"
        if self._decoder.promised is None:
            return decoded
        return f"{decoded} of {self._decoder.promised / self.sample_rate:.2f} s"

    def _raise_empty(self) -> None:
        raise InputError(f"{self.name} holds no samples (0 s); record or export it again")

    def _check_before_opening(self, path: Path) -> None:
        """Raise for a missing, empty or truncated file; libsndfile ignores a truncated WAV."""
        try:
            with path.open("rb") as file:
                n_bytes = os.fstat(file.fileno()).st_size
                is_wav = file.read(4) in (b"RIFF", b"RF64")
                file.seek(0)
                header = None
                if is_wav:
                    header = read_header(file.read, self.name, lambda n: file.seek(n, os.SEEK_CUR))
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
