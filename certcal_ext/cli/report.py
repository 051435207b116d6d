# SPDX-License-Identifier: MIT
"""``certcal report``: the HTML page about counts, a log or certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certcal_ext.cli import _common

EXAMPLES = _common.examples(
    (
        "The page about a set of certificates",
        "certcal report certificates.parquet --out report.html",
    ),
    (
        "About radius 0.5, from vote counts",
        "certcal report counts.npz --radius 0.5 --out report.html",
    ),
    (
        "From a certification log",
        "certcal report log.tsv --sigma 0.25 --n 100000 --out report.html",
    ),
)


def report(
    file: Annotated[
        Path,
        typer.Argument(
            help="Vote counts (.npz), a certification log (tab-separated), or certificates "
            "(Parquet).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    radius: Annotated[
        float | None,
        typer.Option(
            help="The radius of the headline and diagrams. Default: the largest listed one with "
            "half of the samples certified.",
            show_default=False,
        ),
    ] = None,
    radii: Annotated[
        str | None,
        typer.Option(
            help="Radii of the table, separated by commas. Default: round ones.", show_default=False
        ),
    ] = None,
    bins: Annotated[
        int, typer.Option(help="Number of equal-width bins of the calibration error.")
    ] = 15,
    edges: Annotated[
        str | None,
        typer.Option(
            help="Bin edges from 0 to 1, separated by commas, in place of --bins.",
            show_default=False,
        ),
    ] = None,
    closed: Annotated[
        str, typer.Option(help="right: bins (low, high]; left: [low, high).")
    ] = "right",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Certified calibration",
    sigma: Annotated[
        float | None,
        typer.Option(
            help="Noise of the smoothed classifier, where FILE does not hold it.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Draws a sample, for a log.", show_default=False)
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Failure probability of an interval, for counts and logs; 0.001 where not given.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of the file name.")
    ] = False,
) -> None:
    """One self-contained HTML page about FILE: verdict, diagrams, table, what is certified."""
    with _common.user_errors():
        from certcal_ext.report import write_report

        _common.writable(out, "--out")
        listed = _common.numbers("--radii", radii)
        limits = _common.numbers("--edges", edges)
        certificates = _common.read_certificates(file, sigma=sigma, n=n, alpha=alpha)
        write_report(
            certificates,
            out,
            radii=listed,
            radius=radius,
            bins=bins,
            edges=limits,
            closed=closed,
            title=title,
            file=str(file),
        )
        if as_json:
            _common.print_json({"file": str(file), "report": str(out), "total": len(certificates)})
        else:
            typer.echo(f"report: {out}")
