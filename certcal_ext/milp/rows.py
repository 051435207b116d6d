# SPDX-License-Identifier: MIT
"""The rows of a linear program as they are added."""

from __future__ import annotations

import numpy as np

from certcal_ext.milp.problem import Floats, Ints


class Rows:
    """Rows as they are added."""

    def __init__(self) -> None:
        self.entries: list[tuple[Ints, Ints, Floats]] = []
        self.lower: list[Floats] = []
        self.upper: list[Floats] = []
        self.count = 0

    def add(
        self, lower: Floats, upper: Floats, *entries: tuple[Ints, Ints, Floats | float]
    ) -> None:
        """Adds rows numbered from 0."""
        for row, column, value in entries:
            values = np.broadcast_to(np.asarray(value, np.float64), row.shape)
            self.entries.append((row + self.count, column, values))
        self.lower.append(lower)
        self.upper.append(upper)
        self.count += lower.size
