# SPDX-License-Identifier: MIT
"""Paired timing: two ways to one result, checked to be equal first, then run in turn, and written down as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Pair:
    """Timings of two ways, in seconds, in the order they were run: ours, peer, ours, peer, ..."""

    ours: list[float]
    peer: list[float]

    @property
    def ratios(self) -> list[float]:
        """Peer / ours, run by run: how many times faster ours is."""
        return [b / a for a, b in zip(self.ours, self.peer, strict=True)]

    def summary(self) -> dict[str, Any]:
        return {
            "ours_seconds": spread(self.ours),
            "peer_seconds": spread(self.peer),
            "peer_over_ours": spread(self.ratios),
            "runs": len(self.ours),
        }


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def timed(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def paired(ours: Callable[[], Any], peer: Callable[[], Any], runs: int, warmup: int = 1) -> Pair:
    """Runs both in turn, so that a machine whose speed drifts slows both."""
    for _ in range(warmup):
        ours()
        peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        times[0].append(timed(ours))
        times[1].append(timed(peer))
    return Pair(*times)


def environment() -> dict[str, Any]:
    import numpy
    import scipy

    import certcal_ext
    from certcal_ext import _core
    from certcal_ext._threads import num_threads

    versions = {"numpy": numpy.__version__, "scipy": scipy.__version__}
    for name in ("torch", "highspy"):
        try:
            from importlib.metadata import version

            versions[name] = version(name)
        except ImportError:
            continue
    root = Path(__file__).resolve().parent.parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": commit.stdout.strip() or None,
        "certcal_ext": certcal_ext.__version__,
        "build": _core.build_info(),
        "simd": _core.simd_paths()[0],
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": num_threads(),
        "versions": versions,
    }


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write(name: str, command: str, measurements: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    record = {"command": command, "environment": environment(), "measurements": measurements}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{path.relative_to(RESULTS.parent.parent)} written")


def show(title: str, pair: Pair, at_least: float | None = None) -> dict[str, Any]:
    summary = pair.summary()
    ratio = summary["peer_over_ours"]
    goal = "" if at_least is None else f", goal {at_least:g}"
    print(
        f"{title}: {ratio['median']:.3g} x (runs {ratio['min']:.3g} to {ratio['max']:.3g}{goal}); "
        f"ours {1e3 * summary['ours_seconds']['median']:.3g} ms, peer {1e3 * summary['peer_seconds']['median']:.3g} ms"
    )
    return summary
