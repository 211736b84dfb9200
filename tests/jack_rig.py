"""A sound card for tests: jackd with a dummy driver, a microphone and a loudspeaker.

Run as a script, it is the JACK client that is microphone and loudspeaker.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

INSTALL = (
    "apt-get install -y --no-install-recommends libportaudio2 jackd2 && pip install JACK-Client"
)
DEVICE = "system, jack"
"""The rig's device by name and host: others may have the name, or the default."""
INPUT, OUTPUT = ("--input", DEVICE), ("--output", DEVICE)
_TIMEOUT_S = 20.0
_ATTEMPTS = 4
_NAP_S, _STALL_S = 0.002, 0.0025


def missing_parts():
    """Return what the rig needs and isn't installed, or an empty string."""
    import shutil

    if not shutil.which("jackd"):
        return f"jackd isn't installed: {INSTALL}"
    try:
        import jack  # noqa: F401
        import sounddevice  # noqa: F401
    except (ImportError, OSError) as error:
        return f"{error}: {INSTALL}"
    return ""


def on_a_steady_machine(test):
    """Repeat a test that failed while jackd had an xrun or the computer stalled.

    A stall is detected if the loudspeaker's process, which has a higher priority than the
    engine, woke up `_STALL_S` late. Shorter stalls, or those of the other core, go undetected
    and can starve a stream too: one failure without a detected stall is repeated as well.
    """

    @functools.wraps(test)
    def repeated(server, **fixtures):
        unexplained = 0
        for attempt in range(_ATTEMPTS):
            server.disturbances = 0
            try:
                test(server, **fixtures)
                return
            except AssertionError:
                unexplained += not server.disturbances
                if unexplained > 1 or attempt == _ATTEMPTS - 1:
                    raise

    return repeated


class JackServer:
    """A jackd with a dummy driver; `environment` makes clients use it."""

    def __init__(self, rate=16000, period=256, channels=1):
        self.rate, self.period, self.channels = rate, period, channels
        self.name = f"rtmtass{os.getpid()}x{time.monotonic_ns() % 10**9}"
        self.environment = {
            "JACK_NO_AUDIO_RESERVATION": "1",
            "JACK_NO_START_SERVER": "1",
            "JACK_DEFAULT_SERVER": self.name,
        }
        self.disturbances = 0
        self._before = {key: os.environ.get(key) for key in self.environment}
        os.environ.update(self.environment)
        self.start()

    def start(self):
        rate, period, channels = map(str, (self.rate, self.period, self.channels))
        command = ["jackd", "-R", "-P", "70", "-n", self.name, "-d", "dummy"]
        command += ["-r", rate, "-p", period, "-C", channels, "-P", channels]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            probe = subprocess.run(["jack_lsp"], capture_output=True, check=False)
            if probe.returncode == 0:
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError("jackd doesn't start")

    def set_period(self, period):
        """Change the period while running."""
        self.period = period
        command = ["jack_bufsize", str(period)]
        subprocess.run(command, capture_output=True, check=True, timeout=_TIMEOUT_S)

    def kill(self):
        """Kill it, as a crash would."""
        self.process.kill()
        self.process.wait()

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.kill()
        for key, value in self._before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        with contextlib.suppress(OSError):
            for path in Path("/dev/shm").glob(f"jack*{self.name}*"):
                path.unlink()


class Loudspeaker:
    """The client process: plays (n, C) as the microphone, records the loudspeaker.

    C or `n_speakers` may be 0, for a stream with an output or an input only.
    """

    def __init__(self, server, x, seconds, n_speakers=1):
        self._server = server
        self._folder = tempfile.TemporaryDirectory()
        played, self._recorded = (f"{self._folder.name}/{name}.npy" for name in ("in", "out"))
        np.save(played, x)
        command = [sys.executable, __file__, played, self._recorded, str(seconds)]
        command.append(str(n_speakers))
        environment = {**os.environ, **server.environment}
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        )

    def wait_until_playing(self):
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("playing"), line

    def recorded(self):
        """Wait for the end; return the recording, (n, channels), and the server's xruns."""
        stdout, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, stdout
        recording = np.load(self._recorded)
        self._folder.cleanup()
        _, stalls, _, xruns = stdout.split()[-4:]
        self._server.disturbances += int(stalls) + int(xruns)
        return recording, int(xruns)

    heard = recorded
    """Its former name, which scripts outside this repository use."""

    def close(self):
        """Kill it."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def main(played, recorded, seconds, n_speakers):
    import jack

    with contextlib.suppress(OSError):
        # Ordinary processes must not preempt the thread that holds the GIL.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(75))
    gc.disable()
    x = np.load(played)
    client = jack.Client("fake", no_start_server=True)
    microphones = [client.outports.register(f"mic_{k}") for k in range(x.shape[1])]
    speakers = [client.inports.register(f"spk_{k}") for k in range(int(n_speakers))]
    n_blocks = int(float(seconds) * client.samplerate / client.blocksize)
    out = np.zeros((n_blocks * client.blocksize, len(speakers)), np.float32)
    state = {"position": 0, "xruns": 0, "running": False}

    @client.set_process_callback
    def process(n):
        start = state["position"]
        if not state["running"] or start + n > len(out):
            for port in microphones:
                port.get_array()[:] = 0
            return
        for k, port in enumerate(microphones):
            block, array = x[start : start + n, k], port.get_array()
            array[: len(block)] = block
            array[len(block) :] = 0
        for k, port in enumerate(speakers):
            out[start : start + n, k] = port.get_array()
        state["position"] = start + n

    @client.set_xrun_callback
    def xrun(_delay):
        state["xruns"] += 1

    def other_ports(**which):
        ports = client.get_ports(is_audio=True, **which)
        return [p for p in ports if not p.name.startswith(("fake:", "system:"))]

    with client:
        deadline = time.monotonic() + _TIMEOUT_S
        needed = ((microphones, {"is_input": True}), (speakers, {"is_output": True}))
        while not all(other_ports(**which) for own, which in needed if own):
            assert time.monotonic() < deadline, "no other client"
            time.sleep(0.02)
        time.sleep(0.2)  # PortAudio connects its ports one by one
        for is_input, own in ((True, microphones), (False, speakers)):
            for k, port in enumerate(other_ports(is_input=is_input, is_output=not is_input)):
                for other in client.get_all_connections(port):
                    client.disconnect(*((other, port) if is_input else (port, other)))
                if k < len(own):
                    client.connect(*((own[k], port) if is_input else (port, own[k])))
        time.sleep(0.1)
        state["running"] = True
        print("playing", flush=True)
        stalls = 0
        while state["position"] + client.blocksize <= len(out):
            started = time.monotonic()
            time.sleep(_NAP_S)
            stalls += time.monotonic() - started > _NAP_S + _STALL_S
    np.save(recorded, out)
    print("stalls", stalls, "xruns", state["xruns"])


if __name__ == "__main__":
    main(*sys.argv[1:])
