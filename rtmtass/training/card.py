"""The model card, written from the training record, the metrics and the corpus index."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtmtass.config import ModelConfig
from rtmtass.errors import InputError
from rtmtass.training.config import OPTIMISERS
from rtmtass.training.data.corpus import IndexRow
from rtmtass.training.lineage import runs_of, totals

LIMITS_OF_OURS = """\
- Little real singing in the training data: sung vocals may come out as speech.
- Languages of the training speech: mostly English, Russian, German, Czech and Dutch; 20 to 30 \
minutes each of Spanish, Romanian, Italian and Mandarin; some thirty others in minutes.
- Music is mostly instrumental game music; reverberant speech was rare.
- Sounds that are hard to name (a beep, a ringtone, a hum) may go to music or noise."""
"""Limits found by listening to the models of this project; never written about another model."""
MOST_LICENCES = 3
"""Licences of a source that its card lists in full."""
NOT_STATED = "not stated"
BANKS = {
    "generated": "generated noise",
    "rooms": "synthetic rooms",
    "singing": "speech re-synthesised as singing, labelled as music",
    "revoiced": "speech in other voices",
}
"""Banks of synthetic sounds, in words."""


@dataclass(frozen=True)
class CardFacts:
    """Inputs of the card.

    Attributes:
        config: the model's.
        about: version, licence and training record, from config.json.
        n_parameters: number of trained parameters.
        figures: as in metrics.json.
        index: index of the training corpus.
        experiments: Markdown table of experiments; may be empty.
        picture: file name of the spectrograms, beside the card; may be empty.
        opened_as: how commands name the model: its name or its folder.
        is_ours: whether it is a released model of this project.
    """

    config: ModelConfig
    about: dict[str, Any]
    n_parameters: int
    figures: dict[str, Any]
    index: list[IndexRow]
    experiments: str = ""
    picture: str = ""
    opened_as: str = ""
    is_ours: bool = False


def write_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    stft, config = facts.config.stft, facts.config
    latency_ms = 1000 * config.algorithmic_latency / stft.sample_rate
    parts = [
        f"# {config.name}, version {facts.about['version']}",
        f"A causal separator of {', '.join(config.stems[:-1])} and {config.stems[-1]}:"
        f" {facts.n_parameters / 1e6:.2f} M parameters, {stft.sample_rate / 1000:g} kHz,"
        f" {stft.n_fft}-sample window, {stft.hop}-sample hop, {latency_ms:g} ms algorithmic"
        f" latency. Licence of the weights: {facts.about.get('licence') or NOT_STATED}.",
        *_picture(facts.picture),
        "## Results",
        *_results(facts.opened_as or config.name, facts.figures, config),
        "## How it was trained",
        *_trained(facts.about.get("training") or {}, facts.is_ours),
        *(["## Experiments", facts.experiments] if facts.experiments else []),
        "## Limits",
        "\n".join(_limits(facts)),
        "## Training sources and their terms",
        _sources(facts.index),
    ]
    return "\n\n".join(parts) + "\n"


def read_experiments(path: Path) -> str:
    """Return a table of experiments as Markdown.

    Args:
        path: Markdown, used unchanged except that a heading in its first line is
            dropped, or JSON: a list of objects, one per row, whose keys are the columns.

    Raises:
        InputError: the file can't be read, or the JSON isn't a list of objects.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            _, _, rest = text.partition("\n") if text.startswith("#") else ("", "", text)
            return rest.strip()
        rows = json.loads(text)
        if not isinstance(rows, list):
            raise ValueError("not a list")
        columns = list(dict.fromkeys(key for row in rows for key in row))
        return _table(columns, ([str(row.get(c, "")) for c in columns] for row in rows))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}; check its path") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} holds no experiments ({error}); give Markdown, or JSON: a list of objects"
        ) from None


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(columns)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join(
        f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in line)}|" for line in lines
    )


def _interval(value: Mapping[str, float] | None) -> str:
    return f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})" if value else ""


