"""A sound card for tests: jackd with a dummy driver, and what is plugged into it.

Run as a script it is microphone and loudspeaker; imported, it starts both.
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
_PATIENCE_S = 20.0
_ATTEMPTS = 4
_NAP_S, _STALL_S = 0.002, 0.0025


def missing_parts():
    """Return what this machine lacks for the rig, or an empty string."""
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
    """Repeat a test that failed while jackd lost its period or the computer stalled.

    A stall is seen where a process of higher priority than ours woke up `_STALL_S` late.
    A shorter one, or one on the other core, isn't seen and can starve a stream all the
    same, so one failure without a stall seen is repeated too; a second one counts.
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
    """A jackd of our own, with no sound card; also its environment for children."""

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
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            asked = subprocess.run(["jack_lsp"], capture_output=True, check=False)
            if asked.returncode == 0:
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError("jackd doesn't start")

    def kill(self):
        """End it as a crash would."""
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
    """The other process: plays (n, C) into the microphone, returns what the loudspeaker got."""

    def __init__(self, server, x, seconds, n_speakers=1):
        self._server = server
        self._folder = tempfile.TemporaryDirectory()
        given, self._heard = (f"{self._folder.name}/{name}.npy" for name in ("given", "heard"))
        np.save(given, x)
        command = [sys.executable, __file__, given, self._heard, str(seconds), str(n_speakers)]
        environment = {**os.environ, **server.environment}
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        )

    def wait_until_playing(self):
        line = self._process.stdout.readline()
        assert line.startswith("playing"), line

    def heard(self):
        """Wait for the end; return (n, channels), and the server's xruns."""
        said, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, said
        heard = np.load(self._heard)
        self._folder.cleanup()
        _, stalls, _, xruns = said.split()[-4:]
        self._server.disturbances += int(stalls) + int(xruns)
        return heard, int(xruns)

    def close(self):
        """End before the end."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def main(given, heard, seconds, n_speakers):
    import jack

    with contextlib.suppress(OSError):
        # Whoever holds the interpreter's lock must not be interrupted by ordinary programs.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(75))
    gc.disable()
    x = np.load(given)
    client = jack.Client("fake", no_start_server=True)
    microphones = [client.outports.register(f"mic_{k}") for k in range(x.shape[1])]
    speakers = [client.inports.register(f"spk_{k}") for k in range(int(n_speakers))]
    n_blocks = int(float(seconds) * client.samplerate / client.blocksize)
    out = np.zeros((n_blocks * client.blocksize, len(speakers)), np.float32)
    state = {"at": 0, "xruns": 0, "running": False}

    @client.set_process_callback
    def process(n):
        at = state["at"]
        if not state["running"] or at + n > len(out):
            for port in microphones:
                port.get_array()[:] = 0
            return
        for k, port in enumerate(microphones):
            block, array = x[at : at + n, k], port.get_array()
            array[: len(block)] = block
            array[len(block) :] = 0
        for k, port in enumerate(speakers):
            out[at : at + n, k] = port.get_array()
        state["at"] = at + n

    @client.set_xrun_callback
    def xrun(_delay):
        state["xruns"] += 1

    def strangers(**which):
        ports = client.get_ports(is_audio=True, **which)
        return [p for p in ports if not p.name.startswith(("fake:", "system:"))]

    with client:
        deadline = time.monotonic() + _PATIENCE_S
        while not (strangers(is_input=True) and strangers(is_output=True)):
            assert time.monotonic() < deadline, "nobody to listen to"
            time.sleep(0.02)
        time.sleep(0.2)  # PortAudio connects its ports one by one
        for is_input, ours in ((True, microphones), (False, speakers)):
            for k, port in enumerate(strangers(is_input=is_input, is_output=not is_input)):
                for other in client.get_all_connections(port):
                    client.disconnect(*((other, port) if is_input else (port, other)))
                if k < len(ours):
                    client.connect(*((ours[k], port) if is_input else (port, ours[k])))
        time.sleep(0.1)
        state["running"] = True
        print("playing", flush=True)
        stalls = 0
        while state["at"] + client.blocksize <= len(out):
            slept = time.monotonic()
            time.sleep(_NAP_S)
            stalls += time.monotonic() - slept > _NAP_S + _STALL_S
    np.save(heard, out)
    print("stalls", stalls, "xruns", state["xruns"])


if __name__ == "__main__":
    main(*sys.argv[1:])
