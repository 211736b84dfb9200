"""Plans the output files of a set of recordings, before the first of them is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rtmtass.config import STEMS
from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.io.encodings import FORMATS
from rtmtass.io.media.contents import SUFFIXES as MEDIA_SUFFIXES
from rtmtass.io.media.decoding import HOW_TO_INSTALL, has_backend
from rtmtass.io.media.structure import is_media
from rtmtass.io.media.targets import TARGETS, VIDEO_SUFFIXES
from rtmtass.io.paths import fit_name, quoted
from rtmtass.io.pipes import RawFormat
from rtmtass.io.special_files import has_no_folder, is_special
from rtmtass.offline.excerpt import TimeRange
from rtmtass.offline.limiter import Limiting
from rtmtass.offline.names import Base, distinct
from rtmtass.offline.naming import NameTemplate
from rtmtass.offline.writers import MIX, REST

SUFFIXES = frozenset(
    f".{word}"
    for words in ("wav wave rf64 w64 flac ogg oga opus mp3", "aif aiff aifc au snd caf voc sph")
    for word in words.split()
)
"""File types to look for in a folder; a file that is given by name may have any suffix."""

_SHARED_SUFFIXES = (".ts", ".mts")
"""File types that are not always sound: TypeScript too."""

_NAMED = 3  # files in a message

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
        mix: path of the remix, or a folder, which is one without a suffix or one that exists;
            None for no remix.
        overwrite: replace existing outputs instead of skipping them.
        channels: one of `CHANNEL_MODES`.
        raw: format of stdin's samples; None for a WAV.
        allow_truncated: accept inputs that are shorter than their header says.
        naming: of the outputs.
        part: to separate; None for all.
        limit: keep the remix's true peaks below full scale.
        bitrate: of MP3 outputs, in kbit/s; None for libsndfile's default.
        track: number of the audio track of a video, from 1; None for the default.
        model: what separates, in words; outputs of another one aren't kept as finished.
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
    track: int | None = None
    model: str = ""


@dataclass(frozen=True)
class Job:
    """One recording and its output files.

    Attributes:
        path: of the recording.
        targets: by stem or `MIX`.
        error: why it can't be separated, or "".
    """

    path: Path
    targets: Mapping[str, Path]
    error: str = ""


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
        track: number of the audio track; 0 if the recording isn't a media file.
        codec: of the track, FFmpeg's name.
        remix: what a remix that FFmpeg has written consists of; see `MediaSink.about`.
        error: the message, if it failed.
        traceback: of a bug in rtmtass that it failed by, or "".
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
    track: int = 0
    codec: str = ""
    remix: Mapping[str, Any] | None = None
    error: str = ""
    traceback: str = ""

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
            if self.track:
                plain |= {"track": self.track, "codec": self.codec}
            if self.remix:
                plain["remix"] = dict(self.remix)
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
        InputError: folders without a recording.
        OutputError: an output would replace an input.
        UsageError: an output can't be what it is named, or has two contents.
    """
    recordings, empty = [], []
    for path in inputs:
        found = _expand(path, recursive)
        recordings += found
        if not found:
            empty.append(Job(path, {}, _why_empty(path, recursive)))
    if not recordings:
        raise InputError(empty[0].error)
    recordings = list({os.path.abspath(path): (path, root) for path, root in recordings}.values())
    if not options.naming.is_default:
        recordings = _without_outputs(recordings, inputs, options)
    _check_names(recordings, options)
    jobs = [
        Job(path, targets)
        for (path, _), targets in zip(recordings, _targets(recordings, options), strict=True)
    ]
    _check_targets(jobs)
    return jobs + empty


def unread_files(inputs: Sequence[Path], *, recursive: bool = False) -> list[Path]:
    """Return the files in folders that `plan` leaves out for want of PyAV or ffmpeg."""
    if has_backend():
        return []
    return [
        p
        for path in inputs
        if os.path.isdir(path)
        for p in _files_in(path, recursive)
        if _is_media(p)
    ]


def _expand(path: Path, recursive: bool) -> list[tuple[Path, Path]]:
    """Return (recording, root) pairs; outputs repeat the recording's folder relative to root."""
    if not os.path.isdir(path):
        return [(path, path.parent)]
    can_read = has_backend()
    return [
        (p, path)
        for p in _files_in(path, recursive)
        if (p.suffix.lower() in SUFFIXES or (can_read and _is_media(p))) and not _is_output(p)
    ]


def _is_media(path: Path) -> bool:
    """Whether a file in a folder is a video or the like, by its name, and where that may be wrong.

    Others of these types are opened, so that one that is damaged isn't passed over.
    """
    suffix = path.suffix.lower()
    return suffix in MEDIA_SUFFIXES and (suffix not in _SHARED_SUFFIXES or is_media(path))


def _files_in(folder: Path, recursive: bool) -> list[Path]:
    found = folder.rglob("*") if recursive else folder.glob("*")
    return sorted(p for p in found if os.path.isfile(p))


def _why_empty(path: Path, recursive: bool) -> str:
    unread = unread_files([path], recursive=recursive)
    if unread:
        return f"{path} is a folder without recordings that can be read: {why_unread(unread)}"
    hint = "" if recursive else "; to search the folders in it too, add --recursive"
    return f"{path} is a folder without recordings{hint}"


