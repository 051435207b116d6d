# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
import inspect
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import SIZES
from reference import plain_brier, plain_ece, smoothed_set, worst_brier, worst_ece_by_signs
from samples import ALPHA, SIGMA, N, certificates, votes

import certcal_ext as cc
from certcal_ext.certificates import files, from_draws, from_others
from certcal_ext.metrics.registry import METRICS


def quiet_curve(cert: cc.Certificates, *args: object, **options: object) -> cc.Curve:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # radii at which nothing is certified
        return cert.curve(*args, **options)  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 40),
    bins=st.integers(1, 6),
    closed=st.sampled_from(["left", "right"]),
    radius=st.floats(0, 0.7),
)
def test_curve_is_the_plain_pipeline(
    seed: int, rows: int, bins: int, closed: str, radius: float
) -> None:
    counts, labels = votes(rows, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        cert = cc.Certificates.from_counts(counts, labels, sigma=SIGMA, alpha=ALPHA)
    curve = quiet_curve(cert, [radius], bins=bins, closed=closed)
    won = counts.max(axis=1)
    plain = smoothed_set(won, N, SIGMA, ALPHA, radius)
    assert curve.certified.tolist() == [plain.rows.size]
    assert curve.total.tolist() == [rows]
    if not plain.rows.size:
        assert np.isnan(curve.ece[0])
        assert np.isnan(curve.certified_brier[0])
        assert curve.certified_accuracy[0] == 0
        return
    edges = np.linspace(0, 1, bins + 1)
    right = (counts.argmax(axis=1) == labels)[plain.rows]
    point = won[plain.rows] / N
    assert curve.accuracy[0] == right.mean()
    assert curve.certified_accuracy[0] == right.sum() / rows
    assert curve.constant_brier[0] == pytest.approx(right.mean() * (1 - right.mean()))
    assert curve.ece[0] == pytest.approx(plain_ece(right, point, edges, closed), abs=1e-12)
    assert curve.brier[0] == pytest.approx(plain_brier(right, point), abs=1e-12)
    # Outward rounding may move an end by about 1e-13 and the metrics by as much.
    worst = worst_ece_by_signs(right, plain.lower, plain.upper, edges, closed)
    assert curve.certified_ece[0] == pytest.approx(worst, abs=1e-9)
    brier = worst_brier(right, plain.lower, plain.upper)
    assert curve.certified_brier[0] == pytest.approx(brier, abs=1e-9)
    if curve.constant_brier[0] > 0:
        assert curve.skill[0] == pytest.approx(1 - brier / curve.constant_brier[0], abs=1e-6)
    else:
        assert np.isnan(curve.skill[0])


@given(seed=st.integers(0, 10**6), radius=st.floats(0, 0.5))
def test_curve_is_the_metrics_of_the_set_at_the_radius(seed: int, radius: float) -> None:
    # The fused pass and the row-by-row shift are different code for the same bound: the same bits.
    cert = certificates(seed=seed)
    chosen = cert.at(radius)
    curve = quiet_curve(cert, radius, bins=7)
    assert len(chosen) == curve.certified[0]
    if not len(chosen):
        return
    result = cc.certified_ece(chosen.correct, chosen.lower, chosen.upper, bins=7)
    assert curve.certified_ece[0] == result.value
    brier = cc.certified_brier(chosen.correct, chosen.lower, chosen.upper)
    assert curve.certified_brier[0] == brier.value
    assert curve.accuracy[0] == brier.accuracy
    assert curve.ece[0] == pytest.approx(cc.ece(chosen.correct, chosen.confidence, 7), abs=1e-14)
    assert curve.brier[0] == cc.brier(chosen.correct, chosen.confidence)


def test_set_at_a_radius_is_outside_the_plain_pipeline() -> None:
    counts, labels = votes(500, seed=4)
    cert = cc.Certificates.from_counts(counts, labels, sigma=SIGMA, alpha=ALPHA)
    for radius in (0.0, 0.1, 0.25, 0.5):
        plain = smoothed_set(counts.max(axis=1), N, SIGMA, ALPHA, radius)
        chosen = cert.at(radius)
        assert chosen.radius == radius
        assert chosen.index.tolist() == plain.rows.tolist()
        assert (chosen.lower <= plain.lower).all()
        assert (chosen.upper >= plain.upper).all()
        assert np.abs(chosen.lower - plain.lower).max() < 1e-11
        assert np.abs(chosen.upper - plain.upper).max() < 1e-11
        assert chosen.predicted is not None
        assert chosen.predicted.tolist() == counts.argmax(axis=1)[plain.rows].tolist()
        assert chosen.correct is not None
        assert chosen.correct.tolist() == (counts.argmax(axis=1) == labels)[plain.rows].tolist()


def test_sets_shrink_and_intervals_grow_with_the_radius() -> None:
    cert = certificates(300)
    radii = np.linspace(0, cert.best_radius or 0, 30)
    before = cert.at(0)
    for radius in radii[1:]:
        after = cert.at(float(radius))
        kept = np.isin(before.index, after.index)
        assert np.isin(after.index, before.index).all()
        assert (after.lower <= before.lower[kept]).all()
        assert (after.upper >= before.upper[kept]).all()
        before = after


def test_radii_one_by_one_and_together_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cert = certificates(200)
    radii = [0.0, 0.4, 0.1, 0.1, 0.55]
    whole = cert.curve(radii)
    alone = [cert.curve(radius) for radius in radii]
    monkeypatch.setattr("certcal_ext.certificates.curve._TABLE_BYTES", 1)  # one radius at a time
    parts = cert.curve(radii)
    for field in dataclasses.fields(cc.Curve):
        values = getattr(whole, field.name)
        one_by_one = [getattr(one, field.name)[0] for one in alone]
        assert np.array_equal(values, one_by_one, equal_nan=True)
        assert np.array_equal(values, getattr(parts, field.name), equal_nan=True)
    assert cert.ece(radii).tolist() == whole.certified_ece.tolist()
    assert cert.brier(radii).tolist() == whole.certified_brier.tolist()
    assert len(whole) == 5


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: int) -> None:
    counts, labels = votes(size, seed=size)
    counts[0] = [N, 0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        cert = cc.Certificates.from_counts(counts, labels, sigma=SIGMA)
    assert len(cert) == size
    chosen = cert.at(0.1)
    expected = cc.certified_ece(chosen.correct, chosen.lower, chosen.upper).value
    assert cert.ece(0.1)[0] == expected


def test_selection_by_separate_draws() -> None:
    counts = [[600, 400], [600, 400]]
    cert = cc.Certificates.from_counts(counts, [0, 0], sigma=SIGMA, selection=[0, 1])
    assert cert.table.column("votes").to_pylist() == [600, 400]
    assert cert.table.column("predicted").to_pylist() == [0, 1]
    assert cert.table.column("correct").to_pylist() == [True, False]
    assert cert.abstained.tolist() == [False, True]
    assert cert.provenance.notes == ()
    shared_draws = cc.Certificates.from_counts(counts, [0, 0], sigma=SIGMA)
    assert "selected by the draws that estimate it" in shared_draws.provenance.notes[0]
    tie = cc.Certificates.from_counts([[900, 100], [500, 500]], [0, 0], sigma=SIGMA)
    assert tie.table.column("predicted").to_pylist() == [0, 0]  # the lowest of equals


def test_sample_ids_travel() -> None:
    cert = cc.Certificates.from_counts([[900, 100], [990, 10]], [0, 1], SIGMA, index=[70, 30])
    assert cert.at(0.2).index.tolist() == [70, 30]
    assert cert.at(0.4).index.tolist() == [30]


def test_without_labels_intervals_are_there_and_metrics_say_so() -> None:
    counts, _ = votes(30, seed=1)
    cert = cc.Certificates.from_counts(counts, None, sigma=SIGMA)
    chosen = cert.at(0.1)
    assert chosen.correct is None
    assert len(chosen.lower) == len(chosen.predicted) > 0
    for call in (cert.curve, cert.brier, cert.ece):
        with pytest.raises(ValueError, match="labels: this metric needs them"):
            call([0.1])


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("options", [{}, {"scope": "all"}, {"delta": 0.01}])
def test_every_bound_says_that_there_are_no_labels(metric: str, options: dict[str, Any]) -> None:
    made = cc.Certificates.from_counts([[990, 10], [200, 800]], None, 0.25, keep_counts=True)
    with pytest.raises(ValueError, match=r"^labels: "):
        made.bound(metric, 0.1, **options)


def test_more_abstentions_than_certificates_are_warned_of() -> None:
    counts = [[60, 40], [55, 45], [100, 0]]
    with pytest.warns(
        UserWarning, match=r"2 of 3 samples abstain; .*n = 100 and alpha = 0.001.* 0.36"
    ):
        cert = cc.Certificates.from_counts(counts, [0, 0, 0], sigma=SIGMA)
    assert cert.abstained.tolist() == [True, True, False]
    assert cert.best_radius == pytest.approx(0.36311, abs=1e-5)
    with pytest.warns(UserWarning, match="could ever give is 0"):
        cc.Certificates.from_counts([[5, 0]], [0], sigma=SIGMA)


def test_a_radius_with_nothing_certified_is_nan_and_warned_of() -> None:
    cert = certificates()
    with pytest.warns(UserWarning, match="no sample is certified at radius 2 and above; the best"):
        curve = cert.curve([0.1, 2, 3])
    assert curve.certified[1:].tolist() == [0, 0]
    for name in ("accuracy", "ece", "certified_ece", "brier", "certified_brier", "skill"):
        assert np.isfinite(getattr(curve, name)[0])
        assert np.isnan(getattr(curve, name)[1:]).all()
    assert curve.certified_accuracy[1:].tolist() == [0, 0]
    assert len(cert.at(2)) == 0


def test_intervals_of_another_verifier() -> None:
    correct, lower, upper = [1, 0, 1], [0.7, 0.5, 0.8], [0.9, 0.7, 1.0]
    cert = cc.Certificates.from_intervals(
        correct,
        lower,
        upper,
        radius=0.5,
        confidence=[0.8, 0.6, 0.9],
        labels=[0, 1, 2],
        predicted=[0, 2, 2],
    )
    assert not cert.abstained.any()
    assert cert.best_radius is None
    for radius in (0.0, 0.3, 0.5):
        chosen = cert.at(radius)
        assert chosen.lower.tolist() == lower
        assert chosen.upper.tolist() == upper
        assert chosen.radius == radius
    curve = cert.curve([0.5, 0.1])
    assert curve.certified_ece.tolist() == [cc.certified_ece(correct, lower, upper).value] * 2
    assert curve.certified_brier.tolist() == [cc.certified_brier(correct, lower, upper).value] * 2
    assert curve.brier.tolist() == [cc.brier(correct, [0.8, 0.6, 0.9])] * 2
    assert curve.ece.tolist() == [cc.ece(correct, [0.8, 0.6, 0.9])] * 2
    assert curve.certified.tolist() == [3, 3]
    for call in (cert.at, cert.brier, cert.ece, cert.curve):
        with pytest.raises(ValueError, match=r"radius: expected at most 0\.5"):
            call(0.51)


def test_intervals_without_anything_else() -> None:
    cert = cc.Certificates.from_intervals([1, 0], [0.7, 0.5], [0.9, 0.7])
    chosen = cert.at(123.0)
    assert chosen.confidence is None
    assert chosen.predicted is None
    assert chosen.index.tolist() == [0, 1]
    curve = cert.curve([0, 5])
    assert np.isnan(curve.ece).all()
    assert np.isnan(curve.brier).all()
    assert np.isfinite(curve.certified_ece).all()


GOOD = {"counts": [[9, 1], [2, 8]], "labels": [0, 1], "sigma": 0.25, "alpha": 1e-3}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(counts=[[9, 1], [2, 7]]), ValueError, "equal sum, got 9 in row 1 and 10 in row 0"),
        (dict(counts=[[9.0, 1], [2, 8]]), TypeError, "counts: expected whole numbers"),
        (dict(counts=[[True, False]]), TypeError, "counts: expected whole numbers"),
        (dict(counts=[9, 1]), ValueError, r"counts: expected shape \(N, K\), got \(2,\)"),
        (dict(counts=np.zeros((0, 3), int)), ValueError, "counts: expected at least one sample"),
        (dict(counts=[[9], [9]]), ValueError, "counts: expected at least two classes, got 1"),
        (dict(counts=[[11, -1], [2, 8]]), ValueError, r"got \[11, -1\] in row 0"),
        (dict(counts=[[0, 0], [0, 0]]), ValueError, "counts: expected at least one vote a row"),
        (dict(counts=[[2**40, 0], [0, 2**40]]), ValueError, "counts: expected votes from 0"),
        (dict(labels=[0, 2]), ValueError, "labels: expected classes from 0 to 1, got 2 in row 1"),
        (dict(labels=[-1, 0]), ValueError, "labels: expected classes from 0 to 1, got -1 in row 0"),
        (dict(labels=[0]), ValueError, "labels: expected 2 entries"),
        (dict(labels=[0.0, 1.0]), TypeError, "labels: expected whole numbers"),
        (dict(selection=[0, 5]), ValueError, "selection: expected classes from 0 to 1, got 5"),
        (dict(selection=[0]), ValueError, "selection: expected 2 entries"),
        (dict(index=[0]), ValueError, "index: expected 2 entries"),
        (dict(sigma=0), ValueError, "sigma: expected a number above 0, got 0"),
        (dict(sigma=-0.25), ValueError, "sigma: expected a number above 0"),
        (dict(sigma=math.inf), ValueError, "sigma: expected a finite number"),
        (dict(sigma=None), TypeError, "sigma: expected a number, got NoneType"),
        (dict(alpha=0), ValueError, "alpha: expected a probability"),
        (dict(alpha=1), ValueError, "alpha: expected a probability"),
        (dict(alpha=math.nan), ValueError, "alpha: expected a finite number"),
    ],
)
def test_bad_counts(change: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cc.Certificates.from_counts(**{**GOOD, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(correct=[], lower=[], upper=[]), ValueError, "at least one sample"),
        (dict(lower=[0.5, 0.2]), ValueError, "in row 0"),
        (dict(upper=[0.3, math.nan]), ValueError, "in row 1"),
        (dict(radius=-1), ValueError, "radius: expected a radius of at least 0"),
        (dict(radius=math.inf), ValueError, "radius: expected a finite number"),
        (dict(confidence=[0.2, 1.2]), ValueError, "confidence: expected values from 0"),
        (dict(confidence=[0.2, math.nan]), ValueError, "confidence: expected values from 0"),
        (dict(confidence=[0.2]), ValueError, "confidence: expected 2 entries"),
        (dict(labels=[0, -1]), ValueError, "label: expected values at least 0"),
        (dict(predicted=[0, -1]), ValueError, "predicted: expected classes of at least 0"),
        (dict(labels=[0, 0], predicted=[0, 0]), ValueError, "correct: expected True in row 1"),
    ],
)
def test_bad_intervals(change: dict[str, object], error: type[Exception], words: str) -> None:
    good = {"correct": [1, 0], "lower": [0.1, 0.2], "upper": [0.3, 0.4]}
    with pytest.raises(error, match=words):
        cc.Certificates.from_intervals(**{**good, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("radius", "error"),
    [
        (-0.1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("0.1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_bad_radii(radius: object, error: type[Exception]) -> None:
    for cert in (certificates(), cc.Certificates.from_intervals([1], [0.5], [0.6])):
        with pytest.raises(error, match="radius: expected"):
            cert.at(radius)  # type: ignore[arg-type]
        for call in (cert.curve, cert.brier, cert.ece):
            with pytest.raises(error, match="radii: expected"):
                call([radius])


def test_bad_lists_of_radii() -> None:
    cert = certificates()
    with pytest.raises(ValueError, match="radii: expected at least one radius"):
        cert.curve([])
    with pytest.raises(ValueError, match=r"radii: expected shape \(N,\), got \(1, 1\)"):
        cert.curve([[0.1]])
    with pytest.raises(ValueError, match=r"got -1.0 at position 1"):
        cert.curve([0.1, -1])
    with pytest.raises(ValueError, match="bins: expected"):
        cert.curve([0.1], bins=0)
    with pytest.raises(ValueError, match="closed: expected"):
        cert.ece([0.1], closed="no")


def test_arguments_are_not_changed_and_results_are_read_only() -> None:
    counts, labels = votes(20, seed=3)
    before = counts.copy(), labels.copy()
    cert = cc.Certificates.from_counts(counts, labels, sigma=SIGMA)
    chosen, curve = cert.at(0.1), cert.curve([0.1])
    assert np.array_equal(counts, before[0])
    assert np.array_equal(labels, before[1])
    for result in (chosen, curve):
        for field in dataclasses.fields(result):
            values = getattr(result, field.name)
            assert not isinstance(values, np.ndarray) or not values.flags.writeable
    lower = np.array([0.5])
    other = cc.Certificates.from_intervals([1], lower, [0.6])
    lower[0] = 0.1
    assert other.at(0).lower.tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("from_counts", from_draws.counts),
        ("from_votes", from_draws.votes),
        ("from_scores", from_draws.scores),
        ("from_adaptive", from_draws.adaptive),
        ("from_npz", from_others.npz),
        ("from_cohen_log", from_others.cohen_log),
        ("from_intervals", from_others.intervals),
        ("from_file", files.file),
    ],
)
def test_a_constructor_has_the_words_and_the_signature_of_its_function(
    name: str, parts: Callable[..., Any]
) -> None:
    method = getattr(cc.Certificates, name)
    assert method.__doc__ == parts.__doc__
    own, shown = inspect.signature(parts).parameters, inspect.signature(method).parameters
    assert list(own.values()) == list(shown.values())
    assert pickle.loads(pickle.dumps(method)) == method
    needed = [k for k, p in own.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    with pytest.raises(TypeError, match="certainly_none"):
        method(**dict.fromkeys(needed), certainly_none=1)


def test_warnings_of_constructors_name_the_line_that_called() -> None:
    with pytest.warns(UserWarning, match="1 of 1 samples abstain") as caught:
        cc.Certificates.from_counts([[50, 50]], [0], sigma=0.25)
    assert caught[0].filename == __file__
