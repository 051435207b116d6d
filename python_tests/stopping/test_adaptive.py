# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest, chisquare, hypergeom

import certcal_ext as cc
from certcal_ext.intervals.clopper_pearson import clopper_pearson
from certcal_ext.stopping.adaptive import AdaptiveResult, ReplayedVotes, run_adaptive
from certcal_ext.stopping.plans import what_more_draws_buy
from certcal_ext.stopping.rules import Stopping

SIGMA, STORED = 0.25, 6000
RULES = Stopping(
    radii=(0.1,), tolerance=0.02, decision_tolerance=0.02, n_max=5000, n_min=50, planning=100
)
#: Chance that a correct implementation fails one of the statistical tests.
FALSE_ALARM = 1e-6


class Recorded:
    """A source that notes what it is asked for."""

    def __init__(self, source: ReplayedVotes) -> None:
        self.source = source
        self.spans: list[tuple[tuple[int, ...], int, int]] = []

    def __len__(self) -> int:
        return len(self.source)

    def votes(self, rows: np.ndarray, first_draw: int, draws: int) -> np.ndarray:
        assert draws > 0
        assert (np.diff(rows) > 0).all()
        self.spans.append((tuple(rows.tolist()), first_draw, draws))
        return self.source.votes(rows, first_draw, draws)

    def draws(self) -> list[set[int]]:
        """Draws of each sample; fails where one is asked for twice."""
        seen: list[set[int]] = [set() for _ in range(len(self))]
        for rows, first, draws in self.spans:
            for row in rows:
                span = set(range(first, first + draws))
                assert not seen[row] & span
                seen[row] |= span
        return seen


def problem(rows: int = 300, seed: int = 0) -> tuple[ReplayedVotes, np.ndarray, np.ndarray]:
    """Votes of a fairly good classifier, whether it is right, and its true probabilities."""
    random = np.random.default_rng(seed)
    p = random.beta(4, 0.5, rows)
    source = ReplayedVotes(random.binomial(STORED, p), STORED, seed)
    return source, random.random(rows) < p, p


@given(
    st.integers(1, 300).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1, max_size=4))
    ),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_replayed_ranges_add_up_to_the_stored_votes(
    stored: tuple[int, list[int]], seed: int, data: st.DataObject
) -> None:
    draws, votes = stored
    cuts = sorted(data.draw(st.lists(st.integers(0, draws), max_size=5)))
    ends = [0, *cuts, draws]
    rows = np.arange(len(votes))
    source, again = ReplayedVotes(votes, draws, seed), ReplayedVotes(votes, draws, seed)
    parts = [source.votes(rows, a, b - a) for a, b in pairwise(ends)]
    assert np.array_equal(sum(parts), votes)
    for part, a, b in zip(parts, ends[:-1], ends[1:], strict=True):
        assert ((part >= 0) & (part <= b - a)).all()
    # Asked in another order, the same draws give the same votes.
    for i in reversed(range(len(parts))):
        assert np.array_equal(again.votes(rows, ends[i], ends[i + 1] - ends[i]), parts[i])


@pytest.mark.parametrize(("first", "draws"), [(0, 7), (3, 10), (20, 20)])
def test_replayed_ranges_are_hypergeometric(first: int, draws: int) -> None:
    runs, stored, votes = 20_000, 40, 13
    found = ReplayedVotes(np.full(runs, votes), stored, 5).votes(np.arange(runs), first, draws)
    k = np.arange(draws + 1)
    expected = runs * hypergeom.pmf(k, stored, votes, draws)
    seen = np.bincount(found, minlength=draws + 1).astype(float)
    common = expected > 5
    pool = [np.append(x[common], x[~common].sum()) for x in (seen, expected)]
    if pool[1][-1] < 1e-9:
        pool = [x[:-1] for x in pool]
    pool[1] *= pool[0].sum() / pool[1].sum()
    assert chisquare(*pool).pvalue > FALSE_ALARM


def test_replayed_votes_refuse_what_is_not_stored() -> None:
    source = ReplayedVotes([3], 10)
    with pytest.raises(ValueError, match="draws: expected a part of the 10 stored ones"):
        source.votes(np.array([0]), 5, 6)
    with pytest.raises(ValueError, match="votes: expected counts from 0 to draws"):
        ReplayedVotes([11], 10)
    with pytest.raises(TypeError, match="votes"):
        ReplayedVotes([0.5], 10)


