# SPDX-License-Identifier: MIT
"""Numbers that claim something are read back from wherever they are printed: on the safe side of what was computed."""

from __future__ import annotations

import csv
import json
import re
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from certcal_ext import Certificates, _claims
from certcal_ext._rounding import constant_and_skill
from certcal_ext.certificates.guarantee import certified_radii
from certcal_ext.cli import app
from certcal_ext.interop.export import export
from certcal_ext.metrics.base import Options
from certcal_ext.metrics.registry import METRICS, top_label
from certcal_ext.report import render_report
from certcal_ext.report.facts import gather

RADII = [0.0, 0.05, 0.12346, 0.123456789012, 1 / 7]
DELTAS = [1e-3, 1e-7, 3.3e-9, 0.1]


def said(text: str) -> Fraction:
    """What a printed number says."""
    plain = (
        text.replace(",", "")
        .replace("\N{MINUS SIGN}", "-")
        .replace("\N{NO-BREAK SPACE}", " ")
        .strip()
    )
    return Fraction(plain.removesuffix("%").strip()) / (100 if plain.endswith("%") else 1)


def step(text: str) -> Fraction:
    """One unit of the last digit of a printed number."""
    plain = text.replace("\N{NO-BREAK SPACE}", " ").strip()
    digits = len(plain.removesuffix("%").strip().partition(".")[2])
    return Fraction(1, 10 ** (digits + 2 * plain.endswith("%")))


def up(text: str, value: Any) -> None:
    """An upper bound: at or above what was computed, and by less than a digit."""
    if text == "infinite":
        assert value == float("inf")
        return
    exact = Fraction(value)
    assert exact <= said(text) < exact + step(text), (text, value)


def down(text: str, value: Any) -> None:
    """A lower bound, a radius, a probability of holding: at or below, and by less than a digit."""
    exact = Fraction(value)
    assert exact - step(text) < said(text) <= exact, (text, value)


def written(value: float) -> Fraction:
    """A number that someone chose stands for the decimal that reads back as it."""
    return Fraction(repr(float(value)))


# --- the formatter -----------------------------------------------------------------------------

#: Any float, and those next to where four decimals or two of a per cent break.
near_ties = st.builds(
    lambda k, ulps: abs(float(k / 20_000 + ulps * np.spacing(max(k, 1) / 20_000))),
    st.integers(0, 40_000),
    st.integers(-2, 2),
)
values = st.one_of(st.floats(0, 2), near_ties)


@settings(max_examples=500)
@given(values, st.booleans())
def test_bounds_are_on_their_side(value: float, as_percent: bool) -> None:
    up(_claims.at_most(value, as_percent=as_percent), value)
    down(_claims.at_least(value, as_percent=as_percent), value)
    for text in (_claims.at_most(-value), _claims.at_least(-value)):
        assert said(text) != 0 or not text.startswith("\N{MINUS SIGN}")
    up(_claims.at_most(-value), -value)
    down(_claims.at_least(-value), -value)


@settings(max_examples=500)
@given(st.one_of(st.floats(5e-324, 1e12), near_ties), st.integers(1, 12))
def test_radii_are_never_longer(radius: float, digits: int) -> None:
    text = _claims.size(radius, digits)
    assert "e" not in text
    assert said(text) <= written(radius)
    assert float(text) <= radius
    assert written(radius) - said(text) <= written(radius) / 10 ** (digits - 1)
    assert float(_claims.written(radius)) == radius


