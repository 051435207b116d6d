# SPDX-License-Identifier: MIT
"""Watching, timing out and interrupting the search; the bound stays valid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from problems import random_problem

import certcal_ext as cc
from certcal_ext.milp.solve import certified_ece_milp
from certcal_ext.milp.solver import Lines, watched

# Groups too many to finish in the minutes that these tests may take, and quick to build.
SIZE, SEED, GROUPS = 120, 1, 10


def reached() -> float:
    """The ECE of groups of equal mass at one point that an attack reaches."""
    problem = random_problem(SIZE, seed=SEED)
    z = np.where(problem.correct, problem.lower, problem.upper)
    order = np.argsort(z, kind="stable")
    parts = np.array_split((problem.correct - z)[order], GROUPS)
    return float(sum(abs(part.sum()) for part in parts) / SIZE)


CHILD = f"""
import json, sys
sys.path.insert(0, sys.argv[1])
from problems import random_problem
from certcal_ext.milp.solve import certified_ece_milp
problem = random_problem({SIZE}, seed={SEED})
def said(bound, incumbent, seconds):
    print("running", flush=True)
result = certified_ece_milp(*problem[:3], equal_mass={GROUPS}, progress=said, time_limit=300)
print(json.dumps([result.bound, result.incumbent, result.optimal, result.status]), flush=True)
"""


def test_ctrl_c_stops_the_solver_and_returns_the_bound_so_far() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, os.path.dirname(os.path.dirname(__file__))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "running"
        child.send_signal(signal.SIGINT)
        asked = time.monotonic()
        out, err = child.communicate(timeout=120)
        seconds = time.monotonic() - asked
    finally:
        child.kill()
    assert child.returncode == 0, err
    assert err == ""
    bound, incumbent, optimal, status = json.loads(out.splitlines()[-1])
    assert (optimal, status) == (False, "Interrupted by user")
    assert reached() <= incumbent <= bound < 1
    assert seconds < 60


def test_a_second_ctrl_c_does_not_wait() -> None:
    deaf = threading.Event()

    def press() -> None:
        for _ in range(2):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    presses = threading.Thread(target=press)
    started = time.monotonic()
    presses.start()
    with pytest.raises(KeyboardInterrupt):
        watched(lambda _: deaf.wait(60) and None, threading.Event(), None)
    assert 0.5 < time.monotonic() - started < 30
    presses.join()
    deaf.set()


def test_an_error_of_the_work_passes_through() -> None:
    def work(_: object) -> None:
        raise ZeroDivisionError("no more")

    with pytest.raises(ZeroDivisionError, match="no more"):
        watched(work, threading.Event(), None)


def test_progress_tells_of_valid_bounds_on_the_calling_thread() -> None:
    problem = random_problem(SIZE, seed=SEED)
    seen: list[tuple[float, float, float]] = []
    threads: set[threading.Thread] = set()

    def watch(bound: float, incumbent: float, seconds: float) -> None:
        seen.append((bound, incumbent, seconds))
        threads.add(threading.current_thread())

    result = certified_ece_milp(*problem[:3], equal_mass=GROUPS, time_limit=4, progress=watch)
    assert threads == {threading.current_thread()}
    assert seen
    for bound, incumbent, seconds in seen:
        assert incumbent <= result.incumbent + 1e-12
        assert max(reached(), result.incumbent) <= bound <= 1
        assert 0 <= seconds < 60
    bounds = [bound for bound, _, _ in seen]
    assert (np.diff(bounds) <= 1e-12).all()
    assert result.bound <= bounds[-1] + 1e-12
    assert result.gap == result.bound - result.incumbent


def test_an_error_in_progress_stops_the_solver_and_passes_through() -> None:
    def watch(bound: float, incumbent: float, seconds: float) -> None:
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        certified_ece_milp(
            *random_problem(SIZE, seed=SEED)[:3],
            equal_mass=GROUPS,
            progress=watch,
            time_limit=300,
        )
    assert not [t for t in threading.enumerate() if t.name == "certcal-highs"]


def test_lines_come_at_most_every_two_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for seconds in (0.1, 0.2, 1.9, 2.2, 3.0, 4.3):
        lines(0.25, 0.125, seconds)
    shown = capsys.readouterr().err.splitlines()
    assert [line.rsplit(", ", 1)[1] for line in shown] == ["0 s", "2 s", "4 s"]
    start = "certified_ece_milp: bound 0.250000, best found 0.125000, gap 0.125000, "
    assert all(line.startswith(start) for line in shown)


def test_a_limit_that_building_uses_up_gives_the_simple_bound() -> None:
    problem = random_problem(2000, seed=1)
    alone = np.where(problem.correct, 1 - problem.lower, problem.upper).mean()
    result = certified_ece_milp(*problem[:3], time_limit=1e-9)
    assert (result.optimal, result.status) == (False, "Time limit reached")
    assert result.bound == pytest.approx(alone, abs=1e-11)
    assert result.incumbent <= cc.certified_ece(*problem[:3]).value
    assert result.seconds < 5


@pytest.mark.parametrize("limit", [0.05, 1.0])
def test_limits_hold_with_every_extension(limit: float) -> None:
    problem = random_problem(300, seed=1)
    clean = (problem.lower + problem.upper) / 2
    mean = clean.mean()
    for options in (
        dict(max_attacked=100, confidence=clean),
        dict(equal_mass=15),
        dict(constraints=[(np.full(300, 1 / 300), mean, mean)], confidence=clean),
    ):
        result = certified_ece_milp(*problem[:3], time_limit=limit, **options)  # type: ignore[arg-type]
        assert result.incumbent <= result.bound <= 1
        assert result.optimal or result.status == "Time limit reached"
        assert result.seconds < limit + 20


@pytest.mark.parametrize("kind", ["attacked", "mean", "groups"])
def test_a_bound_is_valid_whenever_the_time_runs_out(kind: str) -> None:
    """Also in the middle of a relaxation, of a part of the tree or of one that seeks a point."""
    problem = random_problem(60, seed=3)
    clean = (problem.lower + problem.upper) / 2
    options: dict[str, Any] = {
        "attacked": dict(max_attacked=6, confidence=clean),
        "mean": dict(constraints=[(np.full(60, 1 / 60), clean.mean() - 1e-4, clean.mean() + 1e-4)]),
        "groups": dict(equal_mass=3),
    }[kind]
    full = certified_ece_milp(*problem[:3], time_limit=20, **options)
    statuses = set()
    # The first one has passed before the program is built, on whatever machine.
    for limit in [1e-6, *np.geomspace(0.003, max(0.3, min(full.seconds, 2.0)), 25)]:
        result = certified_ece_milp(*problem[:3], time_limit=limit, warm_start=False, **options)
        assert full.incumbent <= result.bound
        assert result.incumbent <= full.bound
        statuses.add(result.status)
    assert "Time limit reached" in statuses


def test_limits_that_only_constrain_are_never_above_the_recursion() -> None:
    problem = random_problem(400, seed=2)
    clean = (problem.lower + problem.upper) / 2
    value = cc.certified_ece(*problem[:3]).value
    result = certified_ece_milp(*problem[:3], max_attacked=200, confidence=clean, time_limit=0.2)
    assert result.bound <= value


def test_a_warm_start_finds_the_worst_case_at_once() -> None:
    problem = random_problem(300, seed=1)
    value = cc.certified_ece(*problem[:3]).value
    warm = certified_ece_milp(*problem[:3], time_limit=0.01)
    cold = certified_ece_milp(*problem[:3], time_limit=0.01, warm_start=False)
    assert warm.incumbent == pytest.approx(value, abs=1e-12)
    assert cold.incumbent <= warm.incumbent
    for result in (warm, cold):
        assert result.bound >= value


def test_the_referee_alone_reaches_the_recursion() -> None:
    problem = random_problem(40, seed=3, bins=5)
    cold = certified_ece_milp(*problem[:3], bins=5, warm_start=False)
    assert cold.optimal
    assert cold.incumbent == pytest.approx(cc.certified_ece(*problem[:3], bins=5).value, abs=1e-9)


def test_many_solves_leave_no_thread() -> None:
    problem = random_problem(10, seed=1, bins=3)
    before = threading.active_count()
    for _ in range(20):
        certified_ece_milp(*problem[:3], bins=3)
    assert threading.active_count() == before
