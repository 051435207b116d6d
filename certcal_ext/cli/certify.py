# SPDX-License-Identifier: MIT
"""``certcal certify``: certificates of the user's own model and data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext import _claims
from certcal_ext._progress import duration, shown
from certcal_ext.cli import _common, _config, _options
from certcal_ext.cli._preflight import Estimate, certify_run, check_clean, device_of, estimate_run
from certcal_ext.cli._tables import curve_part, curve_records, print_json, summary
from certcal_ext.cli._unfold import Panel, unfolded

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


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """What is drawn for each image, and what it proves.

    Attributes:
        sigma: standard deviation of the noise in [0, 1] pixel units.
        n0: draws an image to select its class.
        n: draws an image to estimate its confidence.
        alpha: largest probability that an image's interval fails.
        confidence: votes: how often the class wins; scores: its mean softmax score, certified by the distribution of the
            scores.
        score_interval: with scores: cdf, or an interval of the mean alone: betting, bernstein, hoeffding.
        runner_up: certify by the votes of the two best classes (a tenth of alpha).
        keep_counts: keep the votes of all classes (class-wise metrics).
        stop_radii: stop each image once these radii are decided and the metrics there are near what --n draws would give.
        tolerance: with --stop-radii: how near, in ECE and Brier score.
        max_draws: with --stop-radii: most draws an image on average.
        seed: seed of the noise.
    """

    sigma: float
    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3
    confidence: str = "votes"
    score_interval: str = "cdf"
    runner_up: bool = False
    keep_counts: bool = False
    stop_radii: str | None = None
    tolerance: float = 0.0035
    max_draws: float | None = None
    seed: int = 0

    def rules(self) -> Stopping | None:
        """The rules of stopping early, where that is asked for.

        Raises:
            ValueError: an option that does not go with them, or out of range.
        """
        from certcal_ext.stopping.rules import Stopping

        listed = _common.numbers("--stop-radii", self.stop_radii)
        if listed is None:
            return None
        if self.confidence != "votes" or self.runner_up or self.keep_counts:
            raise ValueError(
                "--stop-radii: expected votes without --runner-up and --keep-counts; other certificates "
                "take the same number of draws for every image"
            )
        return Stopping(
            radii=tuple(listed), tolerance=self.tolerance, n_max=self.n, max_draws=self.max_draws
        )

    def plan(self) -> dict[str, Any]:
        """What ``SmoothedClassifier.certify`` is told; a run that stops early knows votes only."""
        names = ["n0", "n", "alpha"]
        if self.stop_radii is None:
            names += ["confidence", "score_interval", "runner_up", "keep_counts"]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class RunOptions(_options.RunOptions):
    """What is kept of what is finished, too.

    Attributes:
        num_classes: number of classes; default: what the model puts out.
        work: folder for what is finished, shared by all processes; default: beside --out. Removed at the end.
        resume: go on with what is in the folder, if there is anything.
        keep_work: leave the folder where it is at the end.
        unit_draws: noisy images that are kept together: what an interruption can cost; default: about three seconds' worth.
            Does not change the result.
    """

    num_classes: int | None = None
    work: Path | None = None
    resume: bool = False
    keep_work: bool = False
    unit_draws: int | None = None


@dataclass(frozen=True, kw_only=True)
class OutputOptions(_options.PageOptions):
    """Where the results go.

    Attributes:
        out: the certificates (Parquet).
    """

    out: Path = Path("certificates.parquet")


@unfolded
def certify(
    model: _options.JudgedModel,
    images: _options.SomeImages,
    draws: Annotated[DrawOptions, Panel("Draws")],
    how: Annotated[RunOptions, Panel("Run")],
    output: Annotated[OutputOptions, Panel("Output")],
) -> None:
    """Certifies a model on images: draws noise, counts votes, writes one row an image.

    Noise and radius are in [0, 1] pixel units, so normalisation belongs inside the model. The
    result is written when the whole run has succeeded; until then what is finished is kept in a folder, and
    --resume goes on from there.
    """
    _common.writable(output.out, "--out")
    _common.writable(output.report, "--report")
    from certcal_ext.distributed import process_group
    from certcal_ext.smoothing.classifier import SmoothedClassifier

    data = images.load_some()
    if output.report is not None and data.labels is None:
        raise ValueError("--report: the page needs labels; give them with --labels")
    rules = draws.rules()
    options = {**draws.plan(), "batch_size": how.batch_size}
    with process_group(device_of(model.device)) as group:
        network, where = model.load_there()
        classes = check_clean(network, data, where, how.num_classes, talk=group.first)
        smooth = SmoothedClassifier(
            network, num_classes=classes, sigma=draws.sigma, seed=draws.seed, allow=model.allow
        )
        if group.first:
            expected = estimate_run(smooth, data, options)
            _common.note(_forecast(expected, data, options, where, group.size, bool(rules)))
            if how.estimate and output.as_json:
                print_json({"images": len(data.images), **vars(expected)})
        if how.estimate:
            return
        started = time.perf_counter()
        folder = output.out.with_name(f"{output.out.name}.run") if how.work is None else how.work
        kept = {"work": folder, "resume": how.resume, "unit_draws": how.unit_draws}
        try:
            with shown("certifying", "draws") as show:
                certificates = certify_run(smooth, data, options, kept, show, rules)
        except KeyboardInterrupt:
            if group.first:
                _common.note(
                    f"certcal: stopped; what is finished is in {folder}, and the same command "
                    "with --resume goes on"
                )
            raise typer.Exit(_common.STOPPED) from None
        seconds = time.perf_counter() - started
        if not group.first:
            return
        certificates = certificates.with_provenance(options=_config.options_of_this_run())
        _write(certificates, data, output)
        if not how.keep_work:
            from certcal_ext.runs import remove_work

            remove_work(folder)
    _show(certificates, data, output, seconds)


def _write(certificates: Certificates, data: ImageData, output: OutputOptions) -> None:
    """The table, and the page that was asked for."""
    certificates.to_parquet(output.out)
    if output.report is None:
        return
    import numpy as np

    from certcal_ext.report import write_report

    rows = np.searchsorted(data.ids, certificates.table.column("index").to_numpy())
    command = _config.command_of_this_run()
    write_report(certificates, output.report, images=data.images[rows], command=command)


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


def _show(
    certificates: Certificates, images: ImageData, output: OutputOptions, seconds: float
) -> None:
    from certcal_ext.certificates.guarantee import default_radii

    abstained = int(certificates.abstained.sum())
    curve = None if images.labels is None else certificates.curve(default_radii(certificates))
    if output.as_json:
        print_json(
            {
                **summary(certificates),
                "radii": None if curve is None else curve_records(curve),
                "certificates": str(output.out),
                "report": None if output.report is None else str(output.report),
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
        curve_part(certificates, curve, title).show()
    typer.echo(f"certificates: {output.out}")
    if output.report is not None:
        typer.echo(f"report:       {output.report}")
