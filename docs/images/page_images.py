"""Make the pictures of the service's page: service-page.png, -dark.png and -phone.png.

    python docs/images/page_images.py http://127.0.0.1:8000 --model adult

Needs Chromium, Playwright for Python, and Pillow (which matplotlib installs).
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

FOLDER = Path(__file__).parent
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
DESKTOP = {"viewport": {"width": 1280, "height": 1360}, "device_scale_factor": 1.5}
PICTURES: dict[str, dict[str, Any]] = {
    "service-page.png": {**DESKTOP, "color_scheme": "light"},
    "service-page-dark.png": {**DESKTOP, "color_scheme": "dark"},
    "service-page-phone.png": {"viewport": {"width": 360, "height": 780}, "device_scale_factor": 2},
}
NUM_COLORS = 128


def main() -> None:
    """Generate rows on the page, and draw what it shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="address of the page")
    parser.add_argument("--model", default="adult")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the pictures")
    options = parser.parse_args()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS.split()
        )
        view = f"{options.url}#model={options.model}&count=2000&seed=7"
        for name, device in PICTURES.items():
            picture = draw(browser, view, device)
            picture.quantize(NUM_COLORS, dither=Image.Dither.NONE).save(
                options.output / name, optimize=True
            )
        browser.close()


def draw(browser: Browser, view: str, device: dict[str, Any]) -> Image.Image:
    """The page once its rows have come, from its top on a desktop, from its charts on a phone."""
    page = browser.new_page(reduced_motion="reduce", **device)
    page.goto(view)
    page.wait_for_selector("#columns:not([hidden])")
    page.click("#generate")
    page.wait_for_selector("#downloads button:visible")
    if device["viewport"]["width"] < 900:
        page.evaluate("document.getElementById('distributions').scrollIntoView()")
    else:
        page.evaluate("scrollTo(0, 0)")
    page.mouse.move(1, 1)
    page.evaluate("document.activeElement.blur()")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.close()
    return picture


if __name__ == "__main__":
    main()
