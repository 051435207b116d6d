# SPDX-License-Identifier: MIT
"""Every metric written once more, as its definition reads, and what an attack inside intervals can make of it.

Nothing here knows how the package computes them. A metric without a definition here fails ``test_metric_paths.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reference import bin_of

Floats = NDArray[np.float64]

#: So many combinations of candidates are tried at most; of more, so many are drawn.
MOST_TRIED = 3000


def _gaps(truth: Any, z: Floats, options: dict[str, Any]) -> dict[int, list[float]]:
    """c - z of the samples of each bin."""
    bins: dict[int, list[float]] = {}
    for c, p in zip(truth, z, strict=True):
        bins.setdefault(bin_of(p, options["edges"], options["closed"]), []).append(float(c) - p)
    return bins


def ece(truth: Any, z: Floats, options: dict[str, Any]) -> float:
    return sum(abs(sum(gaps)) for gaps in _gaps(truth, z, options).values()) / len(z)


def mce(truth: Any, z: Floats, options: dict[str, Any]) -> float:
    return max(abs(sum(gaps)) / len(gaps) for gaps in _gaps(truth, z, options).values())


def brier(truth: Any, z: Floats, options: dict[str, Any]) -> float:
    return float(np.mean((np.asarray(truth, float) - z) ** 2))


def ks(truth: Any, z: Floats, options: dict[str, Any]) -> float:
    gaps = np.asarray(truth, float) - z
    return max(abs(gaps[z <= t].sum()) for t in z) / len(z)


def log_loss(truth: Any, z: Floats, options: dict[str, Any]) -> float:
    """Of the numbers that the model reports, clipped in its own format by either way of writing 1 - clip."""
    kind, clip = np.dtype(options["dtype"]).type, options["clip"]
    total = 0.0
    for c, p in zip(truth, z, strict=True):
        reported = {float(kind(p))}
        if clip is not None:
            tops = (kind(1 - clip), kind(1) - kind(clip))
            reported = {float(min(max(kind(p), kind(clip)), top)) for top in tops}
        with np.errstate(divide="ignore"):
            total += max(float(-np.log(r) if c else -np.log1p(-r)) for r in reported)
    return total / len(z)


def selective_risk(truth: Any, z: Floats, options: dict[str, Any]) -> float:
    accepted = [not c for c, p in zip(truth, z, strict=True) if p >= options["threshold"]]
    return sum(accepted) / len(accepted) if accepted else 0.0


def classwise_ece(truth: Any, z: Floats, options: dict[str, Any]) -> float:
    return float(np.mean([ece(truth == k, z[:, k], options) for k in range(z.shape[1])]))


def accuracy(truth: Any, z: Floats, options: dict[str, Any]) -> float:
    return float(np.mean(np.asarray(truth, bool)))


#: By name: truth (right or wrong, or the labels), confidences and options to the metric without an attack.
DEFINITIONS: dict[str, Callable[[Any, Floats, dict[str, Any]], float]] = {
    "brier": brier,
    "ece": ece,
    "ks": ks,
    "mce": mce,
    "log_loss": log_loss,
    "selective_risk": selective_risk,
    "certified_accuracy": accuracy,
    "classwise_ece": classwise_ece,
}


def candidates(lower: Floats, upper: Floats, options: dict[str, Any]) -> list[list[float]]:
    """For each confidence the places where a worst case can be: ends of any interval, edges, threshold, and beside them."""
    places = np.concatenate(
        [lower.ravel(), upper.ravel(), options["edges"], [options["threshold"]]]
    )
    places = np.concatenate([places, np.nextafter(places, 0.0), np.nextafter(places, 1.0)])
    return [
        sorted({low, high, *places[(places >= low) & (places <= high)].tolist()})
        for low, high in zip(lower.ravel().tolist(), upper.ravel().tolist(), strict=True)
    ]


def attacks(
    lower: Floats, upper: Floats, options: dict[str, Any], seed: int
) -> tuple[list[Floats], bool]:
    """Confidences inside the intervals, and whether all combinations of ``candidates`` are among them."""
    places = candidates(lower, upper, options)
    every = int(np.prod([float(len(p)) for p in places])) <= MOST_TRIED
    random = np.random.default_rng(seed)
    if every:
        chosen = [np.array(z).reshape(lower.shape) for z in itertools.product(*places)]
    else:
        chosen = [
            np.array([random.choice(p) for p in places]).reshape(lower.shape) for _ in range(300)
        ]
    inside = [lower + random.random(lower.shape) * (upper - lower) for _ in range(20)]
    return [*chosen, *(np.clip(z, lower, upper) for z in inside)], every
