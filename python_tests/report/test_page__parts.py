# SPDX-License-Identifier: MIT
"""The report's further parts: models side by side, words, landmarks, colours, hostile names."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Page, text_of, votes

from certcal_ext import Certificates, compare
from certcal_ext.report import render_report, words

HOSTILE = [
    "<script>alert('x')</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</title></style></svg><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp; ' \" `",
    "$\\frac{1}{0}$ $x$",
    "_under_",
    "right \u202eot tfel\u202c, zero\u200bwidth, nul\x00, half \ud800, line\u2028break",
    "emoji \N{SKULL}\N{SNOWMAN}, \u05e9\u05dc\u05d5\u05dd, \u4f60\u597d",
    "]]> --> <!-- javascript:alert(1)",
]


# --- models ----------------------------------------------------------------------------------


def test_models_side_by_side() -> None:
    one, two = votes(100), votes(100, alpha=1e-6)
    page = render_report(one, radii=[0, 0.1], radius=0.1, compare={"two": two}, name="one")
    text = text_of(page)
    both = {"one": one, "two": two}
    for samples in ("all", "intersection"):
        found = compare(both, 0.1, "ece", samples=samples)
        for name in both:
            assert words.at_most(found.curves[name].worst[0], as_percent=True) in text
            assert words.percent(float(found.accuracy[name][0]), 1) in text
    common = int(compare(both, 0.1, "ece").curves["one"].samples[0])
    assert f"or the {common} that every model certifies" in text
    # The same votes at a smaller alpha are never better, and equal only in accuracy.
    table = page[page.index('aria-label="Models at radius 0.1"') :]
    first, second = re.findall(r"<tr>.*?</tr>", table[table.index("<tbody>") :], re.DOTALL)[:2]
    assert first.count('class="best"') == 6
    assert 0 < second.count('class="best"') + 4 <= 6
    assert "Models side by side" not in Page(render_report(one, radius=0.1)).words


def test_models_where_nothing_is_common() -> None:
    weak = Certificates.from_counts([[999, 1], [510, 490]], [0, 0], sigma=0.25)
    other = Certificates.from_counts([[510, 490], [999, 1]], [0, 0], sigma=0.25)
    page = render_report(weak, radii=[0.0], radius=0.0, compare={"other": other})
    text = text_of(page)
    assert "or the 0 that every model certifies" in text


# --- words -----------------------------------------------------------------------------------


@given(st.floats(0, 1e6))
def test_a_radius_is_never_said_to_be_larger(radius: float) -> None:
    assert 0 <= float(words.size(radius)) <= radius


@given(st.floats(1e-12, 1, exclude_max=True))
def test_no_more_confidence_than_there_is(delta: float) -> None:
    from fractions import Fraction

    said = Fraction(words.sureness(delta).removesuffix(words.PERCENT)) / 100
    assert said <= 1 - Fraction(repr(delta))
    assert 1 - Fraction(repr(delta)) - said < Fraction(1, 10**11)


@given(st.text())
def test_what_is_written_out_can_be_written(text: str) -> None:
    shown = words.visible(text)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert words.visible(shown) == shown


def test_the_headline_names_its_samples() -> None:
    made = votes(100)
    text = text_of(render_report(made, radius=0.1))
    everyone = made.bound("ece", 0.1, scope="all", delta=1e-3).joint
    assert everyone is not None
    certified = len(made.at(0.1))
    assert certified < 100
    assert f"Over the {certified} of 100 samples whose prediction is certified" in text
    bound = words.at_most(float(everyone[0]), as_percent=True)
    assert f"at most {bound}, with the same confidence" in text
    whole = Certificates.from_counts([[1000, 0]] * 20, [0] * 20, sigma=0.25)
    assert "Over all 20 samples, which keep" in Page(render_report(whole, radius=0.1)).words


def test_a_tiny_delta_is_not_called_certain() -> None:
    text = Page(render_report(votes(), radius=0.1, delta=1e-9)).words
    assert "with 99.9999999\N{NO-BREAK SPACE}% confidence" in text
    assert "with 100\N{NO-BREAK SPACE}%" not in text


def test_a_radius_of_many_digits_is_not_rounded_up() -> None:
    text = Page(render_report(votes(), radii=[0.12345678], radius=0.12345678)).words
    assert "No l2 attack of size 0.12345678 can" in text


# --- landmarks and colours -------------------------------------------------------------------


def test_landmarks_headings_and_tables() -> None:
    page = render_report(votes(400), radius=0.1, compare={"other": votes(400)}, command="x")
    parsed = Page(page)
    for tag in ("header", "nav", "main", "footer", "h1"):
        assert parsed.tags.count(tag) == 1
    assert parsed.tags.count("caption") == parsed.tags.count("table") == 5
    cells = parsed.tags.count("th")
    assert (
        parsed.attributes.count(("scope", "col")) + parsed.attributes.count(("scope", "row"))
        == cells
    )
    targets = [value[1:] for name, value in parsed.attributes if name == "href" and value]
    assert {"verdict", "figures", "samples", "models", "recalibration", "guarantee"} <= set(targets)
    assert set(targets) <= set(parsed.ids)
    levels = [int(tag[1]) for tag in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def palettes() -> dict[str, dict[str, str]]:
    """The colours of each theme by name, as the style sheet has them."""
    css = (resources.files("certcal_ext.report") / "style.css").read_text()
    blocks = re.findall(
        r"(@media \([^{]*dark\)|@media print|^)[^@{]*\{?\s*:root \{(.*?)\}", css, re.DOTALL
    )
    named = ("light", "dark", "print")
    assert len(blocks) == len(named)
    return {
        name: dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})\b", block))
        for name, (_, block) in zip(named, blocks, strict=True)
    }


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    shares = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_and_lines_stand_out(theme: str) -> None:
    colours = palettes()[theme]
    assert len(colours) == 12
    for front in ("ink", "muted", "clean", "worst", "constant", "fourth", "fifth"):
        for back in ("page", "card"):
            assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
    assert contrast(colours["ink"], colours["highlight"]) >= 4.5
    assert contrast(colours["muted"], colours["highlight"]) >= 4.5


# --- hostile names ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harmless() -> Page:
    made = votes().with_provenance(source="s", notes=("n", "n"), model_hash="h")
    names = {"title": "t", "command": "c", "class_names": ["a", "b"], "name": "one"}
    return Page(render_report(made, radius=0.1, compare={"two": votes()}, **names))


@pytest.mark.parametrize("evil", HOSTILE)
def test_whatever_data_say_stays_text(evil: str, harmless: Page) -> None:
    made = votes().with_provenance(source=evil, notes=(evil, evil), model_hash=evil, norm=evil)
    page = render_report(
        made,
        radius=0.1,
        title=evil,
        command=evil,
        file=evil.replace("\x00", ""),
        class_names=[evil, evil],
        compare={evil: votes().with_provenance(norm=evil)},
        name="one",
    )
    page.encode("utf-8")
    parsed = Page(page)
    # The same elements and attributes, whatever the names are; only text differs.
    assert [
        tag for tag in parsed.tags if tag not in ("g", "path", "use", "text", "defs", "tspan")
    ] == [tag for tag in harmless.tags if tag not in ("g", "path", "use", "text", "defs", "tspan")]
    assert {name for name, _ in parsed.attributes} == {name for name, _ in harmless.attributes}
    shown = words.visible(evil)
    assert parsed.words.count(shown) >= 8
    for hidden in "\u202e\u200b\x00\u2028":
        assert hidden not in page


def test_a_hostile_name_in_a_drawing() -> None:
    page = render_report(votes(), radius=0.1, compare={"<script>x</script> $a$": votes()})
    (drawing,) = re.findall(r'<svg[^>]*aria-labelledby="models-title.*?</svg>', page, re.DOTALL)
    assert "&lt;script&gt;x&lt;/script&gt; $a$" in drawing
    assert "<script" not in drawing
