# SPDX-License-Identifier: MIT
"""``certcal milp``: the worst calibration error where an attacker reaches a few samples only, by a mixed-integer program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from certcal_ext import _claims
from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import NOTHING, Part, answer, print_table
from certcal_ext.cli._unfold import Panel, unfolded

EXAMPLES = _common.examples(
    ("At most 20 samples are attacked", "certcal milp counts.npz --radii 0.25 --max-attacked 20"),
    (
        "A looser bound sooner, for a program",
        "certcal milp counts.npz --max-attacked 20 --time-limit 5 --json",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """The program; it is for hundreds of samples.

    Attributes:
        max_attacked: how many samples are attacked at most.
        time_limit: seconds for each radius; a looser bound after.
    """

    max_attacked: int
    time_limit: float = 60.0


@unfolded
def milp(
    file: _options.File,
    source: _options.SourceOfFile,
    program: Annotated[ProgramOptions, Panel("Program")],
    where: _options.Bins,
    as_json: _options.Json = False,
) -> None:
    """The worst ECE if at most so many samples are attacked, by radius, from FILE."""
    table = where.table(_common.read_certificates(file, source))
    attacked = part(table, program.max_attacked, program.time_limit)
    answer(table.head(file), {"max_attacked": attacked}, None, as_json)


def part(table: _options.Table, most: int, time_limit: float) -> Part:
    """The bound and what is reached, by radius.

    Raises:
        ValueError: the certificates hold no confidences without attack.
    """
    from certcal_ext import certified_ece, certified_ece_milp

    rows: list[dict[str, Any]] = []
    for radius in table.radii:
        chosen = table.certificates.at(radius)
        if not len(chosen):
            continue
        if chosen.confidence is None:
            raise ValueError(
                "--max-attacked: these certificates hold no confidences without attack"
            )
        sample = (chosen.correct, chosen.lower, chosen.upper)
        _common.note(
            f"mixed-integer program at radius {_claims.size(radius)}, {len(chosen):,} samples"
        )
        found = certified_ece_milp(
            *sample,
            **table.binning,
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
                "all_attacked": certified_ece(*sample, **table.binning).value,
            }
        )
    return Part(rows, partial(_show, rows))


def _show(rows: list[dict[str, Any]]) -> None:
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
    title = "Certified ECE if only so many samples are attacked"
    print_table(title, heads, cells, empty=NOTHING)
