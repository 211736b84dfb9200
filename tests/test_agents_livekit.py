"""The LiveKit processor on LiveKit's own frames, and in its native audio stream of a track."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

pytest.importorskip("livekit.rtc", reason="needs the extra livekit")

from livekit import rtc
from test_agents import feed, readme_code, sound

from rtmtass.agents.call import Call
from rtmtass.agents.livekit import RtmtassProcessor
from rtmtass.errors import UsageError

TIMEOUT_S = 60


def frames_of(samples, rate, length):
    for start in range(0, len(samples), length):
        block = samples[start : start + length]
        yield rtc.AudioFrame(block.tobytes(), rate, block.shape[1], len(block))


def joined(frames):
    channels = frames[0].num_channels
    return np.concatenate(
        [np.array(frame.data, np.int16).reshape(-1, channels) for frame in frames]
    )


def process(processor, samples, rate, length):
    """Process as an audio stream does: only while the processor is enabled."""
    out = []
    for frame in frames_of(samples, rate, length):
        out.append(processor._process(frame) if processor.enabled else frame)
        assert isinstance(out[-1], rtc.AudioFrame)
        shape = frame.sample_rate, frame.num_channels, frame.samples_per_channel
        assert (out[-1].sample_rate, out[-1].num_channels, out[-1].samples_per_channel) == shape
    return joined(out)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
@pytest.mark.parametrize("block_ms", [10, 20, 30, 50])
def test_each_frame_comes_back_filtered_and_as_long(rate, block_ms):
    mixture = sound(rate * 3 // 10)
    processor = RtmtassProcessor(sample_rate=rate, strength_db=8.0)
    assert isinstance(processor, rtc.FrameProcessor)
    out = process(processor, mixture, rate, rate * block_ms // 1000)
    stream = Call(strength_db=8.0).open(rate)
    np.testing.assert_array_equal(out, feed(stream, mixture, [len(mixture)]))
    assert processor.delay_ms == stream.delay_ms


def test_frames_of_another_rate_or_more_channels_start_a_stream():
    processor = RtmtassProcessor()
    process(processor, sound(4800), 24000, 240)
    for rate, channels in ((48000, 1), (48000, 2), (16000, 1)):
        mixture = sound(rate // 4, channels)
        expected = feed(Call().open(rate, channels), mixture, [333])
        np.testing.assert_array_equal(process(processor, mixture, rate, 441), expected)


def test_a_frame_keeps_its_user_data_and_may_have_a_longer_buffer():
    mixture = sound(480)
    buffer = mixture.tobytes() + b"\1" * 100
    frame = rtc.AudioFrame(buffer, 24000, 1, 480, userdata={"key": "value"})
    out = RtmtassProcessor()._process(frame)
    assert out.userdata == {"key": "value"}
    assert len(out.data) == 480


def test_another_track_starts_anew_and_news_of_the_same_does_not():
    mixture = sound(4800)
    processor = RtmtassProcessor()
    fresh = process(processor, mixture, 24000, 240)
    first = {"room_name": "room", "participant_identity": "ann", "publication_sid": "TR_1"}

    processor._on_stream_info_updated(**first)
    before = process(processor, mixture, 24000, 240)
    assert not np.array_equal(before, fresh)  # the first news of a track doesn't interrupt it
    processor._on_stream_info_updated(**first)
    processor._on_credentials_updated(token="token", url="wss://example.invalid")
    assert not np.array_equal(process(processor, mixture, 24000, 240), fresh)

    processor._on_stream_info_updated(**{**first, "publication_sid": "TR_2"})
    np.testing.assert_array_equal(process(processor, mixture, 24000, 240), fresh)
    processor._on_stream_info_cleared()
    np.testing.assert_array_equal(process(processor, mixture, 24000, 240), fresh)
    processor._close()
    assert processor.stream is None
    np.testing.assert_array_equal(process(processor, mixture, 24000, 240), fresh)


def test_enabled_is_livekits_switch_and_starts_anew():
    mixture = sound(4800)
    processor = RtmtassProcessor()
    fresh = process(processor, mixture, 24000, 240)
    processor.enabled = False
    np.testing.assert_array_equal(process(processor, mixture, 24000, 240), mixture)
    processor.enabled = True
    np.testing.assert_array_equal(process(processor, mixture, 24000, 240), fresh)


def test_a_bypass_is_the_input_as_late_as_the_mix():
    mixture = sound(12000)
    processor = RtmtassProcessor()
    processor.set_bypass(True)
    process(processor, mixture, 24000, 240)
    out = process(processor, mixture, 24000, 240)
    assert processor.stream
    delay = processor.stream.delay
    np.testing.assert_array_equal(out[delay:], mixture[:-delay])


def test_a_rate_out_of_range_is_refused():
    with pytest.raises(UsageError, match="1000 Hz"):
        RtmtassProcessor(sample_rate=1000)
    with pytest.raises(UsageError, match="1000 Hz"):
        RtmtassProcessor()._process(rtc.AudioFrame(bytes(20), 1000, 1, 10))


class Recorder(RtmtassProcessor):
    """Keeps the frames that LiveKit hands over."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.given: list[rtc.AudioFrame] = []

    def _process(self, frame):
        self.given.append(frame)
        return super()._process(frame)


async def through_a_track(processor, rate, frame_ms, count):
    """Play noise into a track at 48 kHz; return the frames that its audio stream gives.

    At least `count`, and some after the noise has begun: a busy machine starts with silence.
    """
    source = rtc.AudioSource(48000, 1)
    track = rtc.LocalAudioTrack.create_audio_track("microphone", source)
    stream = rtc.AudioStream.from_track(
        track=track,
        sample_rate=rate,
        num_channels=1,
        frame_size_ms=frame_ms,
        noise_cancellation=processor,
        auto_close_noise_cancellation=True,
    )

    async def play():
        while True:
            for frame in frames_of(sound(48000), 48000, 480):
                await source.capture_frame(frame)

    playing = asyncio.create_task(play())
    frames = []
    async for event in stream:
        frames.append(event.frame)
        if len(frames) >= count and np.abs(joined(frames)).max() > 100:
            break
    playing.cancel()
    await stream.aclose()
    await source.aclose()
    return frames


@pytest.mark.parametrize(("rate", "frame_ms"), [(16000, 10), (24000, 50), (48000, 20)])
def test_livekits_own_audio_stream_runs_the_processor(rate, frame_ms):
    processor = Recorder(sample_rate=rate)
    assert processor.stream
    delay = processor.stream.delay
    before = threading.active_count()
    frames = asyncio.run(asyncio.wait_for(through_a_track(processor, rate, frame_ms, 8), TIMEOUT_S))
    assert threading.active_count() == before
    assert processor.stream is None  # closed by LiveKit
    assert {frame.samples_per_channel for frame in frames} == {rate * frame_ms // 1000}
    given = joined(processor.given[: len(frames)])
    assert np.abs(given).max() > 100
    out = joined(frames)
    np.testing.assert_array_equal(out, feed(Call().open(rate), given, [rate // 100]))
    assert np.abs(out[delay:]).max() > 10 or len(out) <= delay


def test_the_code_of_the_page_runs():
    pytest.importorskip("livekit.agents", reason="needs livekit-agents")
    names: dict[str, object] = {}
    exec(readme_code("room_io"), names)
    selector = names["options"].audio_input.noise_cancellation  # type: ignore[attr-defined]
    assert isinstance(selector(None), RtmtassProcessor)
