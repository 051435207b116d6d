# SPDX-License-Identifier: MIT
"""How often ``compare_with_bound`` calls sound certificates violated: enumerated, simulated, with fresh draws only."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from attack_problems import SIGMA, result_of
from models import Linear2
from scipy.stats import binom, binomtest

import certcal_ext as cc
from certcal_ext.attacks import (
    AttackResult,
    BoundReport,
    BoundViolation,
    BrierAttack,
    SmoothedVictim,
    compare_with_bound,
)
from certcal_ext.attacks.compare import draws_taken
from certcal_ext.certificates.validity import failing_intervals
from certcal_ext.stopping.rules import Stopping

pytestmark = pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning")

FALSE_ALARM = 1e-6  # of each test by simulation here


def certificates_of(votes: Any, draws: int, correct: Any, alpha: float) -> cc.Certificates:
    """Rows whose class 0 has some votes and is right where ``correct`` says so."""
    size = len(votes)
    labels = np.where(correct, 0, 1)
    return cc.Certificates.from_votes(
        votes, draws, np.zeros(size, np.int64), labels, SIGMA, alpha=alpha
    )


def alarms(certificates: cc.Certificates, results: list[AttackResult], **options: Any) -> bool:
    try:
        compare_with_bound(certificates, results, **options)
    except BoundViolation:
        return True
    return False


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(
    ("alpha", "false_alarm"), [(0.02, 1e-6), (0.3, 0.01), (0.3, 0.5), (0.05, 0.2), (0.05, 0.11)]
)
def test_one_sample_by_enumeration(alpha: float, false_alarm: float, right: bool) -> None:
    """Every outcome of n draws that certify and m that judge, at the p that raises the most alarms."""
    n, m = 8, 30
    called = np.zeros((n + 1, m + 1), np.bool_)
    for k in range(n + 1):
        certificates = certificates_of([k], n, [right], alpha)
        if not certificates.at(0.0).index.size:
            continue
        for j in range(m + 1):
            result = result_of([j / m], [j / m], m, [right], 0.0)
            called[k, j] = alarms(certificates, [result], false_alarm=false_alarm)
    p = np.linspace(0, 1, 4001)[:, None]
    rate = np.einsum(
        "pk,kj,pj->p", binom.pmf(range(n + 1), n, p), called, binom.pmf(range(m + 1), m, p)
    )
    assert rate.max() <= false_alarm * (1 + 1e-9)
    # The test can find something: where no interval may fail, one that did is named.
    tight = certificates_of([n], n, [right], alpha)
    assert alarms(tight, [result_of([0.0], [0.0], 10_000, [right], 0.0)], false_alarm=0.5) == (
        failing_intervals(1, alpha, 0.25) == 0
    )


@pytest.mark.parametrize(
    ("size", "alpha", "false_alarm"),
    [(1, 0.02, 1e-3), (1, 0.3, 0.2), (2, 0.3, 0.1), (12, 0.3, 0.05), (30, 0.05, 0.2)],
)
def test_the_stated_rate_by_simulation(size: int, alpha: float, false_alarm: float) -> None:
    """The truth lies just outside the interval of the likeliest miss, n of n votes, by more than m draws are off."""
    n, m, runs = 40, 200_000, 300
    rng = np.random.default_rng([size, int(1e4 * alpha)])
    end = certificates_of([n], n, [True], alpha).table["p_lower"][0].as_py()
    p = np.full(size, end - 0.006)
    correct = rng.random(size) < 0.5
    false = 0
    for _ in range(runs):
        certificates = certificates_of(rng.binomial(n, p), n, correct, alpha)
        clean, attacked = rng.binomial(m, p, (2, size)) / m
        false += alarms(
            certificates,
            [result_of(clean, attacked, m, correct, 0.0)],
            false_alarm=false_alarm,
            bins=5,
        )
    assert binomtest(false, runs, false_alarm, alternative="greater").pvalue > FALSE_ALARM


def test_metrics_are_held_against_what_the_allowed_failures_can_do() -> None:
    """As many failures as chance explains never raise an error, whatever they do to the metrics."""
    size, n, m, alpha = 30, 1000, 1000, 0.02
    rng = np.random.default_rng(3)
    votes, correct = rng.integers(700, 1001, size), rng.random(size) < 0.8
    certificates = certificates_of(votes, n, correct, alpha)
    inside = certificates.at(0.0).index
    assert inside.size == size

    def compared(failed: int) -> BoundReport:
        attacked = votes / n
        rows = np.argsort(attacked)[::-1][:failed]
        attacked[rows] = np.where(correct[rows], 0.0, 1.0)
        return compare_with_bound(certificates, [result_of(votes / n, attacked, m, correct, 0.0)])

    allowed = compared(0).allowed
    assert allowed == failing_intervals(size, alpha, 0.5e-6) > 1
    for failed in (0, 1, allowed):
        report = compared(failed)
        row = report.rows[0]
        joint = certificates.bound("ece", 0.0, delta=0.5e-6, joint="binomial").joint
        assert joint is not None
        assert row.joint_ece == joint[0]
        assert row.attack_brier <= row.joint_brier
        assert row.attack_ece <= row.joint_ece
        assert (row.attack_brier <= row.bound_brier) == (failed == 0)
        assert report.false_alarm == 1e-6
    with pytest.raises(BoundViolation, match=f"{allowed + 1} of 30 samples left"):
        compared(allowed + 1)


def test_a_bound_that_is_passed_without_a_sample_outside_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The metric itself is tested too: nothing that stays in its interval can explain more than its bound."""
    certificates = certificates_of([900, 800], 1000, [True, False], 1e-3)
    result = result_of([0.9, 0.8], [0.9, 0.8], 1000, [True, False], 0.0)
    assert not compare_with_bound(certificates, [result]).outside
    bound = cc.Certificates.bound

    def lower(self: cc.Certificates, *asked: Any, **options: Any) -> Any:
        curve = bound(self, *asked, **options)
        return dataclasses.replace(curve, worst=curve.worst / 2)

    monkeypatch.setattr(cc.Certificates, "bound", lower)
    with pytest.raises(BoundViolation, match="although every confidence is inside its interval"):
        compare_with_bound(certificates, [result])


