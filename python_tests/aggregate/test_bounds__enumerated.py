# SPDX-License-Identifier: MIT
"""Aggregate bounds of every metric and scope: never above delta in failures, exact where that can be enumerated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binom, binomtest

import certcal_ext as cc
from certcal_ext.aggregate import (
    AggregateBound,
    Expected,
    Setting,
    VoteHistogram,
    aggregate_accuracy,
    aggregate_brier,
    aggregate_classwise,
    aggregate_ece,
    aggregate_ks,
    aggregate_log_loss,
    aggregate_selective_risk,
    evidence,
    expected_of,
    lattice,
    tables,
)
from certcal_ext.aggregate.lattice import cells
from certcal_ext.aggregate.setting import Setting as _Setting
from certcal_ext.aggregate.terms import BrierTerm, EceTerm, LogTerm, RightTerm
from certcal_ext.aggregate.trees import SignTree, ThresholdTree
from certcal_ext.bins import Bins
from certcal_ext.metrics.clip import Clip

FALSE_ALARM = 1e-6  # of each test by simulation
CLIP, THRESHOLD = 0.01, 0.8

BOUNDS: dict[str, Callable[[Setting], AggregateBound]] = {
    "brier": aggregate_brier,
    "log loss": lambda setting: aggregate_log_loss(setting, CLIP),
    "ece": lambda setting: aggregate_ece(setting, edges=[0, 0.6, 0.8, 0.95, 1]),
    "ks": aggregate_ks,
    "risk": lambda setting: aggregate_selective_risk(setting, THRESHOLD),
    "accuracy": aggregate_accuracy,
}
CASES = [
    (name, scope)
    for name, scope in product(BOUNDS, ("certified", "all", "robust"))
    if name != "accuracy" or scope == "all"
]


def truth(name: str, scope: str, p: Any, correct: Any, counted: Any, shift: float) -> float:
    """The worst that an attack can do if these are the probabilities; nan where nobody is counted."""
    x = ndtri(p)
    low, high, certain = ndtr(x - shift), ndtr(x + shift), x > shift
    if name == "accuracy":
        return float((certain & correct).mean())
    rows = {"certified": counted, "all": np.ones_like(counted), "robust": certain}[scope]
    if not rows.any():
        return math.nan
    kept, other = rows & certain, rows & ~certain
    gap = np.where(correct, 1 - low, np.where(certain, high, np.maximum(high, 1 - low)))
    if scope == "certified":
        gap = np.where(certain, gap, 1.0)
    n = int(rows.sum())
    if name == "brier":
        return float((gap[rows] ** 2).mean())
    if name == "log loss":
        return float(-np.log(np.clip(1 - gap[rows], CLIP, 1 - CLIP)).mean())
    if name == "risk":
        stay = int((kept & correct & (low >= THRESHOLD)).sum())
        wrong = int((kept & ~correct & (high >= THRESHOLD)).sum()) + int(other.sum())
        return wrong / (wrong + stay) if wrong else 0.0
    ends = correct[kept], low[kept], high[kept]
    value = 0.0
    if kept.any() and name == "ece":
        value = cc.certified_ece(*ends, edges=[0, 0.6, 0.8, 0.95, 1]).value
    elif kept.any():
        value = cc.certified_ks(*ends).value
    return float((value * kept.sum() + gap[other].sum()) / n)


def failed(name: str, bound: AggregateBound, exact: float) -> bool:
    """Whether a bound does not hold."""
    if math.isnan(exact) or math.isnan(bound.value):
        return False
    if name == "accuracy":
        return bound.value > exact * (1 + 1e-12)
    return bound.value < exact * (1 - 1e-9)


@pytest.fixture
def few_cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hundredth of the usual number, which costs tightness alone."""
    monkeypatch.setattr(lattice, "_LEVELS", 160)
    for cache in (lattice.cells, tables._design):
        cache.cache_clear()
    yield
    for cache in (lattice.cells, tables._design):
        cache.cache_clear()


