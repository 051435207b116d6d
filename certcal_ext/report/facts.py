# SPDX-License-Identifier: MIT
"""The numbers of a report, worked out once: no drawing and no HTML here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext.bins import Bins
from certcal_ext.certificates.guarantee import default_radii, largest_radius
from certcal_ext.report.further import Further, gather_further
from certcal_ext.report.models import Models, gather_models
from certcal_ext.report.samples import WorstSamples, check_images, worst_samples

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.curve import CertifiedSet, Curve
    from certcal_ext.certificates.provenance import Provenance

_DENSE = 73


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram.

    Attributes:
        count: (M,) int64, samples in each bin.
        confidence: (M,) mean confidence, nan where a bin is empty.
        accuracy: (M,) share of right predictions, nan where a bin is empty.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


@dataclass(frozen=True)
class Facts:
    """Everything a report shows.

    Attributes:
        provenance: where the certificates come from.
        total: rows, abstained ones too.
        abstained: rows whose prediction is not certified at radius 0.
        curve: metrics at the listed radii.
        dense: metrics at many radii, for the drawings.
        main: position in ``curve`` of the radius the page is about.
        edges: (M + 1,) bin edges.
        closed: "right" or "left".
        chosen: the samples certified at the main radius.
        clean: their reliability diagram without attack, or None where the source holds no
            confidences.
        worst: their reliability diagram under the worst case, or None where there is no sample.
        reach: up to where any sample is certified.
        best_radius: the largest radius that n draws in one look can certify; None where that is not known, or rows
            stopped early.
        further: joint validity, further metrics and recalibration, or None where nothing is
            certified at the main radius.
        samples: those that cost most at the main radius, or None where nothing is certified there.
        models: the comparison with other models, or None where there are none.
    """

    provenance: Provenance
    total: int
    abstained: int
    curve: Curve
    dense: Curve
    main: int
    edges: NDArray[np.float64]
    closed: str
    chosen: CertifiedSet
    clean: Reliability | None
    worst: Reliability | None
    reach: float
    best_radius: float | None
    further: Further | None
    samples: WorstSamples | None
    models: Models | None

    @property
    def radius(self) -> float:
        """The radius the page is about."""
        return float(self.curve.radius[self.main])

    @property
    def certified(self) -> int:
        """Samples certified at that radius."""
        return int(self.curve.certified[self.main])


def gather(
    certificates: Certificates,
    *,
    radii: Sequence[float] | None = None,
    radius: float | None = None,
    bins: int = 15,
    edges: Sequence[float] | None = None,
    closed: str = "right",
    delta: float | None = 1e-3,
    recalibrate: str | None = "isotonic",
    images: Any = None,
    class_names: Sequence[str] | None = None,
    models: Mapping[str, Certificates] | None = None,
) -> Facts:
    """Works out the numbers of a report.

    Args:
        certificates: the certificates.
        radii: radii of the table; None chooses round ones up to the largest certified radius.
        radius: the radius the page is about, added to the table where it is not listed; None takes
            the largest listed one at which at least half of all samples are certified.
        bins: number of equal-width bins, where ``edges`` is None.
        edges: bin edges from 0 to 1.
        closed: "right": bins (lo, hi]; "left": [lo, hi).
        delta: failure probability of each bound that holds for the whole data set at once; None
            leaves them out, as do intervals of which it is not known how often they fail.
        recalibrate: kind of the map whose gain is shown, or None.
        images: one image a row, or None (``worst_samples``).
        class_names: a name a class, or None.
        models: all models to compare by name, these certificates among them, or None.

    Returns:
        The facts.

    Raises:
        ValueError: an argument is out of range, or the certificates hold no labels.
    """
    check_images(images, len(certificates))
    reach = largest_radius(certificates)
    listed = list(default_radii(certificates) if radii is None else radii)
    if radius is not None and radius not in listed:
        listed.append(radius)
    listed = sorted(set(listed))
    smoothing = certificates.provenance.sigma is not None and certificates.planned_radii is None
    grid = np.linspace(0, max(reach, listed[-1]), _DENSE) if smoothing else np.asarray(listed)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # radii at which nothing is certified are shown as such on the page
        curve = certificates.curve(listed, bins=bins, edges=edges, closed=closed)
        dense = certificates.curve(grid, bins=bins, edges=edges, closed=closed)
    main = _main_radius(curve) if radius is None else listed.index(radius)
    chosen = certificates.at(float(curve.radius[main]))
    bounds = np.linspace(0, 1, bins + 1) if edges is None else np.asarray(edges, dtype=np.float64)
    clean, worst = _diagrams(chosen, bounds, closed)
    further = samples = compared = None
    binning = {"bins": bins, "edges": edges, "closed": closed}
    if len(chosen):
        further = gather_further(certificates, chosen, delta, recalibrate, binning)
        samples = worst_samples(certificates, chosen, images, class_names)
    if models is not None:
        end = max(largest_radius(made) for made in models.values())
        compared = gather_models(models, float(curve.radius[main]), end, binning)
    return Facts(
        provenance=certificates.provenance,
        total=len(certificates),
        abstained=int(np.count_nonzero(certificates.abstained)),
        curve=curve,
        dense=dense,
        main=main,
        edges=bounds,
        closed=closed,
        chosen=chosen,
        clean=clean,
        worst=worst,
        reach=reach,
        best_radius=certificates.best_radius if certificates.provenance.stopping is None else None,
        further=further,
        samples=samples,
        models=compared,
    )


def _main_radius(curve: Curve) -> int:
    """The largest radius with half of all samples certified, else with any, else the first."""
    certified = np.asarray(curve.certified)
    for enough in (np.asarray(curve.total) / 2, np.ones_like(certified)):
        found = np.flatnonzero(certified >= enough)
        if len(found):
            return int(found[-1])
    return 0


def _diagrams(
    chosen: CertifiedSet, edges: NDArray[np.float64], closed: str
) -> tuple[Reliability | None, Reliability | None]:
    from certcal_ext.metrics.ece import certified_ece

    if len(chosen.lower) == 0 or chosen.correct is None:
        return None, None
    result = certified_ece(chosen.correct, chosen.lower, chosen.upper, edges=edges, closed=closed)
    worst = reliability(chosen.correct, result.worst_confidence, edges, closed)
    clean = None
    if chosen.confidence is not None and np.isfinite(chosen.confidence).all():
        clean = reliability(chosen.correct, chosen.confidence, edges, closed)
    return clean, worst


def reliability(
    correct: NDArray[Any],
    confidence: NDArray[np.float64],
    edges: NDArray[np.float64],
    closed: str,
) -> Reliability:
    """Counts, mean confidence and accuracy of each bin.

    Args:
        correct: (N,) bool.
        confidence: (N,) float64 in [0, 1].
        edges: (M + 1,) from 0 to 1, increasing.
        closed: "right": bins (lo, hi], the first also holds 0; "left": [lo, hi), the last also
            holds 1.

    Example:
        >>> right, confidence = np.array([True, False]), np.array([0.5, 0.6])
        >>> r = reliability(right, confidence, np.array([0, 0.5, 1]), "right")
        >>> r.count.tolist(), r.accuracy.tolist()
        ([1, 1], [1.0, 0.0])
    """
    bins = len(edges) - 1
    where = Bins(edges, closed).index(confidence)
    count = np.bincount(where, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return Reliability(
        count=count.astype(np.int64),
        confidence=np.bincount(where, weights=confidence, minlength=bins) / filled,
        accuracy=np.bincount(where, weights=np.asarray(correct, np.float64), minlength=bins)
        / filled,
    )
