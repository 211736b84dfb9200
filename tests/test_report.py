"""The page of `rtmtass separate --report`: what it shows, its bounds, and its errors."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator

import rtmtass
from rtmtass.cli import separate as command
from rtmtass.cli.main import main
from rtmtass.config import STEMS
from rtmtass.errors import OutputError
from rtmtass.report import excerpt, page, separation
from rtmtass.report.assets import MIXER, PLAYERS
from rtmtass.report.mixer import duration, link
from rtmtass.report.separation import SeparationReport
from rtmtass.report.timeline import Timeline
from rtmtass.types import Samples

VOID = ("meta", "img", "input")


class Page(HTMLParser):
    """Checks that a page's tags nest, and collects what it refers to and holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.tracks: dict[str, bytes] = {}
        self.clips: list[dict[str, str | None]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        source = values.get("src") or ""
        if source:
            self.sources.append(source)
        if tag == "audio":
            self.tracks[values["data-track"] or ""] = base64.b64decode(source.split(",")[1])
        if "href" in values:
            self.links.append(values["href"] or "")
        if "mixer" in (values.get("class") or ""):
            self.clips.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words += data


@pytest.fixture(autouse=True)
def _without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "model_opener", lambda arguments: FakeSeparator)


def record(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> Samples:
    n = round(seconds * rate)
    t = np.arange(n)[:, None] / rate
    x = 0.3 * np.sin(2 * np.pi * 440 * t * (1 + np.arange(channels)))
    soundfile.write(path, x.astype(np.float32), rate, "FLOAT")
    return x.astype(np.float32)


def separate(*words: object) -> int:
    return main(["separate", *map(str, words)])


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 3)])
def test_the_page_holds_mixture_and_stems(tmp_path: Path, rate: int, channels: int) -> None:
    x = record(tmp_path / "talk.wav", 2.0, rate, channels)
    assert separate(tmp_path / "talk.wav", "--report", tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Page(text)
    assert "http" not in re.sub(r"base64,[\w+/=]*", "", text)  # it may spell it
    assert "url(" not in text
    assert {source.split(";")[0] for source in parsed.sources} == {
        "data:audio/ogg", "data:image/png",
    }  # fmt: skip
    assert parsed.links == [f"talk.{stem}.wav" for stem in STEMS]
    assert list(parsed.tracks) == ["mixture", *STEMS]
    decoded = {k: soundfile.read(io.BytesIO(v), always_2d=True) for k, v in parsed.tracks.items()}
    expected = x if channels <= 2 else x.mean(axis=1, keepdims=True)
    for track, sample_rate in decoded.values():
        assert sample_rate == 48000
        assert track.shape == (96000, expected.shape[1])
    power = np.square(decoded["mixture"][0]).mean()
    assert power == pytest.approx(float(np.square(expected).mean()), rel=0.1)
    (clip,) = parsed.clips
    assert float(clip["data-seconds"] or 0) == float(clip["data-excerpt"] or 0) == 2.0
    assert "To listen to on this page" not in parsed.words


def test_the_stems_on_the_page_are_aligned_with_the_mixture(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 2.0, 44100)
    assert separate(tmp_path / "a.wav", "--report", tmp_path / "p.html") == 0
    tracks = Page((tmp_path / "p.html").read_text()).tracks
    mixture, *stems = (soundfile.read(io.BytesIO(v))[0] for v in tracks.values())
    error = mixture - sum(stems)
    assert 10 * np.log10(np.square(error).mean() / np.square(mixture).mean()) < -12


def test_several_recordings_share_a_page_and_failures_are_listed(tmp_path: Path) -> None:
    record(tmp_path / "a<b>.wav", 0.5)
    record(tmp_path / "c#d 1.wav", 0.5, 48000, 2)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    page_path = tmp_path / "new" / "page.html"
    assert (
        separate(*sorted(tmp_path.glob("*.wav")), "-o", tmp_path / "o", "--report", page_path) == 1
    )
    parsed = Page(page_path.read_text())
    assert len(parsed.clips) == 2
    assert "bad.wav failed: " in parsed.words
    assert "a<b>.wav" in parsed.words
    assert parsed.links[:1] == ["../o/a%3Cb%3E.speech.wav"]
    assert parsed.links[3:4] == ["../o/c%23d%201.speech.wav"]


def test_skipped_recordings_are_on_the_page_and_their_stems_unchanged(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    assert separate(tmp_path / "a.wav") == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("a.*.wav")}
    assert separate(tmp_path / "a.wav", "--report", tmp_path / "p.html") == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("a.*.wav")}
    parsed = Page((tmp_path / "p.html").read_text())
    assert list(parsed.tracks) == ["mixture", *STEMS]
    assert len(parsed.links) == 3


