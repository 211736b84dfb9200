"""Training runs small enough for tests: a corpus of seconds, a network of few parameters."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rtmtass.config import STEMS
from rtmtass.training.train import TrainConfig

NET = {
    "subband_bins": 0,
    "channels": 16,
    "hidden": 8,
    "dilations": [1, 2],
    "recurrent": 16,
    "recurrent_layers": 1,
    "compensation_channels": 16,
    "compensation_hidden": 8,
    "compensation_dilations": [1],
}


def buzzing_corpus(folder: Path) -> Path:
    """Write two recordings per role and split: a modulated buzz, a tone, and white noise."""
    rng = np.random.default_rng(0)
    t = np.arange(6 * 16000) / 16000
    rows = []
    for split in ("train", "dev"):
        for role in STEMS:
            for take in range(2):
                if role == "speech":
                    sound = np.sign(np.sin(2 * np.pi * (120 + 40 * take) * t)) * np.sin(9 * t) ** 2
                elif role == "music":
                    sound = np.sin(2 * np.pi * (440 + 110 * take) * t)
                else:
                    sound = rng.standard_normal(len(t))
                path = f"{role}-{split}-{take}.wav"
                soundfile.write(folder / path, 0.1 * sound, 16000)
                rows.append([role, "made", f"{split}{take}", split, path, 6.0, "CC0", "A"])
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["role", "source", "group", "split", "path", "seconds", "licence", "tier"])
        table.writerows(rows)
    return folder


def config(corpus: Path, runs: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "preset": "gated",
        "corpus": str(corpus),
        "cache": str(corpus / "cache"),
        "runs": str(runs),
        "name": "tiny",
        "seconds": 1.0,
        "batch": 4,
        "steps": 6,
        "warmup_steps": 2,
        "threads": 1,
        "workers": 0,
        "bf16": False,
        "compile": False,
        "dev_clips": 1,
        "snapshots": 0,
        "net": NET,
    }
    return TrainConfig(**{**values, **changes})


def write_toml(path: Path, config: TrainConfig) -> None:
    values = dataclasses.asdict(config)
    net, _, _ = (values.pop(table) for table in ("net", "stft", "recipe"))
    lines = ["[train]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
    lines += ["[net]", *(f"{k} = {json.dumps(v)}" for k, v in net.items())]
    path.write_text("\n".join(lines))
