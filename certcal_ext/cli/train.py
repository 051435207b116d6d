# SPDX-License-Identifier: MIT
"""``certcal train``: training on the user's own data, with noise, on adversaries or on the certificate itself."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext._progress import duration, shown
from certcal_ext.cli import _options
from certcal_ext.cli._common import STOPPED, examples, note, writable
from certcal_ext.cli._tables import print_json, print_table
from certcal_ext.cli._unfold import Panel, unfolded
from certcal_ext.training.settings import Settings

if TYPE_CHECKING:
    import torch

    from certcal_ext.datasets import ImageData
    from certcal_ext.training import Objective, TrainResult

EXAMPLES = examples(
    (
        "With Gaussian noise, from scratch",
        "certcal train --model certcal_ext.nets:small_cnn --data train-images-idx3-ubyte.gz "
        "--sigma 0.5 --method gaussian --out gaussian.pt",
    ),
    (
        "On the certificate itself",
        "certcal train --model certcal_ext.nets:small_cnn --data train-images-idx3-ubyte.gz "
        "--sigma 0.5 --method certificate --radius 0.5 --out certificate.pt",
    ),
    (
        "Fine-tuning on calibration adversaries",
        "certcal train --model certcal_ext.nets:small_cnn --weights smoothadv.pt --data "
        "train-images-idx3-ubyte.gz --sigma 0.5 --method cce-act --radius 0.5 --epochs 5 --out "
        "act.pt",
    ),
    (
        "Going on after an interruption: the same options and --resume",
        "certcal train --model certcal_ext.nets:small_cnn --data train-images-idx3-ubyte.gz "
        "--sigma 0.5 --method gaussian --out gaussian.pt --resume",
    ),
    (
        "Two processes",
        "torchrun --nproc-per-node=2 -m certcal_ext train --model certcal_ext.nets:small_cnn --data "
        "train-images-idx3-ubyte.gz --sigma 0.5 --method gaussian --out gaussian.pt",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Options of some methods each; None is the method's own default.

    Attributes:
        radius: l2 radius of the attack or the certificate, all methods but gaussian.
        draws: noises an image and step; default: the method's.
        steps: gradient steps of the attack.
        metric: certificate: brier or ece; default brier.
        weight: weight of the calibration loss (ACT, certificate).
        cross_entropy: ACT: weight of the cross-entropy; default 1.
        margin_weight: weight of the prediction's margin (ACT, certificate).
        interval: cdf or mean; default cdf.
        window: batches whose tables give the signs of the ECE's bins.
        admm_steps: acce-act: steps of its solver.
    """

    radius: float | None = None
    draws: int | None = None
    steps: int | None = None
    metric: str | None = None
    weight: float | None = None
    cross_entropy: float | None = None
    margin_weight: float | None = None
    interval: str | None = None
    window: int | None = None
    admm_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the results go."""

    out: Annotated[
        Path,
        typer.Option(help="Checkpoint: weights for certcal certify, and all that --resume needs."),
    ]
    checkpoint_every: Annotated[
        int | None,
        typer.Option(help="Also write the checkpoint after so many steps; else after each epoch."),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint --out.")] = (
        False
    )
    log: Annotated[Path | None, typer.Option(help="JSONL file, one record an epoch.")] = None
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard.")] = None
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what the run would take.")
    ] = False
    as_json: _options.Json = False


@unfolded
def train(
    model: _options.Model,
    images: _options.SomeImages,
    method: Annotated[
        str,
        typer.Option(
            help="gaussian, smoothadv, brier-act, cce-act, acce-act or certificate.",
            show_default=False,
            rich_help_panel="Objective",
        ),
    ],
    goal: Annotated[ObjectiveOptions, Panel("Objective")],
    settings: Annotated[Settings, Panel("Training", frozenset({"clip_norm"}))],
    output: Annotated[OutputOptions, Panel("Output")],
) -> None:
    """Trains a model so that its confidences hold under attack.

    The order of the data and every noise are fixed by the seed. Ctrl-C finishes the step and writes the
    checkpoint; --resume goes on exactly from there.
    """
    writable(output.out, "--out")
    writable(output.log, "--log")
    import torch

    from certcal_ext.distributed import local_device

    objective = make_objective(method, **dataclasses.asdict(goal))
    data = images.load_some()
    if data.labels is None:
        raise ValueError("--labels: training needs them; the file of the images has none")
    where = local_device(model.device)
    torch.manual_seed(settings.seed)
    network = model.load().to(where)
    if _forecast(network, objective, settings, data, where, output):
        return
    result = _run(network, objective, settings, data, output)
    if _first():
        _show(result, objective, output.out, output.as_json)


def _first() -> bool:
    """Whether this process is the one that talks."""
    return int(os.environ.get("RANK", "0")) == 0


def _forecast(
    network: torch.nn.Module,
    objective: Objective,
    settings: Settings,
    data: ImageData,
    where: torch.device,
    output: OutputOptions,
) -> bool:
    """Says what the run will take; whether that was all that was asked for."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    what = f"{len(data.images):,} images, {settings.epochs} epochs of {objective.name}"
    if processes > 1:
        if output.estimate:
            raise ValueError("--estimate: expected one process")
        if _first():
            note(f"{what} in {processes} processes, {objective.draws} noises an image and step")
        return False
    try:
        expected = estimate_training(network, objective, settings, data)
    except KeyboardInterrupt:
        note("certcal: stopped; nothing is written")
        raise typer.Exit(STOPPED) from None
    note(
        f"{what} on {where}: {expected.steps:,} steps of {settings.batch_size:,} images with "
        f"{objective.draws} noises each, about {duration(expected.seconds)}"
    )
    if output.estimate and output.as_json:
        print_json({"images": len(data.images), **vars(expected)})
    return output.estimate


