# SPDX-License-Identifier: MIT
"""What a certification asks for, what its draws gave, and the certificates of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.smoothing.noise import MAX_DRAWS

#: More bins of scores than this are no use to any bound.
MAX_SCORE_BINS = 2**20

#: Samples whose draws are counted together: enough to fill batches, few enough that their counts are nothing.
_GROUP = 64


@dataclass(frozen=True)
class Wanted:
    """The options of :meth:`SmoothedClassifier.certify`, checked.

    Attributes:
        n0: draws that select the class of a sample.
        n: draws that estimate.
        alpha: failure probability of one sample's certificate.
        batch_size: noisy images per forward pass, at most.
        confidence: "votes" or "scores".
        score_bins: bins of scores.
        score_interval: how scores are bounded.
        runner_up: also bound the next class.
        keep_counts: keep the votes of all classes.

    Raises:
        TypeError: an option of the wrong kind.
        ValueError: an option out of range, or options that exclude each other.

    Example:
        >>> Wanted(n=500, confidence="scores").bins, Wanted(n=500).bins
        (1000, None)
    """

    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3
    batch_size: int = 1024
    confidence: str = "votes"
    score_bins: int = 1000
    score_interval: str = "cdf"
    runner_up: bool = False
    keep_counts: bool = False

    def __post_init__(self) -> None:
        """Checks every option."""
        _check.whole_number("n0", self.n0, 1, MAX_DRAWS - 1)
        _check.whole_number("n", self.n, 1, MAX_DRAWS - self.n0)
        _check.failure_probability("alpha", self.alpha)
        _check.whole_number("batch_size", self.batch_size, 1)
        _check.choice("confidence", self.confidence, ("votes", "scores"))
        _check.flag("runner_up", self.runner_up)
        _check.flag("keep_counts", self.keep_counts)
        if self.confidence == "votes":
            return
        _check.whole_number("score_bins", self.score_bins, 1, MAX_SCORE_BINS)
        if self.runner_up or self.keep_counts:
            name = "runner_up" if self.runner_up else "keep_counts"
            raise ValueError(f'{name}: expected False with confidence="scores"')

    @property
    def bins(self) -> int | None:
        """Bins of scores; None with votes."""
        return int(self.score_bins) if self.confidence == "scores" else None


def group_size(batch_size: int, draws: int) -> int:
    """Samples that are handed to the model together, for so many draws of each."""
    return max(_GROUP, batch_size // draws)


@dataclass(frozen=True)
class Found:
    """What the draws of N samples gave."""

    counts: NDArray[np.int64]  # (N, K) votes of the estimation draws
    selected: NDArray[np.int64]  # (N,) classes, by the selection draws
    ids: NDArray[np.int64]  # (N,)
    labels: NDArray[np.int64] | None  # (N,)
    histogram: NDArray[np.int64] | None = None  # (N, J) scores of the selected class
    mean: NDArray[np.float64] | None = None  # (N,)

    @property
    def votes(self) -> NDArray[np.int64]:
        """(N,) votes of the selected class."""
        result: NDArray[np.int64] = self.counts[np.arange(len(self.counts)), self.selected]
        return result

    def certificates(self, sigma: float, wanted: Wanted) -> Certificates:
        """The certificates, without what their maker knows of the model."""
        if wanted.bins is not None:
            return Certificates.from_scores(
                self.histogram,
                self.mean,
                self.votes,
                self.selected,
                self.labels,
                sigma,
                wanted.alpha,
                interval=wanted.score_interval,
                index=self.ids,
                num_classes=self.counts.shape[1],
            )
        return Certificates.from_counts(
            self.counts,
            self.labels,
            sigma=sigma,
            alpha=wanted.alpha,
            selection=self.selected,
            index=self.ids,
            runner_up=wanted.runner_up,
            keep_counts=wanted.keep_counts,
        )


def joined(found: list[Found]) -> Found:
    """The samples of all, in order."""

    def column(name: str) -> Any:
        pieces = [getattr(one, name) for one in found]
        return None if pieces[0] is None else np.concatenate(pieces)

    return Found(*map(column, ("counts", "selected", "ids", "labels", "histogram", "mean")))