def _picture(name: str) -> list[str]:
    words = "the demo clip and the three stems separated from it"
    return [f"![Spectrograms of {words}]({name})"] if name else []


def _results(name: str, figures: dict[str, Any], config: ModelConfig) -> list[str]:
    kinds = {"si_sdri": "SI-SDRi, dB", "sdri": "SDRi, dB", "leakage_db": "leakage, dB"}
    rows = [[s, *(_interval(figures[k].get(s)) for k in kinds)] for s in figures["si_sdri"]]
    return [
        f"{_set_in_words(figures)} and separated by `Separator.separate`. In brackets: 95 %"
        " bootstrap intervals of the mean. Leakage: level of a stem's output when the stem is"
        " absent, relative to the mixture.",
        _table(["stem", *kinds.values()], rows),
        *_leakage(figures),
        *_expander(config),
        *_singing(figures),
        "The same figures are in `metrics.json`. Measured with",
        f"```\n{_mix_command(figures['set'])}rtmtass evaluate {name} SET\n```",
    ]


def _set_in_words(figures: dict[str, Any]) -> str:
    made_of = figures["set"]
    if "seconds" not in made_of:
        return f"{figures['clips']} mixtures of a folder of recordings, taken as they are,"
    split = made_of.get("split", "dev")
    known = "not used" if split == "dev" else "also used"
    return (
        f"{figures['clips']} mixtures of {made_of['seconds']:g} s from recordings, speakers and"
        f" pieces {known} in training, mixed by the rule of arXiv 2107.06467 (music and noise each"
        " at U(-5, 5) dB against speech)"
    )


def _mix_command(made_of: dict[str, Any]) -> str:
    """Return the command that mixed a set, with its line end; empty for a plain folder."""
    if not {"n", "seconds", "seed"} <= set(made_of):
        return ""
    return (
        f"rtmtass data mix CORPUS SET --cache CACHE --n {made_of['n']}"
        f" --seconds {made_of['seconds']:g} --seed {made_of['seed']}"
        f"{' --split train' if made_of.get('split') == 'train' else ''}\n"
    )


def _leakage(figures: dict[str, Any]) -> list[str]:
    """Return the leakage into absent stems, case by case, and the output for silence."""
    parts = []
    if "leakage_by_case_db" in figures:
        stems = list(figures["leakage_db"])
        cases = figures["leakage_by_case_db"].items()
        rows = [
            [case if "+" in case else f"{case} alone", *(_interval(levels.get(s)) for s in stems)]
            for case, levels in cases
        ]
        parts.append(_table(["present", *(f"leakage into {s}, dB" for s in stems)], rows))
    if "silence_dbfs" in figures:
        silence = figures["silence_dbfs"]
        parts.append(
            "Output for digital silence: the loudest stem is at"
            f" {silence['from_start']:.0f} dBFS from the start of a stream and at"
            f" {silence['after_sound']:.0f} dBFS from a second after a mixture has stopped."
        )
    return parts


def _expander(config: ModelConfig) -> list[str]:
    if not config.net.expander_db:
        return []
    steeper = config.net.expander_ratio - 1
    again = "as much again" if steeper == 1 else f"{steeper} times as much"
    return [
        "Measured with the model's expander: a stem whose share of the mixture's power is below"
        f" {config.net.expander_db:g} dB is lowered by {again} (`expander_db`, `expander_ratio`)."
    ]


def _singing(figures: dict[str, Any]) -> list[str]:
    if "singing" not in figures:
        return []
    of = {k: _interval(v) for k, v in figures["singing"].items() if k != "clips"}
    return [
        f"With synthetic singing over the music, the music stem's SI-SDRi is {of['with_singing']}"
        f" dB instead of {of['instrumental']} dB, a paired difference of {of['difference']} dB"
        f" ({figures['singing']['clips']} clips; `--singing`)."
    ]


