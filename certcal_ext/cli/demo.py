# SPDX-License-Identifier: MIT
"""``certcal demo``: the whole way on embedded data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from certcal_ext._progress import duration
from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import curve_part, curve_records, print_json, summary
from certcal_ext.cli._unfold import unfolded

EXAMPLES = _common.examples(
    ("The demonstration, about a minute", "certcal demo --out demo"),
    ("A first look in seconds", "certcal demo --quick --out demo"),
)


@unfolded
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for certificates.parquet and report.html; made if need be.")
    ] = Path("certcal-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer images, draws and epochs.")] = False,
    seed: Annotated[
        int, typer.Option(help="Seed of the split, the training and the noise.", min=0)
    ] = 0,
    as_json: _options.Json = False,
) -> None:
    """Trains a small network on 8 x 8 digits, certifies held-out ones and writes a report.

    The same numbers come out on every run, whatever the number of threads.
    """
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
        print_json(
            {
                **summary(certificates),
                "training_images": settings.training_images,
                "clean_accuracy": result.clean_accuracy,
                "radii": curve_records(curve),
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
    curve_part(certificates, curve, title).show()
    typer.echo(f"certificates: {certificates_file}\nreport:       {report_file}")
    _common.note(
        f"took {duration(seconds['total'])}: training {duration(seconds['training'])}, "
        f"certifying {duration(seconds['certifying'])}"
    )
