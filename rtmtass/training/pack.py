"""`rtmtass data pack`: a corpus as Opus shards, for a machine that has no network."""

from __future__ import annotations

import csv
import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from rtmtass.errors import DataError
from rtmtass.training.recordings import Progress
from rtmtass.training.sources import INDEX_COLUMNS, OPUS, IndexRow, decode, encode, read_index

MOST_BYTES = 60_000_000

_BLOCK = 512
_END = 10240  # tar fills its last record up to this


def pack(
    corpus: Path, out: Path, *, most_bytes: int = MOST_BYTES, progress: Progress | None = None
) -> list[Path]:
    """Write a corpus as tar files of Opus recordings, with an index beside them.

    The index has the corpus's columns and `shard`; unpacked with plain `tar`, the
    shards and `index.csv` in one folder are a corpus again. The same corpus gives
    the same sound in the same shards; only Ogg's serial numbers are drawn each time.

    Args:
        corpus: folder with an `index.csv`.
        out: folder for `shard-000.tar` … and `index.csv`; made if need be.
        most_bytes: no shard is larger.
        progress: called with a recording's path, how many are done, of how many.

    Returns:
        The shards' paths.

    Raises:
        DataError: no corpus, or one recording alone is larger than a shard.
        OutputError: the shards can't be written.
    """
    rows = read_index(corpus / "index.csv")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("shard-*.tar"):
        old.unlink()
    packed: list[tuple[IndexRow, str]] = []
    names: set[str] = set()
    writer = _Shards(out, most_bytes)
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(rows):
            small = _as_opus(corpus / row.path, Path(folder) / "recording.opus")
            path = str(Path(row.path).with_suffix(".opus").as_posix())
            if path in names:  # two recordings that differed in their suffix alone
                path = f"{row.path}.opus"
            names.add(path)
            packed.append((replace(row, path=path), writer.add(small, path)))
            if progress is not None:
                progress(row.path, number + 1, len(rows))
    writer.close()
    with open(out / "index.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow((*INDEX_COLUMNS, "shard"))
        for row, shard in packed:
            table.writerow([*(getattr(row, column) for column in INDEX_COLUMNS), shard])
    return writer.paths


def unpack(packed: Path, corpus: Path) -> None:
    """Make a corpus of a folder of shards again.

    Raises:
        DataError: no index there, or a shard it names is missing or damaged.
    """
    read_index(packed / "index.csv")
    with open(packed / "index.csv", newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if "shard" not in (table.fieldnames or ()):
            raise DataError(
                f"{packed / 'index.csv'} names no shards: it is no packed corpus;"
                " make one with: rtmtass data pack"
            )
        shards = sorted({line["shard"] for line in table})
    corpus.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        if not (packed / shard).is_file():
            raise DataError(f"{packed} lacks {shard!r}, which its index names; fetch it again")
        try:
            with tarfile.open(packed / shard) as tar:
                tar.extractall(corpus, filter="data")
        except tarfile.TarError as error:
            raise DataError(f"{packed / shard} is damaged: {error}; fetch it again") from None
    shutil.copyfile(packed / "index.csv", corpus / "index.csv")


class _Shards:
    """Tar files, one after the other, each closed before it would grow too large."""

    def __init__(self, out: Path, most_bytes: int) -> None:
        self.paths: list[Path] = []
        self._out, self._most = out, most_bytes
        self._tar: tarfile.TarFile | None = None
        self._size = 0

    def add(self, file: Path, name: str) -> str:
        """Add a file under a name; return the name of its shard."""
        info = tarfile.TarInfo(name)
        info.size = file.stat().st_size
        size = len(info.tobuf(tarfile.PAX_FORMAT)) + -(-info.size // _BLOCK) * _BLOCK
        if size + _END > self._most:
            raise DataError(
                f"{name} alone has {info.size} bytes, a shard at most {self._most}; cut the"
                " recording, or allow larger shards"
            )
        if self._tar is None or self._size + size + _END > self._most:
            self.close()
            self.paths.append(self._out / f"shard-{len(self.paths):03d}.tar")
            self._tar = tarfile.open(self.paths[-1], "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            self._size = 0
        with open(file, "rb") as data:
            self._tar.addfile(info, data)
        self._size += size
        return self.paths[-1].name

    def close(self) -> None:
        """Complete the shard that is being written."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None


def _as_opus(path: Path, place: Path) -> Path:
    """Return a file that is Opus: the recording's own, or one made of it."""
    if path.suffix == ".opus":
        return path
    encode(place, decode(path), OPUS)
    return place
