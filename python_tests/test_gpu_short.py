# SPDX-License-Identifier: MIT
"""The short script for a GPU, walked through on the CPU: every step, and what is left where time runs out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
STEPS = ["build", "doctor", "kernels", "tests", "loop", "memcheck", "racecheck"]

if not (TOOLS / "gpu_short.sh").exists():
    pytest.skip("tools/ is not beside the tests", allow_module_level=True)


def dry_run(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(TOOLS / "gpu_check.sh"), "--dry-run", str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_step_works_without_a_gpu_and_leaves_its_result(tmp_path: Path) -> None:
    run = dry_run(tmp_path, CERTCAL_COMMIT="some commit")
    assert run.returncode == 0, run.stdout + run.stderr + (tmp_path / "log.txt").read_text()
    steps = lines(tmp_path / "steps.jsonl")
    assert [step["step"] for step in steps] == STEPS
    assert all(step["exit"] == 0 for step in steps)
    assert len(list(tmp_path.iterdir())) < 8
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["commit"] == "some commit"
    assert set(record["bytes_per_second"]) == {"copy", "read", "write"}
    kernels, loops = lines(tmp_path / "kernels.jsonl"), lines(tmp_path / "loop.jsonl")
    # What was seen on a CPU cannot be taken for a GPU's.
    assert all(row["dry_run"] for row in [record, *kernels, *loops])
    assert all(row["equal"] for row in kernels if "check" in row)
    assert {row.get("kernel") for row in kernels} == {None, "noise", "votes"}
    for row in loops:
        assert {"bare_us_a_pass", "classic_us_a_pass", "ours_us_a_pass", "graph_us_a_pass"} <= set(
            row
        )
        assert row["votes_moved_by_the_graph"] == 0
    log = (tmp_path / "log.txt").read_text()
    for step in ("memcheck", "racecheck"):  # their selections are not empty
        chosen = log.split(f"==== {step}\n")[1].split("====")[0]
        assert "test_cuda.py::" in chosen


def test_where_no_time_is_left_the_steps_say_so_and_results_stay(tmp_path: Path) -> None:
    run = dry_run(tmp_path, CERTCAL_GPU_SECONDS="6")
    assert run.returncode == 1
    steps = lines(tmp_path / "steps.jsonl")
    assert [step["step"] for step in steps] == STEPS
    assert steps[0]["exit"] == 0
    assert steps[-1]["exit"] == 124
    assert max(int(str(step["at"])) for step in steps) <= 20
    assert "no time is left" in (tmp_path / "log.txt").read_text()
