# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import binom

import certcal_ext as cc
from certcal_ext.intervals.clopper_pearson import clopper_pearson
from certcal_ext.stopping.forecast import (
    Outcomes,
    cells,
    likely_votes,
    posterior,
    probabilities,
    solve_cells,
    undecided,
)
from certcal_ext.stopping.plans import Groups, plan_draws
from certcal_ext.stopping.program import DrawProgram
from certcal_ext.stopping.rules import (
    Stopping,
    full_probits,
    option_probits,
    row_intervals,
    split_interval,
)

SMALL = Stopping(radii=(0.1,), n_max=4000, n_min=50, planning=100)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"radii": ()}, ValueError, "radii: expected at least one radius"),
        ({"radii": (-1.0,)}, ValueError, "radii: expected finite radii of at least 0"),
        ({"radii": "x"}, TypeError, "radii"),
        ({"tolerance": 0.0}, ValueError, "tolerance: expected a number above 0"),
        ({"tolerance": float("nan")}, ValueError, "tolerance: expected a finite number"),
        ({"decision_tolerance": -1}, ValueError, "decision_tolerance"),
        ({"metric": ("auc",)}, ValueError, "metric: expected one of"),
        ({"metric": ()}, ValueError, "metric: expected some of"),
        ({"method": "magic"}, ValueError, "method: expected"),
        ({"n_max": 120}, ValueError, "n_max: expected a whole number"),
        ({"n_min": 0}, ValueError, "n_min"),
        ({"planning": 0}, ValueError, "planning"),
        ({"planning_stages": 0}, ValueError, "planning_stages: expected a whole number"),
        ({"planning": 1.0}, TypeError, "planning: expected a whole number"),
        ({"max_draws": 149}, ValueError, "max_draws: expected at least planning"),
        ({"alpha_share": (0.9, 0.2)}, ValueError, "alpha_share: expected shares of at most 1"),
        ({"alpha_share": ()}, ValueError, "alpha_share"),
        ({"alpha_share": (0.0, 1.0)}, ValueError, "alpha_share: expected a number above 0"),
        ({"lower_share": 1.0}, ValueError, "lower_share: expected a share below 1"),
        ({"bins": 0}, ValueError, "bins"),
    ],
)
def test_bad_rules(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dataclasses.replace(SMALL, **changes)


def test_rules_survive_json() -> None:
    rules = dataclasses.replace(SMALL, max_draws=700.0, metric=("width",), alpha_share=(0.5, 0.25))
    assert Stopping.from_json(rules.to_json()) == rules
    for text in ("{", "[]", "{}", '{"radii": [1], "other": 1}'):
        with pytest.raises(ValueError, match="stopping: expected"):
            Stopping.from_json(text)
    with pytest.raises(TypeError, match="n_max"):
        Stopping.from_json('{"radii": [0.5], "n_max": "many"}')


def test_rules_are_frozen_and_comparable() -> None:
    assert dataclasses.replace(SMALL, metric="ece").metric == ("ece",)
    assert Stopping(radii=np.array([0.1, 0.2])).radii == (0.1, 0.2)
    assert Stopping(radii=0.1) == Stopping(radii=(0.1,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.n_min = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "rules", [SMALL, Stopping(radii=0.1), Stopping(0.1, n_max=101, n_min=1, planning=100)]
)
def test_grid_runs_from_the_least_to_the_most(rules: Stopping) -> None:
    grid = rules.grid
    assert grid[0] == rules.n_min
    assert grid[-1] == rules.n_max - rules.planning
    assert list(grid) == sorted(set(grid))


def test_planning_steps_end_at_a_tenth_and_leave_the_least_draws() -> None:
    assert Stopping(radii=0.1).planning_steps == (500, 2000, 8000)
    assert dataclasses.replace(SMALL, planning_stages=9).planning_steps == (100, 400)
    assert dataclasses.replace(SMALL, planning_stages=1).planning_steps == (100,)
    assert dataclasses.replace(SMALL, method="sequence").planning_steps == (100,)
    assert dataclasses.replace(SMALL, n_min=3800).planning_steps == (100,)


def test_undecided_samples_are_those_whose_votes_leave_certification_open() -> None:
    full = full_probits(SMALL, 1e-3).lower[0]
    draws = 100
    votes = np.repeat(np.array([10, 52, 68, 100]), (3, 2, 4, 1))
    seen = (votes, np.full(votes.size, draws))
    open_rows = undecided(seen, full, (0.4,), SMALL.n_max)
    # Phi(0.4) = 0.66 is the edge of certification; the full run needs 0.68.
    assert np.array_equal(open_rows, votes == 68)
    both = undecided(seen, full, (0.4, 0.0), SMALL.n_max)
    assert np.array_equal(both, (votes == 68) | (votes == 52))
    assert undecided(seen, full, (9.0,), SMALL.n_max).sum() == 0


@pytest.mark.parametrize("shares", [(1.0,), (0.9, 0.1), (0.1,) * 10, (0.5, 0.25)])
def test_looks_never_spend_more_than_alpha(shares: tuple[float, ...]) -> None:
    rules = dataclasses.replace(SMALL, alpha_share=shares)
    assert rules.looks == len(shares)
    assert sum(rules.share(look) for look in range(rules.looks)) <= 1 + 1e-15


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("n", [1, 40, 257])
def test_each_side_fails_no_more_often_than_its_share(share: float, n: int) -> None:
    # No sampling: the failure probability is a sum over all counts.
    alpha, k = 0.1, np.arange(n + 1)
    lower, upper = split_interval(k, n, alpha, share)
    for p in (*lower[1:], *upper[:-1], 0.3, 0.5, 0.9):
        chance = binom.pmf(k, n, p)
        assert chance[lower > p].sum() <= alpha * share * (1 + 1e-9)
        assert chance[upper < p].sum() <= alpha * (1 - share) * (1 + 1e-9)


@pytest.mark.parametrize("p", [0.5, 0.8, 0.9, 0.97])
def test_looks_fail_together_no_more_often_than_alpha_whatever_stops_them(p: float) -> None:
    # The worst rule of stopping picks the look that fails, where one does. Exact, over all paths.
    alpha, looks, shares = 0.2, (30, 120), (0.6, 0.4)
    first, second = (
        split_interval(np.arange(n + 1), n, alpha * s, 0.95)
        for n, s in zip(looks, shares, strict=True)
    )
    failed = 0.0
    more = np.arange(looks[1] - looks[0] + 1)
    for k in range(looks[0] + 1):
        missed = (second.lower[k + more] > p) | (second.upper[k + more] < p)
        missed |= bool(first.lower[k] > p or first.upper[k] < p)
        failed += binom.pmf(k, looks[0], p) * binom.pmf(more, more.size - 1, p)[missed].sum()
    assert 0 < failed <= alpha


def test_row_intervals_are_a_function_of_the_row_and_alpha() -> None:
    rules = dataclasses.replace(SMALL, alpha_share=(0.9, 0.1))
    votes, n = np.array([90, 90, 90, 0, 380]), np.array([100, 100, 100, 0, 400])
    look, correct = np.array([0, 0, 1, -1, 1]), np.array([0, 1, 0, 0, 1], np.uint8)
    planning = np.full(5, 90)
    for alpha in (1e-3, 0.05):
        ends = row_intervals(rules, alpha, votes, n, look, planning, correct)
        plain = clopper_pearson([90], 100, alpha * 0.9)
        assert (ends.lower[0], ends.upper[0]) == (plain.lower[0], plain.upper[0])
        assert ends.lower[1] > ends.lower[0] > ends.lower[2]
        assert ends.upper[1] > ends.upper[0]
        assert (ends.lower[3], ends.upper[3]) == (0, 1)
        alone = row_intervals(
            rules, alpha, *(part[4:] for part in (votes, n, look, planning, correct))
        )
        assert alone.lower[0] == ends.lower[4]
    empty = np.array([], np.int64)
    assert (
        row_intervals(rules, 0.1, empty, empty, empty, empty, empty.astype(np.uint8)).lower.size
        == 0
    )


def test_sequence_rows_depend_on_their_planning_votes() -> None:
    rules = dataclasses.replace(SMALL, method="sequence")
    two, right = np.array([90, 90]), np.ones(2, np.uint8)
    ends = row_intervals(rules, 1e-3, two, np.array([100, 100]), two * 0, np.array([90, 10]), right)
    assert ends.lower[0] > ends.lower[1]


def test_likely_votes_have_the_mean_and_spread_of_the_binomial() -> None:
    draws, n_max = (50, 3000), 4000
    p = probabilities(n_max)[0]
    assert (np.diff(p) > 0).all()
    assert p[0] > 0
    assert p[-1] < 1
    votes = likely_votes(draws, n_max)
    for j, n in enumerate(draws):
        spread = np.sqrt(n * p * (1 - p))
        assert (np.abs(votes[j].mean(axis=1) - n * p) < 0.15 * spread + 0.5).all()
        wide = spread > 3
        assert (votes[j].std(axis=1)[wide] > 0.85 * spread[wide]).all()


def test_posterior_finds_the_distribution_of_the_data_set() -> None:
    # Half of the samples at 0.6, half at 0.99: a sample with 20 of 20 votes belongs to the second.
    random = np.random.default_rng(0)
    true = np.repeat([0.6, 0.99], 2000)
    k, weight = np.unique(random.binomial(20, true), return_counts=True)
    chance = posterior(k, np.full(k.size, 20), weight, 1000)
    assert np.allclose(chance.sum(axis=1), 1)
    mean = chance @ probabilities(1000)[0]
    assert mean[k == 20][0] > 0.97
    assert abs(mean[k == 12][0] - 0.6) < 0.05


def some_intervals(random: np.random.Generator, rows: int) -> tuple:
    ends = np.sort(random.random((rows, 2)) ** 0.3, axis=1)
    ends[::7, 1] = ends[::7, 0]
    return random.integers(0, 2, rows), ends[:, 0], ends[:, 1]


def outcomes(lower: np.ndarray, upper: np.ndarray, bins: int) -> Outcomes:
    edges = np.linspace(0, 1, bins + 1)
    first, last = (np.searchsorted(edges[1:-1], end, "left") for end in (lower, upper))
    return Outcomes(lower, upper, np.ones(lower.size, bool), first, last, edges)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 8))
