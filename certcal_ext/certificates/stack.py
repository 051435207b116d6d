# SPDX-License-Identifier: MIT
"""Votes of several smoothed models side by side: one predicts, and all of them say how sure it may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from certcal_ext import _check
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.compare import aligned
from certcal_ext.certificates.evidence import runner_up_votes, selected_by_estimation, vote_ends
from certcal_ext.certificates.from_draws import row_columns
from certcal_ext.certificates.table import build, matrix, numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stack(certificates: Sequence[Certificates]) -> Certificates:
    """Certificates of the first model that also hold the votes of the others for its class.

    Each model's probability of the first one's class is bounded with an equal part of the first's alpha, so that all bounds
    of a row hold together with 1 - alpha. The prediction is certified by the votes of its class against the next one
    (``runner_up`` of ``from_counts``), as all votes are there. Without a map the confidence is the first model's; a
    ``StackMap`` makes one of all.

    Args:
        certificates: at least two, of the same samples (by ``index``, in any order) with the same labels, each from votes
            of all classes that were kept, and none of them recalibrated.

    Returns:
        ``Certificates``, in the order of ``index``.

    Raises:
        TypeError: no sequence of ``Certificates``.
        ValueError: fewer than two, samples, labels or classes that differ, or votes that were not kept.

    Source:
        This project (docs/recalibration.md).

    Example:
        >>> a = Certificates.from_counts([[990, 10], [900, 100]], [0, 0], 0.25, keep_counts=True)
        >>> b = Certificates.from_counts([[800, 200], [700, 300]], [0, 0], 0.5, keep_counts=True)
        >>> stack([a, b]).provenance.event_sigmas
        (0.25, 0.5)
    """
    models = _check.items("certificates", certificates)
    rows = list(
        aligned({str(at): model for at, model in enumerate(models)}, "certificates").values()
    )
    first = rows[0]
    counts = [_counts(model, str(at)) for at, model in enumerate(rows)]
    if len({votes.shape[1] for votes in counts}) > 1:
        raise ValueError(
            f"certificates: expected one number of classes, got {[c.shape[1] for c in counts]}"
        )
    origin, predicted = first.provenance, numbers(first.table, "predicted")
    assert predicted is not None  # counts have one
    everyone, classes = np.arange(len(first)), counts[0].shape[1]
    votes = np.stack([each[everyone, predicted] for each in counts], axis=1)
    draws = np.stack([each.sum(axis=1) for each in counts], axis=1)
    alpha = _check.failure_probability("alpha", origin.alpha)
    ends = vote_ends(
        votes[:, 0],
        draws[:, 0],
        alpha / len(rows),
        runner_up_votes(counts[0], predicted),
        classes - 1,
        classes if selected_by_estimation(origin) else 1,
    )
    columns: dict[str, Any] = {
        **row_columns(
            numbers(first.table, "label"), predicted, ends, numbers(first.table, "index")
        ),
        "votes": votes[:, 0],
        "n": draws[:, 0],
        "confidence": votes[:, 0] / draws[:, 0],
        "counts": counts[0],
        "event_votes": votes,
        "event_draws": draws,
        "group": numbers(first.table, "group"),
    }
    sigmas = tuple(float(model.provenance.sigma or 0.0) for model in rows)
    provenance = dataclasses.replace(origin, n=int(draws[:, 0].max()), event_sigmas=sigmas)
    return Certificates(build(columns, len(first)), provenance)


def _counts(model: Certificates, name: str) -> NDArray[np.int64]:
    origin, counts = model.provenance, matrix(model.table, "counts")
    if origin.kind != "votes" or origin.stopping is not None or counts is None:
        raise ValueError(
            f"certificates: expected votes of all classes in {name} (from_counts with keep_counts=True)"
        )
    if origin.recalibration is not None or origin.event_sigmas is not None:
        raise ValueError(f"certificates: expected ones without a map and not stacked, in {name}")
    return counts
