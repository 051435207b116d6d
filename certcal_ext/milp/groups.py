# SPDX-License-Identifier: MIT
"""The rows that groups of equal mass add to the program: sizes, thresholds, and known orders."""

from __future__ import annotations

import itertools

import numpy as np

from certcal_ext.milp.problem import Bools, Floats, Ints, Pieces, Problem
from certcal_ext.milp.rows import Rows

#: More than what rounding of a difference of two numbers in [0, 1] can cost.
_ROUNDING = 2.0**-51

#: Pairs of samples whose order is given: rows for so many of each sample; for more, but not for
#: many, where they are so near that tolerances would swap them.
_FEW, _MANY, _NEAR = 4, 64, 2.0**-20


def add_groups(rows: Rows, problem: Problem, pieces: Pieces, piece: Ints, place: Floats) -> None:
    """Adds the rows; ``piece`` and ``place`` are those of the program's shares."""
    assert problem.sizes is not None
    shares, group = np.arange(piece.size), pieces.bin[piece]
    size = problem.sizes.astype(np.float64)
    rows.add(size, size, (group, shares, 1.0))
    thresholds = piece.size + problem.bins + np.arange(pieces.floors.size)
    owner, share = pieces.sample[piece], shares
    low, high = problem.low, problem.high
    if problem.attacked is not None and problem.clean is not None:
        # A sample that stays is one more, numbered behind, which is there or not.
        stay = np.flatnonzero(pieces.stays[piece])
        owner, share = np.r_[owner, low.size + owner[stay]], np.r_[share, stay]
        low, high = np.r_[low, problem.clean], np.r_[high, problem.clean]
    before, after = _known_orders(low, high, problem.right.size)
    ones = np.ones(before.size)
    for m, threshold in enumerate(thresholds):
        under = group <= m
        _add_threshold(rows, pieces, piece, place, under, int(threshold), m)
        # Whoever is always after another one is up to group m only if that one is not above.
        below = _shares_of(after, owner, share, under)
        above = _shares_of(before, owner, share, ~under)
        rows.add(np.full(ones.size, -np.inf), ones, (*below, 1.0), (*above, 1.0))
    for lower, upper in itertools.pairwise(thresholds):
        zero = np.zeros(1, np.int64)
        entries = [
            (zero, np.array([column]), sign) for column, sign in ((upper, 1.0), (lower, -1.0))
        ]
        rows.add(np.zeros(1), np.full(1, np.inf), *entries)


def _add_threshold(
    rows: Rows, pieces: Pieces, piece: Ints, place: Floats, under: Bools, threshold: int, m: int
) -> None:
    """With A the shares up to group m and z' the part of the confidence there: z' <= e - floor (1 - A).

    Above m, z'' >= e - ceiling (1 - A'').
    """
    sample, floor, ceiling = pieces.sample[piece], pieces.floors[m], pieces.ceilings[m]
    for inside, bound, sign in ((under, floor, 1.0), (~under, ceiling, -1.0)):
        matters = inside & (sign * (place - bound) > 0)
        members = np.unique(sample[matters])
        mine = np.flatnonzero(inside & np.isin(sample, members))
        row = np.searchsorted(members, sample[mine])
        rows.add(
            np.full(members.size, -np.inf),
            np.full(members.size, -sign * bound + _ROUNDING),
            (row, mine, sign * (place[mine] - bound)),
            (np.arange(members.size), np.full(members.size, threshold), -sign),
        )


def _shares_of(who: Ints, owner: Ints, share: Ints, chosen: Bools) -> tuple[Ints, Ints]:
    """(place in ``who``, share) for all chosen shares of each owner in ``who``."""
    among = np.flatnonzero(chosen[share])
    among = among[np.argsort(owner[among], kind="stable")]
    first = np.searchsorted(owner[among], who, "left")
    each = np.searchsorted(owner[among], who, "right") - first
    return _ranges(first, each, share[among])


def _ranges(first: Ints, each: Ints, values: Ints) -> tuple[Ints, Ints]:
    """(k, value) for the ``each[k]`` values from ``first[k]`` on."""
    who = np.repeat(np.arange(first.size), each)
    at = np.arange(who.size) + np.repeat(first - (np.cumsum(each) - each), each)
    return who.astype(np.int64), values[at].astype(np.int64)


def _known_orders(low: Floats, high: Floats, always: int) -> tuple[Ints, Ints]:
    """Pairs (before, after) with high[before] < low[after], without those that follow from others.

    For each the nearest few, and more where a solver's tolerance would not tell them apart. Leaving
    one out only loosens the bound. Only the first ``always`` are there for sure.
    """
    by_high = np.argsort(high, kind="stable")
    last = np.searchsorted(high[by_high], low, "left")
    # The largest lower end of those that are before for sure: what ends below it follows.
    reach = np.maximum.accumulate(np.where(by_high < always, low[by_high], -1.0))
    first = np.searchsorted(high[by_high], np.r_[-1.0, reach][last], "left")
    near = np.searchsorted(high[by_high], low - _NEAR, "left")
    first = np.maximum(first, np.maximum(np.minimum(near, last - _FEW), last - _MANY))
    after, before = _ranges(first, last - first, by_high)
    return before, after
