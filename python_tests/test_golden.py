# SPDX-License-Identifier: MIT
"""Against the files of the shared folder; each test skips with a reason where it is absent."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import plain_ece

import certcal_ext as cc
from certcal_ext.certificates.readers import read_cohen_log, votes_of_radius

SIGMA, ALPHA, LOG_DRAWS = 0.25, 1e-3, 100_000
RADII = [0.0, 0.05, 0.1, 0.25, 0.5, 0.75]
LOGS = ("cohen", "smoothadv")
BINS = 15


@pytest.fixture(scope="module")
def cases(shared: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(
        (shared / "golden/certified_metrics.json").read_text()
    )
    assert len(loaded) == 240
    return loaded


def intervals(case: dict[str, Any]) -> tuple[Any, Any, Any]:
    return case["correct"], np.array(case["lower"]), np.array(case["upper"])


def test_ece_and_brier_of_all_cases(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        ece = cc.certified_ece(*intervals(case), edges=case["edges"]).value
        assert ece == pytest.approx(case["cce"], abs=1e-9)
        assert cc.certified_brier(*intervals(case)).value == pytest.approx(case["brier"], abs=1e-9)


def test_worst_confidences_of_all_cases(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        correct, lower, upper = intervals(case)
        edges = np.array(case["edges"])
        result = cc.certified_ece(correct, lower, upper, edges=edges)
        worst = result.worst_confidence
        assert ((lower <= worst) & (worst <= upper)).all()
        for reached in (
            cc.ece(correct, worst, edges=edges),
            plain_ece(correct, worst, edges, "right"),
        ):
            assert reached == pytest.approx(result.value, abs=1e-6)


def pairs(case: dict[str, Any]) -> int:
    """How many (sample, bin) pairs a case has: the number of binaries of the program."""
    inner = np.array(case["edges"])[1:-1]
    _, lower, upper = intervals(case)
    return int((np.searchsorted(inner, upper) - np.searchsorted(inner, lower) + 1).sum())


@pytest.mark.slow
def test_referee_agrees_wherever_it_finishes(cases: list[dict[str, Any]]) -> None:
    # The 190 cases of at most 100 pairs have to finish: the slowest takes 1 s on two cores, so that
    # 30 s only stop what has gone wrong. The others get half a second each, in which they may
    # finish, and must give valid bounds whether or not.
    finished, must_finish = 0, 0
    for case in cases:
        small = pairs(case) <= 100
        result = cc.certified_ece_milp(
            *intervals(case), edges=case["edges"], time_limit=30 if small else 0.5
        )
        assert result.incumbent - 1e-12 <= case["cce"] <= result.bound + 1e-12
        must_finish += small
        finished += result.optimal
        assert result.optimal or not small
        if result.optimal:
            # The bound is widened by HiGHS's tolerance: 1e-10 times the columns of a sample.
            assert result.bound == pytest.approx(case["cce"], abs=2e-9)
            assert result.incumbent == pytest.approx(case["cce"], abs=1e-9)
    print(f"HiGHS finished {finished} of {len(cases)} golden cases")
    assert must_finish == 190


def counts_file(shared: Path, n: int) -> Path:
    return shared / f"data/cifar10_cohen_resnet110/sigma_0.25_n_{n}.npz"


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_metrics_of_a_real_model_from_its_counts(shared: Path, n: int) -> None:
    rows = json.loads((shared / "golden/cifar10_cohen_sigma_0.25.json").read_text())
    expected = [row for row in rows if row["n"] == n]
    assert [row["R"] for row in expected] == RADII
    started = time.perf_counter()
    curve = cc.Certificates.from_npz(counts_file(shared, n), alpha=ALPHA).curve(RADII)
    seconds = time.perf_counter() - started
    names = {
        "acc": curve.accuracy,
        "ece": curve.ece,
        "cce": curve.certified_ece,
        "brier": curve.brier,
        "cbs": curve.certified_brier,
        "constant": curve.constant_brier,
    }
    for at, row in enumerate(expected):
        assert curve.certified[at] == row["N"]
        for name, values in names.items():
            assert values[at] == pytest.approx(row[name], abs=1e-6)
    assert seconds < 1


def log_file(shared: Path, name: str) -> Path:
    return shared / f"data/certify_logs/cifar10_{name}_resnet110_sigma_0.25.tsv"


def certificates_of_log(shared: Path, name: str) -> cc.Certificates:
    return cc.Certificates.from_cohen_log(
        log_file(shared, name), sigma=SIGMA, n=LOG_DRAWS, alpha=ALPHA
    )


@pytest.mark.parametrize("name", LOGS)
def test_a_log_gives_a_curve(shared: Path, name: str) -> None:
    cert = certificates_of_log(shared, name)
    curve = cert.curve(np.linspace(0, 0.9, 19))
    assert len(cert) == 10_000
    assert (np.diff(curve.certified) <= 0).all()
    for values in (curve.certified_ece, curve.certified_brier, curve.ece, curve.brier):
        assert np.isfinite(values).all()
    assert (curve.certified_ece >= curve.ece - 1e-12).all()
    assert (curve.certified_brier >= curve.brier - 1e-12).all()


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("choice", ["least", "middle", "random", "largest"])
def test_a_log_holds_every_count_that_its_radii_can_stand_for(
    shared: Path, name: str, choice: str
) -> None:
    """On the log's own set, certificates from any such counts lie inside, and not far inside.

    The bound from the log is over wider intervals, so on the same samples it is at least that of
    the counts (exactly). How much larger it can be: a Brier term moves by at most 2 widths, as |x^2
    - y^2| <= 2 |x - y| in [0, 1]. An ECE term moves by at most the width where the interval reaches
    the same bins, and by at most 2 where it reaches another one.
    """
    cert = certificates_of_log(shared, name)
    log = read_cohen_log(log_file(shared, name))
    least, largest = votes_of_radius(log.radius, log.half_width, SIGMA, LOG_DRAWS, ALPHA)
    decided = log.predicted != -1
    least, largest = np.where(decided, least, 0), np.where(decided, largest, 0)
    votes = {
        "least": least,
        "middle": (least + largest) // 2,
        "random": np.random.default_rng(0).integers(least, largest + 1),
        "largest": largest,
    }[choice]
    counts = np.stack([LOG_DRAWS - votes, votes], axis=1)
    right = (log.predicted == log.label).astype(int)  # class 1 plays the predicted class
    other = cc.Certificates.from_counts(
        counts, right, SIGMA, ALPHA, selection=np.ones(len(votes), int)
    )
    edges = np.linspace(0, 1, BINS + 1)
    for radius in RADII:
        wide, narrow = cert.at(radius), other.at(radius)
        # The prediction certificate of the log uses the least count: its set is part of the other
        # one.
        rows = np.flatnonzero(np.isin(narrow.index, wide.index))
        assert np.array_equal(narrow.index[rows], wide.index)
        assert (choice != "least") or len(narrow) == len(wide)
        lower, upper = narrow.lower[rows], narrow.upper[rows]
        assert (wide.lower <= lower).all()
        assert (wide.upper >= upper).all()

        width = np.maximum(lower - wide.lower, wide.upper - upper)
        brier = cc.certified_brier(wide.correct, lower, upper).value
        looser = cc.certified_brier(wide.correct, wide.lower, wide.upper).value
        assert brier <= looser <= brier + 2 * width.mean() + 1e-12
        assert cert.brier(radius)[0] == looser
        ece = cc.certified_ece(wide.correct, lower, upper).value
        looser = cc.certified_ece(wide.correct, wide.lower, wide.upper).value
        bins = [np.searchsorted(edges[1:-1], z) for z in (lower, wide.lower, upper, wide.upper)]
        moved = (bins[0] != bins[1]) | (bins[2] != bins[3])
        assert ece <= looser <= ece + np.where(moved, 2.0, width).mean() + 1e-12
        assert cert.ece(radius)[0] == looser


def test_log_and_counts_of_the_same_model_agree(shared: Path) -> None:
    """The Cohen log and the counts are two independent runs of one model over the same images.

    Each count is binomial around the same probability. The 1 - 10^-6 interval of both runs
    therefore overlap for all but about 10^4 * 2 * 10^-6 = 0.02 images expected: not one miss is
    allowed, a false alarm in 50 runs, on fixed data.
    """
    log = cc.Certificates.from_cohen_log(
        log_file(shared, "cohen"), sigma=SIGMA, n=LOG_DRAWS, alpha=ALPHA
    )
    with np.load(counts_file(shared, LOG_DRAWS)) as stored:
        counts, labels = stored["counts"], stored["label"]
    assert log.table.column("label").to_numpy().tolist() == labels.tolist()
    predicted = log.table.column("predicted").to_numpy()
    decided = predicted != -1
    rows = np.flatnonzero(decided)
    of_counts = cc.Certificates.from_counts(
        counts[rows], labels[rows], SIGMA, alpha=1e-6, selection=predicted[rows]
    )
    # The log's interval at alpha = 10^-3 holds the truth less often; widen it to 10^-6 from its own
    # count range.
    read = read_cohen_log(log_file(shared, "cohen"))
    least, largest = votes_of_radius(
        read.radius[rows], read.half_width[rows], SIGMA, LOG_DRAWS, ALPHA
    )
    lower = cc.clopper_pearson(least, LOG_DRAWS, 1e-6).lower
    upper = cc.clopper_pearson(largest, LOG_DRAWS, 1e-6).upper
    assert (of_counts.table.column("p_lower").to_numpy() <= upper).all()
    assert (of_counts.table.column("p_upper").to_numpy() >= lower).all()


def test_curves_of_log_and_counts_of_the_same_model_are_close(shared: Path) -> None:
    """Two runs of one model agree up to the samples whose certificate differs, and the width.

    Over the samples certified by both, a Brier term differs by at most 2 |l - l'| or 2 |u - u'|,
    and the accuracy not at all. The two means differ further by the samples that only one
    certifies: at most their share of the larger set, each way.
    """
    log = certificates_of_log(shared, "cohen")
    counts = cc.Certificates.from_npz(counts_file(shared, LOG_DRAWS), alpha=ALPHA)
    for radius in RADII:
        a, b = log.at(radius), counts.at(radius)
        both = np.intersect1d(a.index, b.index)
        in_a, in_b = np.isin(a.index, both), np.isin(b.index, both)
        assert a.correct is not None
        assert b.correct is not None
        assert np.array_equal(a.correct[in_a], b.correct[in_b])
        width = np.maximum(
            np.abs(a.lower[in_a] - b.lower[in_b]), np.abs(a.upper[in_a] - b.upper[in_b])
        )
        alone = (len(a) + len(b) - 2 * both.size) / max(len(a), len(b))
        # Draws and rounding move an end by a few hundredths on average, and few samples cross the
        # threshold.
        assert width.mean() < 0.02
        assert alone < 0.05
        gap = abs(log.brier(radius)[0] - counts.brier(radius)[0])
        assert gap <= 2 * width.mean() + 2 * alone


def test_the_two_rounding_forms_of_the_logs_are_what_is_assumed(shared: Path) -> None:
    """At most three significant digits, and small radii with more than three decimals."""
    for name in LOGS:
        lines = log_file(shared, name).read_text().splitlines()[1:]
        shown = [line.split("\t")[3] for line in lines]
        assert all(len(text.replace(".", "").lstrip("0")) <= 3 for text in shown)
        assert any(len(text.partition(".")[2]) > 3 for text in shown)


def test_no_warning_where_most_samples_are_certified(shared: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in LOGS:
            certificates_of_log(shared, name)
        cc.Certificates.from_npz(counts_file(shared, 10_000))
