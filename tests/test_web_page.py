"""The page's live view in a browser: what its controls send, and what it shows of each state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from browser import PageServer, open_page, wait_until
from live_page import LivePage, open_live

from rtmtass.errors import UsageError
from rtmtass.live.controls import KEYS
from rtmtass.page import FILES, backend_module, path

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOST = "The connection to rtmtass is lost. Trying again…"


@pytest.fixture(scope="module")
def page_server() -> Iterator[PageServer]:
    with PageServer() as started:
        yield started


@pytest.fixture(scope="module")
def opened(chromium: Browser) -> Iterator[Page]:
    with open_page(chromium) as page:
        yield page


@pytest.fixture
def live(opened: Page, page_server: PageServer) -> LivePage:
    return LivePage(opened, page_server.url)


def gain(stem: str, db: float | None) -> dict[str, Any]:
    return {"do": "gain", "stem": stem, "db": db}


def test_a_file_is_found_by_its_name_only() -> None:
    assert "index.html" in FILES
    assert path("main.js").is_file()
    for name in ("../errors.py", "__init__.py", "", "/etc/passwd", BACKEND_NAME):
        with pytest.raises(UsageError, match="the page has no file"):
            path(name)
    with pytest.raises(UsageError, match="server"):
        backend_module("desktop")


BACKEND_NAME = "backend.js"


def test_every_imported_module_is_published() -> None:
    published = {*FILES, BACKEND_NAME, "rtmtass.js"}  # the last is the engine's, in an export
    for name in FILES:
        for module in re.findall(r'from "\./([^"]+)"', path(name).read_text()):
            assert module in published, f"{name} imports {module}"


def test_nothing_comes_from_elsewhere() -> None:
    """No address of another host, and no code inside the HTML."""
    for name in FILES:
        text = path(name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"""["'`(=]\s*https?://""", text), name
        assert "innerHTML" not in text, name
    assert not re.search(
        r"<script(?![^>]*src=)|<style| style=| on\w+=", path("index.html").read_text()
    )


def test_buttons_send_exactly_their_messages(live: LivePage) -> None:
    live.run()
    for stem in ("speech", "music", "noise"):
        live.button(f"Mute {stem}").click()
        live.button(f"Solo {stem}").click()
        live.button(f"Mute {stem}").click()
        expected = [
            {"do": "mute", "stem": stem, "on": True},
            {"do": "solo", "stem": stem, "on": True},
            {"do": "mute", "stem": stem, "on": False},
        ]
        assert live.sent() == expected
    live.button("Bypass").click()
    live.button("Record").click()
    live.button("Reset").click()
    expected = [{"do": "bypass", "on": True}, {"do": "record", "on": True}, {"do": "reset"}]
    assert live.sent() == expected
    assert live.button("Solo music").get_attribute("aria-pressed") == "false"


def test_a_dragged_fader_sends_gains_in_order_and_off_at_its_end(live: LivePage) -> None:
    box = live.fader("Music").bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    mouse = live.page.mouse
    mouse.move(box["x"] + 0.8 * box["width"], y)
    mouse.down()
    for share in (0.7, 0.5, 0.2, 0.0):
        mouse.move(box["x"] + share * box["width"], y)
    mouse.up()
    messages = live.sent()
    gains = [message.pop("db") for message in messages]
    assert all(message == {"do": "gain", "stem": "music"} for message in messages)
    assert gains[-1] is None
    assert gains[:-1] == sorted(gains[:-1], reverse=True)
    assert all(-60 <= db <= 12 for db in gains[:-1])
    assert live.fader("Music").get_attribute("aria-valuetext") == "off"


def test_arrows_on_a_fader_move_that_fader(live: LivePage) -> None:
    live.state(controls={"gains_db": {"speech": 0, "music": -59, "noise": None}})
    for name, key, expected in [
        ("Speech", "ArrowUp", gain("speech", 1)),
        ("Speech", "ArrowLeft", gain("speech", 0)),
        ("Music", "PageDown", gain("music", None)),
        ("Music", "ArrowDown", None),
        ("Noise", "ArrowRight", gain("noise", -60)),
    ]:
        live.fader(name).press(key)
        assert live.sent() == ([expected] if expected else []), (name, key)


