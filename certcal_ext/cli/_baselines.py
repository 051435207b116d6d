# SPDX-License-Identifier: MIT
"""``certcal bound --baselines`` and ``--max-attacked``: approximate solvers, and attacks on a few samples only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from certcal_ext import _claims
from certcal_ext.cli._common import note, print_table

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates

_NAMES = {"admm": "ADMM", "dece": "DECE ascent", "brier_worst": "Brier-worst"}


def by_radius(
    certificates: Certificates, radii: Sequence[float], binning: dict[str, Any]
) -> list[dict[str, Any]]:
    """The exact value and each lower estimate, a dictionary a radius."""
    from certcal_ext import certified_ece
    from certcal_ext.milp import baselines

    solvers = {
        "admm": baselines.lower_estimate_admm,
        "dece": baselines.lower_estimate_dece,
        "brier_worst": baselines.lower_estimate_brier_worst,
    }
    rows = []
    for radius in radii:
        chosen = certificates.at(radius)
        if not len(chosen):
            continue
        note(f"lower estimates at radius {_claims.size(radius)}, {len(chosen):,} samples")
        sample = (chosen.correct, chosen.lower, chosen.upper)
        row: dict[str, Any] = {"radius": radius, "samples": len(chosen)}
        row["exact"] = certified_ece(*sample, **binning).value
        for name, solve in solvers.items():
            found = solve(*sample, **binning)
            row[name] = {"value": found.value, "steps": found.steps, "seconds": found.seconds}
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The table on stdout."""
    heads = ["Radius", "Samples", "Exact"]
    for name in _NAMES.values():
        heads += [name, "missed", "seconds"]
    cells = []
    for row in rows:
        line = [
            _claims.size(row["radius"]),
            _claims.count(row["samples"]),
            _claims.at_most(row["exact"]),
        ]
        for name in _NAMES:
            found = row[name]
            line.append(_claims.at_least(found["value"]))
            line.append(_claims.fixed(row["exact"] - found["value"]))
            line.append(_claims.fixed(found["seconds"], 2))
        cells.append(line)
    _print("Certified ECE beside the paper's own estimates, which can only be lower", heads, cells)


def attacked(
    certificates: Certificates,
    radii: Sequence[float],
    binning: dict[str, Any],
    most: int,
    time_limit: float,
) -> list[dict[str, Any]]:
    """The worst ECE if at most ``most`` samples are attacked, a dictionary a radius.

    Raises:
        ValueError: the certificates hold no confidences without attack.
    """
    from certcal_ext import certified_ece, certified_ece_milp

    rows = []
    for radius in radii:
        chosen = certificates.at(radius)
        if not len(chosen):
            continue
        if chosen.confidence is None:
            raise ValueError(
                "--max-attacked: these certificates hold no confidences without attack"
            )
        sample = (chosen.correct, chosen.lower, chosen.upper)
        note(f"mixed-integer program at radius {_claims.size(radius)}, {len(chosen):,} samples")
        found = certified_ece_milp(
            *sample,
            **binning,
            time_limit=time_limit,
            max_attacked=min(most, len(chosen)),
            confidence=chosen.confidence,
        )
        rows.append(
            {
                "radius": radius,
                "samples": len(chosen),
                "attacked": min(most, len(chosen)),
                "bound": found.bound,
                "incumbent": found.incumbent,
                "optimal": found.optimal,
                "status": found.status,
                "seconds": found.seconds,
                "all_attacked": certified_ece(*sample, **binning).value,
            }
        )
    return rows


def show_attacked(rows: list[dict[str, Any]]) -> None:
    """The table on stdout."""
    heads = ["Radius", "Samples", "Attacked", "Bound", "Reached", "All attacked", "Solver"]
    cells = [
        [
            _claims.size(row["radius"]),
            _claims.count(row["samples"]),
            _claims.count(row["attacked"]),
            _claims.at_most(row["bound"]),
            _claims.at_least(row["incumbent"]),
            _claims.at_most(row["all_attacked"]),
            f"{row['status']}, {row['seconds']:.1f} s",
        ]
        for row in rows
    ]
    _print("Certified ECE if only so many samples are attacked", heads, cells)


def _print(title: str, heads: list[str], cells: list[list[str]]) -> None:
    print_table(title, heads, cells)
    if not cells:
        typer.echo("nothing is certified at these radii")
