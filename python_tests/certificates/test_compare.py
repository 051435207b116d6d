# SPDX-License-Identifier: MIT
"""Models side by side."""

from __future__ import annotations

import numpy as np
import pytest

import certcal_ext as cc
from certcal_ext.certificates.compare import compare


def model(seed: int, n: int = 200, strength: float = 4.0) -> cc.Certificates:
    rng = np.random.default_rng(seed)
    votes = rng.binomial(1000, rng.beta(strength, 1, n))
    predicted = (rng.random(n) < 0.2).astype(np.int64)
    labels = np.zeros(n, np.int64)
    return cc.Certificates.from_votes(votes, 1000, predicted, labels, 0.25)


def test_intersection_counts_the_samples_that_all_certify() -> None:
    models = {"a": model(0), "b": model(1), "c": model(2, strength=8.0)}
    radii = [0.0, 0.1, 0.3]
    result = compare(models, radii, "ece")
    for at, radius in enumerate(radii):
        sets = [set(made.at(radius).index.tolist()) for made in models.values()]
        common = np.array(sorted(set.intersection(*sets)))
        for name, made in models.items():
            curve = result.curves[name]
            assert curve.samples[at] == common.size
            at_radius = made.at(radius)
            keep = np.isin(at_radius.index, common)
            expected = cc.certified_ece(
                at_radius.correct[keep], at_radius.lower[keep], at_radius.upper[keep]
            )
            assert curve.worst[at] == expected.value
            assert result.accuracy[name][at] == pytest.approx(at_radius.correct[keep].mean())


def test_all_and_certified_are_each_models_own_bound() -> None:
    models = {"a": model(0), "b": model(1)}
    everyone = compare(models, 0.1, "brier", samples="all")
    own = compare(models, 0.1, "brier", samples="certified")
    for name, made in models.items():
        assert everyone.curves[name].worst == made.bound("brier", 0.1, scope="all").worst
        assert own.curves[name].worst == made.bound("brier", 0.1).worst
    best = min(models, key=lambda name: everyone.curves[name].worst[0])
    assert everyone.best(0) == best


def test_order_of_rows_does_not_matter() -> None:
    a, b = model(0), model(1)
    shuffled = b.select(np.random.default_rng(3).permutation(200))
    left, right = compare({"a": a, "b": b}, 0.1), compare({"a": a, "b": shuffled}, 0.1)
    assert left.curves["b"].worst == right.curves["b"].worst


def test_no_common_sample() -> None:
    weak = cc.Certificates.from_votes([600, 1000], 1000, [0, 0], [0, 0], 0.25)
    other = cc.Certificates.from_votes([1000, 600], 1000, [0, 0], [0, 0], 0.25)
    result = compare({"a": weak, "b": other}, 0.2)
    assert result.curves["a"].samples[0] == 0
    assert np.isnan(result.curves["a"].worst[0])
    assert result.best(0) is None


def test_bad_input() -> None:
    a = model(0)
    with pytest.raises(ValueError, match="at least two"):
        compare({"a": a}, 0.1)
    with pytest.raises(TypeError, match="expected Certificates for 'b', got int"):
        compare({"a": a, "b": 3}, 0.1)
    with pytest.raises(ValueError, match="samples: expected one of intersection"):
        compare({"a": a, "b": a}, 0.1, samples="some")
    with pytest.raises(ValueError, match="column index"):
        compare({"a": a, "b": a.select(np.arange(100))}, 0.1)
    with pytest.raises(ValueError, match="each sample once"):
        compare({"a": a.select([0, 0]), "b": a}, 0.1)
    other = cc.Certificates.from_votes([900] * 200, 1000, [1] * 200, [1] * 200, 0.25)
    with pytest.raises(ValueError, match="labels of 'a'"):
        compare({"a": a, "b": other}, 0.1)


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": 7},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"threshold": "0.5"},
        {"threshold": None},
        {"clip": 0},
        {"clip": 0.5},
        {"clip": -1},
        {"clip": float("nan")},
        {"clip": "x"},
        {"clip": 1e-17},
        {"clip": 1e-9, "dtype": "float32"},
        {"dtype": "float16"},
        {"bins": 0},
        {"bins": 2.5},
        {"edges": [0.0, 0.5]},
        {"closed": "both"},
        {"radii": -1.0},
        {"metric": "auc"},
    ],
    ids=str,
)
@pytest.mark.parametrize("metric", ["log_loss", "selective_risk", "ece", "brier"])
def test_options_are_checked_as_bound_checks_them(metric: str, bad: dict) -> None:
    """Whether the metric uses the option or not; the two refuse with the same words."""
    a = model(0, n=5)
    arguments = {"radii": 0.1, "metric": metric, **bad}
    refusals = []
    for call in (a.bound, lambda **given: compare({"a": a, "b": a}, **given)):
        with pytest.raises((TypeError, ValueError)) as caught:
            call(**arguments)
        refusals.append((caught.type, str(caught.value)))
    assert refusals[0] == refusals[1]
    assert refusals[0][1].startswith(next(iter(bad)) + ":")