@settings(max_examples=500)
@given(
    st.one_of(st.floats(5e-324, 1, exclude_max=True), st.sampled_from(DELTAS)),
    st.integers(1, 10**7),
)
def test_probabilities_are_on_their_side(delta: float, total: int) -> None:
    for text in (_claims.sure(delta), _claims.sureness(delta)):
        assert said(text) <= 1 - written(delta)
        assert said(text) < 1
        assert 1 - written(delta) - said(text) <= Fraction(1, 10**12)
    assert (
        written(delta) <= said(_claims.failure(delta)) <= written(delta) * (1 + Fraction(1, 10**7))
    )
    assert said(_claims.fewer_than(delta, total)) >= written(delta) * total


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.floats(0, 1))
def test_counts_and_yardsticks_are_exact_quotients_rounded_down(
    part: int, more: int, bound: float
) -> None:
    whole = part + more
    down(_claims.share(part, whole), Fraction(part, whole))
    constant, skill = constant_and_skill(part, whole, bound)
    exact = Fraction(part * more, whole**2)
    assert Fraction(constant) <= exact
    if exact:
        assert Fraction(skill) <= 1 - Fraction(bound) / exact
        assert skill == pytest.approx(1 - bound / constant, rel=1e-9, abs=1e-9)


# --- the largest certified radius --------------------------------------------------------------


def scores_of(votes: int, draws: int, mean: float, bins: int = 10) -> Certificates:
    """One sample with so many votes and a mean score."""
    low = int(mean * bins)
    histogram = np.zeros((1, bins), np.int64)
    histogram[0, low] = draws
    return Certificates.from_scores(histogram, [mean], [votes], [0], [0], sigma=0.25)


def tables() -> dict[str, Certificates]:
    """One table of each kind of evidence."""
    generator = np.random.default_rng(5)
    first = generator.binomial(2000, np.clip(generator.beta(8, 1, 80), 0, 1))
    second = generator.binomial(2000 - first, 0.6)
    counts = np.stack([first, second, 2000 - first - second], axis=1)
    labels = np.where(generator.random(80) < 0.8, 0, 1)
    selection = np.zeros(80, np.int64)
    made = {
        "votes": Certificates.from_counts(counts, labels, 0.25, selection=selection),
        "shared draws": Certificates.from_counts(counts, labels, 0.25),
        "runner-up": Certificates.from_counts(
            counts, labels, 0.25, selection=selection, runner_up=True
        ),
        "scores, mean above votes": scores_of(6_000, 10_000, 0.78),
        "scores, mean below votes": scores_of(9_999, 10_000, 0.52),
        "odd sigma": Certificates.from_counts(counts, labels, 0.1 / 0.3, selection=selection),
    }
    return {name: table for name, table in made.items() if table is not None}


@pytest.mark.parametrize("kind", sorted(tables()))
def test_the_largest_radius_is_that_of_what_certifies(kind: str, tmp_path: Path) -> None:
    made = tables()[kind]
    largest = made.largest_radius
    assert made.rows_at(largest).certified.any()
    assert not made.rows_at(largest * (1 + 1e-9)).certified.any()
    assert largest == certified_radii(made).max()
    for radius, row in zip(certified_radii(made), range(len(made)), strict=True):
        assert (radius >= 0) == made.rows_at(0.0).certified[row]
        if radius >= 0:
            assert made.rows_at(radius).certified[row]
            assert not made.rows_at(radius * (1 + 1e-9)).certified[row]
    made.to_parquet(tmp_path / "table.parquet")
    done = CliRunner().invoke(app, ["bound", str(tmp_path / "table.parquet"), "--json"])
    assert done.exit_code == 0, done.output
    listed = [row["radius"] for row in json.loads(done.stdout)["radii"]]
    assert listed == [float(r) for r in gather(made).curve.radius]
    assert all(made.rows_at(radius).certified.any() for radius in listed)
    assert len(listed) > 3
    assert listed[-1] > 0.8 * largest
    tile = re.search(r"Largest certified radius\s+(\S+)", text_of(render_report(made)))
    assert tile is not None
    down(tile[1], largest)


def test_votes_and_not_the_mean_score_say_how_far() -> None:
    assert tables()["scores, mean above votes"].largest_radius == pytest.approx(0.0529, abs=5e-5)
    assert tables()["scores, mean below votes"].largest_radius > 0.75


def test_intervals_have_the_radius_that_they_came_with() -> None:
    made = Certificates.from_intervals([1, 0], [0.6, 0.3], [0.9, 0.5], radius=8 / 255, norm="linf")
    assert made.largest_radius == 8 / 255
    assert Certificates.from_intervals([1], [0.6], [0.9]).largest_radius == 0
    with pytest.raises(ValueError, match="no radius a sample"):
        certified_radii(made)


