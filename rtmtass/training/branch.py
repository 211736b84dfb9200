"""A branch: a copy of a trunk's last checkpoint that is trained down to a release.

The trunk goes on at its constant rate, here or elsewhere, as if nothing had happened:
its folder is only read.
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


@dataclass(frozen=True)
class BranchOrder:
    """What `--branch decay` asks for.

    Attributes:
        minutes, steps: over which the learning rate falls to 1 % of the trunk's;
            whichever is reached first ends the branch, 0 is no bound.
        runs: the branch's folder; empty for the trunk's with "-decay-STEP" after it.
    """

    minutes: float = 0.0
    steps: int = 0
    runs: str = ""


def branch_off(
    config: TrainConfig, order: BranchOrder, distributed: DistributedContext
) -> TrainConfig:
    """Prepare a branch, unless it has begun before; return the config that trains it.

    Args:
        config: the trunk's.
        order: length and folder of the branch.
        distributed: processes that train together; the first one writes.

    Returns:
        `config` with the branch's folder, minutes and steps. Its folder holds a
        checkpoint: the trunk's, with where it branched off, or the branch's own last.

    Raises:
        UsageError: the branch has no length.
        DataError: the trunk has no checkpoint yet or is a branch itself, or the folder
            holds something other than a branch.
    """
    if not order.minutes and not order.steps:
        raise UsageError("a branch needs a length; add --minutes 10, or --steps")
    trunk = Path(config.runs)
    if order.runs and Path(order.runs).resolve() == trunk.resolve():
        raise UsageError(f"{trunk} is the trunk's own folder; name another by --runs")
    step = _begin(config, order) if distributed.is_first else 0
    step = round(distributed.largest(float(step))[0])  # the others wait for the copy, too
    folder = _folder(trunk, step, order)
    return dataclasses.replace(config, minutes=order.minutes, steps=order.steps, runs=str(folder))


def _folder(trunk: Path, step: int, order: BranchOrder) -> Path:
    return Path(order.runs) if order.runs else trunk.with_name(f"{trunk.name}-decay-{step}")


def _begin(config: TrainConfig, order: BranchOrder) -> int:
    """Write the branch's first checkpoint where there is none; return the trunk's step."""
    model, trunk = config.model(), Path(config.runs)
    if order.runs:  # then the trunk may be gone by now
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
        # The trunk's best was found at its high rate; the branch has to find its own.
        write_last(folder, model, {**saved, "best": -math.inf, "branch": branch})
    return int(step)


def _step_of_branch(folder: Path, model: ModelConfig) -> int | None:
    """Return where a folder's branch left its trunk; None where the folder holds no run."""
    saved = read_last(folder, model, torch.device("cpu"))
    if saved is None:
        return None
    if not saved.get("branch"):
        raise DataError(f"{folder} holds a run that is no branch; name another folder by --runs")
    return int(saved["branch"]["step"])


def _checkpoint_of_trunk(trunk: Path, model: ModelConfig) -> dict[str, Any]:
    saved = read_last(trunk, model, torch.device("cpu"))
    if saved is None:
        raise DataError(
            f"there is no {trunk / LAST} to branch off from; train the trunk first, without"
            " --branch"
        )
    if saved.get("branch"):
        raise DataError(f"{trunk} is itself a branch; the config must name its trunk as runs")
    return saved
