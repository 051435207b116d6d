# SPDX-License-Identifier: MIT
"""Whatever happens to a run in shards, nothing is lost, nothing is counted twice, and the message says what to do."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_problems import (
    IMAGES,
    KINDS,
    LABELS,
    Net,
    forked,
    in_shards,
    killed_after,
    looks,
    table_bytes,
    together,
    wait_for,
)

from certcal_ext.runs.folder import MANIFEST
from certcal_ext.runs.shards import Total
from certcal_ext.runs.units import Layout, Unit, units_of
from certcal_ext.smoothing.draws import Request
from certcal_ext.smoothing.sampling import Counts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning"),
    # From Python 3.12 on, where threads are running; ours do nothing that a fork could cut in two.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def shards(work: Path) -> list[Path]:
    return sorted(work.glob("*.parquet"))


class Stopped(Exception):
    """What ends a run in the middle."""


def at_pass(wanted: int, error: BaseException) -> Callable[[int], None]:
    """Raises at that pass of a model."""

    def before(number: int) -> None:
        if number == wanted:
            raise error

    return before


def stopped_run(work: Path, kind: str = "votes", after: int = 40, **more: Any) -> int:
    """A run that stopped in the middle; how many shards it left."""
    with pytest.raises(Stopped):
        in_shards(work, kind, Net(at_pass(after, Stopped())), **more)
    count = len(shards(work))
    assert count > 3
    return count


# --- killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_five_times_gives_the_same_bytes(
    kind: str, work: Path, tmp_path: Path
) -> None:
    expected = table_bytes(in_shards(tmp_path / "alone", kind), tmp_path)
    random = np.random.default_rng(list(KINDS).index(kind))
    ended = []
    for _ in range(5):
        delay = float(random.uniform(0.01, 0.12))
        ended.append(killed_after(delay, lambda: in_shards(work, kind, resume=True)).status)
    # At least one is killed in its work; a machine that stands still may let one end before.
    assert ended.count(-signal.SIGKILL) >= 1
    before = {path.name: path.stat().st_mtime_ns for path in shards(work)}
    made = in_shards(work, kind, resume=True)
    assert table_bytes(made, tmp_path) == expected
    after = {path.name: path.stat().st_mtime_ns for path in shards(work)}
    assert {name: after[name] for name in before} == before  # none of what was done is done again
    assert not list(work.glob(".*"))


def test_a_killed_process_ends_the_others_and_a_restart_goes_on(work: Path, tmp_path: Path) -> None:
    expected = table_bytes(in_shards(tmp_path / "alone"), tmp_path)

    def kill(number: int) -> None:
        if number == 12:
            os.kill(os.getpid(), signal.SIGKILL)

    def process(rank: int) -> Any:
        return in_shards(work, net=Net(kill if rank == 1 else lambda number: None))

    first, second = together(2, process)
    assert second.status == -signal.SIGKILL
    assert first.error.startswith("ConnectionError: another process has ended without a word")
    done = len(shards(work))
    assert done > 3
    # A restarted torchrun says so in the environment, and that stands for resume.
    ended = together(2, lambda rank: in_shards(work), restarts=1)
    assert [one.error for one in ended] == ["", ""]
    assert table_bytes(ended[0].value, tmp_path) == expected


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        (None, ""),
        (0, "the process that kept the group together has ended"),
        (1, "another process has ended without a word"),
    ],
)
def test_the_environment_is_enough_and_nobody_waits_for_a_killed_process(
    victim: int | None, words: str, work: Path, tmp_path: Path
) -> None:
    expected = in_shards(tmp_path / "alone")

    def process(rank: int) -> Any:
        def kill(number: int) -> None:
            if rank == victim and number == 10:
                os.kill(os.getpid(), signal.SIGKILL)

        return in_shards(work, net=Net(kill))

    ended = together(2, process, agent=False)
    if victim is None:
        assert [one.value == expected for one in ended] == [True, True]
    else:
        assert ended[victim].status == -signal.SIGKILL
        assert words in ended[1 - victim].error
    assert in_shards(work, resume=True) == expected


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_a_process_that_fails_ends_all_with_its_message(
    guilty: int, work: Path, tmp_path: Path
) -> None:
    expected = in_shards(tmp_path / "alone")
    bad = at_pass(looks() + 8, RuntimeError("the model has had enough"))
    ended = together(
        3, lambda rank: in_shards(work, net=Net(bad if rank == guilty else lambda number: None))
    )
    for rank, one in enumerate(ended):
        if rank == guilty:
            assert one.error == "RuntimeError: the model has had enough"
        else:
            words = f"ConnectionError: process {guilty} failed: the model has had enough"
            assert one.error == words
    assert in_shards(work, resume=True) == expected


# --- the disk -----------------------------------------------------------------------------------


def test_a_full_disk(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = in_shards(tmp_path / "alone")
    calls, fsync = 0, os.fsync

    def full(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"work: .* cannot be written \(No space left on device\)"):
        in_shards(work)
    monkeypatch.undo()
    assert len(shards(work)) == 9  # the manifest was the first file
    assert not list(work.glob(".*.tmp"))
    assert in_shards(work, resume=True).table == expected.table


def test_a_file_that_cannot_be_written_to_its_end(work: Path, tmp_path: Path) -> None:
    expected = in_shards(tmp_path / "alone")

    def small_files(number: int) -> None:
        if number == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))

    ended = wait_for(forked(lambda: in_shards(work, net=Net(small_files))))
    assert "cannot be written (File too large); the shards before it are kept" in ended.error
    done = len(shards(work))
    assert done > 3
    assert not list(work.glob(".*.tmp"))
    assert in_shards(work, resume=True) == expected


# --- damaged and foreign shards -----------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "zeroed"])
@pytest.mark.parametrize("kind", ["votes", "scores"])
def test_a_damaged_shard_is_drawn_again(damage: str, kind: str, work: Path, tmp_path: Path) -> None:
    expected = in_shards(work, kind)
    random = np.random.default_rng(0)
    victim = shards(work)[3]
    content = bytearray(victim.read_bytes())
    if damage == "flipped":
        content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    elif damage == "zeroed":
        content[100:200] = bytes(100)
    else:
        content = content[: len(content) // 2 if damage == "truncated" else 0]
    victim.write_bytes(content)
    net = Net()
    with pytest.warns(UserWarning, match=f"{victim.name} is damaged; its draws are taken again"):
        assert in_shards(work, kind, net, resume=True) == expected
    assert 1 <= net.passes - looks() <= 4  # its passes and no more
    assert in_shards(work, kind, resume=True) == expected  # without a warning


def test_every_flipped_bit_is_found(work: Path) -> None:
    from certcal_ext.runs.shards import DamagedShard, shard_of

    in_shards(work)
    victim = shards(work)[0]
    content = victim.read_bytes()
    shard_of(content, victim.name)
    for place in range(0, 8 * len(content), 997):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(DamagedShard):
            shard_of(bytes(damaged), victim.name)


def test_a_foreign_shard_is_refused(work: Path, tmp_path: Path) -> None:
    in_shards(work)
    in_shards(tmp_path / "other", seed=2)
    victim = shards(work)[3]
    unit = victim.name.rsplit(".", 2)[0]
    (foreign,) = (tmp_path / "other").glob(f"{unit}.*")
    victim.unlink()
    shutil.copy(foreign, work)
    with pytest.raises(ValueError, match=rf"{foreign.name} is a shard of another run"):
        in_shards(work, resume=True)
    assert (work / foreign.name).exists()  # nothing is overwritten or removed
    (work / foreign.name).unlink()
    in_shards(work, resume=True)


def test_no_draw_can_be_counted_twice(work: Path, tmp_path: Path) -> None:
    in_shards(work)
    first, second = shards(work)[:2]
    unit, digest, _ = second.name.rsplit(".", 2)
    # Under the name of another unit.
    renamed = work / f"{unit}.{first.name.rsplit('.', 2)[1]}.parquet"
    second.rename(tmp_path / "kept")
    shutil.copy(first, renamed)
    with pytest.raises(ValueError, match="holds other draws than its name says"):
        in_shards(work, resume=True)
    renamed.unlink()
    (tmp_path / "kept").rename(second)
    # Units of another size, though of the same run.
    overlapping = work / f"{unit.split('.')[0]}.r0-2.d0-20.{digest}.parquet"
    shutil.copy(second, overlapping)
    with pytest.raises(ValueError, match="overlaps the units of this run"):
        in_shards(work, resume=True)
    overlapping.unlink()
    in_shards(work, resume=True)


def test_two_shards_of_one_unit_are_refused(work: Path) -> None:
    from certcal_ext.runs.folder import Manifest
    from certcal_ext.runs.shards import counts_of, shard_bytes, shard_of

    in_shards(work)
    path = next(one for one in shards(work) if one.name.startswith("estimate."))
    counted = counts_of(shard_of(path.read_bytes(), path.name)[1])
    manifest = Manifest.from_json((work / MANIFEST).read_bytes(), work)
    request = Request("estimate", np.arange(12), 20, 200, 64)
    unit = next(one for one in units_of(request, manifest.layout) if str(one) in path.name)
    moved = Counts(np.roll(counted.votes, 1, axis=1))
    name, content = shard_bytes(manifest.fingerprint, request, unit, moved)
    (work / name).write_bytes(content)
    with pytest.raises(ValueError, match="expected one shard of estimate"):
        in_shards(work, resume=True)


def test_totals_take_each_unit_once_and_only_whole_ones() -> None:
    request = Request("votes", np.arange(4), 0, 10, 64)
    units = units_of(request, Layout(10, 10, 10))
    total = Total(request, units, 2)
    good = Counts(np.array([[4, 6]]))
    total.add(units[0], good)
    for unit, counted, words in (
        (units[0], good, "expected each unit once"),
        (Unit(1, 3, 0, 10), good, "only those of the request"),
        (units[1], Counts(np.array([[4, 5]])), "expected 10 in each of 1 rows"),
        (units[1], Counts(np.array([[-1, 11]])), "expected 10 in each of 1 rows"),
        (units[1], Counts(np.array([[4, 6], [4, 6]])), "expected 10 in each"),
    ):
        with pytest.raises(ValueError, match=words):
            total.add(unit, counted)
    with pytest.raises(ValueError, match="3 units are missing"):
        total.counts()
    for unit in units[1:]:
        total.add(unit, good)
    assert total.counts().votes.tolist() == [[4, 6]] * 4


# --- memory -------------------------------------------------------------------------------------


def test_an_out_of_memory_batch_is_halved_inside_a_run(work: Path, tmp_path: Path) -> None:
    expected = in_shards(tmp_path / "alone")

    class Hungry(Net):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(images)

    with pytest.warns(UserWarning, match=r"out of memory with 32 images .* going on with 16"):
        made = in_shards(work, net=_as_net(Hungry()), unit_draws=64)
    assert made == expected


def _as_net(net: Net) -> Net:
    """A ``Net`` by name: its class is part of a model's fingerprint."""
    type(net).__qualname__ = Net.__qualname__
    return net


