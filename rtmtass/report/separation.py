"""The page of `rtmtass separate --report`: what was separated, to look at and to listen to."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rtmtass.report.assets import MIXER
from rtmtass.report.excerpt import Excerpt
from rtmtass.report.mixer import controls, duration, faders, level_chart, link
from rtmtass.report.page import (
    MAX_BYTES,
    figure,
    foot,
    head,
    legend,
    levels_png,
    table,
    write_page,
)
from rtmtass.report.timeline import Timeline
from rtmtass.types import Samples

MIXTURE = "mixture"
"""Name of the first track: the sum of the stems."""
_RESERVE = 60_000  # for the script, the end of the page and the names of omitted recordings
_AUDIO_SHARE = 0.7  # of the bytes of a recording, before base64 adds a third to them and the rest


class SeparationReport:
    """Collects what is separated, a recording at a time, and writes the page.

    Between `begin` and `add` it is a sink of the stems of one recording. Memory is bounded
    by the size of the page.

    Args:
        path: of the page; its folder exists.
        about: name → value, for the head of the page; the first value is the title.
        recordings: number of recordings that share the page.

    Raises:
        OutputError: from `begin`, `write` and `add`: the temporary folder is full.
    """

    def __init__(self, path: Path, about: Mapping[str, str], recordings: int) -> None:
        self._path, self._about = path, dict(about)
        self._max_bytes = int((MAX_BYTES - _RESERVE) / max(1, recordings))
        self._articles: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._recording: _Recording | None = None

    def begin(self, stems: Sequence[str], sample_rate: int, channels: int) -> None:
        """Begin a recording; one that was begun and not added is dropped."""
        self.close()
        budget = int(self._max_bytes * _AUDIO_SHARE * 3 / 4)
        self._recording = _Recording(stems, sample_rate, channels, budget)

    def write(self, stems: Samples) -> None:
        """Append (S, n, channels), aligned with the input."""
        assert self._recording is not None, "write comes after begin"
        self._recording.write(stems)

    def add(self, name: str, outputs: Mapping[str, Path]) -> None:
        """Add the recording that was begun.

        Args:
            name: its heading.
            outputs: its files, by stem; linked from the page.
        """
        assert self._recording is not None, "add comes after begin"
        links = {track: link(target, self._path.parent) for track, target in outputs.items()}
        self._articles[name] = self._recording.article(name, links)
        self.close()

    def add_failed(self, name: str, error: str) -> None:
        """List a recording that failed, with its error."""
        self._failed[name] = error
        self.close()

    def close(self) -> None:
        """Drop the recording that was begun; may be called twice."""
        if self._recording is not None:
            self._recording.close()
        self._recording = None

    def save(self) -> None:
        """Write the page.

        Raises:
            OutputError: it can't be written.
        """
        parts = [head(self._about), legend()]
        size, omitted = sum(map(len, parts)), []
        for name, article in self._articles.items():
            if size + len(article) > MAX_BYTES - _RESERVE:
                omitted.append(name)
                continue
            size += len(article)
            parts.append(article)
        for name, error in self._failed.items():
            parts.append(f"<p><b>{html.escape(name)}</b> failed: {html.escape(error)}</p>")
        if omitted:
            parts.append(
                f"<p>Left out to keep this page below {MAX_BYTES / 1e6:g} MB:"
                f" {html.escape(', '.join(omitted))}.</p>"
            )
        write_page(self._path, "\n".join([*parts, foot(MIXER)]), "--report")


class _Recording:
    """The tracks of one recording: timelines of all, and an excerpt of the audio."""

    def __init__(self, stems: Sequence[str], sample_rate: int, channels: int, budget: int) -> None:
        self._sample_rate = sample_rate
        self._stems = tuple(stems)
        self._timelines = {name: Timeline(sample_rate) for name in (MIXTURE, *stems)}
        self._excerpt = Excerpt(sample_rate, channels, self._timelines, budget)
        self._frames = 0

    def write(self, stems: Samples) -> None:
        tracks = dict(zip(self._timelines, [stems.sum(axis=0), *stems], strict=True))
        self._excerpt.write(tracks)
        for name, track in tracks.items():
            self._timelines[name].add(track.mean(axis=1, dtype=np.float32))
        self._frames += stems.shape[1]

    def close(self) -> None:
        self._excerpt.close()

    def article(self, name: str, links: Mapping[str, str]) -> str:
        audio = self._excerpt.finish()
        seconds = self._frames / self._sample_rate
        columns = {track: line.columns() for track, line in self._timelines.items()}
        figures = [
            figure(
                track,
                levels_png(spectrogram),
                audio[track],
                self._sample_rate,
                round(seconds, 2),
                "whole" if track == MIXTURE else "",
                f' data-track="{html.escape(track)}"',
            )
            for track, (spectrogram, _) in columns.items()
        ]
        levels = {track: level for track, (_, level) in columns.items()}
        return (
            f"<details><summary><b>{html.escape(name)}</b>"
            f' <span class="quiet">{duration(seconds)}</span></summary>'
            f'<div class="clip mixer" data-seconds="{seconds:.6f}"'
            f' data-excerpt="{self._excerpt.seconds:.6f}">'
            f'<div class="whole">{self._said(links)}{controls(self._excerpt.seconds)}'
            f"{faders(self._stems)}{level_chart(levels)}{self._table(links)}</div>"
            f"{''.join(figures)}</div></details>"
        )

    def _said(self, links: Mapping[str, str]) -> str:
        """Return what the audio on the page is, where it isn't all of the recording."""
        if not self._excerpt.is_cut:
            return ""
        where = "; the whole files are linked below" if links else ""
        return (
            f'<p class="quiet">To listen to on this page: the first'
            f" {duration(self._excerpt.seconds)}{where}.</p>"
        )

    def _table(self, links: Mapping[str, str]) -> str:
        rows = []
        for track, line in self._timelines.items():
            peak_db = 20 * np.log10(line.peak + 1e-10)
            share = f"{line.level_db - self._timelines[MIXTURE].level_db:+.1f} dB"
            rows.append(
                f"<th>{html.escape(track)}</th><td>{line.level_db:.1f} dBFS</td>"
                f"<td>{share if track != MIXTURE else ''}</td><td>{peak_db:.1f} dBFS</td>"
                f"<td>{links.get(track, '')}</td>"
            )
        rows.extend(
            f"<th>{html.escape(name)}</th><td></td><td></td><td></td><td>{anchor}</td>"
            for name, anchor in links.items()
            if name not in self._timelines
        )
        return table(["track", "level", "over the mixture", "peak", "file"], rows)
