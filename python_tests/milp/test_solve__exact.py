# SPDX-License-Identifier: MIT
"""Programs near a solver's tolerances against enumeration in fractions, and bounds that need no solver."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import highspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milp_referee import Program, drawn, worst
from problems import random_problem
from reference import worst_ece_by_assignments

from certcal_ext.milp.problem import Problem, pieces_of
from certcal_ext.milp.program import program_of
from certcal_ext.milp.relaxation import Relaxation
from certcal_ext.milp.solve import certified_ece_milp

KINDS = ("plain", "attacked", "rows", "groups", "groups attacked")


def check(program: Program) -> Any:
    """The answer, which is a bound, and reached where it says so."""
    exact = worst(program)
    if exact is None:
        return None
    result = program.answer(certified_ece_milp)
    assert Fraction(result.bound) >= min(exact[0], 1), program
    assert result.incumbent <= result.bound, program
    if result.optimal:
        assert result.bound <= float(exact[0]) + 1e-6, program
    if "constraints" not in program.options:
        assert Fraction(result.incumbent) <= exact[0], program
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_no_bound_is_below_the_exact_worst_case(kind: str) -> None:
    """A few of the programs of ``tools/attack_milp.py``."""
    results = [check(drawn(np.random.default_rng([11, n]), kind)) for n in range(100)]
    found = [result for result in results if result is not None]
    assert len(found) > 80
    assert np.mean([result.optimal for result in found]) > 0.9


#: What came out below the truth, above it and called optimal, or as an error.
FOUND: dict[str, Program] = {
    "a bin 1e-12 wide": Program(
        [1, 1, 0],
        [1e-12, 0.128, 0.0],
        [0.578, 0.401, 0.626],
        {"edges": [0.0, 1e-12, 0.5, 1.0], "closed": "right"}
        | {"constraints": [(np.full(3, 1 / 3), 0.38, 0.58)]},
    ),
    "ordinary edges": Program(
        [0, 0, 1],
        [0.7528313659833858, 5e-10, 0.5],
        [0.931671656188973, 0.999999999, 1.0],
        {"edges": [0.0, 0.5, 1.0], "closed": "right"}
        | {"constraints": [(np.full(3, 1 / 3), 0.7729180420046062, 0.7749180420046062)]},
    ),
    "groups between clean and attacked": Program(
        [0, 1, 1],
        [0.014933927399128355] * 3,
        [0.7285916960908013, 0.7285916960908014, 0.9999999999999999],
        {"equal_mass": 2, "max_attacked": 1}
        | {"confidence": [0.014933927399128355, 0.7285916960908014, 0.6883742849586916]},
    ),
    "a constraint missed by 8e-11": Program(
        [1, 0],
        [5e-324, 0.47965668116071103],
        [0.9999974510744207, 0.9999974508528976],
        {"edges": [0.0, 0.5000000000000001, 0.9999974510744208, 1.0], "closed": "left"}
        | {"constraints": [(np.ones(2), 1.499997450932112, 1.4999974518499397)]},
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str) -> None:
    result = check(FOUND[name])
    assert result.optimal
    assert result.bound - result.incumbent <= 1e-7


@pytest.mark.parametrize("gap", [1e-6, 1e-8, 1e-10, 1e-12, 2e-16])
@pytest.mark.parametrize("clean", [False, True])
def test_groups_know_the_order_of_near_ties(gap: float, clean: bool) -> None:
    """Right and wrong samples a little apart, in the order that puts one of each in a group."""
    z = 0.5 + gap * np.arange(4)
    options: dict[str, Any] = {"equal_mass": 2}
    if clean:
        options |= {"max_attacked": 0, "confidence": z.tolist()}
    low, high = (z - 0.3, z + 0.3) if clean else (z, z)
    program = Program([1, 0, 1, 0], low.tolist(), high.tolist(), options)
    result = check(program)
    assert result.optimal
    assert result.bound == pytest.approx(0.0, abs=1e-5)


def test_many_near_ties_are_a_bound_and_say_so_if_it_is_not_reached() -> None:
    z = 0.5 + 1e-9 * np.arange(40)
    right = np.arange(40) % 2
    result = certified_ece_milp(right, z, z, equal_mass=4, time_limit=20)
    groups = np.array_split(right - z, 4)
    reached = sum(abs(math.fsum(group)) for group in groups) / 40
    assert result.bound >= reached
    assert result.incumbent == pytest.approx(reached, abs=1e-12)
    assert result.optimal == (result.bound - result.incumbent <= 1e-7)


def test_an_edge_held_by_an_equality_is_an_upper_bound() -> None:
    """0.5 belongs to the lower bin; the program counts it to both."""
    program = Program(
        [1, 0],
        [0.5, 0.25],
        [0.75, 0.25],
        {"edges": [0.0, 0.5, 1.0], "closed": "right"}
        | {"constraints": [(np.array([1.0, 0.0]), -math.inf, 0.5)]},
    )
    result = check(program)
    assert (result.status, result.optimal) == ("Upper bound", False)
    assert result.bound == pytest.approx(0.375)
    assert result.incumbent == pytest.approx(0.125)
    assert result.worst_confidence.tolist() == [0.5, 0.25]


def test_points_meet_their_constraints_as_fractions() -> None:
    random = np.random.default_rng(3)
    for _ in range(30):
        lower = random.random(6) * 0.6
        upper, weights = lower + 0.3, random.normal(size=6)
        middle = float(weights @ (lower + 0.15))
        row = (weights, middle - 0.01, middle + 0.01)
        result = certified_ece_milp(random.integers(2, size=6), lower, upper, 4, constraints=[row])
        z = [Fraction(x) for x in result.worst_confidence.tolist()]  # type: ignore[union-attr]
        total = sum((Fraction(w) * x for w, x in zip(weights.tolist(), z, strict=True)), Fraction())
        assert row[1] <= total <= row[2]
        assert result.optimal


def exact_bound(program: Any, prices: Any, upper: Any) -> Fraction:
    """``Program.proved`` in fractions."""
    row, column, value = (part.tolist() for part in program.entries)
    y = [Fraction(price) for price in prices.tolist()]
    reduced = [Fraction(cost) for cost in program.cost.tolist()]
    for i, j, a in zip(row, column, value, strict=True):
        reduced[j] -= Fraction(a) * y[i]
    total = Fraction()
    for price, least, most in zip(y, *(ends.tolist() for ends in program.rows), strict=True):
        end = most if price > 0 else least
        if price and math.isfinite(end):
            total += price * Fraction(end)
        elif price:
            return Fraction(10**9)
    for cost, *ends in zip(reduced, program.columns[0].tolist(), upper.tolist(), strict=True):
        total += max(cost * Fraction(end) for end in ends)
    return total


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 1e-9, 1.0, 1e6]))
def test_any_prices_prove_a_bound(seed: int, scale: float) -> None:
    """Not below what fractions give for the same prices, and so not below the worst case."""
    random = np.random.default_rng(seed)
    right = random.integers(2, size=4).astype(np.uint8)
    low = random.random(4) * 0.9
    high = np.minimum(low + random.choice([0.0, 1e-12, 0.4], 4), 1.0)
    row = (random.normal(size=4), -5.0, 5.0)
    problem = Problem(right, low, high, np.array([0.0, 0.3, 0.7, 1.0]), False, rows=(row,))
    program = program_of(problem, pieces_of(problem))
    prices = scale * random.normal(size=program.rows[0].size)
    useless = np.isinf(np.where(prices > 0, program.rows[1], program.rows[0]))
    upper = program.columns[1]
    proved = program.proved(prices, upper)
    assert Fraction(proved) >= exact_bound(program, np.where(useless, 0.0, prices), upper)
    case = Program(right.tolist(), low.tolist(), high.tolist(), {"edges": [0.0, 0.3, 0.7, 1.0]})
    case.options |= {"closed": "right", "constraints": [row]}
    reached = worst(case)
    assert reached is not None
    assert Fraction(proved) >= 4 * reached[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [1e-7, 1e-3, 1.0])
def test_a_solver_whose_prices_are_wrong_makes_no_bound_wrong(
    monkeypatch: pytest.MonkeyPatch, kind: str, noise: float
) -> None:
    solve, random = Relaxation.solve, np.random.default_rng(5)

    def lying(self: Relaxation, closed: Any) -> Any:
        proved = type(self._program).proved

        def noisy(program: Any, prices: Any, upper: Any) -> float:
            return proved(program, prices + noise * random.normal(size=prices.size), upper)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(self._program), "proved", noisy)
            return solve(self, closed)

    monkeypatch.setattr(Relaxation, "solve", lying)
    for n in range(8):
        program = drawn(np.random.default_rng([13, n]), kind)
        program.options["time_limit"] = 1.0
        exact = worst(program)
        if exact is not None:
            result = program.answer(certified_ece_milp)
            assert Fraction(result.bound) >= min(exact[0], 1)


def test_the_referee_agrees_with_all_assignments() -> None:
    for n in range(100):
        program = drawn(np.random.default_rng([17, n]), "plain")
        options = program.options
        expected = worst_ece_by_assignments(
            program.correct, program.lower, program.upper, options["edges"], options["closed"]
        )
        assert float(worst(program)[0]) == pytest.approx(expected, abs=1e-12)  # type: ignore[index]


@pytest.fixture
def failing_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(highspy._Highs):
        def run(self) -> Any:
            return highspy.HighsStatus.kError

    monkeypatch.setattr(highspy, "_Highs", Failing)


@pytest.mark.usefixtures("failing_solver")
def test_a_solver_that_fails_makes_no_bound_wrong() -> None:
    options = {"edges": [0.0, 0.5, 1.0], "closed": "right"}
    program = Program([1, 0], [0.2, 0.3], [0.6, 0.8], options)
    result = program.answer(certified_ece_milp)
    assert Fraction(result.bound) >= worst(program)[0]  # type: ignore[index]
    assert result.optimal


@pytest.mark.usefixtures("failing_solver")
def test_a_solver_that_always_fails_is_an_error() -> None:
    problem = random_problem(50, seed=1)
    with pytest.raises(RuntimeError, match="HiGHS stopped"):
        certified_ece_milp(*problem[:3], time_limit=60)
