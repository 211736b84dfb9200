"""What a display or a page gets of a running stream: snapshots as JSON, and stems."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtmtass.live.controls import Controls
    from rtmtass.live.stats import Stats

STEMS_MARK = b"\0"
"""First byte of a block of stems, then float32, (n, S * C); everything else is JSON."""


def encode_snapshot(stats: Stats, controls: Controls, title: str, messages: Sequence[str]) -> bytes:
    """Return figures, settings, title and messages of a stream as a JSON object."""
    values = {
        "stats": stats.to_dict(),
        "controls": dataclasses.asdict(controls.state()),
        "title": title,
        "messages": list(messages),
    }
    return json.dumps(values).encode()
