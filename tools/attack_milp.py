# SPDX-License-Identifier: MIT
"""Small programs with values near a solver's tolerances: ``certified_ece_milp`` against enumeration.

``python tools/attack_milp.py --count 50000 --seed 1`` prints, for each kind of program, how many
bounds lie below the exact worst case (0 is the only right number), how many errors are false, how
many incumbents no allowed point reaches, and by how much bounds are too high.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))

from milp_referee import Program, drawn, worst

from certcal_ext.milp.solve import certified_ece_milp

KINDS = ("plain", "attacked", "rows", "groups", "groups attacked")


def faults(program: Program, seen: Counter[str], most: dict[str, float]) -> list[str]:
    """What is wrong with the answer; counts what it was."""
    exact = worst(program)
    try:
        result = program.answer(certified_ece_milp)
    except (ValueError, RuntimeError) as error:
        seen["refused"] += 1
        is_right = exact is None and isinstance(error, ValueError)
        return [] if is_right else [f"a false error: {error}"]
    if exact is None:
        seen["nothing allowed, and not noticed"] += 1
        return []
    reached, closure = exact
    wrong = []
    bound, incumbent = Fraction(result.bound), Fraction(result.incumbent)
    if bound < min(reached, 1):
        wrong.append(f"bound {result.bound} below {float(reached)} by {float(reached - bound)}")
    # Float64 numbers cannot meet an equality, only but for rounding.
    if not met_exactly(program, result.worst_confidence):
        seen["constraints met but for rounding"] += 1
    elif incumbent > closure:
        wrong.append(f"incumbent {result.incumbent} above {float(closure)}")
    if incumbent > bound:
        wrong.append("incumbent above the bound")
    seen["optimal" if result.optimal else result.status] += 1
    excess = float(bound - reached)
    if result.optimal:
        most["bound too high, optimal"] = max(most.get("bound too high, optimal", 0.0), excess)
    else:
        most["bound too high, upper bound"] = max(
            most.get("bound too high, upper bound", 0.0), excess
        )
        if incumbent < reached - Fraction(1, 10**6):
            seen["incumbent too low, upper bound"] += 1
    if result.optimal and excess > 2e-7:
        wrong.append(f"optimal, but {excess} above the worst case")
    if result.seconds > 90:
        wrong.append(f"{result.seconds} s")
    return wrong + _bad_point(program, result)


def met_exactly(program: Program, confidence: Any) -> bool:
    """Whether the confidences satisfy the linear constraints as fractions."""
    if confidence is None:
        return True
    for weights, least, most in program.options.get("constraints", ()):
        total = sum(
            Fraction(float(w)) * Fraction(z)
            for w, z in zip(weights, confidence.tolist(), strict=True)
        )
        if not least <= total <= most:
            return False
    return True


def _bad_point(program: Program, result: Any) -> list[str]:
    """What is wrong with the confidences that are said to reach the incumbent."""
    z, options = result.worst_confidence, program.options
    if z is None:
        return [] if result.incumbent == 0.0 else ["no point"]
    wrong = []
    if ((z < program.lower) | (z > program.upper)).any():
        wrong.append("a confidence outside its interval")
    for weights, least, most in options.get("constraints", ()):
        if (
            not least - 1e-14 * np.abs(weights).max()
            <= weights @ z
            <= most + 1e-14 * np.abs(weights).max()
        ):
            wrong.append("a constraint is not met")
    if "max_attacked" in options:
        # An edge that is not the bin's own is left by one float.
        moved = np.abs(z - np.array(options["confidence"])) > 1e-15
        if moved.sum() > options["max_attacked"]:
            wrong.append("too many attacked")
    return wrong


def main() -> int:
    """Attacks; the exit status is 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=KINDS, help="all without it")
    given = parser.parse_args()
    started, bad, tried = time.monotonic(), 0, 0
    for kind in given.kind or KINDS:
        seen: Counter[str] = Counter({"wrong": 0})
        most: dict[str, float] = {}
        for number in range(given.count // len(KINDS)):
            random = np.random.default_rng([given.seed, KINDS.index(kind), number])
            program = drawn(random, kind)
            wrong = faults(program, seen, most)
            if wrong:
                seen["wrong"] += 1
                print(kind, number, wrong, program, flush=True)
        bad += seen["wrong"]
        tried += given.count // len(KINDS)
        print(kind, json.dumps({**seen, **most}), f"{time.monotonic() - started:.0f} s", flush=True)
    print(f"{tried} programs, {bad} wrong")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
