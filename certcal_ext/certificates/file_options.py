# SPDX-License-Identifier: MIT
"""What a file of votes, a log or intervals may not say itself: options of ``from_file`` and of the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileOptions:
    """What a file may not say itself; nothing of it is needed where the file does.

    Attributes:
        sigma: noise of the smoothed classifier: of counts, of a log, or of a table that lost its provenance.
        n: draws a sample, of a log.
        alpha: failure probability of an interval, of counts and logs; 0.001 where not given.
        interval_radius: size of the attacks that intervals of another verifier hold against.
        interval_norm: norm of that size, such as linf; without it no sentence names one.
        labels_key: name of the labels among the arrays of counts, where it is not a usual one.
        runner_up: certify by the votes of the two best classes (counts only); costs a tenth of alpha.
        keep_counts: keep the votes of all classes, for class-wise metrics (counts only).
        split: draws of the counts, taken at random, that only select the class; the others estimate it, and every interval
            holds with 1 - alpha. Without, the same draws do both. 100 is a usual number.
        split_seed: seed of split; fix it before you look at the result.
    """

    sigma: float | None = None
    n: int | None = None
    alpha: float | None = None
    interval_radius: float | None = None
    interval_norm: str | None = None
    labels_key: str | None = None
    runner_up: bool = False
    keep_counts: bool = False
    split: int | None = None
    split_seed: int = 0

    def refuse(self, what: str, *names: str) -> None:
        """Raises where an option was given that a file has no use for."""
        for name in names:
            if getattr(self, name) not in (None, False):
                raise ValueError(f"{name}: {what}; leave it out")
