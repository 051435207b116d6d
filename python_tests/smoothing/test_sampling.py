# SPDX-License-Identifier: MIT
"""The sampling loop: votes and scores of noisy images, and how rarely it waits for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from models import mlp
from sampled_models import Computed, Elementwise, Recorder
from torch.utils._python_dispatch import TorchDispatchMode

import certcal_ext as cc
from certcal_ext.smoothing import near_ties, sampling
from certcal_ext.smoothing.draws import SelectedVotes, VoteSource
from certcal_ext.smoothing.near_ties import Marks
from certcal_ext.smoothing.sampling import Counts, Sampler

IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))
IDS = np.arange(9)
CLASSES = IDS % 4
SIGMA = 0.25


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors stay tensors, so that what they hold must be read."""
    for module in (sampling, near_ties):
        monkeypatch.setattr(module, "handed_over", lambda value: value)


def sampler(model: torch.nn.Module, batch_size: int, **options: Any) -> Sampler:
    return Sampler(model.eval(), 4, SIGMA, 0, batch_size, **options)


def noisy(first: int, draws: int) -> torch.Tensor:
    return cc.add_noise(IMAGES, SIGMA, draws=range(first, first + draws)).flatten(0, 1)


def assert_same(found: Counts, expected: Counts) -> None:
    np.testing.assert_array_equal(found.votes, expected.votes)
    assert found.scores is not None
    assert expected.scores is not None
    np.testing.assert_array_equal(found.scores.counts, expected.scores.counts)
    np.testing.assert_array_equal(found.scores.sums, expected.scores.sums)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_votes_and_scores_do_not_depend_on_passes_or_threads(
    batch_size: int, threads: int, as_on_a_gpu: bool, request: pytest.FixtureRequest
) -> None:
    """Of a model whose logits do not; what they are is computed in one go."""
    unread_passes = 4096 if as_on_a_gpu else None
    if as_on_a_gpu:
        request.getfixturevalue("_as_on_a_gpu")
    logits = Elementwise(4)(noisy(3, 150)).view(9, 150, 4)
    scores = cc.score_histogram(logits, CLASSES, bins=1000)
    expected = Counts(
        cc.count_votes(logits).numpy(),
        cc.ScoreHistogram(scores.counts.numpy(), scores.sums.numpy()),
    )
    with torch_threads(threads):
        loop = sampler(Elementwise(4), batch_size, unread_passes=unread_passes)
        assert_same(loop.gather(IMAGES, IDS, 3, 150, CLASSES, 1000), expected)
        votes_only = loop.gather(IMAGES, IDS, 3, 150)
    np.testing.assert_array_equal(votes_only.votes, expected.votes)
    assert votes_only.scores is None


@pytest.mark.parametrize("draws", [1, 31, 257])
@pytest.mark.parametrize("bins", [1, 10, 1000])
def test_scores_are_those_of_torch(draws: int, bins: int) -> None:
    model = mlp(48, 4, seed=3).double()
    found = sampler(model, 100).gather(IMAGES, IDS, 0, draws, CLASSES, bins)
    assert found.scores is not None
    scores = model(noisy(0, draws).double()).softmax(1).view(9, draws, 4).numpy()
    of_class = scores[IDS, :, CLASSES]
    np.testing.assert_allclose(found.scores.means(), of_class.mean(axis=1), atol=2.0**-20)
    # Only scores within the error of our exponential of an edge may be counted in the bin beside it.
    near_edge = np.abs(of_class * bins - np.round(of_class * bins)) < bins * 2.0**-20
    for row in range(9):
        expected = np.histogram(of_class[row], bins=bins, range=(0, 1))[0]
        moved = np.abs(found.scores.counts[row] - expected).sum() // 2
        assert moved <= near_edge[row].sum()
        assert found.scores.counts[row].sum() == draws


def tipping() -> Computed:
    """Often ties, which even batches tip to the lower and odd ones to the higher class by a rounding-sized amount."""

    def logits(x: torch.Tensor) -> torch.Tensor:
        tip = 1e-6 if len(x) % 2 else -1e-6
        return (x.flatten(1)[:, :4] * 64).round() / 16 + tip * torch.arange(4)

    return Computed(logits)


