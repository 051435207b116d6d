# SPDX-License-Identifier: MIT
"""What a certification is to be: how many draws, for what, and what is counted in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from certcal_ext._progress import Report
    from certcal_ext.stopping.rules import Stopping

#: More bins of scores than this are no use to any bound.
MAX_SCORE_BINS = 2**20


class EvidenceOptions(TypedDict, total=False):
    """What is counted in the draws, and so certified.

    Attributes:
        confidence: what is certified: "votes", the share of draws that vote for the class (Clopper-Pearson), which is the
            default, or "scores", the mean softmax score of the class, while votes still certify the prediction.
        score_bins: J equal bins of [0, 1] that scores are counted in, 1000 where nothing else is said.
        score_interval: how scores are bounded, see ``Certificates.from_scores``; "cdf" where nothing else is said.
        runner_up: True also bounds the next class by votes, see ``Certificates.from_counts``.
        keep_counts: True keeps the votes of all classes in the result.
    """

    confidence: str
    score_bins: int
    score_interval: str
    runner_up: bool
    keep_counts: bool


class SampleOptions(TypedDict, total=False):
    """Names of the samples, and how far a run is.

    Attributes:
        sample_ids: (N,) numbers that name the samples in the noise and in the result, each once; default 0, ..., N - 1.
        progress: True shows draws done and time left; or a function of (draws done, draws in all).
    """

    sample_ids: Any
    progress: bool | Report


class CertifyOptions(EvidenceOptions, SampleOptions, total=False):
    """Options of ``SmoothedClassifier.certify``: those of :class:`EvidenceOptions` and :class:`SampleOptions`."""


@dataclass(frozen=True)
class Votes:
    """Confidence is the share of draws that vote for the class.

    Attributes:
        runner_up: also bound the next class.
        keep_counts: keep the votes of all classes.

    Raises:
        TypeError: neither True nor False.
    """

    runner_up: bool = False
    keep_counts: bool = False

    def __post_init__(self) -> None:
        """Checks both."""
        from certcal_ext import _check

        _check.flag("runner_up", self.runner_up)
        _check.flag("keep_counts", self.keep_counts)


@dataclass(frozen=True)
class Scores:
    """Confidence is the mean softmax score of the class; votes certify the prediction.

    Attributes:
        bins: equal bins of [0, 1] that scores are counted in.
        interval: how scores are bounded.

    Raises:
        TypeError: no whole number of bins.
        ValueError: too few bins or too many, or an unknown interval.
    """

    bins: int = 1000
    interval: str = "cdf"

    def __post_init__(self) -> None:
        """Checks both."""
        from certcal_ext import _check
        from certcal_ext.certificates.from_draws import SCORE_INTERVALS

        _check.whole_number("bins", self.bins, 1, MAX_SCORE_BINS)
        _check.choice("interval", self.interval, SCORE_INTERVALS)


@dataclass(frozen=True)
class Plan:
    """What is drawn for each sample, and what it proves.

    Attributes:
        n0: draws that select the class of a sample, by votes; they are not used again.
        n: draws that estimate; with ``stopping`` its own largest number counts.
        alpha: failure probability of one sample's certificate, all its bounds together.
        evidence: what is counted, ``Votes`` or ``Scores``.
        stopping: rules by which samples stop early, with plain votes only; None: each has ``n`` draws.

    Raises:
        TypeError: a part of the wrong kind.
        ValueError: a part out of range, or parts that exclude each other.

    Example:
        >>> Plan(n=500, evidence=Scores(bins=100)).bins, Plan(n=500).bins
        (100, None)
    """

    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3
    evidence: Votes | Scores = field(default_factory=Votes)
    stopping: Stopping | None = None

    def __post_init__(self) -> None:
        """Checks all parts."""
        # The command line makes options of this class, and its help loads no NumPy.
        from certcal_ext import _check
        from certcal_ext.smoothing.noise import MAX_DRAWS

        _check.whole_number("n0", self.n0, 1, MAX_DRAWS - 1)
        _check.whole_number("n", self.n, 1, MAX_DRAWS - self.n0)
        _check.failure_probability("alpha", self.alpha)
        if not isinstance(self.evidence, Votes | Scores):
            raise TypeError(
                f"evidence: expected Votes or Scores, got {type(self.evidence).__name__}"
            )
        if self.stopping is not None:
            require_stopping(self.stopping)
            if self.evidence != Votes():
                raise ValueError("stopping: expected votes without runner_up and keep_counts")

    @classmethod
    def of(
        cls,
        n0: int,
        n: int,
        alpha: float,
        options: EvidenceOptions,
        stopping: Stopping | None = None,
    ) -> Plan:
        """The plan of a call that names its evidence by ``EvidenceOptions``; errors as the class."""
        from certcal_ext import _check

        confidence = _check.choice(
            "confidence", options.get("confidence", "votes"), ("votes", "scores")
        )
        votes = Votes(options.get("runner_up", False), options.get("keep_counts", False))
        if confidence == "votes":
            return cls(n0, n, alpha, votes, stopping)
        if votes != Votes():
            name = "runner_up" if votes.runner_up else "keep_counts"
            raise ValueError(f'{name}: expected False with confidence="scores"')
        bins, interval = options.get("score_bins", 1000), options.get("score_interval", "cdf")
        try:
            scores = Scores(bins, interval)
        except (TypeError, ValueError) as error:
            raise type(error)(f"score_{error}") from None
        return cls(n0, n, alpha, scores, stopping)

    @property
    def bins(self) -> int | None:
        """Bins of scores; None with votes."""
        return int(self.evidence.bins) if isinstance(self.evidence, Scores) else None

    @property
    def most_draws(self) -> int:
        """Draws that estimate, at most."""
        return int(self.n) if self.stopping is None else self.stopping.n_max

    @property
    def together(self) -> int:
        """Draws of a sample that fill forward passes together: the fewest that are asked for at once."""
        return int(self.n0) if self.stopping is not None else min(int(self.n0), int(self.n))


def require_stopping(value: Any) -> None:
    """Raises a TypeError for what are no rules of stopping early."""
    from certcal_ext.stopping.rules import Stopping

    if not isinstance(value, Stopping):
        raise TypeError(f"stopping: expected a Stopping, got {type(value).__name__}")
