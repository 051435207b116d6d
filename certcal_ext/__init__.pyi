# SPDX-License-Identifier: MIT
# The public names, for type checkers and for __init__.py, which loads each from here when it is first used.

from certcal_ext.attacks import (
    AceAttack as AceAttack,
    AttackResult as AttackResult,
    BrierAttack as BrierAttack,
    CceGuidedAttack as CceGuidedAttack,
    DeceAttack as DeceAttack,
    OneStepAceAttack as OneStepAceAttack,
    PlainVictim as PlainVictim,
    SmoothedVictim as SmoothedVictim,
    compare_with_bound as compare_with_bound,
)
from certcal_ext.certificates.bounds import MetricCurve as MetricCurve
from certcal_ext.certificates.certificates import Certificates as Certificates
from certcal_ext.certificates.compare import Comparison as Comparison, compare as compare
from certcal_ext.certificates.curve import CertifiedSet as CertifiedSet, Curve as Curve
from certcal_ext.certificates.provenance import Provenance as Provenance
from certcal_ext.certificates.recalibrate import (
    SplitRecalibration as SplitRecalibration,
    recalibrate_split as recalibrate_split,
    stack_split as stack_split,
)
from certcal_ext.certificates.rows import RowBounds as RowBounds
from certcal_ext.intervals.clopper_pearson import clopper_pearson as clopper_pearson
from certcal_ext.intervals.score_cdf import ScoreBand as ScoreBand, score_band as score_band
from certcal_ext.intervals.scores import score_interval as score_interval
from certcal_ext.intervals.sequences import (
    mixture_interval as mixture_interval,
    union_interval as union_interval,
)
from certcal_ext.metrics.auroc import auroc as auroc, certified_auroc as certified_auroc
from certcal_ext.metrics.brier import (
    BrierState as BrierState,
    CertifiedBrier as CertifiedBrier,
    brier as brier,
    certified_brier as certified_brier,
)
from certcal_ext.metrics.classwise import (
    CertifiedClasswiseEce as CertifiedClasswiseEce,
    certified_classwise_ece as certified_classwise_ece,
    classwise_ece as classwise_ece,
)
from certcal_ext.metrics.ece import (
    EceState as EceState,
    certified_ece as certified_ece,
    ece as ece,
)
from certcal_ext.metrics.ece_table import CertifiedEce as CertifiedEce, EceTable as EceTable
from certcal_ext.metrics.edges import (
    equal_mass_edges as equal_mass_edges,
    equal_width_edges as equal_width_edges,
)
from certcal_ext.metrics.ks import (
    CertifiedKs as CertifiedKs,
    KsState as KsState,
    certified_ks as certified_ks,
    ks as ks,
)
from certcal_ext.metrics.log_loss import (
    CertifiedLogLoss as CertifiedLogLoss,
    LogLossState as LogLossState,
    certified_log_loss as certified_log_loss,
    log_loss as log_loss,
)
from certcal_ext.metrics.mce import (
    CertifiedMce as CertifiedMce,
    certified_mce as certified_mce,
    mce as mce,
)
from certcal_ext.metrics.risk_coverage import (
    CertifiedRiskCoverage as CertifiedRiskCoverage,
    RiskCoverageState as RiskCoverageState,
    certified_risk_coverage as certified_risk_coverage,
    risk_coverage as risk_coverage,
)
from certcal_ext.metrics.selective import (
    CertifiedSelectiveRisk as CertifiedSelectiveRisk,
    certified_selective_risk as certified_selective_risk,
    selective_risk as selective_risk,
)
from certcal_ext.milp.baselines import (
    LowerEstimate as LowerEstimate,
    lower_estimate_admm as lower_estimate_admm,
    lower_estimate_brier_worst as lower_estimate_brier_worst,
    lower_estimate_dece as lower_estimate_dece,
)
from certcal_ext.milp.solve import (
    CertifiedEceMilp as CertifiedEceMilp,
    LinearConstraint as LinearConstraint,
    certified_ece_milp as certified_ece_milp,
)
from certcal_ext.recalibration.fit import (
    fit_beta as fit_beta,
    fit_constant as fit_constant,
    fit_isotonic as fit_isotonic,
    fit_platt as fit_platt,
    fit_recalibration as fit_recalibration,
    fit_temperature as fit_temperature,
    fit_tradeoff as fit_tradeoff,
)
from certcal_ext.recalibration.maps import (
    IdentityMap as IdentityMap,
    LogisticMap as LogisticMap,
    MixtureMap as MixtureMap,
    RecalibrationMap as RecalibrationMap,
    StepMap as StepMap,
)
from certcal_ext.recalibration.report import (
    RecalibrationReport as RecalibrationReport,
    ResolutionCurve as ResolutionCurve,
    recalibration_report as recalibration_report,
    resolution_curve as resolution_curve,
    split_halves as split_halves,
    tradeoff_maps as tradeoff_maps,
)
from certcal_ext.recalibration.row_maps import (
    LabelMaps as LabelMaps,
    RowMap as RowMap,
    StackMap as StackMap,
)
from certcal_ext.draws import ReplayedVotes as ReplayedVotes
from certcal_ext.smoothing.classifier import SmoothedClassifier as SmoothedClassifier
from certcal_ext.smoothing.draws import VoteSource as VoteSource
from certcal_ext.smoothing.noise import add_noise as add_noise
from certcal_ext.smoothing.replay import Replay as Replay, replay as replay
from certcal_ext.smoothing.votes import (
    ScoreHistogram as ScoreHistogram,
    count_votes as count_votes,
    score_histogram as score_histogram,
)
from certcal_ext.stopping.adaptive import (
    AdaptiveResult as AdaptiveResult,
    run_adaptive as run_adaptive,
)
from certcal_ext.stopping.plans import what_more_draws_buy as what_more_draws_buy
from certcal_ext.stopping.rules import Stopping as Stopping

__version__: str
