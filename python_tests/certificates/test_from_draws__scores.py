# SPDX-License-Identifier: MIT
"""Certificates whose confidence is the mean softmax score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

import certcal_ext as cc

SIGMA, FALSE_ALARM = 0.25, 1e-6
KINDS = ("cdf", "betting", "bernstein", "hoeffding")


def scored(
    rng: np.random.Generator, shares: NDArray, n: int = 2000, interval: str = "cdf", bins: int = 200
) -> cc.Certificates:
    """A score of 0.2 or 0.9 (the vote is for the class at 0.9), 0.9 with probability ``shares``."""
    high = rng.binomial(n, shares)
    histogram = np.zeros((shares.size, bins), np.int64)
    histogram[:, int(0.2 * bins)] = n - high
    histogram[:, int(0.9 * bins)] = high
    mean = (0.2 * (n - high) + 0.9 * high) / n
    labels = np.zeros(shares.size, np.int64)
    predicted = (np.arange(shares.size) % 4 == 0).astype(np.int64)
    return cc.Certificates.from_scores(
        histogram, mean, high, predicted, labels, SIGMA, 1e-2, interval=interval
    )


@pytest.mark.parametrize("interval", KINDS)
def test_known_scores_are_covered(interval: str) -> None:
    """Two halves of a score along one direction: E score(x + delta) is known, and worst along it."""
    rng = np.random.default_rng(0)
    shares = rng.beta(8, 1, 400)
    made = scored(rng, shares, interval=interval)
    failures = 0
    for radius in (0.0, 0.1, 0.25):
        low = 0.2 + 0.7 * ndtr(ndtri(shares) - radius / SIGMA)
        high = 0.2 + 0.7 * ndtr(ndtri(shares) + radius / SIGMA)
        rows = made.rows_at(radius)
        failed = (rows.lower > low + 1e-12) | (rows.upper < high - 1e-12)
        failures = max(failures, int(failed.sum()))
    assert binomtest(failures, shares.size, 1e-2, alternative="greater").pvalue > FALSE_ALARM


def test_predictions_rest_on_the_votes() -> None:
    rng = np.random.default_rng(1)
    shares = rng.beta(3, 1, 300)
    made = scored(rng, shares)
    votes = made.table.column("votes").to_numpy()
    own = cc.Certificates.from_votes(
        votes, 2000, made.table.column("predicted"), made.table.column("label"), SIGMA, 1e-2
    )
    for radius in (0.0, 0.2):
        assert made.at(radius).index.tolist() == own.at(radius).index.tolist()
    assert made.provenance.kind == "scores"


def test_the_band_is_narrower_than_the_mean_alone() -> None:
    shares = np.random.default_rng(2).beta(8, 1, 200)
    widths = {}
    for interval in KINDS:
        rows = scored(np.random.default_rng(3), shares, interval=interval).rows_at(0.125)
        widths[interval] = float((rows.upper - rows.lower).mean())
    assert widths["cdf"] < 0.75 * widths["betting"]
    assert widths["betting"] < widths["hoeffding"]


@pytest.mark.parametrize("interval", ["cdf", "betting"])
def test_files_levels_and_every_metric(interval: str, tmp_path: Path) -> None:
    made = scored(
        np.random.default_rng(4), np.random.default_rng(5).beta(8, 1, 120), interval=interval
    )
    made.to_parquet(tmp_path / "scores.parquet")
    again = cc.Certificates.from_parquet(tmp_path / "scores.parquet")
    assert again == made
    for metric in ("brier", "ece", "ks", "selective_risk"):
        for scope in ("certified", "all"):
            ours = made.bound(metric, [0.0, 0.1], scope=scope, delta=0.05)
            theirs = again.bound(metric, [0.0, 0.1], scope=scope, delta=0.05)
            assert ours.joint.tolist() == theirs.joint.tolist()
            assert (ours.joint >= ours.worst - 1e-12).all()
    curve = made.curve([0.0, 0.1])
    assert made.bound("ece", [0.0, 0.1]).worst.tolist() == curve.certified_ece.tolist()
    assert (curve.certified_brier >= curve.brier).all()


@pytest.mark.parametrize("interval", ["cdf", "betting", "bernstein", "hoeffding"])
@pytest.mark.parametrize("classes", [2, 10, 10**6])
def test_bounds_are_of_the_softmax_and_not_of_what_was_counted(
    interval: str, classes: int, tmp_path: Path
) -> None:
    """Ours is within 2^-20 + K 2^-33 of it: no bound is nearer to the ones of the counted scores than that."""
    scores = np.random.default_rng(6).beta(30, 2, (5, 4000))
    histogram = np.stack([np.histogram(row, 1000, (0, 1))[0] for row in scores])
    given = (histogram, scores.mean(axis=1), [3990] * 5, [0] * 5, [0] * 5, 0.25)
    counted = cc.Certificates.from_scores(*given, interval=interval)
    made = cc.Certificates.from_scores(*given, interval=interval, num_classes=classes)
    made.to_parquet(tmp_path / "c.parquet")
    again = cc.Certificates.from_parquet(tmp_path / "c.parquet")
    error = 2.0**-20 + classes * 2.0**-33
    for table in (made, again):
        assert table.provenance.num_classes == classes
        for radius in (0.0, 0.05, 0.2):
            own, other = table.at(radius), counted.at(radius)
            # The interval of a mean is widened before it is shifted, which counts for less at its ends.
            least = error - 1e-12 if interval == "cdf" or radius == 0 else 0.0
            assert (own.lower < other.lower - least).all()
            assert (own.upper > np.minimum(other.upper + least, 1.0 - 1e-12)).all()
            assert (own.lower >= other.lower - 5 * error).all()


def test_drawn_scores_have_the_error_of_the_softmax_in_their_bounds() -> None:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 300))
        images = torch.rand(4, 1, 4, 4)
    smooth = cc.SmoothedClassifier(model, 300, 0.25)
    made = smooth.certify(images, n0=10, n=200, confidence="scores")
    columns = [made.table[name] for name in ("scores", "confidence", "votes", "predicted")]
    given = [np.array(one.to_pylist()) for one in columns]
    counted = cc.Certificates.from_scores(*given, None, made.provenance.sigma)
    error = 2.0**-20 + 300 * 2.0**-33
    for table, sign in (("p_lower", -1), ("p_upper", 1)):
        moved = sign * (made.table[table].to_numpy() - counted.table[table].to_numpy())
        inside = (made.table[table].to_numpy() > 0) & (made.table[table].to_numpy() < 1)
        assert (moved[inside] >= error).all()
        assert (moved >= 0).all()


def test_bad_input() -> None:
    histogram = np.zeros((2, 10), np.int64)
    histogram[:, 9] = 100
    good = {
        "histogram": histogram,
        "mean": [0.95, 0.95],
        "votes": [100, 100],
        "predicted": [0, 0],
        "labels": [0, 0],
        "sigma": 0.25,
    }
    cc.Certificates.from_scores(**good)
    for change, words in (
        ({"mean": [0.5, 0.95]}, r"mean: expected 0\.9 to 1 in row 0"),
        ({"mean": [np.nan, 0.95]}, "mean: expected"),
        ({"votes": [101, 100]}, "votes: expected 0 to n = 100"),
        ({"interval": "exact"}, "interval: expected one of hoeffding"),
        ({"histogram": histogram[:, :1]}, "at least two classes"),
        ({"predicted": [0, -1]}, "predicted: expected classes"),
        ({"sigma": 0.0}, "sigma: expected"),
        ({"num_classes": 1}, "num_classes: expected"),
    ):
        with pytest.raises(ValueError, match=words):
            cc.Certificates.from_scores(**{**good, **change})
