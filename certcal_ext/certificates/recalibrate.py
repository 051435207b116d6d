# SPDX-License-Identifier: MIT
"""Recalibration of certificates: fitted on the worst case of one half of the samples, certified on the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from certcal_ext import _check
from certcal_ext.bins import Bins
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.curve import CertifiedSet
from certcal_ext.certificates.from_draws import class_vector
from certcal_ext.certificates.stack import stack
from certcal_ext.intervals.clopper_pearson import Interval
from certcal_ext.recalibration.fit import KINDS, fit_recalibration, fit_tradeoff
from certcal_ext.recalibration.maps import RecalibrationMap
from certcal_ext.recalibration.report import (
    RecalibrationReport,
    ResolutionCurve,
    report_of,
    resolution_curve,
    split_halves,
    tradeoff_maps,
)
from certcal_ext.recalibration.row_fits import fit_by_label, fit_stack
from certcal_ext.recalibration.row_maps import RowMap

_SHARES = tuple(np.linspace(0.0, 1.0, 21))


@dataclass(frozen=True, eq=False)
class SplitRecalibration:
    """A map and the certificates that it was not fitted on.

    Attributes:
        kind: kind of the map that was asked for; "stack" of ``stack_split``.
        radius: l2 radius whose worst case the map was fitted to.
        mapping: the map.
        fitting: the half that it was fitted on, as it was.
        plain: the other half, as it was.
        certified: the other half, recalibrated.
    """

    kind: str
    radius: float
    mapping: RecalibrationMap | RowMap
    fitting: Certificates
    plain: Certificates
    certified: Certificates

    def reports(self, radii: Sequence[float], **binning: Any) -> list[RecalibrationReport | None]:
        """Scores of the other half before and after, one a radius; None where nothing is certified.

        Args:
            radii: l2 radii, in pixel units.
            binning: ``bins``, ``edges`` and ``closed`` of the ECE.
        """
        cells = Bins.of(**binning)
        reports: list[RecalibrationReport | None] = []
        for radius in _check.radii("radii", radii).tolist():
            before, after = self.plain.at(radius), self.certified.at(radius)
            if not len(before):
                reports.append(None)
                continue
            right, lower, upper, points = _columns(before)
            stages = (
                (Interval(lower, upper), points),
                (
                    Interval(after.lower, after.upper),
                    _columns(after)[3],
                ),
            )
            reports.append(report_of(self.mapping.kind, right.view(np.uint8), *stages, cells))
        return reports

    def resolution_curve(self, radius: float, **binning: Any) -> ResolutionCurve:
        """What certified scores cost in resolution: a family of maps from the best without attack to the best under one.

        Args:
            radius: l2 radius at which maps are fitted (one half) and scored (the other).
            binning: ``bins``, ``edges`` and ``closed`` of the ECE.

        Raises:
            ValueError: one of the halves holds no sample that is certified at the radius.
        """
        fit, score = _both(self.fitting, self.plain, radius)
        maps = tradeoff_maps(*_columns(fit), _SHARES)
        return resolution_curve(maps, *_columns(score), **binning)


def halves(certificates: Certificates, seed: int = 0) -> tuple[Certificates, Certificates]:
    """The fitting half and the other one, by the samples' ids alone.

    Whatever a map depends on (the radius that it is fitted at, its kind) is chosen from the first: a bound for the
    population holds only where the other half had no say in it.

    Args:
        certificates: not recalibrated.
        seed: of the halves.

    Returns:
        Two ``Certificates``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: certificates that are recalibrated already, or too few for two halves.
    """
    _check.instance("certificates", certificates, Certificates)
    if certificates.provenance.recalibration is not None:
        raise ValueError("certificates: expected ones that are not recalibrated yet")
    in_fit = split_halves(certificates.table.column("index").to_numpy(), seed)
    if not in_fit.any() or in_fit.all():
        raise ValueError(
            f"certificates: expected enough samples for two halves, got {len(certificates)}"
        )
    return certificates.select(in_fit), certificates.select(~in_fit)


def recalibrate_split(
    certificates: Certificates,
    radius: float,
    kind: str = "isotonic",
    seed: int = 0,
    share: float = 0.5,
    *,
    by: str | None = None,
    group: Any = None,
) -> SplitRecalibration:
    """Fits a monotone map on one half of the samples for a radius, and certifies the other half with it.

    The halves are chosen by the samples' ids alone, so they are the same in every run. The other half's certificates hold as
    before, under any map. That its scores say something of other samples, and bounds for the population, rest on a map that
    it had no say in: choose ``radius`` and ``kind`` before, or from the fitting half (``halves``).

    Args:
        certificates: with labels and confidences.
        radius: l2 radius whose worst case is made small.
        kind: "isotonic" (minimises the certified Brier score over all monotone maps), "tradeoff" (minimises a mean of it
            and of the score without attack, and so keeps some resolution), "beta", "platt", "temperature", "constant" or
            "identity".
        seed: of the halves.
        share: for "tradeoff", the weight of the certified score, from 0 to 1.
        by: "predicted" fits a map for each predicted class, which no attack on a certified sample changes; a class with few
            samples is drawn to the common map. None: one map for all.
        group: (N,) whole numbers: a map for each of these labels instead. No attack may be able to change them.

    Returns:
        ``SplitRecalibration``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no labels or confidences, a half with no certified sample at the radius, certificates that are
            recalibrated already, or an argument out of range.

    Source:
        This project (docs/recalibration.md).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.beta(5, 1, 400)
        >>> predicted = (rng.random(400) > p).astype(int)
        >>> made = Certificates.from_votes(rng.binomial(1000, p), 1000, predicted, [0] * 400, 0.25)
        >>> result = recalibrate_split(made, radius=0.1)
        >>> (report,) = result.reports([0.1])
        >>> report.after.certified_brier < report.before.certified_brier
        True
    """
    size = _check.radius("radius", radius)
    _check.choice("kind", kind, (*KINDS, "tradeoff"))
    if by is not None:
        _check.choice("by", by, ("predicted",))
    if group is not None:
        if by is not None:
            raise ValueError("by: expected None where group is given")
        _check.instance("certificates", certificates, Certificates)
        labels = class_vector("group", group, len(certificates))
        certificates, by = certificates.grouped(labels), "group"
    fitting, plain = halves(certificates, seed)
    fit, _ = _both(fitting, plain, size)
    correct, lower, upper, confidence = _columns(fit)
    mapping: RecalibrationMap | RowMap
    if by is not None:
        labels = _labels(fitting, fit, by)
        mapping = fit_by_label(kind, (correct, lower, upper, confidence), labels, by, share=share)
    elif kind == "tradeoff":
        mapping = fit_tradeoff(correct, lower, upper, confidence, share)
    else:
        mapping = fit_recalibration(kind, correct, lower, upper)
    return SplitRecalibration(kind, size, mapping, fitting, plain, plain.recalibrated(mapping))


def stack_split(
    certificates: Sequence[Certificates], radius: float, seed: int = 0
) -> SplitRecalibration:
    """Stacks the votes of several smoothed models into one confidence, fitted on one half and certified on the other.

    The first model predicts. The confidence in its class is a constant, plus increasing functions of each model's
    probability of that class, plus an offset of the class, fitted to the worst case at the radius by non-negative least
    squares (``fit_stack``). A model with more noise is moved less by an attack, so it may say more under one.

    Args:
        certificates: of the same samples (by ``index``, in any order) with the same labels, each of votes of all classes
            (``from_counts`` with ``keep_counts``); of other models, or other sigmas. See ``stack``.
        radius: l2 radius whose worst case is made small.
        seed: of the halves, which are chosen by the samples' ids alone.

    Returns:
        ``SplitRecalibration``: its plain certificates are the first model's, with an equal part of alpha for each model.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: certificates that cannot be stacked, no labels, or a half with no certified sample at the radius.

    Source:
        This project (docs/recalibration.md).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p, labels = rng.beta(3, 1, 400), np.zeros(400, int)
        >>> counts = [np.stack([k, 1000 - k], 1) for k in (rng.binomial(1000, p), rng.binomial(1000, p))]
        >>> made = [
        ...     Certificates.from_counts(each, labels, sigma, keep_counts=True)
        ...     for each, sigma in zip(counts, (0.25, 0.5))
        ... ]
        >>> (report,) = stack_split(made, radius=0.1).reports([0.1])
        >>> report.after.certified_brier < report.before.certified_brier
        True
    """
    size = _check.radius("radius", radius)
    fitting, plain = halves(stack(certificates), seed)
    fit, _ = _both(fitting, plain, size)
    correct, *_ = _columns(fit)
    lower, upper = fitting.events_at(size)
    mapping = fit_stack(correct, lower, upper, _labels(fitting, fit, "predicted"))
    return SplitRecalibration("stack", size, mapping, fitting, plain, plain.recalibrated(mapping))


def _both(
    fitting: Certificates, plain: Certificates, radius: float
) -> tuple[CertifiedSet, CertifiedSet]:
    """The certified samples of both halves."""
    fit, score = fitting.at(radius), plain.at(radius)
    if not len(fit) or not len(score):
        raise ValueError(
            f"radius: expected one that both halves hold certified samples at, got {radius:g}"
        )
    return fit, score


def _labels(certificates: Certificates, certified: CertifiedSet, by: str) -> Any:
    """(n,) labels of the certified samples."""
    if by == "predicted":
        if certified.predicted is None:
            raise ValueError("predicted: expected the class of every row, and there is none")
        return certified.predicted
    return certificates.table.column(by).to_numpy()[
        certificates.rows_at(certified.radius).certified
    ]


def _columns(certified: CertifiedSet) -> tuple[Any, Any, Any, Any]:
    if certified.correct is None:
        raise ValueError("labels: recalibration needs them, and there are none")
    if certified.confidence is None:
        raise ValueError(
            "confidence: recalibration needs the ones without attack, and there are none"
        )
    return certified.correct, certified.lower, certified.upper, certified.confidence
