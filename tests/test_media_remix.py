"""Remixes in videos: pictures to the bit, sound to the sample where it was, all else kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator
from media_clips import Track, needs_ffmpeg, noise, write_clip

import rtmtass
from rtmtass.cli.main import main
from rtmtass.errors import OutputError
from rtmtass.io.media import decoding, sink
from rtmtass.io.media.decoding import Backend
from rtmtass.io.media.ffmpeg import FfmpegBackend
from rtmtass.io.media.ffmpeg_muxer import FfmpegMuxer
from rtmtass.io.media.pyav import PyavBackend
from rtmtass.io.media.pyav_muxer import PyavMuxer
from rtmtass.io.media.sink import MediaSink, OpenMuxer
from rtmtass.io.media.source import MediaSource
from rtmtass.types import Samples

HERE = Path(__file__).parent
PROGRAMS = [
    pytest.param((PyavBackend(), PyavMuxer), id="pyav"),
    pytest.param((FfmpegBackend(), FfmpegMuxer), id="ffmpeg", marks=needs_ffmpeg),
]
Program = tuple[Backend, OpenMuxer]


def remix(path: Path, target: Path, program: Program, **options: Any) -> MediaSink:
    """Write a file's sound, unchanged, into a copy of it; return the closed sink."""
    backend, open_muxer = program
    with contextlib.closing(MediaSource(path, backend=backend)) as source:
        out = MediaSink(
            target, source.sample_rate, source.channels, source=source, open_muxer=open_muxer,
            **options,
        )  # fmt: skip
        block = np.empty((1000, source.channels), np.float32)
        try:
            while count := source.read(block):
                out.write(block[:count])
            out.publish()
        except BaseException:
            out.abandon()
            raise
    return out


def decode(path: Path, track: int | None = None) -> tuple[Fraction, Samples, int]:
    """Return the time of the first sample in seconds, all samples, and their rate."""
    parts = []
    with contextlib.closing(MediaSource(path, track=track, backend=PyavBackend())) as source:
        block = np.empty((4096, source.channels), np.float32)
        while count := source.read(block):
            parts.append(block[:count].copy())
        return source.timeline.start, np.concatenate(parts), source.sample_rate


def pictures(path: Path) -> list[tuple[Fraction, str]]:
    """Return the time of each picture, and a digest of its packet."""
    with av.open(str(path)) as container:
        return [
            (packet.pts * packet.time_base, hashlib.sha256(bytes(packet)).hexdigest())
            for packet in container.demux(video=0)
            if packet.size and packet.pts is not None and packet.time_base is not None
        ]


def samples_late(path: Path, original: Path) -> float:
    """Return by how many samples the sound of a file is later, against its pictures."""
    (start, sound, rate), (start_0, sound_0, _) = decode(path), decode(original)
    size = 1 << 17
    spectra = (np.fft.rfft(x.sum(axis=1), size) for x in (sound_0, sound))
    correlation = np.fft.irfft(next(spectra).conj() * next(spectra))
    shift = int(np.argmax(correlation))
    shift -= size if shift > size // 2 else 0
    times = start - pictures(path)[0][0], start_0 - pictures(original)[0][0]
    return float((times[0] - times[1]) * rate + shift)


CLIPS = {
    "a.mp4": ("libx264", "aac", 48000),
    "b.mov": ("mpeg4", "pcm_s16le", 44100),
    "c.mkv": ("libx264", "aac", 48000),
    "d.webm": ("libvpx", "libopus", 48000),
    "e.ts": ("mpeg2video", "mp2", 48000),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("name", "suffix", "start"),
    [("a.mp4", "mp4", Fraction(0)), ("a.mp4", "mp4", Fraction(1, 2)),
     ("a.mp4", "mkv", Fraction(1, 2)), ("b.mov", "mp4", Fraction(12345, 48000)),
     ("b.mov", "mov", Fraction(1, 2)), ("c.mkv", "mkv", Fraction(0)),
     ("c.mkv", "mp4", Fraction(1, 2)), ("d.webm", "webm", Fraction(0)),
     ("d.webm", "webm", Fraction(1, 2)), ("e.ts", "mp4", Fraction(12345, 48000))],
)  # fmt: skip
def test_pictures_are_copied_and_the_sound_stays_where_it_was(
    tmp_path: Path, program: Program, name: str, suffix: str, start: Fraction
) -> None:
    video, codec, rate = CLIPS[name]
    track = Track(noise(0.5, rate), rate, codec, start_s=start)
    path = write_clip(tmp_path / name, [track], video=video)
    target = tmp_path / f"remix.{suffix}"
    remix(path, target, program)
    before, after = pictures(path), pictures(target)
    assert [digest for _, digest in after] == [digest for _, digest in before]
    for (time_0, _), (time_1, _) in zip(before, after, strict=True):
        assert abs((time_1 - after[0][0]) - (time_0 - before[0][0])) <= Fraction(1, 1000)
    # Matroska and MPEG-TS have coarser times than samples; MP4 and QuickTime have not.
    is_exact = Path(name).suffix in (".mp4", ".mov") and suffix in ("mp4", "mov")
    late = samples_late(target, path)
    assert abs(late) < (1e-3 if is_exact else 0.001 * rate), f"{late} samples"


