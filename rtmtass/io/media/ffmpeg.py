"""Reads media files by the programs ffmpeg and ffprobe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.errors import InputError
from rtmtass.io.media.contents import Contents, Stream
from rtmtass.io.media.decoding import OnDamage, changed
from rtmtass.io.media.program import LOG_LEVEL, Process, input_words, probe_words
from rtmtass.io.media.timeline import Timeline
from rtmtass.io.part_file import why_unreadable
from rtmtass.types import Samples

_FLOAT = "f32le" if sys.byteorder == "little" else "f32be"
_FACT = re.compile(r"\b(n|pts|rate|channels|nb_samples|chlayout):(\S+)")
_DAMAGE = re.compile(
    r"\[error\] (?:Error while decoding|Error submitting packet|Error processing packet"
    r"|Error during demuxing|Error demuxing|file:.*: \S)"
)
_LOG_S = 5.0  # the log is behind the samples by milliseconds


class FfmpegBackend:
    """A `Backend`."""

    name = "ffmpeg"

    def examine(self, path: Path) -> Contents:
        """See `Backend`."""
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise InputError(why_unreadable(path, error)) from error
        done = subprocess.run(
            probe_words(path), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            reason = without_name(lines[-1], path) if lines else "no reason given"
            raise InputError(
                f"{path} is not a video or recording that FFmpeg can read ({reason}); fetch or"
                " export it again"
            )
        return _contents(json.loads(done.stdout))

    def open_track(self, path: Path, index: int, on_damage: OnDamage) -> FfmpegDecoder:
        """See `Backend`."""
        return FfmpegDecoder(path, index, on_damage)


def without_name(line: str, path: Path) -> str:
    """Return a line of ffmpeg's log without the file's name before it."""
    return line.removeprefix(f"file:{path}: ")


def _contents(facts: Mapping[str, Any]) -> Contents:
    about = facts.get("format", {})
    return Contents(
        about.get("format_name", ""),
        tuple(_stream(stream) for stream in facts.get("streams", [])),
        _number(about.get("duration")),
        Fraction(about["start_time"]) if "start_time" in about else None,
        dict(about.get("tags", {})),
        len(facts.get("chapters", [])),
    )


def _stream(facts: Mapping[str, Any]) -> Stream:
    tags, disposition = facts.get("tags", {}), facts.get("disposition", {})
    codec = facts.get("codec_name", "")
    return Stream(
        index=facts["index"],
        kind=facts.get("codec_type", "data"),
        codec="" if codec in ("none", "unknown") else codec,
        sample_format=facts.get("sample_fmt", ""),
        sample_rate=int(facts.get("sample_rate", 0)),
        channels=int(facts.get("channels", 0)),
        language=tags.get("language", "").replace("und", ""),
        title=tags.get("title", ""),
        is_default=bool(disposition.get("default")),
        is_cover=bool(disposition.get("attached_pic")),
        duration_s=_number(facts.get("duration")),
    )


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


class FfmpegDecoder:
    """A `TrackDecoder`: an ffmpeg that writes its samples to a pipe, and their times to its log.

    Args:
        path: of the file.
        index: of the stream.
        on_damage: see `OnDamage`.

    Raises:
        InputError: the track can't be decoded, or holds no samples.
    """

    def __init__(self, path: Path, index: int, on_damage: OnDamage) -> None:
        self.timeline = Timeline()
        self._path = path
        self._on_damage = on_damage
        self._position = 0
        self._is_ended = False
        self._log = _FrameLog(self.timeline)
        # Other streams are left out before the input, so that they aren't even read.
        command = ["ffmpeg", *LOG_LEVEL, "-nostdin", "-vn", "-sn", "-dn", "-copyts"]
        command += [*input_words(path), "-map", f"0:{index}", "-af", "ashowinfo"]
        command += ["-c:a", f"pcm_{_FLOAT}", "-f", _FLOAT, "pipe:1"]
        self._process = Process(command, stdout=True, on_line=self._log.read_line)
        try:
            self._log.wait_for(0, self._process)
            if not self._log.sample_rate:
                self._process.wait()
                raise InputError(
                    f"{path} holds no audio that can be decoded (0 s): ffmpeg says"
                    f" {without_name(self._process.reason(), path)}; record or export it again"
                )
        except BaseException:
            self.close()
            raise
        self.sample_rate = self._log.sample_rate
        self.channels = self._log.channels
        self.layout = self._log.layout

    def read(self, out: Samples) -> int:
        """See `TrackDecoder`."""
        if self._is_ended:
            return 0
        block = out if out.flags.c_contiguous else np.empty_like(out)
        view = block.data.cast("B")
        filled, width = 0, 4 * self.channels
        while filled < len(view) and (count := self._process.stdout.readinto(view[filled:])):
            filled += count
        frames = filled // width
        if block is not out:
            out[:frames] = block[:frames]
        self._position += frames
        self._log.wait_for(self._position, self._process)
        if filled < len(view):
            self._is_ended = True
            self._finish()
        if self._log.change and self._position > self._log.change[0]:
            raise InputError(changed(self._path, self, *self._log.change[1:]))
        if self._log.damaged_at is not None and self._position >= self._log.damaged_at:
            self._log.damaged_at = None
            self._on_damage(without_name(self._process.reason(), self._path))
        return frames

    def close(self) -> None:
        """See `TrackDecoder`."""
        self._process.kill()

    def _finish(self) -> None:
        """Wait for ffmpeg's end, and see whether it was a good one."""
        code = self._process.wait()
        if code and self._log.damaged_at is None:
            self._log.damaged_at = self._position


class _FrameLog:
    """What the filter `ashowinfo` and the decoder write to the log.

    Args:
        timeline: to add the frames to.

    Attributes:
        sample_rate, channels, layout: of the first frame; 0 and "" before it.
        change: position, rate and channels of the first frame that differs.
        damaged_at: position of an error of the decoder behind the first frame.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.sample_rate = self.channels = 0
        self.layout = ""
        self.change: tuple[int, int, int] | None = None
        self.damaged_at: int | None = None
        self._timeline = timeline
        self._changed = threading.Condition()

    def read_line(self, line: str) -> None:
        """Take in a line."""
        with self._changed:
            if "ashowinfo" in line and "nb_samples:" in line:
                self._add_frame(dict(_FACT.findall(line)))
                self._changed.notify()
            elif self.damaged_at is None and self._timeline.position and _DAMAGE.search(line):
                self.damaged_at = self._timeline.position

    def wait_for(self, position: int, process: Process) -> None:
        """Wait until the log has come to a position, the first frame at least, or has ended."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._has_come_to(position), 0.05):
                    return
            # Without the lock, which the log's thread needs to read the rest.
            if process.has_ended and process.wait(_LOG_S) is not None:
                return

    def _has_come_to(self, position: int) -> bool:
        return bool(self.sample_rate) and self._timeline.position >= position

    def _add_frame(self, facts: Mapping[str, str]) -> None:
        rate, channels = int(facts["rate"]), int(facts["channels"])
        if not self.sample_rate:
            self.sample_rate, self.channels = rate, channels
            self.layout = facts.get("chlayout", "")
        elif (rate, channels) != (self.sample_rate, self.channels) and self.change is None:
            self.change = (self._timeline.position, rate, channels)
        pts = facts.get("pts", "")
        time = Fraction(int(pts), rate) if pts.lstrip("-").isdigit() else None
        self._timeline.add(time, int(facts["nb_samples"]), self.sample_rate)
