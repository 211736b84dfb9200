"""The File tab in a browser: a recording dropped, separated, played, mixed and downloaded."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
from browser import PageServer, chromium, open_page, playwright  # noqa: F401
from web_rig import (
    ENVIRONMENT,
    Command,
    children_of,
    is_running,
    origin_of,
    wait_for,
    web,
)

from rtmtass.config import STEMS
from rtmtass.live.mixer import MixSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Download, Page

ROOT = Path(__file__).parent.parent
_SLOW_MS = 180_000  # of what waits for a separation

# The time at which a recording was written is in the mark of its stems: an upload has another.
_TIME_IN_MARK = re.compile(rb"(\[\w{16}-\d+-)\d+(-\w{16}\])")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def talk(folder: Path) -> Path:
    """A recording in stereo at 44.1 kHz of two seconds."""
    rng = np.random.default_rng(0)
    t = np.arange(88_200) / 44100
    voice = np.sign(np.sin(2 * np.pi * 150 * t)) * np.sin(9 * t) ** 2
    x = 0.15 * np.stack([voice, np.sin(2 * np.pi * 440 * t)], axis=1)
    path = folder / "talk.flac"
    soundfile.write(path, x + 0.05 * rng.standard_normal(x.shape), 44100)
    return path


@pytest.fixture(scope="module")
def page_server(folder: Path) -> Iterator[Command]:
    """The command, with its temporary folders in `folder / "tmp"`."""
    temporary = folder / "tmp"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(temporary))
        with web() as command:
            yield command


@pytest.fixture
def files(chromium: Browser, page_server: Command) -> Iterator[Page]:  # noqa: F811
    """The File tab of the served page."""
    with open_page(chromium, viewport={"width": 1280, "height": 900}) as opened:
        opened.goto(page_server.address)
        opened.click("#tab-file")
        yield opened


def drop(page: Page, path: Path) -> None:
    """Drop a file on the page, as from a folder of the desktop."""
    page.evaluate("() => document.body.append(Object.assign(document.createElement('input'),"
                  " {type: 'file', id: 'dropped', hidden: true}))")  # fmt: skip
    page.set_input_files("#dropped", path)
    page.evaluate("""() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(document.getElementById("dropped").files[0]);
        for (const type of ["dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true }));
        }
    }""")


def download(page: Page, button: str, folder: Path) -> tuple[str, Path]:
    """Click a button of the downloads; return the name that is proposed, and the file."""
    with page.expect_download() as started:
        page.get_by_role("button", name=button).click()
    saved: Download = started.value
    path = folder / f"downloaded-{saved.suggested_filename}"
    saved.save_as(path)
    return saved.suggested_filename, path


def test_downloads_are_what_rtmtass_separate_writes(
    files: Page, page_server: Command, talk: Path, folder: Path
) -> None:
    drop(files, talk)
    files.wait_for_selector(".opening progress")
    assert "talk.flac" in files.inner_text(".opening")
    files.wait_for_selector(".recording-panel", timeout=_SLOW_MS)
    assert "0:02 · 44.1 kHz · stereo" in files.inner_text(".recording-head")
    command = [sys.executable, "-m", "rtmtass", "separate", str(talk), "-o", str(folder / "c")]
    mixed = ["--gain", "speech=-6,music=3,noise=-inf", "--mix", str(folder / "c.mix.flac")]
    subprocess.run([*command, *mixed], check=True, timeout=120, env=ENVIRONMENT)
    for stem in STEMS:
        name, path = download(files, f"Download {stem}", folder)
        assert name == f"talk.{stem}.flac"
        expected = (folder / "c" / name).read_bytes()
        assert _TIME_IN_MARK.sub(rb"\1\2", path.read_bytes()) == _TIME_IN_MARK.sub(
            rb"\1\2", expected
        )
    for fader, presses in (("Speech gain", ["ArrowDown"] * 6), ("Music gain", ["ArrowUp"] * 3)):
        files.get_by_role("slider", name=fader).focus()
        for key in presses:
            files.keyboard.press(key)
    files.click(".tracks [aria-label='Mute noise']")
    name, path = download(files, "Mix as set", folder)
    assert name == "talk.mix.flac"
    mix, expected_mix = (soundfile.read(p)[0] for p in (path, folder / "c.mix.flac"))
    np.testing.assert_allclose(mix, expected_mix, atol=2.1 * 2**-15)  # the stems are in 16 bits
    assert _folders(folder) != []
    files.get_by_role("button", name="Close", exact=True).first.click()
    files.wait_for_selector(".drop-zone")
    wait_for(lambda: not _folders(folder))


def _folders(folder: Path) -> list[Path]:
    """Return the folders of recordings that the server has."""
    return [
        p for run in (folder / "tmp").glob("rtmtass-web-*") for p in run.iterdir() if p.is_dir()
    ]


def test_what_is_no_recording_is_one_line_and_stays_text(
    files: Page, folder: Path, talk: Path
) -> None:
    hostile = folder / "<img src=x onerror=alert(1)>.wav"
    hostile.write_text("no sound\n" * 100)
    files.set_input_files(".drop-zone input", hostile)
    line = files.wait_for_selector(".file .notice:not([hidden])", timeout=_SLOW_MS)
    assert line is not None
    assert line.inner_text().startswith("<img src=x onerror=alert(1)>.wav ")
    assert "\n" not in line.inner_text()
    assert files.locator(".file img").count() == 0
    files.set_input_files(".drop-zone input", {"name": "e.wav", "mimeType": "", "buffer": b""})
    files.locator(".file .notice", has_text="e.wav is empty (0 bytes)").wait_for()


def test_cancelling_ends_the_separation(files: Page, page_server: Command, folder: Path) -> None:
    path = folder / "long.wav"
    samples = np.random.default_rng(1).uniform(-0.1, 0.1, 16000 * 1200).astype(np.float32)
    soundfile.write(path, samples, 16000)
    before = set(children_of(page_server.process.pid))
    files.set_input_files(".drop-zone input", path)
    left = files.locator(".opening-text", has_text=re.compile("Separating.*% · .* left"))
    left.wait_for(timeout=_SLOW_MS)
    assert len(set(children_of(page_server.process.pid)) - before) == 1
    files.get_by_role("button", name="Cancel").click()
    files.wait_for_selector(".drop-zone")
    wait_for(lambda: set(children_of(page_server.process.pid)) <= before)
    wait_for(lambda: not _folders(folder))


def test_the_end_of_the_server_removes_its_files(folder: Path, talk: Path) -> None:
    temporary = folder / "ended"
    temporary.mkdir()
    runs = partial(temporary.glob, "rtmtass-web-*")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(temporary))
        with web() as killed:
            wait_for(lambda: [*runs()])
            request = Request(
                f"{killed.address}api/files?name=talk.flac",
                data=talk.read_bytes(),
                headers={"Origin": origin_of(killed.address)},
            )
            urlopen(request).close()
            (process,) = wait_for(lambda: children_of(killed.process.pid))
            killed.process.kill()
        wait_for(lambda: not is_running(process))
        assert len([*runs()]) == 1  # nobody has removed it
        with web() as command:
            wait_for(lambda: [run for run in runs() if len([*run.iterdir()]) == 1])
            assert len([*runs()]) == 1
            command.finish()
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def modules(chromium: Browser) -> Iterator[Page]:  # noqa: F811
    """A page that can import the modules of ours, and runs none by itself."""
    with PageServer() as served, open_page(chromium) as opened:
        opened.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        opened.goto(f"{served.url}style.css")
        yield opened


# --- the mix of the page is that of the engine


def test_the_factors_are_those_of_the_mixer(modules: Page) -> None:
    rng = np.random.default_rng(2)
    cases, expected = [], []
    for _ in range(400):
        gains = [None if rng.random() < 0.1 else round(rng.uniform(-60, 20), 2) for _ in STEMS]
        muted, soloed = ([s for s in STEMS if rng.random() < 0.25] for _ in range(2))
        strength = None if rng.random() < 0.5 else float(rng.integers(0, 61))
        cases.append({
            "gains_db": dict(zip(STEMS, gains, strict=True)),
            "muted": muted, "soloed": soloed, "strength_db": strength,
        })  # fmt: skip
        linear = [-np.inf if gain is None else gain for gain in gains]
        settings = MixSettings(
            dict(zip(STEMS, linear, strict=True)), frozenset(muted), frozenset(soloed),
            np.inf if strength is None else strength,
        )  # fmt: skip
        expected.append(list(settings.factors().values()))
    factors = modules.evaluate(
        "async (cases) => { const { mixFactors } = await import('./mix_factors.js');"
        " return cases.map((controls) => Object.values(mixFactors(controls))); }",
        cases,
    )
    np.testing.assert_allclose(factors, expected, rtol=1e-14, atol=0)


# --- what the player outputs

RATE, FRAMES = 16000, 16000 * 8

_RENDER = """
async ({ frames, steps, channels, seconds, isGated }) => {
  const { Player } = await import("./player.js");
  const rate = 16000, reads = [], gates = [];
  const tone = (hz, c) => (n) => 0.2 * Math.sin(2 * Math.PI * hz * n / rate + c);
  const tracks = ["mixture", "speech", "music", "noise"];
  const hz = [0, 110, 170, 290];
  const sample = (k, n, c) => (k ? tone(hz[k], c)(n)
    : [1, 2, 3].reduce((sum, stem) => sum + tone(hz[stem], c)(n), 0));
  const recording = { name: "made", sampleRate: rate, channels, frames, tracks,
    async read(start, count) {
      reads.push([start, count]);
      if (isGated) await new Promise((resolve) => gates.push(resolve));
      const n = Math.min(count, frames - start);
      return tracks.map((_, k) => Float32Array.from({ length: n * channels },
        (_, i) => sample(k, start + Math.floor(i / channels), i % channels)));
    } };
  const context = new OfflineAudioContext(channels, seconds * rate, rate);
  const player = new Player(recording, { changed() {}, failed(error) { throw error; },
    levels() {} }, context);
  await player.open();
  const turn = () => new Promise((resolve) => setTimeout(resolve));
  const release = async () => { // the samples that are waited for
    while (gates.length === 0) await turn();
    gates.shift()();
    await turn();
    await player.reached();
  };
  for (const [atS, action, ...values] of steps) {
    const run = async () => {
      if (action !== "release") await player[action](...values);
      else await release();
      if (!isGated) await player.settled();
    };
    if (atS === 0) await run();
    else context.suspend(atS).then(run).then(() => context.resume());
  }
  const made = await context.startRendering();
  return { reads, output: Array.from({ length: channels }, (_, c) =>
    Array.from(made.getChannelData(c))) };
}
"""


def render(modules: Page, steps: list[list[Any]], **changes: Any) -> dict[str, Any]:
    """Play a recording of tones, 110, 170 and 290 Hz, and touch the player at times in s."""
    values = {"frames": FRAMES, "channels": 1, "seconds": 2, "isGated": False, **changes}
    made: dict[str, Any] = modules.evaluate(_RENDER, {"steps": steps, **values})
    made["output"] = np.array(made["output"], np.float64)
    return made


def tones(start: int, n: int, channel: int = 0) -> Any:
    """Return (3, n): the stems from a frame on."""
    t = np.arange(start, start + n) / RATE
    return 0.2 * np.sin(2 * np.pi * np.array([[110], [170], [290]]) * t + channel)


def test_what_plays_is_the_recording_to_the_sample(modules: Page) -> None:
    made = render(modules, [[0, "seek", 12_345], [0, "play"]], channels=2)
    for channel in (0, 1):
        output = made["output"][channel]
        expected = tones(12_345, len(output), channel).sum(axis=0)
        np.testing.assert_allclose(output[200:], expected[200:], atol=1e-6)
        assert np.abs(np.diff(output, prepend=0)).max() < largest_step()


def largest_step() -> float:
    """Return the largest difference of neighbours in the recording, and a little for fades."""
    slopes = 0.2 * 2 * np.pi * np.array([110, 170, 290]) / RATE
    return float(slopes.sum()) + 0.6 * np.pi / 2 / (0.01 * RATE)


def test_faders_solos_and_the_original_change_without_a_step(modules: Page) -> None:
    made = render(modules, [
        [0, "setMix", [1, 0, 0], False], [0, "play"],
        [0.5, "setMix", [1, 0.25, 2], False],
        [0.75, "setMix", [0, 0.25, 2], False],
        [1.0, "setMix", [0, 0.25, 2], True],
        [1.5, "setMix", [0, 0, 0], False],
    ])  # fmt: skip
    output, stems = made["output"][0], tones(0, 2 * RATE)
    for start_s, end_s, gains in (
        (0.05, 0.5, (1, 0, 0)), (0.55, 0.75, (1, 0.25, 2)), (0.8, 1.0, (0, 0.25, 2)),
        (1.05, 1.5, (1, 1, 1)), (1.55, 2.0, (0, 0, 0)),
    ):  # fmt: skip
        part = slice(int(start_s * RATE), int(end_s * RATE))
        np.testing.assert_allclose(output[part], (np.array(gains) @ stems)[part], atol=1e-6)
    slopes = 0.2 * 2 * np.pi * np.array([110, 170, 290]) / RATE
    steps = np.abs(np.diff(output, prepend=0))
    assert steps.max() < slopes @ (1, 1, 2) + 0.8 * np.pi / 2 / (0.01 * RATE)


def test_seeks_and_pauses_fade(modules: Page) -> None:
    made = render(modules, [
        [0, "play"], [0.512, "seek", 50_000], [0.52, "seek", 70_001], [1.024, "pause"],
        [1.28, "play"], [1.536, "seek", FRAMES - 4000],
    ])  # fmt: skip
    output = made["output"][0]
    assert np.abs(np.diff(output, prepend=0)).max() < 1.5 * largest_step()
    fade = 0.011 * RATE
    for start_s, end_s, first in ((0, 0.512, 0), (0.52, 1.024, 70_001)):
        start, end = (int(np.ceil(at * RATE / 128) * 128) for at in (start_s, end_s))
        part = slice(int(start + fade), end)
        expected = tones(first, len(output)).sum(axis=0)[part.start - start : part.stop - start]
        np.testing.assert_allclose(output[part], expected, atol=1e-6)
    assert np.all(output[int(1.04 * RATE) : int(1.28 * RATE)] == 0)
    end = np.flatnonzero(output)[-1]
    assert abs(end - (1.536 * RATE + 4000)) < 128


def test_seeking_in_a_long_recording_reads_only_around_there(modules: Page) -> None:
    hours, places = 8 * 3600 * RATE, [0, 6 * 3600 * RATE, 3600 * RATE]
    steps = [[0, "play"], [0.512, "seek", places[1]], [1.024, "seek", places[2]]]
    made = render(modules, steps, frames=hours)
    for start, count in made["reads"]:
        (place,) = [at for at in places if at <= start < at + 5 * RATE]
        assert start + count <= place + 5 * RATE
    np.testing.assert_allclose(
        made["output"][0, -4000:],
        tones(places[2] + int(2 * RATE - 1.024 * RATE) - 4000, 4000).sum(axis=0),
        atol=1e-5,
    )


def test_samples_that_come_late_make_silence_without_a_click(modules: Page) -> None:
    steps = [[0, "play"], [0, "release"], [0.768, "release"]]  # pieces of 0.5 and 1 s
    output = render(modules, steps, isGated=True)["output"][0]
    assert np.abs(np.diff(output, prepend=0)).max() < largest_step()
    fade, again = int(0.011 * RATE), int(0.768 * RATE)
    np.testing.assert_allclose(
        output[fade : 8000 - fade], tones(0, 8000).sum(axis=0)[fade:-fade], atol=1e-6
    )
    assert np.all(output[8000:again] == 0)
    first = int(np.flatnonzero(output[:again])[-1]) + 1  # the sample that is next
    np.testing.assert_allclose(
        output[again + fade : again + 8000], tones(first, 8000).sum(axis=0)[fade:], atol=1e-6
    )


# --- the view


@pytest.fixture
def view(chromium: Browser) -> Iterator[Page]:  # noqa: F811
    """The File tab without a server; `finish()` in the page ends a separation."""
    with (
        PageServer("files_backend.js") as served,
        open_page(chromium, viewport={"width": 1280, "height": 900}) as opened,
    ):
        opened.goto(served.url)
        opened.click("#tab-file")
        yield opened


def choose(page: Page, name: str = "talk.wav", size: int = 100) -> None:
    page.set_input_files(
        ".drop-zone input", {"name": name, "mimeType": "", "buffer": b"x" * size}
    )  # fmt: skip


def opened(page: Page) -> Page:
    choose(page)
    page.locator(".opening").wait_for()
    page.evaluate("finish()")
    page.locator(".recording-panel").wait_for()
    return page


def position(page: Page) -> float:
    return float(page.get_by_role("slider", name="Position").input_value())


def test_progress_and_problems_are_words(view: Page) -> None:
    choose(view, "a <b>bold</b> name.wav")
    text = view.locator(".opening")
    text.filter(has_text="a <b>bold</b> name.wav").wait_for()
    assert "Separating" in text.inner_text()
    assert "25 % · 1:15 left" in text.inner_text()
    view.evaluate("fail('it holds no sound')")
    view.locator(".file .notice", has_text="it holds no sound").wait_for()
    choose(view, size=2000)
    view.locator(".file .notice", has_text="the most that is taken is").wait_for()
    choose(view)
    view.get_by_role("button", name="Cancel").click()
    view.locator(".drop-zone").wait_for()
    assert not view.locator(".file .notice").is_visible()


def test_the_keys_play_jump_and_compare(view: Page) -> None:
    opened(view)
    play = view.locator(".transport .primary")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowRight")
    wait_for(lambda: position(view) == 10)
    view.keyboard.press("ArrowLeft")
    wait_for(lambda: position(view) == 5)
    view.keyboard.press(" ")
    play.filter(has_text="Pause").wait_for()
    wait_for(lambda: position(view) > 5)
    view.keyboard.press(" ")
    play.filter(has_text="Play").wait_for()
    view.keyboard.press("b")
    view.locator(".bypass[aria-pressed=true]", has_text="Original").wait_for()
    view.keyboard.press("Home")
    wait_for(lambda: position(view) == 0)
    play.focus()
    view.keyboard.press(" ")  # the button's own key, once
    play.filter(has_text="Pause").wait_for()


def test_a_click_in_a_track_moves_the_play_head_of_all(view: Page) -> None:
    opened(view)
    lane = view.locator(".lane").nth(2)
    box = lane.bounding_box()
    assert box
    lane.click(position={"x": box["width"] / 2, "y": 10})
    wait_for(lambda: abs(position(view) - 30) < 0.1)
    shares = view.locator(".play-head").evaluate_all(
        "(heads) => heads.map((head) => parseFloat(head.style.left))"
    )
    assert len(shares) == 4
    assert max(abs(share - 50) for share in shares) < 0.2
    view.get_by_role("button", name="Spectrogram").click()
    view.locator(".tracks [aria-label='Spectrogram of music']").wait_for()


def test_downloads_get_the_controls_and_say_what_was_clipped(view: Page) -> None:
    opened(view)
    view.locator(".tracks [aria-label='Solo speech']").click()
    view.get_by_role("button", name="Mix as set").click()
    view.locator(".download-status", has_text="1\u2009234 samples of the mix").wait_for()
    view.get_by_label("Limit peaks of the mix").check()
    view.get_by_role("button", name="Mix as set").click()
    view.get_by_role("button", name="Download music").click()
    calls = view.evaluate("backend.calls.filter(([name]) => name === 'download')")
    assert [(what, limited) for _, what, _, limited in calls] == [
        ("mix", False), ("mix", True), ("music", None),
    ]  # fmt: skip
    assert calls[0][2]["soloed"] == ["speech"]
    view.locator(".recording-head").get_by_role("button", name="Close").click()
    view.locator(".drop-zone").wait_for()
    assert view.evaluate("backend.calls.at(-1)") == ["close"]


def test_nothing_is_cut_off_in_a_narrow_window(view: Page) -> None:
    opened(view)
    for width in (320, 700, 1280):
        view.set_viewport_size({"width": width, "height": 700})
        assert view.evaluate("document.documentElement.scrollWidth") <= width
