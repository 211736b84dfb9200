"""Training batches made in torch on the training device, so that a GPU doesn't wait for a CPU."""

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
    """Endless training batches made on a device; a batch is a function of seed and step.

    Recipe, distributions and fingerprint are those of `examples.ExampleMaker`; the
    examples themselves differ, and codecs (the recipe's `coded`) are left out, as they
    don't run on a device. All recordings are kept decoded in the device's memory,
    115 MB per hour; see `hours_that_fit`. Nothing is read back from the device, so the
    host can run ahead of a GPU. A CPU and a GPU have different random generators and
    make different batches of the same step.

    Args:
        corpus: its recordings and the banks in its cache are used.
        split: "train" or "dev".
        seconds: length of an example.
        batch: examples per batch.
        seed: seed of the stream.
        device: where the batches are made and returned.
        recipe: probabilities and ranges of the augmentations.
        bank_sizes: entries of each bank to use; all if not given.
        free_bytes: returns the free memory of a device; None for no limit.

    Attributes:
        bank_sizes: entries of each bank in use; pass it to a later stream to ignore
            entries added since.
        fingerprint: hash of recipe and recordings.

    Raises:
        DataError: the corpus lacks speech, music or noise, or the recordings don't fit
            into the device's memory.
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
        sources = Ingredients.of(corpus, split, bank_sizes)
        self.recipe = recipe or Recipe()
        self.bank_sizes = sources.bank_sizes
        self.fingerprint = sources.fingerprint(self.recipe)
        self.seconds, self.seed = seconds, seed
        n = round(seconds * SAMPLE_RATE)
        self._device = torch.device(device)
        bank = DeviceBank(
            draw.samplers(sources), self._device, silence=draw.longest_raw(n), free_bytes=free_bytes
        )
        self._context = draw.BatchContext(bank, Draws(self._device), self.recipe, batch, n)
        self._stem = torch.arange(len(STEMS), device=self._device)

    @torch.no_grad()
    def batch(self, step: int) -> Tensor:
        """Return the stems of batch `step`, (B, 3, N) float32; the mixture is their sum."""
        context = self._context
        context.draws.restart(self.seed, step)
        present = self._present()
        tracks = [make(context) for make in (draw.speech, draw.music, draw.noise)]
        stems = torch.stack(tracks, dim=1)
        finish(context, stems)
        self._level(stems, present)
        return stems

    def _present(self) -> Tensor:
        """Return which stems are present, (B, 3) bool."""
        r, draws, n_rows = self.recipe, self._context.draws, self._context.batch
        u = draws.uniform(n_rows, 1)
        which = (draws.uniform(n_rows, 1) * len(STEMS)).long() == self._stem
        alone, missing = r.all_silent + r.one_alone, r.all_silent + r.one_alone + r.one_missing
        present = torch.where(u < alone, which, ~which | (u >= missing))
        return present & (u >= r.all_silent)

    def _level(self, stems: Tensor, present: Tensor) -> None:
        """Set the SNRs against speech, then the mixture's level, limited to `PEAK`, in place."""
        r, draws, n_rows = self.recipe, self._context.draws, self._context.batch
        n = stems.shape[2]
        snr_db = torch.nn.functional.pad(self._snr_db(), (1, 0))
        (level_db,) = draws.between(n_rows, r.level_db)
        power = torch.linalg.vector_norm(stems, dim=2).square() / n
        # A nearly silent crop is muted: amplified, it would only be hiss.
        is_audible = present & (power > AUDIBLE)
        gain = amplitude(-snr_db) * power.clamp(min=AUDIBLE).rsqrt() * is_audible
        mixture = _sum(stems, gain)
        rms = torch.linalg.vector_norm(mixture, dim=1) / n**0.5
        n_pops = capacity((n_rows, r.pop))
        rows, is_hit = pick(draws.hits(r.pop, n_rows), n_pops)
        pop = pops(self._context, n_pops) if n_pops else mixture[:0]
        pop = pop * (is_hit * rms[rows])[:, None]
        mixture.index_copy_(0, rows, mixture.index_select(0, rows) + pop)
        peak = torch.linalg.vector_norm(mixture, ord=math.inf, dim=1)
        # The clamps avoid a division by zero for silent examples.
        overall = torch.minimum(
            amplitude(level_db) / rms.clamp(min=_SILENT), PEAK / peak.clamp(min=_SILENT)
        )
        stems.mul_((gain * overall[:, None])[:, :, None])
        noise = stems[:, STEMS.index("noise")]
        noise.index_copy_(0, rows, noise.index_select(0, rows) + pop * overall[rows][:, None])

    def _snr_db(self) -> Tensor:
        """Return the SNRs of speech against music and noise, dB, (B, 2)."""
        r, draws, n_rows = self.recipe, self._context.draws, self._context.batch
        wide = (r.snr_spread_db * draws.normal(n_rows, 2)).clamp(-r.widest_snr_db, r.widest_snr_db)
        is_paper = draws.hits(r.paper_snr, n_rows, 2)
        return torch.where(is_paper, draws.between(n_rows, SNR_DB, SNR_DB).T, wide)


def _sum(stems: Tensor, gain: Tensor) -> Tensor:
    """Return the sum over stems of stems (B, S, N) times gains (B, S), (B, N)."""
    # Not a matrix product, for which a GPU may use TF32 with 10 bits.
    total = stems[:, 0] * gain[:, 0, None]
    for stem in range(1, stems.shape[1]):
        total.addcmul_(stems[:, stem], gain[:, stem, None])
    return total
