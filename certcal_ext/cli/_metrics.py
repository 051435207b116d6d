# SPDX-License-Identifier: MIT
"""The table of any metric by radius, with joint and population bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext import _claims
from certcal_ext.cli._tables import Part, print_table
from certcal_ext.cli._unfold import Panel

if TYPE_CHECKING:
    from certcal_ext.certificates.bounds import MetricCurve
    from certcal_ext.cli._options import Table


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """Which bounds, of which samples, and how sure.

    Attributes:
        metrics: a second table: all, or some metrics separated by commas, such as brier,ks; a name that is none is answered
            with the list of them.
        scope: certified: over the samples certified at the radius; all: over every sample, the others at their worst. Only
            all compares models fairly.
        delta: also bounds that hold for the whole data set at once but for this probability.
        joint: how these are found: binomial, union, the better of the two (best), or aggregate: of the data set as
            a whole, from a hundredth of the draws.
        population: also for the population that the samples come from, of metrics that have such a bound; needs --delta.
        clip: log loss of confidences reported in [CLIP, 1 - CLIP].
        clip_dtype: float64 or float32: what the deployed model clips in, for the log loss.
        threshold: confidence from which the selective risk accepts.
    """

    metrics: str | None = None
    scope: str = "certified"
    delta: float | None = None
    joint: str = "best"
    population: bool = False
    clip: float | None = None
    clip_dtype: str = "float64"
    threshold: float = 0.5

    @property
    def need_counts(self) -> bool:
        """Whether a metric needs the votes of all classes."""
        from certcal_ext.metrics.registry import METRICS

        return any(METRICS[name].of_classes for name in self._names())

    def part(self, table: Table) -> Part:
        """The bounds, a curve a metric; a population bound only for metrics that have one."""
        from certcal_ext.metrics.base import Options
        from certcal_ext.metrics.registry import METRICS

        options = {
            **table.binning,
            "clip": self.clip,
            "threshold": self.threshold,
            "dtype": self.clip_dtype,
        }
        chosen = Options.of(**options)
        curves = [
            table.certificates.bound(
                name,
                table.radii,
                scope=self.scope,
                delta=self.delta,
                joint=self.joint,
                population=self.population and METRICS[name].no_population(chosen) is None,
                **options,
            )
            for name in self._names()
        ]
        return Part(_records(curves), partial(_show, curves, f"Bounds, scope {self.scope}"))

    def _names(self) -> tuple[str, ...]:
        """The metrics asked for; ECE and Brier where only other options ask for the table.

        Raises:
            ValueError: a name that is none.
        """
        if self.metrics is None:
            more = self.delta is not None or self.population or self.scope != "certified"
            return ("ece", "brier") if more else ()
        from certcal_ext.metrics.registry import METRICS, top_label

        every = top_label()
        if self.joint == "aggregate":
            from certcal_ext.certificates.data_set import has_bound

            every = tuple(filter(has_bound, every))
        words = [word.strip() for word in self.metrics.split(",")]
        names = dict.fromkeys(
            name for word in words for name in (every if word == "all" else (word,))
        )
        for name in names:
            if name not in METRICS:
                raise ValueError(
                    f"--metrics: expected all, or some of {', '.join(METRICS)}, got {name!r}"
                )
        return tuple(names)


Metrics = Annotated[MetricOptions, Panel("Metrics")]


def _records(found: Sequence[MetricCurve]) -> list[dict[str, Any]]:
    rows = []
    for curve in found:
        for at in range(len(curve)):
            rows.append(
                {
                    "metric": curve.metric,
                    "scope": curve.scope,
                    "radius": float(curve.radius[at]),
                    "samples": int(curve.samples[at]),
                    "plain": float(curve.plain[at]),
                    "worst": float(curve.worst[at]),
                    "joint": None if curve.joint is None else float(curve.joint[at]),
                    "joint_method": None if curve.method is None else str(curve.method[at]),
                    "population": None if curve.population is None else float(curve.population[at]),
                    "delta": curve.delta,
                    "statement": curve.statement(at),
                }
            )
    return rows


def _show(found: Sequence[MetricCurve], title: str) -> None:
    """The table, and below it the sentence that may be quoted."""
    from certcal_ext.metrics.registry import METRICS

    if not found:
        return
    joint = any(curve.joint is not None for curve in found)
    population = any(curve.population is not None for curve in found)
    heads = ["Metric", "Radius", "Samples", "Without attack", "Worst case"]
    heads += ["Jointly valid", "By"] if joint else []
    heads += ["Population"] if population else []
    rows: list[list[str] | None] = []
    for curve in found:
        metric = METRICS[curve.metric]
        bound = _claims.at_least if metric.lowest else _claims.at_most
        for at in range(len(curve)):
            cells = [
                metric.title if at == 0 else "",
                _claims.size(curve.radius[at]),
                _claims.count(curve.samples[at]),
                _claims.fixed(curve.plain[at]),
                bound(curve.worst[at]),
            ]
            if joint:
                cells += ["", ""]
                if curve.joint is not None and curve.method is not None:
                    cells[-2:] = [bound(curve.joint[at]), str(curve.method[at])]
            if population:
                value = float("nan") if curve.population is None else curve.population[at]
                cells.append(bound(value))
            rows.append(cells)
        rows.append(None)
    print_table(title, heads, rows, left=("Metric", "By"))
    for curve in found:
        typer.echo(curve.statement(len(curve) - 1))
