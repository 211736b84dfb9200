"""Files in the static page: WAV of every kind is read by slices, and its stems are the engine's."""

from __future__ import annotations

import base64
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from browser import playwright
from native_builds import needs
from native_library import live, noise, snr_db
from test_web_static import INT8_SNR_DB, Open, open_site, sites, sound, talking

from rtmtass import STEMS, load
from rtmtass.live.mixer import MixSettings
from rtmtass.types import Floats
from rtmtass.web.overview import Overview

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["open_site", "playwright", "sites", "sound", "talking"]
pytestmark = needs()

OPEN = """async ([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    window.backend ??= await (await import("./backend.js")).openBackend();
    window.progress = [];
    window.recording = await backend.openFile(new File([bytes], name), {
        progress: (state) => progress.push(state), signal: new AbortController().signal });
    const { sampleRate, channels, frames, tracks } = recording;
    return { sampleRate, channels, frames, tracks, name: recording.name };
}"""
READ = """async ([start, frames]) => {
    const rows = await recording.read(start, frames);
    return rows.map((row) => btoa(Array.from(new Uint8Array(row.buffer),
        (byte) => String.fromCharCode(byte)).join("")));
}"""


def wav(samples: Floats, rate: int, subtype: str, container: str = "WAV") -> bytes:
    """Return a file of (n, C) samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=container)
    return file.getvalue()


def opened(page: Page, data: bytes, name: str = "talk.wav") -> dict[str, object]:
    about: dict[str, object] = page.evaluate(OPEN, [name, base64.b64encode(data).decode()])
    return about


def tracks(page: Page, start: int, frames: int, channels: int) -> Floats:
    """Return (tracks, n, C) samples of the page's recording."""
    rows = [base64.b64decode(row) for row in page.evaluate(READ, [start, frames])]
    return np.stack([np.frombuffer(row, np.float32).reshape(-1, channels) for row in rows])


@pytest.mark.parametrize(("precision", "channels"), [("f32", 2), ("int8", 1)])
def test_a_files_stems_are_the_separators(precision: str, channels: int, open_site: Open) -> None:
    page = open_site("blank.html", precision)
    x = np.clip(noise(channels, 40001, seed=3).T, -0.9, 0.9)
    data = wav(x, 16000, "PCM_24")
    about = opened(page, data)
    assert about == {
        "name": "talk.wav", "sampleRate": 16000, "channels": channels, "frames": 40001,
        "tracks": ["mixture", *STEMS],
    }  # fmt: skip
    x, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    expected = load(precision=precision, channels=channels).separate(x if channels > 1 else x[:, 0])
    expected = expected.reshape(3, -1, channels)
    found = tracks(page, 0, 50000, channels)
    assert found.shape == (4, 40001, channels)
    np.testing.assert_allclose(found[0], x, rtol=0, atol=1e-5)
    if precision == "f32":
        np.testing.assert_allclose(found[1:], expected, rtol=0, atol=1e-4)
    else:
        assert snr_db(expected, found[1:]) > INT8_SNR_DB
    np.testing.assert_array_equal(tracks(page, 30000, 100, channels), found[:, 30000:30100])
    assert tracks(page, 40000, 100, channels).shape == (4, 1, channels)


def test_progress_rises_to_its_end(open_site: Open) -> None:
    page = open_site("blank.html")
    opened(page, wav(noise(1, 3 * 48000).T, 48000, "FLOAT"))
    seen = page.evaluate("progress")
    fractions = [state["fraction"] for state in seen if state["phase"] == "separating"]
    assert fractions == sorted(fractions)
    assert all(0 < fraction <= 1 for fraction in fractions)
    assert all(state["leftS"] >= 0 for state in seen if state["phase"] == "separating")


def test_at_another_rate_stems_are_a_live_sessions(open_site: Open) -> None:
    page = open_site("blank.html", "f32")
    x = noise(1, 48000)
    opened(page, wav(x.T, 48000, "FLOAT"))
    _, expected = live(np.pad(x, [(0, 0), (0, 4000)]), 48000)
    delay, _ = live(x[:, :4000], 48000)
    found = tracks(page, 0, 48000, 1)[1:, :, 0]
    np.testing.assert_allclose(found, expected[:, delay : delay + 48000], rtol=0, atol=1e-4)


def test_overview_and_picture_are_those_of_the_server(open_site: Open) -> None:
    page = open_site("blank.html")
    x = noise(2, 16000, seed=8).T  # a multiple of the columns, which share no sample then
    opened(page, wav(x, 16000, "FLOAT"))
    found = tracks(page, 0, 16000, 2)
    expected = Overview(STEMS, 16000, 2)
    expected.add(found)
    overview = page.evaluate("recording.overview().then(({ peaks }) => [...peaks])")
    np.testing.assert_allclose(overview, np.frombuffer(expected.peaks(), np.int8), rtol=0, atol=1)
    picture = page.evaluate(
        """recording.picture().then(({ columns, rows, bands, data }) =>
            [columns, rows, bands, ...data])"""
    )
    wanted = expected.picture()
    columns, rows, bands = struct.unpack("<HBB", wanted[:4])
    assert picture[1:3] == [rows, bands]
    assert columns - 1 <= picture[0] <= columns  # the server may add one of silence
    levels = np.frombuffer(wanted[4:], np.uint8)[: len(picture) - 3].astype(int)
    error_db = np.abs(levels - picture[3:]) * 100 / 255
    assert np.percentile(error_db[levels > 25], 99) <= 1


