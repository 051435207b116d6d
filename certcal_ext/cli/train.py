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
from certcal_ext.cli._common import (
    console,
    examples,
    note,
    print_json,
    user_errors,
    writable,
)

if TYPE_CHECKING:
    import torch

    from certcal_ext.datasets import ImageData
    from certcal_ext.training import Objective, Settings, TrainResult

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

_STOPPED = 130


def train(
    model: _options.Model,
    data: _options.Data,
    sigma: _options.Sigma,
    method: Annotated[
        str,
        typer.Option(
            help="gaussian, smoothadv, brier-act, cce-act, acce-act or certificate.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Checkpoint: weights for certcal certify, and all that --resume needs.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights to start from (fine-tuning).", show_default=False),
    ] = None,
    labels: _options.Labels = None,
    images_key: _options.ImagesKey = "images",
    labels_key: _options.LabelsKey = "labels",
    max_value: _options.MaxValue = 255.0,
    limit: Annotated[
        int | None, typer.Option(help="Train on at most this many images.", show_default=False)
    ] = None,
    skip: _options.Skip = 0,
    radius: Annotated[
        float | None,
        typer.Option(
            help="l2 radius of the attack or the certificate, all methods but gaussian.",
            show_default=False,
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(help="Noises an image and step; default: the method's.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Gradient steps of the attack.", show_default=False)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="certificate: brier or ece; default brier.", show_default=False),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(help="Weight of the calibration loss (ACT, certificate).", show_default=False),
    ] = None,
    cross_entropy: Annotated[
        float | None,
        typer.Option(help="ACT: weight of the cross-entropy; default 1.", show_default=False),
    ] = None,
    margin_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the prediction's margin (ACT, certificate).", show_default=False
        ),
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="cdf or mean; default cdf.", show_default=False)
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Batches whose tables give the signs of the ECE's bins.", show_default=False
        ),
    ] = None,
    admm_steps: Annotated[
        int | None, typer.Option(help="acce-act: steps of its solver.", show_default=False)
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 20,
    batch_size: Annotated[
        int, typer.Option(help="Images a step, over all processes together.")
    ] = 128,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    learning_rate: Annotated[float, typer.Option(help="The largest learning rate.")] = 2e-3,
    weight_decay: Annotated[float, typer.Option(help="Of the optimiser.")] = 1e-4,
    warmup: Annotated[
        float, typer.Option(help="Epochs in which the learning rate rises; then it falls.")
    ] = 1.0,
    radius_warmup: Annotated[
        float, typer.Option(help="Epochs in which the radius rises from 0.")
    ] = 0.0,
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16: forward passes under autocast.")
    ] = "float32",
    seed: Annotated[int, typer.Option(help="Seed of weights, order and noise.")] = 0,
    device: _options.Device = "auto",
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            help="Also write the checkpoint after so many steps; else after each epoch.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint --out.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option(help="JSONL file, one record an epoch.", show_default=False)
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard.", show_default=False)
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what the run would take.")
    ] = False,
    as_json: _options.Json = False,
) -> None:
    """Trains a model so that its confidences hold under attack.

    The order of the data and every noise are fixed by the seed. Ctrl-C finishes the step and writes the
    checkpoint; --resume goes on exactly from there.
    """
    with user_errors():
        writable(out, "--out")
        writable(log, "--log")
        import torch

        from certcal_ext.datasets import load_images
        from certcal_ext.distributed import local_device
        from certcal_ext.models import load_model
        from certcal_ext.training import Settings
        from certcal_ext.training import train as run
        from certcal_ext.training.trainer import TrainingInterrupted

        objective = make_objective(
            method,
            radius=radius,
            draws=draws,
            steps=steps,
            metric=metric,
            weight=weight,
            cross_entropy=cross_entropy,
            margin_weight=margin_weight,
            interval=interval,
            window=window,
            admm_steps=admm_steps,
        )
        settings = Settings(
            sigma=sigma,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup=warmup,
            radius_warmup=radius_warmup,
            precision=precision,  # type: ignore[arg-type]
            seed=seed,
        )
        images = load_images(
            data,
            labels,
            images_key=images_key,
            labels_key=labels_key,
            max_value=max_value,
            skip=skip,
            limit=limit,
        )
        if images.labels is None:
            raise ValueError("--labels: training needs them; the file of the images has none")
        where = local_device(device)
        torch.manual_seed(seed)
        network = load_model(model, weights).to(where)
        first = int(os.environ.get("RANK", "0")) == 0
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        if estimate and not alone:
            raise ValueError("--estimate: expected one process")
        if alone:
            try:
                expected = estimate_training(network, objective, settings, images)
            except KeyboardInterrupt:
                note("certcal: stopped; nothing is written")
                raise typer.Exit(_STOPPED) from None
            note(
                f"{len(images.images):,} images, {epochs} epochs of {method} on {where}: "
                f"{expected.steps:,} steps of {batch_size:,} images with {objective.draws} noises "
                f"each, about {duration(expected.seconds)}"
            )
            if estimate:
                if as_json:
                    print_json({"images": len(images.images), **vars(expected)})
                return
        elif first:
            note(
                f"{len(images.images):,} images, {epochs} epochs of {method} in "
                f"{os.environ['WORLD_SIZE']} processes, {objective.draws} noises an image "
                "and step"
            )
        with shown("training", "steps") as show:
            try:
                result = run(
                    network,
                    images.images,
                    images.labels,
                    objective,
                    settings,
                    sample_ids=images.ids,
                    checkpoint=out,
                    checkpoint_every=checkpoint_every,
                    resume=resume,
                    log=log,
                    tensorboard=tensorboard,
                    progress=show,
                )
            except TrainingInterrupted as stopped:
                note(f"certcal: {stopped}".replace(" with resume", " with --resume"))
                raise typer.Exit(_STOPPED) from None
        if first:
            _show(result, objective, out, as_json)


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
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    names = [name for name in result.history[-1] if name not in ("epoch", "seconds")]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("epoch", *names):
        table.add_column(name.replace("_", " "), justify="right")
    for record in result.history:
        table.add_row(f"{record['epoch']:.0f}", *(f"{record[name]:.4g}" for name in names))
    console().print(table)
    shares = "".join(f", {name} {share:.1%} of it" for name, share in inside.items())
    typer.echo(f"{result.steps:,} steps, {duration(result.seconds)}{shares}\ncheckpoint: {out}")
