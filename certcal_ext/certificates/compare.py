# SPDX-License-Identifier: MIT
"""Several models side by side, on samples that make the comparison fair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.bounds import MetricCurve, Validity, metric_curve, read_only
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.metrics.accuracy import METRIC as ACCURACY
from certcal_ext.metrics.base import MetricOptions, Options
from certcal_ext.metrics.registry import metric_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

COMPARISONS = ("intersection", "all", "certified")


@dataclass(frozen=True, eq=False)
class Comparison:
    """One metric of several models over radii.

    Attributes:
        metric: its name.
        samples: "intersection": the samples that every model certifies at the radius; "all": every sample, those that a
            model does not certify at their worst; "certified": each model's own certified set, which does not compare
            models fairly.
        radius: (R,) l2 radii, in pixel units.
        curves: by name of the model.
        accuracy: by name of the model, (R,) share of the compared samples that the model gets right (scope "all": and
            certified), rounded down.
    """

    metric: str
    samples: str
    radius: NDArray[np.float64]
    curves: dict[str, MetricCurve]
    accuracy: dict[str, NDArray[np.float64]]

    def best(self, at: int) -> str | None:
        """The model with the best worst case at radius number ``at``; None where no sample is compared."""
        _check.position("at", at, self.radius.size)
        worst = {name: float(curve.worst[at]) for name, curve in self.curves.items()}
        known = {name: value for name, value in worst.items() if not np.isnan(value)}
        return metric_of(self.metric).tightest(known) if known else None


def compare(
    models: Mapping[str, Certificates],
    radii: Any,
    metric: str = "ece",
    *,
    samples: str = "intersection",
    **options: Unpack[MetricOptions],
) -> Comparison:
    """Compares models by a worst-case metric.

    Two models certify different samples, mostly the easy ones, so that a model may look better because it certifies less.
    Compare on the samples that all of them certify, or on all samples.

    Args:
        models: certificates by name, of the same samples (by ``index``, in any order) with the same labels.
        radii: (R,) l2 radii, or one, in pixel units.
        metric: as in ``Certificates.bound``.
        samples: "intersection", "all" or "certified".
        **options: how the metric is defined, as in ``Certificates.bound``.

    Returns:
        ``Comparison``.

    Raises:
        TypeError: a model that is no ``Certificates``, or an argument of the wrong kind.
        ValueError: fewer than two models, samples, labels or norms that differ, an argument out of range, or, but for "all",
            a radius that a model's run was not planned for (``Certificates.planned_radii``).

    Source:
        The scopes: this project (docs/validity.md).

    Example:
        >>> a = Certificates.from_counts([[990, 10], [900, 100]], [0, 0], sigma=0.25)
        >>> b = Certificates.from_counts([[900, 100], [550, 450]], [0, 0], sigma=0.25)
        >>> result = compare({"a": a, "b": b}, [0.0, 0.1], metric="brier")
        >>> result.curves["a"].samples, result.best(0)
        (array([1, 1]), 'a')
    """
    _check.choice("samples", samples, COMPARISONS)
    _check.options("compare", options, MetricOptions)
    asked = _check.radii("radii", radii)
    measure, settings = metric_of(metric), Options.of(**options)
    samples = "all" if measure.of_everyone else samples
    rows = aligned(models)
    common = {
        float(radius): np.logical_and.reduce(
            [model.rows_at(radius).certified for model in rows.values()]
        )
        for radius in asked
    }
    curves, accuracy = {}, {}
    for name, model in rows.items():
        source = model.source(
            "all" if samples == "all" else "certified", asked, of_classes=measure.of_classes
        )
        if samples == "intersection":
            source = source.restricted(common)
        curves[name] = metric_curve(source, measure, asked, settings, Validity())
        counted = model.source(source.scope, asked)
        counted = counted if source.among is None else counted.restricted(source.among)
        accuracy[name] = metric_curve(counted, ACCURACY, asked, settings, Validity()).worst
    return Comparison(metric, samples, read_only(asked.copy()), curves, accuracy)


def _require_one_norm(models: Mapping[str, Certificates], argument: str) -> None:
    """Raises unless one radius means the same attacks for every model."""
    (first, norm), *others = ((name, model.provenance.norm) for name, model in models.items())
    for name, other in others:
        if other != norm:
            said = [
                f"the {one} norm in {of!r}" if one else f"an unnamed norm in {of!r}"
                for of, one in ((first, norm), (name, other))
            ]
            raise ValueError(
                f"{argument}: expected one norm, as a radius means other attacks in another, got {said[0]} and {said[1]}"
            )


def aligned(
    models: Mapping[str, Certificates], argument: str = "models"
) -> dict[str, Certificates]:
    """The same rows in the order of ``index``; refused under the name of an argument where they are not the same."""
    if not isinstance(models, Mapping) or len(models) < 2:
        raise ValueError(f"{argument}: expected at least two certificates by name")
    result: dict[str, Certificates] = {}
    first: tuple[str, Any, Any] | None = None
    for name, model in models.items():
        if not isinstance(model, Certificates):
            raise TypeError(
                f"{argument}: expected Certificates for {name!r}, got {type(model).__name__}"
            )
    _require_one_norm(models, argument)
    for name, model in models.items():
        order = np.argsort(model.table.column("index").to_numpy(), kind="stable")
        sorted_rows = model.select(order)
        index = sorted_rows.table.column("index").to_numpy()
        labels = sorted_rows.table.column("label").to_pylist()
        if np.unique(index).size != index.size:
            raise ValueError(f"{argument}: expected each sample once, got one twice in {name!r}")
        if first is None:
            first = name, index, labels
        elif not np.array_equal(index, first[1]):
            raise ValueError(
                f"{argument}: expected the samples of {first[0]!r} in {name!r} too (column index)"
            )
        elif labels != first[2]:
            raise ValueError(f"{argument}: expected the labels of {first[0]!r} in {name!r} too")
        result[name] = sorted_rows
    return result
