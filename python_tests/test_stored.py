# SPDX-License-Identifier: MIT
"""Files that an older version wrote are still read, and mean what they meant (data/stored)."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import certcal_ext as cc

FOLDER = Path(__file__).parent / "data" / "stored"
VALUES = json.loads((FOLDER / "values.json").read_text())
TABLES = sorted(name for name in VALUES if name != "attack")

CORRECT, LOWER, UPPER = [1, 0, 1, 1], [0.2, 0.3, 0.9, 0.55], [0.4, 0.5, 1.0, 0.6]

STATES = {
    "EceTable": {"bins": 5},
    "BrierState": {},
    "EceState": {"bins": 5},
    "KsState": {"bits": 4},
    "LogLossState": {"clip": 0.01},
    "RiskCoverageState": {"thresholds": [0, 0.5, 1]},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_and_give_the_same_curves(name: str, tmp_path: Path) -> None:
    stored = VALUES[name]
    made = cc.Certificates.from_parquet(FOLDER / f"{name}.parquet")
    assert (len(made), made.provenance.kind) == (stored["rows"], stored["kind"])
    radii = np.array(stored["radii"])
    kept = np.ones(radii.size, np.bool_)
    if (
        made.planned_radii is not None
    ):  # 0.1.0 did not say that labels choose who is certified elsewhere
        kept = np.isin(radii, made.planned_radii)
        with pytest.raises(ValueError, match="planned for"):
            made.curve(radii)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # radii at which little is certified
        curve = made.curve(radii[kept])
    assert curve.certified.tolist() == np.array(stored["certified"])[kept].tolist()
    for measure in ("certified_ece", "certified_brier"):
        now, then = getattr(curve, measure), np.array(stored[measure], float)[kept]
        # A later version may be more careful by some rounding steps, and must never claim more.
        assert np.allclose(now, then, rtol=0, atol=1e-5, equal_nan=True)
        assert (np.isnan(then) | (now >= then - 1e-12)).all()
    made.to_parquet(tmp_path / "again.parquet")
    assert cc.Certificates.from_parquet(tmp_path / "again.parquet") == made


def test_the_stored_tables_are_of_every_kind() -> None:
    assert {VALUES[name]["kind"] for name in TABLES} == {"votes", "scores", "log", "intervals"}


@pytest.mark.parametrize("name", sorted(STATES))
def test_states_are_read_and_go_on(name: str) -> None:
    kind, options = getattr(cc, name), STATES[name]
    with np.load(FOLDER / "states.npz") as stored:
        read = kind.from_state(stored[name], **options)
    fresh = kind(**options)
    fresh.update(CORRECT, LOWER, UPPER)
    assert np.array_equal(read.state(), fresh.state())


def test_an_attack_is_read() -> None:
    pytest.importorskip("torch", reason="attacks need torch")
    read = cc.AttackResult.from_parquet(FOLDER / "attack.parquet")
    assert len(read) == VALUES["attack"]["rows"]
    assert read.index.tolist() == VALUES["attack"]["index"]


def test_a_log_is_read() -> None:
    stored, votes = VALUES["log"], cc.Certificates.from_parquet(FOLDER / "votes.parquet")
    read = cc.Certificates.from_cohen_log(FOLDER / "log.tsv", 0.25, 1000, 5e-4)
    assert len(read) == stored["rows"]
    assert np.array_equal(
        read.table.column("predicted").to_numpy(zero_copy_only=False)[~read.abstained],
        votes.table.column("predicted").to_numpy(zero_copy_only=False)[~read.abstained],
    )


def test_a_training_checkpoint_is_read() -> None:
    pytest.importorskip("torch", reason="training needs torch")
    from certcal_ext.training.checkpoint import Checkpoint

    assert Checkpoint.load(FOLDER / "training.pt").history


def test_the_work_folder_of_a_run_is_read(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="runs need torch")
    from certcal_ext.runs.folder import Manifest

    work = shutil.copytree(FOLDER / "run", tmp_path / "run")
    text = (work / "manifest.json").read_bytes()
    assert Manifest.from_json(text, work / "manifest.json").problem