def why_unread(files: Sequence[Path]) -> str:
    """Return which files were left out, and what makes them readable."""
    named = ", ".join(str(path) for path in files[:_NAMED])
    more = ", …" * (len(files) > _NAMED)
    return (
        f"{len(files)} file{'s' * (len(files) > 1)} skipped: {named}{more}; to read them too:"
        f" {HOW_TO_INSTALL}"
    )


def _is_output(path: Path) -> bool:
    return path.suffixes[-2:-1] in [[f".{name}"] for name in (*STEMS, REST, MIX)]


def _without_outputs(
    recordings: list[tuple[Path, Path]], inputs: Sequence[Path], options: SeparateOptions
) -> list[tuple[Path, Path]]:
    """Return the recordings but those, found in folders, that are outputs of others."""
    outputs = {
        os.path.realpath(target)
        for targets in _targets(recordings, options)
        for target in targets.values()
    }
    return [
        (path, root)
        for path, root in recordings
        if path in inputs or os.path.realpath(path) not in outputs
    ]


def _check_names(recordings: Sequence[tuple[Path, Path]], options: SeparateOptions) -> None:
    """Raise for options that name an output of another kind than meant."""
    folder = options.folder
    if folder is not None and folder != STREAM and _is_sound(folder) and not folder.is_dir():
        raise UsageError(
            f"-o names the folder of the stems, and {folder} looks like a file; name a folder,"
            f" as in -o {quoted(folder.with_suffix(''))}"
        )
    if folder is None and options.stems and any(has_no_folder(path) for path, _ in recordings):
        raise UsageError("a pipe has no folder; add -o FOLDER, or --stems speech -o -")
    mix = options.mix
    if mix is None or mix == STREAM or os.path.isdir(mix):
        return
    if is_special(mix) or mix.suffix:
        if not is_special(mix) and mix.suffix.lower().lstrip(".") not in (*FORMATS, *TARGETS):
            known = ", ".join(f".{name}" for name in (*FORMATS, *TARGETS))
            raise UsageError(
                f"--mix {mix} can't be written as {mix.suffix}; name a file that ends in {known},"
                " or a folder"
            )
        if len(recordings) > 1:
            raise UsageError(
                f"--mix {mix} is one file, and there are {len(recordings)} recordings; name a"
                f" folder, as in --mix {quoted(mix.parent / 'remixes')}"
            )


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | MEDIA_SUFFIXES


def _targets(
    recordings: Sequence[tuple[Path, Path]], options: SeparateOptions
) -> list[dict[str, Path]]:
    """Return the outputs of each recording."""
    bases = [_base(path, root, options) for path, root in recordings]
    result = []
    for base in distinct(bases):
        result.append({stem: _target(base, stem, options) for stem in options.stems})
        if options.folder == STREAM:
            result[-1] = dict.fromkeys(options.stems, STREAM)
    mix = options.mix
    if mix is None:
        return result
    is_one = mix == STREAM or is_special(mix) or (bool(mix.suffix) and not os.path.isdir(mix))
    remixes = distinct([_base_of_mix(base, mix, options) for base in bases])
    for targets, base in zip(result, remixes, strict=True):
        targets[MIX] = mix if is_one else _target(base, MIX, options)
    return result


def _base(path: Path, root: Path, options: SeparateOptions) -> Base:
    folder = path.parent
    if options.folder is not None:
        folder = options.folder / path.parent.relative_to(root)
    input_format = path.suffix.lstrip(".").lower()
    usual = "flac" if path.suffix.lower() in MEDIA_SUFFIXES else "wav"
    suffix = options.format or (input_format if input_format in FORMATS else usual)
    return Base(path, folder, "stdin" if path == STREAM else path.stem, suffix)


def _base_of_mix(base: Base, folder: Path, options: SeparateOptions) -> Base:
    """Return the base of a remix in a folder: that of a video is one too, without --format."""
    suffix = base.path.suffix.lower()
    if options.format is None and suffix in VIDEO_SUFFIXES:
        return replace(base, folder=folder, suffix=suffix.lstrip("."))
    return replace(base, folder=folder)


def _target(base: Base, stem: str, options: SeparateOptions) -> Path:
    if options.naming.is_default:
        return base.folder / fit_name(base.name, f".{stem}.{base.suffix}")
    path = base.folder / f"{options.naming.fill(base.name, stem)}.{base.suffix}"
    return path.with_name(fit_name(path.name.removesuffix(f".{base.suffix}"), f".{base.suffix}"))


def _check_targets(jobs: Sequence[Job]) -> None:
    """Raise if an output is an input, or would be written twice."""
    inputs = {identity for job in jobs for identity in _identities(job.path)}
    written: dict[object, tuple[Path, str]] = {}
    for job in jobs:
        for name, target in job.targets.items():
            if target == STREAM or is_special(target):
                continue
            identities = _identities(target)
            if not inputs.isdisjoint(identities):
                raise OutputError(f"{target} is an input too; name another output with -o or --mix")
            path, other = written.setdefault(identities[0], (job.path, name))
            if (path, other) != (job.path, name):
                raise UsageError(
                    f"{target} would be written twice, as {other} of {path} and as {name} of"
                    f" {job.path}; name another file with --mix, or another folder with -o"
                )


def _identities(path: Path) -> list[object]:
    """Return what two paths of one file have in common: real path, and number on its device."""
    identities: list[object] = [os.path.join(os.path.realpath(path.parent), path.name)]
    try:
        about = path.stat()
    except (OSError, ValueError):
        return identities
    return [*identities, (about.st_dev, about.st_ino)]