def test_keys_are_those_of_the_terminal(live: LivePage) -> None:
    live.run()
    live.button("Keys").click()
    dialog = live.page.get_by_role("dialog", name="Keys")
    shown = dialog.locator("dt").all_text_contents()
    arrows = str.maketrans({"←": "left/", "→": "right", "↑": "up/", "↓": "down"})
    assert [text.translate(arrows) for text in shown] == [key.replace(" ", "") for key, _ in KEYS]
    live.page.keyboard.press("m")
    assert live.sent() == []  # the dialog is open
    live.page.keyboard.press("Escape")
    pressed: dict[str, list[dict[str, Any]]] = {
        "m": [{"do": "mute", "stem": "speech", "on": True}],
        "ArrowRight": [],
        "s": [{"do": "solo", "stem": "music", "on": True}],
        "ArrowUp": [gain("music", 1)],
        "ArrowDown": [gain("music", 0)],
        "[": [{"do": "strength", "db": 60}],
        "]": [{"do": "strength", "db": None}],
        "b": [{"do": "bypass", "on": True}],
        "r": [{"do": "record", "on": True}],
        "0": [{"do": "reset"}],
        "x": [],
        "Control+b": [],
    }
    live.page.evaluate("document.activeElement.blur()")
    for key, expected in pressed.items():
        live.page.keyboard.press(key)
        assert live.sent() == expected, key
    live.page.keyboard.press("q")
    live.page.get_by_text("Stopped").wait_for()
    assert live.page.evaluate("backend.calls") == [["stop"]]


def test_keys_leave_fields_and_the_other_tab_alone(live: LivePage) -> None:
    live.page.get_by_role("combobox", name="Input").focus()
    live.page.keyboard.press("m")
    live.page.get_by_role("tab", name="File").click()
    live.page.keyboard.press("m")
    live.page.keyboard.press("ArrowLeft")  # moves between the tabs
    assert live.sent() == []
    assert live.page.get_by_role("tabpanel", name="Live").is_visible()


def test_states_move_the_controls_and_send_nothing(live: LivePage) -> None:
    live.state(controls={
        "selected": "noise", "gains_db": {"speech": 3, "music": -12.5, "noise": None},
        "muted": ["music"], "soloed": ["noise"], "strength_db": 24, "is_bypassed": True,
    })  # fmt: skip
    texts = [live.fader(n).get_attribute("aria-valuetext") for n in ("Speech", "Music", "Noise")]
    assert texts == ["+3.0 dB", "−12.5 dB", "off"]
    assert live.fader("Music").input_value() == "-12.5"
    pressed = live.page.locator("button[aria-pressed=true]")
    names = pressed.evaluate_all("(all) => all.map((b) => b.ariaLabel ?? b.textContent)")
    assert names == ["Mute music", "Solo noise", "Bypass"]
    strength = live.page.get_by_role("slider", name="Strength")
    assert strength.get_attribute("aria-valuetext") == "24 dB"
    assert live.page.locator("[data-selected=true]").get_attribute("data-stem") == "noise"
    assert live.sent() == []


def test_a_fader_in_hand_is_not_moved_by_states(page: Page, page_server: PageServer) -> None:
    live = LivePage(page, page_server.url)  # with a clock of its own
    fader = live.fader("Speech")
    box = fader.bounding_box()
    assert box
    x, y = box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2
    live.page.mouse.move(x, y)
    live.page.mouse.down()
    held = fader.input_value()
    live.page.clock.install()
    live.page.clock.run_for(5000)
    live.state(controls={"gains_db": {"speech": 7, "music": -3, "noise": 0}})
    assert fader.input_value() == held
    assert live.fader("Music").input_value() == "-3"
    live.page.mouse.up()
    live.state()
    assert fader.input_value() == held  # that state may be older than the last message
    live.page.clock.run_for(1000)
    assert fader.input_value() == "7"  # nobody holds it: the engine's value counts


def test_a_double_click_resets(live: LivePage) -> None:
    live.state(controls={
        "gains_db": {"speech": 0, "music": -30, "noise": 5}, "strength_db": 12,
    })  # fmt: skip
    live.fader("Music").dblclick()
    assert live.sent()[-1] == gain("music", 0)
    strip = live.page.get_by_role("region", name="Noise")
    strip.locator("output").dblclick()
    assert live.sent() == [gain("noise", 0)]
    live.page.get_by_role("slider", name="Strength").dblclick()
    assert live.sent()[-1] == {"do": "strength", "db": None}


def test_start_sends_the_devices_and_stop_stops(live: LivePage) -> None:
    live.page.get_by_role("combobox", name="Input").select_option("Built-in Audio Analog Stereo")
    live.page.evaluate("backend.startGate = new Promise((go) => { globalThis.go = go; }); 0")
    live.button("Start").click()
    live.page.get_by_text("Starting").wait_for()
    assert live.button("Start").is_disabled()
    live.page.evaluate("go()")
    live.page.get_by_text("Running").wait_for()
    live.page.get_by_role("combobox", name="Output").select_option("HDMI / DisplayPort")
    wait_until(live.page, "backend.calls.length === 3")  # stopped, started with the other
    live.page.get_by_text("Running").wait_for()
    live.button("Stop").click()
    live.page.get_by_text("Stopped").wait_for()
    assert live.page.evaluate("backend.calls") == [
        ["start", {"input": "7", "output": None}],
        ["stop"],
        ["start", {"input": "7", "output": "9"}],
        ["stop"],
    ]
    assert live.sent() == []


