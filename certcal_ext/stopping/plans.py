# SPDX-License-Identifier: MIT
"""How many draws each sample is worth: the limits of a plan, and the plan.

Variables are the shares of a group of alike samples that get each number of draws; the certified
Brier score is linear in them, and the certified ECE is a maximum over sign vectors of linear
functions (``docs/theory.md``), so its limit is a set of linear limits, of which those that matter
are found one by one (cutting planes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.intervals.clopper_pearson import Interval, probit
from certcal_ext.stopping.forecast import Floats, Outcomes, RadiusForecast, posterior
from certcal_ext.stopping.program import DrawProgram
from certcal_ext.stopping.rules import Stopping, option_probits

if TYPE_CHECKING:
    from certcal_ext.stopping.adaptive import AdaptiveResult

#: How much of the tolerance may come from hard samples that are not certified although the full run
#: would certify them: without them an average over the certified set looks better than it is.
_CREDIT = 1.4
_MAX_CUTS = 25
#: A sign vector is added where it passes its limit by more than this share of the tolerance.
_CUT_SLACK = 0.02


@dataclass(frozen=True)
class Prediction:
    """Estimates, not certificates, at one radius.

    Attributes:
        radius: l2 radius.
        draws: draws a sample on average, planning draws included.
        certified: number of certified samples.
        brier: certified Brier score, nan without labels.
        ece: certified ECE, nan without labels.
        width: mean width of the intervals of certified samples.
        disagreement: share of samples decided unlike in the full run.
    """

    radius: float
    draws: float
    certified: float
    brier: float
    ece: float
    width: float
    disagreement: float


@dataclass(frozen=True)
class MoreDraws:
    """An entry of ``what_more_draws_buy``.

    Attributes:
        factor: how many times the draws; None for the full run.
        expected: what is expected of it, an estimate.
    """

    factor: float | None
    expected: Prediction


@dataclass(frozen=True, eq=False)
class DrawPlan:
    """What to draw next.

    Attributes:
        n: (N,) estimation draws that each sample shall have; at least what it has.
        planned: what the plan is expected to give, one entry a radius.
        full: what the full run is expected to give.
        tolerance_factor: 1 where the plan keeps the tolerances, above 1 where it cannot.
    """

    n: NDArray[np.int64]
    planned: tuple[Prediction, ...]
    full: tuple[Prediction, ...]
    tolerance_factor: float


@dataclass(frozen=True, eq=False)
class Groups:
    """Samples that are alike in all a plan looks at.

    Attributes:
        row: (N,) the group of each sample.
        weight: (G,) samples in each.
        correct: (G,) 0 or 1.
        chance: (G, P) weights of the vote probabilities.
        planning: (G,) planning draws.
        n: (G,) estimation draws now.
        allowed: (G, J + 2) options that may be chosen: the grid's, never the full run, and staying.
        now: probits of the intervals now, or None before the first look.
    """

    row: NDArray[np.int64]
    weight: Floats
    correct: NDArray[np.int64]
    chance: Floats
    planning: NDArray[np.int64]
    n: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    now: Interval | None

    @classmethod
    def of(
        cls,
        seen: tuple[NDArray[np.int64], NDArray[np.int64]],
        correct: NDArray[np.uint8],
        n: NDArray[np.int64],
        allowed: NDArray[np.bool_],
        now: Interval | None,
        n_max: int,
    ) -> Groups:
        """Groups of samples by (votes, draws) seen in all, correctness, draws, options, interval."""
        columns = [*seen, correct, n, allowed.sum(axis=1)]
        if now is not None:
            columns += [now.lower, now.upper]
        _, first, row, weight = np.unique(
            np.stack([np.asarray(c, np.float64) for c in columns], axis=1),
            axis=0,
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        k, draws = seen
        chance = posterior(k[first], draws[first], weight, n_max)
        ends = None if now is None else probit(now.lower[first], now.upper[first])
        right = correct[first].astype(np.int64)
        return cls(
            row.reshape(-1),
            weight.astype(np.float64),
            right,
            chance,
            (draws - n)[first],
            n[first],
            allowed[first],
            ends,
        )

    def draws(self, stopping: Stopping) -> NDArray[np.int64]:
        """(G, J + 2) draws after the planning draws: the options, the full run, and staying."""
        result = np.tile(np.array([*stopping.grid, 0, 0]), (self.n.size, 1))
        result[:, -2] = stopping.n_max - self.planning
        result[:, -1] = self.n
        return result


class _Radius:
    """The limits at one radius, as pairs of coefficients (G, J + 2) and a limit of their sum."""

    def __init__(
        self,
        radius: float,
        sigma: float,
        groups: Groups,
        options: tuple[Interval, Interval],
        stopping: Stopping,
        labelled: bool,
    ) -> None:
        shift = radius / sigma
        now = groups.now
        self.radius, self._labelled = radius, labelled
        self._groups, self._stopping = groups, stopping
        self.forecast = RadiusForecast(
            groups.weight,
            groups.correct,
            groups.chance,
            (
                Outcomes.shifted(*options[0], shift, stopping.bins),
                Outcomes.shifted(*options[1], shift, stopping.bins),
            ),
            None if now is None else Outcomes.shifted(*now, shift, stopping.bins),
        )
        self._chance_by_p, self.certified = self.forecast.expected(
            lambda o, c: np.ones(o.lower.shape)
        )
        self._full_count = self._total(self.certified, -2)
        self._disagreement = self._decisions()
        terms = {"brier": Outcomes.brier_term, "width": Outcomes.width_term}
        self._terms = {name: self.forecast.expected(term) for name, term in terms.items()}
        full_run = np.zeros_like(self.certified)
        full_run[:, -2] = 1.0
        self.full = self.predict(full_run)
        self.rows: list[tuple[Floats, float]] = []
        self._signs: set[bytes] = set()

    def _total(self, by_group: Floats, column: int) -> float:
        return float(self._groups.weight @ by_group[:, column])

    def _decisions(self) -> Floats:
        """(G, J + 2) how likely the decision differs from the full run's.

        Were the two independent given p, they would differ with chance a + b - 2ab, and were their
        draws the same, |a - b|; n draws in common with the full run's n_max correlate the votes by
        the root of n / n_max.
        """
        now, full = self._chance_by_p, self._chance_by_p[:, -1:]
        draws = np.array([*self._stopping.grid, self._stopping.n_max])
        apart = (1.0 - np.sqrt(draws / self._stopping.n_max))[None, :, None]
        nested = np.abs(now - full)
        differ = nested + apart * (now + full - 2.0 * now * full - nested)
        result = np.zeros_like(self.certified)
        result[:, :-1] = self.forecast.by_group(differ)
        is_certified, later = self.certified[:, -1], self.certified[:, -2]
        result[:, -1] = is_certified * (1.0 - later) + (1.0 - is_certified) * later
        return result

    def set_limits(self) -> None:
        """Fills ``rows``; there are none where the full run is expected to certify nothing."""
        if self._full_count <= 0:
            return
        full_run = np.zeros_like(self.certified)
        full_run[:, -2] = 1.0
        weight = self._groups.weight[:, None]
        tolerance = self._stopping.tolerance * self._full_count
        samples = float(self._groups.weight.sum())
        decisions = self._stopping.decision_tolerance * samples
        self.rows.append((weight * self._disagreement, decisions))
        for name in ("brier", "width"):
            if name in self._metrics():
                by_p, by_group = self._terms[name]
                value = self._total(by_group, -2) / self._full_count
                excess = weight * (by_group - value * self.certified)
                self.rows += [(excess, tolerance), (-excess, tolerance)]
                self.rows.append((self._credit(by_p, value), _CREDIT * tolerance))
        if "ece" in self._metrics():
            _, signs = self.forecast.worst_ece(full_run)
            by_p, excess = self._ece_excess(signs)
            self.rows.append((-excess, tolerance))
            self.rows.append((self._credit(by_p, self.full.ece), _CREDIT * tolerance))
            self.add_signs(signs)

    def _metrics(self) -> tuple[str, ...]:
        return self._stopping.metric if self._labelled else ("width",)

    def _ece_excess(self, signs: NDArray[np.int8]) -> tuple[Floats, Floats]:
        by_p, by_group = self.forecast.expected(lambda o, c: o.ece_term(c, signs))
        return by_p, self._groups.weight[:, None] * (by_group - self.full.ece * self.certified)

    def add_signs(self, signs: NDArray[np.int8]) -> bool:
        """Limits the ECE under one more sign vector; False where it was there."""
        if signs.tobytes() in self._signs:
            return False
        self._signs.add(signs.tobytes())
        tolerance = self._stopping.tolerance * self._full_count
        self.rows.append((self._ece_excess(signs)[1], tolerance))
        return True

    def _credit(self, by_p: Floats, value: float) -> Floats:
        """(G, J + 2) what missing a sample that the full run certifies takes off the metric's sum."""
        full = self._chance_by_p[:, -1:]
        worth = by_p[:, -1:] - value * full  # (2, 1, P): the metric's excess where certified
        kept = np.minimum(
            np.divide(self._chance_by_p, full, out=np.ones_like(self._chance_by_p), where=full > 0),
            1.0,
        )
        missed = (1.0 - kept) * worth
        result = np.zeros_like(self.certified)
        result[:, :-1] = self.forecast.by_group(missed)
        open_now = 1.0 - self.certified[:, -1]
        result[:, -1] = (
            open_now * self.forecast.by_group(np.broadcast_to(worth, missed.shape))[:, -1]
        )
        return self._groups.weight[:, None] * result

    def cut(self, use: Floats, factor: float) -> bool:
        """Adds the worst sign vector where it passes its limit."""
        if "ece" not in self._metrics() or self._full_count <= 0:
            return False
        value, signs = self.forecast.worst_ece(use)
        limit = self.full.ece + (factor + _CUT_SLACK) * self._stopping.tolerance
        return value > limit and self.add_signs(signs)

    def predict(self, use: Floats) -> Prediction:
        """What shares ``use`` (G, J + 2) of the groups in each option are expected to give."""
        amount = use * self._groups.weight[:, None]
        count = float((amount * self.certified).sum())
        samples = float(self._groups.weight.sum())
        draws = self._groups.draws(self._stopping) + self._groups.planning[:, None]
        spent = float((amount * draws).sum()) / samples
        mean = {
            name: float((amount * by_group).sum()) / count if count > 0 else float("nan")
            for name, (_, by_group) in self._terms.items()
        }
        known = self._labelled and count > 0
        return Prediction(
            self.radius,
            spent,
            count,
            mean["brier"] if known else float("nan"),
            self.forecast.worst_ece(use)[0] if known else float("nan"),
            mean["width"],
            float((amount * self._disagreement).sum()) / samples,
        )


