# SPDX-License-Identifier: MIT
"""The smoothed classifier: from images to a certificate."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._images import (
    Part,
    checked_ids,
    checked_images,
    checked_labels,
    known_size,
    parts,
)
from certcal_ext._progress import Report, Tally, reporting
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.model_checks import Base, checked_allow, checked_base
from certcal_ext.model_state import frozen, model_fingerprint
from certcal_ext.smoothing.found import Found, Wanted, group_size, joined
from certcal_ext.smoothing.noise import MAX_DRAWS, MAX_SEED, drawn_sigma
from certcal_ext.smoothing.sampling import Sampler
from certcal_ext.smoothing.vote_source import SelectedVotes, VoteSource

if TYPE_CHECKING:
    import torch

    from certcal_ext.stopping.rules import Stopping


class SmoothedClassifier:
    """A classifier under Gaussian noise, whose confidence and prediction can be certified.

    The base classifier is the model in evaluation mode, applied to one image at a time; batches are only a faster way to
    evaluate it. Where two logits of a noisy image are so close that the batch could have tipped the vote, that image is
    evaluated again alone on one thread, so counts do not depend on batch size or thread count.

    Args:
        model: any ``torch.nn.Module`` from images (B, C, H, W) in [0, 1] to logits (B, K). Normalisation belongs inside it:
            noise and radius are in units of the images given here. It is not changed; its mode comes back as it was.
        num_classes: K, at least 2.
        sigma: standard deviation of the noise, in pixel units. What is drawn with, certified and recorded is the float32
            next to it.
        seed: key of the noise; with the sample's number and the draw's number it fixes every draw.
        allow: what the model may be, which is else refused before anything is drawn, and is then noted in the result:
            "random" (other logits for the same images), "batch_dependent" (other logits for an image among other
            images), "probabilities" (a softmax or sigmoid at its end).

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
        self,
        model: torch.nn.Module,
        num_classes: int,
        sigma: float,
        seed: int = 0,
        *,
        allow: Collection[str] = (),
    ) -> None:
        torch = _require_torch()
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        self.num_classes = _check.whole_number("num_classes", num_classes, 2)
        self.sigma = drawn_sigma(sigma)
        self.seed = _check.whole_number("seed", seed, 0, MAX_SEED)
        self.allow = checked_allow(allow)

    def certify(
        self,
        images: Any,
        labels: Any = None,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 1e-3,
        batch_size: int = 1024,
        *,
        confidence: str = "votes",
        score_bins: int = 1000,
        score_interval: str = "cdf",
        runner_up: bool = False,
        keep_counts: bool = False,
        sample_ids: Any = None,
        progress: bool | Report = False,
    ) -> Certificates:
        """Certifies each image: selects a class by ``n0`` draws and bounds its confidence by ``n`` fresh ones.

        ``certcal_ext.runs.certify_in_shards`` gives the same in several processes, and keeps what was drawn.

        Args:
            images: (N, C, H, W) float32 tensor, or a DataLoader (any iterable) of (images, labels) pairs.
            labels: (N,) integers in [0, K); None certifies intervals and predictions only. Not with a DataLoader of pairs.
            n0: draws that select the class of a sample, by votes; they are not used again.
            n: draws that estimate.
            alpha: failure probability of one sample's certificate, all its bounds together.
            batch_size: noisy images per forward pass, at most. A matter of memory and speed only: votes do not depend on
                it (scores do so in the last bits), and where memory runs out it is halved with a warning.
            confidence: what is certified: "votes", the share of draws that vote for the class (Clopper-Pearson), or
                "scores", the mean softmax score of the class, while votes still certify the prediction.
            score_bins: J equal bins of [0, 1] that scores are counted in.
            score_interval: how scores are bounded, see ``Certificates.from_scores``.
            runner_up: with votes, also bound the next class, see ``Certificates.from_counts``.
            keep_counts: with votes, keep those of all classes in the result.
            sample_ids: (N,) numbers that name the samples in the noise and in the result; default 0, ..., N - 1.
            progress: True shows draws done and time left; or a function of (draws done, draws in all).

        Returns:
            :class:`Certificates`, one row a sample, abstentions included.

        Raises:
            TypeError: images that are not floats, labels that are not integers, or an argument of the wrong kind.
            ValueError: empty data, shapes that do not match, labels or arguments out of range, NaN or infinite images or
                logits (counted and named), a model that gives another number of classes; sample ids that name two samples
                the same; a model that is random, depends on its batch or gives probabilities, unless that is allowed.

        Warns:
            UserWarning: more abstentions than certificates (with the best radius this n and alpha could ever give), or
                images outside [0, 1].
        """
        wanted = Wanted(
            n0,
            n,
            alpha,
            batch_size,
            confidence,
            score_bins,
            score_interval,
            runner_up,
            keep_counts,
        )
        found, base = self._gather(images, labels, wanted, sample_ids, progress)
        return self.signed(found.certificates(self.sigma, wanted), n0, base)

    def certify_adaptive(
        self,
        images: Any,
        labels: Any,
        stopping: Stopping,
        n0: int = 100,
        alpha: float = 1e-3,
        batch_size: int = 1024,
        *,
        sample_ids: Any = None,
        progress: bool | Report = False,
    ) -> Certificates:
        """Certifies by votes with as many draws for each sample as the metrics asked for need.

        To go on with a run later, use :meth:`selecting` and ``run_adaptive``, whose result can be continued: the draws are
        the same.

        Args:
            images: (N, C, H, W) float32 tensor; they stay in memory, as samples are drawn for in turns.
            labels: (N,) integers in [0, K), which say where draws matter; None certifies intervals and predictions only.
            stopping: what the draws are for, see ``Stopping``.
            n0: draws that select the class of a sample; they are not used again.
            alpha: failure probability of one sample's interval, all looks together.
            batch_size: noisy images per forward pass, at most, as in :meth:`certify`.
            sample_ids: (N,) numbers that name the samples; default 0, ..., N - 1.
            progress: True shows draws done; or a function of (draws done, draws planned).

        Returns:
            :class:`Certificates`, one row a sample.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: as :meth:`certify`.

        Warns:
            UserWarning: as :meth:`certify`.

        Example:
            >>> import torch
            >>> from certcal_ext.stopping.rules import Stopping
            >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
            >>> smooth = SmoothedClassifier(model, num_classes=3, sigma=0.25)
            >>> rules = Stopping(radii=(0.1,), n_max=2000, planning=100)
            >>> images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
            >>> certificates = smooth.certify_adaptive(images, labels, rules, n0=10)
            >>> bool((certificates.table["n"].to_numpy() <= 1900).all())
            True
        """
        from certcal_ext.stopping.adaptive import run_adaptive
        from certcal_ext.stopping.rules import Stopping

        if not isinstance(stopping, Stopping):
            raise TypeError(f"stopping: expected a Stopping, got {type(stopping).__name__}")
        _check.failure_probability("alpha", alpha)
        chosen = self.selecting(images, labels, n0, batch_size, sample_ids=sample_ids)
        with chosen as selected:
            right = None if selected.labels is None else selected.labels == selected.classes
            result = run_adaptive(
                selected.source,
                right,
                self.sigma,
                alpha,
                stopping,
                first_draw=int(n0),
                progress=progress,
            )
        certificates = Certificates.from_adaptive(
            result, selected.classes, selected.labels, index=selected.ids
        )
        return self.signed(certificates, n0, selected.base)

    def checked(
        self, images: torch.Tensor, *, scores: bool = False, batch_size: int = 1024
    ) -> Base:
        """What the model is on a few of these images; inside ``frozen``.

        Args:
            images: (N, ...) float32, at least one.
            scores: whether softmax scores are asked for.
            batch_size: most images in a forward pass.

        Returns:
            ``Base``, to sign with.

        Raises:
            TypeError: the model gives no tensor.
            ValueError: it is random, depends on its batch, or gives probabilities, and that is not allowed.
        """
        return checked_base(
            self.model,
            images,
            self.sigma,
            scores=scores,
            allow=self.allow,
            batch_size=batch_size,
        )

    def signed(self, certificates: Certificates, n0: int, base: Base) -> Certificates:
        """The certificates with a note of what one has to know to draw the same again.

        Args:
            certificates: of draws of this classifier.
            n0: draws that selected.
            base: what :meth:`checked` found.

        Returns:
            :class:`Certificates`.
        """
        return certificates.with_provenance(
            n0=int(n0),
            seed=self.seed,
            model_hash=model_fingerprint(self.model),
            precision=base.precision,
            torch_version=str(_require_torch().__version__),
            source=type(self.model).__qualname__,
            notes=(*certificates.provenance.notes, *base.notes),
        )

    def _gather(
        self,
        images: Any,
        labels: Any,
        wanted: Wanted,
        sample_ids: Any,
        progress: bool | Report,
    ) -> tuple[Found, Base]:
        """All that certificates are made from, and what the model is."""
        n0, n = wanted.n0, wanted.n
        group = group_size(wanted.batch_size, min(n0, n))
        with reporting(progress, "certifying", "draws") as report, frozen(self.model):
            size = known_size(images)
            tally = Tally(None if size is None else size * (n0 + n), report)
            sampler = Sampler(
                self.model, self.num_classes, self.sigma, self.seed, wanted.batch_size, tally.add
            )
            found, base = [], None
            for part in parts(images, labels, sample_ids, self.num_classes, group):
                if base is None:
                    scores = wanted.bins is not None
                    base = self.checked(part.images, scores=scores, batch_size=wanted.batch_size)
                found.append(_of_part(sampler, part, n0, n, wanted.bins))
        if base is None:
            raise ValueError("images: expected at least one image, got none")
        return joined(found), base

    @contextmanager
    def selecting(
        self,
        images: Any,
        labels: Any = None,
        n0: int = 100,
        batch_size: int = 1024,
        *,
        sample_ids: Any = None,
    ) -> Iterator[Selected]:
        """Selects the classes, and keeps the model ready for more draws as long as the ``with`` block lasts.

        Args:
            images: (N, C, H, W) float32 tensor.
            labels: (N,) integers in [0, K), or None.
            n0: draws that select; estimation begins with draw n0.
            batch_size: noisy images per forward pass, at most.
            sample_ids: (N,) numbers that name the samples; default 0, ..., N - 1.

        Yields:
            :class:`Selected`.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: as :meth:`certify`.

        Example:
            >>> import torch
            >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
            >>> smooth = SmoothedClassifier(model, num_classes=3, sigma=0.25)
            >>> with smooth.selecting(torch.rand(4, 1, 8, 8), n0=10) as chosen:
            ...     votes = chosen.source.votes([0, 2], first_draw=10, draws=50)
            >>> votes.shape
            (2,)
        """
        _check.whole_number("n0", n0, 1, MAX_DRAWS - 1)
        _check.whole_number("batch_size", batch_size, 1)
        tensor = checked_images(images)
        size = tensor.shape[0]
        true = None if labels is None else checked_labels(labels, size, self.num_classes)
        ids = np.arange(size) if sample_ids is None else checked_ids(sample_ids, size)
        source = VoteSource(
            self.model, self.num_classes, self.sigma, self.seed, tensor, ids, batch_size
        )
        with frozen(self.model):
            base = self.checked(tensor, batch_size=batch_size)
            classes = source.votes(np.arange(size), 0, n0).argmax(axis=1)
            yield Selected(SelectedVotes(source, classes), classes, ids, true, base)


@dataclass(frozen=True)
class Selected:
    """Samples with their selected classes, and the draws that are left to estimate with.

    Attributes:
        source: of the votes for the selected classes.
        classes: (N,) int64.
        ids: (N,) int64, the samples' numbers.
        labels: (N,) int64, or None.
        base: what the model is.
    """

    source: SelectedVotes
    classes: NDArray[np.int64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    base: Base


def _of_part(sampler: Sampler, part: Part, n0: int, n: int, score_bins: int | None) -> Found:
    """Draws 0 to n0 - 1 select, the next n estimate: the two never mix."""
    selected = sampler.gather(part.images, part.ids, 0, n0).counts.argmax(axis=1)
    if score_bins is None:
        fresh = sampler.gather(part.images, part.ids, n0, n)
    else:
        fresh = sampler.gather(part.images, part.ids, n0, n, selected, score_bins)
    return Found(fresh.counts, selected, part.ids, part.labels, fresh.histogram, fresh.mean)


def _require_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            'SmoothedClassifier needs torch: pip install "certcal_ext[torch]"'
        ) from error
    return torch
