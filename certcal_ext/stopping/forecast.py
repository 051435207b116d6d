# SPDX-License-Identifier: MIT
"""What certified metrics will be after so many draws: estimates, from the votes seen so far.

Nothing here is a certificate, and no certificate depends on it: forecasts only say where draws are
worth their price. A sample's unknown vote probability p is described by weights on a fixed set of
p, Bayes' rule applied to its votes with the distribution of p over the data set as the prior,
which is itself estimated from all samples (empirical Bayes, Robbins 1956; by EM). For each p, a few
equally likely counts stand for the binomial distribution of the votes of n draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binom

from certcal_ext.bins import Bins
from certcal_ext.metrics.ece_table import EceTable
from certcal_ext.metrics.state import FRACTION_BITS, LOW_BITS

Floats = NDArray[np.float64]

#: Equally likely counts that stand for a binomial distribution.
QUANTILES = 15
#: Few steps keep the estimated distribution smooth: run to convergence, EM turns it into spikes that
#: follow the noise of the votes, and plans then lean on them.
_EM_STEPS = 10
_WEIGHT_BITS = 32
_OPEN = 0.03  # a decision is open where both outcomes are likelier than this


@lru_cache(maxsize=4)
def probabilities(n_max: int) -> tuple[Floats, Floats, Floats]:
    """The (P,) vote probabilities that forecasts are made of, log p and log(1 - p).

    Even on the arcsine scale, on which votes of n draws are spread by 1 / (2 sqrt(n)) whatever p is,
    with steps below that for ``n_max`` draws, or 10^5 where it is more; close to 1, where counts of
    misses matter, even in log odds.
    """
    step = 0.475 / np.sqrt(min(n_max, 100_000))
    middle = np.sin(np.arange(0.15, 1.54, step)) ** 2
    odds = np.arange(np.log(middle[-1] / (1 - middle[-1])) + 0.08, 16.0, 0.08)
    p = np.concatenate([middle, 1.0 / (1.0 + np.exp(-odds))])
    log_misses = np.concatenate([np.log1p(-middle), -np.log1p(np.exp(odds))])
    return p, np.log(p), log_misses


@lru_cache(maxsize=4)
def likely_votes(draws: tuple[int, ...], n_max: int) -> NDArray[np.int64]:
    """(J, P, Q) counts: for each number of draws and each p, Q equally likely ones."""
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    n = np.array(draws)[:, None, None]
    votes: NDArray[np.int64] = binom.ppf(levels, n, probabilities(n_max)[0][:, None]).astype(
        np.int64
    )
    return votes


def posterior(
    k: NDArray[np.int64], n: NDArray[np.int64], weight: NDArray[np.int64], n_max: int
) -> Floats:
    """(G, P) weights of the vote probabilities given k of n votes, with an estimated prior.

    Args:
        k: (G,) votes for the selected class.
        n: (G,) draws.
        weight: (G,) how many samples have these votes.
        n_max: chooses the vote probabilities.
    """
    _, log_p, log_misses = probabilities(n_max)
    log_likelihood = k[:, None] * log_p + (n - k)[:, None] * log_misses
    log_likelihood -= log_likelihood.max(axis=1, keepdims=True)
    likelihood: Floats = np.exp(log_likelihood)
    prior = np.full(log_p.size, 1.0 / log_p.size)
    share = weight / weight.sum()
    for _ in range(_EM_STEPS):
        # The step of EM: the prior becomes the mean of the posteriors. A trace of the flat prior
        # keeps every p possible.
        prior *= likelihood.T @ (share / (likelihood @ prior))
        prior = 0.999 * prior / prior.sum() + 0.001 / prior.size
    result: Floats = likelihood * prior
    result /= result.sum(axis=1, keepdims=True)
    return result


def undecided(
    seen: tuple[NDArray[np.int64], NDArray[np.int64]],
    full_lower: Floats,
    shifts: Sequence[float],
    n_max: int,
) -> NDArray[np.bool_]:
    """(N,) samples of which the votes leave open, at any radius, whether the full run certifies them.

    Args:
        seen: (N,) votes and (N,) draws.
        full_lower: (P, Q) probits of lower ends of the full run.
        shifts: radii over sigma.
        n_max: draws of the full run.
    """
    pairs, row, weight = np.unique(
        np.stack(seen, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    chance = posterior(pairs[:, 0], pairs[:, 1], weight, n_max)
    result = np.zeros(len(pairs), np.bool_)
    for shift in shifts:
        certified = chance @ (full_lower > shift).mean(axis=1)
        result |= (certified > _OPEN) & (certified < 1.0 - _OPEN)
    return result[row.reshape(-1)]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Possible intervals under attack, arrays of one shape.

    Attributes:
        lower: lower ends.
        upper: upper ends.
        certified: whether the prediction is.
        first: bins of the lower ends.
        last: bins of the upper ends.
        edges: (M + 1,) edges of the bins.
    """

    lower: Floats
    upper: Floats
    certified: NDArray[np.bool_]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    edges: Floats

    @classmethod
    def shifted(
        cls, probit_lower: Floats, probit_upper: Floats, shift: float, bins: int
    ) -> Outcomes:
        """Intervals of probits after a shift of radius / sigma."""
        lower, upper = ndtr(probit_lower - shift), ndtr(probit_upper + shift)
        cells = Bins.of(bins)
        first, last = (cells.index(end) for end in (lower, upper))
        return cls(lower, upper, probit_lower > shift, first, last, cells.edges)

    def ece_term(self, correct: int, signs: NDArray[np.int8]) -> Floats:
        """f_n(s) of the theorem in ``docs/theory.md``: what a sample adds to the ECE under signs s."""
        bins = signs.size
        if correct:
            after = np.full(bins, bins)  # the first + bin at or after each
            for m in range(bins - 1, -1, -1):
                after[m] = m if signs[m] > 0 else (after[m + 1] if m + 1 < bins else bins)
            plus = after[self.first]
            edge = self.edges[np.minimum(plus, bins - 1)]
            return np.where(plus <= self.last, 1.0 - np.maximum(self.lower, edge), self.upper - 1.0)
        before = np.full(bins, -1)  # the last - bin at or before each
        for m in range(bins):
            before[m] = m if signs[m] < 0 else (before[m - 1] if m else -1)
        minus = before[self.last]
        edge = self.edges[np.maximum(minus, 0) + 1]
        return np.where(minus >= self.first, np.minimum(self.upper, edge), -self.lower)

    def brier_term(self, correct: int) -> Floats:
        """The worst squared error."""
        return (1.0 - self.lower) ** 2 if correct else self.upper**2

    def width_term(self, correct: int) -> Floats:
        """How wide the interval is; correctness does not matter."""
        return self.upper - self.lower


