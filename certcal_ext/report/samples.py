# SPDX-License-Identifier: MIT
"""The samples on which certified confidences are worst, with their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext.report import png

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.curve import CertifiedSet

MOST = 8  # samples of each kind
_SMALL = 64  # pixels a side
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Sample:
    """One certified sample under attacks of the page's radius.

    Attributes:
        index: its sample id.
        predicted: the class that no attack changes, or None where it is not known.
        label: the true class, or None where it is not known.
        confidence: without attack, or None where it is not known.
        lower: no attack takes the confidence below it.
        upper: nor above this one.
        image: address of its image inside the page, or None.
    """

    index: int
    predicted: str | None
    label: str | None
    confidence: float | None
    lower: float
    upper: float
    image: str | None


@dataclass(frozen=True)
class WorstSamples:
    """The samples that cost most.

    Attributes:
        wrong: wrong predictions, those that can be made surest first.
        right: right predictions, those that can be talked down furthest first.
        wrong_total: how many certified predictions are wrong.
        right_total: how many certified predictions are right.
        small: whether images are so small that their pixels are to be shown as squares.
    """

    wrong: tuple[Sample, ...]
    right: tuple[Sample, ...]
    wrong_total: int
    right_total: int
    small: bool


def worst_samples(
    certificates: Certificates,
    chosen: CertifiedSet,
    images: Any = None,
    class_names: Sequence[str] | None = None,
) -> WorstSamples:
    """Picks them.

    Args:
        certificates: the certificates.
        chosen: the samples of these certified at the page's radius, with labels.
        images: (N, C, H, W) or (N, H, W), one image a row of the table in its order, or None.
        class_names: a name a class, or None: classes are numbers.

    Returns:
        The samples.

    Raises:
        ValueError: another number of images than rows, images of another shape, or fewer names than classes.

    Example:
        >>> from certcal_ext import Certificates
        >>> made = Certificates.from_counts([[990, 10], [900, 100], [980, 20]], [0, 0, 1], sigma=0.25)
        >>> found = worst_samples(made, made.at(0.1), class_names=["cat", "dog"])
        >>> [(sample.index, sample.label) for sample in (*found.wrong, *found.right)]
        [(2, 'dog'), (1, 'cat'), (0, 'cat')]
    """
    if images is not None and not hasattr(images, "shape"):
        images = np.asarray(images)
    check_images(images, len(certificates))
    right = np.asarray(chosen.correct, dtype=bool)
    rows = np.flatnonzero(certificates.rows_at(chosen.radius).certified)
    labels = certificates.table.column("label").to_pylist() if len(rows) else []
    orders = (
        np.lexsort((chosen.index, -chosen.upper, right)),
        np.lexsort((chosen.index, chosen.lower, ~right)),
    )
    counts = (int(np.count_nonzero(~right)), int(np.count_nonzero(right)))
    groups = []
    for order, count in zip(orders, counts, strict=True):
        groups.append(
            tuple(
                _sample(chosen, at, labels[rows[at]], _image(images, rows[at]), class_names)
                for at in order[: min(count, MOST)]
            )
        )
    small = images is not None and max(images.shape[-2:]) <= _SMALL
    return WorstSamples(groups[0], groups[1], *counts, small)


def check_images(images: Any, rows: int) -> None:
    """That there is one image a row.

    Raises:
        ValueError: there is not, or they have no height and width.
    """
    if images is None:
        return
    if len(images) != rows:
        raise ValueError(
            f"images: expected one image for each of the {rows} samples, got {len(images)}"
        )
    shape = tuple(np.shape(images))
    if len(shape) not in (3, 4):
        raise ValueError(f"images: expected shape (N, C, H, W) or (N, H, W), got {shape}")
    if len(shape) == 4 and shape[1] not in _CHANNELS and shape[3] in _CHANNELS:
        raise ValueError(
            f"images: expected shape (N, C, H, W), got {shape}: they look like (N, H, W, C); transpose "
            "them with .transpose(0, 3, 1, 2)"
        )


def _sample(
    chosen: CertifiedSet,
    at: np.intp,
    label: int | None,
    image: NDArray[Any] | None,
    names: Sequence[str] | None,
) -> Sample:
    predicted = None if chosen.predicted is None else int(chosen.predicted[at])
    point = None if chosen.confidence is None else float(chosen.confidence[at])
    return Sample(
        index=int(chosen.index[at]),
        predicted=_class_name(predicted, names),
        label=_class_name(label, names),
        confidence=point if point is not None and np.isfinite(point) else None,
        lower=float(chosen.lower[at]),
        upper=float(chosen.upper[at]),
        image=None if image is None else png.data_uri(image),
    )


def _class_name(number: int | None, names: Sequence[str] | None) -> str | None:
    if number is None or number < 0:
        return None
    if names is None:
        return str(number)
    if number >= len(names):
        raise ValueError(f"class_names: expected at least {number + 1} names, got {len(names)}")
    return str(names[number])


def _image(images: Any, row: np.intp) -> NDArray[Any] | None:
    """One image; torch tensors, on whatever device, become arrays here."""
    if images is None:
        return None
    image = images[int(row)]
    return np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
