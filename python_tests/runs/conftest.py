# SPDX-License-Identifier: MIT
"""What all tests of runs share: one time, one thread, no process group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def one_time_and_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tables say when they were made; scores are those of a number of threads, and forked processes have one."""
    import torch  # here, so that tests elsewhere are collected without it

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
