# SPDX-License-Identifier: MIT
"""The certified interval of a smoothed confidence as a differentiable function of the scores under noise.

These are the bounds of certification without its statistical margin: m draws are too few for one. They are what training
climbs, and no certificates.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Interval = Literal["cdf", "mean"]

#: A mean score is kept this far from 0 and 1, where the slope of the shifted probit has no bound.
CLIP = 1e-4


def shifted_bounds(
    confidence: torch.Tensor, shift: float, clip: float = CLIP
) -> tuple[torch.Tensor, torch.Tensor]:
    """Phi(Phi^-1(p) - R / sigma) and Phi(Phi^-1(p) + R / sigma): the interval from the mean score alone.

    The slope by p is exp(+-x s - s^2 / 2) with x = Phi^-1(p) and s = R / sigma. It grows without bound toward one end, so p
    is clipped, and beyond the clip the slope is 0.

    Args:
        confidence: (B,) float64 in [0, 1], mean scores p.
        shift: R / sigma, at least 0.
        clip: p is taken from [clip, 1 - clip].

    Returns:
        (B,) lower and (B,) upper ends.

    Source:
        Kumar et al., "Certifying confidence via randomized smoothing" (NeurIPS 2020), the standard bound.

    Example:
        >>> lower, upper = shifted_bounds(torch.tensor([0.5], dtype=torch.float64), 1.0)
        >>> round(float(lower), 4), round(float(upper), 4)
        (0.1587, 0.8413)
    """
    probit = torch.special.ndtri(confidence.clamp(clip, 1 - clip))
    return torch.special.ndtr(probit - shift), torch.special.ndtr(probit + shift)


def score_bounds(
    scores: torch.Tensor, shift: float, slack: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The interval from the whole distribution of the scores: never looser than that from their mean.

    With sorted scores s_1 <= ... <= s_m the empirical P(score >= s_i) is (m - i + 1) / m. Each probability q moves to
    Phi(Phi^-1(q) -+ R / sigma), and the mean is their integral: a weighted sum of the sorted scores with fixed
    weights, so its slope is bounded and needs no clipping.

    Args:
        scores: (B, m) in [0, 1], scores of one class under m noises.
        shift: R / sigma, at least 0.
        slack: taken off each probability for the lower end and added for the upper end, such as the half-width
            sqrt(log(2 / alpha) / (2 n)) of the band that certification with n draws will have.

    Returns:
        (B,) lower and (B,) upper ends, in the type of ``scores``.

    Source:
        Kumar et al. (NeurIPS 2020), the CDF bound.

    Example:
        >>> scores = torch.tensor([[0.2, 0.8]], dtype=torch.float64)
        >>> [round(float(end), 4) for end in score_bounds(scores, 1.0)]
        [0.2952, 0.7048]
    """
    ordered = scores.sort(dim=1).values
    low, high, free = _weights(scores.shape[1], float(shift), float(slack))
    lower = ordered @ torch.from_numpy(low).to(ordered)
    upper = ordered @ torch.from_numpy(high).to(ordered) + free
    return lower, upper


@functools.lru_cache(maxsize=256)
def _weights(
    draws: int, shift: float, slack: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(m,) weights of the sorted scores for both ends, and that of the score 1 in the upper one."""
    # Heights of the steps: P(score >= s_1), ..., P(score >= s_m), and 0 beyond s_m.
    heights = np.append(np.arange(draws, 0, -1) / draws, 0.0)
    below = ndtr(ndtri(np.maximum(heights - slack, 0.0)) - shift)
    above = ndtr(ndtri(np.minimum(heights + slack, 1.0)) + shift)
    above[0] = 1.0  # every score is at least 0, whatever the band says
    return below[:-1] - below[1:], above[:-1] - above[1:], float(above[-1])


def certified_bounds(
    log_scores: torch.Tensor,
    classes: torch.Tensor,
    shift: float,
    *,
    interval: Interval = "cdf",
    slack: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The interval of each sample's confidence in a class.

    Args:
        log_scores: (B, m, K) log-softmax under m noises.
        classes: (B,) int64.
        shift: R / sigma.
        interval: ``"cdf"`` (``score_bounds``) or ``"mean"`` (``shifted_bounds``).
        slack: as in ``score_bounds``; ``"mean"`` takes it off the mean and adds it.

    Returns:
        (B,) float64 lower and upper ends.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
        >>> lower, upper = certified_bounds(logits.log_softmax(2), torch.tensor([0]), 0.5)
        >>> bool(lower < upper)
        True
    """
    chosen = log_scores.gather(2, classes[:, None, None].expand(-1, log_scores.shape[1], 1))
    scores = chosen[:, :, 0].double().exp()
    if interval == "cdf":
        return score_bounds(scores, shift, slack)
    mean = scores.mean(1)
    return shifted_bounds(mean - slack, shift)[0], shifted_bounds(mean + slack, shift)[1]


def margin_terms(log_scores: torch.Tensor, labels: torch.Tensor, gap: float) -> torch.Tensor:
    """(B,) max(0, gap - (Phi^-1(p_y) - Phi^-1(p_2))) of the samples whose label has the highest mean score; 0 of others.

    Args:
        log_scores: (B, m, K).
        labels: (B,) int64.
        gap: in units of sigma.

    Source:
        Zhai et al., "MACER" (ICLR 2020), equation 9, with mean scores in place of theirs at a temperature.
    """
    means = log_scores.double().exp().mean(1)
    own = means.gather(1, labels[:, None])[:, 0]
    other = means.scatter(1, labels[:, None], -1.0).amax(1)
    probits = [torch.special.ndtri(p.clamp(CLIP, 1 - CLIP)) for p in (own, other)]
    return torch.where(own > other, torch.relu(gap - (probits[0] - probits[1])), 0.0)
