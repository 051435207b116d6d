# SPDX-License-Identifier: MIT
"""The sampling loop: noisy images through the model into votes and scores."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext._tensors import handed_over
from certcal_ext._threads import num_threads
from certcal_ext.model_state import coarsest, formats_seen, is_out_of_memory, place_of
from certcal_ext.smoothing.near_ties import Margins, Marks, calls_near_ties, on_host
from certcal_ext.smoothing.noise import (
    PRECISIONS,
    in_memory_order,
    interleaved_channels,
    write_noise,
)
from certcal_ext.smoothing.passes import GraphedPass, Window, halves, on_gpu, one_thread, tiles
from certcal_ext.smoothing.votes import (
    ScoreHistogram,
    Tallies,
    fault_message,
    prepared_logits,
    write_votes,
)

if TYPE_CHECKING:
    import torch

#: On the CPU noise is read again while it is still in the cache: a pass then holds at most so much of it for each thread,
#: but never fewer images than keep a thread busy.
_CACHED_BYTES, _FEWEST_IMAGES = 3 * 2**20, 32


@dataclass(frozen=True)
class Counts:
    """What the draws of N samples gave; those of two sets of draws add.

    Attributes:
        votes: (N, K) int64.
        scores: softmax scores of each sample's class; None where none were asked for.
    """

    votes: NDArray[np.int64]
    scores: ScoreHistogram | None = None

    @classmethod
    def joined(cls, parts: Sequence[Counts]) -> Counts:
        """The samples of all parts, in order."""
        scores = [part.scores for part in parts if part.scores is not None]
        pairs = ([one.counts for one in scores], [one.sums for one in scores])
        votes = np.concatenate([part.votes for part in parts])
        return cls(votes, ScoreHistogram(*map(np.concatenate, pairs)) if scores else None)


@dataclass(frozen=True)
class _Images:
    """Clean images on the device, and what names their draws.

    What each pass hands to the compiled module is made ready here, once: see ``handed_over``.
    """

    shape: tuple[int, ...]  # of one image in the order of memory
    pixels: Any  # (N, E) float32 in that order
    channels: int  # that are interleaved there
    ids: Any  # (N,) int64
    first_draws: NDArray[np.int64]  # (N,)
    runs: list[slice]  # neighbours with one first draw
    device: torch.device


class Sampler:
    """Counts votes and scores of noisy images, a rectangle of (samples x draws) at a time.

    Votes do not depend on batch size or thread count: where a batch could have tipped one, it is taken from that image
    alone, on one thread.

    Scores are those of the batches as they came; with the same batch size, thread count and machine they are the same to
    the last bit. Another batch size rounds logits differently. A score within that of the edge of a bin may then be
    counted in the next one, and the mean moves in its eighth digit (a small network with widely spread scores, 1000 bins:
    1 of 20,000 scores moved between batches of 1 and of 1000 images, none of 80,000 between 7, 64, 250 and 1000). Such
    scores are not evaluated alone: one in fifty lies within 1e-5 of an edge, an image alone takes ten times as long there
    and leaves a GPU idle, and the last bits of the mean would move still. The certificate holds for either.

    Passes are not waited for: a GPU is read once for a rectangle (or some thousand passes of it), see :class:`Marks`.

    Args:
        model: in evaluation mode, called without gradients.
        num_classes: K.
        sigma: standard deviation of the noise.
        seed: key of the noise.
        batch_size: most noisy images in one forward pass; halved where memory runs out.
        on_draws: called with the number of draws of a pass that was counted, or given to a GPU.
        unread_passes: see :class:`Marks`.
        graph: on a GPU, capture noise and model once a shape of pass and replay them (near ties too): the host then does
            little a pass, which is what small models wait for. The model must be capturable: the same work for all images
            of a shape, and no waiting for the device.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        num_classes: int,
        sigma: float,
        seed: int,
        batch_size: int,
        on_draws: Callable[[int], None] = lambda draws: None,
        unread_passes: int | None = None,
        graph: bool = False,
    ) -> None:
        self._model = model
        self.num_classes, self.largest_batch = num_classes, batch_size
        self._sigma = sigma
        self._seed = seed
        self._batch_size = batch_size
        self._on_draws = on_draws
        self._unread_passes = unread_passes
        self._device, self._dtype = place_of(model)
        self._weights = str(self._dtype or "float32").removeprefix("torch.")
        self._drawn_in = self._weights if self._weights in PRECISIONS else "float32"
        self._precision: str | None = None  # what it computes in, seen in the first pass
        self._buffer: torch.Tensor | None = None
        self._handed_buffer: Any = None
        self._graph = graph
        self._graphs: dict[tuple[Any, ...], GraphedPass] = {}
        self._window: Window | None = None

    def gather(
        self,
        images: torch.Tensor,
        sample_ids: NDArray[np.int64],
        first_draw: int | NDArray[np.int64],
        draws: int,
        score_classes: NDArray[np.int64] | None = None,
        score_bins: int = 1000,
    ) -> Counts:
        """Votes, and scores of one class a sample, of so many draws of each of N images.

        Noise is drawn in the precision of the model's parameters, and images in channels_last memory stay so.

        Args:
            images: (N, ...) float32.
            sample_ids: (N,) int64, the samples' numbers in the noise.
            first_draw: the first draw, one for all or (N,), fastest where equal ones are neighbours.
            draws: how many.
            score_classes: (N,) classes whose scores are counted, in the same passes; None counts votes only.
            score_bins: J.

        Returns:
            :class:`Counts`.

        Raises:
            TypeError: a model that does not give one tensor of floats.
            ValueError: logits of the wrong shape, or NaN or infinite ones (counted, with the samples named).
        """
        given = self._given(images, sample_ids, first_draw)
        tallies = self._tallies(len(images), score_classes, score_bins, given.device)
        size = self._most_in_a_pass(given)
        # On a GPU all passes have one shape; on the CPU that would only be work.
        one_shape = on_gpu(given.device) and len(images) * draws > 0
        self._window = Window.of(len(images), draws, size) if one_shape else None
        pending = deque(self._window.tiles() if self._window else tiles(len(images), draws, size))
        marks = Marks(sample_ids, len(images) * draws, size, given.device, self._unread_passes)
        margins: Margins | None = None
        alone: list[tuple[int, int]] = []
        while pending:
            rows, columns = pending.popleft()
            logits = None
            if (rows.stop - rows.start) * len(columns) <= self._batch_size:
                logits = self._logits_if_they_fit(given, rows, columns)
            if logits is None:
                pending.extendleft(reversed(halves(rows, columns)))
                continue
            margins = margins or Margins(str(self._precision), len(images), given.device)
            near, faults = marks.of_pass(rows, columns)
            tallies.add(logits, rows, near, margins.after(logits, rows), faults)
            if marks.full:
                alone += marks.read()
            self._on_draws(logits.shape[0] * logits.shape[1])
        alone += marks.read()
        self._count_alone(given, sample_ids, alone, tallies.votes)
        votes = on_host(tallies.votes)
        if tallies.classes is None:
            return Counts(votes)
        return Counts(votes, ScoreHistogram(on_host(tallies.histogram), on_host(tallies.sums)))

    def _given(
        self,
        images: torch.Tensor,
        sample_ids: NDArray[np.int64],
        first_draw: int | NDArray[np.int64],
    ) -> _Images:
        import torch

        images = images.to(self._device or images.device)
        channels = interleaved_channels(images)
        clean = in_memory_order(images, channels).contiguous()
        first_draws = np.broadcast_to(np.asarray(first_draw, np.int64), len(images))
        cuts = [0, *(np.flatnonzero(np.diff(first_draws)) + 1).tolist(), len(images)]
        return _Images(
            shape=tuple(clean.shape[1:]),
            pixels=handed_over(clean.view(len(images), -1)),
            channels=channels,
            ids=handed_over(torch.from_numpy(sample_ids).to(clean.device)),
            first_draws=first_draws,
            runs=[slice(a, b) for a, b in pairwise(cuts)],
            device=clean.device,
        )

    def _tallies(
        self,
        samples: int,
        score_classes: NDArray[np.int64] | None,
        score_bins: int,
        device: torch.device,
    ) -> Tallies:
        import torch

        def zeros(*shape: int) -> Any:
            return handed_over(torch.zeros(shape, dtype=torch.int64, device=device))

        votes = zeros(samples, self.num_classes)
        if score_classes is None:
            return Tallies(votes)
        classes = torch.from_numpy(np.ascontiguousarray(score_classes, np.int64)).to(device)
        return Tallies(votes, handed_over(classes), zeros(samples, score_bins), zeros(samples, 2))

    def images_of_a_pass(self, image: torch.Tensor) -> int:
        """Noisy images of a forward pass, at most, where the image (1, ...) is typical."""
        return self._most_in_a_pass(self._given(image, np.zeros(1, np.int64), 0))

    def _most_in_a_pass(self, given: _Images) -> int:
        """Images of a pass: all that a GPU may have, and on the CPU what the cache holds."""
        import torch

        reduced = torch.is_autocast_enabled("cpu") or not calls_near_ties(self._weights)
        if given.device.type != "cpu" or reduced:
            return self._batch_size  # in half precision counts are those of the batches
        threads = num_threads()
        cached = _CACHED_BYTES * threads // int(given.pixels[0].nbytes)
        return min(self._batch_size, max(cached, _FEWEST_IMAGES * threads))

    def _logits_if_they_fit(self, given: _Images, rows: slice, columns: range) -> Any:
        """``_windowed``, or None where memory ran out: half as many images then go into a pass from here on.

        Nothing was counted by then, and a draw does not depend on the batch it is in, so the counts stay the same.
        """
        import torch

        try:
            return self._windowed(given, rows, columns)
        except (RuntimeError, MemoryError) as error:
            images = (rows.stop - rows.start) * len(columns)
            if not is_out_of_memory(error) or images == 1:
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
        self._buffer = self._handed_buffer = (
            None  # outside of the handler, whose error holds the model's own tensors
        )
        self._graphs, self._window = {}, None
        self._batch_size = images // 2
        if given.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"batch_size: out of memory with {images} images in a pass, going on with {self._batch_size} ({reason})",
            stacklevel=2,
        )
        return None

    def _count_alone(
        self,
        given: _Images,
        sample_ids: NDArray[np.int64],
        pairs: list[tuple[int, int]],
        votes: Any,
    ) -> None:
        """Adds the votes of (row, column) pairs, each evaluated alone on one thread: what defines the base classifier."""
        import torch

        if not pairs:
            return
        faults = torch.zeros(2, dtype=torch.int64, device=given.device)
        with one_thread():
            for row, column in pairs:
                one = slice(row, row + 1)
                write_votes(self._logits(given, one, column, 1), votes[one], None, None, faults)
        message = fault_message("model", on_host(faults), len(pairs))
        if message is not None:
            raise ValueError(f"{message}, among samples {sample_ids[0]} to {sample_ids[-1]}")

    def _windowed(self, given: _Images, rows: slice, columns: range) -> Any:
        """(B, D, K) logits of some draws of some images, from a pass of the one shape where there is one."""
        if self._window is None:
            return self._logits(given, rows, columns.start, len(columns))
        of_pass, drawn = self._window.around(rows, columns)
        logits = self._logits(given, of_pass, drawn.start, len(drawn))
        row, column = rows.start - of_pass.start, columns.start - drawn.start
        there = slice(row, row + rows.stop - rows.start), slice(column, column + len(columns))
        return logits[there].contiguous()

    def _logits(self, given: _Images, rows: slice, first_column: int, draws: int) -> Any:
        """(B, D, K) logits of D draws of each of B images."""
        batch = rows.stop - rows.start
        first_draws = given.first_draws[rows]
        # The very first pass is watched, and then all that it does is done.
        captures = self._graph and on_gpu(given.device) and self._precision is not None
        if captures and (first_draws == first_draws[0]).all():
            return self._replayed(given, rows, int(first_draws[0]) + first_column, draws)
        noisy, out = self._noise_buffer(batch * draws * math.prod(given.shape), given.device)
        out = out.reshape(batch, draws, -1)
        for run in given.runs:
            start, stop = max(run.start, rows.start), min(run.stop, rows.stop)
            if start < stop:
                write_noise(
                    given.pixels[start:stop],
                    self._sigma,
                    self._seed,
                    given.ids[start:stop],
                    int(given.first_draws[start]) + first_column,
                    out[start - rows.start : stop - rows.start],
                    given.channels,
                )
        return self._checked(self._run(self._inputs(given, noisy)), batch, draws)

    def _inputs(self, given: _Images, noisy: torch.Tensor) -> torch.Tensor:
        """Noise in the order of memory as the model takes it."""
        inputs = noisy.view(-1, *given.shape).to(self._dtype)
        return inputs if given.channels == 1 else inputs.movedim(-1, 1)

    def _replayed(self, given: _Images, rows: slice, first_draw: int, draws: int) -> Any:
        """``_logits`` from a graph, of draws that begin at one number."""
        import torch

        batch = rows.stop - rows.start
        pixels, ids = torch.as_tensor(given.pixels[rows]), torch.as_tensor(given.ids[rows])

        def compute(pixels: torch.Tensor, ids: torch.Tensor, first: torch.Tensor) -> Any:
            shape = batch, draws, math.prod(given.shape)
            noisy = torch.empty(shape, dtype=getattr(torch, self._drawn_in), device=pixels.device)
            write_noise(pixels, self._sigma, self._seed, ids, 0, noisy, given.channels, first)
            return self._checked(self._model(self._inputs(given, noisy)), batch, draws)

        key = batch, draws, given.shape, given.channels, given.device
        if key not in self._graphs:
            self._graphs[key] = GraphedPass(compute, pixels, ids)
        return self._graphs[key].logits(pixels, ids, first_draw)

    def _run(self, inputs: torch.Tensor) -> Any:
        """The model; the first pass is watched."""
        if self._precision is not None:
            return self._model(inputs)
        with formats_seen() as seen:
            output = self._model(inputs)
        self._precision = coarsest(seen, self._weights)
        return output

    def _noise_buffer(self, size: int, device: torch.device) -> tuple[torch.Tensor, Any]:
        """Room for so many values, as a tensor and ready to be handed over."""
        import torch

        if self._buffer is None or self._buffer.numel() < size or self._buffer.device != device:
            self._buffer = torch.empty(size, dtype=getattr(torch, self._drawn_in), device=device)
            self._handed_buffer = handed_over(self._buffer)
        return self._buffer[:size], self._handed_buffer[:size]

    def _checked(self, output: Any, batch: int, draws: int) -> Any:
        import torch

        if not isinstance(output, torch.Tensor):
            raise TypeError(f"model: expected logits as one tensor, got {type(output).__name__}")
        if tuple(output.shape) != (batch * draws, self.num_classes):
            raise ValueError(
                f"model: expected logits of shape ({batch * draws}, {self.num_classes}) for {batch * draws} images and "
                f"num_classes={self.num_classes}, got {tuple(output.shape)}"
            )
        return prepared_logits("model", output).view(batch, draws, self.num_classes)
