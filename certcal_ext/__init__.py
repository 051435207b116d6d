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
    from certcal_ext.attacks import (
        AceAttack,
        AttackResult,
        BrierAttack,
        CceGuidedAttack,
        DeceAttack,
        OneStepAceAttack,
        PlainVictim,
        SmoothedVictim,
        compare_with_bound,
    )
    from certcal_ext.certificates.bounds import MetricCurve, RowBounds
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.compare import Comparison, compare
    from certcal_ext.certificates.curve import CertifiedSet, Curve
    from certcal_ext.certificates.provenance import Provenance
    from certcal_ext.intervals.clopper_pearson import clopper_pearson
    from certcal_ext.intervals.score_cdf import ScoreBand, score_band
    from certcal_ext.intervals.scores import score_interval
    from certcal_ext.intervals.sequences import mixture_interval, union_interval
    from certcal_ext.metrics.brier_ece import (
        CertifiedBrier,
        brier,
        certified_brier,
        certified_ece,
        ece,
    )
    from certcal_ext.metrics.classwise import CertifiedClasswiseEce, certified_classwise_ece
    from certcal_ext.metrics.ece_table import CertifiedEce, EceTable
    from certcal_ext.metrics.edges import equal_mass_edges, equal_width_edges
    from certcal_ext.metrics.ks_mce import CertifiedKs, CertifiedMce, certified_ks, certified_mce
    from certcal_ext.metrics.log_loss import CertifiedLogLoss, certified_log_loss
    from certcal_ext.metrics.plain import (
        classwise_ece,
        ks,
        log_loss,
        mce,
        risk_coverage,
        selective_risk,
    )
    from certcal_ext.metrics.selective import (
        CertifiedRiskCoverage,
        CertifiedSelectiveRisk,
        certified_risk_coverage,
        certified_selective_risk,
    )
    from certcal_ext.metrics.stateful import (
        BrierState,
        EceState,
        KsState,
        LogLossState,
        RiskCoverageState,
    )
    from certcal_ext.milp.baselines import (
        LowerEstimate,
        lower_estimate_admm,
        lower_estimate_brier_worst,
        lower_estimate_dece,
    )
    from certcal_ext.milp.solve import CertifiedEceMilp, LinearConstraint, certified_ece_milp
    from certcal_ext.recalibration.fit import (
        fit_beta,
        fit_constant,
        fit_isotonic,
        fit_platt,
        fit_recalibration,
        fit_temperature,
        fit_tradeoff,
    )
    from certcal_ext.recalibration.maps import (
        IdentityMap,
        LogisticMap,
        MixtureMap,
        RecalibrationMap,
        StepMap,
    )
    from certcal_ext.recalibration.report import (
        RecalibrationReport,
        ResolutionCurve,
        auroc,
        certified_auroc,
        recalibration_report,
        resolution_curve,
        split_halves,
        tradeoff_maps,
    )
    from certcal_ext.recalibration.split import SplitRecalibration, recalibrate_split
    from certcal_ext.smoothing.classifier import SmoothedClassifier
    from certcal_ext.smoothing.noise import add_noise
    from certcal_ext.smoothing.replay import Replay, replay
    from certcal_ext.smoothing.vote_source import VoteSource
    from certcal_ext.smoothing.votes import ScoreHistogram, count_votes, score_histogram
    from certcal_ext.stopping.adaptive import AdaptiveResult, ReplayedVotes, run_adaptive
    from certcal_ext.stopping.plans import what_more_draws_buy
    from certcal_ext.stopping.rules import Stopping

__version__ = version("certcal_ext")

__all__ = [
    "AceAttack",
    "AdaptiveResult",
    "AttackResult",
    "BrierAttack",
    "BrierState",
    "CceGuidedAttack",
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
    "DeceAttack",
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
    "OneStepAceAttack",
    "PlainVictim",
    "Provenance",
    "RecalibrationMap",
    "RecalibrationReport",
    "Replay",
    "ReplayedVotes",
    "ResolutionCurve",
    "RiskCoverageState",
    "RowBounds",
    "ScoreBand",
    "ScoreHistogram",
    "SmoothedClassifier",
    "SmoothedVictim",
    "SplitRecalibration",
    "StepMap",
    "Stopping",
    "VoteSource",
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
    "clopper_pearson",
    "compare",
    "compare_with_bound",
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
    "log_loss",
    "lower_estimate_admm",
    "lower_estimate_brier_worst",
    "lower_estimate_dece",
    "mce",
    "mixture_interval",
    "recalibrate_split",
    "recalibration_report",
    "replay",
    "resolution_curve",
    "risk_coverage",
    "run_adaptive",
    "score_band",
    "score_histogram",
    "score_interval",
    "selective_risk",
    "split_halves",
    "tradeoff_maps",
    "union_interval",
    "what_more_draws_buy",
]

