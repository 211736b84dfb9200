"""Separate a WAV with an exported model; needs onnxruntime and NumPy, not rtmtass.

rtmtass export rtmtass-small --onnx small.onnx      (once, on any computer)
python onnx_stems.py small.onnx talk.wav            (a copy of this file is enough)

Mono 16-bit WAV at the model's rate in, one WAV per stem out, aligned with the input.
Every call processes one frame, as a live program would.
"""

from __future__ import annotations

import sys
import wave

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def separate(
    session: onnxruntime.InferenceSession, mixture: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Return the stems of a mixture by name; all are (N,)."""
    metadata = session.get_modelmeta().custom_metadata_map
    n_fft, hop, delay = (int(metadata[key]) for key in ("n_fft", "hop", "delay"))
    names = metadata["stems"].split(",")
    window = np.sin(np.pi * np.arange(n_fft) / n_fft)  # metadata["window"]: square root of Hann

    outputs = [output.name for output in session.get_outputs()]
    # One state input per recurrent layer or convolution; zeros start a stream.
    state = {
        i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs() if i.name != "mixture"
    }
    recent = np.zeros(n_fft)
    overlap = np.zeros((len(names), n_fft))
    hops = -(-(len(mixture) + delay) // hop)
    padded = np.pad(mixture, (0, hops * hop - len(mixture)))
    stems = np.zeros((len(names), hops * hop), np.float32)
    for at in range(0, hops * hop, hop):
        recent = np.concatenate([recent[hop:], padded[at : at + hop]])
        spec = np.fft.rfft(recent * window)
        frame = np.stack([spec.real, spec.imag])[None].astype(np.float32)  # (1, 2, F)
        results = dict(zip(outputs, session.run(outputs, {"mixture": frame, **state}), strict=True))
        specs = results.pop("stems")[0]  # (S, 2, F)
        state = {name.replace("next.", "state."): value for name, value in results.items()}
        overlap += np.fft.irfft(specs[:, 0] + 1j * specs[:, 1], n_fft) * window
        stems[:, at : at + hop] = overlap[:, :hop]
        overlap = np.pad(overlap[:, hop:], ((0, 0), (0, hop)))
    return dict(zip(names, stems[:, delay : delay + len(mixture)], strict=True))


def main(model: str, path: str) -> None:
    """Write a WAV's stems beside it, as 16-bit WAV."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rate = int(session.get_modelmeta().custom_metadata_map["sample_rate"])
    with wave.open(path, "rb") as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, rate):
            sys.exit(
                f"{path} is not mono, 16-bit, {rate} Hz: sox {path} -r {rate} -c 1 -b 16 x.wav"
            )
        samples = np.frombuffer(file.readframes(-1), "<i2")
    for name, stem in separate(session, (samples / 32768).astype(np.float32)).items():
        with wave.open(f"{path.removesuffix('.wav')}.{name}.wav", "wb") as file:
            file.setparams((1, 2, rate, len(stem), "NONE", ""))
            file.writeframes(np.clip(np.rint(stem * 32768), -32768, 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python onnx_stems.py small.onnx talk.wav")
    main(*sys.argv[1:])
