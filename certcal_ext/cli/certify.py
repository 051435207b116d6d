# SPDX-License-Identifier: MIT
"""``certcal certify``: certificates of the user's own model and data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext import _claims
from certcal_ext._progress import duration, shown
from certcal_ext.cli import _common, _config, _options, _run_options
from certcal_ext.cli._preflight import (
    Estimate,
    certify_run,
    check_clean,
    device_of,
    estimate_run,
    to_device,
)

if TYPE_CHECKING:
    import torch

    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.datasets import ImageData
    from certcal_ext.stopping.rules import Stopping

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
        "Mean softmax scores as confidence, with the votes of all classes kept",
        "certcal certify --model net:Net --data test.npz --sigma 0.25 --confidence scores",
    ),
    (
        "As many draws for each image as radii 0.125 and 0.25 need, 100,000 at most",
        "certcal certify --model net:Net --data test.npz --sigma 0.25 --n 100000 --stop-radii 0.125,0.25",
    ),
    (
        "Only say how long it would take",
        "certcal certify --model net:Net --data test.npz --sigma 0.25 --estimate",
    ),
    (
        "Going on after an interruption: the same options and --resume",
        "certcal certify --model net:Net --data test.npz --sigma 0.25 --resume",
    ),
    (
        "Two processes, or one for each of two GPUs (after --, torchrun takes no option for its own)",
        "torchrun --nproc-per-node=2 -m -- certcal_ext certify --model net:Net --data test.npz "
        "--sigma 0.25",
    ),
)

_STOPPED = 130


def certify(
    model: _options.Model,
    data: _options.Data,
    sigma: _options.Sigma,
    weights: _options.Weights = None,
    labels: _options.Labels = None,
    images_key: _options.ImagesKey = "images",
    labels_key: _options.LabelsKey = "labels",
    max_value: _options.MaxValue = 255.0,
    n0: Annotated[int, typer.Option(help="Draws an image to select its class.")] = 100,
    n: Annotated[int, typer.Option(help="Draws an image to estimate its confidence.")] = 10_000,
    alpha: Annotated[
        float, typer.Option(help="Largest probability that an image's interval fails.")
    ] = 1e-3,
    confidence: Annotated[
        str,
        typer.Option(
            help="votes: how often the class wins; scores: its mean softmax score, certified by the "
            "distribution of the scores."
        ),
    ] = "votes",
    score_interval: Annotated[
        str,
        typer.Option(
            help="With scores: cdf, or an interval of the mean alone: betting, bernstein, hoeffding."
        ),
    ] = "cdf",
    runner_up: Annotated[
        bool,
        typer.Option(
            "--runner-up", help="Certify by the votes of the two best classes (a tenth of alpha)."
        ),
    ] = False,
    keep_counts: Annotated[
        bool,
        typer.Option("--keep-counts", help="Keep the votes of all classes (class-wise metrics)."),
    ] = False,
    stop_radii: Annotated[
        str | None,
        typer.Option(
            help="Stop each image once these radii are decided and the metrics there are near what "
            "--n draws would give.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="With --stop-radii: how near, in ECE and Brier score.")
    ] = 0.0035,
    max_draws: Annotated[
        float | None,
        typer.Option(help="With --stop-radii: most draws an image on average.", show_default=False),
    ] = None,
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
    device: _options.Device = "auto",
    limit: Annotated[
        int | None, typer.Option(help="Certify at most this many images.", show_default=False)
    ] = None,
    skip: _options.Skip = 0,
    out: Annotated[Path, typer.Option(help="The certificates (Parquet).")] = Path(
        "certificates.parquet"
    ),
    report: _options.Report = None,
    work: _run_options.Work = None,
    resume: _run_options.Resume = False,
    keep_work: _run_options.KeepWork = False,
    unit_draws: _run_options.UnitDraws = None,
    allow_random: _options.AllowRandom = False,
    allow_batch_dependent: _options.AllowBatchDependent = False,
    allow_probabilities: _options.AllowProbabilities = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what the run would take.")
    ] = False,
    as_json: _options.Json = False,
) -> None:
    """Certifies a model on images: draws noise, counts votes, writes one row an image.

    Noise and radius are in [0, 1] pixel units, so normalisation belongs inside the model. The
    result is written when the whole run has succeeded; until then what is finished is kept in a folder, and
    --resume goes on from there.
    """
    with _common.user_errors():
        _common.writable(out, "--out")
        _common.writable(report, "--report")
        from certcal_ext.datasets import load_images
        from certcal_ext.distributed import process_group
        from certcal_ext.models import load_model
        from certcal_ext.runs import remove_work
        from certcal_ext.smoothing.classifier import SmoothedClassifier

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
        options: dict[str, Any] = {"n0": n0, "n": n, "alpha": alpha, "batch_size": batch_size}
        how: dict[str, Any] = {"confidence": confidence, "score_interval": score_interval}
        how |= {"runner_up": runner_up, "keep_counts": keep_counts}
        rules = None
        if stop_radii is not None:
            rules = _rules(stop_radii, n, tolerance, max_draws, how)
        else:
            options |= how
        folder = out.with_name(f"{out.name}.run") if work is None else work
        kept: dict[str, Any] = {"work": folder, "resume": resume, "unit_draws": unit_draws}
        with process_group(device_of(device)) as group:
            network, where = to_device(load_model(model, weights), device)
            classes = check_clean(network, images, where, num_classes, talk=group.first)
            allow = _options.allowed(allow_random, allow_batch_dependent, allow_probabilities)
            smooth = SmoothedClassifier(
                network, num_classes=classes, sigma=sigma, seed=seed, allow=allow
            )
            if group.first:
                expected = estimate_run(smooth, images, options)
                _common.note(_forecast(expected, images, options, where, group.size, bool(rules)))
                if estimate and as_json:
                    _common.print_json({"images": len(images.images), **vars(expected)})
            if estimate:
                return
            started = time.perf_counter()
            try:
                with shown("certifying", "draws") as show:
                    certificates = certify_run(smooth, images, options, kept, show, rules)
            except KeyboardInterrupt:
                if group.first:
                    _common.note(
                        f"certcal: stopped; what is finished is in {folder}, and the same command "
                        "with --resume goes on"
                    )
                raise typer.Exit(_STOPPED) from None
            seconds = time.perf_counter() - started
            if not group.first:
                return
            stored = _config.options_of_this_run()
            certificates = certificates.with_provenance(options=stored)
            certificates.to_parquet(out)
            if report is not None:
                import numpy as np

                from certcal_ext.report import write_report

                rows = np.searchsorted(images.ids, certificates.table.column("index").to_numpy())
                write_report(
                    certificates,
                    report,
                    images=images.images[rows],
                    command=_command(
                        model, weights, data, sigma, options, seed, skip, limit, stop_radii, allow
                    ),
                )
            if not keep_work:
                remove_work(folder)
        _show(certificates, images, out, report, seconds, as_json)


def _forecast(
    expected: Estimate,
    images: ImageData,
    options: dict[str, Any],
    where: torch.device,
    processes: int,
    at_most: bool,
) -> str:
    """What the run will take, in words."""
    n0, n, size = options["n0"], options["n"], len(images.images)
    best, alpha = _claims.size(expected.best_radius, 4), _claims.failure(options["alpha"])
    reach = f"; all {n:,} votes for one class would certify radius {best} at alpha = {alpha}"
    places = f"{where.type} in {processes} processes" if processes > 1 else f"{where}"
    return (
        f"{size:,} images x {n0 + n:,} draws = {expected.draws:,} forward passes on {places}, "
        f"{'at most ' if at_most else ''}about {duration(expected.seconds / processes)}"
        f"{'' if at_most else reach}"  # a run that stops early parts alpha in another way
    )


def _rules(
    radii: str, n: int, tolerance: float, most: float | None, how: dict[str, Any]
) -> Stopping:
    """The rules of stopping early.

    Raises:
        ValueError: an option that does not go with them, or out of range.
    """
    from certcal_ext.stopping.rules import Stopping

    if how["confidence"] != "votes" or how["runner_up"] or how["keep_counts"]:
        raise ValueError(
            "--stop-radii: expected votes without --runner-up and --keep-counts; other certificates "
            "take the same number of draws for every image"
        )
    listed = _common.numbers("--stop-radii", radii)
    return Stopping(radii=tuple(listed or ()), tolerance=tolerance, n_max=n, max_draws=most)


def _show(
    certificates: Certificates,
    images: ImageData,
    out: Path,
    report: Path | None,
    seconds: float,
    as_json: bool,
) -> None:
    from certcal_ext.certificates.guarantee import default_radii

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
        drawn = certificates.table.column("n").to_numpy()
        if certificates.provenance.stopping is not None:
            title += f", {drawn.mean():,.0f} draws an image on average"
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
    stop_radii: str | None,
    allow: list[str],
) -> str:
    """The command line as the page shows it."""
    words = ["certcal certify", f"--model {model}"]
    words += [f"--weights {weights}"] if weights is not None else []
    words += [f"--data {data}", f"--sigma {_claims.written(sigma)}"]
    words += [
        f"--n0 {options['n0']}",
        f"--n {options['n']}",
        f"--alpha {_claims.written(options['alpha'])}",
        f"--seed {seed}",
    ]
    if options.get("confidence") == "scores":
        words += [f"--confidence scores --score-interval {options['score_interval']}"]
    words += ["--runner-up"] if options.get("runner_up") else []
    words += ["--keep-counts"] if options.get("keep_counts") else []
    words += [f"--stop-radii {stop_radii}"] if stop_radii is not None else []
    words += [f"--allow-{name.replace('_', '-')}" for name in allow]
    words += [f"--skip {skip}"] if skip else []
    words += [f"--limit {limit}"] if limit is not None else []
    return " ".join(words)
