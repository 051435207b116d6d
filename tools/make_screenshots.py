# SPDX-License-Identifier: MIT
"""Takes the screenshots of docs/report.md, docs/figures/report-*.png, of the report that ``certcal demo`` writes.

python tools/make_screenshots.py [report.html]

Needs Chromium (CERTCAL_CHROMIUM, or one on the path) and Pillow, which comes with matplotlib.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import chromium
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures"
SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1400, 1000)}
MOST_BYTES = 150_000
#: Parts of the page below the verdict, and the height of their pictures in CSS pixels.
PARTS = {"figures": 1000, "samples": 760, "guarantee": 900}


def save(name: str, png: bytes) -> None:
    """Writes a picture with as many colours as fit into ``MOST_BYTES``, 256 at most."""
    with Image.open(io.BytesIO(png)) as image:
        shown = image.convert("RGB")
    for colours in (256, 128, 64, 32):
        buffer = io.BytesIO()
        shown.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    else:
        raise ValueError(f"{name}: {buffer.tell()} bytes with 32 colours, more than {MOST_BYTES}")
    path = FIGURES / f"report-{name}.png"
    path.write_bytes(buffer.getvalue())
    print(f"{path.relative_to(ROOT)}: {buffer.tell():,} bytes, {colours} colours")


def take(tab: Any, page: Path) -> None:
    for size, (width, height) in SIZES.items():
        for dark in (False, True):
            tab.open(page, width, height, dark=dark)
            save(f"{size}-{'dark' if dark else 'light'}", tab.screenshot())
    for part, height in PARTS.items():
        tab.open(page, 1180, height)
        tab.run("document.documentElement.style.scrollBehavior = 'auto'")
        tab.run(f"document.getElementById('{part}').scrollIntoView()")
        save(part, tab.screenshot())


def main() -> None:
    executable = chromium.find()
    if executable is None:
        sys.exit("make_screenshots.py: no Chromium on the path; set CERTCAL_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, chromium.browser(executable) as tab:
        if len(sys.argv) > 1:
            page = Path(sys.argv[1])
        else:
            command = [sys.executable, "-m", "certcal_ext", "demo", "--out", folder]
            subprocess.run(command, check=True)
            page = Path(folder) / "report.html"
        take(tab, page)


if __name__ == "__main__":
    main()
