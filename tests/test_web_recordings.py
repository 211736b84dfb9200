"""Recordings of the page on the server: overview, reading by position, mixing, jobs, refusals."""

from __future__ import annotations

import asyncio
import errno
import io
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator
from web_rig import Rig, children_of, in_server

import rtmtass
from rtmtass.config import STEMS
from rtmtass.errors import InputError, UsageError
from rtmtass.io.spans import SpanReader, is_seekable
from rtmtass.live.mixer import MixSettings
from rtmtass.types import Samples
from rtmtass.web import files, jobs, separating
from rtmtass.web.bands import BANDS
from rtmtass.web.folder import RunFolder
from rtmtass.web.mix import MixFile, MixRequest
from rtmtass.web.names import disposition, download_name, label_of, suffix_of
from rtmtass.web.overview import COLUMNS, MIXTURE, Overview, Spans
from rtmtass.web.samples import Tracks

RATE = 16000


def noise(seed: int, *shape: int, scale: float = 0.3) -> Samples:
    return np.random.default_rng(seed).uniform(-scale, scale, shape).astype(np.float32)


def cut(values: Samples, size: int) -> Iterator[Samples]:
    for at in range(0, len(values), size):
        yield values[at : at + size]


# --- the overview


@pytest.mark.parametrize("size", [1, 7, 1000, 4096, 50_000])
@pytest.mark.parametrize("join", [np.maximum, np.add])
def test_spans_join_every_unit_whatever_the_blocks(join: np.ufunc, size: int) -> None:
    values = noise(1, {1: 501, 7: 10_003}.get(size, 200_003), 3) ** 2
    spans = Spans(join, (3,))
    for block in cut(values, size):
        spans.add(block)
    whole = spans.columns(1)[0]
    np.testing.assert_allclose(whole, join.reduce(values, axis=0), rtol=1e-4)
    assert spans.units == len(values)


def test_a_column_of_the_overview_has_the_peaks_of_its_part() -> None:
    n = 1_000_000
    tracks = noise(2, 4, n, 1, scale=0.01)
    tracks[1, 123_456], tracks[2, 999_999], tracks[0, 0] = 0.5, -1.0, 0.25
    overview = Overview(STEMS, RATE, 1)
    for at in range(0, n, 77_777):
        overview.add(tracks[:, at : at + 77_777])
    peaks = np.frombuffer(overview.peaks(), np.int8).reshape(COLUMNS, 4)
    column = 123_456 * COLUMNS // n
    assert set(np.flatnonzero(peaks[:, 1] > 60)) - {column - 1, column + 1} == {column}
    assert (peaks[-1, 2], peaks[0, 0]) == (127, 32)
    assert peaks[1:, 0].max() <= 2


@pytest.mark.parametrize("n", [1, 100, 511, 5000])
def test_short_recordings_have_an_overview_and_a_picture(n: int) -> None:
    overview = Overview(STEMS, RATE, 2)
    overview.add(noise(3, 4, n, 2))
    assert len(overview.peaks()) == 4 * min(n, COLUMNS)
    picture = overview.picture()
    columns = int.from_bytes(picture[:2], "little")
    assert (picture[2], picture[3]) == (4, BANDS)
    assert columns == max(1, math.ceil(n / 256))
    assert len(picture) == 4 + columns * 4 * BANDS


@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_picture_shows_a_sine_at_its_level_and_frequency(rate: int) -> None:
    t = np.arange(3 * rate) / rate
    tracks = np.zeros((4, len(t), 1), np.float32)
    tracks[0, :, 0] = tracks[1, :, 0] = 0.1 * np.sin(2 * np.pi * 1000 * t)
    overview = Overview(STEMS, rate, 1)
    for at in range(0, len(t), rate):
        overview.add(tracks[:, at : at + rate])
    picture = np.frombuffer(overview.picture()[4:], np.uint8).reshape(-1, 4, BANDS)[10]
    power = 10 ** ((picture[1] / 2.55 - 100) / 10)
    assert 10 * np.log10(power.sum()) == pytest.approx(-23.0, abs=0.3)  # 0.1 RMS/√2
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (60, 8000))
    edges = np.linspace(low, high, BANDS + 1)
    band = int(np.searchsorted(edges, 2595 * np.log10(1 + 1000 / 700))) - 1
    assert abs(int(picture[1].argmax()) - band) <= 1
    assert picture[2].max() == 0


def test_the_overview_of_any_length_has_bounded_memory() -> None:
    spans = Spans(np.maximum, (4,))
    block = noise(4, 1 << 18, 4)
    for _ in range(12):  # 3 million units
        spans.add(block)
        assert len(spans._rows) < 4 * COLUMNS
    assert spans.columns(COLUMNS).shape == (COLUMNS, 4)