@pytest.fixture(scope="module")
def smooth() -> tuple[cc.SmoothedClassifier, torch.Tensor, torch.Tensor]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(12, generator=generator)
    images = 0.2 + 0.6 * torch.rand(12, 1, 3, 4, generator=generator)
    margins = images.flatten(1) @ weight
    model = Linear2(weight, -float(margins.mean()))
    labels = (model(images)[:, 1] > 0).long()
    return cc.SmoothedClassifier(model, 2, SIGMA, seed=4), images, labels


@pytest.mark.parametrize("kind", ["plain", "staged", "sequence", "old file", "scores"])
def test_fresh_draws_are_none_that_certified(
    smooth: tuple[cc.SmoothedClassifier, torch.Tensor, torch.Tensor], kind: str
) -> None:
    """Those that selected, planned and estimated, counted sample by sample."""
    classifier, images, labels = smooth
    n0, confidence = 30, "scores" if kind == "scores" else "votes"
    if kind in ("plain", "scores"):
        certificates = classifier.certify(images, labels, n0=n0, n=400, confidence=confidence)
        taken = n0 + 400
    else:
        rules = Stopping(
            radii=(0.1,),
            n_max=4000,
            planning=150,
            method="sequence" if kind == "sequence" else "staged",
        )
        certificates = classifier.certify_adaptive(images, labels, rules, n0=n0)
        table = certificates.table
        drawn = table["n"].to_numpy() + table["planning_draws"].to_numpy()
        taken = n0 + int(drawn.max())
        assert taken > n0 + int(table["n"].to_numpy().max())
        if kind == "old file":
            place = table.schema.get_field_index("planning_draws")
            nothing = pa.nulls(len(table), pa.int64())
            nulls = table.set_column(place, table.schema.field(place), nothing)
            certificates = cc.Certificates(nulls, certificates.provenance)
            taken = n0 + int(table["n"].to_numpy().max()) + rules.planning_steps[-1]
    assert draws_taken(certificates) == taken
    victim = SmoothedVictim(classifier.model, sigma=SIGMA, seed=4, draws=8, confidence=confidence)
    attack = BrierAttack(radius=0.1, steps=1)
    predicted = certificates.table["predicted"].to_numpy()
    result = attack.run(victim, images, labels, predicted=predicted)
    for first in (0, n0, taken - 1):
        stale = result.under(victim.with_draws(5, first_draw=first))
        with pytest.raises(ValueError, match=f"other draws than the {taken} of certification"):
            compare_with_bound(certificates, [stale])
    fresh = result.under(victim.with_draws(5, first_draw=taken))
    assert compare_with_bound(certificates, [fresh]).rows
    # Another seed has other draws at the same numbers.
    other = SmoothedVictim(
        classifier.model, sigma=SIGMA, seed=5, draws=5, first_draw=0, confidence=confidence
    )
    assert compare_with_bound(certificates, [result.under(other)]).rows


def test_fresh_draws_are_none_that_the_attack_may_take_beside_its_victims(
    smooth: tuple[cc.SmoothedClassifier, torch.Tensor, torch.Tensor],
) -> None:
    """Random starts and estimates inside an attack draw from 2^31 on."""
    classifier, images, labels = smooth
    victim = SmoothedVictim(classifier.model, sigma=SIGMA, draws=8)
    result = BrierAttack(radius=0.1, steps=1).run(victim, images, labels)
    for first, fresh in (
        (2**31 - 5, True),
        (2**31 - 4, False),
        (2**31, False),
        (3 * 2**30 + 7, False),
        (2**30, False),
        (2**30 + 7, False),
        (2**30 + 8, True),
        (2**30 - 5, True),
        (2**30 - 4, False),
    ):
        assert result.under(victim.with_draws(5, first_draw=first)).fresh == fresh, first
