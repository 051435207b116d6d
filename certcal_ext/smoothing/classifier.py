# SPDX-License-Identifier: MIT
"""The smoothed classifier: from images to a certificate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._images import Samples, known_size, parts
from certcal_ext._progress import Report, Tally, reporting
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.model_checks import Base, checked_allow, checked_base
from certcal_ext.model_state import class_name, frozen, model_fingerprint
from certcal_ext.smoothing.certify import certify, select
from certcal_ext.smoothing.draws import ModelDraws, SelectedVotes
from certcal_ext.smoothing.noise import MAX_DRAWS, MAX_SEED, drawn_sigma
from certcal_ext.smoothing.plan import CertifyOptions, Plan, SampleOptions, require_stopping
from certcal_ext.smoothing.sampling import Sampler

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

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
        graph: on a GPU, capture noise and model in a CUDA graph and replay it, which saves a small model the host's time.
            The numbers are the same. The model must do the same work for all images, and not wait for the device.

    A model may be compiled, by ``model.compile()`` or ``torch.compile(model)``: fingerprint and name are those of the model.

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
        graph: bool = False,
    ) -> None:
        torch = _require_torch()
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        self.num_classes = _check.whole_number("num_classes", num_classes, 2)
        self.sigma = drawn_sigma(sigma)
        self.seed = _check.whole_number("seed", seed, 0, MAX_SEED)
        self.allow = checked_allow(allow)
        self.graph = _check.flag("graph", graph)

    def certify(
        self,
        images: Any,
        labels: Any = None,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 1e-3,
        batch_size: int = 1024,
        **options: Unpack[CertifyOptions],
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
            options: what is counted, names of the samples and progress, by name: those of ``CertifyOptions``.

        Returns:
            :class:`Certificates`, one row a sample, abstentions included.

        Raises:
            TypeError: images that are not floats, labels that are not integers, or an argument of the wrong kind.
            ValueError: empty data, shapes that do not match, labels or arguments out of range, NaN or infinite images or
                logits (counted and named), a model that gives another number of classes; sample ids that name two samples
                the same; a model that is random, depends on its batch or gives probabilities, unless that is allowed.

        Warns:
            UserWarning: more abstentions than certificates (with the best radius this n and alpha could ever give),
                images outside [0, 1], or selected classes of 30 samples or more that are as right as guesses.
        """
        _check.options("certify", options, CertifyOptions)
        plan = Plan.of(n0, n, alpha, options)
        data = parts(images, labels, options.get("sample_ids"), self.num_classes)
        return self._certified(
            data, known_size(images), plan, batch_size, options.get("progress", False)
        )

    def certify_adaptive(
        self,
        images: Any,
        labels: Any,
        stopping: Stopping,
        n0: int = 100,
        alpha: float = 1e-3,
        batch_size: int = 1024,
        **options: Unpack[SampleOptions],
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
            options: names of the samples and progress, by name: those of ``SampleOptions``.

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
        _check.options("certify_adaptive", options, SampleOptions)
        require_stopping(stopping)
        plan = Plan(n0, stopping.n_max, alpha, stopping=stopping)
        samples = Samples.of(images, labels, options.get("sample_ids"), self.num_classes)
        progress = options.get("progress", False)
        return self._certified([samples], len(samples), plan, batch_size, progress)

    def _certified(
        self,
        data: Iterable[Samples],
        size: int | None,
        plan: Plan,
        batch_size: int,
        progress: bool | Report,
    ) -> Certificates:
        """The journey in this process, over samples that come in parts."""
        _check.whole_number("batch_size", batch_size, 1)
        fixed, base = plan.stopping is None, None
        with (
            reporting(progress if fixed else False, "certifying", "draws") as report,
            frozen(self.model),
        ):
            tally = Tally(None if size is None else size * (plan.n0 + plan.n), report)
            sampler = self.sampler(batch_size, tally.add)

            def drawn() -> Iterator[tuple[ModelDraws, Samples]]:
                nonlocal base
                for samples in data:
                    base = base or self.checked(
                        samples.images, scores=plan.bins is not None, batch_size=batch_size
                    )
                    yield ModelDraws(sampler, samples.images, samples.ids), samples

            certificates = certify(drawn(), plan, self.sigma, progress)
        assert base is not None  # it was looked at before the first draw
        return self.signed(certificates, plan.n0, base)

    def sampler(
        self, batch_size: int, on_draws: Callable[[int], None] = lambda draws: None
    ) -> Sampler:
        """What takes draws of this classifier, inside ``frozen``.

        Args:
            batch_size: most noisy images in a forward pass.
            on_draws: called with the number of draws of each pass.

        Returns:
            ``Sampler``.
        """
        named = (self.model, self.num_classes, self.sigma, self.seed)
        return Sampler(*named, batch_size, on_draws, graph=self.graph)

    def checked(
        self, images: torch.Tensor, *, scores: bool = False, batch_size: int = 1024
    ) -> Base:
        """What the model is on a few of these images, to sign with; inside ``frozen``. Arguments as ``checked_base``."""
        return checked_base(
            self.model, images, self.sigma, scores=scores, allow=self.allow, batch_size=batch_size
        )

    def signed(self, certificates: Certificates, n0: int, base: Base) -> Certificates:
        """The certificates of draws of this classifier, with a note of what one has to know to draw the same again."""
        return certificates.with_provenance(
            n0=int(n0),
            seed=self.seed,
            model_hash=model_fingerprint(self.model),
            precision=base.precision,
            torch_version=str(_require_torch().__version__),
            source=class_name(self.model),
            notes=(*certificates.provenance.notes, *base.notes),
        )

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
        _check.whole_number("batch_size", batch_size, 1)
        _check.whole_number("n0", n0, 1, MAX_DRAWS - 1)
        samples = Samples.of(images, labels, sample_ids, self.num_classes)
        with frozen(self.model):
            base = self.checked(samples.images, batch_size=batch_size)
            source = ModelDraws(self.sampler(batch_size), samples.images, samples.ids)
            classes = select(source, int(n0), int(n0))
            yield Selected(
                SelectedVotes(source, classes), classes, samples.ids, samples.labels, base
            )


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


def _require_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            'SmoothedClassifier needs torch: pip install "certcal_ext[torch]"'
        ) from error
    return torch
