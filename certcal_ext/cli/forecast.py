# SPDX-License-Identifier: MIT
"""``certcal forecast``: what further draws would be expected to give, by radius."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from certcal_ext import _claims
from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import Part, answer, print_table
from certcal_ext.cli._unfold import Panel, unfolded

if TYPE_CHECKING:
    from certcal_ext.stopping.adaptive import AdaptiveResult

EXAMPLES = _common.examples(
    ("What 2, 4 and 10 times the draws would give", "certcal forecast certificates.parquet"),
    ("At chosen radii, from vote counts", "certcal forecast counts.npz --radii 0,0.1,0.25"),
)

_FACTORS = (1.0, 2.0, 4.0, 10.0)


@unfolded
def forecast(
    file: _options.File,
    source: _options.SourceOfFile,
    where: Annotated[
        _options.BinOptions, Panel("Radii and bins", frozenset({"edges", "equal_mass", "closed"}))
    ],
    as_json: _options.Json = False,
) -> None:
    """Certified accuracy, ECE and Brier score that 2, 4 and 10 times the draws are expected to give: estimates."""
    table = where.table(_common.read_certificates(file, source))
    answer(table.head(file), {"more_draws": part(table)}, None, as_json)


def part(table: _options.Table) -> Part:
    """Expected metrics, by radius and number of draws.

    Raises:
        ValueError: the certificates do not hold votes and labels.
    """
    from certcal_ext.stopping.plans import what_more_draws_buy

    rows = [
        {
            "radius": entry.expected.radius,
            "factor": entry.factor,
            "draws": entry.expected.draws,
            "certified": entry.expected.certified,
            "certified_ece": entry.expected.ece,
            "certified_brier": entry.expected.brier,
        }
        for entry in what_more_draws_buy(_run(table), factors=_FACTORS)
        if entry.factor is not None
    ]
    return Part(rows, partial(_show, rows))


def _run(table: _options.Table) -> AdaptiveResult:
    """The draws as a run that looked once, at all of them."""
    import numpy as np

    from certcal_ext.certificates.table import numbers
    from certcal_ext.stopping.adaptive import AdaptiveResult
    from certcal_ext.stopping.rules import Stopping

    held = table.certificates
    made, stored = held.provenance, held.table
    votes, draws, correct = (numbers(stored, name) for name in ("votes", "n", "correct"))
    if made.kind != "votes" or votes is None or draws is None or correct is None:
        raise ValueError("more draws: expected certificates from votes, with labels")
    if held.recalibration is not None:
        raise ValueError("more draws: expected certificates that are not recalibrated")
    # One planning draw that agrees with most of them stands in for none.
    most = int(draws.max())
    rules = Stopping(
        radii=tuple(table.radii),
        n_max=min(10**7, 1 + round(max(_FACTORS) * most)),
        n_min=min(100, int(draws.min())),
        planning=1,
        bins=table.binning["bins"],
    )
    return AdaptiveResult(
        votes=votes,
        n=draws,
        look=np.zeros(votes.size, np.int64),
        lower=stored.column("p_lower").to_numpy(),
        upper=stored.column("p_upper").to_numpy(),
        planning_votes=(2 * votes >= draws).astype(np.int64),
        correct=correct.view(np.uint8),
        sigma=float(made.sigma or 0.0),
        alpha=float(made.alpha or 0.0),
        stopping=rules,
        first_draw=0,
        draws_total=int(draws.sum()) + votes.size,
        plans=(),
    )


def _show(rows: list[dict[str, Any]]) -> None:
    heads = ("Radius", "Draws", "a sample", "Certified", "Certified ECE", "Certified Brier")
    lines: list[list[str] | None] = []
    last = None
    for row in rows:
        if last not in (None, row["radius"]):
            lines.append(None)
        cells = [
            _claims.size(row["radius"]) if row["radius"] != last else "",
            f"x {row['factor']:g}",
            _claims.count(row["draws"]),
            _claims.count(row["certified"]),
            _claims.fixed(row["certified_ece"]),
            _claims.fixed(row["certified_brier"]),
        ]
        last = row["radius"]
        lines.append(cells)
    title = "What more draws would be expected to give: estimates, nothing is certified"
    print_table(title, heads, lines)
