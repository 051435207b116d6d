# SPDX-License-Identifier: MIT
"""Noise, votes and scores as operators of torch, for programs that go through ``torch.compile`` or a CUDA graph.

``torch.ops.certcal.add_noise``, ``count_votes`` and ``score_histogram`` are registered when this module is imported, with
fake kernels. The numbers are those of the functions of the same names in :mod:`certcal_ext`. What differs: these take
tensors only, and as they never wait for a GPU, they cannot raise for what its memory holds: rows of logits with NaN or
infinity are counted in ``faults`` instead, and sample numbers are not looked at.
"""

from __future__ import annotations

from typing import Any, NamedTuple

try:
    import torch
except ImportError as missing:
    raise ImportError(
        'certcal_ext.smoothing.torch_ops needs torch: pip install "certcal_ext[torch]"'
    ) from missing

from certcal_ext._load import core
from certcal_ext._tensors import current_stream
from certcal_ext._threads import num_threads
from certcal_ext.smoothing.noise import (
    MAX_DRAWS,
    MAX_SEED,
    in_memory_order,
    interleaved_channels,
    write_noise,
)
from certcal_ext.smoothing.votes import prepared_logits, write_votes

_NOISE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LOGIT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MAX_BINS = 2**24


class Votes(NamedTuple):
    """What :func:`count_votes` gives.

    Attributes:
        counts: (B, K) int64; a row sums to its draws without those in ``faults``.
        faults: (2,) int64: how many rows of logits hold NaN, and how many others infinity. Not 0: ``counts`` is no vote.
    """

    counts: torch.Tensor
    faults: torch.Tensor


class Scores(NamedTuple):
    """What :func:`score_histogram` gives.

    Attributes:
        counts: (B, J) int64; bin j counts scores in [j/J, (j+1)/J), the last one with 1.
        sums: (B, 2) int64, the sum of the scores in two words: ``(high * 2**26 + low) / 2**52``, rounded down.
        faults: (2,) int64: how many rows of logits hold NaN, and how many others infinity.
    """

    counts: torch.Tensor
    sums: torch.Tensor
    faults: torch.Tensor


def add_noise(
    x: torch.Tensor,
    sigma: float,
    seed: int = 0,
    sample_ids: torch.Tensor | None = None,
    draws: range = range(1),
    dtype: torch.dtype | None = None,
    draw_offset: torch.Tensor | None = None,
) -> torch.Tensor:
    """As :func:`certcal_ext.add_noise`, as an operator; the gradient of each draw with respect to ``x`` is the identity.

    Args:
        x: (B, ...) float32, at least one axis after the first, on CPU or CUDA. A (B, C, H, W) tensor in channels_last memory
            gives draws in channels_last memory.
        sigma: standard deviation, in units of x; at least 0.
        seed: 0 to 2^64 - 1.
        sample_ids: (B,) int64 on the device of x; default 0, ..., B - 1.
        draws: a ``range`` with step 1 within [0, 2^32).
        dtype: ``torch.float32`` (also None), ``torch.float16`` or ``torch.bfloat16``.
        draw_offset: (1,) int64 on the device of x, added to the numbers of the draws, or None for 0. A GPU reads it when
            the noise is drawn. In a CUDA graph it is what tells replays apart: the numbers in ``draws`` are captured, so
            without an offset that moves between replays each of them repeats the same draws. Draws outside of [0, 2^32) are
            an error on the CPU and NaN on a GPU, which nobody waits for.

    Returns:
        (B, len(draws), ...) of ``dtype``.

    Raises:
        TypeError: x, sample_ids or dtype of another dtype.
        ValueError: sigma, seed or draws out of range, wrong shapes, tensors on different devices.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, 1, 8, 8, requires_grad=True)
        >>> noisy = add_noise(x, 0.25, draws=range(10), dtype=torch.bfloat16)
        >>> noisy.shape, noisy.dtype
        (torch.Size([2, 10, 1, 8, 8]), torch.bfloat16)
        >>> noisy.float().sum().backward()
        >>> x.grad.unique()
        tensor([10.])
    """
    _require_dtype("x", x, (torch.float32,))
    if x.ndim < 2:
        raise ValueError(f"x: expected shape (B, ...) with at least two axes, got {tuple(x.shape)}")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma: expected a finite number at least 0, got {sigma}")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed: expected a whole number from 0 to 2^64 - 1, got {seed}")
    if draws.step != 1 or draws.start < 0 or max(draws.start, draws.stop) > MAX_DRAWS:
        raise ValueError(f"draws: expected a range with step 1 within [0, 2^32), got {draws}")
    precision = torch.float32 if dtype is None else dtype
    if precision not in _NOISE_DTYPES:
        raise TypeError(
            f"dtype: expected torch.float32, torch.float16 or torch.bfloat16, got {dtype}"
        )
    if sample_ids is None:
        sample_ids = torch.arange(x.shape[0], device=x.device)
    _require_dtype("sample_ids", sample_ids, (torch.int64,))
    if sample_ids.shape != x.shape[:1]:
        raise ValueError(
            f"sample_ids: expected shape ({x.shape[0]},), got {tuple(sample_ids.shape)}"
        )
    _require_device("sample_ids", sample_ids, x)
    if draw_offset is not None:
        _require_dtype("draw_offset", draw_offset, (torch.int64,))
        if draw_offset.shape != (1,):
            raise ValueError(f"draw_offset: expected shape (1,), got {tuple(draw_offset.shape)}")
        _require_device("draw_offset", draw_offset, x)
    # The integers of torch's operators are signed: the upper half of the seeds comes as negative numbers.
    signed = seed if seed < 2**63 else seed - 2**64
    result: torch.Tensor = torch.ops.certcal.add_noise(
        x, sample_ids, float(sigma), signed, draws.start, len(draws), precision, draw_offset
    )
    return result


