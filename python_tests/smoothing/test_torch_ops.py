# SPDX-License-Identifier: MIT
"""The operators of torch: what the functions of the same names give, for torch.compile too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch

import certcal_ext as cc
from certcal_ext.smoothing import torch_ops

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def images(layout: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    x = torch.rand(3, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=layout)


def some_logits(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(4, 33, 10, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_noise_is_that_of_the_function(
    dtype: torch.dtype, layout: torch.memory_format, seed: int
) -> None:
    x, ids = images(layout), torch.tensor([5, 2**40, 0])
    draws = range(3, 8)
    noisy = torch_ops.add_noise(x, 0.3, seed, ids, draws, dtype)
    expected = cc.add_noise(x, 0.3, seed, ids, draws, dtype)
    assert torch.equal(noisy, expected)
    assert noisy.stride() == expected.stride()
    assert torch.equal(torch_ops.add_noise(x, 0.3), cc.add_noise(x, 0.3))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1), (2, 3, 4, 5, 6)])
def test_noise_of_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    for draws in (range(0), range(4)):
        assert torch.equal(
            torch_ops.add_noise(x, 0.1, draws=draws), cc.add_noise(x, 0.1, draws=draws)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_of_each_draw_is_the_identity(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    x = images(layout).requires_grad_()
    noisy = torch_ops.add_noise(x, 0.3, draws=range(6), dtype=dtype)
    weights = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    noisy.backward(weights)
    assert x.grad is not None
    assert torch.equal(x.grad, weights.sum(1, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_votes_and_scores_are_those_of_the_functions(dtype: torch.dtype) -> None:
    logits, classes = some_logits(dtype), torch.tensor([0, 9, 3, 3])
    votes = torch_ops.count_votes(logits)
    assert torch.equal(votes.counts, cc.count_votes(logits))
    assert votes.faults.tolist() == [0, 0]
    for chosen in (None, classes):
        scores = torch_ops.score_histogram(logits, chosen, 50)
        expected = cc.score_histogram(logits, chosen, 50)
        assert torch.equal(scores.counts, expected.counts)
        assert torch.equal(scores.sums, expected.sums)
        assert scores.faults.tolist() == [0, 0]


def test_rows_with_nan_and_infinity_are_counted_not_raised() -> None:
    logits = some_logits()
    logits[0, 0, 3], logits[1, 2, 3], logits[1, 3, 0] = float("nan"), float("inf"), -float("inf")
    assert torch_ops.count_votes(logits).faults.tolist() == [1, 2]
    assert torch_ops.count_votes(logits).counts.sum() == 4 * 33 - 3
    assert torch_ops.score_histogram(logits).faults.tolist() == [1, 2]


def test_integers_have_no_gradient() -> None:
    logits = some_logits().requires_grad_()
    outputs = [*torch_ops.count_votes(logits), *torch_ops.score_histogram(logits)]
    assert not any(output.requires_grad for output in outputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tracked", [False, True])
def test_opcheck_of_noise(dtype: torch.dtype, layout: torch.memory_format, tracked: bool) -> None:
    x = images(layout).requires_grad_(tracked)
    arguments = (x, torch.tensor([4, 5, 6]), 0.25, -3, 2, 4, dtype)
    torch.library.opcheck(torch.ops.certcal.add_noise.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_of_votes_and_scores(dtype: torch.dtype) -> None:
    logits = some_logits(dtype)
    torch.library.opcheck(torch.ops.certcal.count_votes.default, (logits,))
    for classes in (None, torch.tensor([0, 9, 3, 3])):
        torch.library.opcheck(torch.ops.certcal.score_histogram.default, (logits, classes, 20))


def whole(x: torch.Tensor, ids: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Draws, a linear model and its counts: what one would compile."""
    noisy = torch_ops.add_noise(x, 0.25, seed=7, sample_ids=ids, draws=range(2, 10))
    logits = noisy.flatten(2) @ weight
    votes = torch_ops.count_votes(logits)
    scores = torch_ops.score_histogram(logits, votes.counts.argmax(1), bins=20)
    return noisy, votes.counts, votes.faults, scores.counts, scores.sums


# torch's own inductor backend, while it is imported, uses what torch has deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_as_one_graph_equals_eager(backend: str, layout: torch.memory_format) -> None:
    compiled: Any = torch.compile(whole, fullgraph=True, backend=backend)
    # Weights that are powers of two times small integers, so that no order of summation rounds.
    weight = torch.zeros(105, 4)
    weight[torch.arange(4), torch.arange(4)] = 1.0
    arguments = images(layout), torch.tensor([1, 2, 3]), weight
    for got, expected in zip(compiled(*arguments), whole(*arguments), strict=True):
        assert torch.equal(got, expected)
        assert got.stride() == expected.stride()


