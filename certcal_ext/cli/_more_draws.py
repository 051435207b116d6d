# SPDX-License-Identifier: MIT
"""``certcal bound --more-draws``: what further draws would be expected to give, by radius."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from certcal_ext import _claims
from certcal_ext.cli._common import print_table

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates

_FACTORS = (1.0, 2.0, 4.0, 10.0)


def by_radius(
    certificates: Certificates, radii: Sequence[float], bins: int
) -> list[dict[str, Any]]:
    """Expected metrics, a dictionary a radius and number of draws.

    Raises:
        ValueError: the certificates do not hold votes and labels.
    """
    from certcal_ext.certificates.table import numbers
    from certcal_ext.stopping.adaptive import AdaptiveResult
    from certcal_ext.stopping.plans import what_more_draws_buy
    from certcal_ext.stopping.rules import Stopping

    made, table = certificates.provenance, certificates.table
    votes, draws, correct = (numbers(table, name) for name in ("votes", "n", "correct"))
    if made.kind != "votes" or votes is None or draws is None or correct is None:
        raise ValueError("--more-draws: expected certificates from votes, with labels")
    if certificates.recalibration is not None:
        raise ValueError("--more-draws: expected certificates that are not recalibrated")
    # As a run that looked once, at all its draws; one planning draw that agrees with most of them stands in for none.
    most = int(draws.max())
    rules = Stopping(
        radii=tuple(radii),
        n_max=min(10**7, 1 + round(max(_FACTORS) * most)),
        n_min=min(100, int(draws.min())),
        planning=1,
        bins=bins,
    )
    result = AdaptiveResult(
        votes=votes,
        n=draws,
        look=np.zeros(votes.size, np.int64),
        lower=table.column("p_lower").to_numpy(),
        upper=table.column("p_upper").to_numpy(),
        planning_votes=(2 * votes >= draws).astype(np.int64),
        correct=correct.view(np.uint8),
        sigma=float(made.sigma or 0.0),
        alpha=float(made.alpha or 0.0),
        stopping=rules,
        first_draw=0,
        draws_total=int(draws.sum()) + votes.size,
        plans=(),
    )
    return [
        {
            "radius": entry.expected.radius,
            "factor": entry.factor,
            "draws": entry.expected.draws,
            "certified": entry.expected.certified,
            "certified_ece": entry.expected.ece,
            "certified_brier": entry.expected.brier,
        }
        for entry in what_more_draws_buy(result, factors=_FACTORS)
        if entry.factor is not None
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """The table on stdout."""
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
