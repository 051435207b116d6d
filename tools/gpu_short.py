# SPDX-License-Identifier: MIT
"""The measurements of ``gpu_check.sh --short``: record | kernels | loop, a line of JSON each, written when it is known.

Where there is no GPU, CERTCAL_DRY_RUN=1 has each of them walk through the same code on the CPU with small numbers; these are
marked ``"dry_run": true`` and say nothing of a GPU.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from certcal_ext import _core
from certcal_ext.model_state import full_float32
from certcal_ext.smoothing.noise import write_noise
from certcal_ext.smoothing.sampling import Sampler
from certcal_ext.smoothing.votes import write_scores, write_votes

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS.parent / "bench"))
DRY = os.environ.get("CERTCAL_DRY_RUN") == "1"
DEVICE, SMALL = ("cpu", 100) if DRY else ("cuda", 1)
SIGMA, SEED = 0.25, 5
HALVES = (torch.bfloat16, torch.float32)
NORMALS = 2**31 if not DRY else 2**17


def say(to: Path, **row: Any) -> None:
    line = json.dumps(row | ({"dry_run": True} if DRY else {}))
    print(line, flush=True)
    with to.open("a") as file:
        file.write(line + "\n")


def microseconds(function: Callable[[], Any], launches: int = 10, runs: int = 9) -> float:
    """Median of some runs, by events on a GPU and by the clock on a CPU."""
    if DRY:
        launches, runs = 1, 1
    function()
    times = []
    for _ in range(runs):
        if DRY:
            started = time.perf_counter()
            function()
            times.append((time.perf_counter() - started) * 1e6)
            continue
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(launches):
            function()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / launches)
    return float(np.median(times))


def words(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64, device=DEVICE)


def asked(query: str) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return run.stdout.strip().splitlines()


def record(to: Path) -> None:
    """What was built, what is there, and how fast it can copy, read and write."""
    status = _core.cuda_status()
    facts: dict[str, Any] = {
        "commit": os.environ.get("CERTCAL_COMMIT"),
        "build": _core.build_info(),
        "status": status,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "devices": asked("name,driver_version,memory.total,clocks.max.sm"),
        "dry_run": DRY,
    }
    if not DRY:
        facts["processors"] = torch.cuda.get_device_properties(0).multi_processor_count
    source = torch.ones(2**28 // (SMALL * SMALL), device=DEVICE)
    target = torch.empty_like(source)
    size = 4 * source.numel()
    facts["bytes_per_second"] = {
        "copy": 2 * size / microseconds(lambda: target.copy_(source)) * 1e6,
        "read": size / microseconds(lambda: source.sum()) * 1e6,
        "write": size / microseconds(lambda: target.zero_()) * 1e6,
    }
    to.write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts), flush=True)
    if not DRY and not (status["compiled"] and status["devices"]):
        raise SystemExit(f"not usable: {status}")


def budget(kernel: str) -> int | None:
    """Instructions of an inner loop, as counted for the architecture that is there; None where they were not."""
    budgets = json.loads((TOOLS / "sass_budgets.json").read_text())
    capability = "90" if DRY else "".join(map(str, torch.cuda.get_device_capability()))
    count = budgets.get(f"sm_{capability}", {}).get(kernel)
    return None if count is None else int(count)


def issue_share(instructions: float, seconds: float) -> float | None:
    """Share of the warp instructions that all schedulers could have issued at the highest clock."""
    clocks = asked("clocks.max.sm")
    if DRY or not clocks:
        return None
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    return instructions / 32 / seconds / (processors * 4 * float(clocks[0]) * 1e6)


def check_bits(to: Path) -> None:
    """Every bit of 2^31 normals, in pieces, against the CPU's."""
    elements, done, piece = 3072, 0, 0
    equal = True
    draws = 43_691 if not DRY else 43
    while done < NORMALS:
        dtype = (torch.float32, torch.bfloat16, torch.float16)[piece % 3 if piece else 0]
        x = torch.rand(1, elements, generator=torch.Generator().manual_seed(piece))
        ids = torch.tensor([piece * 2**33 + 7])
        out = torch.empty(1, draws, elements, dtype=dtype)
        write_noise(x, SIGMA, SEED + piece, ids, piece * 1000, out, (1, 3)[piece % 2])
        there = torch.empty(1, draws, elements, dtype=dtype, device=DEVICE)
        channels = (1, 3)[piece % 2]
        write_noise(
            x.to(DEVICE), SIGMA, SEED + piece, ids.to(DEVICE), piece * 1000, there, channels
        )
        word = torch.int32 if dtype == torch.float32 else torch.int16
        equal &= torch.equal(out.to(DEVICE).view(word), there.view(word))
        done, piece = done + out.numel(), piece + 1
    say(to, check="bits of noise", normals=done, pieces=piece, equal=bool(equal))
    if not equal:
        raise SystemExit("noise has other bits than on the CPU")


