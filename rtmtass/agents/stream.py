"""A live stream without threads: blocks of any length in, equally long blocks of the mix out.

The arithmetic is the live engine's, hop by hop. The engine's threads are left out: a voice
framework calls from its event loop and waits for each block, which takes far less than it lasts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtmtass.dsp.live_resample import Converter
from rtmtass.live.full_band import HopSchedule, StemUpsampler
from rtmtass.live.mixer import Mixer
from rtmtass.separator import Separator

Pcm = NDArray[np.int16]
"""16-bit samples, (n, C)."""
_FULL_SCALE = 32768.0
_LOWEST, _HIGHEST = -32768, 32767


class MixStream:
    """Separates and mixes one stream, `delay` samples late.

    Every block that `process` is given comes back as long as it was, whatever its length:
    a hop that isn't complete yet is bridged by the `delay`, which starts as silence.

    Args:
        separator: provides the network; its own stream isn't used.
        mixer: for as many channels; used by this stream alone.
        sample_rate: of the stream, in Hz.
        channels: of the stream. They are linked, see Separator.

    Attributes:
        mixer: changes gains, strength and bypass, at any time and from any thread.
        delay: offset of the output against the input, in samples of the stream; constant.
        hop: samples of the stream in a hop, rounded up. A block this long takes at most two
            hops' processing time.

    Raises:
        UsageError: the rate is out of range.
    """

    def __init__(
        self, separator: Separator, mixer: Mixer, sample_rate: int, channels: int = 1
    ) -> None:
        self._separator = separator.fork(block=separator.hop, channels=channels)
        self._schedule = schedule = HopSchedule(self._separator, sample_rate)
        self.sample_rate, self.channels, self.mixer = sample_rate, channels, mixer
        self.delay = schedule.algorithmic_latency - 1
        self.hop = schedule.algorithmic_latency - schedule.delay
        n_stems, longest = len(separator.stems), schedule.longest
        self._to_model: Converter | None = None
        if schedule.needs_resampling:
            rates = schedule.sample_rate, schedule.model_rate
            self._to_model = Converter(*rates, channels, longest)
        self._upsampler = StemUpsampler(schedule, n_stems, channels)
        mixer.set_sample_rate(sample_rate)
        self._input = np.zeros((schedule.delay + longest, channels), np.float32)
        self._model_input = np.zeros((separator.hop, channels), np.float32)
        self._separated = np.zeros((n_stems, separator.hop, channels), np.float32)
        self._highband_weights = np.zeros((n_stems, separator.hop), np.float32)
        self._stems = np.zeros(n_stems * longest * channels, np.float32)
        self._mix = np.zeros(longest * channels, np.float32)
        self._ready = np.zeros((self.hop + 2 * longest, channels), np.int16)
        self._clear()

    @property
    def delay_ms(self) -> float:
        """The `delay` in milliseconds."""
        return 1000 * self.delay / self.sample_rate

    def process(self, block: Pcm) -> Pcm:
        """Process the next block.

        Args:
            block: (n, C) int16, any n.

        Returns:
            (n, C) int16: the mix, `delay` samples late, in a new array; clipped at full scale.
        """
        out = np.empty_like(block)
        position = 0
        while position < len(block):
            start = self._schedule.delay + self._filled
            take = min(len(block) - position, self._wanted - self._filled)
            end = position + take
            np.divide(
                block[position:end], _FULL_SCALE, out=self._input[start : start + take],
                casting="same_kind", dtype=np.float32,
            )  # fmt: skip
            self._filled += take
            if self._filled == self._wanted:
                self._process_hop()
            out[position:end] = self._ready[:take]
            self._n_ready -= take
            self._ready[: self._n_ready] = self._ready[take : take + self._n_ready]
            position = end
        return out

    def reset(self) -> None:
        """Reset the state: the next sample is the first of a new stream. Settings stay."""
        self._separator.reset()
        if self._to_model:
            self._to_model.reset()
        self._upsampler.reset()
        self._clear()

    def _clear(self) -> None:
        self.mixer.reset()
        self._input[:] = 0
        self._number = self._filled = 0
        self._wanted = self._schedule.block(0)
        # The first hop waits for the resampler's filter, too. What it returns for that time lies
        # before the stream, and is silence; so it is output before the hop is complete.
        self._n_early = self._wanted - self.hop
        self._ready[:] = 0
        self._n_ready = self._n_early + self.hop - 1

    def _process_hop(self) -> None:
        """Separate and mix the input of a hop; append it to what is ready."""
        n, delay, model = self._wanted, self._schedule.delay, self._model_input
        newest = self._input[delay : delay + n]
        if self._to_model:
            self._to_model.process(newest, model)
        else:
            model[:] = newest
        self._separator.process_into(model, self._separated, self._highband_weights)
        n_stems = len(self._separated)
        stems = self._stems[: n_stems * n * self.channels].reshape(n_stems, n, self.channels)
        mix = self._mix[: n * self.channels].reshape(1, n, self.channels)
        mixture = self._input[:n]  # aligned with the stems
        self._upsampler.process(self._separated, self._highband_weights, mixture, stems)
        self.mixer.process(stems, mixture, mix)
        self._append(mix[0, self._n_early :])
        self._n_early = 0
        self._input[:delay] = self._input[n : n + delay]
        self._number += 1
        self._filled, self._wanted = 0, self._schedule.block(self._number)

    def _append(self, mix: NDArray[np.float32]) -> None:
        end = self._n_ready + len(mix)
        scaled = np.rint(mix * np.float32(_FULL_SCALE))
        self._ready[self._n_ready : end] = scaled.clip(_LOWEST, _HIGHEST)
        self._n_ready = end
