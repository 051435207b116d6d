# SPDX-License-Identifier: MIT
"""Bound against attack: what attacks reach and what the certificates allow, by radius.

Theorem. Let the draws of the N rows be independent given those that planned them, let a row's whole statement (its
interval at every radius) fail with probability at most alpha, and let each estimate be the mean of m draws in
[0, 1] that are independent of the certificates and of the image it is made on. Then sound certificates raise
``BoundViolation`` with probability at most false_alarm. *Proof.*

1. The true confidence q satisfies KL(mean, q) <= log(2/beta)/m but with probability beta (Hoeffding 1963, theorem
   1). With beta = false_alarm / (2 looks) all estimates hold at once but with probability false_alarm / 2.
2. The number of rows that fail is stochastically at most Binomial(N, alpha), so it is at most its
   1 - false_alarm/2 quantile k but with probability false_alarm / 2. N counts every row, as the certified ones are
   chosen by the same draws.
3. Where both hold, a sample whose estimate is outside its interval by more than its error failed: at most k are.
4. The samples inside have a confidence in their intervals, once it is moved to the nearest end where its error
   explains the distance. So a metric is at most its certified bound if no sample is outside, and at most the bound
   that k failing rows allow (theorem 6 of docs/theory.md) if at most k are: this adds no false alarm. QED

The intervals of a verifier whose failure probability is not known may not fail. A plain victim's confidence is
computed, so that step 1 costs nothing. Confidences go through the map of recalibrated certificates, which is
monotone, with the ends of their intervals rounded outward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from certcal_ext import _check
from certcal_ext._claims import written
from certcal_ext.attacks.bound_report import BoundReport, BoundRow, BoundViolation, Outside
from certcal_ext.attacks.result import AttackResult
from certcal_ext.certificates.table import numbers
from certcal_ext.certificates.validity import failing_intervals
from certcal_ext.metrics.brier import brier
from certcal_ext.metrics.ece import ece
from certcal_ext.recalibration.maps import IdentityMap, RecalibrationMap
from certcal_ext.stopping.rules import Stopping

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates, CertifiedSet

Floats = NDArray[np.float64]

#: The confidence that a kind of certificate is about; intervals of another verifier say nothing of it.
_CONFIDENCE = {"votes": "votes", "log": "votes", "scores": "scores"}

_CLEAN = "no attack"

#: Plain metrics are rounded to nearest where their bounds are rounded up.
_ROUNDING = 2.0**-40


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

    Sound certificates raise ``BoundViolation`` with probability at most ``false_alarm`` (theorem at the top of this file).

    The statement is about one comparison of all ``results``. Whoever makes several and shows one, or chooses results by
    their fresh noises, has made more looks than are counted.

    Args:
        certificates: with labels; all samples that they certify at a radius must have been attacked there.
        results: of attacks at one or more radii, in the norm of the certificates, on the class that they certify
            (``predicted=``), with confidences under fresh noises (``AttackResult.under``).
        bins: number of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) from 0 to 1.
        closed: which end of a bin belongs to it.
        false_alarm: probability that sound certificates are called violated.
        tolerance: error of a confidence, or of a mean score of draws, as it is computed.

    Returns:
        ``BoundReport``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no results, or results of another norm, confidence, class or label, without fresh noises, or longer than
            their radius.
        BoundViolation: more samples left their intervals than the failure probability explains, or a metric passes the
            bound that so many failures allow; the samples are named.

    Example:
        >>> import torch
        >>> from certcal_ext import Certificates
        >>> from certcal_ext.attacks import BrierAttack
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> images, labels = torch.full((2, 1, 2, 2), 0.5), [0, 1]
        >>> result = BrierAttack(radius=0.1).run(model, images, labels)
        >>> vacuous = Certificates.from_intervals(result.correct, [0, 0], [1, 1], 0.1, norm="l2")
        >>> compare_with_bound(vacuous, [result]).rows[0].certified
        2
    """
    alarm = _check.failure_probability("false_alarm", false_alarm)
    _check.like("certificates", certificates, "Certificates", "provenance", "at")
    given = [
        _check.instance("results", each, AttackResult) for each in _check.items("results", results)
    ]
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

    known = certificates.provenance.alpha is not None
    judge = _Judge(
        certificates, alarm / 2 if known else None, beta, tolerance, (bins, edges, closed)
    )
    judged = [judge.radius(sets[radius], attacks) for radius, attacks in by_radius.items()]
    outside = tuple(one for _, left in judged for one in left)
    _require_sound(certificates, judged, outside, judge.allowed)
    return BoundReport(tuple(row for row, _ in judged), outside, judge.allowed, looks, alarm)


def _require_sound(
    certificates: Certificates,
    judged: Sequence[tuple[BoundRow, Sequence[Outside]]],
    outside: Sequence[Outside],
    allowed: int,
) -> None:
    """Raises ``BoundViolation`` where the certificates do not explain what the attacks reached."""
    samples = {one.index for one in outside}
    if len(samples) > allowed:
        raise BoundViolation(
            f"{len(samples)} of {len(certificates)} samples left their certified intervals, where at most {allowed} "
            f"are explained by alpha = {written(certificates.provenance.alpha or 0.0)}: {_named(outside)}"
        )
    for row, left in judged:
        for metric in ("ece", "brier"):
            attack = getattr(row, f"attack_{metric}")
            bound = getattr(row, f"{'joint' if left else 'bound'}_{metric}")
            if attack > bound * (1 + _ROUNDING):
                why = _named(left) if left else "although every confidence is inside its interval"
                raise BoundViolation(
                    f"at radius {written(row.radius)} an attack passes the bound "
                    f"({metric} {written(attack)} of {written(bound)})"
                    f"{': ' if left else ', '}{why}"
                )


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


