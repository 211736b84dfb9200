"""The torch runtime: for GPUs, and for many frames or streams at a time."""

from __future__ import annotations

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.errors import MissingPartError
from rtmtass.runtime.external_network import Network, SpectralBatch, SpectralStream
from rtmtass.runtime.folding import Weights
from rtmtass.runtime.protocols import CHUNK
from rtmtass.runtime.torch.device import find_device


class TorchRuntime:
    """A network on a torch device; streams share its weights.

    On a CUDA device a step is a captured graph. Where capture fails, it warns and runs the
    step kernel by kernel.

    Args:
        config, weights: the model's.
        device: "cpu", "cuda" or "cuda:N".
        precision: of `config.TORCH_PRECISIONS`.

    Raises:
        MissingPartError: torch is not installed.
        UsageError: torch has no such device here.
        ModelError: the weights are not those of `config`.
    """

    def __init__(
        self, config: ModelConfig, weights: Weights, device: str = "cpu", precision: str = "f32"
    ) -> None:
        try:
            import torch
        except ImportError:
            raise MissingPartError(
                "the torch runtime needs torch: pip install 'rtmtass[torch]', or --runtime numba"
            ) from None
        from rtmtass.net.networks import new_network
        from rtmtass.runtime.torch.steps import build_net

        self._device = find_device(device)
        self.precision = precision
        self.config = config
        net = new_network(config)
        net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        self._net = build_net(net, weights, is_bf16=precision == "bf16").to(self._device)
        self.weight_bytes = sum(p.numel() * p.element_size() for p in net.parameters())

    def stream(self, channels: int = 1, chunk: int = 1) -> SpectralStream:
        """Return a new stream; see `protocols.Runtime`."""
        return SpectralStream(self.config, self.network(1, chunk), channels, chunk)

    def batch(self, streams: int) -> SpectralBatch:
        """Return new mono streams that run in step; see `protocols.BatchRuntime`."""
        return SpectralBatch(self.config, self.network(streams, CHUNK), streams)

    def network(self, streams: int, chunk: int = 1) -> Network:
        """Return the network alone, spectra in and out, with the state of new streams.

        On a GPU, steps of 1 and of `chunk` frames are captured when first called.
        """
        from rtmtass.runtime.torch.steps import EagerStepper, GraphStepper, cuda_graph

        if self._device.type == "cpu":
            return EagerStepper(self._net, streams)
        fixed = frozenset({1, chunk}) if self._device.type == "cuda" else frozenset[int]()
        return GraphStepper(
            self._net, self._device, streams, fixed, cuda_graph, is_tf32=self.precision == "tf32"
        )