def test_compiled_with_any_batch_size_and_with_gradient() -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        return (torch_ops.add_noise(x, 0.25, draws=range(5)) ** 2).sum()

    compiled: Any = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 3, 7):
        x, y = (torch.rand(batch, 6, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        compiled(x.requires_grad_()).backward()
        loss(y.requires_grad_()).backward()
        assert x.grad is not None
        assert y.grad is not None
        assert torch.equal(x.grad, y.grad)


def test_the_package_does_not_import_torch_for_them() -> None:
    code = "import sys, certcal_ext, certcal_ext.smoothing.noise; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_without_torch_the_module_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import certcal_ext.smoothing.torch_ops"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert 'needs torch: pip install "certcal_ext[torch]"' in run.stderr


class TestBadInput:
    X = torch.zeros(2, 3)

    @pytest.mark.parametrize(
        ("change", "kind", "message"),
        [
            ({"x": X.double()}, TypeError, "x: expected torch.float32, got torch.float64"),
            ({"x": torch.zeros(3)}, ValueError, r"x: expected shape \(B, \.\.\.\)"),
            ({"sigma": -1.0}, ValueError, "sigma: expected a finite number at least 0, got -1"),
            ({"sigma": float("nan")}, ValueError, "sigma"),
            ({"seed": -1}, ValueError, "seed"),
            ({"seed": 2**64}, ValueError, "seed"),
            ({"draws": range(0, 4, 2)}, ValueError, "draws"),
            ({"draws": range(-1, 4)}, ValueError, "draws"),
            ({"dtype": torch.float64}, TypeError, "dtype: expected torch.float32, torch.float16"),
            ({"sample_ids": X[0]}, TypeError, "sample_ids: expected torch.int64"),
            ({"sample_ids": torch.arange(3)}, ValueError, r"sample_ids: expected shape \(2,\)"),
            ({"sample_ids": torch.arange(2, device="meta")}, ValueError, "sample_ids.*on cpu"),
        ],
    )
    def test_noise(self, change: dict[str, Any], kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            torch_ops.add_noise(**{"x": self.X, "sigma": 0.1, **change})

    def test_votes_and_scores(self) -> None:
        for function in (torch_ops.count_votes, torch_ops.score_histogram):
            with pytest.raises(TypeError, match=r"logits: expected .*, got torch.int64"):
                function(torch.zeros(1, 2, 3, dtype=torch.int64))
            for shape in ((2, 3), (1, 2, 0)):
                with pytest.raises(ValueError, match=r"logits: expected shape \(B, D, K\)"):
                    function(torch.zeros(shape))

    @pytest.mark.parametrize(
        ("classes", "bins", "kind", "message"),
        [
            ([10, 0, 0, 0], 9, ValueError, r"classes: expected values in \[0, 10\), got 0 to 10"),
            ([0, 0, 0, -1], 9, ValueError, r"classes: expected values in \[0, 10\), got -1 to 0"),
            ([0], 9, ValueError, r"classes: expected shape \(4,\), got \(1,\)"),
            ([0.0], 9, TypeError, "classes: expected torch.int64"),
            ([0] * 4, 0, ValueError, "bins"),
        ],
    )
    def test_classes_and_bins(
        self, classes: list[Any], bins: int, kind: type[Exception], message: str
    ) -> None:
        with pytest.raises(kind, match=message):
            torch_ops.score_histogram(some_logits(), torch.tensor(classes), bins)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_offset_moves_the_draws_of_one_traced_program(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """What is captured holds one range of draws; the tensor alone tells its runs apart."""
    x, ids, offset = images(layout), torch.tensor([5, 2**40, 0]), torch.zeros(1, dtype=torch.int64)

    def drawn(to: torch.Tensor) -> torch.Tensor:
        return torch_ops.add_noise(x, 0.3, 7, ids, range(3, 8), dtype, to)

    traced = torch.compile(drawn, backend="aot_eager", fullgraph=True)
    for run in (drawn, traced):
        seen = []
        for first in (0, 11, 2**31, 2**32 - 5):
            offset.fill_(first - 3)
            noisy = run(offset)
            assert torch.equal(noisy, cc.add_noise(x, 0.3, 7, ids, range(first, first + 5), dtype))
            seen.append(noisy.clone())
        assert not any(torch.equal(a, b) for a, b in pairwise(seen))
    for outside in (-4, 2**32 - 7):
        offset.fill_(outside)
        with pytest.raises(ValueError, match="draw_offset: expected draws within"):
            drawn(offset)


@pytest.mark.parametrize(
    ("offset", "error", "message"),
    [
        (torch.zeros(1), TypeError, "draw_offset: expected torch.int64, got torch.float32"),
        (torch.zeros(2, dtype=torch.int64), ValueError, r"draw_offset: expected shape \(1,\)"),
        (torch.tensor(0), ValueError, r"draw_offset: expected shape \(1,\)"),
        (
            torch.zeros(1, dtype=torch.int64, device="meta"),
            ValueError,
            "draw_offset: expected a tensor on cpu, got one on meta",
        ),
    ],
)
def test_wrong_offsets_are_named(
    offset: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        torch_ops.add_noise(images(), 0.3, draw_offset=offset)


def test_the_offset_has_no_gradient() -> None:
    x = images().requires_grad_()
    offset = torch.tensor([2])
    torch_ops.add_noise(x, 0.3, draws=range(6), draw_offset=offset).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 6.0))
