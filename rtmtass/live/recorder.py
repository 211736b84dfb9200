"""Records stems and mixture beside the sound: aligned, valid at any moment, never in its way."""

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
from numpy.typing import NDArray

from rtmtass.dsp.ring import Ring
from rtmtass.errors import OutputError
from rtmtass.io.part_file import why_unwritable
from rtmtass.io.wav_header import stream_header
from rtmtass.live.os_priority import OTHER_PRIORITY, request_priority
from rtmtass.live.stats import RecordingStats

Floats = NDArray[np.float32]

MIXTURE = "mixture"
_BUFFER_S = 20.0
_POLL_S = 0.05
_SYNC_S = 0.4
"""How much of a recording a crash or a power cut may cost, less a poll."""
_LATE_HOPS = 250
"""For so many hops the stems of the last ones are waited for, when a recording ends."""


class GrowingWav:
    """A WAV of float32 whose header is true after every `sync`.

    Raises:
        OSError: from every method.
    """

    def __init__(self, path: Path, sample_rate: int, channels: int) -> None:
        self._shape = sample_rate, channels
        self.frames = 0
        self._file = path.open("xb", buffering=0)
        self._header_size = self._file.write(self._header())

    def _header(self) -> bytes:
        return stream_header(*self._shape, "f32", self.frames)

    def append(self, block: Floats) -> None:
        """Write (n, channels) behind what is there."""
        rest = memoryview(block.astype("<f4", copy=False).tobytes())
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        self.frames += len(block)

    def sync(self) -> None:
        """Let the header tell of all samples, on the disk."""
        os.fsync(self._file.fileno())
        self._file.seek(0)
        self._file.write(self._header())
        self._file.seek(0, os.SEEK_END)
        os.fsync(self._file.fileno())

    def cut(self, frames: int) -> None:
        """Drop what is beyond; needs no room on the disk."""
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
    """Records takes, each a folder of a file per stem and one of the mixture.

    `add_mixture` and `add_stems` belong to the engine and only copy; a thread of
    this object writes. `start` and `stop` may be called from anywhere.

    Args:
        folder: where takes go; made when needed.
        stems: their names.
        sample_rate: in Hz.
        channels: of each stem and the mixture.
        is_realtime: ask for a little priority: see `grants.OTHER_PRIORITY`.
    """

    def __init__(
        self,
        folder: Path,
        stems: Sequence[str],
        sample_rate: int,
        channels: int = 1,
        *,
        is_realtime: bool = False,
    ) -> None:
        self.folder, self.stems = folder, tuple(stems)
        self.sample_rate, self.channels = sample_rate, channels
        capacity = round(_BUFFER_S * sample_rate)
        self._mixture = Ring(capacity, channels)
        self._stems = Ring(capacity, len(self.stems) * channels)
        self._is_realtime = is_realtime
        self._is_wished = False
        self._first: int | None = None  # hops of this take, set by the engine's thread
        self._end: int | None = None
        self._next_stem = 0
        self._side_by_side = np.zeros((0, self._stems.channels), np.float32)
        self._files: list[GrowingWav] = []
        self._take: Path | None = None
        self._message = ""
        self._has_failed = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="rtmtass-recorder", daemon=True)
        self._thread.start()

    @property
    def is_wished(self) -> bool:
        """Whether a recording is wanted, if not yet, or no longer, under way."""
        return self._is_wished

    def start(self) -> None:
        """Begin a take with the next hop."""
        self._has_failed, self._message = False, ""
        self._is_wished = True

    def stop(self) -> None:
        """End the take with the next hop."""
        self._is_wished = False

    # --- the engine's thread

    def add_mixture(self, number: int, mixture: Floats) -> None:
        """See engine.Recorder."""
        if self._first is None:
            if not self._is_wished or self._is_closing:
                return
            self._end = None
            self._next_stem = number
            self._first = number
        if self._end is None and not self._is_wished:
            self._end = number
        if self._end is None:
            if self._mixture.free < len(mixture):
                self._fail("the disk is too slow: recording stopped, the sound goes on")
                self._end = number
                return
            self._mixture.write(mixture)
        elif number > self._end + _LATE_HOPS:
            self._pad(self._end, mixture.shape[0])

    def add_stems(self, number: int, stems: Floats) -> None:
        """See engine.Recorder."""
        if self._first is None or number < self._next_stem:
            return
        if self._end is not None and number >= self._end:
            self._pad(self._end, stems.shape[1])
            return
        self._pad(number, stems.shape[1])
        row = self._row(stems.shape[1])
        for place in range(len(self.stems)):
            row[:, place * self.channels : (place + 1) * self.channels] = stems[place]
        if self._stems.free >= len(row):
            self._stems.write(row)
            self._next_stem = number + 1

    def _pad(self, number: int, hop: int) -> None:
        """Stand silence in for the stems of hops that were never separated."""
        row = self._row(hop)
        while self._next_stem < number and self._stems.free >= hop:
            row[:] = 0
            self._stems.write(row)
            self._next_stem += 1

    def _row(self, hop: int) -> Floats:
        if len(self._side_by_side) != hop:
            self._side_by_side = np.zeros((hop, self._stems.channels), np.float32)
        return self._side_by_side

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
        n = min(self._mixture.available, self._stems.available)
        if not n:
            return
        mixture = np.empty((n, self.channels), np.float32)
        stems = np.empty((n, self._stems.channels), np.float32)
        self._mixture.read(mixture)
        self._stems.read(stems)
        if self._has_failed:
            return
        if not self._files:
            self._open()
        for place, file in enumerate(self._files[:-1]):
            file.append(stems[:, place * self.channels : (place + 1) * self.channels])
        self._files[-1].append(mixture)

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
            self._next_stem >= self._end and not min(self._mixture.available, self._stems.available)
        )

    def _finish(self) -> None:
        """Complete the files of a take, all of one length."""
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
        """Keep what could be written, and let the sound go on."""
        target = self._take or self.folder
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            why = "the disk is full"
        else:
            why = why_unwritable(target, error)
        self._fail(f"{why}: recording stopped, the sound goes on")

    def _fail(self, message: str) -> None:
        self._message, self._has_failed, self._is_wished = message, True, False

    # --- from anywhere

    def stats(self) -> RecordingStats:
        """See engine.Recorder."""
        frames = min((file.frames for file in list(self._files)), default=0)
        per_second = 4 * self.sample_rate * self.channels * (len(self.stems) + 1)
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        left_s = 0.0
        with contextlib.suppress(OSError):
            left_s = shutil.disk_usage(place).free / per_second
        return RecordingStats(
            is_running=self._first is not None and not self._has_failed,
            folder=str(self._take or ""),
            seconds=frames / self.sample_rate,
            left_s=left_s,
            message=self._message,
        )

    def close(self) -> None:
        """Complete the files; may be called twice."""
        self._is_wished = False
        self._is_closing = True
        self._thread.join()


def check_folder(folder: Path) -> None:
    """Refuse a folder that can't be written before the sound begins.

    Raises:
        OutputError: no right, no room, or a file in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".rtmtass-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(why_unwritable(folder, error)) from error
