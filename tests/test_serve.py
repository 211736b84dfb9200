"""The service returns what `Separator` and `rtmtass live` do, to the bit, for many at once."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from serve_rig import SLOTS, Floats, client, run, separate, served, serving

import rtmtass
from rtmtass.benchmark import sound_of
from rtmtass.io.arrays import ArraySink, ArraySource
from rtmtass.live.engine import Engine
from rtmtass.live.mixer import Mixer
from rtmtass.separator import Separator


@pytest.fixture(scope="module")
def separator() -> Separator:
    return rtmtass.load(block=256)


def sounds(n: int, rate: int = 16000, channels: int = 1, seed: int = 0) -> Floats:
    """Sound that PCM16 holds exactly, (n, C), each channel another."""
    whole = sound_of(n / rate + 1, rate)
    columns = [np.roll(whole, 977 * (seed + c))[:n] for c in range(channels)]
    return (np.rint(np.stack(columns, axis=1) * 32768) / 32768).astype(np.float32)


def live(separator: Separator, sound: Floats, rate: int, **mix: Any) -> Floats:
    """What `rtmtass live` outputs for one channel, (n, R): stems, or with settings a mix."""
    sink = ArraySink()
    mixer = Mixer(separator.stems, rate, is_split=not mix, **mix)
    with Engine(separator.fork(), ArraySource(sound, rate), sink, mixer=mixer) as engine:
        assert engine.wait(60)
    return sink.samples()[:, :, 0].T


def measured_delay(late: Floats, early: Floats) -> int:
    """Return the shift, in samples, at which two sounds are most alike."""
    n = 2 * len(late)
    spectrum = np.fft.rfft(late, n) * np.conj(np.fft.rfft(early, n))
    return int(np.argmax(np.fft.irfft(spectrum, n)))


def as_pcm16(samples: Floats) -> Floats:
    return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767)


def test_concurrent_streams_have_the_bits_of_a_separator(separator: Separator) -> None:
    """Of several formats, message sizes and paces, and longer than what may be sent ahead."""
    lengths = [16000 * 4, 7919, 30000, 1, 0, 256]
    chunks = [4000, 100, 256, 1, 256, 77]
    formats = ["f32", "pcm16"] * 3

    async def scene() -> list[Any]:
        async with serving(ahead_s=1.0) as (server, _):
            jobs = [
                separate(
                    server, sounds(n, seed=i), chunk=chunk, format=kind, rate=16000,
                    pause_s=0.004 * (i % 2),
                )
                for i, (n, chunk, kind) in enumerate(zip(lengths, chunks, formats, strict=True))
            ]  # fmt: skip
            return await asyncio.gather(*jobs)

    for i, reply in enumerate(run(scene())):
        expected = separator.separate(sounds(lengths[i], seed=i)[:, 0]).T
        delay = reply.greeting["delay"]
        assert delay == separator.delay == 256
        assert reply.samples.shape == (lengths[i] + delay, 3, 1)
        ours = reply.samples[delay:, :, 0]
        np.testing.assert_array_equal(ours, expected if i % 2 == 0 else as_pcm16(expected))
        done = {"kind": "done", "frames": lengths[i] + delay, "received": lengths[i]}
        assert reply.texts == [done]
        assert (reply.code, reply.reason) == (1000, "all samples were returned")


RATES = [(8000, 1), (44100, 1), (48000, 2), (96000, 1), (22050, 1)]


def test_other_rates_and_channels_have_the_bits_of_rtmtass_live(separator: Separator) -> None:
    """Beside one at the model's rate, so that only some of a batch need highband weights."""

    async def scene() -> list[Any]:
        async with serving() as (server, _):
            return await asyncio.gather(
                separate(server, sounds(9000), rate=16000, format="f32"),
                *(
                    separate(
                        server, sounds(rate // 2 + 17, rate, channels), rate=rate, chunk=rate // 50,
                        channels=channels, format="f32",
                    )
                    for rate, channels in RATES
                ),
            )  # fmt: skip

    plain, *replies = run(scene())
    np.testing.assert_array_equal(
        plain.samples[256:, :, 0], separator.separate(sounds(9000)[:, 0]).T
    )
    for (rate, channels), reply in zip(RATES, replies, strict=True):
        sound = sounds(rate // 2 + 17, rate, channels)
        assert reply.samples.shape == (len(sound) + reply.greeting["delay"], 3, channels)
        for channel in range(channels):
            expected = live(separator, sound[:, channel : channel + 1], rate)
            np.testing.assert_array_equal(reply.samples[:, :, channel], expected)
            mixture = reply.samples[:, :, channel].sum(axis=1)
            assert measured_delay(mixture, sound[:, channel]) == reply.greeting["delay"]


def test_a_mix_is_that_of_rtmtass_live_at_any_rate(separator: Separator) -> None:
    gains = {"music": -12.0, "noise": -np.inf}

    async def scene() -> list[Any]:
        async with serving() as (server, _):
            return await asyncio.gather(*(
                separate(server, sounds(rate, rate), rate=rate, format="f32", output="mix",
                         gains_db={"music": -12, "noise": None}, strength_db=20)
                for rate in (16000, 48000)
            ))  # fmt: skip

    for rate, reply in zip((16000, 48000), run(scene()), strict=True):
        expected = live(separator, sounds(rate, rate), rate, gains_db=gains, strength_db=20.0)
        np.testing.assert_array_equal(reply.samples[:, :, 0], expected)


def test_gains_change_while_a_stream_runs(separator: Separator) -> None:
    """After the ramp the output is the stem alone; a wrong message changes nothing."""

    async def scene() -> Any:
        async with (
            serving() as (server, _),
            client(server, rate=16000, format="f32", output="mix") as stream,
        ):
            await stream.greet()
            sound = sounds(32000)
            await stream.write(sound[:16000], 256)
            while sum(map(len, stream.parts)) < 4 * 15000:
                await stream.read_one()
            for text in (
                '{"do": "mix", "gains_db": {"speech": 0, "music": null, "noise": null}}',
                '{"do": "mix", "gains_db": {"drums": 0}}',
                '{"do": "mix", "gains_db": {"music": 99}}',
                '{"do": "mix", "strength_db": true}',
                '{"do": "dance"}',
            ):
                await stream.socket.send_str(text)
            await stream.write(sound[16000:], 256)
            await stream.end()
            return await stream.read_all()

    reply = run(scene())
    expected = separator.separate(sounds(32000)[:, 0])
    np.testing.assert_allclose(reply.samples[256:14000, 0, 0], expected.sum(0)[:13744], atol=1e-6)
    np.testing.assert_array_equal(reply.samples[-8000:, 0, 0], expected[0, -8000:])
    problems = [each["text"] for each in reply.texts if each["kind"] == "problem"]
    assert problems == [
        "no stem 'drums'; choose from speech, music, noise",
        "the gain of music is 99; give -120 to 20 dB, or null",
        "strength_db is True; give 0 to 120 dB, or null",
        'unknown message; send {"do": "mix", "gains_db": {}} or {"do": "end"}',
    ]


def test_a_stream_of_stems_says_that_it_has_no_mix(separator: Separator) -> None:
    async def scene() -> Any:
        async with serving() as (server, _), client(server, rate=16000) as stream:
            await stream.greet()
            await stream.socket.send_str('{"do": "mix", "gains_db": {"music": -30}}')
            await stream.write(sounds(5000), 256)
            await stream.end()
            return await stream.read_all()

    reply = run(scene())
    problems = [each["text"] for each in reply.texts if each["kind"] == "problem"]
    assert problems == ['this stream returns stems; for a mix, say "output": "mix" in the hello']
    assert reply.samples.shape[1] == 3


def test_slots_are_used_again_from_silence(separator: Separator) -> None:
    """More streams one after the other than there are slots, some of them cut off."""

    async def scene() -> Any:
        async with serving(max_streams=2) as (server, service):
            for i in range(5):
                async with client(server, rate=16000) as stream:
                    await stream.greet()
                    await stream.write(sounds(3000, seed=i), 256)
                    await stream.read_one()
                while service.health()["channels"]:
                    await asyncio.sleep(0.005)
            return await separate(server, sounds(5000, seed=9), rate=16000, format="f32")

    expected = separator.separate(sounds(5000, seed=9)[:, 0])
    np.testing.assert_array_equal(run(scene()).samples[256:, :, 0], expected.T)


def test_an_interval_of_several_hops_changes_no_bit(separator: Separator) -> None:
    async def scene() -> Any:
        async with serving(interval_hops=3) as (server, service):
            assert service.interval_s == 3 * 0.016
            return await separate(server, sounds(9000), rate=16000, format="f32")

    expected = separator.separate(sounds(9000)[:, 0])
    np.testing.assert_array_equal(run(scene()).samples[256:, :, 0], expected.T)


def test_the_rig_has_room_for_every_scene() -> None:
    assert served().slots.n == SLOTS >= 1 + sum(channels for _, channels in RATES)
