"""Where a run takes recordings and batches from: folders or packs, the host or the device."""

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
    """What makes training batches, a function of their numbers alone."""

    bank_sizes: dict[str, int]
    """How many entries of each bank are used."""

    def batch(self, step: int) -> Any:
        """Return the stems of batch `step`; see `Batch`."""


def corpus_of(config: TrainConfig, progress: Progress | None = None) -> Corpus:
    """Return the recordings a config names; packs are unpacked first, where they aren't yet.

    Raises:
        DataError: there are none, or a pack is damaged.
    """
    if not config.packs:
        return Corpus(Path(config.corpus), Path(config.cache))
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
    """Make training batches as long as the context lasts.

    Args:
        config: says where they are made, and of what size they are.
        corpus: the recordings.
        device: where "device" is.
        bank_sizes: how many entries of each bank to use; all if not given.
        stride: how far apart the batches' numbers are that will be asked for.
    """
    shape: dict[str, Any] = {
        "seconds": config.seconds,
        "batch": config.batch,
        "seed": config.seed,
        "bank_sizes": bank_sizes,
    }
    if config.examples == "device":
        from rtmtass.training.data.device.examples import DeviceExamples

        yield DeviceExamples(corpus, "train", device=device, **shape)
        return
    from rtmtass.training.data.batches import (
        MixtureStream,  # needs packages that a GPU can do without
    )

    with MixtureStream(corpus, "train", workers=config.workers, stride=stride, **shape) as stream:
        yield stream


def batches(examples: Examples, first: int, stride: int = 1) -> Iterator[Batch]:
    """Yield batch after batch without end, `stride` numbers apart, from number `first` on."""
    number = first
    while True:
        yield examples.batch(number)
        number += stride
