# SPDX-License-Identifier: MIT
"""The certify signature of the Adversarial Robustness Toolbox, for code that is written against it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from certcal_ext import _check
from certcal_ext._images import Samples
from certcal_ext.intervals.clopper_pearson import clopper_pearson
from certcal_ext.model_state import frozen
from certcal_ext.smoothing.classifier import SmoothedClassifier
from certcal_ext.smoothing.draws import ModelDraws

if TYPE_CHECKING:
    import torch

__all__ = ["ArtRandomizedSmoothing"]


class ArtRandomizedSmoothing:
    """A smoothed classifier that is called like the toolbox's randomized smoothing classifiers.

    Arrays go in and out. The noise is certcal's: fixed by the seed, so calls can be repeated, and images at the same place
    get the same draws in every call. Batches do not change the result.

    Args:
        model: from images (B, C, H, W) to logits (B, K), in the units of the images that are given.
        nb_classes: K.
        sample_size: draws that select a class, and draws of :meth:`predict`.
        scale: standard deviation of the noise, in the units of the images.
        alpha: failure probability of one sample's radius.
        clip_values: smallest and largest pixel; images outside are refused. None: any finite ones are taken.
        channels_first: whether images are (N, C, H, W), and not (N, H, W, C), which are turned before the model sees them.
        seed: of the noise.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range.

    Source:
        Cohen, Rosenfeld and Kolter (ICML 2019), CERTIFY and PREDICT; names and defaults as in the toolbox's
        ``RandomizedSmoothingMixin``.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> smooth = ArtRandomizedSmoothing(net, nb_classes=3, sample_size=20, scale=0.25)
        >>> prediction, radius = smooth.certify(np.full((2, 1, 4, 4), 0.5, np.float32), n=200)
        >>> prediction.shape, radius.shape
        ((2,), (2,))
    """

    def __init__(
        self,
        model: torch.nn.Module,
        nb_classes: int,
        sample_size: int = 32,
        scale: float = 0.1,
        alpha: float = 0.001,
        *,
        clip_values: tuple[float, float] | None = (0.0, 1.0),
        channels_first: bool = True,
        seed: int = 0,
    ) -> None:
        self.sample_size = _check.whole_number("sample_size", sample_size, 1)
        self.scale = _check.positive_number("scale", scale)
        self.alpha = _check.failure_probability("alpha", alpha)
        if self.alpha >= 0.5:
            raise ValueError(f"alpha: expected a probability below 1/2, got {alpha}")
        self.clip_values = None if clip_values is None else _clip_values(clip_values)
        self.channels_first = bool(channels_first)
        self._smooth = SmoothedClassifier(model, nb_classes, self.scale, seed)

    @property
    def nb_classes(self) -> int:
        """K."""
        return self._smooth.num_classes

    def certify(
        self, x: Any, n: int, batch_size: int = 32
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The class of each image and the l2 radius within which it stays.

        Args:
            x: (N, C, H, W) numbers, or (N, H, W, C) with ``channels_first=False``.
            n: draws that estimate; others select.
            batch_size: noisy images in one forward pass.

        Returns:
            (N,) classes, -1 where the classifier abstains, and (N,) radii in the units of ``x``, rounded down, 0 where it
            abstains. Each holds with probability 1 - alpha.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument out of range, or images that are not finite or outside ``clip_values``.
        """
        draws = _check.whole_number("n", n, 1)
        images = self._images(x)
        with (
            _outside_is_meant(),
            self._smooth.selecting(images, n0=self.sample_size, batch_size=batch_size) as chosen,
        ):
            votes = chosen.source.votes(np.arange(len(images)), self.sample_size, draws)
            classes = chosen.classes
        # The lower end of the two-sided interval at twice the level is a one-sided bound.
        lower = clopper_pearson(votes, draws, 2 * self.alpha).lower
        certain = lower > 0.5
        # ndtri is right to a few units in the last place, which the factor covers, and the product rounds once.
        radius = np.where(certain, self.scale * ndtri(np.where(certain, lower, 0.5)), 0.0)
        return np.where(certain, classes, -1), radius * (1 - 1e-14)

    def predict(
        self, x: Any, batch_size: int = 128, verbose: bool = False, **kwargs: Any
    ) -> NDArray[np.float64]:
        """The class of each image as one row with a 1; a row of zeros where the classifier abstains.

        Args:
            x: as in :meth:`certify`.
            batch_size: noisy images in one forward pass.
            verbose: taken for the sake of the signature; there is nothing to show.
            kwargs: ``is_abstain=False``: never abstain.

        Returns:
            (N, K) of 0 and 1. A class that is returned is the most probable one but with probability alpha.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: as :meth:`certify`.
        """
        unknown = kwargs.keys() - {"is_abstain"}
        if unknown:
            raise TypeError(
                f"predict: expected is_abstain at most, got {', '.join(sorted(unknown))}"
            )
        abstains = kwargs.get("is_abstain", True)
        if abstains is not None and not isinstance(abstains, bool):
            raise ValueError(f"is_abstain: expected a bool, got {abstains!r}")
        images = self._images(x)
        with _outside_is_meant():
            counts = self._counts(images, batch_size)
        best = counts.argmax(axis=1)
        result = np.zeros(counts.shape)
        result[np.arange(len(best)), best] = 1.0
        if abstains is not False:
            result[~self._significant(counts)] = 0.0
        return result

    def _counts(self, images: torch.Tensor, batch_size: int) -> NDArray[np.int64]:
        """(N, K) votes of ``sample_size`` draws."""
        smooth, size = self._smooth, _check.whole_number("batch_size", batch_size, 1)
        samples = Samples.of(images, None, None, smooth.num_classes)
        with frozen(smooth.model):
            smooth.checked(images, batch_size=size)
            source = ModelDraws(smooth.sampler(size), samples.images, samples.ids)
            return source.votes(np.arange(len(samples)), 0, self.sample_size)

    def _significant(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the two best classes differ by more than a fair coin explains, at alpha."""
        from scipy.stats import binomtest

        two = np.sort(counts, axis=1)[:, -2:]
        values = [binomtest(int(b), int(a + b), 0.5).pvalue <= self.alpha for a, b in two]
        return np.array(values, dtype=np.bool_)

    def _images(self, x: Any) -> torch.Tensor:
        import torch

        given = _check.array("x", x)
        if given.dtype.kind not in "fiu":
            raise TypeError(f"x: expected numbers, got dtype {given.dtype}")
        if not self.channels_first:
            if given.ndim != 4:
                raise ValueError(f"x: expected shape (N, H, W, C), got {given.shape}")
            given = np.moveaxis(given, 3, 1)
        given = np.array(given, np.float32, order="C")
        if self.clip_values is not None and given.size:
            low, high = self.clip_values
            if not bool(((given >= np.float32(low)) & (given <= np.float32(high))).all()):
                raise ValueError(
                    f"x: expected pixels from {low:g} to {high:g} (clip_values), got {given.min():.4g} to "
                    f"{given.max():.4g}"
                )
        return torch.from_numpy(given)


def _clip_values(value: Any) -> tuple[float, float]:
    low, high = (_check.real_number("clip_values", end) for end in value)
    if low >= high:
        raise ValueError(f"clip_values: expected the smaller one first, got {value}")
    return low, high


@contextmanager
def _outside_is_meant() -> Iterator[None]:
    """Images are in the units of the caller, so a range other than [0, 1] is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="images: expected pixels in")
        yield
