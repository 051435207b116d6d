# SPDX-License-Identifier: MIT
"""Votes of some samples' next draws, for those who decide as they go how many draws each sample gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._images import image_tensor, require_distinct
from certcal_ext.smoothing.noise import MAX_DRAWS
from certcal_ext.smoothing.sampling import Sampler

if TYPE_CHECKING:
    import torch

#: Samples that are handed to the model's device together.
_GROUP = 64


class VoteSource:
    """Counts the votes of any range of draws of any of N images.

    The votes are those of :meth:`SmoothedClassifier.certify`, which takes draws 0 to n0 - 1 and then the n that follow: a
    draw is a pure function of seed, sample and number, so a range may be taken in any pieces and order. Batches are filled
    across samples, also where their ranges begin at different draws.

    The model has to be in evaluation mode (``SmoothedClassifier`` sees to it for its own calls).

    Args:
        model: from images (B, ...) to logits (B, K).
        num_classes: K.
        sigma: standard deviation of the noise, in units of the images.
        seed: key of the noise.
        images: (N, ...) float32 tensor. Those asked for are copied to the model's device, unless they lie there already.
        sample_ids: (N,) int64, the samples' numbers in the noise; None: 0, ..., N - 1.
        batch_size: most noisy images in one forward pass; halved where memory runs out.
        on_draws: called with the number of draws of each pass.

    Raises:
        ValueError: two samples of one number, which would get the same noise.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
        >>> source = VoteSource(model, 3, 0.25, 0, torch.rand(5, 1, 8, 8))
        >>> source.votes([4, 0], first_draw=[100, 0], draws=50).sum(axis=1)
        array([50, 50])
    """

    def __init__(
        self,
        model: torch.nn.Module,
        num_classes: int,
        sigma: float,
        seed: int,
        images: torch.Tensor,
        sample_ids: NDArray[np.int64] | None = None,
        batch_size: int = 1024,
        on_draws: Callable[[int], None] = lambda draws: None,
    ) -> None:
        import torch

        _check.instance("model", model, torch.nn.Module)
        _check.whole_number("num_classes", num_classes, 1)
        self._sampler = Sampler(model, num_classes, sigma, seed, batch_size, on_draws)
        self._num_classes = num_classes
        self._batch_size = batch_size
        self._images = image_tensor(images)
        self._ids = np.arange(len(images), dtype=np.int64) if sample_ids is None else sample_ids
        require_distinct(self._ids)

    def __len__(self) -> int:
        """N."""
        return len(self._images)

    @property
    def num_classes(self) -> int:
        """K."""
        return self._num_classes

    def votes(self, rows: Any, first_draw: Any, draws: int) -> NDArray[np.int64]:
        """Votes of draws ``first_draw`` to ``first_draw + draws - 1`` of some samples.

        Args:
            rows: (M,) positions in ``images``; any order.
            first_draw: one number for all, or (M,) numbers.
            draws: how many of each.

        Returns:
            (M, K) int64; each row sums to ``draws``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument out of range, or NaN or infinite logits (the samples are named).
        """
        import torch

        given = _check.array("rows", rows)
        chosen = _check.int_vector("rows", given if given.size else given.astype(np.int64))
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise ValueError(
                f"rows: expected values in [0, {len(self)}), got {chosen.min()} to {chosen.max()}"
            )
        count = _check.whole_number("draws", draws, 0, MAX_DRAWS)
        first = np.asarray(first_draw)
        if first.ndim == 0:
            first = np.full(chosen.size, _check.whole_number("first_draw", first_draw, 0))
        first = _check.int_vector("first_draw", first, chosen.size)
        if first.size and not (first.min() >= 0 and first.max() <= MAX_DRAWS - count):
            raise ValueError(
                f"first_draw: expected draws in [0, 2^32), got {first.min()} to {first.max() + count - 1}"
            )
        result = np.zeros((chosen.size, self._num_classes), np.int64)
        if not count:
            return result
        group = max(_GROUP, self._batch_size // count)
        order = np.argsort(first, kind="stable")  # equal first draws become neighbours
        with torch.inference_mode():
            for start in range(0, chosen.size, group):
                some = order[start : start + group]
                part = self._images[torch.from_numpy(chosen[some])]
                gathered = self._sampler.gather(part, self._ids[chosen[some]], first[some], count)
                result[some] = gathered.counts
        return result


class SelectedVotes:
    """Votes for one class of each sample: a ``DrawSource`` of adaptive certification.

    Args:
        source: of all votes.
        classes: (N,) classes, selected by draws that are not asked for again.
    """

    def __init__(self, source: VoteSource, classes: Any) -> None:
        self._source = source
        self._classes = _check.int_vector("classes", classes, len(source))
        inside = (self._classes >= 0) & (self._classes < source.num_classes)
        if not inside.all():
            row = int(np.argmin(inside))
            raise ValueError(
                f"classes: expected values in [0, {source.num_classes}), got {self._classes[row]} in row {row}"
            )

    def __len__(self) -> int:
        """N."""
        return len(self._source)

    def votes(self, rows: Any, first_draw: Any, draws: int) -> NDArray[np.int64]:
        """(M,) votes for the samples' classes; arguments and errors as :meth:`VoteSource.votes`."""
        counts = self._source.votes(rows, first_draw, draws)
        chosen = self._classes[np.asarray(rows, dtype=np.int64)]
        result: NDArray[np.int64] = counts[np.arange(len(counts)), chosen]
        return result
