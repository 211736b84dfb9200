"""How much sound a device takes at once, and whether some is lost again and again."""

from __future__ import annotations

from collections import deque

from rtmtass.live.devices.callback import N_BURSTS, DeviceCallback

LARGEST_PERIOD = 8192
"""Samples. A longer burst is from a host whose time stands still: no period."""
_N_FIRST = 3
_RECENT_S = 10.0
_TOO_MANY = 3


class Period:
    """Follows the period of a device: the samples that it takes at once.

    It may be longer than the requested block, or no multiple of it, or change: the callback is
    then called several times in a burst, for all of which the buffer has to last.

    Args:
        callback: of the stream.
        assumed: the period until the device has called back.

    Attributes:
        samples: of the longest burst.
        grain: the samples captured or played so far are always a multiple of this.
    """

    def __init__(self, callback: DeviceCallback, assumed: int) -> None:
        self._callback = callback
        self._n_seen = 0
        self._has_shrunk, self._may_shrink = False, True
        self.samples = self.grain = assumed

    @property
    def is_known(self) -> bool:
        """Whether the first bursts are over; `samples` is an assumption before."""
        return self._n_seen >= _N_FIRST

    def update(self) -> bool:
        """Follow the latest bursts; return whether the period or the grain has changed.

        A longer burst counts at once, shorter ones when no other came for a while. If the
        period then grows again, it doesn't shrink any more: that was a rare longer burst.
        """
        n_seen = self._callback.n_bursts
        if n_seen == self._n_seen:
            return False
        longest = min(int(self._callback.bursts().max()), LARGEST_PERIOD)
        before = self.samples, self.grain
        if longest > self.samples:
            self._may_shrink = not self._has_shrunk
            self.samples = longest
        elif not self.is_known:
            self.samples = longest
        elif longest < self.samples and n_seen > N_BURSTS and self._may_shrink:
            self._has_shrunk = True
            self.samples = longest
        self.grain, self._n_seen = self._callback.grain, n_seen
        return (self.samples, self.grain) != before


class LossWatch:
    """Detects a buffer that is too short by losses that recur; a single one is a disturbance."""

    def __init__(self) -> None:
        self._lost_s: deque[float] = deque(maxlen=_TOO_MANY)
        self._seen = 0

    def recurs(self, lost: int, now_s: float) -> bool:
        """Return whether there was a loss just now, the third within ten seconds.

        Args:
            lost: samples lost so far.
            now_s: on time.monotonic.
        """
        if lost == self._seen:
            return False
        self._seen = lost
        self._lost_s.append(now_s)
        if len(self._lost_s) < _TOO_MANY or now_s - self._lost_s[0] > _RECENT_S:
            return False
        self._lost_s.clear()
        return True
