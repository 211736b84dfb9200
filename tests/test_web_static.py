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

from rtmtass import STEMS
from rtmtass.live.mixer import Mixer, MixSettings
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
VIEWPORT: Any = {"width": 400, "height": 300}  # little to draw: headless, the processor does it
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
        context = open_page(talking, viewport=VIEWPORT)
        page = context.__enter__()
        pages.append(context)
        page.on("request", lambda request: requests.append((request.method, request.url)))
        page.add_init_script(script or " ")
        page.set_default_timeout(60_000)  # a busy computer takes its time to start
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


def test_the_microphone_comes_as_it_is(open_site: Open, sound: Path) -> None:
    page = open_site("blank.html", script=TAP)
    page.evaluate("""() => {
        const { mediaDevices } = navigator, ask = mediaDevices.getUserMedia.bind(mediaDevices);
        mediaDevices.getUserMedia = (wanted) => ask(window.wanted = wanted);
    }""")
    set_up(page)
    assert page.evaluate("window.wanted ?? null") is None  # nothing is asked before the start
    start(page)
    wait_for_seconds(page, 2)
    audio = page.evaluate("wanted.audio")
    assert [audio[k] for k in ("echoCancellation", "noiseSuppression", "autoGainControl")] == [
        False,
        False,
        False,
    ]
    file, _ = soundfile.read(sound, dtype="float32")
    # In windows: where the computer is busy, the fake device leaves out samples.
    windows = tapped(page)[0][0][-RATE:][: RATE // 2100 * 2100].reshape(-1, 2100)
    ratios = [snr_db(part_like(window, file), window) for window in windows]
    assert np.median(ratios) > 40


def part_like(window: Floats, file: Floats) -> Floats:
    """Return the part of a file, played over and over, that is most like a window."""
    spectrum = np.conj(np.fft.rfft(window, len(file))) * np.fft.rfft(file)
    at = int(np.argmax(np.fft.irfft(spectrum, len(file))))
    return np.roll(file, -at)[: len(window)]


def test_a_recording_is_the_input_its_stems_and_the_mix(open_site: Open, tmp_path: Path) -> None:
    page = open_site("blank.html", script=TAP)
    set_up(page, *SET_GAINS)
    downloads = list["Download"]()
    page.on("download", lambda download: downloads.append(download))
    start(page)
    page.evaluate("""backend.set({ do: "record", on: true })""")
    page.wait_for_function("states.at(-1).stats?.recording.seconds > 1")
    page.evaluate("""backend.set({ do: "record", on: false })""")
    page.wait_for_function("states.at(-1).messages.some((line) => line.includes('recorded'))")
    while len(downloads) < 5:
        page.wait_for_event("download")
    tracks = {}
    for download in downloads:
        path = tmp_path / download.suggested_filename
        download.save_as(path)
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        tracks[path.suffixes[-2].strip(".")] = samples
    assert {*tracks} == {"mixture", "mix", *STEMS}
    assert len({len(track) for track in tracks.values()}) == 1
    assert len(tracks["mix"]) > RATE
    np.testing.assert_allclose(sum(tracks[s] for s in STEMS), tracks["mixture"], rtol=0, atol=1e-5)
    factors = MixSettings(GAINS).factors()
    mix = sum(factors[stem] * tracks[stem] for stem in STEMS)
    np.testing.assert_allclose(tracks["mix"], mix, rtol=0, atol=1e-5)
    given, played = (x[0] for x in tapped(page))
    middle = len(tracks["mix"]) // 2  # the start may be silence, as much of what was played is
    part = tracks["mix"][middle : middle + 64]
    assert part.any()
    at = -middle + next(
        i for i in range(middle, len(played)) if np.array_equal(played[i : i + 64], part)
    )
    n = min(len(tracks["mix"]), len(played) - at)
    np.testing.assert_array_equal(played[at : at + n], tracks["mix"][:n])
    late = np.pad(given, (1539, 0))
    np.testing.assert_allclose(late[at : at + n], tracks["mixture"][:n], rtol=0, atol=1e-5)


def test_pictures_have_a_column_for_every_hop_and_levels_fit_the_gains(open_site: Open) -> None:
    page = open_site("blank.html")
    set_up(page, {"do": "gain", "stem": "noise", "db": -6})
    start(page)
    page.wait_for_function("(states.at(-1).stats?.hops ?? 0) > 150")
    page.evaluate("backend.stop()")
    seen = page.evaluate("""() => {
        const all = states.filter((state) => state.stats).map((state) => state.stats);
        const last = all.at(-1);
        return {
            hops: last.hops, levels: last.levels, columns: pictures.reduce(
                (n, picture) => n + picture.columns, 0),
            shapes: pictures.map(({ rows, bands, columns, data }) =>
                [rows, bands, data.length - rows * bands * columns]),
            rates: states.length / last.seconds,
            changes: all.map(({ levels }) =>
                levels.stems.noise[0] - levels.separated.noise[0]),
        };
    }""")
    assert {tuple(shape) for shape in seen["shapes"]} == {(4, 64, 0)}
    # Hops before the reports began, and during a report that never left, have no column.
    assert 0.9 * seen["hops"] - 100 < seen["columns"] <= seen["hops"]
    assert seen["rates"] < 25
    levels = seen["levels"]
    assert {*levels["stems"]} == {*levels["separated"]} == {*STEMS}
    assert -60 < levels["mixture"][0] <= levels["mixture"][1] < 3
    # A meter of hops and one of quanta may differ by a few dB where the sound changes.
    assert np.median(seen["changes"][5:]) == pytest.approx(-6, abs=1)


def test_bands_are_those_of_the_server(open_site: Open) -> None:
    page = open_site("blank.html")
    hops = np.random.default_rng(1).standard_normal((20, 3, 256)).astype(np.float32)
    hops *= 10 ** np.linspace(-4, 0, 20, dtype=np.float32)[:, None, None]
    found = page.evaluate(
        """async (samples) => {
        const { Columns, pictureOf } = await import("./bands.js");
        const columns = new Columns(3, 256, 16000), hops = Float32Array.from(samples);
        const powers = [];
        for (let hop = 0; hop < 20; hop++) {
            powers.push(columns.add(hops, hop * 768).map((row) => row.slice()));
        }
        return [...pictureOf(powers, 4).data];
    }""",
        hops.ravel().tolist(),
    )
    tracks = np.concatenate([hops.sum(axis=1, keepdims=True), hops], axis=1)
    padded = np.concatenate([np.zeros((1, 4, 256), np.float32), tracks])
    frames = np.concatenate([padded[:-1], padded[1:]], axis=2)
    expected = picture_bytes(band_powers(frames, 16000))
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, rtol=0, atol=1)