def test_stems_that_are_not_written_are_on_the_page_too(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    words = ["--stems", "none", "--gain", "music=-inf", "--mix", tmp_path / "m.wav"]
    assert separate(tmp_path / "a.wav", *words, "--report", tmp_path / "p.html") == 0
    parsed = Page((tmp_path / "p.html").read_text())
    assert list(parsed.tracks) == ["mixture", *STEMS]
    assert parsed.links == ["m.wav"]


def test_long_audio_is_cut_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpt, "EXCERPT_S", 2.5)
    record(tmp_path / "a.wav", 5.0)
    assert separate(tmp_path / "a.wav", "--report", tmp_path / "p.html") == 0
    parsed = Page((tmp_path / "p.html").read_text())
    (clip,) = parsed.clips
    assert float(clip["data-seconds"] or 0) == 5.0
    assert float(clip["data-excerpt"] or 0) == 2.5
    assert "the first 2.50 s; the whole files are linked below" in parsed.words
    assert len(soundfile.read(io.BytesIO(parsed.tracks["music"]))[0]) == 2.5 * 48000


def test_the_page_stays_below_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        record(tmp_path / f"{name}.wav", 5.0)
    paths, report = sorted(tmp_path.glob("*.wav")), tmp_path / "p.html"
    monkeypatch.setattr(separation, "MAX_BYTES", 360_000)
    assert separate(*paths, "--report", report) == 0
    assert report.stat().st_size < 360_000
    clips = Page(report.read_text()).clips
    assert len(clips) == 2
    assert all(0 < float(clip["data-excerpt"] or 0) < 5 for clip in clips)
    monkeypatch.setattr(separation, "MAX_BYTES", 150_000)
    assert separate(*paths, "--report", report) == 0
    assert report.stat().st_size < 150_000
    assert "Left out to keep this page below 0.15 MB: " in report.read_text()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("talk.wav", 2, "isn't the name of a page; try --report page.html"),
        ("file.txt/page.html", 1, "can't be written"),
        ("folder.html", 1, "isn't a plain file; name another with --report"),
    ],
)
def test_a_bad_page_is_refused_before_anything_is_separated(
    tmp_path: Path, name: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "talk.wav")
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.rglob("*"))
    try:
        exit_code: str | int | None = separate(tmp_path / "talk.wav", "--report", tmp_path / name)
    except SystemExit as stop:
        exit_code = stop.code
    assert exit_code == code
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_temporary_audio_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(excerpt.tempfile, "tempdir", str(tmp_path / "tmp"))
    record(tmp_path / "a.wav")
    samples = record(tmp_path / "b.wav", 2.0)
    samples[-1] = np.nan
    soundfile.write(tmp_path / "b.wav", samples, 16000, "FLOAT")
    assert separate(tmp_path / "a.wav", tmp_path / "b.wav", "--report", tmp_path / "p.html") == 1
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(Page((tmp_path / "p.html").read_text()).clips) == 1


def test_a_page_that_cannot_be_replaced_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.html"
    path.write_text("old")

    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=r"the disk is full; .* --report"):
        SeparationReport(path, {"separated": "x"}, 1).save()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("p.html", "old")]


def test_a_name_of_any_bytes_is_shown(tmp_path: Path) -> None:
    report = SeparationReport(tmp_path / "p.html", {"separated": "caf\udce9.wav"}, 1)
    report.begin(STEMS, 16000, 1)
    report.write(np.zeros((3, 100, 1), np.float32))
    report.add("caf\udce9.wav", {"speech": tmp_path / "caf\udce9.speech.wav"})
    report.save()
    assert Page((tmp_path / "p.html").read_text(encoding="utf-8")).links == ["caf%E9.speech.wav"]


