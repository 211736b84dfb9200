"""Packing a corpus: balanced shards of limited size, checksums, and unpacking."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import hiss, make_corpus, voice, write_index

from rtmtass.cli.main import main
from rtmtass.errors import DataError
from rtmtass.io.decode import OPUS, decode, encode
from rtmtass.training.data.codecs import as_flac, as_opus, from_bytes
from rtmtass.training.data.corpus import Corpus, read_index
from rtmtass.training.data.pack import MOST_BYTES, pack
from rtmtass.training.data.pack_format import describe, read_banks, read_sums
from rtmtass.training.data.recordings import PendingRecording, Recordings, store

MOST = 25_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(
        tmp_path_factory.mktemp("pack") / "corpus",
        lambda role, split, take: voice(1.0 + 0.3 * take, 120 + 60 * take, len(role + split)),
    )


def packed(corpus: Path, out: Path, most_bytes: int = MOST, **options: Any) -> list[Path]:
    result = pack(corpus, out, most_bytes=most_bytes, workers=1, **options)
    assert not result.unreadable
    return result.shards


def untar(packs: Path, corpus: Path) -> Path:
    """Unpack a corpus with tar alone, without rtmtass."""
    corpus.mkdir()
    for shard in packs.glob("shard-*.tar"):
        with tarfile.open(shard) as tar:
            tar.extractall(corpus, filter="data")
    (corpus / "index.csv").write_bytes((packs / "index.csv").read_bytes())
    return corpus


def fill_bank(cache: Path, name: str, count: int) -> Recordings:
    """Store a bank of short sounds of many levels; one is silent."""
    rng = np.random.default_rng(len(name))

    def sound(number: int) -> np.ndarray:
        loud = 0.0 if number == 1 else 3.0 ** -(number % 5)
        return (loud * rng.standard_normal(3200 + 100 * number)).astype(np.float32)

    result = [
        PendingRecording(name, f"{name}-{number}", f"{number}", partial(sound, number))
        for number in range(count)
    ]
    store(cache / f"{name}-train", result, "a stamp")
    return Recordings(cache / f"{name}-train")


def test_a_corpus_comes_back_from_its_shards(corpus: Path, tmp_path: Path) -> None:
    shards = packed(corpus, tmp_path / "packed")
    assert len(shards) > 1
    assert [path.name for path in shards] == [f"shard-{k:03d}.tar" for k in range(len(shards))]
    assert all(path.stat().st_size <= MOST for path in shards)
    assert MOST_BYTES == 56_000_000
    again = untar(tmp_path / "packed", tmp_path / "again")
    before, after = (read_index(folder / "index.csv") for folder in (corpus, again))
    assert [replace(row, path="") for row in after] == [replace(row, path="") for row in before]
    for old, new in zip(before, after, strict=True):
        was, now = decode(corpus / old.path), decode(again / new.path)
        assert len(now) == len(was)
        # Opus keeps the audible content and the timing.
        assert np.corrcoef(was, now)[0, 1] > 0.8
    ready = Corpus(again, tmp_path / "cache").recordings("speech", "train")
    assert len(ready) == 2


def test_shards_are_as_full_as_possible(corpus: Path, tmp_path: Path) -> None:
    shards = packed(corpus, tmp_path)
    sizes: list[list[int]] = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            sizes.append([512 + -(-info.size // 512) * 512 for info in tar])
    for mine, following in pairwise(sizes):
        assert sum(mine) + following[0] + 10240 > MOST  # tar pads its end to 10240 bytes


def test_the_same_corpus_gives_the_same_shards(corpus: Path, tmp_path: Path) -> None:
    contents: list[object] = []
    for name, workers in (("one", 1), ("two", 2)):
        shards = pack(corpus, tmp_path / name, most_bytes=MOST, workers=workers).shards
        contents.append((tmp_path / name / "index.csv").read_bytes())
        contents.append([path.stat().st_size for path in shards])
    assert contents[:2] == contents[2:]


def test_the_checksums_match_the_files(corpus: Path, tmp_path: Path) -> None:
    shards = packed(corpus, tmp_path)
    text = (tmp_path / "SHA256SUMS").read_text()
    for path in (tmp_path / "index.csv", *shards):
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" in text
    assert len(text.splitlines()) == 1 + len(shards)
    assert set(read_sums(tmp_path)) == {"index.csv", *(path.name for path in shards)}


def test_old_shards_are_removed_and_other_files_kept(corpus: Path, tmp_path: Path) -> None:
    for name in ("shard-099.tar", "notes.txt", "banks.csv"):
        (tmp_path / name).touch()
    calls: list[tuple[str, int, int]] = []
    shards = pack(corpus, tmp_path, workers=1, progress=lambda *a: calls.append(a)).shards
    names = ["SHA256SUMS", "index.csv", "notes.txt", "shard-000.tar"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert shards == [tmp_path / "shard-000.tar"]
    assert [number for _, number, _ in calls] == list(range(1, 13))


def test_an_interrupted_pack_is_invalid(corpus: Path, tmp_path: Path) -> None:
    packed(corpus, tmp_path)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed(corpus, tmp_path, progress=stop)
    with pytest.raises(DataError, match=r"no complete pack: it has no SHA256SUMS; .*data pack"):
        read_sums(tmp_path)


def test_opus_is_copied_unless_its_bit_rate_is_far_too_high(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    sound = hiss(2.0).astype(np.float32)
    (folder / "small.opus").write_bytes(as_opus(sound, 24))
    (folder / "large.opus").write_bytes(as_opus(sound, 120))
    soundfile.write(folder / "quick.opus", hiss(3.0), 48000, "OPUS", format="OGG")
    names = ("small", "large", "quick")
    write_index(folder, [["noise", "s", n, "train", f"{n}.opus", 4.0, "", ""] for n in names])
    packed(folder, tmp_path / "packed", 1_000_000)
    again = untar(tmp_path / "packed", tmp_path / "again")
    data = {n: [(place / f"{n}.opus").read_bytes() for place in (folder, again)] for n in names}
    assert data["small"][0] == data["small"][1]
    assert len(data["large"][1]) < len(data["large"][0]) / 2
    assert len(from_bytes(data["quick"][1])) == 16_000  # 16 kHz, as unpacking requires


def test_unreadable_recordings_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_corpus(tmp_path / "corpus", n_takes=1)
    (folder / "noise-dev-0.wav").write_bytes(b"no sound")
    assert main(["data", "pack", str(folder), str(tmp_path / "packed")]) == 0
    message = f"left out, unreadable: {folder / 'noise-dev-0.wav'}\n"
    assert message in capsys.readouterr().err
    rows = read_index(tmp_path / "packed" / "index.csv")
    assert "noise-dev-0.opus" not in [row.path for row in rows]
    assert len(rows) == 5


@pytest.mark.parametrize("kbits", [16, 24, 32])
def test_opus_has_the_requested_bit_rate(kbits: float) -> None:
    sound = voice(6.0).astype(np.float32)
    result = len(as_opus(sound, kbits)) * 8 / 1000 / 6.0
    assert result == pytest.approx(kbits, rel=0.25)


def test_names_that_differ_only_in_their_suffix_stay_distinct(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", n_takes=1)
    encode(folder / "noise-train-0.flac", hiss(0.9).astype(np.float32), OPUS)
    row = ["noise", "s", "g", "train"]
    names = ("noise-train-0.wav", "noise-train-0.flac")
    write_index(folder, [[*row, name, 1.0, "", ""] for name in names])
    packed(folder, tmp_path / "packed")
    again = untar(tmp_path / "packed", tmp_path / "again")
    rows = read_index(again / "index.csv")
    lengths = [len(decode(again / row.path)) for row in rows]
    assert lengths == [len(decode(folder / name)) for name in names]


def test_banks_are_packed_and_rooms_losslessly(corpus: Path, tmp_path: Path) -> None:
    banks = {name: fill_bank(tmp_path / "cache", name, 8) for name in ("rooms", "singing")}
    packed(corpus, tmp_path / "packed", 200_000, cache=tmp_path / "cache")
    entries = read_banks(tmp_path / "packed")
    assert [e.bank for e in entries] == ["singing"] * 7 + ["rooms"] * 7  # without the silent one
    folder = untar(tmp_path / "packed", tmp_path / "again")
    for name, bank in banks.items():
        mine = [e for e in entries if e.bank == name]
        for number, (entry, row) in enumerate(zip(mine, bank.rows, strict=True)):
            assert (entry.group, entry.source, entry.scale) == (row.group, name, row.scale)
            sound = from_bytes((folder / entry.path).read_bytes())
            stored = bank.crop(number, 0, row.length)
            if name == "rooms":
                np.testing.assert_array_equal(sound * 32768, np.round(stored * 32767))
            else:
                assert len(sound) == len(stored)
    assert "bank rooms: 0.00 h train, 0.00 h dev" in describe(tmp_path / "packed")


def test_a_cache_without_banks_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no training banks; .*data synthesise"):
        packed(corpus, tmp_path / "packed", cache=tmp_path)


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with 10 speakers, one of them with half of the speech, and 40 noises."""
    folder = tmp_path_factory.mktemp("lopsided")
    rows: list[list[object]] = []
    for number in range(18):
        speaker = "chatterbox" if number < 9 else f"speaker{number}"
        rows.append(["speech", "s", speaker, "train", f"s{number}.opus", 0.8, "", ""])
    rows += [["noise", "n", f"n{k}", "train", f"n{k}.opus", 0.4, "", ""] for k in range(40)]
    rows += [["music", "m", "m", "dev", f"m{k}.opus", 0.4, "", ""] for k in range(3)]
    for row in rows:
        seconds = float(str(row[5]))
        (folder / str(row[4])).write_bytes(as_opus(hiss(seconds).astype(np.float32), 24))
    write_index(folder, rows)
    return folder


