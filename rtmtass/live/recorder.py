"""Records stems and mixture to aligned WAV files that stay valid if the process is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rtmtass.dsp.ring import Ring
from rtmtass.errors import OutputError
from rtmtass.io.part_file import why_unwritable
from rtmtass.io.wav_header import stream_header
from rtmtass.live.full_band import HopSchedule, StemUpsampler
from rtmtass.live.os_priority import OTHER_PRIORITY, request_priority
from rtmtass.live.stats import RecordingStats
from rtmtass.types import Floats

MIXTURE = "mixture"
_BUFFER_S = 20.0
_POLL_S = 0.05
_SYNC_S = 0.4
"""Interval between syncs: a crash loses at most this and a poll."""
_DRAIN_HOPS = 64
"""Hops to write at once, at most."""
_LATE_HOPS = 250
"""Hops to wait for late stems at the end of a take."""


class GrowingWav:
    """A float32 WAV file whose header is valid after every `sync`.

    Raises:
        OSError: any method, such as on a full disk.
    """

    def __init__(self, path: Path, sample_rate: int, channels: int) -> None:
        self._shape = sample_rate, channels
        self.frames = 0
        self._file = path.open("xb", buffering=0)
        self._header_size = self._file.write(self._header())

    def _header(self) -> bytes:
        return stream_header(*self._shape, "f32", self.frames)

    def append(self, block: Floats) -> None:
        """Append (n, channels)."""
        rest = memoryview(block.astype("<f4", copy=False).tobytes())
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        self.frames += len(block)

    def sync(self) -> None:
        """Update the header's length and fsync."""
        os.fsync(self._file.fileno())
        self._file.seek(0)
        self._file.write(self._header())
        self._file.seek(0, os.SEEK_END)
        os.fsync(self._file.fileno())

    def cut(self, frames: int) -> None:
        """Truncate to `frames`; works on a full disk."""
        self.frames = min(frames, self.frames)
        end = self._header_size + 4 * self._shape[1] * self.frames
        self._file.truncate(end)
        self._file.seek(0)
        self._file.write(self._header())
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close; may be called twice."""
        self._file.close()


class TakeRecorder:
    """Records takes: folders with a file per stem and one of the mixture, at the stream's rate.

    `add_mixture` and `add_stems` are called from the engine's thread and only copy; a thread
    of this object resamples the stems and writes to the disk. `start` and `stop` may be called
    from any thread.

    Args:
        folder: parent of the takes' folders; created when needed.
        stems: names.
        schedule: of the stream.
        channels: of each stem and of the mixture.
        is_realtime: request `os_priority.OTHER_PRIORITY` for the writing thread.
    """

    def __init__(
        self,
        folder: Path,
        stems: Sequence[str],
        schedule: HopSchedule,
        channels: int = 1,
        *,
        is_realtime: bool = False,
    ) -> None:
        self.folder, self.stems = folder, tuple(stems)
        self.sample_rate, self.channels = schedule.sample_rate, channels
        self._schedule = schedule
        self._upsampler = StemUpsampler(schedule, len(self.stems), channels)
        self._mixture = Ring(round(_BUFFER_S * schedule.sample_rate), channels)
        # Stem by stem the channels of the stem, then the highband weights.
        n_columns = len(self.stems) * (channels + 1)
        self._stems = Ring(round(_BUFFER_S * schedule.model_rate), n_columns)
        self._is_realtime = is_realtime
        self._is_requested = False
        self._first: int | None = None  # first hop of this take; set by the engine's thread
        self._end: int | None = None
        self._next_stem = self._next_written = 0
        self._interleaved = np.zeros((schedule.hop, n_columns), np.float32)
        self._files: list[GrowingWav] = []
        self._take: Path | None = None
        self._message = ""
        self._has_failed = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="rtmtass-recorder", daemon=True)
        self._thread.start()

    @property
    def is_requested(self) -> bool:
        """Whether a recording has been started and not stopped; it may lag by a hop."""
        return self._is_requested

    def start(self) -> None:
        """Start a take at the next hop."""
        self._has_failed, self._message = False, ""
        self._is_requested = True

    def stop(self) -> None:
        """End the take at the next hop."""
        self._is_requested = False

    # --- the engine's thread

    def add_mixture(self, number: int, mixture: Floats) -> None:
        """See protocols.Recorder."""
        if self._first is None:
            if not self._is_requested or self._is_closing:
                return
            self._end = None
            self._next_stem = self._next_written = number
            self._first = number
        if self._end is None and not self._is_requested:
            self._end = number
        if self._end is None:
            if self._mixture.free < len(mixture):
                self._fail("the disk is too slow: recording stopped, the audio continues")
                self._end = number
                return
            self._mixture.write(mixture)
        elif number > self._end + _LATE_HOPS:
            self._pad(self._end)

    def add_stems(self, number: int, stems: Floats, highband_weights: Floats) -> None:
        """See protocols.Recorder."""
        if self._first is None or number < self._next_stem:
            return
        if self._end is not None and number >= self._end:
            self._pad(self._end)
            return
        self._pad(number)
        block, n_stems, channels = self._interleaved, len(self.stems), self.channels
        for index in range(n_stems):
            block[:, index * channels : (index + 1) * channels] = stems[index]
        block[:, n_stems * channels :] = highband_weights.T
        if self._stems.free >= len(block):
            self._stems.write(block)
            self._next_stem = number + 1

    def _pad(self, number: int) -> None:
        """Write silence for the stems of hops that were never separated, up to hop `number`."""
        while self._next_stem < number and self._stems.free >= len(self._interleaved):
            self._interleaved[:] = 0
            self._stems.write(self._interleaved)
            self._next_stem += 1

    # --- the recorder's thread

    def _run(self) -> None:
        if self._is_realtime:
            request_priority(OTHER_PRIORITY)
        synced_s = time.monotonic()
        while True:
            is_last = self._is_closing
            try:
                self._drain()
                if self._files and time.monotonic() - synced_s > _SYNC_S:
                    synced_s = time.monotonic()
                    for file in self._files:
                        file.sync()
            except OSError as error:
                self._abort(error)
            if self._first is not None and (is_last or self._is_complete()):
                self._finish()
            if is_last:
                return
            time.sleep(_POLL_S)

    def _drain(self) -> None:
        while (blocks := self._next_blocks()) is not None:
            if self._has_failed:
                continue
            if not self._files:
                self._open()
            for file, block in zip(self._files, blocks, strict=True):
                file.append(block)

    def _next_blocks(self) -> list[Floats] | None:
        """Return what the next hops add to each file, (n, C); None if no hop is complete."""
        schedule, hop, first = self._schedule, self._schedule.hop, self._next_written
        n_hops = min(self._stems.available // hop, _DRAIN_HOPS)
        start = schedule.end(first)
        while n_hops and schedule.end(first + n_hops) - start > self._mixture.available:
            n_hops -= 1
        if not n_hops:
            return None
        if first == self._first:
            self._upsampler.reset(first)
        n_stems, channels = len(self.stems), self.channels
        mixture = np.empty((schedule.end(first + n_hops) - start, channels), np.float32)
        rows = np.empty((n_hops * hop, self._stems.channels), np.float32)
        self._mixture.read(mixture)
        self._stems.read(rows)
        stems = np.empty((n_stems, len(mixture), channels), np.float32)
        for index in range(n_hops):
            span = slice(
                schedule.end(first + index) - start, schedule.end(first + index + 1) - start
            )
            columns = rows[index * hop : (index + 1) * hop].T
            out = np.empty((n_stems, span.stop - span.start, channels), np.float32)
            self._upsampler.process(
                columns[: n_stems * channels].reshape(n_stems, channels, hop).transpose(0, 2, 1),
                columns[n_stems * channels :],
                mixture[span],
                out,
            )
            stems[:, span] = out
        self._next_written += n_hops
        return [*stems, mixture]

    def _open(self) -> None:
        name = time.strftime("take-%Y%m%d-%H%M%S")
        take, count = self.folder / name, 1
        while take.exists():
            count += 1
            take = self.folder / f"{name}-{count}"
        take.mkdir(parents=True)
        self._take = take
        self._files = [
            GrowingWav(take / f"{name}.wav", self.sample_rate, self.channels)
            for name in (*self.stems, MIXTURE)
        ]

    def _is_complete(self) -> bool:
        if self._end is None or self._first is None:
            return False
        return self._has_failed or (
            self._next_stem >= self._end and self._next_written >= self._end
        )

    def _finish(self) -> None:
        """Close the files of a take, cut to equal length."""
        frames = min((file.frames for file in self._files), default=0)
        for file in self._files:
            with contextlib.suppress(OSError):
                file.cut(frames)
                file.sync()
            file.close()
        self._files = []
        self._mixture.clear()
        self._stems.clear()
        self._first = None

    def _abort(self, error: OSError) -> None:
        """Stop recording after a write error; keep what was written."""
        target = self._take or self.folder
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            why = "the disk is full"
        else:
            why = why_unwritable(target, error)
        self._fail(f"{why}: recording stopped, the audio continues")

    def _fail(self, message: str) -> None:
        self._message, self._has_failed, self._is_requested = message, True, False

    # --- any thread

    def stats(self) -> RecordingStats:
        """See protocols.Recorder."""
        frames = min((file.frames for file in list(self._files)), default=0)
        bytes_per_s = 4 * self.sample_rate * self.channels * (len(self.stems) + 1)
        folder = self.folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        left_s = 0.0
        with contextlib.suppress(OSError):
            left_s = shutil.disk_usage(folder).free / bytes_per_s
        return RecordingStats(
            is_running=self._first is not None and not self._has_failed,
            folder=str(self._take or ""),
            seconds=frames / self.sample_rate,
            left_s=left_s,
            message=self._message,
        )

    def close(self) -> None:
        """End the take and close its files; may be called twice."""
        self._is_requested = False
        self._is_closing = True
        self._thread.join()


def check_folder(folder: Path) -> None:
    """Check that a folder can be written to; create it if needed.

    Raises:
        OutputError: no permission, a full disk, or a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".rtmtass-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(why_unwritable(folder, error)) from error
