"""A LiveKit frame processor: the caller's voice without music and noise, on your own machine.

    from rtmtass.agents.livekit import RtmtassProcessor

    options = AudioInputOptions(noise_cancellation=lambda _: RtmtassProcessor())
    await session.start(agent, room=room, room_options=RoomOptions(audio_input=options))

Written for `rtc.FrameProcessor` of livekit 1.x; needs the extra `livekit`. Also for
`rtc.AudioStream(noise_cancellation=...)` without the agents framework.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rtmtass.agents.call import Call
from rtmtass.errors import MissingPartError

try:
    from livekit import rtc
except ImportError:
    raise MissingPartError(
        "the frame processor needs livekit: pip install 'rtmtass[livekit]'"
    ) from None

ROOM_RATE_HZ = 24000
"""The rate at which the agents framework reads a room, unless told otherwise."""


class RtmtassProcessor(Call, rtc.FrameProcessor[rtc.AudioFrame]):
    """Turns music and noise down in the audio of one track.

    Each frame comes back as long as it was, `delay_ms` late: 35 ms at 24 kHz. One processor
    serves one track at a time, and starts anew with each; all share the weights.

    `set_bypass` switches to the input and back, as late as before and without a click.
    `enabled` is LiveKit's own switch: while it is False, frames don't reach the processor, so
    they aren't late, and sound is cut by the delay at one switch and silent for it at the other.

    Args:
        sample_rate: of the frames to expect, in Hz. Others are processed too, but their first
            frame waits 10 to 20 ms for a new stream.
        channels: likewise.
        settings: as for `Call`: `model`, `separator`, `gains_db`, `strength_db`.

    Raises:
        ModelError, UsageError: as `Call` and `Call.open`.
    """

    def __init__(
        self, *, sample_rate: int = ROOM_RATE_HZ, channels: int = 1, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._is_enabled = True
        self._track: tuple[str, str, str] | None = None
        self.open(sample_rate, channels)

    @property
    def enabled(self) -> bool:
        """Whether frames are processed; see the class for how this differs from a bypass."""
        return self._is_enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if value and not self._is_enabled:
            self._start_anew()
        self._is_enabled = value

    def _on_stream_info_updated(
        self, *, room_name: str, participant_identity: str, publication_sid: str
    ) -> None:
        """Start anew if this is another track."""
        track = room_name, participant_identity, publication_sid
        if self._track is not None and track != self._track:
            self._start_anew()
        self._track = track

    def _on_stream_info_cleared(self) -> None:
        """Start anew: the track has left its room."""
        self._track = None
        self._start_anew()

    def _process(self, frame: rtc.AudioFrame) -> rtc.AudioFrame:
        """Return the next frame, of the same rate, channels and length.

        Raises:
            UsageError: a rate out of range; LiveKit then passes the frame on as it was.
        """
        rate, channels, n = frame.sample_rate, frame.num_channels, frame.samples_per_channel
        stream = self.stream
        if stream is None or (stream.sample_rate, stream.channels) != (rate, channels):
            stream = self.open(rate, channels)
        samples = np.frombuffer(frame.data, np.int16, n * channels)
        out = stream.process(samples.reshape(n, channels))
        return rtc.AudioFrame(out.tobytes(), rate, channels, n, userdata=frame.userdata)

    def _close(self) -> None:
        """Drop the stream; another frame would begin a new one."""
        self._track = None
        self.close()

    def _start_anew(self) -> None:
        if self.stream:
            self.stream.reset()
