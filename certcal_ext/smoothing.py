# SPDX-License-Identifier: MIT
"""The smoothed classifier: from images to a certificate."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._progress import Report, Tally, reporting
from certcal_ext.certificates import Certificates
from certcal_ext.noise import MAX_DRAWS, MAX_SEED
from certcal_ext.sampling import VoteSampler

if TYPE_CHECKING:
    import torch

#: Samples whose draws are counted together: enough to fill batches, few enough that their counts are nothing.
_GROUP = 64


class SmoothedClassifier:
    """A classifier under Gaussian noise, whose confidence and prediction can be certified.

    The base classifier is the model in evaluation mode, applied to one image at a time; batches are only a faster way to
    evaluate it. Where two logits of a noisy image are so close that the batch could have tipped the vote, that image is
    evaluated again alone on one thread, so counts do not depend on batch size or thread count.

    Args:
        model: any ``torch.nn.Module`` from images (B, C, H, W) in [0, 1] to logits (B, K). Normalisation belongs inside it:
            noise and radius are in units of the images given here. It is not changed; its mode comes back as it was.
        num_classes: K, at least 2.
        sigma: standard deviation of the noise, in pixel units.
        seed: key of the noise; with the sample's number and the draw's number it fixes every draw.

    Raises:
        TypeError: model is not a ``torch.nn.Module``, or an argument of the wrong kind.
        ValueError: an argument out of range.

    Source:
        Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing" (ICML 2019); Kumar et al.,
        "Certifying confidence via randomized smoothing" (NeurIPS 2020); Emde et al. (ICLR 2025), section 3.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> smooth = SmoothedClassifier(model, num_classes=3, sigma=0.25, seed=0)
        >>> certificates = smooth.certify(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), n0=10, n=500)
        >>> len(certificates)
        4
    """

    def __init__(
        self, model: torch.nn.Module, num_classes: int, sigma: float, seed: int = 0
    ) -> None:
        torch = _require_torch()
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        self.num_classes = _check.whole_number("num_classes", num_classes, 2)
        self.sigma = _check.positive_number("sigma", sigma)
        self.seed = _check.whole_number("seed", seed, 0, MAX_SEED)

    def certify(
        self,
        images: Any,
        labels: Any = None,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 1e-3,
        batch_size: int = 1024,
        *,
        sample_ids: Any = None,
        progress: bool | Report = False,
    ) -> Certificates:
        """Certifies each image: selects a class by ``n0`` draws and bounds its probability by ``n`` fresh ones.

        Args:
            images: (N, C, H, W) float32 tensor, or a DataLoader (any iterable) of (images, labels) pairs.
            labels: (N,) integers in [0, K); None certifies intervals and predictions only. Not with a DataLoader of pairs.
            n0: draws that select the class of a sample; they are not used again.
            n: draws that estimate.
            alpha: failure probability of one sample's interval, half a side (Clopper-Pearson).
            batch_size: noisy images per forward pass. A matter of memory and speed only: the counts do not depend on it,
                and where memory runs out it is halved with a warning.
            sample_ids: (N,) numbers that name the samples in the noise and in the result; default 0, ..., N - 1.
            progress: True shows draws done and time left; or a function of (draws done, draws in all).

        Returns:
            :class:`Certificates`, one row a sample, abstentions included.

        Raises:
            TypeError: images that are not floats, labels that are not integers, or an argument of the wrong kind.
            ValueError: empty data, shapes that do not match, labels or arguments out of range, NaN or infinite images or
                logits (counted and named), a model that gives another number of classes.

        Warns:
            UserWarning: more abstentions than certificates (with the best radius this n and alpha could ever give), or
                images outside [0, 1].
        """
        _check.whole_number("n0", n0, 1)
        _check.whole_number("n", n, 1, MAX_DRAWS - n0)
        _check.failure_probability("alpha", alpha)
        _check.whole_number("batch_size", batch_size, 1)
        group = max(_GROUP, batch_size // min(n0, n))
        with reporting(progress, "certifying", "draws") as report, _frozen(self.model):
            size = _known_size(images)
            tally = Tally(None if size is None else size * (n0 + n), report)
            sampler = VoteSampler(
                self.model, self.num_classes, self.sigma, self.seed, batch_size, on_draws=tally.add
            )
            parts = [
                _count(sampler, part, n0, n)
                for part in _parts(images, labels, sample_ids, self.num_classes, group)
            ]
        if not parts:
            raise ValueError("images: expected at least one image, got none")
        counts, selected, ids, true = (
            None if column[0] is None else np.concatenate(column)
            for column in zip(*parts, strict=True)
        )
        certificates = Certificates.from_counts(
            counts, true, sigma=self.sigma, alpha=alpha, selection=selected, index=ids
        )
        return certificates.with_provenance(
            n0=int(n0),
            seed=self.seed,
            model_hash=model_fingerprint(self.model),
            precision=_precision(self.model),
            torch_version=str(_require_torch().__version__),
            source=type(self.model).__qualname__,
        )


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some samples of the data set, checked."""

    images: torch.Tensor  # (G, C, H, W) float32
    labels: NDArray[np.int64] | None  # (G,)
    ids: NDArray[np.int64]  # (G,)


