# SPDX-License-Identifier: MIT
"""Writes csrc/core/polynomials.hpp and csrc/core/normal_cdf_table.inc: every constant of the polynomial transforms.

The package evaluates a few smooth functions with +, *, fma and sqrt only, so that every device gives the same bits: the
Box-Muller transform of the noise (float32) and the normal distribution function of the bounds (float64). This script
computes their coefficients with mpmath and prints the error each approximation has; run it with `make coefficients`.
"""

from __future__ import annotations

from pathlib import Path

import mpmath as mp
import numpy as np

mp.mp.dps = 60
CORE = Path(__file__).resolve().parent.parent / "csrc" / "core"
CDF_STEPS_PER_UNIT = 16
CDF_LIMIT = 8.5
CDF_DEGREE = 9


def near_minimax(function, low: float, high: float, degree: int) -> list[mp.mpf]:
    """Interpolates at Chebyshev nodes; returns power-basis coefficients, lowest first."""
    nodes = [
        (low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * degree + 2))
        for k in range(degree + 1)
    ]
    matrix = mp.matrix([[node**power for power in range(degree + 1)] for node in nodes])
    return list(mp.lu_solve(matrix, mp.matrix([function(node) for node in nodes])))


def log_tail(f: mp.mpf) -> mp.mpf:
    """P in -2 log(1 + f) = -2 f + f^2 + f^3 P(f)."""
    if abs(f) < mp.mpf("1e-12"):
        return -mp.mpf(2) / 3 + f / 2
    return -2 * (mp.log1p(f) - f + f * f / 2) / f**3


def sin_tail(s: mp.mpf) -> mp.mpf:
    """P in sin y = y + y^3 P(y^2)."""
    y = mp.sqrt(s)
    return (mp.sin(y) - y) / y**3 if s > mp.mpf("1e-20") else -mp.mpf(1) / 6


def cos_tail(s: mp.mpf) -> mp.mpf:
    """P in cos y = 1 - y^2 / 2 + y^4 P(y^2)."""
    y = mp.sqrt(s)
    return (mp.cos(y) - 1 + s / 2) / s**2 if s > mp.mpf("1e-20") else mp.mpf(1) / 24


def exp_tail(r: mp.mpf) -> mp.mpf:
    """P in exp r = 1 + r + r^2 P(r)."""
    if abs(r) < mp.mpf("1e-12"):
        return mp.mpf(1) / 2 + r / 6
    return (mp.expm1(r) - r) / r**2


def float32_literal(value: mp.mpf) -> str:
    return f"{float(np.float32(float(value))).hex()}f"


def polynomial(name: str, comment: str, coefficients: list[mp.mpf]) -> str:
    steps = [f"  F p = F({float32_literal(coefficients[-1])});"]
    steps += [f"  p = fused(p, x, F({float32_literal(c)}));" for c in reversed(coefficients[:-1])]
    body = "\n".join(steps)
    return (
        f"// {comment}\ntemplate <class F>\nCERTCAL_HD F {name}(F x) {{\n{body}\n  return p;\n}}\n"
    )


def write_float32_coefficients() -> None:
    log_range = (float(mp.sqrt(mp.mpf("0.5")) - 1), float(mp.sqrt(2) - 1))
    quarter = float((mp.pi / 4) ** 2)
    parts = [
        "// SPDX-License-Identifier: MIT",
        "// Written by tools/make_coefficients.py; do not edit. F is float, or a vector of floats with fused().",
        "#pragma once",
        "",
        '#include "host_device.hpp"',
        '#include "scalar.hpp"',
        "",
        "namespace certcal {",
        "",
        polynomial(
            "log_tail",
            "-2 log(1 + f) = -2 f + f^2 + f^3 P(f) on [sqrt(1/2) - 1, sqrt(2) - 1]",
            near_minimax(log_tail, *log_range, degree=8),
        ),
        polynomial(
            "sin_tail",
            "sin y = y + y^3 P(y^2) on [-pi/4, pi/4]",
            near_minimax(sin_tail, 0.0, quarter, degree=3),
        ),
        polynomial(
            "cos_tail",
            "cos y = 1 - y^2 / 2 + y^4 P(y^2) on [-pi/4, pi/4]",
            near_minimax(cos_tail, 0.0, quarter, degree=3),
        ),
        polynomial(
            "exp_tail",
            "exp r = 1 + r + r^2 P(r) on [-log(2) / 2, log(2) / 2]",
            near_minimax(exp_tail, -float(mp.log(2) / 2), float(mp.log(2) / 2), degree=4),
        ),
        "}  // namespace certcal",
        "",
    ]
    (CORE / "polynomials.hpp").write_text("\n".join(parts))


def cdf_row(center: mp.mpf) -> list[float]:
    """Taylor coefficients of the normal distribution function at `center`, each rounded once to float64."""
    density = mp.npdf(center)
    row = [mp.ncdf(center)]
    hermite = [mp.mpf(1), center]  # probabilists' Hermite polynomials
    for k in range(1, CDF_DEGREE + 1):
        while len(hermite) < k:
            hermite.append(center * hermite[-1] - (len(hermite) - 1) * hermite[-2])
        row.append((-1) ** (k - 1) * hermite[k - 1] * density / mp.factorial(k))
    return [float(value) for value in row]


def write_cdf_table() -> None:
    half = int(CDF_LIMIT * CDF_STEPS_PER_UNIT)
    rows = [cdf_row(mp.mpf(i) / CDF_STEPS_PER_UNIT) for i in range(-half, half + 1)]
    lines = [
        "// SPDX-License-Identifier: MIT",
        "// Written by tools/make_coefficients.py; do not edit.",
    ]
    lines += [", ".join(value.hex() for value in row) + "," for row in rows]
    (CORE / "normal_cdf_table.inc").write_text("\n".join(lines) + "\n")
    worst = mp.mpf(0)
    for i, row in enumerate(rows):
        center = mp.mpf(i - half) / CDF_STEPS_PER_UNIT
        for fraction in (-0.5, -0.37, -0.11, 0.21, 0.43, 0.5):
            d = mp.mpf(fraction) / CDF_STEPS_PER_UNIT
            series = sum(mp.mpf(c) * d**k for k, c in enumerate(row))
            worst = max(worst, abs(series - mp.ncdf(center + d)))
    print(
        f"normal_cdf_table.inc: {len(rows)} rows, largest error {mp.nstr(worst / mp.mpf(2) ** -52, 3)} x 2^-52"
    )


if __name__ == "__main__":
    write_float32_coefficients()
    write_cdf_table()
