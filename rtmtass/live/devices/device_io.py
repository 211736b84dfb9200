"""The devices as the engine sees them: a source and a sink that come back when they break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import RtmtassError
from rtmtass.live.devices.connection import Connection
from rtmtass.live.devices.listing import Device, find_again, list_devices
from rtmtass.live.devices.portaudio import close_portaudio, quiet_libraries, restart_portaudio
from rtmtass.live.devices.stream_config import StreamRequest, more_configs, stream_config_of
from rtmtass.live.process_clock import passed_s, process_start_s
from rtmtass.live.stats import DeviceStats, Latency
from rtmtass.live.worker import LiveSeparator

Floats = NDArray[np.float32]

_POLL_S = 0.0005
_BACK_OFF_S = (0.25, 0.5, 1.0, 2.0, 4.0)
_DRAIN_S = 0.5
_SLEEP_S = 1.0


class DeviceIO:
    """An input and an output device as Source, Sink and RealtimeEndpoint of an engine.

    Args:
        request: which devices, and how.
        separator: that the engine will use.
        n_rows: what `write` gets: 1 mix, or S stems side by side.
        on_message: told in a line what happened; called from the engine's thread.

    Attributes:
        discontinuities: see RealtimeEndpoint.
        wire: the connection as it is now; further outputs have their own.
        measured_ms: the true latency, for whoever has measured it; see Latency.

    Raises:
        DeviceError, UsageError: the wishes can't be met.
        MissingPartError: PortAudio isn't installed.
    """

    def __init__(
        self,
        request: StreamRequest,
        separator: LiveSeparator,
        *,
        n_rows: int = 1,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self._request, self._separator, self._n_rows = request, separator, n_rows
        self._tell = on_message or (lambda _line: None)
        self._guard = threading.Lock()
        self._state, self._message = "new", ""
        self._is_closed = False
        self._discontinuities_before = self._reopened = 0
        self._overruns = self._underruns = self._xruns = 0
        self._born_s = process_start_s()
        self._start_up_s: float | None = None
        self.measured_ms: float | None = None
        self._lost: list[Device] = []
        self._awake_s = passed_s()
        with quiet_libraries():
            devices = list_devices()
        self._connect(devices)
        self.sample_rate = separator.sample_rate
        self.channels = len(self.wire.shape.picked)

    def _connect(self, devices: list[Device]) -> None:
        request, separator = self._request, self._separator
        n_rows = 1 if request.more_outputs else self._n_rows
        with quiet_libraries():
            shape = stream_config_of(request, devices, separator, n_rows)
            more = more_configs(request, devices, separator, shape)
        self.wire = Connection(shape, separator, n_rows, request.extra_buffer_ms)
        self._wires = [self.wire]
        try:
            for each in more:
                self._wires.append(Connection(each, separator, 1, request.extra_buffer_ms))
        except RtmtassError:
            self._close_wires()
            raise

    def _close_wires(self) -> None:
        for wire in self._wires:
            wire.close()

    def _start(self) -> None:
        # The input last: what it captures is waited for from now on.
        for wire in reversed(self._wires):
            wire.start()

    def _poll(self) -> str:
        """Look at all devices; return what is wrong with one, or nothing."""
        return next((why for why in [wire.poll() for wire in self._wires] if why), "")

    @property
    def discontinuities(self) -> int:
        """How often the input broke off; see RealtimeEndpoint."""
        return self._discontinuities_before + self.wire.discontinuities

    def read(self, out: Floats) -> int:
        """See Source; waits for a device, however long it takes to come back."""
        if self._state == "new":
            self._start()
            self._state, self._awake_s = "running", passed_s()
        filled, has_waited = 0, False
        while filled < len(out):
            if self._is_closed:
                return 0
            self._notice_sleep()
            n = self.wire.read(out[filled:])
            filled += n
            if not n:
                has_waited = True
                if why := self._poll():
                    self._reconnect(why)
                elif self._state == "running" and any(wire.is_silent for wire in self._wires):
                    name = self.wire.shape.capture.name
                    self._say("waiting", f"{name} has fallen silent; waiting for it")
                time.sleep(_POLL_S)
            elif self._state == "waiting":
                self._say("running", f"{self.wire.shape.capture.name} is back")
        self._poll()
        if has_waited:
            for wire in self._wires:
                wire.follow_clock()
        return filled

    def _notice_sleep(self) -> None:
        """What came before the computer slept, or this program was stopped, is no past."""
        now_s = passed_s()
        asleep_s, self._awake_s = now_s - self._awake_s, now_s
        if asleep_s > _SLEEP_S and self._state == "running":
            self._discontinuities_before += 1
            self._tell(f"everything stood still for {asleep_s:.1f} s, and goes on")

    def write(self, stems: Floats) -> None:
        """See Sink; never waits."""
        if self._state != "running":
            return
        if len(self._wires) == 1:
            self.wire.write(stems)
        else:
            for row, wire in enumerate(self._wires):
                wire.write(stems[row : row + 1])
        if self._start_up_s is None and self._born_s is not None and self.wire.is_audible:
            self._start_up_s = time.monotonic() - self._born_s

    def deadline_s(self) -> float:
        """See RealtimeEndpoint."""
        return min(wire.deadline_s() for wire in self._wires)

    def _reconnect(self, why: str) -> None:
        """Let go of everything and open it again, with longer and longer pauses."""
        shape = self.wire.shape
        names = " and ".join(dict.fromkeys((shape.capture.name, shape.playback.name)))
        self._remember_counts()
        self._say("reconnecting", f"{names} {why}; trying to open it again")
        self._close_wires()
        self._lost = [shape.capture, *(wire.shape.playback for wire in self._wires)]
        self._request = replace(
            self._request, input_channels=tuple(channel + 1 for channel in shape.picked)
        )
        pauses, pause_s = iter(_BACK_OFF_S), 0.0
        while not self._is_closed:
            pause_s = next(pauses, pause_s)
            until = time.monotonic() + pause_s
            while time.monotonic() < until and not self._is_closed:
                time.sleep(0.02)
            with self._guard:
                try:
                    if self._is_closed or self._open_again():
                        return
                    why = ""
                except RtmtassError as error:
                    why = f"it can't be opened yet: {error}"
                # A JACK server that dies between two tries would take us with it.
                close_portaudio()
            if why:
                self._say_once(why)

    def _request_again(self, devices: list[Device]) -> bool:
        """Wish for the lost devices by the numbers they have now; whether all are there."""
        capture, playback, *more = self._lost
        inputs = [find_again(capture, "input", devices)]
        outputs = [find_again(each, "output", devices) for each in (playback, *more)]
        # Whoever wished for the default gets what is the default now.
        if not self._request.input:
            inputs = [next((device for device in devices if device.inputs), None)]
        if not self._request.output:
            outputs[0] = next((device for device in devices if device.outputs), None)
        numbers = [str(device.index) for device in (*inputs, *outputs) if device]
        if len(numbers) < 2 + len(more):
            return False
        self._request = replace(
            self._request,
            input=self._request.input and numbers[0],
            output=self._request.output and numbers[1],
            more_outputs=tuple(numbers[2:]),
        )
        return True

    def _open_again(self) -> bool:
        restart_portaudio()
        discontinuities, devices = self.discontinuities + 1, list_devices()
        if not self._request_again(devices):
            return False
        self._connect(devices)
        try:
            self._start()
        except RtmtassError:
            self._close_wires()
            raise
        self._discontinuities_before = discontinuities
        self._reopened += 1
        now = self.wire.shape.capture.name
        is_same = now == self._lost[0].name
        self._awake_s = passed_s()
        self._say("running", f"{now} is back" if is_same else f"{now} is heard from now on")
        return True

    def _say_once(self, message: str) -> None:
        if message != self._message:
            self._say(self._state, message)

    def _say(self, state: str, message: str) -> None:
        self._state, self._message = state, message
        self._tell(message)

    def _remember_counts(self) -> None:
        """Keep the counts of a wire that is about to be replaced."""
        overruns, underruns, xruns = self._counts()
        self._overruns += overruns
        self._underruns += underruns
        self._xruns += xruns

    def _counts(self) -> tuple[int, int, int]:
        wires = self._wires
        return (
            sum(wire.capture.overruns for wire in wires),
            sum(wire.underruns for wire in wires),
            sum(wire.xruns for wire in wires),
        )

    def device_stats(self) -> DeviceStats:
        """See RealtimeEndpoint."""
        # While nothing runs, the counts are added up already.
        is_open = self._state in ("running", "waiting")
        overruns, underruns, xruns = self._counts() if is_open else (0, 0, 0)
        return DeviceStats(
            overruns=self._overruns + overruns,
            underruns=self._underruns + underruns,
            xruns=self._xruns + xruns,
            drift_ppm=max((wire.drift_ppm for wire in self._wires), key=abs),
            fill=self.wire.playback.available,
            reopened=self._reopened,
            state=self._state,
            message=self._message,
            latency=self.latency(),
            start_up_s=self._start_up_s,
        )

    def latency(self) -> Latency:
        """Return the parts of the latency."""
        separator, claimed = self._separator, self.wire.claimed_s
        hop_ms = 1000 * separator.hop / separator.sample_rate
        # A hop of what waits is the algorithm's own: the first sample of a hop waits for its last.
        return Latency(
            device_in_ms=1000 * claimed[0],
            algorithm_ms=1000 * separator.algorithmic_latency / separator.sample_rate,
            buffer_ms=1000 * self.wire.fill / self.wire.shape.rates[1] - hop_ms,
            device_out_ms=1000 * claimed[1],
            measured_ms=self.measured_ms,
        )

    def close(self) -> None:
        """Let what is written be played, then let go of the devices; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True  # whoever reopens gives up now
        with self._guard:
            if self._state in ("running", "waiting"):
                self._remember_counts()
                self._state = "closed"
                until = time.monotonic() + _DRAIN_S
                while self.wire.playback.available and time.monotonic() < until:
                    time.sleep(0.005)
            self._close_wires()
            self._state = "closed"
