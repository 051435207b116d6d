# SPDX-License-Identifier: MIT
"""Bins of confidences: edges, which end of a bin belongs to it, and the one lookup of the bin that a confidence is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins from 0 to 1.

    Attributes:
        edges: (M + 1,) float64, strictly increasing from 0 to 1; read-only.
        closed: ``"right"``: bins are (e, e'] and the first also holds 0. ``"left"``: bins are [e, e') and the last also
            holds 1.

    Example:
        >>> Bins.of(2).index([0.0, 0.5, 0.6]), Bins.of(edges=[0, 0.5, 1], closed="left").index([0.5, 1.0])
        (array([0, 0, 1]), array([1, 1]))
    """

    edges: NDArray[np.float64]
    closed: str

    @classmethod
    def of(cls, bins: Any = 15, edges: Any = None, closed: Any = "right") -> Bins:
        """Bins as users ask for them.

        Args:
            bins: number M of bins of equal width; not used where ``edges`` is given. Or ``Bins``, as they are.
            edges: (M + 1,) strictly increasing from 0 to 1.
            closed: "right" or "left".

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument out of range.
        """
        if isinstance(bins, Bins):
            return bins
        borders = _check.bin_edges(bins, edges)
        borders.flags.writeable = False
        return cls(borders, "left" if _check.closed_left(closed) else "right")

    def __len__(self) -> int:
        """Number M of bins."""
        return self.edges.size - 1

    @property
    def closed_left(self) -> bool:
        """Whether bins are [e, e')."""
        return self.closed == "left"

    def index(self, confidence: Any) -> NDArray[np.int64]:
        """The bin of each confidence in [0, 1], from 0 on."""
        side: Literal["left", "right"] = "right" if self.closed_left else "left"
        return np.asarray(np.searchsorted(self.edges[1:-1], confidence, side), np.int64)
