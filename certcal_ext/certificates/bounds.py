# SPDX-License-Identifier: MIT
"""Any metric over radii, with a scope and, where asked for, valid for the whole data set or the population at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.data_set import aggregate_values
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.samples import SampleSource
from certcal_ext.certificates.statements import Subject, sentence
from certcal_ext.certificates.validity import failing_intervals
from certcal_ext.intervals.population import population_share
from certcal_ext.metrics.base import Metric, Options, Samples

JOINT_METHODS = ("best", "binomial", "union", "aggregate")


@dataclass(frozen=True)
class Validity:
    """What a bound is to hold for, beside the given intervals.

    Attributes:
        delta: failure probability of each bound below; None: there is none.
        joint: how it holds for all draws together, of ``JOINT_METHODS``.
        population: whether it is also to hold for the population.
    """

    delta: float | None = None
    joint: str = "best"
    population: bool = False

    @classmethod
    def of(cls, delta: Any, joint: Any, population: Any) -> Validity:
        """The options, checked.

        Raises:
            TypeError: an option of the wrong kind.
            ValueError: an option out of range, or options that do not go together.
        """
        _check.choice("joint", joint, JOINT_METHODS)
        risk = None if delta is None else _check.failure_probability("delta", delta)
        if _check.flag("population", population) and risk is None:
            raise ValueError(
                "population: expected delta with it, the probability that the bound fails"
            )
        if joint == "aggregate" and risk is None:
            raise ValueError(
                'delta: expected a number with joint="aggregate", the probability that the bounds fail'
            )
        return cls(risk, joint, bool(population))

    def require(self, metric: Metric, options: Options, made: Provenance) -> None:
        """Raises unless the metric has such bounds for these certificates.

        Raises:
            ValueError: a bound for the population where there is none.
        """
        if not self.population:
            return
        reason = metric.no_population(options)
        if reason is None and made.stopping is not None:
            reason = (
                "population: expected False, as these samples stopped early: the plan of their draws was made of all of "
                "them, so that their terms are no independent draws of a population"
            )
        if reason is not None:
            raise ValueError(reason)


@dataclass(frozen=True, eq=False)
class MetricCurve:
    """One metric over radii. Arrays are (R,), read-only; nan where there is no sample.

    Attributes:
        metric: its name.
        scope: "certified": over the samples certified at the radius; "all": over every sample, the others at their worst.
        radius: l2 radii, in pixel units.
        samples: int64, how many samples the average is over.
        plain: of the point estimates of the certified samples, without attack; nan where there are none.
        worst: the exact worst case over confidences inside the intervals, given that all of these hold; of a metric that an
            attack lowers (``metrics.base.Metric.lowest``) the smallest value, and all bounds are from below.
        joint: holds with probability at least 1 - delta over all draws of the data set at once, those of "aggregate" at all
            radii together; None without ``delta``.
        population: holds with probability at least 1 - delta for the expectation over the population that the test set is
            drawn from (and over the draws); None where not asked for.
        delta: failure probability of ``joint`` and of ``population``, each.
        failures: how many intervals may fail in the binomial bound of ``joint``; None where it was not used.
        method: (R,) "binomial", "union" or "aggregate", which gave ``joint``; None without ``delta``.
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

    @property
    def value(self) -> NDArray[np.float64]:
        """(R,) the bound that was asked for: ``joint`` where there is one, else ``worst``."""
        return self.worst if self.joint is None else self.joint

    def statement(self, at: int = -1) -> str:
        """The sentence that may be quoted for radius number ``at``.

        Args:
            at: position in ``radius``.

        Returns:
            One or two sentences.
        """
        return sentence(self, _check.position("at", at, self.radius.size))