def _run(
    network: torch.nn.Module,
    objective: Objective,
    settings: Settings,
    data: ImageData,
    output: OutputOptions,
) -> TrainResult:
    from certcal_ext.training import train as run
    from certcal_ext.training.trainer import TrainingInterrupted

    with shown("training", "steps") as show:
        try:
            return run(
                network,
                data.images,
                data.labels,
                objective,
                settings,
                sample_ids=data.ids,
                checkpoint=output.out,
                checkpoint_every=output.checkpoint_every,
                resume=output.resume,
                log=output.log,
                tensorboard=output.tensorboard,
                progress=show,
            )
        except TrainingInterrupted as stopped:
            note(f"certcal: {stopped}".replace(" with resume", " with --resume"))
            raise typer.Exit(STOPPED) from None


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training run will take.

    Attributes:
        steps: optimiser steps in all.
        draws: noisy images in all; an attack passes each several times.
        seconds: expected time.
    """

    steps: int
    draws: int
    seconds: float


def estimate_training(
    network: torch.nn.Module, objective: Objective, settings: Settings, images: ImageData
) -> TrainingEstimate:
    """Times one step of the real thing on a copy of the model, after one that warms up.

    Args:
        network: the model on its device; it is not changed.
        objective: what will be minimised.
        settings: of the run.
        images: the training data, with labels.

    Returns:
        The estimate.

    Raises:
        TypeError: as the run will.
        ValueError: as the run will, for data, model or settings that do not fit.
    """
    import torch

    from certcal_ext.training import train as run

    one_step = dataclasses.replace(settings, epochs=1)
    some = slice(0, settings.batch_size)
    labels = images.labels
    assert labels is not None  # the caller has seen to it
    seconds = 0.0
    for _ in range(2):
        ends: list[float] = []

        def show(done: int, total: int, ends: list[float] = ends) -> None:
            ends.append(time.perf_counter())

        copied, goal = copy.deepcopy((network, objective))  # an objective may remember batches
        started = time.perf_counter()
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(
                copied,
                images.images[some],
                labels[some],
                goal,
                one_step,
                sample_ids=images.ids[some],
                progress=show,
            )
        seconds = ends[-1] - started
    steps = settings.epochs * (len(images.images) // settings.batch_size)
    draws = steps * settings.batch_size * objective.draws
    return TrainingEstimate(steps=steps, draws=draws, seconds=steps * seconds)


def make_objective(method: str, **options: Any) -> Objective:
    """The objective of a method; options that are None keep their default.

    Args:
        method: its name.
        options: by the names of the command line.

    Returns:
        The objective.

    Raises:
        ValueError: no such method, or an option that it does not have or lacks.

    Example:
        >>> make_objective("smoothadv", radius=0.5, draws=None).settings()["radius"]
        0.5
    """
    from certcal_ext.training import METHODS

    if method not in METHODS:
        raise ValueError(f"--method: expected one of {', '.join(METHODS)}, got {method!r}")
    kind = METHODS[method]
    given = {name: value for name, value in options.items() if value is not None}
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in given:
        if name not in fields:
            raise ValueError(f"--{name.replace('_', '-')}: {method} has no such option")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and name not in given
        if needed:
            raise ValueError(f"--{name.replace('_', '-')}: {method} needs it")
    return kind(**given)


def _show(result: TrainResult, objective: Objective, out: Path, as_json: bool) -> None:
    inside = {
        name: spent / max(result.seconds, 1e-9) for name, spent in result.seconds_inside.items()
    }
    if as_json:
        print_json(
            {
                "objective": objective.settings(),
                "steps": result.steps,
                "seconds": result.seconds,
                "share_of_seconds": inside,
                "history": [dict(record) for record in result.history],
                "checkpoint": str(out),
            }
        )
        return
    names = [name for name in result.history[-1] if name not in ("epoch", "seconds")]
    rows = [
        [f"{record['epoch']:.0f}", *(f"{record[name]:.4g}" for name in names)]
        for record in result.history
    ]
    print_table("", [name.replace("_", " ") for name in ("epoch", *names)], rows)
    shares = "".join(f", {name} {share:.1%} of it" for name, share in inside.items())
    typer.echo(f"{result.steps:,} steps, {duration(result.seconds)}{shares}\ncheckpoint: {out}")
