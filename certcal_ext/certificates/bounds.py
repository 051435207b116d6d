# SPDX-License-Identifier: MIT
"""Any metric over radii, with a scope and, where asked for, valid for the whole data set or the population at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.statements import Subject, sentence
from certcal_ext.certificates.validity import failing_intervals, population_mean, population_share
from certcal_ext.certificates.worst_cases import Choices, Metric, Samples, accepted

SCOPES = ("certified", "all")
JOINT_METHODS = ("best", "binomial", "union")


@dataclass(frozen=True, eq=False)
class RowBounds:
    """Every sample under attacks of one radius.

    Attributes:
        radius: l2 radius, in pixel units.
        certified: (N,) bool, whether the prediction is certified.
        lower: (N,) lower ends of the confidence in the row's class under attack, for uncertified samples too.
        upper: (N,) upper ends.
        gap: (N,) the largest possible abs(correctness - confidence), whatever class an attack makes of the sample; None
            without labels.
    """

    radius: float
    certified: NDArray[np.bool_]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    gap: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class MetricCurve:
    """One metric over radii. Arrays are (R,), read-only; nan where there is no sample.

    Attributes:
        metric: its name.
        scope: "certified": over the samples certified at the radius; "all": over every sample, the others at their worst.
        radius: l2 radii, in pixel units.
        samples: int64, how many samples the average is over.
        plain: of the point estimates of the certified samples, without attack; nan where there are none.
        worst: the exact worst case over confidences inside the intervals, given that all of these hold.
        joint: holds with probability at least 1 - delta over all draws of the data set at once; None without ``delta``.
        population: holds with probability at least 1 - delta for the expectation over the population that the test set is
            drawn from (and over the draws); None where not asked for.
        delta: failure probability of ``joint`` and of ``population``, each.
        failures: how many intervals may fail in the binomial bound of ``joint``; None where it was not used.
        method: (R,) "binomial" or "union", which gave ``joint``; None without ``delta``.
        subject: what its sentences are about; None: not known.
    """

    metric: str
    scope: str
    radius: NDArray[np.float64]
    samples: NDArray[np.int64]
    plain: NDArray[np.float64]
    worst: NDArray[np.float64]
    joint: NDArray[np.float64] | None = None
    population: NDArray[np.float64] | None = None
    delta: float | None = None
    failures: int | None = None
    method: NDArray[np.str_] | None = None
    subject: Subject | None = None

    def __len__(self) -> int:
        """Number of radii."""
        return int(self.radius.size)

    def statement(self, at: int = -1) -> str:
        """The sentence that may be quoted for radius number ``at``.

        Args:
            at: position in ``radius``.

        Returns:
            One or two sentences.
        """
        return sentence(self, _check.position("at", at, self.radius.size))


@dataclass(frozen=True, eq=False)
class Source:
    """What the certificates tell this module; see ``Certificates.bound``.

    Attributes:
        rows: bounds of every row at a radius, as the certificates stand.
        rows_at_level: the same where a row's whole statement, the intervals of uncertified rows among it, fails with at most
            a probability; None where the draws are not there.
        correct: (N,) uint8.
        confidence: (N,) point estimates, nan where there is none; None where there are none at all.
        alpha: failure probability of a row's interval; None for another verifier's intervals.
        factor: by which what ``rows`` says of the scope's samples may fail more often (see ``evidence.row_factor``).
        provenance: of the certificates, for the curve's sentences.
    """

    rows: Callable[[float], RowBounds]
    rows_at_level: Callable[[float], Callable[[float], RowBounds] | None]
    correct: NDArray[np.uint8]
    confidence: NDArray[np.float64] | None
    alpha: float | None
    factor: float
    provenance: Provenance | None = None

    @property
    def row_alpha(self) -> float:
        """The failure probability of a row's whole statement.

        Raises:
            ValueError: it is not known.
        """
        if self.alpha is None:
            raise ValueError(
                "delta: expected None, as it is not known how often these intervals fail (another verifier's)"
            )
        return min(1.0, self.alpha * self.factor)

    def restricted(self, inside: dict[float, NDArray[np.bool_]]) -> Source:
        """The same with fewer samples certified: by radius, the (N,) that may count."""

        def rows(radius: float) -> RowBounds:
            known = self.rows(radius)
            return dataclasses.replace(known, certified=known.certified & inside[radius])

        return dataclasses.replace(self, rows=rows)


def metric_curve(
    source: Source,
    metric: Metric,
    radii: NDArray[np.float64],
    choices: Choices,
    scope: str,
    delta: float | None,
    joint: str,
    population: bool,
) -> MetricCurve:
    """The curve; arguments are checked by ``Certificates.bound``, which documents them."""
    total = source.correct.size
    failures = None
    union = None
    risk = 0.0
    if delta is not None:
        alpha = source.row_alpha
        risk = delta / 2 if joint == "best" else delta
        if joint != "union":
            failures = failing_intervals(total, alpha, risk)
        if joint != "binomial":
            union = source.rows_at_level(risk / total)
        if union is None and joint == "union":
            raise ValueError(
                'joint: expected "binomial", as these certificates do not hold the draws that "union" needs, or '
                "delta / N is too small for an interval"
            )
        if union is None and joint == "best":  # nothing to share delta with
            risk, failures = delta, failing_intervals(total, alpha, delta)
    names = ("samples", "plain", "worst", "joint", "method", "population")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for radius in radii:
        rows = source.rows(float(radius))
        samples = _samples(source, rows, rows.certified, scope)
        columns["samples"].append(len(samples))
        empty = not len(samples)
        columns["plain"].append(np.nan if empty else metric.plain(samples, choices))
        columns["worst"].append(np.nan if empty else metric.worst(samples, choices))
        if delta is None:
            continue
        options = {}
        least = columns["worst"][
            -1
        ]  # rounded another way, a bound of more could end up a bit below
        if failures is not None:
            failed = np.nan if empty else metric.failed(samples, choices, failures)
            options["binomial"] = max(least, failed)
        if union is not None:
            surer = union(float(radius))
            again = _samples(source, surer, rows.certified, scope)
            options["union"] = np.nan if empty else max(least, metric.worst(again, choices))
        best = min(options, key=lambda name: (not np.isfinite(options[name]), options[name]))
        columns["joint"].append(options[best])
        columns["method"].append(best)
        if population:
            columns["population"].append(
                np.nan
                if empty
                else _population(source, metric, samples, choices, delta, total, scope)
            )
    return MetricCurve(
        metric=metric.name,
        scope=scope,
        radius=read_only(radii.copy()),
        samples=read_only(np.array(columns["samples"], np.int64)),
        plain=read_only(np.array(columns["plain"], np.float64)),
        worst=read_only(np.array(columns["worst"], np.float64)),
        joint=None if delta is None else read_only(np.array(columns["joint"], np.float64)),
        population=read_only(np.array(columns["population"], np.float64)) if population else None,
        delta=delta,
        failures=failures,
        method=None if delta is None else read_only(np.array(columns["method"], np.str_)),
        subject=Subject(source.provenance, total, choices),
    )


def _samples(source: Source, rows: RowBounds, inside: NDArray[np.bool_], scope: str) -> Samples:
    """Certified and other samples of a scope. Rows ``inside`` it that ``rows`` does not certify count as others."""
    keep = rows.certified & inside
    rest = ~keep if scope == "all" else inside & ~keep
    gap = rows.gap
    assert gap is not None  # labels were asked for before
    confidence = None if source.confidence is None else source.confidence[keep]
    if confidence is not None and np.isnan(confidence).any():
        confidence = None
    return Samples(
        correct=source.correct[keep],
        lower=rows.lower[keep],
        upper=rows.upper[keep],
        confidence=confidence,
        gap=gap[rest],
    )


def _population(
    source: Source,
    metric: Metric,
    samples: Samples,
    choices: Choices,
    delta: float,
    total: int,
    scope: str,
) -> float:
    """A bound on the expectation over the population, at 1 - delta.

    In scope "certified" the samples are independent draws of the population given that it is certified, and given that, a
    row fails with probability at most alpha / P(certified), where the latter is bounded from below by its share.
    """
    alpha = source.row_alpha
    risk = delta
    if scope == "certified":
        risk = delta / 2
        alpha = min(1.0, alpha / max(population_share(len(samples), total, delta / 2), 1e-300))
    if metric.name == "selective_risk":
        stay, wrong = accepted(samples, choices)
        n = len(samples)
        most_wrong = 1.0 - population_share(n - wrong, n, risk / 2) + alpha
        least_right = max(population_share(stay, n, risk / 2) - alpha, 0.0)
        return min(1.0, most_wrong / (most_wrong + least_right) * (1.0 + 1e-12))
    assert metric.terms is not None
    terms, most = metric.terms(samples, choices)
    return min(most, (population_mean(terms, risk, most) + alpha * most) * (1.0 + 1e-12))


def largest_gap(
    correct: NDArray[np.uint8],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    image: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    top: bool,
) -> NDArray[np.float64]:
    """(N,) the largest abs(correctness - confidence) that an attack can reach, whatever class it makes the prediction.

    Let A be the row's class, with confidence z in [lower, upper]. While the prediction is A the gap is 1 - z (right) or z
    (wrong). Another class B has at most 1 - z, and if A is right then B is wrong, with a gap of at most 1 - z. If A is
    wrong, B may be right, with a confidence of at least z where the prediction is the class of highest confidence, and of
    at least 0 where it is not.

    Args:
        correct: (N,) whether A is right.
        lower: (N,) lower ends of z.
        upper: (N,) upper ends of z.
        image: outward images, (rounded down, rounded up), of confidences under the recalibration map.
        top: whether the prediction is the class of highest confidence (votes), or is chosen otherwise (scores).

    Returns:
        The gaps, rounded up.
    """
    other = image(np.minimum(np.nextafter(1.0 - lower, 2.0), 1.0))[1]  # of another class, at most
    stays_right = np.nextafter(1.0 - image(lower)[0], 2.0)
    turns_right = stays_right if top else np.ones_like(lower)
    wrong = np.maximum(image(upper)[1], turns_right)
    return np.minimum(np.maximum(np.where(correct != 0, stays_right, wrong), other), 1.0)


def check_validity(
    metric: Metric, choices: Choices, scope: Any, delta: Any, joint: Any, population: Any
) -> float | None:
    """Checks how a bound is to hold; returns delta as a float.

    Raises:
        TypeError: an option of the wrong kind.
        ValueError: an option out of range, or options that do not go together.
    """
    _check.choice("scope", scope, SCOPES)
    _check.choice("joint", joint, JOINT_METHODS)
    risk = None if delta is None else _check.failure_probability("delta", delta)
    if _check.flag("population", population):
        if risk is None:
            raise ValueError(
                "population: expected delta with it, the probability that the bound fails"
            )
        if metric.terms is None and metric.name != "selective_risk":
            raise ValueError(
                f"population: expected brier, log_loss or selective_risk, which are means over samples, got {metric.name}"
            )
        if metric.name == "log_loss" and choices.clip is None:
            raise ValueError(
                "clip: expected a number for the population's log loss, which is unbounded without"
            )
    return risk


def read_only(values: NDArray[Any]) -> NDArray[Any]:
    """The same array, which can no longer be written to."""
    values.flags.writeable = False
    return values
