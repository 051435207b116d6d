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
from certcal_ext.model_checks import allowed_by, checked_base
from certcal_ext.model_state import copied_for, frozen, model_fingerprint
from certcal_ext.smoothing.found import group_size
from certcal_ext.smoothing.sampling import Sampler
from certcal_ext.smoothing.vote_source import VoteSource

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

    if not isinstance(certificates, Certificates):
        raise TypeError(f"certificates: expected Certificates, got {type(certificates).__name__}")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    _check.whole_number("batch_size", batch_size, 1)
    made = certificates.provenance
    _require_draws(made)
    _require_model(made, model)
    pixels = checked_images(images)
    ids = (
        np.arange(len(pixels), dtype=np.int64)
        if sample_ids is None
        else checked_ids(sample_ids, len(pixels))
    )
    given = np.arange(len(certificates)) if rows is None else rows
    part = certificates.select(given)
    chosen = np.flatnonzero(given) if _check.array("rows", given).dtype == bool else given
    where = _places(part.table["index"].to_numpy(), ids)
    found = _Comparison(part, _check.int_vector("rows", chosen))
    if labels is not None:
        found.compare("label", _check.int_vector("labels", labels, len(pixels))[where])
    with reporting(progress, "drawing again", "draws") as report, frozen(model):
        _require_base(made, model, pixels, batch_size)
        drawn = _Drawn(part, model, pixels[torch.from_numpy(where)], batch_size, report)
        drawn.compare_all(found)
    found.compare_ends()
    return Replay(
        rows=found.rows,
        draws=draws_of(part),
        mismatches=tuple(sorted(found.mismatches, key=lambda one: (one.row, one.column))),
        moved_scores=found.moved,
        model_checked=made.model_hash is not None,
    )


def draws_of(certificates: Certificates) -> int:
    """How many draws it takes to draw for every row again.

    Raises:
        ValueError: certificates without draws, or without what names them.
    """
    made = certificates.provenance
    _require_draws(made)
    selection = len(certificates) * cast(int, made.n0)
    return selection + int(_planning(certificates).sum() + _drawn(certificates).sum())


class _Drawn:
    """The draws of some rows, once more."""

    def __init__(
        self,
        part: Certificates,
        model: torch.nn.Module,
        images: torch.Tensor,
        batch_size: int,
        report: Report | None,
    ) -> None:
        import torch

        made = part.provenance
        output = model(copied_for(model, images[:1]))
        if not isinstance(output, torch.Tensor) or output.ndim != 2:
            raise ValueError("model: expected logits as one tensor of shape (B, classes)")
        classes, most = int(output.shape[1]), int(part.table["predicted"].to_numpy().max())
        if most >= classes:
            raise ValueError(
                f"model: expected more than {most} classes, as the table has, got {classes}"
            )
        tally = Tally(draws_of(part), report)
        sampler_of = (model, classes, cast(float, made.sigma), cast(int, made.seed))
        self._ids = part.table["index"].to_numpy().copy()
        self._source = VoteSource(*sampler_of, images, self._ids, batch_size, tally.add)
        self._sampler = Sampler(*sampler_of, batch_size, tally.add)
        self._images, self._part, self._batch_size = images, part, batch_size
        self._n0 = cast(int, made.n0)

    def compare_all(self, found: _Comparison) -> None:
        """Selection, planning and estimation, in the order in which they were drawn."""
        made, rows = self._part.provenance, np.arange(len(self._part))
        predicted = self._part.table["predicted"].to_numpy().copy()  # torch warns of read-only ones
        selected = self._source.votes(rows, 0, self._n0).argmax(axis=1)
        found.compare("predicted", selected)
        planning = _planning(self._part)
        if made.stopping is not None:
            found.compare("planning_votes", _of_class(self._votes(0, planning), predicted))
        if made.kind == "scores":
            self._compare_scores(found, predicted)
            return
        counts = self._votes(planning, _drawn(self._part))
        found.compare("votes", _of_class(counts, predicted))
        found.compare_lists("counts", counts)

    def _votes(self, skipped: Ints | int, draws: Ints) -> Ints:
        """(N, K) votes of so many draws of each row, after the selection and so many others."""
        counts = np.zeros((len(draws), self._source.num_classes), np.int64)
        first = np.broadcast_to(np.asarray(self._n0 + skipped), draws.shape)
        for number in np.unique(draws):
            same = np.flatnonzero(draws == number)
            counts[same] = self._source.votes(same, first[same], int(number))
        return counts

    def _compare_scores(self, found: _Comparison, predicted: Ints) -> None:
        draws = cast(int, self._part.provenance.n)
        stored = cast(Ints, matrix(self._part.table, "scores"))
        group = group_size(self._batch_size, draws)
        votes, scores, means = [], [], []
        for start in range(0, len(self._ids), group):
            some = slice(start, start + group)
            one = self._sampler.gather(
                self._images[some],
                self._ids[some],
                self._n0,
                draws,
                predicted[some],
                stored.shape[1],
            )
            votes.append(_of_class(one.counts, predicted[some]))
            scores.append(cast(Ints, one.histogram))
            means.append(cast(NDArray[np.float64], one.mean))
        found.compare("votes", np.concatenate(votes))
        found.compare_scores(stored, np.concatenate(scores), np.concatenate(means))


