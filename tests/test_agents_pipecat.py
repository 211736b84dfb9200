"""The pipecat filter in pipecat's own input transport and pipeline."""

from __future__ import annotations

import asyncio
import threading
import warnings

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pipecat imports what Python 3.13 removes
    pytest.importorskip("pipecat.frames.frames", reason="needs the extra pipecat")

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    FilterEnableFrame,
    FilterUpdateSettingsFrame,
    InputAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner
from test_agents import feed, readme_code, sound

from rtmtass.agents.call import Call
from rtmtass.agents.pipecat import RtmtassFilter

TIMEOUT_S = 120
logger.remove()


class Transport(BaseInputTransport):
    """An input transport that is ready as soon as it is started."""

    async def start(self, frame):
        await super().start(frame)
        await self.set_transport_ready(frame)


class Collector(FrameProcessor):
    """Keeps the audio frames that come down the pipeline, and the errors that go up."""

    def __init__(self):
        super().__init__()
        self.frames: list[InputAudioRawFrame] = []
        self.has_new = asyncio.Event()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self.frames.append(frame)
            self.has_new.set()
        await self.push_frame(frame, direction)

    async def wait_for(self, count):
        while len(self.frames) < count:
            self.has_new.clear()
            await self.has_new.wait()


class Session:
    """A pipeline of an input transport with a filter, while it runs."""

    def __init__(self, audio_filter, rate, channels=1):
        self.rate, self.channels, self.errors = rate, channels, []
        params = TransportParams(
            audio_in_enabled=True,
            audio_in_sample_rate=rate,
            audio_in_channels=channels,
            audio_in_filter=audio_filter,
        )
        self.collector = Collector()
        self.worker = PipelineWorker(
            Pipeline([Transport(params), self.collector]),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
            params=PipelineParams(audio_in_sample_rate=rate),
        )
        self.started = asyncio.Event()
        self.has_failed = asyncio.Event()

    async def __aenter__(self):
        @self.worker.event_handler("on_pipeline_started")
        async def _started(_worker, _frame):
            self.started.set()

        @self.worker.event_handler("on_pipeline_error")
        async def _failed(_worker, frame):
            self.errors.append(frame)
            self.has_failed.set()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        self.task = asyncio.create_task(runner.run())
        await self.started.wait()
        return self

    async def __aexit__(self, *_):
        await self.worker.queue_frame(EndFrame())
        await self.task

    async def send(self, samples, length):
        """Send (n, C) in frames of a length; return what comes out, and check each frame."""
        before = len(self.collector.frames)
        blocks = [samples[i : i + length] for i in range(0, len(samples), length)]
        for block in blocks:
            frame = InputAudioRawFrame(
                audio=block.tobytes(), sample_rate=self.rate, num_channels=self.channels
            )
            await self.worker.queue_frame(frame)
        await self.collector.wait_for(before + len(blocks))
        frames = self.collector.frames[before:]
        for frame, block in zip(frames, blocks, strict=True):
            assert (frame.sample_rate, frame.num_channels) == (self.rate, self.channels)
            assert len(frame.audio) == block.nbytes
            assert frame.num_frames == len(block)
        joined = np.frombuffer(b"".join(frame.audio for frame in frames), np.int16)
        return joined.reshape(-1, self.channels)


