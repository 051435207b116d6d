# SPDX-License-Identifier: MIT
# The public names of training, loaded from here when they are first used.

from certcal_ext.training.adversarial import (
    AcceAct as AcceAct,
    BrierAct as BrierAct,
    CceAct as CceAct,
    SmoothAdv as SmoothAdv,
)
from certcal_ext.training.bounds import (
    certified_bounds as certified_bounds,
    score_bounds as score_bounds,
    shifted_bounds as shifted_bounds,
)
from certcal_ext.training.certificate import CertificateTraining as CertificateTraining
from certcal_ext.training.losses import (
    certified_brier_terms as certified_brier_terms,
    certified_ece_terms as certified_ece_terms,
)
from certcal_ext.training.methods import METHODS as METHODS
from certcal_ext.training.objective import (
    Gaussian as Gaussian,
    Objective as Objective,
    Step as Step,
)
from certcal_ext.training.settings import Settings as Settings
from certcal_ext.training.trainer import (
    RunOptions as RunOptions,
    TrainingInterrupted as TrainingInterrupted,
    TrainResult as TrainResult,
    train as train,
)
