"""A corpus from packs: equal up to Opus, checked, reused, and never half decoded."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import hiss, lively, make_corpus, voice, write_index
from test_training_pack import fill_bank

from rtmtass.errors import DataError, OutputError
from rtmtass.training.data import unpack
from rtmtass.training.data.batches import MixtureStream
from rtmtass.training.data.codecs import as_opus
from rtmtass.training.data.corpus import Corpus, read_index
from rtmtass.training.data.pack import pack
from rtmtass.training.data.pack_format import BANKS, write_sums
from rtmtass.training.data.recordings import has_recordings, stored_stamp
from rtmtass.training.data.unpack import corpus_of_packs

PLACES = [(role, split) for role in ("speech", "music", "noise") for split in ("train", "dev")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A corpus with recorded singing, a cache with banks, and packs of both."""
    folder = tmp_path_factory.mktemp("unpack")
    corpus = make_corpus(folder / "corpus", lively)
    rows = [list(vars(row).values()) for row in read_index(corpus / "index.csv")]
    (corpus / "sung.opus").write_bytes(as_opus(voice(1.5, 300.0).astype(np.float32), 24))
    rows.append(["singing", "choir", "eva", "train", "sung.opus", 1.5, "CC0", "A"])
    write_index(corpus, rows)
    for name in ("rooms", "singing"):
        fill_bank(folder / "cache", name, 4)
    pack(corpus, folder / "packs", cache=folder / "cache", most_bytes=60_000, workers=1)
    return corpus, folder / "cache", folder / "packs"


@pytest.fixture
def packs(made: tuple[Path, Path, Path], tmp_path: Path) -> Path:
    """A copy of the packs that a test may damage."""
    return Path(shutil.copytree(made[2], tmp_path / "packs"))


@pytest.mark.parametrize("workers", [1, 2])
def test_packs_equal_the_corpus_up_to_opus(
    made: tuple[Path, Path, Path], tmp_path: Path, workers: int
) -> None:
    corpus, cache, packs = made
    plain = Corpus(corpus, tmp_path / "plain")
    packed = corpus_of_packs(packs, tmp_path / "packed", workers=workers)
    assert [row.group for row in packed.rows] == [row.group for row in plain.rows]
    for role, split in [*PLACES, ("singing", "train")]:
        assert packed.has(role, split)
        was, now = plain.recordings(role, split), packed.recordings(role, split)
        assert [(r.source, r.group) for r in now.rows] == [(r.source, r.group) for r in was.rows]
        np.testing.assert_array_equal(now.lengths, was.lengths)
        for index in range(len(was)):
            assert np.corrcoef(was.whole(index), now.whole(index))[0, 1] > 0.8
            levels = [float(np.std(r.whole(index))) for r in (was, now)]
            assert levels[1] == pytest.approx(levels[0], rel=0.4)  # white noise loses treble
    plain = Corpus(corpus, cache)
    for name in ("rooms", "singing"):
        was_bank, now_bank = plain.bank(name, "train"), packed.bank(name, "train")
        assert was_bank is not None
        assert now_bank is not None
        np.testing.assert_array_equal(now_bank.lengths, was_bank.lengths)
        for index in range(len(was_bank)):
            was_sound, now_sound = was_bank.whole(index), now_bank.whole(index)
            if name == "rooms":  # stored samples are identical; only the scale is rounded
                was_crop, now_crop = (
                    bank.crop(index, 0, len(was_sound)) for bank in (was_bank, now_bank)
                )
                np.testing.assert_array_equal(was_crop, now_crop)
                np.testing.assert_allclose(now_sound, was_sound, rtol=2e-4)
            level = float(np.std(was_sound))
            assert float(np.std(now_sound)) == pytest.approx(level, rel=0.3)
    assert packed.bank("revoiced", "train") is None
    assert not packed.has("singing", "dev")
    assert packed.bank("rooms", "dev") is None


