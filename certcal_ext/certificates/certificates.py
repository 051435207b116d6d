# SPDX-License-Identifier: MIT
"""Certificates of a set of samples: all that passes between sampling, metrics and report."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext import _check, _claims
from certcal_ext.bins import Bins
from certcal_ext.certificates import files, from_draws, from_others
from certcal_ext.certificates.bounds import MetricCurve, Validity, metric_curve
from certcal_ext.certificates.curve import CertifiedSet, Curve, curve_of_sets, smoothing_curve
from certcal_ext.certificates.evidence import best_lower_ends
from certcal_ext.certificates.from_draws import Parts
from certcal_ext.certificates.guarantee import Guarantee, largest_radius
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.rows import RowBounds, shifts
from certcal_ext.certificates.samples import (
    SCOPES,
    AllClasses,
    SampleSource,
    TopLabel,
    correct_rows,
)
from certcal_ext.certificates.table import read_parquet, validate, write_parquet
from certcal_ext.intervals.clopper_pearson import radius_of
from certcal_ext.metrics.base import MetricOptions, Options
from certcal_ext.metrics.registry import metric_of
from certcal_ext.recalibration.maps import RecalibrationMap
from certcal_ext.recalibration.row_maps import RowMap

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Certificates", "CertifiedSet", "Curve", "MetricCurve", "RowBounds"]


P = ParamSpec("P")


def _constructor(parts: Callable[P, Parts]) -> classmethod[Certificates, P, Certificates]:
    """A class method with the words and the signature of a function that makes the two parts of certificates."""

    def method(kind: type[Certificates], /, *args: P.args, **kwargs: P.kwargs) -> Certificates:
        result = kind(*parts(*args, **kwargs))
        abstained = int(np.count_nonzero(result.abstained))
        if abstained > len(result) - abstained:
            warnings.warn(
                f"{abstained} of {len(result)} samples abstain; {result.best_radius_words()}",
                stacklevel=2,
            )
        return result

    functools.update_wrapper(method, parts)
    method.__name__ = f"from_{parts.__name__}"
    method.__qualname__ = f"Certificates.{method.__name__}"
    own = inspect.signature(parts)
    first = inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[first, *own.parameters.values()], return_annotation="Certificates"
    )
    return classmethod(method)


@dataclass(frozen=True, eq=False)
class Certificates:
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

    from_counts = _constructor(from_draws.counts)
    from_votes = _constructor(from_draws.votes)
    from_scores = _constructor(from_draws.scores)
    from_adaptive = _constructor(from_draws.adaptive)
    from_npz = _constructor(from_others.npz)
    from_cohen_log = _constructor(from_others.cohen_log)
    from_intervals = _constructor(from_others.intervals)
    from_file = _constructor(files.file)

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
        provenance = self.provenance
        if not self._guarantee.smoothed or None in (provenance.n, provenance.alpha):
            return None
        return radius_of(best_lower_ends(self.table, provenance), provenance.sigma or 0.0)

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
        labelled = self.table.column("correct").null_count < len(self)
        return self.provenance.planned_radii if labelled else None

    @property
    def confidence(self) -> NDArray[np.float64] | None:
        """(N,) confidences without an attack, through the map; nan where a row has none, None where no row has one."""
        return self._guarantee.confidences.all_points

    @property
    def recalibration(self) -> RecalibrationMap | RowMap | None:
        """The monotone map that confidences go through, or None."""
        return self._guarantee.confidences.map

    def recalibrated(self, mapping: RecalibrationMap | RowMap | None) -> Certificates:
        """The same certificates with confidences that go through a monotone map.

        Theorem (this project): a monotone map keeps certificates, [l, u] becomes [g(l), g(u)], whatever
        it was chosen by. A bound for the population needs one that was fixed without these samples,
        and so does whoever wants their scores to say something of others: fit it on other samples.

        Args:
            mapping: the map, in place of the one these certificates have; None takes it away. A ``RowMap`` may be another
                one for each predicted class, or for each label of ``grouped``.

        Returns:
            ``Certificates``; the map is stored with them.

        Raises:
            TypeError: ``mapping`` is no ``RecalibrationMap`` and no ``RowMap``.
            ValueError: a ``RowMap`` of labels or events that these certificates do not have.
        """
        if mapping is not None and not isinstance(mapping, (RecalibrationMap, RowMap)):
            raise TypeError(f"mapping: expected a RecalibrationMap, got {type(mapping).__name__}")
        stored = None if mapping is None else mapping.to_json()
        result = self.with_provenance(recalibration=stored)
        _ = result.recalibration  # raises where the rows do not go with the map
        return result

    def grouped(self, labels: Any) -> Certificates:
        """The same certificates with a label a row, which a map of confidences may then depend on.

        Args:
            labels: (N,) whole numbers of at least 0. No attack may be able to change a sample's label: nothing that is
                computed from pixels stays, unless that is certified itself.

        Returns:
            ``Certificates``; the labels are stored with them (column ``group``).

        Raises:
            TypeError: no whole numbers.
            ValueError: another length, or a label below 0.
        """
        column = pa.array(from_draws.class_vector("labels", labels, len(self)), pa.int64())
        at = self.table.schema.get_field_index("group")
        return Certificates(self.table.set_column(at, "group", column), self.provenance)

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
        positions = _check.vector("rows", rows)
        if positions.dtype == np.bool_:
            positions = np.flatnonzero(_check.vector("rows", positions, len(self)))
        where = _check.int_vector("rows", positions)
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
        size = _check.radius("radius", radius)
        self._require_allowed(np.array([size]), "certified")
        return self._guarantee.at(size)

    def events_at(self, radius: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n, J) ends of the probabilities of all events of a stack, of the samples of ``at``; errors as there."""
        size = _check.radius("radius", radius)
        self._require_allowed(np.array([size]), "certified")
        return self._guarantee.events(size)

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
        size = _check.radius("radius", radius)
        self._require_allowed(np.array([size]), "all")
        return self._guarantee.rows(size)

    def brier(self, radii: Any, **options: Any) -> NDArray[np.float64]:
        """(R,) exact worst-case Brier scores.

        Arguments and errors as ``curve``; with ``scope=`` or ``delta=`` as ``bound``, whose joint
        values are then returned.
        """
        if options:
            return self.bound("brier", radii, **options).value
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
            return self.bound("ece", radii, **options).value
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
        **options: Unpack[MetricOptions],
    ) -> MetricCurve:
        """Any metric over radii; with ``delta``, a bound that holds for the whole data set at once.

        Args:
            metric: "brier", "ece", "ks", "mce", "log_loss", "selective_risk" or
                "certified_accuracy" (an attack lowers it, so bounds are from below; of all samples in
                every scope); or "classwise_ece", from the votes of all classes: each class's
                probability is bounded at alpha / K, so that a row fails with probability at most alpha.
            radii: (R,) l2 radii, or one, in pixel units.
            scope: "certified": the samples certified at the radius, as the paper has it; "all":
                every sample, where the others are charged the worst that an attack can make of
                them. Only "all" compares models fairly.
            delta: failure probability of a bound that holds over all draws jointly, radius by
                radius; None: none is made.
            joint: "binomial" (at most k intervals fail), "union" (all intervals at delta / N),
                "best": the lower of the two, with delta / 2 each; or "aggregate": by one e-value of
                the whole data set, which needs about a hundredth of the draws, says nothing of
                single samples, and shares delta over the radii of a call (docs/aggregate.md).
            population: also a bound on the expectation over the population that the samples are
                drawn from (Brier, log loss, selective risk, certified accuracy), at ``delta``.
            **options: how the metric is defined, of ``bins``, ``edges`` and ``closed`` (as in
                ``certified_ece``), ``clip`` and ``dtype`` (as in ``certified_log_loss``) and
                ``threshold`` (as in ``certified_selective_risk``; 0.5).

        Returns:
            ``MetricCurve``, whose ``statement`` can be quoted.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument out of range; no labels; no votes of all classes, or a map of the
                top label's confidence, for "classwise_ece"; ``delta`` for another verifier's
                intervals; a radius that ``planned_radii`` does not hold, in scope "certified";
                ``population`` of a run that stopped early; or options that do not go together.

        Source:
            docs/validity.md; population: Maurer and Pontil, COLT 2009, Theorem 4.

        Example:
            >>> certificates = Certificates.from_counts([[990, 10], [100, 900]], [0, 0], sigma=0.25)
            >>> certificates.bound("brier", 0.25, scope="all", delta=0.01).joint.round(3)
            array([0.507])
        """
        _check.options("Certificates.bound", options, MetricOptions)
        asked = _check.radii("radii", radii)
        measure, settings = metric_of(metric), Options.of(**options)
        validity = Validity.of(delta, joint, population)
        validity.require(measure, settings, self.provenance)
        scope = "all" if measure.of_everyone else scope
        source = self.source(scope, asked, of_classes=measure.of_classes)
        return metric_curve(source, measure, asked, settings, validity)

    def classwise(self, radii: Any, **options: Any) -> MetricCurve:
        """The class-wise calibration error over radii: ``bound`` with "classwise_ece".

        Example:
            >>> counts, labels = [[990, 10], [100, 900]], [0, 0]
            >>> made = Certificates.from_counts(counts, labels, 0.25, keep_counts=True)
            >>> made.classwise(0.0).worst.round(3)
            array([0.478])
        """
        return self.bound("classwise_ece", radii, **options)

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
        cells = Bins.of(bins, edges, closed)
        right = correct_rows(self.table)
        self._require_allowed(asked, "certified")
        if self._guarantee.fused:
            shift = shifts(asked, self.provenance.sigma)
            result = smoothing_curve(self._guarantee.groups, right, asked, shift, cells)
        else:
            sets = [self._guarantee.at(float(radius)) for radius in asked]
            result = curve_of_sets(sets, len(self), cells)
        empty = result.radius[result.certified == 0]
        if empty.size:
            warnings.warn(
                "no sample is certified at radius "
                f"{_claims.written(empty.min())}{' and above' if empty.size > 1 else ''}; {self.best_radius_words()}",
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

    def source(
        self, scope: str, radii: NDArray[np.float64], *, of_classes: bool = False
    ) -> SampleSource:
        """The samples as metrics take them, at radii that may be asked for in a scope.

        Args:
            scope: "certified" or "all".
            radii: (R,) l2 radii.
            of_classes: whether metrics take the confidences of all classes.

        Raises:
            ValueError: another scope, or a radius that may not be asked for.
        """
        _check.choice("scope", scope, SCOPES)
        self._require_allowed(radii, scope)
        kind = AllClasses if of_classes else TopLabel
        return kind(self.table, self.provenance, self._guarantee, scope)

    def _require_allowed(self, radii: NDArray[np.float64], scope: str) -> None:
        planned = self.planned_radii if scope == "certified" else None
        if planned is not None and not np.isin(radii, planned).all():
            other = radii[~np.isin(radii, planned)][0]
            raise ValueError(
                f"radius: expected one that the run was planned for, {', '.join(map(repr, planned))}, got {other}: its "
                "samples stopped early with the help of their labels, which choose who is certified at other radii; ask for "
                'all samples (scope="all"), or plan for this radius'
            )
        most = None if self._guarantee.smoothed else self.provenance.radius
        if most is not None and radii.max() > most:
            raise ValueError(
                f"radius: expected at most {most}, the radius that these intervals hold at, got "
                f"{radii.max()}"
            )

    def best_radius_words(self) -> str:
        """``best_radius`` in a sentence, for warnings."""
        draws, alpha = self.provenance.n, _claims.failure(self.provenance.alpha or 1.0)
        best = _claims.size(self.best_radius or 0.0, 4)
        return f"the best radius that n = {draws} and alpha = {alpha} could ever give is {best}"
