"""The page's requests for recordings: upload, progress, overview, samples, downloads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import re
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from rtmtass.errors import OutputError, RtmtassError
from rtmtass.web.access import ROOT
from rtmtass.web.folder import RunFolder, disk_problem
from rtmtass.web.jobs import Jobs, Recording, done
from rtmtass.web.mix import MixFile, MixRequest
from rtmtass.web.names import disposition, download_name
from rtmtass.web.tap import PEAKS, PICTURE

MAX_UPLOAD_BYTES = 8 * 2**30
"""Size of an upload by default: eight hours of 16 bits at 48 kHz, in stereo, are 5.5 GB."""
_CHUNK = 1 << 20
_RESERVE = 1 << 26  # bytes of the disk that an upload leaves free
_MIX_REPORT_S = 0.2
_BINARY = "application/octet-stream"  # what is sent is saved or read by the page, never shown

_Handler = Callable[[web.Request, str, Recording], Awaitable[web.StreamResponse]]


def add_routes(
    app: web.Application,
    *,
    model: str,
    precision: str = "auto",
    passes: int = 1,
    max_upload_bytes: int = MAX_UPLOAD_BYTES,
) -> None:
    """Add the routes below `api/files`; a temporary folder lasts as long as the app runs.

    Args:
        app: to add to; it checks who may reach it.
        model, precision, passes: as of `rtmtass.load`.
        max_upload_bytes: size of the largest recording that is taken.
    """
    files = _Files(model, precision, passes, max_upload_bytes)
    app.cleanup_ctx.append(files.run)
    base = f"{ROOT}/api/files"
    one = f"{base}/{{id}}"
    app.router.add_post(base, files.upload)
    app.router.add_delete(one, files.of_one(files.remove))
    for path, handler in (
        (one, files.show),
        (f"{one}/overview", files.overview),
        (f"{one}/picture", files.picture),
        (f"{one}/samples", files.samples),
        (f"{one}/stems/{{stem}}", files.stem),
        (f"{one}/mix", files.mix),
    ):
        app.router.add_get(path, files.of_one(handler), allow_head=False)
    app.router.add_post(f"{one}/mix", files.of_one(files.make_mix))


class _Files:
    """The handlers of the requests."""

    _jobs: Jobs

    def __init__(self, model: str, precision: str, passes: int, max_upload_bytes: int) -> None:
        self._model = (model, precision, passes)
        self._most = max_upload_bytes

    async def run(self, _app: web.Application) -> AsyncIterator[None]:
        """Keep the folder and the separating task while the app runs."""
        try:
            folder = await asyncio.to_thread(RunFolder)
        except OSError as error:
            raise OutputError(disk_problem(error)) from error
        with contextlib.closing(folder):
            self._jobs = Jobs(folder.path, *self._model)
            tasks = [
                asyncio.create_task(work)
                for work in (self._jobs.run(), self._jobs.remove_abandoned())
            ]
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._jobs.close()

    def of_one(self, handler: _Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return a handler of requests for one recording; 404 if there is none."""

        async def handle(request: web.Request) -> web.StreamResponse:
            key = request.match_info["id"]
            recording = self._jobs.get(key)
            if recording is None:
                raise web.HTTPNotFound(text="this recording has been removed; drop the file again")
            return await handler(request, key, recording)

        return handle

    # --- the life of a recording

    async def upload(self, request: web.Request) -> web.Response:
        """Store the body of a request, and let it be separated."""
        announced = request.content_length
        self._check_size(announced or 0)
        if why := self._jobs.why_full():
            raise web.HTTPServiceUnavailable(text=why)
        try:
            key, recording = self._jobs.add(request.query.get("name", ""))
        except OSError as error:
            raise _disk_error(error) from error
        try:
            free = shutil.disk_usage(recording.folder).free
            if announced and announced + _RESERVE > free:
                raise _disk_error(OSError(errno.ENOSPC, "full"))
            await self._receive(request, recording)
        except BaseException:
            await self._jobs.remove(key)
            raise
        self._jobs.enqueue(recording)
        return web.json_response({"id": key})

    async def _receive(self, request: web.Request, recording: Recording) -> None:
        """Write the body to the disk, chunk by chunk."""
        size = 0
        try:
            with recording.path.open("xb") as file:
                async for chunk in request.content.iter_chunked(_CHUNK):
                    size += len(chunk)
                    self._check_size(size)
                    await asyncio.to_thread(_write_chunk, file, chunk)
                    if recording.state == "removed":
                        raise web.HTTPGone(text="the upload was cancelled")
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            raise _disk_error(error) from error
        if not size:
            raise RtmtassError(f"{recording.label} is empty (0 bytes); record or export it again")

    def _check_size(self, size: int) -> None:
        if size > self._most:
            raise web.HTTPRequestEntityTooLarge(
                self._most,
                size,
                text=f"the file is larger than {_size(self._most)}; start rtmtass web with a larger"
                " --max-upload, or use rtmtass separate",
            )

    async def show(
        self, _request: web.Request, _key: str, recording: Recording
    ) -> web.StreamResponse:
        """Send the state of a recording."""
        return web.json_response(recording.to_dict())

    async def remove(
        self, _request: web.Request, key: str, _recording: Recording
    ) -> web.StreamResponse:
        """Remove a recording, and end its separation."""
        await self._jobs.remove(key)
        return web.Response(status=204)

    # --- what the page draws and plays

    async def overview(
        self, _request: web.Request, _key: str, recording: Recording
    ) -> web.StreamResponse:
        """Send the peaks of all tracks."""
        done(recording)
        return _file(recording.out / PEAKS)

    async def picture(
        self, _request: web.Request, _key: str, recording: Recording
    ) -> web.StreamResponse:
        """Send the spectrograms of all tracks."""
        done(recording)
        return _file(recording.out / PICTURE)

    async def samples(
        self, request: web.Request, _key: str, recording: Recording
    ) -> web.StreamResponse:
        """Send a part of all tracks, float32, track after track, channels interleaved."""
        start, frames = (_whole(request, name) for name in ("start", "frames"))
        block = await asyncio.to_thread(done(recording).tracks.read, start, frames)
        return web.Response(body=block.astype("<f4", copy=False).tobytes(), content_type=_BINARY)

    # --- downloads

    async def stem(
        self, request: web.Request, _key: str, recording: Recording
    ) -> web.StreamResponse:
        """Send the file of a stem."""
        done(recording)
        name = request.match_info["stem"]
        path = recording.stems.get(name)
        if path is None:
            known = ", ".join(recording.stems)
            raise web.HTTPNotFound(text=f"there is no such stem; choose from {known}")
        return _file(path, download_name(recording.label, name, path.suffix))

    async def mix(
        self, request: web.Request, _key: str, recording: Recording
    ) -> web.StreamResponse:
        """Send the mix of the address's settings; it is made first, if it isn't there."""
        mix = done(recording).mix
        wanted = MixRequest.parse(recording.stems, request.query)
        path = await _make(mix, wanted, threading.Event())
        assert path is not None, "nothing has stopped it"
        return _file(path, download_name(recording.label, "mix", path.suffix))

    async def make_mix(
        self, request: web.Request, key: str, recording: Recording
    ) -> web.StreamResponse:
        """Make a mix for a download that follows; send a line of JSON for each step.

        The last one has "clipped" or "problem". A page that goes away ends the work.
        """
        mix = done(recording).mix
        wanted = MixRequest.parse(recording.stems, request.query)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        stopped = threading.Event()
        task = asyncio.create_task(_make(mix, wanted, stopped))
        try:
            while not (await asyncio.wait({task}, timeout=_MIX_REPORT_S))[0]:
                self._jobs.get(key)  # it is in use
                await _write(response, fraction=mix.frames / recording.frames)
            task.result()
            await _write(response, fraction=1.0, clipped=mix.clipped)
        except RtmtassError as error:
            await _write(response, problem=str(error))
        except ConnectionError:
            pass  # the page has gone away
        finally:
            stopped.set()
            await asyncio.wait({task})
        return response


