# SPDX-License-Identifier: MIT
"""The linear program that gives each sample its number of draws."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Floats = NDArray[np.float64]

#: A plan may cost this share more than the cheapest.
_GAP = 0.005
_MAX_CHOICES = 300
#: What one more tolerance costs, in units: so much that limits are stretched only where they must be.
_STRETCH_COST = 100.0
_ROUNDING = 1e-6  # of sums of shares, in samples
_GOLDEN = 0.618033988749895


class DrawProgram:
    """The linear program, by Dantzig-Wolfe decomposition.

    The groups only meet in the limits. Prices on the limits let each group choose alone, and a small
    program mixes the choices made so far and sets new prices, until the mixture costs at most
    ``_GAP`` more than the bound that the prices prove.
    """

    def __init__(
        self,
        draws: NDArray[np.int64],
        allowed: NDArray[np.bool_],
        weight: Floats,
        now: NDArray[np.int64],
        budget: float,
        unit: int,
    ) -> None:
        """Sets up the costs.

        Args:
            draws: (G, J) draws of each option.
            allowed: (G, J) which options may be chosen; at least one of each group.
            weight: (G,) samples in each group.
            now: (G,) draws that are made already.
            budget: most further draws for a sample on average; no plan needs to cost less than the
                cheapest option of each group.
            unit: what costs are counted in, for numbers near 1.
        """
        self._weight, self._draws = weight, draws
        more = (draws - now[:, None]) / unit
        self._cost = np.where(allowed, weight[:, None] * more / weight.sum(), np.inf)
        self._choices = [self._cost.argmin(axis=1)]
        self._budget = max(budget / unit, self._sum(self._cost, self._choices[0]))

    def _sum(self, table: Floats, choice: NDArray[np.int64]) -> float:
        return float(table[np.arange(choice.size), choice].sum())

    def solve(self, rows: list[tuple[Floats, float]]) -> tuple[Floats, float]:
        """Shares (G, J) and the factor by which the limits had to be stretched, at least 1.

        Args:
            rows: of (coefficients (G, J), limit): their sum over the shares is to stay below.
        """
        tables = [coefficients / max(limit, 1e-300) for coefficients, limit in rows]
        values = [[self._sum(t, c) for t in (self._cost, *tables)] for c in self._choices]
        bound = -np.inf
        for _ in range(_MAX_CHOICES):
            solution = self._mix(np.array(values).T)
            prices, at_budget = solution.ineqlin.marginals[:-1], solution.ineqlin.marginals[-1]
            offered = self._cost * (1.0 - at_budget)
            for price, table in zip(prices, tables, strict=True):
                if price < 0:
                    offered = offered - price * table
            choice = offered.argmin(axis=1)
            # Of the stretching factor only what is above 1 is paid for, here and in the bound.
            offset = self._budget * at_budget + float(prices.sum())
            bound = max(bound, self._sum(offered, choice) + offset)
            paid = _STRETCH_COST * (solution.x[-1] - 1.0)
            objective = float(solution.x[:-1] @ np.array(values)[:, 0]) + paid
            if objective - bound <= _GAP * objective + 1e-9:
                break
            self._choices.append(choice)
            values.append([self._sum(t, choice) for t in (self._cost, *tables)])
        use = np.zeros(self._cost.shape)
        everyone = np.arange(self._cost.shape[0])
        for share, choice in zip(solution.x[:-1], self._choices, strict=False):
            use[everyone, choice] += max(share, 0.0)
        shares: Floats = use / use.sum(axis=1, keepdims=True)
        return shares, float(solution.x[-1])

    def _mix(self, values: Floats) -> Any:
        """Cheapest mixture of the choices: variables are their shares and the stretching factor."""
        cost, limits = values[0], values[1:]
        count = cost.size
        within = np.hstack([limits, -np.ones((limits.shape[0], 1))])
        within = np.vstack([within, np.append(cost, 0.0)])
        caps = np.append(np.zeros(limits.shape[0]), self._budget)
        solution = linprog(
            np.append(cost, _STRETCH_COST),
            within,
            caps,
            np.append(np.ones(count), 0.0)[None, :],
            [1.0],
            bounds=[(0, None)] * count + [(1, None)],
            method="highs",
        )
        if solution.x is None:
            raise RuntimeError(f"no plan of draws was found ({solution.message})")
        return solution

    def draws_of_rows(self, use: Floats, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) draws of samples of groups ``row``, together at most what ``use`` (G, J) costs.

        The samples of a group are shared out in their order. Parts of a sample are rounded by an
        offset that is spread evenly over the groups, and lowered for all until the cost is kept.
        """
        by_draws = np.argsort(self._draws, axis=1, kind="stable")
        shares = np.take_along_axis(use, by_draws, axis=1)
        order = np.argsort(row, kind="stable")
        start = np.concatenate([[0], np.cumsum(self._weight)[:-1]])
        place = np.empty(order.size)
        place[order] = np.arange(order.size) - start[row[order]]
        ends = (np.cumsum(shares * self._weight[:, None], axis=1) - _ROUNDING)[row]
        # Rounding must not push the last sample of a group past its last option in use.
        last = (use.shape[1] - 1 - (shares[:, ::-1] > 0).argmax(axis=1))[row]
        spread = (np.arange(self._weight.size) * _GOLDEN % 1.0)[row]
        planned = float((use * self._weight[:, None] * self._draws).sum())
        for lowered in np.linspace(0.0, 1.0, 101):
            at = place + np.maximum(spread - lowered, 0.0)
            option = np.minimum((at[:, None] >= ends).sum(axis=1), last)
            result: NDArray[np.int64] = self._draws[row, by_draws[row, option]]
            if result.sum() <= planned:
                break
        return result
