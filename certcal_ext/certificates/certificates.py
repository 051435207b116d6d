# SPDX-License-Identifier: MIT
"""Certificates of a set of samples: all that passes between sampling, metrics and report."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext import _check, _claims
from certcal_ext.certificates.bounds import (
    MetricCurve,
    RowBounds,
    Source,
    check_validity,
    metric_curve,
)
from certcal_ext.certificates.class_bounds import classwise_curve
from certcal_ext.certificates.curve import CertifiedSet, Curve, curve_of_sets, smoothing_curve
from certcal_ext.certificates.evidence import best_lower_ends, row_factor
from certcal_ext.certificates.guarantee import Guarantee, largest_radius, shifts
from certcal_ext.certificates.makers import CertificateMakers
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.statements import Subject
from certcal_ext.certificates.table import matrix, numbers, read_parquet, validate, write_parquet
from certcal_ext.certificates.worst_cases import checked_choices, metric_of
from certcal_ext.intervals.clopper_pearson import radius_of
from certcal_ext.recalibration.maps import RecalibrationMap

__all__ = ["Certificates", "CertifiedSet", "Curve", "MetricCurve", "RowBounds"]


@dataclass(frozen=True, eq=False)
class Certificates(CertificateMakers):
    """Confidence certificates, one row a sample that was drawn for, abstained ones too.

    Theorem (Cohen et al., ICML 2019; Kumar et al., NeurIPS 2020): if the confidence of a classifier
    smoothed with N(0, sigma^2) lies in [p_lower, p_upper], then under every l2 perturbation of norm
    at most R it stays in [Phi(Phi^-1(p_lower) - R/sigma), Phi(Phi^-1(p_upper) + R/sigma)], and the
    prediction stays while Phi^-1(p_lower) > R/sigma. Each row's interval fails with probability at
    most alpha, where the class was selected by other draws than those that estimate it (see ``from_counts``).

    Attributes:
        table: Arrow table with the columns index, label, predicted, correct, votes, n, confidence,
            p_lower, p_upper, and those that only some certificates fill (``certificate_table``).
        provenance: what the numbers were made from.

    Raises:
        TypeError: not a table and a ``Provenance``.
        ValueError: other columns, no rows, or values that contradict each other.

    Example:
        >>> certificates = Certificates.from_counts([[990, 10], [100, 900]], [0, 0], sigma=0.25)
        >>> certificates.brier([0.0, 0.25]).round(3)
        array([0.431, 0.507])
    """

    table: pa.Table
    provenance: Provenance

    def __post_init__(self) -> None:
        """Checks the table, whether it came from a caller or from a file."""
        validate(self.table, self.provenance)

    def __len__(self) -> int:
        """Number of samples, abstained ones too."""
        return int(self.table.num_rows)

    def __eq__(self, other: object) -> bool:
        """Same rows and same provenance, but for the time of making."""
        if not isinstance(other, Certificates):
            return NotImplemented
        return bool(self.table.equals(other.table)) and self.provenance == other.provenance

    __hash__ = None  # type: ignore[assignment]

    def with_provenance(self, **changes: Any) -> Certificates:
        """The same certificates with fields of the provenance replaced, such as ``n0``."""
        return Certificates(self.table, dataclasses.replace(self.provenance, **changes))

    @property
    def abstained(self) -> NDArray[np.bool_]:
        """(N,) bool: the samples that are not certified even at radius 0."""
        return ~self._guarantee.certified(0.0)

    @property
    def best_radius(self) -> float | None:
        """The largest radius that a row of n draws could ever have, with all votes, rounded down; None without draws."""
        made = self.provenance
        if not self._guarantee.smoothed or None in (made.n, made.alpha):
            return None
        return radius_of(best_lower_ends(self.table, made), made.sigma or 0.0)

    @property
    def largest_radius(self) -> float:
        """Up to where any sample is certified, rounded down; 0 where none is, or where intervals name no radius."""
        return largest_radius(self)

    @property
    def planned_radii(self) -> tuple[float, ...] | None:
        """The only radii at which "the certified samples" may be spoken of; None: any.

        A run that stopped samples early with the help of their labels certifies, at other radii, the samples that were worth
        their draws elsewhere: wrong ones are missing, and averages over the others look good. Over all samples (scope "all")
        any radius may be asked for.
        """
        told = self.table.column("correct").null_count < len(self)
        return self.provenance.planned_radii if told else None

    @property
    def recalibration(self) -> RecalibrationMap | None:
        """The monotone map that confidences go through, or None."""
        return self._guarantee.recalibration

    def recalibrated(self, mapping: RecalibrationMap | None) -> Certificates:
        """The same certificates with confidences that go through a monotone map.

        Theorem (this project): a monotone map keeps certificates, [l, u] becomes [g(l), g(u)], whatever
        it was chosen by. A bound for the population needs one that was fixed without these samples,
        and so does whoever wants their scores to say something of others: fit it on other samples.

        Args:
            mapping: the map, in place of the one these certificates have; None takes it away.

        Returns:
            ``Certificates``; the map is stored with them.

        Raises:
            TypeError: ``mapping`` is no ``RecalibrationMap``.
        """
        if mapping is not None and not isinstance(mapping, RecalibrationMap):
            raise TypeError(f"mapping: expected a RecalibrationMap, got {type(mapping).__name__}")
        return self.with_provenance(recalibration=None if mapping is None else mapping.to_json())

    def select(self, rows: Any) -> Certificates:
        """The certificates of some rows.

        Args:
            rows: (N,) bool, or positions.

        Returns:
            ``Certificates``. For ``delta`` these count as all that was drawn for, which is sound
            only where the choice does not depend on the draws.

        Raises:
            TypeError: neither booleans nor whole numbers.
            ValueError: a mask of another length, positions out of range, or no row chosen.
        """
        given = _check.vector("rows", rows)
        if given.dtype == np.bool_:
            given = np.flatnonzero(_check.vector("rows", given, len(self)))
        where = _check.int_vector("rows", given)
        if where.size and not (where.min() >= 0 and where.max() < len(self)):
            raise ValueError(f"rows: expected positions from 0 to {len(self) - 1}")
        return Certificates(self.table.take(pa.array(where)).combine_chunks(), self.provenance)

    def at(self, radius: float) -> CertifiedSet:
        """The samples certified at a radius, with their intervals under attack.

        Args:
            radius: l2 radius, in pixel units.

        Returns:
            ``CertifiedSet``, in the order of the table; it may be empty.

        Raises:
            TypeError: ``radius`` is no number.
            ValueError: ``radius`` is negative or not finite, above the one that the intervals hold
                at, or none that the run was planned for (``planned_radii``).
        """
        reach = _check.radius("radius", radius)
        self._require_reach(np.array([reach]), "certified")
        return self._guarantee.at(reach)

    def rows_at(self, radius: float) -> RowBounds:
        """Every sample under attacks of a radius, the uncertified ones too.

        Args:
            radius: l2 radius, in pixel units.

        Returns:
            ``RowBounds``.

        Raises:
            TypeError: ``radius`` is no number.
            ValueError: ``radius`` is negative or not finite, or above the one that the intervals
                hold at.
        """
        reach = _check.radius("radius", radius)
        self._require_reach(np.array([reach]), "all")
        return self._guarantee.rows(reach)

    def brier(self, radii: Any, **options: Any) -> NDArray[np.float64]:
        """(R,) exact worst-case Brier scores.

        Arguments and errors as ``curve``; with ``scope=`` or ``delta=`` as ``bound``, whose joint
        values are then returned.
        """
        if options:
            return self._bound_values("brier", radii, options)
        return self.curve(radii, bins=1).certified_brier

    def ece(
        self,
        radii: Any,
        bins: int = 15,
        edges: Any = None,
        closed: str = "right",
        **options: Any,
    ) -> NDArray[np.float64]:
        """(R,) exact worst-case ECEs; arguments and errors as ``brier``."""
        if options:
            options |= {"bins": bins, "edges": edges, "closed": closed}
            return self._bound_values("ece", radii, options)
        return self.curve(radii, bins, edges, closed).certified_ece

    def bound(
        self,
        metric: str,
        radii: Any,
        *,
        scope: str = "certified",
        delta: float | None = None,
        joint: str = "best",
        population: bool = False,
        bins: int = 15,
        edges: Any = None,
        closed: str = "right",
        clip: float | None = None,
        threshold: float = 0.5,
        dtype: str = "float64",
    ) -> MetricCurve:
        """Any metric over radii; with ``delta``, a bound that holds for the whole data set at once.

        Args:
            metric: "brier", "ece", "ks", "mce", "log_loss" or "selective_risk".
            radii: (R,) l2 radii, or one, in pixel units.
            scope: "certified": the samples certified at the radius, as the paper has it; "all":
                every sample, where the others are charged the worst that an attack can make of
                them. Only "all" compares models fairly.
            delta: failure probability of a bound that holds over all draws jointly, radius by
                radius; None: none is made.
            joint: "binomial" (at most k intervals fail), "union" (all intervals at delta / N), or
                "best": the lower of the two, with delta / 2 each.
            population: also a bound on the expectation over the population that the samples are
                drawn from (Brier, log loss, selective risk), at ``delta``.
            bins: number of bins of equal width; not used where ``edges`` is given.
            edges: (M + 1,) strictly increasing from 0 to 1.
            closed: which end of a bin belongs to it.
            clip: for the log loss, confidences are reported in [clip, 1 - clip]; None: as they are.
            threshold: confidence from which the selective risk accepts a prediction.
            dtype: "float64" or "float32", the format that the deployed model rounds its confidences
                to and clips them in, for the log loss.

        Returns:
            ``MetricCurve``, whose ``statement`` can be quoted.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument out of range; no labels; ``delta`` for another verifier's
                intervals; a radius that ``planned_radii`` does not hold, in scope "certified";
                ``population`` of a run that stopped early; or options that do not go together.

        Source:
            docs/validity.md; population: Maurer and Pontil, COLT 2009, Theorem 4.

        Example:
            >>> certificates = Certificates.from_counts([[990, 10], [100, 900]], [0, 0], sigma=0.25)
            >>> certificates.bound("brier", 0.25, scope="all", delta=0.01).joint.round(3)
            array([0.507])
        """
        asked = _check.radii("radii", radii)
        measure = metric_of(metric)
        choices = checked_choices(bins, edges, closed, clip, threshold, dtype)
        risk = check_validity(measure, choices, scope, delta, joint, population)
        if population and self.provenance.stopping is not None:
            raise ValueError(
                "population: expected False, as these samples stopped early: the plan of their draws was made of all of "
                "them, so that their terms are no independent draws of a population"
            )
        return metric_curve(
            self.source(scope, asked), measure, asked, choices, scope, risk, joint, population
        )

    def classwise(
        self,
        radii: Any,
        *,
        scope: str = "certified",
        delta: float | None = None,
        joint: str = "best",
        bins: int = 15,
        edges: Any = None,
        closed: str = "right",
    ) -> MetricCurve:
        """The class-wise calibration error over radii, from the votes of all classes.

        Each class's probability is bounded at alpha / K, so that a row fails with probability at
        most alpha. See ``certified_classwise_ece`` for the metric, and ``bound`` for the arguments.

        Returns:
            ``MetricCurve``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: the votes of all classes were not kept, there are no labels, the confidences
                are recalibrated (a map of the top label's confidence), or an argument out of range.

        Example:
            >>> counts, labels = [[990, 10], [100, 900]], [0, 0]
            >>> made = Certificates.from_counts(counts, labels, 0.25, keep_counts=True)
            >>> made.classwise(0.0).worst.round(3)
            array([0.478])
        """
        asked = _check.radii("radii", radii)
        choices = checked_choices(bins, edges, closed)
        risk = check_validity(metric_of("ece"), choices, scope, delta, joint, False)
        counts, labels = matrix(self.table, "counts"), numbers(self.table, "label")
        if counts is None:
            raise ValueError("counts: expected the votes of all classes (keep_counts=True)")
        if labels is None:
            raise ValueError("labels: the class-wise error needs them, and there are none")
        if self.recalibration is not None:
            raise ValueError("recalibration: expected none, as the map is of the top label only")
        self._require_reach(asked, scope)
        alpha = self.provenance.alpha or 1.0
        rows = [self._guarantee.rows(float(radius)) for radius in asked]
        reach = shifts(asked, self.provenance)
        curve = classwise_curve(
            counts, labels, rows, reach, alpha, scope, risk, joint, choices.edges, choices.closed
        )
        subject = Subject(self.provenance, len(self), choices)
        return dataclasses.replace(curve, subject=subject)

    def curve(self, radii: Any, bins: int = 15, edges: Any = None, closed: str = "right") -> Curve:
        """Accuracy, ECE and Brier score over radii, in one pass over the samples.

        Args:
            radii: (R,) l2 radii, or one, in pixel units.
            bins: number M of bins of equal width; not used where ``edges`` is given.
            edges: (M + 1,) strictly increasing from 0 to 1.
            closed: which end of a bin belongs to it, as in ``certified_ece``.

        Returns:
            ``Curve``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: there are no labels; a radius is negative, not finite, above the one that
                the intervals hold at, or none of ``planned_radii``; or bad bins.

        Warns:
            UserWarning: no sample is certified at one of the radii, where metrics are nan.
        """
        asked = _check.radii("radii", radii)
        borders = _check.bin_edges(bins, edges)
        left = _check.closed_left(closed)
        right = self._correct()
        self._require_reach(asked, "certified")
        known = self._guarantee
        if known.fused:
            reach = shifts(asked, self.provenance)
            result = smoothing_curve(known.groups, right, asked, reach, borders, left)
        else:
            sets = [known.at(float(radius)) for radius in asked]
            result = curve_of_sets(sets, len(self), borders, closed)
        empty = result.radius[result.certified == 0]
        if empty.size:
            warnings.warn(
                "no sample is certified at radius "
                f"{_claims.written(empty.min())}{' and above' if empty.size > 1 else ''}; {self.reach_words()}",
                stacklevel=2,
            )
        return result

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Writes the table and its provenance.

        The file is written aside and then renamed, so that a failure leaves no partial file.

        Args:
            path: file to write; an existing one is replaced.

        Raises:
            ValueError: the folder does not exist.
            OSError: the file cannot be written.
        """
        write_parquet(self.table, self.provenance, path)

    @classmethod
    def from_parquet(cls, path: str | PathLike[str]) -> Certificates:
        """Reads what ``to_parquet`` wrote.

        Args:
            path: the file.

        Returns:
            ``Certificates`` equal to those that were written.

        Raises:
            ValueError: the file is missing, truncated, damaged, or not one of certificates.
        """
        stored, provenance = read_parquet(path)
        try:
            return cls(stored, provenance)
        except ValueError as error:
            raise ValueError(f"{path}: expected a Parquet file of certificates: {error}") from error

    @cached_property
    def _guarantee(self) -> Guarantee:
        return Guarantee(self.table, self.provenance)

    def _correct(self) -> NDArray[np.uint8]:
        correct = numbers(self.table, "correct")
        if correct is None:
            raise ValueError(
                "labels: this metric needs them, and these certificates were made without "
                "(labels=None)"
            )
        return correct.view(np.uint8)

    def source(self, scope: str, radii: NDArray[np.float64]) -> Source:
        """What ``bounds.metric_curve`` needs of these certificates, at radii that may be asked for in a scope."""
        self._require_reach(radii, scope)
        made, point = self.provenance, self.table.column("confidence")
        confidence = None
        if point.null_count < len(point):
            confidence = point.fill_null(np.nan).to_numpy().copy()
            if self.recalibration is not None:
                known = ~np.isnan(confidence)
                confidence[known] = self.recalibration(confidence[known])

        # Rows that are certified at alpha and not at this level are charged by their uncertified intervals, in any scope.
        whole = row_factor(made, everyone=True)

        def at_level(failure: float) -> Any:
            other = Guarantee.at_level(self.table, made, failure / whole)
            return None if other is None else other.rows

        return Source(
            rows=self._guarantee.rows,
            rows_at_level=at_level,
            correct=self._correct(),
            confidence=confidence,
            alpha=made.alpha,
            factor=row_factor(made, everyone=scope == "all"),
            provenance=made,
        )

    def _bound_values(
        self, metric: str, radii: Any, options: dict[str, Any]
    ) -> NDArray[np.float64]:
        curve = self.bound(metric, radii, **options)
        return curve.worst if curve.joint is None else curve.joint

    def _require_reach(self, radii: NDArray[np.float64], scope: str) -> None:
        planned = self.planned_radii if scope == "certified" else None
        if planned is not None and not np.isin(radii, planned).all():
            other = radii[~np.isin(radii, planned)][0]
            raise ValueError(
                f"radius: expected one that the run was planned for, {', '.join(map(repr, planned))}, got {other}: its "
                "samples stopped early with the help of their labels, which choose who is certified at other radii; ask for "
                'all samples (scope="all"), or plan for this radius'
            )
        reach = None if self._guarantee.smoothed else self.provenance.radius
        if reach is not None and radii.max() > reach:
            raise ValueError(
                f"radius: expected at most {reach}, the radius that these intervals hold at, got "
                f"{radii.max()}"
            )

    def reach_words(self) -> str:
        """How far these draws could reach, in words, for warnings."""
        made = self.provenance
        return (
            f"the best radius that n = {made.n} and alpha = {_claims.failure(made.alpha or 1.0)} could ever give is "
            f"{_claims.size(self.best_radius or 0.0, 4)}"
        )
