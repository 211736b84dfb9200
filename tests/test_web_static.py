"""The static page in Chromium: what it plays and writes is the engine's, and it stays on its own.

A fake microphone plays a WAV file. A tap that the tests add records what goes into the page's
audio thread and what it plays, sample by sample, so that the reference gets the same input.
"""

from __future__ import annotations

import base64
import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from browser import WEB, chromium, launch, open_page, playwright
from native_builds import MODEL, Builds, needs
from native_library import live, model_bytes, noise, snr_db

from rtmtass import STEMS, load
from rtmtass.live.mixer import Mixer
from rtmtass.types import Floats
from rtmtass.web.bands import band_powers, picture_bytes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Download, Page, Playwright

__all__ = ["chromium", "playwright"]
pytestmark = needs()

RATE = 44100
"""Of Chromium's fake microphone."""
INT8_SNR_DB = 45.0
"""Least of wasm against Python in int8; see tests/test_native_wasm.py."""
RUNNING = ".devices .dot[data-tone=good]"
Open = Callable[..., "Page"]


class Static:
    """A folder behind Python's own static server, without any special header."""

    def __init__(self, folder: Path) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def sites(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of the exported page by precision of its model, with the tests' tap beside it."""
    servers = {}
    for precision in ("int8", "f32"):
        folder = tmp_path_factory.mktemp("site") / precision
        shutil.copytree(builds.page(), folder)
        shutil.copy(WEB / "tap.js", folder)
        (folder / "blank.html").write_text('<!doctype html><link rel="icon" href="data:,">')
        if precision == "f32":
            (folder / f"{MODEL}.rtm").write_bytes(model_bytes("f32"))
        servers[precision] = Static(folder)
    yield {precision: server.url for precision, server in servers.items()}
    for server in servers.values():
        server.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake microphone plays over and over."""
    path = tmp_path_factory.mktemp("sound") / "microphone.wav"
    soundfile.write(path, np.clip(noise(1, 6 * RATE, seed=5)[0], -0.9, 0.9), RATE, "PCM_16")
    return path


@pytest.fixture(scope="module")
def talking(playwright: Playwright, sound: Path) -> Iterator[Browser]:
    """A browser with that microphone."""
    browser = launch(
        playwright,
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound}",
    )
    yield browser
    browser.close()


@pytest.fixture
def open_site(talking: Browser, sites: dict[str, str]) -> Iterator[Open]:
    """A function that opens the page; at the end, all its requests were its own files."""
    requests, pages = list[tuple[str, str]](), []

    def opened(name: str = "index.html", precision: str = "int8", script: str = "") -> Page:
        context = open_page(talking)
        page = context.__enter__()
        pages.append(context)
        page.on("request", lambda request: requests.append((request.method, request.url)))
        page.add_init_script(script or " ")
        page.goto(sites[precision] + name)
        return page

    yield opened
    for context in pages:
        context.__exit__(None, None, None)
    own = tuple(url for site in sites.values() for url in (site, f"blob:{site}"))
    assert {method for method, _ in requests} == {"GET"}  # nothing is uploaded
    assert not [url for _, url in requests if not url.startswith((*own, "data:"))]


TAP = (WEB / "install_tap.js").read_text()


def set_up(page: Page, *messages: dict[str, Any]) -> None:
    """Open the page's backend without its interface, as `backend`, and set its mix."""
    page.evaluate(
        """async (messages) => {
        window.backend = await (await import("./backend.js")).openBackend();
        window.states = [];
        window.pictures = [];
        backend.listen({ state: (state) => states.push(state),
            picture: (picture) => pictures.push(picture) });
        for (const message of messages) backend.set(message);
    }""",
        list(messages),
    )


def start(page: Page) -> None:
    page.evaluate("backend.start({ input: null, output: null })")


def wait_for_seconds(page: Page, seconds: float) -> None:
    """Wait until the tap has recorded so many more seconds."""
    n = page.evaluate("tap.frames") + seconds * RATE
    page.wait_for_function("n => tap.frames >= n", arg=n)


def tapped(page: Page) -> tuple[Floats, Floats]:
    """Return (1, n) what the engine was given and what it played, from its first sample on."""
    both = [np.frombuffer(base64.b64decode(one), np.float32) for one in page.evaluate("readTap()")]
    assert page.evaluate("tap.sampleRate") == RATE
    return both[0][None], both[1][None]


GAINS = {"speech": 0.0, "music": -12.0, "noise": -3.0}
SET_GAINS = [{"do": "gain", "stem": stem, "db": db} for stem, db in GAINS.items()]


def mixed(given: Floats, n: int, muted: str = "", precision: str = "f32") -> tuple[int, Floats]:
    """Return the reported delay and what a live session plays, (1, n), at that delay.

    Args:
        given: (1, m) input.
        n: samples.
        muted: a stem, or none.
        precision: of the model.
    """
    mixer = Mixer(STEMS, RATE, gains_db=GAINS, is_bypass_matched=False)
    if muted:
        mixer.set_mute(muted, True)
    delay, expected = live(given, RATE, mixer, precision=precision)
    latency = 1539  # at 44.1 kHz, as rtmtass/native/README.md promises
    whole = np.pad(expected, [(0, 0), (latency - delay, 0)])
    return latency, whole[:, :n]


def test_what_it_plays_is_the_separators_mix_at_the_reported_delay(open_site: Open) -> None:
    page = open_site("blank.html", "f32", TAP)
    set_up(page, *SET_GAINS)
    start(page)
    wait_for_seconds(page, 3)
    given, played = tapped(page)
    page.evaluate("""backend.set({ do: "mute", stem: "music", on: true })""")
    wait_for_seconds(page, 1)
    both = tapped(page)
    latency, before = mixed(given, played.shape[1])
    n = before.shape[1]
    np.testing.assert_allclose(played[:, :n], before, rtol=0, atol=1e-4)
    assert np.abs(played).max() > 0.1
    reported = page.evaluate("states.at(-1).stats.device.latency.algorithm_ms")
    assert reported == pytest.approx(1000 * latency / RATE, abs=1e-3)
    _, after = mixed(both[0], both[1].shape[1], "music")
    settled = slice(after.shape[1] - RATE // 4, after.shape[1])
    np.testing.assert_allclose(both[1][:, settled], after[:, settled], rtol=0, atol=1e-4)


def test_the_exported_model_in_int8_differs_by_its_roundings(open_site: Open) -> None:
    page = open_site("blank.html", script=TAP)
    set_up(page, *SET_GAINS)
    start(page)
    wait_for_seconds(page, 3)
    given, played = tapped(page)
    _, expected = mixed(given, played.shape[1], precision="int8")
    assert snr_db(expected, played[:, : expected.shape[1]]) > INT8_SNR_DB
