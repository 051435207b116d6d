# SPDX-License-Identifier: MIT
"""Certificates of a set of samples: all that passes between sampling, metrics and report."""

from __future__ import annotations

import dataclasses
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext import _check, readers, sources
from certcal_ext.certificate_table import chosen, numbers, read_parquet, validate, write_parquet
from certcal_ext.curve import (
    CertifiedSet,
    Curve,
    Groups,
    group_rows,
    interval_curve,
    shifted_intervals,
    smoothing_curve,
)
from certcal_ext.intervals import best_radius
from certcal_ext.provenance import Provenance

__all__ = ["Certificates", "CertifiedSet", "Curve"]


@dataclass(frozen=True, eq=False)
class Certificates:
    """Confidence certificates, one row a sample that was drawn for, abstained ones too.

    Theorem (Cohen et al., ICML 2019; Kumar et al., NeurIPS 2020): if the confidence of a classifier
    smoothed with N(0, sigma^2) lies in [p_lower, p_upper], then under every l2 perturbation of norm
    at most R it stays in [Phi(Phi^-1(p_lower) - R/sigma), Phi(Phi^-1(p_upper) + R/sigma)], and the
    prediction stays while Phi^-1(p_lower) > R/sigma. Each row's interval fails with probability at
    most alpha.

    Attributes:
        table: Arrow table with the columns index, label, predicted, correct, votes, n, confidence,
            p_lower and p_upper.
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

    @classmethod
    def from_counts(
        cls,
        counts: Any,
        labels: Any,
        sigma: float,
        alpha: float = 1e-3,
        selection: Any = None,
        *,
        index: Any = None,
    ) -> Certificates:
        """Certificates from votes of a classifier under Gaussian noise.

        Args:
            counts: (N, K) whole numbers, votes of the estimation draws; rows of equal sum.
            labels: (N,) classes, or None: intervals and predictions are certified, and metrics are
                not available.
            sigma: standard deviation of the noise, in pixel units.
            alpha: failure probability of one interval, both sides together.
            selection: (N,) classes chosen by separate draws. None chooses the class with most votes
                (the lowest of equals) in ``counts`` themselves, which the provenance then notes.
            index: (N,) sample ids; None numbers the rows.

        Returns:
            ``Certificates``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: unequal row sums, fewer than two classes, no samples, or a value out of
                range.

        Warns:
            UserWarning: more samples abstain than are certified; the best radius for this n and
                alpha is named.
        """
        result = cls(*sources.of_counts(counts, labels, sigma, alpha, selection, index))
        result._warn_of_abstentions()
        return result

    @classmethod
    def from_npz(
        cls, path: str | PathLike[str], sigma: float | None = None, alpha: float = 1e-3
    ) -> Certificates:
        """``from_counts`` on a file of votes (see ``readers.read_counts``).

        Args:
            path: ``.npz`` file with ``counts`` and, where they are known, ``label`` and ``sigma``.
            sigma: standard deviation of the noise; None takes the file's.
            alpha: failure probability of one interval, both sides together.

        Returns:
            ``Certificates``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: the file cannot be read, or neither it nor the caller says sigma, or they
                differ.
        """
        stored = readers.read_counts(path)
        scale = sources.sigma_of(stored, sigma, path)
        result = cls.from_counts(stored.counts, stored.labels, scale, alpha)
        return result.with_provenance(source=os.fspath(path))

    @classmethod
    def from_cohen_log(
        cls, path: str | PathLike[str], sigma: float, n: int, alpha: float
    ) -> Certificates:
        """Certificates from a certification log (see ``readers.read_cohen_log``).

        A printed radius stands for a range of vote counts, as it is rounded. The interval of a row
        runs from the Clopper-Pearson lower end of the least count to the upper end of the largest
        one, two-sided at ``alpha``, so it holds the interval that the true count would have given.
        The point estimate is the middle of the range.

        Args:
            path: tab-separated log with idx, label, predict, radius and correct.
            sigma: standard deviation of the noise that the log was made with, in pixel units.
            n: number of estimation draws that it was made with.
            alpha: failure probability of the log's one-sided bounds, and of one interval here.

        Returns:
            ``Certificates``; rows in which the log abstained abstain here.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument out of range; a file that is no such log, naming the row; or a
                radius that no count gives with this sigma, n and alpha.

        Warns:
            UserWarning: more samples abstain than are certified.
        """
        result = cls(*sources.of_cohen_log(path, sigma, n, alpha))
        result._warn_of_abstentions()
        return result

    @classmethod
    def from_intervals(
        cls,
        correct: Any,
        lower: Any,
        upper: Any,
        radius: float | None = None,
        confidence: Any = None,
        labels: Any = None,
        predicted: Any = None,
    ) -> Certificates:
        """Certificates of another verifier: intervals and predictions that hold under attack.

        Args:
            correct: (N,) booleans or 0/1, whether the certified prediction is right.
            lower: (N,) lower ends of the confidence under attack.
            upper: (N,) upper ends.
            radius: l2 radius at which they hold; a larger one is then an error, and at a smaller
                one the same intervals are returned, which hold there too. None: they are returned
                at whatever radius is asked for, unchecked.
            confidence: (N,) confidences without an attack, or None.
            labels: (N,) classes, or None.
            predicted: (N,) predicted classes, or None.

        Returns:
            ``Certificates``; every sample counts as certified.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: no samples, shapes that differ, a value out of range, or ``correct`` that
                contradicts the classes.

        Example:
            >>> certificates = Certificates.from_intervals([1, 0], [0.8, 0.5], [0.9, 0.6], 0.5)
            >>> certificates.brier(0.5).round(3)
            array([0.2])
        """
        return cls(
            *sources.of_intervals(correct, lower, upper, radius, confidence, labels, predicted)
        )

    def with_provenance(self, **changes: Any) -> Certificates:
        """The same certificates with fields of the provenance replaced, such as ``n0``."""
        return Certificates(self.table, dataclasses.replace(self.provenance, **changes))

    @property
    def abstained(self) -> NDArray[np.bool_]:
        """(N,) bool: the samples that are not certified even at radius 0."""
        if not self._smoothed:
            return np.zeros(len(self), np.bool_)
        return ~self._certified(0.0)

    @property
    def best_radius(self) -> float | None:
        """The largest radius that this n and alpha could ever give; None without draws."""
        made = self.provenance
        if not self._smoothed or made.n is None or made.alpha is None or made.sigma is None:
            return None
        return best_radius(made.n, made.alpha, made.sigma)

    def at(self, radius: float) -> CertifiedSet:
        """The samples certified at a radius, with their intervals under attack.

        Args:
            radius: l2 radius, in pixel units.

        Returns:
            ``CertifiedSet``, in the order of the table; it may be empty.

        Raises:
            TypeError: ``radius`` is no number.
            ValueError: ``radius`` is negative or not finite, or above the one that the intervals
                hold at.
        """
        reach = _check.radius("radius", radius)
        lower, upper = self._column("p_lower"), self._column("p_upper")
        inside = np.ones(len(self), np.bool_)
        if self._smoothed:
            shift = float(self._shifts(np.array([reach]))[0])
            inside = self._certified(shift)
            lower, upper = shifted_intervals(self._groups, inside, shift)
        else:
            self._require_reach(np.array([reach]))
            lower, upper = lower.copy(), upper.copy()
        index = self._column("index")[inside]
        for values in (index, lower, upper):
            values.flags.writeable = False
        return CertifiedSet(
            radius=reach,
            index=index,
            correct=chosen(self.table, "correct", inside),
            lower=lower,
            upper=upper,
            confidence=chosen(self.table, "confidence", inside),
            predicted=chosen(self.table, "predicted", inside),
        )

    def brier(self, radii: Any) -> NDArray[np.float64]:
        """(R,) exact worst-case Brier scores; arguments and errors as ``curve``."""
        return self.curve(radii, bins=1).certified_brier

    def ece(
        self, radii: Any, bins: int = 15, edges: Any = None, closed: str = "right"
    ) -> NDArray[np.float64]:
        """(R,) exact worst-case ECEs; arguments and errors as ``curve``."""
        return self.curve(radii, bins, edges, closed).certified_ece

    def curve(self, radii: Any, bins: int = 15, edges: Any = None, closed: str = "right") -> Curve:
        """All metrics over radii, in one pass over the samples.

        Args:
            radii: (R,) l2 radii, or one, in pixel units.
            bins: number M of bins of equal width; not used where ``edges`` is given.
            edges: (M + 1,) strictly increasing from 0 to 1.
            closed: which end of a bin belongs to it, as in ``certified_ece``.

        Returns:
            ``Curve``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: there are no labels; a radius is negative, not finite, or above the one that
                the intervals hold at; or bad bins.

        Warns:
            UserWarning: no sample is certified at one of the radii, where metrics are nan.
        """
        asked = _check.radii("radii", radii)
        borders = _check.bin_edges(bins, edges)
        left = _check.closed_left(closed)
        correct = self._column("correct")
        if correct is None:
            raise ValueError(
                "labels: this metric needs them, and these certificates were made without "
                "(labels=None)"
            )
        right = correct.view(np.uint8)
        if not self._smoothed:
            self._require_reach(asked)
            ends = self._column("p_lower"), self._column("p_upper")
            return interval_curve(right, *ends, self._column("confidence"), asked, borders, closed)
        result = smoothing_curve(self._groups, right, asked, self._shifts(asked), borders, left)
        empty = result.radius[result.certified == 0]
        if empty.size:
            warnings.warn(
                "no sample is certified at radius "
                f"{empty.min():g}{' and above' if empty.size > 1 else ''}; {self._reach_words()}",
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

    @property
    def _smoothed(self) -> bool:
        return self.provenance.kind != "intervals"

    @cached_property
    def _groups(self) -> Groups:
        # A row without a point estimate abstained: it is never certified, and the 0 is never read.
        confidence = self.table.column("confidence").fill_null(0.0).to_numpy()
        votes = self._column("votes") if self.provenance.kind == "votes" else None
        return group_rows(self._column("p_lower"), self._column("p_upper"), confidence, votes)

    def _column(self, name: str) -> Any:
        return numbers(self.table, name)

    def _certified(self, shift: float) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = (self._groups.probit_lower > shift)[self._groups.group]
        return inside

    def _shifts(self, radii: NDArray[np.float64]) -> NDArray[np.float64]:
        """Radius over sigma, rounded up: one rounded to nearest could certify a little too much."""
        sigma = np.float64(self.provenance.sigma or np.nan)  # a smoothed certificate has one
        return np.where(radii > 0, np.nextafter(radii / sigma, np.inf), 0.0)

    def _require_reach(self, radii: NDArray[np.float64]) -> None:
        reach = self.provenance.radius
        if reach is not None and radii.max() > reach:
            raise ValueError(
                f"radius: expected at most {reach}, the radius that these intervals hold at, got "
                f"{radii.max()}"
            )

    def _reach_words(self) -> str:
        made = self.provenance
        return (
            f"the best radius that n = {made.n} and alpha = {made.alpha:g} could ever give is "
            f"{self.best_radius:.4g}"
        )

    def _warn_of_abstentions(self) -> None:
        abstained = int(np.count_nonzero(self.abstained))
        if abstained > len(self) - abstained:
            warnings.warn(
                f"{abstained} of {len(self)} samples abstain; {self._reach_words()}", stacklevel=3
            )