def count_votes(logits: torch.Tensor) -> Votes:
    """As :func:`certcal_ext.count_votes`, as an operator; without a gradient.

    Args:
        logits: (B, D, K) floats on CPU or CUDA: D draws of B samples over K classes.

    Returns:
        :class:`Votes`. The lowest index wins ties.

    Raises:
        TypeError: logits are not floats.
        ValueError: not of shape (B, D, K) with K at least 1.

    Example:
        >>> import torch
        >>> count_votes(torch.tensor([[[0.1, 2.0], [3.0, 1.0], [0.0, 5.0]]])).counts
        tensor([[1, 2]])
    """
    _require_logits(logits)
    counts, faults = torch.ops.certcal.count_votes(logits.detach())
    return Votes(counts, faults)


def score_histogram(
    logits: torch.Tensor, classes: torch.Tensor | None = None, bins: int = 100
) -> Scores:
    """As :func:`certcal_ext.score_histogram`, as an operator; without a gradient.

    Args:
        logits: (B, D, K) floats on CPU or CUDA.
        classes: (B,) int64 on the device of logits, the class of each sample. None: the top class of each draw. Classes
            given are checked, which waits for a GPU.
        bins: number J of equal bins of [0, 1], 1 to 2^24.

    Returns:
        :class:`Scores`.

    Raises:
        TypeError: logits are not floats, or classes not int64.
        ValueError: wrong shapes, tensors on different devices, bins or classes out of range.

    Example:
        >>> import torch
        >>> score_histogram(torch.zeros(1, 3, 4), bins=4).counts
        tensor([[0, 3, 0, 0]])
    """
    _require_logits(logits)
    if not 1 <= bins <= _MAX_BINS:
        raise ValueError(f"bins: expected a whole number from 1 to 2^24, got {bins}")
    if classes is not None:
        _require_dtype("classes", classes, (torch.int64,))
        if classes.shape != logits.shape[:1]:
            raise ValueError(
                f"classes: expected shape ({logits.shape[0]},), got {tuple(classes.shape)}"
            )
        _require_device("classes", classes, logits)
    counts, sums, faults = torch.ops.certcal.score_histogram(logits.detach(), classes, bins)
    return Scores(counts, sums, faults)


