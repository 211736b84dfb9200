"""Makes the README's pictures of the page, with the real engine on the bundled clip.

python tests/web/pictures.py    # writes rtmtass/web/live.png and file.png
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from browser import launch, open_page

ROOT = Path(__file__).parent.parent.parent
DEMO = ROOT / "models" / "rtmtass-small" / "demo.flac"
FOLDER = ROOT / "rtmtass" / "web"
LIVE_S = 13
"""Time of the stream in its picture: the clip lasts 15 s, and then begins again."""
COLOURS = 255


@contextmanager
def running_web(folder: Path) -> Iterator[str]:
    """Run `rtmtass web` on the clip, over and over; yields the page's address."""
    samples, rate = soundfile.read(DEMO, dtype="float32")
    soundfile.write(folder / "demo.wav", np.tile(samples, 4), rate)
    command = [sys.executable, "-m", "rtmtass", "web", "--json", "--no-browser"]
    command += ["--source", "file:demo.wav", "--sink", "udp:127.0.0.1:9"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def save(page: Page, name: str) -> None:
    """Save what the page shows, with few colours: the repository stays small."""
    from PIL import Image

    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


def main() -> None:
    """Show the live page, then a recording."""
    size = {"width": 1180, "height": 800}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_web(Path(folder)) as address,
        sync_playwright() as playwright,
        open_page(launch(playwright), color_scheme="dark", viewport=size) as page,
    ):
        page.goto(address)
        page.get_by_role("button", name="Start").click()
        page.get_by_role("button", name="Stop").wait_for()
        page.get_by_role("slider", name="Music gain").fill("-12")
        page.mouse.move(5, 5)
        page.get_by_text(f"0:{LIVE_S}", exact=True).wait_for()
        save(page, "live.png")
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("tab", name="File").click()
        page.locator("input[type=file]").set_input_files(DEMO)
        page.get_by_role("button", name="Play").wait_for()
        page.get_by_role("slider", name="Position").fill("6.4")
        page.get_by_role("slider", name="Music gain").fill("-12")
        page.mouse.move(5, 5)
        page.wait_for_timeout(1000)
        save(page, "file.png")


if __name__ == "__main__":
    main()
