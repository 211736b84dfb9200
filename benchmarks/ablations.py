"""Do the paper's claims hold for the causal network, and what improves it, on small budgets?

1. complex ratio mask, magnitude mask or spectral mapping (in both stages);
2. with and without the compensation stage, at equal parameters;
3. the published multi-scale backbone, scaled down, or ours: blocks and a GRU;
4. look-ahead of 0, 1 or 2 frames (32, 48, 64 ms algorithmic latency);
5. state in a GRU, or in dilated blocks alone;
6. the limit of the masks, and whether the compensation uses stage 1's trunk;
7. AdamW or Muon, and spectral mapping with Muon;
8. with Muon: sub-bands of 8 or 16 bins that share their weights;
9. with Muon: half the batch size and twice the steps, also with sub-bands; 2.5 times the rate;
10. with Muon: wider and shallower, or narrower and deeper.

Networks of 1.0 M parameters (within 3 % of each other) are trained through the public
API (`rtmtass.training.train`) on the same examples in the same order: same seed, same
steps, crops of 3 s, batches of 8 (except in question 9), EMA 0.995, and a learning rate
that decays to a hundredth. Each is then evaluated through `Separator` on the same dev
mixtures by the paper's rule. Intervals are 95 % bootstrap intervals; differences are
taken clip by clip. One seed each: a difference describes this run at this budget, and
may change with the seed.

    python -m benchmarks.ablations CORPUS --cache CACHE

On one core a variant takes about 7 minutes for its 1000 steps, 6.7 hours of
mixtures; `--no-bf16` is faster on processors without AMX. Prepare the cache's banks
first (`rtmtass data synthesise`). Finished variants are kept in the output file and
skipped; an interrupted one resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import rtmtass
from benchmarks.harness import RESULTS
from benchmarks.harness.costs import macs_per_s
from benchmarks.harness.machine_info import machine_card
from rtmtass.cli.console import Steps, print_table
from rtmtass.config import ModelConfig
from rtmtass.evaluation.evaluate import measure, with_interval
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.examples import ExampleMaker
from rtmtass.training.data.mixing import dev_mixtures
from rtmtass.training.train import TrainConfig, train

BASE = "ours"
SHAPE: dict[str, Any] = {
    "channels": 128,
    "hidden": 64,
    "dilations": [1, 2, 4],
    "recurrent": 192,
    "recurrent_layers": 1,
    "compensation_channels": 64,
    "compensation_hidden": 32,
    "compensation_dilations": [1, 2, 4],
}
MAPPING = {"target": "spectral_mapping", "compensation_target": "spectral_mapping"}
MAGNITUDE = {"target": "magnitude_mask", "compensation_target": "magnitude_mask"}
SHRUNK = {
    "backbone": "multiscale",
    "bands": 16,
    "channels": 96,
    "dilations": [1, 3],
    "recurrent": 0,
    "recurrent_layers": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "magnitude mask": {**MAGNITUDE, "channels": 176},
    "spectral mapping": MAPPING,
    "no compensation": {
        "compensation_target": "none",
        "channels": 176,
        "hidden": 88,
        "recurrent": 240,
    },
    "multi-scale backbone": SHRUNK,
    "look-ahead 1": {"lookahead": 1},
    "look-ahead 2": {"lookahead": 2},
    "no GRU": {"recurrent": 0, "recurrent_layers": 0, "dilations": [1, 2, 4, 8, 16, 32, 1, 2]},
    "masks up to 1": {"mask_limit": 1.0},
    "deaf compensation": {"compensation_uses_trunk": False, "compensation_channels": 72},
    "Muon": {},
    "Muon, spectral mapping": MAPPING,
    "Muon, sub-bands": {"subband_bins": 8, "recurrent": 128},
    "Muon, sub-bands of 16": {"subband_bins": 16, "recurrent": 144},
    "Muon, batches of 4": {},
    "Muon, rate 5e-3": {},
    "Muon, sub-bands, batches of 4": {"subband_bins": 8, "recurrent": 128},
    "Muon, wider": {"channels": 160, "dilations": [1, 2], "recurrent": 144},
    "Muon, deeper": {"channels": 112, "dilations": [1, 2, 4, 8, 1, 2, 4, 8], "recurrent": 96},
}
"""Changes of each variant to `SHAPE`; widths compensate for removed outputs and layers."""
MUON = {"optimiser": "muon"}
LEARNING: dict[str, dict[str, Any]] = {
    "Muon": MUON,
    "Muon, spectral mapping": MUON,
    "Muon, sub-bands": MUON,
    "Muon, sub-bands of 16": MUON,
    "Muon, batches of 4": {**MUON, "batch": 4},
    "Muon, rate 5e-3": {**MUON, "learning_rate": 5e-3},
    "Muon, sub-bands, batches of 4": {**MUON, "batch": 4},
    "Muon, wider": MUON,
    "Muon, deeper": MUON,
}
"""Changes of each variant to the training; smaller batches mean more steps."""
LABELS = {"deaf compensation": "compensation without trunk"}
"""Display names of variants that are stored under another name."""
QUESTIONS: dict[str, list[str]] = {
    "target": [BASE, "magnitude mask", "spectral mapping"],
    "compensation": [BASE, "no compensation"],
    "backbone": [BASE, "multi-scale backbone"],
    "look-ahead": [BASE, "look-ahead 1", "look-ahead 2"],
    "state": [BASE, "no GRU"],
    "mask range (ours: 2)": [BASE, "masks up to 1"],
    "compensation's input": [BASE, "deaf compensation"],
    "optimiser": [BASE, "Muon", "Muon, spectral mapping"],
    "sub-bands": ["Muon", "Muon, sub-bands", "Muon, sub-bands of 16"],
    "steps": [
        "Muon",
        "Muon, batches of 4",
        "Muon, sub-bands, batches of 4",
        "Muon, rate 5e-3",
    ],
    "shape": ["Muon", "Muon, wider", "Muon, deeper"],
}
"""Question → variants; the first is the baseline of the others."""
FIXED: dict[str, Any] = {"seconds": 3.0, "batch": 8, "ema": 0.995, "warmup_steps": 100}
NEVER_MINUTES = 1e9


def net_of(variant: str) -> dict[str, Any]:
    """Return how a variant's network differs from the preset."""
    return {"subband_bins": 0, **SHAPE, **VARIANTS[variant]}


