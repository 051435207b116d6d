# SPDX-License-Identifier: MIT
"""Several processes that work on one thing: who is who, sums over all, and one that fails ends all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
except ImportError as error:  # pragma: no cover
    raise ImportError('several processes need torch: pip install "certcal_ext[torch]"') from error

_FAULT = "fault"


@dataclass(frozen=True)
class Group:
    """The processes of a run; one alone needs no process group.

    Attributes:
        rank: number of this process.
        size: number of processes.
        device: where sums are made: collective operations of NCCL need a GPU.
        store: what all processes can look up and count in; None for one alone.

    Example:
        >>> alone = Group()
        >>> alone.first, alone.added("units", 2), alone.added("units", 1)
        (True, 2, 3)
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Any = field(default=None, repr=False, compare=False)
    _counts: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        with self._talking():
            torch.distributed.all_reduce(tensor)
        result: NDArray[Any] = tensor.cpu().numpy()
        return result

    def gathered(self, value: Any) -> list[Any]:
        """The value of every process, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._talking():
            torch.distributed.all_gather_object(values, value)
        return values

    def told(self, value: Any) -> Any:
        """The first process's value, in every process."""
        if self.size == 1:
            return value
        holder = [value]
        with self._talking():
            torch.distributed.broadcast_object_list(holder, src=0)
        return holder[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            with self._talking():
                torch.distributed.barrier()

    def added(self, name: str, amount: int) -> int:
        """A number that all processes count up, after this process's addition; nobody is waited for."""
        if self.store is None:
            self._counts[name] = self._counts.get(name, 0) + amount
            return self._counts[name]
        with self._talking():
            return int(self.store.add(name, amount))

    def require_all_well(self) -> None:
        """Raises where another process has failed, so that nobody works on for nothing.

        Raises:
            ConnectionError: one did; the message is its own.
        """
        if self.store is None:
            return
        with self._talking():
            failed = self.store.check([_FAULT])
        if failed:
            raise self._of_fault()

    def tell_fault(self, error: BaseException) -> None:
        """Leaves word for the others that this process has failed; the first word stays."""
        if self.store is None or isinstance(error, ConnectionError):
            return
        words = " ".join(str(error).split()) or type(error).__name__
        try:
            self.store.compare_set(_FAULT, "", f"process {self.rank} failed: {words}")
        except RuntimeError:
            return  # the store went with its process, and the others see that themselves

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turns a broken connection into what broke it."""
        try:
            yield
        except RuntimeError as error:
            raise self._of_fault() from error

    def _of_fault(self) -> ConnectionError:
        try:
            if self.store is not None and self.store.check([_FAULT]):
                return ConnectionError(str(self.store.get(_FAULT), "utf-8"))
        except RuntimeError:
            return ConnectionError("the process that kept the group together has ended")
        return ConnectionError("another process has ended without a word, or cannot be reached")


@contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """The group that ``torchrun`` or a job scheduler's environment describes, or one process alone.

    The environment has RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. A process group that exists already is used and left
    as it is; one that is started here is ended here. A process that fails leaves word for the others.

    Args:
        device: where this process computes; a GPU is the current one as long as the group lasts. Messages go over gloo,
            tensors on a GPU over NCCL.

    Raises:
        ValueError: the environment says that there are several processes, and this torch cannot connect them.
    """
    with (
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
        _group(device) as group,
    ):
        yield group


@contextmanager
def _group(device: torch.device) -> Iterator[Group]:
    distributed = torch.distributed
    present = distributed.is_available() and distributed.is_initialized()
    if not present:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield Group()
            return
        if not distributed.is_available():
            raise ValueError("torchrun: this build of torch cannot connect several processes")
        _start("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        group = _present(device)
        try:
            yield group
        except BaseException as error:
            group.tell_fault(error)
            raise
        if not present:
            group.wait()  # no process hangs up while another is still listening
    finally:
        if not present:
            distributed.destroy_process_group()


def _start(backend: str) -> None:
    """Starts a process group as the environment says.

    torchrun's store outlives a restart, and holds the addresses of the processes that are gone; so each start has names of
    its own there.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(iter(rendezvous("env://")))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    torch.distributed.init_process_group(
        backend, store=PrefixStore(f"certcal/start {attempt}", store), rank=rank, world_size=size
    )


def _present(device: torch.device) -> Group:
    distributed = torch.distributed
    rank, size = distributed.get_rank(), distributed.get_world_size()
    token = [uuid.uuid4().hex]  # a process group may serve several runs
    distributed.broadcast_object_list(token, src=0)
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    whole = _get_default_store()
    store = PrefixStore(f"certcal/{token[0]}", whole) if size > 1 else None
    return Group(rank, size, device, store)


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
