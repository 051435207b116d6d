# SPDX-License-Identifier: MIT
"""The certified ECE as a mixed-integer program: a referee of the recursion, and more.

As a referee it shares no code with the recursion beyond the checks of the arguments: the bound is
its own, and the recursion's solution at most starts its search. It also solves what the recursion
cannot express: few attacked samples, bins that the attack itself forms, and linear constraints.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import rounded_down, rounded_up
from certcal_ext.metrics.ece import certified_ece
from certcal_ext.milp.points import Point, plain_points, recursion_points
from certcal_ext.milp.problem import Problem, pieces_of
from certcal_ext.milp.relaxation import import_highspy
from certcal_ext.milp.search import Search
from certcal_ext.milp.solver import Lines, Watch, watched

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CertifiedEceMilp", "Limits", "LinearConstraint", "certified_ece_milp"]

OPTIMAL, NOT_REACHED = "Optimal", "Upper bound"
TIMED_OUT, INTERRUPTED = "Time limit reached", "Interrupted by user"

#: How far bound and best point may be apart where the result is called optimal.
_AGREE = 1e-7


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


class Limits(TypedDict, total=False):
    """Options of ``certified_ece_milp``.

    Attributes:
        max_attacked: at most so many samples leave their clean ``confidence``; None for no limit. 0
            gives the plain ECE of ``confidence``, N gives ``certified_ece``.
        confidence: (N,) clean confidences, each inside its interval; needed for ``max_attacked``,
            else only a point to start from.
        equal_mass: number M of groups that are formed after the attack: the confidences in
            increasing order, cut into M runs as ``numpy.array_split`` cuts them, the first N mod M
            of them one longer. Ties are broken in the way that is worst, so the bound holds for
            every rule. ``edges`` must not be given then, and ``closed`` has no meaning.
        constraints: ``LinearConstraint`` objects, or (coefficients, lower, upper).
        warm_start: whether the search knows the recursion's solution at its start, where that is
            allowed, besides the ends of the intervals and the clean confidences.
        progress: True for a line on stderr at most every 2 seconds, or a function called as
            progress(bound, incumbent, seconds) on the calling thread; an exception that it raises
            stops the solver and passes through.
    """

    max_attacked: int | None
    confidence: Any
    equal_mass: int | None
    constraints: Iterable[LinearConstraint | Sequence[Any]] | None
    warm_start: bool
    progress: bool | Watch


@dataclass(frozen=True)
class CertifiedEceMilp:
    """What was proved and what was found.

    Attributes:
        bound: the certificate, at most 1. No confidences that the arguments allow have a higher
            ECE, whether or not the search finished. It does not rest on HiGHS: see ``docs/milp.md``.
        incumbent: the ECE of the worst confidences found, evaluated exactly and rounded down (a
            supremum: open edges are approached, except with linear constraints). 0 if none were
            found.
        optimal: whether the search finished and ``bound`` and ``incumbent`` agree to 1e-7.
        status: ``"Optimal"``; ``"Upper bound"`` where the search finished and no confidences were
            found that reach the bound; ``"Time limit reached"``; ``"Interrupted by user"`` after
            Ctrl-C.
        seconds: wall time of building and solving.
        worst_confidence: (N,) confidences that reach ``incumbent``, to one float where an open edge
            is approached. They satisfy linear constraints exactly, or where no such ones were found
            to N 2^-52 of the largest coefficient. None if no confidences were found.
    """

    bound: float
    incumbent: float
    optimal: bool
    status: str
    seconds: float
    worst_confidence: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    @property
    def value(self) -> float:
        """The certificate, as every result has it: ``bound``."""
        return self.bound

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
    **limits: Unpack[Limits],
) -> CertifiedEceMilp:
    """The worst-case expected calibration error by mixed-integer programming.

    The program of Emde et al. (ICLR 2025, ACCE), linearised exactly and solved by branch and bound
    instead of ADMM; ``docs/milp.md`` states it with its extensions. HiGHS solves the relaxations;
    each bound is proved from its prices in arithmetic that is rounded outward, so that no tolerance
    of a solver enters. The search stops 1e-9 above the best point. Ctrl-C while it runs stops it,
    and what it has proved until then is returned with the status ``"Interrupted by user"``; a
    second Ctrl-C raises KeyboardInterrupt.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` or ``equal_mass`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.
        time_limit: seconds, building included, after which the solver stops with a valid, looser
            bound; None for no limit.
        limits: what the recursion cannot express, and how to search; by name, see ``Limits``.

    Returns:
        ``CertifiedEceMilp``.

    Raises:
        ImportError: highspy is not installed.
        TypeError: an argument is no array of numbers, or of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0,
            1], bad bins, a time limit that is not above 0, a clean confidence outside its interval
            or missing, or constraints that are proved to allow no confidences.
        RuntimeError: HiGHS fails on every relaxation.

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
    _check.options("certified_ece_milp", limits, Limits)
    problem = _checked(correct, lower, upper, bins, edges, closed, limits)
    limit = np.inf if time_limit is None else _check.positive_number("time_limit", time_limit)
    report = _reporter(limits.get("progress", False))
    highspy = import_highspy()
    warm_start = _check.flag("warm_start", limits.get("warm_start", True))
    bound, best, status = _searched(problem, highspy, started + limit, warm_start, report)
    incumbent = 0.0 if best is None else rounded_down(best.exact)
    if best is not None:
        bound = min(1.0, max(bound, rounded_up(best.exact)))
    if status == OPTIMAL and not bound - incumbent <= _AGREE:
        status = NOT_REACHED
    return CertifiedEceMilp(
        bound=bound,
        incumbent=incumbent,
        optimal=status == OPTIMAL,
        status=status,
        seconds=time.perf_counter() - started,
        worst_confidence=None if best is None else best.inside_bins(),
    )


