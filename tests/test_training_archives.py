"""Hostile archives: nothing is written outside the folder, and each is one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpora import hiss, voice
from hostile_archives import (
    member,
    tar_bytes,
    with_flags,
    write_deb,
    write_tgz,
    zip_bytes,
)

from rtmtass.errors import DataError, OutputError
from rtmtass.io.decode import WAV, encode
from rtmtass.training.data import archives
from rtmtass.training.data.archives import Budget, unpack_deb, unpack_inner, unpack_tgz, unpack_zip
from rtmtass.training.data.build import build, build_from_list
from rtmtass.training.data.build_log import Candidate
from rtmtass.training.data.corpus import read_index
from rtmtass.training.data.fetch import read_manifest, read_sources

Unpack = Callable[[Path, Path, Budget], None]
needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")


def everything(root: Path) -> dict[str, bytes | str]:
    """Contents of all files, and targets of all links, by path."""
    return {
        str(p.relative_to(root)): os.readlink(p) if p.is_symlink() else p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_symlink() or p.is_file()
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to unpack into, with a file beside it that must stay as it is."""
    (tmp_path / "beside.wav").write_bytes(b"mine")
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def unpacked(archive: Path, place: Path, unpack: Unpack) -> dict[str, bytes | str]:
    """What is in the folder after all archives were unpacked; checks what is beside it."""
    unpack(archive, place, Budget(archive.stat().st_size))
    unpack_inner(place, Budget(archive.stat().st_size))
    archive.unlink()
    assert everything(place.parent).keys() == {
        "beside.wav",
        *(f"in/{n}" for n in everything(place)),
    }
    assert (place.parent / "beside.wav").read_bytes() == b"mine"
    return everything(place)


LINKS = [
    member("usr/s/beside.wav", tarfile.SYMTYPE, "../../../beside.wav"),
    member("usr/s/x", tarfile.SYMTYPE, "../../.."),
    member("usr/hard.wav", tarfile.LNKTYPE, "../beside.wav"),
    member("usr/null.wav", tarfile.CHRTYPE),
    member("usr/pipe.wav", tarfile.FIFOTYPE),
]
FILES = {
    "usr/s.zip": zip_bytes({"beside.wav": b"new", "x/beside.wav": b"new"}),
    "usr/a.wav": b"sound",
}
PLAIN = {"usr/s.zip": FILES["usr/s.zip"], "usr/a.wav": b"sound", "usr/s/beside.wav": b"new",
         "usr/s/x/beside.wav": b"new"}  # fmt: skip


@needs_dpkg
def test_links_in_a_debian_package_are_never_followed(place: Path, tmp_path: Path) -> None:
    deb = write_deb(tmp_path / "x.deb", FILES, *LINKS)
    assert unpacked(deb, place, unpack_deb) == PLAIN


