"""Plans the output files of a set of recordings, before the first of them is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtmtass.config import STEMS
from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.io.encodings import FORMATS
from rtmtass.io.pipes import RawFormat
from rtmtass.offline.excerpt import TimeRange
from rtmtass.offline.limiter import Limiting
from rtmtass.offline.naming import NameTemplate
from rtmtass.offline.writers import MIX, REST

SUFFIXES = frozenset(
    f".{word}"
    for words in ("wav wave rf64 w64 flac ogg oga opus mp3", "aif aiff aifc au snd caf voc sph")
    for word in words.split()
)
"""File types to look for in a folder; a file that is given by name may have any suffix."""

STREAM = Path("-")
"""Stdin as an input, stdout as an output."""


@dataclass(frozen=True)
class SeparateOptions:
    """The user's options, which apply to every file.

    Attributes:
        stems: to write.
        folder: of the outputs; None for that of each input, `STREAM` for stdout.
        format: one of `FORMATS`; None for the input's.
        subtype: soundfile's name; None for the nearest to the input's.
        gains_db: of each stem in the remix; 0 dB if missing.
        mix: path of the remix, or its folder for several inputs; None for no remix.
        overwrite: replace existing outputs instead of skipping them.
        channels: one of `CHANNEL_MODES`.
        raw: format of stdin's samples; None for a WAV.
        allow_truncated: accept inputs that are shorter than their header says.
        naming: of the outputs.
        part: to separate; None for all.
        limit: keep the remix's true peaks below full scale.
        bitrate: of MP3 outputs, in kbit/s; None for libsndfile's default.
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
    naming: NameTemplate = field(default_factory=NameTemplate)
    part: TimeRange | None = None
    limit: bool = False
    bitrate: int | None = None


@dataclass(frozen=True)
class Job:
    """One recording and its output files, by stem or `MIX`."""

    path: Path
    targets: Mapping[str, Path]


@dataclass(frozen=True)
class Result:
    """The outcome of one recording.

    Attributes:
        path: of the recording.
        status: "done", "skipped" or "failed".
        outputs: files written, or skipped, by stem or `MIX`.
        sample_rate: of the outputs, in Hz.
        channels: of the outputs.
        frames: length.
        elapsed_s: processing time in seconds.
        clipped: samples beyond full scale, by output.
        start: first frame of the recording in the outputs.
        limiting: of the remix; None without `limit`.
        error: the message, if it failed.
    """

    path: Path
    status: str
    outputs: Mapping[str, Path] = field(default_factory=dict)
    sample_rate: int = 0
    channels: int = 0
    frames: int = 0
    elapsed_s: float = 0.0
    clipped: Mapping[str, int] = field(default_factory=dict)
    start: int = 0
    limiting: Limiting | None = None
    error: str = ""

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return self.frames / self.sample_rate if self.sample_rate else 0.0

    @property
    def end_s(self) -> float:
        """End of the outputs in seconds of the recording."""
        return (self.start + self.frames) / self.sample_rate if self.sample_rate else 0.0

    @property
    def rtf(self) -> float:
        """Processing time / audio time."""
        return self.elapsed_s / self.duration_s if self.frames else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with the keys that apply to this status."""
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
                "start_s": round(self.start / self.sample_rate, 6),
                "end_s": round(self.end_s, 6),
            }
            if self.limiting:
                plain["limiter"] = self.limiting.to_dict()
        return plain


def plan(inputs: Sequence[Path], options: SeparateOptions, *, recursive: bool = False) -> list[Job]:
    """Expand files and folders into jobs.

    Earlier outputs in a folder (`*.speech.*` and the like) aren't separated again.

    Args:
        inputs: files, folders or `STREAM`.
        options: of all jobs.
        recursive: search the folders within folders too.

    Raises:
        InputError: a folder without a recording.
        OutputError: an output would replace an input.
        UsageError: two inputs would write the same file.
    """
    recordings = list(dict.fromkeys(pair for path in inputs for pair in _expand(path, recursive)))
    several = len(recordings) > 1
    jobs = [Job(path, _targets(path, root, options, several)) for path, root in recordings]
    if not options.naming.is_default:
        jobs = _without_outputs(jobs, inputs)
    sources = {job.path.resolve(): job.path for job in jobs}
    inputs_by_output: dict[Path, Path] = {}
    for job in jobs:
        for target in job.targets.values():
            if target == STREAM:
                continue
            output = target.resolve()
            if output in sources or any(_is_same_file(target, job.path) for job in jobs):
                raise OutputError(f"{target} is an input too; name another output with -o or --mix")
            other = inputs_by_output.setdefault(output, job.path)
            if other != job.path:
                raise UsageError(
                    f"{other} and {job.path} would both write {target};"
                    " leave out --format, or separate them into two folders"
                )
    return jobs


def _expand(path: Path, recursive: bool) -> list[tuple[Path, Path]]:
    """Return (recording, root) pairs; outputs repeat the recording's folder relative to root."""
    if not path.is_dir():
        return [(path, path.parent)]
    files = sorted(path.rglob("*") if recursive else path.glob("*"))
    recordings = [
        p for p in files if p.suffix.lower() in SUFFIXES and p.is_file() and not _is_output(p)
    ]
    if not recordings:
        hint = "" if recursive else "; to search the folders in it too, add --recursive"
        raise InputError(f"{path} is a folder without recordings{hint}")
    return [(p, path) for p in recordings]


def _is_output(path: Path) -> bool:
    return path.suffixes[-2:-1] in [[f".{name}"] for name in (*STEMS, REST, MIX)]


def _without_outputs(jobs: list[Job], inputs: Sequence[Path]) -> list[Job]:
    """Return the jobs but those whose recordings, found in folders, are outputs of others."""
    outputs = {target.resolve() for job in jobs for target in job.targets.values()}
    return [job for job in jobs if job.path in inputs or job.path.resolve() not in outputs]


def _targets(path: Path, root: Path, options: SeparateOptions, several: bool) -> dict[str, Path]:
    name = "stdin" if path == STREAM else path.stem
    folder = path.parent
    if options.folder is not None:
        folder = options.folder / path.parent.relative_to(root)
    input_format = path.suffix.lstrip(".").lower()
    suffix = options.format or (input_format if input_format in FORMATS else "wav")
    fill = options.naming.fill
    targets = {stem: folder / f"{fill(name, stem)}.{suffix}" for stem in options.stems}
    if options.folder == STREAM:
        targets = dict.fromkeys(options.stems, STREAM)
    if options.mix is not None and several:
        targets[MIX] = options.mix / f"{fill(name, MIX)}.{suffix}"
    elif options.mix is not None:
        targets[MIX] = options.mix
    return targets


def _is_same_file(target: Path, path: Path) -> bool:
    try:
        return target.samefile(path)
    except OSError:
        return False