def cells(weight: Floats, correct: int, outcomes: Outcomes) -> Floats:
    """(3, 2, M, M): sums of weight, weight x lower and weight x upper of certified outcomes by cell."""
    bins = outcomes.edges.size - 1
    mass = np.where(outcomes.certified, weight, 0.0)
    keep = np.flatnonzero(mass)
    mass = mass.reshape(-1)[keep]
    cell = (correct * bins + outcomes.first.reshape(-1)[keep]) * bins
    cell += outcomes.last.reshape(-1)[keep]
    sums = [
        np.bincount(cell, part, 2 * bins * bins)
        for part in (
            mass,
            mass * outcomes.lower.reshape(-1)[keep],
            mass * outcomes.upper.reshape(-1)[keep],
        )
    ]
    result: Floats = np.stack(sums).astype(np.float64).reshape(3, 2, bins, bins)
    return result


def solve_cells(sums: Floats) -> tuple[float, NDArray[np.int8]]:
    """The certified ECE of weighted samples, to about 1e-8, and its worst signs.

    Weights become whole numbers, so that the exact recursion can be used.
    """
    weight, lower, upper = sums
    bins = weight.shape[-1]
    if weight.sum() <= 0:
        return float("nan"), np.ones(bins, np.int8)
    count = np.rint(np.ldexp(weight / weight.sum(), _WEIGHT_BITS)).astype(np.int64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    state = np.zeros((*weight.shape, 5), np.int64)
    state[..., 0] = count
    safe = np.where(weight > 0, weight, 1.0)
    for column, total, axis in ((1, lower, 1), (3, upper, 2)):
        shape = [-1 if a == axis else 1 for a in range(3)]
        mean = np.clip(total / safe, edges[:-1].reshape(shape), edges[1:].reshape(shape))
        scaled = np.ldexp(mean * count, FRACTION_BITS - LOW_BITS)
        high = np.floor(scaled)
        state[..., column] = high
        state[..., column + 1] = np.ldexp(scaled - high, LOW_BITS)
    solved = EceTable.from_state(state, bins=bins).certify()
    return solved.value, solved.signs


@dataclass(frozen=True, eq=False)
class RadiusForecast:
    """Groups of samples with equal votes, at one radius.

    Attributes:
        weight: (G,) samples in each group.
        correct: (G,) 0 or 1.
        chance: (G, P) weights of the vote probabilities.
        options: outcomes of wrong and of right samples for the numbers of draws to choose from, and
            last for the full run; shape (J + 1, P, Q).
        now: outcomes of the intervals that the groups have, shape (G,), or None.
    """

    weight: Floats
    correct: NDArray[np.int64]
    chance: Floats
    options: tuple[Outcomes, Outcomes]
    now: Outcomes | None

    def expected(self, term: Callable[[Outcomes, int], Floats]) -> tuple[Floats, Floats]:
        """Means over the counts of term x certified: (2, J + 1, P) by p, and (G, J + 2) by group.

        The columns of the groups are the options, the full run, and the interval they have now.
        """
        by_p = np.stack(
            [(term(o, c) * o.certified).mean(axis=2) for c, o in enumerate(self.options)]
        )
        by_group = np.zeros((self.weight.size, by_p.shape[1] + 1))
        for c in (0, 1):
            rows = self.correct == c
            by_group[rows, :-1] = self.chance[rows] @ by_p[c].T
            if self.now is not None:
                by_group[rows, -1] = (term(self.now, c) * self.now.certified)[rows]
        return by_p, by_group

    def by_group(self, by_p: Floats) -> Floats:
        """(G, J + 1) means over p of (2, J + 1, P)."""
        result = np.empty((self.weight.size, by_p.shape[1]))
        for c in (0, 1):
            rows = self.correct == c
            result[rows] = self.chance[rows] @ by_p[c].T
        return result

    def worst_ece(self, use: Floats) -> tuple[float, NDArray[np.int8]]:
        """Forecast certified ECE and its signs where share ``use`` (G, J + 2) of a group goes to each column."""
        amount = use * self.weight[:, None]
        bins = self.options[0].edges.size - 1
        sums = np.zeros((3, 2, bins, bins))
        for c, options in enumerate(self.options):
            rows = self.correct == c
            mass = amount[rows, :-1].T @ self.chance[rows] / QUANTILES
            sums += cells(np.broadcast_to(mass[:, :, None], options.lower.shape), c, options)
            if self.now is not None:
                sums += cells(np.where(rows, amount[:, -1], 0.0), c, self.now)
        return solve_cells(sums)
