# SPDX-License-Identifier: MIT
from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import SIZES, Problem, problems, random_problem
from reference import (
    plain_brier,
    plain_ece,
    sampled_eces,
    worst_brier,
    worst_ece_by_assignments,
    worst_ece_by_signs,
)

import certcal_ext as cc
from certcal_ext.metrics.brier import mean_rounded_up

# The references add a few float64 numbers of at most 1: their own error.
REFERENCE_ERROR = 1e-14


@given(problem=problems())
def test_certified_ece_is_the_brute_force_over_sign_vectors(problem: Problem) -> None:
    value = cc.certified_ece(*problem[:3], edges=problem.edges, closed=problem.closed).value
    assert value == pytest.approx(worst_ece_by_signs(*problem), abs=REFERENCE_ERROR)


@given(problem=problems(most_samples=5))
def test_certified_ece_is_the_brute_force_over_bin_assignments(problem: Problem) -> None:
    value = cc.certified_ece(*problem[:3], edges=problem.edges, closed=problem.closed).value
    assert value == pytest.approx(worst_ece_by_assignments(*problem), abs=REFERENCE_ERROR)


@given(problem=problems(most_samples=20, most_bins=9), seed=st.integers(0, 1000))
def test_certified_ece_is_never_below_confidences_inside(problem: Problem, seed: int) -> None:
    value = cc.certified_ece(*problem[:3], edges=problem.edges, closed=problem.closed).value
    assert value >= max(sampled_eces(*problem, draws=10, seed=seed)) - REFERENCE_ERROR


@given(problem=problems(most_samples=20, most_bins=9))
def test_worst_confidence_lies_inside_and_reaches_the_value(problem: Problem) -> None:
    result = cc.certified_ece(*problem[:3], edges=problem.edges, closed=problem.closed)
    worst = result.worst_confidence
    assert ((problem.lower <= worst) & (worst <= problem.upper)).all()
    reached = plain_ece(problem.correct, worst, problem.edges, problem.closed)
    # An open edge is approached to one step of the double, 1e-16 a sample.
    assert reached == pytest.approx(result.value, abs=1e-13)
    assert set(result.signs.tolist()) <= {-1, 1}
    assert result.signs.shape == (problem.edges.size - 1,)


@given(problem=problems(most_samples=12, most_bins=6), data=st.data())
def test_certified_metrics_grow_with_the_intervals(problem: Problem, data: st.DataObject) -> None:
    size = problem.correct.size
    share = st.lists(st.floats(0, 1), min_size=size, max_size=size).map(np.array)
    wider_lower = problem.lower * data.draw(share)
    wider_upper = np.minimum(1.0, problem.upper + (1 - problem.upper) * data.draw(share))
    options = {"edges": problem.edges, "closed": problem.closed}
    narrow = cc.certified_ece(*problem[:3], **options).value
    # Exactly: the sums are integers, rounded in the direction in which they are monotone.
    assert cc.certified_ece(problem.correct, wider_lower, wider_upper, **options).value >= narrow
    brier = cc.certified_brier(problem.correct, wider_lower, wider_upper).value
    assert brier >= cc.certified_brier(*problem[:3]).value