@pytest.mark.parametrize("method", ["staged", "sequence"])
def test_run_counts_each_draw_once_planning_draws_apart(method: str) -> None:
    source, correct, _ = problem()
    recorded = Recorded(source)
    rules = dataclasses.replace(RULES, method=method, alpha_share=(0.7, 0.3))
    result = run_adaptive(recorded, correct, SIGMA, 1e-3, rules, first_draw=30)
    planned = result.planning_draws
    assert set(planned) == ({100, 400} if method == "staged" else {100})
    for row, draws in enumerate(recorded.draws()):
        assert draws == set(range(30, 30 + planned[row] + result.n[row]))
    rows = np.arange(len(source))
    assert result.draws_total == result.n.sum() + planned.sum() == result.draws_seen.sum()
    for row in range(0, rows.size, 13):
        one, first = np.array([row]), 30 + int(planned[row])
        assert result.planning_votes[row] == source.votes(one, 30, int(planned[row]))[0]
        assert result.votes[row] == source.votes(one, first, int(result.n[row]))[0]
    assert (result.n >= rules.n_min).all()
    assert (result.n + planned <= rules.n_max).all()
    assert result.draws_total < 0.7 * rules.n_max * rows.size
    assert (
        (result.lower <= result.votes / result.n) & (result.votes / result.n <= result.upper)
    ).all()
    ends = result.at_level(1e-3)
    assert np.array_equal(ends.lower, result.lower)
    assert np.array_equal(ends.upper, result.upper)
    wider = result.at_level(1e-6)
    assert (wider.lower <= result.lower).all()
    assert (wider.upper >= result.upper).all()


def test_more_planning_goes_to_samples_near_the_edge_of_certification() -> None:
    source, correct, p = problem(1000)
    rules = dataclasses.replace(RULES, n_max=6000, planning=50, planning_stages=9)
    assert rules.planning_steps == (50, 200)
    result = run_adaptive(source, correct, SIGMA, 1e-3, rules)
    far = np.abs(p - ndtr(0.1 / SIGMA))
    more = result.planning_draws == 200
    assert (~more)[far > 0.3].all()
    assert more[far < 0.02].mean() > 0.8
    # What is drawn to plan is a function of the planning draws alone, so that looks are fixed by them.
    others = dataclasses.replace(rules, tolerance=0.2, alpha_share=(1.0,))
    again = run_adaptive(source, correct, SIGMA, 1e-3, others)
    assert np.array_equal(again.planning_draws, result.planning_draws)
    one_stage = dataclasses.replace(rules, planning_stages=1)
    alike = run_adaptive(source, correct, SIGMA, 1e-3, one_stage)
    assert (alike.planning_draws == 50).all()


def test_planning_leaves_the_estimation_its_draws() -> None:
    source, correct, _ = problem()
    for most in (152.0, 400.0):
        rules = dataclasses.replace(RULES, max_draws=most)
        result = run_adaptive(source, correct, SIGMA, 1e-3, rules)
        assert result.draws_total <= most * 300
        assert result.planning_draws.mean() <= 100 + (most - 150) / 4


def test_run_is_the_same_again_and_reports_its_draws() -> None:
    source, correct, _ = problem()
    reports: list[tuple[int, int]] = []
    first = run_adaptive(
        source,
        correct,
        SIGMA,
        stopping=RULES,
        progress=lambda done, total: reports.append((done, total)),
    )
    second = run_adaptive(problem()[0], correct, SIGMA, stopping=RULES)
    assert np.array_equal(first.n, second.n)
    assert np.array_equal(first.lower, second.lower)
    assert reports[-1] == (first.draws_total, first.draws_total)
    assert all(done <= total for done, total in reports)


def test_second_look_has_twice_the_draws_and_its_own_share() -> None:
    source, correct, _ = problem(600)
    rules = dataclasses.replace(
        RULES, tolerance=0.01, decision_tolerance=0.003, alpha_share=(0.5, 0.5)
    )
    result = run_adaptive(source, correct, SIGMA, 1e-3, rules)
    first = result.plans[0].n
    gone_on = result.look == 1
    assert 0 < gone_on.sum() < 600
    assert np.array_equal(result.n[~gone_on], first[~gone_on])
    grid = np.array(rules.grid)
    ahead = np.minimum(np.searchsorted(grid, first) + 4, grid.size - 1)
    assert np.array_equal(result.n[gone_on], grid[ahead][gone_on])
    row = int(np.flatnonzero(gone_on & ~correct)[0]) if (gone_on & ~correct).any() else None
    if row is not None:
        ends = clopper_pearson(result.votes[row : row + 1], int(result.n[row]), 1e-3 * 0.5)
        assert result.lower[row] == ends.lower[0]


