# SPDX-License-Identifier: MIT
"""Training on the certificate itself: no attack, one forward and backward pass over the noises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from certcal_ext import _check
from certcal_ext.bins import Bins
from certcal_ext.training.bounds import Interval, certified_bounds, margin_terms
from certcal_ext.training.losses import (
    TableMemory,
    certified_brier_terms,
    certified_ece_terms,
    solve_over_processes,
)
from certcal_ext.training.objective import Objective, Step, cross_entropy, top_class


@dataclass(frozen=True, kw_only=True)
class CertificateTraining(Objective):
    """Cross-entropy of noisy images + weight x a certified metric at a radius + margin_weight x a margin.

    The metric is the certified Brier score of the predicted class, mean of (1 - l)^2 (right) and u^2 (wrong), or the exact
    certified ECE of the batch. Both are functions of [l, u], the certificate of the smoothed score under m noises without
    its statistical part, and so of the weights. The margin max(0, gap - (Phi^-1(p_y) - Phi^-1(p_2))) of right
    samples, p_y the mean score of the label and p_2 the next one, makes the radius of the prediction larger.

    Attributes:
        radius: l2 radius of the certificate, in pixel units.
        metric: ``"brier"`` or ``"ece"``.
        weight: of the metric.
        interval: ``"cdf"`` or ``"mean"``, as in ``certified_bounds``.
        slack: of the bounds, as there.
        margin_weight: of the margin; 0 leaves it out.
        gap: the margin aimed at, in units of sigma.
        bins: of the ECE, of equal width.
        window: batches whose tables give the signs of the ECE's bins.

    Source:
        this project; the margin: Zhai et al., "MACER" (ICLR 2020), equation 9, with mean scores in place of theirs at a
        temperature.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
        >>> step = Step(model, model, x, y, torch.arange(2), sigma=0.25)
        >>> bool(CertificateTraining(radius=0.25, draws=4).loss(step) > 0)
        True
    """

    name: ClassVar[str] = "certificate"

    draws: int = 8
    radius: float
    metric: Literal["brier", "ece"] = "brier"
    weight: float = 1.0
    interval: Interval = "cdf"
    slack: float = 0.0
    margin_weight: float = 0.0
    gap: float = 8.0
    bins: int = 15
    window: int = 1
    _memory: TableMemory = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        _check.radius("radius", self.radius)
        for name in ("weight", "slack", "margin_weight", "gap"):
            if _check.real_number(name, getattr(self, name)) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.metric not in ("brier", "ece"):
            raise ValueError(f'metric: expected "brier" or "ece", got {self.metric!r}')
        if self.interval not in ("cdf", "mean"):
            raise ValueError(f'interval: expected "cdf" or "mean", got {self.interval!r}')
        Bins.of(self.bins)
        _check.whole_number("window", self.window, 1)
        object.__setattr__(self, "_memory", TableMemory(self.window))

    def loss(self, step: Step) -> torch.Tensor:
        """Cross-entropy, metric and margin."""
        log_scores = step.log_scores(step.images, step.noise(self.draws))
        loss = step.mean(cross_entropy(step, log_scores))
        loss = loss + self.weight * step.mean(self.terms(step, log_scores))
        if self.margin_weight:
            loss = loss + self.margin_weight * step.mean(
                margin_terms(log_scores, step.labels, self.gap)
            )
        return loss

    def terms(self, step: Step, log_scores: torch.Tensor) -> torch.Tensor:
        """(B,) float64 what each sample adds to the certified metric, times the size of the batch.

        Args:
            step: the step.
            log_scores: (B, m, K) of its images.
        """
        classes = top_class(log_scores)
        correct = classes == step.labels
        shift = step.radius_share * self.radius / step.sigma
        lower, upper = certified_bounds(
            log_scores, classes, shift, interval=self.interval, slack=self.slack
        )
        if self.metric == "brier":
            terms = certified_brier_terms(correct, lower, upper)
        else:
            with step.clock("inner"):
                low, high = (
                    end.detach().clamp(0, 1).cpu().numpy() for end in (lower.minimum(upper), upper)
                )
                solved = solve_over_processes(
                    correct.cpu().numpy(),
                    low,
                    high,
                    Bins.of(self.bins),
                    step.group,
                    self._memory if self.window > 1 else None,
                )
                terms = certified_ece_terms(correct, lower, upper, solved=solved)
        step.add(f"certified_{self.metric}", terms)
        return terms

    def state(self) -> dict[str, Any]:
        """The tables of the last batches."""
        return {"tables": self._memory.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from them."""
        self._memory.restore(state["tables"])
