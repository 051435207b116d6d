# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import SIZES, Problem, problems, random_problem

import certcal_ext as cc

# Cells of the state that the tests look at: (count, lower high, lower low, upper high, upper low).
COUNT = 0


def table_of(problem: Problem, rows: slice | np.ndarray = slice(None)) -> cc.EceTable:
    table = cc.EceTable(edges=problem.edges, closed=problem.closed)
    table.update(*(column[rows] for column in problem[:3]))
    return table


@given(problem=problems(most_samples=40, most_bins=9), data=st.data())
def test_merged_tables_equal_the_whole_for_any_split_and_order(
    problem: Problem, data: st.DataObject
) -> None:
    size = problem.correct.size
    order = np.array(data.draw(st.permutations(range(size))))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=5)))
    parts = [table_of(problem, rows) for rows in np.split(order, cuts)]
    merged = cc.EceTable(edges=problem.edges, closed=problem.closed)
    for at in data.draw(st.permutations(range(len(parts)))):
        merged.merge(parts[at])
    whole = table_of(problem)
    assert np.array_equal(merged.state(), whole.state())
    assert merged.rows == whole.rows == size
    summed = cc.EceTable.from_state(
        sum(part.state() for part in parts), edges=problem.edges, closed=problem.closed
    )
    direct = cc.certified_ece(*problem[:3], edges=problem.edges, closed=problem.closed)
    for table in (merged, whole, summed):
        result = table.certify()
        assert result.value == direct.value
        assert result.signs.tolist() == direct.signs.tolist()
        assert result.n == direct.n


@pytest.mark.parametrize("size", [0, *SIZES, 70_001])
def test_chunks_equal_the_whole(size: int) -> None:
    problem = random_problem(size, seed=size)
    table = cc.EceTable()
    for begin in range(0, size, 1000):
        table.update(*(column[begin : begin + 1000] for column in problem[:3]))
    assert np.array_equal(table.state(), table_of(problem).state())
    assert table.rows == size
    if size:
        assert table.certify().value == cc.certified_ece(*problem[:3]).value


def test_state_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(300_001, seed=9)
    states = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr("certcal_ext._threads.num_threads", lambda threads=threads: threads)
        states.append(table_of(problem).state())
        assert np.array_equal(states[0], states[-1])


def test_state_holds_what_it_says() -> None:
    table = cc.EceTable(bins=2)
    table.update([1, 1, 0], [0.25, 0.25, 0.75], [0.5, 0.75, 1.0])
    state = table.state()
    assert state.dtype == np.int64
    assert state.shape == (2, 2, 2, 5)
    assert state[..., COUNT].tolist() == [[[0, 0], [0, 1]], [[1, 1], [0, 0]]]
    high, low = state[1, 0, 1, 1:3]
    assert (high * 2**26 + low) / 2**52 == 0.25
    high, low = state[0, 1, 1, 3:5]
    assert (high * 2**26 + low) / 2**52 == 1.0


@pytest.mark.parametrize("size", [1, 31, 32, 33, 63, 64, 65, 255, 256, 257, 70_001])
@pytest.mark.parametrize("correct", [0, 1])
def test_the_largest_terms_in_one_cell(size: int, correct: int) -> None:
    # An end of exactly 1 has the largest high word there is, 2^26: partial sums must not run over.
    one, zero = np.ones(size), np.zeros(size)
    right = np.full(size, correct)
    for lower, upper, worst in ((one, one, 1 - correct), (zero, one, 1), (zero, zero, correct)):
        table = cc.EceTable(bins=1)
        table.update(right, lower, upper)
        high = [int(ends.sum()) * 2**26 for ends in (lower, upper)]
        assert table.state()[correct, 0, 0].tolist() == [size, high[0], 0, high[1], 0]
        assert table.certify().value == pytest.approx(worst, abs=1e-15)
        assert cc.certified_brier(right, lower, upper).value == worst


def test_sums_are_rounded_outward() -> None:
    value = 2.0**-60  # far below the unit 2^-52 of the fixed point
    table = cc.EceTable(bins=1)
    table.update([1], [value], [value])
    assert table.state()[1, 0, 0].tolist() == [1, 0, 0, 0, 1]


def test_state_is_a_copy() -> None:
    table = cc.EceTable(bins=1)
    table.update([1], [0.5], [0.5])
    table.state()[...] = 0
    given_ = table.state()
    other = cc.EceTable.from_state(given_, bins=1)
    given_[...] = 0
    assert other.certify().value == table.certify().value
    assert other.rows == 1


def test_merging_a_table_with_itself_doubles_it() -> None:
    table = table_of(random_problem(20, seed=1))
    before, value = table.state(), table.certify().value
    table.merge(table)
    assert np.array_equal(table.state(), 2 * before)
    assert table.rows == 40
    assert table.certify().value == pytest.approx(value, abs=1e-15)


