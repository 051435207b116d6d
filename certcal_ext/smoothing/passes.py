# SPDX-License-Identifier: MIT
"""How a rectangle of (sample, draw) pairs is cut into passes over the model, and a pass that a GPU replays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def on_gpu(device: torch.device) -> bool:
    """Whether passes have one shape, and can be captured."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Window:
    """The one shape that all passes of a rectangle have: nothing is compiled, tuned or captured a second time.

    Attributes:
        samples: of the rectangle.
        draws: of the rectangle.
        height: samples of a pass.
        width: draws of a pass.
    """

    samples: int
    draws: int
    height: int
    width: int

    @classmethod
    def of(cls, samples: int, draws: int, batch_size: int) -> Window:
        """Of as many pairs as may be in a pass, in passes that are as even as they can be."""
        passes = -(-draws // batch_size)
        width = -(-draws // passes)
        return cls(samples, draws, min(samples, max(1, batch_size // width)), width)

    def around(self, rows: slice, columns: range) -> tuple[slice, range]:
        """A pass of this shape that holds a smaller one, within the rectangle: the others of it are drawn twice."""
        first_row = min(rows.start, self.samples - self.height)
        first = min(columns.start, self.draws - self.width)
        return slice(first_row, first_row + self.height), range(first, first + self.width)

    def tiles(self) -> Iterator[tuple[slice, range]]:
        """What is counted, pass by pass: pieces of at most this shape that cover all pairs once."""
        for row in range(0, self.samples, self.height):
            for first in range(0, self.draws, self.width):
                last_row, last = row + self.height, first + self.width
                yield slice(row, min(last_row, self.samples)), range(first, min(last, self.draws))


def tiles(samples: int, draws: int, batch_size: int) -> Iterator[tuple[slice, range]]:
    """Rectangles of at most ``batch_size`` (sample, draw) pairs that cover all of them."""
    width = min(draws, batch_size)
    return Window(samples, draws, max(1, batch_size // width), width).tiles()


def halves(rows: slice, columns: range) -> list[tuple[slice, range]]:
    """The two halves of a rectangle of more than one pair."""
    if len(columns) > 1:
        middle = len(columns) // 2
        return [(rows, columns[:middle]), (rows, columns[middle:])]
    row = (rows.start + rows.stop) // 2
    return [(slice(rows.start, row), columns), (slice(row, rows.stop), columns)]


def captured(compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A function that does again on a GPU what ``compute`` did, and its result, which each replay overwrites."""
    import torch

    cuda: Any = torch.cuda
    # First runs choose algorithms and fill the allocator, which a capture may not.
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(2):
            compute()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        result = compute()
    return graph.replay, result


class GraphedPass:
    """Noise and model of a pass of one shape, captured once and replayed for other images and draws.

    What tells replays apart lies in memory that the graph reads: pixels, sample numbers and the first draw. They are
    written in the order of the stream, so nobody waits.

    Args:
        compute: from pixels (B, E), ids (B,) and the first draw (1,) to logits.
        pixels: (B, E) of some pass of this shape.
        ids: (B,) int64.
    """

    def __init__(
        self,
        compute: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any],
        pixels: torch.Tensor,
        ids: torch.Tensor,
    ) -> None:
        import torch

        self._pixels, self._ids = pixels.clone(), ids.clone()
        self._first = torch.zeros(1, dtype=torch.int64, device=pixels.device)
        self._replay, self._logits = captured(lambda: compute(self._pixels, self._ids, self._first))

    def logits(self, pixels: torch.Tensor, ids: torch.Tensor, first_draw: int) -> Any:
        """Of a pass; overwritten by the next."""
        self._pixels.copy_(pixels)
        self._ids.copy_(ids)
        self._first.fill_(first_draw)
        self._replay()
        return self._logits


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch; as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
