# SPDX-License-Identifier: MIT
"""More numbers of a report: joint validity, further metrics, risk against coverage, recalibration."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from certcal_ext.certificates.bounds import MetricCurve
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.curve import CertifiedSet
    from certcal_ext.certificates.recalibrate import SplitRecalibration
    from certcal_ext.metrics.risk_coverage import CertifiedRiskCoverage
    from certcal_ext.recalibration.report import RecalibrationReport, ResolutionCurve

#: Log loss is of confidences reported in [CLIP, 1 - CLIP].
CLIP = 1e-3
THRESHOLD = 0.9
_LEAST_CERTIFIED = 30  # in each half, for a map to be worth fitting


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


def gather_further(
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
