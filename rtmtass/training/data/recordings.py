"""Decoded training recordings on disk: many in one memory-mapped file, read in crops."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import DataError, MissingPartError, OutputError, RtmtassError
from rtmtass.io.part_file import why_unwritable
from rtmtass.types import SAMPLE_RATE, Progress, Samples

_FULL_SCALE = 32767.0
_TARGET_PEAK = 0.98
# A recording that peaks below -60 dBFS is mostly hiss, which isn't amplified further.
_MOST_GAIN = 1000.0
_SHORTEST_S = 0.1


@dataclass(frozen=True)
class Recording:
    """One recording inside a `Recordings` file.

    The stored samples are normalised to the int16 range; times `scale` they have the
    original level. `start` and `length` are in samples.
    """

    source: str
    group: str
    path: str
    start: int
    length: int
    scale: float
    muffled: bool = False


@dataclass(frozen=True)
class PendingRecording:
    """A recording to be stored: its origin, and a function that loads its samples."""

    source: str
    group: str
    path: str
    load: Callable[[], Samples]


class Recordings:
    """All recordings of a role and split, or of a bank, read in crops.

    Args:
        stem_path: the files' common path without suffix: `.jsonl` holds the
            table, `.i16` the samples, 16 kHz mono little-endian.
        keep_muffled: if False, recordings without treble are excluded, so that a
            network doesn't learn to output dull speech.
        first: use only the first so many recordings.

    Attributes:
        rows: the recordings in use.
        lengths: (len(rows),) int64, in samples.

    Raises:
        DataError: no usable recordings are stored there.
    """

    def __init__(
        self, stem_path: Path, *, keep_muffled: bool = True, first: int | None = None
    ) -> None:
        self.path = stem_path
        _, rows = _read_table(stem_path)
        self.rows: list[Recording] = [
            row for row in rows if row.length and (keep_muffled or not row.muffled)
        ][:first]
        if not self.rows:
            if any(row.length for row in rows) and first != 0:
                raise DataError(
                    f"all recordings in {stem_path}.jsonl are muffled, with nothing above 4 kHz;"
                    " add some with treble: rtmtass data build"
                )
            raise DataError(f"no recordings in {stem_path}.jsonl; prepare the corpus again")
        end = max(row.start + row.length for row in self.rows)
        if (present := _n_stored(stem_path)) < end:
            raise DataError(
                f"{stem_path}.i16 holds {present} of {end} samples: it was cut off or lost; delete"
                f" {stem_path}.jsonl, then prepare it again"
            )
        self._samples = np.memmap(f"{stem_path}.i16", dtype="<i2", mode="r", shape=(end,))
        self._starts = np.array([row.start for row in self.rows], dtype=np.int64)
        self.lengths = np.array([row.length for row in self.rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seconds(self) -> float:
        """Total length of the recordings, in seconds."""
        return float(self.lengths.sum()) / SAMPLE_RATE

    @property
    def fingerprint(self) -> str:
        """Hash of the table of recordings."""
        table = "\n".join(f"{r.source}|{r.path}|{r.start}|{r.length}" for r in self.rows)
        return hashlib.sha256(table.encode()).hexdigest()[:16]

    def crop(self, index: int, start: int, n: int) -> Samples:
        """Return samples `start : start + n` of recording `index`, fewer at its end.

        Returns:
            (<= n,) float32, a new array; the recording is normalised to full scale.
        """
        first = int(self._starts[index]) + start
        last = min(first + n, int(self._starts[index] + self.lengths[index]))
        stored = self._samples[first:last]
        crop: Samples = np.multiply(stored, np.float32(1 / _FULL_SCALE), dtype=np.float32)
        return crop

    def stored(self, first: int, last: int) -> NDArray[np.int16]:
        """Return samples `first : last` of the file as stored, (last - first,) int16.

        A recording's samples begin at its row's `start`; full scale is 32767.
        """
        return np.asarray(self._samples[first:last])

    def whole(self, index: int) -> Samples:
        """Return recording `index` at its original level, (length,) float32."""
        return self.crop(index, 0, int(self.lengths[index])) * np.float32(self.rows[index].scale)


class Sampler:
    """Draws recordings at random, with reduced weight for large groups and sources.

    A group (speaker, piece or recording) is weighted by the square root of its length; a
    source by the sum of its groups' weights to the power 0.7. Within a group,
    recordings are weighted by their length.

    Args:
        recordings: to draw from.
        among: indices of the recordings to use; all if not given.

    Attributes:
        groups: indices of the recordings of each group.
        names: (source, group) of each group.
        edges: cumulative probabilities of the groups; the last is 2.0, above any draw.
        inner_edges: for each group, cumulative probabilities of its recordings.
    """

    def __init__(self, recordings: Recordings, among: Sequence[int] | None = None) -> None:
        self.recordings = recordings
        members: dict[tuple[str, str], list[int]] = {}
        for index in range(len(recordings)) if among is None else among:
            row = recordings.rows[index]
            members.setdefault((row.source, row.group), []).append(index)
        self.groups: list[NDArray[np.int64]] = [np.array(m) for m in members.values()]
        self.names = list(members)
        seconds = [recordings.lengths[group] / SAMPLE_RATE for group in self.groups]
        weights = np.array([np.sqrt(s.sum()) for s in seconds])
        by_source: dict[str, float] = {}
        for (source, _), weight in zip(self.names, weights, strict=True):
            by_source[source] = by_source.get(source, 0.0) + weight
        source_factors = np.array([by_source[source] ** -0.3 for source, _ in self.names])
        self.edges = _edges(weights * source_factors)
        self.inner_edges = [_edges(s) for s in seconds]

    def draw_group(self, rng: np.random.Generator) -> int:
        """Return the index of a random group."""
        return int(np.searchsorted(self.edges, rng.random(), side="right"))

    def draw_in_group(self, group: int, rng: np.random.Generator) -> int:
        """Return the index of a random recording of a group."""
        position = np.searchsorted(self.inner_edges[group], rng.random(), side="right")
        return int(self.groups[group][position])

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a random recording."""
        return self.draw_in_group(self.draw_group(rng), rng)


