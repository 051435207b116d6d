# SPDX-License-Identifier: MIT
"""Every metric along every path on which it can be had: all paths against each other, and against brute force.

The metrics are those that ``Certificates.bound`` knows, so a new one is held to all of this at once; it only needs its
definition in ``metric_definitions.py``.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_definitions import DEFINITIONS, attacks
from numpy.typing import NDArray
from problems import bin_edges, problems
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from typer.testing import CliRunner

import certcal_ext as cc
from certcal_ext.certificates.samples import ClassVotes
from certcal_ext.cli import app
from certcal_ext.metrics.accuracy import Accuracy
from certcal_ext.metrics.base import Options, Samples
from certcal_ext.metrics.registry import METRICS, top_label
from certcal_ext.recalibration.maps import StepMap
from certcal_ext.report.facts import gather
from certcal_ext.report.numerals import metric_rows

TOP_LABEL = top_label()

RADIUS = 0.5
OPTIONS = (
    {},
    {"bins": 4, "clip": 0.01, "threshold": 0.75},
    {"edges": [0.0, 0.3, 0.7, 1.0], "closed": "left", "clip": 1e-3, "dtype": "float32"},
    {"bins": 1, "clip": 0.3, "threshold": 1.0},
    {"edges": [0.0, 0.5, 0.9, 1.0], "threshold": 0.0, "clip": 2.0**-40},
)


def full(options: dict[str, Any]) -> dict[str, Any]:
    """The options as a definition takes them."""
    edges = options.get("edges")
    edges = np.linspace(0, 1, options.get("bins", 15) + 1) if edges is None else np.array(edges)
    rest = {"closed": "right", "clip": None, "dtype": "float64", "threshold": 0.5}
    return {**rest, **options, "edges": edges}


def call(function: Any, *arguments: Any, **options: Any) -> Any:
    """The function with those of the options that it takes, and its number."""
    taken = set(inspect.signature(function).parameters)
    given = {"threshold": 0.5, **options}  # the one option without a default in the functions
    found = function(*arguments, **{key: value for key, value in given.items() if key in taken})
    return found if isinstance(found, float) else found.value


def worst_of(name: str, truth: Any, lower: Any, upper: Any, **options: Any) -> float:
    """The metric itself, and the function ``certified_*`` where there is one: the same number."""
    rows = np.asarray(truth), np.asarray(lower, float), np.asarray(upper, float)
    value = METRICS[name].worst(Samples(*rows, None, np.empty(0)), Options.of(**options))
    function = getattr(cc, f"certified_{name}", None)
    assert function is None or call(function, truth, lower, upper, **options) == value
    return value


def plain_of(name: str, truth: Any, z: Any, **options: Any) -> float:
    """Without an attack, likewise."""
    samples = Samples(np.asarray(truth), z, z, z, np.empty(0))
    value = METRICS[name].plain(samples, Options.of(**options))
    function = getattr(cc, name, None)
    assert function is None or call(function, truth, z, **options) == value
    return value


def worse(name: str, *values: float) -> float:
    """The worst of some values: the smallest of a metric that an attack lowers."""
    return min(values) if METRICS[name].lowest else max(values)


def no_better(name: str, bound: float, value: float, slack: float = 0.0) -> bool:
    """Whether a bound allows a value."""
    return bound <= value + slack if METRICS[name].lowest else bound >= value - slack


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[Any, NDArray, NDArray, dict[str, Any]]:
    """Truth, lower and upper ends and options, for the top label or for two classes."""
    options = draw(st.sampled_from(OPTIONS))
    if draw(st.booleans()):
        edges = draw(bin_edges(3))
        options = {**options, "edges": edges.tolist()}
        options["closed"] = draw(st.sampled_from(["left", "right"]))
    problem = draw(problems(most_samples=2 if name == "classwise_ece" else 3, most_bins=2))
    if name != "classwise_ece":
        return problem.correct, problem.lower, problem.upper, options
    other = draw(problems(most_samples=problem.correct.size, most_bins=2))
    rows = other.correct.size
    lower = np.stack([problem.lower[:rows], other.lower], axis=1)
    return (
        problem.correct[:rows].astype(int),
        lower,
        np.maximum(lower, other.upper[:, None]),
        options,
    )


def test_every_metric_has_a_definition() -> None:
    assert set(DEFINITIONS) == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=60)
@given(data=st.data())
def test_the_function_is_the_worst_of_all_attacks(name: str, data: st.DataObject) -> None:
    """Never below what is attained, and reached where every place that matters was tried."""
    truth, lower, upper, options = data.draw(cases(name))
    worst = worst_of(name, truth, lower, upper, **options)
    tried, every = attacks(lower, upper, full(options), seed=0)
    attained = worse(name, *(DEFINITIONS[name](truth, z, full(options)) for z in tried))
    assert no_better(name, worst, attained, 1e-13)
    if every:
        assert worst == attained or abs(worst - attained) <= 1e-11


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=60)
@given(data=st.data())
def test_at_points_all_paths_give_the_plain_metric(name: str, data: st.DataObject) -> None:
    truth, z, _, options = data.draw(cases(name))
    value = worst_of(name, truth, z, z, **options)
    assert plain_of(name, truth, z, **options) == value
    expected = DEFINITIONS[name](truth, z, full(options))
    assert value == expected or abs(value - expected) <= 1e-11
    if name in TOP_LABEL:
        made = cc.Certificates.from_intervals(truth, z, z, radius=RADIUS, confidence=z)
        for scope in ("certified", "all"):
            curve = made.bound(name, RADIUS, scope=scope, **options)
            assert (curve.plain[0], curve.worst[0]) == (value, value)


@pytest.mark.parametrize("name", TOP_LABEL)
@settings(max_examples=60)
@given(data=st.data())
def test_intervals_give_the_same_along_every_path(name: str, data: st.DataObject) -> None:
    """Function, bound, comparison, recalibration by the identity and by steps, state in parts, table."""
    truth, lower, upper, options = data.draw(cases(name))
    value = worst_of(name, truth, lower, upper, **options)
    made = cc.Certificates.from_intervals(truth, lower, upper, radius=RADIUS)
    assert made.bound(name, RADIUS, **options).worst[0] == value
    for samples in ("intersection", "certified", "all"):
        both = cc.compare({"a": made, "b": made}, RADIUS, name, samples=samples, **options)
        assert both.curves["a"].worst[0] == both.curves["b"].worst[0] == value
    steps = StepMap(jumps=(0.4, 0.8), levels=(0.1, 0.5, 0.9))
    mapped = made.recalibrated(steps)
    expected = worst_of(name, truth, steps(lower), steps(upper), **options)
    assert mapped.bound(name, RADIUS, **options).worst[0] == expected
    assert mapped.recalibrated(None).bound(name, RADIUS, **options).worst[0] == value
    first, second = (METRICS[name].state(Options.of(**options)) for _ in range(2))
    if first is None or second is None:
        return
    first.update(truth[1:], lower[1:], upper[1:])
    second.update(truth[:1], lower[:1], upper[:1])
    second.merge(first)
    found = second.compute()
    if name == "ks":  # ends go outward to a grid
        grid = (np.floor(lower * 4096) / 4096, np.ceil(upper * 4096) / 4096)
        assert value <= found.value <= worst_of(name, truth, *grid) + 1e-12
    else:
        assert getattr(found, "risk", found.value) == value


def test_which_metrics_have_states() -> None:
    """A metric that loses its state, or gets one, says so here."""
    having = {name for name, metric in METRICS.items() if metric.state(Options.of()) is not None}
    assert having == {"brier", "ece", "ks", "log_loss", "selective_risk"}


def drawn(seed: int, rows: int = 60, **options: Any) -> cc.Certificates:
    """Certificates of a fairly good classifier from votes, some of them uncertified."""
    random = np.random.default_rng(seed)
    counts = np.stack([random.multinomial(500, p) for p in random.dirichlet([0.3] * 3, rows)])
    labels = np.where(random.random(rows) < 0.8, counts.argmax(1), random.integers(0, 3, rows))
    return cc.Certificates.from_counts(
        counts, labels, 0.25, selection=counts.argmax(1), keep_counts=True, **options
    )


def intervals_at(made: cc.Certificates, name: str, radius: float) -> tuple[Any, NDArray, NDArray]:
    """Truth and intervals under attack of the certified samples, or of everyone where the metric is."""
    at = made.at(radius)
    if METRICS[name].of_everyone:
        rows = made.rows_at(radius)
        right = made.table.column("correct").to_numpy(zero_copy_only=False)
        return right.astype(bool) & rows.certified, rows.lower, rows.upper
    if name in TOP_LABEL:
        return at.correct, at.lower, at.upper
    rows = made.rows_at(radius).certified
    counts = np.stack(made.table.column("counts").to_numpy())
    labels = made.table.column("label").to_numpy()[rows]
    return labels, *ClassVotes(counts, made.provenance.alpha).at(radius / 0.25, rows)


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("name", METRICS)
def test_bounds_from_draws(name: str, options: dict[str, Any]) -> None:
    """Worst <= each joint bound <= joint of fewer failures; equal to the function; above every attack; all scopes."""
    for seed in range(3):
        made = drawn(seed)
        for radius in (0.0, 0.1):
            truth, lower, upper = intervals_at(made, name, radius)
            plain = made.bound(name, radius, **options)
            value = worst_of(name, truth, lower, upper, **options)
            assert plain.samples[0] == len(truth)
            assert plain.worst[0] == value or plain.worst[0] == pytest.approx(value, abs=1e-9)
            for scope in ("certified", "all"):
                joint = {
                    how: made.bound(name, radius, scope=scope, delta=0.01, joint=how, **options)
                    for how in ("binomial", "union", "best")
                }
                worst = joint["best"].worst[0]
                assert no_better(name, worst, value, 1e-12) or scope == "all"
                assert worst == made.bound(name, radius, scope=scope, **options).worst[0]
                for curve in joint.values():
                    assert no_better(name, curve.joint[0], worst)
                halves = [
                    made.bound(name, radius, scope=scope, delta=0.005, joint=how, **options).joint[
                        0
                    ]
                    for how in ("binomial", "union")
                ]
                tightest = max(halves) if METRICS[name].lowest else min(halves)
                assert joint["best"].joint[0] == tightest
            certified = made.bound(name, radius, delta=0.01, joint="binomial", **options)
            _no_attack_passes(name, certified, truth, lower, upper, options, seed)


def _no_attack_passes(
    name: str,
    curve: cc.MetricCurve,
    truth: Any,
    lower: NDArray,
    upper: NDArray,
    options: dict[str, Any],
    seed: int,
) -> None:
    """Confidences inside the intervals, and then as many rows as may fail anywhere with any truth."""
    random = np.random.default_rng(seed)
    for _ in range(20):
        z = lower + (upper - lower) * random.choice([0.0, 1.0, random.random()], lower.shape)
        z = np.clip(z, lower, upper)
        attained = DEFINITIONS[name](truth, z, full(options))
        assert no_better(name, curve.worst[0], attained, 1e-9)
        failed = random.choice(len(truth), min(curve.failures, len(truth)), replace=False)
        other, moved = np.array(truth), z.copy()
        other[failed] = random.integers(0, 2, failed.size)
        moved[failed] = random.choice([0.0, 1.0, 0.5], moved[failed].shape)
        attained = DEFINITIONS[name](other, moved, full(options))
        assert no_better(name, curve.joint[0], attained, 1e-9)


@pytest.mark.parametrize("scope", ["certified", "all"])
@pytest.mark.parametrize("name", METRICS)
def test_a_population_bound_is_above_the_worst_case_or_refused(name: str, scope: str) -> None:
    made, options = drawn(0), {"delta": 0.01, "scope": scope, "clip": 0.01, "population": True}
    if METRICS[name].no_population(Options.of(clip=0.01)) is not None:
        with pytest.raises(ValueError, match="population: expected"):
            made.bound(name, 0.1, **options)
        return
    curve = made.bound(name, [0.0, 0.1], **options)
    for bound, worst in zip(curve.population, curve.worst, strict=True):
        assert no_better(name, bound, worst)


def test_which_metrics_have_bounds_for_a_population() -> None:
    options = Options.of(clip=0.01)
    having = {name for name, metric in METRICS.items() if metric.no_population(options) is None}
    assert having == {"brier", "log_loss", "selective_risk", "certified_accuracy"}


def test_curve_and_its_short_forms_are_the_bound() -> None:
    made, radii = drawn(1), [0.0, 0.05, 0.2]
    for binning in ({}, {"bins": 4}, {"edges": [0.0, 0.3, 0.7, 1.0], "closed": "left"}):
        curve = made.curve(radii, **binning)
        for name in ("ece", "brier"):
            bound = made.bound(name, radii, **binning)
            assert getattr(curve, f"certified_{name}").tolist() == bound.worst.tolist()
            assert getattr(curve, name) == pytest.approx(bound.plain, abs=1e-12)


@pytest.mark.parametrize("scope", ["certified", "all"])
def test_the_command_line_gives_the_library_s_numbers(scope: str, tmp_path: Path) -> None:
    made, options = drawn(2), {"scope": scope, "delta": 0.01, "clip": 0.01, "threshold": 0.8}
    file = tmp_path / "counts.npz"
    counts = np.stack(made.table.column("counts").to_numpy())
    np.savez(file, counts=counts, label=made.table.column("label").to_numpy(), sigma=0.25)
    own = cc.Certificates.from_npz(file, keep_counts=True)
    line = ["bound", str(file), "--radii", "0,0.1", "--bins", "7", "--json"]
    line += ["--metrics", "all,classwise_ece"]
    line += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    printed = CliRunner().invoke(app, line)
    assert printed.exit_code == 0, printed.output
    rows = json.loads(printed.stdout)["metrics"]
    assert {row["metric"] for row in rows} == set(METRICS)
    for row in rows:
        curve = own.bound(row["metric"], row["radius"], bins=7, **options)
        for column in ("samples", "plain", "worst", "joint"):
            assert row[column] == getattr(curve, column)[0]
        assert row["joint_method"] == curve.method[0]


def test_the_page_shows_the_library_s_numbers() -> None:
    made = drawn(3, rows=120)
    facts = gather(made, radius=0.1, bins=7, delta=0.01)
    further = facts.further
    assert {curve.metric for curve in further.certified} >= set(TOP_LABEL)
    for scope, curves in (("certified", further.certified), ("all", further.everyone)):
        for curve in curves:
            own = made.bound(
                curve.metric, 0.1, scope=scope, delta=0.01, bins=7, clip=1e-3, threshold=0.9
            )
            for column in ("samples", "plain", "worst", "joint"):
                assert getattr(curve, column).tolist() == getattr(own, column).tolist()


@pytest.mark.parametrize("scope", ["certified", "all"])
def test_certified_accuracy_counts_images(scope: str) -> None:
    made, radii = drawn(4, rows=200), [0.0, 0.1, 0.3]
    curve, found = (
        made.curve(radii),
        made.bound("certified_accuracy", radii, scope=scope, delta=0.01),
    )
    assert found.scope == "all"
    assert found.worst == pytest.approx(curve.certified_accuracy, abs=1e-15)
    assert (found.joint <= found.worst).all()
    assert found.value is found.joint
    assert "lowers the certified accuracy" in found.statement()
    binomial = made.bound("certified_accuracy", radii, scope=scope, delta=0.01, joint="binomial")
    counted = np.round(found.worst * found.samples) - binomial.failures
    assert binomial.joint * binomial.samples == pytest.approx(counted, abs=1e-9)


def test_joint_bounds_of_the_accuracy_cover_the_truth() -> None:
    """No more often than delta above the accuracy that the exact probabilities prove."""
    random = np.random.default_rng(5)
    p = random.beta(6, 1, 80)
    labels, predicted = np.zeros(80, np.int64), (np.arange(80) % 5 == 0).astype(np.int64)
    truth = np.mean((ndtr(ndtri(p) - 0.2) > 0.5) & (predicted == 0))
    delta, trials = 0.3, 150
    for joint in ("binomial", "union", "best"):
        failures = 0
        for _ in range(trials):
            votes = random.binomial(60, p)
            made = cc.Certificates.from_votes(votes, 60, predicted, labels, 0.25, 0.2)
            found = made.bound("certified_accuracy", 0.05, scope="all", delta=delta, joint=joint)
            failures += found.joint[0] > truth
        assert binomtest(failures, trials, delta, alternative="greater").pvalue > 1e-6


def test_every_metric_is_in_the_docs_and_told_by_the_command_line(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    table = (root / "docs/metrics.md").read_text().split("## Why")[0]
    file = tmp_path / "certificates.parquet"
    drawn(0).to_parquet(file)
    told = CliRunner().invoke(app, ["bound", str(file), "--metrics", "none"])
    assert told.exit_code == 2
    for name in METRICS:
        assert f"`certified_{name}`" in table or f'`Certificates.bound("{name}")`' in table
        assert name in told.output


def test_a_new_metric_is_one_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Registered, it is in bound, comparison, command line, JSON and page."""

    class SquaredAccuracy(Accuracy):
        name = "squared_accuracy"
        title = "accuracy squared"
        words = "square of the accuracy"

        def failed(self, samples: Samples, options: Options, k: int) -> float:
            return super().failed(samples, options, k) ** 2

    monkeypatch.setitem(METRICS, SquaredAccuracy.name, SquaredAccuracy())
    made = drawn(2, rows=120)
    value = made.bound("squared_accuracy", 0.1, delta=0.01)
    assert value.worst[0] == made.bound("certified_accuracy", 0.1).worst[0] ** 2
    assert "lowers the square of the accuracy" in value.statement()
    both = cc.compare({"a": made, "b": made}, 0.1, "squared_accuracy")
    assert both.curves["a"].worst[0] == value.worst[0]
    file = tmp_path / "certificates.parquet"
    made.to_parquet(file)
    line = ["bound", str(file), "--radii", "0.1", "--delta", "0.01", "--metrics", "all"]
    printed = CliRunner().invoke(app, [*line, "--json"])
    rows = {row["metric"]: row for row in json.loads(printed.stdout)["metrics"]}
    assert rows["squared_accuracy"]["joint"] == value.joint[0]
    assert "accuracy squared" in CliRunner().invoke(app, line, env={"COLUMNS": "400"}).stdout
    page = metric_rows(gather(made, radius=0.1, delta=0.01))
    assert "Square of the accuracy" in [row[0] for row in page]
