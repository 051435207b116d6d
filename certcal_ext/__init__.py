# SPDX-License-Identifier: MIT
"""Certified calibration: the exact worst-case ECE and Brier score of a smoothed classifier under attack.

The names below are loaded when they are first used, so that ``import certcal_ext`` and ``certcal --help`` stay light, need
neither torch nor a GPU driver, and work even where the compiled module has to be rebuilt (see ``certcal doctor``).
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certcal_ext.certificates import Certificates, CertifiedSet, Curve
    from certcal_ext.ece_table import CertifiedEce, EceTable
    from certcal_ext.metrics import brier, certified_brier, certified_ece, ece
    from certcal_ext.milp import certified_ece_milp
    from certcal_ext.noise import add_noise
    from certcal_ext.provenance import Provenance
    from certcal_ext.smoothing import SmoothedClassifier
    from certcal_ext.votes import count_votes, score_histogram

_HOME_OF = {
    "Certificates": "certificates",
    "CertifiedSet": "certificates",
    "Curve": "certificates",
    "CertifiedEce": "ece_table",
    "EceTable": "ece_table",
    "Provenance": "provenance",
    "SmoothedClassifier": "smoothing",
    "add_noise": "noise",
    "brier": "metrics",
    "certified_brier": "metrics",
    "certified_ece": "metrics",
    "certified_ece_milp": "milp",
    "count_votes": "votes",
    "ece": "metrics",
    "score_histogram": "votes",
}

__version__ = version("certcal_ext")
__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
