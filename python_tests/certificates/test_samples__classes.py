# SPDX-License-Identifier: MIT
"""Class-wise bounds from the votes of all classes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

import certcal_ext as cc
from certcal_ext.certificates.samples import ClassVotes
from certcal_ext.intervals.clopper_pearson import clopper_pearson
from certcal_ext.metrics.classwise import certified_classwise_ece

FALSE_ALARM = 1e-6


def votes(rng: np.random.Generator, rows: int = 60, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    p = rng.dirichlet([0.4] * 4, rows)
    return np.stack([rng.multinomial(n, q) for q in p]), p


def test_equal_to_the_slow_pipeline() -> None:
    counts, _ = votes(np.random.default_rng(0))
    labels = counts.argmax(1)
    made = cc.Certificates.from_counts(counts, labels, 0.25, keep_counts=True)
    low, high = (
        ends.reshape(counts.shape) for ends in clopper_pearson(counts.reshape(-1), 500, 1e-3 / 4)
    )
    for scope in ("certified", "all"):
        curve = made.classwise([0.0, 0.1], scope=scope)
        for at, radius in enumerate((0.0, 0.1)):
            rows = made.rows_at(radius).certified if scope == "certified" else slice(None)
            shift = radius / 0.25
            with np.errstate(divide="ignore"):
                ends = ndtr(ndtri(low[rows]) - shift), ndtr(ndtri(high[rows]) + shift)
            expected = certified_classwise_ece(labels[rows], *ends).value
            assert curve.worst[at] == pytest.approx(expected, abs=1e-9)
            assert curve.plain[at] <= curve.worst[at]


def test_each_row_fails_at_most_as_often_as_alpha() -> None:
    rng = np.random.default_rng(1)
    failures, trials = 0, 0
    for _ in range(40):
        counts, p = votes(rng, 50, 200)
        low, high = ClassVotes(counts, 0.2).at(0.0, np.ones(50, bool))
        failures += int(((p < low) | (p > high)).any(axis=1).sum())
        trials += 50
    assert binomtest(failures, trials, 0.2, alternative="greater").pvalue > FALSE_ALARM


def test_joint_bounds() -> None:
    counts, _ = votes(np.random.default_rng(2))
    made = cc.Certificates.from_counts(counts, counts.argmax(1), 0.25, keep_counts=True)
    halves = [made.classwise(0.1, delta=0.01, joint=j).joint[0] for j in ("binomial", "union")]
    best = made.classwise(0.1, delta=0.02)
    assert best.joint[0] == min(halves)
    assert best.joint[0] > best.worst[0]
    assert "class-wise calibration error" in best.statement()


def test_bad_input() -> None:
    counts, _ = votes(np.random.default_rng(3))
    plain = cc.Certificates.from_counts(counts, counts.argmax(1), 0.25)
    with pytest.raises(ValueError, match="counts: expected the votes of all classes"):
        plain.classwise(0.1)
    unlabelled = cc.Certificates.from_counts(counts, None, 0.25, keep_counts=True)
    with pytest.raises(ValueError, match="labels: the class-wise error needs them"):
        unlabelled.classwise(0.1)
    kept = cc.Certificates.from_counts(counts, counts.argmax(1), 0.25, keep_counts=True)
    with pytest.raises(ValueError, match="joint: expected one of best"):
        kept.classwise(0.1, joint="all")
