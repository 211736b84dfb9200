"""Opens a run's recordings (corpus or packs) and its batches (made on the host or the device)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rtmtass.training.config import TrainConfig
from rtmtass.training.data.corpus import Corpus
from rtmtass.types import Progress

Batch = np.ndarray[Any, Any] | Tensor
"""Stems (B, S, N), float32, on the host or on the device."""


class Examples(Protocol):
    """Makes training batches; a batch is a function of its number."""

    bank_sizes: dict[str, int]
    """Entries of each bank in use."""

    def batch(self, step: int) -> Any:
        """Return the stems of batch `step`; see `Batch`."""


def corpus_of(config: TrainConfig, progress: Progress | None = None) -> Corpus:
    """Return the config's recordings; packs are decoded first, unless the cache holds them.

    Raises:
        DataError: there are no recordings, or a pack is damaged.
    """
    if not config.packs:
        return Corpus(Path(config.corpus), Path(config.cache), progress)
    from rtmtass.training.data.unpack import corpus_of_packs

    return corpus_of_packs(Path(config.packs), Path(config.cache), progress)


@contextmanager
def open_examples(
    config: TrainConfig,
    corpus: Corpus,
    device: torch.device,
    bank_sizes: Mapping[str, int] | None = None,
    stride: int = 1,
) -> Iterator[Examples]:
    """Open a source of training batches as a context manager.

    Args:
        config: of the run.
        corpus: the recordings.
        device: the training device, used if `examples` is "device".
        bank_sizes: entries of each bank to use; all if not given.
        stride: difference between consecutive requested batch numbers.
    """
    shape: dict[str, Any] = {
        "seconds": config.seconds,
        "batch": config.batch,
        "seed": config.seed,
        "recipe": config.mixing(),
        "bank_sizes": bank_sizes,
    }
    if config.examples == "device":
        from rtmtass.training.data.device.examples import DeviceExamples

        yield DeviceExamples(corpus, "train", device=device, **shape)
        return
    # Imported here: it needs packages that a GPU machine may lack.
    from rtmtass.training.data.batches import MixtureStream

    with MixtureStream(corpus, "train", workers=config.workers, stride=stride, **shape) as stream:
        yield stream


def batches(examples: Examples, first: int, stride: int = 1) -> Iterator[Batch]:
    """Yield batches `first`, `first + stride` and so on, endlessly."""
    number = first
    while True:
        yield examples.batch(number)
        number += stride