class _Comparison:
    """Stored numbers beside found ones."""

    def __init__(self, part: Certificates, rows: Ints) -> None:
        self._part, self.rows = part, rows
        self._index = part.table["index"].to_numpy()
        self.mismatches: list[Mismatch] = []
        self.moved = 0

    def compare(self, column: str, found: NDArray[Any]) -> None:
        """Numbers that have to be the same; rows without a stored one are passed over."""
        stored = self._part.table[column]
        held = ~stored.is_null().to_numpy()
        values = stored.fill_null(0).to_numpy()
        for at in np.flatnonzero(held & (values != found)):
            self._note(int(at), column, values[at], found[at])

    def compare_lists(self, column: str, found: Ints) -> None:
        """Lists that have to be the same, where there are any."""
        stored = matrix(self._part.table, column)
        if stored is None:
            return
        if stored.shape != found.shape:
            raise ValueError(
                f"model: expected {stored.shape[1]} classes, as the table has, got {found.shape[1]}"
            )
        for at in np.flatnonzero((stored != found).any(axis=1)):
            self._note(int(at), column, stored[at].tolist(), found[at].tolist())

    def compare_scores(self, stored: Ints, found: Ints, means: NDArray[np.float64]) -> None:
        """Histograms up to a few draws that moved to the bin beside, and means."""
        # A draw that moves by one bin changes one cumulated count by one; by more bins, as many of them.
        moved = np.abs(np.cumsum(stored - found, axis=1)).sum(axis=1)
        allowed = np.maximum(1, np.floor(MOST_MOVED * stored.sum(axis=1)))
        for at in np.flatnonzero(moved > allowed):
            self._note(int(at), "scores", "a histogram", f"one that differs in {moved[at]} draws")
        self.moved = int(moved[moved <= allowed].sum())
        values = self._part.table["confidence"].to_numpy()
        for at in np.flatnonzero(~(np.abs(values - means) <= MEAN_TOLERANCE)):
            self._note(int(at), "confidence", repr(float(values[at])), repr(float(means[at])))

    def compare_ends(self) -> None:
        """What follows from the stored numbers, bit for bit."""
        made, table = self._part.provenance, self._part.table
        if made.kind == "votes":
            self.compare("confidence", table["votes"].to_numpy() / table["n"].to_numpy())
        ends = ends_at_level(table, made, cast(float, made.alpha))
        if ends is None:  # such a table has all that they need
            raise ValueError("certificates: expected the draws of every row")
        for name, column in _ENDS.items():
            values = getattr(ends, name)
            if values is not None:
                self.compare(column, values)

    def _note(self, at: int, column: str, stored: Any, found: Any) -> None:
        self.mismatches.append(
            Mismatch(int(self.rows[at]), int(self._index[at]), column, str(stored), str(found))
        )


def _require_draws(made: Provenance) -> None:
    if made.kind not in ("votes", "scores"):
        raise ValueError(f"certificates: {made.kind} hold no draws, so none can be taken again")
    missing = [name for name in ("seed", "n0") if getattr(made, name) is None]
    if missing or selected_by_estimation(made):
        raise ValueError(
            f"certificates: the table does not say {' and '.join(missing) or 'n0'}, so its draws "
            "cannot be taken again; tables of certcal certify do"
        )


def _require_model(made: Provenance, model: torch.nn.Module) -> None:
    found = model_fingerprint(model)
    if made.model_hash not in (None, found):
        raise ValueError(
            f"model: expected the one that made the table (hash {str(made.model_hash)[:12]}, "
            f"{made.precision}), got another ({found[:12]}): other weights, precision or class"
        )


def _require_base(
    made: Provenance, model: torch.nn.Module, images: torch.Tensor, batch_size: int
) -> None:
    """That draws can be taken again at all, and in the format in which they were."""
    allowed = allowed_by(made.notes)
    if "random" in allowed:
        raise ValueError("certificates: of a random model, whose draws cannot be taken again")
    scores, sigma = made.kind == "scores", cast(float, made.sigma)
    base = checked_base(model, images, sigma, scores=scores, allow=allowed, batch_size=batch_size)
    # Tables of before 0.2 name the formats of the weights, joined where there are several.
    stored = made.precision
    if stored not in (None, base.precision) and base.precision not in str(stored).split("+"):
        raise ValueError(
            f"model: expected it to compute in {stored}, as for the table, got {base.precision}: under "
            "torch.autocast then and not now, or the other way round?"
        )


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
    from certcal_ext.stopping.rules import Stopping

    made = certificates.provenance
    every = 0 if made.stopping is None else Stopping.from_json(made.stopping).planning
    drawn: Ints = certificates.table["planning_draws"].fill_null(every).to_numpy()
    return drawn


def _drawn(certificates: Certificates) -> Ints:
    """(N,) estimation draws; the table says 1 where a row stopped before its first."""
    drawn: Ints = certificates.table["n"].to_numpy()
    if certificates.provenance.stopping is None:
        return drawn
    return np.where(certificates.table["look"].to_numpy() < 0, 0, drawn)


def _of_class(counts: Ints, classes: Ints) -> Ints:
    result: Ints = counts[np.arange(len(counts)), classes]
    return result
