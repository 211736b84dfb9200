"""Does a recogniser understand more when music and noise are turned down first?

English dev speech is mixed with dev music or noise at several SNRs and transcribed: as it
is, from our model at several strengths, and from each rival at its strongest. The measure
is the word error rate (WER); deletions are counted apart, for they are what suppression
that goes too far looks like. Every clip goes through all candidates before the next, so that
a run that ends early, by `--minutes` or by hand, is complete as far as it goes.

The corpus has no transcripts: the reference is what the same recogniser makes of the clean,
unprocessed speech. So "unprocessed, clean" is 0 by definition, and the other clean figures
say how much a candidate alone changes what is understood.

    python -m benchmarks.asr CORPUS --python ASR/bin/python --minutes 30 --output asr.json

The recogniser and the rivals need a separate interpreter, see harness/recognisers.py and
harness/rivals.py; rivals that aren't installed there are listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from benchmarks.harness.candidates import RATE, OurModel, Rival, open_rivals
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.recognisers import RECOGNISERS
from benchmarks.harness.rivals import RIVALS
from rtmtass.cli.console import Steps, print_table
from rtmtass.training.data.corpus import IndexRow, read_index
from rtmtass.weights import DEFAULT

Samples = NDArray[np.float32]

SCRIPT = Path(__file__).parent / "harness" / "recognisers.py"
ENGLISH = "resemble-ai+Resemblyzer"
"""Source of the speech: 33 speakers of LibriSpeech."""
STRENGTHS_DB = (6.0, 12.0, np.inf)
SNRS_DB = (0.0, 5.0, 10.0)
BACKGROUNDS = ("music", "noise")
COMPARED = ("DTLN", "DeepFilterNet3", "RNNoise")
UNPROCESSED = "unprocessed"
PEAK = 0.9
_SHORTEST_S = 3.0
"""Backgrounds shorter than this are left out; others are repeated to the speech's length."""
_RESAMPLES = 2000


