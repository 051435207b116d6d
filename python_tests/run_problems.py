# SPDX-License-Identifier: MIT
"""Small runs in shards, and processes that take part in them: forked, so that they start at once."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from certcal_ext import Certificates, SmoothedClassifier, Stopping
from certcal_ext.model_state import frozen
from certcal_ext.runs import certify_in_shards

SAMPLES, CLASSES = 12, 3
_random = torch.Generator().manual_seed(5)
IMAGES = torch.rand(SAMPLES, 1, 4, 4, generator=_random)
LABELS = torch.arange(SAMPLES) % CLASSES
RULES = Stopping(radii=(0.05,), n_max=500, planning=50)

#: Three kinds of run, with some 50 units each.
KINDS: dict[str, dict[str, Any]] = {
    "votes": {"n0": 20, "n": 200, "keep_counts": True},
    "scores": {"n0": 20, "n": 200, "confidence": "scores", "score_bins": 50},
    "adaptive": {"n0": 20, "stopping": RULES},
}


class Net(torch.nn.Module):
    """A linear layer that does something else first, once a pass.

    Args:
        before: called with the number of the pass, from 1.
    """

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layer = torch.nn.Linear(16, CLASSES)
        self._before, self.passes = before, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        self._before(self.passes)
        result: torch.Tensor = self.layer(images.flatten(1)) * 3
        return result


def looks() -> int:
    """Passes that a run takes to see what the model is, before it draws."""
    net = Net()
    with frozen(net):
        SmoothedClassifier(net, CLASSES, sigma=0.25).checked(IMAGES, batch_size=32)
    return net.passes


def in_shards(work: Path, kind: str = "votes", net: Net | None = None, **more: Any) -> Certificates:
    """One of ``KINDS`` in small units."""
    smooth = SmoothedClassifier(net or Net(), CLASSES, sigma=0.25, seed=more.pop("seed", 1))
    images = more.pop("images", IMAGES)
    options = {"labels": LABELS, "batch_size": 32, "unit_draws": 64, **KINDS[kind], **more}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*abstain.*")
        return certify_in_shards(smooth, images, work=work, **options)


def table_bytes(certificates: Certificates, folder: Path) -> bytes:
    """The Parquet file of them."""
    path = folder / "table.parquet"
    certificates.to_parquet(path)
    return path.read_bytes()


@dataclass(frozen=True)
class Ended:
    """How a process ended: what it returned or raised, and its exit status (minus a signal's number)."""

    value: Any
    error: str
    status: int


def forked(function: Callable[[], Any]) -> int:
    """Starts a process; its number. What it returns goes to ``wait_for``."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process:
        os.close(writer)
        _readers[process] = reader
        return process
    status = 1
    try:
        os.close(reader)
        torch.set_num_threads(1)
        try:
            value, error = function(), ""
            status = 0
        except BaseException as raised:
            value, error = None, f"{type(raised).__name__}: {raised}"
            if os.environ.get("CERTCAL_TRACEBACK"):
                traceback.print_exc()
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump((value, error), pipe)
    finally:
        os._exit(status)


_readers: dict[int, int] = {}


def wait_for(process: int) -> Ended:
    """Waits until a process has ended."""
    with os.fdopen(_readers.pop(process), "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    value, error = pickle.loads(said) if said and status >= 0 else (None, "")
    return Ended(value, error, status)


def killed_after(seconds: float, function: Callable[[], Any]) -> Ended:
    """Runs it in a process that is killed (-9) after a while, or ends before."""
    process = forked(function)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return wait_for(process)


def together(
    size: int, function: Callable[[int], Any], restarts: int = 0, agent: bool = True
) -> list[Ended]:
    """Runs ``function(rank)`` in so many processes, which find each other as those of torchrun do.

    Without ``agent`` they have what a job scheduler's script gives them, and nobody who looks after them.
    """
    server, port = _store_in_a_process() if agent else (None, _free_port())

    def process(rank: int) -> Any:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": str(agent),
            "TORCHELASTIC_RESTART_COUNT": str(restarts),
        }
        return function(rank)

    started = [forked(lambda rank=rank: process(rank)) for rank in range(size)]  # type: ignore[misc]
    ended = [wait_for(process) for process in started]
    if server is not None:
        os.kill(server, signal.SIGKILL)
        wait_for(server)
    return ended


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def _store_in_a_process() -> tuple[int, int]:
    """A key-value store like that of torchrun's agent: its process and its port.

    In a process of its own, because it has threads, and what a thread holds while another forks stays held for good.
    """
    reader, writer = os.pipe()

    def serve() -> None:
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writer, f"{store.port}\n".encode())
        signal.pause()

    server = forked(serve)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return server, int(pipe.readline() or b"0")
