"""Admission, access, TLS, draining and reporting of the service, and the command itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from serve_rig import Client, client, run, separate, served, serving, until
from test_serve import sounds

import rtmtass
from rtmtass.cli.main import main
from rtmtass.errors import InputError, UsageError
from rtmtass.serve.access import tls_context
from rtmtass.serve.budget import Budget, weigh
from rtmtass.serve.metrics import Histogram, Metrics
from rtmtass.serve.options import Options
from rtmtass.serve.protocol import Hello
from rtmtass.serve.server import Server
from rtmtass.serve.service import Service

ROOT = Path(__file__).parent.parent


# --- admission


def test_a_stream_beyond_capacity_is_refused_and_later_admitted() -> None:
    async def scene() -> tuple[Any, Any, dict[str, int], int]:
        async with serving(max_streams=2) as (server, service):
            async with client(server, rate=16000, channels=2) as first:
                await first.greet()
                refused = await separate(server, sounds(0), rate=16000)
                n_refused = dict(service.metrics.refusals)
            await until(lambda: service.health()["channels"] == 0)
            return refused, await separate(server, sounds(10), rate=16000), n_refused, 0

    refused, admitted, counted, _ = run(scene())
    assert refused.code == 1013
    assert refused.reason == "the server is full: 2 of 2 channels are in use; try again later"
    assert not refused.greeting
    assert counted == {"full": 1}
    assert admitted.code == 1000


def test_a_busy_server_refuses_rather_than_be_late() -> None:
    """By the measured times of its ticks, which here are made up."""

    async def scene() -> tuple[Any, Any]:
        async with serving(limit=0.8) as (server, service), client(server, rate=16000) as first:
            service.budget.channel_s = 1e-6
            await first.greet()
            for _ in range(128):
                service.budget.observe(1, 0.0145)
            return await separate(server, sounds(0), rate=16000), service.metrics.refusals["busy"]

    refused, n_refused = run(scene())
    assert refused.code == 1013
    assert refused.reason == (
        "the server is busy: a step takes 91 % of its 16 ms; try again later"
    )  # fmt: skip
    assert n_refused == 1


def test_the_budget_follows_measured_times() -> None:
    budget = Budget(0.016, hops=1, limit=0.8, fixed_s=0.0008, channel_s=0.0001)
    assert budget.capacity == 60  # until measured, bytes cost as much as hops
    assert budget.refusal(59, 1) == ""
    assert budget.refusal(59, 2) == "the server is full: 59 of 60 channels are in use"
    for _ in range(1000):
        budget.observe(40, 0.0048)  # as predicted: bytes cost nothing
    assert 115 <= budget.capacity <= 120
    assert budget.load == pytest.approx(0.3)
    for _ in range(1000):
        budget.observe(40, 0.0192)  # four times the prediction
    assert budget.capacity == pytest.approx(30, abs=1)
    assert budget.refusal(1, 1).startswith("the server is busy: a step takes 120 %")
    budget.forget()
    assert budget.refusal(1, 1) == ""
    assert Budget(0.016, 1, float("inf"), 1, 1).refusal(1e6, 1) == ""


def test_rare_late_ticks_dont_refuse_streams() -> None:
    budget = Budget(0.016, hops=1, limit=0.8, fixed_s=0, channel_s=0.0001)
    for i in range(128):
        budget.observe(1, 0.05 if i % 32 == 0 else 0.002)
    assert budget.refusal(1, 1) == ""


def test_resampled_and_multichannel_streams_weigh_more() -> None:
    assert weigh(Hello(16000)) == 1
    assert weigh(Hello(16000, channels=2)) == 2
    assert weigh(Hello(48000, channels=2)) == 4


# --- access


async def status_of(url: str, path: str, **headers: str) -> tuple[int, str]:
    base = url.replace("ws", "http", 1).removesuffix("/stream")
    async with aiohttp.ClientSession() as session, session.get(base + path, headers=headers) as r:
        return r.status, await r.text()


UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}  # fmt: skip


def test_a_token_opens_streams_and_metrics_alone() -> None:
    async def scene() -> list[Any]:
        async with serving(token="secret-7") as (server, service):
            url = server.url
            found: list[Any] = [
                await status_of(url, "/stream", **UPGRADE),
                await status_of(url, "/stream?token=secret-8", **UPGRADE),
                await status_of(url, "/stream", Authorization="Bearer é", **UPGRADE),
                await status_of(url, "/stream", Authorization="Basic secret-7", **UPGRADE),
                await status_of(url, "/metrics"),
                await status_of(url, "/metrics", Authorization="Bearer secret-7"),
                await status_of(url, "/healthz"),
            ]
            assert service.metrics.refusals["token"] == 5
            for kwargs in (
                {"url": f"{url}?token=secret-7"},
                {"url": url, "headers": {"Authorization": "bearer secret-7"}},
            ):
                async with (
                    aiohttp.ClientSession() as session,
                    session.ws_connect(**kwargs) as socket,
                ):
                    stream = Client(socket, {"rate": 16000})
                    await stream.greet()
                    found.append(stream.greeting["kind"])
            return found

    *refused, metrics, health, first, second = run(scene())
    assert [status for status, _ in refused] == [401] * 5
    assert refused[0][1].startswith("the token is missing; send the header Authorization: Bearer")
    assert refused[1][1].startswith("the token is wrong")
    assert metrics[0] == health[0] == 200
    assert first == second == "ready"


def test_browsers_may_connect_from_allowed_pages_only() -> None:
    async def scene() -> tuple[list[int], str]:
        async with serving(origins=("https://good.example",)) as (server, _):
            codes = []
            for origin in ("https://evil.example", "null", f"http://127.0.0.1:{server.port}"):
                status, text = await status_of(server.url, "/stream", Origin=origin, **UPGRADE)
                codes.append(status)
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(server.url, origin="https://good.example") as socket,
            ):
                stream = Client(socket, {"rate": 16000})
                await stream.greet()
                assert stream.greeting["delay"] == 256
            return codes, text

    codes, text = run(scene())
    assert codes == [403] * 3
    assert text.startswith("this page's origin has no access; start the server with --allow-origin")


def test_other_paths_are_named(tmp_path: Path) -> None:
    async def scene() -> list[tuple[int, str]]:
        async with serving() as (server, _):
            return [await status_of(server.url, path) for path in ("/", "/stream")]

    (missing, text), (plain, _) = run(scene())
    assert missing == 404
    assert text == "Not Found; streams are at /stream, see also /healthz and /metrics\n"
    assert plain == 400


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    if not shutil.which("openssl"):
        if os.environ.get("CI"):
            pytest.fail("openssl is missing; install the package openssl")
        pytest.skip("openssl isn't installed")
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj"
    names = ["/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", *words.split(), *names, *files], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_a_stream_over_tls_has_the_same_bits(certificate: tuple[Path, Path]) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate[0]))

    async def scene() -> Any:
        async with serving(certificate=certificate[0], key=certificate[1]) as (server, _):
            assert server.url.startswith("wss://127.0.0.1:")
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(server.url, ssl=trusting) as socket,
            ):
                stream = Client(socket, {"rate": 16000, "format": "f32"})
                await stream.greet()
                await stream.write(sounds(8000), 1000)
                await stream.end()
                return await stream.read_all()

    expected = rtmtass.load().separate(sounds(8000)[:, 0])
    np.testing.assert_array_equal(run(scene()).samples[256:, :, 0], expected.T)


def test_wrong_files_of_tls_are_named(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    with pytest.raises(InputError, match=r"none\.pem can't be read: No such file"):
        tls_context(tmp_path / "none.pem", key)
    with pytest.raises(InputError, match="aren't a certificate and its key without a password"):
        tls_context(cert, cert)
    with pytest.raises(UsageError, match="TLS needs both files"):
        Options(certificate=cert)


# --- draining


def test_draining_lets_streams_finish_then_returns_their_last_samples() -> None:
    sound = sounds(6000)

    async def scene() -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        async with (
            serving(drain_s=3600.0) as (server, service),
            client(server, rate=16000, format="f32") as finishing,
            client(server, rate=16000, format="f32") as going_on,
            client(server, rate=16000) as undecided,
        ):
            for stream in (finishing, going_on):
                await stream.greet()
                await stream.write(sound[:3000], 256)
            await until(lambda: len(service._connections) == 3)
            before = service.health()
            service.drain()
            draining = service.health()
            status, _ = await status_of(server.url, "/healthz")
            assert status == 503
            await finishing.write(sound[3000:], 256)
            await finishing.end()
            finished = await finishing.read_all()
            late = await separate(server, sounds(0), rate=16000)
            await until(lambda: service.metrics.bytes_in == 4 * (6000 + 3000))
            service.drain()  # the time is over
            readers = [s.read_all() for s in (going_on, undecided)]
            return [finished, late, *await asyncio.gather(*readers)], before, draining

    (finished, late, stopped, undecided), before, draining = run(scene())
    assert (before["status"], draining["status"]) == ("ok", "draining")
    separator = rtmtass.load()
    for reply, n in ((finished, 6000), (stopped, 3000)):
        expected = separator.separate(sound[:n, 0])
        np.testing.assert_array_equal(reply.samples[256:, :, 0], expected.T)
    assert (finished.code, stopped.code) == (1000, 1001)
    assert stopped.reason == "the server is being stopped"
    for refused in (undecided, late):
        assert refused.code == 1013
        assert refused.reason == "the server is being stopped; try another"


# --- metrics


def parse(text: str) -> dict[str, dict[str, float]]:
    """Parse the text format as its specification demands; return samples by family."""
    families: dict[str, dict[str, float]] = {}
    kinds: dict[str, str] = {}
    name = ""
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in families, "a family's lines must be together"
            families[name] = {}
        elif line.startswith("# TYPE "):
            assert line.split(" ")[2] == name
            assert not families[name]
            kinds[name] = line.split(" ")[3]
            assert kinds[name] in ("counter", "gauge", "histogram")
        else:
            label = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*"'
            match = re.fullmatch(rf"([a-zA-Z_:][\w:]*(?:{{(?:{label},?)*}})?) (\S+)", line)
            assert match, line
            assert match[1].startswith(name)
            assert match[1] not in families[name]
            families[name][match[1]] = float(match[2])
    for family, kind in kinds.items():
        if kind == "counter":
            assert family.endswith("_total")
            assert all(value >= 0 for value in families[family].values())
        if kind == "histogram":
            check_histogram(family, families[family])
    return families


def check_histogram(name: str, samples: dict[str, float]) -> None:
    buckets = [(k, v) for k, v in samples.items() if k.startswith(f"{name}_bucket")]
    bounds = [float(re.findall(r'le="([^"]+)"', key)[0]) for key, _ in buckets]
    counts = [value for _, value in buckets]
    assert bounds == sorted(bounds)
    assert bounds[-1] == float("inf")
    assert counts == sorted(counts)
    assert counts[-1] == samples[f"{name}_count"]
    assert samples[f"{name}_sum"] >= 0


def test_metrics_count_what_happened() -> None:
    async def scene() -> str:
        async with serving(max_streams=1) as (server, service):
            async with client(server, rate=16000) as stream:
                await stream.greet()
                assert (await separate(server, sounds(0), rate=16000)).code == 1013
                await stream.write(sounds(2560), 256)
                await stream.end()
                await stream.read_all()
            await until(lambda: not service.health()["streams"])
            status, text = await status_of(server.url, "/metrics")
            assert status == 200
            return text

    found = parse(run(scene()))
    hops = found["rtmtass_hops_total"]["rtmtass_hops_total"]
    assert hops == 11
    assert found["rtmtass_streams_opened_total"]["rtmtass_streams_opened_total"] == 1
    assert found["rtmtass_bytes_total"] == {
        'rtmtass_bytes_total{direction="in"}': 2 * 2560,
        'rtmtass_bytes_total{direction="out"}': 2 * 3 * (2560 + 256),
    }
    assert found["rtmtass_refusals_total"] == {'rtmtass_refusals_total{reason="full"}': 1}
    assert found["rtmtass_closes_total"] == {
        'rtmtass_closes_total{code="1000",reason="done"}': 1,
        'rtmtass_closes_total{code="1013",reason="full"}': 1,
    }
    assert 1 <= found["rtmtass_step_seconds"]["rtmtass_step_seconds_count"] <= hops
    assert found["rtmtass_streams"] == {"rtmtass_streams": 0}
    assert found["process_cpu_seconds_total"]["process_cpu_seconds_total"] > 0


def test_metrics_keep_the_format_for_any_value() -> None:
    metrics = Metrics()
    metrics.refusals['a "quoted" \\ line\nbreak'] = 2
    for seconds in (0.0, 0.0005, 0.01, 99.0):
        metrics.steps.observe(seconds)
    found = parse(metrics.render({"x": ("About.", float("inf"))}, {"model": 'my "model"'}))
    steps = found["rtmtass_step_seconds"]
    assert steps['rtmtass_step_seconds_bucket{le="0.0005"}'] == 2  # bounds are inclusive
    assert steps['rtmtass_step_seconds_bucket{le="+Inf"}'] == 4
    assert list(Histogram((1.0,)).lines("a"))[-1] == "a_count 0"


# --- the command


def command(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rtmtass", "serve", "--port", "0", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command_serves_until_sigterm_and_drains() -> None:
    process = command("--json", "--drain", "0.2", "--max-streams", "3",
                      RTMTASS_SERVE_TOKEN="from-the-environment")  # fmt: skip
    assert process.stdout
    try:
        ready = json.loads(process.stdout.readline())

        async def scene() -> Any:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{ready['listening']}?token=from-the-environment") as socket,
            ):
                stream = Client(socket, {"rate": 16000})
                await stream.greet()
                await stream.write(sounds(1000), 256)
                while not stream.parts:
                    await stream.read_one()
                process.send_signal(signal.SIGTERM)
                return await stream.read_all()

        reply = run(scene())
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert ready["listening"] == f"ws://127.0.0.1:{ready['port']}/stream"
    assert ready["interval_s"] == 0.016
    assert (reply.code, len(reply.samples)) == (1001, 1256)
    assert process.returncode == 0, err
    assert json.loads(out)["streams"] == 1
    assert json.loads(out)["hops"] == 5
    *first, last = err.splitlines()
    assert last == "rtmtass: draining; running streams may finish"
    assert first in ([], ["rtmtass: compiling for this CPU, once (about 20 s) …"])


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("--cert", "x.pem"), 2, "rtmtass: TLS needs both files: give --cert FILE and --key FILE"),
        (("--budget", "0"), 2, "rtmtass: argument --budget: '0' is not a budget; give more"),
        (("--port", "70000"), 2, "rtmtass: argument --port: '70000' is not a port; give 0 to"),
        (("--token-file", "none.txt"), 1, "rtmtass: none.txt can't be read: No such file"),
        (("--interval", "17"), 2, "rtmtass: 17 hops per interval were given; give 1 to 16"),
        (("--budget", "nan"), 2, "rtmtass: argument --budget: 'nan' is not a budget; give more"),
        (("--cert", "none.pem", "--key", "none.pem"), 1, "rtmtass: none.pem can't be read:"),
    ],
)  # fmt: skip
def test_errors_of_the_command_are_one_line(
    words: tuple[str, ...], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the model is opened."""
    try:
        found = main(["serve", "--model", "none", *words])
    except SystemExit as error:
        found = int(str(error.code))
    assert found == code
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith(line), first
    assert "Traceback" not in "".join(rest)


def test_an_address_that_cant_be_listened_on_is_named_once() -> None:
    async def refusal(host: str, port: int) -> str:
        server = Server(Service(served(), Options(host=host, port=port)))
        with pytest.raises(InputError) as caught:
            await server.start()
        return str(caught.value)

    async def scene() -> tuple[int, str, str]:
        async with serving() as (server, _):
            return server.port, await refusal("127.0.0.1", server.port), await refusal(
                "203.0.113.1", 0
            )  # fmt: skip

    port, taken, other = run(scene())
    advice = "choose another --port, or --port 0 for any"
    assert taken == f"127.0.0.1 port {port} can't be listened on: address already in use; {advice}"
    assert other.startswith("203.0.113.1 port 0 can't be listened on: ")


def test_a_missing_package_is_named() -> None:
    script = (
        "import sys; from importlib import util; real = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'aiohttp' else real(name, *a)\n"
        "from rtmtass.cli.main import main; sys.exit(main(['serve']))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert process.returncode == 1
    assert process.stderr == 'rtmtass: rtmtass serve needs aiohttp: pip install "rtmtass[serve]"\n'
