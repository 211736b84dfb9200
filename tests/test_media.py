"""Videos and other files that libsndfile can't read: the same samples by PyAV and by ffmpeg."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator
from media_clips import Track, needs_ffmpeg, noise, write_clip

import rtmtass
from rtmtass.cli.main import main
from rtmtass.errors import InputError, MissingPartError
from rtmtass.io.media import decoding, ffmpeg
from rtmtass.io.media.decoding import Backend
from rtmtass.io.media.ffmpeg import FfmpegBackend
from rtmtass.io.media.pyav import PyavBackend
from rtmtass.io.media.source import MediaSource
from rtmtass.io.opening import open_recording
from rtmtass.types import Samples

BACKENDS = [
    pytest.param(PyavBackend(), id="pyav"),
    pytest.param(FfmpegBackend(), id="ffmpeg", marks=needs_ffmpeg),
]
KINDS = {
    "a.mp4": ("mpeg4", "aac", 44100),
    "a.mkv": ("mpeg4", "flac", 48000),
    "a.webm": ("libvpx", "libopus", 48000),
    "a.m4a": (None, "alac", 44100),
    "a.mov": ("mpeg4", "pcm_s24le", 48000),
    "a.wma": (None, "wmav2", 44100),
    "a.avi": ("mpeg4", "mp3", 32000),
    "a.aac": (None, "aac", 22050),
    "a.ts": ("mpeg2video", "mp2", 48000),
    "a.mka": (None, "pcm_u8", 8000),
}
EXACT = ("alac", "flac", "pcm_s24le", "pcm_u8", "pcm_s16le")


def read_all(source: MediaSource, block: int = 1000) -> Samples:
    """Read a source to its end, by blocks, and close it."""
    parts = []
    with contextlib.closing(source):
        out = np.empty((block, source.channels), np.float32)
        while count := source.read(out):
            parts.append(out[:count].copy())
    return np.concatenate(parts)


def decode_by_command(path: Path) -> Samples:
    """Return what `ffmpeg -i PATH -f f32le` writes, (n, 2)."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vn", "-f", "f32le", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<f4").reshape(-1, 2)


@needs_ffmpeg
@pytest.mark.parametrize("name", KINDS)
def test_both_backends_give_the_samples_of_the_ffmpeg_command(tmp_path: Path, name: str) -> None:
    video, codec, rate = KINDS[name]
    path = write_clip(tmp_path / name, [Track(noise(rate=rate), rate, codec)], video=video)
    by_pyav, by_ffmpeg = (
        MediaSource(path, backend=backend()) for backend in (PyavBackend, FfmpegBackend)
    )
    assert by_pyav.sample_rate == by_ffmpeg.sample_rate == rate
    assert by_pyav.track == by_ffmpeg.track
    samples = read_all(by_ffmpeg)
    np.testing.assert_array_equal(samples, decode_by_command(path))
    # PyAV brings FFmpeg's libraries of another version, whose lossy decoders round otherwise.
    atol = 0 if codec in EXACT else 1e-6
    np.testing.assert_allclose(read_all(by_pyav, 777), samples, rtol=0, atol=atol)
    assert float(by_pyav.timeline.start) == pytest.approx(float(by_ffmpeg.timeline.start), abs=1e-3)
    expected = by_pyav.expected_frames
    assert expected is not None
    assert abs(expected - len(samples)) < 0.1 * rate


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", [1, 7, 1024, 100_000])
def test_the_size_of_blocks_changes_nothing(tmp_path: Path, backend: Backend, block: int) -> None:
    samples = noise(0.05, 8000)
    path = write_clip(tmp_path / "a.mkv", [Track(samples, 8000, "pcm_s16le")], video=None)
    source = MediaSource(path, backend=backend)
    np.testing.assert_allclose(read_all(source, block), samples, rtol=0, atol=2.0**-16)


@needs_ffmpeg
def test_a_log_read_after_the_end_of_ffmpeg_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_line = ffmpeg._FrameLog.read_line

    def read_late(log: ffmpeg._FrameLog, line: str) -> None:
        if "nb_samples:" in line and not log.sample_rate:
            time.sleep(1.0)
        read_line(log, line)

    monkeypatch.setattr(ffmpeg._FrameLog, "read_line", read_late)
    samples = noise(0.05, 8000)
    path = write_clip(tmp_path / "a.mkv", [Track(samples, 8000, "pcm_s16le")], video=None)
    start = time.monotonic()
    source = MediaSource(path, backend=FfmpegBackend())
    np.testing.assert_allclose(read_all(source), samples, rtol=0, atol=2.0**-16)
    assert time.monotonic() - start < 5.0, "the log's thread and the reader waited for each other"


