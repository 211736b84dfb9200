"""Runs an exported graph with onnxruntime, behind the same interface as our own runtimes."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.errors import MissingPartError, ModelError
from rtmtass.jit.cpu import usable_isas
from rtmtass.net.shapes import MOST_STATE
from rtmtass.runtime.external_network import SpectralStream
from rtmtass.runtime.onnx.graph import MIXTURE, STEMS
from rtmtass.runtime.onnx.nodes import MAX_FRAMES, NEXT, STATE
from rtmtass.types import Floats
from rtmtass.weights import config_of

try:
    import onnxruntime
except ImportError:
    raise MissingPartError(
        "running an exported graph needs onnxruntime: pip install 'rtmtass[export]'"
    ) from None


class OnnxStep:
    """The exported network with the state of one stream.

    Two sets of state buffers swap roles at every call, both bound beforehand, so that
    onnxruntime neither copies nor allocates them.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        inputs = session.get_inputs()
        self._bins = int(inputs[0].shape[2])
        self._n_stems = int(session.get_outputs()[0].shape[1])
        shapes = {i.name.removeprefix(STATE): i.shape for i in inputs if i.name != MIXTURE}
        self._states = [
            {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} for _ in range(2)
        ]
        self._bindings: dict[int, list[Any]] = {}
        self._edges: dict[int, tuple[Floats, Floats]] = {}
        self._turn = 0

    def reset(self, stream: int | None = None) -> None:
        """Zero the state; there is one stream."""
        for buffer in self._states[self._turn].values():
            buffer[:] = 0

    def step(self, mixture: Floats) -> Floats:
        """Process the next frames: (T, 2, F) -> (T, S, 2, F), valid until the next call."""
        frames = len(mixture)
        if frames not in self._bindings:
            self._bind(frames)
        mixture_in, stems_out = self._edges[frames]
        mixture_in[:] = mixture
        self._session.run_with_iobinding(self._bindings[frames][self._turn])
        self._turn = 1 - self._turn
        return stems_out

    def advance(self, mixture: Floats) -> Floats:
        """As `step`, in the shapes of `external_network.Network` with one stream."""
        frames = mixture.shape[1]
        return self.step(mixture.reshape(frames, 2, -1)).reshape(1, frames, -1)

    def _bind(self, frames: int) -> None:
        """Bind buffers for `frames` frames a call, for both roles of the state buffers."""
        mixture_in = np.zeros((frames, 2, self._bins), np.float32)
        stems_out = np.zeros((frames, self._n_stems, 2, self._bins), np.float32)
        self._edges[frames] = mixture_in, stems_out
        self._bindings[frames] = []
        for turn in range(2):
            binding = self._session.io_binding()
            _bind_input(binding, MIXTURE, mixture_in)
            _bind_output(binding, STEMS, stems_out)
            for name, buffer in self._states[turn].items():
                _bind_input(binding, STATE + name, buffer)
                _bind_output(binding, NEXT + name, self._states[1 - turn][name])
            self._bindings[frames].append(binding)


def _bind_input(binding: Any, name: str, array: Floats) -> None:
    binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def _bind_output(binding: Any, name: str, array: Floats) -> None:
    binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


class OnnxRuntime:
    """An exported file, ready to run; a `protocols.Runtime`, so `Separator` takes it.

    Attributes:
        config: the model's, from the file's metadata.
        frames: most frames a call: 1, or `nodes.MAX_FRAMES`.
        precision, weight_bytes: see `protocols.Runtime`; the size is that of the whole file.

    Args:
        path: a file that `rtmtass export` wrote, or its bytes.
        threads: that onnxruntime uses.

    Raises:
        ModelError: not a file that `rtmtass export` wrote.
    """

    def __init__(self, path: Path | str | bytes, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                path if isinstance(path, bytes) else str(path),
                options,
                providers=["CPUExecutionProvider"],
            )
            about = self.session.get_modelmeta().custom_metadata_map
            self.config = config_of(json.loads(about["config"]))
        # onnxruntime's exceptions have no other common base.
        except Exception as error:
            name = "the graph" if isinstance(path, bytes) else str(path)
            raise ModelError(
                f"{name} is not a graph written by rtmtass export ({error}); export it again"
            ) from None
        _check_shapes(self.session, self.config, "the graph" if isinstance(path, bytes) else path)
        self.precision = "f32"
        self.weight_bytes = len(path) if isinstance(path, bytes) else Path(path).stat().st_size
        shape = self.session.get_inputs()[0].shape
        self.frames = 1 if shape[0] == 1 else MAX_FRAMES

    def step(self) -> OnnxStep:
        """Return the network with the state of a new stream, spectra in and out."""
        return OnnxStep(self.session)

    def stream(self, channels: int = 1, chunk: int = 1) -> SpectralStream:
        """Return a new stream, our transform around the network; see `protocols.Runtime`."""
        return SpectralStream(self.config, self.step(), channels, min(chunk, self.frames))


def _check_shapes(session: Any, config: ModelConfig, name: Path | str) -> None:
    """Compare a graph's inputs and outputs with its config, before buffers are made for them.

    Raises:
        ModelError: they are of another network, or would need all memory.
    """
    inputs = {i.name: i.shape for i in session.get_inputs()}
    outputs = {o.name: o.shape for o in session.get_outputs()}
    states = [shape for key, shape in inputs.items() if key != MIXTURE]
    bins = config.stft.n_bins
    if (
        session.get_inputs()[0].name != MIXTURE
        or list(inputs[MIXTURE][1:]) != [2, bins]
        or session.get_outputs()[0].name != STEMS
        or list(outputs[STEMS][1:]) != [len(config.stems), 2, bins]
        or not all(type(n) is int and n >= 0 for shape in states for n in shape)
        or sum(math.prod(shape) for shape in states) > MOST_STATE
    ):
        raise ModelError(f"the graph in {name} doesn't fit its own config; export it again")


def quantise(graph: Any, path: Path) -> None:
    """Write `graph` with 8-bit weights by onnxruntime's dynamic quantisation, scaled by channel.

    Weights are signed, except on AVX2 without VNNI: there onnxruntime adds pairs of products
    of unsigned inputs and signed weights in 16 bits, where they saturate.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It logs advice to run a preprocessor, which would change nothing here.
    logging.getLogger().addFilter(_is_not_advice)
    try:
        options = {"MatMulConstBOnly": True}
        saturates = usable_isas()[0] in ("avx2", "sse2")
        kind = QuantType.QUInt8 if saturates else QuantType.QInt8
        quantize_dynamic(graph, path, per_channel=True, weight_type=kind, extra_options=options)
    finally:
        logging.getLogger().removeFilter(_is_not_advice)


def _is_not_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()
