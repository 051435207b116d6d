# SPDX-License-Identifier: MIT
"""Running HiGHS so that it can be watched, timed out and interrupted with a valid bound."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from certcal_ext.milp.program import TOLERANCE, Floats, Program

#: Called as (bound, incumbent, seconds), both in units of N times the ECE.
Watch = Callable[[float, float, float], None]

TIMED_OUT = "Time limit reached"

#: How often the calling thread looks at the solver.
_PAUSE = 0.1


@dataclass(frozen=True)
class Outcome:
    """What HiGHS leaves.

    Attributes:
        bound: its dual bound, infinite if it has none.
        columns: its best solution, or None.
        status: its own words.
        optimal: whether it finished.
        infeasible: whether it proved that nothing satisfies the rows.
    """

    bound: float
    columns: Floats | None
    status: str
    optimal: bool = False
    infeasible: bool = False


def import_highspy() -> Any:
    """The module, or an error that names the extra."""
    try:
        import highspy
    except ImportError as error:
        raise ImportError(
            'certified_ece_milp needs highspy: pip install "certcal_ext[milp]"'
        ) from error
    return highspy


def maximise(
    highspy: Any, program: Program, start: Floats | None, deadline: float, watch: Watch | None
) -> Outcome:
    """Solves the program; on Ctrl-C stops HiGHS and returns what it has proved.

    HiGHS runs on a thread of its own and without the interpreter lock. Python raises
    KeyboardInterrupt on the main thread only, so never in HiGHS's callback, where an exception
    would have to pass through C++: the callback copies numbers and a flag, and the calling thread
    waits, calls ``watch``, and sets the flag.

    Args:
        highspy: the module.
        program: what to solve.
        start: values of all columns to start from, or None.
        deadline: of ``time.perf_counter``; may be infinite.
        watch: called on the calling thread whenever there is news.

    Raises:
        RuntimeError: HiGHS failed.
        KeyboardInterrupt: the second Ctrl-C, while HiGHS is being stopped.
    """
    # The class under highspy.Highs, whose constructor prints a banner to standard output before it
    # can be silenced.
    solver = highspy._Highs()
    solver.setOptionValue("output_flag", False)
    for tolerance in ("primal_feasibility", "dual_feasibility", "mip_feasibility"):
        solver.setOptionValue(f"{tolerance}_tolerance", TOLERANCE)
    solver.setOptionValue("small_matrix_value", 1e-12)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.0)
    if time.perf_counter() >= deadline:
        return Outcome(np.inf, None, TIMED_OUT)
    if solver.passModel(program.lp(highspy)) == highspy.HighsStatus.kError:
        raise RuntimeError("HiGHS refused the program")
    if start is not None:
        solution = highspy.HighsSolution()
        solution.col_value = start.tolist()
        solver.setSolution(solution)
    left = deadline - time.perf_counter()
    if left <= 0:
        return Outcome(np.inf, None, TIMED_OUT)
    if np.isfinite(left):
        # What building took is off the limit; HiGHS counts from the start of its own run.
        solver.setOptionValue("time_limit", left)
    failed = _run(highspy, solver, watch)

    status = solver.getModelStatus()
    words = solver.modelStatusToString(status)
    kinds = highspy.HighsModelStatus
    if status in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible):
        return Outcome(np.inf, None, words, infeasible=True)
    optimal = bool(status == kinds.kOptimal)
    if failed or not (optimal or status in (kinds.kTimeLimit, kinds.kInterrupt)):
        raise RuntimeError(f"HiGHS stopped: {words}")
    info = solver.getInfo()
    columns = None
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        columns = np.asarray(solver.getSolution().col_value, np.float64)
    return Outcome(float(info.mip_dual_bound), columns, words, optimal)


def _run(highspy: Any, solver: Any, watch: Watch | None) -> bool:
    """Runs HiGHS to its end; whether it failed."""
    stop, finished = threading.Event(), threading.Event()
    news: list[tuple[float, float]] = []
    failed: list[bool] = []

    def look(kind: Any, message: str, seen: Any, answer: Any, data: Any) -> None:
        news[:] = [(seen.mip_dual_bound, seen.mip_primal_bound)]
        answer.user_interrupt = stop.is_set()

    def work() -> None:
        try:
            failed.append(bool(solver.run() == highspy.HighsStatus.kError))
        finally:
            finished.set()

    # Only HiGHS's own points for stopping a branch and bound: to stop a simplex run inside one
    # could leave a bound that was not proved.
    solver.setCallback(look, None)
    solver.startCallback(highspy.cb.HighsCallbackType.kCallbackMipInterrupt)
    thread = threading.Thread(target=work, name="certcal-highs", daemon=True)
    started = time.perf_counter()
    last: tuple[float, float] | None = None
    try:
        thread.start()
        while not finished.wait(_PAUSE):
            latest = news[0] if news else None
            if watch is not None and latest is not None and latest != last:
                last = latest
                watch(*latest, time.perf_counter() - started)
    except KeyboardInterrupt:
        stop.set()
        while not finished.wait(_PAUSE):
            continue
    except BaseException:
        stop.set()
        finished.wait()
        raise
    thread.join()
    solver.stopCallback(highspy.cb.HighsCallbackType.kCallbackMipInterrupt)
    # An exception of run() itself has been printed by the thread; it leaves nothing in the list.
    return not failed or failed[0]


class Lines:
    """A line on stderr when there is news, at most every two seconds."""

    _EVERY = 2.0

    def __init__(self) -> None:
        self._last = -self._EVERY

    def __call__(self, bound: float, incumbent: float, seconds: float) -> None:
        """One line, unless the last was printed just now."""
        if seconds - self._last < self._EVERY:
            return
        self._last = seconds
        print(
            f"certified_ece_milp: bound {bound:.6f}, best found {incumbent:.6f}, "
            f"gap {bound - incumbent:.6f}, {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
