# SPDX-License-Identifier: MIT
"""Votes and scores of one pass over the logits against the two operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from certcal_ext import _core


def outputs(batch: int, draws: int, classes: int, bins: int) -> dict[str, Any]:
    return {
        "counts": np.full((batch, classes), 3),
        "near_ties": np.zeros((batch, draws), np.uint8),
        "histogram": np.full((batch, bins), 5),
        "score_sums": np.full((batch, 2), 7),
        "faults": np.array([10, 20]),
    }


def margins(logits: Any, margin: float) -> Any:
    """Of neighbours, which differ."""
    return margin * (1 + np.arange(len(logits), dtype=np.float64))


def two_passes(logits: Any, chosen: Any, margin: float, bins: int) -> dict[str, Any]:
    out = outputs(*logits.shape, bins)
    again = np.zeros(2, np.int64)
    _core.count_votes(
        logits, out["counts"], out["near_ties"], margins(logits, margin), out["faults"]
    )
    _core.score_histogram(logits, chosen, out["histogram"], out["score_sums"], again)
    return out


def one_pass(logits: Any, chosen: Any, margin: float, bins: int, threads: int) -> dict[str, Any]:
    out = outputs(*logits.shape, bins)
    _core.count_votes_and_scores(
        logits, chosen, margins=margins(logits, margin), threads=threads, **out
    )
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("classes", "bins"), [(1, 1), (10, 1000), (129, 100), (1000, 4096)])
def test_one_pass_gives_the_integers_of_two(dtype: str, classes: int, bins: int) -> None:
    rng = np.random.default_rng(classes)
    logits = np.round(rng.normal(0, 2, (3, 211, classes)), 2).astype(dtype)
    logits[0, 5, 0], logits[2, 7, classes - 1] = np.nan, -np.inf
    for chosen in (None, rng.integers(0, classes, 3)):
        for margin in (0.0, 0.05):
            expected = two_passes(logits, chosen, margin, bins)
            assert expected["faults"].tolist() == [11, 21]
            for threads in (1, 2):
                got = one_pass(logits, chosen, margin, bins, threads)
                for name, words in got.items():
                    np.testing.assert_array_equal(words, expected[name], err_msg=name)


def test_near_ties_have_a_score_and_no_vote() -> None:
    logits = np.array([[[0.0, 1.0], [0.0, 1.5]]])
    got = one_pass(logits, None, 1.25, 4, 1)
    assert got["near_ties"].tolist() == [[1, 0]]
    assert got["counts"].tolist() == [[3, 4]]
    assert got["histogram"].tolist() == [[5, 5, 6, 6]]


def test_arguments_are_checked() -> None:
    logits = np.zeros((2, 3, 4), np.float32)
    good = outputs(2, 3, 4, 10) | {"margins": np.zeros(2)}
    for name, wrong, message in (
        ("counts", np.zeros((2, 5), np.int64), "counts"),
        ("near_ties", np.zeros((2, 4), np.uint8), "near_ties"),
        ("margins", np.zeros(3), "margins"),
        ("histogram", np.zeros((1, 10), np.int64), "histogram"),
        ("score_sums", np.zeros((2, 3), np.int64), "score_sums"),
        ("faults", np.zeros(3, np.int64), "faults"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.count_votes_and_scores(logits, None, **(good | {name: wrong}))
    with pytest.raises(ValueError, match=r"classes: expected values in \[0, 4\), got 4 at row 1"):
        _core.count_votes_and_scores(logits, np.array([0, 4]), **good)
