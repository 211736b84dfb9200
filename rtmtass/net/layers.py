"""The layers of the backbones; each folds into matmuls."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from rtmtass.config import LEVEL_HEADROOM
from rtmtass.net.constants import COMPRESS_FLOOR, LEVEL_FLOOR, LEVEL_TINY, NORM_EPSILON
from rtmtass.net.gru import run_grus
from rtmtass.net.streaming import StreamingModule


class Affine(nn.Module):
    """x W + b, batch norm, (parametric) ReLU: a matmul and a slope once folded.

    Shape: (B, T, C_in) -> (B, T, C_out).

    Args:
        c_in: channels read.
        c_out: channels written.
        activation: "prelu", "relu" or "none"; "none" also omits the norm.
        dropout: probability, in training only.
        has_norm: false omits the norm before any activation.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        activation: str = "prelu",
        dropout: float = 0.0,
        *,
        has_norm: bool = True,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(c_in, c_out)
        has_norm = has_norm and activation != "none"
        self.norm = nn.BatchNorm1d(c_out, eps=NORM_EPSILON) if has_norm else None
        self.slope = nn.Parameter(torch.full((c_out,), 0.25)) if activation == "prelu" else None
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every frame."""
        y = self.linear(x)
        if self.norm is not None:
            y = self.norm(y.reshape(-1, y.shape[-1])).reshape(y.shape)
        if self.slope is not None:
            y = torch.where(y > 0, y, y * self.slope)
        elif self.activation == "relu":
            y = torch.relu(y)
        return self.dropout(y)  # type: ignore[no-any-return]


class DilatedConv(StreamingModule[Tensor]):
    """A causal convolution over time that reads (kernel - 1) * dilation earlier frames.

    One matmul over the shifted inputs, concatenated oldest first.

    State: (B, context, C_in), the newest `context` = (kernel - 1) * dilation input frames.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        dilation: int,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.affine = Affine(kernel * c_in, c_out, activation, dropout)
        self.c_in, self.kernel, self.dilation = c_in, kernel, dilation
        self.context = (kernel - 1) * dilation

    def init_state(self, batch: int) -> Tensor:
        """Return zeros."""
        return self.affine.linear.weight.new_zeros(batch, self.context, self.c_in)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process T frames: (B, T, C_in) -> (B, T, C_out)."""
        padded = torch.cat([state.to(x.dtype), x], dim=1)
        frames = x.shape[1]
        taps = [padded[:, i * self.dilation :][:, :frames] for i in range(self.kernel)]
        return self.affine(torch.cat(taps, dim=-1)), padded[:, padded.shape[1] - self.context :]


class GatedBlock(StreamingModule[Tensor]):
    """Residual gated temporal block: reduce, two dilated convolutions, expand, add.

    The sigmoid of one convolution gates the other; both read the same frames, so they are
    one matmul of twice the width.

    Source: section 3.3 of arXiv 2107.06467; gating after van den Oord et al.,
    "WaveNet", arXiv 1609.03499.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        kernel: int,
        dilation: int,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.reduce = Affine(channels, hidden, activation, dropout)
        self.gate = DilatedConv(hidden, 2 * hidden, kernel, dilation)
        self.expand = Affine(hidden, channels, "none")

    def init_state(self, batch: int) -> Tensor:
        """Return the convolution's state."""
        return self.gate.init_state(batch)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process T frames: (B, T, C) -> (B, T, C)."""
        y, state = self.gate.step(self.reduce(x), state)
        value, gate = y.chunk(2, dim=-1)
        return x + self.expand(value * torch.sigmoid(gate)), state


class RecurrentBlock(StreamingModule[Tensor]):
    """Residual GRUs: unlimited context for a few matrix-vector products a frame.

    `groups` parallel GRUs of `hidden` units read all channels; one matmul reads all their
    outputs. Groups save weights, and let a GPU use its fast kernels, which stop at 128
    units.

    State: (B, groups * hidden).

    Source: Cho et al., arXiv 1406.1078, in the form of torch.nn.GRU.
    """

    def __init__(self, channels: int, hidden: int, groups: int = 1) -> None:
        super().__init__()
        self.hidden, self.groups = hidden, groups
        if groups == 1:  # the name in released weights
            self.gru = nn.GRU(channels, hidden, batch_first=True)
        else:
            self.grus = nn.ModuleList(
                nn.GRU(channels, hidden, batch_first=True) for _ in range(groups)
            )
        self.expand = Affine(groups * hidden, channels, "none")

    def all_grus(self) -> list[nn.GRU]:
        """Return the GRUs, in the order of their states."""
        return [self.gru] if self.groups == 1 else list(self.grus)  # type: ignore[arg-type]

    def init_state(self, batch: int) -> Tensor:
        """Return a state of zeros."""
        return self.expand.linear.bias.new_zeros(batch, self.groups * self.hidden)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process T frames: (B, T, C) -> (B, T, C)."""
        y, last = run_grus(x, state, *self.all_grus())
        return x + self.expand(y), last