def plan_draws(
    stopping: Stopping,
    sigma: float,
    groups: Groups,
    options: tuple[Interval, Interval],
    labelled: bool,
) -> DrawPlan:
    """The least draws that keep the tolerances, or the best use of ``max_draws`` where they are too few.

    Args:
        stopping: what is wanted.
        sigma: standard deviation of the noise.
        groups: the samples.
        options: (J + 1, P, Q) probits of the options' intervals, of wrong and of right samples.
        labelled: whether ``groups.correct`` means anything.

    Returns:
        ``DrawPlan``.
    """
    radii = [_Radius(r, sigma, groups, options, stopping, labelled) for r in stopping.radii]
    for radius in radii:
        radius.set_limits()
    spent = float(groups.weight @ (groups.planning + groups.n)) / float(groups.weight.sum())
    most = stopping.n_max if stopping.max_draws is None else stopping.max_draws
    draws = groups.draws(stopping)
    program = DrawProgram(
        draws, groups.allowed, groups.weight, groups.n, most - spent, stopping.n_max
    )
    for _ in range(_MAX_CUTS):
        use, factor = program.solve([row for radius in radii for row in radius.rows])
        if not any([radius.cut(use, factor) for radius in radii]):
            break
    return DrawPlan(
        program.draws_of_rows(use, groups.row),
        tuple(radius.predict(use) for radius in radii),
        tuple(radius.full for radius in radii),
        factor,
    )


