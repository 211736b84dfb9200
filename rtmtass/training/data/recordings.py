"""Decoded training recordings on disk: many in one memory-mapped file, read in crops."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import DataError, MissingPartError, RtmtassError
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

    Each recording is written to `.i16` first and to the table second, so that an
    interrupted run resumes at the recording it stopped at. Unreadable recordings are
    entered with length 0 and not tried again.

    Args:
        stem_path: the files' common path; see `Recordings`.
        pending: the recordings, in order.
        stamp: identifies their contents; if it differs from the stored one, the file is
            rewritten from the start.
        progress: called with the file's name, how many recordings are done, and `total`.
        total: number of recordings.
    """
    stem_path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{stem_path}.i16", "ab") as audio, file_lock(audio):
        old_stamp, rows = _read_table(stem_path)
        if old_stamp != stamp:
            rows = []
        table_path = Path(f"{stem_path}.jsonl")
        if not rows or not table_path.read_bytes().endswith(b"\n"):
            lines = [json.dumps(line) for line in [{"stamp": stamp}, *map(asdict, rows)]]
            table_path.write_text("\n".join(lines) + "\n")
        done = {row.path for row in rows}
        end = max((row.start + row.length for row in rows), default=0)
        if audio.tell() != 2 * end:
            audio.truncate(2 * end)
        with open(table_path, "a") as table:
            for number, item in enumerate(pending):
                if item.path in done:
                    continue
                row, data = quantise(item, end)
                audio.write(data)
                audio.flush()
                table.write(json.dumps(asdict(row)) + "\n")
                table.flush()
                end += row.length
                if progress is not None:
                    progress(stem_path.name, number + 1, total)


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
    """Return the stamp of the recordings stored under this path; empty if there are none."""
    try:
        with open(f"{stem_path}.jsonl", encoding="utf-8") as table:
            line = table.readline()
    except FileNotFoundError:
        return ""
    return str(json.loads(line)["stamp"]) if line.endswith("\n") else ""


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
    """Return the stamp and the rows; an incomplete last line is ignored."""
    path = Path(f"{stem_path}.jsonl")
    if not path.exists():
        return "", []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
    if not lines:
        return "", []
    return str(lines[0]["stamp"]), [Recording(**line) for line in lines[1:]]


def _edges(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cumulative probabilities of weights; the last is 2.0, above any draw."""
    edges: NDArray[np.float64] = np.cumsum(weights / weights.sum())
    edges[-1] = 2.0
    return edges
