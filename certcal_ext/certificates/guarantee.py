# SPDX-License-Identifier: MIT
"""What the rows of certificates guarantee at a radius: who is certified, and how far the confidences can move."""

from __future__ import annotations

import math
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.confidences import Confidences
from certcal_ext.certificates.curve import (
    CertifiedSet,
    Groups,
    group_rows,
    prediction_margin,
    shifted_intervals,
)
from certcal_ext.certificates.evidence import (
    Ends,
    confidence_band,
    ends_at_level,
    events,
    selected_by_estimation,
    with_softmax_error,
)
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.rows import RowBounds, shifts
from certcal_ext.certificates.table import matrix, numbers, values_at
from certcal_ext.intervals.clopper_pearson import Interval

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.intervals.score_cdf import ScoreBand

Floats = NDArray[np.float64]


class Guarantee:
    """The bounds of a table's rows under attack.

    Args:
        table: certificates, validated.
        provenance: theirs.
        alpha: the failure probability of a row that ``ends`` hold at; None: as the table says.
        ends: the unperturbed bounds; None takes the table's.
    """

    def __init__(
        self,
        table: pa.Table,
        provenance: Provenance,
        alpha: float | None = None,
        ends: Ends | None = None,
    ) -> None:
        self._table = table
        self._provenance = provenance
        self._alpha = provenance.alpha if alpha is None else alpha
        self._ends = Ends(*map(self._column, _END_COLUMNS)) if ends is None else ends

    @classmethod
    def at_level(cls, table: pa.Table, provenance: Provenance, alpha: float) -> Guarantee | None:
        """The same rows at another alpha; None where the draws are not there, or the level is too small to evaluate."""
        count = events(provenance)
        least = alpha if count == 1 else alpha / count / (provenance.num_classes or 1)
        if least < _check.LEAST_ALPHA:
            return None
        ends = ends_at_level(table, provenance, alpha)
        return None if ends is None else cls(table, provenance, alpha, ends)

    @property
    def smoothed(self) -> bool:
        """Whether bounds grow with the radius; another verifier's do not."""
        return self._provenance.kind != "intervals"

    @cached_property
    def groups(self) -> Groups:
        """Rows with equal intervals, in probit space."""
        # A row without a point estimate abstained: it is never certified, and the 0 is never read.
        confidence = self._table.column("confidence").fill_null(0.0).to_numpy()
        plain = (
            self._provenance.kind == "votes"
            and self._provenance.stopping is None
            and self._same_draws
        )
        votes = self._column("votes") if plain else None
        ends, margin = self._ends, None
        if ends.prediction_lower is not None or ends.runner_up_upper is not None:
            own = ends.lower if ends.prediction_lower is None else ends.prediction_lower
            margin = prediction_margin(own, ends.runner_up_upper)
        return group_rows(ends.lower, ends.upper, confidence, votes, margin)

    @cached_property
    def confidences(self) -> Confidences:
        """How the probabilities of rows become confidences."""
        return Confidences(self._table, self._provenance, self._alpha)

    @property
    def fused(self) -> bool:
        """Whether the fused pass over votes gives the same numbers: nothing but shifted intervals is involved."""
        return (
            self.smoothed
            and self._band is None
            and self._provenance.recalibration is None
            and self.groups.margin is None
        )

    def certified(self, radius: float) -> NDArray[np.bool_]:
        """(N,) bool: the samples whose prediction no attack of that radius changes."""
        if not self.smoothed:
            return np.ones(self._table.num_rows, np.bool_)
        return self.groups.certified(self.shift(radius))

    @property
    def radii(self) -> Floats:
        """(N,) the largest radius at which each prediction is certified, rounded down; -inf where it is not at 0.

        Of another verifier's intervals, the radius that they hold at; infinite where they name none.
        """
        if not self.smoothed:
            known = np.inf if self._provenance.radius is None else self._provenance.radius
            return np.full(self._table.num_rows, known)
        groups = self.groups
        margin = groups.probit_lower[groups.group] if groups.margin is None else groups.margin
        # A sample is certified while ``shifts`` is below its margin: the factor is more than all roundings there, of which
        # none is small beside a radius that is next to nothing.
        radii = cast(float, self._provenance.sigma) * np.maximum(margin, 0.0) * (1.0 - 2.0**-49)
        return np.where(margin > 0, np.where(radii < 1e-300, 0.0, radii), -np.inf)

    def intervals(self, rows: NDArray[np.bool_], radius: float) -> Interval:
        """The confidence intervals of the chosen rows under attack, after recalibration; rounded outward."""
        return self.confidences.image(self._raw(rows, radius), rows, radius)

    def events(self, radius: float) -> tuple[Floats, Floats]:
        """(n, J) ends of all events of the certified rows under attack."""
        inside = self.certified(radius)
        return self.confidences.events(self._raw(inside, radius), inside, radius)

    def shift(self, radius: float) -> float:
        """Radius over sigma, rounded up; see ``shifts``."""
        return float(shifts(np.array([radius]), self._provenance.sigma)[0])

    def at(self, radius: float) -> CertifiedSet:
        """The certified samples, with their intervals under attack."""
        inside = self.certified(radius)
        lower, upper = self.intervals(inside, radius)
        index = self._column("index")[inside]
        for values in (index, lower, upper):
            values.flags.writeable = False
        return CertifiedSet(
            radius=radius,
            index=index,
            correct=values_at(self._table, "correct", inside),
            lower=lower,
            upper=upper,
            confidence=self.confidences.points(inside),
            predicted=values_at(self._table, "predicted", inside),
        )

    def rows(self, radius: float) -> RowBounds:
        """Every row; the uncertified ones at alpha / K where the estimating draws selected the class."""
        certified = self.certified(radius)
        everyone = np.ones(certified.size, np.bool_)
        ends = self._raw(everyone, radius)
        if selected_by_estimation(self._provenance):
            other = self._others
            nothing = Interval(np.zeros(certified.size), np.ones(certified.size))
            wide = nothing if other is None else other._raw(everyone, radius)
            pairs = zip(ends, wide, strict=True)
            ends = Interval(*(np.where(certified, own, end) for own, end in pairs))
        correct = numbers(self._table, "correct")
        gap = None
        if correct is not None:
            top = self._provenance.kind != "scores"
            gap = self.confidences.gap(ends, radius, correct.view(np.uint8), top)
            missing = self._table.column("predicted").fill_null(0).to_numpy() == -1
            gap = np.where(missing, 1.0, gap)
        mapped = self.confidences.image(ends, everyone, radius)
        return RowBounds(radius, certified, *mapped, gap)

    def _raw(self, rows: NDArray[np.bool_], radius: float) -> Interval:
        """Intervals of the chosen rows before recalibration."""
        if not self.smoothed:
            return Interval(self._ends.lower[rows], self._ends.upper[rows])
        if self._band is not None:
            every = with_softmax_error(
                self._band.at(self.shift(radius)), self._provenance.num_classes
            )
            return Interval(every.lower[rows], every.upper[rows])
        return shifted_intervals(self.groups, rows, self.shift(radius))

    @cached_property
    def _others(self) -> Guarantee | None:
        """For rows that are not certified, where the estimating draws selected the class: a union over the classes."""
        classes = self._provenance.num_classes
        if not selected_by_estimation(self._provenance) or classes is None or self._alpha is None:
            return None
        return Guarantee.at_level(self._table, self._provenance, self._alpha / classes)

    @cached_property
    def _band(self) -> ScoreBand | None:
        if self._provenance.kind != "scores" or self._provenance.interval != "cdf":
            return None
        scores, mean = matrix(self._table, "scores"), self._column("confidence")
        return confidence_band(cast(Any, scores), mean, cast(float, self._alpha))

    @property
    def _same_draws(self) -> bool:
        draws = self._column("n")
        return draws is None or bool((draws == draws[0]).all())

    def _column(self, name: str) -> Any:
        return numbers(self._table, name)


