# SPDX-License-Identifier: MIT
"""Runs that stopped samples early: what may be said of them, at which radii, and with what probability."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from typer.testing import CliRunner

import certcal_ext as cc
from certcal_ext.certificates.compare import compare
from certcal_ext.certificates.evidence import LABELS_CHOSE, NOT_OF_VOTES, SHARED_DRAWS
from certcal_ext.certificates.recalibrate import halves, recalibrate_split
from certcal_ext.certificates.validity import failing_intervals
from certcal_ext.cli import app
from certcal_ext.cli.recalibrate import MapOptions, split_and_fit
from certcal_ext.interop.export import certified_radii, export, read_back_alpha
from certcal_ext.intervals.clopper_pearson import best_radius, clopper_pearson
from certcal_ext.report.facts import default_radii, gather
from certcal_ext.stopping.adaptive import ReplayedVotes, run_adaptive
from certcal_ext.stopping.rules import Stopping

#: Chance that a correct implementation fails one of the statistical tests.
FALSE_ALARM = 1e-6
SIGMA, RADIUS, OTHER = 0.25, 0.25, 0.1
RULES = Stopping(radii=(RADIUS,), n_max=5000, n_min=50, planning=100, max_draws=500)


def population(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities of a classifier that is right more often where it is surer, and whether it is."""
    random = np.random.default_rng(seed)
    p = random.beta(4, 0.5, rows)
    return p, random.random(rows) < p


def stopped(
    rows: int = 400, seed: int = 0, labels: bool = True, **rules: Any
) -> tuple[cc.Certificates, cc.Certificates]:
    """A run that stopped early, and the plain run of all draws."""
    p, right = population(rows, seed)
    votes = np.random.default_rng(seed + 1).binomial(5000, p)
    predicted, true = np.where(right, 0, 1), np.zeros(rows, int) if labels else None
    result = run_adaptive(
        ReplayedVotes(votes, 5000, seed),
        right if labels else None,
        SIGMA,
        1e-3,
        dataclasses.replace(RULES, **rules),
    )
    return (
        cc.Certificates.from_adaptive(result, predicted, true),
        cc.Certificates.from_votes(votes, 5000, predicted, true, SIGMA),
    )


PATHS: dict[str, Callable[[cc.Certificates, float], Any]] = {
    "at": lambda made, radius: made.at(radius),
    "curve": lambda made, radius: made.curve([RADIUS, radius]),
    "ece": lambda made, radius: made.ece(radius),
    "brier": lambda made, radius: made.brier([radius]),
    "ece of the certified scope": lambda made, radius: made.ece(radius, delta=0.01),
    "bound": lambda made, radius: made.bound("brier", [radius, RADIUS]),
    "joint bound": lambda made, radius: made.bound("ks", radius, delta=1e-3),
    "compare": lambda made, radius: compare({"a": made, "b": stopped(seed=0)[0]}, radius),
    "compare, own": lambda made, radius: compare(
        {"a": made, "b": stopped(seed=0)[1]}, radius, samples="certified"
    ),
    "recalibration": lambda made, radius: recalibrate_split(made, radius),
    "page": lambda made, radius: gather(made, radius=radius),
    "page's table": lambda made, radius: gather(made, radii=[radius, RADIUS]),
}


@pytest.fixture(scope="module")
def early() -> cc.Certificates:
    return stopped()[0]


def test_wrong_samples_drop_out_elsewhere() -> None:
    # Why all this: the certified samples of another radius are chosen by their labels.
    made, full = stopped(1000)
    far = 0.4
    certified = made.rows_at(far).certified
    right = made.table.column("correct").to_numpy()
    accuracy = full.curve(far).accuracy[0]
    assert right[certified].mean() > accuracy + 0.008
    assert certified.sum() < 0.9 * full.curve(far).certified[0]


@pytest.mark.parametrize("path", PATHS)
def test_certified_samples_are_spoken_of_at_planned_radii_only(
    early: cc.Certificates, path: str
) -> None:
    assert early.planned_radii == (RADIUS,)
    PATHS[path](early, RADIUS)
    for radius in (0.0, OTHER, float(np.nextafter(RADIUS, 0)), 0.5):
        with pytest.raises(ValueError, match=r"expected one that the run was planned for, 0\.25"):
            PATHS[path](early, radius)


