# SPDX-License-Identifier: MIT
"""What the draws of each row prove at a level alpha: ends of the confidence, and of the prediction.

The error budget of a row, alpha in all:

* votes: all of it for the two-sided interval of the class's probability;
* votes with a runner-up bound: 9/10 for that interval, 1/10 for the upper bound on the next class (a union over the others);
* scores: half for the one-sided bound on the votes, half for the two-sided interval (or band) of the scores.

The models of a stack have equal parts of alpha, and spend them as votes.

A row that stopped early spends what its rule of stopping says (docs/fewer-draws.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext._claims import count, fewer_than, written
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.table import matrix, numbers
from certcal_ext.intervals.clopper_pearson import Interval, clopper_pearson

if TYPE_CHECKING:
    from certcal_ext.intervals.score_cdf import ScoreBand

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: The note of certificates whose class was selected by the draws that also bound it (docs/theory.md).
SHARED_DRAWS = "the class was selected by the draws that estimate it"

#: What that means, for whoever reads the notes.
SHARED_MEANING = (
    "so a row is certified and wrong with probability at most 3/2 alpha, and intervals of rows that are not certified may "
    "miss more often; with split= (--split), which keeps some of the draws for the selection, every interval holds with "
    "1 - alpha"
)

#: What a log says whose radii are none of votes: it is not read as if they were.
NOT_OF_VOTES = "these radii do not stand for votes of one number of draws"

#: The note of a run that stopped early and was told the labels (docs/fewer-draws.md).
LABELS_CHOSE = (
    "the run stopped samples early and used their labels, so which samples are certified depends on the labels; bounds over "
    "all samples (scope all) do not rest on that choice"
)

_RUNNER_UP = 0.1

#: A band for the distribution of scores is made down to this alpha.
_LEAST_BAND = 4e-8


@dataclass(frozen=True, eq=False)
class Ends:
    """Bounds on the unperturbed classifier, one entry a row.

    Attributes:
        lower: (N,) lower ends of the smoothed confidence.
        upper: (N,) upper ends.
        prediction_lower: (N,) lower ends of the votes' probability of the predicted class; None where it is ``lower``.
        runner_up_upper: (N,) upper ends of the next class's probability; None where it is 1 - the lower end.
    """

    lower: Floats
    upper: Floats
    prediction_lower: Floats | None = None
    runner_up_upper: Floats | None = None


def vote_ends(
    votes: Ints,
    draws: Ints,
    alpha: float,
    runner_up: Ints | None = None,
    others: int = 1,
    classes: int = 1,
) -> Ends:
    """From the votes of each row's class.

    Args:
        votes: (N,) votes of the predicted class.
        draws: (N,) draws of each row.
        alpha: failure probability of a row.
        runner_up: (N,) most votes of any other class, or None.
        others: number of other classes.
        classes: number of classes that the draws may have selected: 1 where others selected.

    Returns:
        ``Ends``.
    """
    if runner_up is None:
        return Ends(*_by_draws(votes, draws, alpha))
    ends = _by_draws(votes, draws, alpha * (1.0 - _RUNNER_UP) / classes)
    # The upper end of a two-sided interval at twice the level is a one-sided bound. Where the same draws selected the
    # class, any of them may be among the others.
    others = max(others, classes)
    next_ends = _by_draws(runner_up, draws, 2.0 * alpha * _RUNNER_UP / others)
    return Ends(ends.lower, ends.upper, None, next_ends.upper)


def score_ends(
    scores: Ints,
    mean: Floats,
    votes: Ints,
    draws: Ints,
    alpha: float,
    interval: str,
    classes: int | None = None,
) -> Ends:
    """From histograms of scores and their means; the prediction rests on the votes.

    Args:
        scores: (N, J) histograms over equal bins.
        mean: (N,) means of the scores.
        votes: (N,) votes of the predicted class.
        draws: (N,) draws of each row.
        alpha: failure probability of a row.
        interval: "hoeffding", "bernstein", "betting" or "cdf".
        classes: K of the softmax that gave the scores, see ``with_softmax_error``.

    Returns:
        ``Ends``; those of a "cdf" band at radius 0.
    """
    from certcal_ext.intervals.scores import score_interval

    cdf = interval == "cdf"
    ends = (
        confidence_band(scores, mean, alpha).at(0.0)
        if cdf
        else score_interval(scores, mean, alpha / 2, interval)
    )
    ends = with_softmax_error(ends, classes)
    # The lower end of the two-sided interval at alpha is one-sided at alpha / 2.
    return Ends(ends.lower, ends.upper, _by_draws(votes, draws, alpha).lower)


def with_softmax_error(ends: Interval, classes: int | None) -> Interval:
    """Bounds on a mean of softmax scores, where those that were counted are off by what our softmax is off by.

    Scores are counted by an exponential of fixed operations, within e = 2^-20 + K 2^-33 of the softmax of K logits. An
    interval of the mean of what was counted, widened by e, holds for the mean of the softmax, and is shifted after that. The
    CDF certificate integrates over thresholds: P(softmax >= s) is at least P(counted >= s + e), and what that leaves out
    of the integral is at most e; so there the result is widened.

    Args:
        ends: bounds.
        classes: K; None: scores that were given and not counted here, which are taken as they are.

    Returns:
        Bounds within [0, 1], rounded outward.

    Example:
        >>> ends = with_softmax_error(Interval(np.array([0.0, 0.5]), np.array([1.0, 0.5])), 10)
        >>> (ends.lower < 0.4999991).tolist(), (ends.upper > 0.5000009).tolist()
        ([True, True], [True, True])
    """
    if classes is None:
        return ends
    error = 2.0**-20 + classes * 2.0**-33
    lower = np.nextafter(ends.lower - error, -1.0).clip(0.0, 1.0)
    return Interval(lower, np.nextafter(ends.upper + error, 2.0).clip(0.0, 1.0))


def confidence_band(scores: Ints, mean: Floats, alpha: float) -> ScoreBand:
    """The band of the CDF certificate with the interval of the mean, at the half of alpha that belongs to the scores."""
    from certcal_ext.intervals.score_cdf import score_band

    return score_band(scores, alpha / 2, mean=mean)


def ends_at_level(table: pa.Table, provenance: Provenance, alpha: float) -> Ends | None:
    """The ends of a table's rows at another alpha; None where the draws are not there.

    Args:
        table: certificates.
        provenance: theirs.
        alpha: failure probability of a row.

    Returns:
        ``Ends``, or None for a log or for another verifier's intervals.
    """
    votes, draws = numbers(table, "votes"), numbers(table, "n")
    if provenance.kind not in ("votes", "scores") or votes is None or draws is None:
        return None
    if provenance.kind == "scores":
        if provenance.interval == "cdf" and alpha < _LEAST_BAND:
            return None
        scores = cast(Ints, matrix(table, "scores"))
        mean = cast(Floats, numbers(table, "confidence"))
        return score_ends(
            scores, mean, votes, draws, alpha, provenance.interval or "cdf", provenance.num_classes
        )
    counts, runner_up, others = matrix(table, "counts"), None, 1
    if table.column("runner_up_upper").null_count == 0:
        if counts is None:
            return None
        predicted = cast(Ints, numbers(table, "predicted"))
        runner_up, others = runner_up_votes(counts, predicted), counts.shape[1] - 1
    classes = others + 1 if selected_by_estimation(provenance) else 1
    if provenance.stopping is not None:
        return _stopped_ends(table, provenance.stopping, votes, draws, alpha)
    return vote_ends(votes, draws, alpha / events(provenance), runner_up, others, classes)


def events(provenance: Provenance) -> int:
    """How many events share the alpha of a row: the models of a stack, each with an equal part."""
    return 1 if provenance.event_sigmas is None else len(provenance.event_sigmas)


def event_ends(table: pa.Table, provenance: Provenance, alpha: float | None) -> list[Interval]:
    """Ends of the events of a stack beside the first, for rows that fail with at most alpha.

    Where the first model's estimating draws selected the class, the others may have seen the same noise: their part is
    then shared among the classes.
    """
    votes, draws = matrix(table, "event_votes"), matrix(table, "event_draws")
    if votes is None or draws is None:
        return []
    classes = (provenance.num_classes or 2) if selected_by_estimation(provenance) else 1
    level = cast(float, alpha) / events(provenance) / classes
    return [_by_draws(votes[:, j], draws[:, j], level) for j in range(1, votes.shape[1])]


def best_lower_ends(table: pa.Table, provenance: Provenance) -> Floats:
    """(L,) lower ends of the prediction's probability for a row with all of n votes, in each way that alpha may be spent.

    Args:
        table: certificates.
        provenance: theirs, with n and alpha.
    """
    draws, alpha = cast(int, provenance.n), cast(float, provenance.alpha) / events(provenance)
    votes = np.array([draws])
    if provenance.stopping is not None:
        from certcal_ext.stopping.rules import Stopping, best_lower_ends

        labelled = table.column("correct").null_count < len(table)
        return best_lower_ends(Stopping.from_json(provenance.stopping), alpha, draws, labelled)
    if table.column("runner_up_upper").null_count == len(table):
        return _by_draws(votes, votes, alpha).lower
    # With no vote for another class, and alpha parted so, the class's own bound certifies further than the two together.
    classes = provenance.num_classes or 2
    shared = classes if selected_by_estimation(provenance) else 1
    return vote_ends(votes, votes, alpha, np.array([0]), classes - 1, shared).lower


def _stopped_ends(
    table: pa.Table, stopping: str, votes: Ints, draws: Ints, alpha: float
) -> Ends | None:
    from certcal_ext.stopping.rules import Stopping, row_intervals

    look, planning = numbers(table, "look"), numbers(table, "planning_votes")
    if look is None or planning is None:
        return None
    correct = table.column("correct").fill_null(False).to_numpy().view(np.uint8)
    rules = Stopping.from_json(stopping)
    return Ends(*row_intervals(rules, alpha, votes, draws, look, planning, correct))


def runner_up_votes(counts: Ints, predicted: Ints) -> Ints:
    """(N,) the most votes of any class but the predicted one."""
    rest = counts.copy()
    rest[np.arange(len(rest)), predicted] = -1
    return cast(Ints, rest.max(axis=1))


def selected_by_estimation(provenance: Provenance) -> bool:
    """Whether the class was selected by the draws that also bound it."""
    return SHARED_DRAWS in provenance.notes


def how_sure(provenance: Provenance, rows: int) -> str:
    """What is known of how often rows fail, in a sentence or three.

    Args:
        provenance: of the certificates.
        rows: all that were drawn for.
    """
    alpha = provenance.alpha
    if alpha is None or provenance.kind == "intervals":
        return "The intervals were made elsewhere and are taken as they came: bounds hold where these do."
    # As it is printed: tails are checked to be below alpha by more than 1e-11 of it, which is more than its last digit.
    if not selected_by_estimation(provenance):
        return (
            f"Each interval holds with probability 1 - {written(alpha)} or more over its own noise draws; on average at "
            f"most {fewer_than(alpha, rows)} of {count(rows)} fail."
        )
    return (
        f"The class was selected by the draws that estimate it, so each row is certified and wrong with probability at most "
        f"3/2 of alpha = {written(alpha)}; on average at most {fewer_than(1.5 * alpha, rows)} of {count(rows)} are. "
        "Intervals of rows that are not certified may miss more often. --split keeps some of the draws for the selection: "
        "then every interval holds with 1 - alpha."
    )


def how_chosen(provenance: Provenance) -> str:
    """Where labels had a say in which samples are certified, that they had, in a sentence; otherwise nothing."""
    planned = provenance.planned_radii
    if planned is None:
        return ""
    listed = ", ".join(map(written, planned))
    return (
        f"Which samples are certified was decided with the help of their labels, by a run that stopped early and was "
        f"planned for {'radius' if len(planned) == 1 else 'the radii'} {listed}; bounds over all samples (scope all) do not "
        "rest on that choice."
    )


def row_factor(provenance: Provenance, everyone: bool) -> float:
    """How many times alpha a row's whole statement may fail with, for joint bounds.

    Where the class was selected by separate draws it is 1. Where it was not (docs/theory.md, section 7), the chance that a
    row is certified and wrong is at most 3 alpha / 2; with the interval of an uncertified row, which is then taken at
    alpha / K, the whole is at most 2 alpha.

    Args:
        provenance: of the certificates.
        everyone: whether intervals of uncertified rows are used too.

    Returns:
        The factor.
    """
    if not selected_by_estimation(provenance):
        return 1.0
    return 2.0 if everyone else 1.5


def _by_draws(votes: Ints, draws: Ints, alpha: float) -> Interval:
    """Clopper-Pearson for rows of any number of draws."""
    lower, upper = np.empty(votes.size), np.empty(votes.size)
    for n in np.unique(draws):
        rows = draws == n
        lower[rows], upper[rows] = clopper_pearson(votes[rows], int(n), alpha)
    return Interval(lower, upper)
