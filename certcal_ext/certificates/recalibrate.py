# SPDX-License-Identifier: MIT
"""Recalibration of certificates: fitted on the worst case of one half of the samples, certified on the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from certcal_ext import _check
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.curve import CertifiedSet
from certcal_ext.recalibration.fit import KINDS, fit_recalibration, fit_tradeoff
from certcal_ext.recalibration.maps import RecalibrationMap
from certcal_ext.recalibration.report import (
    RecalibrationReport,
    ResolutionCurve,
    recalibration_report,
    resolution_curve,
    split_halves,
    tradeoff_maps,
)

_SHARES = tuple(np.linspace(0.0, 1.0, 21))


@dataclass(frozen=True, eq=False)
class SplitRecalibration:
    """A map and the certificates that it was not fitted on.

    Attributes:
        kind: kind of the map that was asked for.
        radius: l2 radius whose worst case the map was fitted to.
        mapping: the map.
        fitting: the half that it was fitted on, as it was.
        plain: the other half, as it was.
        certified: the other half, recalibrated.
    """

    kind: str
    radius: float
    mapping: RecalibrationMap
    fitting: Certificates
    plain: Certificates
    certified: Certificates

    def reports(self, radii: Sequence[float], **binning: Any) -> list[RecalibrationReport | None]:
        """Scores of the other half before and after, one a radius; None where nothing is certified.

        Args:
            radii: l2 radii, in pixel units.
            binning: ``bins``, ``edges`` and ``closed`` of the ECE.
        """
        rows: list[RecalibrationReport | None] = []
        for radius in _check.radii("radii", radii):
            chosen = self.plain.at(float(radius))
            if not len(chosen):
                rows.append(None)
                continue
            rows.append(recalibration_report(self.mapping, *_columns(chosen), **binning))
        return rows

    def resolution_curve(self, radius: float, **binning: Any) -> ResolutionCurve:
        """What certified scores cost in resolution: a family of maps from the best without attack to the best under one.

        Args:
            radius: l2 radius at which maps are fitted (one half) and scored (the other).
            binning: ``bins``, ``edges`` and ``closed`` of the ECE.

        Raises:
            ValueError: one of the halves holds no sample that is certified at the radius.
        """
        fit, score = self.fitting.at(radius), self.plain.at(radius)
        if not len(fit) or not len(score):
            raise ValueError(
                f"radius: expected one that both halves hold certified samples at, got {radius}"
            )
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
    if certificates.recalibration is not None:
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
    reach = _check.radius("radius", radius)
    fitting, plain = halves(certificates, seed)
    chosen = fitting.at(reach)
    if not len(chosen) or not len(plain.at(reach)):
        raise ValueError(
            f"radius: expected one that both halves hold certified samples at, got {reach:g}"
        )
    correct, lower, upper, confidence = _columns(chosen)
    _check.choice("kind", kind, (*KINDS, "tradeoff"))
    mapping: RecalibrationMap
    if kind == "tradeoff":
        mapping = fit_tradeoff(correct, lower, upper, confidence, share)
    else:
        mapping = fit_recalibration(kind, correct, lower, upper)
    return SplitRecalibration(kind, reach, mapping, fitting, plain, plain.recalibrated(mapping))


def _columns(chosen: CertifiedSet) -> tuple[Any, Any, Any, Any]:
    if chosen.correct is None:
        raise ValueError("labels: recalibration needs them, and there are none")
    if chosen.confidence is None:
        raise ValueError(
            "confidence: recalibration needs the ones without attack, and there are none"
        )
    return chosen.correct, chosen.lower, chosen.upper, chosen.confidence
