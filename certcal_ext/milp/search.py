# SPDX-License-Identifier: MIT
"""Branch and bound over the sides of the bins and the pieces, each bound proved by itself."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from certcal_ext.milp.points import Point, grouped, met, most_moved, searched
from certcal_ext.milp.problem import Bools, Floats, Ints, Pieces, Problem, sums
from certcal_ext.milp.program import program_of
from certcal_ext.milp.relaxation import Relaxation, Stopped

#: A part of the tree is closed where no ECE is above the best one by more than this.
GAP = 1e-9

#: Shares at least so far from whole ones are branched on first.
_FRACTIONAL = 1e-7


class Search:
    """The tree, the best open part first.

    Args:
        problem: what is solved.
        pieces: of the problem.
        highspy: the module.
        over: whether to stop; asked often.
        ceiling: a bound on the ECE.
        best: the best point that is known, or None.
    """

    def __init__(
        self,
        problem: Problem,
        pieces: Pieces,
        highspy: Any,
        over: Callable[[], bool],
        ceiling: float,
        best: Point | None,
    ) -> None:
        self.problem, self.pieces, self.best = problem, pieces, best
        self.program = program = program_of(problem, pieces)
        self.relaxation = Relaxation(highspy, program, over)
        self._shares = program.piece.size
        self._sample, self._bin = pieces.sample[program.piece], pieces.bin[program.piece]
        self._number = itertools.count(0, -1)
        self._tried: set[bytes] = set()
        #: The largest bound of a closed part, and of one that nothing is left to branch on in.
        self._closed = self._stuck = -np.inf
        #: The closed shares of each open part are packed, since there can be many.
        self._open: list[tuple[float, int, bytes]] = []
        everything = np.zeros(self._shares, np.bool_)
        self._push(float(np.nextafter(ceiling * problem.right.size, np.inf)), everything)

    @property
    def bound(self) -> float:
        """N times the ECE is never above this; -inf where no confidences are allowed."""
        return max(self._closed, -self._open[0][0] if self._open else -np.inf)

    @property
    def finished(self) -> bool:
        """Whether no part of the tree is open."""
        return not self._open

    def run(self, watch: Callable[[float, float], None]) -> None:
        """Works until the tree is closed or the relaxation is told to stop.

        ``watch`` is called with the bound and the best value after each relaxation.
        """
        while self._open:
            negative, _, packed = heapq.heappop(self._open)
            ceiling = -negative
            bits = np.frombuffer(packed, np.uint8)
            closed = np.unpackbits(bits, count=self._shares).astype(np.bool_)
            try:
                if not self._done(ceiling):
                    proved, solution = self.relaxation.solve(closed)
                    ceiling = min(ceiling, proved)
                    if solution is not None:
                        self._offer(solution)
            except Stopped as stopped:
                self._push(min(ceiling, stopped.bound), closed)
                return
            if self._done(ceiling):
                self._closed = max(self._closed, ceiling)
            else:
                parts = self._parts(solution, closed)
                for part in parts:
                    self._push(ceiling, part)
                if not parts:
                    self._closed = max(self._closed, ceiling)
                    self._stuck = max(self._stuck, ceiling)
            watch(self.bound, 0.0 if self.best is None else self.best.total)

    def _push(self, ceiling: float, closed: Bools) -> None:
        heapq.heappush(self._open, (-ceiling, next(self._number), np.packbits(closed).tobytes()))

    def _done(self, ceiling: float) -> bool:
        best = -np.inf if self.best is None else self.best.total
        gap = GAP * self.problem.right.size
        # Nothing has an ECE below 0: a part with such a bound holds no confidences at all.
        return ceiling < 0.0 or ceiling <= max(best, self._stuck) + gap

    def _offer(self, solution: Floats) -> None:
        """Keeps the point that the solution stands for, if it is better."""
        problem, pieces = self.problem, self.pieces
        share = solution[: self._shares]
        mass = np.bincount(self.program.piece, share, pieces.sample.size)
        up = self._mass(share, True) >= self._mass(share, False)
        samples = problem.right.size
        moved = most_moved(problem, sums(pieces.sample, np.where(pieces.stays, 0.0, mass), samples))
        if not problem.coupled:
            self._keep(searched(problem, pieces, up))
            return
        z = sums(self._sample, share * self.program.place, samples)
        if problem.sizes is not None:
            # In the order of the confidences; and of the groups, where a tolerance hides it.
            lean = sums(self._sample, share * self._bin, samples)
            inside = np.clip(z, problem.low, problem.high)
            orders = [np.lexsort((lean, inside)), np.lexsort((inside, np.rint(lean)))]
            found = [grouped(problem, order, moved) for order in orders]
            points = [point for point in found if point is not None]
            if not points:
                return
            point = max(points, key=lambda point: point.total)
            if not problem.rows:
                self._keep(point)
                return
            fits = pieces.bin == point.bin[pieces.sample]
        else:
            fits = np.ones(mass.size, np.bool_)
        if problem.attacked is not None:
            fits &= pieces.stays == ~moved[pieces.sample]
        index = pieces.largest(np.where(fits, mass, -1.0))
        if not fits[index].all():
            return
        self._settle(index, up, z)

    def _settle(self, index: Ints, up: Bools, z: Floats) -> None:
        """With linear constraints: the best confidences in these pieces, by one more relaxation."""
        chosen = np.zeros(self.pieces.sample.size, np.bool_)
        chosen[index] = True
        key = np.packbits(np.r_[chosen, up]).tobytes()
        if key in self._tried:
            return
        self._tried.add(key)
        fixed = ~(chosen[self.program.piece] & (self.program.up == up[self._bin]))
        try:
            _, solution = self.relaxation.solve(fixed)
        except Stopped:
            # What it proves is about these pieces only; the next relaxation of the tree stops too.
            return
        if solution is not None:
            share = solution[: self._shares]
            z = sums(self._sample, share * self.program.place, self.problem.right.size)
        point = met(self.problem, self.pieces, index, z)
        if point is not None:
            self._keep(point)

    def _keep(self, point: Point) -> None:
        if self.best is None or point.rank > self.best.rank:
            self.best = point

    def _mass(self, share: Floats, up: bool) -> Floats:
        side = self.program.up == up
        return sums(self._bin[side], share[side], self.problem.bins)

    def _parts(self, solution: Floats | None, closed: Bools) -> list[Bools]:
        """Two parts that hold every choice of sides and pieces; none where all are made."""
        up, free = self.program.up, ~closed
        share = np.where(free, 1e-12, 0.0)
        if solution is not None:
            share += np.where(free, np.maximum(solution[: self._shares], 0.0), 0.0)
        split = np.minimum(self._mass(share, True), self._mass(share, False))
        mass = np.bincount(self.program.piece, share, self.pieces.sample.size)
        first = np.flatnonzero(np.r_[True, np.diff(self.pieces.sample) != 0])
        rest = 1.0 - np.maximum.reduceat(mass, first) / np.add.reduceat(mass, first)
        m, n = int(np.argmax(split)), int(np.argmax(rest))
        if split[m] > _FRACTIONAL or (rest[n] <= _FRACTIONAL and split[m] > 0):
            return [closed | ((self._bin == m) & (up == side)) for side in (False, True)]
        if rest[n] <= 0:
            return []
        mine = np.flatnonzero((self.pieces.sample == n) & (mass > 0))
        if mine.size < 2:
            return []
        # As even as can be, so that both parts change the relaxation.
        running = np.cumsum(mass[mine])[:-1]
        cut = mine[int(np.argmin(np.abs(running - running[-1] / 2 - mass[mine[-1]] / 2)))]
        low_part = self.program.piece <= cut
        own = self._sample == n
        return [closed | (own & low_part), closed | (own & ~low_part)]
