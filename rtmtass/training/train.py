"""`rtmtass train`: from a config to weights, resumable to the exact step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rtmtass.errors import DeviceError
from rtmtass.training.branch import BranchOrder, branch_off
from rtmtass.training.checkpoints import BEST, LAST
from rtmtass.training.config import TrainConfig
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.loader import batches, corpus_of, open_examples
from rtmtass.training.data.mixing import dev_mixtures
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.log import Progress
from rtmtass.training.trainer import Trainer

__all__ = ["BranchOrder", "TrainConfig", "Trainer", "train"]

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
GONE = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # since torch 2.8
GONE_WORDS = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS", "NCCL error")


def train(
    config: TrainConfig,
    progress: Progress,
    branch: BranchOrder | None = None,
    corpus: Corpus | None = None,
) -> Path:
    """Run, or go on with, the training `config` describes; return the best model's folder.

    Under `torchrun` every process calls this; the first one validates, reports and writes.

    Args:
        config: the run's or the trunk's.
        progress: called with every report; see `rtmtass.training.log`.
        branch: train a branch of the trunk, in its own folder, and not the trunk.
        corpus: the recordings, if they are open already; see `corpus_of`.

    Raises:
        UsageError: config or branch can't be.
        DataError: recordings or checkpoint can't be used, or the loss stays infinite.
        DeviceError: the device ran out of memory or stopped working.
    """
    with DistributedContext(config.device) as distributed:
        if branch is not None:
            config = branch_off(config, branch, distributed)
        corpus = corpus or corpus_of(config)
        trainer = Trainer(config, progress, distributed)
        with _naming_the_checkpoint(trainer):
            trainer.resume()
            dev = list(dev_mixtures(corpus, config.dev_clips)) if distributed.is_first else []
            sizes = trainer.bank_sizes if config.pin_banks else None
            opened = open_examples(config, corpus, trainer.device, sizes, distributed.size)
            with opened as examples, _stopping(trainer):
                # Of a bank that is smaller here, the run elsewhere still has the rest.
                found = {**dict.fromkeys(sizes or {}, 0), **examples.bank_sizes}
                trainer.bank_sizes = {k: max(n, (sizes or {}).get(k, 0)) for k, n in found.items()}
                first = trainer.batches + distributed.rank
                trainer.run(batches(examples, first, distributed.size), dev)
        if trainer.log is not None:
            trainer.log.close()
    return trainer.folder / BEST


@contextlib.contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """While inside, a signal lets the trainer finish its step, validate, save and return."""

    def stop(*_: Any) -> None:
        trainer.stop_asked = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _naming_the_checkpoint(trainer: Trainer) -> Iterator[None]:
    """Turn the failure of a device into one line that says what is left and what to type.

    Raises:
        DeviceError: in the place of what torch raises.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = (str(error).splitlines() or [""])[0].rstrip(".")
        device, again = trainer.config.device, "start the same command again to go on from there"
        if isinstance(error, OUT_OF_MEMORY) or "not enough memory" in said:
            what = f"{device} ran out of memory at step {trainer.step}, batch ="
            what += f" {trainer.config.batch}, seconds = {trainer.config.seconds:g}"
            again = "set a smaller batch in the config and " + again
        elif isinstance(error, GONE) or any(words in said for words in GONE_WORDS):
            what = f"{device} stopped working at step {trainer.step} ({said})"
            if device != "cpu":
                again += ", elsewhere with --device cpu"
        else:
            raise
        raise DeviceError(f"{what}; {_kept(trainer)}; {again}") from error


def _kept(trainer: Trainer) -> str:
    if trainer.saved_step is None:
        return "no checkpoint was written yet"
    return f"the last checkpoint is {trainer.folder / LAST}, step {trainer.saved_step}"
