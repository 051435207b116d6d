# SPDX-License-Identifier: MIT
"""Bound against attack: on a linear model the two meet, and what passes a bound is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from models import Linear2
from scipy.stats import binom

import certcal_ext as cc
from certcal_ext.attacks import (
    AttackResult,
    BoundViolation,
    BrierAttack,
    CceGuidedAttack,
    OneStepAceAttack,
    SmoothedVictim,
    compare_with_bound,
)
from certcal_ext.attacks.compare import mean_interval

SIGMA, SEED, ALPHA = 0.5, 4, 1e-3


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and waiting for it takes longer than they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def certified() -> tuple[cc.Certificates, SmoothedVictim, torch.Tensor, Any]:
    """A linear model certified by votes, and the victim with that confidence."""
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(12, generator=generator)
    images = 0.2 + 0.6 * torch.rand(80, 1, 3, 4, generator=generator)
    margins = images.flatten(1) @ weight
    model = Linear2(weight, -float(margins.mean()))
    flips = torch.rand(80, generator=generator) < 0.2
    labels = ((margins + model.bias.detach() > 0) ^ flips).long()
    smooth = cc.SmoothedClassifier(model, 2, SIGMA, seed=SEED)
    certificates = smooth.certify(
        images, labels, n0=100, n=2000, alpha=ALPHA, sample_ids=np.arange(500, 580)
    )
    victim = SmoothedVictim(model, sigma=SIGMA, draws=64, seed=SEED, confidence="votes")
    return certificates, victim, images, labels


def attack_all(
    certified: tuple[cc.Certificates, SmoothedVictim, torch.Tensor, Any], radius: float
) -> list[AttackResult]:
    certificates, victim, images, labels = certified
    predicted = certificates.table["predicted"].to_numpy()
    options = {"radius": radius}
    attacks = [
        BrierAttack(steps=4, **options),
        CceGuidedAttack(steps=6, bisections=4, draws=96, **options),
        OneStepAceAttack(**options),
    ]
    fresh = victim.with_draws(600)
    return [
        attack.run(
            victim, images, labels, predicted=predicted, sample_ids=np.arange(500, 580)
        ).under(fresh)
        for attack in attacks
    ]


def test_attacks_stay_below_the_bound_and_come_near_it(
    certified: tuple[cc.Certificates, SmoothedVictim, torch.Tensor, Any],
) -> None:
    """False alarm 1e-6 by the theorem of compare_with_bound."""
    certificates = certified[0]
    results = [result for radius in (0.1, 0.0, 0.25) for result in attack_all(certified, radius)]
    report = compare_with_bound(certificates, results)
    assert [row.radius for row in report.rows] == [0.0, 0.1, 0.25]
    for row in report.rows:
        assert row.clean_ece <= row.attack_ece <= row.bound_ece
        assert row.clean_brier <= row.attack_brier <= row.bound_brier
        curve = certificates.curve([row.radius])
        assert row.bound_ece == curve.certified_ece[0]
        assert row.bound_brier == curve.certified_brier[0]
        assert row.certified == curve.certified[0]
    # The interval of 2,000 draws is wider than what the attacker can use, but not by much here.
    assert report.rows[2].brier_ratio > 0.8
    assert report.rows[2].ece_ratio > 0.6
    assert report.rows[2].brier_attack in ("brier", "one-step-ace", "cce-guided")
    assert report.allowed == binom.ppf(1 - 0.5e-6, len(certificates), ALPHA)
    assert report.looks == sum(2 * 3 * row.certified for row in report.rows)
    table = report.to_table()
    assert table.num_rows == 3
    assert table["ece_ratio"].to_pylist()[0] == report.rows[0].ece_ratio


def test_more_failures_than_alpha_explains_are_an_error_that_names_the_samples(
    certified: tuple[cc.Certificates, SmoothedVictim, torch.Tensor, Any],
) -> None:
    certificates = certified[0]
    result = attack_all(certified, 0.1)[0]
    report = compare_with_bound(certificates, [result])
    inside = certificates.at(0.1).index
    broken = result.attacked_confidence.copy()
    # Wrong samples first: without confidence they raise no metric, so only the count can tell.
    rows = np.flatnonzero(np.isin(result.index, inside))
    rows = rows[np.argsort(result.correct[rows], kind="stable")]
    for count in (report.allowed, report.allowed + 1):
        moved = broken.copy()
        moved[rows[:count]] = 0.0
        changed = dataclasses.replace(result, attacked_confidence=moved)
        named = f"sample {result.index[rows[0]]}: confidence 0 "
        if count > report.allowed:
            with pytest.raises(
                BoundViolation, match=f"{count} of 80 samples left .*{named}.* brier at radius 0.1"
            ):
                compare_with_bound(certificates, [changed])
            continue
        # As many as alpha explains may be outside.
        assert not result.correct[rows[:count]].any()
        assert len(compare_with_bound(certificates, [changed]).outside) == count


def test_intervals_of_a_verifier_allow_no_failure() -> None:
    generator = torch.Generator().manual_seed(2)
    model = Linear2(torch.randn(12, generator=generator), 0.0)
    images = torch.rand(10, 1, 3, 4, generator=generator)
    labels = model(images).argmax(1)
    labels[::3] = 1 - labels[::3]
    result = BrierAttack(radius=0.2).run(model, images, labels)
    lower = np.minimum(result.clean_confidence, result.attacked_confidence)
    upper = np.maximum(result.clean_confidence, result.attacked_confidence)

    def given(low: Any, high: Any) -> cc.Certificates:
        return cc.Certificates.from_intervals(
            result.correct, low, high, radius=0.2, norm="l2", predicted=result.predicted
        )

    report = compare_with_bound(given(lower, upper), [result])
    assert report.allowed == 0
    assert report.rows[0].brier_ratio == pytest.approx(1.0, abs=1e-12)
    wrong = upper.copy()
    wrong[3] = (lower[3] + upper[3]) / 2
    assert not result.correct[3]
    with pytest.raises(BoundViolation, match=r"1 of 10 samples .* sample 3: confidence"):
        compare_with_bound(given(lower, wrong), [result])
    flipped = dataclasses.replace(result, predicted=1 - result.predicted)
    with pytest.raises(ValueError, match=r"expected predicted = \d for sample 0"):
        compare_with_bound(given(lower, upper), [flipped])


def test_no_sample_certified(
    certified: tuple[cc.Certificates, SmoothedVictim, torch.Tensor, Any],
) -> None:
    certificates, victim, images, labels = certified
    attack = BrierAttack(radius=5.0, steps=1)
    result = attack.run(victim, images, labels, sample_ids=np.arange(500, 580))
    row = compare_with_bound(certificates, [result.under(victim.with_draws(9))]).rows[0]
    assert row.certified == 0
    assert np.isnan(row.bound_ece)


def test_what_cannot_be_compared(
    certified: tuple[cc.Certificates, SmoothedVictim, torch.Tensor, Any],
) -> None:
    certificates, victim, images, labels = certified
    ids = np.arange(500, 580)
    attack = BrierAttack(radius=0.1, steps=1)
    seen = attack.run(victim, images, labels, sample_ids=ids)
    good = seen.under(victim.with_draws(20))
    with pytest.raises(ValueError, match="results: expected at least one"):
        compare_with_bound(certificates, [])
    with pytest.raises(TypeError, match="results: expected AttackResult, got str"):
        compare_with_bound(certificates, ["attack"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="noises that the attack did not see"):
        compare_with_bound(certificates, [seen])
    with pytest.raises(ValueError, match="other draws than the 2100 of certification"):
        compare_with_bound(certificates, [seen.under(victim.with_draws(20, first_draw=2000))])
    linf = BrierAttack(radius=0.1, norm="linf", steps=1).run(victim, images, labels)
    with pytest.raises(ValueError, match="expected the norm of the certificates, l2, got linf"):
        compare_with_bound(certificates, [linf])
    plain = attack.run(victim.model, images, labels, sample_ids=ids)
    with pytest.raises(ValueError, match="expected an attack on the smoothed classifier"):
        compare_with_bound(certificates, [plain])
    scores = SmoothedVictim(victim.model, sigma=SIGMA, draws=20, seed=SEED + 1)
    with pytest.raises(ValueError, match="the confidence of the certificates, votes, got scores"):
        compare_with_bound(certificates, [seen.under(scores)])
    with pytest.raises(ValueError, match="which was not attacked"):
        compare_with_bound(certificates, [good.rows([500])])
    longer = dataclasses.replace(good, l2=good.l2 + 0.11)
    with pytest.raises(ValueError, match=r"expected perturbations of at most 0\.1"):
        compare_with_bound(certificates, [longer])


@pytest.mark.parametrize("q", [0.0, 0.003, 0.5, 0.97, 1.0])
def test_mean_interval_covers(q: float) -> None:
    """Exactly, by the binomial distribution: the probability of a miss is at most beta."""
    for draws, beta in ((1, 0.1), (20, 0.01), (300, 1e-6)):
        k = np.arange(draws + 1)
        lower, upper = mean_interval(k / draws, draws, beta)
        assert ((lower <= k / draws) & (k / draws <= upper)).all()
        assert (np.diff(lower) >= 0).all()
        missed = (q < lower) | (q > upper)
        assert binom.pmf(k, draws, q)[missed].sum() <= beta
        wider = mean_interval(k / draws, draws, beta / 10)
        assert (wider[0] <= lower).all()
        assert (wider[1] >= upper).all()
