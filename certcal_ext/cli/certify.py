# SPDX-License-Identifier: MIT
"""``certcal certify``: certificates of the user's own model and data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext._progress import duration, shown
from certcal_ext.cli import _common
from certcal_ext.cli._preflight import check_clean, estimate_run, run_certify, to_device

if TYPE_CHECKING:
    from certcal_ext.certificates import Certificates
    from certcal_ext.datasets import ImageData

EXAMPLES = _common.examples(
    (
        "A model from my_models.py with its weights, on 500 test images",
        "certcal certify --model my_models:resnet110 --weights model.pt --data test.npz --sigma "
        "0.25 --limit 500",
    ),
    (
        "idx files, more draws, and the page",
        "certcal certify --model net:Net --weights net.pt --data t10k-images-idx3-ubyte.gz "
        "--sigma 0.5 "
        "--n 100000 --out certificates.parquet --report report.html",
    ),
    (
        "Only say how long it would take",
        "certcal certify --model net:Net --data test.npz --sigma 0.25 --estimate",
    ),
)


def certify(
    model: Annotated[
        str,
        typer.Option(
            help="module:factory; called without arguments, returns a torch module from images "
            "in [0, 1] to logits.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Images: .npz, .pt or idx (plain or .gz), uint8 or in [0, 1].", show_default=False
        ),
    ],
    sigma: Annotated[
        float,
        typer.Option(
            help="Standard deviation of the noise in [0, 1] pixel units.", show_default=False
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="State dict for the model (loaded with weights_only=True).", show_default=False
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels, where the file of the images does not hold them.", show_default=False
        ),
    ] = None,
    images_key: Annotated[
        str, typer.Option(help="Name of the images inside .npz or .pt.")
    ] = "images",
    labels_key: Annotated[
        str, typer.Option(help="Name of the labels inside .npz or .pt.")
    ] = "labels",
    max_value: Annotated[
        float, typer.Option(help="Value of a full-bright pixel in uint8 images.")
    ] = 255.0,
    n0: Annotated[int, typer.Option(help="Draws an image to select its class.")] = 100,
    n: Annotated[int, typer.Option(help="Draws an image to estimate its confidence.")] = 10_000,
    alpha: Annotated[
        float, typer.Option(help="Largest probability that an image's interval fails.")
    ] = 1e-3,
    batch_size: Annotated[
        int, typer.Option(help="Noisy images a forward pass; does not change the result.")
    ] = 1024,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    num_classes: Annotated[
        int | None,
        typer.Option(
            help="Number of classes; default: what the model puts out.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:1 ...; auto takes a GPU if there is one.")
    ] = "auto",
    limit: Annotated[
        int | None, typer.Option(help="Certify at most this many images.", show_default=False)
    ] = None,
    skip: Annotated[int, typer.Option(help="Leave out this many images at the start.")] = 0,
    out: Annotated[Path, typer.Option(help="The certificates (Parquet).")] = Path(
        "certificates.parquet"
    ),
    report: Annotated[
        Path | None, typer.Option(help="Also write the HTML page.", show_default=False)
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what the run would take.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table.")
    ] = False,
) -> None:
    """Certifies a model on images: draws noise, counts votes, writes one row an image.

    Noise and radius are in [0, 1] pixel units, so normalisation belongs inside the model. Nothing
    is written unless the whole run succeeds.
    """
    with _common.user_errors():
        _common.writable(out, "--out")
        _common.writable(report, "--report")
        from certcal_ext.datasets import load_images
        from certcal_ext.models import load_model
        from certcal_ext.smoothing import SmoothedClassifier

        images = load_images(
            data,
            labels,
            images_key=images_key,
            labels_key=labels_key,
            max_value=max_value,
            skip=skip,
            limit=limit,
        )
        if report is not None and images.labels is None:
            raise ValueError("--report: the page needs labels; give them with --labels")
        network, where = to_device(load_model(model, weights), device)
        classes = check_clean(network, images, where, num_classes)
        smooth = SmoothedClassifier(network, num_classes=classes, sigma=sigma, seed=seed)
        options = {"n0": n0, "n": n, "alpha": alpha, "batch_size": batch_size}
        expected = estimate_run(smooth, images, options)
        _common.note(
            f"{len(images.images):,} images x {n0 + n:,} draws = {expected.draws:,} forward "
            f"passes on {where}, "
            f"about {duration(expected.seconds)}; with n = {n:,} and alpha = {alpha:g} no radius "
            f"beyond "
            f"{expected.best_radius:.4g} can be certified"
        )
        if estimate:
            if as_json:
                _common.print_json({"images": len(images.images), **vars(expected)})
            return
        started = time.perf_counter()
        with shown("certifying", "draws") as show:
            certificates = run_certify(smooth, images, slice(None), options, show)
        seconds = time.perf_counter() - started
        certificates.to_parquet(out)
        if report is not None:
            from certcal_ext.report import write_report

            write_report(
                certificates,
                report,
                command=_command(model, weights, data, sigma, options, seed, skip, limit),
            )
        _show(certificates, images, out, report, seconds, as_json)


def _show(
    certificates: Certificates,
    images: ImageData,
    out: Path,
    report: Path | None,
    seconds: float,
    as_json: bool,
) -> None:
    from certcal_ext.report.facts import default_radii

    abstained = int(certificates.abstained.sum())
    curve = None if images.labels is None else certificates.curve(default_radii(certificates))
    if as_json:
        _common.print_json(
            {
                "provenance": _common.provenance(certificates),
                "total": len(certificates),
                "abstained": abstained,
                "radii": None if curve is None else _common.curve_records(curve),
                "certificates": str(out),
                "report": None if report is None else str(report),
                "seconds": seconds,
            }
        )
        return
    if curve is None:
        typer.echo(
            f"{len(certificates):,} images, {abstained:,} abstained; without labels there are no "
            f"metrics"
        )
    else:
        title = f"{len(certificates):,} images, {abstained:,} abstained, {duration(seconds)}"
        _common.print_curve(curve, title, _common.meaning(certificates))
    typer.echo(f"certificates: {out}")
    if report is not None:
        typer.echo(f"report:       {report}")


def _command(
    model: str,
    weights: Path | None,
    data: Path,
    sigma: float,
    options: dict[str, Any],
    seed: int,
    skip: int,
    limit: int | None,
) -> str:
    """The command line as the page shows it."""
    words = ["certcal certify", f"--model {model}"]
    words += [f"--weights {weights}"] if weights is not None else []
    words += [f"--data {data}", f"--sigma {sigma:g}"]
    words += [
        f"--n0 {options['n0']}",
        f"--n {options['n']}",
        f"--alpha {options['alpha']:g}",
        f"--seed {seed}",
    ]
    words += [f"--skip {skip}"] if skip else []
    words += [f"--limit {limit}"] if limit is not None else []
    return " ".join(words)
