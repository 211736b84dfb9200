"""Downloads packages that contain audio, through their registries' ordinary clients."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rtmtass.errors import DataError, MissingPartError, OutputError
from rtmtass.io.part_file import why_unwritable
from rtmtass.training.data.archives import (
    SOUND_SUFFIXES,
    Budget,
    unpack_deb,
    unpack_inner,
    unpack_tgz,
    unpack_zip,
)
from rtmtass.training.data.corpus import ROLES, SPLITS
from rtmtass.training.data.tables import Line, read_table

REGISTRIES = ("debian", "pypi", "npm")
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
        DataError: the file can't be read, columns or values are missing, or a role is unknown.
    """
    needed = ("role", "registry", "package")
    packages: list[Package] = []
    for line in read_table(path, needed):
        line.one_of("role", ROLES)
        columns = (*needed, "version", "licence", "tier")
        packages.append(Package(*(line.values.get(c, "") for c in columns)))
    return packages


def read_manifest(path: Path) -> list[Listed]:
    """Read a manifest, CSV or CSV.gz: role, package, group, split, path_in_package.

    Raises:
        DataError: as `read_sources`, or a split is unknown.
    """
    columns = ("role", "package", "group", "split", "path_in_package")
    return [_listed(line, columns) for line in read_table(path, columns, may_be_empty=("split",))]


def _listed(line: Line, columns: tuple[str, ...]) -> Listed:
    line.one_of("role", ROLES)
    line.one_of("split", ("", *SPLITS))
    return Listed(*(line.values.get(c, "") for c in columns))


def fetch(package: Package, downloads: Path) -> Path:
    """Return the folder with a package's files, downloading and unpacking it if necessary.

    Nothing is installed, and no code of the package is run. Archives inside are unpacked
    into the same folder, under their name without suffix. An existing folder
    `downloads/NAME` is used as it is.

    Raises:
        DataError: the name is invalid, the registry is unknown or doesn't have the package,
            or its archives are damaged, too large or lead outside the folder.
        MissingPartError: the registry's client isn't installed.
        OutputError: the folder can't be written.
    """
    downloads = downloads.absolute()  # the registries' clients run inside it
    manual = downloads / package.package
    _check_is_one_folder(package, manual, downloads)
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
    try:
        # An earlier run may have been stopped, or have refused an archive halfway.
        if folder.is_symlink():
            folder.unlink()
        elif folder.is_dir():
            shutil.rmtree(folder)
        archives = folder / "download"
        archives.mkdir(parents=True)
        _download(package, archives)
        _unpack(package, archives, folder)
        shutil.rmtree(archives)
        (folder / _MARK).touch()
    except OSError as error:
        raise OutputError(why_unwritable(folder, error, "--downloads")) from error
    return folder


def _download(package: Package, archives: Path) -> None:
    {"debian": _fetch_debian, "pypi": _fetch_pypi, "npm": _fetch_npm}[package.registry](
        package, archives
    )


def _unpack(package: Package, archives: Path, folder: Path) -> None:
    """Unpack all downloaded archives; leave nothing of a refused one."""
    found = sorted(p for p in archives.iterdir() if p.is_file() and not p.is_symlink())
    budget = Budget(sum(p.stat().st_size for p in found))
    try:
        for archive in found:
            if archive.suffix == ".deb":
                unpack_deb(archive, folder, budget)
            elif archive.suffix == ".whl":
                unpack_zip(archive, folder / "files", budget)
            elif archive.suffix == ".tgz":
                unpack_tgz(archive, folder / "files", budget)
            archive.unlink()
        unpack_inner(folder, budget)
    except DataError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(
            f"{error}; the package is left out: copy its recordings into"
            f" {folder.parent / package.package} to use them"
        ) from None


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


def _check_is_one_folder(package: Package, manual: Path, downloads: Path) -> None:
    """Reject names that lead to the downloads folder itself, or out of it."""
    parts = package.package.split("/")
    if manual == downloads or "\0" in package.package or not all(parts) or {".", ".."} & {*parts}:
        raise DataError(f"{package.package!r} isn't a valid package name; correct the sources list")


def _check_name(package: Package) -> None:
    """Reject names that a client could read as an option, a path or a URL."""
    name = r"(@[a-z0-9][\w.-]*/)?[A-Za-z0-9][\w.+-]*"
    if re.fullmatch(name, package.package) and re.fullmatch(r"[\w.+:~-]*", package.version):
        return
    raise DataError(
        f"{package.package!r} {package.version!r} isn't a valid package name and version;"
        " correct the sources list"
    )


def _fetch_debian(package: Package, archives: Path) -> None:
    wanted = f"{package.package}={package.version}" if package.version else package.package
    try:
        _call(["apt-get", "download", wanted], archives, package)
    except DataError:
        # A Debian mirror keeps only one version, which may be newer than the list's.
        _call(["apt-get", "download", package.package], archives, package)


def _fetch_pypi(package: Package, archives: Path) -> None:
    wanted = f"{package.package}=={package.version}" if package.version else package.package
    # Wheels only: building a source distribution would run the package's code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    _call([*command, "--dest", str(archives), wanted], archives, package)


def _fetch_npm(package: Package, archives: Path) -> None:
    wanted = f"{package.package}@{package.version}" if package.version else package.package
    _call(["npm", "pack", "--ignore-scripts", wanted], archives, package)


def _call(command: list[str], folder: Path, package: Package) -> None:
    try:
        process = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
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
