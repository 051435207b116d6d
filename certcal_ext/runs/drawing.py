# SPDX-License-Identifier: MIT
"""Requests answered by all processes together: units are dealt out, kept as shards, and summed by the first process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from certcal_ext._progress import Report
from certcal_ext.distributed import Group
from certcal_ext.runs.folder import WorkFolder
from certcal_ext.runs.shards import Counted, Total
from certcal_ext.runs.units import Layout, Request, Unit, units_of
from certcal_ext.smoothing.sampling import Sampler

if TYPE_CHECKING:
    import torch

    from certcal_ext.smoothing.classifier import SmoothedClassifier

#: Work of a unit: what a killed process loses at most.
_UNIT_SECONDS = 3.0
_PROBE_SECONDS, _MOST_PROBES = 0.1, 6


class UnitSampler:
    """Takes the draws of units.

    Args:
        smooth: the classifier; its model is in evaluation mode.
        batch_size: most noisy images in one forward pass.
        on_draws: called with the number of draws of each pass.
    """

    def __init__(
        self, smooth: SmoothedClassifier, batch_size: int, on_draws: Callable[[int], None]
    ) -> None:
        named = (smooth.model, smooth.num_classes, smooth.sigma, smooth.seed)
        self._sampler, self._batch_size = Sampler(*named, batch_size, on_draws), batch_size

    def counted(
        self, images: torch.Tensor, ids: NDArray[np.int64], request: Request, unit: Unit
    ) -> Counted:
        """Takes the draws of a unit, with the samples handed to the model in the request's groups."""
        parts = []
        for row in range(unit.row, unit.row_end, request.group):
            some = slice(row, min(row + request.group, unit.row_end))
            rows, draws = request.rows[some], unit.draw_end - unit.draw
            scores = () if request.classes is None else (request.classes[some], request.bins)
            found = self._sampler.gather(images[rows], ids[rows], unit.draw, draws, *scores)
            parts.append(Counted(found.counts, found.histogram, found.sums))
        return Counted.joined(parts)

    def measured(
        self, images: torch.Tensor, ids: NDArray[np.int64], draws: int, unit_draws: int | None
    ) -> Layout:
        """How large passes are here, and units that take some seconds; the draws of the measurement are not kept."""
        size = self._sampler.images_of_a_pass(images[:1])
        if unit_draws is not None:
            return Layout(unit_draws, size, self._batch_size)
        taken = min(size, draws)
        self._sampler.gather(images[:1], ids[:1], 0, taken)  # warms up
        for _ in range(_MOST_PROBES):
            started = time.perf_counter()
            self._sampler.gather(images[:1], ids[:1], 0, taken)
            spent = time.perf_counter() - started
            if spent > _PROBE_SECONDS or taken == draws:
                break
            taken = min(4 * taken, draws)
        return Layout(max(1, math.ceil(_UNIT_SECONDS * taken / spent)), size, self._batch_size)


class Drawing:
    """All processes of a run. The first one asks; the others serve until it has finished.

    Undone units are dealt out one by one to whoever is free, by a counter that all processes share. What counts in the end
    is read back from the disk: the same bytes that a later process would go on from.

    Args:
        group: the processes.
        folder: of the run.
        sampler: of this process.
        images: (N, ...) float32.
        ids: (N,) the samples' numbers.
        classes: K.
        show: called with the draws done and ``expected``; of the first process only.
        expected: draws of all requests.
    """

    def __init__(
        self,
        group: Group,
        folder: WorkFolder,
        sampler: UnitSampler,
        images: torch.Tensor,
        ids: NDArray[np.int64],
        classes: int,
        show: Report | None = None,
        expected: int = 0,
    ) -> None:
        self._group, self._folder, self._sampler = group, folder, sampler
        self._images, self._ids, self._classes = images, ids, classes
        self._show, self._expected = show, expected
        self._orders = self._known = self._own = 0

    def on_draws(self, draws: int) -> None:
        """A pass of this process is done."""
        self._own += draws
        self._report(self._known + self._own)

    def answer(self, request: Request) -> Counted:
        """The counts of a request: from shards, and drawn where there are none. Called by the first process.

        Raises:
            ConnectionError: another process failed.
            ValueError: shards that do not belong there, or a model that fails.
            OSError: the disk refuses.
        """
        folder = self._folder
        units = units_of(request, folder.manifest.layout)
        total = Total(request, units, self._classes)
        folder.look()
        folder.require_no_others(request, units)
        undone = []
        for unit in units:
            counted = folder.read(request, unit)
            if counted is None:
                undone.append(unit)
                continue
            total.add(unit, counted)
            self._known = self._group.added("draws", unit.images)
        if undone:
            self._group.told((request, undone))
            self._work(request, undone)
            folder.look()
        for unit in undone:
            counted = folder.read(request, unit)
            if counted is None:
                raise ValueError(
                    f"work: the shard {request.name}.{unit}, which was just written, cannot be read again"
                )
            total.add(unit, counted)
        self._report(self._group.added("draws", 0))
        return total.counted()

    def serve(self) -> None:
        """Works on what the first process asks for, until it has finished."""
        while (order := self._group.told(None)) is not None:
            self._work(*order)

    def finish(self) -> None:
        """Lets the others go."""
        self._group.told(None)

    def _work(self, request: Request, undone: list[Unit]) -> None:
        self._orders += 1
        while (place := self._group.added(f"order {self._orders}", 1) - 1) < len(undone):
            self._group.require_all_well()
            unit = undone[place]
            self._own = 0
            counted = self._sampler.counted(self._images, self._ids, request, unit)
            self._folder.write(request, unit, counted)
            self._known = self._group.added("draws", unit.images)
            self._own = 0
        self._group.wait()

    def _report(self, done: int) -> None:
        if self._show is not None:
            self._show(min(done, self._expected), self._expected)
