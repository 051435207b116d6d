# SPDX-License-Identifier: MIT
"""Runs every Python benchmark, one process each, and leaves bench/results/*.json. Run with: python bench/run.py [--quick]"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = (
    "bench_ece.py",
    "bench_radii.py",
    "bench_certify.py",
    "peers.py",
    "bench_baselines.py",
    "bench_recalibration.py",
    "bench_scores.py",
    "bench_stopping.py",
)


def main() -> int:
    codes = [
        subprocess.run([sys.executable, str(HERE / name), *sys.argv[1:]], check=False).returncode
        for name in BENCHMARKS
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