def run(coroutine):
    """Run to the end; check that no thread is left."""
    before = threading.active_count()
    result = asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))
    assert threading.active_count() == before
    return result


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
@pytest.mark.parametrize("block_ms", [10, 20, 30])
def test_each_frame_comes_out_filtered_and_as_long(rate, block_ms):
    mixture = sound(rate * 3 // 10)

    async def session():
        audio_filter = RtmtassFilter(strength_db=8.0)
        async with Session(audio_filter, rate) as running:
            out = await running.send(mixture, rate * block_ms // 1000)
            return out, audio_filter.delay_ms

    out, delay_ms = run(session())
    stream = Call(strength_db=8.0).open(rate)
    np.testing.assert_array_equal(out, feed(stream, mixture, [len(mixture)]))
    assert delay_ms == stream.delay_ms


def test_control_frames_bypass_the_filter_and_set_its_strength():
    rate, length = 16000, 331
    mixture = sound(rate)

    audio_filter = RtmtassFilter()

    async def session():
        async with Session(audio_filter, rate) as running:
            await running.send(mixture[:3000], length)
            await running.worker.queue_frame(FilterEnableFrame(enable=False))
            update = FilterUpdateSettingsFrame(settings={"strength_db": 3.0})
            await running.worker.queue_frame(update)
            while audio_filter.settings.strength_db != 3.0:
                await asyncio.sleep(0)
            assert audio_filter.settings.is_bypassed
            bypassed = await running.send(mixture[3000:9000], length)
            await running.worker.queue_frame(FilterEnableFrame(enable=True))
            while audio_filter.settings.is_bypassed:
                await asyncio.sleep(0)
            filtered = await running.send(mixture[9000:], length)
            return bypassed, filtered

    bypassed, filtered = run(session())
    assert audio_filter.stream is None  # the pipeline has stopped the filter
    reference = Call(strength_db=3.0).open(rate)
    delay, ramp = reference.delay, 1000
    expected = mixture[3000 - delay : 9000 - delay]
    np.testing.assert_array_equal(bypassed[ramp:], expected[ramp:])
    # The separator has gone on meanwhile, so the mix is that of an uninterrupted stream.
    whole = feed(reference, mixture, [160])[9000:]
    np.testing.assert_array_equal(filtered[ramp:], whole[ramp:])


def test_a_wrong_setting_is_reported_and_the_call_goes_on():
    mixture = sound(4800)

    async def session():
        async with Session(RtmtassFilter(), 16000) as running:
            await running.worker.queue_frame(FilterUpdateSettingsFrame(settings={"level": 1}))
            await running.has_failed.wait()
            return running.errors, await running.send(mixture, 320)

    errors, out = run(session())
    assert len(errors) == 1
    assert isinstance(errors[0], ErrorFrame)
    assert not errors[0].fatal
    assert "unknown setting level; choose from gains_db, strength_db" in errors[0].error
    np.testing.assert_array_equal(out, feed(Call().open(16000), mixture, [320]))


def test_a_filter_used_again_starts_anew():
    audio_filter = RtmtassFilter()
    mixture = sound(4800)

    async def session(rate):
        async with Session(audio_filter, rate) as running:
            return await running.send(mixture, rate // 50)

    first = run(session(16000))
    run(session(24000))
    np.testing.assert_array_equal(run(session(16000)), first)


def test_calls_at_once_do_not_mix():
    mixtures = [sound(8000, seed=seed) for seed in range(3)]

    async def session(mixture):
        async with Session(RtmtassFilter(), 16000) as running:
            return await running.send(mixture, 160)

    async def sessions():
        return await asyncio.gather(*map(session, mixtures))

    for out, mixture in zip(run(sessions()), mixtures, strict=True):
        np.testing.assert_array_equal(out, feed(Call().open(16000), mixture, [160]))


def test_other_tasks_run_after_every_hop_of_a_long_block():
    mixture = sound(16000)

    async def session():
        audio_filter = RtmtassFilter()
        await audio_filter.start(16000)
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        out = await audio_filter.filter(mixture.tobytes())
        counting.cancel()
        await audio_filter.stop()
        return out, turns

    out, turns = run(session())
    assert turns >= len(mixture) // 256
    expected = feed(Call().open(16000), mixture, [256])
    np.testing.assert_array_equal(np.frombuffer(out, np.int16)[:, None], expected)


def test_half_samples_are_kept_and_stereo_stays_interleaved():
    mixture = sound(3000, channels=2)
    raw = mixture.tobytes()

    async def session():
        audio_filter = RtmtassFilter(channels=2)
        assert await audio_filter.filter(raw) == raw  # before a start there is no stream
        await audio_filter.start(16000)
        parts = [await audio_filter.filter(raw[i : i + 333]) for i in range(0, len(raw), 333)]
        await audio_filter.stop()
        return b"".join(parts)

    out = np.frombuffer(run(session()), np.int16).reshape(-1, 2)
    np.testing.assert_array_equal(out, feed(Call().open(16000, 2), mixture, [3000]))


def test_the_code_of_the_page_runs():
    names: dict[str, object] = {}
    exec(readme_code("TransportParams"), names)
    assert isinstance(names["params"].audio_in_filter, RtmtassFilter)  # type: ignore[attr-defined]
