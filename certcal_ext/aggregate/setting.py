# SPDX-License-Identifier: MIT
"""What an aggregate bound is about: whose votes, which attacks, which rows, how surely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from certcal_ext import _check
from certcal_ext.aggregate.evidence import Evidence, Worst
from certcal_ext.aggregate.tables import Expected
from certcal_ext.aggregate.terms import SCOPES, Image, Term, no_map, worst
from certcal_ext.aggregate.votes import VoteHistogram


@dataclass(frozen=True, eq=False)
class Setting:
    """What every aggregate bound is made from.

    Attributes:
        votes: histograms of estimating votes, one for each number of draws.
        shift: radius / sigma, rounded up.
        delta: failure probability of one bound; of several that are shown together each has its share.
        scope: "certified", "all", "robust" or "class", see ``terms.worst``.
        least: of each histogram, the fewest votes with which a row is certified at the radius; only in scope "certified".
        image: images of confidences under a recalibration map that was fixed before.
        expected: see ``Evidence``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no votes, an argument out of range, or arguments that do not go together.
    """

    votes: Sequence[VoteHistogram]
    shift: float
    delta: float
    scope: str = "certified"
    least: Sequence[int] | None = None
    image: Image = field(default=no_map)
    expected: tuple[Expected, Expected] | None = None

    def __post_init__(self) -> None:
        """Checks the arguments."""
        given = [self.votes] if isinstance(self.votes, VoteHistogram) else list(self.votes)
        for one in given:
            if not isinstance(one, VoteHistogram):
                raise TypeError(f"votes: expected VoteHistogram, got {type(one).__name__}")
        if not given or not sum(map(len, given)):
            raise ValueError("votes: expected at least one row, got none")
        if len({one.n for one in given}) < len(given):
            raise ValueError(
                "votes: expected one histogram for each number of draws; add those of the same"
            )
        object.__setattr__(self, "votes", given)
        object.__setattr__(self, "shift", _check.radius("shift", self.shift))
        object.__setattr__(self, "delta", _check.failure_probability("delta", self.delta))
        if self.scope not in SCOPES:
            raise ValueError(f"scope: expected one of {', '.join(SCOPES)}, got {self.scope!r}")
        if (self.least is None) != (self.scope != "certified"):
            raise ValueError(
                'least: expected the fewest votes of a certified row in scope "certified", and only there'
            )
        if self.least is not None:
            fewest = list(self.least)
            if len(fewest) != len(given):
                raise ValueError(
                    f"least: expected one number a histogram, got {len(fewest)} for {len(given)}"
                )
            for number, one in zip(fewest, given, strict=True):
                _check.whole_number("least", number, 1, one.n + 1)
            object.__setattr__(self, "least", fewest)

    @property
    def evidence(self) -> Evidence:
        """Of the votes."""
        least = [0] * len(self.votes) if self.least is None else self.least
        return Evidence(self.votes, self.shift, least, self.expected)

    @property
    def rows(self) -> int | None:
        """Rows of the average."""
        if self.scope == "robust":
            return None
        if self.least is None:
            return sum(map(len, self.votes))
        return sum(one.counted(least) for one, least in zip(self.votes, self.least, strict=True))

    def worst(self, term: Term, less: float = 0.0) -> Worst:
        """H of a term."""
        return lambda correct, fine: worst(term, correct, fine, self.scope, self.image, less)
