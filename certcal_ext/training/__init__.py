# SPDX-License-Identifier: MIT
"""Training of classifiers whose calibration holds under attack."""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError('training needs torch: pip install "certcal_ext[torch]"') from error

from certcal_ext.training.adversarial import AcceAct, BrierAct, CceAct, SmoothAdv
from certcal_ext.training.bounds import certified_bounds, score_bounds, shifted_bounds
from certcal_ext.training.certificate import CertificateTraining
from certcal_ext.training.losses import certified_brier_terms, certified_ece_terms
from certcal_ext.training.objective import Gaussian, Objective, Step
from certcal_ext.training.settings import Settings
from certcal_ext.training.trainer import TrainingInterrupted, TrainResult, train

#: Objectives by the name of the method.
METHODS: dict[str, type[Objective]] = {
    "gaussian": Gaussian,
    "smoothadv": SmoothAdv,
    "brier-act": BrierAct,
    "cce-act": CceAct,
    "acce-act": AcceAct,
    "certificate": CertificateTraining,
}

__all__ = [
    "METHODS",
    "AcceAct",
    "BrierAct",
    "CceAct",
    "CertificateTraining",
    "Gaussian",
    "Objective",
    "Settings",
    "SmoothAdv",
    "Step",
    "TrainResult",
    "TrainingInterrupted",
    "certified_bounds",
    "certified_brier_terms",
    "certified_ece_terms",
    "score_bounds",
    "shifted_bounds",
    "train",
]
