"""How the page looks and draws: names, focus, contrast, narrow windows, pixels, cost, memory."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser import PageServer, open_page, wait_until
from live_page import LivePage, open_live

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Locator, Page

    from rtmtass.types import Floats

CONTROLS = ["button", "slider", "combobox", "tab", "tabpanel", "meter", "img", "dialog", "region"]
STRIP = ["Mute {}", "Solo {}", "{} gain"]
FRAME_MS = 4.0
CONTRAST = """() => {
  // Of how it looks, not of the eighth of a second in which a button changes its colour.
  for (const each of document.getAnimations()) if (each instanceof CSSTransition) each.finish();
  const number = (text) => {
    const values = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color(") ? [...values.slice(0, 3).map((v) => 255 * v), values[3] ?? 1]
      : [...values.slice(0, 3), values[3] ?? 1];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => a * v + (1 - a) * under[i]);
  const luminance = (rgb) => rgb.map((v) => v / 255).map((v) =>
    v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const backOf = (element) => {
    if (!element) return [255, 255, 255];
    const colour = number(getComputedStyle(element).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, backOf(element.parentElement));
  };
  const opacityOf = (element) => element
    ? Number(getComputedStyle(element).opacity) * opacityOf(element.parentElement) : 1;
  const bad = [];
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3
      && node.textContent.trim()).map((node) => node.textContent.trim()).join(" ");
    if (!text || element.closest("noscript, option, :disabled")) continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    const back = backOf(element), colour = number(getComputedStyle(element).color);
    const front = over([...colour.slice(0, 3), colour[3] * opacityOf(element)], back);
    const [low, high] = [luminance(front), luminance(back)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    globalThis.checked = (globalThis.checked ?? 0) + 1;
    if (ratio < 4.5) bad.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return bad;
}"""


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


def busy(live: LivePage) -> None:
    """Show a stream with as many words as there are."""
    live.run(
        advice="the computer is too slow: use --precision int8", deadline_misses=12345,
        levels={"stems": {"speech": [-20, -3]}, "separated": {}, "mixture": [-9, 0],
                "output": [-9, 0], "clipped": ["mixture", "output"]},
        recording={"is_running": True, "folder": "takes/2026-11-27 18.44.10_with_a_long_name",
                   "seconds": 61, "left_s": 7200, "message": ""},
    )  # fmt: skip
    live.state(
        controls={"muted": ["noise"], "soloed": ["speech"], "is_bypassed": True},
        messages=["00:03 the output device was lost_" + "long" * 30],
        problem="the output device is busy: close what uses it",
    )
    live.page.locator(".messages li").wait_for()


def test_every_control_has_a_name(live: LivePage) -> None:
    busy(live)
    live.button("Keys").click()
    snapshot = live.page.locator("body").aria_snapshot()
    found = re.findall(rf"^\s*- ({'|'.join(CONTROLS)})\b(.*)$", snapshot, re.MULTILINE)
    assert len(found) > 20
    assert not [role for role, rest in found if not rest.lstrip().startswith('"')]


def test_tab_reaches_every_control_in_order_and_shows_where(live: LivePage) -> None:
    live.run()
    reached, hidden = [], []
    for _ in range(40):
        live.page.keyboard.press("Tab")
        name, outline = live.page.evaluate(
            """() => { const e = document.activeElement;
              return [e === document.body ? "" : e.ariaLabel ?? e.labels?.[0]?.textContent
                ?? e.textContent, getComputedStyle(e).outlineStyle]; }"""
        )
        if not name:
            break
        reached.append(name)
        hidden += [name] * (outline == "none")
    strips = [text.format(stem) for stem in ("speech", "music", "noise") for text in STRIP]
    strips = [text[0].upper() + text[1:] for text in strips]
    assert reached == [
        "Live", "Keys", "Input", "Output", "Look for devices again", "Stop", *strips, "Reset",
        "Bypass", "Record", "Strength: how far the other stems are turned down",
    ]  # fmt: skip
    assert not hidden


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(chromium: Browser, page_server: PageServer, scheme: str) -> None:
    with open_live(chromium, page_server, color_scheme=scheme) as live:
        assert live.page.evaluate(CONTRAST) == []
        busy(live)
        live.button("Keys").click()
        assert live.page.evaluate(CONTRAST) == []
        live.page.keyboard.press("Escape")
        live.page.get_by_role("tab", name="File").click()
        assert live.page.evaluate(CONTRAST) == []
        assert live.page.evaluate("checked") > 100


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_is_wider_than_the_window(
    chromium: Browser, page_server: PageServer, width: int
) -> None:
    with open_live(chromium, page_server, viewport={"width": width, "height": 700}) as live:
        page = live.page
        busy(live)
        for tab in ("Live", "File"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = page.locator("body *").evaluate_all(
            """(all, width) => all.filter((e) => e.checkVisibility() && !e.closest(".screen, .bar")
              && e.getBoundingClientRect().right > width).map((e) => e.outerHTML)""", width
        )  # fmt: skip
        assert wide == []


def pixels(screen: Locator) -> Floats:
    """Return a screenshot as (height, width, 3)."""
    from PIL import Image

    with Image.open(io.BytesIO(screen.screenshot())) as image:
        return np.asarray(image.convert("RGB"), np.float32)


def until_settled(screen: Locator) -> Floats:
    """Return a picture that no longer moves, and isn't blank."""
    state = """(screen) => new Promise((resolve) => requestAnimationFrame(() =>
      requestAnimationFrame(() => resolve(screen.querySelector("canvas").style.transform))))"""
    before = ""
    for _ in range(300):
        now: str = screen.evaluate(state)
        if now == before != "translateX(0.000%)" and pixels(screen).max() > 150:
            return pixels(screen)
        before = now
    raise AssertionError("the picture never came to rest")


def test_a_tone_is_drawn_at_its_frequency_and_a_click_at_its_time(live: LivePage) -> None:
    live.run()
    live.picture(700, "row === 1 && (band === 40 || column === 580) ? -25 : -100")
    screen = live.page.locator("[data-stem=speech] .screen")
    picture = until_settled(screen).max(axis=2)
    height, width = picture.shape
    # The edges may show what is around the screen.
    row = 2 + np.argmax(picture[2:-2, 4:30].mean(axis=1))
    column = 2 + np.argmax(picture[-20:-4, 2:-2].mean(axis=0))
    assert abs(row - height * (1 - 40.5 / 64)) < height / 64
    # Of 240 visible columns the newest is number 699, at the right.
    assert abs(column - width * (580.5 - 460) / 240) < 2 * width / 240
    other = pixels(live.page.locator("[data-stem=music] .screen"))
    assert other[8:-8, 8:-8].max() < 40  # within its round corners


def test_the_mixture_has_the_colours_of_the_stems_by_their_shares(live: LivePage) -> None:
    live.run()
    live.picture(640, "[band < 20 ? 1 : band < 40 ? 2 : 3, 0].includes(row) ? -40 : -95")
    picture = until_settled(live.page.locator(".mixture .screen"))
    height, width, _ = picture.shape
    low, middle, high = (
        picture[round(height * (1 - band / 64)), width // 2] for band in (10, 30, 52)
    )
    assert np.argmax(low) == 0  # speech
    assert np.argmax(middle) == 2  # music
    assert np.argmax(high) == 1  # noise


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_less_motion_on_request(chromium: Browser, page_server: PageServer, motion: str) -> None:
    with open_live(chromium, page_server, reduced_motion=motion) as live:
        busy(live)
        live.picture(100, "-40")
        canvas = live.page.locator(".mixture canvas")
        wait_until(
            live.page,
            """document.querySelector(".mixture canvas").getContext("2d")
              .getImageData(20, 30, 1, 1).data[0] > 60""",
        )
        animations = live.page.evaluate("document.getAnimations().length")
        transform = canvas.evaluate("(canvas) => canvas.style.transform")
        if motion == "reduce":
            assert animations == 0
            assert transform == "translateX(0%)"
        else:
            assert animations > 0
            assert transform != "translateX(0%)"


def test_a_frame_costs_less_than_its_budget(page: Page, page_server: PageServer) -> None:
    """Time of the page's thread on the processor: scripts, style, layout and painting."""
    page.add_init_script(
        """globalThis.frames = 0;
        const request = requestAnimationFrame;
        globalThis.requestAnimationFrame = (draw) => request((now) => {
          globalThis.frames += 1;
          draw(now);
        });"""
    )
    live = LivePage(page, page_server.url)
    live.page.evaluate(
        """setInterval(() => {
          backend.state({ running: true, stats: make.stats() });
          backend.picture(3, (column, row, band) => -90 + 60 * Math.random());
        }, 48); 0"""
    )
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def after(frames: int) -> tuple[float, float]:
        """Return the processor's time in ms and the frames so far, at `frames` or more."""
        wait_until(page, f"globalThis.frames >= {frames}")
        drawn = float(page.evaluate("globalThis.frames"))
        return 1000 * metrics(session)["TaskDuration"], drawn

    (start_ms, first), (end_ms, last) = after(30), after(130)
    assert 0 < (end_ms - start_ms) / (last - first) < FRAME_MS


def metrics(session: CDPSession) -> dict[str, float]:
    """Return the figures of the page's process by name."""
    values = session.send("Performance.getMetrics")["metrics"]
    return {value["name"]: value["value"] for value in values}


def test_memory_stays_flat(live: LivePage) -> None:
    """Five minutes of states and pictures at 20 Hz, as fast as they can be taken."""
    session = live.page.context.new_cdp_session(live.page)
    session.send("Performance.enable")

    def minutes(n: int) -> tuple[float, float]:
        live.page.evaluate(
            """async (n) => {
              const picture = make.picture(3, (column, row, band) => -60 + band / 2);
              for (let i = 0; i < n; i += 1) {
                const stats = make.stats({ seconds: i / 20, hops: i * 3, skipped: i });
                backend.state({ running: true, stats, messages: [`00:01 message ${i}`] });
                backend.listener.picture(picture);
                if (i % 30 === 0) await new Promise(requestAnimationFrame);
              }
            }""",
            n * 60 * 20,
        )
        session.send("HeapProfiler.collectGarbage")
        values = metrics(session)
        return values["JSHeapUsedSize"], values["Nodes"]

    (heap, nodes), (heap_later, nodes_later) = minutes(1), minutes(4)
    assert heap_later - heap < 300_000
    assert nodes_later - nodes < 50
