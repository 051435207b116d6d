# SPDX-License-Identifier: MIT
"""The numbers of a report, worked out once: no drawing and no HTML here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext.bins import Bins
from certcal_ext.certificates.guarantee import default_radii, largest_radius
from certcal_ext.report.models import Models, gather_models
from certcal_ext.report.options import PageOptions
from certcal_ext.report.samples import WorstSamples, check_images, worst_samples

if TYPE_CHECKING:
    from certcal_ext.certificates.bounds import MetricCurve
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.curve import CertifiedSet, Curve
    from certcal_ext.certificates.provenance import Provenance
    from certcal_ext.certificates.recalibrate import SplitRecalibration
    from certcal_ext.metrics.risk_coverage import CertifiedRiskCoverage
    from certcal_ext.recalibration.report import RecalibrationReport, ResolutionCurve

#: Log loss is of confidences reported in [CLIP, 1 - CLIP].
CLIP = 1e-3
THRESHOLD = 0.9
_LEAST_CERTIFIED = 30  # in each half, for a map to be worth fitting
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


@dataclass(frozen=True, eq=False)
class Further:
    """What the page shows beside the curves, all at the page's radius.

    Attributes:
        delta: failure probability of each joint bound, or None where it is not known how often intervals fail.
        certified: a curve of one radius for each metric of the top label, over the certified samples.
        everyone: the same over all samples; empty where every sample is certified.
        risk: the certified risk-coverage curve.
        plain_risk: the same without attack, or None where there are no confidences.
        gain: recalibration fitted on one half, or None where there is too little to fit.
    """

    delta: float | None
    certified: tuple[MetricCurve, ...]
    everyone: tuple[MetricCurve, ...]
    risk: CertifiedRiskCoverage
    plain_risk: CertifiedRiskCoverage | None
    gain: Gain | None


@dataclass(frozen=True, eq=False)
class Gain:
    """A recalibration at the page's radius.

    Attributes:
        split: the halves and the map.
        report: scores of the half that it was not fitted on, before and after.
        kept: the same for the map that weighs the scores with and without attack equally, which keeps more resolution.
        curve: certified scores against resolution, for maps between the best without attack and the best under one.
    """

    split: SplitRecalibration
    report: RecalibrationReport
    kept: RecalibrationReport
    curve: ResolutionCurve


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
    options: PageOptions | None = None,
    *,
    models: Mapping[str, Certificates] | None = None,
    **changes: Any,
) -> Facts:
    """Works out the numbers of a report.

    Args:
        certificates: the certificates.
        options: of the page; None takes the usual ones. Intervals of which it is not known how often they fail have no
            joint bounds, whatever ``delta`` says.
        models: all models to compare by name, these certificates among them; None takes those of the options.
        changes: options by name, in place of those of ``options``.

    Returns:
        The facts.

    Raises:
        TypeError: there is no such option.
        ValueError: an option is out of range, or the certificates hold no labels.
    """
    page = PageOptions.of(options, **changes)
    models = page.models(certificates) if models is None else models
    check_images(page.images, len(certificates))
    reach = largest_radius(certificates)
    listed = list(default_radii(certificates) if page.radii is None else page.radii)
    if page.radius is not None and page.radius not in listed:
        listed.append(page.radius)
    listed = sorted(set(listed))
    smoothing = certificates.provenance.sigma is not None and certificates.planned_radii is None
    grid = np.linspace(0, max(reach, listed[-1]), _DENSE) if smoothing else np.asarray(listed)
    binning = page.binning
    with warnings.catch_warnings():
        # Radii at which nothing is certified are shown as such on the page.
        warnings.simplefilter("ignore")
        curve = certificates.curve(listed, **binning)
        dense = certificates.curve(grid, **binning)
    main = _main_radius(curve) if page.radius is None else listed.index(page.radius)
    chosen = certificates.at(float(curve.radius[main]))
    edges = page.edges
    bounds = np.linspace(0, 1, page.bins + 1) if edges is None else np.asarray(edges, np.float64)
    clean, worst = _diagrams(chosen, bounds, page.closed)
    further = samples = compared = None
    if len(chosen):
        further = _further(certificates, chosen, page.delta, page.recalibrate, binning)
        samples = worst_samples(certificates, chosen, page.images, page.class_names)
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
        closed=page.closed,
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
    correct: NDArray[Any], confidence: NDArray[np.float64], edges: NDArray[np.float64], closed: str
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


def _further(
    certificates: Certificates,
    chosen: CertifiedSet,
    delta: float | None,
    recalibrate: str | None,
    binning: dict[str, Any],
) -> Further:
    """Works the numbers out.

    Args:
        certificates: the certificates, with labels.
        chosen: the samples certified at the page's radius, at least one.
        delta: failure probability of each joint bound; not used where alpha is not known.
        recalibrate: kind of the map to fit, or None.
        binning: ``bins``, ``edges`` and ``closed`` of the calibration errors.

    Raises:
        ValueError: an argument is out of range.
    """
    from certcal_ext.metrics.registry import top_label
    from certcal_ext.metrics.risk_coverage import certified_risk_coverage

    risk = delta if certificates.provenance.alpha is not None else None
    options = {"delta": risk, "clip": CLIP, "threshold": THRESHOLD, **binning}
    certified = tuple(certificates.bound(name, chosen.radius, **options) for name in top_label())
    everyone: tuple[MetricCurve, ...] = ()
    if len(chosen) < len(certificates):
        everyone = tuple(
            certificates.bound(name, chosen.radius, scope="all", **options) for name in top_label()
        )
    point = chosen.confidence
    plain = None if point is None else certified_risk_coverage(chosen.correct, point, point)
    return Further(
        delta=risk,
        certified=certified,
        everyone=everyone,
        risk=certified_risk_coverage(chosen.correct, chosen.lower, chosen.upper),
        plain_risk=plain,
        gain=None if recalibrate is None else _gain(certificates, chosen, recalibrate, binning),
    )


def _gain(
    certificates: Certificates, chosen: CertifiedSet, kind: str, binning: dict[str, Any]
) -> Gain | None:
    from certcal_ext.certificates.recalibrate import recalibrate_split
    from certcal_ext.recalibration.report import split_halves

    halves = np.bincount(split_halves(chosen.index).astype(np.int64), minlength=2)
    if (
        chosen.confidence is None
        or certificates.recalibration is not None
        or halves.min() < _LEAST_CERTIFIED
    ):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a half may abstain more often than the whole
        split = recalibrate_split(certificates, chosen.radius, kind)
        other = recalibrate_split(certificates, chosen.radius, "tradeoff")
    (report,), (kept,) = (each.reports([chosen.radius], **binning) for each in (split, other))
    assert report is not None  # both halves hold certified samples
    assert kept is not None
    return Gain(split, report, kept, split.resolution_curve(chosen.radius, **binning))