def test_links_in_a_tgz_are_never_followed(place: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.tgz"
    archive.write_bytes(tar_bytes({}, *LINKS, last=FILES))
    assert unpacked(archive, place, unpack_tgz) == PLAIN


def test_links_in_a_zip_are_never_made(place: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.whl"
    with zipfile.ZipFile(archive, "w") as file:
        link = zipfile.ZipInfo("s/link.wav")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "../../beside.wav")
        file.writestr("a.wav", b"sound")
    assert unpacked(archive, place, unpack_zip) == {"a.wav": b"sound"}


def test_a_link_that_was_there_before_is_not_written_through(place: Path, tmp_path: Path) -> None:
    (place / "s").symlink_to(tmp_path)
    (place / "t.wav").symlink_to(tmp_path / "beside.wav")
    for name in ("s/beside.wav", "t.wav"):
        archive = tmp_path / "x.zip"
        archive.write_bytes(zip_bytes({name: b"new"}))
        with pytest.raises(DataError, match=r"^x\.zip (holds .* through a link|can't be unpacked)"):
            unpack_zip(archive, place, Budget(1))
    assert (tmp_path / "beside.wav").read_bytes() == b"mine"


CLIMBING = ("../beside.wav", "/tmp/rtmtass-x.wav", "a/../../beside.wav", "..\\beside.wav",
            "C:\\x.wav", "\\\\host\\share\\x.wav")  # fmt: skip


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("unpack", [unpack_zip, unpack_tgz, unpack_deb])
def test_names_that_lead_out_are_refused(
    name: str, unpack: Unpack, place: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    if unpack is unpack_zip:
        archive.write_bytes(zip_bytes({name: b"new"}))
    elif unpack is unpack_tgz:
        write_tgz(archive, {name: b"new"})
    elif shutil.which("dpkg-deb"):
        write_deb(archive, {name: b"new"})
    else:
        pytest.skip("needs dpkg-deb")
    with pytest.raises(DataError, match=r"^archive holds '.*', which leads outside its folder$"):
        unpack(archive, place, Budget(1000))
    assert everything(place.parent).keys() == {"archive", "beside.wav"}
    assert not Path("/tmp/rtmtass-x.wav").exists()


def test_a_bomb_is_bounded_by_size(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000_000)
    silence = bytes(30_000_000)
    (tmp_path / "x.zip").write_bytes(zip_bytes({"a.wav": silence}))
    write_tgz(tmp_path / "x.tgz", {"skipped.bin": silence})
    for unpack, name in ((unpack_zip, "x.zip"), (unpack_tgz, "x.tgz")):
        size = (tmp_path / name).stat().st_size
        with pytest.raises(DataError, match=rf"^{name} unpacks to more than \d MB from 0\.0 MB"):
            unpack(tmp_path / name, place, Budget(size))
        assert sum(len(data) for data in everything(place).values()) < 4_000_000


def test_archives_within_archives_share_one_bound(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000_000)
    inner = zip_bytes({"a.wav": bytes(600_000)})
    (place / "1.zip").write_bytes(inner)
    (place / "2.zip").write_bytes(inner)
    with pytest.raises(DataError, match=r"^2\.zip unpacks to more than 1 MB"):
        unpack_inner(place, Budget(0))


def test_a_bomb_is_bounded_by_count(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 100)
    names = [f"{n}.txt" for n in range(101)]
    (tmp_path / "x.zip").write_bytes(zip_bytes(dict.fromkeys(names, b"")))
    write_tgz(tmp_path / "x.tgz", {}, *(member(name) for name in names))
    for unpack, name in ((unpack_zip, "x.zip"), (unpack_tgz, "x.tgz")):
        with pytest.raises(DataError, match=rf"^{name} holds more than 100 files"):
            unpack(tmp_path / name, place, Budget(10**6))
    monkeypatch.setattr(archives, "_MOST_DIRECTORY", 1000)  # zipfile reads it whole
    with pytest.raises(DataError, match=r"^x\.zip holds more than 100 files"):
        unpack_zip(tmp_path / "x.zip", place, Budget(10**6))


def test_a_huge_tar_header_is_not_read_into_memory(place: Path, tmp_path: Path) -> None:
    header = member("long", tarfile.XHDTYPE)
    header.size = 10**9
    (tmp_path / "x.tgz").write_bytes(tar_bytes({}, header))
    with pytest.raises(DataError, match=r"^x\.tgz is damaged: a header of 1000000000 bytes$"):
        unpack_tgz(tmp_path / "x.tgz", place, Budget(10**6))


ONE = zip_bytes({"a.wav": b"sound" * 100})
DAMAGED: dict[str, bytes] = {
    "not an archive": b"<html>404 Not Found</html>",
    "empty": b"",
    "encrypted": with_flags(ONE, flag_bits=1),
    "unknown method": with_flags(ONE, method=99),
    "bit flipped": ONE[:40] + bytes([ONE[40] ^ 255]) + ONE[41:],
    "a file in a file": zip_bytes({"a.wav": b"sound", "a.wav/b.wav": b"sound"}),
    "a file named as a folder": zip_bytes({"a.wav/b.wav": b"sound", "a.wav": b"sound"}),
    "name of 300 bytes": zip_bytes({"n" * 300 + ".wav": b"sound"}),
    "path of 9,000 bytes": zip_bytes({"n" * 90 + ("/" + "n" * 90) * 99 + ".wav": b"sound"}),
    **{f"cut at {n}": ONE[:n] for n in (3, 20, 60, len(ONE) - 30, len(ONE) - 1)},
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_zip_is_one_line(case: str, place: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.whl"
    archive.write_bytes(DAMAGED[case])
    with pytest.raises(DataError, match=r"^x\.whl (is damaged|can't be unpacked): [^\n]+$"):
        unpack_zip(archive, place, Budget(10**6))


@pytest.mark.parametrize("unpack", [unpack_tgz, unpack_deb])
def test_a_damaged_tar_is_one_line(unpack: Unpack, place: Path, tmp_path: Path) -> None:
    archive, rng = tmp_path / "x", np.random.default_rng(0)
    if unpack is unpack_tgz:
        write_tgz(archive, {"a.wav": rng.bytes(30_000), "b.wav": rng.bytes(30_000)})
    elif shutil.which("dpkg-deb"):
        write_deb(archive, {"a.wav": rng.bytes(30_000)})
    else:
        pytest.skip("needs dpkg-deb")
    data = archive.read_bytes()
    for n in (0, 5, 100, 20_000, len(data) - 200):
        archive.write_bytes(data[:n])
        with pytest.raises(DataError, match=r"^x (is damaged|can't be unpacked): [^\n]+$"):
            unpack(archive, place, Budget(10**6))


def test_a_full_disk_is_told_as_such(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.zip").write_bytes(ONE)
    monkeypatch.setattr(archives.os, "open", _full)
    with pytest.raises(OutputError, match=r"in can't be written: the disk is full; .*--downloads"):
        unpack_zip(tmp_path / "x.zip", place, Budget(10**6))


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def write_sources(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("role,registry,package,version,licence,tier", *lines)) + "\n")
    return path


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Two packages of each role, copied there by hand."""
    folder = tmp_path / "downloads"
    for seed in range(2):
        for name, sound in (("v", voice(0.4, 150, seed)), ("m", hiss(0.4, 9 + seed)),
                            ("n", hiss(0.4, seed))):  # fmt: skip
            (folder / name).mkdir(parents=True, exist_ok=True)
            encode(folder / name / f"{seed}.wav", sound.astype(np.float32), WAV)
    return folder


GOOD = ("speech,npm,v,,,", "music,npm,m,,,", "noise,npm,n,,,")


def test_a_build_goes_on_after_a_hostile_package(
    downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {
        "climbs": tar_bytes({"a.wav": b"fine", "../../../beside.wav": b"new"}),
        "cut": tar_bytes({"a.wav": bytes(1000)})[:-20],
    }

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        (cwd / "x.tgz").write_bytes(contents[command[-1]])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    sources = write_sources(tmp_path / "s.csv", "noise,npm,climbs,,,", "noise,npm,cut,,,", *GOOD)
    report = build_from_list(sources, tmp_path / "corpus", downloads=downloads)
    assert report.recordings == 6
    details = {f.key: f.detail for f in report.findings if f.problem == "missing"}
    assert details.keys() == {"noise/climbs", "noise/cut"}
    assert "leads outside its folder; the package is left out: copy its" in details["noise/climbs"]
    assert "x.tgz is damaged" in details["noise/cut"]
    assert {f"{key}: {detail}" for key, detail in details.items()} <= set(report.lines())
    assert {p.name for p in downloads.iterdir()} == {"v", "m", "n"}
    assert {p.name for p in tmp_path.iterdir()} == {"s.csv", "corpus", "downloads"}


@pytest.mark.parametrize("role", ["../../x", "/tmp/rtmtass-role", "speech/..", "", "Speech", "x"])
def test_only_known_roles_pass(role: str, downloads: Path, tmp_path: Path) -> None:
    sources = write_sources(tmp_path / "s.csv", *GOOD, f"{role},npm,n,,,")
    message = (
        r"s\.csv, line 5: (unknown role .*; give one of: speech, music, noise, singing|no role)"
    )
    with pytest.raises(DataError, match=message):
        build_from_list(sources, tmp_path / "corpus", downloads=downloads)
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"role,package,group,split,path_in_package\n{role},n,g,,0.wav\n")
    with pytest.raises(DataError, match=r"m\.csv, line 2: (unknown|no) role"):
        build_from_list(
            write_sources(sources, *GOOD), tmp_path / "corpus", downloads=downloads,
            manifest=manifest,
        )  # fmt: skip
    if role:
        candidate = Candidate(role, "n", "g", downloads / "n" / "0.wav", "0.wav")
        with pytest.raises(DataError, match="unknown role"):
            build([candidate], tmp_path / "corpus")
    assert {p.name for p in tmp_path.iterdir()} == {"s.csv", "m.csv", "downloads"}


@pytest.mark.parametrize("package", ["..", ".", "../v", "/etc", "v/../..", "v//", "a\\..\\b"])
def test_a_package_is_never_another_folder(package: str, downloads: Path, tmp_path: Path) -> None:
    sources = write_sources(tmp_path / "s.csv", *GOOD, f"noise,npm,{package},,,")
    report = build_from_list(sources, tmp_path / "corpus", downloads=downloads)
    (missing,) = [f for f in report.findings if f.problem == "missing"]
    assert "isn't a valid package name" in missing.detail
    assert report.recordings == 6


def test_an_empty_package_name_is_refused(downloads: Path, tmp_path: Path) -> None:
    sources = write_sources(tmp_path / "s.csv", *GOOD, "noise,npm,,,,")
    with pytest.raises(DataError, match=r"s\.csv, line 5: no package; add it"):
        build_from_list(sources, tmp_path / "corpus", downloads=downloads)


def test_a_source_never_leads_out_of_its_role(tmp_path: Path) -> None:
    encode(tmp_path / "a.wav", hiss(0.4).astype(np.float32), WAV)
    for source in ("..", ".", "../../x", "/etc"):
        corpus = tmp_path / "corpus"
        build([Candidate("noise", source, "g", tmp_path / "a.wav", "a")], corpus, dev_share=0)
        (row,) = read_index(corpus / "index.csv")
        assert (corpus / row.path).resolve().is_relative_to(corpus / "noise")
        assert len(list((corpus / "noise").iterdir())) == 1
        shutil.rmtree(corpus)
    assert {p.name for p in tmp_path.iterdir()} == {"a.wav"}


def test_a_link_in_the_corpus_is_not_written_through(tmp_path: Path) -> None:
    encode(tmp_path / "a.wav", hiss(0.4).astype(np.float32), WAV)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "corpus" / "noise").symlink_to(tmp_path / "out")
    with pytest.raises(DataError, match="is a link that leads out of"):
        build([Candidate("noise", "s", "g", tmp_path / "a.wav", "a")], tmp_path / "corpus")
    assert not list((tmp_path / "out").iterdir())


HEADER = "role,registry,package,version,licence,tier\n"
LISTS = {
    "Latin-1": (HEADER + "noise,npm,n,,Müller,\n").encode("latin-1"),
    "UTF-16": (HEADER + "noise,npm,n,,,\n").encode("utf-16"),
    "over-long field": (HEADER + f"noise,npm,{'n' * 200_000},,,\n").encode(),
    "short row": (HEADER + "noise\n").encode(),
    "only commas": (HEADER + ",,,,,\n").encode(),
    "empty": b"",
    "NUL": (HEADER + "noise,npm,\0,,,\n").encode(),
    "open quote": (HEADER + 'noise,"npm\n').encode(),
}


@pytest.mark.parametrize("case", LISTS)
def test_an_unusual_list_is_one_line(case: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(LISTS[case])
    with pytest.raises((DataError), match=r"^(?!.*\n)(.*s\.csv|no recording could be used)"):
        build_from_list(tmp_path / "s.csv", tmp_path / "c", downloads=tmp_path / "d")


@pytest.mark.parametrize("data", [b"no gzip", b"\x1f\x8b\x08", b"\x1f\x8b\x08" + bytes(40)])
def test_a_damaged_gzip_manifest_is_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.csv.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"m\.csv\.gz (is damaged: .*; copy it again|isn't UTF-8)$"):
        list(read_manifest(tmp_path / "m.csv.gz"))


def test_a_list_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes((HEADER + "noise,npm,n,,,\n").encode("utf-8-sig"))
    assert [package.package for package in read_sources(tmp_path / "s.csv")] == ["n"]