def test_a_subset_of_shards_keeps_the_dev_split_and_the_balance(
    lopsided: Path, tmp_path: Path
) -> None:
    whole = packed(lopsided, tmp_path / "whole", 32_000)
    assert len(whole) > 4
    part = packed(lopsided, tmp_path / "part", 32_000, most_shards=2)
    assert [path.name for path in part] == ["shard-000.tar", "shard-001.tar"]
    rows = read_index(tmp_path / "part" / "index.csv")
    all_rows = read_index(tmp_path / "whole" / "index.csv")
    assert rows == [row for row in all_rows if row in rows]  # in the order of the corpus
    assert sum(row.split == "dev" for row in rows) == 3
    seconds: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        if row.split == "train":
            seconds[row.role] += row.seconds
    assert seconds["speech"] / seconds["noise"] == pytest.approx(36 / 40, rel=0.35)
    # Every speaker once before any speaker twice.
    speakers = Counter(row.group for row in rows if row.role == "speech")
    assert max(speakers.values()) == 1 or len(speakers) == 10
    with (tmp_path / "whole" / "index.csv").open(newline="") as file:
        first = [line["path"] for line in csv.DictReader(file) if line["shard"] < "shard-002"]
    assert [row.path for row in rows] == first


def test_too_few_shards_for_the_dev_split_are_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the dev split alone fills 1 shards of 25000 bytes; allow"):
        packed(corpus, tmp_path, most_shards=1)