_HOME_OF = {
    "AceAttack": "attacks",
    "AdaptiveResult": "stopping.adaptive",
    "AttackResult": "attacks",
    "BrierAttack": "attacks",
    "BrierState": "metrics.stateful",
    "CceGuidedAttack": "attacks",
    "Certificates": "certificates.certificates",
    "CertifiedBrier": "metrics.brier_ece",
    "CertifiedClasswiseEce": "metrics.classwise",
    "CertifiedEce": "metrics.ece_table",
    "CertifiedEceMilp": "milp.solve",
    "CertifiedKs": "metrics.ks_mce",
    "CertifiedLogLoss": "metrics.log_loss",
    "CertifiedMce": "metrics.ks_mce",
    "CertifiedRiskCoverage": "metrics.selective",
    "CertifiedSelectiveRisk": "metrics.selective",
    "CertifiedSet": "certificates.curve",
    "Comparison": "certificates.compare",
    "Curve": "certificates.curve",
    "DeceAttack": "attacks",
    "EceState": "metrics.stateful",
    "EceTable": "metrics.ece_table",
    "IdentityMap": "recalibration.maps",
    "KsState": "metrics.stateful",
    "LinearConstraint": "milp.solve",
    "LogLossState": "metrics.stateful",
    "LogisticMap": "recalibration.maps",
    "LowerEstimate": "milp.baselines",
    "MetricCurve": "certificates.bounds",
    "MixtureMap": "recalibration.maps",
    "OneStepAceAttack": "attacks",
    "PlainVictim": "attacks",
    "Provenance": "certificates.provenance",
    "RecalibrationMap": "recalibration.maps",
    "RecalibrationReport": "recalibration.report",
    "ReplayedVotes": "stopping.adaptive",
    "ResolutionCurve": "recalibration.report",
    "RiskCoverageState": "metrics.stateful",
    "RowBounds": "certificates.bounds",
    "ScoreBand": "intervals.score_cdf",
    "ScoreHistogram": "smoothing.votes",
    "Replay": "smoothing.replay",
    "SmoothedClassifier": "smoothing.classifier",
    "SmoothedVictim": "attacks",
    "SplitRecalibration": "recalibration.split",
    "StepMap": "recalibration.maps",
    "Stopping": "stopping.rules",
    "VoteSource": "smoothing.vote_source",
    "add_noise": "smoothing.noise",
    "auroc": "recalibration.report",
    "brier": "metrics.brier_ece",
    "certified_auroc": "recalibration.report",
    "certified_brier": "metrics.brier_ece",
    "certified_classwise_ece": "metrics.classwise",
    "certified_ece": "metrics.brier_ece",
    "certified_ece_milp": "milp.solve",
    "certified_ks": "metrics.ks_mce",
    "certified_log_loss": "metrics.log_loss",
    "certified_mce": "metrics.ks_mce",
    "certified_risk_coverage": "metrics.selective",
    "certified_selective_risk": "metrics.selective",
    "classwise_ece": "metrics.plain",
    "clopper_pearson": "intervals.clopper_pearson",
    "compare": "certificates.compare",
    "compare_with_bound": "attacks",
    "count_votes": "smoothing.votes",
    "ece": "metrics.brier_ece",
    "equal_mass_edges": "metrics.edges",
    "equal_width_edges": "metrics.edges",
    "fit_beta": "recalibration.fit",
    "fit_constant": "recalibration.fit",
    "fit_isotonic": "recalibration.fit",
    "fit_platt": "recalibration.fit",
    "fit_recalibration": "recalibration.fit",
    "fit_temperature": "recalibration.fit",
    "fit_tradeoff": "recalibration.fit",
    "ks": "metrics.plain",
    "log_loss": "metrics.plain",
    "lower_estimate_admm": "milp.baselines",
    "lower_estimate_brier_worst": "milp.baselines",
    "lower_estimate_dece": "milp.baselines",
    "mce": "metrics.plain",
    "mixture_interval": "intervals.sequences",
    "recalibrate_split": "recalibration.split",
    "recalibration_report": "recalibration.report",
    "replay": "smoothing.replay",
    "resolution_curve": "recalibration.report",
    "risk_coverage": "metrics.plain",
    "run_adaptive": "stopping.adaptive",
    "score_band": "intervals.score_cdf",
    "score_histogram": "smoothing.votes",
    "score_interval": "intervals.scores",
    "selective_risk": "metrics.plain",
    "split_halves": "recalibration.report",
    "tradeoff_maps": "recalibration.report",
    "union_interval": "intervals.sequences",
    "what_more_draws_buy": "stopping.plans",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
