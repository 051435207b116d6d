# SPDX-License-Identifier: MIT
"""What the subcommands share: one-line errors, radii, input files and output."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.curve import Curve
    from certcal_ext.certificates.file_options import FileOptions

BAD_INPUT = 2
_TRACEBACK = "CERTCAL_TRACEBACK"
_WIDTH = 80
_STYLES = {"plain": "", "clean": "blue", "worst": "bold yellow", "constant": "green"}


def note(message: str) -> None:
    """A line for people, on stderr."""
    typer.echo(message, err=True)


def examples(*pairs: tuple[str, str]) -> str:
    """The end of a help text: what to do and the command that does it."""
    return "\n\n".join(
        ["[bold]Examples[/bold]"]
        + [f"{what}:\n\n  [cyan]{command}[/cyan]" for what, command in pairs]
    )


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns errors about input into one line on stderr and exit code 2, and warnings into lines.

    With CERTCAL_TRACEBACK=1 in the environment errors go through, for reports of faults in certcal
    itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        try:
            yield
        except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
            if os.environ.get(_TRACEBACK):
                raise
            words = " ".join(str(error).split()) or type(error).__name__
            note(f"certcal: error: {words}")
            raise typer.Exit(BAD_INPUT) from None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: Any = None,
) -> None:
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
        note(f"certcal: warning: {' '.join(str(message).split())}")


def numbers(name: str, text: str | None) -> list[float] | None:
    """``0,0.1,0.5`` as numbers.

    Raises:
        ValueError: something in it is no finite number.

    Example:
        >>> numbers("radii", "0, 0.25")
        [0.0, 0.25]
    """
    if text is None:
        return None
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise ValueError(
            f"{name}: expected numbers separated by commas, for example 0,0.25,0.5, got {text!r}"
        )
    return values


def read_certificates(path: Path, source: FileOptions, **more: Any) -> Certificates:
    """``Certificates.from_file``, with its notes on what was read on stderr.

    Args:
        path: the file.
        source: what it does not say.
        more: options in place of those of ``source``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or something it does not hold was not given.
    """
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.evidence import SHARED_DRAWS, SHARED_MEANING
    from certcal_ext.certificates.from_others import LOG_POINT

    options = dataclasses.asdict(source) | more
    try:
        made = Certificates.from_file(path, **options)
    except ValueError as error:
        said = str(error).removeprefix(f"{path}: ")
        name = said.partition(": ")[0]
        if name in options:
            said = f"{path}: --{name.replace('_', '-')}{said.removeprefix(name)}"
            raise ValueError(said) from error
        raise
    for text in made.provenance.notes:
        if text not in (SHARED_DRAWS, SHARED_MEANING, LOG_POINT):  # said elsewhere
            note(f"certcal: note: {text}")
    return made


def writable(path: Path | None, name: str) -> None:
    """Checks before a long run that a file can be written there.

    Raises:
        ValueError: its folder does not exist or is not writable, or it is a folder.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{name}: expected a file name, got the folder {path}")
    if not path.parent.is_dir():
        raise ValueError(f"{name}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{name}: the folder {path.parent} is not writable")


def curve_records(curve: Curve) -> list[dict[str, float | int | None]]:
    """The metrics, a dictionary a radius."""
    names = (
        "radius",
        "certified",
        "total",
        "certified_accuracy",
        "accuracy",
        "ece",
        "certified_ece",
        "brier",
        "certified_brier",
        "constant_brier",
        "skill",
    )
    columns = [getattr(curve, name).tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def provenance(certificates: Certificates) -> dict[str, Any]:
    """Where the certificates come from, for JSON."""
    return dataclasses.asdict(certificates.provenance)


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


def console() -> Console:
    """Where words go: stdout, in a width that can be read."""
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
) -> None:
    """A table on stdout, as wide as its numbers are: a number that is cut says something else.

    Args:
        title: above it.
        heads: of the columns.
        rows: cells; None draws a gap.
        left: the heads of columns of words, to be aligned left.
        styles: of the columns, or none.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), box=SIMPLE_HEAD, title_justify="left", title_style="bold")
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
    output, endless = console(), Console(width=10_000)
    width = Measurement.get(endless, endless.options, table).maximum
    if width > output.width:
        output = Console(highlight=False, width=width)
    output.print(table)


def print_curve(curve: Curve, title: str, footnote: str) -> None:
    """The table of metrics by radius and a line below it."""
    from certcal_ext.report import table

    heads = [column.short for column in table.COLUMNS]
    styles = [_STYLES[column.role] for column in table.COLUMNS]
    print_table(title, heads, table.rows(curve, units=False), styles=styles)
    console().print(footnote, style="dim", markup=False)


def meaning(certificates: Certificates) -> str:
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