def test_terms_add_up_to_the_certified_ece_and_never_above(seed: int, rows: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    correct, lower, upper = some_intervals(random, rows)
    worst = cc.certified_ece(correct, lower, upper, bins=bins)
    all_rows = outcomes(lower, upper, bins)

    def total(signs: np.ndarray) -> float:
        terms = np.where(correct, all_rows.ece_term(1, signs), all_rows.ece_term(0, signs))
        return float(terms.mean())

    assert total(worst.signs) == pytest.approx(worst.value, abs=1e-12)
    other = random.choice(np.array([-1, 1], np.int8), bins)
    assert total(other) <= worst.value + 1e-12


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 8))
def test_weighted_ece_is_the_ece_of_repeated_samples(seed: int, rows: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    correct, lower, upper = some_intervals(random, rows)
    weight = random.integers(0, 4, rows)
    weight[0] = 1
    both = sum(
        cells(
            weight[correct == c].astype(float),
            c,
            outcomes(lower[correct == c], upper[correct == c], bins),
        )
        for c in (0, 1)
    )
    again = (np.repeat(part, weight) for part in (correct, lower, upper))
    assert solve_cells(both)[0] == pytest.approx(
        cc.certified_ece(*again, bins=bins).value, abs=1e-7
    )


def test_weighted_ece_of_nothing_is_nan() -> None:
    assert np.isnan(solve_cells(np.zeros((3, 2, 4, 4)))[0])


def random_program(seed: int) -> tuple:
    """Draws, weights and limits of a small program in which more draws lose less."""
    random = np.random.default_rng(seed)
    groups, options = random.integers(1, 12), random.integers(2, 6)
    draws = np.tile(np.cumsum(random.integers(1, 100, options)), (groups, 1))
    weight = random.integers(1, 30, groups).astype(float)
    rows = []
    for _ in range(random.integers(1, 4)):
        loss = -np.sort(-random.random((groups, options)), axis=1) * weight[:, None]
        rows.append((loss, float(loss[:, -1].sum() + random.random() * loss[:, 0].sum() + 1e-3)))
    return draws, weight, rows


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_program_is_as_cheap_as_the_whole_linear_program(seed: int) -> None:
    draws, weight, rows = random_program(seed)
    allowed = np.ones(draws.shape, bool)
    program = DrawProgram(draws, allowed, weight, draws[:, 0] * 0, 1e9, 100)
    use, factor = program.solve(rows)
    assert factor == pytest.approx(1)
    assert np.allclose(use.sum(axis=1), 1)
    for loss, limit in rows:
        assert (use * loss).sum() <= limit * (1 + 1e-6)
    whole = linprog(
        (weight[:, None] * draws).reshape(-1),
        np.stack([loss.reshape(-1) for loss, _ in rows]),
        [limit for _, limit in rows],
        np.kron(np.eye(weight.size), np.ones(draws.shape[1])),
        np.ones(weight.size),
    )
    assert (use * weight[:, None] * draws).sum() <= whole.fun * 1.006 + 1e-6


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_program_keeps_the_budget_and_then_stretches_as_little_as_it_can(seed: int) -> None:
    draws, weight, rows = random_program(seed)
    budget = float(draws[0].mean())
    program = DrawProgram(draws, np.ones(draws.shape, bool), weight, draws[:, 0] * 0, budget, 100)
    use, factor = program.solve(rows)
    assert (use * weight[:, None] * draws).sum() <= budget * weight.sum() * (1 + 1e-6)
    row = np.random.default_rng(seed).permutation(
        np.repeat(np.arange(weight.size), weight.astype(int))
    )
    drawn = program.draws_of_rows(use, row)
    cost = (use * weight[:, None] * draws).sum()
    assert drawn.sum() <= cost * (1 + 1e-6) + 1e-3
    # Every sample has an option of its group that is in use, or the one below it.
    assert drawn.sum() >= cost - np.diff(draws).max() * weight.size
    worst = max((use * loss).sum() / limit for loss, limit in rows)
    assert worst <= factor * (1 + 1e-6)
    size = draws.size
    whole = linprog(
        np.append(np.zeros(size), 1.0),
        np.vstack(
            [np.append(loss.reshape(-1) / limit, -1.0) for loss, limit in rows]
            + [np.append((weight[:, None] * draws).reshape(-1), 0.0)]
        ),
        np.append(np.zeros(len(rows)), budget * weight.sum()),
        np.hstack(
            [np.kron(np.eye(weight.size), np.ones(draws.shape[1])), np.zeros((weight.size, 1))]
        ),
        np.ones(weight.size),
        bounds=[(0, None)] * size + [(1, None)],
    )
    assert factor <= whole.fun * 1.006 + 1e-3


def groups_of(k: np.ndarray, correct: np.ndarray, rules: Stopping) -> Groups:
    allowed = np.ones((k.size, len(rules.grid) + 2), bool)
    allowed[:, -2:] = False
    zero = np.zeros(k.size, np.int64)
    return Groups.of(
        (k, zero + rules.planning), correct.astype(np.uint8), zero, allowed, None, rules.n_max
    )


def planned(rules: Stopping, labelled: bool = True) -> tuple[np.ndarray, object]:
    random = np.random.default_rng(4)
    p = random.beta(4, 0.5, 600)
    k = random.binomial(rules.planning, p)
    groups = groups_of(k, random.random(600) < p, rules)
    plan = plan_draws(rules, 0.25, groups, option_probits(rules, 1e-3, 0), labelled)
    return k, plan


def test_plans_spend_less_where_more_is_tolerated_and_nothing_on_the_hopeless() -> None:
    totals = []
    for tolerance in (0.01, 0.02, 0.05):
        rules = dataclasses.replace(SMALL, tolerance=tolerance, decision_tolerance=tolerance)
        k, plan = planned(rules)
        assert (plan.n[k < rules.planning // 3] == rules.n_min).all()
        assert set(plan.n) <= set(rules.grid)
        totals.append(plan.n.sum())
        assert plan.tolerance_factor == pytest.approx(1)
        assert abs(plan.planned[0].ece - plan.full[0].ece) <= 1.1 * tolerance
        assert abs(plan.planned[0].brier - plan.full[0].brier) <= 1.1 * tolerance
        assert plan.planned[0].disagreement <= 1.1 * tolerance
        assert plan.planned[0].draws == pytest.approx(rules.planning + plan.n.mean(), rel=0.01)
        assert plan.full[0].draws == rules.n_max
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]


def test_plan_keeps_max_draws_and_says_what_it_cannot_keep() -> None:
    rules = dataclasses.replace(SMALL, tolerance=1e-4, max_draws=700.0)
    _, plan = planned(rules)
    assert plan.n.mean() + rules.planning <= 700
    assert plan.n.mean() + rules.planning > 650
    assert plan.tolerance_factor > 1.5


def test_plan_without_labels_keeps_widths() -> None:
    rules = dataclasses.replace(SMALL, tolerance=0.02, decision_tolerance=0.02)
    _, plan = planned(rules, labelled=False)
    assert np.isnan(plan.planned[0].ece)
    assert abs(plan.planned[0].width - plan.full[0].width) <= 0.022
    assert plan.n.mean() < 0.7 * rules.n_max


def test_plan_where_nothing_can_be_certified_takes_the_least() -> None:
    rules = dataclasses.replace(SMALL, radii=(5.0,))
    _, plan = planned(rules)
    assert (plan.n == rules.n_min).all()
    assert plan.planned[0].certified == 0
    assert np.isnan(plan.planned[0].ece)
