# SPDX-License-Identifier: MIT
"""The fewest draws that any plan could take: for what ``bench_stopping.py --oracle`` prints and keeps.

A plan of draws has to learn the vote probabilities before it can spend draws well, and chance moves what it gets. The oracle
here knows all probabilities. What remains is the price of the intervals themselves, and of chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bench_stopping import (
    ALPHA,
    FEWER,
    NEAR,
    RADII,
    SAME,
    SIGMA,
    N,
    Study,
    Values,
    cifar10,
    compare,
    within,
)
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array
from scipy.stats import binom

from certcal_ext.intervals.clopper_pearson import Interval, clopper_pearson, probit
from certcal_ext.stopping.adaptive import ReplayedVotes
from certcal_ext.stopping.forecast import Outcomes, cells, solve_cells
from certcal_ext.stopping.rules import split_interval

#: Tolerances of the means that are tried for a plan that keeps the goals in most orders, not on average only.
TIGHTER = (0.004, 0.003, 0.0025, 0.002, 0.0015)
ORDERS, MOST_ORDERS = range(100, 140), 36
#: What a sample may choose: a number of draws, and the share of alpha of the lower end.
DRAWS = tuple(round(50 * 2 ** (step / 2)) for step in range(22))
CHOICES = tuple((n, split) for n in DRAWS for split in (0.5, 0.95, 0.9999))
QUANTILES = 31
#: Every so manieth CIFAR-10 sample: the linear program has 68 variables a sample.
STEP = 16


def randomised_interval(k: NDArray[np.int64], n: int, alpha: float, lower_share: float) -> Interval:
    """About the mean of the randomised bounds (Stevens 1950) over their uniform number.

    They lie between the Clopper-Pearson ends of k and of one vote more (or fewer), and no bounds of n draws at that level
    are nearer to p on average: they invert the uniformly most powerful tests. For k = n the lower one is (alpha / U)^(1/n).
    """
    here = split_interval(k, n, alpha, lower_share)
    up = split_interval(np.minimum(k + 1, n), n, alpha, lower_share).lower
    down = split_interval(np.maximum(k - 1, 0), n, alpha, lower_share).upper
    lower, upper = (here.lower + up) / 2, (here.upper + down) / 2
    lower = np.where(k == n, min(1.0, np.e * alpha * lower_share) ** (1 / n), lower)
    upper = np.where(k == 0, 1 - min(1.0, np.e * alpha * (1 - lower_share)) ** (1 / n), upper)
    return Interval(np.minimum(lower, upper), upper)


def probits_of(data: Study, randomised: bool) -> Interval:
    """(G, J, Q) ends of each sample for each choice and, last, in the full run as it was."""
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    interval = randomised_interval if randomised else split_interval
    ends = []
    for n, split in CHOICES:
        counts = binom.ppf(levels, n, data.votes[:, None] / N).astype(np.int64)
        ends.append(probit(*interval(counts.reshape(-1), n, ALPHA, split)))
    ends.append(probit(*clopper_pearson(np.repeat(data.votes, QUANTILES), N, ALPHA)))
    shape = (len(ends), data.votes.size, QUANTILES)
    return Interval(
        *(np.stack(end).reshape(shape).swapaxes(0, 1) for end in zip(*ends, strict=True))
    )


class Oracle:
    """The fewest draws of any plan of one Clopper-Pearson interval a sample that knows the vote probabilities.

    The full counts stand for the probabilities; no draws go to planning. Each sample chooses its number of draws, how alpha
    is split between the ends, or not to be drawn at all. Means over the binomial votes meet the goals; the
    ECE is the largest of its means under the sign vectors, which is at most its mean, so the answer errs low.
    """

    def __init__(self, data: Study, radius: float, ends: Interval) -> None:
        """Sets up the outcomes of ``probits_of`` (data) at a radius."""
        self._data, self._right = data, data.correct[:, None, None]
        self._cost = np.array([n for n, _ in CHOICES] + [N, 0]) / N / data.votes.size
        self._outcomes = Outcomes.shifted(*ends, radius / SIGMA, 15)
        self._radius, self._full = radius, data.full[radius]

    def _mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(G, J) means over the votes where certified, and 0 for no draws."""
        means = (values * self._outcomes.certified).mean(axis=2)
        return np.hstack([means, np.zeros((len(means), 1))])

    def _ece(self, signs: NDArray[np.int8]) -> NDArray[np.float64]:
        wrong, right = (self._outcomes.ece_term(c, signs) for c in (0, 1))
        return self._mean(np.where(self._right, right, wrong))

    def _worst(self, use: NDArray[np.float64]) -> tuple[float, NDArray[np.int8]]:
        o, sums = self._outcomes, np.zeros((3, 2, 15, 15))
        for c in (0, 1):
            rows = self._data.correct == c
            part = Outcomes(
                o.lower[rows],
                o.upper[rows],
                o.certified[rows],
                o.first[rows],
                o.last[rows],
                o.edges,
            )
            weight = np.broadcast_to(use[rows, :-1, None] / QUANTILES, part.lower.shape)
            sums += cells(weight, c, part)
        return solve_cells(sums)

    def least_draws(self, keep_hard: bool = False, near: float = NEAR) -> float:
        """Draws a sample on average of ``plan``."""
        return self.cost(self.plan(keep_hard, near))

    def cost(self, use: NDArray[np.float64]) -> float:
        """Draws a sample on average."""
        return float(use.sum(axis=0) @ self._cost) * N

    def plan(self, keep_hard: bool, near: float) -> NDArray[np.float64]:
        """(G, J) shares of the cheapest plan.

        Args:
            keep_hard: whether missing hard samples may take at most ``near`` off a metric.
            near: how far the means of the metrics may be off; the limit on decisions is scaled alike.
        """
        o, size = self._outcomes, self._data.votes.size
        count = self._mean(np.ones(o.lower.shape))
        brier = self._mean(np.where(self._right, (1.0 - o.lower) ** 2, o.upper**2))
        brier_full, ece_full = self._full.metrics()
        full_run = np.zeros(count.shape)
        full_run[:, -2] = 1.0
        _, signs = self._worst(full_run)
        ece = self._ece(signs)
        full = self._full.certified[:, None]
        rows = [(np.where(full, 1.0 - count, count), near / NEAR * (1.0 - SAME) * size)]
        for total, value in ((brier, brier_full), (ece, ece_full)):
            rows += [(sign * (total - value * count) - near * count, 0.0) for sign in (1, -1)]
            if keep_hard:
                worth = full * (total - value)[:, -2:-1]
                rows.append(((1.0 - np.minimum(count, 1.0)) * worth, near * float(full.sum())))
        one_each = csr_array(
            (np.ones(count.size), np.arange(count.size), np.arange(size + 1) * count.shape[1])
        )
        while True:
            table = csr_array(np.stack([row.reshape(-1) for row, _ in rows]))
            found = linprog(
                np.tile(self._cost, size),
                table,
                [limit for _, limit in rows],
                one_each,
                np.ones(size),
                method="highs",
            )
            use: NDArray[np.float64] = found.x.reshape(count.shape)
            value, signs = self._worst(use)
            if value <= ece_full + 1.01 * near:
                return use
            rows.append((self._ece(signs) - (ece_full + near) * count, 0.0))

    def orders_within(self, use: NDArray[np.float64], orders: range) -> int:
        """How many orders of the draws keep the goals where each sample follows the plan."""
        kept = 0
        for seed in orders:
            random, size = np.random.default_rng(seed), self._data.votes.size
            choice = (np.cumsum(use, axis=1) < random.random(size)[:, None]).sum(axis=1)
            source = ReplayedVotes(self._data.votes, N, seed)
            lower, upper = np.zeros(size), np.ones(size)
            for option in np.unique(np.minimum(choice, use.shape[1] - 1)):
                rows = np.flatnonzero(choice == option)
                if option < len(CHOICES):
                    n, split = CHOICES[option]
                    ends = split_interval(source.votes(rows, 0, n), n, ALPHA, split)
                elif option == len(CHOICES):
                    ends = clopper_pearson(self._data.votes[rows], N, ALPHA)
                else:
                    continue
                lower[rows], upper[rows] = ends
            run = Values.of(Interval(lower, upper), self._data.correct, self._radius)
            kept += within(compare(run, self._full))
        return kept


