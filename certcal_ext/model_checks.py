# SPDX-License-Identifier: MIT
"""What a base classifier has to be before it is certified or attacked: a function of one image alone, that gives logits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from certcal_ext import _check
from certcal_ext.model_state import computed_in, copied_for, is_out_of_memory

if TYPE_CHECKING:
    import torch

#: Two evaluations of one image (in another batch, on other threads) differ by rounding only: by less than this share of
#: the largest logit. Where a format is missing, counts cannot be told from near ties.
ROUNDING_SHARE = {"float32": 2.0**-14, "float64": 2.0**-40}

#: The same for formats in which votes cannot be kept from the batch: only to tell rounding from a model that looks at it.
_COARSE_SHARE = {"float16": 2.0**-6, "bfloat16": 2.0**-3}

#: What a user may allow, and what a table then says of itself.
NOTES = {
    "random": "the base classifier is random, which was allowed: what is stated holds for votes and scores over its own "
    "randomness and the noise together, if it draws anew for each image; drawn again, the counts are others",
    "batch_dependent": "the logits of an image depend on the other images in its batch, which was allowed: counts are those "
    "of the batches as they came, and no guarantee is proved for such a model",
    "probabilities": "the model gives probabilities where logits belong, which was allowed: scores are the softmax of "
    "probabilities, which is not the model's own confidence",
}

#: Images that are shown, noisy ones in a batch, and how often a model that drew random numbers is called again.
_IMAGES, _BATCH, _REPEATS = 4, 16, 8

#: Far from any image, so that what stays between 0 and 1 there does so by construction.
_WILD = (0.5, 3.0, 30.0)


@dataclass(frozen=True)
class Base:
    """What was seen of a base classifier.

    Attributes:
        precision: the coarsest format it computes in, see ``computed_in``.
        notes: of what it is and was allowed to be.
    """

    precision: str
    notes: tuple[str, ...] = ()


def checked_allow(allow: Any) -> frozenset[str]:
    """What a user allows, as a set.

    Raises:
        TypeError: no collection of names.
        ValueError: a name that is not known.
    """
    names = [allow] if isinstance(allow, str) else _check.items("allow", allow)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"allow: expected names, got {_check.shown(allow)}")
    unknown = sorted(set(names) - NOTES.keys())
    if unknown:
        raise ValueError(f"allow: expected some of {', '.join(NOTES)}, got {unknown[0]!r}")
    return frozenset(names)


def allowed_by(notes: Collection[str]) -> frozenset[str]:
    """What was allowed when a table with these notes was made."""
    return frozenset(name for name, note in NOTES.items() if note in notes)


def checked_base(
    model: torch.nn.Module,
    images: torch.Tensor,
    sigma: float = 0.0,
    *,
    scores: bool = True,
    allow: Collection[str] = (),
    batch_size: int = _BATCH,
) -> Base:
    """Calls the model on a few noisy images: twice, alone, and among others.

    Args:
        model: in evaluation mode, as ``frozen`` leaves it.
        images: (N, ...) float32, at least one; some of them are shown, as copies.
        sigma: standard deviation of the noise.
        scores: whether softmax scores are asked for, and not votes alone.
        allow: names in ``NOTES`` that are noted and not refused.
        batch_size: most images in a forward pass; 2 at least are tried, and fewer where memory runs out.

    Returns:
        :class:`Base`.

    Raises:
        TypeError: the model gives no tensor.
        ValueError: its logits are random, depend on the batch, or are probabilities.

    Example:
        >>> import torch
        >>> from certcal_ext.model_state import frozen
        >>> good = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> images = torch.rand(2, 1, 2, 2)
        >>> with frozen(good):
        ...     checked_base(good, images, 0.25)
        Base(precision='float32', notes=())
        >>> soft = torch.nn.Sequential(good, torch.nn.Softmax(1))
        >>> with frozen(soft):  # doctest: +ELLIPSIS
        ...     checked_base(soft, images, 0.25)
        Traceback (most recent call last):
        ...
        ValueError: model: expected logits, got rows of probabilities...
    """
    import torch

    shown = images[np.unique(np.linspace(0, len(images) - 1, _IMAGES).astype(int))].detach().cpu()
    generator = torch.Generator().manual_seed(0)

    def noise(scale: float, size: int) -> torch.Tensor:
        clean = shown.repeat(-(-size // len(shown)), *[1] * (shown.ndim - 1))[:size]
        return clean + scale * torch.randn(clean.shape, generator=generator)

    found: dict[str, str | None] = {}
    with torch.random.fork_rng(devices=_gpus(model)), torch.no_grad():
        trial = _Trial(model, noise(sigma, max(2, min(_BATCH, batch_size))))
        found["random"] = trial.of_itself()
        if found["random"] is None:
            found["batch_dependent"] = trial.of_its_batch(shown)
        wild = torch.cat([shown, *(noise(scale, len(shown)) for scale in _WILD)])
        seen = torch.cat([trial.first, *map(trial.logits, torch.split(wild, trial.size))])
        found["probabilities"] = _probabilities(seen.double().cpu().numpy(), scores)
    for name, reason in found.items():
        if reason is not None and name not in allow:
            raise ValueError(
                f"{reason}. Where that is meant, allow it: allow={name!r}, or --allow-{_flag(name)}"
            )
    return Base(trial.precision, tuple(NOTES[name] for name in found if found[name] is not None))


def require_logits(values: Any) -> None:
    """Refuses outputs (B, K) that are probabilities, one image a row.

    Raises:
        ValueError: they are.
    """
    reason = _probabilities(np.asarray(values, np.float64), True)
    if reason is not None:
        raise ValueError(reason)


class _Trial:
    """Logits of the same noisy images, seen in several ways."""

    def __init__(self, model: torch.nn.Module, noisy: torch.Tensor) -> None:
        self._model, self._noisy, self._before = model, noisy, _random_state(model)
        self.first = self._of_as_many_as_fit()
        self.size = len(self.first)
        self.precision = computed_in(model, noisy[: self.size])
        self._largest = _largest(self.first)
        shares = ROUNDING_SHARE | _COARSE_SHARE
        names = self.precision.split("+")
        self._tolerance = self._largest * max(shares.get(name, 0.25) for name in names)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K) logits of a copy."""
        import torch

        output = self._model(copied_for(self._model, images))
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"model: expected logits as one tensor, got {type(output).__name__}")
        if output.ndim != 2 or len(output) != len(images):
            raise ValueError(
                f"model: expected logits of shape ({len(images)}, K) for {len(images)} images, got {tuple(output.shape)}"
            )
        return output.detach().clone()

    def of_itself(self) -> str | None:
        """Why it counts as random, if it does."""
        import torch

        drew = not all(map(torch.equal, self._before, _random_state(self._model)))
        # A model that draws random numbers is not excused by rounding, and may show it in few images only.
        tolerance = 0.0 if drew else self._tolerance
        for _ in range(_REPEATS if drew else 1):
            gap = _largest(self.first.double() - self.logits(self._noisy[: self.size]).double())
            if gap > tolerance:
                return (
                    f"model: gives other logits for the same images when it is called again ({self._numbers(gap)}): it "
                    "is random in evaluation mode, by dropout or noise of its own"
                )
        return None

    def of_its_batch(self, clean: torch.Tensor) -> str | None:
        """Why it counts as dependent on its batch, if it does."""
        import torch

        if self.size == 1:
            return None
        some = slice(0, self.size, -(-self.size // _IMAGES))
        picked = self._noisy[some]
        others = torch.cat([picked.flip(0), 1.0 - clean, clean])[: self.size]
        try:
            alone = torch.cat([self.logits(one) for one in torch.split(picked, 1)])
            among = self.logits(others)[: len(picked)].flip(0)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return f"model: works on a batch of {self.size} images and not on {' or '.join(_ALONE)} ({line}): {_BATCHES}"
        for where, seen in zip(_ALONE, (alone, among), strict=True):
            gap = _largest(self.first[some].double() - seen.double())
            if gap > self._tolerance:
                return (
                    f"model: gives other logits for {where} than in a batch of {self.size} ({self._numbers(gap)}): "
                    f"{_BATCHES}"
                )
        return None

    def _of_as_many_as_fit(self) -> torch.Tensor:
        size = len(self._noisy)
        while True:
            try:
                return self.logits(self._noisy[:size])
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            size //= 2

    def _numbers(self, gap: float) -> str:
        return (
            f"they differ by up to {gap:.2g}, of logits up to {self._largest:.2g}, which rounding in {self.precision} "
            "does not explain"
        )


_ALONE = ("an image alone", "one in another batch")
_BATCHES = (
    "its output depends on the other images in the batch, as with batch normalisation that keeps no statistics, or a model "
    "that leaves evaluation mode, and a certificate speaks of one image"
)


def _largest(values: torch.Tensor) -> float:
    """The largest finite magnitude: rows with NaN or infinity are left to the run, which names their samples."""
    import torch

    finite = values[torch.isfinite(values)].abs()
    return float(finite.max()) if finite.numel() else 0.0


def _probabilities(values: Any, scores: bool) -> str | None:
    """Why rows count as probabilities, if they do. An output that is constant says nothing."""
    rows = values[np.isfinite(values).all(axis=1)]
    if len(rows) < 2 or rows.shape[1] < 2 or rows.min() < 0 or rows.max() > 1 + 1e-6:
        return None
    if (np.abs(rows - rows[0]) <= 1e-6).all():
        return None
    if (np.abs(rows.sum(axis=1) - 1) > 5e-3).any():
        return "model: expected logits, got numbers from 0 to 1 whatever the image is: take the sigmoid out of the model"
    if not scores and np.isin(rows, (0.0, 1.0)).all():
        return None  # votes of a classifier that gives nothing but a class
    return (
        "model: expected logits, got rows of probabilities (at least 0, with sum 1): take the softmax out of the model, or "
        "return its logarithm"
    )


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _gpus(model: torch.nn.Module) -> list[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


def _random_state(model: torch.nn.Module) -> list[torch.Tensor]:
    import torch

    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(k) for k in _gpus(model))]
