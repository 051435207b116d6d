# SPDX-License-Identifier: MIT
"""The samples of certificates as metrics take them, at a radius and in a scope."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext import _check, _threads
from certcal_ext._load import core
from certcal_ext.certificates.evidence import row_factor
from certcal_ext.certificates.guarantee import Guarantee
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.table import matrix, numbers
from certcal_ext.intervals.clopper_pearson import Interval, clopper_pearson, probit
from certcal_ext.metrics.base import Floats, Samples

#: "certified": the samples certified at the radius; "all": every sample, the others at their worst.
SCOPES = ("certified", "all")

Rows = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SampleSource(ABC):
    """Samples of certificates in a scope.

    Attributes:
        table: the certificates.
        provenance: theirs.
        guarantee: what their rows guarantee.
        scope: of ``SCOPES``.
        among: by radius, the (N,) rows that may count as certified; None: all.
    """

    table: pa.Table
    provenance: Provenance
    guarantee: Guarantee
    scope: str
    among: Mapping[float, Rows] | None = None

    @property
    def total(self) -> int:
        """All samples that were drawn for."""
        return int(self.table.num_rows)

    @property
    def row_alpha(self) -> float:
        """The failure probability of a row's whole statement.

        Raises:
            ValueError: it is not known.
        """
        if self.provenance.alpha is None:
            raise ValueError(
                "delta: expected None, as it is not known how often these intervals fail (another verifier's)"
            )
        return min(1.0, self.provenance.alpha * self._factor)

    @property
    @abstractmethod
    def _factor(self) -> float:
        """By which a row's whole statement may fail more often than its interval."""

    @abstractmethod
    def at(self, radius: float, inside: Rows | None = None) -> tuple[Samples, Rows]:
        """The samples at a radius, and the rows that count as certified.

        Args:
            radius: the radius.
            inside: (N,) rows that count as certified, where others chose them; those that are not certified here are
                charged as uncertified ones.
        """

    @abstractmethod
    def surer(self, failure: float) -> SampleSource | None:
        """The same where a row's whole statement fails with at most that probability; None where the draws are not there."""

    def restricted(self, among: Mapping[float, Rows]) -> SampleSource:
        """The same with fewer samples that may count as certified."""
        return dataclasses.replace(self, among=among)

    def _allowed(self, certified: Rows, radius: float) -> Rows:
        return certified if self.among is None else certified & self.among[radius]


@dataclass(frozen=True, eq=False)
class TopLabel(SampleSource):
    """For metrics of the predicted class's confidence."""

    @property
    def _factor(self) -> float:
        return row_factor(self.provenance, everyone=self.scope == "all")

    def at(self, radius: float, inside: Rows | None = None) -> tuple[Samples, Rows]:
        """See ``SampleSource.at``."""
        correct = self._correct  # raises without labels
        rows = self.guarantee.rows(radius)
        certified = self._allowed(rows.certified, radius)
        inside = certified if inside is None else inside
        keep = certified & inside
        rest = ~keep if self.scope == "all" else inside & ~keep
        gap = rows.gap
        assert gap is not None  # there are labels
        confidence = None if self._confidence is None else self._confidence[keep]
        if confidence is not None and np.isnan(confidence).any():
            confidence = None
        samples = Samples(
            correct=correct[keep],
            lower=rows.lower[keep],
            upper=rows.upper[keep],
            confidence=confidence,
            gap=gap[rest],
        )
        return samples, inside

    def surer(self, failure: float) -> TopLabel | None:
        """See ``SampleSource.surer``."""
        # Rows that are certified at alpha and not at this level are charged by their uncertified intervals, in any scope.
        level = failure / row_factor(self.provenance, everyone=True)
        other = Guarantee.at_level(self.table, self.provenance, level)
        return None if other is None else dataclasses.replace(self, guarantee=other)

    @cached_property
    def _correct(self) -> NDArray[np.uint8]:
        return correct_rows(self.table)

    @cached_property
    def _confidence(self) -> Floats | None:
        """(N,) point estimates, nan where there is none; None where there are none at all."""
        return self.guarantee.confidences.all_points


def correct_rows(table: pa.Table) -> NDArray[np.uint8]:
    """(N,) whether each row's prediction is right.

    Raises:
        ValueError: there are no labels.
    """
    correct = numbers(table, "correct")
    if correct is None:
        raise ValueError(
            "labels: this metric needs them, and these certificates were made without (labels=None)"
        )
    return correct.view(np.uint8)


class ClassVotes:
    """Bounds on every class's probability, all of a row's together at alpha: each class's interval at alpha / K.

    Args:
        counts: (N, K) votes, rows of equal sum.
        alpha: failure probability of a row.
    """

    def __init__(self, counts: NDArray[np.int64], alpha: float) -> None:
        n = int(counts[0].sum())
        votes, which = np.unique(counts, return_inverse=True)
        self._which = which.reshape(counts.shape)
        self._probits = probit(*clopper_pearson(votes, n, alpha / counts.shape[1]))

    def at(self, shift: float, rows: Rows) -> Interval:
        """(n, K) ends under attacks of radius / sigma = ``shift``, of the chosen rows."""
        low, high = np.empty(self._probits.lower.size), np.empty(self._probits.upper.size)
        core.shift_interval(*self._probits, shift, low, high, threads=_threads.num_threads())
        chosen = self._which[rows]
        return Interval(low[chosen], high[chosen])


@dataclass(frozen=True, eq=False)
class AllClasses(SampleSource):
    """For metrics of the confidences of all classes, from their votes.

    Which class a sample is of does not depend on its prediction, so uncertified samples need no special care; and each class
    has an interval of its own, so it costs nothing that the draws selected one.

    Attributes:
        level: failure probability of a row; None: as the certificates say.
    """

    level: float | None = None

    @property
    def _factor(self) -> float:
        return 1.0

    def at(self, radius: float, inside: Rows | None = None) -> tuple[Samples, Rows]:
        """See ``SampleSource.at``."""
        if inside is None and self.scope == "all":
            inside = np.ones(self.total, np.bool_)
        elif inside is None:
            inside = self._allowed(self.guarantee.certified(radius), radius)
        low, high = self._votes.at(self.guarantee.shift(radius), inside)
        share = self.counts[inside] / int(self.counts[0].sum())
        return Samples(self.labels[inside], low, high, share, np.empty(0)), inside

    def surer(self, failure: float) -> AllClasses | None:
        """See ``SampleSource.surer``."""
        if failure / self.counts.shape[1] < _check.LEAST_ALPHA:
            return None
        return dataclasses.replace(self, level=failure)

    @cached_property
    def _votes(self) -> ClassVotes:
        alpha = self.provenance.alpha if self.level is None else self.level
        return ClassVotes(self.counts, 1.0 if alpha is None else alpha)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(N, K) votes of all classes.

        Raises:
            ValueError: they were not kept, or the confidences are recalibrated.
        """
        counts = matrix(self.table, "counts")
        if counts is None:
            raise ValueError("counts: expected the votes of all classes (keep_counts=True)")
        if self.provenance.recalibration is not None:
            raise ValueError("recalibration: expected none, as the map is of the top label only")
        return counts

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes.

        Raises:
            ValueError: there are none.
        """
        labels = numbers(self.table, "label")
        if labels is None:
            raise ValueError("labels: the class-wise error needs them, and there are none")
        return labels
