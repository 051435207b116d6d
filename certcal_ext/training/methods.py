# SPDX-License-Identifier: MIT
"""Objectives by the name of the method, as the command line and a checkpoint have it."""

from __future__ import annotations

from certcal_ext.training.adversarial import AcceAct, BrierAct, CceAct, SmoothAdv
from certcal_ext.training.certificate import CertificateTraining
from certcal_ext.training.objective import Gaussian, Objective

#: Objectives by the name of the method.
METHODS: dict[str, type[Objective]] = {
    kind.name: kind
    for kind in (Gaussian, SmoothAdv, BrierAct, CceAct, AcceAct, CertificateTraining)
}
