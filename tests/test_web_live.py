"""Page and engine: pictures, the tap, and two processes, of which either may die."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import jack_rig
import numpy as np
import pytest
import soundfile
from web_rig import (
    ENVIRONMENT,
    TIMEOUT_S,
    Command,
    PageSocket,
    children_of,
    connected,
    is_running,
    wait_for,
    web,
)

import rtmtass
from rtmtass.config import STEMS
from rtmtass.io.arrays import ArraySink, ArraySource
from rtmtass.live import page as live_page
from rtmtass.live.engine import Engine
from rtmtass.live.messages import Message
from rtmtass.live.mixer import Mixer
from rtmtass.live.page import PageLink
from rtmtass.live.page_controls import PageControls
from rtmtass.live.snapshot import STEMS_MARK
from rtmtass.live.stats import Stats
from rtmtass.live.tap import StemTap
from rtmtass.types import Floats
from rtmtass.web.bands import BANDS, HIGH_HZ, LOW_HZ
from rtmtass.web.pictures import Pictures

RATE, HOP = 16000, 256
SINK = ("--sink", "udp:127.0.0.1:9")  # port 9 discards: nothing has to listen there
SOURCE = ("--source", "file:talk.wav", *SINK)
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
MISSING = jack_rig.missing_parts()
IS_CI = os.environ.get("CI") == "true"


# --- pictures


def band_of(hz: float) -> int:
    low, high, mel = (2595 * np.log10(1 + f / 700) for f in (LOW_HZ, HIGH_HZ, hz))
    return int((mel - low) / (high - low) * BANDS)


def level_db(value: int) -> float:
    return float(value) / 255 * 100 - 100


@pytest.mark.parametrize("amplitude", [1.0, 0.1, 0.001])
@pytest.mark.parametrize("hz", [1000.0, 4000.0, 187.5])
def test_a_tone_lands_in_its_band_at_its_level(hz: float, amplitude: float) -> None:
    tone = amplitude * np.sin(2 * np.pi * hz * np.arange(4 * HOP) / RATE)
    stems = np.stack([0 * tone, tone, 0 * tone], axis=1).astype(np.float32)
    columns = Pictures(3, 1, RATE, HOP).add(stems)
    assert columns.shape == (4, 4, BANDS)
    expected_db = 20 * np.log10(amplitude) - 3.01
    for track in (0, 2):  # the mixture, and music
        column = columns[-1, track]
        assert abs(int(np.argmax(column)) - band_of(hz)) <= 1
        powers = 10 ** (np.array([level_db(value) for value in column]) / 10)
        near = powers[max(0, band_of(hz) - 2) : band_of(hz) + 3].sum()
        assert 10 * np.log10(near) == pytest.approx(expected_db, abs=0.3)
        far = [level_db(int(column[b])) for b in range(BANDS) if abs(b - band_of(hz)) > 6]
        assert max(far) < max(-99.0, expected_db - 60)
    assert not columns[:, (1, 3)].any()


@pytest.mark.parametrize("channels", [1, 2])
def test_pictures_are_those_of_a_direct_computation_at_any_block_size(channels: int) -> None:
    rng = np.random.default_rng(0)
    stems = (0.1 * rng.standard_normal((9 * HOP, 3, channels))).astype(np.float32)
    pictures, found = Pictures(3, channels, RATE, HOP), []
    flat, start = stems.reshape(len(stems), -1), 0
    for n in (0, 1, 255, 256, 257, 700, 10_000):
        found.append(pictures.add(flat[start : start + n]))
        start += n
    columns = np.concatenate(found)
    assert len(columns) == 9
    padded = np.concatenate((np.zeros((HOP, 3, channels)), stems))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    low, high = np.log10(1 + 60 / 700), np.log10(1 + 8000 / 700)
    edges = 700 * (10 ** np.linspace(low, high, 65) - 1)
    for k in (0, 4, 8):
        frame = padded[k * HOP : k * HOP + 512]
        for track, x in enumerate((frame.sum(axis=1), *frame.transpose(1, 0, 2))):
            spectrum = np.abs(np.fft.fft(x * window[:, None], axis=0)) ** 2
            power = spectrum[:257].copy()
            power[1:256] += spectrum[257:][::-1]
            density = power.mean(axis=1) / (512 * np.sum(window**2)) / 31.25
            for band in (0, 20, 63):
                grid = np.linspace(edges[band], edges[band + 1], 20_001)
                step = (edges[band + 1] - edges[band]) / 20_000
                total = density[np.round(grid[:-1] / 31.25).astype(int)].sum() * step
                value = 255 * (10 * np.log10(total) + 100) / 100
                assert abs(int(columns[k, track, band]) - value) < 0.6


def test_silence_is_zero_and_nothing_is_louder_than_255() -> None:
    columns = Pictures(3, 1, RATE, HOP).add(np.zeros((2 * HOP, 3), np.float32))
    assert not columns.any()
    loud = np.full((2 * HOP, 3), 1e9, np.float32) * np.where(np.arange(2 * HOP) % 2, 1, -1)[:, None]
    assert Pictures(3, 1, RATE, HOP).add(loud.astype(np.float32)).max() == 255


# --- the tap


def test_the_tap_gets_the_stems_in_order_and_drops_what_is_not_read() -> None:
    tap = StemTap(3, 2, HOP, RATE)
    rng = np.random.default_rng(0)
    hops = rng.standard_normal((100, 3, HOP, 2)).astype(np.float32)
    for number in range(5):
        tap.add_stems(hops[number])
    read = tap.read()
    expected = hops[:5].transpose(0, 2, 1, 3).reshape(5 * HOP, 6)
    np.testing.assert_array_equal(read, expected)
    assert len(tap.read()) == 0
    for number in range(100):  # more than it holds
        tap.add_stems(hops[number])
    kept = tap.read().copy()
    assert 0.9 * RATE < len(kept) <= RATE
    np.testing.assert_array_equal(kept[-HOP:, 0], hops[len(kept) // HOP - 1, 0, :, 0])


def test_the_tap_allocates_nothing_while_the_sound_runs() -> None:
    tap = StemTap(3, 1, HOP, RATE)
    stems = np.ones((3, HOP, 1), np.float32)
    for _ in range(200):  # until the ring is full
        tap.add_stems(stems)
    tap.read()
    tracemalloc.start()
    try:
        for _ in range(50):
            tap.add_stems(stems)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1000
    assert peak < 3000  # views; a hop alone has 3072 bytes


def test_the_tap_of_an_engine_gets_what_the_separator_returns() -> None:
    x = (0.1 * np.random.default_rng(0).standard_normal(40 * HOP)).astype(np.float32)
    separator = rtmtass.load(block=HOP)
    expected = separator.fork(block=HOP)
    tap = StemTap(3, 1, HOP, RATE)
    with Engine(separator, ArraySource(x, RATE), ArraySink(), tap=tap) as engine:
        assert engine.wait(TIMEOUT_S)
    read = tap.read()
    assert len(read) >= len(x)
    np.testing.assert_allclose(read[: len(x)].T, expected.process(x), atol=1e-6)


# --- the engine's end of the connection


def page_link() -> tuple[PageLink, Connection, StemTap, PageControls]:
    ours, theirs = Pipe()
    tap = StemTap(3, 1, HOP, RATE)
    link = PageLink(ours, "in → out", STEMS, tap, is_needed=True, is_realtime=False)
    return link, theirs, tap, PageControls(Mixer(STEMS, RATE))


def test_a_server_that_does_not_read_holds_up_neither_stream_nor_end() -> None:
    link, theirs, tap, controls = page_link()
    longest_s = 0.0
    for _ in range(3000):  # 9 MB of stems, 3 MB of snapshots
        tap.add_stems(np.ones((3, HOP, 1), np.float32))
        started = time.perf_counter()
        link.update(Stats(), controls, ["00:00 begun"])
        longest_s = max(longest_s, time.perf_counter() - started)
    theirs.send_bytes(Message("gain", stem="music", db=-6.0).to_json().encode())
    link.update(Stats(), controls, [])
    assert controls.state().gains_db["music"] == -6
    assert longest_s < 1.0
    started = time.perf_counter()
    link.close()
    assert time.perf_counter() - started < 1.0
    theirs.close()


def test_messages_that_no_page_may_send_change_nothing_in_the_engine() -> None:
    link, theirs, _, controls = page_link()
    before = controls.state()
    for text in (b"", b"\xff", b"{}", b'{"do": "gain", "stem": "music", "db": 99}', b"[" * 4000):
        theirs.send_bytes(text)
    theirs.send_bytes(Message("bypass", on=True).to_json().encode())

    def is_applied() -> bool:
        link.update(Stats(), controls, [])
        return controls.state().is_bypassed

    wait_for(is_applied)
    assert controls.state().gains_db == before.gains_db
    assert link.is_alive
    link.close()
    theirs.close()


def test_a_server_that_ends_is_noticed() -> None:
    link, theirs, _, controls = page_link()
    theirs.close()

    def is_noticed() -> bool:
        link.update(Stats(), controls, [])
        return not link.is_alive

    wait_for(is_noticed)
    link.close()


def test_a_blocked_sender_keeps_its_connection_until_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A number of a closed file may be another's by the time that the rest is written."""
    monkeypatch.setattr(live_page, "_JOIN_S", 0.01)
    ours, theirs = Pipe()
    tap, controls = StemTap(3, 1, HOP, RATE), PageControls(Mixer(STEMS, RATE))
    link = PageLink(ours, "in → out", STEMS, tap, is_needed=True, is_realtime=False)
    for _ in range(1000):  # megabytes: more than the system keeps for one that doesn't read
        tap.add_stems(np.ones((3, HOP, 1), np.float32))
        link.update(Stats(), controls, [])
        time.sleep(0.0005)
    link.close()
    sender = next(t for t in threading.enumerate() if t.name == "rtmtass-page")
    assert sender.is_alive()
    assert not ours.closed
    with suppress(EOFError):
        while theirs.recv_bytes():
            pass
    sender.join(10)
    assert ours.closed
    theirs.close()