def test_downloads_are_the_stems_and_the_mix_as_it_is_set(open_site: Open, tmp_path: Path) -> None:
    page = open_site("blank.html")
    opened(page, wav(noise(2, 16000).T, 16000, "PCM_16"), "a/b: ü.x.wav")
    found = tracks(page, 0, 16000, 2)
    gains = {"speech": 3.0, "music": -60.0, "noise": -6.0}
    controls = {
        "gains_db": {**gains, "music": None}, "muted": ["noise"], "soloed": [], "strength_db": 20,
        "is_bypassed": False,
    }  # fmt: skip
    settings = MixSettings({**gains, "music": -np.inf}, frozenset(["noise"]), strength_db=20)
    factors = np.array([*settings.factors().values()])
    mix = np.tensordot(factors, found[1:], 1)
    for what, expected in (("music", found[2]), ("mix", mix)):
        with page.expect_download() as started:
            page.evaluate(
                "([what, controls]) => recording.download(what, controls)", [what, controls]
            )
        assert started.value.suggested_filename.endswith(f".x.{what}.wav")
        path = tmp_path / f"{what}.wav"
        started.value.save_as(path)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == 16000
        np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-6)


def test_another_format_is_decoded_by_the_browser(open_site: Open) -> None:
    page = open_site("blank.html")
    x = noise(1, 48000).T
    about = opened(page, wav(np.clip(x, -0.9, 0.9), 48000, "PCM_16", "FLAC"), "talk.flac")
    assert (about["sampleRate"], about["frames"]) == (48000, 48000)
    found = tracks(page, 0, 48000, 1)[0]
    np.testing.assert_allclose(found, np.clip(x, -0.9, 0.9), rtol=0, atol=1e-3)


KINDS = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
DECODE = """async ([data, spans]) => {
    const { openWav } = await import("./wav.js");
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const wav = await openWav(new File([bytes], "a.wav"));
    const parts = [];
    for (const [start, n] of spans) parts.push((await wav.read(start, n)).map((row) => [...row]));
    return [wav.sampleRate, wav.channels, wav.frames, parts];
}"""


@pytest.fixture
def wav_page(open_site: Open) -> Page:
    """A page that can import the reader of WAV files."""
    return open_site("blank.html")


def test_every_kind_of_wav_is_read_as_libsndfile_reads_it(wav_page: Page) -> None:
    x = np.clip(noise(3, 500).T, -0.99, 0.99)
    for container in ("WAV", "WAVEX", "RF64"):
        for kind in KINDS:
            data = wav(x, 22050, kind, container)
            encoded = base64.b64encode(data).decode()
            spans = [[0, 500], [123, 7], [490, 100]]
            rate, channels, frames, parts = wav_page.evaluate(DECODE, [encoded, spans])
            assert (rate, channels, frames) == (22050, 3, 500)
            expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
            for (start, n), part in zip(spans, parts, strict=True):
                np.testing.assert_array_equal(np.float32(part).T, expected[start : start + n])


def header(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def test_damaged_and_hostile_wav_files_are_refused_with_a_line(wav_page: Page) -> None:
    good = wav(noise(1, 100).T, 16000, "PCM_16")
    for data, words in (
        (good[:30], "damaged"),
        (good[:44], "no sound"),
        (header(good, 22, b"\x00\x00"), "0 channels"),
        (header(good, 22, b"\xff\xff"), "65535 channels"),
        (header(good, 24, b"\x00\x00\x00\x00"), "0 samples a second"),
        (header(good, 20, b"\x55\x00"), "unknown encoding"),
        (header(good, 34, b"\x07\x00"), "unknown encoding"),
        (header(good, 16, b"\xff\xff\xff\x7f"), "damaged"),
    ):
        encoded = base64.b64encode(data).decode()
        message = wav_page.evaluate(
            f"(input) => ({DECODE})(input).catch((error) => error.message)", [encoded, []]
        )
        assert words in message
        assert "a.wav" in message


def test_a_wav_that_is_cut_short_or_was_never_finished_is_read_to_its_end(wav_page: Page) -> None:
    good = wav(noise(1, 100).T, 16000, "PCM_16")
    for data in (good[:144], header(good, 40, b"\xff\xff\xff\xff")[:144]):
        found = wav_page.evaluate(DECODE, [base64.b64encode(data).decode(), [[0, 200]]])
        assert found[2] == 50


def test_a_cancelled_file_leaves_no_worker(open_site: Open) -> None:
    page = open_site("blank.html")
    data = wav(noise(1, 30 * 16000).T, 16000, "PCM_16")
    message = page.evaluate(
        """async (data) => {
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        const backend = await (await import("./backend.js")).openBackend();
        const aborter = new AbortController();
        window.seen = 0;
        return backend.openFile(new File([bytes], "a.wav"), {
            progress: ({ phase }) => phase === "separating" && aborter.abort(),
            signal: aborter.signal }).catch((error) => error.name);
    }""",
        base64.b64encode(data).decode(),
    )
    assert message == "AbortError"
    while page.workers:
        page.wait_for_timeout(10)


def test_what_is_no_sound_is_refused_with_a_line(open_site: Open) -> None:
    page = open_site("blank.html")
    message = page.evaluate(
        f"(input) => ({OPEN})(input).catch((error) => error.message)",
        ["notes.txt", base64.b64encode(b"just a text " * 100).decode()],
    )
    assert message.startswith("notes.txt can't be read")
    assert "convert it to WAV" in message