def _limits(facts: CardFacts) -> Iterator[str]:
    """Yield what the corpus and the config say of a model's limits."""
    if facts.is_ours:
        yield LIMITS_OF_OURS
    minutes: dict[str, float] = defaultdict(float)
    groups: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in facts.index:
        if row.split == "train":
            minutes[row.role] += row.seconds / 60
            groups[row.role].add((row.source, row.group))
    for role, what in (("speech", "speakers"), ("music", "pieces"), ("noise", "recordings")):
        yield (
            f"- Trained on {minutes[role]:.1f} minutes of {role}, {len(groups[role])} {what}: other"
            " kinds may be separated less well."
        )
    sung = minutes["singing"]
    sung_text = f"{sung:.1f} minutes of recorded singing" if sung else "No recorded singing"
    yield f"- {sung_text} in the training data: sung vocals may come out as speech."
    yield (
        f"- The model works up to {facts.config.stft.sample_rate / 2000:g} kHz; higher frequencies"
        " get the mask of its highest band."
    )


def _trained(training: dict[str, Any], is_ours: bool) -> list[str]:
    if not training:
        return ["The training of these weights is not recorded."]
    runs = runs_of(training, "this version")
    total = totals(training)
    machines = {_machine(run) for run in runs}
    where = machines.pop() if len(machines) == 1 else "the machines below"
    text = (
        f"{total['mixture_hours']:g} hours of mixtures, mixed on the fly, in {total['steps']:g}"
        f" steps: {total['machine_hours']:g} hours on {where}"
    )
    if len(runs) > 1:
        text += f", over {len(runs)} runs, each started from the weights of the one before"
    if weights := training.get("averaged_with"):
        of = ", ".join(f"{weight:.0%} those of {version}" for version, weight in weights.items())
        text += f"; the weights are a mean of the last run's and {of}"
    text += ". Loss: level-aware SNR and compressed spectra, for both stages."
    sizes = training.get("bank_sizes") or (dict.fromkeys(tuple(BANKS)[:3], 1) if is_ours else {})
    if used := [words for bank, words in BANKS.items() if sizes.get(bank)]:
        text += f" In addition to the recordings below: {', '.join(used)}."
    if len(runs) == 1:
        return [text]
    rows = [
        [
            run["version"] or "unreleased",
            f"{run.get('mixture_hours', 0):g}",
            f"{run.get('steps', 0)}",
            f"{run.get('machine_hours', 0):g} on {_machine(run)}",
            _optimiser(run),
        ]
        for run in runs
    ]
    columns = ["run", "hours of mixtures", "steps", "machine-hours", "optimiser"]
    return [text, _table(columns, rows)]


def _optimiser(run: dict[str, Any]) -> str:
    """Return a run's optimiser and, if it had one, its teacher."""
    optimiser = OPTIMISERS[run.get("optimiser", "adamw")]
    return f"{optimiser}, distilled from {run['teacher']}" if "teacher" in run else optimiser


def _machine(run: dict[str, Any]) -> str:
    """Return the hardware of a run: CPU cores over all processes, and the GPU if any."""
    threads = run.get("threads", 1)
    cores = f"{threads} CPU core{'s' * (threads != 1)}"
    return cores if run.get("device", "cpu") == "cpu" else f"{cores} and {run['device']}"


def _sources(index: list[IndexRow]) -> str:
    minutes: dict[tuple[str, str], float] = defaultdict(float)
    licences: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in index:
        if row.split == "train":
            minutes[row.role, row.source] += row.seconds / 60
            licences[row.role, row.source].add(row.licence)
    rows = [
        [role, source, f"{total:.1f}", _listed(licences[role, source])]
        for (role, source), total in sorted(minutes.items())
    ]
    return _table(["role", "source", "minutes", "licence"], rows)


def _listed(licences: Iterable[str]) -> str:
    """Return a source's licences in one cell; of many, which name their authors, the kinds."""
    distinct = sorted({text.replace("|", "\\|") or NOT_STATED for text in licences})
    if len(distinct) <= MOST_LICENCES:
        return "; ".join(distinct)
    kinds = sorted({text.partition(" (")[0] for text in distinct})
    return f"{', '.join(kinds)}, by recording"
