"""Branches: copies of a trunk's last checkpoint whose learning rate is decayed for a release.

The trunk's folder is only read, so the trunk can go on at its constant rate.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rtmtass.config import ModelConfig
from rtmtass.errors import DataError, UsageError
from rtmtass.training.checkpoints import LAST, read_last, write_last
from rtmtass.training.config import TrainConfig
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.schedule import Branch, schedule_of

LONGEST = 1_000_000_000
"""Longest branch, in minutes and in steps."""


@dataclass(frozen=True)
class BranchOrder:
    """Options of `--branch decay`.

    Attributes:
        minutes, steps: length, over which the learning rate falls to 1 % of the trunk's;
            the first one reached ends the branch, 0 is no limit.
        runs: the branch's folder; empty for the trunk's folder name plus "-decay-STEP".

    Raises:
        UsageError: a length is negative, absurd or NaN.
    """

    minutes: float = 0.0
    steps: int = 0
    runs: str = ""

    def __post_init__(self) -> None:
        for key, value in (("minutes", self.minutes), ("steps", self.steps)):
            if not 0 <= value <= LONGEST:  # NaN too
                raise UsageError(f"--{key} = {value}; give 0 to {LONGEST:,}")


def branch_off(
    config: TrainConfig, order: BranchOrder, distributed: DistributedContext
) -> TrainConfig:
    """Create a branch, unless its folder already holds one; return the config to train it with.

    Args:
        config: the trunk's.
        order: length and folder of the branch.
        distributed: processes that train together; rank 0 writes.

    Returns:
        `config` with the branch's folder, minutes and steps. The folder holds a
        checkpoint: a copy of the trunk's with the branch point, or the branch's own last.

    Raises:
        UsageError: the branch has no length, or its folder is the trunk's.
        DataError: the trunk has no checkpoint or is a branch itself, or the folder
            holds a run that isn't a branch.
    """
    if not order.minutes and not order.steps:
        raise UsageError("a branch needs a length; add --minutes 10 or --steps 1000")
    trunk = Path(config.runs)
    if order.runs and Path(order.runs).resolve() == trunk.resolve():
        raise UsageError(
            f"{trunk} is the trunk's folder; name another one for the branch by --runs"
        )
    step = _begin(config, order) if distributed.is_first else 0
    step = round(distributed.largest(float(step))[0])  # also makes the others wait for the copy
    folder = _folder(trunk, step, order)
    return dataclasses.replace(config, minutes=order.minutes, steps=order.steps, runs=str(folder))


def _folder(trunk: Path, step: int, order: BranchOrder) -> Path:
    return Path(order.runs) if order.runs else trunk.with_name(f"{trunk.name}-decay-{step}")


def _begin(config: TrainConfig, order: BranchOrder) -> int:
    """Write the branch's first checkpoint if it has none; return the step it branched off at."""
    model, trunk = config.model(), Path(config.runs)
    if order.runs:  # the trunk itself may no longer exist
        begun = _step_of_branch(Path(order.runs), model)
        if begun is not None:
            return begun
    saved = _checkpoint_of_trunk(trunk, model)
    step, elapsed_s = saved["step"], saved["elapsed_s"]
    folder = _folder(trunk, step, order)
    if _step_of_branch(folder, model) is None:
        rate = schedule_of(config, step, elapsed_s).learning_rate(step, elapsed_s)
        branch = dataclasses.asdict(Branch(step, elapsed_s, rate))
        folder.mkdir(parents=True, exist_ok=True)
        # The trunk's best score was reached at its high rate: the branch starts without one.
        write_last(folder, model, {**saved, "best": -math.inf, "branch": branch})
    return int(step)


def _step_of_branch(folder: Path, model: ModelConfig) -> int | None:
    """Return the step at which a folder's run branched off; None if the folder holds no run."""
    saved = read_last(folder, model, torch.device("cpu"))
    if saved is None:
        return None
    if not saved.get("branch"):
        raise DataError(f"{folder} holds a run that isn't a branch; name another folder by --runs")
    return int(saved["branch"]["step"])


def _checkpoint_of_trunk(trunk: Path, model: ModelConfig) -> dict[str, Any]:
    saved = read_last(trunk, model, torch.device("cpu"))
    if saved is None:
        raise DataError(
            f"no checkpoint {trunk / LAST} to branch off from; train the trunk first, without"
            " --branch"
        )
    if saved.get("branch"):
        raise DataError(f"{trunk} is itself a branch; set runs in the config to its trunk's folder")
    return saved
