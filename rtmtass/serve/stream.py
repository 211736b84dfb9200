"""One client's stream, from received blocks to encoded output, hop by hop.

The samples are those of `rtmtass live` on the same input: the same schedule of hops, resamplers
and mixer.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from rtmtass.dsp.live_resample import Converter
from rtmtass.live.full_band import HopSchedule, StemUpsampler
from rtmtass.live.mixer import Mixer
from rtmtass.serve.protocol import Controls, Hello
from rtmtass.serve.slots import Slots
from rtmtass.serve.sound import encode
from rtmtass.types import Floats, Samples


class ServedStream:
    """A stream of one or more channels, each of which uses a slot.

    The thread of the connection calls `add`, `end` and `control`; that of the clock calls `load`
    and `finish`. Each counts what it does itself, so no lock is needed.

    Args:
        hello: what the client sends and wants.
        slots: that it will use; read for rate, hop and stems.

    Attributes:
        hello: see Args.
        delay: offset of the output against the input, in samples at the client's rate.
        n_received, n_taken: samples received, and processed.
        n_returned: samples returned; after `end` up to `delay` more than were received.
        slots: the numbers of its slots, one a channel; set by the clock.
        needs_resampling: whether it needs `Slots.highband_weights`.
        is_quantised: whether it returns `Slots.pcm16` as it is.
    """

    def __init__(self, hello: Hello, slots: Slots) -> None:
        self.hello = hello
        self._schedule = schedule = HopSchedule(slots, hello.rate)
        self.delay = schedule.delay
        self.slots: list[int] = []
        self.n_received = self.n_taken = self.n_returned = 0
        self._n_hops = 0
        self._need = schedule.block(0)
        self._has_ended = False
        self._blocks: deque[Samples] = deque()
        self._position = 0
        channels, longest, n_stems = hello.channels, schedule.longest, len(slots.stems)
        self.needs_resampling = schedule.needs_resampling
        self._mixer = _open_mixer(hello, slots.stems) if hello.output == "mix" else None
        self._keeps_mixture = self.needs_resampling or self._mixer is not None
        self._is_plain = not self._keeps_mixture and channels == 1
        self.is_quantised = self._is_plain and hello.format == "pcm16"
        self._history = np.zeros((self.delay + longest, channels), np.float32)
        self._resamplers = []
        if self.needs_resampling:
            rates = schedule.sample_rate, schedule.model_rate
            self._resamplers = [
                (Converter(*rates, 1, longest), StemUpsampler(schedule, n_stems, 1))
                for _ in range(channels)
            ]
        self._resampled = np.zeros((slots.hop, 1), np.float32)

    @property
    def has_hop(self) -> bool:
        """Whether a hop can be processed: it is whole, or the stream has ended and isn't done."""
        if self.n_received - self.n_taken >= self._need:
            return True
        return self._has_ended and not self.is_done

    @property
    def is_done(self) -> bool:
        """Whether the stream has ended and all of its samples were returned."""
        return self._has_ended and self.n_returned == self.n_received + self.delay

    @property
    def ahead_s(self) -> float:
        """Seconds of sound that were received and not yet processed."""
        return (self.n_received - self.n_taken) / self.hello.rate

    def add(self, block: Samples) -> None:
        """Append received samples, (n, C)."""
        if len(block):
            self._blocks.append(block)
            self.n_received += len(block)

    def end(self) -> None:
        """Let the last samples be returned, as if silence followed."""
        self._has_ended = True

    def control(self, controls: Controls) -> None:
        """Change the mix; the output follows within `mixer.RAMP_MS`.

        Raises:
            ValueError: the stream returns stems.
        """
        if not self._mixer:
            raise ValueError(
                'this stream returns stems; for a mix, say "output": "mix" in the hello'
            )
        _apply(controls, self._mixer)

    def load(self, inputs: Floats) -> None:
        """Take the samples of the next hop.

        Args:
            inputs: (n, H) of `Slots`; the rows of this stream's slots are written.
        """
        n = self._need
        if self._is_plain:
            row = inputs[self.slots[0]]
            row[self._take(row[:, None]) :] = 0
            return
        if self._keeps_mixture:
            self._history[:-n] = self._history[n:]
        block = self._history[-n:]
        filled = self._take(block)
        block[filled:] = 0
        for channel, slot in enumerate(self.slots):
            if not self.needs_resampling:
                inputs[slot] = block[:, channel]
                continue
            converter, _ = self._resamplers[channel]
            converter.process(
                np.ascontiguousarray(block[:, channel : channel + 1]), self._resampled
            )
            inputs[slot] = self._resampled[:, 0]

    def finish(self, slots: Slots) -> bytes:
        """Return the output of the hop that was loaded last.

        Args:
            slots: after the hop.
        """
        n = n_out = self._need
        block = None if self.is_quantised else self._block(n, slots)
        if self._has_ended:
            n_out = min(n, self.n_received + self.delay - self.n_returned)
        self.n_returned += n_out
        self._n_hops += 1
        self._need = self._schedule.block(self._n_hops)
        if block is None:
            payload: bytes = slots.pcm16[self.slots[0], :n_out].tobytes()
            return payload
        return encode(block[:, :n_out], self.hello.format)

    def _block(self, n: int, slots: Slots) -> Samples:
        """Return the stems or their mix at the client's rate, (R, n, C)."""
        outputs, highband_weights = slots.outputs, slots.highband_weights
        if self._is_plain:
            return outputs[self.slots[0], :, :, None]
        block = np.empty((outputs.shape[1], n, len(self.slots)), np.float32)
        end = len(self._history) - self.delay
        mixture = np.ascontiguousarray(self._history[end - n : end])
        for channel, slot in enumerate(self.slots):
            block[:, :, channel] = self._at_rate(
                channel, outputs[slot], highband_weights[slot], mixture
            )
        if self._mixer:
            mixed = np.empty((1, n, len(self.slots)), np.float32)
            self._mixer.process(block, mixture, mixed)
            block = mixed
        return block

    def _at_rate(
        self, channel: int, stems: Floats, highband_weights: Floats, mixture: Floats
    ) -> Floats:
        """Return the stems of a channel at the client's rate, (S, n)."""
        if not self.needs_resampling:
            return stems
        out = np.empty((len(stems), len(mixture), 1), np.float32)
        dry = np.ascontiguousarray(mixture[:, channel : channel + 1])
        _, upsampler = self._resamplers[channel]
        upsampler.process(stems[:, :, None], highband_weights, dry, out)
        return out[:, :, 0]

    def _take(self, out: Floats) -> int:
        """Fill `out`, (n, C), with received samples; return how many there were."""
        filled = 0
        while filled < len(out) and self._blocks:
            block = self._blocks[0]
            n = min(len(out) - filled, len(block) - self._position)
            out[filled : filled + n] = block[self._position : self._position + n]
            filled += n
            self._position += n
            if self._position == len(block):
                self._blocks.popleft()
                self._position = 0
        self.n_taken += filled
        return filled


def _open_mixer(hello: Hello, stems: tuple[str, ...]) -> Mixer:
    mixer = Mixer(stems, hello.rate, hello.channels)
    _apply(hello.controls, mixer)
    mixer.reset()  # the first gains apply without a ramp
    return mixer


def _apply(controls: Controls, mixer: Mixer) -> None:
    for stem, gain_db in controls.gains_db.items():
        mixer.set_gain(stem, gain_db)
    if controls.strength_db is not None:
        mixer.set_strength(controls.strength_db)