def check_votes(to: Path) -> None:
    """Votes and scores of many rows, with ties, NaN and infinity among them, against the CPU's."""
    for classes in (10, 65, 1000, 1001):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            draws = 20_000 // SMALL
            generator = torch.Generator().manual_seed(classes)
            logits = (torch.randn(3, draws, classes, generator=generator) * 8).round() / 8
            logits[0, 5, 3], logits[1, 7, classes - 1] = float("nan"), float("inf")
            logits = logits.to(dtype)
            margins = torch.tensor([0.0, 0.2, 0.4], dtype=torch.float64)
            found = []
            for device in ("cpu", DEVICE):

                def zeros(*shape: int, kind: Any = torch.int64, on: str = device) -> Any:
                    return torch.zeros(shape, dtype=kind, device=on)

                counts, near = zeros(3, classes), zeros(3, draws, kind=torch.uint8)
                faults, histogram, sums = zeros(2), zeros(3, 100), zeros(3, 2)
                there = logits.to(device)
                write_votes(there, counts, near, margins.to(device), faults)
                write_votes(there, counts, None, None, faults)
                write_scores(there, None, histogram, sums, faults)
                found.append([one.cpu() for one in (counts, near, faults, histogram, sums)])
            equal = all(torch.equal(a, b) for a, b in zip(*found, strict=True))
            say(to, check="votes and scores", classes=classes, dtype=str(dtype), equal=equal)
            if not equal:
                raise SystemExit("votes or scores are others than on the CPU")