def plans_in_orders(known: Oracle) -> list[dict[str, float]]:
    """Cheapest plans for ever tighter means, up to one that keeps the goals in nine of ten orders, where there is one."""
    tried: list[dict[str, float]] = []
    for near in TIGHTER:
        use = known.plan(False, near)
        kept = known.orders_within(use, ORDERS)
        tried.append({"near": near, "draws": known.cost(use), "orders_within": kept})
        if kept >= MOST_ORDERS:
            break
    return tried


def oracles(name: str, data: Study) -> list[dict[str, Any]]:
    """The fewest draws at each radius."""
    rows: list[dict[str, Any]] = []
    exact, sharper = (probits_of(data, randomised) for randomised in (False, True))
    for radius, goal in zip(RADII, FEWER, strict=True):
        known = Oracle(data, radius, exact)
        row: dict[str, Any] = {
            "data": name,
            "radius_over_sigma": radius / SIGMA,
            "least_draws": known.least_draws(),
            "randomised": Oracle(data, radius, sharper).least_draws(),
            "keeping_hard": known.least_draws(keep_hard=True),
            "in_orders": plans_in_orders(known),
        }
        last = row["in_orders"][-1]
        likely = last["draws"] if last["orders_within"] >= MOST_ORDERS else None
        fewer = [f"{N / row[key]:.1f} x" for key in ("least_draws", "randomised", "keeping_hard")]
        fewer.append("none" if likely is None else f"{N / likely:.1f} x")
        print(
            f"| {name} | {radius / SIGMA:g} | {goal} x | {' | '.join(fewer)} |",
            flush=True,
        )
        rows.append(row)
    return rows


def data_sets(digits: Study) -> list[tuple[str, str, Study]]:
    """What is asked: entry of the results, name and votes of the demonstration and of every sixteenth CIFAR-10 sample."""
    every = cifar10()
    part = Study(every.votes[::STEP], every.correct[::STEP])
    return [
        ("oracle", "demo", digits),
        ("oracle_cifar10", "CIFAR-10, every sixteenth", part),
    ]


HEADER = (
    "| data | R / sigma | goal | oracle | randomised bounds | hard samples kept | in 9 of 10 orders |\n"
    "|---|---|---|---|---|---|---|"
)
