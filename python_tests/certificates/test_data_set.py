# SPDX-License-Identifier: MIT
"""``joint="aggregate"``: the bounds of ``certcal_ext.aggregate`` on what certificates hold, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

import certcal_ext as cc
from certcal_ext.aggregate import Setting, VoteHistogram, aggregate_brier
from certcal_ext.certificates.data_set import fewest_votes
from certcal_ext.certificates.evidence import vote_ends
from certcal_ext.certificates.rows import shifts

pytestmark = pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning")

N, DRAWS, SIGMA = 300, 60, 0.25


def drawn(seed: int = 0, n: Any = DRAWS, rows: int = N) -> cc.Certificates:
    random = np.random.default_rng(seed)
    p = random.beta(8, 0.7, rows)
    right = random.random(rows) < p
    return cc.Certificates.from_votes(
        random.binomial(n, p), n, np.zeros(rows, int), np.where(right, 0, 1), SIGMA, 0.01
    )


@pytest.mark.parametrize("alpha", [1e-3, 0.05])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_the_fewest_votes_are_those_that_certify(alpha: float, shift: float) -> None:
    for n in (1, 17, 60):
        counts = np.arange(n + 1)
        made = cc.Certificates.from_votes(counts, n, 0 * counts, 0 * counts, SIGMA, alpha)
        rows = made.rows_at(shift * SIGMA).certified
        asked = float(shifts(np.array([shift * SIGMA]), SIGMA)[0])
        assert rows.tolist() == (counts >= fewest_votes(n, alpha, asked)).tolist()
        assert vote_ends(counts, np.full(n + 1, n), alpha).lower[0] == 0.0


@pytest.mark.parametrize("scope", ["certified", "all"])
def test_it_is_the_bound_of_the_histograms_and_shares_delta(scope: str) -> None:
    draws = np.where(np.arange(N) % 3 == 0, 40, DRAWS)
    made, radii = drawn(1, draws), [0.0, 0.05]
    curve = made.bound("brier", radii, scope=scope, delta=0.02, joint="aggregate")
    for at, radius in enumerate(radii):
        shift = float(shifts(np.array([radius]), SIGMA)[0])
        columns = [
            made.table.column(name).to_numpy(zero_copy_only=False) for name in ("votes", "correct")
        ]
        votes = [
            VoteHistogram.of(
                columns[0][draws == n], columns[1][draws == n], n, np.flatnonzero(draws == n)
            )
            for n in (40, DRAWS)
        ]
        least = (
            [fewest_votes(n, 0.01, shift) for n in (40, DRAWS)] if scope == "certified" else None
        )
        assert curve.joint[at] == aggregate_brier(Setting(votes, shift, 0.01, scope, least)).value
    assert curve.method.tolist() == ["aggregate", "aggregate"]
    assert curve.value is curve.joint
    assert curve.failures is None


@pytest.mark.parametrize("scope", ["certified", "all"])
@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("brier", {}),
        ("ece", {"bins": 4}),
        ("ks", {}),
        ("log_loss", {"clip": 0.01}),
        ("log_loss", {"clip": 0.01, "dtype": "float32"}),
        ("selective_risk", {"threshold": 0.8}),
        ("certified_accuracy", {}),
    ],
)
def test_every_metric_has_one_that_beats_sample_by_sample(
    metric: str, options: dict[str, Any], scope: str
) -> None:
    made = drawn(2, rows=1500)
    named = {"scope": scope, "delta": 0.01, **options}
    whole = made.bound(metric, 0.1, joint="aggregate", **named)
    each = made.bound(metric, 0.1, joint="best", **named)
    if metric == "certified_accuracy":
        assert each.joint[0] < whole.joint[0] <= 1
    else:
        assert 0 <= whole.joint[0] < each.joint[0]
    assert "says nothing of a single sample" in whole.statement()
    assert "says nothing of a single sample" not in each.statement()


def test_the_bound_holds_as_often_as_it_says() -> None:
    """20 data sets of known probabilities at delta 0.3: no more failures than that, at a false-alarm rate of 1e-6."""
    random = np.random.default_rng(3)
    p = random.beta(6, 0.8, 80)
    labels = np.where(random.random(80) < p, 0, 1)
    shift, failures, trials, delta = 0.4, 0, 20, 0.3
    lower, upper = ndtr(ndtri(p) - shift), ndtr(ndtri(p) + shift)
    every = np.where(labels == 0, (1 - lower) ** 2, upper**2)
    for _ in range(trials):
        votes = random.binomial(30, p)
        made = cc.Certificates.from_votes(votes, 30, 0 * labels, labels, SIGMA, 0.05)
        rows = made.rows_at(shift * SIGMA).certified
        if rows.any():
            truth = np.where(ndtri(p) > shift, every, 1.0)[rows].mean()
            bound = made.bound("brier", shift * SIGMA, delta=delta, joint="aggregate").joint[0]
            failures += bound < truth
    assert binomtest(failures, trials, delta, alternative="greater").pvalue > 1e-6


def test_all_classes() -> None:
    random = np.random.default_rng(5)
    shares = random.dirichlet([6, 1, 1], 300)
    counts = random.multinomial(50, shares)
    labels = np.array([random.choice(3, p=share) for share in shares])
    made = cc.Certificates.from_counts(counts, labels, SIGMA, keep_counts=True)
    options = {"scope": "all", "delta": 0.01, "bins": 3}
    whole = made.bound("classwise_ece", 0.05, joint="aggregate", **options).joint[0]
    assert 0 < whole < made.bound("classwise_ece", 0.05, **options).joint[0]
    with pytest.raises(ValueError, match="scope: expected"):
        made.bound("classwise_ece", 0.05, delta=0.01, joint="aggregate")


def refused() -> dict[str, tuple[Any, str]]:
    random = np.random.default_rng(6)
    counts = random.multinomial(60, [0.7, 0.2, 0.1], 40)
    labels = np.zeros(40, int)
    shared = cc.Certificates.from_counts(counts, labels, SIGMA)
    runner_up = cc.Certificates.from_counts(counts, labels, SIGMA, selection=labels, runner_up=True)
    verifier = cc.Certificates.from_intervals([1, 0], [0.2, 0.3], [0.5, 0.6], norm="l2", radius=0.1)
    call = {"metric": "brier", "radii": 0.05, "delta": 0.01}
    return {
        "shared draws": ((shared, call), "selected the class too"),
        "runner-up": ((runner_up, call), "runner-up decides"),
        "intervals": ((verifier, call), "hold no votes"),
        "map": ((drawn().recalibrated(cc.IdentityMap()), call), "through a map"),
        "mce": ((drawn(), {**call, "metric": "mce"}), "has bounds on brier"),
        "no delta": ((drawn(), {**call, "delta": None}), "delta: expected a number"),
        "no clip": ((drawn(), {**call, "metric": "log_loss"}), "clip: expected a number"),
        "delta": ((drawn(), {**call, "delta": 2.0}), "delta: expected"),
    }


def test_what_cannot_be_bounded_so_is_refused() -> None:
    for (made, call), words in refused().values():
        with pytest.raises(ValueError, match=words):
            made.bound(joint="aggregate", **call)


def test_counts_that_were_split_can_be_bounded() -> None:
    counts = np.random.default_rng(7).multinomial(200, [0.8, 0.15, 0.05], 300)
    made = cc.Certificates.from_counts(counts, np.zeros(300, int), SIGMA, split=50, seed=1)
    assert made.bound("ece", 0.05, delta=0.01, joint="aggregate", bins=3).joint[0] < 1
