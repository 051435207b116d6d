# SPDX-License-Identifier: MIT
"""Runs in shards: the table of one process, whatever the number of processes, the units, and what was done before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from run_problems import IMAGES, KINDS, LABELS, RULES, Net, in_shards, looks, table_bytes, together

from certcal_ext import Provenance, SmoothedClassifier
from certcal_ext.certificates.provenance import created_now
from certcal_ext.runs import remove_work
from certcal_ext.runs.folder import MANIFEST
from certcal_ext.runs.units import Layout, units_of
from certcal_ext.smoothing.draws import Request

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning"),
    # From Python 3.12 on, where threads are running; ours do nothing that a fork could cut in two.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def plain(kind: str, batch_size: int = 32) -> tuple[object, int]:
    """The certificates without shards, and the passes that they took."""
    net = Net()
    smooth = SmoothedClassifier(net, 3, sigma=0.25, seed=1)
    options = {name: value for name, value in KINDS[kind].items() if name != "stopping"}
    if kind == "adaptive":
        made = smooth.certify_adaptive(IMAGES, LABELS, RULES, batch_size=batch_size, **options)
    else:
        made = smooth.certify(IMAGES, LABELS, batch_size=batch_size, **options)
    return made, net.passes


# --- units --------------------------------------------------------------------------------------


@given(
    size=st.integers(1, 150),
    draws=st.integers(1, 400),
    first=st.integers(0, 50),
    group=st.sampled_from([1, 3, 64, 100]),
    unit=st.integers(1, 20_000),
    pass_size=st.integers(1, 500),
)
@settings(max_examples=60, deadline=None)
def test_units_hold_each_draw_once_in_whole_passes(
    size: int, draws: int, first: int, group: int, unit: int, pass_size: int
) -> None:
    request = Request("votes", np.arange(size), first, draws, group)
    units = units_of(request, Layout(unit, pass_size, pass_size))
    seen = np.zeros((size, draws), np.int64)
    width = min(draws, pass_size)
    height = max(1, pass_size // width)
    for one in units:
        assert one.images > 0
        seen[one.row : one.row_end, one.draw - first : one.draw_end - first] += 1
        # Whole passes: a unit begins where a pass of its group of samples does.
        assert one.row % group % height == 0
        assert (one.draw - first) % width == 0
    assert (seen == 1).all()


# --- equal tables -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_that_of_a_plain_run(kind: str, tmp_path: Path) -> None:
    expected, passes = plain(kind)
    for unit_draws in (100, 10**6, None):
        net = Net()
        work = tmp_path / f"work{unit_draws}"
        made = in_shards(work, kind, net, unit_draws=unit_draws)
        assert made == expected
        if kind != "adaptive" and unit_draws is not None:
            assert net.passes == passes
        again = Net()
        assert in_shards(work, kind, again, resume=True, unit_draws=7) == expected
        assert again.passes == looks()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_number_of_processes_gives_the_same_bytes(kind: str, size: int, tmp_path: Path) -> None:
    expected = table_bytes(in_shards(tmp_path / "alone", kind), tmp_path)

    def process(rank: int) -> tuple[bytes, int]:
        net, folder = Net(), tmp_path / str(rank)
        folder.mkdir()
        made = in_shards(tmp_path / "work", kind, net)
        return table_bytes(made, folder), net.passes

    ended = together(size, process)
    assert [one.error for one in ended] == [""] * size
    assert [one.value[0] == expected for one in ended] == [True] * size


def test_votes_may_be_resumed_with_another_batch_size_and_another_number_of_processes(
    tmp_path: Path,
) -> None:
    expected, _ = plain("votes")

    class Enough(Exception):
        pass

    def stop(number: int) -> None:
        if number == 40:
            raise Enough

    with pytest.raises(Enough):
        in_shards(tmp_path / "work", net=Net(stop))
    done = len(list((tmp_path / "work").glob("*.parquet")))
    assert done > 5
    ended = together(2, lambda rank: in_shards(tmp_path / "work", batch_size=50, resume=True))
    assert [one.error for one in ended] == ["", ""]
    assert ended[0].value == ended[1].value == expected


def test_half_precision_is_that_of_the_batches(tmp_path: Path) -> None:
    smooth = SmoothedClassifier(Net().bfloat16(), 3, sigma=0.25, seed=1)
    expected = smooth.certify(IMAGES, LABELS, n0=20, n=200, batch_size=32, keep_counts=True)
    assert in_shards(tmp_path / "work", net=Net().bfloat16()) == expected
    with pytest.raises(ValueError, match=r"differs in batch size: 32 there, 16 now"):
        in_shards(tmp_path / "work", net=Net().bfloat16(), batch_size=16, resume=True)


def test_without_labels_with_ids_and_one_sample(tmp_path: Path) -> None:
    smooth = SmoothedClassifier(Net(), 3, sigma=0.25, seed=1)
    for number, size in enumerate((1, 5)):
        ids = torch.arange(size) + 7
        expected = smooth.certify(
            IMAGES[:size], None, n0=20, n=200, sample_ids=ids, keep_counts=True
        )
        made = in_shards(tmp_path / str(number), images=IMAGES[:size], labels=None, sample_ids=ids)
        assert made == expected


def test_progress_ends_at_all_draws_and_starts_where_it_stopped(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    in_shards(tmp_path / "work", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12 * 220, 12 * 220)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    seen.clear()
    for path in list((tmp_path / "work").glob("estimate.r[01]-*.parquet")):
        path.unlink()
    in_shards(
        tmp_path / "work", resume=True, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[0][0] == 12 * 20
    assert seen[-1] == (12 * 220, 12 * 220)


# --- when it was made ---------------------------------------------------------------------------


def test_a_resumed_table_has_the_time_of_the_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = in_shards(tmp_path / "work")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    again = in_shards(tmp_path / "work", resume=True)
    assert first.provenance.created == again.provenance.created == "2023-11-14T22:13:20+00:00"
    assert table_bytes(first, tmp_path) == table_bytes(again, tmp_path)


def test_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Provenance("intervals").created == "2023-11-14T22:13:20+00:00"
    for wrong in ("now", "", "1e99", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH: expected seconds since 1970"):
            created_now()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert created_now() > "2023-11-14T22:13:20+00:00"


# --- the folder ---------------------------------------------------------------------------------


def test_the_folder_is_kept_and_only_a_runs_own_files_are_removed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    in_shards(work)
    assert json.loads((work / MANIFEST).read_text())["problem"]["n"] == 200
    (work / "mine.parquet").write_text("mine")
    remove_work(work)
    assert [path.name for path in work.iterdir()] == ["mine.parquet"]
    remove_work(work)  # no run's folder any more: nothing is touched
    (work / "mine.parquet").unlink()
    in_shards(work)  # an empty folder will do
    remove_work(work)
    assert not work.exists()
    remove_work(work)


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("mine")
    for work, words in (
        (tmp_path, "expected a new or empty folder"),
        (tmp_path / "text", "expected a folder, got the file"),
        (tmp_path / "absent" / "work", "there is no folder"),
    ):
        with pytest.raises(ValueError, match=words):
            in_shards(work)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_failure_before_the_first_shard_leaves_nothing(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        in_shards(tmp_path / "work", net=Net(fail))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n: "),
        ({"unit_draws": 0}, "unit_draws"),
        ({"kind": "adaptive", "confidence": "scores"}, "stopping: expected votes"),
        ({"kind": "adaptive", "runner_up": True}, "stopping: expected votes"),
        ({"labels": [5] * 12}, "labels"),
        ({"images": IMAGES[:0]}, "at least one image"),
    ],
)
def test_wrong_arguments(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        in_shards(tmp_path / "work", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "work").exists()


def test_wrong_types(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="stopping: expected a Stopping, got float"):
        in_shards(tmp_path / "work", stopping=0.5)
    with pytest.raises(TypeError, match="unit_draws"):
        in_shards(tmp_path / "work", unit_draws=1.5)
