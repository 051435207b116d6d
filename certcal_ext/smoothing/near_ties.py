# SPDX-License-Identifier: MIT
"""What passes over the model leave on the device until somebody looks: votes that were too close to call, and faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext._tensors import handed_over
from certcal_ext.model_checks import ROUNDING_SHARE
from certcal_ext.smoothing.votes import fault_message

if TYPE_CHECKING:
    import torch

#: A GPU is read after so many passes, or (sample, draw) pairs: rarely enough to keep it busy, in 16 MiB.
_GPU_PASSES, _GPU_PAIRS = 4096, 2**24


def calls_near_ties(precision: str) -> bool:
    """Whether rounding in this precision is fine enough that votes can be told from near ties."""
    return precision in ROUNDING_SHARE


class Margins:
    """How close the two largest logits of an image may be before its vote is taken from an evaluation of it alone.

    Rounding is a share of the numbers that it happens to, so each sample has a margin of its own: a share of the largest
    logit seen in any of its draws so far. The draw's own largest logit would not do, as a near tie is just where that may
    be small (logits z and -z). They grow on the device; nothing is waited for.

    Args:
        precision: what the model computes in.
        samples: N.
        device: where the logits are.
    """

    def __init__(self, precision: str, samples: int, device: torch.device) -> None:
        import torch

        self._share = ROUNDING_SHARE.get(precision)
        self._margins = torch.zeros(samples, dtype=torch.float64, device=device)
        self._handed = handed_over(self._margins)

    def after(self, logits: torch.Tensor, rows: slice) -> Any:
        """(B,) margins of some samples whose next (B, D, K) logits these are; None where near ties cannot be told."""
        if self._share is None:
            return None
        if isinstance(self._handed, np.ndarray):
            values = handed_over(logits).reshape(len(logits), -1)
            seen = np.maximum(values.max(axis=1), -values.min(axis=1))
            np.maximum(self._handed[rows], self._share * seen, out=self._handed[rows])
        else:
            import torch

            seen = torch.linalg.vector_norm(logits, torch.inf, dim=(1, 2), dtype=torch.float64)
            margins = self._margins[rows]
            torch.maximum(margins, seen.mul_(self._share), out=margins)
        return self._handed[rows]


def on_host(values: Any) -> NDArray[Any]:
    """An array as it is, or a copy of a tensor on a GPU, which is waited for."""
    array: NDArray[Any] = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    return array


@dataclass(frozen=True)
class _Pass:
    """A pass that was not read yet: a rectangle of (sample, draw) pairs, and where its flags begin."""

    rows: slice
    columns: range
    flags: int


class Marks:
    """Flags of near ties and counts of faults, a piece for each pass, read together.

    Reading waits for a GPU to finish all that it was given, so there it is done once in many passes. On the CPU nothing
    is gained by waiting, and each pass is read at once: a fault is told as early as it can be.

    Args:
        sample_ids: (N,) numbers that errors name the samples by.
        pairs: how many (sample, draw) pairs there are in all.
        largest_pass: most pairs of one pass.
        device: where the logits are.
        unread_passes: passes between two readings; None: 1 on the CPU, thousands on a GPU.
    """

    def __init__(
        self,
        sample_ids: NDArray[np.int64],
        pairs: int,
        largest_pass: int,
        device: torch.device,
        unread_passes: int | None = None,
    ) -> None:
        import torch

        if unread_passes is None:
            unread_passes = 1 if device.type == "cpu" else _GPU_PASSES
        self._sample_ids = sample_ids
        self._largest_pass = largest_pass
        flags = largest_pass + (0 if unread_passes == 1 else min(pairs, _GPU_PAIRS))
        self._flags = torch.zeros(flags, dtype=torch.uint8, device=device)
        self._faults = torch.zeros((unread_passes, 2), dtype=torch.int64, device=device)
        self._handed = handed_over(self._flags), handed_over(self._faults)
        self._unread: list[_Pass] = []
        self._used = 0

    def of_pass(self, rows: slice, columns: range) -> tuple[Any, Any]:
        """The (B, D) flags and the two words of faults, all zero, that the next pass may write."""
        size = (rows.stop - rows.start) * len(columns)
        flags = self._handed[0][self._used : self._used + size].reshape(-1, len(columns))
        faults = self._handed[1][len(self._unread)]
        self._unread.append(_Pass(rows, columns, self._used))
        self._used += size
        return flags, faults

    @property
    def full(self) -> bool:
        """Whether another pass may not fit before what there is was read."""
        no_flags = self._used + self._largest_pass > len(self._flags)
        return no_flags or len(self._unread) == len(self._faults)

    def read(self) -> list[tuple[int, int]]:
        """The (row, column) of each near tie since the last reading. Waits for a GPU, twice.

        Raises:
            ValueError: NaN or infinite logits; the samples of the first such pass are named.
        """
        import torch

        passes, used = self._unread, self._used
        self._unread, self._used = [], 0
        if not passes or self._empty(len(passes), used):
            return []
        places = self._flags[:used].nonzero()[:, 0]  # waits for their number
        words = torch.cat([self._faults[: len(passes)].flatten(), places]).cpu().numpy()
        faults = words[: 2 * len(passes)].reshape(-1, 2)
        if faults.any():
            first = int(faults.any(axis=1).argmax())
            self._raise(passes[first], faults[first])
        found = words[2 * len(passes) :]
        if not found.size:
            return []
        self._flags[:used].zero_()
        begins = np.array([one.flags for one in passes])
        of = np.searchsorted(begins, found, side="right") - 1
        return [_place(passes[p], int(flag)) for p, flag in zip(of, found, strict=True)]

    def _empty(self, passes: int, used: int) -> bool:
        """Whether nothing is marked, where that can be told for next to nothing: on the CPU."""
        flags, faults = self._handed
        return isinstance(flags, np.ndarray) and not (flags[:used].any() or faults[:passes].any())

    def _raise(self, faulty: _Pass, faults: NDArray[np.int64]) -> None:
        ids = self._sample_ids[faulty.rows]
        message = fault_message("model", faults, len(ids) * len(faulty.columns))
        raise ValueError(f"{message}, among samples {ids[0]} to {ids[-1]}")


def _place(one: _Pass, flag: int) -> tuple[int, int]:
    row, column = divmod(flag - one.flags, len(one.columns))
    return one.rows.start + row, one.columns[column]
