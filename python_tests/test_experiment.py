# SPDX-License-Identifier: MIT
"""The training experiment: plans are checked before anything runs, a run can be stopped, and the choice follows its rule."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="plans are read with tomllib, which Python has from 3.11 on"
)

PLAN = """
name = "tiny"
result = "experiment_tiny"
seeds = [0, 1]
alpha = 0.001
bins = 10
within = 0.05
least_accuracy = 0.05
reference = "smoothadv"

[datasets.digits]
model = "certcal_ext.nets:digits_cnn"
sigma = 0.25
training = 200
validation = 40
test = 60
radii = [0.0, 0.1]
n0 = 20
n = 200
validation_n = 100
batch_size = 1024
settings = { epochs = 12, batch_size = 32, learning_rate = 0.005 }

[[datasets.digits.runs]]
name = "smoothadv"
method = "smoothadv"
options = { steps = 1 }
candidates = [{ radius = 0.1 }, { radius = 0.2 }]

[[datasets.digits.runs]]
name = "cce-act"
method = "cce-act"
start = "smoothadv/1"
settings = { epochs = 2 }
options = { radius = 0.1, steps = 1 }
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "experiment.py"), str(folder / "plan.toml"), "--jobs=2"]
    command += [f"--work={folder / 'work'}", f"--results={folder / 'results'}", "--device=cpu"]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_plan_from_training_to_tables(tmp_path: Path) -> None:
    """Run, lose some of the work, run again: only what was lost is done again, and the numbers are the same."""
    (tmp_path / "plan.toml").write_text(PLAN)
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    results = tmp_path / "results"
    record = json.loads((results / "experiment_tiny.json").read_text())
    found = record["measurements"]["digits"]
    assert set(found["measures"]) == {"scores", "votes"}
    for confidence in found["measures"].values():
        plain = confidence["plain"]["smoothadv"]
        assert len(plain["certified_brier"]["values"]) == 2
        assert np.mean(plain["certified_brier"]["values"], axis=0) == pytest.approx(
            plain["certified_brier"]["mean"], rel=1e-3
        )
        common = confidence["common"]
        assert common["smoothadv"]["samples"] == common["cce-act"]["samples"]
    cut = found["compared"]["scores"]["cce-act"]["certified_brier_cut"]
    assert -1 < cut["mean"] < 1
    page = (results / "experiment_tiny.md").read_text()
    assert "## digits" in page
    assert "| smoothadv |" in page
    assert "<svg" in (results / "experiment_tiny.svg").read_text()

    work = tmp_path / "work" / "tiny" / "digits"
    kept = work / "smoothadv-0-seed0.json"
    before = kept.stat().st_mtime_ns
    for name in ("cce-act-0-seed1.json", "cce-act-0-seed1.pt", "cce-act-0-seed1-test.parquet"):
        (work / name).unlink()
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "training: 1 of 1 (cce-act-0-seed1.json)" in again.stdout
    assert kept.stat().st_mtime_ns == before
    new = json.loads((results / "experiment_tiny.json").read_text())["measurements"]["digits"]
    assert new["measures"] == found["measures"]

    changed = PLAN.replace("epochs = 12", "epochs = 13")
    (tmp_path / "plan.toml").write_text(changed)
    other = run(tmp_path)
    assert other.returncode == 2
    assert "is of another plan; give another folder with --work" in other.stderr


