# SPDX-License-Identifier: MIT
"""A pass of the sampling loop that is captured once and replayed for other draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from on_cuda import ON_DEVICE, cuda
from sampled_models import Elementwise

from certcal_ext.smoothing.noise import write_noise
from certcal_ext.smoothing.votes import write_votes, write_votes_and_scores

SAMPLES, DRAWS, CLASSES, BINS = 5, 16, 4, 50
FIRST, PASSES = 3, 6
SIGMA, SEED, MARGIN = 0.25, 11, 0.1
WORDS = ("counts", "histogram", "sums", "faults", "ties")


class Loop:
    """Buffers that stay where they are, and passes over them."""

    def __init__(self, device: str, scores: bool) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Any:
            return torch.zeros(shape, dtype=dtype, device=device)

        images = torch.rand(SAMPLES, 48, generator=torch.Generator().manual_seed(0))
        self.images = images.to(device)
        self.ids = torch.arange(SAMPLES, device=device)
        self.chosen = self.ids % CLASSES
        self.model = Elementwise(CLASSES).eval()
        self.noisy = zeros(SAMPLES, DRAWS, 48, dtype=torch.float32)
        self.near = zeros(SAMPLES, DRAWS, dtype=torch.uint8)
        self.offset = zeros(1)
        self.margins = torch.full((SAMPLES,), MARGIN, dtype=torch.float64, device=device)
        self.counts, self.histogram = zeros(SAMPLES, CLASSES), zeros(SAMPLES, BINS)
        self.sums, self.faults, self.ties = zeros(SAMPLES, 2), zeros(2), zeros(1)
        self.scores = scores

    def count(self, first: int, offset: Any) -> None:
        """A pass over draws from ``first`` on, or ``offset`` later."""
        write_noise(self.images, SIGMA, SEED, self.ids, first, self.noisy, draw_offset=offset)
        logits = self.model(self.noisy.view(-1, 3, 4, 4)).view(SAMPLES, DRAWS, CLASSES)
        votes = self.counts, self.near, self.margins
        if self.scores:
            scores = self.histogram, self.sums
            write_votes_and_scores(logits, self.chosen, *votes, *scores, self.faults)
        else:
            write_votes(logits, *votes, self.faults)
        self.ties += self.near.sum()
        self.near.zero_()

    def advance(self) -> None:
        """The next pass: only what the buffers hold tells it from the last one."""
        self.count(FIRST, self.offset)
        self.offset += DRAWS

    def restart(self) -> None:
        for name in ("offset", *WORDS):
            getattr(self, name).zero_()

    def words(self) -> dict[str, list[int]]:
        return {name: getattr(self, name).tolist() for name in WORDS}


def eager_words(device: str, scores: bool) -> dict[str, list[int]]:
    """The same passes, with their draws as numbers."""
    loop = Loop(device, scores)
    for k in range(PASSES):
        loop.count(FIRST + k * DRAWS, None)
    return loop.words()


@pytest.mark.parametrize("scores", [False, True])
def test_passes_that_move_their_own_draws_count_what_the_loop_counts(scores: bool) -> None:
    loop = Loop("cpu", scores)
    for _ in range(PASSES):
        loop.advance()
    assert loop.words() == eager_words("cpu", scores)
    assert int(loop.offset) == PASSES * DRAWS
    assert 0 < int(loop.ties) < SAMPLES * PASSES * DRAWS
    assert int(loop.counts.sum()) == SAMPLES * PASSES * DRAWS - int(loop.ties)
    assert int(loop.histogram.sum()) == (SAMPLES * PASSES * DRAWS if scores else 0)


class TestOnDevice:
    pytestmark = ON_DEVICE

    @pytest.mark.parametrize("scores", [False, True])
    def test_a_captured_pass_is_replayed_for_other_draws(self, scores: bool) -> None:
        loop = Loop("cuda", scores)
        # First runs load kernels and fill the allocator, which a capture may not.
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(3):
                loop.advance()
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            loop.advance()
        loop.restart()
        for _ in range(PASSES):
            graph.replay()
        assert int(loop.offset) == PASSES * DRAWS
        assert loop.words() == eager_words("cuda", scores)
        assert loop.words() == eager_words("cpu", scores)

    @pytest.mark.parametrize(("elements", "channels"), [(48, 1), (48, 3), (30, 5), (31, 1)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_the_kernel_reads_the_offset_when_it_runs(
        self, elements: int, channels: int, dtype: torch.dtype
    ) -> None:
        """It is written on the stream just before; draws that there are not give NaN."""
        images, ids = torch.rand(2, elements), torch.tensor([3, 2**40])
        there = images.cuda(), ids.cuda()
        word = torch.zeros(1, dtype=torch.int64, device="cuda")
        out = torch.zeros(2, 9, elements, dtype=dtype, device="cuda")
        expected = torch.zeros(2, 9, elements, dtype=dtype)
        for to in (0, 6, 2**31, 2**32 - 9):
            word.fill_(to - 7)
            write_noise(there[0], 0.5, 1, there[1], 7, out, channels, word)
            write_noise(images, 0.5, 1, ids, to, expected, channels)
            assert torch.equal(out.cpu(), expected)
        for offset in (-8, 2**32 - 15, -(2**63), 2**63 - 1):
            word.fill_(offset)
            write_noise(there[0], 0.5, 1, there[1], 7, out, channels, word)
            assert bool(out.isnan().all())

    def test_the_offset_lies_where_the_images_are(self) -> None:
        x, ids, out = torch.zeros(2, 4), torch.arange(2), torch.zeros(2, 1, 4)
        word = torch.zeros(1, dtype=torch.int64)
        message = "draw_offset: expected a tensor on {} like images"
        with pytest.raises(ValueError, match=message.format("cuda:0")):
            write_noise(x.cuda(), 0.5, 1, ids.cuda(), 0, out.cuda(), 1, word)
        with pytest.raises(ValueError, match=message.format("cpu")):
            write_noise(x, 0.5, 1, ids, 0, out, 1, word.cuda())
