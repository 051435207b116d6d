# SPDX-License-Identifier: MIT
"""Passes of one shape, and passes that are replayed: what a GPU does, walked through on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampled_models import Elementwise, Recorder

from certcal_ext import SmoothedClassifier
from certcal_ext.smoothing import passes, sampling
from certcal_ext.smoothing.passes import Window
from certcal_ext.smoothing.sampling import Counts, Sampler

IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))
IDS = np.arange(9) * 3


@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 64))
def test_windows_cover_each_pair_once_and_have_one_shape(
    samples: int, draws: int, batch_size: int
) -> None:
    window = Window.of(samples, draws, batch_size)
    assert window.height * window.width <= batch_size
    counted = np.zeros((samples, draws), int)
    passes_made = 0
    for rows, columns in window.tiles():
        counted[rows, columns.start : columns.stop] += 1
        around, drawn = window.around(rows, columns)
        assert (around.stop - around.start, len(drawn)) == (window.height, window.width)
        assert 0 <= around.start <= rows.start < rows.stop <= around.stop <= samples
        assert 0 <= drawn.start <= columns.start < columns.stop <= drawn.stop <= draws
        passes_made += 1
    assert (counted == 1).all()
    # What is drawn twice is less than a draw a pass for each sample, and less than a row of passes.
    columns_made = -(-draws // window.width)
    assert columns_made * window.width - draws < columns_made
    assert passes_made == columns_made * -(-samples // window.height)


def stand_in(compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A capture that is replayed by doing it again, into the memory of its result."""
    result = compute()

    def replay() -> None:
        again = compute()
        result.copy_(again)

    return replay, result


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "on_gpu", lambda device: True)
    monkeypatch.setattr(passes, "captured", stand_in)


def gathered(
    model: torch.nn.Module, batch_size: int, graph: bool, first: Any = 5, images: Any = IMAGES
) -> Counts:
    sampler = Sampler(model.eval(), 4, 0.25, 0, batch_size, unread_passes=7, graph=graph)
    with torch.inference_mode():
        sampler.gather(images, IDS, 0, 20)  # another rectangle before, of another shape
        return sampler.gather(images, IDS, first, 70, IDS % 4, score_bins=100)


def check(found: Counts, expected: Counts) -> None:
    np.testing.assert_array_equal(found.votes, expected.votes)
    np.testing.assert_array_equal(found.histogram, expected.histogram)
    np.testing.assert_array_equal(found.sums, expected.sums)


@pytest.mark.usefixtures("as_gpu")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 100, 1000])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_passes_of_one_shape_count_what_ragged_ones_do(
    graph: bool, batch_size: int, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = IMAGES.contiguous(memory_format=layout)
    firsts = (5, 2**32 - 70, np.array([5, 5, 5, 0, 0, 2**31, 2**31, 7, 8]))
    found = [gathered(Elementwise(4), batch_size, graph, first, images) for first in firsts]
    monkeypatch.setattr(sampling, "on_gpu", lambda device: False)
    for one, first in zip(found, firsts, strict=True):
        check(one, gathered(Elementwise(4), 50, False, first, images))


@pytest.mark.usefixtures("as_gpu")
def test_the_model_sees_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(Elementwise(4))
    sampler = Sampler(recorder.eval(), 4, 0.25, 0, 32)
    with torch.inference_mode():
        sampler.gather(IMAGES, IDS, 0, 70)
    assert {len(x) for x in recorder.inputs if len(x) > 1} == {24}  # 70 draws in three passes
    assert len(recorder.inputs) - sum(len(x) == 1 for x in recorder.inputs) == 27


class NearTies(torch.nn.Module):
    """Logits in steps so coarse that ties are common."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1)[:, :4] * 4).round()


@pytest.mark.usefixtures("as_gpu")
def test_near_ties_are_replayed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[int] = []
    monkeypatch.setattr(passes, "captured", lambda compute: shapes.append(1) or stand_in(compute))
    found = gathered(NearTies(), 64, True)
    # A shape for each of both rectangles (20 and 70 draws), and one for an image alone.
    assert len(shapes) == 3
    monkeypatch.setattr(sampling, "on_gpu", lambda device: False)
    check(found, gathered(NearTies(), 50, False))


@pytest.mark.usefixtures("as_gpu")
def test_memory_that_runs_out_ends_the_one_shape() -> None:
    class Hungry(Elementwise):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

    with pytest.warns(UserWarning, match="out of memory with"):
        found = gathered(Hungry(4), 64, True)
    check(found, gathered(Elementwise(4), 20, False))


@pytest.mark.usefixtures("as_gpu")
def test_certificates_are_the_same_with_a_graph() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    made = [
        SmoothedClassifier(model, 3, 0.25, graph=graph).certify(IMAGES, n0=10, n=100)
        for graph in (False, True)
    ]
    assert made[0].table.equals(made[1].table)
    assert made[0].provenance == made[1].provenance


def test_graph_is_a_bool() -> None:
    with pytest.raises(TypeError, match="graph"):
        SmoothedClassifier(torch.nn.Identity(), 3, 0.25, graph=1)  # type: ignore[arg-type]
