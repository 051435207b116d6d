# SPDX-License-Identifier: MIT
"""Rules of a run with fewer draws: what is wanted, how alpha is spent, and the interval of a row."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.intervals.clopper_pearson import Interval, clopper_pearson, probit
from certcal_ext.intervals.sequences import mixture_interval
from certcal_ext.stopping.forecast import likely_votes, probabilities

METHODS = ("staged", "sequence")
METRICS = ("brier", "ece", "width")
#: Numbers of draws to choose from grow by this factor: four of them double.
_GROWTH = 2.0**0.25
_LARGEST = 0.999  # alpha of a Clopper-Pearson interval
#: A look at a sample that goes on has this many steps of the grid more draws than the one before:
#: twice as many.
NEXT_LOOK = 4
#: Planning draws grow by this factor where they leave open whether the full run certifies a sample.
_MORE_PLANNING = 4
_MOST_PLANNING = 10  # a sample has at most this part of ``n_max`` for planning


@dataclass(frozen=True)
class Stopping:
    """What draws are to be saved for, and how errors are spent.

    Attributes:
        radii: l2 radii at which decisions and metrics count, in pixel units.
        tolerance: the certified metrics are planned to lie within it of those of ``n_max`` draws
            for each sample.
        metric: some of ``"brier"``, ``"ece"`` and ``"width"``, the mean width of the intervals of
            certified samples, which needs no labels.
        decision_tolerance: share of samples that may be planned to abstain or be certified unlike
            in the full run.
        n_max: draws for a sample in the full run; no sample gets more, planning draws included.
        n_min: least estimation draws for a sample, those without a prospect of certification too.
        planning: draws for each sample that only say how many to take; they are never counted in an
            interval. They come before the estimation draws.
        planning_stages: with ``"staged"``, how often planning may stop at most: samples of which it is still
            open whether the full run certifies them get four times as many planning draws, and
            again, up to a tenth of ``n_max`` and a quarter of what ``max_draws`` leaves. 1 plans with
            ``planning`` draws for all.
        max_draws: most draws for a sample on average, planning draws included; None sets no limit.
            Where it is too few for the tolerance, the plan comes as near to it as it can.
        method: ``"staged"``, exact Clopper-Pearson intervals at looks that are fixed before the
            sample's estimation draws begin, or ``"sequence"``, beta-binomial confidence sequences,
            which are wider and can be continued at any time, however often.
        alpha_share: with ``"staged"``, the share of alpha of each look, at most 1 in all. A row has
            used one look for every time that drawing for it went on.
        lower_share: with ``"staged"``, the share of a look's alpha that the lower end of a right sample
            gets; its upper end has the rest. No worst case of a right sample is at its upper end,
            unless no bin in reach has a surplus of right samples. Wrong samples, and all where there
            are no labels, split alpha in halves. Labels do not depend on draws, so they may decide.
        bins: bins of equal width of the ECE, closed on the right.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range.

    Example:
        >>> Stopping(radii=(0.125, 0.25), alpha_share=(0.9, 0.1)).looks
        2
    """

    radii: tuple[float, ...]
    tolerance: float = 0.0035
    metric: tuple[str, ...] = ("brier", "ece")
    decision_tolerance: float = 0.007
    n_max: int = 100_000
    n_min: int = 100
    planning: int = 500
    planning_stages: int = 3
    max_draws: float | None = None
    method: str = "staged"
    alpha_share: tuple[float, ...] = (0.7, 0.3)
    lower_share: float = 0.95
    bins: int = 15

    def __post_init__(self) -> None:
        """Checks the arguments; ``radii`` may be any sequence."""
        object.__setattr__(self, "radii", tuple(_check.radii("radii", self.radii).tolist()))
        _check.positive_number("tolerance", self.tolerance)
        _check.positive_number("decision_tolerance", self.decision_tolerance)
        _check.whole_number("planning", self.planning, 1, 10**7 - 1)
        _check.whole_number("planning_stages", self.planning_stages, 1, 20)
        _check.whole_number("n_min", self.n_min, 1, 10**7 - 1)
        _check.whole_number("n_max", self.n_max, self.planning + self.n_min, 10**7)
        _check.whole_number("bins", self.bins, 1, _check.MAX_BINS)
        if self.max_draws is not None:
            least = self.planning + self.n_min
            if _check.positive_number("max_draws", self.max_draws) < least:
                raise ValueError(
                    f"max_draws: expected at least planning + n_min = {least}, got {self.max_draws}"
                )
        _check.choice("method", self.method, METHODS)
        names = (self.metric,) if isinstance(self.metric, str) else self.metric
        names = tuple(
            _check.choice("metric", name, METRICS) for name in _check.items("metric", names)
        )
        if not names:
            raise ValueError(f"metric: expected some of {METRICS}, got none")
        object.__setattr__(self, "metric", names)
        shares = tuple(
            _check.positive_number("alpha_share", share)
            for share in _check.items("alpha_share", self.alpha_share)
        )
        # The sum of the shares as written; 1e-12 forgives only the rounding of decimal fractions.
        if not shares or sum(shares) > 1.0 + 1e-12:
            raise ValueError(f"alpha_share: expected shares of at most 1 in all, got {shares}")
        object.__setattr__(self, "alpha_share", shares)
        if _check.positive_number("lower_share", self.lower_share) >= 1:
            raise ValueError(f"lower_share: expected a share below 1, got {self.lower_share}")

    def to_json(self) -> str:
        """The rules as a line of JSON, for the provenance of certificates."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Stopping:
        """The rules that ``to_json`` wrote.

        Args:
            text: a JSON object.

        Returns:
            ``Stopping``, checked like any other.

        Raises:
            TypeError: a field of the wrong kind.
            ValueError: not a JSON object, or other fields.

        Example:
            >>> rules = Stopping(radii=(0.25,))
            >>> Stopping.from_json(rules.to_json()) == rules
            True
        """
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"text: expected str or bytes, got {type(text).__name__}")
        try:
            fields: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"text, stopping: expected a JSON object with the fields of Stopping, got {text[:40]!r}"
            ) from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or not {"radii"} <= set(fields) <= known:
            raise ValueError(
                f"text, stopping: expected an object with fields of Stopping, got {text[:80]!r}"
            )
        return cls(**fields)

    @property
    def looks(self) -> int:
        """How often a sample's interval may be taken; a sequence has no limit."""
        return len(self.alpha_share) if self.method == "staged" else 1_000_000

    @property
    def planning_steps(self) -> tuple[int, ...]:
        """Planning draws of a sample after each stage, in all; a sequence has one stage."""
        stages = self.planning_stages if self.method == "staged" else 1
        more = [self.planning * _MORE_PLANNING**stage for stage in range(1, stages)]
        most = min(self.n_max // _MOST_PLANNING, self.n_max - self.n_min)
        return (self.planning, *(draws for draws in more if draws <= most))

    @property
    def grid(self) -> tuple[int, ...]:
        """Numbers of estimation draws to choose from, ``n_min`` to ``n_max - planning``."""
        most = self.n_max - self.planning
        steps = int(np.floor(np.log(most / self.n_min) / np.log(_GROWTH)))
        counts = {round(self.n_min * _GROWTH**step) for step in range(steps + 1)} | {most}
        return tuple(sorted(n for n in counts if n <= most))

    def share(self, look: int) -> float:
        """Share of alpha of the interval at a look, 0 for the first; 1 for a sequence."""
        _check.position("look", look, self.looks)
        if self.method == "sequence":
            return 1.0
        # Scaled down by the last bit, so that the errors cannot add up to more than alpha.
        return self.alpha_share[look] / max(1.0, sum(self.alpha_share))

    def lower(self, correct: int) -> float:
        """Share of a look's alpha that the lower end gets."""
        return self.lower_share if _check.whole_number("correct", correct, 0, 1) else 0.5


def row_intervals(
    stopping: Stopping,
    alpha: float,
    votes: NDArray[np.int64],
    n: NDArray[np.int64],
    look: NDArray[np.int64],
    planning_votes: NDArray[np.int64],
    correct: NDArray[np.uint8],
) -> Interval:
    """The interval of each row: a function of its votes, draws, look, correctness and alpha.

    With a sequence, of its planning votes in place of look and correctness.

    Rows can therefore be evaluated again at another alpha; nothing in when a run stops depends on
    the level that is asked for afterwards.
    """
    if stopping.method == "sequence":
        return mixture_interval(votes, n, alpha, *_prior(planning_votes, stopping.planning))
    lower, upper = np.zeros(votes.size), np.ones(votes.size)
    for draws, stage, right in set(zip(n.tolist(), look.tolist(), correct.tolist(), strict=True)):
        if draws == 0:
            continue
        rows = (n == draws) & (look == stage) & (correct == right)
        level = alpha * stopping.share(stage)
        lower[rows], upper[rows] = split_interval(votes[rows], draws, level, stopping.lower(right))
    return Interval(lower, upper)


def best_lower_ends(
    stopping: Stopping, alpha: float, draws: int, labelled: bool
) -> NDArray[np.float64]:
    """(L,) lower ends of a row with all of its votes, at every look that it may be of, wrong or right.

    Args:
        stopping: the rules.
        alpha: failure probability of a row.
        draws: n.
        labelled: whether the run knew the labels.
    """
    looks = np.arange(stopping.looks if stopping.method == "staged" else 1)
    look = np.repeat(looks, 2)
    right = np.tile(np.array([0, int(labelled)], np.uint8), looks.size)
    votes, planned = np.full(look.size, draws), np.full(look.size, stopping.planning)
    return row_intervals(stopping, alpha, votes, votes, look, planned, right).lower


def split_interval(k: NDArray[np.int64], n: int, alpha: float, lower_share: float) -> Interval:
    """Clopper-Pearson ends whose failure probabilities are ``lower_share`` x alpha and the rest of it.

    A two-sided interval at 2a fails with probability at most a on each side.
    """
    lower = clopper_pearson(k, n, min(2.0 * alpha * lower_share, _LARGEST)).lower
    return Interval(
        lower, clopper_pearson(k, n, min(2.0 * alpha * (1.0 - lower_share), _LARGEST)).upper
    )


def _prior(planning_votes: Any, planning: int) -> tuple[Any, Any]:
    """The beta prior of a confidence sequence: planning votes and half a vote more a side."""
    return planning_votes + 0.5, planning - planning_votes + 0.5


@lru_cache(maxsize=12)
def _exact_probits(
    draws: tuple[int, ...], alpha: float, lower_share: float, n_max: int
) -> Interval:
    """(J, P, Q) probits of the intervals of likely votes."""
    votes = likely_votes(draws, n_max)
    lower, upper = np.empty(votes.shape), np.empty(votes.shape)
    for j, n in enumerate(draws):
        ends = probit(*(end.reshape(-1) for end in split_interval(votes[j], n, alpha, lower_share)))
        lower[j], upper[j] = (end.reshape(votes.shape[1:]) for end in ends)
    return Interval(lower, upper)


@lru_cache(maxsize=2)
def _sequence_probits(draws: tuple[int, ...], alpha: float, planning: int, n_max: int) -> Interval:
    votes = likely_votes(draws, n_max)
    shape = votes.shape
    n = np.broadcast_to(np.array(draws)[:, None, None], shape).reshape(-1)
    hits = np.broadcast_to(planning * probabilities(n_max)[0][:, None], shape).reshape(-1)
    ends = probit(*mixture_interval(votes.reshape(-1), n, alpha, *_prior(hits, planning)))
    return Interval(ends.lower.reshape(shape), ends.upper.reshape(shape))


def full_probits(stopping: Stopping, alpha: float) -> Interval:
    """(1, P, Q) probits of the full run, a plain one with half of alpha a side."""
    return _exact_probits((stopping.n_max,), alpha, 0.5, stopping.n_max)


def option_probits(stopping: Stopping, alpha: float, look: int) -> tuple[Interval, Interval]:
    """Probits of wrong and of right samples: (J + 1, P, Q), the grid's options and last the full run."""
    grid = stopping.grid
    most = stopping.n_max
    full = full_probits(stopping, alpha)

    def of(correct: int) -> Interval:
        if stopping.method == "sequence":
            options = _sequence_probits(grid, alpha, stopping.planning, most)
        else:
            level = alpha * stopping.share(min(look, stopping.looks - 1))
            options = _exact_probits(grid, level, stopping.lower(correct), most)
        return Interval(*(np.concatenate([o, f]) for o, f in zip(options, full, strict=True)))

    return of(0), of(1)