@pytest.mark.parametrize("method", ["staged", "sequence"])
def test_run_that_goes_on_has_the_draws_of_the_long_one(method: str) -> None:
    source, correct, _ = problem()
    recorded = Recorded(source)
    few = dataclasses.replace(RULES, method=method, alpha_share=(0.6, 0.4), max_draws=260.0)
    many = dataclasses.replace(few, max_draws=None, tolerance=0.01)
    short = run_adaptive(recorded, correct, SIGMA, 1e-3, few)
    assert short.draws_total <= 260 * 300
    longer = run_adaptive(recorded, correct, SIGMA, 1e-3, many, previous=short)
    recorded.draws()  # no draw was made twice
    assert (longer.n >= short.n).all()
    assert longer.draws_total > short.draws_total
    at_once = np.array(
        [
            source.votes(np.array([row]), int(first), int(n))[0]
            for row, (first, n) in enumerate(zip(longer.planning_draws, longer.n, strict=True))
        ]
    )
    assert np.array_equal(longer.votes, at_once)
    assert np.array_equal(longer.planning_votes, short.planning_votes)
    assert np.array_equal(longer.planning_draws, short.planning_draws)
    if method == "staged":
        assert (longer.look <= 1).all()
        assert (longer.n[longer.look == short.look] == short.n[longer.look == short.look]).all()


def test_run_that_goes_on_needs_the_same_rules() -> None:
    source, correct, _ = problem(20)
    short = run_adaptive(source, correct, SIGMA, 1e-3, RULES)
    other = dataclasses.replace(RULES, planning=120)
    with pytest.raises(ValueError, match="previous: expected a run with planning=120, got 100"):
        run_adaptive(source, correct, SIGMA, 1e-3, other, previous=short)
    with pytest.raises(ValueError, match="previous: expected \\(samples"):
        run_adaptive(source, correct, SIGMA, 1e-2, RULES, previous=short)


def failures(result: AdaptiveResult, p: np.ndarray) -> int:
    return int(((result.lower > p) | (result.upper < p)).sum())


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5)])
def test_staged_intervals_cover_although_runs_stop_early(shares: tuple[float, ...]) -> None:
    # 4,000 samples of known probability, each with its own stopping time: failures are at most
    # Binomial(4000, alpha). Exact test; false alarm 1e-6.
    alpha = 0.1
    source, correct, p = problem(4000, seed=1)
    rules = dataclasses.replace(
        RULES, alpha_share=shares, tolerance=0.005, decision_tolerance=0.003, planning=30
    )
    result = run_adaptive(source, correct, SIGMA, alpha, rules)
    assert np.unique(result.n).size > 3
    assert np.unique(result.planning_draws).size == 3
    failed = failures(result, p)
    assert failed > 0
    assert binomtest(failed, p.size, alpha, alternative="greater").pvalue > FALSE_ALARM


def test_sequences_cover_although_a_user_goes_on_until_she_likes_the_result() -> None:
    alpha = 0.1
    source, correct, p = problem(800, seed=2)
    rules = dataclasses.replace(RULES, method="sequence", max_draws=300.0)
    result = run_adaptive(source, correct, SIGMA, alpha, rules)
    missed = (result.lower > p) | (result.upper < p)
    for most in (600.0, 2000.0):
        rules = dataclasses.replace(rules, max_draws=most, tolerance=0.005)
        result = run_adaptive(source, correct, SIGMA, alpha, rules, previous=result)
        missed |= (result.lower > p) | (result.upper < p)  # the one that fails is shown
    assert binomtest(int(missed.sum()), p.size, alpha, alternative="greater").pvalue > FALSE_ALARM


def metrics(result: AdaptiveResult, radius: float) -> tuple[np.ndarray, float, float]:
    shift = radius / SIGMA
    certified = ndtri(result.lower) > shift
    lower = ndtr(ndtri(result.lower) - shift)[certified]
    upper = ndtr(ndtri(result.upper) + shift)[certified]
    right = result.correct[certified]
    return (
        certified,
        cc.certified_brier(right, lower, upper).value,
        cc.certified_ece(right, lower, upper).value,
    )


