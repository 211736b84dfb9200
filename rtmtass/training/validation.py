"""Validation on the dev mixtures: figures, audio snapshots and spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rtmtass.evaluation.metrics import sdr, si_sdr
from rtmtass.io.decode import FLAC, encode
from rtmtass.net.separation import SeparationNet
from rtmtass.net.stft import Stft
from rtmtass.types import Progress, Samples

Mixed = tuple[Samples, Samples]
"""A mixture (N,) and its stems (S, N)."""


@torch.no_grad()
def separate_clip(
    net: SeparationNet, stft: Stft, mixture: Samples, device: torch.device
) -> Samples:
    """Return the stems (S, N) of a mixture (N,), aligned with it."""
    delay, hop = net.config.delay, net.config.stft.hop
    padded = np.pad(mixture, (0, delay + (-len(mixture) - delay) % hop))
    spec = stft(torch.from_numpy(padded).float().to(device)[None])
    out: Samples = stft.inverse(net(spec).permute(0, 2, 1, 3, 4))[0].cpu().numpy()
    return out[:, delay : delay + len(mixture)]


def dev_figures(
    net: SeparationNet,
    stft: Stft,
    dev: Sequence[Mixed],
    device: torch.device,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return the mean SI-SDRi and SDRi over the dev mixtures, average and per stem, in dB."""
    improvements = []
    for number, (mixture, stems) in enumerate(dev):
        if progress is not None:
            progress("validating", number, len(dev))
        out = separate_clip(net, stft, mixture, device)
        both = [metric(out, stems) - metric(mixture[None], stems) for metric in (si_sdr, sdr)]
        improvements.append(np.concatenate(both))
    if progress is not None:
        progress("validating", len(dev), len(dev))
    mean = np.mean(improvements, axis=0)
    n = len(net.config.stems)
    figures = {"si_sdri": float(mean[:n].mean()), "sdri": float(mean[n:].mean())}
    for i, stem in enumerate(net.config.stems):
        figures[f"si_sdri_{stem}"] = float(mean[i])
        figures[f"sdri_{stem}"] = float(mean[n + i])
    return figures


def write_snapshots(
    folder: Path,
    step: int,
    net: SeparationNet,
    stft: Stft,
    dev: Sequence[Mixed],
    device: torch.device,
) -> None:
    """Write the network's stems of some dev mixtures as audio and spectrograms.

    `folder/clip-K/` holds `mixture.flac`, the true stems and `truth.png`, written
    once; `folder/clip-K/step-NNNNNN/` holds the stems of that step and `stems.png`.

    Raises:
        OutputError: a file can't be written.
    """
    rate, names = net.config.stft.sample_rate, net.config.stems
    for number, (mixture, stems) in enumerate(dev):
        clip = folder / f"clip-{number}"
        if not (clip / "mixture.flac").exists():
            truth = {"mixture": mixture, **dict(zip(names, stems, strict=True))}
            _write(clip, truth, truth, "truth.png", rate)
        out = dict(zip(names, separate_clip(net, stft, mixture, device), strict=True))
        _write(clip / f"step-{step:06d}", out, {"mixture": mixture, **out}, "stems.png", rate)


def _write(
    folder: Path, audio: dict[str, Samples], drawn: dict[str, Samples], picture: str, rate: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in audio.items():
        encode(folder / f"{name}.flac", np.clip(samples, -1.0, 1.0), FLAC)
    try:
        from rtmtass.spectrogram import write_report
    except ModuleNotFoundError:  # no matplotlib; `requirements` reports it once
        return
    write_report(folder / picture, drawn, rate, is_small=True)
