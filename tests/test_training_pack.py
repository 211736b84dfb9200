"""Packing a corpus: shards no larger than allowed, and the same corpus again from them."""

from __future__ import annotations

import csv
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora import hiss, make_corpus, voice, write_index

from rtmtass.errors import DataError
from rtmtass.training.pack import pack, unpack
from rtmtass.training.sources import OPUS, Corpus, decode, encode, read_index

MOST = 25_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(
        tmp_path_factory.mktemp("pack") / "corpus",
        lambda role, split, take: voice(1.0 + 0.3 * take, 120 + 60 * take, len(role + split)),
    )


def test_a_corpus_comes_back_from_its_shards(corpus: Path, tmp_path: Path) -> None:
    shards = pack(corpus, tmp_path / "packed", most_bytes=MOST)
    assert len(shards) > 1
    assert [path.name for path in shards] == [f"shard-{k:03d}.tar" for k in range(len(shards))]
    assert all(path.stat().st_size <= MOST for path in shards)
    unpack(tmp_path / "packed", tmp_path / "again")
    before, after = (read_index(f / "index.csv") for f in (corpus, tmp_path / "again"))
    assert [replace(row, path="") for row in after] == [replace(row, path="") for row in before]
    for old, new in zip(before, after, strict=True):
        was, now = decode(corpus / old.path), decode(tmp_path / "again" / new.path)
        assert len(now) == len(was)
        # Opus keeps what is heard, and in its place.
        assert np.corrcoef(was, now)[0, 1] > 0.8
    ready = Corpus(tmp_path / "again", tmp_path / "cache").recordings("speech", "train")
    assert len(ready) == 2


def test_the_shards_are_as_full_as_they_may_be(corpus: Path, tmp_path: Path) -> None:
    shards = pack(corpus, tmp_path, most_bytes=MOST)
    sizes: list[list[int]] = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            sizes.append([512 + -(-info.size // 512) * 512 for info in tar])
    for mine, following in pairwise(sizes):
        assert sum(mine) + following[0] + 10240 > MOST  # tar's end takes up to 10240 bytes


def test_the_same_corpus_gives_the_same_shards(corpus: Path, tmp_path: Path) -> None:
    contents: list[object] = []
    for name in ("one", "two"):
        shards = pack(corpus, tmp_path / name, most_bytes=MOST)
        contents.append((tmp_path / name / "index.csv").read_bytes())
        contents.append([path.stat().st_size for path in shards])
    assert contents[:2] == contents[2:]


def test_old_shards_go_and_others_files_stay(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "shard-099.tar").touch()
    (tmp_path / "notes.txt").touch()
    told: list[tuple[str, int, int]] = []
    shards = pack(corpus, tmp_path, progress=lambda *a: told.append(a))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.csv", "notes.txt", "shard-000.tar"]
    assert shards == [tmp_path / "shard-000.tar"]
    assert [number for _, number, _ in told] == list(range(1, 13))


def test_a_recording_that_is_opus_is_kept_to_the_byte(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    encode(folder / "a.opus", hiss(0.5).astype(np.float32), OPUS)
    write_index(folder, [["noise", "s", "g", "train", "a.opus", 0.5, "", ""]])
    pack(folder, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "again")
    again = (tmp_path / "again" / "a.opus").read_bytes()
    assert again == (folder / "a.opus").read_bytes()


def test_names_that_differ_in_their_suffix_stay_apart(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", n_takes=1)
    encode(folder / "noise-train-0.flac", hiss(0.9).astype(np.float32), OPUS)
    row = ["noise", "s", "g", "train"]
    names = ("noise-train-0.wav", "noise-train-0.flac")
    write_index(folder, [[*row, name, 1.0, "", ""] for name in names])
    pack(folder, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "again")
    rows = read_index(tmp_path / "again" / "index.csv")
    lengths = [len(decode(tmp_path / "again" / row.path)) for row in rows]
    assert lengths == [len(decode(folder / name)) for name in names]


def test_a_recording_larger_than_a_shard_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"opus alone has \d+ bytes, a shard at most 12000; cut"):
        pack(corpus, tmp_path, most_bytes=12_000)


def test_no_corpus_no_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no corpus: it has no index\.csv"):
        pack(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"is no corpus: it has no index\.csv"):
        unpack(tmp_path, tmp_path / "out")


def test_shards_that_are_missing_or_damaged_are_named(corpus: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    shards = pack(corpus, packed, most_bytes=MOST)
    shards[0].write_bytes(shards[0].read_bytes()[:5000])
    with pytest.raises(DataError, match=r"shard-000\.tar is damaged: .*; fetch it again"):
        unpack(packed, tmp_path / "again")
    shards[0].unlink()
    with pytest.raises(DataError, match=r"lacks 'shard-000\.tar', which its index names; fetch"):
        unpack(packed, tmp_path / "again")


def test_a_corpus_isnt_a_packed_one(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names no shards: .*rtmtass data pack"):
        unpack(corpus, tmp_path)
    with (corpus / "index.csv").open(newline="") as file:
        assert "shard" not in next(csv.reader(file))
