"""No client disturbs another: each bad one gets a close code and a reason, good ones every bit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from serve_rig import UPGRADE, RawClient, client, run, separate, serving, until
from test_serve import sounds

import rtmtass
from rtmtass.serve import connection, server
from rtmtass.serve.protocol import LONGEST_MESSAGE, Code
from rtmtass.serve.websocket import StreamSocket

HELLO = '{"rate": 16000, "format": "f32"}'
BAD: dict[str, tuple[list[str | bytes], int, str]] = {
    "not JSON": (["hello"], 1007, "text must be a JSON object"),
    "a list": (["[16000]"], 1007, "text must be a JSON object"),
    "deep": (["[" * 4000], 1007, "text must be a JSON object"),
    "no rate": (["{}"], 1007, "rate is missing"),
    "a rate of text": (['{"rate": "16000"}'], 1007, "rate is '16000'; give a whole number from"),
    "a negative rate": (['{"rate": -16000}'], 1007, "rate is -16000; give a whole number from"),
    "a huge rate": (['{"rate": 1' + "0" * 4000 + "}"], 1007, "rate is too large; give a whole"),
    "NaN as rate": (['{"rate": NaN}'], 1007, "rate is nan"),
    "9 channels": (['{"rate": 16000, "channels": 9}'], 1007, "channels is 9; give a whole number"),
    "true channels": (['{"rate": 16000, "channels": true}'], 1007, "channels is True"),
    "a format": (['{"rate": 16000, "format": "mp3"}'], 1007, "format is 'mp3'; choose from pcm16,"),
    "a key": (['{"rate": 16000, "Rate": 1}'], 1007, "unknown key 'Rate'; choose from rate"),
    "stems": (['{"rate": 16000, "stems": ["drums"]}'], 1007, "unknown key 'stems'; choose"),
    "a stem": (['{"rate": 16000, "gains_db": {"drums": 1}}'], 1007, "no stem 'drums'"),
    "gains": (['{"rate": 16000, "gains_db": [1]}'], 1007, "gains_db must be an object"),
    "a gain": (['{"rate": 16000, "gains_db": {"music": "1"}}'], 1007, "the gain of music is '1'"),
    "a long hello": ([json.dumps({"rate": "1" * 5000})], 1009, "a text message may have 4096"),
    "sound first": ([b"\0\0"], 1003, "sound before the hello"),
    "half a sample": ([HELLO, b"\0\0\0\0\0"], 1007, "a message of 5 bytes ends within a sample"),
    "NaN": ([HELLO, np.array([0, np.nan], "<f4").tobytes()], 1007, "sample 1 of the message is"),
    "Inf": ([HELLO, np.array([np.inf], "<f4").tobytes()], 1007, "sample 0 of the message is NaN"),
    "text later": ([HELLO, "stop"], 1007, "text must be a JSON object"),
    "after the end": ([HELLO, '{"do": "end"}', b"\0\0\0\0"], 1007, "sound after the end"),
    "a large message": ([HELLO, bytes(LONGEST_MESSAGE + 4)], 1009, "a message may have 262144"),
    "a huge message": ([HELLO, bytes(10_000_000)], 1009, "a message may have 262144"),
}  # fmt: skip


async def misbehave(at: server.Server, messages: list[str | bytes]) -> tuple[int, str]:
    """Send messages; return the close code and reason."""
    async with client(at, rate=16000, format="f32") as stream:
        for message in messages:
            if isinstance(message, str):
                await stream.socket.send_str(message)
            else:
                await stream.socket.send_bytes(message)
        reply = await stream.read_all()
        return reply.code, reply.reason


def test_bad_clients_get_their_reason_and_a_good_one_every_bit() -> None:
    """All at once; the good stream runs from before the first to after the last."""

    async def scene() -> tuple[list[tuple[int, str]], Any, Any]:
        async with (
            serving(max_streams=12) as (at, service),
            client(at, rate=16000, format="f32") as good,
        ):
            await good.greet()
            sound = sounds(16000)
            await good.write(sound[:8000], 256)
            names, endings = list(BAD), []
            for start in range(0, len(names), 8):
                group = [misbehave(at, BAD[name][0]) for name in names[start : start + 8]]
                endings += await asyncio.gather(*group)
            await good.write(sound[8000:], 256)
            await good.end()
            reply = await good.read_all()
            await until(lambda: not service.health()["streams"])
            return endings, reply, service.metrics.closes

    endings, reply, closes = run(scene())
    for (name, (_, code, reason)), (found, text) in zip(BAD.items(), endings, strict=True):
        assert found == code, (name, found, text)
        assert text.startswith(reason), (name, text)
        assert len(text.encode()) <= 123
    expected = rtmtass.load().separate(sounds(16000)[:, 0])
    np.testing.assert_array_equal(reply.samples[256:, :, 0], expected.T)
    assert sum(closes.values()) == len(BAD) + 1
    assert closes[1007, "hello"] == 13
    assert closes[1009, "protocol"] == closes[1000, "done"] == 1


def test_a_client_without_a_hello_is_closed() -> None:
    async def scene() -> tuple[int, str]:
        async with serving(hello_s=0.2) as (at, _):
            return await misbehave(at, [])

    assert run(scene()) == (1008, "no hello within 0.2 s; send a text message with a JSON object first")  # fmt: skip # noqa: E501


def test_a_crowd_without_hellos_is_refused_beyond_64_and_disturbs_nobody() -> None:
    sound = sounds(8000)

    async def knock(at: server.Server) -> tuple[RawClient, bytes]:
        raw = await RawClient.connect(at)
        raw.writer.write(UPGRADE)
        return raw, await raw.reader.readuntil(b"\r\n\r\n")

    async def scene() -> tuple[list[bytes], Any, Any]:
        async with (
            serving(max_streams=2) as (at, service),
            client(at, rate=16000, format="f32") as good,
        ):
            await good.greet()
            await good.write(sound[:4000], 256)
            crowd = await asyncio.gather(*(knock(at) for _ in range(150)))
            await good.write(sound[4000:], 256)
            await good.end()
            reply = await good.read_all()
            for raw, _ in crowd:
                disconnect(raw)
            await until(lambda: not service.n_waiting)
            return [head for _, head in crowd], reply, await separate(at, sounds(0), rate=16000)

    heads, reply, later = run(scene())
    assert sorted(head.split(b" ")[1] for head in heads) == [b"101"] * 64 + [b"503"] * 86
    expected = rtmtass.load().separate(sound[:, 0])
    np.testing.assert_array_equal(reply.samples[256:, :, 0], expected.T)
    assert later.code == 1000


def test_a_client_that_stops_reading_is_held_then_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream stops, so that nothing piles up; the reason is there once it reads again."""
    monkeypatch.setattr(connection, "UNREAD_BYTES", 8192)

    async def scene() -> tuple[tuple[int, str], Any, float]:
        async with serving(stall_s=2.0, ahead_s=0.5) as (at, service):
            deaf = await RawClient.connect(at, receive_bytes=4096)
            await deaf.upgrade()
            await deaf.send(1, HELLO.encode())
            sending = asyncio.create_task(flood(deaf))
            good = asyncio.create_task(
                separate(at, sounds(16000), rate=16000, format="f32", pause_s=0.01)
            )
            await until(lambda: service.metrics.closes[1008, "not_reading"] == 1)
            sent_s = service.metrics.bytes_in / 4 / 16000
            ending = await deaf.read_close()
            sending.cancel()
            deaf.writer.close()
            return ending, await good, sent_s

    (code, reason), reply, sent_s = run(scene())
    assert (code, reason) == (1008, "the output was not read for 2 s; read and write at the same time")  # fmt: skip # noqa: E501
    assert sent_s < 1 + 0.5 + 1.5  # the good one's second, what may be ahead, and the buffers
    expected = rtmtass.load().separate(sounds(16000)[:, 0])
    np.testing.assert_array_equal(reply.samples[256:, :, 0], expected.T)


