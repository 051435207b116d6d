# SPDX-License-Identifier: MIT
"""Results of attacks that tests make up."""

from __future__ import annotations

from typing import Any

import numpy as np

from certcal_ext.attacks import AttackResult

SIGMA = 0.5


def result_of(clean: Any, attacked: Any, draws: int, correct: Any, radius: float) -> AttackResult:
    """Confidences under some fresh draws, as an attack would have reached them."""
    size = len(clean)
    right = np.asarray(correct, np.bool_)
    return AttackResult(
        attack="made up",
        settings={
            "radius": radius,
            "norm": "l2",
            "victim": "smoothed",
            "sigma": SIGMA,
            "seed": 1,
            "first_draw": 2**30,
            "draws": draws,
            "confidence": "votes",
        },
        index=np.arange(size),
        label=np.where(right, 0, 1),
        predicted=np.zeros(size, np.int64),
        correct=right,
        clean_confidence=np.asarray(clean, np.float64),
        attacked_confidence=np.asarray(attacked, np.float64),
        kept=np.ones(size, np.bool_),
        l2=np.full(size, radius),
        linf=np.full(size, radius),
        gradients=np.ones(size, np.int64),
        passes=np.zeros(size, np.int64),
        draws=draws,
        fresh=True,
    )