@pytest.mark.parametrize("backend", BACKENDS)
def test_tracks_are_chosen_by_number_else_by_default(tmp_path: Path, backend: Backend) -> None:
    tracks = [
        Track(noise(0.1, seed=i), codec="pcm_s16le", tags={"language": lang}, is_default=i == 1)
        for i, lang in enumerate(("eng", "fra", "deu"))
    ]
    path = write_clip(tmp_path / "a.mkv", tracks)
    for number in (None, 1, 2, 3):
        source = MediaSource(path, track=number, backend=backend)
        assert source.number == (number or 2)
        wanted = tracks[source.number - 1]
        assert source.track.language == wanted.tags["language"]
        np.testing.assert_allclose(read_all(source), wanted.samples, rtol=0, atol=2.0**-16)
    with pytest.raises(InputError, match=r"3 audio tracks, not 4: 1 pcm_s16le .* add --track 3"):
        MediaSource(path, track=4, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_track_that_starts_late_has_its_start(tmp_path: Path, backend: Backend) -> None:
    late = Track(noise(0.3), codec="pcm_s16le", start_s=Fraction(1, 2))
    source = MediaSource(write_clip(tmp_path / "a.mov", [late]), backend=backend)
    np.testing.assert_allclose(read_all(source), late.samples, rtol=0, atol=2.0**-16)
    assert source.timeline.start == Fraction(1, 2)
    assert not source.timeline.gaps


@pytest.mark.parametrize("backend", BACKENDS)
def test_gaps_are_noted_and_not_filled(tmp_path: Path, backend: Backend) -> None:
    holed = Track(noise(0.4), codec="pcm_s16le", gap=(9600, Fraction(1, 4)))
    source = MediaSource(write_clip(tmp_path / "a.mkv", [holed]), backend=backend)
    assert len(read_all(source)) == len(holed.samples)
    ((position, length),) = source.timeline.gaps
    assert position == 9600
    assert length == pytest.approx(12000, abs=48)  # this container's times are in milliseconds


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", ["-i.mp4", "http:a b%d.mp4", "wav.wav", "a.mp3", "ünï.txt", "a'|b"]
)
def test_names_and_suffixes_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rtmtass.io.media.source.choose_backend", lambda _: backend)
    path = write_clip(tmp_path / "clip.mp4", [Track(noise(0.1))])
    path.rename(name)
    source = open_recording(Path(name))
    assert isinstance(source, MediaSource)
    assert len(read_all(source)) >= 4800


def test_a_sound_file_with_the_name_of_a_video_is_read_by_libsndfile(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.mp4", noise(0.1), 48000, format="WAV")
    with contextlib.closing(open_recording(tmp_path / "a.mp4")) as source:
        assert source.frames == 4800


@pytest.mark.parametrize("backend", BACKENDS)
def test_lists_of_other_files_are_not_followed(tmp_path: Path, backend: Backend) -> None:
    write_clip(tmp_path / "secret.ts", [Track(noise(0.1), codec="mp2")])
    lists = {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "a.txt": "ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="not a video or recording that FFmpeg can read"):
            MediaSource(tmp_path / name, backend=backend)


# --- damage


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "kept", "message"),
    [
        ("a.mp4", 0.5, r"has no index \(moov\), .* cut short"),
        ("fast.mp4", 0.9, r"is cut short: it holds \d+ of at least \d+ bytes \(90 %\)"),
        ("a.mkv", 0.5, "is cut short"),
        ("a.avi", 0.5, "is cut short"),
        ("a.wma", 0.5, "is cut short"),
        ("a.mp4", 0, "is empty"),
    ],
)
def test_truncated_files_are_refused(
    tmp_path: Path, backend: Backend, name: str, kept: float, message: str
) -> None:
    codec = {"a.wma": "wmav2", "a.avi": "mp3"}.get(name, "aac")
    options = {"movflags": "faststart"} if name == "fast.mp4" else {}
    video = None if name == "a.wma" else "mpeg4"
    path = write_clip(tmp_path / name, [Track(noise(1), codec=codec)], options=options, video=video)
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(InputError, match=message):
        MediaSource(path, backend=backend)
    if "cut short: " in message or message == "is cut short":
        source = MediaSource(path, allow_truncated=True, backend=backend)
        assert 0.2 < len(read_all(source)) / source.sample_rate < 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_damaged_packets_are_refused_or_passed_over(tmp_path: Path, backend: Backend) -> None:
    path = write_clip(tmp_path / "a.m4a", [Track(noise(1))], video=None)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + 8000
    data[middle : middle + 600] = b"\xff" * 600
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.m4a is damaged after 0\.\d\d s \(FFmpeg: "):
        read_all(MediaSource(path, backend=backend))
    kept = read_all(MediaSource(path, allow_truncated=True, backend=backend))
    assert 0.5 < len(kept) / 48000 < 1.03


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_no_sound_is_refused_in_words(tmp_path: Path, backend: Backend) -> None:
    silent = write_clip(tmp_path / "silent.mp4", [])
    with pytest.raises(InputError, match=r"silent\.mp4 is a video without sound, so"):
        MediaSource(silent, backend=backend)
    (tmp_path / "text.mp4").write_text("hello\n" * 99)
    with pytest.raises(InputError, match=r"text\.mp4 is not a video .*; fetch or export it again"):
        MediaSource(tmp_path / "text.mp4", backend=backend)
    with pytest.raises(InputError, match=r"none\.mp4 doesn't exist"):
        MediaSource(tmp_path / "none.mp4", backend=backend)


@needs_ffmpeg
def test_ffmpeg_ends_with_its_source(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.m4a", [Track(noise(5))], video=None)
    source = MediaSource(path, backend=FfmpegBackend())
    source.read(np.empty((100, 2), np.float32))  # far from the end: it waits for more reading
    process = source._decoder._process._process  # type: ignore[attr-defined]
    assert process.poll() is None
    source.close()
    assert process.poll() is not None
    source.close()


def test_without_pyav_and_ffmpeg_one_line_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(0.1))])
    soundfile.write(tmp_path / "b.wav", noise(0.1), 48000)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(decoding, "has_pyav", lambda: False)
    with pytest.raises(
        MissingPartError, match=r'PyAV or ffmpeg to be read: pip install "rtmtass\['
    ):
        MediaSource(path)
    assert separate(monkeypatch, path, tmp_path / "b.wav") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 2
    assert "a.mp4 needs PyAV or ffmpeg" in error
    assert (tmp_path / "b.speech.wav").exists()


