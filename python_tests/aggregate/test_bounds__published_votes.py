# SPDX-License-Identifier: MIT
"""Tightness on published CIFAR-10 votes, of which 100 draws an image are used: near the worst case at all 100,000."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

import certcal_ext as cc
from certcal_ext.aggregate import (
    Setting,
    VoteHistogram,
    aggregate_accuracy,
    aggregate_brier,
    aggregate_ece,
)
from certcal_ext.intervals.clopper_pearson import clopper_pearson, probit


@pytest.mark.parametrize(
    ("sigma", "brier_gap", "ece_gap", "accuracy"),
    [(0.25, 0.003, 0.018, 0.56), (0.5, 0.004, 0.022, 0.36)],
)
def test_a_hundred_draws_come_near_the_truth(
    shared: Path, sigma: float, brier_gap: float, ece_gap: float, accuracy: float
) -> None:
    """At R = sigma, the hardest radius; by row, today's joint bounds are 0.1 (Brier) and 0.3 (ECE) above the truth."""
    held = np.load(shared / "data" / "cifar10_cohen_resnet110" / f"sigma_{sigma}_n_100000.npz")
    counts, n, shift, delta = held["counts"].astype(np.int64), 100, 1.0, 1e-3
    rng = np.random.default_rng(11)
    rows = np.arange(len(counts))
    selection = np.array([rng.multivariate_hypergeometric(whole, 100) for whole in counts])
    chosen = selection.argmax(axis=1)
    left = (counts - selection)[rows, chosen]
    votes = rng.hypergeometric(left, 100_000 - 100 - left, n)
    correct = chosen == held["label"]
    lower = clopper_pearson(np.arange(n + 1), n, 1e-3).lower
    least = int(np.argmax(probit(lower, lower).lower > shift))
    counted = votes >= least
    x = ndtri(counts[rows, chosen] / 100_000)
    certain = x > shift
    ends = (
        correct[counted],
        np.where(certain, ndtr(x - shift), 0.0)[counted],
        np.where(certain, ndtr(x + shift), 1.0)[counted],
    )
    histogram = VoteHistogram.of(votes, correct, n)
    setting = Setting([histogram], shift, delta, "certified", [least])
    brier, ece = cc.certified_brier(*ends).value, cc.certified_ece(*ends).value
    assert brier <= aggregate_brier(setting).value <= brier + brier_gap
    assert ece <= aggregate_ece(setting).value <= ece + ece_gap
    stays = aggregate_accuracy(Setting([histogram], shift, delta, "all")).value
    assert accuracy <= stays <= (certain & correct).mean()