# --- another run --------------------------------------------------------------------------------


def other_weights() -> Net:
    net = Net()
    with torch.no_grad():
        net.layer.bias += 0.5
    return net


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 2}, "seed: 1 there, 2 now"),
        ({"n": 500}, "n: 200 there, 500 now"),
        ({"n0": 30}, "n0: 20 there, 30 now"),
        ({"alpha": 0.01}, "alpha: 0.001 there, 0.01 now"),
        ({"net": other_weights()}, "model: "),
        ({"images": IMAGES * 0.5}, "images: "),
        ({"labels": 2 - LABELS}, "labels: "),
        ({"sample_ids": torch.arange(12) + 1}, "sample ids: "),
        ({"keep_counts": False}, "counts kept: True there, False now"),
        ({"kind": "scores", "keep_counts": False}, "bins: None there, 50 now"),
        ({"kind": "adaptive", "keep_counts": False}, "stopping: None there"),
    ],
)
def test_another_run_is_refused_and_what_differs_is_named(
    changed: dict[str, Any], words: str, work: Path
) -> None:
    count = stopped_run(work)
    before = {path.name: path.read_bytes() for path in work.iterdir()}
    with pytest.raises(ValueError, match="belongs to another run, which differs in") as refused:
        in_shards(work, resume=True, **changed)
    assert words in str(refused.value)
    assert len(shards(work)) == count
    assert {path.name: path.read_bytes() for path in work.iterdir()} == before


