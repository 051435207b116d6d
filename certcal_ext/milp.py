# SPDX-License-Identifier: MIT
"""The certified ECE as a mixed-integer program for HiGHS: a referee of the recursion.

It shares no code with the recursion beyond the checks of the arguments, and it is what problems
with further linear constraints start from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check

#: HiGHS's smallest permitted tolerance for rows, reduced costs and integrality.
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class CertifiedEceMilp:
    """What the solver proved and what it found.

    Attributes:
        bound: the certificate: HiGHS's dual bound, widened by what its tolerances allow, at most 1.
            No confidences inside the intervals have a higher ECE, whether or not the solver
            finished.
        incumbent: the ECE of the worst confidences found (a supremum: open edges are approached);
            at most ``bound``.
        optimal: whether the solver finished, so that ``bound`` and ``incumbent`` agree to its
            tolerances.
        status: HiGHS's own words, for example ``"Optimal"`` or ``"Time limit reached"``.
        seconds: wall time of building and solving.
    """

    bound: float
    incumbent: float
    optimal: bool
    status: str
    seconds: float


@dataclass(frozen=True)
class _Reach:
    """The (sample, bin) pairs in which a confidence can lie, those of a sample side by side.

    Attributes:
        sample: (P,) the sample.
        bin: (P,) the bin.
        low: (P,) least confidence of the sample in the closure of the bin.
        high: (P,) largest one.
        right: (P,) 1.0 where the sample is right, else 0.0.
        only: (P,) whether it is the only bin that the sample reaches.
    """

    sample: NDArray[np.int64]
    bin: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    right: NDArray[np.float64]
    only: NDArray[np.bool_]


def certified_ece_milp(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
    time_limit: float | None = None,
) -> CertifiedEceMilp:
    """The worst-case expected calibration error by mixed-integer programming.

    The program of Emde et al. (ICLR 2025, ACCE), linearised exactly and solved by branch and bound
    instead of ADMM. Binary a_nm says that sample n lies in bin m, v_nm in [0, (high_nm - low_nm)
    a_nm] how far above the least confidence there, and s_m on which side the bin is pushed; with
    E_m = sum_n (c_n - low_nm) a_nm - v_nm it maximises sum_m t_m under t_m <= E_m + K_m (1 - s_m),
    t_m <= -E_m + L_m s_m and sum_m a_nm = 1, where K_m and L_m are twice the largest -E_m and E_m
    that the intervals allow. ``mip_rel_gap`` and ``mip_abs_gap`` are 0.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.
        time_limit: seconds after which the solver stops with a valid, looser bound; None for no
            limit.

    Returns:
        ``CertifiedEceMilp``.

    Raises:
        ImportError: highspy is not installed.
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0,
            1], bad bins, or a time limit that is not above 0.
        RuntimeError: HiGHS failed to solve the program.

    Example:
        >>> result = certified_ece_milp([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5], bins=2)
        >>> result.optimal, round(result.bound, 6)
        (True, 0.5)
    """
    started = time.perf_counter()
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    borders = _check.bin_edges(bins, edges)
    left = _check.closed_left(closed)
    limit = None if time_limit is None else _check.positive_number("time_limit", time_limit)
    highspy = _import_highspy()

    reach = _reachable(right, low, high, borders, left)
    # The class under highspy.Highs, whose constructor prints a banner to standard output before it
    # can be silenced.
    solver = highspy._Highs()
    solver.setOptionValue("output_flag", False)
    for tolerance in ("primal_feasibility", "dual_feasibility", "mip_feasibility"):
        solver.setOptionValue(f"{tolerance}_tolerance", _TOLERANCE)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.0)
    if limit is not None:
        # What building took is off the limit; HiGHS counts from the start of its own run.
        solver.setOptionValue("time_limit", max(limit - (time.perf_counter() - started), 1e-3))
    model, slack = _program(highspy, reach, borders.size - 1)
    if solver.passModel(model) == highspy.HighsStatus.kError:
        raise RuntimeError("HiGHS refused the program")
    if solver.run() == highspy.HighsStatus.kError:
        raise RuntimeError(f"HiGHS failed: {solver.modelStatusToString(solver.getModelStatus())}")
    status = solver.getModelStatus()
    optimal = bool(status == highspy.HighsModelStatus.kOptimal)
    if not optimal and status != highspy.HighsModelStatus.kTimeLimit:
        raise RuntimeError(f"HiGHS stopped: {solver.modelStatusToString(status)}")

    info = solver.getInfo()
    # Each sample alone is off by at most 1 - lower (right) or upper (wrong): a bound that needs no
    # solver.
    alone = float(np.mean(np.where(right, 1.0 - low, high))) + 1e-12
    proved = (info.mip_dual_bound + slack) / right.size
    bound = min(1.0, alone, proved) if np.isfinite(proved) else min(1.0, alone)
    found = [_attained(reach, _outer_bins(reach, outer), borders.size - 1) for outer in (0, -1)]
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        values = np.asarray(solver.getSolution().col_value)[: reach.sample.size]
        found.append(_attained(reach, _chosen_bins(reach, values), borders.size - 1))
    return CertifiedEceMilp(
        bound=bound,
        incumbent=min(max(found) / right.size, bound),
        optimal=optimal,
        status=solver.modelStatusToString(status),
        seconds=time.perf_counter() - started,
    )


def _import_highspy() -> Any:
    try:
        import highspy
    except ImportError as error:
        raise ImportError(
            'certified_ece_milp needs highspy: pip install "certcal_ext[milp]"'
        ) from error
    return highspy


def _reachable(
    right: NDArray[np.uint8],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    edges: NDArray[np.float64],
    left: bool,
) -> _Reach:
    side: Literal["left", "right"] = "right" if left else "left"
    inner = edges[1:-1]
    first = np.searchsorted(inner, low, side)
    last = np.searchsorted(inner, high, side)
    width = last - first + 1
    sample = np.repeat(np.arange(right.size), width)
    start = np.cumsum(width) - width
    at = np.arange(sample.size) - start[sample] + first[sample]
    return _Reach(
        sample=sample,
        bin=at,
        low=np.maximum(low[sample], edges[at]),
        high=np.minimum(high[sample], edges[at + 1]),
        right=right[sample].astype(np.float64),
        only=(width == 1)[sample],
    )


def _program(highspy: Any, reach: _Reach, bins: int) -> tuple[Any, float]:
    """The program and the error of its dual bound, both in units of N times the ECE.

    Columns: a (P), v (P), s (M), t (M). Rows: v <= (high - low) a (P), one bin a sample (N), t <= E
    + K (1 - s) (M), t <= -E + L s (M).
    """
    pairs, samples = reach.sample.size, int(reach.sample[-1]) + 1
    span = reach.high - reach.low
    # The largest E_m and -E_m: a sample that must be in the bin counts whatever its sign, another
    # one only where it helps.
    most = reach.right - reach.low
    least = reach.high - reach.right
    largest = np.bincount(reach.bin, np.where(reach.only, most, np.maximum(most, 0)), bins)
    largest_negative = np.bincount(
        reach.bin, np.where(reach.only, least, np.maximum(least, 0)), bins
    )
    big_plus, big_minus = 2 * np.maximum(largest_negative, 0), 2 * np.maximum(largest, 0)
    ceiling = np.maximum(np.maximum(largest, largest_negative), 0)

    pair, bin_ = np.arange(pairs), np.arange(bins)
    a, v, s, t = pair, pairs + pair, 2 * pairs + bin_, 2 * pairs + bins + bin_
    link, choose = pair, pairs + reach.sample
    plus, minus = pairs + samples + bin_, pairs + samples + bins + bin_
    entries = [
        (link, v, np.ones(pairs)),
        (link, a, -span),
        (choose, a, np.ones(pairs)),
        (plus[reach.bin], a, -most),  # t - E + K s <= K
        (plus[reach.bin], v, np.ones(pairs)),
        (plus, t, np.ones(bins)),
        (plus, s, big_plus),
        (minus[reach.bin], a, most),  # t + E - L s <= 0
        (minus[reach.bin], v, -np.ones(pairs)),
        (minus, t, np.ones(bins)),
        (minus, s, -big_minus),
    ]
    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    order = np.lexsort((row, column))
    columns, rows = 2 * pairs + 2 * bins, pairs + samples + 2 * bins

    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = columns, rows
    lp.sense_ = highspy.ObjSense.kMaximize
    lp.col_cost_ = np.r_[np.zeros(2 * pairs + bins), np.ones(bins)]
    lp.col_lower_ = np.r_[reach.only.astype(np.float64), np.zeros(pairs + 2 * bins)]
    lp.col_upper_ = np.r_[np.ones(pairs), span, np.ones(bins), ceiling]
    lp.row_lower_ = np.r_[np.full(pairs, -np.inf), np.ones(samples), np.full(2 * bins, -np.inf)]
    lp.row_upper_ = np.r_[np.zeros(pairs), np.ones(samples), big_plus, np.zeros(bins)]
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.r_[0, np.cumsum(np.bincount(column, minlength=columns))].astype(
        np.int32
    )
    lp.a_matrix_.index_ = row[order].astype(np.int32)
    lp.a_matrix_.value_ = value[order]
    integer, continuous = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
    lp.integrality_ = (
        [integer] * pairs + [continuous] * pairs + [integer] * bins + [continuous] * bins
    )
    # Any prices y give the valid bound y'b + sum_j max over the range of column j of (cost - A'y)_j
    # x_j, and HiGHS's own differs from it by at most its tolerance on a reduced cost times the
    # range of each column.
    slack = _TOLERANCE * (pairs + float(span.sum()) + bins + float(ceiling.sum()))
    return lp, slack


def _outer_bins(reach: _Reach, which: int) -> NDArray[np.bool_]:
    """Chooses each sample's first (0) or last (-1) bin."""
    starts: NDArray[np.bool_] = np.r_[True, reach.sample[1:] != reach.sample[:-1]]
    ends: NDArray[np.bool_] = np.r_[starts[1:], True]
    return starts if which == 0 else ends


def _chosen_bins(reach: _Reach, a: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Chooses for each sample the bin whose binary is largest, so exactly one."""
    order = np.lexsort((-a, reach.sample))
    first = np.r_[True, np.diff(reach.sample[order]) != 0]
    chosen = np.zeros(a.size, np.bool_)
    chosen[order[first]] = True
    return chosen


def _attained(reach: _Reach, chosen: NDArray[np.bool_], bins: int) -> float:
    """N times the supremum of the ECE when each sample stays in its chosen bin."""
    at, right = reach.bin[chosen], reach.right[chosen]
    largest = np.bincount(at, right - reach.low[chosen], bins)
    smallest = np.bincount(at, right - reach.high[chosen], bins)
    return float(np.maximum(largest, -smallest).sum())