@given(st.floats(0, 2))
def test_all_samples_may_be_asked_for_at_any_radius(radius: float) -> None:
    made = stopped_once()
    bound = made.bound("brier", radius, scope="all", delta=0.01)
    assert bound.samples[0] == len(made)
    assert made.rows_at(radius).certified.size == len(made)
    both = compare({"a": made, "b": made}, radius, samples="all")
    assert both.curves["a"].samples[0] == len(made)


_ONCE: list[cc.Certificates] = []


def stopped_once() -> cc.Certificates:
    """The same run for every example."""
    if not _ONCE:
        _ONCE.append(stopped(60)[0])
    return _ONCE[0]


def test_runs_without_labels_and_plain_runs_know_no_planned_radii(tmp_path: Path) -> None:
    unlabelled, plain = stopped(60, labels=False)
    assert unlabelled.planned_radii is None
    assert plain.planned_radii is None
    assert len(unlabelled.at(OTHER)) > 0
    assert LABELS_CHOSE not in unlabelled.provenance.notes
    made = stopped_once()
    assert LABELS_CHOSE in made.provenance.notes
    assert "max_draws was too few for the tolerance of 0.0035" in made.provenance.notes[-1]
    made.to_parquet(tmp_path / "c.parquet")
    assert cc.Certificates.from_parquet(tmp_path / "c.parquet").planned_radii == (RADIUS,)
    assert made.select(np.arange(9)).planned_radii == (RADIUS,)


def test_defaults_are_planned_radii(early: cc.Certificates) -> None:
    assert default_radii(early) == [RADIUS]
    with pytest.raises(ValueError, match="planned for"):
        gather(stopped()[1], radius=OTHER, models={"a": stopped()[1], "b": early})
    sentence = early.bound("ece", RADIUS, delta=1e-3).statement()
    assert "decided with the help of their labels" in sentence
    assert "labels" not in early.bound("ece", OTHER, scope="all", delta=1e-3).statement()
    facts = gather(early, recalibrate=None)
    assert facts.radius == RADIUS
    assert facts.dense.radius.tolist() == [RADIUS]


def test_the_command_line_marks_and_refuses(early: cc.Certificates, tmp_path: Path) -> None:
    path = tmp_path / "early.parquet"
    early.to_parquet(path)
    told = CliRunner().invoke(app, ["bound", str(path)])
    assert told.exit_code == 0
    words = " ".join(told.output.split())
    assert "decided with the help of their labels" in words
    assert "planned for radius 0.25" in words
    printed = json.loads(CliRunner().invoke(app, ["bound", str(path), "--json"]).stdout)
    assert printed["planned_radii"] == [RADIUS]
    assert [row["radius"] for row in printed["radii"]] == [RADIUS]
    refused = CliRunner().invoke(app, ["bound", str(path), "--radii", "0.1"])
    assert refused.exit_code == 2
    plain = tmp_path / "plain.parquet"
    stopped()[1].to_parquet(plain)
    beside = CliRunner().invoke(
        app, ["bound", str(plain), "--compare", str(path), "--radii", "0.25"]
    )
    assert "early.parquet: Which samples are certified was decided" in " ".join(
        beside.output.split()
    )
    beside = CliRunner().invoke(
        app, ["bound", str(plain), "--compare", str(path), "--radii", "0.1"]
    )
    assert beside.exit_code == 2
    everyone = CliRunner().invoke(
        app, ["bound", str(path), "--metrics", "brier", "--scope", "all", "--delta", "0.01"]
    )
    assert everyone.exit_code == 0


