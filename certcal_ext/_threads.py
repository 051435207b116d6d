# SPDX-License-Identifier: MIT
"""How many CPU threads the compiled operations use."""

from __future__ import annotations

import os
import sys


def num_threads() -> int:
    """Torch's thread count where torch is in use (``torch.set_num_threads``), else the processors this process may use."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
