# SPDX-License-Identifier: MIT
"""What an attack climbs: one number an image, larger is worse for calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from certcal_ext.attacks.victims import Outputs

Omega = Literal["label", "predicted"]


@dataclass(frozen=True)
class Rows:
    """What is known about some images before the attack.

    Attributes:
        labels: (B,) int64.
        predicted: (B,) int64, the class whose confidence is attacked; it has to stay the prediction.
    """

    labels: torch.Tensor
    predicted: torch.Tensor

    @property
    def correct(self) -> torch.Tensor:
        """(B,) float64, 1 where the prediction is right."""
        return (self.labels == self.predicted).double()


class Objective(Protocol):
    """A differentiable number an image."""

    def values(self, outputs: Outputs, rows: Rows) -> torch.Tensor:
        """(B,) float64, larger is worse for the victim."""
        ...


@dataclass(frozen=True)
class AceObjective:
    """eta * CE(f(x), omega): Emde et al. (ICLR 2025), the (eta, omega)-ACE attacks.

    Attributes:
        eta: +1 or -1.
        omega: the class: the true label, or the predicted class.
    """

    eta: int
    omega: Omega

    def values(self, outputs: Outputs, rows: Rows) -> torch.Tensor:
        """(B,) eta times the cross-entropy of the mean score."""
        classes = rows.labels if self.omega == "label" else rows.predicted
        return -self.eta * outputs.log_scores.gather(1, classes[:, None])[:, 0]


@dataclass(frozen=True)
class BrierObjective:
    """(c - z)^2 of the predicted class: Brier-ACT's inner problem, Emde et al. (ICLR 2025)."""

    def values(self, outputs: Outputs, rows: Rows) -> torch.Tensor:
        """(B,) squared error of the mean score of the predicted class."""
        return (rows.correct - outputs.log_odds(rows.predicted).sigmoid()) ** 2


@dataclass(frozen=True)
class ConfidenceObjective:
    """The log-odds of the confidence, up or down: it has a gradient where the confidence saturates.

    Attributes:
        upward: whether the confidence is to rise.
    """

    upward: bool

    def values(self, outputs: Outputs, rows: Rows) -> torch.Tensor:
        """(B,) log-odds of the predicted class, negated where they are to fall."""
        odds = outputs.log_odds(rows.predicted)
        return odds if self.upward else -odds


def soft_calibration_error(
    confidence: torch.Tensor, correct: torch.Tensor, *, bins: int, temperature: float
) -> torch.Tensor:
    """A differentiable ECE: each sample belongs to each bin by a softmax of its confidence.

    Membership in bin j of M is softmax_j((j z + b_j) / t) with b_j = -(0 + 1 + ... + (j - 1)) / M, whose
    borders are the edges j / M; for t to 0 it is the ECE. The accuracy of the samples is known here, as no
    prediction changes, so no soft rank of the label is needed.

    Args:
        confidence: (N,) in [0, 1]; carries the gradient.
        correct: (N,) 0 or 1.
        bins: M.
        temperature: t, above 0.

    Returns:
        () (1/N) sum_j |sum_n membership_nj (c_n - z_n)|.

    Source:
        Bohdal et al., "Meta-calibration" (TMLR 2023), DECE.

    Example:
        >>> z = torch.tensor([0.9, 0.9], dtype=torch.float64)
        >>> float(soft_calibration_error(z, torch.ones(2), bins=4, temperature=0.001).round(decimals=6))
        0.1
    """
    steps = torch.arange(1, bins + 1, device=confidence.device, dtype=confidence.dtype)
    offsets = -torch.cumsum(steps - 1, 0) / bins
    membership = ((confidence[:, None] * steps + offsets) / temperature).softmax(1)
    gaps = (membership * (correct - confidence)[:, None]).sum(0)
    return gaps.abs().sum() / len(confidence)
