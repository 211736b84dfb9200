"""The network in torch behind the same calls: on a GPU, or many frames at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.errors import MissingPartError, UsageError
from rtmtass.runtime.fold import Weights
from rtmtass.runtime.transform import HOP, PART, Frames, analyse, synthesise

if TYPE_CHECKING:
    from rtmtass.net.mtass import MtassNet

Floats = NDArray[np.float32]


class TorchStream:
    """One stream's memory on the torch runtime; see `base.Stream`."""

    def __init__(self, net: MtassNet, device: str, channels: int, chunk: int) -> None:
        self._net, self._device, self._chunk = net, device, chunk
        config = net.config
        self._frames = Frames.of(config, config.stft.n_bins, chunk, channels)
        self._scratch = np.zeros(self._frames.scratch_size, np.float32)
        bins = config.stft.n_bins
        self._mixture = np.zeros((chunk, 2 * bins), np.float32)
        self._waiting = np.zeros((config.net.lookahead + chunk, 2 * bins), np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget everything heard."""
        self._memory = self._frames.silence()
        self._state = self._net.init_state(1)
        self._waiting[:] = 0
        self._clock = 0

    def run(self, samples: Floats, out: Floats, shares: Floats, hops: int) -> None:
        """Separate `hops` hops, `chunk` frames a step of the network."""
        import torch

        frames, sizes = self._frames, self._frames.sizes
        hop, bins = int(sizes[HOP]), int(sizes[PART])
        lookahead = self._net.config.net.lookahead
        for done in range(0, hops, self._chunk):
            n = min(self._chunk, hops - done)
            analyse(
                samples, done * hop, n, self._clock, sizes, frames.analysis, frames.tables,
                self._memory, self._scratch, self._mixture,
            )  # fmt: skip
            with torch.inference_mode():
                x = torch.from_numpy(self._mixture[:n]).to(self._device)
                y, self._state = self._net.step(x.reshape(1, n, 2, bins), self._state)
                stems = y[0].reshape(n, -1).cpu().numpy()
            waiting = self._waiting
            waiting[lookahead : lookahead + n] = self._mixture[:n]
            synthesise(
                waiting[:n], stems, out, shares, done * hop, n, self._clock, sizes,
                frames.synthesis, frames.product, frames.tables, self._memory, self._scratch,
            )  # fmt: skip
            waiting[:lookahead] = waiting[n : n + lookahead].copy()
            self._clock += n


class TorchRuntime:
    """A network on a torch device; streams share it.

    Raises:
        MissingPartError: torch is not installed.
        UsageError: torch has no such device here.
        ModelError: the weights are not those of `config`.
    """

    precision = "f32"

    def __init__(
        self, config: ModelConfig, weights: Weights, device: str = "cpu", precision: str = "f32"
    ) -> None:
        if precision != "f32":
            raise UsageError(f"the torch runtime has no {precision}: use f32")
        try:
            import torch
        except ImportError:
            raise MissingPartError(
                "the torch runtime needs torch: pip install 'rtmtass[torch]', or --runtime numba"
            ) from None
        from rtmtass.net.mtass import MtassNet

        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError("torch finds no CUDA device here: use --device cpu")
        try:
            torch.device(device)
        except RuntimeError:
            raise UsageError(f"torch knows no device {device!r}: use cpu, cuda or cuda:N") from None
        net = MtassNet(config)
        net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        self._device = device
        self._net = net.eval().to(device)
        self.weight_bytes = sum(p.numel() * p.element_size() for p in net.parameters())

    def stream(self, channels: int = 1, chunk: int = 1) -> TorchStream:
        """Return a new stream; see `base.Runtime`."""
        return TorchStream(self._net, self._device, channels, chunk)
