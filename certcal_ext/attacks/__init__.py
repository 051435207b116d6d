# SPDX-License-Identifier: MIT
"""Attacks on calibration that leave every prediction alone."""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError('attacks need torch: pip install "certcal_ext[torch]"') from error

from certcal_ext.attacks.base import Attack, GradientAttack
from certcal_ext.attacks.bound_report import BoundReport, BoundRow, BoundViolation, Outside
from certcal_ext.attacks.cce_guided import CceGuidedAttack
from certcal_ext.attacks.compare import compare_with_bound
from certcal_ext.attacks.gradient_attacks import AceAttack, BrierAttack, DeceAttack
from certcal_ext.attacks.one_step_ace import OneStepAceAttack
from certcal_ext.attacks.result import AttackResult, Calibration, calibration
from certcal_ext.attacks.victims import PlainVictim, SmoothedVictim, Victim

__all__ = [
    "AceAttack",
    "Attack",
    "AttackResult",
    "BoundReport",
    "BoundRow",
    "BoundViolation",
    "BrierAttack",
    "Calibration",
    "CceGuidedAttack",
    "DeceAttack",
    "GradientAttack",
    "OneStepAceAttack",
    "Outside",
    "PlainVictim",
    "SmoothedVictim",
    "Victim",
    "calibration",
    "compare_with_bound",
]
