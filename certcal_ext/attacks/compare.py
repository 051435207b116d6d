# SPDX-License-Identifier: MIT
"""Bound against attack: what attacks reach and what the certificates allow, by radius."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import binom

from certcal_ext import _check
from certcal_ext.attacks.result import AttackResult
from certcal_ext.certificates.evidence import row_factor
from certcal_ext.metrics.brier_ece import brier, ece
from certcal_ext.recalibration.maps import IdentityMap, RecalibrationMap

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates, CertifiedSet

Floats = NDArray[np.float64]

#: The confidence that a kind of certificate is about; intervals of another verifier say nothing of it.
_CONFIDENCE = {"votes": "votes", "log": "votes", "scores": "scores"}

_CLEAN = "no attack"


class BoundViolation(ValueError):
    """An attack got past a certificate, beyond what the failure probabilities explain."""


@dataclass(frozen=True)
class BoundRow:
    """One radius.

    Attributes:
        radius: in pixel units.
        certified: number of samples certified there; the metrics are theirs.
        clean_ece: ECE without attack.
        attack_ece: largest ECE under the attacks, none of them included.
        ece_attack: the attack that reached it.
        bound_ece: certified ECE.
        clean_brier: Brier score without attack.
        attack_brier: largest Brier score.
        brier_attack: the attack that reached it.
        bound_brier: certified Brier score.
    """

    radius: float
    certified: int
    clean_ece: float
    attack_ece: float
    ece_attack: str
    bound_ece: float
    clean_brier: float
    attack_brier: float
    brier_attack: str
    bound_brier: float

    @property
    def ece_ratio(self) -> float:
        """Attack over bound, at most 1."""
        return self.attack_ece / self.bound_ece if self.bound_ece > 0 else 1.0

    @property
    def brier_ratio(self) -> float:
        """Attack over bound, at most 1."""
        return self.attack_brier / self.bound_brier if self.bound_brier > 0 else 1.0


@dataclass(frozen=True)
class Outside:
    """A sample whose confidence left its interval.

    Attributes:
        index: its id.
        radius: the radius.
        attack: the attack, or "no attack".
        confidence: the estimate.
        nearest: the value nearest to the interval that the draws of the estimate allow.
        lower: certified lower end.
        upper: certified upper end.
    """

    index: int
    radius: float
    attack: str
    confidence: float
    nearest: float
    lower: float
    upper: float

    def __str__(self) -> str:
        """The sentence of an error."""
        return (
            f"sample {self.index}: confidence {self.confidence:.6g} (at the least {self.nearest:.6g}) under {self.attack} "
            f"at radius {self.radius:g}, certified interval [{self.lower:.6g}, {self.upper:.6g}]"
        )


@dataclass(frozen=True)
class BoundReport:
    """Clean metric <= best attack <= certified bound, by radius.

    Attributes:
        rows: one a radius, in increasing order.
        outside: samples that left their intervals, as many as the failure probability explains.
        allowed: how many distinct samples that may be.
        looks: confidences that were compared with intervals.
    """

    rows: tuple[BoundRow, ...]
    outside: tuple[Outside, ...]
    allowed: int
    looks: int

    def to_table(self) -> pa.Table:
        """An Arrow table, one row a radius, with the ratios."""
        records = [
            {
                **dataclasses.asdict(row),
                "ece_ratio": row.ece_ratio,
                "brier_ratio": row.brier_ratio,
            }
            for row in self.rows
        ]
        return pa.Table.from_pylist(records)


def compare_with_bound(
    certificates: Certificates,
    results: Iterable[AttackResult],
    *,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
    false_alarm: float = 1e-6,
    tolerance: float = 1e-6,
) -> BoundReport:
    """Sets attacks beside the certificates of the same samples.

    Theorem: let each of the N intervals fail with probability at most alpha, independently, and let an attacked
    confidence be the mean of m fresh draws in [0, 1]. By Hoeffding (1963, theorem 1) the true confidence q satisfies
    KL(mean, q) <= log(2/beta)/m but with probability beta. With beta = false_alarm / (2 looks), all estimates hold at
    once but with probability false_alarm / 2; then only samples whose interval failed can lie outside it, and these are
    more than the 1 - false_alarm/2 quantile of Binomial(N, alpha) with probability at most false_alarm / 2. More of them
    are an error.

    An estimate outside its interval by no more than its own error counts as the nearest end in the metrics. Confidences go
    through the map of recalibrated certificates, which is monotone, with the ends of their intervals rounded outward.

    Args:
        certificates: with labels; all samples that they certify at a radius must have been attacked there.
        results: of attacks at one or more radii, in the norm of the certificates, on the class that they certify
            (``predicted=``), with confidences under fresh noises (``AttackResult.under``).
        bins: number of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) from 0 to 1.
        closed: which end of a bin belongs to it.
        false_alarm: probability that sound certificates are called violated.
        tolerance: error of a confidence that is computed and not estimated.

    Returns:
        ``BoundReport``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no results, or results of another norm, confidence, class or label, without fresh noises, or longer than
            their radius.
        BoundViolation: more samples left their intervals than the failure probability explains, or a metric passes its
            bound; the samples are named.

    Example:
        >>> import torch
        >>> from certcal_ext import Certificates
        >>> from certcal_ext.attacks import BrierAttack
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> images, labels = torch.full((2, 1, 2, 2), 0.5), [0, 1]
        >>> result = BrierAttack(radius=0.1).run(model, images, labels)
        >>> vacuous = Certificates.from_intervals(result.correct, [0, 0], [1, 1], radius=0.1)
        >>> compare_with_bound(vacuous, [result]).rows[0].certified
        2
    """
    alarm = _check.failure_probability("false_alarm", false_alarm)
    given = list(results)
    if not given:
        raise ValueError("results: expected at least one, got none")
    for result in given:
        _check_fits(certificates, result)
    by_radius: dict[float, list[AttackResult]] = {}
    for result in sorted(given, key=lambda result: result.radius):
        by_radius.setdefault(result.radius, []).append(result)
    sets = {radius: certificates.at(radius) for radius in by_radius}
    looks = sum(2 * len(by_radius[radius]) * len(sets[radius].index) for radius in by_radius)
    beta = alarm / 2 / max(1, looks)

    rows, outside = [], []
    for radius, attacks in by_radius.items():
        row, left = _one_radius(
            certificates, sets[radius], attacks, beta, tolerance, (bins, edges, closed)
        )
        rows.append(row)
        outside += left
    made = certificates.provenance
    alpha = (made.alpha or 0.0) * row_factor(made, everyone=False)
    allowed = int(binom.ppf(1 - alarm / 2, len(certificates), alpha)) if alpha > 0 else 0
    samples = sorted({one.index for one in outside})
    if len(samples) > allowed:
        raise BoundViolation(
            f"{len(samples)} of {len(certificates)} samples left their certified intervals, where at most {allowed} are "
            f"explained by alpha = {alpha:g}: {_named(outside)}"
        )
    for row in rows:
        if row.attack_ece > row.bound_ece or row.attack_brier > row.bound_brier:
            here = [one for one in outside if one.radius == row.radius]
            raise BoundViolation(
                f"at radius {row.radius:g} an attack passes the bound (ECE {row.attack_ece:.6g} of {row.bound_ece:.6g}, "
                f"Brier "
                f"{row.attack_brier:.6g} of {row.bound_brier:.6g}): {_named(here)}"
            )
    return BoundReport(tuple(rows), tuple(outside), allowed, looks)


def mean_interval(mean: Any, draws: int, beta: float) -> tuple[Floats, Floats]:
    """(N,) ends of an interval for the mean of variables in [0, 1], two-sided.

    Theorem (Hoeffding, JASA 1963, theorem 1): for the mean of m independent variables in [0, 1] with expectation q,
    P(mean >= a) <= exp(-m KL(a, q)) for a >= q, and likewise below. So KL(mean, q) <= log(2/beta)/m but with probability
    at most beta. The ends are found by bisection and lie outside the true ones.

    Args:
        mean: (N,) means of ``draws`` variables.
        draws: m.
        beta: failure probability, both sides together.

    Example:
        >>> lower, upper = mean_interval([0.5, 1.0], 1000, 1e-6)
        >>> lower.round(3), upper.round(3)
        (array([0.415, 0.986]), array([0.585, 1.   ]))
    """
    # A little more than log(2/beta)/m covers the rounding of the divergence.
    level = np.log(2 / beta) / draws * (1 + 1e-9) + 1e-12
    points = np.asarray(mean, dtype=np.float64)

    def far(q: Floats) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore"):
            divergence = (
                xlogy(points, points)
                - xlogy(points, q)
                + xlogy(1 - points, 1 - points)
                - xlogy(1 - points, 1 - q)
            )
        result: NDArray[np.bool_] = divergence > level
        return result

    ends = []
    for extreme in (np.zeros_like(points), np.ones_like(points)):
        outer, inner = extreme, points
        for _ in range(60):
            middle = (outer + inner) / 2
            away = far(middle)
            outer, inner = np.where(away, middle, outer), np.where(away, inner, middle)
        ends.append(outer)
    return ends[0], ends[1]


def _one_radius(
    certificates: Certificates,
    chosen: CertifiedSet,
    attacks: Sequence[AttackResult],
    beta: float,
    tolerance: float,
    bins: tuple[int, Any, str],
) -> tuple[BoundRow, list[Outside]]:
    """The row of a radius and the samples outside their intervals."""
    outside: list[Outside] = []
    stored = certificates.provenance.recalibration
    mapping = IdentityMap() if stored is None else RecalibrationMap.from_json(stored)
    best: dict[str, tuple[float, str]] = {"ece": (-1.0, ""), "brier": (-1.0, "")}
    clean = {"ece": np.nan, "brier": np.nan}
    if not len(chosen.index):
        empty = BoundRow(chosen.radius, 0, *(np.nan, np.nan, _CLEAN, np.nan) * 2)
        return empty, outside
    for attack in attacks:
        here = attack.rows(chosen.index)
        _check_same(chosen, here)
        for name, confidence in (
            (_CLEAN, here.clean_confidence),
            (here.attack, here.attacked_confidence),
        ):
            points, left = _consistent(chosen, here, name, confidence, beta, tolerance, mapping)
            outside += left
            values = {"ece": ece(here.correct, points, *bins), "brier": brier(here.correct, points)}
            for metric, value in values.items():
                if name == _CLEAN:
                    clean[metric] = np.fmax(clean[metric], value)
                if value > best[metric][0]:
                    best[metric] = (value, name)
    curve = certificates.curve([chosen.radius], *bins)
    row = BoundRow(
        radius=chosen.radius,
        certified=len(chosen.index),
        clean_ece=float(clean["ece"]),
        attack_ece=best["ece"][0],
        ece_attack=best["ece"][1],
        bound_ece=float(curve.certified_ece[0]),
        clean_brier=float(clean["brier"]),
        attack_brier=best["brier"][0],
        brier_attack=best["brier"][1],
        bound_brier=float(curve.certified_brier[0]),
    )
    return row, outside


def _consistent(
    chosen: CertifiedSet,
    result: AttackResult,
    name: str,
    confidence: Floats,
    beta: float,
    tolerance: float,
    mapping: RecalibrationMap,
) -> tuple[Floats, list[Outside]]:
    """Estimates moved to the nearest end where their error explains the distance, and those it does not explain."""
    if result.settings["victim"] == "smoothed":
        low, high = mean_interval(confidence, result.draws, beta)
    else:
        low, high = (np.clip(confidence + way * tolerance, 0, 1) for way in (-1, 1))
    confidence = mapping(confidence)
    low, high = mapping.image(low, high)
    above, below = low > chosen.upper, high < chosen.lower
    left = [
        Outside(
            index=int(chosen.index[row]),
            radius=chosen.radius,
            attack=name,
            confidence=float(confidence[row]),
            nearest=float(low[row] if above[row] else high[row]),
            lower=float(chosen.lower[row]),
            upper=float(chosen.upper[row]),
        )
        for row in np.flatnonzero(above | below)
    ]
    near = np.clip(confidence, chosen.lower, chosen.upper)
    return np.where(above | below, confidence, near), left


def _check_fits(certificates: Certificates, result: Any) -> None:
    """What must hold between certificates and an attack before numbers can be compared."""
    if not isinstance(result, AttackResult):
        raise TypeError(f"results: expected AttackResult, got {type(result).__name__}")
    made = certificates.provenance
    if result.norm != made.norm:
        raise ValueError(
            f"results: expected the norm of the certificates, {made.norm}, got {result.norm}"
        )
    settings = result.settings
    wanted = _CONFIDENCE.get(made.kind)
    if wanted is not None:
        if settings["victim"] != "smoothed" or np.float32(settings["sigma"]) != np.float32(
            made.sigma
        ):
            raise ValueError(
                f"results: expected an attack on the smoothed classifier with sigma = {made.sigma}, got "
                f"{settings['victim']}, sigma = {settings.get('sigma')}"
            )
        if settings["confidence"] != wanted:
            raise ValueError(
                f"results: expected the confidence of the certificates, {wanted}, got {settings['confidence']}"
            )
        certified = (made.n0 or 0) + (made.n or 0)
        if made.seed == settings["seed"] and settings["first_draw"] < certified:
            raise ValueError(
                f"results: expected other draws than the {certified} of certification, got draws from "
                f"{settings['first_draw']} with the same seed"
            )
    if not result.fresh:
        raise ValueError(
            "results: expected confidences under noises that the attack did not see; take "
            "result.under(victim.with_draws(...))"
        )
    longest = (result.l2 if result.norm == "l2" else result.linf).max(initial=0.0)
    if longest > result.radius:
        raise ValueError(
            f"results: expected perturbations of at most {result.radius}, got {longest} for sample "
            f"{result.index[int(np.argmax(result.l2 if result.norm == 'l2' else result.linf))]}"
        )


def _check_same(chosen: CertifiedSet, result: AttackResult) -> None:
    """The attack is on the class that was certified, with the same labels."""
    for name, certified, attacked in (
        ("predicted", chosen.predicted, result.predicted),
        ("correct", chosen.correct, result.correct),
    ):
        if certified is None:
            continue
        differs = np.asarray(certified) != attacked
        if differs.any():
            row = int(np.argmax(differs))
            raise ValueError(
                f"results: expected {name} = {certified[row]} for sample {chosen.index[row]}, as certified, "
                f"got {attacked[row]}"
            )


def _named(outside: Sequence[Outside]) -> str:
    """The first three in words and how many more there are."""
    more = f"; and {len(outside) - 3} more" if len(outside) > 3 else ""
    return "; ".join(map(str, outside[:3])) + more
