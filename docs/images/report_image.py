"""Make docs/images/report.png, the picture at the top of the README, from the report of a run.

    difflm run pipelines/configs/adult.yaml
    python docs/images/report_image.py runs/adult/report/report.html

Needs Chromium or Chrome, and Pillow (which matplotlib installs).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

OUTPUT = Path(__file__).parent / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync"
)
WIDTH, HEIGHT = 1180, 3000  # of the page, in CSS pixels
SCALE = 2
NUM_COLORS = 64
# What says most at a glance: the verdict, the key figures, and the three columns that differ most.
STYLE = """
<style>
:root { color-scheme: light !important; }
nav, #use, #relations, #difference, #privacy, #method, #columns .scroll, #columns .note,
.card .light ~ p { display: none !important; }
h1 { max-width: none !important; font-size: 30px !important; }
main { padding-bottom: 0 !important; }
#columns figure:nth-of-type(n + 4) { display: none !important; }
</style>
"""


def main() -> None:
    """Draw the page, cut it where it ends, and reduce its colours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="report.html of a run")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the picture")
    options = parser.parse_args()
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"Found none of {', '.join(BROWSERS)}; install one of them.")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "page.png"
        html = options.report.read_text("utf-8")
        page.write_text(html.replace("</head>", f"{STYLE}</head>"), "utf-8")
        subprocess.run(  # noqa: S603 - a browser on a file of our own
            [
                browser,
                *FLAGS.split(),
                f"--user-data-dir={folder}/profile",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--force-device-scale-factor={SCALE}",
                f"--screenshot={shot}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        picture = Image.open(shot).convert("RGB")
    picture = picture.crop((0, 0, picture.width, content_height(picture)))
    reduced = picture.quantize(NUM_COLORS, dither=Image.Dither.NONE)
    reduced.save(options.output, optimize=True)


def content_height(picture: Image.Image, margin: int = 24 * SCALE) -> int:
    """Where the last row ends that is not of the background's colour, and a margin."""
    background = Image.new("RGB", picture.size, picture.getpixel((2, picture.height - 2)))
    box = ImageChops.difference(picture, background).getbbox()
    return min(picture.height, (box[3] if box else 0) + margin)


if __name__ == "__main__":
    main()
