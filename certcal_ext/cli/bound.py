# SPDX-License-Identifier: MIT
"""``certcal bound``: metrics by radius from counts, a log or certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certcal_ext.cli import _common

EXAMPLES = _common.examples(
    ("Vote counts of all test images, at round radii", "certcal bound counts.npz"),
    ("Chosen radii, for a program", "certcal bound counts.npz --radii 0,0.05,0.1,0.25,0.5 --json"),
    ("A certification log", "certcal bound log.tsv --sigma 0.25 --n 100000 --alpha 0.001"),
    ("Own bin edges", "certcal bound certificates.parquet --edges 0,0.5,0.8,0.9,0.95,1"),
)


def bound(
    file: Annotated[
        Path,
        typer.Argument(
            help="Vote counts (.npz with counts, label and sigma), a certification log "
            "(tab-separated), or certificates (Parquet).",
            show_default=False,
        ),
    ],
    radii: Annotated[
        str | None,
        typer.Option(
            help="Radii, separated by commas. Default: round ones up to the largest certified "
            "radius.",
            show_default=False,
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
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the certificates to this Parquet file.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table.")
    ] = False,
) -> None:
    """Certified accuracy, calibration error and Brier score at many radii, from FILE."""
    with _common.user_errors():
        from certcal_ext.report.facts import default_radii

        _common.writable(out, "--out")
        listed = _common.numbers("--radii", radii)
        limits = _common.numbers("--edges", edges)
        certificates = _common.read_certificates(file, sigma=sigma, n=n, alpha=alpha)
        listed = default_radii(certificates) if listed is None else listed
        curve = certificates.curve(listed, bins=bins, edges=limits, closed=closed)
        if out is not None:
            certificates.to_parquet(out)
        if as_json:
            _common.print_json(
                {
                    "file": str(file),
                    "provenance": _common.provenance(certificates),
                    "total": len(certificates),
                    "abstained": int(certificates.abstained.sum()),
                    "bins": bins if limits is None else len(limits) - 1,
                    "edges": limits,
                    "closed": closed,
                    "radii": _common.curve_records(curve),
                    "written": None if out is None else str(out),
                }
            )
            return
        abstained = int(certificates.abstained.sum())
        title = f"{file.name}: {len(certificates):,} samples, {abstained:,} abstained"
        _common.print_curve(curve, title, _common.meaning(certificates))
        if out is not None:
            typer.echo(f"certificates: {out}")
