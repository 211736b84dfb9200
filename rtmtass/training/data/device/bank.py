"""All recordings a training draws from, decoded, in the memory of the device that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from rtmtass.errors import DataError
from rtmtass.training.data.recordings import Recordings, Sampler
from rtmtass.types import SAMPLE_RATE

BYTES_PER_HOUR = 2 * 3600 * SAMPLE_RATE
SHARE_FOR_RECORDINGS = 0.5
"""Of a device's free memory; the rest is left to the network, its optimiser and the batches."""

_CHUNK = 1 << 25


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a GPU, None for a device whose memory isn't limited to itself."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def hours_that_fit(free_bytes: int) -> float:
    """Return how many hours of recordings a device with so much free memory may hold."""
    return SHARE_FOR_RECORDINGS * free_bytes / BYTES_PER_HOUR


class DeviceBank:
    """Recordings as one int16 tensor, and the tables by which `Sampler` draws from them.

    Several samplers share the tensor and the tables, so that each row of a batch can
    draw from a sampler of its own. All draws are by searches in sorted edges: sampler
    k's groups share [k, k + 1), group g's recordings share [g, g + 1).

    Args:
        samplers: by name; samplers of the same recordings store them once.
        device: where the tensors live.
        silence: zeros before and after the recordings, at least as long as any track,
            so that a gap is read like a recording, and the last one like the others.
        free_bytes: tells the free memory of a device, None for no limit.

    Attributes:
        samples: (N,) int16.
        address: the dtype of places in `samples`: int32 as long as that is enough.
        starts, lengths: (M,) int64, of each drawable recording in `samples`.
        number: the samplers' numbers by name.
        shortest, longest: samples, of each sampler's recordings by name.

    Raises:
        DataError: the recordings need more memory than the device has.
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
        self._chances = {name: _chances(sampler) for name, sampler in samplers.items()}
        self.shortest = {name: int(lengths.min()) for name, (lengths, _) in self._chances.items()}
        self.longest = {name: int(lengths.max()) for name, (lengths, _) in self._chances.items()}

        edges, inner, starts, lengths = [], [], [], []
        n_groups = 0
        for number, sampler in enumerate(samplers.values()):
            edges.append(number + np.minimum(sampler.edges, 1.0))
            for members, shares in zip(sampler.groups, sampler.inner_edges, strict=True):
                inner.append(n_groups + np.minimum(shares, 1.0))
                starts.append(firsts[id(sampler.recordings)][members])
                lengths.append(sampler.recordings.lengths[members])
                n_groups += 1
        self._edges = _tensor(edges, device)
        self._inner_edges = _tensor(inner, device)
        self.starts, self.lengths = _tensor(starts, device), _tensor(lengths, device)

    def draw_group(self, sampler: Tensor, u: Tensor) -> Tensor:
        """Return groups, drawn as `Sampler.draw_group` does.

        Args:
            sampler: numbers of samplers, int64 of any shape.
            u: uniform in [0, 1), float32 of the same shape.

        Returns:
            The groups' numbers, int64 of the same shape.
        """
        # Of float32 there are 24 bits, so that in float64 no sum is rounded up to the next.
        return torch.searchsorted(self._edges, sampler + u.double(), right=True)

    def draw_in_group(self, group: Tensor, u: Tensor) -> Tensor:
        """Return recordings of groups: places in `starts` and `lengths`, int64."""
        return torch.searchsorted(self._inner_edges, group + u.double(), right=True)

    def share_shorter(self, name: str, n: int) -> float:
        """Return how often a sampler draws a recording of less than `n` samples."""
        lengths, chances = self._chances[name]
        return float(chances[lengths < n].sum())

    def windows(self, start: Tensor, n: int) -> Tensor:
        """Return `n` samples from each place (R,) on, (R, n) float32 that fills full scale.

        What lies behind a recording's end is another recording.
        """
        return self.samples.unfold(0, n, 1)[start] * (1 / 32767.0)

    def read(self, address: Tensor) -> Tensor:
        """Return samples by their addresses in `samples`, float32 that fills full scale."""
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
        f" and {hours_that_fit(free_bytes):.1f} hours fit beside the training:"
        ' use a smaller corpus or pack, or set examples = "host"'
    )


def _chances(sampler: Sampler) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of all recordings of a sampler, and how often each is drawn."""
    of_groups = np.diff(np.minimum(sampler.edges, 1.0), prepend=0.0)
    chances = [
        chance * np.diff(np.minimum(shares, 1.0), prepend=0.0)
        for chance, shares in zip(of_groups, sampler.inner_edges, strict=True)
    ]
    return sampler.recordings.lengths[np.concatenate(sampler.groups)], np.concatenate(chances)


def _tensor(parts: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)


def _upload(recordings: Recordings, out: Tensor) -> None:
    """Copy the recordings in use, one after the other, in chunks of what is stored in a row."""
    at = 0
    for first, last in _runs(recordings):
        for start in range(first, last, _CHUNK):
            chunk = np.array(recordings.stored(start, min(start + _CHUNK, last)), dtype=np.int16)
            out[at : at + len(chunk)].copy_(torch.from_numpy(chunk))
            at += len(chunk)


def _runs(recordings: Recordings) -> list[tuple[int, int]]:
    """Return the ranges of the file in use; recordings that follow each other are one."""
    runs: list[tuple[int, int]] = []
    for row in recordings.rows:
        if runs and runs[-1][1] == row.start:
            runs[-1] = (runs[-1][0], row.start + row.length)
        else:
            runs.append((row.start, row.start + row.length))
    return runs
