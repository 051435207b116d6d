# SPDX-License-Identifier: MIT
"""Bound against attack where the confidence is the mean score, where certificates are recalibrated, and where one set of
draws both selected and estimated."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from models import Linear2
from scipy.stats import binom

import certcal_ext as cc
from certcal_ext.attacks import (
    AceAttack,
    AttackResult,
    BoundViolation,
    BrierAttack,
    CceGuidedAttack,
    SmoothedVictim,
    compare_with_bound,
)
from certcal_ext.recalibration.maps import LogisticMap

SIGMA, SEED, ALPHA, RADIUS = 0.3, 4, 1e-3, 0.05


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and waiting for it takes longer than they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problem() -> tuple[Linear2, torch.Tensor, Any]:
    generator = torch.Generator().manual_seed(8)
    weight = 3 * torch.randn(12, generator=generator)
    images = 0.2 + 0.6 * torch.rand(80, 1, 3, 4, generator=generator)
    margins = images.flatten(1) @ weight
    model = Linear2(weight, -float(margins.mean()))
    flips = torch.rand(80, generator=generator) < 0.2
    return model, images, ((margins + model.bias.detach() > 0) ^ flips).long()


def certified(interval: str) -> cc.Certificates:
    model, images, labels = problem()
    smooth = cc.SmoothedClassifier(model, 2, SIGMA, seed=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some abstain, which is no matter here
        return smooth.certify(
            images, labels, n0=100, n=3000, alpha=ALPHA, confidence="scores", score_interval=interval
        )  # fmt: skip


@pytest.fixture(scope="module")
def results() -> list[AttackResult]:
    """Three attacks on the mean score, judged by 600 noises that they did not see."""
    model, images, labels = problem()
    victim = SmoothedVictim(model, sigma=SIGMA, draws=64, seed=SEED)
    predicted = certified("cdf").table["predicted"].to_numpy()
    attacks = (
        BrierAttack(radius=RADIUS, steps=4),
        CceGuidedAttack(radius=RADIUS, steps=6, bisections=4, draws=96),
        AceAttack(radius=RADIUS, steps=4, eta=-1, omega="predicted"),
    )
    return [
        attack.run(victim, images, labels, predicted=predicted).under(victim.with_draws(600))
        for attack in attacks
    ]


@pytest.mark.parametrize("interval", ["cdf", "betting", "bernstein", "hoeffding"])
def test_scores_stay_below_their_bound(interval: str, results: list[AttackResult]) -> None:
    """False alarm 1e-6 by the theorem of compare_with_bound."""
    certificates = certified(interval)
    report = compare_with_bound(certificates, results)
    row = report.rows[0]
    assert row.certified == len(certificates.at(RADIUS).index) > 40
    assert row.clean_ece < row.attack_ece <= row.bound_ece
    assert row.clean_brier < row.attack_brier <= row.bound_brier
    assert row.brier_attack in ("brier", "cce-guided")
    # Scores move far less than votes at the same margin, so intervals for any model are loose for this one.
    assert row.brier_ratio > 0.5
    curve = certificates.curve([RADIUS])
    assert (row.bound_ece, row.bound_brier) == (curve.certified_ece[0], curve.certified_brier[0])
    assert not report.outside
    assert report.allowed == binom.ppf(1 - 0.5e-6, len(certificates), ALPHA)


def test_scores_that_leave_are_named(results: list[AttackResult]) -> None:
    certificates = certified("cdf")
    inside = certificates.at(RADIUS)
    result = results[0]
    allowed = compare_with_bound(certificates, [result]).allowed
    moved = result.attacked_confidence.copy()
    out = inside.index[: allowed + 1]
    rows = np.searchsorted(result.index, out)
    moved[rows] = 0.0
    with pytest.raises(
        BoundViolation, match=f"{allowed + 1} of 80 samples left .* sample {out[0]}: "
    ):
        compare_with_bound(certificates, [dataclasses.replace(result, attacked_confidence=moved)])


def test_votes_are_not_compared_with_certificates_of_scores(results: list[AttackResult]) -> None:
    model, images, labels = problem()
    votes = SmoothedVictim(model, sigma=SIGMA, draws=8, seed=SEED, confidence="votes")
    result = BrierAttack(radius=RADIUS, steps=1).run(
        votes, images, labels, predicted=results[0].predicted
    )
    with pytest.raises(ValueError, match="the confidence of the certificates, scores, got votes"):
        compare_with_bound(certified("cdf"), [result.under(votes.with_draws(20))])


def test_recalibrated_certificates_see_recalibrated_confidences(
    results: list[AttackResult],
) -> None:
    """A map that moves confidences far: those of the attack have to go through it too."""
    mapping = LogisticMap("temperature", a=0.1, b=0.1, c=0.0)
    certificates = certified("cdf").recalibrated(mapping)
    report = compare_with_bound(certificates, results)
    row = report.rows[0]
    assert row.attack_ece <= row.bound_ece
    assert row.attack_brier <= row.bound_brier
    assert not report.outside
    here = results[0].rows(certificates.at(RADIUS).index)
    assert row.clean_brier == pytest.approx(
        cc.brier(here.correct, mapping(here.clean_confidence)), abs=1e-3
    )
    plain = compare_with_bound(certified("cdf"), results).rows[0]
    assert abs(plain.clean_brier - row.clean_brier) > 0.01


def test_one_set_of_draws_may_fail_more_often() -> None:
    """Where the estimating draws selected the class too, a row may fail with 1.5 alpha."""
    model, images, labels = problem()
    victim = SmoothedVictim(model, sigma=SIGMA, draws=1000, seed=SEED, confidence="votes")
    with torch.no_grad():
        counts = victim.with_draws(1000, first_draw=0).outputs(images, torch.arange(80)).votes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        certificates = cc.Certificates.from_counts(
            counts.numpy(), labels.numpy(), sigma=SIGMA, alpha=ALPHA
        )
    result = BrierAttack(radius=RADIUS, steps=1).run(
        victim, images, labels, predicted=certificates.table["predicted"].to_numpy()
    )
    report = compare_with_bound(certificates, [result.under(victim.with_draws(500))])
    assert report.allowed == binom.ppf(1 - 0.5e-6, 80, 1.5 * ALPHA)