def test_a_recording_larger_than_a_shard_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"opus has \d+ bytes, a shard at most 12000; split"):
        packed(corpus, tmp_path, 12_000)


def test_packing_without_a_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"isn't a corpus: it has no index\.csv"):
        pack(tmp_path, tmp_path / "out")


def test_the_command_prints_a_summary(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_bank(tmp_path / "cache", "rooms", 3)
    options = ["--cache", str(tmp_path / "cache"), "--bitrate", "16", "--shards", "1"]
    assert main(["data", "pack", str(corpus), str(tmp_path / "out"), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "out" / "shard-000.tar")
    assert lines[1].startswith("speech: 0.00 h train, ")
    assert lines[-1].startswith("3 files, 0.")
    with pytest.raises(SystemExit, match="2"):
        main(["data", "pack", str(corpus), str(tmp_path / "out"), "--bitrate", "3"])
    assert "not a bit rate in kbit/s; give 8 to 128" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no sha256sum")
def test_sha256sum_accepts_the_checksums(corpus: Path, tmp_path: Path) -> None:
    packed(corpus, tmp_path)
    command = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


def test_flac_is_lossless() -> None:
    steps = np.array([-32112, -1, 0, 1, 2, 16056, 32112], np.float32)
    np.testing.assert_array_equal(from_bytes(as_flac(steps / np.float32(32767))) * 32768, steps)
