# SPDX-License-Identifier: MIT
"""What is attacked: a plain classifier, or one smoothed by noises that stay fixed over the steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint

from certcal_ext import _check
from certcal_ext.model_checks import checked_allow, checked_base
from certcal_ext.model_state import full_float32, kept_as_it_is, modes_kept
from certcal_ext.smoothing.noise import MAX_DRAWS, MAX_SEED, add_noise, drawn_sigma
from certcal_ext.smoothing.votes import count_votes

Confidence = Literal["scores", "votes"]

#: Attacks draw from here on, certification from 0: with the same seed the two never share a draw.
FIRST_DRAW = 2**30

#: Random starts draw from 2^31 on and estimates inside an attack from here on: whoever judges an attack by noises that
#: it did not see takes draws below 2^31.
ESTIMATE_DRAW = 3 * 2**30


@dataclass(frozen=True)
class Outputs:
    """What a victim says about some images.

    Attributes:
        log_scores: (B, K) float64, log of the mean softmax score of each class; carries the gradient.
        votes: (B, K) int64, how many draws each class wins.
        draws: number m of draws, 1 for a plain classifier.
    """

    log_scores: torch.Tensor
    votes: torch.Tensor
    draws: int

    @property
    def predicted(self) -> torch.Tensor:
        """(B,) int64, the class with most votes, the lowest of equals."""
        # argmax leaves open which of equal entries it takes; max over a strictly ordered key does not.
        classes = self.votes.shape[1]
        order = torch.arange(classes - 1, -1, -1, device=self.votes.device)
        return (self.votes * classes + order).argmax(1)

    def log_odds(self, classes: torch.Tensor) -> torch.Tensor:
        """(B,) float64, log(z / (1 - z)) of the mean score z of a class; exact where z is next to 0 or 1.

        Args:
            classes: (B,) int64, the class of each image.
        """
        chosen = self.log_scores.gather(1, classes[:, None])
        mask = torch.zeros_like(self.log_scores, dtype=torch.bool).scatter(
            1, classes[:, None], True
        )
        others = self.log_scores.masked_fill(mask, -torch.inf)
        return chosen[:, 0] - others.logsumexp(1)


class Victim:
    """A classifier under attack. ``PlainVictim`` and ``SmoothedVictim`` are the two kinds.

    Args:
        model: any torch module from images (B, ...) in [0, 1] to logits (B, K); it is run in
            evaluation mode, its own mode comes back, and its weights collect no gradients.
        confidence: ``"scores"``: mean softmax score of the predicted class; ``"votes"``: its share of
            the draws, for which attacks climb the mean score in its place.
        draws: number m of noises.
        allow: what the model may be, see ``SmoothedClassifier``.
    """

    def __init__(
        self, model: Any, confidence: Confidence, draws: int, allow: Collection[str] = ()
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        _check.choice("confidence", confidence, ("scores", "votes"))
        self.model = model
        self.kind: Confidence = confidence
        self.draws = draws
        self.allow = checked_allow(allow)
        self.sigma = 0.0

    def check(self, images: torch.Tensor) -> None:
        """Looks at the model on a few images before anything is climbed; inside ``evaluation_mode``.

        Args:
            images: (N, ...) float32.

        Raises:
            TypeError: the model gives no tensor.
            ValueError: it is random, depends on its batch, or gives probabilities, and that is not allowed.
        """
        checked_base(self.model, images, self.sigma, allow=self.allow)

    @property
    def device(self) -> torch.device | None:
        """Where the model lies; None where it has no parameters or buffers."""
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            return tensor.device
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """What makes its draws, for the record."""
        return {"victim": "plain", "confidence": self.kind, "draws": self.draws}

    def inputs(self, images: torch.Tensor, ids: torch.Tensor, draws: range) -> torch.Tensor:
        """(B, len(draws), ...) what the model sees; the gradient passes to ``images``."""
        del ids, draws
        return images[:, None]

    def outputs(self, images: torch.Tensor, ids: torch.Tensor, at_once: int = 1024) -> Outputs:
        """Runs the model; differentiable in ``images`` where gradients are on.

        Args:
            images: (B, ...) float32.
            ids: (B,) int64 sample ids, the key of the noises.
            at_once: inputs a forward pass. More draws than that are run in parts, which are run again
                in the backward pass, so memory stays bounded.

        Returns:
            ``Outputs`` of the B images.

        Raises:
            ValueError: the model fails to give finite logits (B, K); the sample is named.
        """
        per_part = max(1, at_once // max(1, len(images)))
        parts = [
            range(first, min(first + per_part, self.draws))
            for first in range(0, self.draws, per_part)
        ]
        if len(parts) > 1 and images.requires_grad:
            logits = torch.cat(
                [
                    checkpoint(self._logits, images, ids, part, use_reentrant=False)
                    for part in parts
                ],
                1,
            )
        else:
            logits = torch.cat([self._logits(images, ids, part) for part in parts], 1)
        votes = count_votes(logits.detach())
        log_scores = logits.double().log_softmax(2).logsumexp(1)
        return Outputs(log_scores - math.log(self.draws), votes, self.draws)

    def confidence(self, outputs: Outputs, classes: torch.Tensor) -> torch.Tensor:
        """(B,) float64 in [0, 1], the confidence in a class; without gradient."""
        if self.kind == "votes":
            return outputs.votes.gather(1, classes[:, None])[:, 0].double() / self.draws
        return outputs.log_odds(classes).detach().sigmoid()

    def _logits(self, images: torch.Tensor, ids: torch.Tensor, draws: range) -> torch.Tensor:
        inputs = self.inputs(images, ids, draws)
        # A copy, as the model may write into what it is given; where a gradient is wanted, no leaf either.
        logits: torch.Tensor = self.model(inputs.flatten(0, 1).clone())
        if logits.ndim != 2 or len(logits) != inputs.shape[0] * inputs.shape[1]:
            raise ValueError(
                f"model: expected logits of shape ({inputs.shape[0] * inputs.shape[1]}, K), got "
                f"{tuple(logits.shape)}"
            )
        if logits.shape[1] < 2:
            raise ValueError("model: expected logits of at least two classes, got one")
        logits = logits.reshape(inputs.shape[0], inputs.shape[1], -1)
        finite = torch.isfinite(logits.detach()).flatten(1).all(1)
        if not bool(finite.all()):
            first = int(ids[int((~finite).nonzero()[0])])
            raise ValueError(
                f"model: expected finite logits, got NaN or infinity for sample {first}"
                f"{'' if int((~finite).sum()) == 1 else f' and {int((~finite).sum()) - 1} more'}"
            )
        return logits


class PlainVictim(Victim):
    """A classifier without noise: the confidence is the softmax score of the predicted class.

    Args:
        model: any torch module from images (B, ...) in [0, 1] to logits (B, K).
        allow: what the model may be, see ``SmoothedClassifier``.

    Raises:
        TypeError: ``model`` is no torch module.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> PlainVictim(model).settings
        {'victim': 'plain', 'confidence': 'scores', 'draws': 1}
    """

    def __init__(self, model: Any, *, allow: Collection[str] = ()) -> None:
        super().__init__(model, "scores", 1, allow)


class SmoothedVictim(Victim):
    """A classifier under m Gaussian noises that stay the same over all steps and can be replayed.

    The inputs of the model are, bit for bit, ``add_noise(images, sigma, seed, ids, draws)``. The
    prediction is the class with most votes, as in a certificate.

    Args:
        model: any torch module from images (B, ...) in [0, 1] to logits (B, K).
        sigma: standard deviation of the noise, in pixel units.
        draws: number m of noises.
        seed: key of the noise.
        confidence: ``"scores"``, the mean softmax score of the predicted class, or ``"votes"``, its share
            of the draws. Votes have no gradient: attacks on them climb the mean score.
        first_draw: number of the first draw. The default lies far above those of certification, so
            an attack does not see the noises that certify.
        allow: what the model may be, see ``SmoothedClassifier``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range.

    Source:
        Salman et al., "Provably robust deep learning via adversarially trained smoothed classifiers"
        (NeurIPS 2019): the noises fixed over the steps.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> victim = SmoothedVictim(model, sigma=0.25, draws=8, seed=1)
        >>> victim.outputs(torch.zeros(2, 1, 2, 2), torch.arange(2)).votes.sum(1)
        tensor([8, 8])
    """

    def __init__(
        self,
        model: Any,
        *,
        sigma: float,
        draws: int = 32,
        seed: int = 0,
        confidence: Confidence = "scores",
        first_draw: int = FIRST_DRAW,
        allow: Collection[str] = (),
    ) -> None:
        first = _check.whole_number("first_draw", first_draw, 0, MAX_DRAWS - 1)
        super().__init__(
            model, confidence, _check.whole_number("draws", draws, 1, MAX_DRAWS - first), allow
        )
        self.sigma = drawn_sigma(sigma)
        self.seed = _check.whole_number("seed", seed, 0, MAX_SEED)
        self.first_draw = first

    @property
    def settings(self) -> dict[str, Any]:
        """What makes its draws, for the record."""
        return {
            "victim": "smoothed",
            "confidence": self.kind,
            "draws": self.draws,
            "sigma": self.sigma,
            "seed": self.seed,
            "first_draw": self.first_draw,
        }

    def with_draws(self, draws: int, *, first_draw: int | None = None) -> SmoothedVictim:
        """The same classifier under other noises, by default the ones that follow its own.

        An attack fits the noises that it saw, so what it reached is estimated with others.

        Args:
            draws: number of noises.
            first_draw: number of the first one; None: the one after the last of this victim.
        """
        first = self.first_draw + self.draws if first_draw is None else first_draw
        return SmoothedVictim(
            self.model,
            sigma=self.sigma,
            draws=draws,
            seed=self.seed,
            confidence=self.kind,
            first_draw=first,
            allow=self.allow,
        )

    def inputs(self, images: torch.Tensor, ids: torch.Tensor, draws: range) -> torch.Tensor:
        """(B, len(draws), ...) the noisy images of ``add_noise``, with the gradient of the identity."""
        shifted = range(self.first_draw + draws.start, self.first_draw + draws.stop)
        with torch.no_grad():
            noisy: torch.Tensor = add_noise(images.detach(), self.sigma, self.seed, ids, shifted)
        if not images.requires_grad:
            return noisy
        # The second term is zero and only carries the gradient: the sum has the bits of ``noisy``.
        return noisy + (images - images.detach())[:, None]


def as_victim(model: Any) -> Victim:
    """A victim as it is; a torch module as a ``PlainVictim``.

    Raises:
        TypeError: neither of the two.
    """
    if isinstance(model, Victim):
        return model
    if isinstance(model, torch.nn.Module):
        return PlainVictim(model)
    raise TypeError(f"victim: expected a Victim or a torch.nn.Module, got {type(model).__name__}")


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients; every submodule's own mode comes back, also after an error."""
    # An outer inference mode would leave no graph to differentiate.
    with modes_kept(model), torch.inference_mode(False):
        model.eval()
        yield


@contextmanager
def under_attack(model: torch.nn.Module) -> Iterator[None]:
    """As ``frozen``, with gradients."""
    with kept_as_it_is(model), full_float32(), evaluation_mode(model):
        yield