@pytest.mark.parametrize("program", PROGRAMS)
def test_gaps_of_the_sound_are_filled_with_silence(tmp_path: Path, program: Program) -> None:
    samples = noise(0.6)
    track = Track(samples, codec="pcm_s16le", gap=(14400, Fraction(1, 4)))
    path = write_clip(tmp_path / "a.mkv", [track])
    remix(path, tmp_path / "b.mp4", program)
    _, sound, _ = decode(tmp_path / "b.mp4")
    assert np.abs(sound[14400 + 2000 : 14400 + 10000]).max() < 0.01
    behind = sound[14400 + 12000 : 14400 + 12000 + 9600, 0]
    assert np.corrcoef(behind, samples[14400:24000, 0])[0, 1] > 0.5


def rich_clip(folder: Path, suffix: str = "mkv") -> Path:
    """Write a clip with two tracks, subtitles, chapters, tags and a rotation, by ffmpeg."""
    tracks = [
        Track(noise(0.5, seed=i), tags={"language": lang, "title": lang.upper()}, is_default=i == 1)
        for i, lang in enumerate(("eng", "fra"))
    ]
    write_clip(folder / "plain.mkv", tracks, video="libx264")
    (folder / "a.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nhello\n")
    (folder / "meta").write_text(
        ";FFMETADATA1\ntitle=A talk\nartist=Ada\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=200\ntitle=One\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=200\nEND=500\ntitle=Two\n"
    )
    path = folder / f"rich.{suffix}"
    words = ["-i", "plain.mkv", "-i", "a.srt", "-i", "meta", "-map", "0", "-map", "1"]
    words += ["-map_metadata", "2", "-map_chapters", "2", "-c", "copy", "-c:s"]
    words += ["srt" if suffix == "mkv" else "mov_text", "-metadata:s:v", "rotate=90", path.name]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *words], cwd=folder, check=True)
    return path


def contents(path: Path) -> dict[str, Any]:
    """Return what is in a file besides samples."""
    with av.open(str(path)) as container:
        return {
            "kinds": [stream.type for stream in container.streams if stream.type != "data"],
            "languages": [stream.language for stream in container.streams.audio],
            "default": [bool(stream.disposition.value & 1) for stream in container.streams.audio],
            "chapters": [
                (c["metadata"].get("title"), float(c["start"] * (c["time_base"] or 0)))
                for c in container.chapters()
            ],
            "tags": [container.metadata.get(name) for name in ("title", "artist")],
        }


def rotation(path: Path) -> list[str]:
    """Return by how many degrees players turn the pictures."""
    words = ["-v", "error", "-show_entries", "stream_side_data=rotation", "-of", "csv=p=0"]
    done = subprocess.run(["ffprobe", *words, path], capture_output=True, text=True, check=True)
    return done.stdout.split()


@needs_ffmpeg
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
def test_all_else_is_kept(tmp_path: Path, program: Program, suffix: str) -> None:
    path = rich_clip(tmp_path, suffix)
    remix(path, tmp_path / f"b.{suffix}", program)
    assert contents(tmp_path / f"b.{suffix}") == contents(path)
    assert contents(path)["kinds"] == ["video", "audio", "audio", "subtitle"]
    assert rotation(tmp_path / f"b.{suffix}") == rotation(path)
    assert rotation(path) or suffix == "mkv"
    other = 1 if contents(path)["default"] == [False, True] else 2
    before, after = (decode(p, other)[1] for p in (path, tmp_path / f"b.{suffix}"))
    np.testing.assert_array_equal(after, before)


