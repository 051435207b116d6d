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
    from certcal_ext.certificates import Certificates
    from certcal_ext.curve import CertifiedSet, Curve
    from certcal_ext.ece_table import CertifiedEce, EceTable
    from certcal_ext.metrics import CertifiedBrier, brier, certified_brier, certified_ece, ece
    from certcal_ext.milp import CertifiedEceMilp, certified_ece_milp
    from certcal_ext.more_metrics import CertifiedKs, CertifiedMce, certified_ks, certified_mce
    from certcal_ext.noise import add_noise
    from certcal_ext.provenance import Provenance
    from certcal_ext.smoothing import SmoothedClassifier
    from certcal_ext.votes import ScoreHistogram, count_votes, score_histogram

__version__ = version("certcal_ext")

__all__ = [
    "Certificates",
    "CertifiedBrier",
    "CertifiedEce",
    "CertifiedEceMilp",
    "CertifiedKs",
    "CertifiedMce",
    "CertifiedSet",
    "Curve",
    "EceTable",
    "Provenance",
    "ScoreHistogram",
    "SmoothedClassifier",
    "__version__",
    "add_noise",
    "brier",
    "certified_brier",
    "certified_ece",
    "certified_ece_milp",
    "certified_ks",
    "certified_mce",
    "count_votes",
    "ece",
    "score_histogram",
]

_HOME_OF = {
    "Certificates": "certificates",
    "CertifiedBrier": "metrics",
    "CertifiedEce": "ece_table",
    "CertifiedEceMilp": "milp",
    "CertifiedKs": "more_metrics",
    "CertifiedMce": "more_metrics",
    "CertifiedSet": "curve",
    "Curve": "curve",
    "EceTable": "ece_table",
    "Provenance": "provenance",
    "ScoreHistogram": "votes",
    "SmoothedClassifier": "smoothing",
    "add_noise": "noise",
    "brier": "metrics",
    "certified_brier": "metrics",
    "certified_ece": "metrics",
    "certified_ece_milp": "milp",
    "certified_ks": "more_metrics",
    "certified_mce": "more_metrics",
    "count_votes": "votes",
    "ece": "metrics",
    "score_histogram": "votes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
