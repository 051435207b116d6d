# SPDX-License-Identifier: MIT
"""The largest of many sums, each bounded with its own share of the failure probability: best first over fixed trees."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from certcal_ext.aggregate.evidence import Evidence, Worst

#: Sums after which the bound, valid at any time, is taken as it is.
MOST_NODES = 400


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
    tree: Tree, evidence: Evidence, risk: float, enough: float | None = None
) -> Largest:
    """An upper bound on the sums of all leaves, but with probability ``risk``.

    Nodes are split in the order of their bounds. The bound of the first leaf that comes up is the largest of nodes that together
    cover every leaf, and so is that of any node, so the search may stop anywhere.

    Args:
        tree: the statements.
        evidence: the votes.
        risk: failure probability of all statements together.
        enough: a total at or below which the exact one does not matter, or None.
    """
    weights = {}
    for part in evidence.parts:
        # For the leaf that the other votes lead one to expect to be the largest.
        leaf, _ = _best(tree, lambda node, part=part: evidence.forecast(tree.worst(node), part))
        weights |= evidence.weights(tree.worst(leaf[1]), risk * tree.share(leaf[1]), [part])

    def bound(node: Any) -> float:
        return evidence.upper(tree.worst(node), risk * tree.share(node), weights)

    (total, _), made = _best(tree, bound, enough)
    return Largest(total, made)


def _best(
    tree: Tree, value: Callable[[Any], float], enough: float | None = None
) -> tuple[tuple[float, Any], int]:
    """The first leaf in the order of values, or the node at which one may stop, with its value; and how many were made."""
    heap: list[tuple[float, int, Any]] = []
    made, fresh = 0, tree.roots()
    while True:
        for node in fresh:
            made += 1
            # Of equal values the later node, which is deeper.
            heapq.heappush(heap, (-value(node), -made, node))
        top, _, node = heap[0]
        fresh = tree.children(node)
        if not fresh or made >= MOST_NODES or (enough is not None and -top <= enough):
            return (-top, node), made
        heapq.heappop(heap)
