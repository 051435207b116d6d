# SPDX-License-Identifier: MIT
"""``certcal baselines``: the paper's approximate solvers beside the exact worst case."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from certcal_ext import _claims
from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import NOTHING, Part, answer, print_table
from certcal_ext.cli._unfold import unfolded

EXAMPLES = _common.examples(
    ("The paper's own estimates beside the exact value", "certcal baselines counts.npz"),
    ("At one radius, for a program", "certcal baselines counts.npz --radii 0.25 --json"),
)

_NAMES = {"admm": "ADMM", "dece": "DECE ascent", "brier_worst": "Brier-worst"}


@unfolded
def baselines(
    file: _options.File,
    source: _options.SourceOfFile,
    where: _options.Bins,
    as_json: _options.Json = False,
) -> None:
    """Certified ECE beside the paper's approximate solvers (ADMM, differentiable ECE, Brier-worst), from FILE.

    The solvers can understate the worst case, and never overstate it.
    """
    table = where.table(_common.read_certificates(file, source))
    answer(table.head(file), {"baselines": part(table)}, None, as_json)


def part(table: _options.Table) -> Part:
    """The exact value and each lower estimate, by radius."""
    from certcal_ext import certified_ece
    from certcal_ext.milp import baselines as approximate

    solvers: dict[str, Callable[..., Any]] = {
        "admm": approximate.lower_estimate_admm,
        "dece": approximate.lower_estimate_dece,
        "brier_worst": approximate.lower_estimate_brier_worst,
    }
    rows: list[dict[str, Any]] = []
    for radius in table.radii:
        chosen = table.certificates.at(radius)
        if not len(chosen):
            continue
        _common.note(f"lower estimates at radius {_claims.size(radius)}, {len(chosen):,} samples")
        sample = (chosen.correct, chosen.lower, chosen.upper)
        row: dict[str, Any] = {"radius": radius, "samples": len(chosen)}
        row["exact"] = certified_ece(*sample, **table.binning).value
        for name, solve in solvers.items():
            found = solve(*sample, **table.binning)
            row[name] = {"value": found.value, "steps": found.steps, "seconds": found.seconds}
        rows.append(row)
    return Part(rows, partial(_show, rows))


def _show(rows: list[dict[str, Any]]) -> None:
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
    title = "Certified ECE beside the paper's own estimates, which can only be lower"
    print_table(title, heads, cells, empty=NOTHING)