# --- the command


def separate(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run `rtmtass separate` with the fake separator."""
    monkeypatch.setattr(rtmtass, "load", lambda *_, **__: FakeSeparator())
    return main(["separate", *map(str, words)])


def test_a_video_is_separated_into_flac(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = {"title": "A talk", "artist": "Ada", "encoder": "x"}
    path = write_clip(tmp_path / "talk.mp4", [Track(noise(rate=44100), 44100)], tags=tags)
    assert separate(monkeypatch, path, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    total = read_all(MediaSource(path))
    stems = [soundfile.read(name, dtype="float32")[0] for name in result["outputs"].values()]
    assert [Path(name).name for name in result["outputs"].values()] == [
        "talk.speech.flac", "talk.music.flac", "talk.noise.flac",
    ]  # fmt: skip
    np.testing.assert_allclose(sum(stems), total, rtol=0, atol=1e-5)
    assert (result["track"], result["codec"], result["frames"]) == (1, "aac", len(total))
    with soundfile.SoundFile(tmp_path / "talk.speech.flac") as file:
        assert (file.title, file.artist, file.subtype) == ("A talk", "Ada", "PCM_24")


def test_outputs_of_another_track_are_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "a.mkv", [Track(noise(0.1, seed=i)) for i in range(2)])
    assert separate(monkeypatch, path) == 0
    assert separate(monkeypatch, path, "--track", 2) == 1
    assert "exists and is of other settings" in capsys.readouterr().err


def test_videos_in_folders_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    clip = write_clip(tmp_path / "a.mp4", [Track(noise(0.1))])
    shutil.copy(clip, tmp_path / "sub" / "b.MOV")
    (tmp_path / "sub" / "module.ts").write_text("export const a = 1;\n" * 20)
    (tmp_path / "sub" / "c.mkv").touch()
    assert separate(monkeypatch, tmp_path, "--recursive", "-o", tmp_path / "o") == 1
    error = capsys.readouterr().err
    assert "1 of 3 recordings failed" in error
    assert "c.mkv is empty" in error
    assert (tmp_path / "o" / "a.speech.flac").exists()
    assert (tmp_path / "o" / "sub" / "b.speech.flac").exists()


def test_a_part_of_a_video_is_that_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mkv", [Track(noise(0.6), codec="pcm_s16le")])
    words = ("--from", "0.2", "--to", "0.3", "--run-in", "inf", "--format", "wav")
    assert separate(monkeypatch, path, *words) == 0
    stems = [soundfile.read(tmp_path / f"a.{stem}.wav")[0] for stem in rtmtass.STEMS]
    np.testing.assert_allclose(sum(stems), noise(0.6)[9600:14400], rtol=0, atol=1e-4)


def test_info_describes_all_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracks = [
        Track(noise(0.5, seed=i), tags={"language": lang}, is_default=i == 0)
        for i, lang in enumerate(("eng", "fra"))
    ]
    path = write_clip(tmp_path / "a.mkv", tracks, seconds=0.5)
    assert main(["info", str(path), "--json", "--track", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["container"] == "matroska,webm"
    assert (facts["format"], facts["codec"], facts["track"]) == ("mkv", "aac", 2)
    assert facts["tracks"] == ["aac 48000 Hz 2 channels eng", "aac 48000 Hz 2 channels fra"]
    assert facts["other_streams"] == ["video mpeg4"]
    assert facts["duration_s"] == pytest.approx(0.5, abs=0.1)
    assert facts["output_format"] == "flac"
    assert main(["info", str(path)]) == 0
    table = capsys.readouterr().out
    assert "1 aac 48000 Hz 2 channels eng, 2 aac 48000 Hz 2 channels fra; separated: 1" in table
    assert "about 0.5" in table
