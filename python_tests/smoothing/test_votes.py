# SPDX-License-Identifier: MIT
"""Vote counting and score histograms against readable references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import certcal_ext as cc
from certcal_ext import _core

SIZES = [0, 1, 31, 32, 33, 255, 256, 257, 10_007]


def reference_votes(logits: NDArray[Any]) -> NDArray[np.int64]:
    """argmax (NumPy's keeps the first of equals) and one count a draw."""
    counts = np.zeros((logits.shape[0], logits.shape[2]), np.int64)
    for b, sample in enumerate(logits):
        for row in sample:
            counts[b, int(np.argmax(row))] += 1
    return counts


def reference_scores(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=2, keepdims=True)
    exponentials = np.exp(shifted)
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=2, keepdims=True)
    return result


@pytest.mark.parametrize("draws", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_votes_equal_the_reference(draws: int, dtype: str, threads: int) -> None:
    rng = np.random.default_rng(draws)
    logits = rng.normal(size=(3, draws, 7)).round(1).astype(dtype)  # rounded: many ties
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        counts = cc.count_votes(logits)
    finally:
        torch.set_num_threads(before)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, reference_votes(logits))


@pytest.mark.parametrize("classes", [1, 2, 3, 31, 32, 33, 255, 256, 257, 1000, 100_000])
def test_any_number_of_classes(classes: int) -> None:
    logits = np.random.default_rng(classes).normal(size=(2, 5, classes)).astype(np.float32)
    np.testing.assert_array_equal(cc.count_votes(logits), reference_votes(logits))


