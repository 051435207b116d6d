# SPDX-License-Identifier: MIT
"""How a model is trained, whatever the objective."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Optimizer = Literal["adamw", "sgd"]
Precision = Literal["float32", "bfloat16"]

#: Training draws from here on: certification draws from 0, attacks from 2^30, random starts of attacks at 2^31. With the
#: same seed none of them shares a draw, so a model never depends on the noise that it is certified with.
FIRST_DRAW = 3 * 2**30
_DRAWS = 2**30


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a training run.

    Attributes:
        sigma: standard deviation of the noise, in pixel units.
        epochs: passes over the data.
        batch_size: images a step, over all processes together. Images that do not fill the last batch of an epoch are left
            out of that epoch; another order brings them in in the next one.
        optimizer: ``"adamw"`` or ``"sgd"`` (momentum 0.9).
        learning_rate: the largest one.
        weight_decay: of the optimiser.
        warmup: epochs in which the learning rate rises to its largest value; then it falls as a cosine to 0.
        radius_warmup: epochs in which the radius of attack or certificate rises from 0 to its value, linearly.
        clip_norm: gradients longer than this are shortened; None: they are not.
        precision: ``"float32"``, or ``"bfloat16"``: forward passes under autocast, weights stay float32.
        seed: of order and noise; with sample, epoch and draw it fixes every noise.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range.

    Example:
        >>> Settings(sigma=0.25).learning_rate_share(0, steps_per_epoch=10)
        0.1
    """

    sigma: float
    epochs: int = 20
    batch_size: int = 128
    optimizer: Optimizer = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 1.0
    radius_warmup: float = 0.0
    clip_norm: float | None = 5.0
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks all settings."""
        # The command line makes options of this class, and its help loads no NumPy.
        from certcal_ext import _check
        from certcal_ext.smoothing.noise import MAX_SEED

        _check.positive_number("sigma", self.sigma)
        _check.whole_number("epochs", self.epochs, 1)
        _check.whole_number("batch_size", self.batch_size, 1)
        _check.positive_number("learning_rate", self.learning_rate)
        for name in ("weight_decay", "warmup", "radius_warmup"):
            if _check.real_number(name, getattr(self, name)) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.clip_norm is not None:
            _check.positive_number("clip_norm", self.clip_norm)
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f'optimizer: expected "adamw" or "sgd", got {self.optimizer!r}')
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f'precision: expected "float32" or "bfloat16", got {self.precision!r}')
        _check.whole_number("seed", self.seed, 0, MAX_SEED)

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return dataclasses.asdict(self)

    def make_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a model's weights."""
        import torch

        weights = [p for p in model.parameters() if p.requires_grad]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(weights, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            weights, lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay
        )

    def learning_rate_share(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step as a share of the largest one: a linear rise, then half a cosine."""
        total = self.epochs * steps_per_epoch
        rise = min(round(self.warmup * steps_per_epoch), total - 1)
        if step < rise:
            return (step + 1) / rise
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - rise) / max(1, total - rise)))

    def radius_share(self, step: int, steps_per_epoch: int) -> float:
        """The radius of a step as a share of the full one."""
        rise = self.radius_warmup * steps_per_epoch
        return min(1.0, step / rise) if rise > 0 else 1.0

    def first_draw(self, epoch: int, draws: int) -> int:
        """The first of an epoch's draws of each sample.

        Raises:
            ValueError: there are not that many draws.
        """
        if (epoch + 1) * draws > _DRAWS:
            raise ValueError(
                f"draws: expected at most 2^30 in all epochs, got {self.epochs} x {draws}"
            )
        return FIRST_DRAW + epoch * draws
