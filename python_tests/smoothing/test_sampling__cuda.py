# SPDX-License-Identifier: MIT
"""The sampling loop on a CUDA device: the numbers of the CPU, and hardly any waiting."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from on_cuda import ON_DEVICE, cuda
from sampled_models import Elementwise, Recorder

from certcal_ext.smoothing.draws import VoteSource
from certcal_ext.smoothing.sampling import Counts, Sampler

IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))
IDS = np.arange(9)

pytestmark = ON_DEVICE


class OnDevice(Elementwise):
    """Has a parameter, by which the loop knows the device."""

    def __init__(self, device: str) -> None:
        super().__init__(4)
        self.scale = torch.nn.Parameter(torch.ones(1, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale


def gathered(device: str, batch_size: int, draws: int = 150) -> Counts:
    sampler = Sampler(OnDevice(device).eval(), 4, 0.25, 0, batch_size)
    with torch.inference_mode():
        return sampler.gather(IMAGES, IDS, 3, draws, IDS % 4, score_bins=1000)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_votes_and_scores_are_those_of_the_cpu(batch_size: int) -> None:
    found, expected = gathered("cuda", batch_size), gathered("cpu", 1000)
    np.testing.assert_array_equal(found.votes, expected.votes)
    assert found.scores is not None
    assert expected.scores is not None
    np.testing.assert_array_equal(found.scores.counts, expected.scores.counts)
    np.testing.assert_array_equal(found.scores.sums, expected.scores.sums)


def test_images_may_live_on_the_device() -> None:
    expected = VoteSource(OnDevice("cpu").eval(), 4, 0.25, 0, IMAGES).votes([5, 2], [0, 30], 100)
    source = VoteSource(OnDevice("cuda").eval(), 4, 0.25, 0, IMAGES.cuda())
    np.testing.assert_array_equal(source.votes([5, 2], [0, 30], 100), expected)


def test_more_passes_do_not_wait_more_often() -> None:
    """torch warns of every operation of its own that waits for the device."""

    def waits(draws: int) -> int:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            cuda.set_sync_debug_mode("warn")
            try:
                gathered("cuda", 20, draws)
            finally:
                cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in said)

    gathered("cuda", 20)
    few, many = waits(20), waits(800)
    assert many > 0
    assert many <= few + 1  # that of the near ties, which the few draws may lack


def test_faults_are_named_by_their_pass() -> None:
    class Faulty(Recorder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            return logits * float("nan") if len(self.inputs) == 3 else logits

    with torch.inference_mode(), pytest.raises(ValueError, match="among samples 14 to 15"):
        Sampler(Faulty(OnDevice("cuda")).eval(), 4, 0.25, 0, 40).gather(IMAGES, IDS + 10, 0, 20)
