# SPDX-License-Identifier: MIT
"""Draws that are fixed by their numbers: whoever has them, and those that were stored."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check


class DrawSource(Protocol):
    """Votes of draws that are fixed by their numbers: asked again, the answer is the same."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def votes(self, rows: NDArray[np.int64], first_draw: int, draws: int) -> NDArray[np.int64]:
        """(n,) votes for the selected class of n samples in draws ``first_draw`` and after.

        Args:
            rows: (n,) positions of the samples, in increasing order.
            first_draw: number of the first draw.
            draws: how many.
        """
        ...


class ReplayedVotes:
    """Draws replayed from stored counts: k of N votes in an order chosen at random, but for good.

    The votes of the first half of the draws are hypergeometric given those of all, and so on down;
    the random numbers of a half depend on the seed and its place only. So any range of draws can be
    asked for, in any order, and all N draws together give k exactly.

    ``SelectedVotes`` of ``smoothing.draws`` is the source that draws from a model.

    Args:
        votes: (N,) stored votes for the selected class.
        draws: stored draws for each sample, below 10^9.
        seed: of the order.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: votes outside [0, draws].

    Example:
        >>> source = ReplayedVotes([90, 100], draws=100, seed=0)
        >>> rows = np.arange(2)
        >>> source.votes(rows, 0, 30) + source.votes(rows, 30, 70)
        array([ 90, 100])
    """

    def __init__(self, votes: Any, draws: int, seed: int = 0) -> None:
        """Keeps the arguments; halves are drawn when they are needed."""
        self._draws = _check.whole_number(
            "draws", draws, 1, 10**9 - 1
        )  # numpy's hypergeometric ends
        self._seed = _check.whole_number("seed", seed, 0)
        self._total = _check.int_vector("votes", votes)
        if ((self._total < 0) | (self._total > self._draws)).any():
            raise ValueError(f"votes: expected counts from 0 to draws = {self._draws}")
        self._left: dict[tuple[int, int], NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return self._total.size

    def votes(self, rows: NDArray[np.int64], first_draw: int, draws: int) -> NDArray[np.int64]:
        """As ``DrawSource``; only the stored draws can be asked for."""
        if first_draw < 0 or draws < 0 or first_draw + draws > self._draws:
            raise ValueError(
                f"draws: expected a part of the {self._draws} stored ones, got {first_draw} to "
                f"{first_draw + draws - 1}"
            )
        result: NDArray[np.int64] = (self._prefix(first_draw + draws) - self._prefix(first_draw))[
            rows
        ]
        return result

    def _prefix(self, n: int) -> NDArray[np.int64]:
        """(N,) votes of the first n draws."""
        low, high, inside = 0, self._draws, self._total
        before = np.zeros_like(inside)
        while low < n < high:
            middle = (low + high) // 2
            if (low, high) not in self._left:
                random = np.random.default_rng([self._seed, low, high])
                misses = (high - low) - inside
                self._left[low, high] = random.hypergeometric(inside, misses, middle - low)
            left = self._left[low, high]
            if n >= middle:
                before, inside, low = before + left, inside - left, middle
            else:
                inside, high = left, middle
        return before + inside if n >= high else before
