# SPDX-License-Identifier: MIT
"""A run with fewer draws: plan, draw, look, and plan again what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._progress import Report, reporting
from certcal_ext.draws import DrawSource as DrawSource
from certcal_ext.draws import ReplayedVotes as ReplayedVotes
from certcal_ext.intervals.clopper_pearson import Interval
from certcal_ext.stopping.forecast import undecided
from certcal_ext.stopping.plans import DrawPlan, Groups, plan_draws
from certcal_ext.stopping.rules import (
    NEXT_LOOK,
    Stopping,
    full_probits,
    option_probits,
    row_intervals,
)

#: Times that a sequence plans; each but the last goes half of the way.
_ROUNDS = 4
_HALF_WAY = 4  # steps of the grid
_SPARE = 0.25  # part of what ``max_draws`` leaves that may go to more planning


@dataclass(frozen=True, eq=False)
class AdaptiveResult:
    """Votes and intervals of a run with fewer draws; arrays have one entry a sample.

    Attributes:
        votes: (N,) int64 votes for the selected class in the estimation draws.
        n: (N,) int64 estimation draws.
        look: (N,) int64, which look the interval is of, 0 for the first; -1 before it.
        lower: (N,) lower ends, at ``alpha``.
        upper: (N,) upper ends.
        planning_votes: (N,) votes in the planning draws, which no exact interval counts.
        correct: (N,) uint8, or None.
        sigma: standard deviation of the noise.
        alpha: failure probability of an interval, all looks together.
        stopping: the rules of the run.
        first_draw: number of the first planning draw.
        draws_total: all draws, planning draws included.
        plans: the plan of each round, in order: what was expected, to compare.
        planning_draws: (N,) int64 planning draws; None where each had ``stopping.planning``.
    """

    votes: NDArray[np.int64]
    n: NDArray[np.int64]
    look: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    planning_votes: NDArray[np.int64]
    correct: NDArray[np.uint8] | None
    sigma: float
    alpha: float
    stopping: Stopping
    first_draw: int
    draws_total: int
    plans: tuple[DrawPlan, ...]
    planning_draws: NDArray[np.int64] | None = None

    @property
    def draws_seen(self) -> NDArray[np.int64]:
        """(N,) draws, planning draws included."""
        planned = self.stopping.planning if self.planning_draws is None else self.planning_draws
        seen: NDArray[np.int64] = self.n + planned
        return seen

    def at_level(self, alpha: float) -> Interval:
        """The intervals of the same votes at another alpha: of ``row_intervals``."""
        level = _check.failure_probability("alpha", alpha)
        right = np.zeros(self.n.size, np.uint8) if self.correct is None else self.correct
        return row_intervals(
            self.stopping, level, self.votes, self.n, self.look, self.planning_votes, right
        )


def run_adaptive(
    source: DrawSource,
    correct: Any,
    sigma: float,
    alpha: float = 1e-3,
    stopping: Stopping | None = None,
    *,
    first_draw: int = 0,
    previous: AdaptiveResult | None = None,
    progress: bool | Report = False,
) -> AdaptiveResult:
    """Draws as much as the certified metrics need, and no more.

    Planning draws, from ``first_draw`` on, and the labels say how many estimation draws a sample is
    worth; these follow its planning draws and are counted from the first. Looks at a sample are at
    numbers of draws that were fixed before its estimation draws began, so the union bound over the
    looks covers every rule of going on.

    Args:
        source: of draws for the selected class of each sample; selection draws are not among them.
        correct: (N,) booleans or 0/1, whether the selected class is right, or None.
        sigma: standard deviation of the noise, in pixel units.
        alpha: failure probability of one sample's interval, all looks and both sides together.
        stopping: the rules.
        first_draw: number of the first planning draw, after the selection draws.
        previous: an earlier run to go on with: its draws are kept. With ``"staged"`` only samples
            with looks left can go on, each to its next look.
        progress: True shows draws done; or a function of (draws done, draws planned).

    Returns:
        ``AdaptiveResult``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no samples, an argument out of range, or a ``previous`` run of other rules.

    Source:
        This project. Alpha spending over looks as in Horvath et al. (ICLR 2022).

    Example:
        >>> source = ReplayedVotes([9990, 9000, 4000], draws=10_000)
        >>> rules = Stopping(radii=(0.25,), n_max=10_000, planning=100)
        >>> result = run_adaptive(source, [1, 1, 0], sigma=0.25, stopping=rules)
        >>> bool(result.draws_total < 30_000), int(result.n[2])
        (True, 100)
    """
    if not isinstance(stopping, Stopping):
        raise TypeError(f"stopping: expected a Stopping, got {type(stopping).__name__}")
    scale = _check.positive_number("sigma", sigma)
    level = _check.failure_probability("alpha", alpha)
    start = _check.whole_number("first_draw", first_draw, 0)
    _check.like("source", source, "DrawSource", "votes", "__len__")
    if previous is not None:
        _check.instance("previous", previous, AdaptiveResult)
    if len(source) == 0:
        raise ValueError("source: expected at least one sample, got none")
    right = None if correct is None else _check.correct_vector("correct", correct, len(source))
    with reporting(progress, "certifying", "draws") as report:
        run = _Run(source, right, scale, level, stopping, start, report)
        if previous is not None:
            run.go_on_from(previous)
        run.to_the_end()
    return run.result()


class _Run:
    """The state of a run."""

    def __init__(
        self,
        source: DrawSource,
        correct: NDArray[np.uint8] | None,
        sigma: float,
        alpha: float,
        stopping: Stopping,
        first_draw: int,
        report: Report | None,
    ) -> None:
        self._source, self._correct, self._sigma, self._alpha = source, correct, sigma, alpha
        self._stopping, self._first_draw, self._report = stopping, first_draw, report
        size = len(source)
        self._votes, self._n = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._look = np.full(size, -1, np.int64)
        self._planning_votes, self._planning_draws = np.zeros_like(self._n), np.zeros_like(self._n)
        self._plans: list[DrawPlan] = []

    def go_on_from(self, previous: AdaptiveResult) -> None:
        """Takes over what an earlier run drew."""
        same = (
            "planning",
            "planning_stages",
            "method",
            "alpha_share",
            "lower_share",
            "n_min",
            "n_max",
        )
        for name in same:
            mine, theirs = getattr(self._stopping, name), getattr(previous.stopping, name)
            if mine != theirs:
                raise ValueError(f"previous: expected a run with {name}={mine}, got {theirs}")
        theirs = (previous.n.size, previous.first_draw, previous.sigma, previous.alpha)
        wanted = (len(self._source), self._first_draw, self._sigma, self._alpha)
        if theirs != wanted:
            raise ValueError(
                f"previous: expected (samples, first_draw, sigma, alpha) = {wanted}, got {theirs}"
            )
        self._votes, self._n, self._look = (
            part.copy() for part in (previous.votes, previous.n, previous.look)
        )
        self._planning_votes = previous.planning_votes
        self._planning_draws = previous.draws_seen - previous.n
        self._plans = list(previous.plans)

    def to_the_end(self) -> None:
        if not self._planning_draws.any():
            self._draw_to_plan()
        rounds = _ROUNDS if self._stopping.method == "sequence" else self._stopping.looks
        for step in range(rounds):
            plan = self._plan()
            self._plans.append(plan)
            target = plan.n
            if self._stopping.method == "sequence" and step + 1 < rounds:
                target = np.maximum(self._n, self._half_way(target))
            if not (target > self._n).any():
                break
            self._draw(target)

    def _draw_to_plan(self) -> None:
        """Planning draws: the first stage for all, more for samples that remain undecided."""
        stopping = self._stopping
        full = full_probits(stopping, self._alpha).lower[0]
        shifts = [radius / self._sigma for radius in stopping.radii]
        going, drawn = np.arange(self._n.size), 0
        least = stopping.planning + stopping.n_min
        spare = _SPARE * ((stopping.max_draws or np.inf) - least) * going.size
        for draws in stopping.planning_steps:
            if drawn:
                seen = (self._planning_votes, self._planning_draws)
                wanted = undecided(seen, full, shifts, stopping.n_max)
                # A sample that was decided once has fewer draws and stays as it is.
                going = going[wanted[going]]
                spare -= going.size * (draws - drawn)
            if going.size == 0 or spare < 0:
                break
            self._planning_votes[going] += self._source.votes(
                going, self._first_draw + drawn, draws - drawn
            )
            self._planning_draws[going] = drawn = draws

    def _plan(self) -> DrawPlan:
        stopping = self._stopping
        size, options = self._n.size, len(stopping.grid)
        first = bool((self._look < 0).all())
        allowed = np.zeros((size, options + 2), np.bool_)
        grid = np.array(stopping.grid)
        room = stopping.n_max - self._planning_draws
        if stopping.method == "sequence":
            allowed[:, :options] = grid > self._n[:, None]
            allowed[:, -1] = self._look >= 0
        elif first:
            allowed[:, :options] = grid <= room[:, None]
        else:
            place = np.searchsorted(grid, self._n)
            ahead = np.minimum(place + NEXT_LOOK, options - 1)
            going = (self._look + 1 < stopping.looks) & (ahead > place) & (grid[ahead] <= room)
            allowed[np.flatnonzero(going), ahead[going]] = True
            allowed[:, -1] = True
        seen = (self._planning_votes + self._votes, self._planning_draws + self._n)
        now = None if first else self._intervals()
        groups = Groups.of(seen, self._right(), self._n, allowed, now, stopping.n_max)
        probits = option_probits(stopping, self._alpha, int(self._look.max()) + 1)
        return plan_draws(stopping, self._sigma, groups, probits, self._correct is not None)

    def _half_way(self, target: NDArray[np.int64]) -> NDArray[np.int64]:
        grid = np.array(self._stopping.grid)
        return grid[np.maximum(np.searchsorted(grid, target) - _HALF_WAY, 0)]

    def _draw(self, target: NDArray[np.int64]) -> None:
        going = np.flatnonzero(target > self._n)
        # Estimation draws follow the planning draws of their sample.
        start = self._first_draw + self._planning_draws + self._n
        spans = np.stack([start[going], (target - self._n)[going]], axis=1)
        final = self._total() + int(spans[:, 1].sum())
        for first, draws in np.unique(spans, axis=0):
            rows = going[(spans == (first, draws)).all(axis=1)]
            self._votes[rows] += self._source.votes(rows, int(first), int(draws))
            self._n[rows] += draws
            if self._report is not None:
                self._report(self._total(), final)
        self._look[going] += 1

    def _total(self) -> int:
        return int(self._n.sum() + self._planning_draws.sum())

    def _intervals(self) -> Interval:
        return row_intervals(
            self._stopping,
            self._alpha,
            self._votes,
            self._n,
            self._look,
            self._planning_votes,
            self._right(),
        )

    def _right(self) -> NDArray[np.uint8]:
        return np.zeros(self._n.size, np.uint8) if self._correct is None else self._correct

    def result(self) -> AdaptiveResult:
        ends = self._intervals()
        return AdaptiveResult(
            self._votes,
            self._n,
            self._look,
            ends.lower,
            ends.upper,
            self._planning_votes,
            self._correct,
            self._sigma,
            self._alpha,
            self._stopping,
            self._first_draw,
            self._total(),
            tuple(self._plans),
            self._planning_draws,
        )
