# SPDX-License-Identifier: MIT
"""Certificates checked by drawing again: the same noise, the same model, the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._images import checked_ids, checked_images
from certcal_ext._progress import Report, Tally, reporting
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.evidence import ends_at_level, selected_by_estimation
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.table import matrix
from certcal_ext.model_checks import allowed_by
from certcal_ext.model_state import copied_for, frozen, model_fingerprint
from certcal_ext.smoothing.certify import estimate, select
from certcal_ext.smoothing.classifier import SmoothedClassifier
from certcal_ext.smoothing.draws import Draws, ModelDraws, votes_of
from certcal_ext.smoothing.plan import Plan, Scores
from certcal_ext.smoothing.sampling import Counts
from certcal_ext.stopping.rules import Stopping

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]

#: Batches of another size round logits differently, so a score may cross the edge of its bin and a mean its eighth digit.
#: Measured were 1 draw in 20,000 and 4e-8; votes have no such freedom.
MOST_MOVED, MEAN_TOLERANCE = 1e-3, 1e-7

_ENDS = {
    "lower": "p_lower",
    "upper": "p_upper",
    "prediction_lower": "prediction_lower",
    "runner_up_upper": "runner_up_upper",
}


@dataclass(frozen=True)
class Mismatch:
    """One number of a table that was not found again.

    Attributes:
        row: of the table.
        index: the sample's number.
        column: of the table.
        stored: what the table holds.
        found: what was drawn or follows from what it holds.
    """

    row: int
    index: int
    column: str
    stored: str
    found: str

    def __str__(self) -> str:
        """In words."""
        return (
            f"sample {self.index} (row {self.row}): {self.column} is {self.stored} in the table, "
            f"{self.found} when drawn again"
        )


@dataclass(frozen=True, eq=False)
class Replay:
    """What drawing again showed.

    Attributes:
        rows: (R,) int64, the rows that were drawn for again.
        draws: how many draws that took.
        mismatches: every number that differs; empty where all agree.
        moved_scores: draws whose score fell into the bin beside the stored one, which batches of another size explain.
        model_checked: whether the table holds a hash of the model, which was then compared.
    """

    rows: Ints
    draws: int
    mismatches: tuple[Mismatch, ...]
    moved_scores: int
    model_checked: bool

    @property
    def agrees(self) -> bool:
        """Whether every number was found again."""
        return not self.mismatches


def replay(
    certificates: Certificates,
    model: torch.nn.Module,
    images: Any,
    rows: Any = None,
    *,
    labels: Any = None,
    sample_ids: Any = None,
    batch_size: int = 1024,
    progress: bool | Report = False,
) -> Replay:
    """Draws again for some rows of a table, and checks all that follows from the draws.

    The class has to win the selection draws again, the votes (planning votes and votes of all classes, where they were
    kept) have to be the same, and the ends have to follow from them bit for bit. Of scores, the histogram may differ as
    batches of another size explain (a draw in the bin beside, the mean by 1e-7); their ends have to follow bit for bit
    from the stored ones. In half precision counts are those of the batches as they came, so the batch size has to be that
    of the first run.

    Args:
        certificates: made by ``SmoothedClassifier`` or ``certcal certify``, with early stopping or without.
        model: the one they were made with; a model with other weights is refused.
        images: (M, C, H, W) float32 tensor that holds the images of these rows, found by number.
        rows: positions in the table, or None for all.
        labels: (M,) integers, which are then compared too; None: they are not.
        sample_ids: (M,) the images' numbers; None: 0, ..., M - 1, as in a file that was certified from its start.
        batch_size: most noisy images in one forward pass.
        progress: True shows draws done; or a function of (draws done, draws in all).

    Returns:
        :class:`Replay`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: certificates without draws or without seed and n0 (counts of others); another model; images that lack a
            sample; a row out of range.

    Source:
        This project.

    Example:
        >>> import torch
        >>> from certcal_ext import SmoothedClassifier
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> images = torch.rand(6, 1, 8, 8)
        >>> smooth = SmoothedClassifier(model, num_classes=3, sigma=0.5, seed=7)
        >>> certificates = smooth.certify(images, torch.arange(6) % 3, n0=10, n=200)
        >>> replay(certificates, model, images, [1, 4]).agrees
        True
    """
    import torch

    _check.instance("certificates", certificates, Certificates)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    _check.whole_number("batch_size", batch_size, 1)
    _require_draws(certificates.provenance)
    _require_model(certificates.provenance, model)
    pixels = checked_images(images)
    ids = checked_ids(sample_ids, len(pixels))
    picked = _check.array("rows", np.arange(len(certificates)) if rows is None else rows)
    part = certificates.select(picked)
    where = _places(part.table["index"].to_numpy(), ids)
    numbers = np.flatnonzero(picked) if picked.dtype == bool else picked
    comparison = _Comparison(part, _check.int_vector("rows", numbers))
    if labels is not None:
        comparison.compare("label", _check.int_vector("labels", labels, len(pixels))[where])
    with reporting(progress, "drawing again", "draws") as report, frozen(model):
        smooth = _same_classifier(part, model, pixels, batch_size)
        sampler = smooth.sampler(batch_size, Tally(draws_of(part), report).add)
        drawn = pixels[torch.from_numpy(where)]
        _compare_draws(comparison, part, ModelDraws(sampler, drawn, ids[where]))
    comparison.compare_ends()
    return Replay(
        rows=comparison.rows,
        draws=draws_of(part),
        mismatches=tuple(sorted(comparison.mismatches, key=lambda one: (one.row, one.column))),
        moved_scores=comparison.moved,
        model_checked=part.provenance.model_hash is not None,
    )


def draws_of(certificates: Certificates) -> int:
    """How many draws it takes to draw for every row again.

    Raises:
        ValueError: certificates without draws, or without what names them.
    """
    _require_draws(certificates.provenance)
    selection = len(certificates) * cast(int, certificates.provenance.n0)
    return selection + int(_planning(certificates).sum() + _estimation(certificates).sum())


def _compare_draws(comparison: _Comparison, part: Certificates, draws: Draws) -> None:
    """Selection, planning and estimation, in the order in which they were drawn."""
    # Copies: torch warns of arrays that cannot be written.
    plan, predicted = _plan_of(part), part.table["predicted"].to_numpy().copy()
    comparison.compare("predicted", select(draws, plan.n0, plan.together))
    planning, estimation = _planning(part), _estimation(part)
    if plan.stopping is None and (estimation == plan.n).all():
        counts = estimate(draws, plan, predicted)
        if counts.scores is not None:
            stored = cast(Ints, matrix(part.table, "scores"))
            comparison.compare_scores(stored, counts.scores.counts, counts.scores.means())
    else:
        comparison.compare("planning_votes", votes_of(_votes(draws, plan.n0, planning), predicted))
        counts = Counts(_votes(draws, plan.n0 + planning, estimation))
    comparison.compare("votes", votes_of(counts.votes, predicted))
    if plan.bins is None:
        comparison.compare_lists("counts", counts.votes)


def _votes(source: Draws, first: Ints | int, draws: Ints) -> Ints:
    """(N, K) votes of so many draws of each row."""
    votes = np.zeros((len(draws), source.num_classes), np.int64)
    begin = np.broadcast_to(first, draws.shape)
    for number in np.unique(draws):
        same = np.flatnonzero(draws == number)
        votes[same] = source.votes(same, begin[same], int(number))
    return votes


class _Comparison:
    """Stored numbers beside those drawn again."""

    def __init__(self, part: Certificates, rows: Ints) -> None:
        self._part, self.rows = part, rows
        self._index = part.table["index"].to_numpy()
        self.mismatches: list[Mismatch] = []
        self.moved = 0

    def compare(self, column: str, again: NDArray[Any]) -> None:
        """Numbers that have to be the same; rows without a stored one are passed over."""
        stored = self._part.table[column]
        held = ~stored.is_null().to_numpy()
        values = stored.fill_null(0).to_numpy()
        for at in np.flatnonzero(held & (values != again)):
            self._note(int(at), column, values[at], again[at])

    def compare_lists(self, column: str, again: Ints) -> None:
        """Lists that have to be the same, where there are any."""
        stored = matrix(self._part.table, column)
        if stored is None:
            return
        if stored.shape != again.shape:
            raise ValueError(
                f"model: expected {stored.shape[1]} classes, as the table has, got {again.shape[1]}"
            )
        for at in np.flatnonzero((stored != again).any(axis=1)):
            self._note(int(at), column, stored[at].tolist(), again[at].tolist())

    def compare_scores(self, stored: Ints, again: Ints, means: NDArray[np.float64]) -> None:
        """Histograms up to a few draws that moved to the bin beside, and means."""
        # A draw that moves by one bin changes one cumulated count by one; by more bins, as many of them.
        moved = np.abs(np.cumsum(stored - again, axis=1)).sum(axis=1)
        allowed = np.maximum(1, np.floor(MOST_MOVED * stored.sum(axis=1)))
        for at in np.flatnonzero(moved > allowed):
            self._note(int(at), "scores", "a histogram", f"one that differs in {moved[at]} draws")
        self.moved = int(moved[moved <= allowed].sum())
        values = self._part.table["confidence"].to_numpy()
        for at in np.flatnonzero(~(np.abs(values - means) <= MEAN_TOLERANCE)):
            self._note(int(at), "confidence", repr(float(values[at])), repr(float(means[at])))

    def compare_ends(self) -> None:
        """What follows from the stored numbers, bit for bit."""
        source, table = self._part.provenance, self._part.table
        if source.kind == "votes":
            self.compare("confidence", table["votes"].to_numpy() / table["n"].to_numpy())
        ends = ends_at_level(table, source, cast(float, source.alpha))
        if ends is None:  # such a table has all that they need
            raise ValueError("certificates: expected the draws of every row")
        for name, column in _ENDS.items():
            values = getattr(ends, name)
            if values is not None:
                self.compare(column, values)

    def _note(self, at: int, column: str, stored: Any, again: Any) -> None:
        self.mismatches.append(
            Mismatch(int(self.rows[at]), int(self._index[at]), column, str(stored), str(again))
        )


def _require_draws(source: Provenance) -> None:
    if source.kind not in ("votes", "scores"):
        raise ValueError(f"certificates: {source.kind} hold no draws, so none can be taken again")
    missing = [name for name in ("seed", "n0") if getattr(source, name) is None]
    if missing or selected_by_estimation(source):
        raise ValueError(
            f"certificates: the table does not say {' and '.join(missing) or 'n0'}, so its draws "
            "cannot be taken again; tables of certcal certify do"
        )


def _require_model(source: Provenance, model: torch.nn.Module) -> None:
    digest = model_fingerprint(model)
    if source.model_hash not in (None, digest):
        raise ValueError(
            f"model: expected the one that made the table (hash {str(source.model_hash)[:12]}, "
            f"{source.precision}), got another ({digest[:12]}): other weights, precision or class"
        )


def _same_classifier(
    part: Certificates, model: torch.nn.Module, images: torch.Tensor, batch_size: int
) -> SmoothedClassifier:
    """The classifier whose draws the table holds: one whose draws can be taken again, in the format in which they were."""
    source = part.provenance
    allowed = allowed_by(source.notes)
    if "random" in allowed:
        raise ValueError("certificates: of a random model, whose draws cannot be taken again")
    shape: tuple[int, ...] = getattr(model(copied_for(model, images[:1])), "shape", ())
    if len(shape) != 2:
        raise ValueError("model: expected logits as one tensor of shape (B, classes)")
    classes, most = int(shape[1]), int(part.table["predicted"].to_numpy().max())
    if most >= classes:
        raise ValueError(
            f"model: expected more than {most} classes, as the table has, got {classes}"
        )
    sigma, seed = cast(float, source.sigma), cast(int, source.seed)
    smooth = SmoothedClassifier(model, classes, sigma, seed, allow=allowed)
    base = smooth.checked(images, scores=source.kind == "scores", batch_size=batch_size)
    # Tables of before 0.2 name the formats of the weights, joined where there are several.
    stored = source.precision
    if stored not in (None, base.precision) and base.precision not in str(stored).split("+"):
        raise ValueError(
            f"model: expected it to compute in {stored}, as for the table, got {base.precision}: under "
            "torch.autocast then and not now, or the other way round?"
        )
    return smooth


def _plan_of(part: Certificates) -> Plan:
    """The plan that a table was made by."""
    source = part.provenance
    stopping = None if source.stopping is None else Stopping.from_json(source.stopping)
    n0, n, alpha = cast(int, source.n0), int(_estimation(part).max()), cast(float, source.alpha)
    if source.kind == "scores":
        bins = cast(Ints, matrix(part.table, "scores")).shape[1]
        return Plan(n0, n, alpha, Scores(bins, str(source.interval)))
    return Plan(n0, max(n, 1), alpha, stopping=stopping)


def _places(wanted: Ints, ids: Ints) -> Ints:
    """Where the wanted samples stand."""
    order = np.argsort(ids, kind="stable")
    at: Ints = order[np.searchsorted(ids, wanted, sorter=order).clip(0, len(ids) - 1)]
    missing = wanted[ids[at] != wanted]
    if missing.size:
        raise ValueError(
            f"images: expected those of all chosen rows, none has the number {missing[0]}"
        )
    return at


def _planning(certificates: Certificates) -> Ints:
    """(N,) planning draws; tables from before there were stages have the same number in every row."""
    rules = certificates.provenance.stopping
    every = 0 if rules is None else Stopping.from_json(rules).planning
    draws: Ints = certificates.table["planning_draws"].fill_null(every).to_numpy()
    return draws


def _estimation(certificates: Certificates) -> Ints:
    """(N,) estimation draws; the table says 1 where a row stopped before its first."""
    draws: Ints = certificates.table["n"].to_numpy()
    if certificates.provenance.stopping is None:
        return draws
    return np.where(certificates.table["look"].to_numpy() < 0, 0, draws)