@given(problem=problems(most_samples=30, most_bins=9), seed=st.integers(0, 1000))
def test_metrics_do_not_depend_on_the_order(problem: Problem, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(problem.correct.size)
    shuffled = [column[order] for column in problem[:3]]
    options = {"edges": problem.edges, "closed": problem.closed}
    whole = cc.certified_ece(*problem[:3], **options)
    again = cc.certified_ece(*shuffled, **options)
    assert again.value == whole.value
    assert again.signs.tolist() == whole.signs.tolist()
    assert again.worst_confidence.tolist() == whole.worst_confidence[order].tolist()
    assert cc.certified_brier(*shuffled) == cc.certified_brier(*problem[:3])


@given(problem=problems(most_samples=30))
def test_certified_brier_is_the_larger_end_sample_by_sample(problem: Problem) -> None:
    result = cc.certified_brier(*problem[:3])
    assert result.value == pytest.approx(worst_brier(*problem[:3]), abs=REFERENCE_ERROR)
    # Rounded up: not below the exact rational value.
    ends = np.where(problem.correct, problem.lower, problem.upper)
    c = problem.correct.astype(int).tolist()
    exact = sum((k - Fraction(float(z))) ** 2 for k, z in zip(c, ends, strict=True)) / len(ends)
    assert Fraction(result.value) >= exact
    assert result.n == problem.correct.size
    assert result.accuracy == problem.correct.mean()


@given(problem=problems(most_samples=30, most_bins=9))
def test_plain_metrics(problem: Problem) -> None:
    point = problem.upper
    value = cc.ece(problem.correct, point, edges=problem.edges, closed=problem.closed)
    expected = plain_ece(problem.correct, point, problem.edges, problem.closed)
    assert value == pytest.approx(expected, abs=REFERENCE_ERROR)
    expected = plain_brier(problem.correct, point)
    assert cc.brier(problem.correct, point) == pytest.approx(expected, abs=REFERENCE_ERROR)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_against_numpy(size: int) -> None:
    problem = random_problem(size, seed=size)
    points = cc.certified_ece(problem.correct, problem.lower, problem.lower)
    expected = plain_ece(problem.correct, problem.lower, problem.edges, "right")
    assert points.value == pytest.approx(expected, abs=1e-13)
    brier = cc.certified_brier(*problem[:3]).value
    assert brier == pytest.approx(worst_brier(*problem[:3]), abs=1e-13)
    result = cc.certified_ece(*problem[:3])
    worst = result.worst_confidence
    assert worst.shape == (size,)
    assert plain_ece(problem.correct, worst, problem.edges, "right") == pytest.approx(
        result.value, abs=1e-12
    )


def test_large_problem_on_few_bins_is_the_brute_force() -> None:
    problem = random_problem(2001, seed=3, bins=7)
    value = cc.certified_ece(*problem[:3], bins=7).value
    assert value == pytest.approx(worst_ece_by_signs(*problem), abs=1e-12)


def test_known_closed_forms() -> None:
    # One bin: all move to one side. Right samples at 1, wrong ones anywhere in [0, 1]: worst at ECE
    # 1/2.
    assert cc.certified_ece([1, 0], [1, 0], [1, 1], bins=1).value == pytest.approx(0.5, abs=1e-15)
    # Vacuous intervals: right samples can go to 0 and wrong ones to 1, which are different bins.
    result = cc.certified_ece([1, 1, 0], [0, 0, 0], [1, 1, 1], bins=15)
    assert result.value == 1.0
    assert result.worst_confidence.tolist() == [0.0, 0.0, 1.0]
    assert cc.certified_brier([1, 1, 0], [0, 0, 0], [1, 1, 1]).value == 1.0
    # Perfect and certain.
    assert cc.certified_ece([1, 0], [1, 0], [1, 0]).value == 0.0
    assert cc.certified_brier([1, 0], [1, 0], [1, 0]).value == 0.0


def test_an_edge_belongs_to_the_bin_that_closed_says() -> None:
    # Confidence exactly 0.5 beside one at 0.25 (right) and one at 0.75 (wrong): who shares a bin
    # with whom.
    correct, z = [1, 0, 0], [0.25, 0.5, 0.75]
    assert cc.ece(correct, z, bins=2, closed="right") == pytest.approx((0.25 + 0.75) / 3)
    assert cc.ece(correct, z, bins=2, closed="left") == pytest.approx((0.75 + 1.25) / 3)
    for closed in ("left", "right"):  # the outer ends belong to the outer bins
        assert cc.ece([0, 1], [0.0, 1.0], bins=3, closed=closed) == 0.0


def test_supremum_of_an_open_edge() -> None:
    # (0.5, 1] is reached by [0.5, 0.8] only in the limit, and the right sample gains most there:
    # 0.5. The wrong sample stands in the lower bin, so that they must not share it: 1/2 (0.5 +
    # 0.4).
    result = cc.certified_ece([1, 0], [0.5, 0.4], [0.8, 0.4], bins=2)
    assert result.value == pytest.approx(0.45, abs=1e-15)
    assert result.worst_confidence[0] == np.nextafter(0.5, 1)


def test_constant_and_skill_beside_the_bound() -> None:
    result = cc.certified_brier([1, 1, 1, 0], [0.9, 0.9, 0.9, 0.1], [1, 1, 1, 0.2])
    assert result.constant == 0.1875
    assert result.skill == pytest.approx(1 - (3 * 0.01 + 0.04) / 4 / 0.1875)
    assert math.isnan(cc.certified_brier([1], [0.5], [1]).skill)


@given(high=st.integers(0, 2**62), low=st.integers(0, 2**62), rows=st.integers(1, 2**36))
def test_mean_is_rounded_up_to_the_next_double(high: int, low: int, rows: int) -> None:
    exact = Fraction(high * 2**26 + low, rows * 2**52)
    value = mean_rounded_up(high, low, rows)
    if exact >= 1:
        assert value == 1
    else:
        assert Fraction(value) >= exact > Fraction(math.nextafter(value, -1))


FORMS = {
    "lists": lambda c, lo, up: (c.tolist(), lo.tolist(), up.tolist()),
    "integers": lambda c, lo, up: (c.astype(np.int64), lo, up),
    "uint8": lambda c, lo, up: (c.astype(np.uint8), lo, up),
    "floats": lambda c, lo, up: (c.astype(np.float32), lo, up),
    "big-endian": lambda c, lo, up: (c, lo.astype(">f8"), up.astype(">f8")),
    "strided": lambda c, lo, up: tuple(np.repeat(x, 2)[::2] for x in (c, lo, up)),
    "reversed": lambda c, lo, up: tuple(x[::-1].copy()[::-1] for x in (c, lo, up)),
    "read-only": lambda c, lo, up: tuple(np.frombuffer(x.tobytes(), x.dtype) for x in (c, lo, up)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_arrays(form: str) -> None:
    problem = random_problem(100, seed=5)
    plain = cc.certified_ece(*problem[:3])
    given_ = FORMS[form](*problem[:3])
    result = cc.certified_ece(*given_)
    assert result.value == plain.value
    assert result.worst_confidence.tolist() == plain.worst_confidence.tolist()
    assert cc.certified_brier(*given_) == cc.certified_brier(*problem[:3])


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    problem = random_problem(64, seed=6)
    plain = cc.certified_ece(*problem[:3]).value
    c, lo, up = (torch.from_numpy(column) for column in problem[:3])
    assert cc.certified_ece(c, lo, up).value == plain
    assert cc.certified_ece(c, lo.clone().requires_grad_(), up).value == plain
    low16 = torch.tensor([0.25, 0.5], dtype=torch.bfloat16)
    assert cc.certified_ece([1, 0], low16, low16).value == cc.ece([1, 0], [0.25, 0.5])
    with pytest.raises(TypeError, match="lower: expected a tensor with data"):
        cc.certified_ece(c, lo.to("meta"), up)


def test_arguments_are_not_changed() -> None:
    problem = random_problem(300, seed=7)
    before = [column.copy() for column in problem[:3]]
    _ = cc.certified_ece(*problem[:3]).worst_confidence
    cc.certified_brier(*problem[:3])
    for column, copy in zip(problem[:3], before, strict=True):
        assert column.tolist() == copy.tolist()


def test_edges_given_are_copied() -> None:
    edges = np.array([0, 0.5, 1.0])
    result = cc.certified_ece([1], [0.2], [0.8], edges=edges)
    edges[1] = 0.7
    assert result.edges.tolist() == [0, 0.5, 1]
    assert result.bins == 2


def test_results_are_frozen() -> None:
    result = cc.certified_ece([1], [0.2], [0.8])
    with pytest.raises(AttributeError):
        result.value = 0.0  # type: ignore[misc]
    for values in (result.signs, result.edges, result.worst_confidence):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0


def test_worst_confidence_of_arrays_that_were_changed_is_refused() -> None:
    problem = random_problem(50, seed=8)
    result = cc.certified_ece(*problem[:3])
    problem.lower[3] *= 0.5
    with pytest.raises(ValueError, match="were changed after the call"):
        _ = result.worst_confidence
    first = cc.certified_ece(*problem[:3])
    expected = first.worst_confidence.tolist()
    problem.lower[3] *= 0.5
    assert first.worst_confidence.tolist() == expected  # computed once, and kept


BAD = [
    (dict(correct=[], lower=[], upper=[]), ValueError, "expected at least one sample, got none"),
    (dict(correct=[1, 2]), ValueError, "correct: expected booleans or 0 and 1, got 2 in row 1"),
    (dict(correct=np.array([1, 7], np.uint8)), ValueError, "got 7 in row 1"),
    (dict(correct=[1, 0.5]), ValueError, "got 0.5 in row 1"),
    (dict(correct=[1, math.nan]), ValueError, "got nan in row 1"),
    (dict(correct=["yes", "no"]), TypeError, "correct: expected booleans or 0 and 1"),
    (dict(correct=[[1], [0]]), ValueError, r"correct: expected shape \(N,\), got \(2, 1\)"),
    (dict(lower=[0.1]), ValueError, "lower: expected 2 entries, as the other arrays have, got 1"),
    (dict(upper=[0.1] * 3), ValueError, "upper: expected 2 entries"),
    (dict(lower=[0.1, math.nan]), ValueError, "got lower nan and upper 0.8 in row 1"),
    (dict(upper=[0.8, math.nan]), ValueError, "upper nan in row 1"),
    (dict(lower=[0.9, 0.2]), ValueError, "lower 0.9 and upper 0.7 in row 0"),
    (dict(lower=[-1e-9, 0.2]), ValueError, "row 0"),
    (dict(upper=[0.8, 1 + 1e-9]), ValueError, "row 1"),
    (dict(upper=[math.inf, 1]), ValueError, "row 0"),
    (dict(lower=[0.1j, 0.2]), TypeError, "lower: expected real numbers, got dtype complex128"),
    (dict(upper=[True, True]), TypeError, "upper: expected real numbers, got dtype bool"),
    (dict(lower=None), ValueError, r"lower: expected shape \(N,\)"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD)
def test_bad_intervals(change: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"correct": [1, 0], "lower": [0.1, 0.2], "upper": [0.7, 0.8], **change}
    for call in (cc.certified_ece, cc.certified_brier):
        with pytest.raises(error, match=words):
            call(**arguments)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(bins=0), ValueError, "bins: expected a whole number from 1 to 2048, got 0"),
        (dict(bins=2049), ValueError, "bins: expected"),
        (dict(bins=2.0), TypeError, "bins: expected a whole number, got float"),
        (dict(bins=True), TypeError, "bins: expected a whole number, got bool"),
        (dict(edges=[0.0]), ValueError, "edges: expected 2 to 2049 edges, got 1"),
        (dict(edges=[0.1, 1.0]), ValueError, "edges: expected to run from 0 to 1, got 0.1"),
        (dict(edges=[0.0, 0.9]), ValueError, "edges: expected to run from 0 to 1"),
        (dict(edges=[0.0, 0.5, 0.5, 1.0]), ValueError, "strictly increasing"),
        (dict(edges=[0.0, math.nan, 1.0]), ValueError, "strictly increasing"),
        (dict(edges="ab"), ValueError, "edges: expected shape"),
        (dict(closed="both"), ValueError, 'closed: expected "left" or "right", got \'both\''),
        (dict(closed=None), ValueError, "closed: expected"),
    ],
)
def test_bad_bins(options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cc.certified_ece([1], [0.1], [0.2], **options)  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        cc.EceTable(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_bad_confidences(value: float) -> None:
    for call in (cc.ece, cc.brier):
        with pytest.raises(
            ValueError, match=r"confidence: expected values in \[0, 1\], got .* in row 1"
        ):
            call([1, 0], [0.5, value])
        with pytest.raises(ValueError, match="confidence: expected 2 entries"):
            call([1, 0], [0.5])