@needs_ffmpeg
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_the_container_cannot_hold_is_left_out_and_named(
    tmp_path: Path, program: Program
) -> None:
    written = remix(rich_clip(tmp_path), tmp_path / "b.mp4", program)
    assert written.left_out == ["subtitle subrip"]
    assert written.about["copied"] == ["video h264", "audio aac 48000 Hz 2 channels eng ENG"]
    assert contents(tmp_path / "b.mp4")["kinds"] == ["video", "audio", "audio"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_pictures_that_the_container_cannot_hold_are_refused_at_once(
    tmp_path: Path, program: Program
) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(0.1))])
    with pytest.raises(OutputError, match=r"b\.webm can't hold the mpeg4 video of .* b\.mkv"):
        remix(path, tmp_path / "b.webm", program)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_remix_can_be_sound_alone(tmp_path: Path, program: Program) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(0.3))], tags={"title": "A talk"})
    remix(path, tmp_path / "b.m4a", program, bitrate=64)
    assert contents(tmp_path / "b.m4a")["kinds"] == ["audio"]
    assert contents(tmp_path / "b.m4a")["tags"] == ["A talk", None]


@pytest.mark.parametrize("program", PROGRAMS)
def test_rates_without_an_encoder_are_refused(tmp_path: Path, program: Program) -> None:
    with pytest.raises(OutputError, match=r"mp4 takes AAC, .* 192000 Hz with 2 .*; name it b\.mkv"):
        MediaSink(tmp_path / "b.mp4", 192_000, 2, source=None, open_muxer=program[1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unwritable_folder_is_named(tmp_path: Path, program: Program) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(0.1))])
    with pytest.raises(OutputError, match=r"b\.mp4 can't be written: .*not a folder"):
        remix(path, tmp_path / "none" / "b.mp4", program)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_full_disk_is_named(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mkv", [Track(noise(2))])

    class NoPart:
        def __init__(self, path: Path) -> None: ...
        def close(self) -> None: ...
        def remove(self) -> None: ...

    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(sink, "PartFile", NoPart)
    monkeypatch.setattr(sink, "part_path", lambda _: full)
    with pytest.raises(OutputError, match=r"b\.mkv can't be written: the disk is full"):
        remix(path, tmp_path / "b.mkv", program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_abandoned_remix_leaves_nothing(tmp_path: Path, program: Program) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(0.3))], options={"movflags": "faststart"})
    with contextlib.closing(MediaSource(path, backend=program[0])) as source:
        out = MediaSink(tmp_path / "b.mp4", 48000, 2, source=source, open_muxer=program[1])
        out.write(np.zeros((9600, 2), np.float32))
        assert (tmp_path / "b.mp4.part").exists()
        out.abandon()
        out.abandon()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_copying_of_the_rest_can_be_stopped(tmp_path: Path, program: Program) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(0.2))], seconds=5)
    stopped = threading.Event()
    with contextlib.closing(MediaSource(path, backend=program[0])) as source:
        out = MediaSink(
            tmp_path / "b.mp4", 48000, 2, source=source, open_muxer=program[1], stopped=stopped
        )
        out.write(np.zeros((9600, 2), np.float32))
        stopped.set()
        with contextlib.suppress(OutputError):  # unless it was done before
            out.complete()
        out.abandon()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("name", ["-b.mp4", "http:b %d.mp4", "b'|c.mp4"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_names_of_outputs_mean_nothing(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(Path("a.mp4"), [Track(noise(0.1))])
    remix(Path("a.mp4"), Path(name), program)
    assert len(pictures(tmp_path / name)) == 6


# --- the command


@pytest.fixture(params=["pyav", pytest.param("ffmpeg", marks=needs_ffmpeg)])
def separate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs `rtmtass separate` with the fake separator."""
    monkeypatch.setattr(rtmtass, "load", lambda *_, **__: FakeSeparator())
    for module in (decoding, sink):
        monkeypatch.setattr(module, "has_pyav", lambda: request.param == "pyav")
    return lambda *words: main(["separate", *map(str, words)])


def test_a_video_is_remixed_by_the_command(
    tmp_path: Path, separate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "talk.mp4", [Track(noise(0.4))], seconds=0.4)
    target = tmp_path / "talk.quiet.mp4"
    words = (path, "--stems", "none", "--gain", "music=-6,speech=-6,noise=-6", "--mix", target)
    assert separate(*words, "--json", "--bitrate", 256) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["outputs"] == {"mix": str(target)}
    assert result["remix"] == {
        "container": "mp4", "codec": "aac", "copied": ["video mpeg4"], "left_out": [],
    }  # fmt: skip
    assert [d for _, d in pictures(target)] == [d for _, d in pictures(path)]
    assert samples_late(target, path) == pytest.approx(0, abs=1e-3)
    before, after = decode(path)[1], decode(target)[1]
    halves = np.abs(after[:14400]).mean() / np.abs(before[:14400]).mean()
    assert halves == pytest.approx(0.5, abs=0.05)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["talk.mp4", "talk.quiet.mp4"]


def test_a_second_run_keeps_a_finished_remix(
    tmp_path: Path, separate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(0.1))], seconds=0.1)
    words = (path, "--stems", "none", "--mix", tmp_path / "b.mp4", "--json", "--gain")
    assert separate(*words, "music=-6") == 0
    assert separate(*words, "music=-6") == 0
    assert [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()] == [
        "done", "skipped",
    ]  # fmt: skip
    assert separate(*words, "music=-9") == 1
    assert "b.mp4 exists and is of other settings" in capsys.readouterr().out


def test_remixes_in_a_folder_keep_their_containers(tmp_path: Path, separate: Any) -> None:
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "a.mp4", [Track(noise(0.1))], seconds=0.1)
    soundfile.write(tmp_path / "in" / "b.wav", noise(0.1), 48000)
    assert separate(tmp_path / "in", "-o", tmp_path / "o", "--gain", "music=-6", "--mix",
                    tmp_path / "quiet") == 0  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "quiet").iterdir()) == ["a.mix.mp4", "b.mix.wav"]


def test_a_sound_file_is_remixed_into_an_m4a(tmp_path: Path, separate: Any) -> None:
    soundfile.write(tmp_path / "a.wav", noise(0.3, 44100), 44100)
    words = (tmp_path / "a.wav", "--stems", "none", "--gain", "music=0", "--mix")
    assert separate(*words, tmp_path / "b.m4a") == 0
    _, sound, rate = decode(tmp_path / "b.m4a")
    assert rate == 44100
    assert abs(len(sound) - 13230) <= 1024


def test_a_part_of_a_video_is_refused(
    tmp_path: Path, separate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(0.3))])
    words = (path, "--stems", "none", "--gain", "music=0", "--from", "0.1", "--mix")
    assert separate(*words, tmp_path / "b.mp4") == 2
    assert "pictures are copied as they are" in capsys.readouterr().err
    assert separate(*words, tmp_path / "b.m4a") == 0


INTERRUPTED = """
import os, signal, sys, threading, time
sys.path[:0] = [{root!r}, {tests!r}]
import rtmtass
from fakes import FakeSeparator
from rtmtass.cli import main as command
from rtmtass.io.media import decoding, sink

class Slow(FakeSeparator):
    def process_with_highband(self, block):
        time.sleep(0.05)
        return super().process_with_highband(block)

    def fork(self, **_):
        return Slow(self.channels)

for module in (decoding, sink):
    module.has_pyav = lambda: {pyav!r}
rtmtass.load = lambda *_, **__: Slow()
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("program", ["pyav", pytest.param("ffmpeg", marks=needs_ffmpeg)])
def test_ctrl_c_leaves_no_half_of_a_video(tmp_path: Path, program: str) -> None:
    path = write_clip(tmp_path / "a.mp4", [Track(noise(30, 8000), 8000)], seconds=30)
    script = INTERRUPTED.format(root=str(HERE.parent), tests=str(HERE), pyav=program == "pyav")
    words = ["separate", str(path), "--stems", "none", "--gain", "music=0", "--mix", "b.mp4"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], cwd=tmp_path, stderr=subprocess.PIPE
    )
    part = tmp_path / "b.mp4.part"
    while not part.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error.decode()
    assert b"stopped" in error
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    command = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False)
    assert f"file:{path}" not in command.stdout