def test_a_model_that_rounds_differently_in_each_batch_gives_the_same_votes() -> None:
    alone = sampler(tipping(), 1).gather(IMAGES, IDS, 0, 200, CLASSES, 100)
    assert alone.scores is not None
    batched = cc.count_votes(tipping()(noisy(0, 200)).view(9, 200, 4)).numpy()
    assert np.abs(batched - alone.votes).sum() > 20  # what would come of one even batch
    for batch_size, unread_passes in ((7, None), (64, 3), (1000, 4096)):
        loop = sampler(tipping(), batch_size, unread_passes=unread_passes)
        found = loop.gather(IMAGES, IDS, 0, 200, CLASSES, 100)
        np.testing.assert_array_equal(found.votes, alone.votes)
        # Scores move with the logits, by 6e-6 at most.
        np.testing.assert_allclose(found.scores.means(), alone.scores.means(), atol=1e-5)
        assert np.abs(found.scores.counts - alone.scores.counts).sum() / 2 <= 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_model_gets_the_float32_noise_converted_in_the_layout_of_the_images(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    model = Recorder(mlp(48, 4, seed=3).to(dtype))
    images = IMAGES.contiguous(memory_format=layout)
    counts = sampler(model, 1000).gather(images, IDS, 5, 40).votes
    first = model.inputs[0]
    expected = noisy(5, 40).to(dtype)
    assert first.dtype == dtype
    assert torch.equal(first, expected)
    assert all(x.is_contiguous(memory_format=layout) for x in model.inputs)
    # What was counted before noise was drawn in the model's dtype.
    np.testing.assert_array_equal(counts, cc.count_votes(model.inner(expected).view(9, 40, 4)))


def test_each_sample_may_begin_at_another_draw() -> None:
    first = np.array([5, 5, 0, 90, 90, 90, 5, 7, 2**32 - 30])
    model = Recorder(Elementwise(4))
    found = sampler(model, 100).gather(IMAGES, IDS, first, 30, CLASSES, 50)
    assert [len(x) for x in model.inputs] == [90, 90, 90]  # full batches over different ranges
    for row in range(9):
        one = slice(row, row + 1)
        expected = sampler(Elementwise(4), 100).gather(
            IMAGES[one], IDS[one], int(first[row]), 30, CLASSES[one], 50
        )
        np.testing.assert_array_equal(found.votes[one], expected.votes)
        np.testing.assert_array_equal(found.scores.counts[one], expected.scores.counts)


def test_a_pass_on_the_cpu_holds_what_the_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where votes do not depend on it; in half precision the user's batches are kept."""
    monkeypatch.setattr(sampling, "_CACHED_BYTES", 50 * IMAGES[0].numel() * 4)
    with torch_threads(1):
        for dtype, largest in ((torch.float32, 50), (torch.bfloat16, 90)):
            model = Recorder(mlp(48, 4, seed=3).to(dtype))
            sampler(model, 90).gather(IMAGES, IDS, 0, 100)
            assert max(len(x) for x in model.inputs) == largest
        monkeypatch.setattr(sampling, "_CACHED_BYTES", 1)
        model = Recorder(mlp(48, 4, seed=3))
        sampler(model, 90).gather(IMAGES, IDS, 0, 100)
        # Single images are the near ties.
        assert {len(x) for x in model.inputs} <= {32, 100 % 32, 1}


def nan_from_call(number: int) -> Computed:
    calls: list[int] = []

    def logits(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        result = x.flatten(1)[:, :4] * 4
        return result * float("nan") if len(calls) == number else result

    model = Computed(logits)
    model.calls = calls  # type: ignore[assignment]
    return model


@pytest.mark.parametrize(("unread_passes", "calls"), [(None, 3), (2, 4), (4096, 5)])
def test_faults_are_named_by_the_pass_they_were_in(unread_passes: int | None, calls: int) -> None:
    """On the CPU at once; where passes are left unread, when they are read."""
    model = nan_from_call(3)
    message = "model: expected finite logits, got NaN in 40 and infinity in 0 of 40 rows, among samples 14 to 15"
    with pytest.raises(ValueError, match=re.escape(message)):
        sampler(model, 40, unread_passes=unread_passes).gather(IMAGES, IDS + 10, 0, 20, CLASSES)
    assert len(model.calls) == calls  # type: ignore[arg-type]


def test_a_fault_in_an_image_evaluated_alone_is_told() -> None:
    model = Computed(
        lambda x: torch.zeros(len(x), 4) + (float("nan") if len(x) == 1 else torch.eye(4)[0] * 1e-9)
    )
    tied = Computed(lambda x: model(x) + (torch.arange(len(x)) == 0)[:, None])
    # Of the first sample, whose logits go up to 1; those of the others are as far apart as they are large.
    with pytest.raises(ValueError, match=r"got NaN in 10 and infinity in 0 of 10 rows"):
        sampler(tied, 1000).gather(IMAGES, IDS, 0, 10)


class Reads(TorchDispatchMode):
    """Counts what waits for a GPU: values that are read, sizes that depend on values, copies to the host."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in ("cpu", "tolist"):
            monkeypatch.setattr(torch.Tensor, name, self._spying(getattr(torch.Tensor, name)))

    def _spying(self, method: Any) -> Any:
        def spy(tensor: torch.Tensor) -> Any:
            self.count += 1
            return method(tensor)

        return spy

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in self.WAITING
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("scores", [False, True])
def test_a_gpu_is_read_once_for_a_group_and_not_for_a_pass(
    scores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown on the CPU by leaving as many passes unread as on a GPU."""

    def reads(draws: int, unread_passes: int | None) -> int:
        recorder = Recorder(tipping())
        loop = sampler(recorder, 20, unread_passes=unread_passes)
        with monkeypatch.context() as patch, Reads(patch) as spy, torch_threads(1):
            loop.gather(IMAGES, IDS, 0, draws, CLASSES if scores else None)
        assert sum(len(x) == 20 for x in recorder.inputs) == 9 * draws // 20
        assert any(len(x) == 1 for x in recorder.inputs)  # a near tie
        return spy.count

    # How many near ties, these with the faults, the results, and the faults of near ties.
    most = 1 + 1 + (3 if scores else 1) + 1
    assert reads(20, 4096) == most
    assert reads(200, 4096) == most
    assert reads(200, None) > 9 * 200 // 20  # the spy sees what it should


def test_marks_know_which_pair_a_flag_belongs_to() -> None:
    marks = Marks(np.arange(10), 100, 20, torch.device("cpu"), unread_passes=3)
    assert marks.read() == []
    for _ in range(2):
        first, _ = marks.of_pass(slice(0, 2), range(0, 10))
        second, faults = marks.of_pass(slice(4, 5), range(30, 37))
        assert not marks.full
        marks.of_pass(slice(5, 9), range(0, 5))
        assert marks.full
        assert first.shape == (2, 10)
        assert not any(values.any() for values in (first, second, faults))
        first[1, 9] = second[0, 0] = second[0, 6] = 1
        assert marks.read() == [(1, 9), (4, 30), (4, 36)]


def test_marks_are_full_where_another_pass_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_ties, "_GPU_PAIRS", 19)
    marks = Marks(np.arange(4), 500, 20, torch.device("cpu"), unread_passes=4096)
    marks.of_pass(slice(0, 1), range(19))
    assert not marks.full
    marks.of_pass(slice(2, 4), range(10))
    assert marks.full


def test_full_marks_are_read_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sampler(tipping(), 20).gather(IMAGES, IDS, 0, 100)
    monkeypatch.setattr(near_ties, "_GPU_PAIRS", 100)
    found = sampler(tipping(), 20, unread_passes=4096).gather(IMAGES, IDS, 0, 100)
    np.testing.assert_array_equal(found.votes, expected.votes)


class TestVoteSource:
    def source(self, **options: Any) -> VoteSource:
        return VoteSource(mlp(48, 4, seed=3).eval(), 4, SIGMA, 0, IMAGES, **options)

    def test_ranges_of_draws_add_to_the_votes_of_certify(self) -> None:
        with torch.inference_mode(False):
            smooth = cc.SmoothedClassifier(mlp(48, 4, seed=3), 4, SIGMA)
            certificates = smooth.certify(IMAGES, n0=20, n=300, keep_counts=True)
        expected = np.array(certificates.table["counts"].to_pylist())
        source = self.source()
        found = np.zeros((9, 4), np.int64)
        done = np.full(9, 20)
        rng = np.random.default_rng(0)
        while (done < 320).any():
            draws = int(rng.integers(1, 61))
            rows = rng.permutation(np.flatnonzero(done + draws <= 320))[:5]
            if not rows.size:
                draws = int(320 - done.max() if done.max() < 320 else 320 - done[done < 320].max())
                rows = np.flatnonzero((done < 320) & (done + draws <= 320))
            votes = source.votes(rows, done[rows], draws)
            assert (votes.sum(axis=1) == draws).all()
            found[rows] += votes
            done[rows] += draws
        np.testing.assert_array_equal(found, expected)

    def test_rows_come_in_any_order_with_their_own_ids(self) -> None:
        whole = self.source().votes(range(9), 0, 50)
        np.testing.assert_array_equal(self.source().votes([7, 2, 7], 0, 50), whole[[7, 2, 7]])
        ids = IDS[::-1].copy()
        assert (self.source(sample_ids=ids).votes(range(9), 0, 50) != whole).any()
        assert len(self.source()) == 9
        assert self.source().num_classes == 4

    def test_batches_are_filled_across_samples(self) -> None:
        model = Recorder(Elementwise(4))
        seen: list[int] = []
        source = VoteSource(model, 4, SIGMA, 0, IMAGES, batch_size=1000, on_draws=seen.append)
        source.votes(range(9), np.arange(9) * 10, 100)
        assert [len(x) for x in model.inputs] == [900]
        assert seen == [900]

    def test_votes_of_one_class_a_sample(self) -> None:
        source = self.source()
        selected = SelectedVotes(source, CLASSES)
        counts = source.votes([8, 1], [0, 9], 50)
        votes = selected.votes([8, 1], [0, 9], 50)
        assert votes.tolist() == [counts[0, CLASSES[8]], counts[1, CLASSES[1]]]
        assert len(selected) == 9
        for classes in (np.full(9, 4), np.full(9, -1)):
            with pytest.raises(ValueError, match=r"classes: expected values in \[0, 4\)"):
                SelectedVotes(source, classes)
        with pytest.raises(ValueError, match="classes: expected 9 entries"):
            SelectedVotes(source, [0])

    def test_nothing_to_do(self) -> None:
        assert self.source().votes([], 0, 10).shape == (0, 4)
        assert self.source().votes([1, 2], 5, 0).tolist() == [[0] * 4] * 2

    @pytest.mark.parametrize(
        ("arguments", "kind", "message"),
        [
            (([9], 0, 1), ValueError, r"rows: expected values in \[0, 9\), got 9 to 9"),
            (([-1], 0, 1), ValueError, "rows: expected values"),
            (([0.5], 0, 1), TypeError, "rows: expected whole numbers"),
            (([0], -1, 1), ValueError, "first_draw: expected a whole number at least 0"),
            (([0], 2**32, 1), ValueError, "first_draw: expected draws in"),
            (([0, 1], [0], 1), ValueError, "first_draw: expected 2 entries"),
            (([0], [0.5], 1), TypeError, "first_draw: expected whole numbers"),
            (([0], 0, -1), ValueError, "draws: expected a whole number from 0"),
            (([0], 0, 1.5), TypeError, "draws: expected a whole number"),
        ],
    )
    def test_bad_input(self, arguments: Any, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            self.source().votes(*arguments)
