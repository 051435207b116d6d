# SPDX-License-Identifier: MIT
"""The units of work that requests for draws are cut into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from certcal_ext.smoothing.draws import Request

#: A request is cut into so many units at least, where they do not get smaller than a twelfth of the largest: few enough
#: files, many enough that processes end together.
_FEWEST_UNITS, _SMALLEST_SHARE = 32, 12

#: No run has more shards than about so many, however long it is.
_MOST_UNITS = 50_000


@dataclass(frozen=True)
class Layout:
    """What fixes the units of a run, for good: it is measured once, and kept in the manifest.

    Attributes:
        unit_draws: noisy images in a unit, at most (but never less than one forward pass).
        pass_size: noisy images in a forward pass, when the run began.
        batch_size: the run's batch size, when it began.
    """

    unit_draws: int
    pass_size: int
    batch_size: int


@dataclass(frozen=True, order=True)
class Unit:
    """A rectangle of a request: its samples ``row`` to ``row_end - 1``, draws ``draw`` to ``draw_end - 1`` of each."""

    row: int
    row_end: int
    draw: int
    draw_end: int

    @property
    def images(self) -> int:
        """Noisy images in it."""
        return (self.row_end - self.row) * (self.draw_end - self.draw)

    def of(self, request: Request) -> Request:
        """What it is of a request."""
        return request.part(slice(self.row, self.row_end), self.draw, self.draw_end - self.draw)

    def __str__(self) -> str:
        """As it stands in the name of its shard."""
        return f"r{self.row}-{self.row_end}.d{self.draw}-{self.draw_end}"


def units_of(request: Request, layout: Layout) -> list[Unit]:
    """Cuts a request into units, each draw in exactly one.

    Neither the number of processes nor anything that was done already has a part in it. A unit is made of whole passes,
    those that the request would be given in if it were not cut: so scores, whose last bits depend on the batch they are in,
    do not depend on the size of the units.

    Args:
        request: what is wanted.
        layout: of the run.

    Returns:
        The units, in order.

    Example:
        >>> import numpy as np
        >>> request = Request("votes", np.arange(100), first_draw=10, draws=600, group=64)
        >>> units = units_of(request, Layout(unit_draws=10**4, pass_size=200, batch_size=200))
        >>> len(units), str(units[0]), str(units[-1]), sum(unit.images for unit in units)
        (34, 'r0-3.d10-610', 'r97-100.d10-610', 60000)
    """
    size, draws, group = len(request.rows), request.draws, request.group
    width = min(draws, layout.pass_size)
    height = max(1, layout.pass_size // width)
    most = _most(size * draws, layout)
    if group * draws <= most:
        group = step = group * (most // (group * draws))
    elif draws <= most:
        step = max(1, most // draws // height) * height
    else:
        step = 1
    columns = draws if draws <= most else max(1, most // width) * width
    first, end = request.first_draw, request.first_draw + draws
    return [
        Unit(row, row_end, draw, min(draw + columns, end))
        for row, row_end in _steps(size, group, step)
        for draw in range(first, end, columns)
    ]


def _most(images: int, layout: Layout) -> int:
    largest = max(layout.unit_draws, images // _MOST_UNITS)
    wanted = max(images // _FEWEST_UNITS, largest // _SMALLEST_SHARE)
    return max(layout.pass_size, min(largest, wanted))


def _steps(size: int, group: int, step: int) -> Iterator[tuple[int, int]]:
    """Steps that begin anew with each group."""
    for start in range(0, size, group):
        end = min(start + group, size)
        for row in range(start, end, step):
            yield row, min(row + step, end)
