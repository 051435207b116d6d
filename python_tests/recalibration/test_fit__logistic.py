# SPDX-License-Identifier: MIT
"""Logistic fits end at an optimum of their loss inside the limits, checked by other descents, from elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from certcal_ext.recalibration import fit
from certcal_ext.recalibration.maps import EDGE

FREE = {
    "temperature": np.array([[1.0], [1.0], [0.0]]),
    "platt": np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
    "beta": np.eye(3),
}
LIMITS = {
    "temperature": [(0, 100)],
    "platt": [(0, 100), (-1000, 1000)],
    "beta": [(0, 100), (0, 100), (-1000, 1000)],
}


def samples(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong, and a confidence; separable ones have all right samples above all wrong ones."""
    random = np.random.default_rng(seed)
    z = random.random(int(random.integers(2, 200)))
    if kind == "ends":
        z = random.choice([0, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-9, 1.0], z.size)
    right = random.random(z.size) < z
    if kind.startswith("separable"):
        right = z > 0.6
    if kind == "separable and narrow":
        z = 0.7 + 0.01 * z
    if kind == "flat":
        z = 0.7 + 1e-6 * z
    return right.astype(int), z


def loss_of(family: str, loss: str, right: np.ndarray, z: np.ndarray) -> Any:
    inside = np.clip(z, EDGE, 1 - EDGE)
    features = np.stack((np.log(inside), -np.log1p(-inside), np.ones(z.size)), 1) @ FREE[family]
    sign = np.where(right == 1, -1.0, 1.0)

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        t = sign * (features @ theta)
        v, rest = expit(t), expit(-t)
        terms, pull = (np.logaddexp(0, t), v) if loss == "log" else (v**2, 2 * v * v * rest)
        return float(terms.mean()), (sign * pull / z.size) @ features

    return value


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(FREE)),
    st.sampled_from(["log", "brier"]),
    st.sampled_from(["calibrated", "separable", "separable and narrow", "ends", "flat"]),
    st.integers(0, 2**32),
)
def test_no_other_descent_gets_lower(family: str, loss: str, kind: str, seed: int) -> None:
    right, z = samples(kind, seed)
    found = getattr(fit, f"fit_{family}")(right, z, z, loss=loss)
    value = loss_of(family, loss, right, z)
    ours = np.linalg.lstsq(FREE[family], [found.a, found.b, found.c], rcond=None)[0]
    reached = value(ours)[0]
    random = np.random.default_rng(seed + 1)
    starts = [ours, np.ones(ours.size)]
    if loss == "log":  # convex: from anywhere
        starts += [np.array([0.1 * random.uniform(*limit) for limit in LIMITS[family]])]
    for start in starts:
        other = minimize(
            value,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=LIMITS[family],
            options={"ftol": 0, "gtol": 0, "maxiter": 500},
        )
        assert reached <= other.fun * (1 + 1e-7) + 1e-300


@pytest.mark.parametrize("family", sorted(FREE))
@pytest.mark.parametrize("seed", range(6))
def test_the_log_loss_of_separable_samples_is_stationary(family: str, seed: int) -> None:
    # Against the size of the loss: near 0, an absolute tolerance is no sign of an optimum.
    right, z = samples("separable", seed)
    found = getattr(fit, f"fit_{family}")(right, z, z, loss="log")
    value, slope = loss_of(family, "log", right, z)(
        ours := np.linalg.lstsq(FREE[family], [found.a, found.b, found.c], rcond=None)[0]
    )
    least, most = np.array(LIMITS[family], float).T
    inner = np.clip(ours, least + 1e-9, most - 1e-9)
    held = (inner != ours) & (np.sign(slope) == np.sign(inner - ours))
    assert (np.abs(slope[~held]) <= 1e-6 * max(value, 1e-300)).all()