class Recogniser:
    """A recogniser in its own process.

    Args:
        name: a key of `RECOGNISERS`.
        python: interpreter with its packages.
        command: runs instead of recognisers.py; must use the protocol of its `serve`.

    Raises:
        SystemExit: it doesn't run in that interpreter, with the reason.
    """

    def __init__(self, name: str, python: str, command: list[str] | None = None) -> None:
        self._process = subprocess.Popen(
            command or [python, str(SCRIPT), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout
        line = self._replies.readline()
        self.hello: dict[str, Any] = json.loads(line) if line else {"error": "it didn't start"}
        if "error" in self.hello:
            self.close()
            raise SystemExit(
                f"asr: no recogniser {name} in {python}: {self.hello['error']};"
                " give its interpreter with --python"
            )

    def __call__(self, clip: Samples) -> list[str]:
        """Return the words of a clip."""
        self._requests.write(struct.pack("<I", len(clip)) + clip.astype("<f4").tobytes())
        self._requests.flush()
        size = struct.unpack("<I", self._replies.read(4))[0]
        return words(self._replies.read(size).decode())

    def close(self) -> None:
        """Close the pipes and wait for the process to exit."""
        self._requests.close()
        self._replies.close()
        self._process.wait(timeout=60)


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.sub(r"[^a-z0-9' ]", "", re.sub(r"[-–—]", " ", text.lower())).split()


def word_errors(reference: Sequence[str], found: Sequence[str]) -> tuple[int, int, int]:
    """Return the substitutions, deletions and insertions of the cheapest alignment.

    Source: R. Wagner, M. Fischer, J. ACM 21(1), 1974; of equally cheap ones, the one that
    substitutes most.
    """
    # By prefix of `found`: (errors, substitutions, deletions, insertions) to reach it.
    row = [(k, 0, 0, k) for k in range(len(found) + 1)]
    for n, word in enumerate(reference):
        before, row = row, [(n + 1, 0, n + 1, 0)]
        for k, other in enumerate(found):
            wrong = int(word != other)
            e, s, d, i = before[k]
            kept = (e + wrong, s + wrong, d, i)
            e, s, d, i = before[k + 1]
            deleted = (e + 1, s, d + 1, i)
            e, s, d, i = row[k]
            inserted = (e + 1, s, d, i + 1)
            row.append(min(kept, deleted, inserted, key=lambda cell: cell[0]))
    return row[-1][1:]


def read_clip(path: Path) -> Samples:
    """Return a recording as mono at `RATE`."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples.mean(axis=1), rate, RATE, "VHQ"), np.float32)


def background(rows: list[tuple[Path, IndexRow]], n: int, rng: np.random.Generator) -> Samples:
    """Return n samples from a random place of a random recording that isn't silent there."""
    while True:
        folder, row = rows[rng.integers(len(rows))]
        recording = read_clip(folder / row.path)
        repeated = np.resize(recording, max(n, len(recording)))
        start = rng.integers(len(repeated) - n + 1)
        piece = repeated[start : start + n]
        if np.sqrt(np.mean(piece**2)) > 1e-3:
            return piece


def mix(speech: Samples, other: Samples, snr_db: float) -> Samples:
    """Add a background at an SNR, the powers of both taken over the whole clip."""
    gain = np.sqrt(np.mean(speech**2) / np.mean(other**2)) * 10 ** (-snr_db / 20)
    mixture = speech + np.float32(gain) * other
    return np.asarray(mixture * np.float32(PEAK / max(PEAK, np.abs(mixture).max())), np.float32)


@dataclass(frozen=True)
class Clip:
    """A clip of speech and its mixtures, by condition such as "music, 5 dB"."""

    name: str
    speech: Samples
    mixtures: dict[str, Samples]


def clips(folders: Sequence[Path], source: str, snrs_db: Sequence[float], n: int) -> Iterator[Clip]:
    """Yield the clips, always the same for the same corpus and number.

    Raises:
        SystemExit: the index has no such speech, or no music or noise.
    """
    rows = [(folder, row) for folder in folders for row in read_index(folder / "index.csv")]
    dev = [(folder, row) for folder, row in rows if row.split == "dev"]
    speech = [(f, row) for f, row in dev if row.role == "speech" and row.source == source]
    others = {
        role: [(f, row) for f, row in dev if row.role == role and row.seconds >= _SHORTEST_S]
        for role in BACKGROUNDS
    }
    for what, found in {f"speech of {source}": speech, **others}.items():
        if not found:
            raise SystemExit(f"asr: no {what} for dev in the index; see --speech")
    order = np.random.default_rng(0).permutation(len(speech))[:n]
    for number in order:
        folder, row = speech[number]
        samples = read_clip(folder / row.path)
        rng = np.random.default_rng([1, number])
        mixtures = {"clean": samples}
        for role in BACKGROUNDS:
            other = background(others[role], len(samples), rng)
            for snr_db in snrs_db:
                mixtures[f"{role}, {snr_db:g} dB"] = mix(samples, other, snr_db)
        yield Clip(row.group, samples, mixtures)


def processed(
    mixture: Samples, ours: OurModel, strengths_db: Sequence[float], rivals: list[Rival]
) -> Iterator[tuple[str, Samples]]:
    """Yield the name and the output of each candidate."""
    yield UNPROCESSED, mixture
    stems, _ = ours(mixture)
    for strength_db in strengths_db:
        rest = np.float32(10 ** (-strength_db / 20))
        yield strength_name(strength_db), stems[0] + rest * (stems[1] + stems[2])
    for rival in rivals:
        yield rival.name, rival(mixture)[0][0]


def strength_name(strength_db: float) -> str:
    """Return the candidate's name at a strength."""
    return f"rtmtass, {strength_db:g} dB" if np.isfinite(strength_db) else "rtmtass, no limit"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Transcribe everything, saving after every clip; plain values for JSON."""
    recogniser = Recogniser(arguments.recogniser, arguments.python)
    ours = OurModel(arguments.model)
    rivals, missing = open_rivals(arguments.rivals, arguments.python)
    result: dict[str, Any] = {
        "benchmark": "asr",
        "machine": machine_card(),
        "recogniser": {"name": arguments.recogniser, **recogniser.hello},
        "speech": arguments.speech,
        "packages": {rival.name: rival.hello["package"] for rival in rivals},
        "not_run": missing,
        "clips": [],
        "counts": {},
    }
    deadline = time.monotonic() + 60 * arguments.minutes
    with Steps() as steps:
        for clip in clips(arguments.corpus, arguments.speech, arguments.snr, arguments.clips):
            if not result["clips"]:
                for rival in rivals:
                    rival.calibrate([clip.speech])
            reference = recogniser(clip.speech)
            if not reference:
                continue
            for condition, mixture in clip.mixtures.items():
                rows = result["counts"].setdefault(condition, {})
                for name, out in processed(mixture, ours, arguments.strength, rivals):
                    errors = word_errors(reference, recogniser(out))
                    rows.setdefault(name, []).append([len(reference), *errors])
            result["clips"].append(clip.name)
            save(with_summaries(result), arguments.output)
            steps("clips", len(result["clips"]), arguments.clips)
            if time.monotonic() > deadline:
                break
    recogniser.close()
    for rival in rivals:
        rival.close()
    return with_summaries(result)


def with_summaries(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with the figures that its counts give, by condition and candidate."""
    conditions = {
        condition: {name: summary(values, rows[UNPROCESSED]) for name, values in rows.items()}
        for condition, rows in result["counts"].items()
    }
    return {**result, "conditions": conditions}


def save(result: dict[str, Any], output: Path | None) -> str:
    """Return the figures as JSON, and save them if there is a file to save to."""
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if output:
        output.write_text(text, encoding="utf-8")
    return text


def summary(values: list[list[int]], unprocessed: list[list[int]]) -> dict[str, Any]:
    """Return WER and deletions in per cent of the words, and the WER's change with an interval.

    Args:
        values: per clip words, substitutions, deletions and insertions.
        unprocessed: those of the same clips unprocessed.
    """
    rows, others = np.array(values), np.array(unprocessed)
    draws = np.random.default_rng(0).integers(len(rows), size=(_RESAMPLES, len(rows)))
    changes = [wer(rows[draw]) - wer(others[draw]) for draw in draws]
    low, high = np.quantile(changes, [0.025, 0.975])
    return {
        "wer": wer(rows),
        "deletions": float(100 * rows[:, 2].sum() / rows[:, 0].sum()),
        "change": {"mean": wer(rows) - wer(others), "low": float(low), "high": float(high)},
    }


def wer(rows: NDArray[np.integer]) -> float:
    """Return the errors in per cent of the words, of all clips together."""
    return float(100 * rows[:, 1:].sum() / rows[:, 0].sum())


def tables(result: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, columns and rows: WER by candidate and condition; a star marks the best."""
    conditions = result["conditions"]
    names = list(next(iter(conditions.values())))
    best = {c: min(rows[name]["wer"] for name in names) for c, rows in conditions.items()}
    body = [
        [name, *(
            f"{rows[name]['wer']:.1f}{'*' if rows[name]['wer'] == best[c] else ''}"
            f" ({rows[name]['deletions']:.1f})"
            for c, rows in conditions.items()
        )]
        for name in names
    ]  # fmt: skip
    title = "word error rate, % (of which deletions); * lowest"
    return [(title, ["", *conditions], body)]


def remarks(result: dict[str, Any]) -> list[str]:
    """Return the lines below the table: where processing helps, and where it doesn't."""
    heard = result["recogniser"]
    lines = [
        f"{len(result['clips'])} clips of {result['speech']}; {heard['name']}"
        f" ({', '.join(heard['packages'])}); reference: its own text of the clean speech"
    ]
    for condition, rows in result["conditions"].items():
        better, worse = [], []
        for name, figures in rows.items():
            change = figures["change"]
            if name != UNPROCESSED and change["high"] < 0:
                better.append(f"{name} {change['mean']:+.1f}")
            if name != UNPROCESSED and change["low"] > 0:
                worse.append(f"{name} {change['mean']:+.1f}")
        lines.append(
            f"{condition}: better than unprocessed: {'; '.join(better) or 'none'}."
            f" Unprocessed is better than: {'; '.join(worse) or 'none'}."
        )
    return [*lines, "(changes in points of WER whose 95 % interval, by clip, excludes 0)"] + [
        f"not run: {name}: {why}" for name, why in result["not_run"].items()
    ]


def show(result: dict[str, Any]) -> None:
    """Print table and remarks."""
    for title, columns, rows in tables(result):
        print(title)
        print_table(columns, rows)
    print("\n".join(remarks(result)))


def main() -> None:
    """Print the table and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path, nargs="+", metavar="CORPUS")
    parser.add_argument("--speech", default=ENGLISH, metavar="SOURCE", help="in the index")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--clips", type=int, default=1000, metavar="N", help="at most")
    parser.add_argument(
        "--minutes", type=float, default=30, metavar="M", help="start no clip after"
    )
    parser.add_argument("--snr", type=float, nargs="+", default=SNRS_DB, metavar="DB")
    parser.add_argument("--strength", type=float, nargs="+", default=STRENGTHS_DB, metavar="DB")
    parser.add_argument("--python", default=sys.executable, help="of recogniser and rivals")
    parser.add_argument("--recogniser", default="whisper", choices=list(RECOGNISERS))
    parser.add_argument("--rivals", nargs="*", default=list(COMPARED), choices=list(RIVALS))
    parser.add_argument("--output", type=Path, help="save the figures as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    result = measure(arguments)
    text = save(result, arguments.output)
    if arguments.json:
        print(text, end="")
    else:
        show(result)


if __name__ == "__main__":
    main()
