# SPDX-License-Identifier: MIT
"""Training on adversaries: SmoothAdv against the prediction, ACT against the calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.attacks.geometry import Ball
from certcal_ext.attacks.victims import evaluation_mode
from certcal_ext.bins import Bins
from certcal_ext.training.bounds import Interval, certified_bounds, margin_terms
from certcal_ext.training.losses import TableMemory, solve_over_processes
from certcal_ext.training.objective import (
    Objective,
    Step,
    cross_entropy,
    log_odds,
    of_class,
    top_class,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """Where an attack moves the confidences of some classes.

    Attributes:
        classes: (B,) int64; the attack keeps each the class of highest mean score.
        direction: (B,) float64, +1 where the confidence is to rise, -1 where it is to fall, 0: the sample stays.
        target: (B,) float64 confidences at which to stop; None: as far as it goes.
    """

    classes: torch.Tensor
    direction: torch.Tensor
    target: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Adversarial(Objective):
    """Training on images moved by projected gradient steps under fixed noises.

    Attributes:
        radius: largest l2 norm of the perturbation, in pixel units.
        steps: gradient steps T, each of length 2 radius / T along the normalised gradient.
    """

    draws: int = 2
    radius: float
    steps: int = 2

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        _check.radius("radius", self.radius)
        _check.whole_number("steps", self.steps, 1)

    def ball(self, step: Step) -> Ball:
        """Where images may go in this step."""
        return Ball("l2", step.radius_share * self.radius)


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(Adversarial):
    """Cross-entropy of noisy adversaries: x' = argmax of -log (1/m) sum_i softmax f(x' + eps_i)_y, by PGD.

    The m noises are the same in all steps and in the training pass.

    Source:
        Salman et al., "Provably robust deep learning via adversarially trained smoothed classifiers" (NeurIPS 2019).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
        >>> step = Step(model, model, x, y, torch.arange(2), sigma=0.25)
        >>> bool(SmoothAdv(radius=0.25).loss(step) >= SmoothAdv(radius=0.0).loss(step))
        True
    """

    name: ClassVar[str] = "smoothadv"

    def loss(self, step: Step) -> torch.Tensor:
        """The mean cross-entropy at the adversaries."""
        noise = step.noise(self.draws)

        def objective(log_scores: torch.Tensor) -> torch.Tensor:
            return -of_class(log_scores, step.labels).logsumexp(1)

        with step.clock("attack"):
            moved = climb(step, noise, self.ball(step), self.steps, objective)
        return step.mean(cross_entropy(step, step.log_scores(moved, noise)))


@dataclass(frozen=True, kw_only=True)
class CalibrationAdversarial(Adversarial):
    """ACT: training on images that an attack on the calibration made, with their predictions kept.

    The loss is cross_entropy x the mean of -log softmax f(x' + eps)_y + weight x the calibration loss at x', of the
    smoothed confidence z' in the class A that was on top before the attack + margin_weight x the margin at x'.

    Attributes:
        cross_entropy: weight of the cross-entropy.
        weight: weight of the calibration loss; 0: the cross-entropy alone.
        margin_weight: weight of the margin of ``margin_terms``; 0 leaves it out, as the paper has it.
        gap: the margin aimed at, in units of sigma.

    Source:
        Emde et al., "Towards certification of uncertainty calibration under adversarial attacks" (ICLR 2025), section 5.
    """

    cross_entropy: float = 1.0
    weight: float = 1.0
    margin_weight: float = 0.0
    gap: float = 8.0

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        for name in ("cross_entropy", "weight", "margin_weight", "gap"):
            if _check.real_number(name, getattr(self, name)) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")

    def goal(self, step: Step, log_scores: torch.Tensor) -> Goal:
        """Where the attack goes, from the (B, m, K) log-softmax at the clean images."""
        raise NotImplementedError

    def calibration(self, step: Step, confidence: torch.Tensor, goal: Goal) -> torch.Tensor:
        """(B,) the calibration loss at the attacked confidences."""
        raise NotImplementedError

    def loss(self, step: Step) -> torch.Tensor:
        """Cross-entropy and calibration loss at the adversaries."""
        noise = step.noise(self.draws)
        with step.clock("attack"):
            moved, goal = self.attack(step, noise)
        log_scores = step.log_scores(moved, noise)
        loss = self.cross_entropy * step.mean(cross_entropy(step, log_scores))
        if self.weight:
            confidence = of_class(log_scores, goal.classes).double().exp().mean(1)
            terms = self.calibration(step, confidence, goal)
            step.add("calibration", terms)
            loss = loss + self.weight * step.mean(terms)
        if self.margin_weight:
            margin = step.mean(margin_terms(log_scores, step.labels, self.gap))
            loss = loss + self.margin_weight * margin
        return loss

    def attack(self, step: Step, noise: torch.Tensor) -> tuple[torch.Tensor, Goal]:
        """The adversaries, and what they aimed at."""
        with evaluation_mode(step.model), torch.no_grad():
            goal = self.goal(step, step.log_scores(step.images, noise, training=False))
        ball = self.ball(step)

        def toward(log_scores: torch.Tensor) -> torch.Tensor:
            return goal.direction * log_odds(log_scores, goal.classes)

        return climb(step, noise, ball, self.steps, toward, goal), goal


@dataclass(frozen=True, kw_only=True)
class BrierAct(CalibrationAdversarial):
    """Brier-ACT: every confidence is pushed to the end that is worse for the Brier score, down if right, up if wrong.

    Calibration loss: (c - z')^2.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
        >>> step = Step(model, model, x, y, torch.arange(2), sigma=0.25)
        >>> bool(BrierAct(radius=0.25).loss(step) > 0)
        True
    """

    name: ClassVar[str] = "brier-act"

    def goal(self, step: Step, log_scores: torch.Tensor) -> Goal:
        """The worse end of each."""
        classes = top_class(log_scores)
        return Goal(classes, torch.where(classes == step.labels, -1.0, 1.0).double())

    def calibration(self, step: Step, confidence: torch.Tensor, goal: Goal) -> torch.Tensor:
        """The squared error."""
        return ((goal.classes == step.labels).double() - confidence) ** 2


@dataclass(frozen=True, kw_only=True)
class TargetAct(CalibrationAdversarial):
    """ACT with a target for each sample, from a worst case of the calibration error.

    The certificate [l, u] of each smoothed confidence at the radius is what can be reached; the worst confidences within it
    are the targets. Calibration loss: s (c - z') with s the sign of the error in the target's bin, so its mean over
    the batch is the calibration error that the attack aims at.

    Attributes:
        interval: ``"cdf"`` or ``"mean"``, as in ``certified_bounds``.
        bins: number M of bins of equal width.
    """

    interval: Interval = "cdf"
    bins: int = 15

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if self.interval not in ("cdf", "mean"):
            raise ValueError(f'interval: expected "cdf" or "mean", got {self.interval!r}')
        Bins.of(self.bins)

    def worst(
        self, step: Step, correct: NDArray[np.bool_], lower: Floats, upper: Floats
    ) -> tuple[Floats, Floats]:
        """(B,) targets and (B,) signs of their bins."""
        raise NotImplementedError

    def goal(self, step: Step, log_scores: torch.Tensor) -> Goal:
        """The worst confidences within the certificates."""
        classes = top_class(log_scores)
        shift = step.radius_share * self.radius / step.sigma
        ends = certified_bounds(log_scores, classes, shift, interval=self.interval)
        lower, upper = (end.clamp(0, 1).cpu().numpy() for end in ends)
        correct = (classes == step.labels).cpu().numpy()
        with step.clock("inner"):
            target, signs = self.worst(step, correct, np.minimum(lower, upper), upper)
        device = classes.device
        confidence = log_odds(log_scores, classes).sigmoid()
        aim = torch.from_numpy(np.array(target)).to(device)
        return _Signed(classes, (aim - confidence).sign(), aim, torch.from_numpy(signs).to(device))

    def calibration(self, step: Step, confidence: torch.Tensor, goal: Goal) -> torch.Tensor:
        """Each sample's part of the calibration error under the signs."""
        assert isinstance(goal, _Signed)
        return goal.signs * ((goal.classes == step.labels).double() - confidence)


@dataclass(frozen=True)
class _Signed(Goal):
    """A goal and the (B,) signs of the bins of its targets."""

    signs: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True, kw_only=True)
class CceAct(TargetAct):
    """CCE-ACT: the targets are the exact worst case of the ECE, over the batch of all processes or the last ones.

    Attributes:
        window: batches whose tables give the signs of the bins.

    Source:
        this project; the exact recursion in place of the approximate solver of Emde et al.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
        >>> step = Step(model, model, x, y, torch.arange(2), sigma=0.25)
        >>> bool(CceAct(radius=0.25).loss(step) > 0)
        True
    """

    name: ClassVar[str] = "cce-act"

    window: int = 1
    _memory: TableMemory = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        _check.whole_number("window", self.window, 1)
        object.__setattr__(self, "_memory", TableMemory(self.window))

    def worst(
        self, step: Step, correct: NDArray[np.bool_], lower: Floats, upper: Floats
    ) -> tuple[Floats, Floats]:
        """By the exact recursion."""
        memory = self._memory if self.window > 1 else None
        solved = solve_over_processes(correct, lower, upper, Bins.of(self.bins), step.group, memory)
        target = solved.worst_confidence_of(correct, lower, upper)
        return target, solved.signs[solved.cells.index(target)].astype(np.float64)

    def state(self) -> dict[str, Any]:
        """The tables of the last batches."""
        return {"tables": self._memory.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from them."""
        self._memory.restore(state["tables"])


@dataclass(frozen=True, kw_only=True)
class AcceAct(TargetAct):
    """ACCE-ACT: the targets are what ADMM finds for the mixed-integer program, over this process's part of the batch.

    Attributes:
        admm_steps: steps of ADMM from each start at most; the paper has 3,000.
        starts: as in ``lower_estimate_admm``.

    Source:
        Emde et al. (ICLR 2025), ACCE-ACT, with the solver of ``certcal_ext.milp.baselines``.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
        >>> step = Step(model, model, x, y, torch.arange(2), sigma=0.25)
        >>> bool(AcceAct(radius=0.25, admm_steps=10).loss(step) > 0)
        True
    """

    name: ClassVar[str] = "acce-act"

    admm_steps: int = 3000
    starts: tuple[Literal["lower", "middle", "upper", "brier-worst"], ...] = ("middle",)

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        _check.whole_number("admm_steps", self.admm_steps, 1)
        object.__setattr__(self, "starts", tuple(self.starts))

    def worst(
        self, step: Step, correct: NDArray[np.bool_], lower: Floats, upper: Floats
    ) -> tuple[Floats, Floats]:
        """By ADMM; a bin's sign is that of the sum of c - z over the targets in it."""
        from certcal_ext.milp.baselines import lower_estimate_admm

        found = lower_estimate_admm(
            correct, lower, upper, self.bins, steps=self.admm_steps, starts=self.starts
        )
        target = np.clip(found.confidence, 0.0, 1.0)
        at = Bins.of(self.bins).index(target)
        error = np.bincount(at, correct - target, self.bins)
        return target, np.where(error >= 0, 1.0, -1.0)[at]


def climb(
    step: Step,
    noise: torch.Tensor,
    ball: Ball,
    steps: int,
    objective: Callable[[torch.Tensor], torch.Tensor],
    goal: Goal | None = None,
) -> torch.Tensor:
    """Projected gradient ascent under fixed noises, the model in evaluation mode.

    With a goal, a sample that has passed its target goes on with half the step, and one whose class is no longer on top goes
    back to its last image where it was, and stays there. The last image is not looked at again.

    Args:
        step: images and model.
        noise: (B, m, ...).
        ball: where images may go.
        steps: gradient steps T, each of length 2 radius / T.
        objective: (B, m, K) log-softmax to (B,) values that are to rise.
        goal: what has to be kept and where to stop; None: nothing.

    Returns:
        (B, ...) images in the ball and in [0, 1].
    """
    if ball.radius == 0:
        return step.images
    images, kept = step.images, step.images
    length = torch.full((len(images),), 2 * ball.radius / steps, device=images.device)
    stays = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    with evaluation_mode(step.model):
        for _ in range(steps):
            leaf = images.detach().requires_grad_()
            log_scores = step.log_scores(leaf, noise, training=False)
            value = objective(log_scores)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            towards = torch.ones_like(length)
            if goal is not None:
                stays = stays | (log_scores.detach().exp().mean(1).argmax(1) != goal.classes)
                if goal.target is not None:
                    towards, length = _turned(log_scores.detach(), goal, length)
                images = torch.where(_each(stays, images), kept, images)
                kept = images
            stride = _each(torch.where(stays, 0.0, length * towards), images)
            images = ball.project(images + stride * ball.unit_step(gradient), step.images)
    return images.detach()


def _turned(
    log_scores: torch.Tensor, goal: Goal, length: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) +1 where the goal lies ahead, -1 where it has been passed, and the lengths of the next steps."""
    assert goal.target is not None
    confidence = log_odds(log_scores, goal.classes).sigmoid()
    ahead = (goal.target - confidence) * goal.direction >= 0
    return torch.where(ahead, 1.0, -1.0), torch.where(ahead, length, length / 2)


def _each(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """One entry an image, in a shape that goes with images."""
    return values.view(-1, *[1] * (images.ndim - 1))
