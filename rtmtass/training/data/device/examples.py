"""Training batches made by torch where the training runs, so that a GPU needn't wait for a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rtmtass.config import STEMS
from rtmtass.training.data.device import stems as draw
from rtmtass.training.data.device.bank import DeviceBank, free_memory
from rtmtass.training.data.device.finish import finish, pops
from rtmtass.training.data.device.rng import Draws, amplitude, capacity, pick
from rtmtass.training.data.recipe import AUDIBLE, PEAK, SNR_DB, Ingredients, Recipe
from rtmtass.types import SAMPLE_RATE

if TYPE_CHECKING:
    from rtmtass.training.data.corpus import Corpus


_SILENT = 1e-9


class DeviceExamples:
    """Endless training batches made on a device, a function of seed and step alone.

    The recipe and its distributions are those of `examples.ExampleMaker`, and the
    fingerprint is the same; the examples are not. Only codecs are left out (the
    recipe's `coded`), which don't run on a device. All recordings lie decoded in the
    device's memory, 115 MB an hour; see `hours_that_fit`. Nothing is read back from
    the device, so that a GPU makes batches while the host runs ahead. The CPU and a
    GPU draw different numbers, and so make different batches of the same step.

    Args:
        corpus: whose recordings, and the banks in whose cache, are used.
        split: "train" or "dev".
        seconds: length of an example.
        batch: examples in a batch.
        seed: another seed is another stream.
        device: where the batches are made, and remain.
        recipe: how often what happens.
        bank_sizes: how many entries of each bank to use; all if not given.
        free_bytes: tells the free memory of a device, None for no limit.

    Attributes:
        bank_sizes: as used; given back to a later stream they leave out what the
            banks have grown by.
        fingerprint: tells whether recipe and recordings are the same.

    Raises:
        DataError: the corpus lacks a role, or the device the memory.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        seconds: float,
        batch: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        recipe: Recipe | None = None,
        bank_sizes: Mapping[str, int] | None = None,
        free_bytes: Callable[[torch.device], int | None] = free_memory,
    ) -> None:
        given = Ingredients.of(corpus, split, bank_sizes)
        self.recipe = recipe or Recipe()
        self.bank_sizes = given.bank_sizes
        self.fingerprint = given.fingerprint(self.recipe)
        self.seconds, self.seed = seconds, seed
        n = round(seconds * SAMPLE_RATE)
        self._device = torch.device(device)
        bank = DeviceBank(
            draw.samplers(given), self._device, silence=draw.longest_raw(n), free_bytes=free_bytes
        )
        self._makers = draw.Makers(bank, Draws(self._device), self.recipe, batch, n)
        self._stem = torch.arange(len(STEMS), device=self._device)

    @torch.no_grad()
    def batch(self, step: int) -> Tensor:
        """Return the stems of batch `step`, (B, 3, N) float32; the mixture is their sum."""
        makers = self._makers
        makers.draws.restart(self.seed, step)
        present = self._present()
        tracks = [make(makers) for make in (draw.speech, draw.music, draw.noise)]
        stems = torch.stack(tracks, dim=1)
        finish(makers, stems)
        self._level(stems, present)
        return stems

    def _present(self) -> Tensor:
        """Return which stems there are, (B, 3) bool."""
        r, draws, n_rows = self.recipe, self._makers.draws, self._makers.batch
        u = draws.uniform(n_rows, 1)
        which = (draws.uniform(n_rows, 1) * len(STEMS)).long() == self._stem
        alone, missing = r.all_silent + r.one_alone, r.all_silent + r.one_alone + r.one_missing
        present = torch.where(u < alone, which, ~which | (u >= missing))
        return present & (u >= r.all_silent)

    def _level(self, stems: Tensor, present: Tensor) -> None:
        """Set the SNRs against speech, then the mixture's level, without clipping, in place."""
        r, draws, n_rows = self.recipe, self._makers.draws, self._makers.batch
        n = stems.shape[2]
        snr_db = torch.nn.functional.pad(self._snr_db(), (1, 0))
        (level_db,) = draws.between(n_rows, r.level_db)
        power = torch.linalg.vector_norm(stems, dim=2).square() / n
        # A crop of all but silence is left out: turned up it would only be hiss.
        is_there = present & (power > AUDIBLE)
        gain = amplitude(-snr_db) * power.clamp(min=AUDIBLE).rsqrt() * is_there
        mixture = _sum(stems, gain)
        rms = torch.linalg.vector_norm(mixture, dim=1) / n**0.5
        n_pops = capacity((n_rows, r.pop))
        rows, is_hit = pick(draws.hits(r.pop, n_rows), n_pops)
        pop = pops(self._makers, n_pops) if n_pops else mixture[:0]
        pop = pop * (is_hit * rms[rows])[:, None]
        mixture.index_copy_(0, rows, mixture.index_select(0, rows) + pop)
        peak = torch.linalg.vector_norm(mixture, ord=math.inf, dim=1)
        # Where all is silent nothing is divided by zero, and nothing turned up.
        overall = torch.minimum(
            amplitude(level_db) / rms.clamp(min=_SILENT), PEAK / peak.clamp(min=_SILENT)
        )
        stems.mul_((gain * overall[:, None])[:, :, None])
        noise = stems[:, STEMS.index("noise")]
        noise.index_copy_(0, rows, noise.index_select(0, rows) + pop * overall[rows][:, None])

    def _snr_db(self) -> Tensor:
        """Return how far music and noise are below speech, (B, 2)."""
        r, draws, n_rows = self.recipe, self._makers.draws, self._makers.batch
        wide = (r.snr_spread_db * draws.normal(n_rows, 2)).clamp(-r.widest_snr_db, r.widest_snr_db)
        is_paper = draws.hits(r.paper_snr, n_rows, 2)
        return torch.where(is_paper, draws.between(n_rows, SNR_DB, SNR_DB).T, wide)


def _sum(stems: Tensor, gain: Tensor) -> Tensor:
    """Return stems (B, S, N) times gains (B, S), summed, (B, N)."""
    # No matrix product, which a GPU may round to 10 bits.
    total = stems[:, 0] * gain[:, 0, None]
    for stem in range(1, stems.shape[1]):
        total.addcmul_(stems[:, stem], gain[:, stem, None])
    return total
