# SPDX-License-Identifier: MIT
"""The report in headless Chromium: three sizes, light and dark, print, keyboard, contrast; no console, no network."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pages import votes

from certcal_ext.report import render_report

TOOL = Path(__file__).resolve().parents[2] / "tools" / "chromium.py"
SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1400, 1000)}
EVIL = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chromium", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chromium"] = module
    spec.loader.exec_module(module)
    return module


if not TOOL.is_file():
    pytest.skip("the source tree with tools/ is not here", allow_module_level=True)
chromium = load_tool()
if chromium.find() is None:
    pytest.skip("no Chromium is installed (Debian: chromium)", allow_module_level=True)


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with chromium.browser(chromium.find()) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every part, and with names that want to be more than text."""
    generator = np.random.default_rng(0)
    images = generator.random((400, 3, 32, 32), dtype=np.float32)
    made = votes(400).with_provenance(source=EVIL, notes=(EVIL, "x" * 300), model_hash="ab" * 200)
    path = tmp_path_factory.mktemp("report") / "page.html"
    path.write_text(
        render_report(
            made,
            radius=0.1,
            title=f"Certified calibration {EVIL}",
            command=f"certcal certify --model {EVIL}",
            images=images,
            class_names=["an-endless-name-" * 8, EVIL],
            compare={EVIL: votes(400, alpha=1e-6), "x" * 200: votes(400, alpha=1e-9)},
        ),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "small.html"
    path.write_text(render_report(votes(), radius=3.0), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_and_is_quiet(tab: Any, page: Path, size: str, dark: bool) -> None:
    tab.open(page, *SIZES[size], dark=dark)
    tab.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert tab.run("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert tab.requests() == [page.resolve().as_uri()]
    assert tab.complaints() == []
    assert tab.run("document.title").startswith("Certified calibration <img")
    assert tab.run("document.querySelectorAll('script, img:not([src^=\"data:\"])').length") == 0
    drawings = tab.run(
        """[...document.querySelectorAll('figure svg')].map(svg => {
            const box = svg.getBoundingClientRect();
            return [box.width, box.height, box.left, box.right];
        })"""
    )
    assert len(drawings) == 8
    for wide, high, left, right in drawings:
        assert wide >= 300
        assert high >= 150
        assert left >= 0
        assert right <= SIZES[size][0]
    words = tab.run(
        """[...document.querySelectorAll('figure svg text')].filter(text => {
            const box = text.getBoundingClientRect(), card = text.closest('figure').getBoundingClientRect();
            return box.left < card.left || box.right > card.right;
        }).map(text => text.textContent)"""
    )
    assert words == []
    images = tab.run("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert len(images) == 16
    assert all(images)


def test_it_is_drawn(tab: Any, page: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    colours = {}
    for dark in (False, True):
        tab.open(page, 390, 844, dark=dark)
        with pillow.open(io.BytesIO(tab.screenshot())) as image:
            assert image.size == (390, 844)
            pixels = np.asarray(image.convert("RGB"))
        colours[dark] = pixels[0, 0].tolist()
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    assert colours == {False: [0xF3, 0xF5, 0xF8], True: [0x10, 0x15, 0x1B]}


CONTRAST = """
(() => {
  const linear = share => share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  const parse = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const bright = ([red, green, blue]) =>
    0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length && (colour.length < 4 || colour[3] > 0)) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest('title, desc, style, defs') || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const drawn = element.closest('svg') !== null;
    const [low, high] = [bright(parse(drawn ? style.fill : style.color)), bright(behind(element))]
      .sort((one, two) => one - two);
    found.push([(high + 0.05) / (low + 0.05), element.tagName, element.textContent.slice(0, 40)]);
  }
  return found;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_word_stands_out_from_what_is_behind_it(tab: Any, page: Path, dark: bool) -> None:
    tab.open(page, 1400, 1000, dark=dark)
    tab.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    found = tab.run(CONTRAST)
    assert len(found) > 300
    assert sum(tag == "text" for _, tag, _ in found) > 80  # words in drawings
    assert [each for each in found if each[0] < 4.5] == []


def test_words_in_drawings_are_large_enough_on_a_phone(tab: Any, page: Path) -> None:
    tab.open(page, *SIZES["phone"])
    heights = tab.run(
        "[...document.querySelectorAll('figure svg text')].map(t => t.getBoundingClientRect())"
        ".map(box => Math.min(box.width, box.height)).filter(size => size > 0)"
    )
    assert len(heights) > 80
    assert min(heights) >= 6  # a single digit is narrower than it is high
    tab.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    sizes = tab.run(
        "[...document.querySelectorAll('p, li, td, th, dt, dd, figcaption, caption, summary, a, pre')]"
        ".map(part => parseFloat(getComputedStyle(part).fontSize))"
    )
    assert min(sizes) >= 12.5


ACTIVE = """
(() => {
  const at = document.activeElement;
  return at === document.body ? null : [at.tagName, (at.getAttribute('aria-label') || at.textContent).trim().slice(0, 40),
    getComputedStyle(at).outlineStyle];
})()
"""


def test_the_keyboard_reaches_everything(tab: Any, page: Path) -> None:
    tab.open(page, 1400, 1000)
    tab.press("Tab", 9)
    assert tab.run(ACTIVE)[:2] == ["A", "Skip to the verdict"]
    assert tab.run("document.activeElement.getBoundingClientRect().top") >= 0
    tab.press("Enter", 13)
    assert tab.run("document.activeElement.id") == "verdict"
    expected = tab.run(
        "[...document.querySelectorAll('nav a, main [tabindex=\"0\"], summary')].filter("
        "part => part.tagName === 'SUMMARY' || part.checkVisibility()).length"
    )
    tab.open(page, 1400, 1000)
    tab.press("Tab", 9)
    seen = []
    for _ in range(expected):
        tab.press("Tab", 9)
        seen.append(tab.run(ACTIVE))
    assert None not in seen
    assert all(outline != "none" for _, _, outline in seen)
    assert [name for tag, name, _ in seen if tag == "SUMMARY"] == [
        "Numbers of the recalibration",
        "Table by radius",
        "All metrics at radius 0.1",
        "What the words mean",
        "Provenance",
        "How to reproduce",
    ]
    assert ["DIV", "Models at radius 0.1"] in [each[:2] for each in seen]
    # The last one was "How to reproduce": Enter opens it.
    tab.press("Enter", 13)
    assert tab.run("document.activeElement.parentElement.open") is True


def test_what_is_folded_is_printed(tab: Any, page: Path) -> None:
    tab.open(page, 794, 1123)
    visible = "[...document.querySelectorAll('details table, details pre, details dl')].map(p => p.checkVisibility())"
    assert not any(tab.run(visible))
    tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    printed = tab.run(visible)
    assert len(printed) == 7
    assert all(printed)
    assert not tab.run("document.querySelector('nav').checkVisibility()")


def test_print(tab: Any, page: Path) -> None:
    tab.open(page, 1400, 1000, dark=True)
    paper = tab.pdf()
    assert paper.startswith(b"%PDF-")
    sheets = len(re.findall(rb"/Type\s*/Page\b", paper))
    assert 3 <= sheets <= 12
    assert tab.complaints() == []


def test_a_page_about_nothing(tab: Any, small_page: Path) -> None:
    for size in SIZES.values():
        tab.open(small_page, *size)
        assert tab.run("document.documentElement.scrollWidth") <= size[0]
        assert tab.complaints() == []
    assert tab.run("document.querySelector('h1').textContent") == "Nothing is certified at radius 3"


def test_complaints_are_noticed(tab: Any, tmp_path: Path) -> None:
    """The checks above would fail on a page that fetches, throws or overflows."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><meta charset=utf-8><title>x</title><img src=absent.png>"
        "<script>console.error('heard')</script><script>nothing.here</script>"
        "<p style='width:2000px;color:#888;background:#999'>x</p>"
    )
    tab.open(path, 390, 844)
    assert any(address.endswith("absent.png") for address in tab.requests())
    said = "\n".join(tab.complaints())
    assert "heard" in said
    assert "nothing is not defined" in said
    assert tab.run("document.documentElement.scrollWidth") > 390
    assert min(each[0] for each in tab.run(CONTRAST)) < 4.5
    with pytest.raises(RuntimeError, match="nothing"):
        tab.run("nothing.here")
    with pytest.raises(RuntimeError, match=r"Page\.unheardOf"):
        tab.call("Page.unheardOf")
