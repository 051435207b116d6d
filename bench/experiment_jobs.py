# SPDX-License-Identifier: MIT
"""The jobs of the experiment: one training or one certification each, in a process of its own, skipped where it is done."""

from __future__ import annotations

import json
import os
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment_plan import DataPlan, Plan, Run

import certcal_ext as cc
from certcal_ext._files import replacing
from certcal_ext.datasets import load_images
from certcal_ext.demo import load_digits
from certcal_ext.distributed import local_device
from certcal_ext.models import load_model
from certcal_ext.training import train

#: Validation draws under other keys than the test, so that the choice of a model does not depend on the test's noise.
VALIDATION_SEED = 10_000


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: "train", "validation" or "test".
        plan: the plan.
        data: the data set's part of it.
        run: the method.
        candidate: which of its candidates.
        seed: of weights, order and noise.
        folder: of the work of this data set.
        device: "auto", "cpu" ...
        threads: torch's threads.
    """

    kind: str
    plan: Plan
    data: DataPlan
    run: Run
    candidate: int
    seed: int
    folder: Path
    device: str
    threads: int

    @property
    def stem(self) -> str:
        return f"{self.run.name}-{self.candidate}-seed{self.seed}"

    @property
    def weights(self) -> Path:
        return self.folder / f"{self.stem}.pt"

    @property
    def result(self) -> Path:
        ending = "json" if self.kind == "train" else "parquet"
        kind = "" if self.kind == "train" else f"-{self.kind}"
        return self.folder / f"{self.stem}{kind}.{ending}"

    @property
    def done(self) -> bool:
        return self.result.is_file()

    def start(self) -> Path | None:
        if self.run.start is None:
            return None
        name, number = self.run.start.split("/")
        return self.folder / f"{name}-{number}-seed{self.seed}.pt"


@dataclass(frozen=True)
class Part:
    """Some images with their labels and numbers."""

    images: Any
    labels: Any
    ids: Any


@cache
def images_of(name: str, training: int, validation: int, test: int, skip: int) -> dict[str, Part]:
    """The three parts of a data set; no image is in two of them.

    The test images begin after ``skip`` images of Fashion-MNIST's test file, or of the digits in a fixed random order,
    in which what was left out goes to the training images.
    """
    if name == "digits":
        images, labels = load_digits()
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(images))
        order = np.roll(order, -skip)[: training + validation + test]
        rows = np.split(order, [test, test + validation])
        parts = [Part(images[part], labels[part], part) for part in map(np.sort, rows)]
        found = dict(zip(("test", "validation", "train"), parts, strict=True))
    elif name == "fashion-mnist":
        shared = os.environ.get(
            "CERTCAL_SHARED", Path(__file__).resolve().parents[1].parent / "shared"
        )
        folder = Path(shared) / "data" / "fashion-mnist"
        files = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
        cuts = {"train": ("train", 0, training), "validation": ("train", training, validation)}
        found = {}
        for part, (file, first, limit) in (cuts | {"test": ("test", skip, test)}).items():
            held = load_images(folder / files[file], skip=first, limit=limit)
            found[part] = Part(held.images, held.labels, held.ids)
    else:
        raise ValueError(f"datasets: expected fashion-mnist or digits, got {name!r}")
    sizes = {"train": training, "validation": validation, "test": test}
    for part, size in sizes.items():
        if len(found[part].images) != size:
            raise ValueError(
                f"{name}: expected {size} images for {part}, got {len(found[part].images)}"
            )
    return found


def do(job: Job) -> None:
    """Does a job whose result is not there yet; an interrupted training goes on exactly."""
    if job.done:
        return
    torch.set_num_threads(job.threads)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*samples abstain")
        _train(job) if job.kind == "train" else _certify(job)


def _train(job: Job) -> None:
    data = images_of(job.data.name, *job.data.sizes)["train"]
    torch.manual_seed(job.seed)
    model = load_model(job.data.model, job.start()).to(local_device(job.device))
    resumed, started = job.weights.is_file(), time.process_time()
    result = train(
        model,
        data.images,
        data.labels,
        job.run.objective(job.candidate),
        job.data.training_settings(job.run, job.seed),
        sample_ids=data.ids,
        checkpoint=job.weights,
        resume=resumed,
        log=job.weights.with_suffix(".jsonl"),
    )
    _write(
        job.result,
        {
            "run": describe(job),
            "weights": sum(p.numel() for p in model.parameters()),
            "device": str(local_device(job.device)),
            "steps": result.steps,
            "seconds": result.seconds,
            "cpu_seconds": None if resumed else time.process_time() - started,
            "seconds_inside": result.seconds_inside,
            "last_epoch": result.history[-1],
        },
    )


def describe(job: Job) -> dict[str, Any]:
    """What a training run was made from; plain values, as JSON gives them back."""
    settings = job.data.training_settings(job.run, job.seed).to_dict()
    made = {
        "model": job.data.model,
        "images": job.data.training,
        "start": job.run.start,
        "objective": job.run.objective(job.candidate).settings(),
        "settings": settings,
    }
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def check_unchanged(job: Job) -> None:
    """Raises where a result in the folder is of another plan.

    Raises:
        ValueError: it is; the file is named.
    """
    if (
        job.kind == "train"
        and job.done
        and json.loads(job.result.read_text())["run"] != describe(job)
    ):
        raise ValueError(
            f"{job.result} is of another plan; give another folder with --work, or remove the files {job.stem}*"
        )


def _certify(job: Job) -> None:
    data = images_of(job.data.name, *job.data.sizes)[job.kind]
    validation = job.kind == "validation"
    model = load_model(job.data.model, job.weights).to(local_device(job.device))
    smooth = cc.SmoothedClassifier(
        model,
        num_classes=10,
        sigma=job.data.sigma,
        seed=job.seed + (VALIDATION_SEED if validation else 0),
    )
    made = smooth.certify(
        torch.from_numpy(data.images),
        torch.from_numpy(data.labels),
        n0=job.data.n0,
        n=job.data.validation_n if validation else job.data.n,
        alpha=job.plan.alpha,
        batch_size=job.data.batch_size,
        confidence="scores",
        sample_ids=torch.from_numpy(data.ids),
    )
    made.to_parquet(job.result)


def _write(path: Path, record: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())
