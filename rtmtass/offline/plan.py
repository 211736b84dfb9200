"""Plans which recordings become which files, before the first of them is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtmtass.config import STEMS
from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.io.encodings import FORMATS
from rtmtass.io.pipes import RawFormat
from rtmtass.offline.writers import MIX

SUFFIXES = frozenset(
    f".{word}"
    for words in ("wav wave rf64 w64 flac ogg oga opus mp3", "aif aiff aifc au snd caf voc sph")
    for word in words.split()
)
"""What is taken for a recording when a folder is searched; a file that is named is always tried."""


STREAM = Path("-")
"""As an input stdin, as an output stdout."""


@dataclass(frozen=True)
class SeparateOptions:
    """What the user asked for, the same for every file.

    `stems` are those to write; `mix` is where the remix goes, with `gains_db`.
    `folder` is where outputs go, None for beside their input. A path "-" is
    stdin or stdout; `raw` says what its samples are, where it has no header.
    """

    stems: tuple[str, ...] = STEMS
    folder: Path | None = None
    format: str | None = None
    subtype: str | None = None
    gains_db: Mapping[str, float] = field(default_factory=dict)
    mix: Path | None = None
    overwrite: bool = False
    channels: str = "linked"
    raw: RawFormat | None = None
    allow_truncated: bool = False


@dataclass(frozen=True)
class Job:
    """One recording and the files it becomes, by stem or MIX."""

    path: Path
    targets: Mapping[str, Path]


@dataclass(frozen=True)
class Result:
    """What became of one recording: `status` is "done", "skipped" or "failed"."""

    path: Path
    status: str
    outputs: Mapping[str, Path] = field(default_factory=dict)
    sample_rate: int = 0
    channels: int = 0
    frames: int = 0
    elapsed_s: float = 0.0
    clipped: Mapping[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return self.frames / self.sample_rate if self.sample_rate else 0.0

    @property
    def rtf(self) -> float:
        """Processing time / audio time."""
        return self.elapsed_s / self.duration_s if self.frames else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; keys that mean nothing for this status are left out."""
        plain: dict[str, Any] = {"input": str(self.path), "status": self.status}
        if self.status == "failed":
            return plain | {"error": self.error}
        plain["outputs"] = {name: str(path) for name, path in self.outputs.items()}
        if self.status == "done":
            plain |= {
                "sample_rate": self.sample_rate,
                "channels": self.channels,
                "frames": self.frames,
                "duration_s": round(self.duration_s, 6),
                "elapsed_s": round(self.elapsed_s, 3),
                "rtf": round(self.rtf, 5),
                "clipped": dict(self.clipped),
            }
        return plain


def plan(inputs: Sequence[Path], options: SeparateOptions, *, recursive: bool = False) -> list[Job]:
    """Decide what becomes of each file, and each recording in each folder.

    A folder's own outputs (`*.speech.*` and the like) aren't separated again.

    Raises:
        InputError: a folder without a recording.
        OutputError: an output would replace an input.
        UsageError: two inputs would write the same file.
    """
    found = list(dict.fromkeys(pair for path in inputs for pair in _expand(path, recursive)))
    several = len(found) > 1
    jobs = [Job(path, _targets(path, root, options, several)) for path, root in found]
    sources = {job.path.resolve(): job.path for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        for target in job.targets.values():
            if target == STREAM:
                continue
            place = target.resolve()
            if place in sources or any(_is_same_file(target, job.path) for job in jobs):
                raise OutputError(f"{target} is an input too; name another output with -o or --mix")
            other = taken.setdefault(place, job.path)
            if other != job.path:
                raise UsageError(
                    f"{other} and {job.path} would both write {target};"
                    " leave out --format, or separate them into two folders"
                )
    return jobs


def _expand(path: Path, recursive: bool) -> list[tuple[Path, Path]]:
    """Return (recording, the folder its output folder mirrors) for a file or a folder."""
    if not path.is_dir():
        return [(path, path.parent)]
    found = sorted(path.rglob("*") if recursive else path.glob("*"))
    kept = [p for p in found if p.suffix.lower() in SUFFIXES and p.is_file() and not _is_ours(p)]
    if not kept:
        hint = "" if recursive else "; to search the folders in it too, add --recursive"
        raise InputError(f"{path} is a folder without recordings{hint}")
    return [(p, path) for p in kept]


def _is_ours(path: Path) -> bool:
    return path.suffixes[-2:-1] in [[f".{name}"] for name in (*STEMS, MIX)]


def _targets(path: Path, root: Path, options: SeparateOptions, several: bool) -> dict[str, Path]:
    name = "stdin" if path == STREAM else path.stem
    folder = path.parent
    if options.folder is not None:
        folder = options.folder / path.parent.relative_to(root)
    own = path.suffix.lstrip(".").lower()
    suffix = options.format or (own if own in FORMATS else "wav")
    targets = {stem: folder / f"{name}.{stem}.{suffix}" for stem in options.stems}
    if options.folder == STREAM:
        targets = dict.fromkeys(options.stems, STREAM)
    if options.mix is not None and several:
        targets[MIX] = options.mix / f"{name}.{MIX}.{suffix}"
    elif options.mix is not None:
        targets[MIX] = options.mix
    return targets


def _is_same_file(target: Path, path: Path) -> bool:
    try:
        return target.samefile(path)
    except OSError:
        return False