def test_settings_and_devices_come_back_with_the_next_visit(open_site: Open) -> None:
    page = open_site("blank.html")
    set_up(page, *SET_GAINS, {"do": "solo", "stem": "speech", "on": True})
    page.reload()
    set_up(page)
    controls = page.evaluate("states.at(-1).controls")
    assert controls["gains_db"] == GAINS
    assert controls["soloed"] == ["speech"]
    page.evaluate("""backend.set({ do: "reset" })""")
    assert page.evaluate("states.at(-1).controls.gains_db.music") == 0


BAD_MESSAGES: list[object] = [
    None, "gain", 5, [], {}, {"do": "gone"}, {"do": "gain", "stem": "drums", "db": 0},
    {"do": "gain", "stem": "music", "db": "0"}, {"do": "gain", "stem": "music", "db": 21},
    {"do": "gain", "stem": "music", "db": -61}, {"do": "gain", "stem": "music"},
    {"do": "gain", "stem": "music", "db": 0, "more": 1}, {"do": "mute", "stem": "music", "on": 1},
    {"do": "solo", "stem": ["music"], "on": True}, {"do": "strength", "db": -1},
    {"do": "strength", "db": 61}, {"do": "bypass"}, {"do": "bypass", "on": "yes"},
    {"do": "reset", "on": True}, {"do": "constructor"}, {"do": "record", "on": None},
]  # fmt: skip


