"""The clients in the service's README run as they stand, in Python and in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from serve_rig import client, run, serving, until
from test_serve import sounds

import rtmtass
from rtmtass.cli.main import build_parser
from rtmtass.serve import protocol

PAGE = (Path(rtmtass.__file__).parent / "serve" / "README.md").read_text("utf-8")
SLOW_MS = 120_000
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_python_client_returns_the_stems_of_separate() -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    names: dict[str, Any] = {}
    exec(code, names)
    sound = sounds(20000)[:, 0]

    async def scene() -> Any:
        async with serving(max_streams=1) as (server, service):
            async with client(server, rate=16000) as other:
                await other.greet()
                with pytest.raises(ConnectionError, match=r"^1013 the server is full: 1 of 1"):
                    await names["separate"](server.url, sound, 16000)
            await until(lambda: not service.health()["streams"])
            return await names["separate"](server.url, sound, 16000)

    np.testing.assert_array_equal(run(scene()), rtmtass.load().separate(sound).T)


SCRIPT = """
import { openStream } from "./client.js";
window.result = (async () => {
  const sound = Float32Array.from({ length: 4000 }, (_, i) => Math.fround(Math.sin(i * i / 9000)));
  const out = [];
  const { ready, send, set, end, closed } =
    await openStream(URL_OF_STREAM, { rate: 16000 }, (block) => out.push(...block));
  for (let i = 0; i < sound.length; i += 500) send(sound.slice(i, i + 500));
  set({ gains_db: {} });
  end();
  const { code } = await closed;
  return { ready, code, sound: [...sound], out };
})();
"""


@pytest.fixture
def chromium() -> str:
    if CHROMIUM is None or find_spec("playwright") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium or playwright is missing")
        pytest.skip("chromium or playwright isn't installed")
    return CHROMIUM


def test_the_browser_client_returns_the_stems_of_separate(chromium: str) -> None:
    """From a page of another origin, which was allowed; before that it is refused."""
    (code,) = blocks("js")

    async def scene() -> tuple[dict[str, Any], str]:
        from playwright.async_api import async_playwright

        files = {"": "", "client.js": code}
        async with pages_of(files) as port:
            allowed, other = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
            async with serving(origins=(allowed,)) as (server, _), async_playwright() as playwright:
                files["main.js"] = SCRIPT.replace("URL_OF_STREAM", json.dumps(server.url))
                browser = await playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox"], timeout=SLOW_MS
                )
                page = await browser.new_page()
                page.set_default_timeout(SLOW_MS)
                await page.goto(f"{allowed}/")
                result = await page.evaluate("() => window.result")
                await page.goto(f"{other}/")
                refused = await page.evaluate("() => window.result.catch((e) => e.message)")
                await browser.close()
                return result, refused

    result, refused = run(scene())
    assert result["code"] == 1000
    assert result["ready"]["delay"] == 256
    stems = np.array(result["out"], np.float32).reshape(-1, 3)
    sound = np.array(result["sound"], np.float32)
    np.testing.assert_array_equal(stems[256:], rtmtass.load().separate(sound).T)
    assert refused.startswith("1006")


@asynccontextmanager
async def pages_of(files: dict[str, str]) -> AsyncIterator[int]:
    """Serve a page with scripts on a port of its own, which is yielded."""

    async def answer(request: web.Request) -> web.Response:
        name = request.path[1:]
        if name not in files:
            raise web.HTTPNotFound
        if name:
            return web.Response(text=files[name], content_type="text/javascript")
        page = '<!doctype html><script type="module" src="./main.js"></script>'
        return web.Response(text=page, content_type="text/html")

    app = web.Application()
    app.router.add_get("/{name:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def test_the_page_names_every_close_code_key_and_metric() -> None:
    for code in protocol.Code:
        assert f"| {int(code)} |" in PAGE
    hello, ready = (json.loads(text) for text in blocks("json")[:2])
    assert protocol.parse_hello(json.dumps(hello), rtmtass.STEMS).rate == 16000

    async def scene() -> dict[str, Any]:
        async with serving() as (server, _), client(server, **hello) as stream:
            await stream.greet()
            return stream.greeting

    found = run(scene())
    assert found.keys() == ready.keys()
    same = ("kind", "stems", "delay", "rate", "channels", "format", "output", "max_ahead_s",
            "max_message_bytes", "model")  # fmt: skip
    assert {key: found[key] for key in same} == {key: ready[key] for key in same}


def test_the_commands_of_the_page_are_valid() -> None:
    words = [line.split("  #")[0].split()[1:] for line in blocks("")[0].splitlines()]
    commands = [line for line in words if line[:1] == ["serve"]]
    assert len(commands) == 2
    for line in commands:
        assert build_parser().parse_args(line).host in ("127.0.0.1", "0.0.0.0")


def test_every_option_of_the_page_exists() -> None:
    parser = build_parser()
    options = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert len(options) >= 9
    text = re.sub(r"\s+", " ", parser._subparsers._group_actions[0].choices["serve"].format_help())  # type: ignore[union-attr,index]
    assert not [option for option in options if option not in text]
