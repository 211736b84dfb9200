"""The page's connection to its server: states, pictures, refusals, and its loss and return."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from browser import PageServer, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page, WebSocketRoute

ABOUT = {"version": "0.1.0", "model": "tiny", "stems": ["speech", "music", "noise"],
         "sampleRate": 16000, "canChoose": True, "maxUploadBytes": 1000}  # fmt: skip
DEVICES = {"inputs": [{"id": "3", "name": "Microphone", "isDefault": True}],
           "outputs": [{"id": "4", "name": "Speakers", "isDefault": True}],
           "problem": ""}  # fmt: skip
STATE = {"kind": "state", "running": False, "stats": None, "title": "", "input": None,
         "output": None, "messages": [], "problem": "",
         "controls": {"selected": "speech", "gains_db": {"speech": 0, "music": 0, "noise": 0},
                      "muted": [], "soloed": [], "strength_db": None, "is_bypassed": False,
                      "can_record": True}}  # fmt: skip
ENGINE = {"state": "running", "seconds": 3, "hops": 190, "deadline_misses": 0, "skipped": 0,
          "cpu_share": 0.2, "advice": "",
          "steps": {"p50_ms": 3, "p99_ms": 4, "max_ms": 5, "recent_ms": 3, "deadline_ms": 16},
          "levels": {"stems": {}, "separated": {}, "mixture": [None, None],
                     "output": [None, None], "clipped": []}}  # fmt: skip


@pytest.fixture(scope="module")
def page_server() -> Iterator[PageServer]:
    with PageServer("backend_server.js") as started:
        yield started


class Socket:
    """The server's end of the page's WebSocket; `answers` maps "do" to the states to send."""

    def __init__(self, page: Page, url: str) -> None:
        self.received: list[dict[str, Any]] = []
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.routes: list[WebSocketRoute] = []
        self.is_refusing = False
        page.route("**/api/about", lambda route: route.fulfill(json=ABOUT))
        page.route("**/api/devices", lambda route: route.fulfill(json=DEVICES))
        page.route_web_socket(re.compile(".*/token/ws"), self._open)
        page.goto(url)
        wait_until(page, "document.querySelector('select')?.options.length > 1")

    def send(self, **changes: Any) -> None:
        self.routes[-1].send(json.dumps({**STATE, **changes}))

    def _open(self, route: WebSocketRoute) -> None:
        self.routes.append(route)
        if self.is_refusing:
            route.close()
            return
        route.on_message(self._receive)
        self.send()

    def _receive(self, text: str | bytes) -> None:
        message = json.loads(text)
        self.received.append(message)
        for answer in self.answers.get(message["do"], []):
            self.routes[-1].send(json.dumps(answer))


@pytest.fixture
def socket(page: Page, page_server: PageServer) -> Socket:
    return Socket(page, page_server.url)


def test_start_waits_for_the_engine_and_controls_go_out(page: Page, socket: Socket) -> None:
    socket.answers["start"] = [{**STATE, "running": True}]
    page.get_by_role("button", name="Start").click()
    page.get_by_text("Starting").wait_for()
    socket.send(running=True, stats=ENGINE)
    page.get_by_text("Running").wait_for()
    page.get_by_role("button", name="Mute music").click()
    wait_until(page, "document.querySelector('[aria-pressed=true]')")
    socket.answers["stop"] = [STATE]
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped").wait_for()
    assert socket.received == [
        {"do": "start", "input": None, "output": None},
        {"do": "mute", "stem": "music", "on": True},
        {"do": "stop"},
    ]


def test_the_same_failure_twice_is_said_twice(page: Page, socket: Socket) -> None:
    failed = {**STATE, "problem": "the device is busy"}
    socket.answers["start"] = [{**STATE, "running": True}, failed]
    start, alert = page.get_by_role("button", name="Start"), page.get_by_text("the device is busy")
    for attempt in (1, 2):
        start.click()
        alert.first.wait_for()
        page.get_by_text("Stopped").wait_for()
        wait_until(page, "document.querySelector('.primary').disabled === false")
        assert len(socket.received) == attempt
        assert alert.locator("visible=true").count() == 1


def test_a_refused_message_is_shown(page: Page, socket: Socket) -> None:
    page.get_by_role("button", name="Bypass").click()
    socket.routes[-1].send(json.dumps({"kind": "problem", "text": "bypass isn't possible"}))
    page.get_by_role("alert").filter(has_text="bypass isn't possible").wait_for()


def test_pictures_arrive_as_bytes(page: Page, socket: Socket) -> None:
    socket.send(running=True, stats=ENGINE)
    socket.routes[-1].send(struct.pack("<HBB", 300, 4, 64) + bytes([200]) * (300 * 4 * 64))
    wait_until(
        page,
        """() => { const canvas = document.querySelector(".mixture canvas");
          return canvas.getContext("2d").getImageData(20, 30, 1, 1).data[0] > 100; }""",
    )


def test_a_lost_server_is_tried_again_until_it_is_back(page: Page, socket: Socket) -> None:
    page.clock.install()
    socket.send(running=True, stats=ENGINE)
    page.get_by_text("Running").wait_for()
    socket.is_refusing = True
    socket.routes[-1].close()
    page.get_by_text("The connection to rtmtass is lost").wait_for()
    for _ in range(5):
        page.clock.run_for(4000)
    page.get_by_text("start it again").wait_for()
    tried = len(socket.routes)
    assert 4 <= tried <= 10  # it waits longer and longer
    socket.is_refusing = False
    page.clock.run_for(4000)
    socket.send(running=True, stats=ENGINE)
    page.get_by_text("Running").wait_for()
    assert page.get_by_text("start it again").count() == 0
