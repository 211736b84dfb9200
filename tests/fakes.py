"""A Separator without a network, for tests of the modules above it."""

from __future__ import annotations

import numpy as np


class FakeSeparator:
    """Delays the mixture and splits it by weights that sum to one, fixed or slowly changing."""

    stems: tuple[str, ...] = ("speech", "music", "noise")
    sample_rate = 16000
    hop = 256
    algorithmic_latency = 512

    def __init__(self, channels=1, weights=None, delay=511):
        self.channels = channels
        self.delay = delay
        self.weights = weights
        self.reset()

    def reset(self):
        shape = (self.delay, self.channels) if self.channels > 1 else (self.delay,)
        self._delay_line = np.zeros(shape, np.float32)
        self._position = -self.delay

    def fork(self, *, block=None, channels=None):
        return FakeSeparator(channels or self.channels, self.weights, self.delay)

    def process(self, block):
        return self.process_with_highband(block)[0]

    def process_with_highband(self, block):
        assert block.dtype == np.float32
        assert block.ndim == (2 if self.channels > 1 else 1)
        n = len(block)
        line = np.concatenate((self._delay_line, block))
        out, self._delay_line = line[:n], line[n:]
        highband_weights = self._split(np.arange(self._position, self._position + n))
        self._position += n
        stems = highband_weights[..., None] * out if self.channels > 1 else highband_weights * out
        return stems.astype(np.float32), highband_weights

    def flush(self):
        return self.flush_with_highband()[0]

    def flush_with_highband(self):
        shape = (self.delay, self.channels) if self.channels > 1 else (self.delay,)
        result = self.process_with_highband(np.zeros(shape, np.float32))
        self.reset()
        return result

    def _split(self, position):
        if self.weights is not None:
            fixed = np.array(self.weights, np.float32)[:, None]
            return np.broadcast_to(fixed, (3, len(position)))
        t = position / self.sample_rate
        speech = 0.5 + 0.4 * np.sin(2 * np.pi * 3 * t)
        music = (1 - speech) * (0.5 + 0.4 * np.sin(2 * np.pi * 5 * t))
        return np.stack((speech, music, 1 - speech - music)).astype(np.float32)
