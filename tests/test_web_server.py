"""The page's server: who gets in, what messages do, what slow and many pages do."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import aiohttp
import numpy as np
import pytest
from web_rig import ENVIRONMENT, TIMEOUT_S, FakeEngine, Rig, in_server

from rtmtass.cli.main import main
from rtmtass.config import STEMS
from rtmtass.errors import DeviceError
from rtmtass.live.devices.listing import Device
from rtmtass.live.messages import Message, MessageError, parse_message
from rtmtass.live.mixer import MAX_GAIN_DB, Mixer
from rtmtass.live.page_controls import (
    HIGHEST_GAIN_DB,
    PageControls,
    changed,
    initial_state,
)
from rtmtass.page import FILES, backend_module, path
from rtmtass.web import access
from rtmtass.web.list_devices import describe
from rtmtass.web.server import listen
from rtmtass.web.stream import settings_messages

SNAPSHOT = {"stats": {"hops": 1}, "controls": {}, "title": "in → out", "messages": ["00:00 begun"]}


def snapshot(rig: Rig, **changes: Any) -> None:
    """Let the newest engine report."""
    controls = rig.server.stream.state()["controls"]
    rig.engines[-1].listener.snapshot({**SNAPSHOT, "controls": controls, **changes})


# --- who gets in


def test_the_page_and_nothing_else_is_served_under_the_token():
    async def test(rig: Rig) -> None:
        for name in FILES:
            async with rig.session.get(rig.address + name) as response:
                assert (response.status, await response.read()) == (200, path(name).read_bytes())
                for header, value in access.HEADERS.items():
                    assert response.headers[header] == value
        async with rig.session.get(rig.address) as response:
            assert response.content_type == "text/html"
            assert await response.read() == path("index.html").read_bytes()
        async with rig.session.get(f"{rig.address}backend.js") as response:
            assert response.content_type == "text/javascript"
            assert await response.text() == backend_module("server")
        async with rig.session.get(rig.address.rstrip("/")) as response:
            assert str(response.url) == rig.address  # with the slash that relative names need
        assert (await rig.get("api/about"))[0] == 200

    in_server(test)


@pytest.mark.parametrize(
    "name",
    [
        "__init__.py", "..%2f..%2ferrors.py", "..%2F__init__.py", "%2e%2e/errors.py",
        "/etc/passwd", "%2fetc%2fpasswd", "style.css%00.py", "..\\errors.py", "index.html/",
        "a" * 3000, "api", "api/", "ws/",
    ],
)  # fmt: skip
def test_no_other_file_is_served(name: str) -> None:
    async def test(rig: Rig) -> None:
        host, port = rig.origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        token = rig.address.split("/")[3]
        writer.write(f"GET /{token}/{name} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        line = (await reader.readline()).decode()
        assert line.split()[1] in ("404", "400"), line
        writer.close()
        await writer.wait_closed()

    in_server(test)


@pytest.mark.parametrize("name", ["", "api/about", "ws", "style.css", "api/files"])
def test_without_the_right_token_everything_is_refused(name: str) -> None:
    async def test(rig: Rig) -> None:
        token = rig.address.split("/")[3]
        wrong = (token[:-1], token[:-1] + ("a" if token[-1] != "a" else "b"), token.swapcase(), "é")
        for start in ("", *(f"{each}/" for each in wrong)):
            async with rig.session.get(f"{rig.origin}/{start}{name}") as response:
                text = await response.text()
                assert response.status == 403
                assert text.startswith("the token in the address is missing or wrong")
                assert text.count("\n") == 1

    in_server(test)


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.x:{port}"]
)
def test_another_host_name_is_refused(host: str) -> None:
    """As of a foreign name that has been made to mean 127.0.0.1."""

    async def test(rig: Rig) -> None:
        port = rig.origin.rpartition(":")[2]
        headers = {"Host": host.format(port=port)}
        status, text = await rig.get("", headers=headers)
        assert (status, text) == (403, f"this server is reached as 127.0.0.1:{port} only\n")
        assert (await rig.get("api/about", headers={"Host": f"localhost:{port}"}))[0] == 200

    in_server(test)


@pytest.mark.parametrize(
    "origin", ["http://example.com", "null", "http://localhost:{port}", "https://127.0.0.1:{port}"]
)
def test_a_foreign_origin_is_refused(origin: str) -> None:
    async def test(rig: Rig) -> None:
        headers = {"Origin": origin.format(port=rig.origin.rpartition(":")[2])}
        for method, name in (("GET", ""), ("POST", "api/files?name=a.wav"), ("DELETE", "api/x")):
            async with rig.session.request(method, rig.address + name, headers=headers) as response:
                assert response.status == 403
                assert await response.text() == "another site's page has no access\n"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await rig.session.ws_connect(f"{rig.address}ws", origin=headers["Origin"])

    in_server(test)


def test_what_changes_something_needs_an_origin() -> None:
    async def test(rig: Rig) -> None:
        for method, name in (("POST", "api/files?name=a.wav"), ("DELETE", "api/files/1")):
            async with rig.session.request(method, rig.address + name) as response:
                assert response.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await rig.session.ws_connect(f"{rig.address}ws")

    in_server(test)


def test_only_this_computer_can_connect() -> None:
    async def test(rig: Rig) -> None:
        port = int(rig.origin.rpartition(":")[2])
        assert rig.server._listening.getsockname() == ("127.0.0.1", port)

    in_server(test)


@pytest.mark.parametrize(
    "request_text",
    [
        "OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n", "CONNECT {host} HTTP/1.1\r\n\r\n",
        "GET http://example.com/ HTTP/1.1\r\nHost: {host}\r\n\r\n", "GET  HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n", "GET /%ff%00/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
        "GET / HTTP/9\r\n\r\n", "\x00\x01\x02\r\n\r\n", "GET /{long} HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
def test_a_request_that_is_none_gets_nothing_and_leaves_no_trace(
    request_text: str, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    async def test(rig: Rig) -> None:
        host = rig.origin.removeprefix("http://")
        reader, writer = await asyncio.open_connection(*host.split(":"))
        text = request_text.replace("{host}", host).replace("{long}", 20_000 * "a")
        writer.write(text.encode("latin-1"))
        line = (await asyncio.wait_for(reader.readline(), TIMEOUT_S)).decode()
        assert line.split()[1] in ("400", "403"), line
        writer.close()
        await writer.wait_closed()
        assert (await rig.get("api/about"))[0] == 200

    in_server(test)
    assert caplog.records == []
    assert capfd.readouterr().err == ""


# --- messages

BAD = [
    "", "hello", "{", "[]", "1", "null", '"stop"', "{}", '{"do": 1}', '{"do": "quit"}',
    '{"do": "gain"}',
    '{"do": "gain", "stem": "music"}',
    '{"do": "gain", "stem": "drums", "db": 0}',
    '{"do": "gain", "stem": 1, "db": 0}',
    '{"do": "gain", "stem": "music", "db": "0"}',
    '{"do": "gain", "stem": "music", "db": true}',
    '{"do": "gain", "stem": "music", "db": NaN}',
    '{"do": "gain", "stem": "music", "db": Infinity}',
    '{"do": "gain", "stem": "music", "db": 1e400}',
    '{"do": "gain", "stem": "music", "db": 20.01}',
    '{"do": "gain", "stem": "music", "db": -60.01}',
    '{"do": "gain", "stem": "music", "db": 1' + 400 * "0" + "}",
    '{"do": "gain", "stem": "music", "db": 0, "more": 1}',
    '{"do": "gain", "stem": ["music"], "db": 0}',
    '{"do": "mute", "stem": "music", "on": 1}',
    '{"do": "mute", "stem": "music", "on": null}',
    '{"do": "solo", "stem": "__proto__", "on": true}',
    '{"do": "strength", "db": -1}',
    '{"do": "strength", "db": 61}',
    '{"do": "bypass", "on": "yes"}',
    '{"do": "record"}',
    '{"do": "reset", "on": true}',
    '{"do": "start", "input": 3, "output": null}',
    '{"do": "start", "input": "--sink", "output": null}',
    '{"do": "start", "input": "3", "output": "-1"}',
    '{"do": "start", "input": "٣", "output": null}',
    '{"do": "start", "input": "' + 10 * "1" + '", "output": null}',
    '{"do": "start"}',
    '{"do": ["stop"]}',
    '{"do": "stop", "now": true}',
    "[" * 4000,
    '{"do": "stop"} {"do": "stop"}',
]  # fmt: skip


def test_bad_messages_change_nothing_and_the_connection_stays() -> None:
    async def test(rig: Rig) -> None:
        before = rig.server.stream.state()
        async with rig.page() as page:
            assert (await page.receive()) == {"kind": "state", **json.loads(json.dumps(before))}
            for text in BAD:
                await page.socket.send_str(text)
                frame = await page.receive()
                assert isinstance(frame, dict)
                assert frame.keys() == {"kind", "text"}
                assert frame["kind"] == "problem"
                assert 0 < len(frame["text"]) < 200
                assert "\n" not in frame["text"]
            await page.socket.send_bytes(b'{"do": "stop"}')
            assert "not binary" in await page.problem()
            assert rig.server.stream.state() == before
            assert rig.engines == []
            await page.send("gain", stem="music", db=-12)
            state = await page.until(lambda frame: frame["kind"] == "state")
            assert state["controls"]["gains_db"] == {"speech": 0, "music": -12, "noise": 0}

    in_server(test)


def test_a_frame_that_is_too_long_closes_the_connection_and_no_other() -> None:
    async def test(rig: Rig) -> None:
        async with rig.page() as other, rig.page() as page:
            await other.receive()
            await page.receive()
            await page.socket.send_str(json.dumps({"do": "stop", "x": 5000 * "y"}))
            closing = await page.socket.receive()
            assert closing.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert page.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            await other.send("bypass", on=True)
            state = await other.until(lambda frame: frame["kind"] == "state")
            assert state["controls"]["is_bypassed"]

    in_server(test)


@pytest.mark.parametrize(
    "message",
    [
        Message("gain", stem="music", db=-12.5), Message("gain", stem="noise"),
        Message("mute", stem="speech", on=True), Message("solo", stem="noise", on=True),
        Message("strength", db=12.0), Message("strength"), Message("bypass", on=True),
        Message("record", on=True), Message("reset"), Message("start", input="3"), Message("stop"),
    ],
)  # fmt: skip
def test_a_message_survives_its_text(message: Message) -> None:
    assert parse_message(message.to_json(), STEMS) == message


def test_a_message_that_is_too_long_is_refused_by_the_engine_too() -> None:
    with pytest.raises(MessageError, match="at most 4096 characters"):
        parse_message('{"do": "stop"}' + 5000 * " ", STEMS)


def test_messages_do_the_same_to_a_running_mixer_as_to_settings_kept() -> None:
    rng = np.random.default_rng(0)
    mixer = Mixer(STEMS, 16000)
    controls = PageControls(mixer)
    kept = initial_state(STEMS, {})
    assert kept == replace(controls.state(), can_record=True)
    for _ in range(300):
        do = str(rng.choice(["gain", "mute", "solo", "strength", "bypass", "reset"]))
        stem = str(rng.choice(STEMS)) if do in ("gain", "mute", "solo") else ""
        db = None if rng.random() < 0.3 else float(rng.integers(0, 20))
        message = Message(
            do, stem=stem, db=db if do in ("gain", "strength") else None,
            on=bool(rng.random() < 0.6) and do in ("mute", "solo", "bypass"),
        )  # fmt: skip
        message = parse_message(message.to_json(), STEMS)
        controls.apply(message)
        kept = changed(kept, message)
        state = controls.state()
        assert (state.gains_db, state.muted, state.soloed) == (
            kept.gains_db, kept.muted, kept.soloed,
        )  # fmt: skip
        assert (state.strength_db, state.is_bypassed) == (kept.strength_db, kept.is_bypassed)
        restored = PageControls(Mixer(STEMS, 16000))
        if kept.strength_db is None:  # which is an option of the command line, as gains are
            for each in settings_messages(kept):
                restored.apply(parse_message(each.to_json(), STEMS))
            assert restored.state() == state


def test_the_loudest_gain_of_a_message_is_the_mixers() -> None:
    assert HIGHEST_GAIN_DB == MAX_GAIN_DB


# --- the stream and its pages


def test_what_is_set_before_the_start_goes_to_the_engine() -> None:
    async def test(rig: Rig) -> None:
        async with rig.page() as page:
            await page.send("gain", stem="noise", db=None)
            await page.send("mute", stem="music", on=True)
            await page.send("strength", db=30)
            await page.send("start", input="3", output=None)
            state = await page.until(lambda frame: frame.get("running", False))
            assert (state["input"], state["output"], state["stats"]) == ("3", None, None)
            (engine,) = rig.engines
            assert engine.devices == ("3", None)
            assert engine.controls.gains_db["noise"] is None
            assert (engine.controls.muted, engine.controls.strength_db) == (("music",), 30)
            snapshot(rig)
            state = await page.until(lambda frame: frame.get("stats"))
            assert (state["title"], state["messages"]) == ("in → out", ["00:00 begun"])
            await page.send("solo", stem="speech", on=True)
            await page.send("start", input=None, output=None)
            assert await page.problem() == "it runs already: stop it first"
            assert engine.messages == [Message("solo", stem="speech", on=True)]
            await page.send("stop")
            state = await page.until(lambda frame: frame["running"] is False)
            assert (state["stats"], state["problem"]) == (None, "")
            assert len(rig.engines) == 1
            await page.send("record", on=True)
            assert "nothing runs" in await page.problem()

    in_server(test)


def test_a_start_that_fails_is_shown_and_can_be_repeated() -> None:
    failures = [DeviceError("the engine can't be started: no memory")]

    async def test(rig: Rig) -> None:
        def start(*arguments: Any) -> FakeEngine:
            if failures:
                raise failures.pop()
            return rig._start(*arguments)

        rig.server.stream._start = start
        async with rig.page() as page:
            await page.send("start", input=None, output=None)
            state = await page.until(lambda frame: frame.get("problem", "") != "")
            assert state["problem"] == "the engine can't be started: no memory"
            assert not state["running"]
            await page.send("start", input=None, output=None)
            state = await page.until(lambda frame: frame.get("running", False))
            assert state["problem"] == ""
            rig.engines[-1].listener.ended("the device is gone")
            state = await page.until(lambda frame: frame.get("problem", "") != "")
            assert (state["running"], state["problem"]) == (False, "the device is gone")

    in_server(test)


def test_an_engine_that_was_recording_when_stopped_leaves_a_line_about_it() -> None:
    async def test(rig: Rig) -> None:
        async with rig.page() as page:
            await page.send("start", input=None, output=None)
            await page.until(lambda frame: frame.get("running", False))
            recording = {"is_running": True, "folder": "takes/take-1", "seconds": 61.2}
            snapshot(rig, stats={"seconds": 75.0, "recording": recording})
            await page.send("stop")
            state = await page.until(lambda frame: frame.get("running") is False)
            assert state["messages"][-1] == "01:15 recorded 01:01 in takes/take-1"

    in_server(test)


def test_a_stream_of_a_terminal_is_not_started_or_stopped_by_pages() -> None:
    async def test(rig: Rig) -> None:
        async with rig.page() as page:
            for do, keys in (("start", {"input": None, "output": None}), ("stop", {})):
                await page.send(do, **keys)
                assert "belong to the terminal" in await page.problem()
        assert json.loads((await rig.get("api/about"))[1])["canChoose"] is False
        devices = json.loads((await rig.get("api/devices"))[1])
        assert devices == {"inputs": [], "outputs": [], "problem": ""}

    in_server(test, start=None)


def test_two_pages_show_the_same_and_pictures_arrive_whole() -> None:
    columns = np.random.default_rng(0).integers(0, 256, (5, 4, 64), np.uint8)

    async def test(rig: Rig) -> None:
        async with rig.page() as one, rig.page() as two:
            await one.send("start", input=None, output=None)
            for page in (one, two):
                await page.until(lambda frame: frame.get("running", False))
            rig.engines[-1].listener.columns(columns)
            for page in (one, two):
                frame = await page.receive()
                np.testing.assert_array_equal(frame, columns)
            await two.send("mute", stem="noise", on=True)
            assert (await one.until(lambda f: f["kind"] == "state"))["controls"]["muted"] == [
                "noise"
            ]

    in_server(test)


def test_a_page_that_does_not_read_delays_nobody_and_takes_no_memory() -> None:
    columns = np.zeros((3, 4, 64), np.uint8)
    n_rounds = 3000

    async def test(rig: Rig) -> None:
        raw = await _stalled_page(rig)
        async with rig.page() as page:
            await page.send("start", input=None, output=None)
            await page.until(lambda frame: frame.get("running", False))
            viewers = list(rig.server.viewers._viewers)
            assert len(viewers) == 2
            for number in range(n_rounds):  # 2.5 MB of pictures, 4 MB of states
                rig.engines[-1].listener.columns(columns)
                snapshot(rig, stats={"hops": number, "more": 1000 * "x"})
                await page.until(
                    lambda frame, n=number: (frame.get("stats") or {}).get("hops") == n
                )
            assert page.columns >= 3 * (n_rounds - 1)  # a state goes before its pictures
            stalled = [viewer for viewer in viewers if viewer._columns]
            assert len(stalled) == 1
            assert stalled[0]._n_columns <= 256
            assert stalled[0]._state is not None
            transport = stalled[0].socket._req.transport  # type: ignore[union-attr]
            assert transport is not None
            assert transport.get_write_buffer_size() < 300_000
        raw.close()

    in_server(test)


async def _stalled_page(rig: Rig) -> socket.socket:
    """Connect a page that reads the answer to its handshake and then no more."""
    port = int(rig.origin.rpartition(":")[2])
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", port))
    request = (
        f"GET /{rig.address.split('/')[3]}/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Origin: {rig.origin}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await loop.sock_sendall(raw, request.encode())
    assert (await loop.sock_recv(raw, 12)).endswith(b"101")
    return raw


def test_memory_stays_flat() -> None:
    """Over a quarter of an hour of pictures and states, on two pages that come and go."""
    columns = np.zeros((30, 4, 64), np.uint8)

    async def test(rig: Rig) -> None:
        async with rig.page() as page:
            await page.send("start", input=None, output=None)
            await page.until(lambda frame: frame.get("running", False))
            sizes = []
            for number in range(2000):
                rig.engines[-1].listener.columns(columns)
                snapshot(rig, stats={"hops": number})
                await page.until(lambda f, n=number: (f.get("stats") or {}).get("hops") == n)
                if number % 100 == 0:
                    async with rig.page() as other:
                        await other.receive()
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
            assert page.columns >= 30 * 1999
            assert max(sizes[10:]) - min(sizes[10:]) < 100_000, sizes

    tracemalloc.start()
    try:
        in_server(test)
    finally:
        tracemalloc.stop()


# --- devices


def device(index: int, name: str, *, inputs: int = 0, outputs: int = 0, **more: Any) -> Device:
    marks = {"is_default_input": False, "is_default_output": False, **more}
    return Device(index, name, "ALSA", inputs, outputs, 48000, (1.0, 2.0), (1.0, 2.0), **marks)


def test_devices_are_listed_by_number_and_the_default_is_marked() -> None:
    devices = [
        device(0, "Scarlett", inputs=2, outputs=2),
        device(1, "Webcam", inputs=1, is_default_input=True),
    ]
    assert describe(devices, "input", None) == (
        [
            {"id": "0", "name": "Scarlett, ALSA", "isDefault": False},
            {"id": "1", "name": "Webcam, ALSA", "isDefault": True},
        ],
        "",
    )
    shown, problem = describe(devices, "input", "scarlett")
    assert ([each["isDefault"] for each in shown], problem) == ([True, False], "")
    shown, problem = describe(devices, "output", "webcam")
    assert [each["isDefault"] for each in shown] == [False]
    assert problem.startswith("'webcam' matches no output device; there are: [0] Scarlett")
    shown, problem = describe([], "input", None)
    assert (shown, problem) == ([], (
        "this system has no input device; plug one in, or see what is missing with rtmtass doctor"
    ))  # fmt: skip


def test_a_sound_system_that_fails_is_a_line_on_the_page(monkeypatch: Any) -> None:
    async def fail() -> list[Device]:
        raise DeviceError("the sound system is gone")

    async def test(rig: Rig) -> None:
        expected = {"inputs": [], "outputs": [], "problem": "the sound system is gone"}
        assert json.loads((await rig.get("api/devices"))[1]) == expected

    monkeypatch.setattr("rtmtass.web.server.read_devices", fail)
    in_server(test)


def test_devices_are_read_by_a_process_of_their_own() -> None:
    async def test(rig: Rig) -> None:
        values = json.loads((await rig.get("api/devices"))[1])
        assert values.keys() == {"inputs", "outputs", "problem"}
        # Without PortAudio, or any device, there is a line about it.
        assert values["inputs"] or "input device" in values["problem"] or "PortAudio" in str(values)

    in_server(test)


# --- the command line


def test_a_port_that_is_taken_is_refused_if_asked_for_and_replaced_if_not(
    capsys: Any, monkeypatch: Any
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["web", "--no-browser", "--port", port]) == 2
        line = f"rtmtass: port {port} can't be used: Address already in use; give another with"
        assert capsys.readouterr().err.startswith(line)
        monkeypatch.setattr("rtmtass.web.server.DEFAULT_PORT", int(port))
        with listen(None) as another:
            assert another.getsockname()[0] == "127.0.0.1"
            assert another.getsockname()[1] != int(port)


@pytest.mark.parametrize(("words", "code", "line"), [
    (["--port", "0"], 2, "rtmtass: argument --port: '0' is not a port, 1 to 65535"),
    (["--port", "99999"], 2, "rtmtass: argument --port: '99999' is not a port, 1 to 65535"),
    (["--port", 5000 * "1"], 2, "rtmtass: argument --port: '111"),
    (["--max-upload", "0"], 2, "rtmtass: argument --max-upload: '0' is not a whole number"),
    (["--gain", "drums=1"], 2, "rtmtass: unknown stem 'drums'; choose from speech, music, noise"),
    (["--gains", "night"], 2, "rtmtass: no gains are saved as 'night'; known are voice"),
    (["--model", "huge"], 1, "rtmtass: unknown model 'huge'; released models: "),
    (["--input", "3", "--source", "udp:9000"], 2, "rtmtass: --input is for devices, but --source"),
    (["--record", "/proc/takes"], 1, "rtmtass: /proc/takes can't be written"),
])  # fmt: skip
def test_the_users_errors_are_one_line(words: list[str], code: int, line: str, capsys: Any) -> None:
    try:
        found = main(["web", "--no-browser", *words])
    except SystemExit as end:  # of argparse
        found = int(end.code or 0)
    assert found == code
    captured = capsys.readouterr()
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1


def test_options_of_the_page_need_the_page(capsys: Any) -> None:
    for words in (["--port", "8600"], ["--no-browser"]):
        assert main(["live", *words, "--source", "udp:9000"]) == 2
        assert "is for the page, and there is none; add --web" in capsys.readouterr().err


def test_without_aiohttp_one_line_says_what_to_install() -> None:
    code = (
        "import sys, importlib.abc\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        return None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'aiohttp' else find(name, *rest)\n"
        "from rtmtass.cli.main import main\n"
        "print(main(['web']), main(['live', '--web', '--source', 'udp:9000']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 1\n"
    assert done.stderr == 2 * "rtmtass: the page needs aiohttp: pip install 'rtmtass[web]'\n"


def test_the_servers_process_starts_without_the_engines_packages() -> None:
    code = "import sys, rtmtass.web.server; print({'numba', 'torch'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.stdout == "set()\n"


def test_an_address_holds_a_token_of_its_own() -> None:
    tokens = {access.draw_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"[\w-]{32}", token) for token in tokens)
