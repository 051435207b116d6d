# SPDX-License-Identifier: MIT
"""The HTML page: what it says, that it is one safe file, and that nothing is half-written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Page, intervals, votes

from certcal_ext import Certificates, certified_ece
from certcal_ext.certificates.guarantee import default_radii, largest_radius
from certcal_ext.certificates.recalibrate import recalibrate_split
from certcal_ext.metrics.ece import ece
from certcal_ext.report import render_report, write_report
from certcal_ext.report.facts import gather, reliability
from certcal_ext.report.words import at_least, at_most, fixed, number, percent


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(votes(), command="certcal certify --model a:b")


# --- one safe file ---------------------------------------------------------------------------


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    references = [
        value[1:] for name, value in parsed.attributes if name == "xlink:href" and value is not None
    ] + re.findall(r"url\(#([^)]*)\)", page)
    assert references
    assert set(references) <= set(parsed.ids)


def test_nothing_is_fetched(page: str) -> None:
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert name not in ("srcset", "action", "ping", "background")
        assert not name.startswith("on")
        if name in ("href", "xlink:href"):
            assert value is not None
            assert value.startswith("#")
        if name == "src":
            assert value is not None
            assert value.startswith("data:image/png;base64,")
    assert "@import" not in page
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page


def test_every_drawing_has_words(page: str) -> None:
    parsed = Page(page)
    drawings = parsed.attributes.count(("role", "img"))
    assert drawings == 6
    # The bars beside samples repeat the numbers next to them.
    assert parsed.tags.count("svg") - drawings == page.count('<svg class="mini"')
    assert page.count('<svg class="mini"') == page.count('aria-hidden="true" focusable="false"')
    labels = [value for name, value in parsed.attributes if name == "aria-labelledby" and value]
    assert sum(value.endswith("-description") for value in labels) == drawings
    for ids in labels:
        assert set(ids.split()) <= set(parsed.ids)


def test_colours_follow_the_theme(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "#0a0b" not in page
    assert "var(--worst)" in page
    assert "#0a0b0" not in page.lower()
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", drawn)


def test_data_is_escaped() -> None:
    evil = "<script>alert('x')</script> & \"q\" {{ 7 * 7 }}"
    made = votes().with_provenance(source=evil, notes=(evil,), model_hash=evil)
    parsed = Page(render_report(made, title=evil, command=evil))
    assert "script" not in parsed.tags
    # The title twice, source, note, hash and command; the template is not run on them.
    assert parsed.words.count(evil) == 6


def test_a_norm_with_a_dollar_sign_is_no_formula() -> None:
    assert "$x_1$" in Page(render_report(votes().with_provenance(norm="$x_1$"))).words


def test_the_same_page_comes_out_again(page: str) -> None:
    again = render_report(votes(), command="certcal certify --model a:b")
    created = r"\d{4}-\d\d-\d\dT[\d:+]*"
    assert re.sub(created, "", again) == re.sub(created, "", page)


# --- what it says ----------------------------------------------------------------------------


def test_headline_and_table_round_bounds_up() -> None:
    certificates = votes()
    curve = certificates.curve([0, 0.1])
    words = Page(render_report(certificates, radii=[0, 0.1], radius=0.1)).words
    joint = certificates.bound("ece", 0.1, delta=1e-3).joint
    bound = at_most(float(joint[0]), as_percent=True)
    headline = f"No l2 attack of size 0.1 can push the calibration error above {bound}, with 99.9"
    assert headline in words
    plain = Page(render_report(certificates, radii=[0, 0.1], radius=0.1, delta=None)).words
    bound = at_most(float(curve.certified_ece[1]), as_percent=True)
    assert f"Worst-case calibration error at radius 0.1: at most {bound}" in plain
    for k in range(2):
        for value in (
            str(curve.certified[k]),
            percent(curve.ece[k]),
            at_most(curve.certified_ece[k], as_percent=True),
            at_most(curve.certified_brier[k]),
            fixed(curve.brier[k]),
            at_least(curve.constant_brier[k]),
            at_least(curve.skill[k], 3),
        ):
            assert value in words


def test_it_says_how_sure_it_is(page: str) -> None:
    words = " ".join(Page(page).words.split())
    assert "each row is certified and wrong with probability at most 3/2 of alpha = 0.001" in words
    assert "over all noise draws together the calibration error under attack is at most" in words
    assert "These allow for intervals that fail" in words
    assert "upper bound on the true worst case" in words
    assert "cannot be compared by these numbers alone" in words


def test_without_delta_nothing_is_claimed_jointly() -> None:
    words = " ".join(Page(render_report(votes(), delta=None)).words.split())
    assert "on average at most 0.09 of 60 are" in words
    assert "That all of them hold at once is not claimed here" in words
    assert "Valid jointly" not in words


def test_further_metrics_and_recalibration() -> None:
    made = votes(400)
    words = " ".join(Page(render_report(made, radius=0.1)).words.split())
    for metric in ("ece", "brier", "ks", "log_loss", "selective_risk"):
        options = {"delta": 1e-3, "clip": 1e-3, "threshold": 0.9}
        for scope in ("certified", "all"):
            curve = made.bound(metric, 0.1, scope=scope, **options)
            assert at_most(curve.worst[0]) in words
            assert at_most(curve.joint[0]) in words
    (report,) = recalibrate_split(made, 0.1).reports([0.1])
    assert at_most(report.after.certified_brier) in words
    assert at_most(report.before.certified_ece, as_percent=True).split()[0] in words
    assert fixed(report.after.resolution) in words
    without = " ".join(Page(render_report(made, radius=0.1, recalibrate=None)).words.split())
    assert "What recalibration would do" not in without
    mapped = made.recalibrated(recalibrate_split(made, 0.1).mapping)
    again = " ".join(Page(render_report(mapped, radius=0.1)).words.split())
    assert "What recalibration would do" not in again
    assert f"{recalibrate_split(made, 0.1).mapping.kind} map, " in again


@pytest.mark.parametrize(
    ("lower", "upper", "words"),
    [
        ([0.95, 0.9, 0.0], [1.0, 1.0, 0.1], "the bound is lower"),
        ([0.5, 0.5, 0.4], [1.0, 1.0, 0.9], "does not prove that the confidences tell more"),
    ],
)
def test_it_says_what_the_bound_is_worth(
    lower: list[float], upper: list[float], words: str
) -> None:
    page = render_report(Certificates.from_intervals([True, True, False], lower, upper))
    assert words in " ".join(Page(page).words.split())


def test_all_right_has_no_skill() -> None:
    page = render_report(Certificates.from_intervals([True, True], [0.5, 0.6], [0.9, 0.9]))
    assert "skill of the certificate is not defined" in " ".join(Page(page).words.split())


def test_intervals_of_another_verifier() -> None:
    words = " ".join(Page(render_report(intervals(radius=0.5))).words.split())
    assert "Worst-case calibration error at radius 0.5" in words
    assert "The intervals were made elsewhere" in words
    assert "holds no confidences without attack" in words
    assert "Abstentions" not in words
    assert "alpha" not in words


def test_nothing_certified() -> None:
    with pytest.warns(UserWarning, match="abstain"):
        certificates = Certificates.from_counts([[6, 4], [5, 5]], [0, 0], sigma=0.25)
    words = " ".join(Page(render_report(certificates)).words.split())
    assert "Nothing is certified at radius 0" in words
    assert "All of n = 10 votes for one class would certify radius 0" in words


def test_a_radius_beyond_all_samples() -> None:
    words = " ".join(Page(render_report(votes(), radii=[0, 0.1], radius=3)).words.split())
    assert "Nothing is certified at radius 3" in words


def test_how_to_reproduce_names_what_differs_from_the_default() -> None:
    page = render_report(
        votes(), radii=[0, 0.1], bins=7, closed="left", file="my counts.npz", command="certcal demo"
    )
    words = Page(page).words
    assert (
        "certcal bound 'my counts.npz' --radii 0,0.1 --bins 7 --closed left "
        "--sigma 0.25 --n 1000 --alpha 0.001"
    ) in words
    assert "certcal demo" in words
    page = render_report(votes(), radii=[0.1], edges=[0, 0.7, 1])
    assert "certcal bound certificates.parquet --radii 0.1 --edges 0.0,0.7,1.0" in Page(page).words


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="labels"):
        render_report(Certificates.from_counts([[990, 10]], None, sigma=0.25))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"radii": [-1.0]}, "radii"), ({"bins": 0}, "bins"), ({"closed": "up"}, "closed")],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_report(votes(), **options)


# --- the numbers behind it -------------------------------------------------------------------


def test_the_main_radius_keeps_half_of_the_samples() -> None:
    certificates = votes()
    facts = gather(certificates)
    share = facts.curve.certified / facts.curve.total
    assert share[facts.main] >= 0.5
    assert (share[facts.main + 1 :] < 0.5).all()
    assert gather(certificates, radius=0.123).radius == 0.123
    assert 0.123 in gather(certificates, radius=0.123).curve.radius


def test_default_radii_end_where_certificates_do() -> None:
    certificates = votes()
    radii = default_radii(certificates)
    assert radii[0] == 0
    assert 5 <= len(radii) <= 13
    reach = largest_radius(certificates)
    assert radii[-1] < reach
    assert len(certificates.at(radii[-1]).lower) > 0
    assert len(certificates.at(reach * 1.001).lower) == 0
    assert default_radii(intervals()) == [0.0]
    assert default_radii(intervals(radius=0.5)) == [0.5]


@pytest.mark.parametrize("closed", ["right", "left"])
def test_diagrams_have_the_errors_of_the_table(closed: str) -> None:
    facts = gather(votes(), radius=0.1, closed=closed)
    for diagram, expected in (
        (facts.clean, facts.curve.ece[facts.main]),
        (facts.worst, facts.curve.certified_ece[facts.main]),
    ):
        assert diagram is not None
        gap = np.nan_to_num(np.abs(diagram.accuracy - diagram.confidence))
        assert (diagram.count * gap).sum() / diagram.count.sum() == pytest.approx(
            expected, abs=1e-6
        )


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0, 0.2, 0.25, 0.5, 0.9, 1])), min_size=1),
    st.sampled_from(["right", "left"]),
)
def test_reliability_agrees_with_the_metric(rows: list[tuple[bool, float]], closed: Any) -> None:
    correct, confidence = (np.array(column) for column in zip(*rows, strict=True))
    edges = np.linspace(0, 1, 5)
    diagram = reliability(correct, confidence.astype(float), edges, closed)
    assert diagram.count.sum() == len(rows)
    gap = np.nan_to_num(np.abs(diagram.accuracy - diagram.confidence))
    expected = ece(correct, confidence, edges=edges, closed=closed)
    assert (diagram.count * gap).sum() / len(rows) == pytest.approx(expected, abs=1e-12)


def test_the_worst_diagram_is_the_certified_one() -> None:
    facts = gather(votes(), radius=0.1)
    chosen = facts.chosen
    assert facts.curve.certified_ece[facts.main] == pytest.approx(
        certified_ece(chosen.correct, chosen.lower, chosen.upper).value, abs=1e-12
    )


# --- words -----------------------------------------------------------------------------------


def shown(text: str) -> float:
    value = float(text.removesuffix("%").strip().replace("\N{MINUS SIGN}", "-"))
    return value / 100 if text.endswith("%") else value


@given(st.floats(-3, 3))
def test_bounds_round_to_the_safe_side(value: float) -> None:
    for as_percent in (False, True):
        slack = 1e-15 * max(1, abs(value))
        high = shown(at_most(value, as_percent=as_percent))
        low = shown(at_least(value, as_percent=as_percent))
        assert value - slack <= high < value + 1.1e-4
        assert value - 1.1e-4 < low <= value + slack


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(0.25), "0.25"),
        (number(100.0), "100"),
        (number(-0.00001), "0"),
        (number(-1.5), "\N{MINUS SIGN}1.5"),
        (number(float("nan")), "\N{EN DASH}"),
        (fixed(-0.00001), "0.0000"),
        (fixed(1.0), "1.0000"),
        (percent(0.5), "50.00\N{NO-BREAK SPACE}%"),
        (percent(float("inf")), "\N{EN DASH}"),
        (at_most(0.0), "0.0000"),
        (at_most(1e-9), "0.0001"),
        (at_least(0.99999, as_percent=True), "99.99\N{NO-BREAK SPACE}%"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert text == expected


# --- writing ---------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    assert write_report(intervals(), path) == path
    before = path.read_text()

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_report(votes(), path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="existing folder"):
        write_report(intervals(), tmp_path / "absent" / "report.html")


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    render_report(intervals())
    assert dict(matplotlib.rcParams) == before
