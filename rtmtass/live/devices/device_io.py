"""Sound devices as a Source, a Sink or both, reopened when they disappear."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from rtmtass.errors import RtmtassError
from rtmtass.live.devices.connection import Connection
from rtmtass.live.devices.feedback import feedback_note
from rtmtass.live.devices.listing import Device, find_again, list_devices
from rtmtass.live.devices.portaudio import close_portaudio, quiet_libraries, restart_portaudio
from rtmtass.live.devices.stream_config import StreamRequest, more_configs, stream_config_of
from rtmtass.live.full_band import HopSchedule
from rtmtass.live.process_clock import passed_s, process_start_s
from rtmtass.live.stats import DeviceStats, Latency
from rtmtass.live.worker import LiveSeparator
from rtmtass.types import Floats

_POLL_S = 0.0005
_BACK_OFF_S = (0.25, 0.5, 1.0, 2.0, 4.0)
_DRAIN_S = 0.5
_SLEEP_S = 1.0


class DeviceIO:
    """An input and an output device as Source, Sink and RealtimeEndpoint of an engine.

    With only one of the two, see StreamRequest, it is only a source or only a sink.

    Args:
        request: which devices, and how.
        separator: that the engine uses.
        n_rows: rows that `write` gets: 1 for a mix, S for the stems side by side.
        source_rate: rate of the engine's source, in Hz, if that isn't this object.
        on_message: called from the engine's thread with a line about each change of state, and
            here with a note if the microphone may pick up the loudspeaker.

    Attributes:
        sample_rate: of the engine: that of the first input device, or `source_rate`.
        discontinuities: see RealtimeEndpoint.
        connection: the streams open now; further outputs have their own.
        unbuffered_ms: the measured latency without the buffers, to be set by the caller.

    Raises:
        DeviceError, UsageError: the request can't be met.
        MissingPartError: PortAudio isn't installed.
    """

    def __init__(
        self,
        request: StreamRequest,
        separator: LiveSeparator,
        *,
        n_rows: int = 1,
        source_rate: int | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self._request, self._separator, self._n_rows = request, separator, n_rows
        self._on_message = on_message or (lambda _line: None)
        self._lock = threading.Lock()
        self._state, self._message = "new", ""
        self._is_closed = False
        self._earlier_discontinuities = self._reopened = 0
        self._overruns = self._underruns = self._xruns = 0
        self._process_start_s = process_start_s()
        self._start_up_s: float | None = None
        self.unbuffered_ms: float | None = None
        self._lost_input: Device | None = None
        self._lost_outputs: list[Device] = []
        self._last_read_s, self._last_write_s = passed_s(), 0.0
        with quiet_libraries():
            devices = list_devices()
        self._schedule: HopSchedule | None = None
        self._source_rate = source_rate or separator.sample_rate
        self._connect(devices)
        config = self.connection.config
        if note := feedback_note(config.capture, config.playback):
            self._on_message(note)
        self.sample_rate = self.schedule.sample_rate
        self.channels = len(self.connection.config.picked)

    def _connect(self, devices: list[Device]) -> None:
        request, separator = self._request, self._separator
        n_rows = 1 if request.more_outputs else self._n_rows
        with quiet_libraries():
            config = stream_config_of(request, devices, separator, n_rows)
            more = more_configs(request, devices, separator, config)
        if not self._schedule:  # the engine's rate stays, whatever devices come later
            rate = config.rates[0] if config.capture else self._source_rate
            self._schedule = HopSchedule(separator, rate)
        schedule, extra_buffer_ms = self._schedule, request.extra_buffer_ms
        channels = separator.channels
        self.connection = Connection(config, schedule, channels, n_rows, extra_buffer_ms)
        self._connections = [self.connection]
        try:
            for each in more:
                self._connections.append(Connection(each, schedule, channels, 1, extra_buffer_ms))
        except RtmtassError:
            self._close_connections()
            raise

    @property
    def schedule(self) -> HopSchedule:
        """The hops of the engine at its rate."""
        assert self._schedule, "set by the first connection"
        return self._schedule

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()

    def _start(self) -> None:
        # The input last: its ring would overflow while slow outputs start.
        for connection in reversed(self._connections):
            connection.start()
        self._last_read_s = passed_s()

    def _poll(self) -> str:
        """Poll all connections; return what is wrong with the first broken one, or nothing."""
        why = next((why for why in [each.poll() for each in self._connections] if why), "")
        for each in self._connections:
            while each.notes:
                self._on_message(each.notes.popleft())
        return why

    @property
    def _name(self) -> str:
        """The device that messages name: the input, or the output if there is no input."""
        config = self.connection.config
        device = config.capture or config.playback
        assert device, "a connection has a device"
        return device.name

    @property
    def discontinuities(self) -> int:
        """Number of gaps in the input; see RealtimeEndpoint."""
        return self._earlier_discontinuities + self.connection.discontinuities

    def read(self, out: Floats) -> int:
        """See Source; blocks until the device delivers, also while it is reconnected."""
        if self._state == "new":
            self._start()
            self._state = "running"
        filled, has_waited = 0, False
        while filled < len(out):
            if self._is_closed:
                return 0
            self._detect_suspend()
            n = self.connection.read(out[filled:])
            filled += n
            if not n:
                has_waited = True
                self._check()
                time.sleep(_POLL_S)
            elif self._state == "waiting":
                self._report("running", f"{self._name} is back")
        self._poll()
        if has_waited:
            self._follow_clocks()
        return filled

    def _check(self) -> None:
        """Reconnect broken devices; report silent ones."""
        if why := self._poll():
            self._reconnect(why)
        elif self._state == "running" and any(each.is_silent for each in self._connections):
            self._report("waiting", f"{self._name} has fallen silent; waiting for it")

    def _follow_clocks(self) -> None:
        for connection in self._connections:
            connection.follow_clock()

    def _detect_suspend(self) -> None:
        """Count a discontinuity after the computer, or this process, was suspended."""
        now_s = passed_s()
        suspended_s, self._last_read_s = now_s - self._last_read_s, now_s
        if suspended_s > _SLEEP_S and self._state == "running":
            self._earlier_discontinuities += 1
            self._on_message(f"suspended for {suspended_s:.1f} s, running again")

    def write(self, stems: Floats) -> None:
        """See Sink; blocks only while an output without an input is reconnected."""
        if not self._request.has_input:
            self._prepare_write()
        if self._state != "running":
            return
        if len(self._connections) == 1:
            self.connection.write(stems)
        else:
            for row, connection in enumerate(self._connections):
                connection.write(stems[row : row + 1])
        if (
            self._start_up_s is None
            and self._process_start_s is not None
            and self.connection.is_audible
        ):
            self._start_up_s = time.monotonic() - self._process_start_s

    def _prepare_write(self) -> None:
        """Start, check and pace the outputs, as `read` does where there is an input."""
        if self._is_closed:
            return
        if self._state == "new":
            self._start()
            self._state = "running"
        self._check()
        if self._state == "waiting" and not any(each.is_silent for each in self._connections):
            self._report("running", f"{self._name} is back")
        # The hops of a backlog come at once: only one that was waited for shows the drift.
        now_s, hop_s = time.monotonic(), self._separator.hop / self._separator.sample_rate
        if now_s - self._last_write_s > hop_s / 2:
            self._follow_clocks()
        self._last_write_s = now_s

    def deadline_s(self) -> float:
        """See RealtimeEndpoint."""
        return min(connection.deadline_s() for connection in self._connections)

    def _reconnect(self, why: str) -> None:
        """Close everything and retry opening it, with longer and longer pauses."""
        config = self.connection.config
        ends = [device for device in (config.capture, config.playback) if device]
        names = " and ".join(dict.fromkeys(device.name for device in ends))
        self._keep_counts()
        self._report("reconnecting", f"{names} {why}; trying to open it again")
        self._close_connections()
        self._lost_input = config.capture
        outputs = [each.config.playback for each in self._connections]
        self._lost_outputs = [device for device in outputs if device]
        if config.capture:
            self._request = replace(
                self._request, input_channels=tuple(channel + 1 for channel in config.picked)
            )
        pauses, pause_s = iter(_BACK_OFF_S), 0.0
        while not self._is_closed:
            pause_s = next(pauses, pause_s)
            until = time.monotonic() + pause_s
            while time.monotonic() < until and not self._is_closed:
                time.sleep(0.02)
            with self._lock:
                try:
                    if self._is_closed or self._open_again():
                        return
                    why = ""
                except RtmtassError as error:
                    why = f"it can't be opened yet: {error}"
                # A JACK server that dies between two attempts would end this process.
                close_portaudio()
            if why:
                self._report_once(why)

    def _request_again(self, devices: list[Device]) -> bool:
        """Request the lost devices by their numbers now; return whether all are present."""
        request = self._request
        first_output, more = self._lost_outputs[:1], self._lost_outputs[1:]
        # A request for the default gets the present default.
        inputs: list[Device | None] = []
        if self._lost_input and request.input:
            inputs = [find_again(self._lost_input, "input", devices)]
        elif self._lost_input:
            inputs = [next((device for device in devices if device.inputs), None)]
        outputs: list[Device | None] = []
        if first_output and request.output:
            outputs = [find_again(first_output[0], "output", devices)]
        elif first_output:
            outputs = [next((device for device in devices if device.outputs), None)]
        others = [find_again(device, "output", devices) for device in more]
        if None in (*inputs, *outputs, *others):
            return False

        def numbers(found: list[Device | None]) -> list[str]:
            return [str(device.index) for device in found if device]

        self._request = replace(
            request,
            input=request.input and next(iter(numbers(inputs)), None),
            output=request.output and next(iter(numbers(outputs)), None),
            more_outputs=tuple(numbers(others)),
        )
        return True

    def _open_again(self) -> bool:
        restart_portaudio()
        discontinuities, devices = self.discontinuities + 1, list_devices()
        if not self._request_again(devices):
            return False
        before = self._lost_input or self._lost_outputs[0]
        self._connect(devices)
        try:
            self._start()
        except RtmtassError:
            self._close_connections()
            raise
        self._earlier_discontinuities = discontinuities
        self._reopened += 1
        is_same = self._name == before.name
        self._report("running", f"{self._name} {'is back' if is_same else 'is used from now on'}")
        return True

    def _report_once(self, message: str) -> None:
        if message != self._message:
            self._report(self._state, message)

    def _report(self, state: str, message: str) -> None:
        self._state, self._message = state, message
        self._on_message(message)

    def _keep_counts(self) -> None:
        """Add up the counts of connections that are about to be closed."""
        overruns, underruns, xruns = self._counts()
        self._overruns += overruns
        self._underruns += underruns
        self._xruns += xruns

    def _counts(self) -> tuple[int, int, int]:
        connections = self._connections
        return (
            sum(connection.capture.overruns for connection in connections),
            sum(connection.underruns for connection in connections),
            sum(connection.xruns for connection in connections),
        )

    def device_stats(self) -> DeviceStats:
        """See RealtimeEndpoint."""
        # While reconnecting and after a close, the counts have been added up.
        is_open = self._state in ("running", "waiting")
        overruns, underruns, xruns = self._counts() if is_open else (0, 0, 0)
        return DeviceStats(
            overruns=self._overruns + overruns,
            underruns=self._underruns + underruns,
            xruns=self._xruns + xruns,
            drift_ppm=max((each.drift_ppm for each in self._connections), key=abs),
            fill=self.connection.playback.available,
            reopened=self._reopened,
            state=self._state,
            message=self._message,
            latency=self.latency(),
            start_up_s=self._start_up_s,
            advice=next((each.advice for each in self._connections if each.advice), ""),
        )

    def latency(self) -> Latency:
        """Return the parts of the latency."""
        schedule, connection = self.schedule, self.connection
        in_s, out_s = connection.reported_latency_s
        buffer_ms, fill_ms, measured_ms = 0.0, 0.0, None
        if connection.config.playback:
            # The algorithm's latency includes the hop that a block waits for.
            wait_ms = 1000 * (schedule.algorithmic_latency - schedule.delay) / schedule.sample_rate
            fill_ms = 1000 * connection.fill / connection.config.rates[1]
            buffer_ms = fill_ms - wait_ms
        if self.unbuffered_ms is not None:
            measured_ms = self.unbuffered_ms + fill_ms
        return Latency(
            device_in_ms=1000 * in_s,
            algorithm_ms=1000 * schedule.algorithmic_latency / schedule.sample_rate,
            buffer_ms=buffer_ms,
            device_out_ms=1000 * out_s,
            measured_ms=measured_ms,
        )

    def close(self) -> None:
        """Play what is written, then close the devices; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True  # also ends a reconnect
        with self._lock:
            if self._state in ("running", "waiting"):
                self._keep_counts()
                self._state = "closed"
                until = time.monotonic() + _DRAIN_S
                while self.connection.playback.available and time.monotonic() < until:
                    time.sleep(0.005)
            self._close_connections()
            self._state = "closed"
