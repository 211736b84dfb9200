"""A pipecat audio filter: the caller's voice without music and noise, before VAD and recogniser.

    from rtmtass.agents.pipecat import RtmtassFilter

    params = TransportParams(audio_in_enabled=True, audio_in_filter=RtmtassFilter())

Written for `BaseAudioFilter` of pipecat 1.x; needs the extra `pipecat`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from rtmtass.agents.call import Call
from rtmtass.errors import MissingPartError, UsageError

try:
    from pipecat.audio.filters.base_audio_filter import BaseAudioFilter
    from pipecat.frames.frames import (
        FilterControlFrame,
        FilterEnableFrame,
        FilterUpdateSettingsFrame,
    )
except ImportError:
    raise MissingPartError(
        "the audio filter needs pipecat: pip install 'rtmtass[pipecat]'"
    ) from None

_SAMPLE_BYTES = 2


class RtmtassFilter(Call, BaseAudioFilter):
    """Turns music and noise down in the audio of one transport.

    Each block of audio comes back as long as it was, `delay_ms` late: 32 ms at 16 kHz. One
    filter serves one transport; all filters of a process share the weights.

    Control frames: `FilterEnableFrame` switches to the input and back, as late as before and
    without a click; `FilterUpdateSettingsFrame` takes what `update` does, such as
    {"strength_db": 6.0}. The same can be done at any time by the methods of `Call`.

    Args:
        channels: of the transport's audio, interleaved.
        settings: as for `Call`: `model`, `separator`, `gains_db`, `strength_db`.

    Raises:
        UsageError: as `Call`; `channels` is below 1.
    """

    def __init__(self, *, channels: int = 1, **settings: Any) -> None:
        super().__init__(**settings)
        if channels < 1:
            raise UsageError(f"channels must be 1 or more, got {channels}")
        self._channels = channels
        self._rest = b""

    async def start(self, sample_rate: int) -> None:
        """Open the stream in a thread of the loop's own, so that other calls go on meanwhile.

        Raises:
            ModelError, UsageError: as `Call.open`.
        """
        self._rest = b""
        await asyncio.to_thread(self.open, sample_rate, self._channels)

    async def stop(self) -> None:
        """Drop the stream; `start` begins another, which knows nothing of this one."""
        self.close()

    async def process_frame(self, frame: FilterControlFrame) -> None:
        """Apply a control frame.

        Raises:
            UsageError: as `update`. The pipeline reports it as an error frame and goes on.
        """
        if isinstance(frame, FilterEnableFrame):
            self.set_bypass(not frame.enable)
        elif isinstance(frame, FilterUpdateSettingsFrame):
            self.update(frame.settings)

    async def filter(self, audio: bytes) -> bytes:
        """Return the next `audio`, 16-bit samples, filtered; unchanged if there is no stream.

        Other tasks may run after every hop, so that a long block doesn't hold up the loop. Of
        an incomplete sample at the end, the first byte is kept for the next block.
        """
        stream = self.stream
        if stream is None:
            return audio
        whole = self._rest + audio
        n_bytes = len(whole) - len(whole) % (_SAMPLE_BYTES * self._channels)
        self._rest = whole[n_bytes:]
        samples = np.frombuffer(whole, np.int16, n_bytes // _SAMPLE_BYTES)
        block = samples.reshape(-1, self._channels)
        parts = []
        for start in range(0, len(block), stream.hop):
            if start:
                await asyncio.sleep(0)
            parts.append(stream.process(block[start : start + stream.hop]).tobytes())
        return b"".join(parts)
