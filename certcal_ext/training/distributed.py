# SPDX-License-Identifier: MIT
"""Several processes that train one model: who has which samples, and sums over all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """The processes of a training run; one alone needs no process group.

    Attributes:
        rank: number of this process.
        size: number of processes.
        device: where sums are made; collective operations of NCCL need a GPU.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of the rows of a batch: neighbours, parts that differ by one row at most."""
        return np.array_split(rows, self.size)[self.rank]

    def summed(self, values: NDArray[Any]) -> NDArray[Any]:
        """The sum of an array over all processes; integers exactly."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(self.device).clone()
        torch.distributed.all_reduce(tensor)
        result: NDArray[Any] = tensor.cpu().numpy()
        return result

    def gathered(self, value: Any) -> list[Any]:
        """The value of every process, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """The group that ``torchrun`` started, or one process alone.

    A process group that exists already is used and left as it is; one that is started here is ended here.

    Args:
        device: where this process computes: NCCL for CUDA, else gloo.

    Raises:
        ValueError: the environment says that there are several processes, and this torch cannot connect them.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        yield _present(device)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    if not distributed.is_available():
        raise ValueError("torchrun: this build of torch cannot connect several processes")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield _present(device)
        distributed.barrier()  # no process hangs up while another is still listening
    finally:
        distributed.destroy_process_group()


def _present(device: torch.device) -> Group:
    distributed = torch.distributed
    on_gpu = distributed.get_backend() == "nccl"
    return Group(
        distributed.get_rank(),
        distributed.get_world_size(),
        device if on_gpu else torch.device("cpu"),
    )


def local_device(name: str) -> torch.device:
    """The device of this process: under ``torchrun``, GPUs are dealt out by local rank.

    Args:
        name: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" ...

    Raises:
        ValueError: there is no such device here.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(chosen)
    except RuntimeError as error:
        raise ValueError(f"device: {str(error).splitlines()[0]}") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device: {name} cannot be used: torch sees no GPU here")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device