def store(
    stem_path: Path,
    pending: Iterable[PendingRecording],
    stamp: str,
    progress: Progress | None = None,
    total: int = 0,
) -> None:
    """Append the recordings that a recordings file doesn't hold yet.

    Recordings are on the disk in `.i16` before the table names them, so that an
    interrupted run or a power cut never leaves silence in their place: it resumes with
    the first that isn't. Unreadable recordings are entered with length 0 and not tried
    again.

    Args:
        stem_path: the files' common path; see `Recordings`.
        pending: the recordings, in order.
        stamp: identifies their contents; if it differs from the stored one, the file is
            rewritten from the start.
        progress: called with the file's name, how many recordings are done, and `total`.
        total: number of recordings.

    Raises:
        OutputError: the files can't be written.
    """
    try:
        stem_path.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{stem_path}.i16", "ab") as audio, file_lock(audio):
            old_stamp, rows = _read_table(stem_path)
            rows = _whole(rows, _n_stored(stem_path)) if old_stamp == stamp else []
            _rewrite_table(stem_path, stamp, rows)
            end = max((row.start + row.length for row in rows), default=0)
            audio.truncate(2 * end)
            done = {row.path for row in rows}
            with (
                open(f"{stem_path}.jsonl", "a", encoding="utf-8") as table,
                _Appended(audio, table) as appended,
            ):
                for number, item in enumerate(pending):
                    if item.path in done:
                        continue
                    row, data = quantise(item, end)
                    appended.add(row, data)
                    end += row.length
                    if progress is not None:
                        progress(stem_path.name, number + 1, total)
    except OSError as error:
        raise OutputError(why_unwritable(stem_path, error, "")) from error


def _whole(rows: Sequence[Recording], n_stored: int) -> list[Recording]:
    """Return the rows before the first whose samples aren't all there."""
    missing = (n for n, row in enumerate(rows) if row.start + row.length > n_stored)
    return list(rows[: next(missing, len(rows))])


def _rewrite_table(stem_path: Path, stamp: str, rows: Sequence[Recording]) -> None:
    """Replace the table in one step, if it isn't the same."""
    path, part = Path(f"{stem_path}.jsonl"), Path(f"{stem_path}.jsonl.part")
    lines = [json.dumps(line) for line in [{"stamp": stamp}, *map(asdict, rows)]]
    text = ("\n".join(lines) + "\n").encode()
    if not path.exists() or path.read_bytes() != text:
        part.write_bytes(text)
        part.replace(path)


