# SPDX-License-Identifier: MIT
"""Certified metrics as losses: their exact values, and gradients by the envelope theorem."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from certcal_ext.bins import Bins
from certcal_ext.metrics.ece_table import CertifiedEce, EceTable

Floats = NDArray[np.float64]


class Summed(Protocol):
    """Adds up arrays of integers over processes."""

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    def summed(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum over all processes."""
        ...


def certified_brier_terms(
    correct: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor
) -> torch.Tensor:
    """(1 - l)^2 where the prediction is right, u^2 where it is wrong: the worst squared error of each sample.

    Args:
        correct: (B,) bool, or 0 and 1.
        lower: (B,) lower ends.
        upper: (B,) upper ends.

    Returns:
        (B,) whose mean is the certified Brier score; differentiable in both ends.

    Source:
        Emde et al. (ICLR 2025), the certified Brier score.

    Example:
        >>> ends = torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.5])
        >>> certified_brier_terms(torch.tensor([True, False]), *ends)
        tensor([0.2500, 0.2500])
    """
    return torch.where(correct.bool(), (1 - lower) ** 2, upper**2)


def certified_ece_terms(
    correct: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    *,
    bins: int = 15,
    closed: str = "right",
    solved: CertifiedEce | None = None,
) -> torch.Tensor:
    """Each sample's part s (c - z) of the exact certified ECE; the mean over all samples of the table is its value.

    The worst confidence z of a sample is one of its ends or an edge of a bin, and s is the sign of the bin that it lies in.
    By the envelope theorem the gradient of the maximum is that of its terms with signs and bins held: -1 at l for z = l in
    a + bin, +1 at u for z = u in a - bin, 0 at an edge. It is exact wherever the worst case is unique.

    Args:
        correct: (B,) bool, or 0 and 1.
        lower: (B,) float64 lower ends.
        upper: (B,) float64 upper ends.
        bins: number M of bins of equal width.
        closed: which end of a bin belongs to it.
        solved: the worst case of a table that holds these samples, such as one of several processes; None solves for them.

    Returns:
        (B,) float64, differentiable in both ends.

    Raises:
        ValueError: no samples, or ends that are not ordered in [0, 1].

    Source:
        The value: ``certified_ece``. The gradient: this project; the envelope theorem of Danskin.

    Example:
        >>> l, u = torch.tensor([0.5, 0.25]).double(), torch.tensor([1.0, 0.5]).double()
        >>> certified_ece_terms(torch.tensor([1, 0]), l, u, bins=2).mean()
        tensor(0.5000, dtype=torch.float64)
    """
    right, high = correct.detach().cpu().numpy(), _ends(upper)
    low = np.minimum(_ends(lower), high)  # equal ends may have crossed by a last bit
    if solved is None:
        table = EceTable(bins, None, closed)
        table.update(right, low, high)
        solved = table.certify()
    worst = solved.worst_confidence_of(right, low, high)
    signs = solved.signs[solved.cells.index(worst)].astype(np.float64)
    device = lower.device
    value = torch.from_numpy(signs * (right.astype(np.float64) - worst)).to(device)
    falls = torch.from_numpy((signs > 0) & (worst == low)).to(device)
    rises = torch.from_numpy((signs < 0) & (worst == high)).to(device)
    # The differences are zero and carry the gradient.
    return (
        value
        - torch.where(falls, lower - lower.detach(), 0.0)
        + torch.where(rises, upper - upper.detach(), 0.0)
    )


def solve_over_processes(
    correct: Floats | NDArray[np.bool_],
    lower: Floats,
    upper: Floats,
    bins: Bins,
    group: Summed,
    memory: TableMemory | None = None,
) -> CertifiedEce:
    """The exact worst case over the samples of all processes: tables add, so theirs are summed.

    Args:
        correct: (B,) of this process.
        lower: (B,) of this process.
        upper: (B,) of this process.
        bins: the bins.
        group: sums over the processes.
        memory: of the batches before, which are added; this batch is kept in it. None: only this batch.

    Returns:
        ``CertifiedEce``.

    Example:
        >>> from certcal_ext.bins import Bins
        >>> from certcal_ext.distributed import Group
        >>> solve_over_processes([True], [0.5], [1.0], Bins.of(2), Group()).value
        0.5
    """
    table = EceTable(bins)
    table.update(correct, lower, upper)
    if memory is None and group.size == 1:
        return table.certify()
    state = group.summed(table.state())
    if memory is not None:
        state = memory.with_new(state)
    return EceTable.from_state(state, bins).certify()


class TableMemory:
    """The tables of the last batches: with them the signs of the bins come from more samples than one batch has.

    Args:
        window: how many batches count, the present one too.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._states: list[NDArray[np.int64]] = []

    def with_new(self, state: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keeps a batch and returns the sum over the window."""
        self._states = [*self._states, state][-self.window :]
        total: NDArray[np.int64] = np.sum(self._states, axis=0, dtype=np.int64)
        return total

    def state(self) -> list[torch.Tensor]:
        """What a checkpoint keeps."""
        return [torch.from_numpy(state.copy()) for state in self._states]

    def restore(self, states: list[torch.Tensor]) -> None:
        """Goes on from what a checkpoint kept."""
        self._states = [state.numpy().copy() for state in states]


def _ends(values: torch.Tensor) -> Floats:
    """Ends as the table takes them: rounding may have taken them past 0 or 1 by a last bit."""
    result: Floats = values.detach().double().cpu().numpy()
    return np.clip(result, 0.0, 1.0)
