# SPDX-License-Identifier: MIT
"""What is minimised: the base of all objectives, what a step gives them, and training with Gaussian noise."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from certcal_ext import _check
from certcal_ext.distributed import Group
from certcal_ext.smoothing.noise import add_noise

MAX_TRAINING_DRAWS = 4096

#: What to do about numbers that are not finite.
REMEDIES = "a smaller learning rate, float32 or clip_norm may help, and an earlier checkpoint is still whole"


@dataclass
class Step:
    """One batch, this process's part of it.

    Attributes:
        forward: the model in training mode, as the gradients of its weights need it (under DDP: the wrapper).
        model: the model itself, for attacks.
        images: (B, ...) float32 in [0, 1].
        labels: (B,) int64.
        ids: (B,) int64, the samples' numbers in the noise.
        sigma: standard deviation of the noise.
        seed: key of the noise.
        first_draw: number of the first noise of each sample in this epoch.
        radius_share: the radius to use, as a share of the objective's.
        size: images of the batch over all processes.
        group: the processes.
        autocast: whether forward passes are in bfloat16.
        where: the step in words, for errors.
        facts: sums over the samples of this process, for the log.
        seconds: time spent inside, by name.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    model: torch.nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    sigma: float
    seed: int = 0
    first_draw: int = 0
    radius_share: float = 1.0
    size: int = 0
    group: Group = field(default_factory=Group)
    autocast: bool = False
    where: str = "this step"
    facts: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Without other processes the batch is what is here."""
        self.size = self.size or len(self.images)

    def noise(self, draws: int) -> torch.Tensor:
        """(B, m, ...) the noises of this step: a function of seed, sample, epoch and draw only."""
        numbers = range(self.first_draw, self.first_draw + draws)
        zero = torch.zeros_like(self.images)
        noise: torch.Tensor = add_noise(zero, self.sigma, self.seed, self.ids, numbers)
        return noise

    def log_scores(
        self, images: torch.Tensor, noise: torch.Tensor, *, training: bool = True
    ) -> torch.Tensor:
        """(B, m, K) log-softmax of the model at images + noise, float32.

        Args:
            images: (B, ...) float32; may carry a gradient.
            noise: (B, m, ...).
            training: through ``forward``, for the gradients of the weights; else through the model itself, for attacks.

        Raises:
            ValueError: logits that are NaN or infinite.
        """
        inputs = (images[:, None] + noise).flatten(0, 1)
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.forward(inputs) if training else self.model(inputs)
        if not bool(torch.isfinite(logits.detach()).all()):
            raise ValueError(
                f"model: expected finite logits, got NaN or infinity in {self.where}; {REMEDIES}"
            )
        return logits.float().reshape(*noise.shape[:2], -1).log_softmax(2)

    def add(self, name: str, values: torch.Tensor) -> None:
        """Adds the sum of (B,) values to a fact."""
        self.facts[name] = self.facts.get(name, 0.0) + float(values.detach().double().sum())

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Adds the time inside to ``seconds``."""
        started = time.perf_counter()
        yield
        spent = time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """This process's part of the mean of (B, ...) values over the whole batch."""
        return values.sum() / (values[0].numel() * self.size)


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """What a training step minimises. Options are keywords.

    Attributes:
        draws: noises m a sample and step, fixed within the step.

    Raises:
        TypeError: an option of the wrong kind.
        ValueError: an option out of range.
    """

    name: ClassVar[str]

    draws: int = 1

    def __post_init__(self) -> None:
        """Checks the options."""
        _check.whole_number("draws", self.draws, 1, MAX_TRAINING_DRAWS)

    @abstractmethod
    def loss(self, step: Step) -> torch.Tensor:
        """The part of the batch's loss that this process has; the batch's loss is the sum over the processes."""

    def settings(self) -> dict[str, Any]:
        """The options by name."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        return {"method": self.name, **plain}

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep of the steps before."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what a checkpoint kept."""
        del state


@dataclass(frozen=True, kw_only=True)
class Gaussian(Objective):
    """Cross-entropy of noisy images: the mean of -log softmax f(x + eps)_y over m noises.

    Source:
        Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing" (ICML 2019), section 3.3.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
        >>> step = Step(model, model, x, y, torch.arange(2), sigma=0.25)
        >>> bool(Gaussian(draws=2).loss(step) > 0)
        True
    """

    name: ClassVar[str] = "gaussian"

    def loss(self, step: Step) -> torch.Tensor:
        """The mean cross-entropy."""
        log_scores = step.log_scores(step.images, step.noise(self.draws))
        return step.mean(cross_entropy(step, log_scores))


def cross_entropy(step: Step, log_scores: torch.Tensor) -> torch.Tensor:
    """(B, m) -log softmax of the label under each noise; counts how many are right."""
    with torch.no_grad():
        step.add("right", (log_scores.argmax(2) == step.labels[:, None]).double().mean(1))
    return -of_class(log_scores, step.labels)


def of_class(log_scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(B, m) the entries of (B, m, K) that belong to one class a sample."""
    index = classes[:, None, None].expand(-1, log_scores.shape[1], 1)
    return log_scores.gather(2, index)[:, :, 0]


def top_class(log_scores: torch.Tensor) -> torch.Tensor:
    """(B,) the class with most votes among m noises; of equals the one with the larger mean score."""
    scores = log_scores.detach().exp()
    classes = scores.shape[2]
    votes = torch.nn.functional.one_hot(scores.argmax(2), classes).sum(1)
    # A mean score adds less than one vote.
    return (votes + 0.999 * scores.mean(1)).argmax(1)


def log_odds(log_scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(B,) float64, log(z / (1 - z)) of the mean score z of a class; keeps its slope where z is next to 0 or 1."""
    mean = log_scores.double().logsumexp(1)
    own = mean.gather(1, classes[:, None])[:, 0]
    mask = torch.zeros_like(mean, dtype=torch.bool).scatter(1, classes[:, None], True)
    return own - mean.masked_fill(mask, -torch.inf).logsumexp(1)
