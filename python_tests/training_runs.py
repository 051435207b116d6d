# SPDX-License-Identifier: MIT
"""Small training runs for the tests; also started by ``torchrun`` as ``training_runs.py LOG METHOD CHECKPOINT``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from certcal_ext.nets import SmallCnn
from certcal_ext.training import METHODS, Objective, Settings

OPTIONS: dict[str, dict[str, Any]] = {
    "gaussian": {"draws": 2},
    "smoothadv": {"radius": 0.2, "draws": 2},
    "brier-act": {"radius": 0.2, "draws": 2, "margin_weight": 0.1},
    "cce-act": {"radius": 0.2, "draws": 4, "window": 2},
    "acce-act": {"radius": 0.2, "draws": 2, "admm_steps": 20},
    "certificate": {"radius": 0.2, "draws": 4, "metric": "ece", "window": 3, "margin_weight": 0.1},
}


def objective(method: str) -> Objective:
    return METHODS[method](**OPTIONS[method])


def data(samples: int = 70, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose bright quarter is the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (samples,), generator=generator)
    images = 0.4 * torch.rand(samples, 1, 8, 8, generator=generator)
    for row, label in enumerate(labels.tolist()):
        top, left = 4 * (label // 2), 4 * (label % 2)
        images[row, :, top : top + 4, left : left + 4] += 0.5
    return images, labels


def network(dropout: float = 0.0, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[torch.nn.Module] = [SmallCnn(1, 8, 4, width=4, hidden=16)]
        if dropout:
            layers.insert(0, torch.nn.Dropout(dropout))
        return torch.nn.Sequential(*layers)


def settings(**changes: Any) -> Settings:
    return Settings(
        **{"sigma": 0.25, "epochs": 2, "batch_size": 16, "radius_warmup": 1.0} | changes
    )


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


if __name__ == "__main__":
    from certcal_ext.training import train

    torch.set_num_threads(1)
    log, method, checkpoint = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    train(network(), *data(), objective(method), settings(), checkpoint=checkpoint, log=log)