def time_noise(to: Path) -> None:
    for dtype in HALVES:
        for batch, draws in ((8, 10_000 // SMALL), (1, 1000)):
            for channels in (1, 3):
                x, ids = torch.rand(batch, 3072, device=DEVICE), torch.arange(batch, device=DEVICE)
                out = torch.empty(batch, draws, 3072, device=DEVICE, dtype=dtype)
                ours = microseconds(lambda: write_noise(x, SIGMA, 0, ids, 0, out, channels))  # noqa: B023
                zeros = microseconds(lambda: out.zero_())  # noqa: B023
                name = {torch.bfloat16: "BFloat16", torch.float32: "float"}[dtype]
                loop = budget(f"add_noise_vector_kernel<{name}, {channels}>, draws")
                values = channels * (8 if dtype == torch.bfloat16 else 4)
                each = None if loop is None else loop / values
                say(
                    to,
                    kernel="noise",
                    dtype=str(dtype),
                    batch=batch,
                    draws=draws,
                    channels=channels,
                    us=ours,
                    zero_us=zeros,
                    write_share=zeros / ours,
                    instructions_an_element=each,
                    issue_share=each and issue_share(each * out.numel(), ours / 1e6),
                )


def time_votes(to: Path) -> None:
    for rows, classes in ((400_000 // SMALL, 1000), (10**7 // SMALL, 10), (256, 1000), (1024, 10)):
        for dtype in HALVES:
            x = torch.randn(1, rows, classes, device=DEVICE).to(dtype)
            counts, faults = words(1, classes), words(2)
            histogram, sums = words(1, 100), words(1, 2)
            near = torch.zeros(1, rows, dtype=torch.uint8, device=DEVICE)
            margins = torch.zeros(1, dtype=torch.float64, device=DEVICE)
            numbers = x.view(torch.int32).view(torch.float32)
            read = microseconds(lambda: numbers.sum())  # noqa: B023
            ours = microseconds(lambda: write_votes(x, counts, None, None, faults))  # noqa: B023
            marked = microseconds(lambda: write_votes(x, counts, near, margins, faults))  # noqa: B023
            scores = microseconds(lambda: write_scores(x, None, histogram, sums, faults))  # noqa: B023
            say(
                to,
                kernel="votes",
                dtype=str(dtype),
                rows=rows,
                classes=classes,
                us=ours,
                with_margins_us=marked,
                scores_us=scores,
                read_us=read,
                read_share=read / ours,
            )


def kernels(to: Path) -> None:
    check_bits(to)
    check_votes(to)
    time_noise(to)
    time_votes(to)


def nets(dry: bool) -> list[tuple[str, torch.nn.Module, int, int, torch.dtype, int, int]]:
    """Name, model, pixels, classes, precision, batch, draws."""
    from peers_certify import cifar_resnet, resnet50

    if dry:
        return [
            ("cifar", cifar_resnet(8), 32, 10, torch.float32, 8, 16),
            ("imagenet", resnet50(4, (1, 1, 1, 1)), 32, 1000, torch.bfloat16, 8, 16),
        ]
    return [
        ("resnet110", cifar_resnet(), 32, 10, torch.float32, 128, 4096),
        ("resnet110", cifar_resnet(), 32, 10, torch.bfloat16, 1024, 4096),
        ("resnet50", resnet50(), 224, 1000, torch.bfloat16, 256, 1024),
    ]


def loop(to: Path) -> None:
    """A pass of the bare model, of the loop as it is usually written, of ours, and of ours as a graph."""
    from peers_certify import classic_counts

    ids = np.arange(4)
    for name, net, pixels, classes, dtype, batch, draws in nets(DRY):
        torch.manual_seed(0)
        model: Any = net.to(DEVICE).train()
        images = torch.rand(4, 3, pixels, pixels, device=DEVICE)
        with (
            torch.no_grad()
        ):  # statistics of batch normalisation that suit the images; else all logits are alike
            for _ in range(3):
                model(images + SIGMA * torch.randn_like(images))
        model = model.eval().to(DEVICE, dtype).to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        given = images.to(dtype)[:1].repeat(batch, 1, 1, 1)
        given = given.contiguous(memory_format=torch.channels_last)
        passes = 4 * draws / batch
        with torch.inference_mode(), full_float32():
            bare = microseconds(lambda: model(given), 3, 3)  # noqa: B023
            started = time.perf_counter()
            for image in images.to(dtype):
                classic_counts(model, image, classes, draws, batch)
            classic = (time.perf_counter() - started) * 1e6 / passes
            found, ours = [], {}
            for graph in (False, True):
                sampler = Sampler(model, classes, SIGMA, 0, batch, graph=graph)
                sampler.gather(images, ids, 0, min(draws, 2 * batch))
                with nullcontext() if DRY else torch.cuda.device(0):
                    started = time.perf_counter()
                    found.append(sampler.gather(images, ids, 0, draws).votes)
                    ours[graph] = (time.perf_counter() - started) * 1e6 / passes
        say(
            to,
            loop=name,
            dtype=str(dtype),
            batch=batch,
            bare_us_a_pass=bare,
            classic_us_a_pass=classic,
            ours_us_a_pass=ours[False],
            graph_us_a_pass=ours[True],
            votes_moved_by_the_graph=int(np.abs(found[0] - found[1]).sum() // 2),
        )


if __name__ == "__main__":
    steps = {"record": record, "kernels": kernels, "loop": loop}
    if len(sys.argv) != 3 or not re.fullmatch("|".join(steps), sys.argv[1]):
        raise SystemExit(__doc__)
    steps[sys.argv[1]](Path(sys.argv[2]))
