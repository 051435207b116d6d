# SPDX-License-Identifier: MIT
"""The sampling loop: noisy images through the model into vote counts."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext.noise import PRECISIONS, in_memory_order, interleaved_channels, write_noise
from certcal_ext.votes import fault_message, prepared_logits, write_votes

if TYPE_CHECKING:
    import torch

#: Two evaluations of one image (in another batch, on other threads) differ by rounding only. A vote whose two largest
#: logits are closer than this share of the largest logit is taken from an evaluation of that image alone.
_NEAR_TIE_SHARE = {"float32": 2.0**-14, "float64": 2.0**-40}


class VoteSampler:
    """Counts the votes of noisy images, a rectangle of (samples x draws) at a time.

    Args:
        model: in evaluation mode, called without gradients.
        num_classes: K.
        sigma: standard deviation of the noise.
        seed: key of the noise.
        batch_size: noisy images per forward pass; halved where memory runs out.
        on_draws: called with the number of draws that a finished pass counted.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        num_classes: int,
        sigma: float,
        seed: int,
        batch_size: int,
        on_draws: Callable[[int], None] = lambda draws: None,
    ) -> None:
        self._model = model
        self._num_classes = num_classes
        self._sigma = sigma
        self._seed = seed
        self._batch_size = batch_size
        self._on_draws = on_draws
        self._device = next((p.device for p in model.parameters()), None)
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        own = str(self._dtype or "float32").removeprefix("torch.")
        self._drawn_in = own if own in PRECISIONS else "float32"
        self._buffer: torch.Tensor | None = None

    def counts(
        self, images: torch.Tensor, sample_ids: NDArray[np.int64], first_draw: int, draws: int
    ) -> NDArray[np.int64]:
        """(N, K) votes of draws ``first_draw`` to ``first_draw + draws - 1`` of each of N images.

        Noise is drawn in the precision of the model's parameters, and images in channels_last memory stay so.

        Raises:
            ValueError: logits of the wrong shape, or NaN or infinite ones (counted, with the samples named).
        """
        import torch

        images = images.to(self._device or images.device)
        channels = interleaved_channels(images)
        clean = in_memory_order(images, channels).contiguous()
        ids = torch.from_numpy(sample_ids).to(images.device)
        counts = torch.zeros(
            (len(images), self._num_classes), dtype=torch.int64, device=images.device
        )
        faults = torch.zeros(2, dtype=torch.int64, device=images.device)
        near_ties = torch.zeros(self._batch_size, dtype=torch.uint8, device=images.device)
        unsure: list[tuple[int, int]] = []
        margin: float | None = None
        pending = deque(_tiles(len(images), draws, self._batch_size))
        while pending:
            rows, columns = pending.popleft()
            logits = None
            if (rows.stop - rows.start) * len(columns) <= self._batch_size:
                logits = self._logits_if_they_fit(
                    clean[rows], channels, ids[rows], first_draw + columns.start, len(columns)
                )
            if logits is None:
                pending.extendleft(reversed(_halves(rows, columns)))
                continue
            if margin is None:
                margin = self._margin(logits)
            near = near_ties[: logits.shape[0] * logits.shape[1]].view(logits.shape[:2])
            write_votes(logits, counts[rows], near if margin > 0 else None, margin, faults)
            if any(_values(faults)):
                self._raise_on_faults(faults, sample_ids[rows], near.numel())
            marked = np.argwhere(_values(near)) if margin > 0 else ()
            if len(marked):
                unsure += [(rows.start + b, first_draw + columns.start + d) for b, d in marked]
                near.zero_()
            self._on_draws(logits.shape[0] * logits.shape[1])
        if unsure:
            self._count_alone(clean, channels, ids, unsure, counts, faults)
            self._raise_on_faults(faults, sample_ids, len(unsure))
        result: NDArray[np.int64] = counts.cpu().numpy()
        return result

    def _logits_if_they_fit(
        self, clean: torch.Tensor, channels: int, ids: torch.Tensor, first_draw: int, draws: int
    ) -> Any:
        """``_logits``, or None where memory ran out: half as many images then go into a pass from here on.

        Nothing was counted by then, and a draw does not depend on the batch it is in, so the counts stay the same.
        """
        import torch

        try:
            return self._logits(clean, channels, ids, first_draw, draws)
        except RuntimeError as error:
            images = clean.shape[0] * draws
            if not _is_out_of_memory(error) or images == 1:
                raise
            reason = str(error).splitlines()[0]
        self._buffer = None  # outside of the handler, whose error holds the model's own tensors
        self._batch_size = images // 2
        if clean.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"batch_size: out of memory with {images} images in a pass, going on with {self._batch_size} ({reason})",
            stacklevel=2,
        )
        return None

    def _count_alone(
        self,
        clean: torch.Tensor,
        channels: int,
        ids: torch.Tensor,
        unsure: list[tuple[int, int]],
        counts: torch.Tensor,
        faults: torch.Tensor,
    ) -> None:
        """Adds the votes of (row, draw) pairs, each evaluated alone on one thread: what defines the base classifier."""
        with _one_thread():
            for row, draw in unsure:
                one = slice(row, row + 1)
                logits = self._logits(clean[one], channels, ids[one], draw, 1)
                write_votes(logits, counts[one], None, 0.0, faults)

    def _logits(
        self, clean: torch.Tensor, channels: int, ids: torch.Tensor, first_draw: int, draws: int
    ) -> Any:
        """(B, D, K) logits of D draws of each of B images, which come in the order of memory."""
        import torch

        batch = clean.shape[0]
        size = batch * draws * clean[0].numel()
        if (
            self._buffer is None
            or self._buffer.numel() < size
            or self._buffer.device != clean.device
        ):
            self._buffer = torch.empty(
                size, dtype=getattr(torch, self._drawn_in), device=clean.device
            )
        noisy = self._buffer[:size].view(batch, draws, -1)
        write_noise(
            clean.view(batch, -1), self._sigma, self._seed, ids, first_draw, noisy, channels
        )
        inputs = noisy.view(batch * draws, *clean.shape[1:]).to(self._dtype)
        output = self._model(inputs if channels == 1 else inputs.movedim(-1, 1))
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"model: expected logits as one tensor, got {type(output).__name__}")
        if tuple(output.shape) != (batch * draws, self._num_classes):
            raise ValueError(
                f"model: expected logits of shape ({batch * draws}, {self._num_classes}) for {batch * draws} images and "
                f"num_classes={self._num_classes}, got {tuple(output.shape)}"
            )
        return prepared_logits("model", output).view(batch, draws, self._num_classes)

    def _margin(self, logits: torch.Tensor) -> float:
        name = str(self._dtype or "float32").removeprefix("torch.")
        largest = float(logits.abs().max())
        return _NEAR_TIE_SHARE.get(name, 0.0) * largest if np.isfinite(largest) else 0.0

    def _raise_on_faults(
        self, faults: torch.Tensor, sample_ids: NDArray[np.int64], rows: int
    ) -> None:
        message = fault_message("model", faults.cpu(), rows)
        if message is not None:
            raise ValueError(f"{message}, among samples {sample_ids[0]} to {sample_ids[-1]}")


def _values(tensor: torch.Tensor) -> NDArray[Any]:
    """What a small tensor holds; on the CPU a view, on a GPU a copy that waits for the device."""
    values: NDArray[Any] = tensor.cpu().numpy()
    return values


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    # The CPU's allocator has no error class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _halves(rows: slice, columns: range) -> list[tuple[slice, range]]:
    """The two halves of a rectangle of more than one pair."""
    if len(columns) > 1:
        middle = len(columns) // 2
        return [(rows, columns[:middle]), (rows, columns[middle:])]
    row = (rows.start + rows.stop) // 2
    return [(slice(rows.start, row), columns), (slice(row, rows.stop), columns)]


def _tiles(samples: int, draws: int, batch_size: int) -> Iterator[tuple[slice, range]]:
    """Rectangles of at most ``batch_size`` (sample, draw) pairs that cover all of them."""
    width = min(draws, batch_size)
    height = max(1, batch_size // width)
    for row in range(0, samples, height):
        for first in range(0, draws, width):
            yield slice(row, min(row + height, samples)), range(first, min(first + width, draws))


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