def test_a_failed_start_says_why_once(live: LivePage) -> None:
    live.page.evaluate("backend.startProblem = 'the microphone was refused: allow it'; 0")
    live.button("Start").click()
    alert = live.page.get_by_role("alert").filter(has_text="the microphone was refused: allow it")
    alert.wait_for()
    live.state(problem="the microphone was refused: allow it")
    assert alert.locator("visible=true").count() == 1
    live.page.evaluate("backend.startProblem = ''; 0")
    live.state(problem="")
    live.button("Start").click()
    live.page.get_by_text("Running").wait_for()
    assert alert.count() == 0


@pytest.mark.parametrize(
    ("about", "backend", "line"),
    [
        ({}, {"found": {"inputs": [], "outputs": [], "problem": "no devices: plug one in"}},
         "no devices: plug one in"),
        ({}, {"kind": "browser", "canLive": False, "missing": ["no AudioWorklet: update it"]},
         "no AudioWorklet: update it"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_and_start_is_off(
    chromium: Browser,
    page_server: PageServer,
    about: dict[str, Any],
    backend: dict[str, Any],
    line: str,
) -> None:
    with open_live(chromium, page_server, about, backend) as live:
        live.page.get_by_role("alert").filter(has_text=line).wait_for()
        assert live.button("Start").is_disabled()


def test_a_terminals_stream_is_shown_without_device_controls(
    chromium: Browser, page_server: PageServer
) -> None:
    with open_live(chromium, page_server, {"canChoose": False}) as live:
        live.run()
        live.state(title="Scarlett 2i2 → Headphones")
        live.page.get_by_text("Scarlett 2i2 → Headphones").wait_for()
        assert live.page.get_by_role("combobox").count() == 0
        assert live.button("Stop").count() == live.button("Start").count() == 0
        live.page.keyboard.press("q")
        assert live.page.evaluate("backend.calls") == []


def test_figures_and_marks_follow_the_stream(live: LivePage) -> None:
    live.run(state="reconnecting")
    live.page.get_by_text("Reconnecting the device").wait_for()
    live.page.locator("[data-name=late]").filter(has_text="of 47").wait_for()
    live.run(
        deadline_misses=3, skipped=1, advice="use a smaller model",
        levels={"stems": {}, "separated": {}, "mixture": [-9, 0], "output": [None, None],
                "clipped": ["mixture"]},
        recording={"is_running": True, "folder": "takes/<b>one</b>", "seconds": 61,
                   "left_s": 7200, "message": ""},
    )  # fmt: skip
    live.page.get_by_text("Recording").first.wait_for()
    live.page.get_by_text("takes/<b>one</b> · room for 2:00:00").wait_for()
    live.page.get_by_role("status").filter(has_text="use a smaller model").wait_for()
    live.page.locator("[data-name=late][data-alarm=true]").filter(has_text="4").wait_for()
    live.page.locator(".mixture .clip[data-on=true]").wait_for()
    assert live.page.locator(".output .clip[data-on=true]").count() == 0
    assert live.button("Record").get_attribute("aria-pressed") == "true"
    live.state(messages=["00:05 <img src=x> was lost"])
    live.page.get_by_text("<img src=x> was lost").wait_for()


def test_a_lost_server_is_shown_until_it_is_back(live: LivePage) -> None:
    live.run()
    live.page.evaluate("(reason) => backend.close(reason)", LOST)
    live.page.get_by_role("status").filter(has_text=LOST).wait_for()
    live.page.get_by_text("No connection").wait_for()
    assert live.fader("Speech").is_disabled()
    assert live.button("Bypass").is_disabled()
    live.page.keyboard.press("m")
    assert live.sent() == []
    live.run()
    live.page.get_by_text("Running").wait_for()
    assert live.page.get_by_text(LOST).count() == 0
    assert live.fader("Speech").is_enabled()


def test_a_file_dropped_anywhere_opens_in_the_file_view(live: LivePage) -> None:
    live.page.evaluate(
        """() => {
          backend.openFile = (file) => { backend.calls.push(["openFile", file.name]);
            return Promise.reject(new Error("not this one")); };
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File(["x"], "<i>talk</i>.wav"));
          for (const type of ["dragover", "drop"]) {
            const init = { dataTransfer, bubbles: true, cancelable: true };
            document.querySelector(".figures").dispatchEvent(new DragEvent(type, init));
          }
        }"""
    )
    live.page.get_by_role("tabpanel", name="File").get_by_text("not this one").wait_for()
    assert live.page.evaluate("backend.calls") == [["openFile", "<i>talk</i>.wav"]]
    assert live.page.get_by_role("tab", name="File").get_attribute("aria-selected") == "true"