@dataclass(frozen=True, eq=False)
class _Joint:
    """The ways in which a bound is made to hold for all draws together.

    Attributes:
        failures: how many intervals may fail, or None where that is not used.
        union: the samples with intervals that all hold at once, or None.
    """

    failures: int | None
    union: SampleSource | None

    @classmethod
    def of(cls, source: SampleSource, validity: Validity) -> _Joint:
        """What the draws allow.

        Raises:
            ValueError: it is not known how often intervals fail, or they cannot be made surer.
        """
        if validity.delta is None or validity.joint == "aggregate":
            return cls(None, None)
        alpha, delta, how = source.row_alpha, validity.delta, validity.joint
        risk = delta / 2 if how == "best" else delta
        union = None if how == "binomial" else source.surer(risk / source.total)
        if union is None and how == "union":
            raise ValueError(
                'joint: expected "binomial", as these certificates do not hold the draws that "union" needs, or '
                "delta / N is too small for an interval"
            )
        if union is None:  # nothing to share delta with
            risk = delta
        failures = None if how == "union" else failing_intervals(source.total, alpha, risk)
        return cls(failures, union)

    def bounds(
        self, source: SampleSource, metric: Metric, options: Options, radius: float
    ) -> tuple[Samples, dict[str, float]]:
        """The samples at a radius; by name "worst" and the joint bounds of a metric over them, nan without samples."""
        samples, inside = source.at(radius)
        if not len(samples):
            ways = {"binomial": self.failures, "union": self.union}
            return samples, {"worst": np.nan} | {
                way: np.nan for way, used in ways.items() if used is not None
            }
        worst = metric.worst(samples, options)
        found = {}
        if self.failures is not None:
            found["binomial"] = metric.failed(samples, options, self.failures)
        if self.union is not None:
            found["union"] = metric.worst(self.union.at(radius, inside)[0], options)
        # Rounded another way, a bound that says less could come out a bit on the other side.
        return samples, {"worst": worst} | {
            way: metric.looser(worst, value) for way, value in found.items()
        }


def metric_curve(
    source: SampleSource,
    metric: Metric,
    radii: NDArray[np.float64],
    options: Options,
    validity: Validity,
) -> MetricCurve:
    """The curve; ``Certificates.bound`` documents it and checks the arguments."""
    ways = _Joint.of(source, validity)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("samples", "plain", "worst", "joint", "method", "population")
    }
    if validity.joint == "aggregate" and validity.delta is not None:
        columns["joint"] = aggregate_values(source, metric, radii, options, validity.delta)
        columns["method"] = ["aggregate"] * radii.size
    for radius in radii:
        samples, bounds = ways.bounds(source, metric, options, float(radius))
        columns["samples"].append(len(samples))
        columns["plain"].append(metric.plain(samples, options))
        columns["worst"].append(bounds.pop("worst"))
        if bounds:
            best = metric.tightest(bounds)
            columns["joint"].append(bounds[best])
            columns["method"].append(best)
        if validity.population:
            columns["population"].append(
                _population(source, metric, samples, options, validity.delta or 0.0)
            )
    kinds: dict[str, Any] = {"samples": np.int64, "method": np.str_}
    arrays = {
        name: read_only(np.array(values, kinds.get(name, np.float64)))
        for name, values in columns.items()
    }
    for name, made in (
        ("joint", validity.delta),
        ("method", validity.delta),
        ("population", validity.population or None),
    ):
        if made is None:
            del arrays[name]
    return MetricCurve(
        metric=metric.name,
        scope=source.scope,
        radius=read_only(radii.copy()),
        delta=validity.delta,
        failures=ways.failures,
        subject=Subject(source.provenance, source.total, options, source.among is not None),
        **arrays,
    )


def _population(
    source: SampleSource, metric: Metric, samples: Samples, options: Options, delta: float
) -> float:
    """A bound on the expectation over the population, at 1 - delta.

    In scope "certified" the samples are independent draws of the population given that it is certified, and given that, a
    row fails with probability at most alpha / P(certified), where the latter is bounded from below by its share.
    """
    if not len(samples):
        return np.nan
    alpha, risk = source.row_alpha, delta
    if source.scope == "certified":
        risk = delta / 2
        certified = population_share(len(samples), source.total, delta / 2)
        alpha = min(1.0, alpha / max(certified, 1e-300))
    return metric.population(samples, options, risk, alpha)


def read_only(values: NDArray[Any]) -> NDArray[Any]:
    """The same array, which can no longer be written to."""
    values.flags.writeable = False
    return values
