# SPDX-License-Identifier: MIT
"""From the certified probabilities of rows to the confidence that is reported: through the stored map, if there is one."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext.certificates.curve import Groups, group_rows, shifted_intervals
from certcal_ext.certificates.evidence import event_ends
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.rows import shifts
from certcal_ext.certificates.table import matrix, values_at
from certcal_ext.intervals.clopper_pearson import Interval
from certcal_ext.metrics.gaps import largest_gap
from certcal_ext.recalibration.maps import RecalibrationMap
from certcal_ext.recalibration.row_maps import RowMap, read_map

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]


class Confidences:
    """The map of a table's confidences, and what it takes beside the first probability of a row.

    Args:
        table: certificates.
        provenance: theirs, with the map.
        alpha: the failure probability of a row.
    """

    def __init__(self, table: pa.Table, provenance: Provenance, alpha: float | None) -> None:
        self._table, self._provenance, self._alpha = table, provenance, alpha

    @cached_property
    def map(self) -> RecalibrationMap | RowMap | None:
        """The map, or None.

        Raises:
            ValueError: one that these rows have no labels or events for.
        """
        stored = self._provenance.recalibration
        result = None if stored is None else read_map(stored)
        if isinstance(result, RowMap):
            events = 1 if result.events == 1 else len(self._provenance.event_sigmas or ())
            if result.events != events:
                raise ValueError(
                    f"recalibration: expected a map of {max(events, 1)} events, got {result.events}"
                )
            column = self._table.column(result.by)
            if column.null_count:
                raise ValueError(f"recalibration: expected a value in every row of {result.by}")
        return result

    @property
    def all_points(self) -> Floats | None:
        """(N,) confidences without an attack, nan where a row has none; None where there are none at all."""
        known = self._table.column("confidence").is_valid().to_numpy()
        if not known.any():
            return None
        result = np.full(known.size, np.nan)
        result[known] = self.points(known)
        return result

    def points(self, rows: Rows) -> Floats | None:
        """(n,) confidences of rows without an attack; None where there are none."""
        first = values_at(self._table, "confidence", rows)
        if first is None or self.map is None:
            return first
        if isinstance(self.map, RecalibrationMap):
            return self.map(first)
        others = [share[rows] for share in self._shares[: self.map.events - 1]]
        return self.map(np.stack([first, *others], axis=1), self._labels[rows])

    def image(self, first: Interval, rows: Rows, radius: float) -> Interval:
        """The intervals of rows.

        Args:
            first: (n,) certified ends of the first probability.
            rows: (N,) which rows these are.
            radius: size of the attack.
        """
        if self.map is None:
            return first
        if isinstance(self.map, RecalibrationMap):
            return self.map.image(*first)
        lower, upper = self._taken(first, rows, radius)
        return self.map.image(lower, upper, self._labels[rows])

    def gap(self, first: Interval, radius: float, correct: NDArray[np.uint8], top: bool) -> Floats:
        """(N,) ``largest_gap`` of all rows, from the ends of their first probability."""
        mapping = self.map
        if not isinstance(mapping, RowMap):
            return largest_gap(correct, *first, self._image, top)
        everyone = np.ones(correct.size, np.bool_)
        labels = self._labels
        # A label of the user's own stays; the prediction becomes any class.
        any_label = None if mapping.by == "predicted" else labels
        return largest_gap(
            correct,
            *self._taken(first, everyone, radius),
            lambda p: mapping.image(p, p, labels),
            top,
            lambda p: mapping.image(p, p, any_label),
        )

    def _image(self, values: Floats) -> tuple[Floats, Floats]:
        if not isinstance(self.map, RecalibrationMap):
            return values, values
        return self.map.lower_image(values), self.map.upper_image(values)

    def _taken(self, first: Interval, rows: Rows, radius: float) -> tuple[Floats, Floats]:
        """``events``, those that the map takes."""
        if isinstance(self.map, RowMap) and self.map.events > 1:
            return self.events(first, rows, radius)
        return first.lower[:, None], first.upper[:, None]

    def events(self, first: Interval, rows: Rows, radius: float) -> tuple[Floats, Floats]:
        """(n, J) ends of all events of rows, the first of which are given; see ``image``."""
        every = [first]
        for groups, sigma in self._others:
            shift = float(shifts(np.array([radius]), sigma)[0])
            every.append(shifted_intervals(groups, rows, shift))
        lower, upper = (np.stack(ends, axis=1) for ends in zip(*every, strict=True))
        return lower, upper

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        assert isinstance(self.map, RowMap)
        labels: NDArray[np.int64] = self._table.column(self.map.by).to_numpy()
        return labels

    @cached_property
    def _others(self) -> list[tuple[Groups, float]]:
        """Of the events beside the first: the rows in probit space, and the sigma of the noise."""
        sigmas = (self._provenance.event_sigmas or ())[1:]
        every = event_ends(self._table, self._provenance, self._alpha)
        return [
            (group_rows(*ends, share), sigma)
            for ends, share, sigma in zip(every, self._shares, sigmas, strict=True)
        ]

    @cached_property
    def _shares(self) -> list[Floats]:
        """Shares of votes of the events beside the first."""
        votes, draws = matrix(self._table, "event_votes"), matrix(self._table, "event_draws")
        return [] if votes is None else list((votes / np.asarray(draws)).T[1:])
