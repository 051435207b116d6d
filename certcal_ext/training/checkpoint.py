# SPDX-License-Identifier: MIT
"""Checkpoints from which training goes on exactly as if it had not stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from certcal_ext._files import replacing
from certcal_ext.datasets import load_torch_file

_FORMAT = 1
_KEYS = {
    "certcal_training",
    "state_dict",
    "optimizer",
    "scheduler",
    "objective",
    "position",
    "random",
    "run",
    "history",
    "seconds",
}


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        epoch: epochs that are done.
        batch: batches of the next epoch that are done.
    """

    epoch: int = 0
    batch: int = 0


@dataclass
class Checkpoint:
    """All that a run needs to go on.

    Attributes:
        weights: the model's state dict.
        optimizer: the optimiser's.
        scheduler: the learning rate's.
        objective: what the objective keeps of earlier steps.
        position: how far the run is.
        random: of each process, the states of torch's generators.
        run: settings, objective and data, which have to be the same.
        history: the records of the epochs that are done, and the sums of the one that is not.
        seconds: wall time so far.
    """

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    objective: dict[str, Any]
    position: Position
    random: list[dict[str, Any]]
    run: dict[str, Any]
    history: dict[str, Any]
    seconds: float

    def save(self, path: Path) -> None:
        """Writes aside and renames: an interruption leaves the old file or the new one, whole."""
        content = {
            "certcal_training": _FORMAT,
            "state_dict": self.weights,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "objective": self.objective,
            "position": {"epoch": self.position.epoch, "batch": self.position.batch},
            "random": self.random,
            "run": self.run,
            "history": self.history,
            "seconds": self.seconds,
        }
        with replacing(path) as file:
            torch.save(content, file)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Reads a checkpoint; no code is run.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or no checkpoint of a training run.
        """
        if not path.is_file():
            raise FileNotFoundError(f"checkpoint: no such file: {path}")
        try:
            held = load_torch_file(path)
        except OSError as error:  # what torch makes of some files that are cut
            raise ValueError(f"checkpoint: {path} cannot be read: {error}") from error
        if not isinstance(held, Mapping) or not set(held) >= _KEYS:
            raise ValueError(
                f"checkpoint: {path} is no checkpoint of certcal train; weights alone are given "
                "with weights="
            )
        stored = held["certcal_training"]
        if type(stored) is not int or stored != _FORMAT:
            raise ValueError(
                f"checkpoint: {path} has format {stored!r}, this version reads {_FORMAT}"
            )
        position = held["position"]
        whole = isinstance(position, Mapping) and all(
            type(position.get(name)) is int and position[name] >= 0 for name in ("epoch", "batch")
        )
        parts = ("state_dict", "optimizer", "scheduler", "objective", "run", "history")
        if (
            not whole
            or not all(isinstance(held[name], Mapping) for name in parts)
            or not isinstance(held["random"], list)
            or not isinstance(held["seconds"], (int, float))
        ):
            raise ValueError(
                f"checkpoint: {path} has parts of other kinds than certcal train writes"
            )
        return cls(
            held["state_dict"],
            held["optimizer"],
            held["scheduler"],
            held["objective"],
            Position(position["epoch"], position["batch"]),
            held["random"],
            held["run"],
            held["history"],
            held["seconds"],
        )


def check_architecture(path: Path, weights: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Checks that weights are of this model before anything is changed.

    Raises:
        ValueError: a weight is missing, unknown or of another shape; the first one is named.
    """
    own = model.state_dict()
    for name in [*own, *weights]:
        mine, theirs = (_shape(state.get(name)) for state in (own, weights))
        if mine != theirs:
            raise ValueError(
                f"checkpoint: {path} is of another architecture: {name} is {theirs} there and "
                f"{mine} in the model"
            )


def _shape(value: Any) -> str:
    if value is None:
        return "absent"
    return f"of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else "no tensor"


def check_run(path: Path, stored: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Checks that a run goes on as it was begun.

    Raises:
        ValueError: a setting, an option of the objective or the data differ; all are named.
    """
    different = [
        f"{name} was {stored.get(name)!r} and is {present.get(name)!r}"
        for name in dict.fromkeys([*stored, *present])
        if stored.get(name) != present.get(name)
    ]
    if different:
        raise ValueError(f"checkpoint: {path} is of another run: {'; '.join(different)}")


def data_fingerprint(images: torch.Tensor, labels: torch.Tensor) -> str:
    """The first 16 hexadecimal digits of SHA-256 over shape, pixels and labels."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.contiguous().numpy().tobytes())
    digest.update(labels.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of torch's generators that a step may use."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts the generators back."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
