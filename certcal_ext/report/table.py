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
        short: its heading where there is little room, with the unit.
        role: "plain", "clean" (an estimate without attack), "worst" (a bound) or "constant".
    """

    name: str
    short: str
    role: str = "plain"


COLUMNS = (
    Column("Radius", "Radius"),
    Column("Certified", "Certi-\nfied"),
    Column("Certified accuracy", "Cert.\nacc. %"),
    Column("Accuracy where certified", "Acc.\n%"),
    Column("ECE", "ECE\n%", "clean"),
    Column("Certified ECE", "Cert.\nECE %", "worst"),
    Column("Brier", "Brier", "clean"),
    Column("Certified Brier", "Cert.\nBrier", "worst"),
    Column("Constant Brier", "Const.\nBrier", "constant"),
    Column("Certified skill", "Cert.\nskill"),
)


def rows(curve: Curve, *, units: bool = True) -> list[list[str]]:
    """The cells, one list a radius in the order of ``COLUMNS``; an en dash where not defined.

    Args:
        curve: the metrics.
        units: whether cells say "%", or leave it to the heading.
    """
    cells = [
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
    return cells if units else [[cell.removesuffix(words.PERCENT) for cell in row] for row in cells]
