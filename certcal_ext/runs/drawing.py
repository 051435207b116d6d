# SPDX-License-Identifier: MIT
"""Requests answered by all processes together: units are dealt out, kept as shards, and summed by the first process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext._images import Samples
from certcal_ext._progress import Report
from certcal_ext.distributed import Group
from certcal_ext.runs.folder import WorkFolder, array_digest
from certcal_ext.runs.shards import Total
from certcal_ext.runs.units import Layout, Unit, units_of
from certcal_ext.smoothing.draws import ModelDraws, Request, group_size
from certcal_ext.smoothing.sampling import Counts

if TYPE_CHECKING:
    from certcal_ext.smoothing.classifier import SmoothedClassifier

#: Work of a unit: what a killed process loses at most.
_UNIT_SECONDS = 3.0
_PROBE_SECONDS, _MOST_PROBES = 0.1, 6


class UnitSampler:
    """Takes the draws of units.

    Args:
        smooth: the classifier; its model is in evaluation mode.
        samples: whose draws are asked for.
        batch_size: most noisy images in one forward pass.
        on_draws: called with the number of draws of each pass.
    """

    def __init__(
        self,
        smooth: SmoothedClassifier,
        samples: Samples,
        batch_size: int,
        on_draws: Callable[[int], None],
    ) -> None:
        self.samples, self._sampler = samples, smooth.sampler(batch_size, on_draws)
        self._draws = ModelDraws(self._sampler, samples.images, samples.ids)
        self.num_classes = smooth.num_classes

    def counts(self, request: Request, unit: Unit) -> Counts:
        """Takes the draws of a unit, with the samples handed to the model in the request's groups."""
        return self._draws.take(unit.of(request))

    def measured(self, draws: int, unit_draws: int | None) -> Layout:
        """How large passes are here, and units that take some seconds; the draws of the measurement are not kept."""
        image, ids = self.samples.images[:1], self.samples.ids[:1]
        size, most = self._sampler.images_of_a_pass(image), self._sampler.largest_batch
        if unit_draws is not None:
            return Layout(unit_draws, size, most)
        probe = min(size, draws)
        self._sampler.gather(image, ids, 0, probe)  # warms up
        for _ in range(_MOST_PROBES):
            started = time.perf_counter()
            self._sampler.gather(image, ids, 0, probe)
            spent = time.perf_counter() - started
            if spent > _PROBE_SECONDS or probe == draws:
                break
            probe = min(4 * probe, draws)
        return Layout(max(1, math.ceil(_UNIT_SECONDS * probe / spent)), size, most)


class Drawing:
    """All processes of a run: the ``Draws`` of its journey. The first one asks; the others serve until it has finished.

    Undone units are dealt out one by one to whoever is free, by a counter that all processes share. What counts in the end
    is read back from the disk: the same bytes that a later process would go on from.

    Args:
        group: the processes.
        folder: of the run.
        sampler: of this process.
        show: called with the draws done and ``expected``; of the first process only.
        expected: draws of all requests.
    """

    def __init__(
        self,
        group: Group,
        folder: WorkFolder,
        sampler: UnitSampler,
        show: Report | None = None,
        expected: int = 0,
    ) -> None:
        self.num_classes, self.batch_size = sampler.num_classes, folder.manifest.layout.batch_size
        self._group, self._folder, self._sampler = group, folder, sampler
        self._show, self._expected = show, expected
        self._orders = self._known = self._own = 0

    def __len__(self) -> int:
        """N."""
        return len(self._sampler.samples)

    def on_draws(self, draws: int) -> None:
        """A pass of this process is done."""
        self._own += draws
        self._report(self._known + self._own)

    def take(self, request: Request) -> Counts:
        """The counts of a request: from shards, and drawn where there are none. Called by the first process.

        Raises:
            ConnectionError: another process failed.
            ValueError: shards that do not belong there, or a model that fails.
            OSError: the disk refuses.
        """
        folder = self._folder
        units = units_of(request, folder.manifest.layout)
        total = Total(request, units, self.num_classes)
        folder.look()
        folder.require_no_others(request, units)
        undone = []
        for unit in units:
            counts = folder.read(request, unit)
            if counts is None:
                undone.append(unit)
                continue
            total.add(unit, counts)
            self._known = self._group.added("draws", unit.images)
        if undone:
            self._group.told((request, undone))
            self._work(request, undone)
            folder.look()
        for unit in undone:
            counts = folder.read(request, unit)
            if counts is None:
                raise ValueError(
                    f"work: the shard {request.name}.{unit}, which was just written, cannot be read again"
                )
            total.add(unit, counts)
        self._report(self._group.added("draws", 0))
        return total.counts()

    def votes(self, rows: Any, first_draw: Any, draws: int) -> NDArray[np.int64]:
        """As ``Draws``, from one first draw on for all.

        What is asked for follows from the votes alone, so a resumed run asks for the same and finds its shards; only the
        first process plans, so it does not matter whether another would come to the same plan in the last bit.
        """
        where = np.ascontiguousarray(rows, np.int64)
        if not where.size or not draws:
            return np.zeros((where.size, self.num_classes), np.int64)
        name = f"votes-{array_digest(where)[:12]}-{first_draw}-{draws}"
        group = group_size(self.batch_size, draws)
        return self.take(Request(name, where, int(first_draw), int(draws), group)).votes

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
            self._folder.write(request, unit, self._sampler.counts(request, unit))
            self._known = self._group.added("draws", unit.images)
            self._own = 0
        self._group.wait()

    def _report(self, done: int) -> None:
        if self._show is not None:
            self._show(min(done, self._expected), self._expected)