def test_the_first_frames_are_snapshots_and_marked_stems() -> None:
    link, theirs, tap, controls = page_link()
    tap.add_stems(np.ones((3, HOP, 1), np.float32))
    link.update(Stats(), controls, [])
    frames = [theirs.recv_bytes(), theirs.recv_bytes()]
    assert frames[0] == STEMS_MARK + np.ones((HOP, 3), np.float32).tobytes()
    assert frames[1].startswith(b'{"stats": {"state": "new"')
    link.close()
    theirs.close()


# --- processes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sound file, as the current one."""
    x = 0.05 * np.random.default_rng(0).standard_normal(300 * RATE)
    soundfile.write(tmp_path / "talk.wav", x.astype(np.float32), RATE, "FLOAT")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def on_page(address: str, test: Callable[[PageSocket], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a page of a running command."""

    async def run() -> None:
        async with (
            aiohttp.ClientSession() as session,
            connected(session, address) as page,
        ):
            await asyncio.wait_for(test(page), 2 * TIMEOUT_S)

    asyncio.run(run())


def engine_of(command: Command) -> int:
    """Return the number of the engine's process."""
    (pid,) = (
        pid for pid, words in children_of(command.process.pid).items() if "live" in words
    )  # fmt: skip
    return pid


def take_lengths(folder: Path) -> set[int]:
    """Return the lengths of the files of all takes."""
    return {soundfile.info(path).frames for path in folder.glob("takes/*/*.wav")}


@on_linux
def test_a_reload_keeps_the_engine_and_a_killed_server_ends_it_cleanly(folder: Path) -> None:
    with web(*SOURCE, "--record", "takes", "--gain", "noise=-20") as command:
        seen: dict[str, Any] = {}

        async def begin(page: PageSocket) -> None:
            state = await page.start()
            assert state["controls"]["gains_db"] == {"speech": 0, "music": 0, "noise": -20}
            assert state["title"] == "file:talk.wav → udp:127.0.0.1:9"
            await page.until(lambda frame: page.columns > 20)
            seen["hops"] = page.newest["stats"]["hops"]

        async def reload(page: PageSocket) -> None:
            frame = await page.receive()  # the state at connection
            assert isinstance(frame, dict)
            assert frame["running"]
            assert frame["stats"]["hops"] >= seen["hops"]
            await page.send("gain", stem="speech", db=-60)
            await page.until(
                lambda f: f.get("controls", {}).get("gains_db", {}).get("speech") == -60
            )
            await page.until(lambda f: f["stats"]["recording"]["seconds"] > 1)

        on_page(command.address, begin)
        pid = engine_of(command)
        on_page(command.address, reload)
        assert engine_of(command) == pid
        command.process.kill()
        wait_for(lambda: not is_running(pid))
        (length,) = take_lengths(folder)
        assert length > RATE
        assert len(list(folder.glob("takes/*/*.wav"))) == 4


@on_linux
def test_an_engine_that_dies_is_reported_and_started_again_and_ctrl_c_ends_both(
    folder: Path,
) -> None:
    with web(*SOURCE, "--record", "takes") as command:

        async def test(page: PageSocket) -> None:
            await page.start()
            os.kill(engine_of(command), signal.SIGKILL)
            state = await page.until(lambda frame: frame.get("running") is False)
            assert state["problem"] == "the engine was ended by SIGKILL; start it again"
            await page.send("mute", stem="noise", on=True)
            state = await page.start()
            assert (state["problem"], state["controls"]["muted"]) == ("", ["noise"])
            await page.until(lambda f: f["stats"]["recording"]["seconds"] > 0.5)

        on_page(command.address, test)
        pid = engine_of(command)
        assert command.finish(signal.SIGINT) == ""
        assert command.process.returncode == 0
        assert not is_running(pid)
        assert len(list(folder.glob("takes/*"))) == 2
        for take in folder.glob("takes/*"):
            assert len({soundfile.info(path).frames for path in take.iterdir()}) == 1


def test_a_start_that_fails_shows_the_engines_line(folder: Path) -> None:
    with web("--input", "no such device", *SINK) as command:

        async def test(page: PageSocket) -> None:
            for _ in range(2):
                await page.send("start", input=None, output=None)
                await page.until(lambda frame: frame.get("running", False))
                state = await page.until(lambda frame: frame.get("running") is False)
                assert re.search(
                    r"^'no such device' matches no input device|no input device|PortAudio",
                    state["problem"],
                )
                assert "\n" not in state["problem"]
                assert not state["problem"].startswith("rtmtass:")

        on_page(command.address, test)


@on_linux
def test_a_page_beside_a_running_mixer(folder: Path) -> None:
    """`live --web`: the page shows and sets; when its server is killed, the sound goes on."""
    words = ("live", "--web", "--no-browser", "--plain", *SOURCE, "--gain", "noise=-10")
    process = subprocess.Popen(
        [sys.executable, "-m", "rtmtass", *words], text=True, encoding="utf-8",
        env={**ENVIRONMENT, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    try:
        lines: list[str] = []

        def read_until(pattern: str) -> re.Match[str]:
            assert process.stdout
            while not (match := re.search(pattern, lines[-1] if lines else "")):
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                lines.append(line)
            return match

        address = read_until(r"page: (http://127\.0\.0\.1:\d+/[\w-]+/)")[1]

        async def test(page: PageSocket) -> None:
            state = await page.until(lambda frame: bool(frame.get("stats")))
            assert (state["running"], state["title"]) == (True, "file:talk.wav → udp:127.0.0.1:9")
            assert state["controls"]["gains_db"]["noise"] == -10
            await page.send("stop")
            assert "belong to the terminal" in await page.problem()
            await page.send("gain", stem="noise", db=-40)
            state = await page.until(
                lambda frame: frame.get("controls", {}).get("gains_db", {}).get("noise") == -40
            )
            await page.until(lambda frame: page.columns > 3)

        on_page(address, test)
        read_until(r"noise -2\d>-6\d")
        (server,) = (
            pid for pid, words in children_of(process.pid).items() if "rtmtass.web" in words
        )  # fmt: skip
        os.kill(server, signal.SIGKILL)
        read_until(r"the page has ended; the sound goes on")
        read_until(r"running \d+ s")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, stderr) == (0, "")
        assert "ended after 00:" in stdout
    finally:
        process.kill()
        process.communicate()


@on_linux
def test_a_page_whose_port_is_taken_leaves_the_stream_alone(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = ("live", "--web", "--no-browser", "--port", port, "--json", "--duration", "60")
        process = subprocess.Popen(
            [sys.executable, "-m", "rtmtass", *words, *SOURCE], text=True, env=ENVIRONMENT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout
        try:
            line = ""
            while "the page has ended" not in line:
                line = process.stdout.readline()
                assert line, process.communicate()[1]
            assert f"port {port} can't be used: Address already in use" in line
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=TIMEOUT_S)
            assert (process.returncode, stderr) == (0, "")
        finally:
            process.kill()
            process.communicate()


# --- the sound


@pytest.fixture
def server():
    jackd = jack_rig.JackServer(rate=RATE, period=HOP)
    try:
        yield jackd
    finally:
        jackd.close()


GAINS_DB = {"speech": -6.0, "music": -20.0, "noise": 0.0}
DEVICES = (*jack_rig.INPUT, *jack_rig.OUTPUT, "--record", "takes", "--precision", "f32")
on_a_sound_card = pytest.mark.skipif(bool(MISSING) and not IS_CI, reason=MISSING)


@on_a_sound_card
@jack_rig.on_a_steady_machine
def test_gains_set_by_messages_are_those_of_the_sound(server, folder):
    x = sound(3 * RATE // HOP * HOP)
    played: list[Floats] = []
    with web(*DEVICES) as command:

        async def test(page: PageSocket) -> None:
            await page.start()
            for stem, gain_db in GAINS_DB.items():
                await page.send("gain", stem=stem, db=gain_db)
            await page.send("mute", stem="noise", on=True)
            await page.until(is_set)
            speaker = jack_rig.Loudspeaker(server, x, 3)
            played.append((await asyncio.to_thread(speaker.recorded))[0])

        on_page(command.address, test)
        latency = latency_of(command, server)
        assert command.finish(signal.SIGINT) == ""
    check_mix(played[0], x, folder, latency)


@on_a_sound_card
@jack_rig.on_a_steady_machine
def test_faders_moved_in_the_browser_move_the_sound(server, page, folder):
    x = sound(3 * RATE // HOP * HOP)
    with web(*DEVICES) as command:
        page.set_default_timeout(1000 * TIMEOUT_S)
        page.goto(command.address)
        page.get_by_role("button", name="Start", exact=True).click()
        page.get_by_role("status").filter(has_text="Recording").wait_for()
        page.get_by_role("slider", name="Speech gain").fill("-6")
        page.get_by_role("slider", name="Music gain").fill("-20")
        page.get_by_role("region", name="Noise").get_by_role("button", name="Mute").click()
        state_of(command, is_set)
        speaker = jack_rig.Loudspeaker(server, x, 3)
        speaker.wait_until_playing()
        page.reload()  # which the sound must not notice
        played, _ = speaker.recorded()
        latency = latency_of(command, server)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_text("Stopped").wait_for()
        page.goto("about:blank")  # it would look for the server, and log that there is none
    check_mix(played, x, folder, latency)


def is_set(frame: dict[str, Any]) -> bool:
    """Whether a state has the gains of the tests, and noise muted."""
    controls = frame.get("controls", {})
    return (controls.get("gains_db"), controls.get("muted")) == (GAINS_DB, ["noise"])


def state_of(command: Command, is_met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first state that fits, from a page of its own."""
    states: list[dict[str, Any]] = []

    async def test(page: PageSocket) -> None:
        states.append(await page.until(is_met))

    # In a thread: Playwright has an event loop in this one.
    thread = threading.Thread(target=on_page, args=(command.address, test))
    thread.start()
    thread.join()
    return states[0]


def latency_of(command: Command, server: jack_rig.JackServer) -> int:
    """Return the samples from capture to playback within the engine, as it reports them.

    Hops whose stems were late, so that the input was output, count as a disturbance.
    """
    stats = state_of(command, lambda frame: bool(frame.get("stats")))["stats"]
    server.disturbances += stats["deadline_misses"] + stats["device"]["underruns"]
    parts = stats["device"]["latency"]
    return round((parts["algorithm_ms"] + parts["buffer_ms"]) / 1000 * RATE)


def check_mix(played: Floats, x: Floats, folder: Path, latency: int) -> None:
    """Check what the loudspeaker got against the separator's stems times the gains.

    Args:
        played: (n, 1), from when the microphone began to play.
        x: (n, 1), what it played.
        folder: of the takes; the newest is read.
        latency: that is reported, in samples.
    """
    take = max(folder.glob("takes/*"), key=lambda path: path.stat().st_mtime)
    separator = rtmtass.load(precision="f32")
    mixture = soundfile.read(take / "mixture.wav", dtype="float32")[0]
    captured = mixture[separator.fork(block=HOP).delay :]  # recorded aligned with the stems
    start = int(np.flatnonzero(captured == x[100, 0])[0]) - 100
    n = min(len(x), len(captured) - start)
    assert n > 2 * RATE
    np.testing.assert_array_equal(captured[start : start + n], x[:n, 0])
    stems = separator.separate(captured)
    expected = 10 ** (-6 / 20) * stems[0] + 10 ** (-20 / 20) * stems[1]
    assert np.abs(expected).max() > 0.05
    # From microphone to loudspeaker JACK takes a period, two where PortAudio collects blocks.
    wrong = []
    for loop in (HOP, 2 * HOP):
        part = expected[start - latency - loop :][: len(played)]
        errors = np.abs(played[: len(part), 0] - part)
        wrong.append(np.unique(np.flatnonzero(~(errors < 1e-4)) // HOP))
    assert not min(map(len, wrong)), f"wrong hops: {wrong}"


def sound(n: int) -> np.ndarray:
    """Syllables over a chord and noise, (n, 1)."""
    rng = np.random.default_rng(0)
    t = np.arange(n) / RATE
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    voice = voice * np.clip(np.sin(2 * np.pi * 2.7 * t), 0, None)
    chord = np.sin(2 * np.pi * 523 * t) + np.sin(2 * np.pi * 659 * t)
    mixed = 0.12 * voice + 0.06 * chord + 0.03 * rng.standard_normal(n)
    return mixed.astype(np.float32)[:, None]