# --- sentences ---------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(tables())),
    st.sampled_from(top_label()),
    st.one_of(st.none(), st.sampled_from(DELTAS), st.floats(1e-9, 0.5)),
    st.sampled_from(["certified", "all"]),
    st.one_of(st.sampled_from(RADII), st.floats(0, 0.3)),
)
def test_a_sentence_claims_no_more_than_its_curve(
    kind: str, metric: str, delta: float | None, scope: str, radius: float
) -> None:
    curve = MADE[kind].bound(metric, radius, scope=scope, delta=delta, clip=1e-3)
    text = curve.statement()
    size = re.search(r"no l2 attack of size ([\d.]+) ", text)
    if size is None:
        assert curve.samples[0] == 0
        return
    assert said(size[1]) <= written(radius)
    lowest = METRICS[metric].lowest
    limit = re.search(r" (below|above) ([\d.]+)\.", text)
    assert limit is not None
    assert limit[1] == ("below" if lowest else "above")
    (down if lowest else up)(limit[2], curve.value[0])
    sure = re.search(
        r"probability at least ([\d.]+) over the noise draws of all ([\d,]+) samples", text
    )
    if delta is None:
        assert sure is None
        assert text.startswith("Where the intervals of all")
    else:
        assert sure is not None
        assert said(sure[1]) <= 1 - written(delta)
        assert said(sure[1]) < 1
        assert said(sure[2]) == len(MADE[kind])
    assert "smoothed classifier (exactly Gaussian noise, sigma " in text
    assert "top label" in text
    assert ("15 bins of equal width, (low, high]" in text) == ("bins" in METRICS[metric].uses)
    people = (
        f"{curve.samples[0]:,} of {len(MADE[kind]):,} samples certified"
        if curve.scope == "certified"
        else "over all"
    )
    assert people in text


MADE = tables()


@pytest.mark.parametrize(
    ("options", "words", "missing"),
    [
        ({}, "no attack within the verifier's threat model", "size"),
        ({"radius": 0.5}, "no attack within the verifier's threat model", "l2"),
        (
            {"radius": 0.12346, "norm": "linf"},
            "no linf attack of size 0.12346 on each sample",
            "l2",
        ),
        ({"radius": 0.5, "norm": "l1"}, "no l1 attack of size 0.25 on each sample", "0.5 "),
    ],
)
def test_a_sentence_names_a_norm_only_if_it_is_known(
    options: dict[str, Any], words: str, missing: str
) -> None:
    made = Certificates.from_intervals(
        [True, True, False], [0.8, 0.7, 0.5], [0.9, 0.95, 0.6], **options
    )
    radius = min(options.get("radius", 0.3), 0.25)
    text = made.bound("brier", radius).statement()
    assert words in text
    assert missing not in text
    page = text_of(render_report(made, radius=radius))
    assert ("l2" in page) == (options.get("norm") == "l2")
    assert (f"norm up to {_claims.size(radius)} changes the prediction" in page) == (
        "norm" in options
    )
    if "radius" not in options:
        assert "inside the given intervals" in page
        assert "at radius 0.25" not in page


# --- everything that is printed ----------------------------------------------------------------