def _count(
    sampler: VoteSampler, part: _Part, n0: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
    """Votes, selected classes, ids and labels. Draws 0 to n0 - 1 select, the next n estimate: the two never mix."""
    selected = sampler.counts(part.images, part.ids, 0, n0).argmax(axis=1)
    counts = sampler.counts(part.images, part.ids, n0, n)
    return counts, selected, part.ids, part.labels


def _parts(
    images: Any, labels: Any, sample_ids: Any, num_classes: int, group_size: int
) -> Iterator[_Part]:
    """Cuts a tensor, or each batch of a loader, into groups."""
    start = 0
    for batch, true in _batches(images, labels):
        tensor = _checked_images(batch)
        size = tensor.shape[0]
        checked = None if true is None else _checked_labels(true, size, num_classes)
        ids = np.arange(start, start + size, dtype=np.int64)
        if sample_ids is not None:
            ids = _sliced_ids(sample_ids, start, size)
        start += size
        for first in range(0, size, group_size):
            group = slice(first, first + group_size)
            yield _Part(tensor[group], None if checked is None else checked[group], ids[group])
    if sample_ids is not None and len(sample_ids) != start:
        raise ValueError(
            f"sample_ids: expected {start} entries, one an image, got {len(sample_ids)}"
        )


def _known_size(images: Any) -> int | None:
    """How many images there are, where that can be told before they are read."""
    try:
        return len(images.dataset if hasattr(images, "dataset") else images)
    except TypeError:
        return None


def _batches(images: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    torch = _require_torch()
    if isinstance(images, (torch.Tensor, np.ndarray)):
        yield images, labels
        return
    if not isinstance(images, Iterable):
        raise TypeError(
            f"images: expected a tensor or a DataLoader of pairs, got {type(images).__name__}"
        )
    if labels is not None:
        raise ValueError(
            "labels: expected None with a DataLoader, which gives (images, labels) pairs itself"
        )
    for item in images:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(
                f"images: expected a DataLoader of (images, labels) pairs, got {type(item).__name__}"
            )
        yield item[0], item[1]


def _checked_images(images: Any) -> torch.Tensor:
    import torch

    tensor = torch.as_tensor(images).detach()
    if tensor.dtype != torch.float32:
        hint = "; divide uint8 images by 255" if tensor.dtype == torch.uint8 else ""
        raise TypeError(
            f"images: expected float32, got {str(tensor.dtype).removeprefix('torch.')}{hint}"
        )
    if tensor.ndim < 2:
        raise ValueError(f"images: expected shape (N, C, H, W), got {tuple(tensor.shape)}")
    if tensor.shape[0] == 0 or tensor[0].numel() == 0:
        raise ValueError(
            f"images: expected at least one image with at least one pixel, got shape {tuple(tensor.shape)}"
        )
    finite = torch.isfinite(tensor).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        first = int((~finite).nonzero()[0])
        raise ValueError(
            f"images: expected finite pixels, got NaN or infinity in {bad} images, first in image {first}"
        )
    low, high = float(tensor.min()), float(tensor.max())
    if low < 0 or high > 1:
        warnings.warn(
            f"images: expected pixels in [0, 1], got {low:.3g} to {high:.3g}: sigma and radius are then in those units",
            stacklevel=5,
        )
    return tensor


def _checked_labels(labels: Any, size: int, num_classes: int) -> NDArray[np.int64]:
    true = _check.int_vector("labels", labels, size)
    good = (true >= 0) & (true < num_classes)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"labels: expected values in [0, {num_classes}), got {true[row]} in row {row}"
        )
    return true


def _sliced_ids(sample_ids: Any, start: int, size: int) -> NDArray[np.int64]:
    ids = _check.int_vector("sample_ids", sample_ids)[start : start + size]
    if len(ids) != size:
        raise ValueError(
            f"sample_ids: expected one entry an image, got {len(sample_ids)} for at least {start + size}"
        )
    if ids.size and int(ids.min()) < 0:
        raise ValueError(f"sample_ids: expected at least 0, got {int(ids.min())}")
    return ids


def model_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over the class name and every parameter and buffer (name, dtype, shape, bytes), in hexadecimal.

    Two models with the same weights and class share it, wherever they lie.
    """
    torch = _require_torch()
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name}:{value!r}".encode())
            continue
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _precision(model: torch.nn.Module) -> str:
    dtypes = {
        str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()
    }
    return "+".join(sorted(dtypes)) or "float32"


@contextmanager
def _frozen(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's own mode comes back, also after an error."""
    torch = _require_torch()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _require_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            'SmoothedClassifier needs torch: pip install "certcal_ext[torch]"'
        ) from error
    return torch
