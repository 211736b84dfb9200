"""Checks what live use needs: sound system, priorities, processor, model and speed."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rtmtass.errors import RtmtassError
from rtmtass.live import os_priority
from rtmtass.live.devices.listing import Device, list_devices, supported_rates
from rtmtass.live.devices.portaudio import portaudio, quiet_libraries
from rtmtass.live.os_priority import Grant

_N_STEPS = 150
_TIGHT = 0.5
"""Fraction of a hop that a step may take, so that other programs can run too."""


_NO_DEVICE = (
    "plug one in, then: Debian and Ubuntu: apt install pipewire-alsa · Fedora: dnf install"
    " pipewire-alsa · either: systemctl --user start pipewire wireplumber; sudo usermod -aG audio"
    " $USER, and log in again · macOS: System Settings, Privacy, Microphone: allow the terminal ·"
    " Windows: ms-settings:privacy-microphone"
)
_FEATURES = (
    "amx-int8", "amx-bf16", "avx512vnni", "avx512bf16", "avx512f", "avxvnni", "avx2", "fma",
    "sse2", "neon", "dotprod", "bf16",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """Result of one check; without those that are needed, live can't work at all."""

    name: str
    is_ok: bool
    detail: str
    advice: str = ""
    is_needed: bool = True


def checks() -> Iterator[Check]:
    """Run all checks, one by one."""
    groups: tuple[Callable[[], Iterator[Check]], ...] = (_sound, _priorities, _processor, _model)
    for group in groups:
        yield from group()


def _sound() -> Iterator[Check]:
    try:
        with quiet_libraries():
            version = portaudio().get_portaudio_version()[1]
            devices = list_devices()
    except RtmtassError as error:
        yield Check("PortAudio", False, "missing", f"{error}")
        return
    yield Check("PortAudio", True, version.split(",")[0])
    for kind, able in (
        ("input", [d for d in devices if d.inputs]),
        ("output", [d for d in devices if d.outputs]),
    ):
        yield Check(
            f"{kind} devices",
            bool(able),
            f"{len(able)}: {', '.join(d.name for d in able[:3])}" if able else "none",
            _NO_DEVICE,
        )
    yield from _rates(devices)


def _rates(devices: list[Device]) -> Iterator[Check]:
    defaults = [d for d in devices if d.is_default_input or d.is_default_output]
    for device in defaults:
        with quiet_libraries():
            rates = supported_rates(device)
        listed = " ".join(map(str, rates)) or "none of the common ones"
        yield Check(
            f"rates of {device.name}", bool(rates), f"{listed} Hz",
            "name one with rtmtass live --rate HZ", is_needed=False,
        )  # fmt: skip


def _priorities() -> Iterator[Check]:
    grants: list[Grant] = []
    # In a thread of its own, so that this one keeps its priority.
    thread = threading.Thread(
        target=lambda: grants.append(os_priority.request_priority(os_priority.ENGINE_PRIORITY))
    )
    thread.start()
    thread.join()
    grants.append(os_priority.lock_memory())
    for grant in grants:
        yield Check(grant.name, grant.is_granted, grant.detail, grant.advice, is_needed=False)


def _processor() -> Iterator[Check]:
    from rtmtass.jit import cpu
    from rtmtass.jit.compiler import CACHE_FOLDER

    features = cpu.features()
    fast = [name for name in _FEATURES if name in features]
    listed = " ".join(fast) or "no SIMD extensions found"
    yield Check(
        "processor", bool(fast), f"{platform.machine()}: {listed}",
        "a processor of the last ten years is several times faster", is_needed=False,
    )  # fmt: skip
    isas, isa = cpu.usable_isas(), cpu.int8_isa()
    forced = f", forced by {cpu.VARIABLE}; best: {isas[0]}" if isa != isas[0] else ""
    yield Check(
        "int8", isa not in ("sse2", "portable"), f"int8 matmul by {isa}{forced}",
        "without int8 instructions int8 saves little: try rtmtass live --precision f32",
        is_needed=False,
    )  # fmt: skip
    n_files = sum(1 for _ in CACHE_FOLDER.rglob("*.nbc")) if CACHE_FOLDER.exists() else 0
    yield Check(
        "machine code", n_files > 0, f"{n_files} compiled functions in {CACHE_FOLDER}",
        "compiled on first use, which takes about 20 s: rtmtass demo", is_needed=False,
    )  # fmt: skip


def _model() -> Iterator[Check]:
    import rtmtass
    from rtmtass.weights import hop_of

    try:
        separator = rtmtass.load(block=hop_of())
    except RtmtassError as error:
        yield Check("model", False, "damaged or missing", str(error))
        return
    yield Check(
        "model", True, f"{separator.config.name}: weights as released, run in"
        f" {separator.precision}",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    block = rng.uniform(-0.1, 0.1, (separator.hop, 1)).astype(np.float32)
    out = np.zeros((len(separator.stems), separator.hop, 1), np.float32)
    highband_weights = np.zeros(out.shape[:2], np.float32)
    hop_ms = 1000 * separator.hop / separator.sample_rate
    steps_ms = []
    for _ in range(_N_STEPS):
        started = time.perf_counter()
        separator.process_into(block, out, highband_weights)
        steps_ms.append(1000 * (time.perf_counter() - started))
        time.sleep(hop_ms / 4000)  # as live: the caches cool down between steps
    p50, p99 = np.percentile(steps_ms, (50, 99))
    yield Check(
        "speed", bool(p99 < _TIGHT * hop_ms),
        f"a step takes {p50:.2f} ms (p50), {p99:.2f} ms (p99), of a {hop_ms:.0f} ms hop",
        "close other programs, plug in the power supply, or try rtmtass live --extra-buffer 10",
        is_needed=False,
    )  # fmt: skip