async def _make(mix: MixFile, wanted: MixRequest, stopped: threading.Event) -> Path | None:
    """Make a mix in a thread; its errors are in words that don't name our folder."""
    try:
        return await asyncio.to_thread(mix.make, wanted, stopped)
    except OutputError as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise OutputError(disk_problem(cause)) from error
        raise


def _file(path: Path, name: str = "") -> web.FileResponse:
    """Return a file of ours, as a download if it has a name."""
    headers = {"Content-Type": _BINARY}
    if name:
        headers["Content-Disposition"] = disposition(name)
    return web.FileResponse(path, headers=headers)


def _write_chunk(file: BinaryIO, chunk: bytes) -> None:
    file.write(chunk)


async def _write(response: web.StreamResponse, **values: object) -> None:
    await response.write(json.dumps(values).encode() + b"\n")


def _whole(request: web.Request, name: str) -> int:
    """Return a number of an address, 0 or more, of 15 digits at most."""
    text = request.query.get(name, "")
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise web.HTTPBadRequest(text=f"{name} is {text[:40]!r}; give a whole number of frames")
    return int(text)


def _disk_error(error: OSError) -> web.HTTPException:
    return web.HTTPInsufficientStorage(text=disk_problem(error))


def _size(n_bytes: int) -> str:
    """Return a size in words."""
    if n_bytes < 10**9:
        return f"{n_bytes / 10**6:.3g} MB"
    return f"{n_bytes / 10**9:.3g} GB"
