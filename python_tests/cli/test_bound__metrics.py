# SPDX-License-Identifier: MIT
"""``certcal bound`` beyond the plain table: metrics, joint validity, recalibration, baselines, more draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import certcal_ext as cc
from certcal_ext.cli import app

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    votes = np.stack([rng.multinomial(1000, p) for p in rng.dirichlet([0.25] * 3, 200)])
    labels = np.where(rng.random(200) < 0.85, votes.argmax(1), rng.integers(0, 3, 200))
    path = tmp_path_factory.mktemp("counts") / "counts.npz"
    np.savez(path, counts=votes, label=labels, sigma=0.25)
    return path


def run(counts: Path, *options: str) -> str:
    result = RUNNER.invoke(app, ["bound", str(counts), "--radii", "0,0.1", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def parsed(counts: Path, *options: str) -> Any:
    return json.loads(run(counts, *options, "--json"))


def made(counts: Path, **options: Any) -> cc.Certificates:
    return cc.Certificates.from_npz(counts, **options)


def test_metrics_are_those_of_the_library(counts: Path) -> None:
    options = (
        "--metrics",
        "all,classwise_ece",
        "--scope",
        "all",
        "--delta",
        "0.01",
        "--clip",
        "0.01",
    )
    rows = {
        (row["metric"], row["radius"]): row
        for row in parsed(counts, *options, "--population")["metrics"]
    }
    assert len(rows) == 16
    own = made(counts, keep_counts=True)
    for metric in ("brier", "ece", "ks", "mce", "log_loss", "selective_risk"):
        whole = metric in ("brier", "log_loss", "selective_risk")
        curve = own.bound(metric, [0, 0.1], scope="all", delta=0.01, clip=0.01, population=whole)
        for at, radius in enumerate((0.0, 0.1)):
            row = rows[metric, radius]
            assert row["worst"] == curve.worst[at]
            assert row["joint"] == curve.joint[at]
            assert row["joint_method"] == curve.method[at]
            assert row["statement"] == curve.statement(at)
            assert row["population"] == (curve.population[at] if whole else None)
    classes = own.classwise([0, 0.1], scope="all", delta=0.01)
    assert rows["classwise_ece", 0.1]["joint"] == classes.joint[1]
    text = run(counts, *options)
    assert "Jointly valid" in text
    assert "With probability at least 0.99 over the noise draws" in text


def test_nothing_more_is_shown_where_nothing_is_asked(counts: Path) -> None:
    assert parsed(counts)["metrics"] == []
    assert "Jointly valid" not in run(counts)
    assert [row["metric"] for row in parsed(counts, "--delta", "0.1")["metrics"]][::2] == [
        "ece",
        "brier",
    ]


def test_recalibration(counts: Path) -> None:
    found = parsed(counts, "--recalibrate", "isotonic", "--fit-radius", "0.1")
    gain = found["recalibration"]
    split = cc.recalibrate_split(made(counts), 0.1)
    (report,) = split.reports([0.1])
    assert gain["certified_on"] == found["total"] == len(split.plain)
    row = gain["radii"][1]
    assert row["after"]["certified_brier"] == report.after.certified_brier
    assert row["before"]["certified_ece"] == report.before.certified_ece
    assert found["radii"][1]["certified_brier"] == report.after.certified_brier
    text = run(counts, "--recalibrate", "tradeoff")
    assert "Recalibration, before and after (tradeoff)" in text


def test_recalibrated_certificates_are_written_with_their_map(counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "recalibrated.parquet"
    run(counts, "--recalibrate", "platt", "--fit-radius", "0.1", "--out", str(out))
    stored = cc.Certificates.from_parquet(out)
    split = cc.recalibrate_split(made(counts), 0.1, "platt")
    assert stored.recalibration == split.mapping
    assert stored.ece(0.1).tolist() == split.certified.ece(0.1).tolist()


def test_runner_up_and_equal_mass(counts: Path) -> None:
    assert (
        parsed(counts, "--runner-up")["radii"][0]["certified"]
        > parsed(counts)["radii"][0]["certified"]
    )
    found = parsed(counts, "--equal-mass", "--bins", "5")
    confidence = made(counts).table.column("confidence").to_numpy()
    assert found["edges"] == cc.equal_mass_edges(confidence, 5).tolist()


def test_baselines_are_never_above_the_exact_value(counts: Path) -> None:
    rows = parsed(counts, "--baselines")["baselines"]
    for row in rows:
        for name in ("admm", "dece", "brier_worst"):
            assert row[name]["value"] <= row["exact"] + 1e-12
    assert "can only be lower" in run(counts, "--baselines")


def test_few_attacked(counts: Path) -> None:
    (first, second) = parsed(counts, "--max-attacked", "0", "--time-limit", "20")["max_attacked"]
    for row, radius in ((first, 0.0), (second, 0.1)):
        chosen = made(counts).at(radius)
        plain = cc.ece(chosen.correct, chosen.confidence)
        assert row["bound"] == pytest.approx(plain, abs=1e-6)
        assert row["all_attacked"] >= row["bound"]


def test_comparison(counts: Path, tmp_path: Path) -> None:
    stored = np.load(counts)
    other = tmp_path / "other.npz"
    votes = np.random.default_rng(3).permuted(stored["counts"], axis=1)
    np.savez(other, counts=votes, label=stored["label"], sigma=0.25)
    rows = parsed(counts, "--compare", str(other))["comparison"]
    pair = {"counts.npz": made(counts), "other.npz": made(other)}
    for samples in ("intersection", "all"):
        found = cc.compare(pair, [0, 0.1], "brier", samples=samples)
        for row in rows:
            if row["metric"] == "brier" and row["samples"] == samples:
                at = 0 if row["radius"] == 0 else 1
                assert row["worst"] == found.curves[row["model"]].worst[at]
                assert row["best"] == (found.best(at) == row["model"])
    text = run(counts, "--compare", str(other))
    assert "certified by all" in text
    assert "other.npz" in text
    result = RUNNER.invoke(app, ["bound", str(counts), "--compare", str(counts)])
    assert result.exit_code == 2
    assert "--compare: expected other files" in result.output


def test_more_draws(counts: Path) -> None:
    rows = parsed(counts, "--more-draws")["more_draws"]
    assert [row["factor"] for row in rows] == [1, 2, 4, 10] * 2
    curve = made(counts).curve([0, 0.1])
    for at, row in enumerate(rows[::4]):  # once the draws there are: the certificates as they stand
        assert row["certified"] == pytest.approx(curve.certified[at], abs=0.5)
        assert row["certified_ece"] == pytest.approx(curve.certified_ece[at], abs=2e-3)
        assert row["certified_brier"] == pytest.approx(curve.certified_brier[at], abs=2e-3)
    assert rows[3]["certified"] >= rows[0]["certified"]
    assert "nothing is" in run(counts, "--more-draws")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metrics", "auc"), "--metrics: expected all, or some of"),
        (("--scope", "some"), 'scope: expected "certified"'),
        (("--metrics", "ece", "--joint", "both"), "joint: expected one of best"),
        (("--recalibrate", "spline"), "kind: expected"),
        (
            ("--recalibrate", "isotonic", "--fit-radius", "9"),
            "radius: expected one that both halves",
        ),
        (("--equal-mass", "--edges", "0,0.5,1"), "--equal-mass: expected without --edges"),
        (("--population",), "population: expected delta"),
    ],
)
def test_bad_options(counts: Path, options: tuple[str, ...], words: str) -> None:
    result = RUNNER.invoke(app, ["bound", str(counts), "--radii", "0.1", *options])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())


def test_options_that_a_file_cannot_serve(counts: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    made(counts).to_parquet(path)
    for options, words in (
        (("--runner-up",), "--runner-up: a file of certificates"),
        (("--metrics", "classwise_ece"), "counts: expected the votes of all classes"),
    ):
        result = RUNNER.invoke(app, ["bound", str(path), "--radii", "0.1", *options])
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())
