# SPDX-License-Identifier: MIT
"""Certificates of a data set's metrics as a whole, by e-values: a hundredth of the draws (docs/aggregate.md)."""

from __future__ import annotations

from certcal_ext.aggregate.bounds import (
    AggregateBound,
    aggregate_accuracy,
    aggregate_brier,
    aggregate_classwise,
    aggregate_ece,
    aggregate_ks,
    aggregate_log_loss,
    aggregate_selective_risk,
)
from certcal_ext.aggregate.setting import Setting
from certcal_ext.aggregate.tables import Expected, Table, expected_of, fit_table, valid_table
from certcal_ext.aggregate.votes import VoteHistogram

__all__ = [
    "AggregateBound",
    "Expected",
    "Setting",
    "Table",
    "VoteHistogram",
    "aggregate_accuracy",
    "aggregate_brier",
    "aggregate_classwise",
    "aggregate_ece",
    "aggregate_ks",
    "aggregate_log_loss",
    "aggregate_selective_risk",
    "expected_of",
    "fit_table",
    "valid_table",
]
