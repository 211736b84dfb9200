"""The mix of a separated recording, as the page's faders are set: asked for, written, kept."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rtmtass.errors import UsageError
from rtmtass.io.encodings import choose_encoding
from rtmtass.io.file_sink import FileSink
from rtmtass.io.files import FileSource
from rtmtass.io.tags.reader import read_metadata
from rtmtass.live.controls import LARGEST_STRENGTH_DB, LOWEST_GAIN_DB
from rtmtass.live.page_controls import HIGHEST_GAIN_DB
from rtmtass.offline.limiter import Limiter
from rtmtass.offline.writers import MIX, StemWriters
from rtmtass.web.samples import Tracks

OFF = "off"
"""In an address: a gain of -inf dB, or a strength without limit."""
_BLOCK = 1 << 16  # frames


@dataclass(frozen=True)
class MixRequest:
    """A mix as an address asks for it.

    Attributes:
        gains_db, muted, soloed, strength_db: see `live.mixer.MixSettings`; by stem, in order.
        is_limited: keep its true peaks below full scale, instead of clipping it.
    """

    gains_db: tuple[tuple[str, float], ...]
    muted: frozenset[str] = frozenset()
    soloed: frozenset[str] = frozenset()
    strength_db: float = math.inf
    is_limited: bool = False

    @classmethod
    def parse(cls, stems: Iterable[str], query: Mapping[str, str]) -> MixRequest:
        """Read the query of an address, as in `speech=0&music=off&muted=noise&strength=12`.

        Raises:
            UsageError: unknown names, or values out of range.
        """
        stems = tuple(stems)
        known = (*stems, "muted", "soloed", "strength", "limit")
        for name in query:
            if name not in known:
                raise UsageError(f"a mix has no {name[:40]!r}; choose from {', '.join(known)}")
        limit = query.get("limit", "0")
        if limit not in ("0", "1"):
            raise UsageError(f"limit is {limit[:40]!r}; give 0 or 1")
        return cls(
            tuple(
                (stem, _decibels(query, stem, (LOWEST_GAIN_DB, HIGHEST_GAIN_DB), -math.inf))
                for stem in stems
            ),
            _names(query, "muted", stems),
            _names(query, "soloed", stems),
            _decibels({"strength": OFF} | dict(query), "strength", (0, LARGEST_STRENGTH_DB)),
            limit == "1",
        )

    def factors(self) -> dict[str, float]:
        """Return the linear gain of each stem, as the mixer would set it."""
        from rtmtass.live.mixer import MixSettings  # imports numba

        settings = MixSettings(dict(self.gains_db), self.muted, self.soloed, self.strength_db)
        return settings.factors()


class MixFile:
    """The file of the mix that was made last, one per recording.

    Args:
        tracks: the mixture and the stems.
        stem: file of one of the stems; the mix is encoded and tagged as it is.
        folder: to write to.

    Attributes:
        frames: done so far, of the one that is being made.
        clipped: samples beyond full scale that were clipped.
        path: of the file; None if there is none.
    """

    def __init__(self, tracks: Tracks, stem: Path, folder: Path) -> None:
        self._tracks, self._stem, self._folder = tracks, stem, folder
        self._lock = threading.Lock()
        self._request: MixRequest | None = None
        self._number = 0
        self.frames = self.clipped = 0
        self.path: Path | None = None

    def make(self, request: MixRequest, stopped: threading.Event) -> Path | None:
        """Return the file of a mix, which is written unless it is there; call it in a thread.

        Args:
            request: what to mix.
            stopped: ends the work early.

        Returns:
            The path; None if it was stopped.

        Raises:
            OutputError: the file can't be written.
        """
        with self._lock:
            if request == self._request:
                return self.path
            if self.path is not None:
                self.path.unlink(missing_ok=True)
            self._request = self.path = None
            self._number += 1  # a download of the one before may still read that
            target = self._folder / f"mix{self._number}{self._stem.suffix}"
            if self._write(request, target, stopped):
                self._request, self.path = request, target
            return self.path

    def _write(self, request: MixRequest, target: Path, stopped: threading.Event) -> bool:
        """Write a mix; return False if it was stopped."""
        file, sink = self._open(request, target)
        block = min(_BLOCK, self._tracks.most_frames)
        self.frames = 0
        try:
            while (stems := self._tracks.read(self.frames, block)[1:]).shape[1]:
                if stopped.is_set():
                    sink.abandon()
                    return False
                sink.write(stems)
                self.frames += stems.shape[1]
            sink.close()
        except BaseException:
            sink.abandon()
            raise
        self.clipped = file.clipped
        return True

    def _open(self, request: MixRequest, target: Path) -> tuple[FileSink, StemWriters]:
        stem = FileSource(self._stem)
        stem.close()
        encoding = choose_encoding(
            suffix=target.suffix,
            subtype=stem.subtype,
            sample_rate=stem.sample_rate,
            channels=stem.channels,
        )
        factors = request.factors()
        gains_db = {name: 20 * math.log10(f) if f else -math.inf for name, f in factors.items()}
        limiter = Limiter(stem.sample_rate, stem.channels) if request.is_limited else None
        sink = StemWriters(tuple(factors), gains_db, limiter)
        file = FileSink(
            target,
            stem.sample_rate,
            stem.channels,
            encoding,
            frames=stem.frames,
            tags={"software": _software()},
            metadata=read_metadata(self._stem),
        )
        sink.writers[MIX] = file
        return file, sink


def _software() -> str:
    from rtmtass import __version__

    return f"rtmtass {__version__}"


def _decibels(
    query: Mapping[str, str], name: str, bounds: tuple[float, float], off: float = math.inf
) -> float:
    """Return a setting in dB, 0 if it is missing."""
    text = query.get(name, "0")
    if text == OFF:
        return off
    low, high = bounds
    try:
        value = float(text[:40])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UsageError(f"{name} is {text[:40]!r}; give {low:g} to {high:g} dB, or {OFF}")
    return value


def _names(query: Mapping[str, str], key: str, stems: tuple[str, ...]) -> frozenset[str]:
    names = frozenset(filter(None, query.get(key, "").split(",")))
    if not names <= set(stems):
        raise UsageError(f"{key} is {query[key][:40]!r}; name stems: {', '.join(stems)}")
    return names