def test_messages_that_are_none_change_nothing(open_site: Open) -> None:
    page = open_site("blank.html")
    set_up(page, *SET_GAINS)
    before = page.evaluate("states.at(-1).controls")
    for message in BAD_MESSAGES:
        n = page.evaluate("states.at(-1).messages.length")
        page.evaluate("(message) => backend.set(message)", message)
        assert page.evaluate("states.at(-1).controls") == before
        assert page.evaluate("states.at(-1).messages.length") == min(n + 1, 20)


LACKS = {
    "SIMD": ("WebAssembly.validate = () => false", "SIMD"),
    "WebAssembly": ("delete globalThis.WebAssembly", "no WebAssembly"),
    "AudioWorklet": ("delete globalThis.AudioWorkletNode", "AudioWorklet"),
    "insecure": (
        'Object.defineProperty(globalThis, "isSecureContext", { value: false })',
        "https",
    ),
    "microphone": (
        'Object.defineProperty(navigator, "mediaDevices", { value: undefined })',
        "no microphone",
    ),
    "workers": ("delete globalThis.Worker", "workers"),
}
"""What a browser may lack: a script that takes it away, and what the line about it says."""


@pytest.mark.parametrize("lack", LACKS)
def test_what_the_browser_lacks_is_named_with_what_to_do(lack: str, open_site: Open) -> None:
    script, words = LACKS[lack]
    page = open_site(script=script)
    page.wait_for_selector("#notices .notice")
    notice = page.inner_text("#notices .notice")
    assert words in notice
    assert "update" in notice or "https" in notice
    assert page.get_by_role("button", name="Start").is_disabled()


REFUSALS = {
    "NotAllowedError": "isn't allowed: allow it",
    "NotFoundError": "isn't there: plug it in",
    "NotReadableError": "another program",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_microphone_that_is_refused_is_explained(name: str, open_site: Open) -> None:
    page = open_site("blank.html")
    set_up(page)
    message = page.evaluate(
        """(name) => {
        navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("no", name));
        return backend.start({ input: null, output: null }).catch((error) => error.message);
    }""",
        name,
    )
    assert REFUSALS[name] in message
    assert page.evaluate("states.at(-1).problem") == message
    assert page.evaluate("states.at(-1).running") is False


def test_the_page_separates_a_microphone_by_its_buttons(open_site: Open) -> None:
    page = open_site(script=TAP)
    page.get_by_role("button", name="Start").click()
    page.wait_for_function(f"document.querySelector('{RUNNING}')", polling=100)
    for stem in STEMS:
        page.get_by_role("button", name=f"Mute {stem}").click()
    wait_for_seconds(page, 1)
    played = tapped(page)[1][0]
    assert np.abs(played).max() > 0.01
    assert not played[-RATE // 8 :].any()
    page.get_by_role("button", name="Stop").click()
    page.wait_for_function("document.querySelector('.devices .dot[data-tone=idle]')", polling=100)
    assert page.evaluate("tap.context.state") == "closed"


@pytest.mark.realtime
def test_the_engine_keeps_up_without_an_underrun(open_site: Open) -> None:
    """For 10 s; benchmarks/page.py measures a minute, drawing included."""
    page = open_site("blank.html")
    set_up(page)
    start(page)
    page.wait_for_function("(states.at(-1).stats?.seconds ?? 0) > 10", polling=100)
    stats = page.evaluate("states.at(-1).stats")
    print(stats["steps"], stats["device"])
    assert stats["steps"]["recent_ms"] < stats["steps"]["deadline_ms"]
    assert stats["deadline_misses"] == 0
    assert stats["device"]["xruns"] == 0