def test_scores_are_refused_with_another_batch_size_or_thread_count(work: Path) -> None:
    stopped_run(work, "scores")
    with pytest.raises(ValueError, match="differs in batch size: 32 there, 64 now"):
        in_shards(work, "scores", resume=True, batch_size=64)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with pytest.raises(ValueError, match=f"threads: {before} there, {before + 1} now"):
            in_shards(work, "scores", resume=True)
    finally:
        torch.set_num_threads(before)


def test_finished_work_is_not_overwritten_without_resume(work: Path) -> None:
    stopped_run(work)
    before = {path.name: path.read_bytes() for path in work.iterdir()}
    with pytest.raises(
        ValueError, match=r"has the finished part of a run; go on with it \(resume\)"
    ):
        in_shards(work)
    assert {path.name: path.read_bytes() for path in work.iterdir()} == before


def test_two_runs_at_once_in_one_folder(work: Path) -> None:
    import fcntl

    stopped_run(work)
    with open(work / "lock", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is at work in"):
            in_shards(work, resume=True)
    in_shards(work, resume=True)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"format": 9}'])
def test_a_damaged_manifest(content: str, work: Path) -> None:
    stopped_run(work)
    whole = (work / MANIFEST).read_text()
    for text in (content, whole.replace('"seed": 1', '"seed": 2')):
        (work / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=r"manifest of a run, which cannot be read"):
            in_shards(work, resume=True, seed=2)
    (work / MANIFEST).unlink()
    with pytest.raises(ValueError, match="has shards and no manifest"):
        in_shards(work, resume=True)


def test_processes_that_disagree_are_refused(work: Path) -> None:
    ended = together(2, lambda rank: in_shards(work, seed=rank))
    for one in ended:
        assert "process 1 differs from process 0 in seed" in one.error
    assert not work.exists()
