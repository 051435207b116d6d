# SPDX-License-Identifier: MIT
"""One plan, one journey: every way in asks for the same draws, and refuses the same things before it draws any."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import mlp

from certcal_ext import SmoothedClassifier, Stopping, VoteSource
from certcal_ext._images import Samples, parts, warn_near_chance
from certcal_ext.runs import certify_in_shards
from certcal_ext.smoothing.plan import Plan, Scores, Votes
from certcal_ext.smoothing.replay import replay

IMAGES = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(1))
RULES = Stopping(radii=(0.1,), n_max=400, planning=50)

#: Options of evidence, and the plan that they are.
OPTIONS: list[tuple[dict[str, Any], Votes | Scores]] = [
    ({}, Votes()),
    ({"confidence": "votes", "runner_up": True}, Votes(runner_up=True)),
    ({"keep_counts": True}, Votes(keep_counts=True)),
    ({"confidence": "scores"}, Scores()),
    (
        {"confidence": "scores", "score_bins": 20, "score_interval": "betting"},
        Scores(20, "betting"),
    ),
    ({"score_bins": 20}, Votes()),  # of no meaning with votes
]

#: What no plan is: options, and words of the refusal.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"n0": 0}, "n0: expected a whole number"),
    ({"n0": 2**32}, "n0: expected a whole number"),
    ({"n": 2**32}, "n: expected a whole number"),
    ({"n": 1.5}, "n: expected a whole number"),
    ({"alpha": 0}, "alpha: expected a probability"),
    ({"confidence": "margin"}, 'confidence: expected "votes" or "scores"'),
    ({"runner_up": 1}, "runner_up: expected True or False"),
    ({"keep_counts": "yes"}, "keep_counts: expected True or False"),
    ({"confidence": "scores", "runner_up": True}, "runner_up: expected False"),
    ({"confidence": "scores", "keep_counts": True}, "keep_counts: expected False"),
    ({"confidence": "scores", "score_bins": 0}, "score_bins: expected a whole number"),
    ({"confidence": "scores", "score_bins": 2.0}, "score_bins: expected a whole number"),
    ({"confidence": "scores", "score_interval": "normal"}, "score_interval: expected one of"),
    ({"batch_size": 0}, "batch_size: expected a whole number"),
    ({"bins": 3}, "bins: certify.* has no such option"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small models, which threads only wait for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Untouched(torch.nn.Module):
    """A model that may not be called."""

    def forward(self, images: Any) -> Any:
        raise AssertionError("a draw was taken before the options were looked at")


def smoothed(model: Any = None, seed: int = 3) -> SmoothedClassifier:
    return SmoothedClassifier(model or mlp(48, 4, seed=2), 4, sigma=0.25, seed=seed)


def selected(smooth: SmoothedClassifier) -> np.ndarray:
    """What it selects: labels that are all right, with which nothing is warned of."""
    with smooth.selecting(IMAGES, n0=20) as selection:
        return selection.classes


@pytest.mark.parametrize(("options", "evidence"), OPTIONS)
def test_options_are_a_plan(options: dict[str, Any], evidence: Votes | Scores) -> None:
    plan = Plan.of(20, 300, 0.01, options)  # type: ignore[arg-type]
    assert plan == Plan(20, 300, 0.01, evidence)
    assert plan.bins == (evidence.bins if isinstance(evidence, Scores) else None)


@pytest.mark.parametrize(("options", "words"), BAD)
@pytest.mark.parametrize("way", ["certify", "shards"])
def test_refused_before_a_draw(
    options: dict[str, Any], words: str, way: str, tmp_path: Path
) -> None:
    smooth, work = smoothed(Untouched()), {"work": tmp_path / "work"}
    call = smooth.certify if way == "certify" else partial(certify_in_shards, smooth, **work)
    with pytest.raises((TypeError, ValueError), match=words):
        call(IMAGES, **options)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("evidence", [Votes(runner_up=True), Votes(keep_counts=True), Scores()])
def test_early_stops_are_for_plain_votes(evidence: Votes | Scores) -> None:
    with pytest.raises(ValueError, match="stopping: expected votes without"):
        Plan(evidence=evidence, stopping=RULES)


def test_parts_of_another_kind() -> None:
    with pytest.raises(TypeError, match="evidence: expected Votes or Scores, got str"):
        Plan(evidence="votes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="stopping: expected a Stopping, got str"):
        Plan(stopping="soon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^interval: expected one of"):
        Scores(interval="normal")


@pytest.mark.parametrize("options", [OPTIONS[1][0], OPTIONS[4][0]])
def test_every_way_in_draws_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    smooth = smoothed()
    labels = torch.from_numpy(selected(smooth))
    plan = {"n0": 20, "n": 300, "batch_size": 90, **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*abstain")
        plain = smooth.certify(IMAGES, labels, **plan)
        pairs = [(IMAGES[:13], labels[:13]), (IMAGES[13:], labels[13:])]
        loader = smooth.certify(pairs, **plan | {"batch_size": 64})
        shards = certify_in_shards(
            smooth, IMAGES, labels, work=tmp_path / "run", unit_draws=4000, **plan
        )
    assert plain.table.equals(shards.table)
    for column in ("index", "label", "predicted", "votes"):
        assert plain.table[column].equals(loader.table[column])
    again = replay(plain, smooth.model, IMAGES, [0, 7, 39], labels=labels)
    assert again.agrees, again.mismatches


def test_plans_load_nothing_heavy() -> None:
    """The command line makes options of them, and its help is there at once."""
    code = (
        "import sys; from certcal_ext.smoothing.plan import Plan, Scores, Votes; "
        "sys.exit(bool({'numpy', 'torch', 'pyarrow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


WAYS = ["certify", "loader", "certify_adaptive", "shards"]


def by(way: str, labels: Any, folder: Path, **options: Any) -> None:
    """Certifies 40 images."""
    smooth = smoothed()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*abstain")
        if way == "certify":
            smooth.certify(IMAGES, labels, n0=20, n=50, **options)
        elif way == "loader":
            smooth.certify([(IMAGES, labels)], n0=20, n=50, **options)
        elif way == "certify_adaptive":
            smooth.certify_adaptive(IMAGES, labels, RULES, n0=20, **options)
        else:
            certify_in_shards(smooth, IMAGES, labels, 20, 50, work=folder / "run", **options)


def also_by(way: str, labels: Any, folder: Path, sample_ids: Any) -> None:
    """The same, by what certifies nothing too."""
    smooth = smoothed()
    if way == "selecting":
        with smooth.selecting(IMAGES, n0=20, sample_ids=sample_ids):
            pass
    elif way == "VoteSource":
        VoteSource(smooth.model, 4, 0.25, 3, IMAGES, sample_ids)
    elif way == "replay":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*abstain")
            table = smooth.certify(IMAGES, labels, n0=20, n=50)
        replay(table, smooth.model, IMAGES, sample_ids=sample_ids)
    else:
        by(way, labels, folder, sample_ids=sample_ids)


@pytest.mark.parametrize("way", WAYS)
def test_labels_in_another_order_are_told(way: str, tmp_path: Path) -> None:
    right = selected(smoothed())
    by(way, right, tmp_path)  # nothing to tell
    (tmp_path / "other").mkdir()
    with pytest.warns(UserWarning, match=r"right on .* of 40 images, near chance for 4 classes"):
        by(way, (right + 1) % 4, tmp_path / "other")


@pytest.mark.parametrize("way", [*WAYS, "selecting", "VoteSource", "replay"])
@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([*range(39), 5], "sample_ids: expected each number once, .*, got 5 2 times"),
        ([*range(39), -1], "sample_ids: expected at least 0, got -1"),
        (range(39), "sample_ids: expected one entry an image, got 39 for at least 40"),
        (range(41), "sample_ids: expected 40 entries, one an image, got 41"),
        ([0.5] * 40, "sample_ids: expected whole numbers"),
    ],
)
def test_ids_are_looked_at_in_every_way_in(way: str, ids: Any, words: str, tmp_path: Path) -> None:
    labels = selected(smoothed())
    with pytest.raises((TypeError, ValueError), match=words):
        also_by(way, labels, tmp_path, ids)


def test_few_samples_near_chance_are_no_news() -> None:
    labels = np.zeros(40, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_near_chance("the model", labels[:29], labels[:29] + 1, 4)
        warn_near_chance("the model", labels, labels, 2)
    with pytest.warns(UserWarning, match="the model is right on 0.0% of 30 images"):
        warn_near_chance("the model", labels[:30], labels[:30] + 1, 4)


def test_samples_of_a_loader_are_those_of_a_tensor() -> None:
    labels, ids = np.arange(40) % 4, np.arange(40) * 3
    whole = Samples.of(IMAGES, labels, ids, 4)
    pieces = list(parts([(IMAGES[:7], labels[:7]), (IMAGES[7:], labels[7:])], None, ids, 4))
    assert [len(piece) for piece in pieces] == [7, 33]
    assert torch.equal(torch.cat([piece.images for piece in pieces]), whole.images)
    for name in ("labels", "ids"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        np.testing.assert_array_equal(joined, getattr(whole, name))