@pytest.fixture
def remembered(few_cells: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that were made once are not made again: with what is expected fixed they do not depend on the votes."""
    known: dict[Any, Any] = {}

    def fit(expected: Expected, worst: Any, *rest: Any) -> Any:
        key = (id(expected), worst.tobytes(), *rest)
        if key not in known:
            known[key] = tables.fit_table(expected, worst, *rest)
        return known[key]

    monkeypatch.setattr(evidence, "fit_table", fit)


def fixed_expected(n: int) -> tuple[Expected, Expected]:
    """Of wrong and of right rows."""
    k = np.arange(n + 1)
    return (
        expected_of((50 * binom.pmf(k, n, 0.9)).astype(np.int64) + 1),
        expected_of((200 * binom.pmf(k, n, 0.97)).astype(np.int64) + 1),
    )


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(("name", "scope"), CASES)
def test_every_outcome_of_two_rows(name: str, scope: str) -> None:
    """The exact failure probability at adversarial p is at most delta: enumerated over all votes."""
    n, shift, delta = 6, 0.25, 0.4
    least = 5 if scope == "certified" else 0
    expected = fixed_expected(n)
    correct = np.array([True, False])
    bounds = {}
    for votes in product(range(n + 1), repeat=2):
        histogram = VoteHistogram.of(votes, correct, n)
        setting = Setting(
            [histogram],
            shift,
            delta,
            scope,
            [least] if scope == "certified" else None,
            expected=expected,
        )
        bounds[votes] = BOUNDS[name](setting)
    border = float(ndtr(shift))
    candidates = [
        1e-9,
        0.4,
        border,
        border * (1 + 1e-9),
        0.7,
        float(ndtr(ndtri(0.8) - shift)),
        0.9,
        1 - 1e-9,
    ]
    k = np.arange(n + 1)
    for p in product(candidates, repeat=2):
        total = 0.0
        first, second = (binom.pmf(k, n, x) for x in p)
        for votes, bound in bounds.items():
            counted = np.array(votes) >= least
            exact = truth(name, scope, np.array(p), correct, counted, shift)
            if failed(name, bound, exact):
                total += float(first[votes[0]] * second[votes[1]])
        assert total <= delta, p


@pytest.mark.parametrize("delta", [0.1, 0.01])
@pytest.mark.parametrize("scope", ["certified", "all"])
@pytest.mark.parametrize("name", ["brier", "log loss", "accuracy"])
def test_sums_fail_no_more_often_than_delta(name: str, scope: str, delta: float) -> None:
    """20,000 sets of 50 rows and of 1,000, some at the border, with tables for other probabilities than they have."""
    n, shift = 20, 0.5
    least = 18 if scope == "certified" else 0
    term = {"brier": BrierTerm(), "log loss": LogTerm(Clip(CLIP)), "accuracy": RightTerm()}[name]
    rng = np.random.default_rng(len(name) + len(scope))
    for size, runs in ((50, 20_000), (1000, 2000)):
        p = rng.choice([0.69, 0.6914, 0.692, 0.8, 0.93, 0.99, 0.9999], size)
        correct = rng.random(size) < 0.8
        votes = VoteHistogram.of(np.zeros(size, np.int64), correct, n)
        setting = Setting(
            [votes], shift, delta, scope, [least] if least else None, expected=fixed_expected(n)
        )
        known, h = setting.evidence, setting.worst(term)
        (leg,) = known.legs
        weight = known.weight(h, delta, leg)
        heights = known._heights(h, leg)
        charges = {
            s.correct: known._table(s, s.expected, height, weight).at(np.arange(n + 1))
            for s, height in zip(leg.strata, heights, strict=True)
        }
        x = ndtri(p)
        low, high, certain = ndtr(x - shift), ndtr(x + shift), x > shift
        if name == "accuracy":
            adds = -(certain & correct).astype(float)
        else:
            gap = np.where(correct, 1 - low, np.where(certain, high, np.maximum(high, 1 - low)))
            gap = np.where(certain, gap, 1.0) if least else gap
            adds = gap**2 if name == "brier" else -np.log(np.clip(1 - gap, CLIP, 1 - CLIP))
        if name == "accuracy" and least:
            adds = np.where(certain, adds, 0.0)
        k = rng.binomial(n, p, (runs, size))
        charged = np.where(correct, charges[True][k], charges[False][k]).sum(axis=1)
        exact = np.where(k >= least, adds, 0.0).sum(axis=1)
        false = int((exact > charged + math.log(1 / delta) / weight).sum())
        assert binomtest(false, runs, delta, alternative="greater").pvalue > FALSE_ALARM


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("scope", ["certified", "all"])
@pytest.mark.parametrize("name", ["ece", "ks"])
def test_searches_fail_no_more_often_than_delta(name: str, scope: str) -> None:
    """Small sets of rows near the border, where every node counts."""
    n, shift, delta, runs = 12, 0.5, 0.1, 40
    least = 11 if scope == "certified" else 0
    expected = fixed_expected(n)
    rng = np.random.default_rng(len(scope))
    p = rng.choice([0.6914, 0.692, 0.8, 0.93, 0.99], 40)
    correct = rng.random(40) < 0.8
    false = 0
    for _ in range(runs):
        k = rng.binomial(n, p)
        votes = VoteHistogram.of(k, correct, n)
        setting = Setting(
            [votes], shift, delta, scope, [least] if least else None, expected=expected
        )
        exact = truth(name, scope, p, correct, k >= least, shift)
        false += failed(name, BOUNDS[name](setting), exact)
    assert binomtest(false, runs, delta, alternative="greater").pvalue > FALSE_ALARM


@pytest.mark.usefixtures("few_cells")
def test_failures_with_tables_that_the_rows_tell_each_other() -> None:
    """Nothing is expected beforehand: sets of 60 rows, tables fitted on the other parts."""
    n, shift, delta, runs = 10, 0.3, 0.1, 40
    rng = np.random.default_rng(5)
    false = 0
    p = rng.choice([0.6179, 0.63, 0.9, 0.99], 60)
    correct = rng.random(60) < 0.7
    for _ in range(runs):
        k = rng.binomial(n, p)
        setting = Setting([VoteHistogram.of(k, correct, n)], shift, delta, "certified", [9])
        exact = truth("brier", "certified", p, correct, k >= 9, shift)
        false += failed("brier", aggregate_brier(setting), exact)
    assert binomtest(false, runs, delta, alternative="greater").pvalue > FALSE_ALARM


def test_the_nodes_of_a_tree_share_no_more_than_everything() -> None:
    setting = _Setting([VoteHistogram.of([20], [1], 20)], 0.3, 0.1, "all")
    edges = np.linspace(0, 1, 9)
    for tree in (SignTree(setting, Bins.of(edges=edges)), ThresholdTree(setting)):
        nodes, total, leaves = tree.roots(), 0.0, 0
        while nodes:
            total += sum(tree.share(node) for node in nodes)
            below = [child for node in nodes for child in tree.children(node)]
            leaves += sum(not tree.children(node) for node in nodes)
            nodes = below
        assert 0.5 < total <= 1 + 1e-12
        assert leaves >= 16


def test_a_node_covers_what_is_below_it() -> None:
    """Its h is at least that of each child, and one of the children has any attained value."""
    setting = _Setting([VoteHistogram.of([20], [1], 20)], 0.3, 0.1, "all")
    fine = cells(20, 0, 0.3)
    rng = np.random.default_rng(2)
    for tree in (SignTree(setting, Bins.of(7, closed="left")), ThresholdTree(setting)):
        node = tree.roots()[0]
        while tree.children(node):
            own = [tree.worst(node)(correct, fine) for correct in (False, True)]
            for child in tree.children(node):
                for h, value in zip(
                    own, (tree.worst(child)(c, fine) for c in (False, True)), strict=True
                ):
                    assert (value <= h).all()
            node = tree.children(node)[int(rng.integers(2))]
    full = EceTerm(Bins.of(7), np.ones(7, np.bool_), np.ones(7, np.bool_))
    assert full.kept(True, np.array([0.2]), np.array([0.9]))[0] == pytest.approx(0.8)


@pytest.mark.usefixtures("few_cells")
def test_bounds_are_near_the_truth_and_fall_with_delta() -> None:
    rng = np.random.default_rng(1)
    size, n, shift = 4000, 60, 0.5
    p = rng.beta(8, 0.6, size)
    correct = rng.random(size) < p
    k = rng.binomial(n, p)
    for scope, least in (("certified", 53), ("all", 0)):
        values = {}
        for delta in (1e-1, 1e-6):
            setting = Setting(
                [VoteHistogram.of(k, correct, n)], shift, delta, scope, [least] if least else None
            )
            values[delta] = [aggregate_brier(setting).value, aggregate_ece(setting).value]
        assert (np.diff(np.array(list(values.values())), axis=0) >= 0).all()
        exact = truth("brier", scope, p, correct, k >= least, shift)
        assert exact <= values[1e-6][0] <= exact + 0.02


def test_shards_add_and_rows_may_have_different_draws() -> None:
    rng = np.random.default_rng(4)
    p, correct = rng.beta(8, 1, 600), rng.random(600) < 0.8
    ids = rng.permutation(10_000)[:600]
    k = rng.binomial(50, p)
    whole = VoteHistogram.of(k, correct, 50, ids)
    shards = [VoteHistogram.of(k[i::7], correct[i::7], 50, ids[i::7]) for i in range(7)]
    total = shards[0]
    for shard in shards[1:]:
        total = total + shard
    assert np.array_equal(total.rows, whole.rows)
    assert aggregate_brier(Setting([total], 0.2, 0.01, "all")) == aggregate_brier(
        Setting([whole], 0.2, 0.01, "all")
    )
    more = VoteHistogram.of(rng.binomial(80, p[:200]), correct[:200], 80, ids[:200])
    rest = VoteHistogram.of(k[200:], correct[200:], 50, ids[200:])
    mixed = aggregate_brier(Setting([more, rest], 0.2, 0.01, "all"))
    exact = truth("brier", "all", p, correct, np.ones(600, np.bool_), 0.2)
    assert exact <= mixed.value <= exact + 0.05
    assert mixed.rows == 600


def test_a_recalibration_map_bounds_its_images() -> None:
    """A map to one value leaves nothing to chance but the rows that are not certified."""
    k, correct = np.full(500, 100), np.arange(500) % 5 > 0
    flat = lambda z: (np.full_like(z, 0.8), np.full_like(z, 0.8))  # noqa: E731
    setting = Setting([VoteHistogram.of(k, correct, 100)], 0.3, 0.01, "certified", [90], image=flat)
    exact = float(np.where(correct, 0.04, 0.64).mean())
    assert exact <= aggregate_brier(setting).value <= exact + 0.02


@pytest.mark.usefixtures("few_cells")
def test_classwise_of_two_classes() -> None:
    rng = np.random.default_rng(6)
    size, n, shift = 800, 60, 0.2
    p = rng.beta(2, 2, size)
    label = (rng.random(size) < p).astype(np.int64)
    k = rng.binomial(n, p)
    votes = [
        VoteHistogram.of(n - k, label == 0, n),
        VoteHistogram.of(k, label == 1, n),
    ]
    bound = aggregate_classwise(votes, shift, 0.01, bins=5)
    both = np.stack([1 - p, p], axis=1)
    low, high = ndtr(ndtri(both) - shift), ndtr(ndtri(both) + shift)
    exact = cc.certified_classwise_ece(label, low, high, bins=5).value
    assert exact <= bound.value <= exact + 0.2
    assert bound.rows == size


def test_nothing_counted_and_bad_settings() -> None:
    votes = VoteHistogram.of([5, 6], [1, 0], 20)
    none = Setting([votes], 0.5, 0.1, "certified", [20])
    for name in ("brier", "ece", "ks", "log loss"):
        assert math.isnan(BOUNDS[name](none).value)
    for arguments, message in (
        (([], 0.5, 0.1, "all"), "votes: expected at least one row"),
        (([votes, votes], 0.5, 0.1, "all"), "one histogram for each number of draws"),
        (([votes], -1.0, 0.1, "all"), "shift"),
        (([votes], 0.5, 0.0, "all"), "delta"),
        (([votes], 0.5, 0.1, "some"), "scope: expected one of"),
        (([votes], 0.5, 0.1, "certified"), "least: expected the fewest votes"),
        (([votes], 0.5, 0.1, "all", [3]), "least: expected the fewest votes"),
        (([votes], 0.5, 0.1, "certified", [3, 4]), "least: expected one number a histogram"),
        (([votes], 0.5, 0.1, "certified", [30]), "least: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            Setting(*arguments)
    with pytest.raises(TypeError, match="votes: expected VoteHistogram, got list"):
        Setting([[1, 2]], 0.5, 0.1, "all")  # type: ignore[list-item]
    everyone = Setting([votes], 0.5, 0.1, "all")
    with pytest.raises(ValueError, match="clip: expected a number above 0 and below"):
        aggregate_log_loss(everyone, 0.5)
    with pytest.raises(ValueError, match="threshold: expected a confidence from 0 to 1"):
        aggregate_selective_risk(everyone, 1.5)
    with pytest.raises(ValueError, match='scope: expected "all" for the accuracy'):
        aggregate_accuracy(none)
    with pytest.raises(ValueError, match="votes: expected a histogram for each class"):
        aggregate_classwise([], 0.5, 0.1)
