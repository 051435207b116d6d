# SPDX-License-Identifier: MIT
"""How answers are printed: every table of the command line, and the JSON in its place."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.curve import Curve

_WIDTH = 80
_STYLES = {"plain": "", "clean": "blue", "worst": "bold yellow", "constant": "green"}
NOTHING = "nothing is certified at these radii"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of an answer.

    Attributes:
        record: what JSON holds.
        show: prints it as a table.
    """

    record: Any
    show: Callable[[], None]


def answer(
    head: Mapping[str, Any], parts: Mapping[str, Part | None], written: Path | None, as_json: bool
) -> None:
    """Prints the parts, as tables or as one JSON document in which parts that were not asked for are null.

    Args:
        head: what JSON says before them.
        parts: by their names in JSON.
        written: file of the certificates, if there is one.
        as_json: JSON in place of tables.
    """
    if as_json:
        records = {name: None if part is None else part.record for name, part in parts.items()}
        print_json({**head, **records, "written": None if written is None else str(written)})
        return
    for part in parts.values():
        if part is not None:
            part.show()
    if written is not None:
        typer.echo(f"certificates: {written}")


def head_of(file: Path, certificates: Certificates, **more: Any) -> dict[str, Any]:
    """What JSON says of a file."""
    return {
        "file": str(file),
        **summary(certificates),
        **more,
        "planned_radii": certificates.planned_radii,
    }


def summary(certificates: Certificates) -> dict[str, Any]:
    """Where certificates come from and how many there are, for JSON."""
    return {
        "provenance": dataclasses.asdict(certificates.provenance),
        "total": len(certificates),
        "abstained": int(certificates.abstained.sum()),
    }


def curve_part(certificates: Certificates, curve: Curve, title: str) -> Part:
    """The metrics by radius, and below them what they claim."""
    return Part(curve_records(curve), partial(_print_curve, certificates, curve, title))


def curve_records(curve: Curve) -> list[dict[str, float | int | None]]:
    """The metrics, a dictionary a radius."""
    names = [field.name for field in dataclasses.fields(curve)]
    columns = [getattr(curve, name).tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def print_json(value: Any) -> None:
    """JSON on stdout; numbers that are not finite become null."""
    typer.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def print_small(text: str) -> None:
    """A line below a table, on stdout, folded to a width that can be read."""
    _console().print(text, style="dim", markup=False)


def _console() -> Console:
    from rich.console import Console

    plain = Console(highlight=False)
    wide = max(plain.width, _WIDTH) if sys.stdout.isatty() else 100
    return Console(highlight=False, width=wide)


def print_table(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str] | None],
    *,
    left: Sequence[str] = (),
    styles: Sequence[str] = (),
    empty: str = "",
) -> None:
    """A table on stdout, as wide as its numbers are: a number that is cut says something else.

    Args:
        title: above it.
        heads: of the columns.
        rows: cells; None draws a gap.
        left: the heads of columns of words, to be aligned left.
        styles: of the columns, or none.
        empty: a line below a table without rows.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    named = Text(title) if title else None
    table = Table(title=named, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.pad_edge, table.collapse_padding = False, bool(styles)
    for at, head in enumerate(heads):
        justify: Any = "left" if head in left else "right"
        style = styles[at] if styles else ""
        table.add_column(head, justify=justify, style=style, vertical="bottom")
    for cells in rows:
        if cells is None:
            table.add_section()
        else:
            table.add_row(*(Text(cell, no_wrap=True) for cell in cells))
    output, endless = _console(), Console(width=10_000)
    width = Measurement.get(endless, endless.options, table).maximum
    if width > output.width:
        output = Console(highlight=False, width=width)
    output.print(table)
    if empty and not table.row_count:
        typer.echo(empty)


def _print_curve(certificates: Certificates, curve: Curve, title: str) -> None:
    from certcal_ext.report import numerals

    heads = [column.short for column in numerals.COLUMNS]
    styles = [_STYLES[column.role] for column in numerals.COLUMNS]
    print_table(title, heads, numerals.curve_rows(curve, units=False), styles=styles)
    print_small(_meaning(certificates))


def _meaning(certificates: Certificates) -> str:
    """What the table claims, in a few lines."""
    from certcal_ext.certificates.evidence import how_chosen, how_sure

    made = certificates.provenance
    sure = f"{how_sure(made, len(certificates))} {how_chosen(made)}".rstrip()
    return (
        "Acc., ECE and Brier are over the samples certified at the radius, cert. acc. over all; bounds are rounded up, "
        "accuracies, constant and skill down, and hold where all intervals do. "
        f"{sure} Const. Brier is what a constant confidence would score; "
        "the bound is better where the skill is above 0."
    )