async def flood(raw: RawClient) -> None:
    """Send sound as fast as the server takes it."""
    while True:
        await raw.send(2, bytes(4096))


def test_endless_sound_waits_in_the_socket_and_ends_with_the_longest_time() -> None:
    """What was taken is returned whole before the close frame; the rest was never stored."""

    async def scene() -> tuple[Any, float]:
        async with (
            serving(longest_s=3600.0, ahead_s=0.25) as (at, service),
            client(at, rate=16000, format="f32") as endless,
        ):
            await endless.greet()
            most_s = 0.0

            async def send() -> None:
                while True:
                    await endless.socket.send_bytes(bytes(4 * 1600))

            async def watch() -> None:
                nonlocal most_s
                while True:
                    for stream in list(service._streams):
                        most_s = max(most_s, stream.ahead_s)
                    await asyncio.sleep(0.002)

            tasks = [asyncio.create_task(each()) for each in (send, watch)]
            await until(lambda: most_s > 0.25)
            await until(lambda: service.metrics.bytes_out > 0)
            for each in service._connections:
                each._started_s -= 3600
            reply = await endless.read_all()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return reply, most_s

    reply, most_s = run(scene())
    assert (reply.code, reply.reason) == (1008, "a connection may last 3600 s")
    done = reply.texts[-1]
    assert len(reply.samples) == done["frames"] == done["received"] + 256
    assert 0.25 < most_s <= 0.25 + 0.1


