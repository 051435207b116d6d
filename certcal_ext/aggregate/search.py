# SPDX-License-Identifier: MIT
"""The largest of many sums, each bounded with its own share of the failure probability: best first over fixed trees."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from certcal_ext.aggregate.evidence import Evidence, Leg, Worst

#: Sums after which the bound, valid at any time, is taken as it is.
MOST_NODES = 200


class Tree(ABC):
    """Statements about the data set, each about all that are below it; fixed before any vote is looked at.

    The shares of all nodes that there could be add up to at most 1, so that all of them hold together.
    """

    @abstractmethod
    def roots(self) -> list[Any]:
        """Nodes that cover everything."""

    @abstractmethod
    def children(self, node: Any) -> list[Any]:
        """Nodes that cover what a node covers; none for a leaf."""

    @abstractmethod
    def share(self, node: Any) -> float:
        """Of the failure probability."""

    @abstractmethod
    def worst(self, node: Any) -> Worst:
        """H of a node: at least that of every node below."""


@dataclass(frozen=True)
class Largest:
    """What a search found.

    Attributes:
        total: an upper bound on every leaf's sum.
        made: sums that were bounded.
    """

    total: float
    made: int


def largest_sum(
    tree: Tree, evidence: Evidence, risk: float, close: float, enough: float = -math.inf
) -> Largest:
    """An upper bound on the sums of all leaves, but with probability ``risk``.

    Nodes are split in the order of their bounds. The largest bound of nodes that together cover every leaf holds
    wherever the search stops.

    Args:
        tree: the statements.
        evidence: the votes.
        risk: failure probability of all statements together.
        close: a total need not be closer than that to what the best leaf gives.
        enough: a total at or below which the exact one does not matter.
    """
    weights = []
    for leg in evidence.legs:

        def forecast(node: Any, leg: Leg = leg) -> float:
            return evidence.forecast(tree.worst(node), leg)

        # For the leaf that the other votes lead one to expect to be the largest.
        leaf = _search(tree, forecast, close).leaf
        weights.append(evidence.weight(tree.worst(leaf), risk * tree.share(leaf), leg))

    def bound(node: Any) -> float:
        return evidence.upper(tree.worst(node), risk * tree.share(node), weights)

    found = _search(tree, bound, close, enough)
    return Largest(found.total, found.made)


@dataclass(frozen=True)
class _Search:
    """The largest value of nodes that cover every leaf, the best leaf that was looked at, and how many nodes were."""

    total: float
    leaf: Any
    made: int


def _search(
    tree: Tree, value: Callable[[Any], float], close: float, enough: float = -math.inf
) -> _Search:
    """First down to a leaf, then best first, until no value is above that of the best leaf by more than ``close``."""
    values: dict[Any, float] = {}
    leaf, best, made = None, -math.inf, 0
    fresh = tree.roots()
    while True:
        values |= {node: value(node) for node in fresh}
        made += len(fresh)
        # On the way down the better child, later the best node of all.
        at = max(values if leaf is not None else fresh, key=lambda node: values[node])
        below = tree.children(at)
        if not below and values[at] > best:
            leaf, best = at, values[at]
        total = max(values.values())
        if total <= max(best + close, enough) or made >= MOST_NODES:
            return _Search(total, leaf if leaf is not None else at, made)
        if below:
            del values[at]
        fresh = below
