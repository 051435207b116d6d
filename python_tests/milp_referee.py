# SPDX-License-Identifier: MIT
"""Small programs near a solver's tolerances, and their worst cases by enumeration in fractions.

Shares no code with the package. For a choice of bins the ECE is convex in the confidences, so that
its maximum over what linear constraints allow is at a vertex; all vertices are tried.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from reference import pieces

ZERO = Fraction()


@dataclass
class Program:
    """Arguments of ``certified_ece_milp``."""

    correct: list[int]
    lower: list[float]
    upper: list[float]
    options: dict[str, Any] = field(default_factory=dict)

    def answer(self, solve: Any) -> Any:
        """What the package says."""
        return solve(self.correct, self.lower, self.upper, **self.options)


def near(random: np.random.Generator, values: list[float]) -> float:
    """A number in [0, 1]: anywhere, tiny, next to 1, or at or next to one of the values."""
    tiny = float(10.0 ** -random.uniform(5, 13))
    kind = random.integers(7)
    value = [
        random.random(),
        random.random(),
        tiny,
        1.0 - tiny,
        float(random.choice(values)),
        float(random.choice(values)) + tiny * random.choice([-1.0, 1.0]),
        float(np.nextafter(random.choice(values), random.integers(2))),
    ][kind]
    return float(min(max(value, 0.0), 1.0))


def drawn(random: np.random.Generator, kind: str) -> Program:
    """A program of the kind: "plain", "attacked", "rows", "groups" or "groups attacked"."""
    size, bins = int(random.integers(1, 6)), int(random.integers(1, 5))
    if kind == "rows":
        size, bins = int(random.integers(1, 4)), int(random.integers(1, 4))
    if random.random() < 0.5:
        edges = np.linspace(0, 1, bins + 1).tolist()
    else:
        inner = {near(random, [0.0, 0.5, 1.0]) for _ in range(bins - 1)} - {0.0, 1.0}
        edges = [0.0, *sorted(inner), 1.0]
    values = list(edges)
    lower, upper, clean = [], [], []
    for _ in range(size):
        ends = sorted((near(random, values), near(random, values)))
        if random.random() < 0.2:
            ends[1] = ends[0]
        values += ends
        lower.append(ends[0])
        upper.append(ends[1])
        inside = [ends[0], ends[1], ends[0] + random.random() * (ends[1] - ends[0])]
        inside.append(near(random, values))
        clean.append(float(np.clip(random.choice(inside), *ends)))
    program = Program([int(c) for c in random.integers(2, size=size)], lower, upper)
    options = program.options
    options["warm_start"] = bool(random.integers(2))
    if kind.startswith("groups"):
        options["equal_mass"] = int(random.integers(1, min(size, 3) + 1))
    else:
        options.update(edges=edges, closed=str(random.choice(["left", "right"])))
    if kind.endswith("attacked"):
        options.update(max_attacked=int(random.integers(size + 1)), confidence=clean)
    elif random.random() < 0.3:
        options["confidence"] = clean
    if kind == "rows":
        options["constraints"] = [
            _row(random, clean, values) for _ in range(1 + (random.random() < 0.2))
        ]
    return program


def _row(random: np.random.Generator, clean: list[float], values: list[float]) -> Any:
    size = len(clean)
    weights = [
        np.full(size, 1 / size),
        random.choice([-1.0, 0.5, 1.0], size),
        10.0 ** -random.uniform(0, 13, size),
        np.where(random.random(size) < 0.5, 1.0, 10.0 ** -random.uniform(5, 13)),
    ][random.integers(4)]
    middle = float(weights @ np.array(clean))
    if random.random() < 0.2:
        middle = float(weights @ np.array([near(random, values) for _ in clean]))
    width = float(random.choice([0.1, 0.001, 10.0 ** -random.uniform(5, 13)]))
    if random.random() < 0.2:
        return weights, -math.inf, middle + width * random.integers(2)
    return weights, middle - width * random.random(), middle + width * random.random()


def worst(program: Program) -> tuple[Fraction, Fraction] | None:
    """(what an allowed point reaches or comes near, the same with both ends of each bin in it).

    None where nothing is allowed. The two differ with linear constraints only: a value on the edge
    of a bin that does not hold it is then left out of the first by one float.
    """
    options = program.options
    if options.get("equal_mass") is not None:
        value = max(
            _worst_groups(program.correct, lower, upper, options["equal_mass"])
            for lower, upper in _attacks(program)
        )
        return value, value
    if options.get("constraints"):
        reached = _worst_rows(program, True)
        return None if reached is None else (reached, _worst_rows(program, False) or ZERO)
    value = max(_worst_bins(program, lower, upper) for lower, upper in _attacks(program))
    return value, value


def _attacks(program: Program) -> Iterator[tuple[list[float], list[float]]]:
    """The intervals if so many samples may move, for every choice of them."""
    most, clean = program.options.get("max_attacked"), program.options.get("confidence")
    size = len(program.correct)
    if most is None:
        yield program.lower, program.upper
        return
    for moved in itertools.combinations(range(size), most):
        yield (
            [program.lower[n] if n in moved else clean[n] for n in range(size)],
            [program.upper[n] if n in moved else clean[n] for n in range(size)],
        )


def _worst_bins(program: Program, lower: list[float], upper: list[float]) -> Fraction:
    """All signs of the bins; for each the best bin of each sample."""
    options, correct = program.options, program.correct
    edges = np.array(options["edges"])
    places = [
        [
            (p.bin, c - Fraction(p.low), Fraction(p.high) - c)
            for p in pieces(*ends, edges, options["closed"])
        ]
        for c, ends in zip(correct, zip(lower, upper, strict=True), strict=True)
    ]
    best = ZERO
    for signs in itertools.product((True, False), repeat=len(edges) - 1):
        total = sum(
            (max(up if signs[m] else down for m, up, down in place) for place in places), ZERO
        )
        best = max(best, total)
    return best / len(correct)


def _worst_rows(program: Program, inside: bool) -> Fraction | None:
    """All bins of each sample, and all vertices of what the constraints leave."""
    options, correct = program.options, program.correct
    edges, closed = np.array(options["edges"]), options["closed"]
    rows = [
        (
            [Fraction(float(w)) for w in weights],
            *(None if math.isinf(e) else Fraction(e) for e in ends),
        )
        for weights, *ends in options["constraints"]
    ]
    places = []
    for low, high in zip(program.lower, program.upper, strict=True):
        reached = []
        for m, start, end in pieces(low, high, edges, closed):
            if inside and closed == "right" and m > 0 and start == edges[m]:
                start = np.nextafter(start, 2.0)
            if inside and closed == "left" and m < len(edges) - 2 and end == edges[m + 1]:
                end = np.nextafter(end, -1.0)
            reached.append((m, Fraction(float(start)), Fraction(float(end))))
        places.append(reached)
    best: Fraction | None = None
    for chosen in itertools.product(*places):
        for z in _vertices([p[1] for p in chosen], [p[2] for p in chosen], rows):
            errors: dict[int, Fraction] = {}
            for c, (m, _, _), x in zip(correct, chosen, z, strict=True):
                errors[m] = errors.get(m, ZERO) + c - x
            total = sum((abs(error) for error in errors.values()), ZERO)
            best = total if best is None else max(best, total)
    return None if best is None else best / len(correct)


def _vertices(
    low: list[Fraction], high: list[Fraction], rows: list[Any]
) -> Iterator[list[Fraction]]:
    """All vertices of a box cut by at most two rows."""
    size = len(low)
    for count in range(min(len(rows), size) + 1):
        for active in itertools.combinations(rows, count):
            for sides in itertools.product((1, 2), repeat=count):
                wanted = [row[side] for row, side in zip(active, sides, strict=True)]
                if any(value is None for value in wanted):
                    continue
                for free in itertools.combinations(range(size), count):
                    fixed = [n for n in range(size) if n not in free]
                    for ends in itertools.product((low, high), repeat=len(fixed)):
                        z = [ZERO] * size
                        for n, end in zip(fixed, ends, strict=True):
                            z[n] = end[n]
                        if _solved(z, free, active, wanted) and _allowed(z, low, high, rows):
                            yield z


def _solved(z: list[Fraction], free: Any, active: Any, wanted: list[Fraction]) -> bool:
    """Puts the free confidences where the active rows want them; False if these do not tell."""
    rest = [
        value - sum((w * x for w, x in zip(row[0], z, strict=True)), ZERO)
        for row, value in zip(active, wanted, strict=True)
    ]
    if len(free) == 1:
        weight = active[0][0][free[0]]
        if weight:
            z[free[0]] = rest[0] / weight
        return bool(weight)
    if len(free) == 2:
        (a, b), (c, d) = ([row[0][n] for n in free] for row in active)
        determinant = a * d - b * c
        if determinant:
            z[free[0]] = (d * rest[0] - b * rest[1]) / determinant
            z[free[1]] = (a * rest[1] - c * rest[0]) / determinant
        return bool(determinant)
    return True


def _allowed(z: list[Fraction], low: Any, high: Any, rows: list[Any]) -> bool:
    if not all(a <= x <= b for a, x, b in zip(low, z, high, strict=True)):
        return False
    for weights, least, most in rows:
        total = sum((w * x for w, x in zip(weights, z, strict=True)), ZERO)
        if (least is not None and total < least) or (most is not None and total > most):
            return False
    return True


def _worst_groups(
    correct: list[int], lower: list[float], upper: list[float], groups: int
) -> Fraction:
    """All ways to put samples in groups, and all thresholds; a group is pushed to one of them."""
    size = len(correct)
    low, high = [Fraction(x) for x in lower], [Fraction(x) for x in upper]
    labels = [m for m, part in enumerate(np.array_split(np.arange(size), groups)) for _ in part]
    values = sorted({*low, *high})
    best = ZERO
    for group in set(itertools.permutations(labels)):
        choices = []
        for m in range(groups - 1):
            floor = max(low[n] for n in range(size) if group[n] <= m)
            ceiling = min(high[n] for n in range(size) if group[n] > m)
            choices.append([e for e in values if floor <= e <= ceiling])
        for thresholds in itertools.product(*choices):
            if any(a > b for a, b in itertools.pairwise(thresholds)):
                continue
            ends = [Fraction(0), *thresholds, Fraction(1)]
            total = ZERO
            for m in range(groups):
                mine = [n for n in range(size) if group[n] == m]
                up = sum((correct[n] - max(low[n], ends[m]) for n in mine), ZERO)
                down = sum((correct[n] - min(high[n], ends[m + 1]) for n in mine), ZERO)
                total += max(abs(up), abs(down))
            best = max(best, total)
    return best / size
