"""How good the averaged weights are on the dev mixtures, in figures, sound and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rtmtass.evaluation.metrics import sdr, si_sdr
from rtmtass.io.decode import FLAC, encode
from rtmtass.net.mtass import MtassNet
from rtmtass.net.stft import Stft

Samples = NDArray[np.float32]
Mixed = tuple[Samples, Samples]
"""A mixture (N,) and its stems (S, N)."""


@torch.no_grad()
def hear(net: MtassNet, stft: Stft, mixture: Samples, device: torch.device) -> Samples:
    """Return the stems (S, N) a network makes of a mixture (N,), aligned with it."""
    delay, hop = net.config.delay, net.config.stft.hop
    padded = np.pad(mixture, (0, delay + (-len(mixture) - delay) % hop))
    spec = stft(torch.from_numpy(padded).float().to(device)[None])
    out: Samples = stft.inverse(net(spec).permute(0, 2, 1, 3, 4))[0].cpu().numpy()
    return out[:, delay : delay + len(mixture)]


def dev_figures(
    net: MtassNet, stft: Stft, dev: Sequence[Mixed], device: torch.device
) -> dict[str, float]:
    """Return SI-SDRi and SDRi of the dev mixtures, mean and per stem, in dB."""
    gains = []
    for mixture, stems in dev:
        out = hear(net, stft, mixture, device)
        both = [f(out, stems) - f(mixture[None], stems) for f in (si_sdr, sdr)]
        gains.append(np.concatenate(both))
    mean = np.mean(gains, axis=0)
    n = len(net.config.stems)
    figures = {"si_sdri": float(mean[:n].mean()), "sdri": float(mean[n:].mean())}
    for i, stem in enumerate(net.config.stems):
        figures[f"si_sdri_{stem}"] = float(mean[i])
        figures[f"sdri_{stem}"] = float(mean[n + i])
    return figures


def write_snapshots(
    folder: Path,
    step: int,
    net: MtassNet,
    stft: Stft,
    dev: Sequence[Mixed],
    device: torch.device,
) -> None:
    """Write what the network makes of some dev mixtures, to listen to and to look at.

    `folder/clip-K/` holds `mixture.flac`, the true stems and `truth.png`, written
    once; `folder/clip-K/step-NNNNNN/` the stems of that step and `stems.png`.

    Raises:
        OutputError: something can't be written.
    """
    rate, names = net.config.stft.sample_rate, net.config.stems
    for number, (mixture, stems) in enumerate(dev):
        clip = folder / f"clip-{number}"
        if not (clip / "mixture.flac").exists():
            truth = {"mixture": mixture, **dict(zip(names, stems, strict=True))}
            _write(clip, truth, truth, "truth.png", rate)
        out = dict(zip(names, hear(net, stft, mixture, device), strict=True))
        _write(clip / f"step-{step:06d}", out, {"mixture": mixture, **out}, "stems.png", rate)


def _write(
    folder: Path, heard: dict[str, Samples], seen: dict[str, Samples], picture: str, rate: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in heard.items():
        encode(folder / f"{name}.flac", np.clip(samples, -1.0, 1.0), FLAC)
    try:
        from rtmtass.spectrogram import write_report
    except ModuleNotFoundError:  # no matplotlib, no picture; said once, see `equipment`
        return
    write_report(folder / picture, seen, rate, is_small=True)
