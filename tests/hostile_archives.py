"""Archives that the standard library's writers won't make: of any member, and damaged ones."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """A tar member of any type; a link leads to `link`."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tar_bytes(
    files: dict[str, bytes], *extra: tarfile.TarInfo, last: dict[str, bytes] | None = None
) -> bytes:
    """A gzipped tar of files, then of members without content, then of further files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, content in files.items():
            _add(tar, name, content)
        for info in extra:
            tar.addfile(info)
        for name, content in (last or {}).items():
            _add(tar, name, content)
    return data.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_tgz(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    """Write a .tgz."""
    path.write_bytes(tar_bytes(files, *extra))
    return path


def write_deb(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    """Write a Debian package, which is an `ar` archive of a version and two tar files."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar_bytes({"./control": b"Package: x\nVersion: 1\n"}),
        "data.tar.gz": tar_bytes({}, *extra, last=files),
    }
    data = b"!<arch>\n"
    for name, content in parts.items():
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        data += content + b"\n" * (len(content) % 2)
    path.write_bytes(data)
    return path


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """A zip file, deflated."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return data.getvalue()


def with_flags(data: bytes, flag_bits: int = 0, method: int | None = None) -> bytes:
    """A zip file of one member, with flags set or another method in both of its headers."""
    patched = bytearray(data)
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.index(magic) + at
        flags, old = struct.unpack_from("<HH", data, start)
        struct.pack_into(
            "<HH", patched, start, flags | flag_bits, old if method is None else method
        )
    return bytes(patched)