def _searched(
    problem: Problem, highspy: Any, end: float, warm_start: bool, report: Watch | None
) -> tuple[float, Point | None, str]:
    """The bound, the worst point and the status at the end of the search, or when its time is over."""
    ceiling = _simple_bound(problem)
    pieces = pieces_of(problem)
    points = plain_points(problem)
    if warm_start:
        points += recursion_points(problem, pieces)
    best = max(points, key=lambda point: point.rank, default=None)
    stop = threading.Event()

    def over() -> bool:
        return stop.is_set() or time.perf_counter() >= end

    if over():
        return ceiling, best, TIMED_OUT
    search = Search(problem, pieces, highspy, over, ceiling, best)
    watch = None if report is None else _per_sample(report, problem.right.size, ceiling)
    interrupted = watched(search.run, stop, watch)
    if search.bound < 0 and search.best is None:
        raise ValueError("constraints: expected some that confidences can satisfy, got none")
    # One float up for the division.
    bound = min(ceiling, float(np.nextafter(search.bound / problem.right.size, 2.0)))
    status = OPTIMAL if search.finished else INTERRUPTED if interrupted else TIMED_OUT
    return bound, search.best, status


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


def _per_sample(report: Watch, samples: int, ceiling: float) -> Watch:
    def watch(bound: float, incumbent: float, seconds: float) -> None:
        shown = min(ceiling, float(np.nextafter(bound / samples, 2.0)))
        report(shown, min(shown, incumbent / samples), seconds)

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
    limits: Limits,
) -> Problem:
    max_attacked, confidence, equal_mass, constraints = map(
        limits.get, ("max_attacked", "confidence", "equal_mass", "constraints")
    )
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
    scalar = isinstance(constraints, np.ndarray) and constraints.ndim == 0
    if scalar or isinstance(constraints, LinearConstraint) or not isinstance(constraints, Iterable):
        raise TypeError(
            f"constraints: expected a list of LinearConstraint, got {type(constraints).__name__}"
        )
    rows: list[tuple[NDArray[np.float64], float, float]] = []
    for at, given in enumerate(_check.items("constraints", constraints)):
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
            infinite = isinstance(end, (float, np.floating)) and bool(np.isinf(end))
            value = float(end) if infinite else _check.real_number(name, end)
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
