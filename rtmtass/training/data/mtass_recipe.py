"""Finds the data sets of the published MTASS recipe in their original folder layouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rtmtass.training.data.build_log import Candidate
from rtmtass.training.data.fetch import sound_files


def mtass_candidates(root: Path) -> list[Candidate]:
    """Return all speech, music and noise of the recipe under a folder."""
    return [*_aishell(root), *_didi(root), *_dsd100(root), *_dns(root)]


def _aishell(root: Path) -> Iterator[Candidate]:
    for split in ("train", "dev"):
        for folder in sorted(root.glob(f"**/data_aishell/wav/{split}")):
            for path in sound_files(folder):
                speaker = path.parent.name
                name = f"{split}/{speaker}/{path.name}"
                yield Candidate(
                    "speech", "AISHELL-1", speaker, path, name, split, "Apache-2.0", "A"
                )


def _didi(root: Path) -> Iterator[Candidate]:
    for folder in sorted(p for p in root.glob("**/[Dd]i[Dd]i*") if p.is_dir()):
        for path in sound_files(folder):
            name = path.relative_to(folder).as_posix()
            yield Candidate("speech", "DiDiSpeech", path.parent.name, path, name)


def _dsd100(root: Path) -> Iterator[Candidate]:
    for folder in sorted(root.glob("**/DSD100/Mixtures/Dev")):
        for path in sound_files(folder):
            piece = path.parent.name
            yield Candidate("music", "DSD100", piece, path, f"{piece}/{path.name}")


def _dns(root: Path) -> Iterator[Candidate]:
    for pattern in ("**/datasets*/noise", "**/noise_fullband"):
        for folder in sorted(root.glob(pattern)):
            for path in sound_files(folder):
                yield Candidate("noise", "DNS-Challenge", path.name, path, path.name)
