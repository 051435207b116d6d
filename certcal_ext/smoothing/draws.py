# SPDX-License-Identifier: MIT
"""A model's draws: any range of them, of any of some images, by this process or by many."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._images import checked_ids, image_tensor
from certcal_ext.smoothing.noise import MAX_DRAWS
from certcal_ext.smoothing.sampling import Counts, Sampler

if TYPE_CHECKING:
    import torch


#: Samples that are handed to the model together: enough to fill batches, few enough that their counts are nothing.
_GROUP = 64


def group_size(batch_size: int, draws: int) -> int:
    """Samples that are handed to the model together, for so many draws of each."""
    return max(_GROUP, batch_size // draws)


@dataclass(frozen=True, eq=False)
class Request:
    """The same range of draws of each of some samples.

    Attributes:
        name: what it is for.
        rows: (M,) int64, positions of the samples in the data.
        first_draw: number of the first draw.
        draws: how many of each sample, at least 1.
        group: samples that are handed to the model together.
        classes: (M,) int64, whose softmax scores are counted too; None: votes only.
        bins: of the scores.
    """

    name: str
    rows: NDArray[np.int64]
    first_draw: int
    draws: int
    group: int
    classes: NDArray[np.int64] | None = None
    bins: int = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that says which draws these are, in hexadecimal."""
        words = f"{self.name} {self.first_draw} {self.draws} {self.bins} {len(self.rows)}".encode()
        arrays = [array for array in (self.rows, self.classes) if array is not None]
        parts = (np.ascontiguousarray(array, "<i8").tobytes() for array in arrays)
        return hashlib.sha256(b"".join((words, *parts))).hexdigest()

    def part(self, rows: slice, first_draw: int, draws: int) -> Request:
        """Some of its rows and draws."""
        classes = None if self.classes is None else self.classes[rows]
        return replace(
            self, rows=self.rows[rows], first_draw=first_draw, draws=draws, classes=classes
        )


class Draws(Protocol):
    """Draws of N samples under a model of K classes, for forward passes of ``batch_size`` noisy images at most."""

    num_classes: int
    batch_size: int

    def __len__(self) -> int:
        """N."""
        ...

    def take(self, request: Request) -> Counts:
        """What the draws of a request gave, in the order of its rows."""
        ...

    def votes(self, rows: Any, first_draw: Any, draws: int) -> NDArray[np.int64]:
        """(M, K) votes of some samples' draws ``first_draw`` to ``first_draw + draws - 1``."""
        ...


class ModelDraws:
    """The draws of some images that this process takes.

    Args:
        sampler: of the model, which is in evaluation mode.
        images: (N, ...) float32 tensor. Those asked for are copied to the model's device, unless they lie there already.
        ids: (N,) int64, the samples' numbers in the noise.
    """

    def __init__(self, sampler: Sampler, images: torch.Tensor, ids: NDArray[np.int64]) -> None:
        self.num_classes, self.batch_size = sampler.num_classes, sampler.largest_batch
        self._sampler, self._images, self._ids = sampler, images, ids

    def __len__(self) -> int:
        """N."""
        return len(self._images)

    def take(self, request: Request) -> Counts:
        """What the draws of a request gave; its samples are handed to the model in groups. Errors as ``Sampler``."""
        return self._gathered(request, np.full(len(request.rows), request.first_draw))

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
        array = _check.array("rows", rows)
        where = _check.int_vector("rows", array if array.size else array.astype(np.int64))
        if where.size and not (where.min() >= 0 and where.max() < len(self)):
            raise ValueError(
                f"rows: expected values in [0, {len(self)}), got {where.min()} to {where.max()}"
            )
        count = _check.whole_number("draws", draws, 0, MAX_DRAWS)
        first = np.asarray(first_draw)
        if first.ndim == 0:
            first = np.full(where.size, _check.whole_number("first_draw", first_draw, 0))
        first = _check.int_vector("first_draw", first, where.size)
        if first.size and not (first.min() >= 0 and first.max() <= MAX_DRAWS - count):
            raise ValueError(
                f"first_draw: expected draws in [0, 2^32), got {first.min()} to {first.max() + count - 1}"
            )
        result = np.zeros((where.size, self.num_classes), np.int64)
        if count and where.size:
            order = np.argsort(first, kind="stable")  # equal first draws become neighbours
            request = Request("votes", where[order], 0, count, group_size(self.batch_size, count))
            result[order] = self._gathered(request, first[order]).votes
        return result

    def _gathered(self, request: Request, first_draw: NDArray[np.int64]) -> Counts:
        """What a request asks for, from first draws of each row's own on."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(request.rows), request.group):
                some = slice(start, start + request.group)
                rows = request.rows[some]
                scores = () if request.classes is None else (request.classes[some], request.bins)
                drawn = (first_draw[some], request.draws, *scores)
                parts.append(self._sampler.gather(self._of(rows), self._ids[rows], *drawn))
        return Counts.joined(parts)

    def _of(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """The images of some rows, without a copy where they are neighbours."""
        import torch

        if (np.diff(rows) == 1).all():
            return self._images[rows[0] : rows[0] + len(rows)]
        return self._images[torch.from_numpy(rows)]


class VoteSource(ModelDraws):
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
        tensor = image_tensor(images)
        ids = checked_ids(sample_ids, len(tensor))
        sampler = Sampler(model, num_classes, sigma, seed, batch_size, on_draws)
        super().__init__(sampler, tensor, ids)


class SelectedVotes:
    """Votes for one class of each sample: a ``DrawSource`` of adaptive certification.

    Args:
        source: of all votes.
        classes: (N,) classes, selected by draws that are not asked for again.
    """

    def __init__(self, source: Draws, classes: Any) -> None:
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
        return votes_of(counts, self._classes[np.asarray(rows, dtype=np.int64)])


def votes_of(counts: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) votes of one class a row of (N, K) counts."""
    votes: NDArray[np.int64] = counts[np.arange(len(counts)), classes]
    return votes
