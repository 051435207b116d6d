# SPDX-License-Identifier: MIT
"""Runs in shards against plain ones: what sharding and writing cost, and what a second process brings.

Run with: python bench/bench_runs.py [--quick]  (on a machine where two cores are free)
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import harness
import numpy as np
import torch

from certcal_ext import Certificates, SmoothedClassifier
from certcal_ext.nets import small_cnn
from certcal_ext.runs import certify, certify_in_shards
from certcal_ext.runs.drawing import UnitSampler
from certcal_ext.runs.folder import WorkFolder

SIGMA, N0 = 0.5, 100
MOST_OVERHEAD, LEAST_SPEEDUP = 1.02, 1.8


def problem(images: int) -> tuple[SmoothedClassifier, torch.Tensor, torch.Tensor]:
    """An untrained network on images of noise: what is timed does not depend on what it has learnt."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    pixels = torch.rand(images, 1, 28, 28, generator=random)
    labels = torch.randint(10, (images,), generator=random)
    return SmoothedClassifier(small_cnn(), 10, SIGMA), pixels, labels


def plain(images: int, n: int) -> Certificates:
    smooth, pixels, labels = problem(images)
    return smooth.certify(pixels, labels, n0=N0, n=n)


def in_shards(images: int, n: int, folder: Path) -> Certificates:
    smooth, pixels, labels = problem(images)
    return certify_in_shards(smooth, pixels, labels, n0=N0, n=n, work=folder)


def quietly(function: Callable[[], Certificates]) -> Certificates:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an untrained network abstains
        return function()


def overhead(images: int, n: int, runs: int) -> dict[str, Any]:
    """One process, one thread: with shards on this disk against without."""
    places: list[Path] = []
    with tempfile.TemporaryDirectory(dir=".") as folder:

        def sharded() -> Certificates:
            places.append(Path(folder) / str(len(places)))
            made = quietly(lambda: in_shards(images, n, places[-1]))
            if len(places) > 1:
                shutil.rmtree(places[-2])
            return made

        assert sharded() == quietly(lambda: plain(images, n))
        shards = sum(1 for _ in places[-1].glob("*.parquet"))
        pair = harness.paired(sharded, lambda: quietly(lambda: plain(images, n)), runs, warmup=0)
    found = harness.show("plain against shards, one process", pair, 1 / MOST_OVERHEAD)
    return {**found, "shards": shards, "overhead": [1 / ratio - 1 for ratio in pair.ratios]}


def accounted(images: int, n: int) -> dict[str, Any]:
    """Seconds of one run in shards that a plain run does not have, by what they go to: a clock around each.

    On a machine whose speed changes by more than two per cent between runs, this says more than their ratio.
    """
    spent: dict[str, float] = {}

    def timed(owner: Any, name: str) -> Any:
        function = getattr(owner, name)

        def clocked(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - started

        return mock.patch.object(owner, name, clocked)

    names = [(WorkFolder, name) for name in ("write", "read", "look", "require_no_others")]
    names += [(UnitSampler, "measured"), (certify, "problem_of")]
    with tempfile.TemporaryDirectory(dir=".") as folder, ExitStack() as stack:
        for owner, name in names:
            stack.enter_context(timed(owner, name))
        started = time.perf_counter()
        quietly(lambda: in_shards(images, n, Path(folder) / "work"))
        seconds = time.perf_counter() - started
    share = sum(spent.values()) / (seconds - sum(spent.values()))
    print(
        f"shards, files and the first measurement: {share:.2%} of the rest (goal {MOST_OVERHEAD - 1:.0%})"
    )
    return {"seconds": seconds, "spent": spent, "share": share}


def _process(rank: int, port: int, images: int, n: int, folder: str, out: Connection) -> None:
    """A process of a pair, as torchrun starts it: it is ready, then told where to work."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    torch.distributed.init_process_group("gloo")
    quietly(lambda: in_shards(1, 100, Path(folder) / "warm"))  # imports what only several need
    out.send("ready")
    while (place := out.recv()) is not None:
        started = time.perf_counter()
        made = quietly(lambda place=place: in_shards(images, n, Path(folder) / place))  # type: ignore[misc]
        out.send((time.perf_counter() - started, made.table["votes"].to_numpy()))
    torch.distributed.destroy_process_group()


def two_processes(images: int, n: int, runs: int) -> dict[str, Any]:
    """Two processes of one thread each against one of one thread, both in shards; processes are started beforehand."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = get_context("spawn")
    times: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory(dir=".") as folder:
        ends, processes = [], []
        for rank in range(2):
            mine, theirs = context.Pipe()
            arguments = (rank, store.port, images, n, folder, theirs)
            processes.append(context.Process(target=_process, args=arguments))
            processes[-1].start()
            ends.append(mine)
        for end in ends:
            end.recv()
        for run in range(runs):
            for end in ends:
                end.send(f"two{run}")
            answers = [end.recv() for end in ends]
            times[0].append(max(seconds for seconds, _ in answers))
            started = time.perf_counter()
            alone = quietly(lambda run=run: in_shards(images, n, Path(folder) / f"one{run}"))  # type: ignore[misc]
            times[1].append(time.perf_counter() - started)
            for _, votes in answers:
                np.testing.assert_array_equal(votes, alone.table["votes"].to_numpy())
        for end in ends:
            end.send(None)
        for process in processes:
            process.join()
    pair = harness.Pair(*times)
    return harness.show("two processes against one, a thread each", pair, LEAST_SPEEDUP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images and draws")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images, n = (10, 500) if given.quick else (200, 10_000)
    runs = 1 if given.quick else given.runs
    print(f"small_cnn, {images} images of 28 x 28, {N0} + {n:,} draws each, one thread a process")
    found = {
        "images": images,
        "n": n,
        "sharding": overhead(images, n, runs),
        "accounted": accounted(images, n),
        "two processes": two_processes(images, n, runs),
    }
    if not given.quick:
        harness.write("runs", "python bench/bench_runs.py", found)


if __name__ == "__main__":
    main()
