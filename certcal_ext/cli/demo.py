# SPDX-License-Identifier: MIT
"""``certcal demo``: the whole way on embedded data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from certcal_ext._progress import duration
from certcal_ext.cli import _common

EXAMPLES = _common.examples(
    ("The demonstration, about a minute", "certcal demo --out demo"),
    ("A first look in seconds", "certcal demo --quick --out demo"),
)


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for certificates.parquet and report.html; made if need be.")
    ] = Path("certcal-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer images, draws and epochs.")] = False,
    seed: Annotated[
        int, typer.Option(help="Seed of the split, the training and the noise.", min=0)
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table.")
    ] = False,
) -> None:
    """Trains a small network on 8 x 8 digits, certifies held-out ones and writes a report.

    The same numbers come out on every run, whatever the number of threads.
    """
    with _common.user_errors():
        from certcal_ext.demo import DemoSettings, run_demo
        from certcal_ext.demo.run import PAGE_RADIUS, RADII
        from certcal_ext.report import write_report

        started = time.perf_counter()
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out: expected a folder, got the file {out}")
        out.mkdir(parents=True, exist_ok=True)
        certificates_file, report_file = out / "certificates.parquet", out / "report.html"
        _common.writable(certificates_file, "--out")
        settings = DemoSettings.quick(seed) if quick else DemoSettings(seed=seed)
        _common.note(
            f"certcal demo: a network trained on only {settings.training_images} digits, so that "
            f"it makes mistakes; {settings.images} held-out ones certified, {settings.n:,} draws "
            f"each, noise {settings.sigma:g} in [0, 1] pixel units"
        )
        result = run_demo(settings, progress=True)
        certificates = result.certificates
        radii = [radius for radius in RADII if radius < (certificates.best_radius or 0)]
        curve = certificates.curve(radii)
        certificates.to_parquet(certificates_file)
        command = f"certcal demo{' --quick' if quick else ''}{f' --seed {seed}' if seed else ''}"
        write_report(
            certificates,
            report_file,
            radii=radii,
            radius=PAGE_RADIUS,
            images=result.images,
            title="Certified calibration: certcal demo",
            command=command,
        )
        seconds = {
            "training": result.seconds_training,
            "certifying": result.seconds_certifying,
            "total": time.perf_counter() - started,
        }
        if as_json:
            _common.print_json(
                {
                    "provenance": _common.provenance(certificates),
                    "total": len(certificates),
                    "abstained": int(certificates.abstained.sum()),
                    "training_images": settings.training_images,
                    "clean_accuracy": result.clean_accuracy,
                    "radii": _common.curve_records(curve),
                    "certificates": str(certificates_file),
                    "report": str(report_file),
                    "seconds": seconds,
                }
            )
            return
        title = (
            f"{len(certificates)} held-out digits, {int(certificates.abstained.sum())} abstained; "
            f"accuracy without noise {result.clean_accuracy:.1%}"
        )
        _common.print_curve(curve, title, _common.meaning(certificates))
        typer.echo(f"certificates: {certificates_file}\nreport:       {report_file}")
        _common.note(
            f"took {duration(seconds['total'])}: training {duration(seconds['training'])}, "
            f"certifying {duration(seconds['certifying'])}"
        )