def test_a_bad_row_adds_nothing() -> None:
    problem = random_problem(100_000, seed=2)
    table = table_of(problem)
    before = table.state()
    for row in (0, 50_000, 99_999):
        upper = problem.upper.copy()
        upper[row] = np.nan
        with pytest.raises(ValueError, match=f"in row {row}$"):
            table.update(problem.correct, problem.lower, upper)
        assert np.array_equal(table.state(), before)
        assert table.rows == 100_000


def test_the_first_bad_row_is_named_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certcal_ext._threads.num_threads", lambda: 4)
    problem = random_problem(400_000, seed=2)
    problem.lower[[123_456, 300_000]] = -1
    with pytest.raises(ValueError, match=r"in row 123456$"):
        cc.certified_ece(*problem[:3])


def test_worst_confidence_needs_the_samples() -> None:
    problem = random_problem(64, seed=4)
    result = table_of(problem).certify()
    with pytest.raises(ValueError, match="an EceTable keeps no samples"):
        _ = result.worst_confidence
    direct = cc.certified_ece(*problem[:3]).worst_confidence
    assert result.worst_confidence_of(*problem[:3]).tolist() == direct.tolist()
    half = result.worst_confidence_of(*(column[32:] for column in problem[:3]))
    assert half.tolist() == direct[32:].tolist()
    with pytest.raises(ValueError, match="in row 0"):
        result.worst_confidence_of([1], [0.5], [0.4])


def test_a_result_does_not_follow_its_table() -> None:
    table = table_of(random_problem(20, seed=1))
    result = table.certify()
    value, n = result.value, result.n
    table.update([1], [0.0], [1.0])
    assert (result.value, result.n) == (value, n)


def test_an_empty_table_certifies_nothing() -> None:
    table = cc.EceTable()
    table.update([], [], [])
    assert table.rows == 0
    with pytest.raises(ValueError, match="expected at least one sample"):
        table.certify()


def test_only_tables_of_the_same_bins_merge() -> None:
    table = cc.EceTable(bins=4)
    with pytest.raises(ValueError, match="other: expected edges="):
        table.merge(cc.EceTable(bins=5))
    with pytest.raises(ValueError, match="other: expected edges="):
        table.merge(cc.EceTable(edges=[0, 0.25, 0.5, 0.75 + 1e-15, 1]))
    with pytest.raises(ValueError, match="expected closed='right', as here, got 'left'"):
        table.merge(cc.EceTable(bins=4, closed="left"))
    with pytest.raises(TypeError, match="other: expected EceTable, got ndarray"):
        table.merge(table.state())  # type: ignore[arg-type]
    assert table.rows == 0


def full_state(rows: int) -> np.ndarray:
    """``rows`` right samples at confidence 1 in one bin, the largest words there are."""
    state = np.zeros((2, 1, 1, 5), np.int64)
    state[1, 0, 0] = [rows, rows * 2**26, 0, rows * 2**26, 0]
    return state


def test_no_more_rows_than_the_words_can_hold() -> None:
    table = cc.EceTable.from_state(full_state(2**36), bins=1)
    assert table.rows == 2**36
    assert table.certify().value == 0.0
    one = cc.EceTable(bins=1)
    one.update([0], [1.0], [1.0])
    with pytest.raises(ValueError, match=r"at most 2\^36 samples"):
        table.merge(one)
    with pytest.raises(ValueError, match=r"at most 2\^36 samples"):
        table.update([1], [0.5], [0.5])
    assert table.rows == 2**36
    with pytest.raises(ValueError, match=r"2\^36"):
        cc.EceTable.from_state(full_state(2**36 + 1), bins=1)


def test_a_full_table_does_not_overflow() -> None:
    # 2^35 right and 2^35 wrong samples at confidence 1: ECE 1/2 in the one bin.
    state = full_state(2**35)
    state[0] = state[1]
    result = cc.EceTable.from_state(state, bins=1).certify()
    assert result.value == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda s: s[:1], ValueError, r"state: expected shape \(2, 2, 2, 5\), got \(1, 2, 2, 5\)"),
        (lambda s: s.astype(float), TypeError, "state: expected integers, got dtype float64"),
        (lambda s: -s, ValueError, "state: expected integers from 0"),
        (lambda s: s * [2, 1, 1, 1, 1], ValueError, "state: expected each sum of ends to lie"),
        (lambda s: s * [1, 1, 1, 0, 0], ValueError, "no sum of lower ends above that of the upper"),
        (lambda s: s.transpose(0, 2, 1, 3), ValueError, "higher bin"),
        (lambda s: s + [0, 0, 2**60, 0, 0] * (s > 0), ValueError, r"word of a sum above"),
    ],
)
def test_states_that_no_samples_give(change: object, error: type[Exception], words: str) -> None:
    table = cc.EceTable(bins=2)
    table.update([1, 0, 0], [0.3, 0.75, 0.25], [0.4, 1.0, 0.75])
    with pytest.raises(error, match=words):
        cc.EceTable.from_state(change(table.state()), bins=2)  # type: ignore[operator]
