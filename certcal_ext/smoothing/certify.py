# SPDX-License-Identifier: MIT
"""The journey of a certification: select a class by some draws, estimate its confidence by others, certify it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
    parts: Iterable[tuple[Draws, Samples]],
    plan: Plan,
    sigma: float,
    progress: bool | Report = False,
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
    estimates = []
    for draws, samples in parts:
        classes = select(draws, int(plan.n0), plan.together)
        if samples.labels is not None:
            warn_near_chance("the model under noise", samples.labels, classes, draws.num_classes)
        if plan.stopping is not None:
            return _adaptive(draws, samples, classes, plan, sigma, progress)
        estimates.append(_Estimate(samples, classes, estimate(draws, plan, classes)))
    if not estimates:
        raise ValueError("images: expected at least one image, got none")
    return _Estimate.joined(estimates).certificates(plan, sigma)


def _adaptive(
    draws: Draws,
    samples: Samples,
    classes: Ints,
    plan: Plan,
    sigma: float,
    progress: bool | Report,
) -> Certificates:
    """As many draws of each sample as the rules of stopping say."""
    result = run_adaptive(
        SelectedVotes(draws, classes),
        None if samples.labels is None else samples.labels == classes,
        sigma,
        plan.alpha,
        plan.stopping,
        first_draw=int(plan.n0),
        progress=progress,
    )
    return Certificates.from_adaptive(result, classes, samples.labels, index=samples.ids)


@dataclass(frozen=True)
class _Estimate:
    """Some samples, their classes, and what the draws that estimate gave."""

    samples: Samples
    classes: Ints
    counts: Counts

    @classmethod
    def joined(cls, parts: list[_Estimate]) -> _Estimate:
        """The samples of all parts, in order; their images are left out."""
        samples = [part.samples for part in parts]
        labels = None
        if samples[0].labels is not None:
            labels = np.concatenate([some.labels for some in samples if some.labels is not None])
        ids = np.concatenate([some.ids for some in samples])
        return cls(
            Samples(samples[0].images, labels, ids),
            np.concatenate([part.classes for part in parts]),
            Counts.joined([part.counts for part in parts]),
        )

    def certificates(self, plan: Plan, sigma: float) -> Certificates:
        """The certificates of fixed numbers of draws."""
        counts, evidence, samples = self.counts, plan.evidence, self.samples
        if isinstance(evidence, Scores):
            return Certificates.from_scores(
                counts.histogram,
                counts.mean,
                votes_of(counts.votes, self.classes),
                self.classes,
                samples.labels,
                sigma,
                plan.alpha,
                interval=evidence.interval,
                index=samples.ids,
                num_classes=counts.votes.shape[1],
            )
        return Certificates.from_counts(
            counts.votes,
            samples.labels,
            sigma=sigma,
            alpha=plan.alpha,
            selection=self.classes,
            index=samples.ids,
            runner_up=evidence.runner_up,
            keep_counts=evidence.keep_counts,
        )