def test_the_lowest_index_wins_ties_also_between_signed_zeros() -> None:
    logits = np.array([[[1.0, 1.0, 1.0], [0.0, 2.0, 2.0], [-0.0, 0.0, -1.0], [-5.0, -5.0, -5.0]]])
    assert cc.count_votes(logits).tolist() == [[3, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_every_precision(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 50, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    counts = cc.count_votes(logits)
    assert isinstance(counts, torch.Tensor)
    np.testing.assert_array_equal(counts.numpy(), reference_votes(logits.double().numpy()))


def test_non_contiguous_logits_and_gradients() -> None:
    logits = torch.randn(10, 50, 4, requires_grad=True).permute(2, 1, 0)
    np.testing.assert_array_equal(
        cc.count_votes(logits).numpy(), reference_votes(logits.detach().numpy())
    )


def test_near_ties_are_marked_and_not_counted() -> None:
    logits = np.array([[[1.0, 1.0 + 1e-6], [0.0, 1.0], [1.0, 1.0]]])
    counts, near = np.zeros((1, 2), np.int64), np.zeros((1, 3), np.uint8)
    _core.count_votes(logits, counts, near, np.array([1e-3]), np.zeros(2, np.int64))
    assert near.tolist() == [[1, 0, 1]]
    assert counts.tolist() == [[0, 1]]


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_histograms_equal_the_reference(batch: int, draws: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=5, size=(batch, draws, classes)).astype(np.float32)
    chosen = rng.integers(0, classes, size=batch)
    scores = reference_scores(logits)
    for picked, classes_argument in (
        (scores.max(axis=2), None),
        (scores[np.arange(batch), :, chosen], chosen),
    ):
        histogram = cc.score_histogram(logits, classes_argument, bins=10)
        # 2^-20: the polynomial exponential in float32 and terms in units of 2^-32.
        np.testing.assert_allclose(histogram.means(), picked.mean(axis=1), atol=2.0**-20)
        assert (histogram.counts.sum(axis=1) == draws).all()
        for b in range(batch):
            certain = np.abs(picked[b] * 10 - np.round(picked[b] * 10)) > 1e-4
            if certain.all():
                expected = np.histogram(picked[b], bins=10, range=(0, 1))[0]
                np.testing.assert_array_equal(histogram.counts[b], expected)


def test_histograms_add_over_draws_and_do_not_depend_on_threads_or_class_order() -> None:
    logits = torch.randn(3, 4000, 12, generator=torch.Generator().manual_seed(1))
    whole = cc.score_histogram(logits, bins=64)
    parts = [
        cc.score_histogram(logits[:, a:b], bins=64) for a, b in ((0, 1), (1, 1700), (1700, 4000))
    ]
    assert torch.equal(sum(p.counts for p in parts), whole.counts)
    assert torch.equal(sum(p.sums for p in parts), whole.sums)
    turned = cc.score_histogram(logits.flip(2), bins=64)
    assert torch.equal(turned.counts, whole.counts)
    assert torch.equal(turned.sums, whole.sums)


def test_means_of_tensors_are_those_of_arrays_in_double_precision() -> None:
    logits = np.random.default_rng(2).normal(size=(3, 1000, 5)).astype(np.float32)
    of_tensor = cc.score_histogram(torch.from_numpy(logits)).means()
    of_array = cc.score_histogram(logits).means()
    assert of_tensor.dtype == torch.float64
    np.testing.assert_array_equal(of_tensor.numpy(), of_array)
    assert np.isnan(cc.score_histogram(logits[:, :0].copy()).means()).all()


def test_a_sure_score_lies_in_the_last_bin() -> None:
    histogram = cc.score_histogram(np.array([[[1000.0, 0.0]]]), bins=5)
    assert histogram.counts.tolist() == [[0, 0, 0, 0, 1]]
    assert histogram.means().tolist() == [1.0]


class TestBadInput:
    GOOD = np.zeros((2, 3, 4), np.float32)

    @pytest.mark.parametrize("count", [cc.count_votes, cc.score_histogram])
    def test_nan_and_infinity_are_counted_and_named(self, count: Any) -> None:
        logits = self.GOOD.copy()
        logits[0, 0, 1] = np.nan
        logits[0, 1, 2] = np.inf
        logits[1, 2, 3] = -np.inf
        with pytest.raises(ValueError, match="got NaN in 1 and infinity in 2 of 6 rows"):
            count(logits)

    @pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64"])
    def test_dtype(self, dtype: str) -> None:
        with pytest.raises(TypeError, match="logits: expected dtype float32"):
            cc.count_votes(self.GOOD.astype(dtype))

    @pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5), (2, 3, 0)])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"logits: expected shape \(B, D, K\)"):
            cc.count_votes(np.zeros(shape, np.float32))

    def test_meta_device(self) -> None:
        with pytest.raises(ValueError, match="expected a tensor on cpu or cuda, got one on meta"):
            cc.count_votes(torch.zeros(2, 3, 4, device="meta"))

    def test_classes(self) -> None:
        with pytest.raises(ValueError, match=r"classes: expected values in \[0, 4\), got 0 to 4"):
            cc.score_histogram(self.GOOD, [0, 4])
        with pytest.raises(ValueError, match=r"classes: expected shape \(2,\)"):
            cc.score_histogram(self.GOOD, [0])
        with pytest.raises(TypeError, match="classes: expected whole numbers"):
            cc.score_histogram(self.GOOD, [0.0, 1.0])

    @pytest.mark.parametrize("bins", [0, -1, 2**24 + 1])
    def test_bins(self, bins: int) -> None:
        with pytest.raises(ValueError, match="bins"):
            cc.score_histogram(self.GOOD, bins=bins)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("classes", [2, 10, 129])
def test_half_precision_counts_as_its_float32_values(dtype: str, classes: int) -> None:
    """Half-precision logits are read as they are; nothing is widened in memory beforehand."""
    torch.manual_seed(0)
    half = torch.randn(3, 70, classes).to(getattr(torch, dtype))
    wide = half.float()
    assert torch.equal(cc.count_votes(half), cc.count_votes(wide))
    ours, theirs = cc.score_histogram(half, bins=50), cc.score_histogram(wide, bins=50)
    assert torch.equal(ours.counts, theirs.counts)
    assert torch.equal(ours.sums, theirs.sums)
    half[1, 5, 0] = float("nan")
    half[2, 6, 1] = float("inf")
    with pytest.raises(ValueError, match="NaN in 1 and infinity in 1 of 210 rows"):
        cc.count_votes(half)


def test_numpy_half_precision_counts() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 33, 7)).astype(np.float16)
    assert np.array_equal(cc.count_votes(logits), cc.count_votes(logits.astype(np.float32)))
