# SPDX-License-Identifier: MIT
"""Metrics without an attack: the definitions, and what other libraries give under their conventions."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem, problems
from reference import bin_of, plain_brier, plain_ece

import certcal_ext as plain
from certcal_ext.metrics.edges import equal_mass_edges

HERE = Path(__file__).resolve().parents[1]
REFERENCES = json.loads((HERE / "data/metric_references.json").read_text())
PEERS = ("torchmetrics", "netcal", "uncertainty-calibration", "scikit-learn")


def maker() -> ModuleType:
    """The script that made the references."""
    path = HERE.parent / "tools/make_metric_references.py"
    spec = importlib.util.spec_from_file_location("make_metric_references", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ours(record: dict[str, Any]) -> float:
    """Our value for the problem and arguments of a record."""
    problem = REFERENCES["problems"][record["problem"]]
    labels = np.array(problem["labels"])
    probabilities = np.array(problem["units"]) / REFERENCES["grid"]
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    arguments = dict(record["arguments"])
    if "equal_mass" in arguments:
        arguments["edges"] = equal_mass_edges(confidence, arguments.pop("equal_mass"))
    if record["metric"] == "classwise_ece":
        return plain.classwise_ece(labels, probabilities, **arguments)
    if record["metric"] == "aurc":
        return plain.risk_coverage(correct, confidence).aurc
    value: float = getattr(plain, record["metric"])(correct, confidence, **arguments)
    return value


def test_the_references_are_of_every_peer_metric_and_problem() -> None:
    records = REFERENCES["records"]
    assert {record["peer"].rsplit(" ", 1)[0] for record in records} == set(PEERS)
    metrics = {"ece", "mce", "classwise_ece", "brier", "log_loss", "aurc"}
    assert {record["metric"] for record in records} == metrics
    assert {record["problem"] for record in records} == set(REFERENCES["problems"])


@pytest.mark.parametrize("peer", PEERS)
def test_equal_to_what_other_libraries_gave(peer: str) -> None:
    for record in REFERENCES["records"]:
        if record["peer"].startswith(peer + " "):
            expected = pytest.approx(record["value"], abs=record["tolerance"])
            assert ours(record) == expected, record


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore")  # while they are imported
def test_equal_to_other_libraries_where_they_are_installed(peer: str) -> None:
    script = maker()
    pytest.importorskip(script.PEERS[peer][0])
    stored = [r for r in REFERENCES["records"] if r["peer"].startswith(peer + " ")]
    fresh = script.records_of(peer)
    assert [r["call"] for r in fresh] == [r["call"] for r in stored]
    for record in fresh:
        assert ours(record) == pytest.approx(record["value"], abs=record["tolerance"]), record


def test_the_side_that_is_closed_matters_in_the_references() -> None:
    """Else the comparison above could not tell one convention from the other."""
    for record in REFERENCES["records"]:
        arguments = record["arguments"]
        if record["problem"] == "on edges" and arguments.get("bins") == 8:
            other = {"left": "right", "right": "left"}[arguments["closed"]]
            swapped = {**record, "arguments": {**arguments, "closed": other}}
            assert abs(ours(swapped) - record["value"]) > 1e-3


@given(problems(most_samples=20, most_bins=5))
def test_definitions(problem: Problem) -> None:
    correct, z, _, edges, closed = problem
    c = correct.astype(float)
    assert plain.ece(correct, z, edges=edges, closed=closed) == pytest.approx(
        plain_ece(c, z, edges, closed), abs=1e-12
    )
    assert plain.brier(correct, z) == pytest.approx(plain_brier(c, z), abs=1e-12)
    at = np.array([bin_of(x, edges, closed) for x in z])
    gaps = [abs(float(np.mean((c - z)[at == m]))) for m in set(at)]
    assert plain.mce(correct, z, edges=edges, closed=closed) == pytest.approx(max(gaps), abs=1e-12)
    sums = [abs(float((c - z)[z <= t].sum())) for t in z]
    assert plain.ks(correct, z) == pytest.approx(max(sums) / z.size, abs=1e-12)
    for t in edges:
        accepted = z >= t
        result = plain.selective_risk(correct, z, t)
        risk = float(np.mean(~correct[accepted])) if accepted.any() else 0.0
        assert result.risk == pytest.approx(risk, abs=1e-12)
        assert result.coverage == pytest.approx(accepted.mean(), abs=1e-12)
        assert result.coverage_at_worst == pytest.approx(accepted.mean(), abs=1e-12)
    curve = plain.risk_coverage(correct, z)
    assert curve.thresholds.tolist() == sorted(set(z.tolist()))
    assert np.allclose(curve.coverage, curve.coverage_at_worst, atol=1e-12, rtol=0)


@given(problems(most_samples=20))
def test_log_loss_of_points(problem: Problem) -> None:
    correct, z = problem.correct, np.clip(problem.lower, 0.001, 0.999)
    expected = float(np.mean(-np.log(np.where(correct, z, 1 - z))))
    assert plain.log_loss(correct, z) == pytest.approx(expected, abs=1e-11)


def test_perfect_predictions_have_no_error() -> None:
    assert plain.mce([1, 0], [1.0, 0.0]) == 0
    assert plain.ks([1, 0], [1.0, 0.0]) == 0
    assert plain.log_loss([1, 0], [1.0, 0.0]) == 0
    assert plain.classwise_ece([1, 0], [[0, 1], [1, 0]]) == 0
    assert plain.risk_coverage([1, 0], [1.0, 0.0]).aurc == pytest.approx(0.25)


@pytest.mark.parametrize(
    "metric",
    [
        plain.ece,
        plain.brier,
        plain.mce,
        plain.ks,
        plain.log_loss,
        plain.risk_coverage,
        lambda c, z: plain.selective_risk(c, z, 0.5),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([], []), ValueError, "at least one sample"),
        (([1], [1.5]), ValueError, "confidence: expected values in \\[0, 1\\]"),
        (([1], [float("nan")]), ValueError, "confidence: expected values in \\[0, 1\\]"),
        (([1], [0.5, 0.6]), ValueError, "confidence: expected 1 entries"),
        (([1], ["a"]), TypeError, "confidence"),
        (([3], [0.5]), ValueError, "correct: expected booleans or 0 and 1"),
    ],
)
def test_bad_input(metric: Any, arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        metric(*arguments)


@pytest.mark.parametrize(
    ("labels", "probabilities", "kind", "message"),
    [
        ([0], [[1.5, 0.0]], ValueError, "probabilities: expected values in"),
        ([0], [[float("nan"), 0.0]], ValueError, "probabilities: expected values in"),
        ([0], [0.5], ValueError, "probabilities: expected shape"),
        ([0], [["a", "b"]], TypeError, "probabilities: expected real numbers"),
        ([2], [[0.5, 0.5]], ValueError, "labels: expected whole numbers from 0 to 1, got 2"),
        ([0.5], [[0.5, 0.5]], TypeError, "labels: expected whole numbers"),
    ],
)
def test_bad_classes(labels: Any, probabilities: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        plain.classwise_ece(labels, probabilities)


def recipe_of_the_docs() -> Any:
    """``as_torchmetrics`` of docs/metrics.md."""
    page = (HERE.parent / "docs/metrics.md").read_text()
    block = next(b for b in page.split("```python\n") if "def as_torchmetrics" in b)
    names: dict[str, Any] = {}
    exec(block.split("```")[0], names)
    return names["as_torchmetrics"]


def torchmetrics_ece(correct: Any, confidence: Any, bins: int) -> float:
    """Version 1.9 of it, written once more: float32, bins [lo, hi) by bucketize, one more bin for exactly 1."""
    z = torch.tensor(confidence).float()
    c = torch.tensor(correct).float()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float32)
    at = torch.bucketize(z, edges, right=True) - 1
    return float(sum(abs((c - z).double()[at == m].sum()) for m in at.unique()) / z.numel())


@pytest.mark.parametrize("bins", [3, 7, 10, 15])
@given(data=st.data())
def test_the_recipe_for_torchmetrics_at_ties(bins: int, data: st.DataObject) -> None:
    """Confidences k / M that float32 rounds to either side of the edge, their neighbours, 0 and 1."""
    recipe = recipe_of_the_docs()
    ties = [k / bins for k in range(bins + 1)]
    ties += [float(np.float32(e)) for e in ties]
    ties += [float(np.nextafter(np.float32(e), np.float32(0.5))) for e in ties]
    end = st.one_of(st.sampled_from(ties), st.floats(0, 1))
    z = data.draw(st.lists(end, min_size=1, max_size=20))
    correct = data.draw(st.lists(st.booleans(), min_size=len(z), max_size=len(z)))
    assert recipe(correct, z, bins) == pytest.approx(torchmetrics_ece(correct, z, bins), abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # while it is imported
def test_the_recipe_against_torchmetrics_itself() -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from torchmetrics.functional.classification import multiclass_calibration_error

    recipe, random = recipe_of_the_docs(), np.random.default_rng(0)
    for _ in range(100):
        bins = int(random.integers(5, 20))
        top = np.maximum(random.integers(0, bins + 1, 40) / bins, 0.5 + 1e-6)
        rows = np.stack([top, 1 - top], axis=1)
        labels = random.integers(0, 2, 40)
        theirs = multiclass_calibration_error(
            torch.tensor(rows), torch.tensor(labels), 2, n_bins=bins
        )
        assert recipe(labels == 0, top, bins) == pytest.approx(float(theirs), abs=1e-6)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_how_much_too_large_brier_and_ece_may_be(rows: list[tuple[bool, float]]) -> None:
    """At most 2^-50, as their docstrings say, and never too small; in exact fractions."""
    correct, z = [c for c, _ in rows], [p for _, p in rows]
    gaps = [Fraction(int(c)) - Fraction(p) for c, p in rows]
    exact = sum(g * g for g in gaps) / len(rows)
    assert exact <= Fraction(plain.brier(correct, z)) <= exact + Fraction(1, 2**50)
    exact = abs(sum(gaps)) / len(rows)
    assert exact <= Fraction(plain.ece(correct, z, bins=1)) <= exact + Fraction(1, 2**50)


def test_brier_may_be_more_than_2_to_the_minus_51_too_large() -> None:
    """Which is why the docstring does not promise that."""
    z = 0.0625 + np.arange(1, 100) * 2.0**-52 - 2.0**-56  # just below where a confidence is rounded
    excess = [Fraction(plain.brier([1], [p])) - (1 - Fraction(float(p))) ** 2 for p in z]
    assert max(excess) > Fraction(1, 2**51)
