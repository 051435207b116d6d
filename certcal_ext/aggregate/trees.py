# SPDX-License-Identifier: MIT
"""What couples the rows of the ECE and of the KS error, as trees of statements in which they do not interact."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from certcal_ext.aggregate.evidence import Worst
from certcal_ext.aggregate.lattice import cells
from certcal_ext.aggregate.search import Tree
from certcal_ext.aggregate.setting import Setting
from certcal_ext.aggregate.terms import EceTerm, KsTerm
from certcal_ext.bins import Bins

Floats = NDArray[np.float64]

#: The share of a depth, as a part of the next one's: leaves have half of all.
_UPWARD = 0.5
#: Weight of sign vectors: how likely a bin has another sign than the bin above it. Worst ones alternate: right
#: samples are pushed down over an edge, wrong ones up over one.
_CHANGE = 0.75
#: Thresholds between which a row is counted at its best: 2^this, finer next to 0 and 1.
_THRESHOLD_DEPTH = 7

Signs = tuple[int, ...]
Thresholds = tuple[int, int, int]


class SignTree(Tree):
    """Signs of bins, from the highest bin that a certified row can reach downwards.

    A node has the signs of some bins; a row adds the most that any completion makes it add.

    Args:
        setting: the votes and what they are about.
        bins: the bins.
        less: see ``terms.worst``.
    """

    def __init__(self, setting: Setting, bins: Bins, less: float = 0.0) -> None:
        self._setting, self._bins, self._less = setting, bins, less
        self._order = np.flatnonzero(_reached(setting, bins))[::-1]

    def roots(self) -> list[Signs]:
        """No sign is fixed."""
        return [()]

    def children(self, node: Signs) -> list[Signs]:
        """Both signs of the next bin."""
        return [(*node, sign) for sign in (1, -1)] if len(node) < self._order.size else []

    def share(self, node: Signs) -> float:
        """Shares of one depth are a Markov chain over its bins: vectors with many changes have more."""
        level = _level_share(len(node), self._order.size)
        if not node:
            return level
        changes = sum(a != b for a, b in pairwise(node))
        stays = len(node) - 1 - changes
        return float(level * 0.5 * _CHANGE**changes * (1 - _CHANGE) ** stays)

    def worst(self, node: Signs) -> Worst:
        """F of theorem 1, with free bins of either sign."""
        plus, minus = np.ones((2, len(self._bins)), np.bool_)
        chosen = self._order[: len(node)]
        plus[chosen] = np.array(node) > 0
        minus[chosen] = np.array(node) < 0
        return self._setting.worst(EceTerm(self._bins, plus, minus), self._less)


class ThresholdTree(Tree):
    """Signs and intervals of thresholds; a row counts at its best for any threshold of the interval.

    Args:
        setting: the votes and what they are about.
        less: see ``terms.worst``.
    """

    def __init__(self, setting: Setting, less: float = 0.0) -> None:
        self._setting, self._less = setting, less
        self._size = 2**_THRESHOLD_DEPTH
        self._grid = np.sin(np.linspace(0.0, math.pi / 2, self._size + 1)) ** 2
        self._grid[-1] = 1.0

    def roots(self) -> list[Thresholds]:
        """Both signs, any threshold."""
        return [(1, 0, self._size), (-1, 0, self._size)]

    def children(self, node: Thresholds) -> list[Thresholds]:
        """Both halves of the interval."""
        sign, low, high = node
        middle = (low + high) // 2
        return [(sign, low, middle), (sign, middle, high)] if high - low > 1 else []

    def share(self, node: Thresholds) -> float:
        """Nodes of one depth share alike."""
        width = node[2] - node[1]
        depth = (self._size // width).bit_length() - 1
        return float(_level_share(depth, _THRESHOLD_DEPTH) * width / self._size / 2)

    def worst(self, node: Thresholds) -> Worst:
        """See ``KsTerm``."""
        sign, low, high = node
        term = KsTerm(sign, float(self._grid[low]), float(self._grid[high]))
        return self._setting.worst(term, self._less)


def _level_share(depth: int, last: int) -> float:
    """The share of a depth: a node just above leaves costs little more, so that it stays whole where they are alike."""
    return float(_UPWARD ** (last - depth)) * (1.0 - _UPWARD if depth else 1.0)


def _reached(setting: Setting, bins: Bins) -> NDArray[np.bool_]:
    """(M,) the bins that a row which is certified in truth can reach."""
    used = np.zeros(len(bins) + 1, np.int64)
    least = [0] * len(setting.votes) if setting.least is None else setting.least
    for one, fewest in zip(setting.votes, least, strict=True):
        fine = cells(one.n, fewest, setting.shift)
        # In scope "robust" the cell at the border counts too.
        kept = fine.possible | (setting.scope == "class")
        low, high = setting.image(fine.lower[kept])[0], setting.image(fine.upper[kept])[1]
        np.add.at(used, bins.index(low), 1)
        np.add.at(used, bins.index(high) + 1, -1)
    return np.cumsum(used)[:-1] > 0