class _Judge:
    """Attacks at one radius after another.

    Args:
        certificates: those of the samples.
        risk: probability with which more of their rows may fail than are allowed; None where none may.
        beta: failure probability of one estimate.
        tolerance: error of a confidence as it is computed.
        bins: bins, edges and closed of the calibration error.
    """

    def __init__(
        self,
        certificates: Certificates,
        risk: float | None,
        beta: float,
        tolerance: float,
        bins: tuple[int, Any, str],
    ) -> None:
        self._certificates, self._risk = certificates, risk
        self._beta, self._tolerance, self._bins = beta, tolerance, bins
        stored = certificates.provenance.recalibration
        self._map = IdentityMap() if stored is None else RecalibrationMap.from_json(stored)
        self.allowed = (
            0
            if risk is None
            else failing_intervals(
                len(certificates), certificates.source("certified", np.empty(0)).row_alpha, risk
            )
        )

    def _bound(self, metric: str, radius: float) -> tuple[float, float]:
        """Where every interval holds, and where as many fail as may."""
        bins, edges, closed = self._bins
        curve = self._certificates.bound(
            metric,
            radius,
            delta=self._risk,
            joint="binomial",
            bins=bins,
            edges=edges,
            closed=closed,
        )
        worst = float(curve.worst[0])
        return worst, worst if curve.joint is None else float(curve.joint[0])

    def radius(
        self, chosen: CertifiedSet, attacks: Sequence[AttackResult]
    ) -> tuple[BoundRow, list[Outside]]:
        """The row of a radius and the samples outside their intervals."""
        outside: list[Outside] = []
        if not len(chosen.index):
            nothing = (np.nan, np.nan, _CLEAN, np.nan, np.nan)
            return BoundRow(chosen.radius, 0, *nothing, *nothing), outside
        best: dict[str, tuple[float, str]] = {"ece": (-1.0, ""), "brier": (-1.0, "")}
        clean = {"ece": np.nan, "brier": np.nan}
        for attack in attacks:
            here = attack.rows(chosen.index)
            _check_same(chosen, here)
            for name, confidence in (
                (_CLEAN, here.clean_confidence),
                (here.attack, here.attacked_confidence),
            ):
                points, left = self._consistent(chosen, here, name, confidence)
                outside += left
                values = {
                    "ece": ece(here.correct, points, *self._bins),
                    "brier": brier(here.correct, points),
                }
                for metric, value in values.items():
                    if name == _CLEAN:
                        clean[metric] = np.fmax(clean[metric], value)
                    if value > best[metric][0]:
                        best[metric] = (value, name)
        columns = [
            (float(clean[metric]), *best[metric], *self._bound(metric, chosen.radius))
            for metric in ("ece", "brier")
        ]
        return BoundRow(chosen.radius, len(chosen.index), *columns[0], *columns[1]), outside

    def _consistent(
        self, chosen: CertifiedSet, result: AttackResult, name: str, confidence: Floats
    ) -> tuple[Floats, list[Outside]]:
        """Estimates moved to the nearest end where their error explains the distance, and those it does not explain."""
        low = high = confidence
        if result.settings["victim"] == "smoothed":
            low, high = mean_interval(confidence, result.draws, self._beta)
        if (
            result.settings["confidence"] == "scores"
        ):  # a share of votes is a ratio of whole numbers
            low, high = (
                np.clip(end + way * self._tolerance, 0, 1) for end, way in ((low, -1), (high, 1))
            )
        confidence = self._map(confidence)
        low, high = self._map.image(low, high)
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
            f"results: expected the norm of the certificates, {made.norm or 'which they do not name'}, got {result.norm}"
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
        certified = draws_taken(certificates)
        if made.seed == settings["seed"] and settings["first_draw"] < certified:
            raise ValueError(
                f"results: expected other draws than the {certified} of certification, got draws from "
                f"{settings['first_draw']} with the same seed"
            )
    if not result.fresh:
        raise ValueError(
            "results: expected confidences under noises that the attack did not see, below draw 2^31; take "
            "result.under(victim.with_draws(...))"
        )
    longest = (result.l2 if result.norm == "l2" else result.linf).max(initial=0.0)
    if longest > result.radius:
        raise ValueError(
            f"results: expected perturbations of at most {result.radius}, got {longest} for sample "
            f"{result.index[int(np.argmax(result.l2 if result.norm == 'l2' else result.linf))]}"
        )


def draws_taken(certificates: Certificates) -> int:
    """How many draws, from the first one on, some row of the certificates has used: to select, to plan, to estimate.

    Args:
        certificates: of any kind.

    Returns:
        The largest number over the rows; that of a plain run is n0 + n.

    Example:
        >>> from certcal_ext import Certificates
        >>> draws_taken(Certificates.from_votes([90], 100, [0], [0], 0.25).with_provenance(n0=10))
        110
    """
    table, made = certificates.table, certificates.provenance
    each = numbers(table, "n")
    used = np.array([made.n or 0]) if each is None else each.astype(np.int64)
    if made.stopping is not None:
        # Files from before the column: nobody knows, so as many as the rules allow.
        most = Stopping.from_json(made.stopping).planning_steps[-1]
        used = used + table.column("planning_draws").fill_null(most).to_numpy()
    return (made.n0 or 0) + int(used.max())


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