@pytest.mark.parametrize("n", [0, 1, 300, 16000 * 3 + 7, 16000 * 40])
@pytest.mark.parametrize("block", [97, 16000])
def test_a_timeline_does_not_depend_on_the_blocks(n: int, block: int) -> None:
    x = 0.1 * np.random.default_rng(0).standard_normal(n).astype(np.float32)
    one, parts = Timeline(16000), Timeline(16000)
    one.add(x)
    for at in range(0, min(n, 200 * block), block):
        parts.add(x[at : at + block])
    if n <= 200 * block:
        for a, b in zip(one.columns(), parts.columns(), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-2)
        assert one.level_db == pytest.approx(parts.level_db, abs=1e-3)
    spectrogram, level_db = one.columns()
    assert spectrogram.shape == (len(level_db), page.ROWS)
    assert 1 <= len(level_db) < 2 * page.COLUMNS


def test_a_timeline_shows_when_and_how_loud() -> None:
    t = np.arange(16000 * 30) / 16000
    sound = np.sin(2 * np.pi * 1000 * t).astype(np.float32) * (t > 20)
    timeline = Timeline(16000)
    for second in np.split(sound, 30):
        timeline.add(second)
    spectrogram, level_db = timeline.columns()
    start = np.flatnonzero(level_db > -60)[0] / len(level_db) * 30
    assert start == pytest.approx(20, abs=0.2)
    assert level_db[-3] == pytest.approx(-3.01, abs=0.1)
    assert timeline.level_db == pytest.approx(-3.01 - 10 * np.log10(3), abs=0.05)
    assert timeline.peak == pytest.approx(1)
    assert spectrogram[-3].argmax() == pytest.approx(1000 / 8000 * page.ROWS, abs=1)


def test_durations_and_links() -> None:
    assert [duration(s) for s in (0, 59.9, 60, 3723)] == [
        "0.00 s", "59.90 s", "1:00 min", "1:02:03 h",
    ]  # fmt: skip
    assert link(Path("x/a&b.wav"), Path()) == '<a href="x/a%26b.wav">a&amp;b.wav</a>'


@pytest.mark.skipif(shutil.which("node") is None, reason="node isn't installed")
@pytest.mark.parametrize("script", [MIXER, PLAYERS], ids=["mixer", "players"])
def test_the_scripts_parse(script: str, tmp_path: Path) -> None:
    (tmp_path / "script.js").write_text(script)
    subprocess.run(["node", "--check", str(tmp_path / "script.js")], check=True, timeout=60)


def test_every_class_that_the_script_looks_for_is_on_the_page(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 0.2)
    assert separate(tmp_path / "a.wav", "--report", tmp_path / "p.html") == 0
    text = (tmp_path / "p.html").read_text()
    body = text[text.index("<body>") : text.index("<script>")]
    sought = re.findall(r'(?:find|querySelector(?:All)?)\([`"]\.([a-z]+)', MIXER)
    assert len(set(sought)) >= 8
    for name in sought:
        assert re.search(rf'class="[^"]*\b{name}\b', body), name


def test_the_page_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "model_opener", lambda arguments: rtmtass.load)
    record(tmp_path / "a.wav", 1.0, 44100, 2)
    assert separate(tmp_path / "a.wav", "--report", tmp_path / "p.html") == 0
    assert list(Page((tmp_path / "p.html").read_text()).tracks) == ["mixture", *STEMS]


def test_the_longest_name_of_a_page_is_written_and_a_link_under_its_part_name_not_followed(
    tmp_path,
):
    longest, other = tmp_path / f"{'p' * 250}.html", tmp_path / "other"
    other.write_text("kept")
    page.write_page(longest, "text", "--report")
    assert longest.read_text() == "text"
    short = tmp_path / "short.html"
    (tmp_path / "short.html.part").symlink_to(other)
    with pytest.raises(OutputError, match="rm "):
        page.write_page(short, "text", "--report")
    assert other.read_text() == "kept"
