"""`rtmtass train`: trains a model from a config, resumable at the exact step."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import torch

from rtmtass.errors import DeviceError, OutputError
from rtmtass.training.branch import BranchOrder, branch_off
from rtmtass.training.checkpoints import BEST, LAST
from rtmtass.training.config import TrainConfig
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.loader import batches, corpus_of, open_examples
from rtmtass.training.data.mixing import dev_mixtures
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.log import Messages, OnReport
from rtmtass.training.stop import StopSignals
from rtmtass.training.trainer import Trainer
from rtmtass.training.validation import Mixed

__all__ = ["BranchOrder", "TrainConfig", "Trainer", "train"]

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
DEVICE_FAILURE = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # since torch 2.8
DEVICE_FAILURE_TEXTS = (
    "CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS", "NCCL error",
)  # fmt: skip
DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)


def train(
    config: TrainConfig,
    on_report: OnReport,
    branch: BranchOrder | None = None,
    corpus: Corpus | None = None,
    messages: Messages | None = None,
    stop: StopSignals | None = None,
) -> Path:
    """Start or resume a training run; return the best model's folder.

    Under `torchrun` every process calls this; rank 0 validates, reports and writes.

    Args:
        config: the run's or the trunk's.
        on_report: called with every report; see `rtmtass.training.log`.
        branch: train a branch of the trunk, in its own folder, instead of the trunk.
        corpus: the recordings, if they are already open; see `corpus_of`.
        messages: what is shown besides the reports.
        stop: handles SIGINT and SIGTERM; by default, one of its own does.

    Raises:
        UsageError: the config or the branch's options are invalid.
        DataError: recordings or checkpoint can't be used, or the loss stays NaN or Inf.
        DeviceError: the device ran out of memory or failed.
        OutputError: the disk is full or failed; the last checkpoint is kept.
        KeyboardInterrupt: a signal was obeyed at once; the last checkpoint is kept.
    """
    messages = messages or Messages()
    stop = stop or StopSignals(messages.note)
    with stop.installed(), DistributedContext(config.device) as distributed:
        if branch is not None:
            config = branch_off(config, branch, distributed)
        corpus = corpus or corpus_of(config, messages.progress)
        trainer = Trainer(config, on_report, distributed, None, messages, stop)
        with _explain_failures(trainer):
            trainer.resume()
            dev = _dev_set(corpus, config.dev_clips, messages) if distributed.is_first else []
            sizes = trainer.bank_sizes if config.pin_banks else None
            opened = open_examples(config, corpus, trainer.device, sizes, distributed.size)
            with opened as examples, _end_workers_on_stop():
                # A bank may be smaller on this machine than where the run began: keep its size.
                used = {**dict.fromkeys(sizes or {}, 0), **examples.bank_sizes}
                trainer.bank_sizes = {k: max(n, (sizes or {}).get(k, 0)) for k, n in used.items()}
                first = trainer.batches + distributed.rank
                trainer.run(batches(examples, first, distributed.size), dev)
        if trainer.log is not None:
            trainer.log.close()
    return trainer.folder / BEST


def _dev_set(corpus: Corpus, n: int, messages: Messages) -> list[Mixed]:
    """Return the dev mixtures, with progress."""
    dev = []
    for number, mixture in enumerate(dev_mixtures(corpus, n)):
        dev.append(mixture)
        messages.progress("mixing the dev set", number + 1, n)
    return dev


@contextlib.contextmanager
def _end_workers_on_stop() -> Iterator[None]:
    """End the mixing processes at once if a signal is obeyed, instead of waiting for a batch."""
    try:
        yield
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        raise


@contextlib.contextmanager
def _explain_failures(trainer: Trainer) -> Iterator[None]:
    """Turn errors of the device and the disk into one line with the last checkpoint.

    Raises:
        DeviceError: instead of torch's exception.
        OutputError: the disk is full or failed; instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAILURES:
            raise
        raise OutputError(
            f"{error.filename or trainer.folder}: {error.strerror} at step {trainer.step};"
            f" {_last_checkpoint(trainer)}; free some space and start the same command again"
        ) from error
    except (RuntimeError, MemoryError) as error:
        message = (str(error).splitlines() or [""])[0].rstrip(".")
        device, advice = trainer.config.device, "start the same command again to resume from there"
        if isinstance(error, OUT_OF_MEMORY) or "not enough memory" in message:
            problem = f"{device} ran out of memory at step {trainer.step}, batch ="
            problem += f" {trainer.config.batch}, seconds = {trainer.config.seconds:g}"
            advice = "set a smaller batch in the config and " + advice
        elif isinstance(error, DEVICE_FAILURE) or any(
            text in message for text in DEVICE_FAILURE_TEXTS
        ):
            problem = f"{device} stopped working at step {trainer.step} ({message})"
            if device != "cpu":
                advice += ", elsewhere with --device cpu"
        else:
            raise
        raise DeviceError(f"{problem}; {_last_checkpoint(trainer)}; {advice}") from error


def _last_checkpoint(trainer: Trainer) -> str:
    if trainer.saved_step is None:
        return "no checkpoint was written yet"
    return f"the last checkpoint is {trainer.folder / LAST}, step {trainer.saved_step}"
