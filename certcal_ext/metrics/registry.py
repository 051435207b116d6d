# SPDX-License-Identifier: MIT
"""The metrics by name. A new one is a file and a line here; every path then has it."""

from __future__ import annotations

from typing import Any

from certcal_ext import _check
from certcal_ext.metrics import (
    accuracy,
    brier,
    classwise,
    ece,
    ks,
    log_loss,
    mce,
    selective,
)
from certcal_ext.metrics.base import Metric

#: In the order of tables.
METRICS: dict[str, Metric] = {
    module.METRIC.name: module.METRIC
    for module in (ece, brier, ks, mce, log_loss, selective, accuracy, classwise)
}


def top_label() -> tuple[str, ...]:
    """The names of those of the top label, which every certificate has; the others need votes of all classes."""
    return tuple(name for name, metric in METRICS.items() if not metric.of_classes)


def metric_of(name: Any) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: there is none.
    """
    return METRICS[_check.choice("metric", name, METRICS)]