def what_more_draws_buy(
    result: AdaptiveResult,
    radii: Any = None,
    factors: Sequence[float] = (1.0, 2.0, 4.0, 10.0),
) -> tuple[MoreDraws, ...]:
    """What runs with more draws would be expected to give: estimates, not certificates.

    Each sample's draws are multiplied, up to ``n_max``; the last entry of a radius is the full run.
    Votes not drawn yet are forecast from those seen. Intervals are those of a fresh run that looks
    once; factor 1 is the run as it is.

    Args:
        result: of ``run_adaptive``.
        radii: l2 radii; None takes those of the run.
        factors: at least 1.

    Returns:
        One ``MoreDraws`` for each radius and factor, and one for its full run.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a radius below 0, or a factor below 1.

    Example:
        >>> from certcal_ext.stopping.adaptive import ReplayedVotes, run_adaptive
        >>> source = ReplayedVotes([9990, 9000, 4000], draws=10_000)
        >>> rules = Stopping(radii=(0.25,), n_max=10_000, planning=100)
        >>> result = run_adaptive(source, [1, 1, 0], sigma=0.25, stopping=rules)
        >>> [entry.factor for entry in what_more_draws_buy(result, factors=(1, 4))]
        [1.0, 4.0, None]
    """
    times = [_check.real_number("factors", each) for each in _check.items("factors", factors)]
    if min(times, default=1.0) < 1:
        raise ValueError(f"factors: expected numbers of at least 1, got {min(times)}")
    _check.like("result", result, "AdaptiveResult", "stopping", "planning_votes")
    rules = result.stopping
    asked = rules.radii if radii is None else tuple(_check.radii("radii", radii).tolist())
    right = np.zeros(result.n.size, np.uint8) if result.correct is None else result.correct
    seen = (result.planning_votes + result.votes, result.draws_seen)
    allowed = np.ones((result.n.size, len(rules.grid) + 2), np.bool_)
    ends = Interval(result.lower, result.upper)
    groups = Groups.of(seen, right, result.n, allowed, ends, rules.n_max)
    options = option_probits(rules, result.alpha, 0)
    entries = []
    for radius in asked:
        forecast = _Radius(radius, result.sigma, groups, options, rules, result.correct is not None)
        for factor in times:
            use = np.zeros(groups.allowed.shape)
            wanted = np.searchsorted(
                rules.grid, factor * (groups.n + groups.planning) - groups.planning
            )
            column = (
                np.minimum(wanted, len(rules.grid) - 1)
                if factor > 1
                else np.full(groups.n.size, -1)
            )
            use[np.arange(groups.n.size), column] = 1.0
            entries.append(MoreDraws(factor, forecast.predict(use)))
        entries.append(MoreDraws(None, forecast.full))
    return tuple(entries)
