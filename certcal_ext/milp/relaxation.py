# SPDX-License-Identifier: MIT
"""Linear relaxations with HiGHS: its prices are hints, and the bound they prove is computed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from certcal_ext.milp.problem import Bools, Floats
from certcal_ext.milp.program import Program

#: HiGHS's smallest permitted tolerance for rows and reduced costs.
_TOLERANCE = 1e-10

#: By how much the prices of rows that contradict each other are multiplied.
_FARKAS = (1.0, 1e3, 1e6, 1e9, 1e12)

#: A relaxation that HiGHS fails on is split further, without prices; not so if it always fails.
_FAILURES = 100

#: HiGHS's callback for stopping is asked at each iteration; it looks at the clock so often.
_EVERY = 16


def import_highspy() -> Any:
    """The module, or an error that names the extra."""
    try:
        import highspy
    except ImportError as error:
        raise ImportError(
            'certified_ece_milp needs highspy: pip install "certcal_ext[milp]"'
        ) from error
    return highspy


class Stopped(Exception):
    """The relaxation was not solved: time is up, or the caller asked to stop.

    Attributes:
        bound: what its prices prove so far.
    """

    def __init__(self, bound: float) -> None:
        super().__init__("time is up")
        self.bound = bound


class Relaxation:
    """The linear program, again and again with other columns closed; each run starts from the last.

    Args:
        highspy: the module.
        program: what to solve.
        over: whether to stop; asked often, on HiGHS's thread.
    """

    def __init__(self, highspy: Any, program: Program, over: Callable[[], bool]) -> None:
        self._highspy, self._program, self._over = highspy, program, over
        # The class under highspy.Highs, whose constructor prints a banner to standard output before
        # it can be silenced.
        self._solver = highspy._Highs()
        for name, value in (
            ("output_flag", False),
            ("presolve", "off"),
            ("solver", "simplex"),
            ("primal_feasibility_tolerance", _TOLERANCE),
            ("dual_feasibility_tolerance", _TOLERANCE),
            ("small_matrix_value", 1e-12),
            ("simplex_scale_strategy", 0),
        ):
            self._solver.setOptionValue(name, value)
        if self._solver.passModel(program.lp(highspy)) == highspy.HighsStatus.kError:
            raise RuntimeError("HiGHS refused the program")
        self._asked = self._failures = 0
        self._stopped = False
        self._solver.setCallback(self._look, None)
        self._solver.startCallback(highspy.cb.HighsCallbackType.kCallbackSimplexInterrupt)

    def _look(self, kind: Any, message: str, seen: Any, answer: Any, data: Any) -> None:
        self._asked += 1
        if self._asked % _EVERY == 0 and self._over():
            self._stopped = True
        answer.user_interrupt = self._stopped

    def solve(self, closed: Bools) -> tuple[float, Floats | None]:
        """A bound with these shares at 0, and the solution if HiGHS has one.

        The bound is valid whatever HiGHS does: its prices are put into ``Program.proved``.

        Raises:
            Stopped: ``over`` said so.
            RuntimeError: HiGHS has failed again and again.
        """
        program, solver, kinds = self._program, self._solver, self._highspy.HighsModelStatus
        upper = program.columns[1].copy()
        upper[: closed.size][closed] = 0.0
        columns = np.arange(closed.size, dtype=np.int32)
        lower = program.columns[0][: closed.size]
        solver.changeColsBounds(closed.size, columns, lower, upper[: closed.size])
        bound = program.proved(np.zeros(program.rows[0].size), upper)
        if self._over():
            raise Stopped(bound)
        failed = solver.run() == self._highspy.HighsStatus.kError
        status = solver.getModelStatus()
        solution = solver.getSolution()
        prices = np.asarray(solution.row_dual, np.float64)
        if prices.size == program.rows[0].size:
            bound = min(bound, program.proved(prices, upper))
        if self._stopped:
            raise Stopped(bound)
        self._failures = self._failures + 1 if failed else 0
        if self._failures > _FAILURES:
            raise RuntimeError(f"HiGHS stopped: {solver.modelStatusToString(status)}")
        if status == kinds.kOptimal:
            return bound, np.asarray(solution.col_value, np.float64)
        if status in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible):
            ray = np.asarray(solver.getDualRay()[2], np.float64)
            if ray.size == program.rows[0].size:
                scales = [sign * size for sign in (1.0, -1.0) for size in _FARKAS]
                bound = min(bound, *(program.proved(scale * ray, upper) for scale in scales))
        # After a failure the next relaxation starts afresh.
        solver.clearSolver()
        return bound, None
