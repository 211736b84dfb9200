"""Many recordings in one file that is read by crop: how training sound lies on disk."""

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
# Below -60 dBFS there is hardly a recording: its hiss needn't be turned up more.
_MOST_GAIN = 1000.0
_SHORTEST_S = 0.1


@dataclass(frozen=True)
class Recording:
    """One recording inside a `Recordings` file.

    The stored samples fill the int16 range; times `scale` they are as loud as
    they were recorded. `start` and `length` count samples.
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
    """A recording about to be stored: where it comes from, and how to get its samples."""

    source: str
    group: str
    path: str
    load: Callable[[], Samples]


class Recordings:
    """All recordings of one kind (a role and split, or a bank), read by crop.

    Args:
        stem_path: the files' common path without suffix: `.jsonl` holds the
            table, `.i16` the samples, 16 kHz mono little-endian.
        keep_muffled: with False, recordings without treble are left out; a
            separator should not learn that clean sound is dull.
        first: use only so many recordings, as many as there were at some time.

    Raises:
        DataError: nothing usable is stored there.
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
                    " add some that have treble: rtmtass data build"
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
        """How long all recordings are together."""
        return float(self.lengths.sum()) / SAMPLE_RATE

    @property
    def fingerprint(self) -> str:
        """Changes whenever the recordings, and so what is drawn from them, change."""
        table = "\n".join(f"{r.source}|{r.path}|{r.start}|{r.length}" for r in self.rows)
        return hashlib.sha256(table.encode()).hexdigest()[:16]

    def crop(self, index: int, start: int, n: int) -> Samples:
        """Return samples `start : start + n` of recording `index`, shorter at its end.

        Returns:
            (<= n,) float32, a fresh array that fills full scale, not as loud as recorded.
        """
        first = int(self._starts[index]) + start
        last = min(first + n, int(self._starts[index] + self.lengths[index]))
        stored = self._samples[first:last]
        crop: Samples = np.multiply(stored, np.float32(1 / _FULL_SCALE), dtype=np.float32)
        return crop

    def stored(self, first: int, last: int) -> NDArray[np.int16]:
        """Return samples `first : last` of the file as they are stored, (last - first,) int16.

        A recording's own begin at its row's `start`; times 1 / 32767 they fill full scale.
        """
        return np.asarray(self._samples[first:last])

    def whole(self, index: int) -> Samples:
        """Return recording `index`, (length,) float32, as loud as it was recorded."""
        return self.crop(index, 0, int(self.lengths[index])) * np.float32(self.rows[index].scale)


class Sampler:
    """Draws recordings so that big sets don't drown the small ones.

    A group (speaker, piece, recording) weighs the square root of its seconds; a
    source weighs the sum of its groups to the power 0.7. Within a group every
    second is equally likely.

    Attributes:
        groups: indices of the recordings of each group.
        edges: right edges of the groups' shares of [0, 1); the last is beyond reach.
        inner_edges: for each group, right edges of its recordings' shares.
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
        share = np.array([by_source[source] ** -0.3 for source, _ in self.names])
        self.edges = _edges(weights * share)
        self.inner_edges = [_edges(s) for s in seconds]

    def draw_group(self, rng: np.random.Generator) -> int:
        """Return the number of a group."""
        return int(np.searchsorted(self.edges, rng.random(), side="right"))

    def draw_in_group(self, group: int, rng: np.random.Generator) -> int:
        """Return the index of one of the group's recordings."""
        place = np.searchsorted(self.inner_edges[group], rng.random(), side="right")
        return int(self.groups[group][place])

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a recording."""
        return self.draw_in_group(self.draw_group(rng), rng)


def store(
    stem_path: Path,
    found: Iterable[PendingRecording],
    stamp: str,
    progress: Progress | None = None,
    total: int = 0,
) -> None:
    """Append to a recordings file whatever of `found` it doesn't hold yet.

    Each recording is written to `.i16` first and to the table after, so that an
    interrupted run is taken up at the recording it broke off. A `stamp` other
    than the stored one starts the file anew. Unreadable recordings are noted
    with length 0 and not tried again.
    """
    stem_path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{stem_path}.i16", "ab") as sound, alone(sound):
        old_stamp, rows = _read_table(stem_path)
        if old_stamp != stamp:
            rows = []
        table_path = Path(f"{stem_path}.jsonl")
        if not rows or not table_path.read_bytes().endswith(b"\n"):
            lines = [json.dumps(line) for line in [{"stamp": stamp}, *map(asdict, rows)]]
            table_path.write_text("\n".join(lines) + "\n")
        done = {row.path for row in rows}
        end = max((row.start + row.length for row in rows), default=0)
        if sound.tell() != 2 * end:
            sound.truncate(2 * end)
        with open(table_path, "a") as table:
            for number, item in enumerate(found):
                if item.path in done:
                    continue
                row, data = quantise(item, end)
                sound.write(data)
                sound.flush()
                table.write(json.dumps(asdict(row)) + "\n")
                table.flush()
                end += row.length
                if progress is not None:
                    progress(stem_path.name, number + 1, total)


@contextlib.contextmanager
def alone(file: BinaryIO) -> Iterator[None]:
    """Lock an open file against other processes that lock it; Windows has no such lock."""
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
    """Return a recording's row, were it stored from sample `start` on, and its int16 samples.

    What can't be read, is silent or shorter than 0.1 s has length 0.

    Raises:
        MissingPartError: a package that reads or makes it isn't installed.
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
    """Say whether anything usable is stored under this path."""
    return any(row.length for row in _read_table(stem_path)[1])


def stored_stamp(stem_path: Path) -> str:
    """Return the stamp of what is stored under this path; empty where nothing is."""
    try:
        with open(f"{stem_path}.jsonl", encoding="utf-8") as table:
            line = table.readline()
    except FileNotFoundError:
        return ""
    return str(json.loads(line)["stamp"]) if line.endswith("\n") else ""


def is_muffled(samples: Samples) -> bool:
    """Say whether almost nothing lies above 4 kHz, as behind a blanket or a telephone.

    The long-term power above 4 kHz is below the whole by more than 45 dB.
    """
    n = 512
    if len(samples) < 4 * n:
        return False
    frames = samples[: len(samples) // n * n].reshape(-1, n) * np.hanning(n).astype(np.float32)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).sum(axis=0)[2:]
    treble = power[int(4000 / SAMPLE_RATE * n) - 2 :].sum()
    return bool(treble < 10**-4.5 * power.sum())


def _read_table(stem_path: Path) -> tuple[str, list[Recording]]:
    """Return the stamp and the rows; a last line still being written is left out."""
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
    """Return the right edges of the weights' shares of [0, 1); the last is beyond reach."""
    edges: NDArray[np.float64] = np.cumsum(weights / weights.sum())
    edges[-1] = 2.0
    return edges