def test_worker_processes_make_batches_from_packs(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    corpus = corpus_of_packs(made[2], tmp_path, workers=1)
    options: dict[str, Any] = {"seconds": 0.5, "batch": 2, "seed": 3}
    with MixtureStream(corpus, "train", workers=0, **options) as stream:
        assert stream.bank_sizes["rooms"] == 3  # one of the four is silent
        here = stream.batch(5)
    with MixtureStream(corpus, "train", workers=1, **options) as stream:
        np.testing.assert_array_equal(stream.batch(5), here)


def test_the_same_packs_are_decoded_once(packs: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    cache = tmp_path / "cache"
    corpus_of_packs(packs, cache, lambda *a: calls.append(a), workers=1)
    n = len(read_index(packs / "index.csv")) + 6
    assert calls[-1] == ("decoding packs", n, n)
    assert [a for a in calls if a[0] == "checking packs"][-1][1:] == (
        len(set(packs.iterdir())) - 1,
    ) * 2
    written = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert not [name for name in written if name.endswith(".part")]
    calls.clear()
    for shard in packs.glob("shard-*.tar"):
        shard.unlink()  # no longer needed
    again = corpus_of_packs(packs, cache, lambda *a: calls.append(a))
    assert calls == []
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == written
    assert len(again.recordings("noise", "train")) == 2


def test_other_packs_replace_old_ones(
    made: tuple[Path, Path, Path], packs: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    corpus_of_packs(packs, cache, workers=1)
    shutil.rmtree(packs)
    pack(made[0], packs, kbits=32, workers=1)  # without banks
    other = corpus_of_packs(packs, cache, workers=1)
    assert has_recordings(cache / "rooms-train")
    assert other.bank("rooms", "train") is None
    assert stored_stamp(cache / "noise-dev") != stored_stamp(cache / "rooms-train")
    assert len(other.recordings("noise", "dev")) == 2


def test_a_cache_of_a_plain_corpus_is_not_overwritten(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, cache, packs = made
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    with pytest.raises(
        DataError, match=r"rooms-train\.jsonl wasn't decoded from packs .*another folder"
    ):
        corpus_of_packs(packs, cache, workers=1)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before


def test_interrupted_decoding_resumes_and_is_never_used_half_done(
    packs: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    def stop(what: str, done: int, of: int) -> None:
        if what == "decoding packs" and done > of // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        corpus_of_packs(packs, cache, stop, workers=1)
    whole = {path.name for path in cache.glob("*.jsonl")}
    assert whole
    assert len(whole) < 9
    assert not list(cache.glob("*.part"))
    assert {path.stem for path in cache.glob("*.i16")} == {name[:-6] for name in whole}
    calls: list[int] = []
    corpus = corpus_of_packs(packs, cache, lambda what, done, of: calls.append(of), workers=1)
    assert calls[-1] < len(corpus.rows) + 6  # completed files are kept
    for role, split in PLACES:
        assert len(corpus.recordings(role, split)) == 2


def test_a_wrong_checksum_is_reported_with_both_sums(packs: Path, tmp_path: Path) -> None:
    shards = sorted(packs.glob("shard-*.tar"))
    data = bytearray(shards[1].read_bytes())
    data[5000] ^= 1
    shards[1].write_bytes(data)
    message = (
        rf"{re.escape(str(packs))}: shard-001\.tar has SHA-256 [0-9a-f]{{16}}…,"
        r" expected [0-9a-f]{16}…; copy it again$"
    )
    with pytest.raises(DataError, match=message):
        corpus_of_packs(packs, tmp_path / "cache", workers=1)
    assert not list((tmp_path / "cache").glob("*.i16"))
    shards[0].unlink()
    with pytest.raises(DataError, match=r"shard-000\.tar is missing \(SHA-256 .*; shard-001.*them"):
        corpus_of_packs(packs, tmp_path / "cache", workers=1)
    (packs / "SHA256SUMS").unlink()
    with pytest.raises(
        DataError, match=r"no complete pack: it has no SHA256SUMS; copy it there, or make"
    ):
        corpus_of_packs(packs, tmp_path / "cache", workers=1)


def test_an_altered_table_is_an_error(packs: Path, tmp_path: Path) -> None:
    with (packs / BANKS).open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"banks\.csv has SHA-256"):
        corpus_of_packs(packs, tmp_path / "cache", workers=1)


def test_a_shard_that_lacks_a_file_is_an_error(packs: Path, tmp_path: Path) -> None:
    names = [path.name for path in packs.iterdir() if path.name != "SHA256SUMS"]
    with tarfile.open(packs / "shard-000.tar", "w") as tar:
        tar.add(packs / "index.csv", "else.txt")
    write_sums(packs, names)
    with pytest.raises(
        DataError, match=r"shard-000\.tar lacks .*\.opus, which the index lists in it"
    ):
        corpus_of_packs(packs, tmp_path / "cache", workers=1)
    (packs / "shard-000.tar").write_bytes(b"no tar" * 100)
    write_sums(packs, names)
    with pytest.raises(
        DataError, match=r"shard-000\.tar is damaged although its checksum in SHA256SUMS is right"
    ):
        corpus_of_packs(packs, tmp_path / "cache", workers=1)


def test_an_undecodable_recording_is_left_out(packs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.opus").write_bytes(as_opus(hiss(0.5).astype(np.float32), 24))
    (folder / "b.opus").write_bytes(as_opus(hiss(0.5).astype(np.float32), 24))
    rows = [["noise", "s", name, "train", f"{name}.opus", 0.5, "", ""] for name in "ab"]
    write_index(folder, rows)
    (shard,) = pack(folder, tmp_path / "one", workers=1).shards
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        place = tar.getmember("a.opus").offset_data
    data[place : place + 4] = b"NoSo"
    shard.write_bytes(data)
    write_sums(tmp_path / "one", ["index.csv", "shard-000.tar"])
    noise = corpus_of_packs(tmp_path / "one", tmp_path / "cache", workers=1)
    assert [row.group for row in noise.recordings("noise", "train").rows] == ["b"]
    lines = (tmp_path / "cache" / "noise-train.jsonl").read_text().splitlines()
    assert [json.loads(line)["length"] for line in lines[1:]] == [0, 8000]


def test_an_unwritable_cache_is_an_error(packs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/cache can't be written: .* is not a folder"):
        corpus_of_packs(packs, tmp_path / "file" / "cache", workers=1)


def test_recordings_are_decoded_in_chunks_of_minutes() -> None:
    member = unpack._Member("s", "g", "p", 100.0, 1.0, Path("shard"), 0, 0)
    assert [len(chunk) for chunk in unpack._chunks([member] * 7)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("banks.csv", "\nrooms,", "\n../../x,"),
        ("banks.csv", "\nrooms,train", "\nrooms,../x"),
        ("index.csv", "\nspeech,", "\n../../speech,"),
    ],
)
def test_a_pack_never_names_files_outside_the_cache(
    name: str, old: str, new: str, packs: Path, tmp_path: Path
) -> None:
    table = packs / name
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))
    write_sums(packs, [path.name for path in packs.iterdir() if path.name != "SHA256SUMS"])
    with pytest.raises(DataError, match=rf"{name}, line \d+: unknown (bank|split|role) '\.\./"):
        corpus_of_packs(packs, tmp_path / "cache", workers=1)
    assert {path.name for path in tmp_path.iterdir()} <= {"packs", "cache"}


def test_a_cut_cache_of_packs_is_decoded_again(packs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    corpus_of_packs(packs, cache, workers=1)
    whole = (cache / "noise-dev.i16").read_bytes()
    (cache / "noise-dev.i16").write_bytes(whole[:-2])
    corpus_of_packs(packs, cache, workers=1)
    assert (cache / "noise-dev.i16").read_bytes() == whole
