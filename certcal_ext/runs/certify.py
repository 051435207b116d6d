# SPDX-License-Identifier: MIT
"""Certification in shards: by any number of processes, and after any interruption, the same table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._images import checked_ids, checked_images, checked_labels
from certcal_ext._progress import Report, reporting
from certcal_ext._threads import num_threads
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.distributed import Group, process_group
from certcal_ext.model_checks import Base
from certcal_ext.model_state import frozen, model_fingerprint
from certcal_ext.runs.drawing import Drawing, UnitSampler
from certcal_ext.runs.folder import WorkFolder, open_folder, remove_work
from certcal_ext.runs.units import Request
from certcal_ext.smoothing.classifier import SmoothedClassifier
from certcal_ext.smoothing.found import Found, Wanted, group_size
from certcal_ext.smoothing.near_ties import calls_near_ties
from certcal_ext.smoothing.votes import ScoreHistogram

if TYPE_CHECKING:
    from certcal_ext.stopping.rules import Stopping

_Ints = NDArray[np.int64]


def certify_in_shards(
    smooth: SmoothedClassifier,
    images: Any,
    labels: Any = None,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 1e-3,
    batch_size: int = 1024,
    *,
    work: str | os.PathLike[str],
    resume: bool = False,
    stopping: Stopping | None = None,
    unit_draws: int | None = None,
    confidence: str = "votes",
    score_bins: int = 1000,
    score_interval: str = "cdf",
    runner_up: bool = False,
    keep_counts: bool = False,
    sample_ids: Any = None,
    progress: bool | Report = False,
) -> Certificates:
    """``SmoothedClassifier.certify``, or ``certify_adaptive``, of which nothing that is finished gets lost.

    The draws are cut into units, and what a unit gave is written to a folder of shards. Under ``torchrun`` (or in any
    environment with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) each process calls this with the same arguments and
    its own copy of the model; undone units are dealt out, and every process returns the whole result. Counts are integers,
    and each unit is counted once, so the certificates are the same for any number of processes and after any interruption.

    The folder stays; ``remove_work`` removes it once the result is safe.

    Args:
        smooth: the classifier.
        images: (N, C, H, W) float32 tensor.
        labels: (N,) integers in [0, K), or None.
        n0: draws that select the class of a sample.
        n: draws that estimate; with ``stopping`` its own largest number counts.
        alpha: failure probability of one sample's certificate.
        batch_size: noisy images per forward pass, at most. Votes do not depend on it, and a run may be resumed with
            another; scores, and everything in half precision, depend on the batches, so there it has to stay.
        work: the folder, new, empty or this run's; all processes share it.
        resume: go on with the shards that are there, or start where there are none.
        stopping: rules by which samples stop early, as in ``certify_adaptive``; votes only.
        unit_draws: noisy images in a unit; None: as many as take about three seconds here. It is fixed when the run
            begins and has no part in the result.
        confidence: "votes" or "scores", as in ``certify``.
        score_bins: as in ``certify``.
        score_interval: as in ``certify``.
        runner_up: as in ``certify``.
        keep_counts: as in ``certify``.
        sample_ids: (N,) numbers that name the samples; default 0, ..., N - 1.
        progress: True shows the draws of all processes and time left; or a function of (draws done, draws in all). Of the
            first process only.

    Returns:
        :class:`Certificates`, in every process. Their time of creation is that of the first start.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: as ``certify``; or a folder that holds the finished part of a run and no ``resume``, a run of another
            model, other data or other options (what differs is named), shards of another run, or
            draws that would be counted twice.
        OSError: the disk refuses; what was finished before is kept.
        ConnectionError: another process failed.

    Warns:
        UserWarning: as ``certify``; and a damaged shard, whose draws are taken again.

    Example:
        >>> import tempfile
        >>> torch.manual_seed(0) and None
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> smooth = SmoothedClassifier(model, num_classes=3, sigma=0.25)
        >>> images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
        >>> with tempfile.TemporaryDirectory() as work:
        ...     made = certify_in_shards(smooth, images, labels, n0=10, n=500, work=work)
        ...     again = certify_in_shards(smooth, images, labels, n0=10, n=500, work=work, resume=True)
        >>> made.table.equals(smooth.certify(images, labels, n0=10, n=500).table), made == again
        (True, True)
    """
    wanted = Wanted(
        n0, n, alpha, batch_size, confidence, score_bins, score_interval, runner_up, keep_counts
    )
    if not isinstance(smooth, SmoothedClassifier):
        raise TypeError(f"smooth: expected a SmoothedClassifier, got {type(smooth).__name__}")
    if unit_draws is not None:
        _check.whole_number("unit_draws", unit_draws, 1)
    _require_votes(stopping, wanted)
    tensor = checked_images(images)
    size = len(tensor)
    true = None if labels is None else checked_labels(labels, size, smooth.num_classes)
    ids = np.arange(size) if sample_ids is None else checked_ids(sample_ids, size)
    device = next((p.device for p in smooth.model.parameters()), tensor.device)
    with process_group(device) as group, frozen(smooth.model):
        base = smooth.checked(tensor, scores=wanted.bins is not None, batch_size=int(batch_size))
        problem = problem_of(smooth, tensor, true, ids, wanted, stopping, base)
        run = _Run(smooth, tensor, true, ids, wanted, stopping, group, base)
        with run.opened(Path(work), problem, resume, unit_draws, progress) as drawing:
            if not group.first:
                drawing.serve()
            certificates = run.certificates(drawing) if group.first else None
            if group.first:
                drawing.finish()
        made: Certificates = group.told(certificates)
        return made


def problem_of(
    smooth: SmoothedClassifier,
    images: torch.Tensor,
    labels: _Ints | None,
    ids: _Ints,
    wanted: Wanted,
    stopping: Stopping | None,
    base: Base,
) -> dict[str, Any]:
    """Everything that fixes the result, by name.

    Args:
        smooth: the classifier.
        images: (N, ...) float32.
        labels: (N,) classes, or None.
        ids: (N,) the samples' numbers.
        wanted: the options.
        stopping: the rules of stopping early, or None.
        base: what the model is.

    Returns:
        Values as JSON has them. Batch size and thread count are among them only where the result depends on them: for
        scores, and for the votes of a model in half precision or one that looks at its batch.
    """
    device = next((p.device for p in smooth.model.parameters()), images.device)
    problem: dict[str, Any] = {
        "model": model_fingerprint(smooth.model),
        "precision": base.precision,
        "allowed": list(base.notes),
        "classes": smooth.num_classes,
        "images": _hash(images.cpu().numpy()),
        "labels": None if labels is None else _hash(labels),
        "sample ids": _hash(ids),
        "sigma": smooth.sigma,
        "seed": smooth.seed,
        "n0": int(wanted.n0),
        "n": int(wanted.n) if stopping is None else None,
        "alpha": float(wanted.alpha),
        "confidence": wanted.confidence,
        "bins": wanted.bins,
        "interval": wanted.score_interval if wanted.bins else None,
        "runner-up": bool(wanted.runner_up),
        "counts kept": bool(wanted.keep_counts),
        "stopping": None if stopping is None else stopping.to_json(),
        "device": device.type,
        "certcal_ext": Provenance("intervals").package_version,
        "torch": str(torch.__version__),
    }
    if wanted.bins is not None or base.notes or not calls_near_ties(base.precision):
        problem["batch size"] = int(wanted.batch_size)
        problem["threads"] = num_threads() if device.type == "cpu" else None
    return problem


class _Run:
    """One certification, seen by one process."""

    def __init__(
        self,
        smooth: SmoothedClassifier,
        images: torch.Tensor,
        labels: _Ints | None,
        ids: _Ints,
        wanted: Wanted,
        stopping: Stopping | None,
        group: Group,
        base: Base,
    ) -> None:
        self._base = base
        self._smooth, self._images, self._labels, self._ids = smooth, images, labels, ids
        self._wanted, self._stopping, self._group = wanted, stopping, group
        self._show: Report | None = None
        self._created, self._batch_size = "", int(wanted.batch_size)

    @contextmanager
    def opened(
        self,
        work: Path,
        problem: dict[str, Any],
        resume: bool,
        unit_draws: int | None,
        progress: bool | Report,
    ) -> Iterator[Drawing]:
        """The processes, ready to draw; the folder is opened by the first."""
        group, wanted = self._group, self._wanted
        _require_one_problem(group.gathered(problem))
        sampler = UnitSampler(self._smooth, self._batch_size, lambda draws: report(draws))

        def report(draws: int) -> None:
            if drawing is not None:
                drawing.on_draws(draws)

        drawing: Drawing | None = None
        lock = manifest = None
        if group.first:
            draws = wanted.n if self._stopping is None else self._stopping.n_max
            folder, lock = open_folder(
                work,
                problem,
                resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0,
                lambda: sampler.measured(self._images, self._ids, draws, unit_draws),
            )
            manifest = folder.manifest
        manifest = group.told(manifest)
        folder = WorkFolder(work, manifest)
        folder.look()
        self._created, self._batch_size = manifest.created, manifest.layout.batch_size
        shown = progress if group.first else False
        with reporting(shown, "certifying", "draws") as self._show:
            fixed = self._stopping is None
            drawing = Drawing(
                group,
                folder,
                sampler,
                self._images,
                self._ids,
                self._smooth.num_classes,
                self._show if fixed else None,
                len(self._ids) * (wanted.n0 + wanted.n),
            )
            try:
                yield drawing
            except BaseException:
                if group.first and folder.empty:
                    remove_work(work)  # nothing was finished, so there is nothing to go on from
                raise
            finally:
                if lock is not None:
                    lock.close()

    def certificates(self, drawing: Drawing) -> Certificates:
        """Selects, estimates and signs."""
        wanted, rows = self._wanted, np.arange(len(self._ids))
        draws = wanted.n0 if self._stopping is not None else min(wanted.n0, wanted.n)
        group = group_size(self._batch_size, draws)
        selection = Request("select", rows, 0, int(wanted.n0), group)
        selected: _Ints = drawing.answer(selection).votes.argmax(axis=1)
        if self._stopping is not None:
            made = self._adaptive(drawing, selected, self._stopping)
        else:
            classes = None if wanted.bins is None else selected
            request = Request(
                "estimate", rows, int(wanted.n0), int(wanted.n), group, classes, wanted.bins or 0
            )
            counted = drawing.answer(request)
            mean = None
            if counted.histogram is not None:
                mean = ScoreHistogram(counted.histogram, counted.sums).means()
            found = Found(counted.votes, selected, self._ids, self._labels, counted.histogram, mean)
            made = found.certificates(self._smooth.sigma, wanted)
        return self._smooth.signed(made, wanted.n0, self._base).with_provenance(
            created=self._created
        )

    def _adaptive(self, drawing: Drawing, selected: _Ints, stopping: Stopping) -> Certificates:
        from certcal_ext.stopping.adaptive import run_adaptive

        result = run_adaptive(
            _SharedVotes(drawing, selected, self._batch_size),
            None if self._labels is None else self._labels == selected,
            self._smooth.sigma,
            self._wanted.alpha,
            stopping,
            first_draw=int(self._wanted.n0),
            progress=self._show or False,
        )
        return Certificates.from_adaptive(result, selected, self._labels, index=self._ids)


class _SharedVotes:
    """A ``DrawSource`` that all processes draw for.

    What is asked for follows from the votes alone, so a resumed run asks for the same and finds its shards; only the first
    process plans, so it does not matter whether another would come to the same plan in the last bit.
    """

    def __init__(self, drawing: Drawing, classes: _Ints, batch_size: int) -> None:
        self._drawing, self._classes, self._batch_size = drawing, classes, batch_size

    def __len__(self) -> int:
        return len(self._classes)

    def votes(self, rows: _Ints, first_draw: int, draws: int) -> _Ints:
        """As ``DrawSource``."""
        where = np.ascontiguousarray(rows, np.int64)
        if not where.size or not draws:
            return np.zeros(where.size, np.int64)
        group = group_size(self._batch_size, draws)
        name = f"votes-{_hash(where)[:12]}-{first_draw}-{draws}"
        counted = self._drawing.answer(Request(name, where, int(first_draw), int(draws), group))
        chosen: _Ints = counted.votes[np.arange(where.size), self._classes[where]]
        return chosen


def _require_votes(stopping: Stopping | None, wanted: Wanted) -> None:
    if stopping is None:
        return
    from certcal_ext.stopping.rules import Stopping

    if not isinstance(stopping, Stopping):
        raise TypeError(f"stopping: expected a Stopping, got {type(stopping).__name__}")
    if wanted.confidence != "votes" or wanted.runner_up or wanted.keep_counts:
        raise ValueError("stopping: expected votes without runner_up and keep_counts")


def _require_one_problem(problems: list[dict[str, Any]]) -> None:
    for rank, problem in enumerate(problems):
        unlike = [name for name in problem if problem[name] != problems[0].get(name)]
        if unlike:
            raise ValueError(
                f"work: expected the same run in every process; process {rank} differs from process 0 "
                f"in {', '.join(unlike)}"
            )


def _hash(array: NDArray[Any]) -> str:
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
