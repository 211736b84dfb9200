"""All training recordings, decoded, in the memory of the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from rtmtass.errors import DataError
from rtmtass.training.data.recordings import Recordings, Sampler
from rtmtass.types import SAMPLE_RATE

BYTES_PER_HOUR = 2 * 3600 * SAMPLE_RATE
MEMORY_FRACTION = 0.5
"""Fraction of a device's free memory for recordings; the rest is for network and batches."""

_CHUNK = 1 << 25


def free_memory(device: torch.device) -> int | None:
    """Return the free memory of a GPU in bytes; None for other devices."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def hours_that_fit(free_bytes: int) -> float:
    """Return how many hours of recordings fit on a device with `free_bytes` of free memory."""
    return MEMORY_FRACTION * free_bytes / BYTES_PER_HOUR


class DeviceBank:
    """Recordings as one int16 tensor, with the tables of several `Sampler`s.

    All samplers share the tensor and the tables, so that each row of a batch can use
    another sampler. Draws are searches in cumulative probabilities: those of sampler k's
    groups are in [k, k + 1), those of group g's recordings in [g, g + 1).

    Args:
        samplers: by name; recordings that several samplers use are stored once.
        device: where the tensors are.
        silence: zeros before and after the recordings, at least as many as the longest
            track, so that gaps and reads past the last recording stay in the tensor.
        free_bytes: returns the free memory of a device; None for no limit.

    Attributes:
        samples: (N,) int16.
        address: dtype of indices into `samples`: int32 if it suffices, else int64.
        starts, lengths: (M,) int64, position of each recording in `samples`.
        number: name → number of a sampler.
        shortest, longest: name → length of a sampler's shortest and longest recording,
            in samples.

    Raises:
        DataError: the recordings don't fit into the device's memory.
    """

    def __init__(
        self,
        samplers: Mapping[str, Sampler],
        device: torch.device,
        *,
        silence: int,
        free_bytes: Callable[[torch.device], int | None] = free_memory,
    ) -> None:
        self.device = device
        sets = {id(s.recordings): s.recordings for s in samplers.values()}
        _check_memory(sets.values(), device, free_bytes(device))
        n_samples = 2 * silence + sum(int(r.lengths.sum()) for r in sets.values())
        self.address = torch.int32 if n_samples < 2**31 else torch.int64
        self.samples = torch.zeros(n_samples, dtype=torch.int16, device=device)
        firsts: dict[int, np.ndarray] = {}
        at = silence
        for key, recordings in sets.items():
            firsts[key] = at + np.cumsum(recordings.lengths) - recordings.lengths
            _upload(recordings, self.samples[at:])
            at += int(recordings.lengths.sum())
        self.number = {name: number for number, name in enumerate(samplers)}
        self._probs = {name: _probs(sampler) for name, sampler in samplers.items()}
        self.shortest = {name: int(lengths.min()) for name, (lengths, _) in self._probs.items()}
        self.longest = {name: int(lengths.max()) for name, (lengths, _) in self._probs.items()}

        edges, inner, starts, lengths = [], [], [], []
        n_groups = 0
        for number, sampler in enumerate(samplers.values()):
            edges.append(number + np.minimum(sampler.edges, 1.0))
            for members, group_edges in zip(sampler.groups, sampler.inner_edges, strict=True):
                inner.append(n_groups + np.minimum(group_edges, 1.0))
                starts.append(firsts[id(sampler.recordings)][members])
                lengths.append(sampler.recordings.lengths[members])
                n_groups += 1
        self._edges = _tensor(edges, device)
        self._inner_edges = _tensor(inner, device)
        self.starts, self.lengths = _tensor(starts, device), _tensor(lengths, device)

    def draw_group(self, sampler: Tensor, u: Tensor) -> Tensor:
        """Return random groups, as `Sampler.draw_group` does.

        Args:
            sampler: numbers of samplers, int64 of any shape.
            u: uniform in [0, 1), float32 of the same shape.

        Returns:
            The groups' numbers, int64 of the same shape.
        """
        # u has 24 bits, so the float64 sum is exact and never reaches the next sampler.
        return torch.searchsorted(self._edges, sampler + u.double(), right=True)

    def draw_in_group(self, group: Tensor, u: Tensor) -> Tensor:
        """Return random recordings of groups, as indices into `starts` and `lengths`, int64."""
        return torch.searchsorted(self._inner_edges, group + u.double(), right=True)

    def prob_shorter(self, name: str, n: int) -> float:
        """Return the probability that a sampler draws a recording of less than `n` samples."""
        lengths, probs = self._probs[name]
        return float(probs[lengths < n].sum())

    def windows(self, start: Tensor, n: int) -> Tensor:
        """Return `n` samples from each start (R,) on, (R, n) float32, normalised to full scale.

        Past a recording's end, the next recording is read.
        """
        return self.samples.unfold(0, n, 1)[start] * (1 / 32767.0)

    def read(self, address: Tensor) -> Tensor:
        """Return samples by their indices in `samples`, float32, normalised to full scale."""
        stored = self.samples.index_select(0, address.reshape(-1)).view(address.shape)
        return stored * (1 / 32767.0)


def _check_memory(
    recordings: Iterable[Recordings], device: torch.device, free_bytes: int | None
) -> None:
    hours = sum(r.seconds for r in recordings) / 3600
    if free_bytes is None or hours <= hours_that_fit(free_bytes):
        return
    raise DataError(
        f"the recordings and banks are {hours:.1f} hours and need"
        f" {hours * BYTES_PER_HOUR / 1e9:.1f} GB; {device} has {free_bytes / 1e9:.1f} GB free,"
        f" enough for {hours_that_fit(free_bytes):.1f} hours beside the training;"
        ' use a smaller corpus or pack, or set examples = "host"'
    )


def _probs(sampler: Sampler) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of a sampler's recordings, and the probability of each."""
    of_groups = np.diff(np.minimum(sampler.edges, 1.0), prepend=0.0)
    probs = [
        prob * np.diff(np.minimum(group_edges, 1.0), prepend=0.0)
        for prob, group_edges in zip(of_groups, sampler.inner_edges, strict=True)
    ]
    return sampler.recordings.lengths[np.concatenate(sampler.groups)], np.concatenate(probs)


def _tensor(parts: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)


def _upload(recordings: Recordings, out: Tensor) -> None:
    """Copy the recordings in use to the device, contiguous ranges at a time."""
    at = 0
    for first, last in _runs(recordings):
        for start in range(first, last, _CHUNK):
            chunk = np.array(recordings.stored(start, min(start + _CHUNK, last)), dtype=np.int16)
            out[at : at + len(chunk)].copy_(torch.from_numpy(chunk))
            at += len(chunk)


def _runs(recordings: Recordings) -> list[tuple[int, int]]:
    """Return the ranges of the file in use, with adjacent recordings merged."""
    runs: list[tuple[int, int]] = []
    for row in recordings.rows:
        if runs and runs[-1][1] == row.start:
            runs[-1] = (runs[-1][0], row.start + row.length)
        else:
            runs.append((row.start, row.start + row.length))
    return runs