def test_forecast_of_the_run_as_it_is_is_what_it_is() -> None:
    source, correct, _ = problem()
    result = run_adaptive(source, correct, SIGMA, 1e-3, RULES)
    entries = what_more_draws_buy(result, (0.1, 0.2), (1, 2, 10))
    assert [(e.expected.radius, e.factor) for e in entries] == [
        (r, f) for r in (0.1, 0.2) for f in (1.0, 2.0, 10.0, None)
    ]
    for entry in entries[::4]:
        certified, brier, ece = metrics(result, entry.expected.radius)
        assert entry.expected.certified == pytest.approx(certified.sum())
        assert entry.expected.brier == pytest.approx(brier, abs=1e-9)
        assert entry.expected.ece == pytest.approx(ece, abs=1e-6)
        assert entry.expected.draws == pytest.approx(result.draws_total / 300)
    draws = [entry.expected.draws for entry in entries[:4]]
    assert draws == sorted(draws)
    assert entries[3].expected.draws == RULES.n_max


def test_forecast_comes_near_what_more_draws_then_give() -> None:
    source, correct, _ = problem(2000, seed=3)
    result = run_adaptive(source, correct, SIGMA, 1e-3, dataclasses.replace(RULES, max_draws=400.0))
    full = what_more_draws_buy(result)[-1].expected
    ends = clopper_pearson(source.votes(np.arange(2000), 0, RULES.n_max), RULES.n_max, 1e-3)
    certified, brier, ece = metrics(
        dataclasses.replace(result, lower=ends.lower, upper=ends.upper), 0.1
    )
    assert full.certified == pytest.approx(certified.sum(), abs=30)
    assert full.brier == pytest.approx(brier, abs=0.01)
    assert full.ece == pytest.approx(ece, abs=0.01)


def test_forecast_refuses_fewer_draws() -> None:
    source, correct, _ = problem(20)
    result = run_adaptive(source, correct, SIGMA, 1e-3, RULES)
    with pytest.raises(ValueError, match="factors: expected numbers of at least 1"):
        what_more_draws_buy(result, factors=(0.5,))


@given(st.lists(st.tuples(st.integers(0, 600), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=8)
def test_any_few_samples_can_be_run(samples: list[tuple[int, bool]]) -> None:
    votes, correct = zip(*samples, strict=True)
    rules = Stopping(radii=(0.0, 0.3), n_max=500, n_min=20, planning=50)
    result = run_adaptive(ReplayedVotes(votes, 600), correct, SIGMA, 1e-3, rules)
    assert ((result.n >= 20) & (result.n <= 450)).all()
    assert ((result.lower >= 0) & (result.lower <= result.upper) & (result.upper <= 1)).all()


def test_run_without_labels_narrows_the_intervals() -> None:
    source, _, _ = problem()
    result = run_adaptive(source, None, SIGMA, 1e-3, RULES)
    assert result.correct is None
    certified = ndtri(result.lower) > 0.1 / SIGMA
    assert result.n[certified].mean() > 2 * result.n[~certified].mean()
    assert np.isnan(what_more_draws_buy(result)[0].expected.ece)


def test_bad_arguments() -> None:
    source, correct, _ = problem(5)
    with pytest.raises(TypeError, match="stopping: expected a Stopping, got NoneType"):
        run_adaptive(source, correct, SIGMA)
    with pytest.raises(ValueError, match="source: expected at least one sample"):
        run_adaptive(ReplayedVotes(np.array([], int), 10), [], SIGMA, stopping=RULES)
    with pytest.raises(ValueError, match="correct: expected 5 entries"):
        run_adaptive(source, correct[:4], SIGMA, stopping=RULES)
    with pytest.raises(ValueError, match="sigma"):
        run_adaptive(source, correct, 0.0, stopping=RULES)
    with pytest.raises(ValueError, match="first_draw"):
        run_adaptive(source, correct, SIGMA, stopping=RULES, first_draw=-1)


def test_goal_on_published_votes(shared: Path) -> None:
    # One radius and one order of the draws; bench/bench_stopping.py measures all.
    stored = np.load(shared / "data" / "cifar10_cohen_resnet110" / "sigma_0.25_n_100000.npz")
    counts = stored["counts"].astype(np.int64)
    selected = counts.argmax(1)
    votes, correct = counts[np.arange(len(counts)), selected], selected == stored["label"]
    rules = Stopping(radii=(SIGMA,))
    result = run_adaptive(ReplayedVotes(votes, 100_000, seed=0), correct, SIGMA, 1e-3, rules)
    ends = clopper_pearson(votes, 100_000, 1e-3)
    certified, brier, ece = metrics(result, SIGMA)
    full = metrics(dataclasses.replace(result, lower=ends.lower, upper=ends.upper), SIGMA)
    assert result.draws_total * 10 <= 100_000 * votes.size
    assert abs(brier - full[1]) <= 0.005
    assert abs(ece - full[2]) <= 0.005
    assert (certified == full[0]).mean() >= 0.99