def test_a_silent_stream_is_closed_after_its_last_samples() -> None:
    async def scene() -> Any:
        async with serving(idle_s=3600.0) as (at, service), client(at, rate=16000) as idle:
            await idle.greet()
            await idle.write(sounds(1000), 256)
            await until(lambda: service.metrics.bytes_in == 2000)
            for each in service._connections:
                each._sound_s -= 3600
            return await idle.read_all()

    reply = run(scene())
    assert (reply.code, reply.reason) == (1008, "no sound for 3600 s")
    assert len(reply.samples) == 1000 + 256


def disconnect(raw: RawClient) -> None:
    raw.writer.transport.abort()


def half_a_frame(raw: RawClient) -> None:
    raw.writer.write(b"\x82\xfe\x10\x00\0\0\0\0 and then nothing")
    raw.writer.transport.write_eof()


@pytest.mark.parametrize("vanish", [disconnect, half_a_frame])
def test_a_client_that_vanishes_frees_its_slots(vanish: Callable[[RawClient], None]) -> None:
    async def scene() -> Any:
        async with serving(max_streams=1) as (at, service):
            raw = await RawClient.connect(at)
            await raw.upgrade()
            await raw.send(1, HELLO.encode())
            await raw.send(2, bytes(5000))
            await until(lambda: service.metrics.bytes_out > 0)
            vanish(raw)
            await until(lambda: service.health()["channels"] == 0)
            raw.writer.close()
            assert service.metrics.closes[1006, "broken"] == 1
            return await separate(at, sounds(2000), rate=16000)

    assert run(scene()).code == 1000


@pytest.mark.parametrize("first", [b"", b"GET /stream HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_connection_without_a_request_is_closed(
    first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_REQUEST_S", 0.3)

    async def scene() -> bytes:
        async with serving() as (at, _):
            raw = await RawClient.connect(at)
            raw.writer.write(first)
            rest = await raw.reader.read()
            raw.writer.close()
            return rest

    assert run(scene()) == b""


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (b"SSH-2.0-OpenSSH\r\n", b"Invalid method encountered"),
        (bytes.fromhex("16030100c8010000c40303") + bytes(200), b"Received HTTPS traffic"),
        (b"GET /stream HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 9000 + b"\r\n\r\n", b"Got more than"),
        (b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", b"Bad Request; streams are at /stream"),
    ],
    ids=["ssh", "tls", "long header", "no upgrade"],
)
def test_other_protocols_get_a_line_and_the_server_no_traceback(
    request_bytes: bytes, reason: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> bytes:
        async with serving() as (at, _):
            raw = await RawClient.connect(at)
            raw.writer.write(request_bytes)
            answer = b""
            while reason not in answer and (more := await raw.reader.read(1000)):
                answer += more
            raw.writer.close()
            return answer

    answer = run(scene())
    assert answer.split(b" ")[1] == b"400"
    assert reason in answer
    assert not caplog.records


def test_a_client_that_is_gone_before_its_answer_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def gone(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(StreamSocket, "prepare", gone)

    async def scene() -> None:
        async with serving() as (at, service):
            raw = await RawClient.connect(at)
            raw.writer.write(UPGRADE)
            await until(lambda: service.metrics.closes[1006, "broken"] == 1)
            raw.writer.close()

    run(scene())
    assert not caplog.records


def test_single_samples_and_pings_are_slowed_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_BURST", 50)

    async def scene() -> Any:
        async with serving() as (at, _), client(at, rate=16000, format="f32") as tiny:
            await tiny.greet()
            reading = asyncio.create_task(tiny.read_all())
            for _ in range(30):
                await tiny.socket.ping()
            await tiny.write(sounds(300), 1)
            await tiny.end()
            return await reading

    reply = run(scene())
    expected = rtmtass.load().separate(sounds(300)[:, 0])
    np.testing.assert_array_equal(reply.samples[256:, :, 0], expected.T)
    assert reply.code == Code.DONE