# --- reading by position


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_24"), ("aiff", "PCM_16")],
)
def test_a_span_is_that_part_of_the_file(tmp_path: Path, suffix: str, subtype: str) -> None:
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, noise(5, 100_000, 2), 44100, subtype)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0]
    assert is_seekable(path)
    reader = SpanReader(path)
    assert (reader.frames, reader.channels, reader.sample_rate) == (100_000, 2, 44100)
    rng = np.random.default_rng(6)
    for start in [0, 99_999, 100_000, 200_000, *rng.integers(0, 100_000, 20)]:
        count = int(rng.integers(1, 9000))
        np.testing.assert_array_equal(reader.read(int(start), count), whole[start : start + count])
    reader.close()


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "txt"])
def test_what_seeking_would_change_is_not_seekable(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "txt":
        path.write_text("no sound")
    else:
        soundfile.write(path, noise(7, 16000, 1), RATE)
    assert not is_seekable(path)
    with pytest.raises(InputError, match="can't be read"):
        SpanReader(tmp_path / "missing.wav")


def _bytes_read() -> int:
    text = Path("/proc/self/io").read_text()
    return int(text.split("rchar: ")[1].split()[0])


def test_far_into_an_hour_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    second = noise(8, RATE, 1)
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for k in range(3600):
            second[0] = k / 3600
            file.write(second)
    tracks = Tracks(dict.fromkeys([MIXTURE, *STEMS], path), 1)
    tracks.read(0, 10)
    before = _bytes_read()
    for k in (3599, 1, 1800, 3333):
        block = tracks.read(k * RATE, RATE)
        assert block.shape == (4, RATE, 1)
        np.testing.assert_allclose(block[:, 0, 0], k / 3600, atol=1e-4)
    assert _bytes_read() - before < 4 * 4 * 2 * RATE + 2_000_000
    assert tracks.read(3600 * RATE - 3, 100).shape == (4, 3, 1)
    with pytest.raises(UsageError, match="ask for 1000000 at most"):
        tracks.read(0, 1_000_001)
    tracks.close()
    with pytest.raises(UsageError, match="has been removed"):
        tracks.read(0, 1)


# --- the mix


def _write_stems(folder: Path, stems: Samples, suffix: str, subtype: str) -> dict[str, Path]:
    paths = {name: folder / f"{name}.{suffix}" for name in (MIXTURE, *STEMS)}
    for name, samples in zip(paths, [stems.sum(axis=0), *stems], strict=True):
        soundfile.write(paths[name], samples, 44100, subtype)
    return paths


@pytest.mark.parametrize(
    ("query", "settings"),
    [
        ({}, MixSettings(dict.fromkeys(STEMS, 0.0))),
        (
            {"speech": "3.5", "music": "-12", "noise": "off"},
            MixSettings({"speech": 3.5, "music": -12.0, "noise": -math.inf}),
        ),
        (
            {"music": "-40", "muted": "noise", "strength": "6"},
            MixSettings(
                {"speech": 0.0, "music": -40.0, "noise": 0.0}, frozenset({"noise"}), strength_db=6.0
            ),
        ),
        (
            {"soloed": "speech,music", "muted": "music"},
            MixSettings(
                dict.fromkeys(STEMS, 0.0), frozenset({"music"}), frozenset({"speech", "music"})
            ),
        ),
    ],
)
def test_the_mix_is_that_of_the_mixer(
    tmp_path: Path, query: dict[str, str], settings: MixSettings
) -> None:
    paths = _write_stems(tmp_path, noise(9, 3, 100_000, 2), "wav", "FLOAT")
    stems = np.stack([soundfile.read(paths[name], dtype="float32")[0] for name in STEMS])
    mix = MixFile(Tracks(paths, 2), paths["speech"], tmp_path)
    target = mix.make(MixRequest.parse(STEMS, query), threading.Event())
    assert target is not None
    made = soundfile.SoundFile(target)
    assert (made.samplerate, made.channels, made.subtype) == (44100, 2, "FLOAT")
    factors = [settings.factors()[name] for name in STEMS]
    expected = np.einsum("s,snc->nc", np.array(factors, np.float32), stems)
    np.testing.assert_allclose(made.read(dtype="float32"), expected, atol=1e-6)


def test_a_mix_beyond_full_scale_is_counted_or_limited(tmp_path: Path) -> None:
    stems = noise(10, 3, 20_000, 1, scale=0.9)
    paths = _write_stems(tmp_path, stems, "flac", "PCM_16")
    mix = MixFile(Tracks(paths, 1), paths["speech"], tmp_path)
    loud = {"speech": "6", "music": "6", "noise": "6"}
    first = mix.make(MixRequest.parse(STEMS, loud), threading.Event())
    assert first is not None
    assert mix.clipped > 4000
    assert mix.make(MixRequest.parse(STEMS, loud), threading.Event()) == first  # kept
    limited = mix.make(MixRequest.parse(STEMS, {**loud, "limit": "1"}), threading.Event())
    assert limited is not None
    assert mix.clipped == 0
    assert np.abs(soundfile.read(limited)[0]).max() < 10 ** (-1 / 20)
    assert not first.exists()


def test_a_mix_can_be_stopped(tmp_path: Path) -> None:
    paths = _write_stems(tmp_path, noise(11, 3, 50_000, 1), "wav", "FLOAT")
    stopped = threading.Event()
    stopped.set()
    mix = MixFile(Tracks(paths, 1), paths["speech"], tmp_path)
    assert mix.make(MixRequest.parse(STEMS, {}), stopped) is None
    assert {p for p in tmp_path.iterdir() if p.is_file()} == set(paths.values())


@pytest.mark.parametrize(
    "query",
    [
        {"speech": "nan"}, {"speech": "inf"}, {"speech": "21"}, {"speech": "-61"}, {"speech": ""},
        {"vocals": "0"}, {"muted": "vocals"}, {"soloed": "speech,<b>"}, {"strength": "-1"},
        {"strength": "61"}, {"limit": "yes"}, {"speech": "1" * 5000}, {"x" * 5000: "0"},
    ],
)  # fmt: skip
def test_bad_settings_of_a_mix_are_refused_in_a_short_line(query: dict[str, str]) -> None:
    with pytest.raises(UsageError) as error:
        MixRequest.parse(STEMS, query)
    assert len(str(error.value)) < 200


# --- names

HOSTILE = (
    "../../etc/passwd", "..\\..\\x.wav", "a\0b.wav", "two\nlines.wav", 'q"uo"te.flac',
    "\u202egnp.exe.wav", "ש\u200fלום.wav", "n" * 5000 + ".wav", "<img src=x onerror=alert(1)>.wav",
    "", "...", "/", "CON", "\ud800.wav", "%00%2f.wav", "tab\t;filename=x.wav", "名前.flac",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_become_labels_and_safe_downloads(name: str) -> None:
    label = label_of(name)
    assert label
    assert len(label) <= 200
    assert label.isprintable() or label == "\u05e9\u05dc\u05d5\u05dd.wav"
    assert "/" not in label
    assert "\\" not in label
    assert suffix_of(label) in ("", ".wav", ".flac")
    saved = download_name(label, "speech", ".flac")
    assert saved.endswith(".speech.flac")
    assert not saved.startswith(".")
    assert len(saved.encode()) <= 255
    assert not set(saved) & set('<>:"|?*\\/\0\r\n')
    header = disposition(saved)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    assert header.startswith('attachment; filename="')
    assert quote(saved, safe="") in header


# --- the process, with a fake network


@pytest.fixture
def fake_load(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(rtmtass, "load", lambda *_, **__: FakeSeparator())
    monkeypatch.setattr(separating, "_report", lambda **values: lines.append(values))
    return lines


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus", "aiff"])
def test_the_tracks_are_the_recording_and_its_stems(
    tmp_path: Path, fake_load: list[dict[str, Any]], suffix: str
) -> None:
    rate = 48000
    x = noise(12, 2 * rate, 2)
    path = tmp_path / f"input.{suffix}"
    if suffix == "opus":
        soundfile.write(path, x, rate, "OPUS", format="OGG")
    else:
        soundfile.write(path, x, rate)
    made = separating._separate(path, tmp_path / "out", "rtmtass-small", "auto", 1)
    recording = jobs.Recording("x", tmp_path, path)
    recording.update(made)
    tracks = jobs.done(recording).tracks.read(0, 10 * rate)
    assert tracks.shape == (4, made["frames"], 2)
    assert list(recording.stems) == list(STEMS)
    if suffix in ("wav", "flac", "aiff"):
        np.testing.assert_array_equal(tracks[0], soundfile.read(path, dtype="float32")[0])
        for k, stem in enumerate(STEMS):
            expected = soundfile.read(recording.stems[stem], dtype="float32")[0]
            np.testing.assert_array_equal(tracks[1 + k], expected)
    np.testing.assert_allclose(tracks[1:].sum(axis=0), tracks[0], atol=2e-4)
    assert sum("done" in line for line in fake_load) >= 1
    assert len((tmp_path / "out" / "peaks.bin").read_bytes()) == 4 * COLUMNS


def test_a_video_has_tracks_and_flac_stems(tmp_path: Path, fake_load: list[dict[str, Any]]) -> None:
    from media_clips import Track, write_clip

    from rtmtass.io.media.source import MediaSource

    path = write_clip(tmp_path / "input.mp4", [Track(noise(14, 44100, 2), 44100)])
    made = separating._separate(path, tmp_path / "out", "rtmtass-small", "auto", 1)
    recording = jobs.Recording("talk.mp4", tmp_path, path)
    recording.update(made)
    tracks = jobs.done(recording).tracks.read(0, 100_000)
    assert {p.suffix for p in recording.stems.values()} == {".flac"}
    expected = np.zeros((50_000, 2), np.float32)
    source = MediaSource(path)
    frames = source.read(expected)
    source.close()
    assert frames == recording.frames
    np.testing.assert_allclose(tracks[0], expected[:frames], atol=2.0**-15)
    np.testing.assert_allclose(tracks[1:].sum(axis=0), tracks[0], atol=2.0**-14)


# --- requests


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make temporary folders below one of this test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


async def _post(rig: Rig, path: str, data: Any = None) -> tuple[int, str]:
    headers = {"Origin": rig.origin}
    data = io.BytesIO(data) if isinstance(data, bytes) else data
    async with rig.session.post(rig.address + path, data=data, headers=headers) as response:
        return response.status, await response.text()


async def _delete(rig: Rig, key: str) -> int:
    headers = {"Origin": rig.origin}
    async with rig.session.delete(f"{rig.address}api/files/{key}", headers=headers) as response:
        return response.status


async def _upload(rig: Rig, data: Any, name: str = "talk.wav") -> str:
    status, text = await _post(rig, f"api/files?name={quote(name)}", data)
    assert status == 200, text
    return text.split('"')[3]


async def _state(rig: Rig, key: str) -> dict[str, Any]:
    async with rig.session.get(f"{rig.address}api/files/{key}") as response:
        state: dict[str, Any] = await response.json()
        return state


async def _until(rig: Rig, key: str, *states: str) -> dict[str, Any]:
    while (state := await _state(rig, key))["state"] not in states:
        await asyncio.sleep(0.05)
    return state


def wav_bytes(folder: Path, seconds: float) -> bytes:
    path = folder / "made.wav"
    soundfile.write(path, noise(13, int(seconds * RATE), 1), RATE)
    return path.read_bytes()


def contents(folder: Path) -> list[str]:
    """Return what is in the folders of the server below a temporary folder."""
    return sorted(p.name for run in folder.glob("rtmtass-web-*") for p in run.iterdir())


def test_uploads_that_are_too_large_or_empty_leave_nothing(own_folder: Path) -> None:
    async def chunks() -> Any:
        for _ in range(100):
            yield b"\0" * 100_000

    async def test(rig: Rig) -> None:
        status, text = await _post(rig, "api/files?name=a.wav", b"\0" * 2_000_000)
        assert (status, text.count("\n")) == (413, 1)
        assert "larger than 1 MB; start rtmtass web with a larger --max-upload" in text
        status, text = await _post(rig, "api/files?name=a.wav", chunks())
        assert (status, "larger than 1 MB" in text) == (413, True)
        status, text = await _post(rig, "api/files?name=a.wav", b"")
        assert (status, text) == (422, "a.wav is empty (0 bytes); record or export it again\n")
        assert contents(own_folder) == ["lock"]

    in_server(test, max_upload_bytes=1_000_000)
    assert list(own_folder.iterdir()) == []


def test_a_full_disk_is_one_line(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        usage = shutil.disk_usage(own_folder)._replace(free=1000)
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", lambda _: usage)
            status, text = await _post(rig, "api/files?name=a.wav", b"\0" * 100_000)
            assert (status, text.count("\n")) == (507, 1)
            assert f"the disk of {own_folder} is full" in text

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(files, "_write_chunk", full)
            status, text = await _post(rig, "api/files?name=a.wav", b"\0" * 100_000)
            assert (status, "is full: free some space" in text) == (507, True)
        assert contents(own_folder) == ["lock"]

    in_server(test)


def test_unknown_recordings_and_bad_numbers_are_refused() -> None:
    async def test(rig: Rig) -> None:
        for path in ("x", "x/overview", "x/samples?start=0&frames=1", "x/mix", "x/stems/speech"):
            status, text = await rig.get(f"api/files/{path}")
            assert (status, "drop the file again" in text) == (404, True)
        assert (await _delete(rig, "..%2f..%2fetc")) == 404
        key = await _upload(rig, b"text " * 1000, "notes.txt")
        for query in ("", "start=-1&frames=1", "start=0&frames=x", f"start={'9' * 16}&frames=1"):
            status, text = await rig.get(f"api/files/{key}/samples?{query}")
            assert (status, text.count("\n"), len(text) < 120) == (400, 1, True)
        status, text = await rig.get(f"api/files/{key}/samples?start=0&frames=1")
        assert (status, "isn't separated yet" in text) == (422, True)

    in_server(test)


def separating_processes() -> list[int]:
    """Return the processes that separate; other tests' may have left children of other kinds."""
    found = children_of(os.getpid())
    return [pid for pid, words in found.items() if "rtmtass.web.separating" in words]


def test_few_recordings_wait(own_folder: Path, tmp_path: Path) -> None:
    data = wav_bytes(tmp_path, 600)

    async def test(rig: Rig) -> None:
        keys = [await _upload(rig, data) for _ in range(jobs.MOST_WAITING + 1)]
        status, text = await _post(rig, "api/files?name=b.wav", b"\0" * 100)
        assert (status, text) == (
            503, "4 recordings are waiting already; try again when one is done\n",
        )  # fmt: skip
        states = [(await _state(rig, key))["state"] for key in keys]
        assert sorted(states) == ["separating", *["waiting"] * jobs.MOST_WAITING]
        assert len(separating_processes()) == 1
        assert await _delete(rig, keys[-1]) == 204
        await _upload(rig, data)

    in_server(test)
    assert not separating_processes()
    assert list(own_folder.iterdir()) == []


def test_what_cannot_be_separated_fails_in_one_line(tmp_path: Path) -> None:
    whole = wav_bytes(tmp_path, 1)
    bad = {
        "notes.wav": b"not sound at all, but text\n" * 50,
        "cut; rm -rf.wav": whole[: len(whole) // 2],
        "fake.mp4": b"\0\0\0\x20ftypisom" + b"\0" * 3000,
    }

    async def test(rig: Rig) -> None:
        keys = {name: await _upload(rig, data, name) for name, data in bad.items()}
        for name, key in keys.items():
            problem = (await _until(rig, key, "failed"))["problem"]
            assert problem.startswith(name), problem
            assert "\n" not in problem
            assert "rtmtass-web-" not in problem
            assert "Traceback" not in problem

    in_server(test)


def test_removing_a_recording_ends_its_separation(own_folder: Path, tmp_path: Path) -> None:
    data = wav_bytes(tmp_path, 1800)

    async def test(rig: Rig) -> None:
        key = await _upload(rig, data)
        while not (await _state(rig, key))["fraction"]:
            await asyncio.sleep(0.05)
        (process,) = separating_processes()
        assert await _delete(rig, key) == 204
        assert process not in separating_processes()
        assert contents(own_folder) == ["lock"]
        assert (await rig.get(f"api/files/{key}"))[0] == 404

    in_server(test)


def test_a_recording_without_a_page_is_removed(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ABANDONED_S", 0.3)

    async def test(rig: Rig) -> None:
        await _upload(rig, b"text " * 100)
        while contents(own_folder) != ["lock"]:
            await asyncio.sleep(0.02)

    in_server(test)


def test_an_upload_that_breaks_off_leaves_nothing(own_folder: Path) -> None:
    async def half() -> Any:
        yield b"\0" * 100_000
        raise aiohttp.ClientConnectionError("the page is gone")

    async def test(rig: Rig) -> None:
        with pytest.raises(aiohttp.ClientError):
            await _post(rig, "api/files?name=a.wav", half())
        while contents(own_folder) != ["lock"]:
            await asyncio.sleep(0.02)

    in_server(test)


def test_folders_of_killed_runs_are_removed_and_others_stay(own_folder: Path) -> None:
    running = RunFolder()
    (running.path / "kept").touch()
    killed = own_folder / "rtmtass-web-killed"
    killed.mkdir()
    (killed / "lock").touch()
    (killed / "input.wav").touch()
    elsewhere = own_folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (own_folder / "rtmtass-web-link").symlink_to(elsewhere)
    other = RunFolder()
    assert not killed.exists()
    assert (running.path / "kept").exists()
    assert (elsewhere / "lock").exists()
    assert other.path.stat().st_mode & 0o077 == 0
    running.close()
    other.close()
    assert sorted(p.name for p in own_folder.iterdir()) == ["elsewhere", "rtmtass-web-link"]
