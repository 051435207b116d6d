# SPDX-License-Identifier: MIT
"""What ``certcal certify`` does around the run: device, a check on clean images, an estimate."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from certcal_ext.cli._common import note

if TYPE_CHECKING:
    import torch

    from certcal_ext._progress import Report
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.datasets import ImageData
    from certcal_ext.smoothing.classifier import SmoothedClassifier
    from certcal_ext.stopping.rules import Stopping

_CLEAN_IMAGES = 512
_PROBE_SECONDS = 0.25


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        draws: forward passes in all.
        best_radius: largest radius that n and alpha can certify.
        seconds: expected time.
    """

    draws: int
    best_radius: float
    seconds: float


def device_of(name: str) -> torch.device:
    """The device of this process: under ``torchrun``, GPUs are dealt out by local rank.

    Args:
        name: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" ...

    Raises:
        ValueError: there is no such device here.
    """
    from certcal_ext.distributed import local_device

    try:
        return local_device(name)
    except ValueError as error:
        raise ValueError(f"--device: {name} cannot be used: {first_line(error)}") from error


def to_device(network: torch.nn.Module, name: str) -> tuple[torch.nn.Module, torch.device]:
    """Moves the model to a device.

    Args:
        network: the model.
        name: as for ``device_of``.

    Returns:
        The model and its device.

    Raises:
        ValueError: there is no such device here.
    """
    device = device_of(name)
    try:
        if device.type == "cuda":
            import torch

            torch.cuda.set_device(device)
        return network.to(device), device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: {name} cannot be used: {first_line(error)}") from error


def check_clean(
    network: torch.nn.Module,
    images: ImageData,
    device: torch.device,
    expected: int | None,
    talk: bool = True,
) -> int:
    """Runs clean images through the model: wrong labels or weights show here and not after hours.

    Args:
        network: the model, on ``device``.
        images: the images; the first 512 are used.
        device: the device.
        expected: number of classes that the user named, or None.
        talk: say how many are right; of several processes one does.

    Returns:
        The number of classes.

    Raises:
        ValueError: the model fails, puts out no finite logits (B, classes), or the labels or
            ``expected`` do not fit them.

    Warns:
        UserWarning: the accuracy is near chance.
    """
    import torch

    from certcal_ext._images import warn_near_chance
    from certcal_ext.model_state import copied_for, frozen

    shown = torch.from_numpy(images.images[:_CLEAN_IMAGES])
    try:
        with frozen(network):
            parts = [network(copied_for(network, part)) for part in torch.split(shown, 64)]
            logits = torch.cat(parts)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"model: failed on images of shape {tuple(shown[:64].shape)}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if logits.ndim != 2 or len(logits) != len(shown) or logits.shape[1] < 2:
        raise ValueError(
            f"model: expected logits of shape ({len(shown)}, classes), got {tuple(logits.shape)}"
        )
    if not torch.isfinite(logits).all():
        raise ValueError("model: gives NaN or infinite logits on clean images")
    classes = int(logits.shape[1])
    if expected is not None and expected != classes:
        raise ValueError(f"--num-classes: the model has {classes} classes, got {expected}")
    if images.labels is not None:
        if int(images.labels.max()) >= classes:
            raise ValueError(
                f"labels: expected 0 to {classes - 1}, as the model has {classes} classes, "
                f"got {images.labels.max()}"
            )
        if talk:
            true, predicted = images.labels[: len(shown)], logits.argmax(1).cpu().numpy()
            note(f"accuracy on {len(shown)} clean images: {(true == predicted).mean():.1%}")
            warn_near_chance("the model", true, predicted, classes, "clean images", fewest=1)
    return classes


def estimate_run(
    smooth: SmoothedClassifier, images: ImageData, options: dict[str, Any]
) -> Estimate:
    """Times the real thing on the first image, with more draws until the time means something.

    Args:
        smooth: the classifier.
        images: the images.
        options: n0, n, alpha and batch_size of the run.

    Returns:
        The estimate.

    Raises:
        TypeError: an option is of the wrong kind.
        ValueError: an option is out of range, or the model fails.
    """
    from certcal_ext.intervals.clopper_pearson import best_radius

    n0, n = options["n0"], options["n"]
    total = len(images.images) * (n0 + n)
    best = float(best_radius(n, options["alpha"], smooth.sigma))
    draws = min(n, max(1, options["batch_size"]))
    _try_first(smooth, images, {**options, "n": draws})  # warms up
    while True:
        spent = _seconds_of(smooth, images, options, n0 + draws)
        if spent > _PROBE_SECONDS or draws >= n:
            return Estimate(draws=total, best_radius=best, seconds=total * spent / (n0 + draws))
        draws = min(n, 4 * draws)


def _seconds_of(
    smooth: SmoothedClassifier, images: ImageData, options: dict[str, Any], draws: int
) -> float:
    """Time of so many draws of the first image."""
    import numpy as np
    import torch

    from certcal_ext.model_state import frozen
    from certcal_ext.smoothing.sampling import Sampler

    named = (smooth.model, smooth.num_classes, smooth.sigma, smooth.seed)
    scores = options.get("confidence") == "scores"
    chosen = np.zeros(1, np.int64) if scores else None
    with warnings.catch_warnings(), model_errors("while certifying"), frozen(smooth.model):
        warnings.simplefilter("ignore")
        sampler = Sampler(*named, options["batch_size"])
        first = torch.from_numpy(images.images[:1])
        started = time.perf_counter()
        sampler.gather(first, images.ids[:1], 0, draws, chosen)
        return time.perf_counter() - started


def _try_first(smooth: SmoothedClassifier, images: ImageData, options: dict[str, Any]) -> None:
    """Certifies the first image; what a trial warns of is no news."""
    import torch

    labels = None if images.labels is None else torch.from_numpy(images.labels[:1])
    ids = torch.from_numpy(images.ids[:1])
    with warnings.catch_warnings(), model_errors("while certifying"):
        warnings.simplefilter("ignore")
        smooth.certify(torch.from_numpy(images.images[:1]), labels, sample_ids=ids, **options)


def certify_run(
    smooth: SmoothedClassifier,
    images: ImageData,
    options: dict[str, Any],
    kept: dict[str, Any],
    show: Report,
    rules: Stopping | None = None,
) -> Certificates:
    """The certificates, by all processes together.

    Args:
        smooth: the classifier.
        images: the images; their ids are the sample ids of the noise.
        options: n0, n, alpha, batch_size and what else ``SmoothedClassifier.certify`` takes.
        kept: work, resume and unit_draws of ``certify_in_shards``.
        show: called with the draws done and the draws in all.
        rules: of stopping early, whose largest number of draws then counts and not n.

    Returns:
        The certificates.

    Raises:
        ValueError: an option is out of range, the model fails, or the folder is not this run's.
        OSError: the disk refuses, or another process failed.
    """
    import torch

    from certcal_ext.runs import certify_in_shards

    labels = None if images.labels is None else torch.from_numpy(images.labels)
    with model_errors("while certifying"):
        return certify_in_shards(
            smooth,
            torch.from_numpy(images.images),
            labels,
            sample_ids=torch.from_numpy(images.ids),
            stopping=rules,
            progress=show,
            **kept,
            **options,
        )


@contextmanager
def model_errors(doing: str) -> Iterator[None]:
    """Turns a failure of the model, while or under what it is doing, into an error of the user."""
    try:
        yield
    except RuntimeError as error:
        hint = "; try a smaller --batch-size" if "memory" in str(error).lower() else ""
        raise ValueError(f"model: failed {doing}: {first_line(error)}{hint}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message; torch's go on with a stack."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
