# SPDX-License-Identifier: MIT
"""The certified ECE as a mixed-integer program for HiGHS: a referee of the recursion, and more.

As a referee it shares no code with the recursion beyond the checks of the arguments: the bound is
HiGHS's own, and the recursion's solution at most starts its search. It also solves what the
recursion cannot express: few attacked samples, bins that the attack itself forms, and linear
constraints.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.metrics.ece import certified_ece
from certcal_ext.milp.points import Point, found_point, plain_points, recursion_points
from certcal_ext.milp.program import Problem, pieces_of, program_of
from certcal_ext.milp.solver import (
    TIMED_OUT,
    Lines,
    Outcome,
    Watch,
    import_highspy,
    maximise,
)

__all__ = ["CertifiedEceMilp", "LinearConstraint", "certified_ece_milp"]


@dataclass(frozen=True)
class LinearConstraint:
    """``lower <= sum_n coefficients[n] z_n <= upper`` for the confidences z.

    Attributes:
        coefficients: (N,) finite numbers, not all 0.
        lower: least value; -inf for none.
        upper: largest value; inf for none.
    """

    coefficients: Any
    lower: float = -np.inf
    upper: float = np.inf


@dataclass(frozen=True)
class CertifiedEceMilp:
    """What the solver proved and what it found.

    Attributes:
        bound: the certificate: HiGHS's dual bound, widened by what its tolerances allow, at most 1.
            No confidences that the arguments allow have a higher ECE, whether or not the solver
            finished.
        incumbent: the ECE of the worst confidences found (a supremum: open edges are approached);
            at most ``bound``. With linear constraints an edge counts as part of both its bins.
        optimal: whether the solver finished, so that ``bound`` and ``incumbent`` agree to its
            tolerances.
        status: HiGHS's own words: ``"Optimal"``, ``"Time limit reached"``, or ``"Interrupted by
            user"`` after Ctrl-C.
        seconds: wall time of building and solving.
        worst_confidence: (N,) confidences that reach ``incumbent``, to 1e-9; they satisfy linear
            constraints to 1e-9 of the largest coefficient. None if no feasible ones were found.
    """

    bound: float
    incumbent: float
    optimal: bool
    status: str
    seconds: float
    worst_confidence: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    @property
    def gap(self) -> float:
        """How far the bound may be above the true worst case: bound - incumbent."""
        return self.bound - self.incumbent


def certified_ece_milp(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
    time_limit: float | None = None,
    *,
    max_attacked: int | None = None,
    confidence: Any = None,
    equal_mass: int | None = None,
    constraints: Iterable[LinearConstraint | Sequence[Any]] | None = None,
    warm_start: bool = True,
    progress: bool | Watch = False,
) -> CertifiedEceMilp:
    """The worst-case expected calibration error by mixed-integer programming.

    The program of Emde et al. (ICLR 2025, ACCE), linearised exactly and solved by branch and bound
    instead of ADMM; ``docs/milp.md`` states it with its extensions. The gap at which HiGHS stops is
    set to 0. Ctrl-C while it runs stops it, and what it has proved until then is returned with the
    status ``"Interrupted by user"``; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` or ``equal_mass`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.
        time_limit: seconds, building included, after which the solver stops with a valid, looser
            bound; None for no limit.
        max_attacked: at most so many samples leave their clean ``confidence``; None for no limit. 0
            gives the plain ECE of ``confidence``, N gives ``certified_ece``.
        confidence: (N,) clean confidences, each inside its interval; needed for ``max_attacked``,
            else only a point to start from.
        equal_mass: number M of groups that are formed after the attack: the confidences in
            increasing order, cut into M runs as ``numpy.array_split`` cuts them, the first N mod M
            of them one longer. Ties are broken in the way that is worst, so the bound holds for
            every rule. ``edges`` must not be given then, and ``closed`` has no meaning.
        constraints: ``LinearConstraint`` objects, or (coefficients, lower, upper).
        warm_start: whether HiGHS starts from the recursion's solution, or for other problems from
            the best of a few feasible points.
        progress: True for a line on stderr at most every 2 seconds, or a function called as
            progress(bound, incumbent, seconds) on the calling thread; an exception that it raises
            stops the solver and passes through.

    Returns:
        ``CertifiedEceMilp``.

    Raises:
        ImportError: highspy is not installed.
        TypeError: an argument is no array of numbers, or of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0,
            1], bad bins, a time limit that is not above 0, a clean confidence outside its interval
            or missing, or constraints that no confidences satisfy.
        RuntimeError: HiGHS failed to solve the program.

    Source:
        Emde et al. (ICLR 2025) for the program; linearisation, extensions and bound: this project.

    Example:
        >>> result = certified_ece_milp([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5], bins=2)
        >>> result.optimal, round(result.bound, 6)
        (True, 0.5)
        >>> one = certified_ece_milp([1, 0], [0.5, 0.25], [1.0, 0.5], bins=2,
        ...                          max_attacked=1, confidence=[0.9, 0.4])
        >>> round(one.bound, 6)
        0.45
    """
    started = time.perf_counter()
    problem = _checked(
        correct,
        lower,
        upper,
        bins,
        edges,
        closed,
        max_attacked,
        confidence,
        equal_mass,
        constraints,
    )
    limit = np.inf if time_limit is None else _check.positive_number("time_limit", time_limit)
    if not isinstance(warm_start, (bool, np.bool_)):
        raise TypeError(f"warm_start: expected True or False, got {type(warm_start).__name__}")
    report = _reporter(progress)
    highspy = import_highspy()

    samples, deadline = problem.right.size, started + limit
    ceiling = _simple_bound(problem)
    pieces = pieces_of(problem)
    points = plain_points(problem, pieces)
    if warm_start:
        points += recursion_points(problem, pieces)
    best = max(points, key=lambda point: point.total, default=None)
    outcome, slack = Outcome(np.inf, None, TIMED_OUT), 0.0
    if time.perf_counter() < deadline:
        program = program_of(problem, pieces)
        slack = program.slack
        start = best.columns(problem, pieces, program) if best and warm_start else None
        watch = None if report is None else _per_sample(report, samples, slack, ceiling, best)
        outcome = maximise(highspy, program, start, deadline, watch)
    if outcome.infeasible:
        if problem.rows and best is None:
            raise ValueError("constraints: expected some that confidences can satisfy, got none")
        raise RuntimeError("HiGHS found no solution where there is one")
    if outcome.columns is not None:
        found = found_point(problem, pieces, outcome.columns)
        if found is not None and (best is None or found.total > best.total):
            best = found
    bound = _certificate(outcome.bound + slack, samples, ceiling, best)
    return CertifiedEceMilp(
        bound=bound,
        incumbent=0.0 if best is None else min(best.total / samples, bound),
        optimal=outcome.optimal,
        status=outcome.status,
        seconds=time.perf_counter() - started,
        worst_confidence=None if best is None else best.inside_bins(problem, pieces),
    )


def _certificate(proved: float, samples: int, ceiling: float, best: Point | None) -> float:
    """The smaller of two bounds on the ECE, each valid by itself."""
    if np.isfinite(proved):
        # HiGHS versions are known that report a wrong bound when presolve alone solves a
        # maximisation.
        if best is not None and best.total > proved + 1e-6 * samples:
            raise RuntimeError(
                f"HiGHS claims that no ECE is above {proved / samples}, but "
                f"{best.total / samples} is reached; is highspy up to date?"
            )
        # One float up for the division.
        return min(ceiling, float(np.nextafter(proved / samples, 2.0)))
    return ceiling


def _simple_bound(problem: Problem) -> float:
    """A bound that needs no solver.

    Each sample alone is off by at most 1 - lower (right) or upper (wrong). A problem that only adds
    limits to that of ``certified_ece`` has no larger worst case; without limits the recursion stays
    out, for then this is its referee.
    """
    right, low, high = problem.right, problem.low, problem.high
    alone = min(1.0, float(np.mean(np.where(right == 1, 1.0 - low, high))) + 1e-12)
    if not problem.relaxes:
        return alone
    closed = "left" if problem.left else "right"
    return min(alone, certified_ece(right, low, high, edges=problem.edges, closed=closed).value)


def _per_sample(
    report: Watch, samples: int, slack: float, ceiling: float, best: Point | None
) -> Watch:
    least = 0.0 if best is None else best.total / samples

    def watch(bound: float, incumbent: float, seconds: float) -> None:
        shown = min(ceiling, (bound + slack) / samples)
        report(shown, min(shown, max(least, incumbent / samples)), seconds)

    return watch


def _reporter(progress: Any) -> Watch | None:
    if callable(progress):
        return progress  # type: ignore[no-any-return]
    if not isinstance(progress, (bool, np.bool_)):
        raise TypeError(
            f"progress: expected True, False or a function, got {type(progress).__name__}"
        )
    return Lines() if progress else None


def _checked(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: Any,
    edges: Any,
    closed: Any,
    max_attacked: Any,
    confidence: Any,
    equal_mass: Any,
    constraints: Any,
) -> Problem:
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    left = _check.closed_left(closed)
    sizes = None
    if equal_mass is not None:
        if edges is not None:
            raise ValueError("edges: expected None with equal_mass, which forms its own groups")
        groups = _check.whole_number("equal_mass", equal_mass, 1, right.size)
        base, longer = divmod(right.size, groups)
        sizes = np.full(groups, base, np.int64)
        sizes[:longer] += 1
    clean = None
    if confidence is not None:
        clean = _check.float_vector("confidence", confidence, right.size)
        good = (low <= clean) & (clean <= high)
        if not good.all():
            row = int(np.argmin(good))
            raise ValueError(
                f"confidence: expected values in [lower, upper] = [{low[row]}, {high[row]}], got "
                f"{clean[row]} in row {row}"
            )
    attacked = None
    if max_attacked is not None:
        attacked = _check.whole_number("max_attacked", max_attacked, 0, right.size)
        if clean is None:
            raise ValueError("confidence: expected the clean values with max_attacked, got None")
        if attacked == right.size:
            attacked = None
    borders = _check.bin_edges(bins if equal_mass is None else 1, edges)
    rows = _scaled_rows(constraints, right.size)
    return Problem(right, low, high, borders, left, sizes, clean, attacked, rows)


def _scaled_rows(
    constraints: Any, samples: int
) -> tuple[tuple[NDArray[np.float64], float, float], ...]:
    if constraints is None:
        return ()
    if isinstance(constraints, LinearConstraint) or not isinstance(constraints, Iterable):
        raise TypeError(
            f"constraints: expected a list of LinearConstraint, got {type(constraints).__name__}"
        )
    rows: list[tuple[NDArray[np.float64], float, float]] = []
    for at, given in enumerate(constraints):
        name = f"constraints[{at}]"
        if isinstance(given, LinearConstraint):
            parts: tuple[Any, ...] = (given.coefficients, given.lower, given.upper)
        elif isinstance(given, (tuple, list)) and len(given) == 3:
            parts = tuple(given)
        else:
            raise TypeError(
                f"{name}: expected a LinearConstraint or (coefficients, lower, upper), got "
                f"{type(given).__name__}"
            )
        coefficients = _check.float_vector(f"{name}.coefficients", parts[0], samples)
        if not np.isfinite(coefficients).all() or not coefficients.any():
            raise ValueError(f"{name}.coefficients: expected finite numbers, not all 0")
        ends = []
        for word, end in zip(("lower", "upper"), parts[1:], strict=True):
            value = float(end) if end in (np.inf, -np.inf) else _check.real_number(name, end)
            ends.append(value)
            if value == (np.inf if word == "lower" else -np.inf):
                raise ValueError(f"{name}.{word}: expected a number that can be met, got {value}")
        if ends[0] > ends[1]:
            raise ValueError(f"{name}: expected lower <= upper, got {ends[0]} and {ends[1]}")
        # A power of two changes no digit. No sum is beyond N then, so ends need not be either.
        shift = -int(np.frexp(np.abs(coefficients).max())[1])
        with np.errstate(over="ignore", under="ignore"):
            least = min(float(np.ldexp(ends[0], shift)), samples + 1.0)
            most = max(float(np.ldexp(ends[1], shift)), -samples - 1.0)
            scaled = np.ldexp(coefficients, shift).astype(np.float64)
        rows.append((scaled, least, most))
    return tuple(rows)