@pytest.mark.parametrize("metric", ["brier", "log_loss", "selective_risk"])
@pytest.mark.parametrize("scope", ["certified", "all"])
@pytest.mark.parametrize("kind", ["staged", "sequence"])
def test_no_population_bound_where_the_plan_was_shared(kind: str, scope: str, metric: str) -> None:
    rules = {"method": "sequence"} if kind == "sequence" else {}
    made = stopped(60, **rules)[0] if rules else stopped_once()
    options = {"scope": scope, "delta": 0.01, "clip": 0.01}
    assert made.bound(metric, RADIUS, **options).population is None
    with pytest.raises(ValueError, match="population: expected False, as these samples stopped"):
        made.bound(metric, RADIUS, population=True, **options)


def test_staged_runs_fail_as_often_as_the_count_allows_and_bounds_hold() -> None:
    # Theorems 5 to 7 for runs whose looks at a row depend on the votes of all others: in 40 runs, more rows are false than
    # the binomial count allows, or a joint bound lies below what an attack reaches, with probability at most delta each.
    # Exact binomial tests, false alarm 1e-6 each.
    alpha, delta, runs, rows = 0.1, 0.2, 40, 60
    rules = Stopping(
        radii=(OTHER,),
        n_max=600,
        planning=20,
        n_min=20,
        tolerance=0.02,
        decision_tolerance=0.02,
        alpha_share=(0.5, 0.5),
        planning_stages=2,
        bins=5,
    )
    allowed = failing_intervals(rows, alpha, delta)
    too_many = looked_twice = 0
    above = dict.fromkeys(("certified", "all"), 0)
    for run in range(runs):
        p, right = population(rows, 100 + run)
        votes = np.random.default_rng(run).binomial(600, p)
        result = run_adaptive(ReplayedVotes(votes, 600, run), right, SIGMA, alpha, rules)
        looked_twice += int((result.look > 0).sum())
        too_many += int(((result.lower > p) | (result.upper < p)).sum()) > allowed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = cc.Certificates.from_adaptive(result, np.where(right, 0, 1), np.zeros(rows, int))
        shift = OTHER / SIGMA
        reached = np.where(right, 1 - ndtr(ndtri(p) - shift), ndtr(ndtri(p) + shift)) ** 2
        for scope in above:
            inside = made.rows_at(OTHER).certified | (scope == "all")
            bound = made.bound("brier", OTHER, scope=scope, delta=delta).joint[0]
            above[scope] += bool(inside.any()) and bound < reached[inside].mean()
    assert looked_twice > 0
    for failed in (too_many, *above.values()):
        assert binomtest(failed, runs, delta, alternative="greater").pvalue > FALSE_ALARM


def test_the_fit_radius_is_chosen_by_the_fitting_half_alone() -> None:
    # Whatever the other half holds, the map is the same.
    random = np.random.default_rng(5)
    p = random.beta(3, 0.7, 400)
    right = random.random(400) < p
    predicted, true = np.where(right, 0, 1), np.zeros(400, int)
    votes = random.binomial(1000, p)
    made = cc.Certificates.from_votes(votes, 1000, predicted, true, SIGMA)
    fitting, _ = halves(made)
    in_fit = np.isin(np.arange(400), fitting.table.column("index").to_numpy())
    chosen = split_and_fit(made, MapOptions(kind="isotonic"), None).split
    kept = int(np.flatnonzero(~in_fit)[0])  # one that both halves need at every radius
    for least, most in ((0, 560), (995, 1000)):
        other = np.where(in_fit, votes, np.clip(votes, least, most))
        other[kept] = 1000
        again = cc.Certificates.from_votes(other, 1000, predicted, true, SIGMA)
        for radii in (None, [0.0, 0.02, 0.05, 0.1, 0.2, 0.3]):
            expected = (
                chosen
                if radii is None
                else split_and_fit(made, MapOptions(kind="isotonic"), radii).split
            )
            found = split_and_fit(again, MapOptions(kind="isotonic"), radii).split
            assert found.radius == expected.radius
            assert found.mapping.to_json() == expected.mapping.to_json()


