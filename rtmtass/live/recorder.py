"""Records stems and mixture to aligned WAV files that stay valid if the process is killed."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtmtass.dsp.ring import Ring
from rtmtass.errors import OutputError
from rtmtass.io.part_file import WAV_LIMIT
from rtmtass.live.full_band import HopSchedule, StemUpsampler
from rtmtass.live.growing_wav import GrowingWav, Syncer
from rtmtass.live.os_priority import OTHER_PRIORITY, request_priority
from rtmtass.live.stats import RecordingStats
from rtmtass.types import Floats

MIXTURE, MIX = "mixture", "mix"
"""Names of the input's file and of the mix's."""
_BUFFER_S = 20.0
_POLL_S = 0.05
_UPDATE_S = 0.2
"""Interval between updates of the headers: a kill loses at most this and two polls."""
_SYNC_S = 0.4
"""Interval between syncs, if the disk keeps up: what a power cut loses."""
_LAST_SYNC_S = 0.3
"""How long `close` waits for the last sync; the system finishes it in any case."""
_DRAIN_HOPS = 64
"""Hops to write at once, at most."""
_TOO_SLOW = "the disk is too slow: recording stopped, the audio continues"
_LATE_HOPS = 250
"""Hops to wait for late stems at the end of a take."""


@dataclass(frozen=True)
class Take:
    """A finished recording.

    Attributes:
        folder: of its files.
        seconds: length of each of them.
        tracks: their names without ".wav".
        is_rf64: they are RF64, as a WAV can't be that long.
    """

    folder: Path
    seconds: float
    tracks: tuple[str, ...]
    is_rf64: bool = False


class TakeRecorder:
    """Records takes: folders with a file per stem, one of the mixture, and one of the mix.

    All have the stream's rate. `add_mixture`, `add_stems` and `add_mix` are called from the
    engine's thread and only copy; a thread of this object resamples the stems and writes to
    the disk. `start` and `stop` may be called from any thread.

    Args:
        folder: parent of the takes' folders; created when needed.
        stems: names.
        schedule: of the stream.
        channels: of each stem, of the mixture and of the mix.
        has_mix: record the mix too; `add_mix` is then called with every hop.
        is_realtime: request `os_priority.OTHER_PRIORITY` for the writing thread.
        wav_limit: size in bytes from which a file is an RF64.

    Attributes:
        takes: the finished takes, in order.
        failure: why a recording was ended early, the first time; else empty.
    """

    def __init__(
        self,
        folder: Path,
        stems: Sequence[str],
        schedule: HopSchedule,
        channels: int = 1,
        *,
        has_mix: bool = False,
        is_realtime: bool = False,
        wav_limit: int = WAV_LIMIT,
    ) -> None:
        self.folder, self.stems = folder, tuple(stems)
        self.sample_rate, self.channels = schedule.sample_rate, channels
        self._wav_limit = wav_limit
        self._schedule = schedule
        self._upsampler = StemUpsampler(schedule, len(self.stems), channels)
        capacity = round(_BUFFER_S * schedule.sample_rate)
        self._mixture = Ring(capacity, channels)
        self._mix = Ring(capacity, channels) if has_mix else None
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
        self._syncer = Syncer()
        self.takes: list[Take] = []
        self.failure = ""
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
            # The end of a failed take may have overlapped with the last `add_stems`; nothing is
            # read from this ring while there is no mixture.
            self._stems.clear()
            self._next_stem = self._next_written = number
            self._first = number
        if self._end is None and not self._is_requested:
            self._end = number
        if self._end is None:
            if self._mixture.free < len(mixture):
                self._fail(_TOO_SLOW)
                self._end = number
                return
            self._mixture.write(mixture)
        elif number > self._end + _LATE_HOPS:
            self._pad(self._end)

    def add_mix(self, number: int, mix: Floats) -> None:
        """See protocols.MixRecorder; of the same hop as the last `add_mixture`, and after it."""
        if self._mix is None or self._first is None or number < self._first:
            return
        if self._end is not None and number >= self._end:
            return
        if self._mix.free < mix.shape[1]:
            self._fail(_TOO_SLOW)
            self._end = number
            return
        self._mix.write(mix[0] if len(mix) == 1 else mix.sum(axis=0))

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
        updated_s = synced_s = time.monotonic()
        while True:
            is_last = self._is_closing
            try:
                self._drain()
                now_s = time.monotonic()
                if self._files and now_s - updated_s > _UPDATE_S:
                    updated_s = now_s
                    # One after the other, with nothing between: a kill finds equal lengths.
                    for file in self._files:
                        file.update_header()
                if self._files and now_s - synced_s > _SYNC_S and self._syncer.is_idle:
                    synced_s = now_s
                    self._syncer.request(self._files)
                if self._syncer.error and not self._has_failed:
                    raise self._syncer.error
            except OSError as error:
                self._abort(error)
            if self._first is not None and (is_last or self._is_complete()):
                self._finish()
            if is_last:
                self._syncer.close(_LAST_SYNC_S)
                return
            time.sleep(_POLL_S)

    def _drain(self) -> None:
        while tracks := self._next_blocks():
            if self._has_failed:
                continue
            if not self._files:
                self._open()
            for file, track in zip(self._files, tracks, strict=True):
                file.append(track)

    @property
    def _tracks(self) -> tuple[str, ...]:
        return (*self.stems, MIXTURE, *((MIX,) if self._mix else ()))

    def _next_blocks(self) -> list[Floats]:
        """Return what the next hops add to each file, (n, C); nothing if no hop is complete."""
        schedule, hop, first = self._schedule, self._schedule.hop, self._next_written
        rings = [ring for ring in (self._mixture, self._mix) if ring]
        available = min(ring.available for ring in rings)
        n_hops, start = min(self._stems.available // hop, _DRAIN_HOPS), schedule.end(first)
        while n_hops and schedule.end(first + n_hops) - start > available:
            n_hops -= 1
        if not n_hops:
            return []
        n = schedule.end(first + n_hops) - start
        blocks = [np.empty((n, self.channels), np.float32) for _ in rings]
        for ring, block in zip(rings, blocks, strict=True):
            ring.read(block)
        rows = np.empty((n_hops * hop, self._stems.channels), np.float32)
        self._stems.read(rows)
        self._next_written += n_hops
        return [*self._at_stream_rate(first, rows, blocks[0]), *blocks]

    def _at_stream_rate(self, first: int, rows: Floats, mixture: Floats) -> Floats:
        """Upsample the stems of whole hops from hop `first` on; return (S, n, C)."""
        schedule, hop, start = self._schedule, self._schedule.hop, self._schedule.end(first)
        if first == self._first:
            self._upsampler.reset(first)
        n_stems, channels = len(self.stems), self.channels
        stems = np.empty((n_stems, len(mixture), channels), np.float32)
        for index in range(len(rows) // hop):
            number, columns = first + index, rows[index * hop : (index + 1) * hop].T
            span = slice(schedule.end(number) - start, schedule.end(number + 1) - start)
            out = np.empty((n_stems, schedule.block(number), channels), np.float32)
            self._upsampler.process(
                columns[: n_stems * channels].reshape(n_stems, channels, hop).transpose(0, 2, 1),
                columns[n_stems * channels :],
                mixture[span],
                out,
            )
            stems[:, span] = out
        return stems

    def _open(self) -> None:
        """Create a take's folder, under a name that no other has, and its files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name, count = time.strftime("take-%Y%m%d-%H%M%S"), 1
        take = self.folder / name
        while True:
            try:
                take.mkdir()
                break
            except FileExistsError:
                count += 1
                take = self.folder / f"{name}-{count}"
        files: list[GrowingWav] = []
        try:
            for track in self._tracks:  # one by one: an error closes those opened so far
                shape = self.sample_rate, self.channels
                files.append(GrowingWav(take / f"{track}.wav", *shape, limit=self._wav_limit))
        except OSError:
            for file in files:
                file.close()
            shutil.rmtree(take, ignore_errors=True)
            raise
        self._take, self._files = take, files

    def _is_complete(self) -> bool:
        if self._end is None or self._first is None:
            return False
        return self._has_failed or (
            self._next_stem >= self._end and self._next_written >= self._end
        )

    def _finish(self) -> None:
        """Close the files of a take, cut to equal length; remove a take of no length."""
        frames = min((file.frames for file in self._files), default=0)
        for file in self._files:
            with contextlib.suppress(OSError):
                file.cut(frames)
        if frames:
            self._syncer.request(self._files)
        for file in self._files:
            file.close()
        if self._take and frames:
            is_rf64 = any(file.is_rf64 for file in self._files)
            seconds = frames / self.sample_rate
            self.takes.append(Take(self._take, seconds, self._tracks, is_rf64))
        elif self._take and self._files:
            shutil.rmtree(self._take, ignore_errors=True)
            self._take = None
        self._files, self._syncer.error = [], None
        for ring in (self._mixture, self._stems, self._mix):
            if ring:
                ring.clear()
        self._first = None

    def _abort(self, error: OSError) -> None:
        """Stop recording after a write error; keep what was written."""
        self._fail(
            f"{_reason(self._take or self.folder, error)}: recording stopped, the audio continues"
        )

    def _fail(self, message: str) -> None:
        self._message, self._has_failed, self._is_requested = message, True, False
        self.failure = self.failure or message

    # --- any thread

    def stats(self) -> RecordingStats:
        """See protocols.Recorder."""
        frames = min((file.frames for file in list(self._files)), default=0)
        bytes_per_s = 4 * self.sample_rate * self.channels * len(self._tracks)
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
        with tempfile.TemporaryFile(dir=folder):  # O_EXCL, under a name of its own or none
            pass
    except OSError as error:
        raise OutputError(
            f"{folder} can't be written: {_reason(folder, error)}; name another folder with"
            " --record DIR"
        ) from error


def _reason(path: Path, error: OSError) -> str:
    """Return why a folder can't be written to, or the take in it no further."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno == errno.EFBIG:
        return "the file has reached the largest size that the disk or ulimit allows"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "permission denied"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return f"{path.parent} is not a folder, or {path.name} is a file"
    return error.strerror or str(error)
