# SPDX-License-Identifier: MIT
"""Votes of a data set as numbers of rows: all that an aggregate bound needs of them, whatever their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.aggregate.lattice import MAX_DRAWS
from certcal_ext.recalibration.report import split_halves

#: Parts of the rows, of a sixteenth, three sixteenths and three quarters of them.
PARTS = 3

_COINS = (101, 102, 103, 104)  # seeds


@dataclass(frozen=True, eq=False)
class VoteHistogram:
    """How many rows of each part are wrong or right with each number of votes for their class.

    The class of a row was selected by other draws than those counted here. Histograms add: those of shards make the
    one of all rows.

    Attributes:
        n: draws of a row.
        rows: (3, 2, n + 1) int64: part, wrong or right, votes.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: other shapes, or numbers below 0.

    Example:
        >>> votes = VoteHistogram.of([19, 20, 20, 7], [1, 1, 0, 1], n=20)
        >>> len(votes), votes.rows.sum(axis=0)[1, 20]
        (4, np.int64(1))
        >>> len(votes + votes)
        8
    """

    n: int
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Checks the arrays."""
        _check.whole_number("n", self.n, 1, MAX_DRAWS)
        given = _check.array("rows", self.rows)
        shape = (PARTS, 2, self.n + 1)
        if given.shape != shape:
            raise ValueError(f"rows: expected an array of shape {shape}, got {given.shape}")
        held = _check.int_vector("rows", given.reshape(-1)).reshape(shape)
        if held.min() < 0:
            raise ValueError(f"rows: expected numbers of at least 0, got {held.min()}")
        held = held.copy()
        held.flags.writeable = False
        object.__setattr__(self, "rows", held)

    @classmethod
    def of(cls, votes: Any, correct: Any, n: int, index: Any = None) -> VoteHistogram:
        """Of some rows.

        Args:
            votes: (N,) votes for each row's class, 0 to n.
            correct: (N,) whether that class is right.
            n: draws of each row.
            index: (N,) ids, by which rows fall into parts; None: 0, ..., N - 1.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: lengths that differ, or votes out of range.
        """
        draws = _check.whole_number("n", n, 1, MAX_DRAWS)
        k = _check.int_vector("votes", votes)
        right = _check.correct_vector("correct", correct, k.size)
        ids = np.arange(k.size) if index is None else _check.int_vector("index", index, k.size)
        if k.size and not (k.min() >= 0 and k.max() <= draws):
            raise ValueError(
                f"votes: expected counts from 0 to n = {draws}, got {k.min()} to {k.max()}"
            )
        place = (parts_of(ids) * 2 + right) * (draws + 1) + k
        counted = np.bincount(place, minlength=PARTS * 2 * (draws + 1))
        return cls(draws, counted.reshape(PARTS, 2, draws + 1).astype(np.int64))

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.rows.sum())

    def __add__(self, other: VoteHistogram) -> VoteHistogram:
        """Of the rows of both."""
        if not isinstance(other, VoteHistogram):
            return NotImplemented
        if other.n != self.n:
            raise ValueError(f"n: expected histograms of as many draws, got {self.n} and {other.n}")
        return VoteHistogram(self.n, self.rows + other.rows)

    def counted(self, least: int) -> int:
        """How many rows have at least so many votes."""
        return int(self.rows[:, :, least:].sum())


def parts_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) the part that each id belongs to: four coins, all heads for part 0, else the first two heads for part 1."""
    if not ids.size:
        return np.zeros(0, np.int64)
    coins = np.array([split_halves(ids, seed) for seed in _COINS])
    return np.where(coins.all(axis=0), 0, np.where(coins[:2].all(axis=0), 1, 2)).astype(np.int64)
