"""The endless stream of training batches mixed on the host; a batch is a function of its number."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rtmtass.config import STEMS
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.examples import ExampleMaker
from rtmtass.training.data.recipe import Recipe
from rtmtass.types import SAMPLE_RATE, Samples

__all__ = ["MixtureStream", "Recipe"]


@dataclass(frozen=True)
class _Job:
    """Everything a worker process needs to make the stream's batches."""

    kind: type[Corpus]
    folder: Path
    cache: Path
    split: str
    n_samples: int
    batch: int
    seed: int
    recipe: Recipe
    bank_sizes: dict[str, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.batch, len(STEMS), self.n_samples)

    def maker(self) -> ExampleMaker:
        return ExampleMaker(
            self.kind(self.folder, self.cache), self.split, self.recipe, self.bank_sizes
        )

    def fill(self, maker: ExampleMaker, step: int, out: Samples) -> None:
        for number in range(self.batch):
            rng = np.random.default_rng([self.seed, step, number])
            out[number] = maker.make(self.n_samples, rng)


class MixtureStream:
    """Endless training batches; a batch is a function of seed and step.

    Worker processes make consecutive batches ahead; any other step can be requested too,
    but isn't ready in advance. The same seed, step, recipe and recordings give the same
    batch for any number of workers.

    Args:
        corpus: its recordings and the banks in its cache are used.
        split: "train" or "dev".
        seconds: length of an example.
        batch: examples per batch.
        seed: seed of the stream.
        recipe: probabilities and ranges of the augmentations.
        workers: processes that make batches ahead; 0 makes each batch on request.
        prefetch: batches that each worker may be ahead.
        stride: difference between consecutive requested steps: 1, or the number of
            training processes, each of which starts at its own rank.
        nice: niceness of the workers, so that the training process has priority.
        bank_sizes: entries of each bank to use; all if not given.

    Attributes:
        bank_sizes: entries of each bank in use; pass it to a later stream to ignore
            entries added since.
        fingerprint: hash of recipe and recordings.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        seconds: float,
        batch: int,
        seed: int = 0,
        recipe: Recipe | None = None,
        workers: int = 1,
        prefetch: int = 4,
        stride: int = 1,
        nice: int = 5,
        bank_sizes: Mapping[str, int] | None = None,
    ) -> None:
        maker = ExampleMaker(corpus, split, recipe, bank_sizes)
        self.fingerprint = maker.fingerprint
        self.bank_sizes = maker.bank_sizes
        self.seconds = seconds
        self._job = _Job(
            type(corpus),
            corpus.folder,
            corpus.cache,
            split,
            round(seconds * SAMPLE_RATE),
            batch,
            seed,
            maker.recipe,
            maker.bank_sizes,
        )
        self._maker = maker
        self._stride = stride
        self._next = -1
        self._workers = [_Worker(self._job, prefetch, nice) for _ in range(workers)]

    def batch(self, step: int) -> Samples:
        """Return the stems of batch `step`, (B, 3, N) float32; the mixture is their sum."""
        if not self._workers:
            out = np.empty(self._job.shape, np.float32)
            self._job.fill(self._maker, step, out)
            return out
        turn = (step // self._stride) % len(self._workers)
        if step != self._next:
            for index, worker in enumerate(self._workers):
                first = step + self._stride * ((index - turn) % len(self._workers))
                worker.seek(first, self._stride * len(self._workers))
        self._next = step + self._stride
        return self._workers[turn].next()

    def close(self) -> None:
        """Stop the workers and free their memory; idempotent."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def __enter__(self) -> MixtureStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Worker:
    """A process that fills slots of shared memory with requested batches."""

    def __init__(self, job: _Job, n_slots: int, nice: int) -> None:
        self._shape = job.shape
        size = 4 * int(np.prod(job.shape))
        self._slots = [SharedMemory(create=True, size=size) for _ in range(n_slots)]
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        names = [slot.name for slot in self._slots]
        self._process = context.Process(
            target=_work, args=(job, names, nice, child_pipe), daemon=True
        )
        self._process.start()
        child_pipe.close()
        self._pending: list[int] = []  # requested slots, in order
        self._step = self._stride = 0

    def seek(self, step: int, stride: int) -> None:
        """Discard pending batches and request `step`, `step + stride` and so on."""
        while self._pending:
            self._receive()
        self._step, self._stride = step, stride
        for slot in range(len(self._slots)):
            self._request(slot)

    def next(self) -> Samples:
        """Wait for the next batch, copy it out, and request another one for its slot."""
        slot = self._receive()
        view: Samples = np.ndarray(self._shape, np.float32, buffer=self._slots[slot].buf)
        out = view.copy()
        self._request(slot)
        return out

    def close(self) -> None:
        """End the process and unlink the shared memory."""
        if self._slots:
            self._pipe.close()
            self._process.join(timeout=10)
            if self._process.is_alive():
                self._process.terminate()
                self._process.join()
        for slot in self._slots:
            slot.close()
            slot.unlink()
        self._slots = []

    def _request(self, slot: int) -> None:
        self._pipe.send((slot, self._step))
        self._pending.append(slot)
        self._step += self._stride

    def _receive(self) -> int:
        try:
            reply = self._pipe.recv()
        except EOFError:
            code = self._process.exitcode
            raise RuntimeError(f"a mixing process died with exit code {code}") from None
        if isinstance(reply, str):
            raise RuntimeError(f"a mixing process failed:\n{reply}")
        slot = self._pending.pop(0)
        assert slot == reply
        return slot


def _work(job: _Job, names: list[str], nice: int, pipe: Connection[Any, Any]) -> None:
    """Fill requested slots until the other end of the pipe is closed."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(nice)
    slots: list[SharedMemory] = []
    try:
        slots.extend(SharedMemory(name) for name in names)
        maker = job.maker()
        while True:
            slot, step = pipe.recv()
            job.fill(maker, step, np.ndarray(job.shape, np.float32, buffer=slots[slot].buf))
            pipe.send(slot)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # the stream was closed or its process is gone
    except Exception:
        pipe.send(traceback.format_exc())
    finally:
        for memory in slots:
            memory.close()
