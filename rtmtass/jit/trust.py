"""Whether only this user can change a folder or file, so that code in it may be run."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OVERFLOW = 65534  # shown for owners that a container doesn't know


def trusted_users(package: Path | None = None) -> frozenset[int]:
    """Return the users who may own code that we run: root, this one, and a package's owner."""
    if os.name == "nt":
        return frozenset()
    users = {0, os.geteuid()}
    return frozenset(users if package is None else users | {package.stat().st_uid})


class Unsafe(NamedTuple):
    """Who else can change a folder, and what to do about it."""

    reason: str
    advice: str


def why_unsafe(folder: Path, users: Collection[int]) -> Unsafe | None:
    """Return who else can change what is in a folder, or replace it; None if nobody can.

    A folder that doesn't exist yet is as safe as those it will be made in. On Windows,
    where folders have no modes, all are taken to be safe.

    Args:
        folder: to check, with all those above it, after links.
        users: trusted owners.
    """
    if os.name == "nt":
        return None
    real = Path(os.path.realpath(folder))
    for path in (real, *real.parents):
        try:
            status = path.stat()
        except OSError:  # not there; and what can't be looked at can't be used either
            continue
        is_itself = path == real
        if status.st_uid not in users and (is_itself or not _is_unmapped(status.st_uid)):
            return Unsafe(
                f"{path} belongs to another user", "set NUMBA_CACHE_DIR to a folder of your own"
            )
        if status.st_mode & _OTHERS and (is_itself or not _is_shared_safely(status)):
            return Unsafe(f"others can write {path}", f"chmod go-w {shlex.quote(str(path))}")
    return None


def is_safe_file(descriptor: int, users: Collection[int]) -> bool:
    """Return whether an open file belongs to a trusted user and only that one can write it."""
    if os.name == "nt":
        return True
    status = os.fstat(descriptor)
    is_plain = stat.S_ISREG(status.st_mode) and not status.st_mode & _OTHERS
    return is_plain and status.st_uid in users


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, for this user alone to write, whatever the umask.

    Raises:
        OSError: it can't be created.
    """
    for path in (*reversed(folder.parents), folder):
        if not os.path.exists(path):
            try:
                path.mkdir(mode=0o755)
            except FileExistsError:  # another process was faster
                continue


def _is_shared_safely(status: os.stat_result) -> bool:
    """Return whether others who can write a folder still can't replace what we have in it.

    In a sticky folder, such as /tmp, each may only rename their own. A private group has
    only one member: some systems make it the group of all that a user writes.
    """
    if status.st_mode & stat.S_ISVTX:
        return True
    return not status.st_mode & stat.S_IWOTH and _is_private_group(status.st_gid)


def _is_private_group(gid: int) -> bool:
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _is_unmapped(uid: int) -> bool:
    """Return whether an owner is outside this container's user namespace."""
    if uid != _OVERFLOW:
        return False
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
        ranges = [tuple(map(int, line.split())) for line in lines]
    except (OSError, ValueError):
        return False
    return not any(first <= uid < first + count for first, _, count in ranges)
