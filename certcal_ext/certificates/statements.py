# SPDX-License-Identifier: MIT
"""The sentences that may be quoted for a bound: who is attacked how, over which samples, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from certcal_ext.certificates.bounds import MetricCurve
    from certcal_ext.certificates.provenance import Provenance
    from certcal_ext.certificates.worst_cases import Choices

_NAMES = {
    "brier": "Brier score",
    "ece": "expected calibration error",
    "ks": "KS calibration error",
    "mce": "maximum calibration error",
    "log_loss": "log loss",
    "selective_risk": "risk among the accepted predictions",
    "classwise_ece": "class-wise calibration error",
}


@dataclass(frozen=True, eq=False)
class Subject:
    """What a sentence is about, beside the numbers of its curve.

    Attributes:
        provenance: of the certificates; None: not known.
        total: N, all samples that were drawn for.
        choices: how the metric is defined.
    """

    provenance: Provenance | None
    total: int
    choices: Choices


def sentence(curve: MetricCurve, at: int) -> str:
    """See ``MetricCurve.statement``."""
    of = "certified" if curve.scope == "certified" else "test"
    who = f"over the {curve.samples[at]:,} {of} samples"
    name, radius = _NAMES[curve.metric], float(curve.radius[at])
    if curve.samples[at] == 0:
        return f"No sample is certified at radius {radius:g}, so there is no {name} to bound."
    bound = curve.worst if curve.joint is None else curve.joint
    if not np.isfinite(bound[at]):
        return (
            f"No finite bound on the {name} {who} can be given at radius {radius:g}: a confidence may reach 0 or 1 "
            "where it is wrong. Report confidences that are clipped (clip=)."
        )
    if curve.joint is None:
        return (
            f"Where all intervals hold, no l2 attack of size {radius:g} on every sample at once raises the {name} "
            f"{who} above {_up(curve.worst[at])}."
        )
    sure = f"With probability at least {1 - (curve.delta or 0):.6g} over the noise draws of the whole data set"
    text = f"{sure}, no l2 attack of size {radius:g} raises the {name} {who} above {_up(curve.joint[at])}."
    if curve.population is not None:
        text += (
            f" With the same probability, also over the choice of the test set, its expectation for new samples of this "
            f"kind stays at or below {_up(curve.population[at])}."
        )
    return text


def _up(value: float) -> str:
    return f"{np.ceil(value * 1e4) / 1e4:.4f}"