def config_of(variant: str, arguments: argparse.Namespace) -> TrainConfig:
    """Return a variant's training config; variants differ in [net], `LEARNING` and the folder."""
    learning = {**FIXED, **LEARNING.get(variant, {})}
    return TrainConfig(
        preset="gated",
        corpus=str(arguments.corpus),
        cache=str(arguments.cache),
        runs=str(arguments.runs / variant.replace(" ", "-")),
        steps=arguments.steps * FIXED["batch"] // learning["batch"],
        seed=arguments.seed,
        threads=arguments.threads,
        compile=arguments.compile,
        bf16=arguments.bf16,
        device=arguments.device,
        dev_clips=4,  # for the log only: the result is measured after training
        dev_minutes=NEVER_MINUTES,
        snapshots=0,
        net=net_of(variant),
        **learning,
    )


def describe(config: ModelConfig) -> dict[str, Any]:
    """Return the parameters, MAC/s and latency of a network."""
    from rtmtass.net.networks import new_network

    net = new_network(config)
    shapes = {name: p.shape for name, p in net.named_parameters()}
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "mac_per_s": macs_per_s(shapes, config),
        "algorithmic_latency_ms": 1000 * config.algorithmic_latency / config.stft.sample_rate,
    }


def run_variant(variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate a variant; plain values for JSON, clip by clip."""
    config = config_of(variant, arguments)
    last: dict[str, Any] = {}

    def note(report: dict[str, Any]) -> None:
        last.update(report)
        if report["kind"] == "train":
            progress = f"{variant}: step {report['step']} of {config.steps}"
            figures = f"loss {report['loss']:.2f}, {report['speed']:.0f}x real time"
            print(f"{progress}, {figures}", file=sys.stderr, flush=True)

    started = time.monotonic()
    best = train(config, note)
    if last["step"] < config.steps:
        raise SystemExit(
            f"stopped at step {last['step']} of {config.steps};"
            " run the same command again to resume"
        )
    separator = rtmtass.load(str(best))
    corpus = Corpus(arguments.corpus, arguments.cache)
    kinds: dict[str, list[Any]] = {"si_sdri": [], "sdri": []}
    with Steps() as steps:
        for mixture, stems in dev_mixtures(corpus, arguments.clips, seed=arguments.seed + 1):
            figures = measure(mixture, stems, separator.separate(mixture), separator.sample_rate)
            for kind, rows in kinds.items():
                rows.append(figures[kind].round(3).tolist())
            steps(variant, len(kinds["sdri"]), arguments.clips)
    return {
        "changes": VARIANTS[variant],
        **describe(config.model()),
        "steps": config.steps,
        "hours_heard": config.steps * config.batch * config.seconds / 3600,
        "training_minutes": last["minutes"],
        "minutes": (time.monotonic() - started) / 60,
        "clips": kinds,
    }


def budget(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings and data that all variants of one result must share."""
    corpus = Corpus(arguments.corpus, arguments.cache)
    return {
        "shape": SHAPE,
        **FIXED,
        "steps": arguments.steps,
        "seed": arguments.seed,
        "dev_clips": arguments.clips,
        "device": arguments.device,
        "bf16": arguments.bf16,
        "data": ExampleMaker(corpus, "train").fingerprint,
    }


def summary(variants: Mapping[str, Any]) -> dict[str, Any]:
    """Return each variant's mean figures with intervals."""
    means: dict[str, Any] = {}
    for name, result in variants.items():
        row: dict[str, Any] = {}
        for kind, clips in result["clips"].items():
            values = np.array(clips)
            row[kind] = {
                **{stem: with_interval(values[:, i]) for i, stem in enumerate(rtmtass.STEMS)},
                "average": with_interval(values.mean(axis=1)),
            }
        means[name] = row
    return means


def difference_to(variants: Mapping[str, Any], name: str, baseline: str) -> dict[str, float] | None:
    """Return a variant's SI-SDRi minus the baseline's, clip by clip; None for the baseline."""
    if name == baseline or baseline not in variants:
        return None
    clips, others = (np.array(variants[k]["clips"]["si_sdri"]) for k in (name, baseline))
    return with_interval((clips - others).mean(axis=1))


def verdict(difference: Mapping[str, float] | None) -> str:
    """Return whether a difference is better, worse or inconclusive."""
    if difference is None:
        return ""
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "inconclusive"


def format_interval(value: Mapping[str, float] | None) -> str:
    """Return a mean with its interval as text."""
    return f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})" if value else ""


