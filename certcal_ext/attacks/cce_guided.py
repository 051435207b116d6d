# SPDX-License-Identifier: MIT
"""The attack that the exact worst case guides: solve for the targets, hit them, solve again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.attacks.ascent import Ascent, Scene
from certcal_ext.attacks.base import GradientAttack, climb
from certcal_ext.attacks.geometry import each_image
from certcal_ext.attacks.objectives import ConfidenceObjective
from certcal_ext.attacks.targets import Plan, plan
from certcal_ext.attacks.victims import ESTIMATE_DRAW, SmoothedVictim
from certcal_ext.smoothing.noise import MAX_DRAWS

Floats = NDArray[np.float64]

#: The blur without noise: more than a second look at the same image, in another batch, can change it.
_BLUR = 1e-6

#: With noise, about the standard error of a mean score of one draw: the blur is this over the root of the draws.
_SPREAD = 0.3

#: A target this near to the confidence or to an end of what was reached counts as there.
_THERE = 1e-9


@dataclass(frozen=True, kw_only=True)
class CceGuidedAttack(GradientAttack):
    """Raises the ECE of the whole set of images by solving for the worst confidences within reach.

    1. Every sample climbs and falls a few steps: [lowest, highest] confidence reached without a change of
       prediction. All in between is reachable too: the confidence is continuous along the segment from the clean image
       to an end, and the segment lies in the ball and in [0, 1], which are convex.
    2. The exact recursion finds the signs of the bins and the confidence of each sample, within what is reachable, that
       make the ECE largest. The optimum over the reachable intervals is global. Where confidences are only known up to
       the noise, ``targets.plan`` goes on from there.
    3. Samples whose target is an end of their interval go on climbing that way, and step 2 is repeated: ``rounds`` times.
    4. Targets inside an interval are hit by a search along the segment, by forward passes; of all images looked at, each
       sample keeps the one that gains most under the signs.

    A quarter of the steps go up, a quarter down and the rest where the targets say; so a sample takes at most ``steps``
    gradients a start, like the other attacks.

    Attributes:
        step_size: first step, as a share of the radius; a whole one, as the steps of each way are few.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) from 0 to 1, or None.
        closed: which end of a bin belongs to it, as in ``certified_ece``.
        rounds: how often targets are solved for before the last time.
        bisections: most forward passes to hit a target.
        blur: standard error of a confidence: targets are chosen, and hits judged, as if the borders of bins were that
            wide. None: 1e-6 without noise, with noise about the error of a mean of that many draws, so that what is
            reached lasts under other noises.
        draws: noises by which targets are solved for and hit, where the victim is smoothed by fewer: the signs of the
            bins turn with their borders, so confidences have to be known better than a gradient has. They are others
            than the victim's, which the gradients fit, and cost forward passes only.
        intervals: (lower, upper), each (N,), confidences that no attack leaves, such as certified ones: the first
            targets come from them, and the first steps go there. None: no such thing is known.

    Raises:
        TypeError: an option of the wrong kind.
        ValueError: an option out of range.

    Source:
        this project; the recursion is ``csrc/core/ece_solve.hpp``, the problem that of Emde et al. (ICLR 2025).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 2])
        >>> result = CceGuidedAttack(radius=0.1).run(model, images, labels)
        >>> result.after().ece >= result.before().ece
        True
    """

    name: ClassVar[str] = "cce-guided"

    step_size: float = 1.0
    bins: int = 15
    edges: Any = field(default=None, compare=False)
    closed: str = "right"
    rounds: int = 3
    bisections: int = 16
    blur: float | None = None
    draws: int = 512
    intervals: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        _check.bin_edges(self.bins, self.edges)
        _check.closed_left(self.closed)
        _check.whole_number("rounds", self.rounds, 0)
        _check.whole_number("bisections", self.bisections, 0)
        _check.whole_number("draws", self.draws, 1, MAX_DRAWS - ESTIMATE_DRAW)
        if self.blur is not None:
            _check.positive_number("blur", self.blur)
        if self.intervals is not None and len(_check.items("intervals", self.intervals)) != 2:
            raise ValueError("intervals: expected a pair (lower, upper)")

    @property
    def looks(self) -> int:
        """Passes a sample, to tell how far a run is."""
        return self.steps * self.restarts + self.bisections

    def settings(self) -> dict[str, Any]:
        """The options by name; of ``intervals`` only whether there were any."""
        plain = replace(self, intervals=None)
        return {**super(CceGuidedAttack, plain).settings(), "intervals": self.intervals is not None}

    def _search(self, scene: Scene) -> torch.Tensor:
        known = self._known(len(scene))
        # One gradient up and one down is the least; with known intervals the targets take all the others.
        first = max(1, self.steps // 4 if known is None else 1)
        rest = max(0, self.steps - 2 * first) * self.restarts if self.rounds else 0
        reach = _Reach(
            self._counting(scene),
            climb(scene, ConfidenceObjective(True), self, first, finish=not rest),
            climb(scene, ConfidenceObjective(False), self, first, finish=not rest),
        )
        shares = [len(part) for part in np.array_split(np.arange(rest), max(1, self.rounds))]
        for number, share in enumerate(shares):
            if share:
                lower, upper = known if known is not None and not number else reach.interval()
                target = self._plan(reach, lower, upper).target
                reach.go_on(target, share, finish=not any(shares[number + 1 :]))
        return self._place(reach)

    def _counting(self, scene: Scene) -> Scene:
        """The scene itself, or one of as many noises as confidences are to be counted by."""
        victim = scene.victim
        if not isinstance(victim, SmoothedVictim) or self.draws <= victim.draws:
            return scene
        return scene.under(victim.with_draws(self.draws, first_draw=ESTIMATE_DRAW))

    def _known(self, size: int) -> tuple[Floats, Floats] | None:
        if self.intervals is None:
            return None
        lower, upper = (_check.float_vector("intervals", end, size) for end in self.intervals)
        _check.require_ordered(lower, upper)
        return lower, upper

    def _plan(self, reach: _Reach, lower: Floats, upper: Floats) -> Plan:
        edges = _check.bin_edges(self.bins, self.edges)
        blur = self.blur
        if blur is None:
            draws = reach.scene.victim.draws
            blur = _BLUR if draws == 1 else _SPREAD / math.sqrt(draws)
        return plan(reach.correct, lower, upper, edges, self.closed, float(blur))

    def _place(self, reach: _Reach) -> torch.Tensor:
        """Images whose confidences are the targets, or as near as the search on the segments comes."""
        scene, correct = reach.scene, reach.correct
        lower, upper = reach.interval()
        low, high = reach.images()
        planned = self._plan(reach, lower, upper)
        aim = planned.target
        upward = aim > reach.clean_confidence
        wanted = planned.gain(correct, aim)
        best = _Best(scene.clean.clone(), planned.gain(correct, reach.clean_confidence))
        everyone = np.arange(len(scene))
        for images, confidence in ((low, lower), (high, upper)):
            best.offer(everyone, images, planned.gain(correct, confidence))

        # False position along the segment from the clean image (0) to the end (1), in log-odds, where the confidence
        # is nearly linear; every other time the middle, so that the bracket always shrinks.
        end = torch.where(each_image(upward, high), high, low)
        far = np.where(upward, upper, lower)
        left, right = np.zeros(len(scene)), np.ones(len(scene))
        at_left, at_right, goal = (_log_odds(z) for z in (reach.clean_confidence, far, aim))
        is_open = (best.gain < wanted - _THERE) & (far != reach.clean_confidence)
        for number in range(self.bisections):
            rows = np.flatnonzero(is_open)
            if not rows.size:
                break
            share = np.full(rows.size, 0.5)
            if number % 2 == 0:
                span = at_right[rows] - at_left[rows]
                share = (goal[rows] - at_left[rows]) / np.where(span == 0, 1.0, span)
                share = np.where(np.isfinite(share), np.clip(share, 0.02, 0.98), 0.5)
            middle = left[rows] + share * (right[rows] - left[rows])
            which = torch.from_numpy(rows).to(scene.clean.device)
            clean = scene.clean[which]
            factor = torch.from_numpy(middle).to(clean).view(-1, *[1] * (clean.ndim - 1))
            tried = scene.ball.project(clean + factor * (end[which] - clean), clean)
            seen = scene.look(tried, which)
            confidence, kept = seen.confidence.cpu().numpy(), seen.kept.cpu().numpy()
            gain = np.where(kept, planned.gain(correct[rows], confidence), -np.inf)
            best.offer(rows, tried, gain)
            odds = _log_odds(confidence)
            beyond = (confidence >= aim[rows]) == upward[rows]
            right[rows[beyond]], at_right[rows[beyond]] = middle[beyond], odds[beyond]
            left[rows[~beyond]], at_left[rows[~beyond]] = middle[~beyond], odds[~beyond]
            is_open[rows[kept & (np.abs(confidence - aim[rows]) <= planned.blur / 2)]] = False
        return best.images


@dataclass
class _Best:
    """The image of each sample that gains most so far."""

    images: torch.Tensor
    gain: Floats

    def offer(self, rows: NDArray[np.intp], images: torch.Tensor, gain: Floats) -> None:
        """Takes those of some samples that gain more."""
        better = gain > self.gain[rows]
        which = rows[better]
        device = images.device
        self.images[torch.from_numpy(which).to(device)] = images[
            torch.from_numpy(better).to(device)
        ]
        self.gain[which] = gain[better]


class _Reach:
    """What each sample has reached: its highest and its lowest confidence, and the images.

    Args:
        scene: what confidences are counted by; the victim itself, or the same one under more noises.
        up: the ascent of the confidence.
        down: its descent.
    """

    def __init__(self, scene: Scene, up: Ascent, down: Ascent) -> None:
        self.scene, self._up, self._down = scene, up, down
        self.correct: Floats = scene.rows.correct.cpu().numpy()
        self._everyone = torch.arange(len(scene), device=scene.clean.device)
        seen = scene.look(scene.clean, self._everyone)
        self.clean_confidence: Floats = seen.confidence.cpu().numpy()
        self._seen_again()

    def _seen_again(self) -> None:
        """The confidences at the ends, by the scene; an end that does not keep the prediction there is none."""
        ends = []
        for ascent in (self._up, self._down):
            confidence = ascent.confidence.cpu().numpy()
            if self.scene is not ascent.scene:
                seen = self.scene.look(ascent.images, self._everyone)
                kept = seen.kept.cpu().numpy()
                confidence = np.where(kept, seen.confidence.cpu().numpy(), self.clean_confidence)
            ends.append(confidence)
        self._top, self._bottom = ends

    def interval(self) -> tuple[Floats, Floats]:
        """(N,) lowest and highest confidence; the clean one lies between them."""
        lower = np.minimum(self._bottom, self.clean_confidence)
        return lower, np.maximum(self._top, self.clean_confidence)

    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, ...) the images that have them."""
        lower, upper = self.interval()
        clean = self.scene.clean
        fell = each_image(lower < self.clean_confidence, clean)
        rose = each_image(upper > self.clean_confidence, clean)
        return torch.where(fell, self._down.images, clean), torch.where(
            rose, self._up.images, clean
        )

    def go_on(self, target: Floats, steps: int, *, finish: bool) -> None:
        """Some steps more for the samples whose target is an end of what they reached, or lies beyond it."""
        lower, upper = self.interval()
        moved = upper - lower > _THERE
        rises = moved & (target >= upper - _THERE)
        falls = moved & (target <= lower + _THERE)
        # Nothing reached yet on either side: the side that is worse for the sample alone.
        stuck = ~moved
        for ascent, rows in (
            (self._up, rises | (stuck & (self.correct == 0))),
            (self._down, falls | (stuck & (self.correct == 1))),
        ):
            which = torch.from_numpy(np.flatnonzero(rows)).to(self.scene.clean.device)
            if len(which):
                ascent.advance(steps, which)
                if finish:
                    ascent.finish(which)
        self._seen_again()


def _log_odds(confidence: Floats) -> Floats:
    """log(z / (1 - z)), finite."""
    inside = np.clip(confidence, 1e-12, 1 - 1e-12)
    result: Floats = np.log(inside) - np.log1p(-inside)
    return result
