# SPDX-License-Identifier: MIT
"""The table of metrics by radius as text, for the page and the command line; bounds rounded up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from certcal_ext.report import words

if TYPE_CHECKING:
    from certcal_ext.curve import Curve


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: its heading.
        role: "plain", "clean" (an estimate without attack), "worst" (a bound) or "constant".
    """

    name: str
    role: str = "plain"


COLUMNS = (
    Column("Radius"),
    Column("Certified"),
    Column("Certified accuracy"),
    Column("Accuracy where certified"),
    Column("ECE", "clean"),
    Column("Certified ECE", "worst"),
    Column("Brier", "clean"),
    Column("Certified Brier", "worst"),
    Column("Constant Brier", "constant"),
    Column("Certified skill"),
)


def rows(curve: Curve) -> list[list[str]]:
    """The cells, one list a radius in the order of ``COLUMNS``; an en dash where not defined."""
    return [
        [
            words.number(curve.radius[k]),
            words.count(curve.certified[k]),
            words.percent(curve.certified_accuracy[k], 1),
            words.percent(curve.accuracy[k], 1),
            words.percent(curve.ece[k]),
            words.at_most(curve.certified_ece[k], as_percent=True),
            words.fixed(curve.brier[k]),
            words.at_most(curve.certified_brier[k]),
            words.fixed(curve.constant_brier[k]),
            words.fixed(curve.skill[k], 3),
        ]
        for k in range(len(curve.radius))
    ]