def tables(result: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return columns and rows per question, of the finished variants."""
    head = ["variant", "SI-SDRi, dB", "over the first, dB", "", "SDRi, dB"]
    head += ["parameters, M", "M MAC/s", "latency, ms", "steps", "hours of audio"]
    by_question = {}
    for question, names in QUESTIONS.items():
        rows = []
        for name in names:
            if name not in result["variants"]:
                continue
            facts, figures = result["variants"][name], result["summary"][name]
            difference = difference_to(result["variants"], name, names[0])
            rows.append([
                LABELS.get(name, name),
                format_interval(figures["si_sdri"]["average"]),
                format_interval(difference),
                verdict(difference),
                format_interval(figures["sdri"]["average"]),
                f"{facts['parameters'] / 1e6:.3f}",
                f"{facts['mac_per_s'] / 1e6:.1f}",
                f"{facts['algorithmic_latency_ms']:.0f}",
                f"{facts['steps']}",
                f"{facts['hours_heard']:.1f}",
            ])  # fmt: skip
        if len(rows) > 1:
            by_question[question] = (head, rows)
    return by_question


def show(result: Mapping[str, Any]) -> None:
    """Print a table per question."""
    for question, (head, rows) in tables(result).items():
        print(f"\n{question}")
        print_table(head, rows)


def load_done(path: Path, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results so far.

    Raises:
        SystemExit: they were measured with another budget.
    """
    if not path.exists():
        return {"machine": machine_card(), "budget": dict(common), "variants": {}}
    done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if done["budget"] != common:
        differ = sorted(k for k in common if done["budget"].get(k) != common[k])
        raise SystemExit(
            f"{path} holds results of another budget ({', '.join(differ)} differ);"
            " choose another file with --output and another folder with --runs"
        )
    return done


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "corpus", type=Path, metavar="CORPUS", help="folder made by `rtmtass data build`"
    )
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=100, help="dev mixtures of 10 s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "ablations.json")
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Run and save the unfinished variants, then print the tables."""
    arguments = parse(words)
    common = json.loads(json.dumps(budget(arguments)))
    result = load_done(arguments.output, common)
    for variant in arguments.only:
        if variant in result["variants"]:
            continue
        result["variants"][variant] = run_variant(variant, arguments)
        if budget(arguments)["data"] != common["data"]:
            raise SystemExit(
                f"{arguments.corpus} or its banks changed during the run;"
                f" delete {arguments.output} and {arguments.runs} and start again"
            )
        result["summary"] = summary(result["variants"])
        part = arguments.output.with_suffix(".part")
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(arguments.output)
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        show(result)


if __name__ == "__main__":
    main()
