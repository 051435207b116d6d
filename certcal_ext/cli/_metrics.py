# SPDX-License-Identifier: MIT
"""The table of ``certcal bound --metrics``: any metric by radius, with joint and population bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from certcal_ext import _claims
from certcal_ext.cli._common import print_table

if TYPE_CHECKING:
    from certcal_ext.certificates.bounds import MetricCurve
    from certcal_ext.certificates.certificates import Certificates


def chosen(text: str | None, *, asked_more: bool) -> tuple[str, ...]:
    """The metrics of ``--metrics``; ECE and Brier where only other options ask for the table.

    Raises:
        ValueError: a name that is none.
    """
    if text is None:
        return ("ece", "brier") if asked_more else ()
    from certcal_ext.metrics.registry import METRICS, top_label

    words = [word.strip() for word in text.split(",")]
    names = tuple(
        dict.fromkeys(
            name for word in words for name in (top_label() if word == "all" else (word,))
        )
    )
    for name in names:
        if name not in METRICS:
            raise ValueError(
                f"--metrics: expected all, or some of {', '.join(METRICS)}, got {name!r}"
            )
    return names


def curves(
    certificates: Certificates,
    names: Sequence[str],
    radii: Sequence[float],
    validity: dict[str, Any],
    options: dict[str, Any],
) -> list[MetricCurve]:
    """The bounds, a curve a metric; a population bound only for metrics that have one.

    Args:
        certificates: the certificates.
        names: of metrics.
        radii: the radii.
        validity: ``scope``, ``delta``, ``joint`` and ``population`` of ``Certificates.bound``.
        options: its options of metrics.
    """
    from certcal_ext.metrics.base import Options
    from certcal_ext.metrics.registry import METRICS

    chosen = Options.of(**options)
    result = []
    for name in names:
        whole = validity["population"] and METRICS[name].no_population(chosen) is None
        result.append(
            certificates.bound(name, radii, **{**validity, "population": whole}, **options)
        )
    return result


def records(found: Sequence[MetricCurve]) -> list[dict[str, Any]]:
    """The bounds for JSON, a dictionary a metric and radius."""
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


def show(found: Sequence[MetricCurve], title: str) -> None:
    """The table on stdout, and below it the sentence that may be quoted."""
    from certcal_ext.metrics.registry import METRICS

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


def equal_mass(certificates: Certificates, bins: int, edges: object) -> list[float]:
    """Edges of bins that hold equally many clean confidences.

    Raises:
        ValueError: edges are given too, or there are no confidences.
    """
    from certcal_ext.metrics.edges import equal_mass_edges

    if edges is not None:
        raise ValueError("--equal-mass: expected without --edges")
    confidence = certificates.confidence
    if confidence is None:
        raise ValueError("--equal-mass: these certificates hold no confidences without attack")
    result: list[float] = equal_mass_edges(confidence[confidence >= 0], bins).tolist()
    return result