@pytest.mark.parametrize("name", ["reduced", "full"])
def test_the_committed_plans_are_sound(name: str, bench: None) -> None:
    from experiment_plan import read_plan

    plan = read_plan(BENCH / "plans" / f"{name}.toml")
    assert len(plan.seeds) >= 3
    assert {data.name for data in plan.data} == {"fashion-mnist", "digits"}
    methods = {run.method for data in plan.data for run in data.runs}
    assert methods == {"gaussian", "smoothadv", "brier-act", "cce-act", "acce-act", "certificate"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("alpha = 0.001", "alpha = ", "is no TOML"),
        ("alpha = 0.001", "alhpa = 0.001", r"unknown: \['alhpa'\]; missing: \['alpha'\]"),
        ("sigma = 0.25", "", r"digits: unknown: none; missing: \['sigma'\]"),
        ('method = "cce-act"', 'method = "magic"', "cce-act: method: expected one of gaussian"),
        ("smoothadv/1", "smoothadv/2", "start: expected run/candidate, got 'smoothadv/2'"),
        ("radius = 0.1, steps", "radios = 0.1, steps", "digits, cce-act/0: .*radios"),
        ("radius = 0.2", "radius = -1.0", "digits, smoothadv/1: radius: expected a radius of at"),
        ("learning_rate = 0.005", "learning_rate = 0.0", "learning_rate: expected a number above"),
        ('reference = "smoothadv"', 'reference = "x"', "one of them 'x'"),
        ("seeds = [0, 1]", "seeds = []", "expected at least one data set and one seed"),
    ],
)
def test_bad_plans(old: str, new: str, message: str, tmp_path: Path, bench: None) -> None:
    from experiment_plan import read_plan

    assert old in PLAN
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_plan(path)


def test_runs_that_start_from_each_other(tmp_path: Path, bench: None) -> None:
    from experiment_plan import read_plan

    circle = PLAN.replace("options = { steps = 1 }", 'options = { steps = 1 }\nstart = "cce-act/0"')
    (tmp_path / "plan.toml").write_text(circle)
    with pytest.raises(ValueError, match="start: expected runs without circles"):
        read_plan(tmp_path / "plan.toml")


def measured(accuracy: list[float], brier: list[float]) -> dict[str, Any]:
    return {"certified_accuracy": np.array(accuracy), "certified_brier": np.array(brier)}


def test_the_choice_follows_its_rule(tmp_path: Path, bench: None) -> None:
    """The largest radius at which the reference is good enough; there the lowest score within reach of the best accuracy."""
    from experiment import choose
    from experiment_plan import read_plan

    (tmp_path / "plan.toml").write_text(
        PLAN.replace("least_accuracy = 0.05", "least_accuracy = 0.3")
    )
    plan = read_plan(tmp_path / "plan.toml")
    data = plan.data[0]
    found = {
        ("smoothadv", 0): measured([0.9, 0.34], [0.1, 0.20]),
        ("smoothadv", 1): measured([0.9, 0.36], [0.1, 0.30]),
        ("cce-act", 0): measured([0.9, 0.40], [0.1, 0.10]),
    }
    choice = choose(plan, data, found)
    assert (choice["radius"], choice["at"], choice["best"]) == (0.1, 1, 0.40)
    # 0.34 is more than 0.05 below the best, so the lower score does not count.
    assert choice["runs"]["smoothadv"] == {"candidate": 1, "within": True}
    assert choice["runs"]["cce-act"] == {"candidate": 0, "within": True}
    found["cce-act", 0] = measured([0.9, 0.50], [0.1, 0.10])
    assert choose(plan, data, found)["runs"]["smoothadv"] == {"candidate": 1, "within": False}
    poor = {key: measured([0.1, 0.1], [0.1, 0.1]) for key in found}
    with pytest.raises(ValueError, match="radii: expected one at which smoothadv certifies 30%"):
        choose(plan, data, poor)


def test_no_image_is_in_two_parts(bench: None) -> None:
    from experiment_jobs import images_of

    parts = images_of("digits", 800, 300, 400, 0)
    ids = np.concatenate([part.ids for part in parts.values()])
    assert len(np.unique(ids)) == len(ids) == 1500
    later = images_of("digits", 800, 300, 400, 400)
    assert not np.isin(later["test"].ids, parts["test"].ids).any()
    assert np.isin(parts["test"].ids, later["train"].ids).any()
    with pytest.raises(ValueError, match="digits: expected 2000 images for train"):
        images_of("digits", 2000, 300, 400, 0)
    with pytest.raises(ValueError, match="expected fashion-mnist or digits"):
        images_of("cifar", 1, 1, 1, 0)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "experiment: error: plan: no such file" in done.stderr
