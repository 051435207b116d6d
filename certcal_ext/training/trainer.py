# SPDX-License-Identifier: MIT
"""The training loop: order and noise that are fixed by the seed, exact resume, one process or several."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._images import checked_ids
from certcal_ext._progress import Report, reporting
from certcal_ext.distributed import Group, process_group
from certcal_ext.training import checks
from certcal_ext.training.checkpoint import (
    Checkpoint,
    Position,
    check_architecture,
    check_run,
    data_fingerprint,
    random_state,
    set_random_state,
)
from certcal_ext.training.logs import Log, open_log
from certcal_ext.training.objective import REMEDIES, Objective, Step
from certcal_ext.training.settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RunOptions(TypedDict, total=False):
    """Options of a run that do not change the model that comes out, but for the noise that ``sample_ids`` names.

    Attributes:
        sample_ids: (N,) numbers that name the samples in the noise; default 0, ..., N - 1.
        checkpoint: file to write the run's state to, at the end of each epoch and when a signal (SIGINT, SIGTERM) comes,
            which then takes effect after the step. ``load_model`` reads its weights. Default: none is written.
        checkpoint_every: also after so many steps.
        resume: whether to go on from ``checkpoint``. An existing file without ``resume`` is an error.
        log: JSONL file, one record an epoch.
        tensorboard: folder of TensorBoard's files.
        progress: True shows steps done and time left; or a function of (steps done, steps in all).
    """

    sample_ids: Any
    checkpoint: str | Path | None
    checkpoint_every: int | None
    resume: bool
    log: str | Path | None
    tensorboard: str | Path | None
    progress: bool | Report


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped the run after a whole step; its checkpoint is written."""


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A trained model.

    Attributes:
        model: the model that was given, trained; in evaluation mode.
        history: one record an epoch: loss, accuracy under noise (of the images that the objective trained on), clean
            accuracy, what the objective counts, and seconds.
        steps: steps in all.
        seconds: wall time of all steps, before interruptions too.
        seconds_inside: of it, time in attacks and in the solver of the worst case ("inner").
    """

    model: torch.nn.Module
    history: tuple[dict[str, float], ...]
    steps: int
    seconds: float
    seconds_inside: dict[str, float]


def train(
    model: torch.nn.Module,
    images: Any,
    labels: Any,
    objective: Objective,
    settings: Settings,
    **options: Unpack[RunOptions],
) -> TrainResult:
    """Trains a model, from scratch or from the weights it has.

    The order of the data and every noise are functions of the seed, the epoch and the sample, so a run depends on the number
    of processes only by the order of float sums, and one that was stopped goes on exactly. Under ``torchrun`` each
    process calls this with the same arguments and takes its part of each batch.

    Args:
        model: any torch module from images (B, ...) in [0, 1] to logits (B, K), on the device to train on; it is trained in
            place. Normalisation belongs inside it.
        images: (N, ...) float32 in [0, 1], on the host.
        labels: (N,) integers in [0, K).
        objective: what to minimise.
        settings: how.
        options: of the run, by name: those of :class:`RunOptions`.

    Returns:
        ``TrainResult``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: data, model or settings that do not fit; logits or a loss that are NaN or infinite (epoch and batch are
            named, and the last checkpoint stays); a checkpoint of another architecture or run.
        FileNotFoundError: ``resume`` without a checkpoint.
        TrainingInterrupted: a signal came; the checkpoint is written.

    Warns:
        UserWarning: after the first epoch (the first one that ends after 50 steps or more) the accuracy on clean training
            images is near chance.

    Example:
        >>> from certcal_ext.training import Gaussian
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> x = torch.rand(256, 1, 2, 2)
        >>> y = (x[:, 0, 0, 0] > 0.5).long()
        >>> settings = Settings(sigma=0.1, epochs=3, batch_size=16, learning_rate=0.2)
        >>> result = train(model, x, y, Gaussian(), settings)
        >>> result.steps, result.history[-1]["clean_accuracy"] > 0.9
        (48, True)
    """
    _check.options("train", options, RunOptions)
    _check_kinds(model, objective, settings)
    pixels, true = checks.checked_data(images, labels)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    checks.check_model(model, pixels, true, device)
    ids = checked_ids(options.get("sample_ids"), len(pixels))
    path, log, board = map(_path, map(options.get, ("checkpoint", "log", "tensorboard")))
    with process_group(device) as group:
        run = _Run(model, pixels, true, ids, objective, settings, group, device)
        run.begin(path, options.get("resume", False))
        progress = options.get("progress", False) if group.first else False
        with (
            open_log(*((log, board) if group.first else (None, None))) as record,
            reporting(progress, "training", "steps") as report,
            _signals(path is not None) as stopped,
        ):
            run.go(path, options.get("checkpoint_every"), record, report, stopped)
        run.part()
    return run.result()


def _check_kinds(model: Any, objective: Any, settings: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective, got {type(objective).__name__}")
    if not isinstance(settings, Settings):
        raise TypeError(f"settings: expected Settings, got {type(settings).__name__}")


def _path(given: Any) -> Path | None:
    return None if given is None else Path(given)


class _Run:
    """A training run and where it stands."""

    def __init__(
        self,
        model: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        ids: NDArray[np.int64],
        objective: Objective,
        settings: Settings,
        group: Group,
        device: torch.device,
    ) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.ids = torch.from_numpy(ids.copy())
        self.objective, self.settings, self.group, self.device = objective, settings, group, device
        self.batch_size = min(settings.batch_size, len(images))
        if self.batch_size < group.size:
            raise ValueError(
                f"batch_size: expected at least one image for each of the {group.size} processes, "
                f"got {self.batch_size}"
            )
        settings.first_draw(settings.epochs - 1, objective.draws)
        self.steps_per_epoch = len(images) // self.batch_size
        self.optimizer = settings.make_optimizer(model)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: settings.learning_rate_share(step, self.steps_per_epoch)
        )
        self.position = Position()
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}
        self.inside: dict[str, float] = {}
        self.seconds = 0.0
        self.forward = self._parallel() if group.size > 1 else model

    def _parallel(self) -> torch.nn.Module:
        on_gpu = self.device.type == "cuda"
        return torch.nn.parallel.DistributedDataParallel(
            self.model, device_ids=[self.device] if on_gpu else None
        )

    def part(self) -> None:
        """Lets go of the wrapper that sums gradients, whose threads must end before the process group does."""
        if self.forward is not self.model:
            self.forward = self.model
            gc.collect()

    @property
    def steps_done(self) -> int:
        return self.position.epoch * self.steps_per_epoch + self.position.batch

    def begin(self, path: Path | None, resume: bool) -> None:
        """Takes up a checkpoint, or makes sure that none would be overwritten."""
        if resume:
            if path is None:
                raise ValueError("resume: expected a checkpoint to go on from")
            self._take_up(path)
        elif path is not None:
            if path.exists():
                raise ValueError(
                    f"checkpoint: {path} exists already; go on from it with resume, or give another name"
                )
            if not path.parent.is_dir():
                raise ValueError(f"checkpoint: there is no folder {path.parent}")
        self.group.wait()

    def go(
        self,
        path: Path | None,
        every: int | None,
        log: Log,
        report: Report | None,
        stopped: threading.Event,
    ) -> None:
        """All steps that are left."""
        total = self.settings.epochs * self.steps_per_epoch
        log.start(self.steps_done)
        self.model.train()
        while self.position.epoch < self.settings.epochs:
            order = self._order(self.position.epoch)
            while self.position.batch < self.steps_per_epoch:
                started = time.perf_counter()
                self._step(order)
                self.seconds += time.perf_counter() - started
                self.position = Position(self.position.epoch, self.position.batch + 1)
                if report is not None:
                    report(self.steps_done, total)
                last = self.position.batch == self.steps_per_epoch
                if self._any(stopped.is_set()) and path is not None and not last:
                    self._save(path)
                    raise TrainingInterrupted(self._stopped_words(path))
                if every and path is not None and self.steps_done % every == 0 and not last:
                    self._save(path)
            self._end_epoch(log)
            if path is not None:
                self._save(path)
                if self._any(stopped.is_set()) and self.position.epoch < self.settings.epochs:
                    raise TrainingInterrupted(self._stopped_words(path))
        self.model.eval()

    def result(self) -> TrainResult:
        return TrainResult(
            self.model, tuple(self.history), self.steps_done, self.seconds, dict(self.inside)
        )

    def _stopped_words(self, path: Path) -> str:
        return f"stopped after step {self.steps_done}; go on from {path} with resume"

    def _any(self, flag: bool) -> bool:
        """Whether any process says so: all of them have to stop at the same step."""
        return bool(self.group.summed(np.array([int(flag)]))[0]) if self.group.size > 1 else flag

    def _order(self, epoch: int) -> NDArray[np.int64]:
        random = np.random.Generator(np.random.PCG64([self.settings.seed, epoch]))
        order: NDArray[np.int64] = random.permutation(len(self.images))
        return order

    def _step(self, order: NDArray[np.int64]) -> None:
        first = self.position.batch * self.batch_size
        rows = torch.from_numpy(self.group.share(order[first : first + self.batch_size]))
        step = Step(
            self.forward,
            self.model,
            self.images[rows].to(self.device),
            self.labels[rows].to(self.device),
            self.ids[rows].to(self.device),
            self.settings.sigma,
            self.settings.seed,
            self.settings.first_draw(self.position.epoch, self.objective.draws),
            self.settings.radius_share(self.steps_done, self.steps_per_epoch),
            self.batch_size,
            self.group,
            self.settings.precision == "bfloat16",
            f"epoch {self.position.epoch + 1}, batch {self.position.batch + 1}",
        )
        loss = self.objective.loss(step)
        names = sorted(step.facts)
        values = np.array([float(loss.detach()), *(step.facts[name] for name in names)])
        total = self.group.summed(values)
        if not np.isfinite(total[0]):
            raise ValueError(
                f"loss: expected a finite number, got {total[0]} in {step.where}; {REMEDIES}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        # DDP takes the mean of the gradients over the processes; the loss is a sum over them.
        (loss * self.group.size).backward()  # type: ignore[no-untyped-call]
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        for name, value in zip(["loss", *names], total.tolist(), strict=True):
            scale = 1.0 if name == "loss" else 1.0 / self.batch_size
            self.sums[name] = self.sums.get(name, 0.0) + value * scale
        for name, spent in step.seconds.items():
            self.inside[name] = self.inside.get(name, 0.0) + spent

    def _end_epoch(self, log: Log) -> None:
        accuracy = checks.clean_accuracy(self.model, self.images, self.labels, self.device)
        done = self.steps_done
        early = done - self.steps_per_epoch < checks.FEWEST_STEPS <= done
        if early and self.group.first:
            checks.warn_near_chance(accuracy, self.labels)
        self.position = Position(self.position.epoch + 1, 0)
        means = {name: value / self.steps_per_epoch for name, value in self.sums.items()}
        means["accuracy"] = means.pop("right")
        record = {
            "epoch": float(self.position.epoch),
            **means,
            "clean_accuracy": accuracy,
            "seconds": self.seconds,
        }
        self.history.append(record)
        self.sums = {}
        if self.group.first:
            log.write({"step": self.steps_done, **record, "method": self.objective.name})

    def _describe(self) -> dict[str, Any]:
        settings = {f"settings.{name}": value for name, value in self.settings.to_dict().items()}
        options = {f"objective.{name}": value for name, value in self.objective.settings().items()}
        return {**settings, **options, "data": data_fingerprint(self.images, self.labels)}

    def _save(self, path: Path) -> None:
        random = self.group.gathered(random_state(self.device))
        if self.group.first:
            Checkpoint(
                self.model.state_dict(),
                self.optimizer.state_dict(),
                self.scheduler.state_dict(),
                self.objective.state(),
                self.position,
                random,
                self._describe(),
                {"epochs": self.history, "sums": self.sums, "inside": self.inside},
                self.seconds,
            ).save(path)
        self.group.wait()

    def _take_up(self, path: Path) -> None:
        held = Checkpoint.load(path)
        check_architecture(path, held.weights, self.model)
        check_run(path, held.run, self._describe())
        self.model.load_state_dict(held.weights)
        self.optimizer.load_state_dict(held.optimizer)
        self.scheduler.load_state_dict(held.scheduler)
        self.objective.restore(held.objective)
        self.position, self.seconds = held.position, held.seconds
        self.history, self.sums = held.history["epochs"], held.history["sums"]
        self.inside = held.history["inside"]
        if len(held.random) == self.group.size:
            set_random_state(held.random[self.group.rank], self.device)


@contextmanager
def _signals(caught: bool) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a step is finished first; the handlers come back afterwards."""
    stopped = threading.Event()
    if not caught or threading.current_thread() is not threading.main_thread():
        with nullcontext():
            yield stopped
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopped.set()

    before = {name: signal.signal(name, handle) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