def _require_dtype(name: str, tensor: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{name}: expected {expected}, got {tensor.dtype}")


def _require_device(name: str, tensor: torch.Tensor, like: torch.Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got one on {tensor.device}")


def _require_logits(logits: torch.Tensor) -> None:
    _require_dtype("logits", logits, _LOGIT_DTYPES)
    if logits.ndim != 3 or logits.shape[2] < 1:
        raise ValueError(f"logits: expected shape (B, D, K) with K >= 1, got {tuple(logits.shape)}")


# ---- registration: schemas, kernels for real and for fake tensors, the gradient -------------------------------------


def _empty_draws(clean: torch.Tensor, draws: int, dtype: torch.dtype) -> torch.Tensor:
    shape = (clean.shape[0], draws, *clean.shape[1:])
    return torch.empty(shape, dtype=dtype, device=clean.device)


def _add_noise(
    x: torch.Tensor,
    sample_ids: torch.Tensor,
    sigma: float,
    seed: int,
    first_draw: int,
    draws: int,
    dtype: torch.dtype,
    draw_offset: torch.Tensor | None = None,
) -> torch.Tensor:
    channels = interleaved_channels(x)
    clean = in_memory_order(x.detach(), channels).contiguous()
    out = _empty_draws(clean, draws, dtype)
    ids, key = sample_ids.contiguous(), seed % (MAX_SEED + 1)
    rows = clean.flatten(1), out.flatten(2)
    write_noise(rows[0], sigma, key, ids, first_draw, rows[1], channels, draw_offset)
    return out if channels == 1 else out.movedim(-1, 2)


def _fake_noise(
    x: torch.Tensor,
    sample_ids: torch.Tensor,
    sigma: float,
    seed: int,
    first_draw: int,
    draws: int,
    dtype: torch.dtype,
    draw_offset: torch.Tensor | None = None,
) -> torch.Tensor:
    channels = interleaved_channels(x)
    out = _empty_draws(in_memory_order(x, channels), draws, dtype)
    return out if channels == 1 else out.movedim(-1, 2)


def _noise_gradient(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (gradient.sum(1, dtype=torch.float32), *[None] * 7)


def _count_votes(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    votes = Votes(*_zero_votes(logits))
    write_votes(prepared_logits("logits", logits), votes.counts, None, None, votes.faults)
    return votes.counts, votes.faults


def _zero_votes(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _, classes = logits.shape
    return _zeros(logits, batch, classes), _zeros(logits, 2)


def _score_histogram(
    logits: torch.Tensor, classes: torch.Tensor | None, bins: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if classes is not None and len(classes):
        low, high = int(classes.min()), int(classes.max())
        if low < 0 or high >= logits.shape[2]:
            raise ValueError(
                f"classes: expected values in [0, {logits.shape[2]}), got {low} to {high}"
            )
    out = _zero_scores(logits, classes, bins)
    core.score_histogram(
        prepared_logits("logits", logits),
        None if classes is None else classes.contiguous(),
        *out,
        threads=num_threads(),
        stream=current_stream(logits),
    )
    return out


def _zero_scores(
    logits: torch.Tensor, classes: torch.Tensor | None, bins: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = logits.shape[0]
    return _zeros(logits, batch, bins), _zeros(logits, batch, 2), _zeros(logits, 2)


def _zeros(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64, device=like.device)


_OPERATORS: tuple[tuple[str, Any, Any, str], ...] = (
    (
        "certcal::add_noise",
        _add_noise,
        _fake_noise,
        "(Tensor x, Tensor sample_ids, float sigma, SymInt seed, SymInt first_draw, SymInt draws, ScalarType dtype,"
        " Tensor? draw_offset=None)"
        " -> Tensor",
    ),
    ("certcal::count_votes", _count_votes, _zero_votes, "(Tensor logits) -> (Tensor, Tensor)"),
    (
        "certcal::score_histogram",
        _score_histogram,
        _zero_scores,
        "(Tensor logits, Tensor? classes, SymInt bins) -> (Tensor, Tensor, Tensor)",
    ),
)
for _name, _kernel, _fake, _schema in _OPERATORS:
    torch.library.custom_op(_name, _kernel, mutates_args=(), schema=_schema).register_fake(_fake)
torch.library.register_autograd("certcal::add_noise", _noise_gradient)