_END_COLUMNS = ("p_lower", "p_upper", "prediction_lower", "runner_up_upper")


#: Beyond this many sigmas every interval of float64 ends is [0, 1].
_FARTHEST = 10.0
_MOST_RADII = 13


def certified_radii(certificates: Certificates) -> NDArray[np.float64]:
    """The largest l2 radius at which each sample is certified, rounded down.

    It is that of what certifies the prediction: the votes, not the mean score, and the bound on the next class where that
    is better.

    Args:
        certificates: with draws behind them, or a log.

    Returns:
        (N,) radii in pixel units; -inf where a sample abstains.

    Raises:
        ValueError: another verifier's intervals, which have no radius of their own.

    Example:
        >>> from certcal_ext import Certificates
        >>> certificates = Certificates.from_counts([[990, 10], [500, 500]], [0, 0], sigma=0.25)
        >>> certified_radii(certificates).round(3)
        array([0.49, -inf])
    """
    if certificates.provenance.sigma is None or certificates.provenance.kind == "intervals":
        raise ValueError(
            "certificates: intervals of another verifier hold at one radius; they have no radius a sample"
        )
    return Guarantee(certificates.table, certificates.provenance).radii


def largest_radius(certificates: Certificates) -> float:
    """Up to where any sample is certified, rounded down; 0 where none is, or where intervals name no radius.

    Example:
        >>> from certcal_ext import Certificates
        >>> round(largest_radius(Certificates.from_counts([[990, 10], [600, 400]], [0, 0], 0.25)), 3)
        0.49
    """
    radii = Guarantee(certificates.table, certificates.provenance).radii
    largest = float(np.max(radii, initial=0.0))
    if np.isfinite(largest):
        return largest
    return _FARTHEST * (certificates.provenance.sigma or 0.0)


def default_radii(certificates: Certificates) -> list[float]:
    """Round radii from 0 up to the largest certified one, at most 13; those planned for, where samples stopped early.

    Example:
        >>> from certcal_ext import Certificates
        >>> counts = np.array([[9990, 10], [8000, 2000]])
        >>> default_radii(Certificates.from_counts(counts, np.array([0, 0]), sigma=0.25))[:4]
        [0.0, 0.1, 0.2, 0.3]
    """
    if certificates.planned_radii is not None:
        return sorted(certificates.planned_radii)
    largest = largest_radius(certificates)
    if certificates.provenance.kind == "intervals":
        return [largest]
    step = _step(Decimal(largest) / _MOST_RADII)
    count = max(1, math.ceil(Decimal(largest) / step)) if largest else 1
    return [float(step * k) for k in range(count)]


def _step(least: Decimal) -> Decimal:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is above ``least``."""
    scale = Decimal(1).scaleb(least.adjusted() if least else 0)
    return next(
        scale * Decimal(by) for by in ("1", "2", "2.5", "5", "10") if scale * Decimal(by) > least
    )