@pytest.mark.parametrize("method", ["staged", "sequence"])
@pytest.mark.parametrize("shares", [(0.7, 0.3), (1.0,), (0.2, 0.8)])
@pytest.mark.parametrize("labels", [True, False])
def test_no_row_of_a_stopped_run_is_certified_beyond_the_best_radius(
    method: str, shares: tuple[float, ...], labels: bool
) -> None:
    rules = dataclasses.replace(RULES, method=method, alpha_share=shares, max_draws=None)
    right = np.ones(20, np.bool_) if labels else None
    result = run_adaptive(ReplayedVotes([5000] * 20, 5000), right, SIGMA, 1e-3, rules)
    # At any look with all its votes, a row is certified no further.
    for look in range(len(shares) if method == "staged" else 1):
        again = dataclasses.replace(result, look=np.full(20, look))
        ends = again.at_level(1e-3)
        again = dataclasses.replace(again, lower=ends.lower, upper=ends.upper)
        made = cc.Certificates.from_adaptive(again, [0] * 20, [0] * 20 if labels else None)
        best = made.best_radius
        assert best is not None
        assert certified_radii(made).max() <= best
        assert made.rows_at(best).certified.any() == (certified_radii(made).max() == best)


@given(st.integers(1, 10**6), st.sampled_from([1e-6, 1e-3, 0.05, 0.3]), st.floats(1e-3, 10.0))
def test_the_best_radius_is_one_that_all_votes_certify(n: int, alpha: float, sigma: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cc.Certificates.from_votes([n], n, [0], [0], sigma, alpha)
    best = made.best_radius
    assert best == best_radius(n, alpha, sigma)
    if best == 0:
        assert made.abstained.all()
        return
    assert made.rows_at(best).certified.all()
    assert not made.rows_at(best * (1 + 1e-12)).certified.any()
    # "Could ever give", in four digits, says no more than it is.
    told = float(made.best_radius_words().split("could ever give is ")[1].split()[0])
    assert best * (1 - 1e-3) <= told <= best


@pytest.mark.parametrize("selection", [None, [0]])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_best_radius_with_a_bound_on_the_runner_up(
    selection: list[int] | None, classes: int
) -> None:
    counts = [[2000] + [0] * (classes - 1)]
    made = cc.Certificates.from_counts(counts, [0], SIGMA, selection=selection, runner_up=True)
    assert made.best_radius == certified_radii(made)[0]
    assert made.best_radius < best_radius(2000, 1e-3, SIGMA)


def test_a_log_keeps_what_its_counts_were(tmp_path: Path) -> None:
    counts = np.random.default_rng(3).multinomial(1000, [0.7, 0.2, 0.1], 30)
    true = np.zeros(30, int)
    shared = cc.Certificates.from_counts(counts, true, SIGMA)
    export(shared, tmp_path / "shared.tsv")
    level = read_back_alpha(shared)
    assert level is not None
    again = cc.Certificates.from_cohen_log(tmp_path / "shared.tsv", SIGMA, 1000, level)
    assert SHARED_DRAWS in again.provenance.notes
    split = cc.Certificates.from_counts(counts, true, SIGMA, split=100)
    export(split, tmp_path / "split.tsv")
    apart = cc.Certificates.from_cohen_log(tmp_path / "split.tsv", SIGMA, 900, level)
    assert SHARED_DRAWS not in apart.provenance.notes
    # And pays for it: rows may fail more often.
    assert again.source("certified", np.zeros(1)).row_alpha == 1.5 * level
    assert again.source("all", np.zeros(1)).row_alpha == 2 * level
    assert apart.source("all", np.zeros(1)).row_alpha == level
    made = stopped_once()
    scores = cc.Certificates.from_counts(counts, true, SIGMA, runner_up=True, selection=true)
    for name, other in (("stopped", made), ("runner_up", scores)):
        export(other, tmp_path / f"{name}.tsv")
        with pytest.raises(ValueError, match=NOT_OF_VOTES):
            cc.Certificates.from_cohen_log(tmp_path / f"{name}.tsv", SIGMA, 1000, 5e-4)


def test_a_level_of_the_best_radius_is_that_of_the_interval() -> None:
    assert best_radius(5, 1e-3, SIGMA) == 0
    lower = clopper_pearson([1000], 1000, 1e-3).lower[0]
    assert best_radius(1000, 1e-3, SIGMA) == pytest.approx(SIGMA * ndtri(lower), rel=1e-12)
