# SPDX-License-Identifier: MIT
"""Certificates that several test files use."""

from __future__ import annotations

import numpy as np

import certcal_ext as cc

N, SIGMA, ALPHA = 1000, 0.25, 1e-3


def votes(rows: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a fairly good classifier, and labels."""
    random = np.random.default_rng(seed)
    share = random.dirichlet(np.full(classes, 0.25), rows)
    counts = np.stack([random.multinomial(N, p) for p in share])
    labels = np.where(
        random.random(rows) < 0.8, counts.argmax(1), random.integers(0, classes, rows)
    )
    return counts, labels


def certificates(rows: int = 60, seed: int = 0) -> cc.Certificates:
    counts, labels = votes(rows, seed)
    return cc.Certificates.from_counts(counts, labels, sigma=SIGMA, alpha=ALPHA)
