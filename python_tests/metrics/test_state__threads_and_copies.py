# SPDX-License-Identifier: MIT
"""States under several threads at once, and what their copies share: nothing."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from problems import random_problem

import certcal_ext as cc
from certcal_ext.metrics.state import CertifiedState

KINDS: list[tuple[type[CertifiedState[Any]], dict[str, Any]]] = [
    (cc.EceTable, {"bins": 7}),
    (cc.EceTable, {"bins": 300}),  # of this size the rows go straight into the table
    (cc.EceState, {"edges": [0.0, 0.3, 1.0], "closed": "left"}),
    (cc.BrierState, {}),
    (cc.LogLossState, {"clip": 1e-3}),
    (cc.KsState, {"bits": 5}),
    (cc.RiskCoverageState, {"thresholds": [0.25, 0.5]}),
]
kinds = pytest.mark.parametrize(("kind", "settings"), KINDS, ids=lambda part: str(part)[-24:])
copies = pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))]
)


def public(result: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(result) if not field.name.startswith("_")]


@pytest.fixture(autouse=True)
def short_turns() -> Iterator[None]:
    """Threads take turns as often as they can, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*jobs: Callable[[], None]) -> None:
    """Runs jobs in threads that begin at the same moment; raises what they raise."""
    barrier, errors = threading.Barrier(len(jobs)), []

    def run(job: Callable[[], None]) -> None:
        try:
            barrier.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "threads wait for each other"
    if errors:
        raise errors[0]


@kinds
def test_threads_that_update_lose_no_sample(kind: type[CertifiedState[Any]], settings: Any) -> None:
    problem = random_problem(2000, seed=3)
    shared, alone = kind(**settings), kind(**settings)
    parts = [tuple(column[at::4] for column in problem[:3]) for at in range(4)]

    def job(part: Any) -> Callable[[], None]:
        def update() -> None:
            for _ in range(60):
                shared.update(*part)

        return update

    together(*(job(part) for part in parts))
    for _ in range(60):
        alone.update(*problem[:3])
    assert shared.rows == alone.rows == 120_000
    assert np.array_equal(shared.state(), alone.state())


@kinds
def test_what_is_seen_beside_an_update_is_whole(
    kind: type[CertifiedState[Any]], settings: Any
) -> None:
    problem = random_problem(500, seed=4)
    shared = kind(**settings)
    shared.update(*problem[:3])
    whole = shared.state()
    done = threading.Event()
    seen: list[Any] = []
    results: list[Any] = []

    def write() -> None:
        for _ in range(200):
            shared.update(*problem[:3])
        done.set()

    def read() -> None:
        while not done.is_set():
            seen.append(shared.state())
            seen.append(pickle.loads(pickle.dumps(shared)).state())
            seen.append(copy.copy(shared).state())
            results.append(shared.compute())

    together(write, read)
    for state in seen:  # that of some number of whole updates
        times = state.ravel()[whole.argmax()] // whole.max()
        assert np.array_equal(state, times * whole)
    for result in results:
        assert result.n % 500 == 0
        then = kind.from_state(result.n // 500 * whole, **settings).compute()
        assert all(
            np.array_equal(getattr(result, name), getattr(then, name)) for name in public(then)
        )


@kinds
def test_merging_crosswise_neither_blocks_nor_loses(
    kind: type[CertifiedState[Any]], settings: Any
) -> None:
    problem = random_problem(10, seed=5)
    first, second = kind(**settings), kind(**settings)
    first.update(*problem[:3])
    second.update(*problem[:3])

    def join(one: CertifiedState[Any], other: CertifiedState[Any]) -> Callable[[], None]:
        def merge() -> None:
            for _ in range(8):
                one.merge(other)
                one.merge(one)

        return merge

    together(join(first, second), join(second, first))
    for state in (first, second):
        assert np.array_equal(kind.from_state(state.state(), **settings).state(), state.state())
        assert state.rows == kind.from_state(state.state(), **settings).rows


@kinds
@copies
def test_a_copy_shares_nothing(
    kind: type[CertifiedState[Any]], settings: Any, duplicate: Callable[[Any], Any]
) -> None:
    state = kind(**settings)
    state.update([1, 0], [0.25, 0.5], [0.5, 0.75])
    before = state.state()
    other = duplicate(state)
    other.update([1], [0.5], [0.75])
    assert np.array_equal(state.state(), before)
    assert (state.rows, other.rows) == (2, 3)
    state.update([0], [0.1], [0.2])
    assert other.rows == 3
    assert other.compute().n == 3
    other.merge(state)
    assert other.rows == 6
