# SPDX-License-Identifier: MIT
"""A pass that does not fit into memory is halved, and the numbers stay the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sampled_models import Elementwise

from certcal_ext.smoothing.sampling import Counts, Sampler

IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


class Hungry(torch.nn.Module):
    """Runs out of memory above some number of images, as a GPU or the CPU's allocator would say it."""

    def __init__(self, most: int, error: RuntimeError) -> None:
        super().__init__()
        self.inner, self.most, self.error = Elementwise(4), most, error
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error
        result: torch.Tensor = self.inner(x)
        return result


def gathered(model: torch.nn.Module, unread_passes: int | None = None) -> Counts:
    sampler = Sampler(model.eval(), 4, 0.25, 0, 256, unread_passes=unread_passes)
    classes = np.arange(9) % 4
    with torch.inference_mode():
        return sampler.gather(IMAGES, np.arange(9), 5, 70, classes, score_bins=1000)


@pytest.mark.parametrize("most", [1, 10, 100])
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("unread_passes", [None, 5])
def test_out_of_memory_halves_the_batch_with_the_same_votes_and_scores(
    most: int, error: RuntimeError, unread_passes: int | None
) -> None:
    expected = gathered(Elementwise(4))
    hungry = Hungry(most, error)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = gathered(hungry, unread_passes)
    assert "out of memory with 210 images in a pass, going on with 105" in str(said[0].message)
    np.testing.assert_array_equal(found.votes, expected.votes)
    assert found.scores is not None
    assert expected.scores is not None
    np.testing.assert_array_equal(found.scores.counts, expected.scores.counts)
    np.testing.assert_array_equal(found.scores.sums, expected.scores.sums)
    # Once for each halving, not for each batch.
    assert sum(size > most for size in hungry.seen) <= 9


@pytest.mark.filterwarnings("ignore:.*out of memory.*:UserWarning")
@pytest.mark.parametrize("error", [OUT_OF_MEMORY[0], RuntimeError("shapes differ")])
def test_one_image_that_does_not_fit_and_other_errors_are_raised(error: RuntimeError) -> None:
    with pytest.raises(RuntimeError, match=str(error)):
        gathered(Hungry(0, error))
