"""What is left of a live stream when it has been closed: its summary, its takes, its gains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rtmtass.cli.live_text import Summary, audible_gains
from rtmtass.cli.live_watch import Printer, Watch
from rtmtass.live.events import EventLog, minutes

if TYPE_CHECKING:
    from rtmtass.live.engine import Engine
    from rtmtass.live.mixer import Mixer
    from rtmtass.live.recorder import TakeRecorder


@dataclass
class Session:
    """A stream's parts, kept beyond its end; None where it never began."""

    printer: Printer
    events: EventLog = field(default_factory=EventLog)
    engine: Engine | None = None
    mixer: Mixer | None = None
    recorder: TakeRecorder | None = None
    watch: Watch | None = None

    def gains_db(self) -> dict[str, float]:
        """Return the gains of the mix, with mutes and solos applied."""
        assert self.mixer, "a stream has a mixer"
        settings = self.mixer.settings
        return audible_gains(settings.gains_db, settings.muted, settings.soloed)

    def summarise(self, model: str | None) -> None:
        """Print how the stream went, if there was one."""
        if self.engine and self.recorder and self.watch:
            self.watch.summarise(
                Summary(self.engine.stats(), self.recorder.takes, self.gains_db(), model)
            )

    def save_gains(self, name: str) -> None:
        """Save the gains under a name."""
        from rtmtass.live.presets import save_gains

        path = save_gains(name, self.gains_db())
        if not self.printer.is_json:
            self.printer.text(f"gains    saved to {path}; to use them: rtmtass live --gains {name}")

    def takes(self) -> str:
        """Return the folders of the takes in a line, or nothing."""
        folders = [str(take.folder) for take in self.recorder.takes] if self.recorder else []
        return f"recorded {', '.join(folders)}" if folders else ""

    def failure(self) -> str:
        """Return why a recording ended early, and what there is of it; else nothing."""
        if not self.recorder or not self.recorder.failure:
            return ""
        why = self.recorder.failure.partition(":")[0]
        takes = [f"{minutes(t.seconds)} are in {t.folder}" for t in self.recorder.takes]
        return f"the recording ended early: {why}; {', '.join(takes) or 'nothing was recorded'}"
