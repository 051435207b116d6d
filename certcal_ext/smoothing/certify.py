# SPDX-License-Identifier: MIT
"""The journey of a certification: select a class by some draws, estimate its confidence by others, certify it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from certcal_ext._images import Samples, warn_near_chance
from certcal_ext._progress import Report
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.smoothing.draws import Draws, Request, SelectedVotes, group_size, votes_of
from certcal_ext.smoothing.plan import Plan, Scores, Votes
from certcal_ext.smoothing.sampling import Counts
from certcal_ext.stopping.adaptive import run_adaptive

__all__ = ["Plan", "Scores", "Votes", "certify", "estimate", "select"]

Ints = NDArray[np.int64]


def select(draws: Draws, n0: int, together: int) -> Ints:
    """(N,) classes: the one with most votes in draws 0 to n0 - 1, the lowest of equals; ``together`` as ``Plan``."""
    rows, group = np.arange(len(draws)), group_size(draws.batch_size, together)
    selection = draws.take(Request("select", rows, 0, n0, group))
    classes: Ints = selection.votes.argmax(axis=1)
    return classes


def estimate(draws: Draws, plan: Plan, classes: Ints) -> Counts:
    """What the n draws after those that selected gave; the two never mix."""
    rows, group = np.arange(len(draws)), group_size(draws.batch_size, plan.together)
    scored = None if plan.bins is None else classes
    return draws.take(
        Request("estimate", rows, int(plan.n0), int(plan.n), group, scored, plan.bins or 0)
    )


def certify(
    parts: Iterable[tuple[Draws, Samples]], plan: Plan, sigma: float, progress: bool | Report
) -> Certificates:
    """Selects, estimates and certifies.

    Args:
        parts: draws of some samples, and these samples; with ``plan.stopping`` there is one part.
        plan: how.
        sigma: standard deviation of the noise.
        progress: of a run that stops early, see ``run_adaptive``.

    Returns:
        ``Certificates``, without what one has to know of the model.

    Raises:
        ValueError: there are no samples, or the model fails.

    Warns:
        UserWarning: more abstentions than certificates, or selected classes that are as right as guesses.
    """
    pieces = []
    for draws, samples in parts:
        labels, classes = samples.labels, select(draws, int(plan.n0), plan.together)
        if labels is not None:
            warn_near_chance("the model under noise", labels, classes, draws.num_classes)
        if plan.stopping is not None:
            result = run_adaptive(
                SelectedVotes(draws, classes),
                None if labels is None else labels == classes,
                sigma,
                plan.alpha,
                plan.stopping,
                first_draw=int(plan.n0),
                progress=progress,
            )
            return Certificates.from_adaptive(result, classes, labels, index=samples.ids)
        pieces.append((samples.ids, labels, classes, estimate(draws, plan, classes)))
    if not pieces:
        raise ValueError("images: expected at least one image, got none")
    ids, truths, selection, counts = zip(*pieces, strict=True)
    truth = None if truths[0] is None else np.concatenate(truths)
    named = (np.concatenate(selection), truth, np.concatenate(ids))
    return _certificates(plan, sigma, Counts.joined(counts), *named)


def _certificates(
    plan: Plan, sigma: float, counts: Counts, classes: Ints, labels: Ints | None, ids: Ints
) -> Certificates:
    """The certificates of fixed numbers of draws."""
    evidence = plan.evidence
    if isinstance(evidence, Votes):
        return Certificates.from_counts(
            counts.votes, labels, sigma, plan.alpha, classes, index=ids, **vars(evidence)
        )
    scores = counts.scores
    assert scores is not None  # they were asked for
    return Certificates.from_scores(
        scores.counts,
        scores.means(),
        votes_of(counts.votes, classes),
        classes,
        labels,
        sigma,
        plan.alpha,
        interval=evidence.interval,
        index=ids,
        num_classes=counts.votes.shape[1],
    )