class Tables(HTMLParser):
    """The tables of a page: by caption, rows of cells, the head first."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._words: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption"):
            self._words = []

    def handle_endtag(self, tag: str) -> None:
        text = "".join(self._words).replace(" (best)", "").strip()
        if tag == "caption":
            self._caption = text
        elif tag in ("td", "th"):
            self._rows[-1].append(text)
        elif tag == "table":
            self.found[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        self._words.append(data)


def text_of(page: str) -> str:
    """The words of a page."""
    return " ".join(
        re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style>.*?</style>", " ", page)).split(" ")
    ).replace("\n", " ")


def check_curve_row(cells: list[str], curve: Any, at: int) -> None:
    """A row of the table by radius: radii and accuracies down, bounds up, the yardstick and the skill down."""
    right = round(float(curve.certified_accuracy[at]) * int(curve.total[at]))
    assert said(cells[0]) <= written(curve.radius[at])
    assert said(cells[1]) == curve.certified[at]
    down(cells[2], Fraction(right, int(curve.total[at])))
    if not curve.certified[at]:
        assert set(cells[3:]) == {_claims.NOTHING}
        return
    down(cells[3], Fraction(right, int(curve.certified[at])))
    up(cells[5], curve.certified_ece[at])
    up(cells[7], curve.certified_brier[at])
    down(cells[8], curve.constant_brier[at])
    if cells[9] != _claims.NOTHING:
        down(cells[9], curve.skill[at])


@pytest.mark.parametrize("kind", sorted(MADE))
def test_every_number_of_the_page(kind: str) -> None:
    made = MADE[kind]
    facts = gather(made, radii=RADII, radius=RADII[1], delta=1e-7)
    page = render_report(made, radii=RADII, radius=RADII[1], delta=1e-7)
    found = Tables(page).found
    rows = found["Metrics by radius"][1:]
    assert len(rows) == len(RADII)
    for at, cells in enumerate(rows):
        check_curve_row(cells, facts.curve, at)
    assert facts.further is not None
    head, *metrics = found[f"Metrics at radius {_claims.size(RADII[1])}"]
    for cells, certified in zip(metrics, facts.further.certified, strict=True):
        by_name = dict(zip(head, cells, strict=True))
        side = down if METRICS[certified.metric].lowest else up
        side(by_name["Worst case"], certified.worst[0])
        side(by_name["Valid jointly"], certified.joint[0])
    for cells, everyone in zip(
        metrics, facts.further.everyone, strict=bool(facts.further.everyone)
    ):
        by_name = dict(zip(head, cells, strict=True))
        side = down if METRICS[everyone.metric].lowest else up
        side(by_name["Worst case, all samples"], everyone.worst[0])
        side(by_name["All samples, jointly"], everyone.joint[0])
    words = text_of(page)
    joint = facts.further.certified[0].joint
    headline = re.search(
        r"No l2 attack of size (\S+) can push the calibration error above ([\d.]+\s%), with ([\d.]+\s%) ",
        words,
    )
    assert headline is not None
    assert joint is not None
    assert said(headline[1]) <= written(RADII[1])
    up(headline[2], joint[0])
    assert said(headline[3]) <= 1 - written(1e-7)
    for text in re.findall(r"[Pp]robability of at least (\S+\s?%)", words):
        assert said(text) <= 1 - written(1e-7)
    assert "assumes" in words or "exactly Gaussian noise" in words


def test_a_comparison_is_rounded_like_its_curves() -> None:
    models = {"other": MADE["runner-up"]}
    page = render_report(MADE["votes"], radius=0.05, compare=models, name="this")
    facts = gather(MADE["votes"], radius=0.05, models={"this": MADE["votes"], **models})
    rows = Tables(page).found["Models at radius 0.05"][1:]
    assert facts.models is not None
    for cells, row in zip(rows, facts.models.rows, strict=True):
        down(cells[2], Fraction(round(row.accuracy * facts.models.total), facts.models.total))
        up(cells[3], row.ece)
        up(cells[4], row.brier)
        down(
            cells[5],
            Fraction(round(row.common_accuracy * facts.models.common), facts.models.common),
        )
        up(cells[6], row.common_ece)
        up(cells[7], row.common_brier)


@pytest.mark.parametrize(
    ("kind", "scope"), [("votes", "certified"), ("runner-up", "all"), ("shared draws", "all")]
)
def test_every_number_of_the_command_line(kind: str, scope: str, tmp_path: Path) -> None:
    made = MADE[kind]
    path = tmp_path / "table.parquet"
    made.to_parquet(path)
    call = [
        "bound",
        str(path),
        "--radii",
        ",".join(map(repr, RADII)),
        "--scope",
        scope,
        "--metrics",
        "all",
    ]
    call += ["--delta", "1e-7", "--population", "--clip", "0.001", "--compare"]
    MADE["votes"].to_parquet(tmp_path / "other.parquet")
    call += [str(tmp_path / "other.parquet"), *(["--baselines"] if scope == "certified" else [])]
    shown = CliRunner().invoke(app, call, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    printed = json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)
    assert "probability at least 1 " not in shown.stdout
    curve = made.curve(RADII)
    lines = [line.split() for line in shown.stdout.splitlines()]
    start = next(k for k, line in enumerate(lines) if len(line) == 10 and line[0] == "0")
    for at in range(len(RADII)):
        units = [cell + "%" * (k in (2, 3, 5)) for k, cell in enumerate(lines[start + at])]
        check_curve_row([_claims.NOTHING if "–" in cell else cell for cell in units], curve, at)
        for name in ("certified_ece", "certified_brier", "skill", "constant_brier"):
            assert printed["radii"][at][name] == getattr(curve, name)[at]  # all digits
    options = Options.of(clip=1e-3)
    for metric in top_label():
        title, side = METRICS[metric].title, down if METRICS[metric].lowest else up
        population = METRICS[metric].no_population(options) is None
        bound = made.bound(metric, RADII, scope=scope, delta=1e-7, population=population, clip=1e-3)
        at = next(
            k
            for k, line in enumerate(lines)
            if line[: len(title.split())] == title.split() and len(line) > 6
        )
        for k in range(len(RADII)):
            cells = lines[at + k][len(title.split()) if k == 0 else 0 :]
            assert said(cells[0]) <= written(RADII[k])
            assert said(cells[1]) == bound.samples[k]
            side(cells[3], bound.worst[k])
            side(cells[4], bound.joint[k])
            if population:
                side(cells[6], bound.population[k])
        rows = [row for row in printed["metrics"] if row["metric"] == metric]
        assert [row["joint"] for row in rows] == bound.joint.tolist()
        assert [row["statement"] for row in rows] == [bound.statement(k) for k in range(len(RADII))]
    if scope != "certified":
        return
    exact = {row["radius"]: row for row in printed["baselines"]}
    at = next(k for k, line in enumerate(lines) if line[:3] == ["Radius", "Samples", "Exact"])
    for line in lines[at + 2 : at + 2 + len(exact)]:
        row = next(row for radius, row in exact.items() if _claims.size(radius) == line[0])
        up(line[2], row["exact"])
        down(line[3], row["admm"]["value"])


@pytest.mark.parametrize("kind", ["votes", "runner-up", "odd sigma", "scores, mean below votes"])
def test_every_number_of_an_export(kind: str, tmp_path: Path) -> None:
    made = MADE[kind]
    lines = export(made, tmp_path / "log.tsv").read_text().splitlines()[1:]
    radii = certified_radii(made)
    for row, line in enumerate(lines):
        predicted, text = line.split("\t")[2:4]
        if predicted != "-1":
            down(text, radii[row])
            assert made.rows_at(float(text)).certified[row]
    table = made.table.to_pydict()
    with export(made, tmp_path / "rows.csv").open() as file:
        for row, cells in enumerate(csv.DictReader(file)):
            for name in ("p_lower", "p_upper"):
                assert float(cells[name]) == table[name][row]
    stored = json.loads(export(made, tmp_path / "rows.json").read_text())
    assert [row["p_lower"] for row in stored["rows"]] == table["p_lower"]
    assert stored["provenance"]["sigma"] == made.provenance.sigma


def test_what_is_said_of_a_radius_holds_for_the_decimal() -> None:
    """0.3 as a float64 lies below three tenths; the shift covers both."""
    from certcal_ext.certificates.rows import shifts

    generator = np.random.default_rng(1)
    for sigma in (0.25, 0.12, 1 / 3):
        made = Certificates.from_counts([[90, 10]], [0], sigma)
        for text in (f"{value:.3g}" for value in 10 ** generator.uniform(-6, 2, 2000)):
            shift = float(shifts(np.array([float(text)]), made.provenance.sigma)[0])
            assert Fraction(shift) * Fraction(sigma) >= Fraction(text)