class MultiScaleBlock(StreamingModule[tuple[Tensor, ...]]):
    """Residual block with chains of dilated convolutions up and down the spectrum.

    The reduced channels and the input's magnitude are split into sub-bands. A chain of
    dilated convolutions runs upwards, each reading its sub-band and the previous output,
    so its temporal context grows along the chain. A second chain runs downwards, and the
    two are added.

    Source: section 3.2 of arXiv 2107.06467.
    """

    def __init__(
        self, channels: int, n_bins: int, bands: int, kernel: int, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        self.reduce = Affine(channels, n_bins, "relu", dropout)
        width, extra = divmod(2 * n_bins, bands)
        self.widths = [width + (band < extra) for band in range(bands)]
        self.orders = [list(range(bands)), list(reversed(range(bands)))]
        self.chains = nn.ModuleList(
            nn.ModuleList(
                DilatedConv(
                    self.widths[band] + (self.widths[order[i - 1]] if i else 0),
                    self.widths[band],
                    kernel,
                    dilation,
                    "relu",
                    dropout,
                )
                for i, band in enumerate(order)
            )
            for order in self.orders
        )
        self.expand = Affine(2 * n_bins, channels, "relu", dropout)

    def convolutions(self) -> list[DilatedConv]:
        """Return the convolutions in the order they run: upwards, then downwards."""
        return [conv for chain in self.chains for conv in chain]  # type: ignore[attr-defined]

    def init_state(self, batch: int) -> tuple[Tensor, ...]:
        """Return the states of all convolutions."""
        return tuple(conv.init_state(batch) for conv in self.convolutions())

    def step_with(
        self, x: Tensor, magnitude: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Process T frames: (B, T, C) and the magnitude (B, T, F) -> (B, T, C)."""
        parts = torch.cat([self.reduce(x), magnitude], dim=-1).split(self.widths, dim=-1)  # type: ignore[no-untyped-call]
        new_states: list[Tensor] = []
        sums: list[Tensor] = list(parts)
        old_states = iter(state)
        for pass_, (order, chain) in enumerate(zip(self.orders, self.chains, strict=True)):
            before: Tensor | None = None
            for band, conv in zip(order, chain, strict=True):  # type: ignore[call-overload]
                inputs = parts[band] if before is None else torch.cat([parts[band], before], -1)
                before, new = conv.step(inputs, next(old_states))
                new_states.append(new)
                sums[band] = before if pass_ == 0 else sums[band] + before
        return x + self.expand(torch.cat(sums, dim=-1)), tuple(new_states)


class RunningLevel(StreamingModule[Tensor]):
    """The level that spectra are divided by: an exponential mean of power, robust to pops.

    level[t] = sqrt(sum_k a^k w[t-k] q[t-k] / sum_k a^k w[t-k]), with w = 1 or, `by_power`,
    w = q. The level scales with the input from the first frame on, and is causal. Weighted
    by power, silence counts for nothing: the level stays through a pause, and the first
    sound after a long one sets it as the first sound of a stream does.

    q is the power p or, with a `window`, p limited to `LEVEL_HEADROOM` times the `rank`-th
    largest power of the last `window` frames, so a sound louder for fewer than `rank`
    frames counts only as a peak of the sound before it. At the start of a stream there is
    no such sound; therefore the level is never below the largest
    p[t-k] fall^k / `LEVEL_HEADROOM`, which limits the features during a pop and decays
    within half a second.

    State: (B, 2), the two sums; with a window (B, 1 + window), also the last window - 1
    powers, oldest first.

    Args:
        decay: a, the factor of the sums from one frame to the next.
        by_power: weight frames by power.
        window: frames in which pops are detected; 0 for no detection.
        rank: frames for which a sound must last to be more than a pop.
        fall: the factor of a pop's power from one frame to the next.
    """

    def __init__(
        self,
        decay: float,
        by_power: bool = False,
        window: int = 0,
        rank: int = 1,
        fall: float = 0.0,
    ) -> None:
        super().__init__()
        self.decay, self.by_power = decay, by_power
        self.window, self.rank, self.fall = window, rank, fall

    def init_state(self, batch: int) -> Tensor:
        """Return empty sums and silence."""
        return torch.zeros(batch, 2 + max(0, self.window - 1))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process T frames: powers (B, T, 1) -> levels (B, T, 1)."""
        state = state.to(x)
        if not self.window:
            mean, sums = self._exponential_mean(x, state)
            return torch.sqrt(mean + LEVEL_FLOOR), sums
        powers = torch.cat([state[:, 2:], x[..., 0]], dim=1)
        recent = powers.unfold(1, self.window, 1)
        sustained = recent.topk(self.rank, dim=-1).values[..., -1:]
        mean, sums = self._exponential_mean(
            torch.minimum(x, LEVEL_HEADROOM * sustained), state[:, :2]
        )
        age = torch.arange(self.window - 1, -1, -1, device=x.device)
        pop = (recent * self.fall ** age.to(x)).amax(dim=-1, keepdim=True)
        level = torch.sqrt(torch.maximum(mean, pop / LEVEL_HEADROOM) + LEVEL_FLOOR)
        return level, torch.cat([sums, powers[:, powers.shape[1] - self.window + 1 :]], dim=1)

    def _exponential_mean(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the exponential means (B, T, 1) of (B, T, 1), and the sums (B, 2) after them."""
        both = torch.cat([x * x, x] if self.by_power else [x, torch.ones_like(x)], dim=-1)
        total, state = exponential_sums(both, state, self.decay)
        return total[..., :1] / total[..., 1:].clamp(min=LEVEL_TINY), state


def exponential_sums(x: Tensor, state: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Return y[t] = x[t] + decay * y[t-1], (B, T, C), and the last y; `state` (B, C) is y[-1]."""
    sums = []
    for part in x.split(512, dim=1):  # type: ignore[no-untyped-call]
        n = part.shape[1]
        age = torch.arange(n, device=x.device)
        fade = decay ** torch.arange(n + 1, device=x.device, dtype=x.dtype)
        weights = torch.tril(fade[(age[:, None] - age[None]).clamp(min=0)])
        with _full_precision(x.device):
            decayed = weights @ part + fade[1:, None] * state[:, None]
        sums.append(decayed)
        state = decayed[:, -1]
    return torch.cat(sums, dim=1), state


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast: bf16 is too coarse for a level."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def compress(re: Tensor, im: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the spectrum over the level with square-rooted magnitude: (re, im, magnitude)."""
    re, im = re / level, im / level
    magnitude = torch.sqrt(torch.sqrt(re * re + im * im + COMPRESS_FLOOR))
    return re / magnitude, im / magnitude, magnitude


def expand(re: Tensor, im: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `compress`: square the magnitude, keep the phase, multiply by the level."""
    magnitude = torch.sqrt(re * re + im * im + COMPRESS_FLOOR) * level
    return re * magnitude, im * magnitude
