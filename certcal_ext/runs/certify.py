# SPDX-License-Identifier: MIT
"""Certification in shards: by any number of processes, and after any interruption, the same table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from certcal_ext import _check
from certcal_ext._images import Samples
from certcal_ext._progress import Report, reporting
from certcal_ext._threads import num_threads
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.distributed import Group, process_group
from certcal_ext.model_checks import Base
from certcal_ext.model_state import frozen, model_fingerprint, place_of
from certcal_ext.runs.drawing import Drawing, UnitSampler
from certcal_ext.runs.folder import WorkFolder, array_digest, open_folder, remove_work
from certcal_ext.smoothing.certify import certify
from certcal_ext.smoothing.classifier import SmoothedClassifier
from certcal_ext.smoothing.near_ties import calls_near_ties
from certcal_ext.smoothing.plan import CertifyOptions, Plan, Scores, Votes

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from certcal_ext.stopping.rules import Stopping


class ShardOptions(CertifyOptions, total=False):
    """Options of ``certify_in_shards``: those of ``CertifyOptions``, and how the run is kept.

    Progress is that of all processes, and shown by the first one.

    Attributes:
        resume: True goes on with the shards that are there, or starts where there are none.
        stopping: rules by which samples stop early, as in ``certify_adaptive``; votes only.
        unit_draws: noisy images in a unit; default: as many as take about three seconds here. It is fixed when the run
            begins and has no part in the result.
    """

    resume: bool
    stopping: Stopping | None
    unit_draws: int | None


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
    **options: Unpack[ShardOptions],
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
        options: what is counted, names of the samples and how the run is kept, by name: those of ``ShardOptions``.

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
        ...     whole = certify_in_shards(smooth, images, labels, n0=10, n=500, work=work)
        ...     again = certify_in_shards(smooth, images, labels, n0=10, n=500, work=work, resume=True)
        >>> whole.table.equals(smooth.certify(images, labels, n0=10, n=500).table), whole == again
        (True, True)
    """
    _check.options("certify_in_shards", options, ShardOptions)
    plan = Plan.of(n0, n, alpha, options, options.get("stopping"))
    _check.whole_number("batch_size", batch_size, 1)
    _check.instance("smooth", smooth, SmoothedClassifier)
    if options.get("unit_draws") is not None:
        _check.whole_number("unit_draws", options["unit_draws"], 1)
    samples = Samples.of(images, labels, options.get("sample_ids"), smooth.num_classes)
    with process_group(_device(smooth, samples)) as group, frozen(smooth.model):
        scores = plan.bins is not None
        base = smooth.checked(samples.images, scores=scores, batch_size=int(batch_size))
        run = _Run(smooth, samples, plan, int(batch_size), group, base)
        certificates = None
        with run.opened(Path(work), options) as drawing:
            if group.first:
                certificates = run.certificates(drawing)
                drawing.finish()
            else:
                drawing.serve()
        whole: Certificates = group.told(certificates)
        return whole


def problem_of(
    smooth: SmoothedClassifier, samples: Samples, plan: Plan, batch_size: int, base: Base
) -> dict[str, Any]:
    """Everything that fixes the result, by name.

    Values are those of JSON. Batch size and thread count are among them only where the result depends on them: for scores,
    and for the votes of a model in half precision or one that looks at its batch.
    """
    device, evidence, labels = _device(smooth, samples), plan.evidence, samples.labels
    votes = evidence if isinstance(evidence, Votes) else Votes()
    problem: dict[str, Any] = {
        "model": model_fingerprint(smooth.model),
        "precision": base.precision,
        "allowed": list(base.notes),
        "classes": smooth.num_classes,
        "images": array_digest(samples.images.cpu().numpy()),
        "labels": None if labels is None else array_digest(labels),
        "sample ids": array_digest(samples.ids),
        "sigma": smooth.sigma,
        "seed": smooth.seed,
        "n0": int(plan.n0),
        "n": int(plan.n) if plan.stopping is None else None,
        "alpha": float(plan.alpha),
        "confidence": "votes" if plan.bins is None else "scores",
        "bins": plan.bins,
        "interval": evidence.interval if isinstance(evidence, Scores) else None,
        "runner-up": bool(votes.runner_up),
        "counts kept": bool(votes.keep_counts),
        "stopping": None if plan.stopping is None else plan.stopping.to_json(),
        "device": device.type,
        "certcal_ext": Provenance("intervals").package_version,
        "torch": str(torch.__version__),
    }
    if plan.bins is not None or base.notes or not calls_near_ties(base.precision):
        problem["batch size"] = batch_size
        problem["threads"] = num_threads() if device.type == "cpu" else None
    return problem


@dataclass
class _Run:
    """One certification, seen by one process."""

    smooth: SmoothedClassifier
    samples: Samples
    plan: Plan
    batch_size: int
    group: Group
    base: Base
    show: Report | None = None
    created: str = ""

    @contextmanager
    def opened(self, work: Path, options: ShardOptions) -> Iterator[Drawing]:
        """The processes, ready to draw; the folder is opened by the first."""
        group, plan, unit_draws = self.group, self.plan, options.get("unit_draws")
        problem = problem_of(self.smooth, self.samples, plan, self.batch_size, self.base)
        _require_one_problem(group.gathered(problem))
        drawing: Drawing | None = None

        def report(draws: int) -> None:
            if drawing is not None:  # and not while passes are measured
                drawing.on_draws(draws)

        sampler = UnitSampler(self.smooth, self.samples, self.batch_size, report)
        lock = manifest = None
        if group.first:
            again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
            folder, lock = open_folder(
                work,
                problem,
                options.get("resume", False) or again,
                lambda: sampler.measured(plan.most_draws, unit_draws),
            )
            manifest = folder.manifest
        manifest = group.told(manifest)
        folder = WorkFolder(work, manifest)
        folder.look()
        self.created = manifest.created
        progress = options.get("progress", False) if group.first else False
        with reporting(progress, "certifying", "draws") as self.show:
            show = self.show if plan.stopping is None else None
            expected = len(self.samples) * (int(plan.n0) + int(plan.n))
            drawing = Drawing(group, folder, sampler, show, expected)
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
        """The journey, signed."""
        parts = [(drawing, self.samples)]
        certificates = certify(parts, self.plan, self.smooth.sigma, self.show or False)
        signed = self.smooth.signed(certificates, self.plan.n0, self.base)
        return signed.with_provenance(created=self.created)


def _device(smooth: SmoothedClassifier, samples: Samples) -> torch.device:
    return place_of(smooth.model)[0] or samples.images.device


def _require_one_problem(problems: list[dict[str, Any]]) -> None:
    for rank, problem in enumerate(problems):
        unlike = [name for name in problem if problem[name] != problems[0].get(name)]
        if unlike:
            raise ValueError(
                f"work: expected the same run in every process; process {rank} differs from process 0 "
                f"in {', '.join(unlike)}"
            )
