"""Reads an audio track of a media file, such as a video, as a `Source`."""

from __future__ import annotations

from pathlib import Path

from rtmtass.errors import InputError
from rtmtass.io.files import COPIED_TAGS, check_finite, check_format
from rtmtass.io.media.contents import choose_track
from rtmtass.io.media.decoding import Backend, choose_backend
from rtmtass.io.media.structure import Structure, read_structure
from rtmtass.io.media.tags import metadata_of
from rtmtass.io.part_file import why_unreadable
from rtmtass.types import Samples


class MediaSource:
    """A `Source` of one audio track; memory use doesn't depend on its length.

    The samples are those that FFmpeg decodes, at the track's own rate, without the silence
    where the track has gaps, and without what an encoder has put before the first sample and
    behind the last one, where the container says so.

    Args:
        path: of any file that FFmpeg can read.
        track: number of the audio track, from 1; None for the default.
        allow_truncated: accept a file that ends early, and pass over damaged parts.
        backend: what reads the file; None for PyAV or else ffmpeg.

    Attributes:
        name: the path, for errors.
        sample_rate: in Hz.
        channels: number of channels.
        frames: None: the true length is known only at the end.
        expected_frames: length according to the container; None if it doesn't say.
        container: FFmpeg's name of the format.
        subtype: see `contents.Stream.subtype`.
        tags: those of `files.COPIED_TAGS` that are present.
        metadata: of the file, and speakers of the track.
        contents: all that is in the file.
        number, track: of the audio track.
        timeline: times of the samples that have been read.

    Raises:
        InputError: the file is missing, empty, cut short, not media, without sound or without
            that track, of an unsupported sample rate, or damaged.
        MissingPartError: there is neither PyAV nor ffmpeg.
    """

    def __init__(
        self,
        path: Path,
        *,
        track: int | None = None,
        allow_truncated: bool = False,
        backend: Backend | None = None,
    ) -> None:
        self.name = str(path)
        self.frames: int | None = None
        self._allow_truncated = allow_truncated
        self._position = 0
        structure = self._check_structure(path)
        backend = backend or choose_backend(self.name)
        self.contents = backend.examine(path)
        self.number, self.track = choose_track(self.contents, track, self.name)
        self.is_fast_start = structure.is_fast_start
        self._decoder = backend.open_track(path, self.track.index, self._on_damage)
        self.sample_rate, self.channels = self._decoder.sample_rate, self._decoder.channels
        self.timeline = self._decoder.timeline
        self.container = self.contents.container
        self.subtype = self.track.subtype
        self.metadata = metadata_of(self.contents.tags, self._decoder.layout)
        found = {name.lower(): text for name, text in self.metadata.comments}
        self.tags = {name: found[name] for name in COPIED_TAGS if name in found}
        self.expected_frames = self._expected_frames()
        try:
            check_format(self.sample_rate, self.channels, self.name)
        except InputError:
            self.close()
            raise

    def read(self, out: Samples) -> int:
        """See `Source`.

        Raises:
            InputError: the file is damaged, or a sample is NaN or Inf.
        """
        count = self._decoder.read(out)
        check_finite(out[:count], self._position, self.sample_rate, self.name)
        self._position += count
        return count

    def close(self) -> None:
        """See `Source`."""
        self._decoder.close()

    def _expected_frames(self) -> int | None:
        seconds = self.track.duration_s
        if seconds is None and self.contents.duration_s is not None:
            late = self.timeline.start - (self.contents.start or 0)
            seconds = self.contents.duration_s - max(0.0, float(late))
        return round(seconds * self.sample_rate) if seconds and seconds > 0 else None

    def _check_structure(self, path: Path) -> Structure:
        """Raise for a missing, empty or truncated file."""
        try:
            structure = read_structure(path)
        except OSError as error:
            raise InputError(why_unreadable(path, error)) from error
        if not structure.present:
            raise InputError(f"{path} is empty (0 bytes); record or fetch it again")
        if structure.lacks_index:
            raise InputError(
                f"{path} has no index (moov), without which its sound can't be found: it is cut"
                " short, or its recording was never finished; fetch it again, or repair it with"
                " untrunc"
            )
        if structure.is_cut and not self._allow_truncated:
            promised = structure.promised or 0
            raise InputError(
                f"{path} is cut short: it holds {structure.present} of at least {promised} bytes"
                f" ({100 * structure.present / promised:.0f} %); fetch it again, or separate what"
                " is there with --allow-truncated"
            )
        return structure

    def _on_damage(self, reason: str) -> None:
        """Raise, unless damage is allowed."""
        if self._allow_truncated:
            return
        seconds = self._decoder.timeline.position / self._decoder.sample_rate
        raise InputError(
            f"{self.name} is damaged after {seconds:.2f} s (FFmpeg: {reason.rstrip('.')}); fetch it"
            " again, or separate the rest with --allow-truncated"
        )