class _Appended:
    """Appends recordings to `.i16`, and their rows to the table once the samples are safe."""

    _MOST = 32_000_000  # bytes between two waits for the disk

    def __init__(self, audio: BinaryIO, table: TextIO) -> None:
        self._audio, self._table = audio, table
        self._waiting: list[Recording] = []
        self._n_bytes = 0

    def add(self, row: Recording, data: bytes) -> None:
        self._audio.write(data)
        self._waiting.append(row)
        self._n_bytes += len(data)
        if self._n_bytes > self._MOST:
            self._commit()

    def _commit(self) -> None:
        self._audio.flush()
        os.fsync(self._audio.fileno())
        self._table.writelines(json.dumps(asdict(row)) + "\n" for row in self._waiting)
        self._table.flush()
        os.fsync(self._table.fileno())
        self._waiting, self._n_bytes = [], 0

    def __enter__(self) -> _Appended:
        return self

    def __exit__(self, *_: object) -> None:
        self._commit()


@contextlib.contextmanager
def file_lock(file: BinaryIO) -> Iterator[None]:
    """Hold an exclusive advisory lock on an open file; does nothing on Windows."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def quantise(item: PendingRecording, start: int) -> tuple[Recording, bytes]:
    """Load a recording and normalise it to int16.

    Args:
        item: the recording.
        start: where it will be stored, in samples.

    Returns:
        Its row, and its little-endian int16 samples. The length is 0 if it can't be
        read, is silent or is shorter than 0.1 s.

    Raises:
        MissingPartError: a package that loads it isn't installed.
    """
    try:
        samples = np.nan_to_num(item.load(), posinf=0.0, neginf=0.0)
    except MissingPartError:
        raise
    except RtmtassError:
        samples = np.zeros(0, np.float32)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < 1e-6 or len(samples) < _SHORTEST_S * SAMPLE_RATE:
        return Recording(item.source, item.group, item.path, start, 0, 1.0), b""
    gain = min(_TARGET_PEAK / peak, _MOST_GAIN)
    data = np.round(samples * (gain * _FULL_SCALE)).astype("<i2")
    row = Recording(
        item.source, item.group, item.path, start, len(data), 1 / gain, is_muffled(samples)
    )
    return row, data.tobytes()


def has_recordings(stem_path: Path) -> bool:
    """Return whether usable recordings are stored under this path."""
    return any(row.length for row in _read_table(stem_path)[1])


def stored_stamp(stem_path: Path) -> str:
    """Return the stamp of the recordings stored under this path; empty if there are none.

    It is empty, too, if some of their samples are missing.
    """
    stamp, rows = _read_table(stem_path)
    return stamp if len(_whole(rows, _n_stored(stem_path))) == len(rows) else ""


def _n_stored(stem_path: Path) -> int:
    """Return how many samples `.i16` holds."""
    try:
        return Path(f"{stem_path}.i16").stat().st_size // 2
    except FileNotFoundError:
        return 0


def is_muffled(samples: Samples) -> bool:
    """Return whether a recording has almost nothing above 4 kHz, as telephone speech.

    The threshold is a long-term power above 4 kHz of -45 dB relative to the total.
    """
    n = 512
    if len(samples) < 4 * n:
        return False
    frames = samples[: len(samples) // n * n].reshape(-1, n) * np.hanning(n).astype(np.float32)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).sum(axis=0)[2:]
    treble = power[int(4000 / SAMPLE_RATE * n) - 2 :].sum()
    return bool(treble < 10**-4.5 * power.sum())


def _read_table(stem_path: Path) -> tuple[str, list[Recording]]:
    """Return the stamp and the rows before the first line that is cut off or damaged."""
    path = Path(f"{stem_path}.jsonl")
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    stamp, rows = "", []
    for number, line in enumerate(lines):
        try:
            if not line.endswith(b"\n"):
                raise ValueError
            values = json.loads(line)
            if number == 0:
                stamp = str(values["stamp"])
            else:
                rows.append(_row(values))
        except (ValueError, TypeError, KeyError, RecursionError):
            break
    return stamp, rows


def _row(values: dict[str, Any]) -> Recording:
    row = Recording(**values)
    if type(row.start) is not int or type(row.length) is not int or min(row.start, row.length) < 0:
        raise ValueError
    return row


def _edges(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cumulative probabilities of weights; the last is 2.0, above any draw."""
    edges: NDArray[np.float64] = np.cumsum(weights / weights.sum())
    edges[-1] = 2.0
    return edges
