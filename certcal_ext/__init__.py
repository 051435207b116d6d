# SPDX-License-Identifier: MIT
"""Certified calibration: the exact worst-case ECE and Brier score of a smoothed classifier under attack.

The names below are loaded when they are first used, so that ``import certcal_ext`` and ``certcal --help`` stay light,
need neither torch nor a GPU driver, and work even where the compiled module has to be rebuilt (``certcal doctor``).
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certcal_ext.adaptive import AdaptiveResult, ReplayedVotes, run_adaptive
    from certcal_ext.baselines import (
        LowerEstimate,
        lower_estimate_admm,
        lower_estimate_brier_worst,
        lower_estimate_dece,
    )
    from certcal_ext.bounds import MetricCurve, RowBounds
    from certcal_ext.certificates import Certificates
    from certcal_ext.classwise import CertifiedClasswiseEce, certified_classwise_ece
    from certcal_ext.compare import Comparison, compare
    from certcal_ext.curve import CertifiedSet, Curve
    from certcal_ext.ece_table import CertifiedEce, EceTable
    from certcal_ext.edges import equal_mass_edges, equal_width_edges
    from certcal_ext.log_loss import CertifiedLogLoss, certified_log_loss
    from certcal_ext.metrics import CertifiedBrier, brier, certified_brier, certified_ece, ece
    from certcal_ext.milp import CertifiedEceMilp, LinearConstraint, certified_ece_milp
    from certcal_ext.more_metrics import CertifiedKs, CertifiedMce, certified_ks, certified_mce
    from certcal_ext.noise import add_noise
    from certcal_ext.plain import classwise_ece, ks, mce, risk_coverage, selective_risk
    from certcal_ext.provenance import Provenance
    from certcal_ext.recalibration import (
        IdentityMap,
        LogisticMap,
        MixtureMap,
        RecalibrationMap,
        StepMap,
    )
    from certcal_ext.recalibration_fit import (
        fit_beta,
        fit_constant,
        fit_isotonic,
        fit_platt,
        fit_recalibration,
        fit_temperature,
        fit_tradeoff,
    )
    from certcal_ext.recalibration_report import (
        RecalibrationReport,
        ResolutionCurve,
        auroc,
        certified_auroc,
        recalibration_report,
        resolution_curve,
        split_halves,
        tradeoff_maps,
    )
    from certcal_ext.recalibration_split import SplitRecalibration, recalibrate_split
    from certcal_ext.selective import (
        CertifiedRiskCoverage,
        CertifiedSelectiveRisk,
        certified_risk_coverage,
        certified_selective_risk,
    )
    from certcal_ext.smoothing import SmoothedClassifier
    from certcal_ext.stateful import BrierState, EceState, KsState, LogLossState, RiskCoverageState
    from certcal_ext.stopping import Stopping
    from certcal_ext.votes import ScoreHistogram, count_votes, score_histogram

__version__ = version("certcal_ext")

__all__ = [
    "AdaptiveResult",
    "BrierState",
    "Certificates",
    "CertifiedBrier",
    "CertifiedClasswiseEce",
    "CertifiedEce",
    "CertifiedEceMilp",
    "CertifiedKs",
    "CertifiedLogLoss",
    "CertifiedMce",
    "CertifiedRiskCoverage",
    "CertifiedSelectiveRisk",
    "CertifiedSet",
    "Comparison",
    "Curve",
    "EceState",
    "EceTable",
    "IdentityMap",
    "KsState",
    "LinearConstraint",
    "LogLossState",
    "LogisticMap",
    "LowerEstimate",
    "MetricCurve",
    "MixtureMap",
    "Provenance",
    "RecalibrationMap",
    "RecalibrationReport",
    "ReplayedVotes",
    "ResolutionCurve",
    "RiskCoverageState",
    "RowBounds",
    "ScoreHistogram",
    "SmoothedClassifier",
    "SplitRecalibration",
    "StepMap",
    "Stopping",
    "__version__",
    "add_noise",
    "auroc",
    "brier",
    "certified_auroc",
    "certified_brier",
    "certified_classwise_ece",
    "certified_ece",
    "certified_ece_milp",
    "certified_ks",
    "certified_log_loss",
    "certified_mce",
    "certified_risk_coverage",
    "certified_selective_risk",
    "classwise_ece",
    "compare",
    "count_votes",
    "ece",
    "equal_mass_edges",
    "equal_width_edges",
    "fit_beta",
    "fit_constant",
    "fit_isotonic",
    "fit_platt",
    "fit_recalibration",
    "fit_temperature",
    "fit_tradeoff",
    "ks",
    "lower_estimate_admm",
    "lower_estimate_brier_worst",
    "lower_estimate_dece",
    "mce",
    "recalibrate_split",
    "recalibration_report",
    "resolution_curve",
    "risk_coverage",
    "run_adaptive",
    "score_histogram",
    "selective_risk",
    "split_halves",
    "tradeoff_maps",
]

_HOME_OF = {
    "AdaptiveResult": "adaptive",
    "BrierState": "stateful",
    "Certificates": "certificates",
    "CertifiedBrier": "metrics",
    "CertifiedClasswiseEce": "classwise",
    "CertifiedEce": "ece_table",
    "CertifiedEceMilp": "milp",
    "CertifiedKs": "more_metrics",
    "CertifiedLogLoss": "log_loss",
    "CertifiedMce": "more_metrics",
    "CertifiedRiskCoverage": "selective",
    "CertifiedSelectiveRisk": "selective",
    "CertifiedSet": "curve",
    "Comparison": "compare",
    "Curve": "curve",
    "EceState": "stateful",
    "EceTable": "ece_table",
    "IdentityMap": "recalibration",
    "KsState": "stateful",
    "LinearConstraint": "milp",
    "LogLossState": "stateful",
    "LogisticMap": "recalibration",
    "LowerEstimate": "baselines",
    "MetricCurve": "bounds",
    "MixtureMap": "recalibration",
    "Provenance": "provenance",
    "RecalibrationMap": "recalibration",
    "RecalibrationReport": "recalibration_report",
    "ReplayedVotes": "adaptive",
    "ResolutionCurve": "recalibration_report",
    "RiskCoverageState": "stateful",
    "RowBounds": "bounds",
    "ScoreHistogram": "votes",
    "SmoothedClassifier": "smoothing",
    "SplitRecalibration": "recalibration_split",
    "StepMap": "recalibration",
    "Stopping": "stopping",
    "add_noise": "noise",
    "auroc": "recalibration_report",
    "brier": "metrics",
    "certified_auroc": "recalibration_report",
    "certified_brier": "metrics",
    "certified_classwise_ece": "classwise",
    "certified_ece": "metrics",
    "certified_ece_milp": "milp",
    "certified_ks": "more_metrics",
    "certified_log_loss": "log_loss",
    "certified_mce": "more_metrics",
    "certified_risk_coverage": "selective",
    "certified_selective_risk": "selective",
    "classwise_ece": "plain",
    "compare": "compare",
    "count_votes": "votes",
    "ece": "metrics",
    "equal_mass_edges": "edges",
    "equal_width_edges": "edges",
    "fit_beta": "recalibration_fit",
    "fit_constant": "recalibration_fit",
    "fit_isotonic": "recalibration_fit",
    "fit_platt": "recalibration_fit",
    "fit_recalibration": "recalibration_fit",
    "fit_temperature": "recalibration_fit",
    "fit_tradeoff": "recalibration_fit",
    "ks": "plain",
    "lower_estimate_admm": "baselines",
    "lower_estimate_brier_worst": "baselines",
    "lower_estimate_dece": "baselines",
    "mce": "plain",
    "recalibrate_split": "recalibration_split",
    "recalibration_report": "recalibration_report",
    "resolution_curve": "recalibration_report",
    "risk_coverage": "plain",
    "run_adaptive": "adaptive",
    "score_histogram": "votes",
    "selective_risk": "plain",
    "split_halves": "recalibration_report",
    "tradeoff_maps": "recalibration_report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
