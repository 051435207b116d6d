# SPDX-License-Identifier: MIT
"""Counts of one set of draws, split at random into those that select the class and those that estimate it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.stored_votes import counts_matrix

#: Where numpy's hypergeometric ends.
_MOST_DRAWS = 10**9 - 1


def split_counts(
    counts: Any, draws: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Takes some draws of every row, at random, to select its class; the others estimate its probability.

    Theorem: if a row's counts are those of independent draws, the counts of m of them, taken without looking at their
    classes, and the counts of the others are independent multinomials of the same probabilities. A multivariate
    hypergeometric takes the m draws when only the counts are there. So the class is fixed before the draws that estimate
    it, and every interval holds with 1 - alpha, whatever the row's probabilities are.

    Args:
        counts: (N, K) whole numbers, votes; each row of its own sum n.
        draws: m, how many select; at least 1, and below every n.
        seed: of the choice, fixed before the result is looked at: to choose the seed that looks best is to select by the
            estimation draws again.

    Returns:
        (N,) int64, the class with most of the m votes, the lowest of equals; and (N, K) int64, the n - m other votes.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no such counts, or an argument out of range.

    Source:
        This project (docs/theory.md, section 7).

    Example:
        >>> selected, rest = split_counts([[900, 100], [200, 800]], draws=100)
        >>> selected, rest.sum(axis=1)
        (array([0, 1]), array([900, 900]))
    """
    matrix = counts_matrix("counts", counts, own_sums=True)
    sums = matrix.sum(axis=1)
    if sums.max() > _MOST_DRAWS:
        raise ValueError(f"counts: expected at most {_MOST_DRAWS} draws to split, got {sums.max()}")
    total = int(sums.min())
    taken = _check.whole_number("split", draws, 1)
    if taken >= total:
        raise ValueError(
            f"split: expected fewer than the {total} draws of a row, so that some are left to estimate, got {draws}"
        )
    random = np.random.default_rng(_check.whole_number("seed", seed, 0))
    sample = np.zeros_like(matrix)
    left, wanted = matrix.sum(axis=1), np.full(len(matrix), taken)
    for k, votes in enumerate(matrix.T):
        left = left - votes
        sample[:, k] = random.hypergeometric(votes, left, wanted)
        wanted = wanted - sample[:, k]
    return sample.argmax(axis=1), matrix - sample
