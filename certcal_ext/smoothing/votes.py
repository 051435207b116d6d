# SPDX-License-Identifier: MIT
"""Counting what noisy images vote for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from certcal_ext import _check, _tensors
from certcal_ext._load import core
from certcal_ext._threads import num_threads


def prepared_logits(name: str, logits: Any) -> Any:
    """Contiguous logits in a precision that is counted as it is; half precision is widened on the way, exactly."""
    return _tensors.prepared(name, logits, ("float32", "float64", "float16", "bfloat16"))


def _checked_logits(logits: Any) -> Any:
    array = prepared_logits("logits", logits)
    if array.ndim != 3 or array.shape[2] < 1:
        raise ValueError(f"logits: expected shape (B, D, K) with K >= 1, got {tuple(array.shape)}")
    return array


def fault_message(name: str, faults: Any, rows: int) -> str | None:
    """The sentence about rows with NaN or infinity, or None where there are none."""
    nan_rows, infinite_rows = (int(count) for count in faults)
    if nan_rows + infinite_rows == 0:
        return None
    return f"{name}: expected finite logits, got NaN in {nan_rows} and infinity in {infinite_rows} of {rows} rows"


def _raise_on_faults(faults: Any, rows: int) -> None:
    message = fault_message("logits", faults, rows)
    if message is not None:
        raise ValueError(message)


def count_votes(logits: Any) -> Any:
    """Counts, per sample, how many draws have their largest logit at each class.

    Args:
        logits: (B, D, K) floats, array or tensor (CPU or CUDA): D draws of B samples over K classes.

    Returns:
        (B, K) int64 of the kind of ``logits`` and on its device; each row sums to D. The lowest index wins ties.

    Raises:
        TypeError: logits are not floats.
        ValueError: not of shape (B, D, K), or NaN or infinite (the message counts the rows).

    Source:
        Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing" (ICML 2019), figure 2.

    Example:
        >>> import numpy as np
        >>> count_votes(np.array([[[0.1, 2.0], [3.0, 1.0], [0.0, 5.0]]])).tolist()
        [[1, 2]]
    """
    given = _checked_logits(logits)
    array = _tensors.handed_over(given)
    batch, draws, classes = (int(size) for size in array.shape)
    counts = _tensors.zeros_like_place(array, (batch, classes), "int64")
    faults = _tensors.zeros_like_place(array, (2,), "int64")
    write_votes(array, counts, None, None, faults)
    _raise_on_faults(faults, batch * draws)
    return _tensors.handed_back(counts, given)


def write_votes(logits: Any, counts: Any, near_ties: Any, margins: Any, faults: Any) -> None:
    """The same without checks, added to ``counts`` and ``faults``; see ``_core.count_votes``."""
    _write(core.count_votes, logits, counts, near_ties, margins, faults)


def _write(operation: Any, logits: Any, *arrays: Any) -> None:
    """Calls the compiled module where the logits are."""
    operation(
        *map(_tensors.handed_over, (logits, *arrays)),
        threads=num_threads(),
        stream=_tensors.current_stream(logits),
    )


@dataclass(frozen=True)
class ScoreHistogram:
    """Histograms of softmax scores over equal bins of [0, 1].

    Attributes:
        counts: (B, J) int64; bin j counts scores in [j/J, (j+1)/J), the last one with 1.
        sums: (B, 2) int64, the sum of the scores in two words: ``(high * 2**26 + low) / 2**52``, rounded down. Words add.
    """

    counts: Any
    sums: Any

    def means(self) -> Any:
        """(B,) float64: the mean score of each sample (NaN without draws)."""
        draws = self.counts.sum(1)
        # A float32 would be made of a tensor of integers otherwise.
        sums = self.sums.double() if _tensors.is_tensor(self.sums) else self.sums.astype("float64")
        with np.errstate(invalid="ignore"):
            return (sums[:, 0] * 2.0**-26 + sums[:, 1] * 2.0**-52) / draws


def score_histogram(logits: Any, classes: Any = None, bins: int = 100) -> ScoreHistogram:
    """Histograms, per sample, of the softmax score of one class over the draws.

    The softmax sums integers, so a score is the same on every device and for every order of summation.

    Args:
        logits: (B, D, K) floats, array or tensor (CPU or CUDA).
        classes: (B,) integers in [0, K): the class of each sample. None: the top class of each draw.
        bins: number J of equal bins.

    Returns:
        A :class:`ScoreHistogram`, of the kind of ``logits`` and on its device.

    Raises:
        TypeError: logits are not floats, or classes not integers.
        ValueError: wrong shapes, classes out of range, NaN or infinite logits (the message counts the rows).

    Source:
        Kumar et al., "Certifying confidence via randomized smoothing" (NeurIPS 2020), section 4: the empirical
        distribution of the score, from which its CDF certificate is made.

    Example:
        >>> import numpy as np
        >>> score_histogram(np.zeros((1, 3, 4)), bins=4).counts.tolist()
        [[0, 3, 0, 0]]
    """
    given = _checked_logits(logits)
    array = _tensors.handed_over(given)
    batch, draws, num_classes = (int(size) for size in array.shape)
    count = _check.whole_number("bins", bins, 1, 2**24)
    chosen = None
    if classes is not None:
        chosen = _tensors.int64_vector_at("classes", classes, batch, array)
        if batch and not (int(chosen.min()) >= 0 and int(chosen.max()) < num_classes):
            raise ValueError(
                f"classes: expected values in [0, {num_classes}), got {int(chosen.min())} to {int(chosen.max())}"
            )
    counts = _tensors.zeros_like_place(array, (batch, count), "int64")
    sums = _tensors.zeros_like_place(array, (batch, 2), "int64")
    faults = _tensors.zeros_like_place(array, (2,), "int64")
    write_scores(array, chosen, counts, sums, faults)
    _raise_on_faults(faults, batch * draws)
    return ScoreHistogram(_tensors.handed_back(counts, given), _tensors.handed_back(sums, given))


def write_scores(logits: Any, classes: Any, histogram: Any, sums: Any, faults: Any) -> None:
    """The same without checks, added to ``histogram``, ``sums`` and ``faults``; see ``_core.score_histogram``."""
    _write(core.score_histogram, logits, classes, histogram, sums, faults)


def write_votes_and_scores(logits: Any, classes: Any, *arrays: Any) -> None:
    """Both in one pass: near ties have a score and no vote, a fault counts once; see ``_core.count_votes_and_scores``."""
    _write(core.count_votes_and_scores, logits, classes, *arrays)


@dataclass(frozen=True)
class Tallies:
    """The counters on the device, ready to be handed over."""

    votes: Any  # (N, K) int64
    classes: Any = None  # (N,) int64, whose scores are counted, or None
    histogram: Any = None  # (N, J) int64
    sums: Any = None  # (N, 2) int64

    def add(self, logits: Any, rows: slice, near: Any, margins: Any, faults: Any) -> None:
        """Counts (B, D, K) logits of some samples."""
        votes, marks = self.votes[rows], None if margins is None else near
        if self.classes is None:
            write_votes(logits, votes, marks, margins, faults)
        else:
            scores = self.classes[rows], self.histogram[rows], self.sums[rows]
            write_votes_and_scores(logits, scores[0], votes, marks, margins, *scores[1:], faults)
