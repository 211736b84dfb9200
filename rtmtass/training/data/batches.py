"""The endless stream of training batches: batch `step` is the same whenever it is asked for."""

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
    """All a worker needs to make the same batches as the stream itself would."""

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
    """Endless training batches, a function of seed and step alone.

    Batches in ascending order are made ahead by worker processes; asking for any
    other step is allowed, and costs the wait. The same seed, step, recipe and
    recordings give the same batch, however many workers there are; `fingerprint`
    tells whether recipe and recordings are the same, and `bank_sizes` given back
    to a later stream leaves out what the banks have grown by.

    Args:
        corpus: whose recordings, and the banks in whose cache, are used.
        split: "train" or "dev".
        seconds: length of an example.
        batch: examples in a batch.
        seed: another seed is another stream.
        recipe: how often what happens.
        workers: processes that make batches ahead; 0 makes each when asked.
        prefetch: batches each worker may be ahead.
        stride: how far apart the steps are that will be asked for: 1, or the number
            of processes that train together, each from its own first step.
        nice: how far the workers step back behind the training itself.
        bank_sizes: how many entries of each bank to use; all if not given.
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
            for place in range(len(self._workers)):
                first = step + self._stride * ((place - turn) % len(self._workers))
                self._workers[place].seek(first, self._stride * len(self._workers))
        self._next = step + self._stride
        return self._workers[turn].take()

    def close(self) -> None:
        """Stop the workers and free their memory; harmless when done twice."""
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
    """One process that fills slots of shared memory with the batches it is asked for."""

    def __init__(self, job: _Job, n_slots: int, nice: int) -> None:
        self._shape = job.shape
        size = 4 * int(np.prod(job.shape))
        self._slots = [SharedMemory(create=True, size=size) for _ in range(n_slots)]
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        names = [slot.name for slot in self._slots]
        self._process = context.Process(target=_work, args=(job, names, nice, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._asked: list[int] = []  # slots in the order of the batches on their way
        self._step = self._hop = 0

    def seek(self, step: int, hop: int) -> None:
        """Throw away what is on its way and ask for `step`, `step + hop` and so on."""
        while self._asked:
            self._receive()
        self._step, self._hop = step, hop
        for slot in range(len(self._slots)):
            self._ask(slot)

    def take(self) -> Samples:
        """Wait for the next batch, copy it out, and ask for one more in its place."""
        slot = self._receive()
        view: Samples = np.ndarray(self._shape, np.float32, buffer=self._slots[slot].buf)
        out = view.copy()
        self._ask(slot)
        return out

    def close(self) -> None:
        """Let the process end and unlink the memory."""
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

    def _ask(self, slot: int) -> None:
        self._pipe.send((slot, self._step))
        self._asked.append(slot)
        self._step += self._hop

    def _receive(self) -> int:
        try:
            answer = self._pipe.recv()
        except EOFError:
            code = self._process.exitcode
            raise RuntimeError(f"the process that mixes died with exit code {code}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"the process that mixes failed:\n{answer}")
        slot = self._asked.pop(0)
        assert slot == answer
        return slot


def _work(job: _Job, names: list[str], nice: int, pipe: Connection[Any, Any]) -> None:
    """Fill the slots asked for until the other end of the pipe is closed."""
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
