# SPDX-License-Identifier: MIT
"""The demonstration: the same numbers on every run, and the caller's settings left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from certcal_ext import Certificates  # noqa: E402
from certcal_ext.cli import app  # noqa: E402
from certcal_ext.demo import DemoSettings, load_digits, run_demo  # noqa: E402
from certcal_ext.demo.model import train  # noqa: E402


def test_the_digits() -> None:
    images, labels = load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    np.testing.assert_array_equal(images * 16, np.round(images * 16))
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The first row of pixels of the first image as scikit-learn prints it.
    assert (images[0, 0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert labels[:10].tolist() == list(range(10))


def test_the_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    theirs = datasets.load_digits()
    images, labels = load_digits()
    np.testing.assert_array_equal(images[:, 0] * 16, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)


def small_training(seed: int = 0) -> dict[str, Any]:
    images, labels = load_digits()
    weights: dict[str, Any] = train(
        images[:100], labels[:100], sigma=0.25, epochs=2, seed=seed
    ).state_dict()
    return weights


def test_training_does_not_depend_on_what_was_before_it() -> None:
    threads = torch.get_num_threads()
    first = small_training()
    try:
        torch.manual_seed(123)
        torch.rand(5)
        torch.set_num_threads(2)
        second = small_training()
    finally:
        torch.set_num_threads(threads)
    other = small_training(seed=1)
    for name, weight in first.items():
        assert torch.equal(weight, second[name])
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_training_leaves_torch_as_it_was() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(5)
        state = torch.get_rng_state()
        small_training()
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.are_deterministic_algorithms_enabled()
        with pytest.raises(ValueError, match="interrupted"):
            train(*load_digits(), sigma=0.25, epochs=1, seed=0, progress=interrupt)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)


def interrupt(done: int, total: int) -> None:
    raise ValueError("interrupted")


def test_one_thread_and_two_give_the_same_certificates() -> None:
    settings = DemoSettings(images=30, epochs=20, n0=50, n=400)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(run_demo(settings))
    finally:
        torch.set_num_threads(threads)
    assert results[0].certificates == results[1].certificates
    assert results[0].clean_accuracy == results[1].clean_accuracy


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    result = CliRunner().invoke(app, ["demo", "--quick", "--out", str(folder), "--json"])
    assert result.exit_code == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_it_writes_certificates_and_a_report(quick: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = quick
    assert sorted(path.name for path in folder.iterdir()) == ["certificates.parquet", "report.html"]
    stored = Certificates.from_parquet(folder / "certificates.parquet")
    assert len(stored) == printed["total"] == 60
    assert stored.provenance.sigma == 0.25
    assert stored.provenance.n == 1000
    page = (folder / "report.html").read_text()
    assert "certcal demo --quick" in page
    assert "<svg" in page


def test_its_numbers_make_sense(quick: tuple[Path, dict[str, Any]]) -> None:
    rows = quick[1]["radii"]
    assert [row["radius"] for row in rows][:3] == [0, 0.05, 0.1]
    assert quick[1]["clean_accuracy"] > 0.7
    assert rows[0]["certified_accuracy"] > 0.6
    for row in rows:
        assert row["certified_ece"] >= row["ece"] - 1e-12
        assert row["certified_brier"] >= row["brier"] - 1e-12
        assert row["constant_brier"] == pytest.approx(row["accuracy"] * (1 - row["accuracy"]))
    certified = [row["certified"] for row in rows]
    assert certified == sorted(certified, reverse=True)


def test_a_fresh_process_on_one_thread_gives_the_same_numbers(
    quick: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "certcal_ext", "demo", "--quick", "--out", str(tmp_path)]
    result = subprocess.run(
        [*command, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["radii"] == quick[1]["radii"]
    first, second = (
        Certificates.from_parquet(folder / "certificates.parquet")
        for folder in (quick[0], tmp_path)
    )
    assert first == second


def test_it_prints_a_table(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--quick", "--seed", "3", "--out", str(tmp_path)])
    assert result.exit_code == 0
    for words in ("ECE %", "Brier", "Const.", "skill", "60 held-out digits"):
        assert words in result.stdout
    assert "certifying: 100 %" in result.stderr


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    result = CliRunner().invoke(app, ["demo", "--quick", "--out", str(tmp_path / "file")])
    assert result.exit_code == 2
    assert "expected a folder" in result.stderr
    assert (tmp_path / "file").read_text() == "kept"
    for settings, message in (
        (DemoSettings(images=0), "images: expected a number >= 1"),
        (DemoSettings(epochs=0), "epochs: expected a number >= 1"),
        (DemoSettings(images=1700), "at most 1797 together, got 1800"),
        (DemoSettings(sigma=-1.0, epochs=1, images=1), "sigma"),
    ):
        with pytest.raises(ValueError, match=message):
            run_demo(settings)
