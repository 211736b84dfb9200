"""The recordings of one run of the server: uploaded, separated one at a time, removed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtmtass.errors import RtmtassError
from rtmtass.web.mix import MixFile
from rtmtass.web.names import label_of, suffix_of
from rtmtass.web.samples import Tracks

MOST_WAITING = 4
"""Recordings that are uploaded or wait while another is separated."""
MOST_KEPT = 16
"""Recordings in all, with those that are done."""
ABANDONED_S = 900.0
"""Without a request for so long, a recording is removed: its page is gone."""
_MODULE = "rtmtass.web.separating"  # not imported here: it needs numba
_OPENING = "opening the model"
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Separated:
    """What there is of a separated recording.

    Attributes:
        tracks: mixture and stems, to read.
        mix: the mix to download.
    """

    tracks: Tracks
    mix: MixFile


@dataclass
class Recording:
    """One uploaded file, and what became of it.

    Attributes:
        label: its name, for people.
        folder: of all its files.
        path: of the upload.
        state: "uploading", "waiting", "separating", "done" or "failed".
        problem: why it failed.
        note: what is going on before the first frame, such as compiling.
        total, done: frames; the total is None if the file doesn't say.
        sample_rate, channels, frames: of each track, once done.
        clipped: samples beyond full scale, by stem.
        stems: files by stem, for downloads.
        track_names: mixture and stems.
        separated: None until it is done.
        used_s: time of the last request for it.
        started_s: time of the first frame.
    """

    label: str
    folder: Path
    path: Path
    state: str = "uploading"
    problem: str = ""
    note: str = ""
    total: int | None = None
    done: int = 0
    sample_rate: int = 0
    channels: int = 0
    frames: int = 0
    clipped: dict[str, int] = field(default_factory=dict)
    stems: dict[str, Path] = field(default_factory=dict)
    track_names: list[str] = field(default_factory=list)
    separated: Separated | None = None
    used_s: float = field(default_factory=time.monotonic)
    started_s: float = 0.0

    @property
    def out(self) -> Path:
        """Folder of the stems."""
        return self.folder / "out"

    def to_dict(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        fraction = self.done / self.total if self.total else None
        left_s = None
        if fraction and self.state == "separating":
            left_s = (time.monotonic() - self.started_s) * (1 / fraction - 1)
        return {
            "state": self.state,
            "fraction": fraction if self.state != "done" else 1.0,
            "left_s": left_s,
            "note": self.note,
            "problem": self.problem,
            "name": self.label,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "frames": self.frames,
            "clipped": self.clipped,
            "tracks": self.track_names,
        }

    def update(self, values: Mapping[str, Any]) -> None:
        """Take over a line of the separating process."""
        if "note" in values:
            self.note = values["note"]
        if "done" in values:
            self.done = values["done"]
        if "problem" in values:
            self.state, self.problem = "failed", values["problem"]
        if "tracks" in values:
            self._finish(values)
        elif "frames" in values:
            self.total, self.started_s = values["frames"], time.monotonic()

    def _finish(self, values: Mapping[str, Any]) -> None:
        self.sample_rate, self.channels = values["sample_rate"], values["channels"]
        self.frames, self.clipped = values["frames"], values["clipped"]
        self.stems = {name: Path(path) for name, path in values["stems"].items()}
        paths = {name: Path(path) for name, path in values["tracks"].items()}
        self.track_names = list(paths)
        tracks = Tracks(paths, self.channels)
        mix = MixFile(tracks, next(iter(self.stems.values())), self.folder)
        self.separated = Separated(tracks, mix)
        self.state = "done"

    def close(self) -> None:
        """Close its files."""
        if self.separated is not None:
            self.separated.tracks.close()


class Jobs:
    """All recordings of this run; used in the event loop only.

    Args:
        folder: of this run.
        model, precision, passes: as of `rtmtass.load`.
    """

    def __init__(self, folder: Path, model: str, precision: str, passes: int) -> None:
        self._folder = folder
        self._model = (model, precision, passes)
        self._recordings: dict[str, Recording] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._current: Recording | None = None
        self._has_work = asyncio.Event()

    def get(self, key: str) -> Recording | None:
        """Return a recording, which is in use from now on; None if there is none of this key."""
        recording = self._recordings.get(key)
        if recording is not None:
            recording.used_s = time.monotonic()
        return recording

    def why_full(self) -> str:
        """Return why no further recording is taken now, in a line; nothing if one is."""
        states = [recording.state for recording in self._recordings.values()]
        if states.count("waiting") + states.count("uploading") >= MOST_WAITING:
            return f"{MOST_WAITING} recordings are waiting already; try again when one is done"
        if len(states) >= MOST_KEPT:
            return f"{MOST_KEPT} recordings are open already; close one, or its page"
        return ""

    def add(self, name: str) -> tuple[str, Recording]:
        """Make a recording that is about to be uploaded; return its key with it.

        Raises:
            OSError: its folder can't be made.
        """
        key = secrets.token_hex(8)
        folder = self._folder / key
        folder.mkdir()
        label = label_of(name)
        recording = Recording(label, folder, folder / f"input{suffix_of(label)}")
        self._recordings[key] = recording
        return key, recording

    def enqueue(self, recording: Recording) -> None:
        """Separate a recording once those before it are done."""
        recording.state = "waiting"
        self._has_work.set()

    async def remove(self, key: str) -> None:
        """Remove a recording and its files, and end its separation."""
        recording = self._recordings.pop(key, None)
        if recording is None:
            return
        recording.state = "removed"
        if recording is self._current:
            await self._kill()
        recording.close()
        await asyncio.to_thread(shutil.rmtree, recording.folder, True)

    async def run(self) -> None:
        """Separate what waits, one recording at a time, until cancelled."""
        try:
            while True:
                waiting = [r for r in self._recordings.values() if r.state == "waiting"]
                if waiting:
                    await self._separate(waiting[0])
                    continue
                self._has_work.clear()
                await self._has_work.wait()
        finally:
            await self._kill()

    async def remove_abandoned(self) -> None:
        """Remove recordings whose page is gone, until cancelled."""
        while True:
            await asyncio.sleep(ABANDONED_S / 30)
            oldest_s = time.monotonic() - ABANDONED_S
            for key in [k for k, r in self._recordings.items() if r.used_s < oldest_s]:
                await self.remove(key)

    def close(self) -> None:
        """Close all files."""
        for recording in self._recordings.values():
            recording.close()

    async def _separate(self, recording: Recording) -> None:
        """Run the process of a recording to its end."""
        recording.state, recording.note, self._current = "separating", _OPENING, recording
        words = _command(recording.path, recording.out, recording.label, *self._model)
        try:
            process = await self._start(words)
            if recording.state == "removed":
                await self._kill()
            assert process.stdout is not None, "it is a pipe"
            async for line in process.stdout:
                recording.update(json.loads(line))
            await process.wait()
        except OSError as error:
            recording.update({"problem": f"no process can be started: {error.strerror}"})
        finally:
            await self._kill()  # one that was being started when the recording was removed, too
            if recording.state == "separating":
                code = self._process.returncode if self._process else "?"
                recording.update(
                    {"problem": f"the separation of {recording.label} ended early (code {code})"}
                )
            self._process = self._current = None

    async def _start(self, words: Sequence[str]) -> asyncio.subprocess.Process:
        """Start the process; one that is being started when this is cancelled is kept too."""
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *words, stdout=asyncio.subprocess.PIPE, limit=_LONGEST_LINE
            )
        )
        try:
            await asyncio.shield(starting)
        finally:
            self._process = await starting
        return self._process

    async def _kill(self) -> None:
        """End the separating process; it has nothing to save."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


def done(recording: Recording) -> Separated:
    """Return what there is of a recording.

    Raises:
        RtmtassError: it isn't separated yet, or never will be.
    """
    if recording.separated is None:
        raise RtmtassError(recording.problem or f"{recording.label} isn't separated yet")
    return recording.separated


def _command(
    path: Path, folder: Path, label: str, model: str, precision: str, passes: int
) -> list[str]:
    """Return the command line of the process.

    Args:
        path: of the recording.
        folder: of the stems and of all else that is written.
        label: name of the recording in messages.
        model, precision, passes: as of `rtmtass.load`.
    """
    words = [str(path), str(folder), label, model, precision, str(passes)]
    return [sys.executable, "-m", _MODULE, *words]
