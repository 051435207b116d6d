# SPDX-License-Identifier: MIT
"""How much attacks raise ECE and Brier score at equal gradient count, beside the peers.

The peers are projected gradient ascent of the cross-entropy, kept where the label stays (our own loop, and foolbox and
torchattacks where they are installed), one-step ACE and the ascent of DECE. ECE and Brier score on a smoothed network are
those of noises that no attack saw, with the images that these predict otherwise put back to the clean ones.
"""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from certcal_ext.attacks import (
    AceAttack,
    Attack,
    BrierAttack,
    CceGuidedAttack,
    DeceAttack,
    OneStepAceAttack,
    Victim,
    calibration,
)
from certcal_ext.attacks.ascent import confidences
from certcal_ext.attacks.geometry import Ball, Norm
from certcal_ext.demo import load_digits
from certcal_ext.demo.model import train

SIGMA = 0.25
Data = tuple[nn.Module, torch.Tensor, NDArray[np.int64]]


def digits(images: int, seed: int = 0) -> Data:
    """The demo's network (100 training images), and images that it was not trained on."""
    pixels, labels = load_digits()
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(pixels))
    training, rest = np.sort(order[500:600]), np.sort(np.delete(order, slice(500, 600)))[:images]
    network = train(pixels[training], labels[training], sigma=SIGMA, epochs=120, seed=seed)
    return network, torch.from_numpy(pixels[rest]), labels[rest]


class FashionNetwork(nn.Module):
    """Two convolutions and two linear layers for 28 x 28 images in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 49, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers((images - 0.286) / 0.353)
        return logits


def fashion(images: int, training: int, epochs: int, device: str, seed: int = 0) -> Data:
    """A network trained with noise on some of the training images, and the first test images."""
    folder = Path(os.environ.get("CERTCAL_SHARED", "../shared")) / "data" / "fashion-mnist"

    def read(name: str, header: int) -> NDArray[np.uint8]:
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    x = (
        torch.from_numpy(
            read("train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[:training].copy()
        ).float()
        / 255
    )
    y = torch.from_numpy(read("train-labels-idx1-ubyte.gz", 8)[:training].astype(np.int64))
    torch.manual_seed(seed)
    network = FashionNetwork().to(device)
    x, y = x.to(device), y.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), device=device).split(128):
            noisy = x[rows] + SIGMA * torch.randn_like(x[rows])
            loss = nn.functional.cross_entropy(network(noisy), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    test = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[:images].copy()
    labels = read("t10k-labels-idx1-ubyte.gz", 8)[:images].astype(np.int64)
    return network.eval(), torch.from_numpy(test).float() / 255, labels


def ours(radius: float, norm: Norm, steps: int) -> dict[str, Attack]:
    common: dict[str, Any] = {"radius": radius, "norm": norm}
    found: dict[str, Attack] = {
        f"ace({eta},{omega})": AceAttack(eta=eta, omega=omega, steps=steps, **common)
        for eta in (1, -1)
        for omega in ("label", "predicted")
    }
    found["brier"] = BrierAttack(steps=steps, **common)
    found["cce-guided"] = CceGuidedAttack(steps=steps, **common)
    found["dece"] = DeceAttack(steps=steps, **common)
    found["one-step-ace"] = OneStepAceAttack(**common)
    return found


#: What ours are compared with; DECE and one-step ACE are run by this package, as published.
PEERS = ("dece", "one-step-ace", "pgd", "foolbox", "torchattacks")


def pgd(
    victim: Victim, x: torch.Tensor, y: torch.Tensor, ids: torch.Tensor, ball: Ball, steps: int
) -> torch.Tensor:
    """Projected gradient ascent of the cross-entropy, constant steps of 2 radius / steps: the reference."""
    at = x.clone()
    for _ in range(steps):
        leaf = at.clone().requires_grad_()
        scores = victim.outputs(leaf, ids).log_scores
        (gradient,) = torch.autograd.grad(-scores.gather(1, y[:, None]).sum(), leaf)
        at = ball.project(at + 2 * ball.radius / steps * ball.unit_step(gradient), x)
    return at


def foolbox_pgd(
    victim: Victim, x: torch.Tensor, y: torch.Tensor, ball: Ball, steps: int
) -> torch.Tensor:
    import foolbox

    kinds = {"l2": foolbox.attacks.L2PGD, "linf": foolbox.attacks.LinfPGD}
    attack = kinds[ball.norm](rel_stepsize=2 / steps, steps=steps, random_start=False)
    model = foolbox.PyTorchModel(victim.model, bounds=(0, 1))
    result: torch.Tensor = attack.run(model, x, y, epsilon=ball.radius)
    return result


def torchattacks_pgd(
    victim: Victim, x: torch.Tensor, y: torch.Tensor, ball: Ball, steps: int
) -> torch.Tensor:
    import torchattacks

    options = {
        "eps": ball.radius,
        "alpha": 2 * ball.radius / steps,
        "steps": steps,
        "random_start": False,
    }
    kinds = {"l2": torchattacks.PGDL2, "linf": torchattacks.PGD}
    attack = kinds[ball.norm](victim.model, **options)
    result: torch.Tensor = attack(x, y)
    return result


def filtered(
    victim: Victim, x: torch.Tensor, found: torch.Tensor, ids: torch.Tensor, part: int = 64
) -> torch.Tensor:
    """The attacked images where the victim's prediction stays, the clean ones elsewhere."""
    with torch.no_grad():
        kept = torch.cat(
            [
                victim.outputs(a, i).predicted == victim.outputs(b, i).predicted
                for a, b, i in zip(x.split(part), found.split(part), ids.split(part), strict=True)
            ]
        )
    return torch.where(kept.view(-1, 1, 1, 1), found, x)


def peers(
    victim: Victim, x: torch.Tensor, y: torch.Tensor, ids: torch.Tensor, ball: Ball, steps: int
) -> dict[str, torch.Tensor]:
    parts = list(zip(x.split(64), y.split(64), ids.split(64), strict=True))
    found = {"pgd": torch.cat([pgd(victim, a, b, i, ball, steps) for a, b, i in parts])}
    if victim.draws == 1:
        for name, function in (("foolbox", foolbox_pgd), ("torchattacks", torchattacks_pgd)):
            try:
                moved = torch.cat([function(victim, a, b, ball, steps) for a, b, _ in parts])
            except ImportError:
                print(f"{name} is not installed: left out")
                continue
            found[name] = ball.project(moved, x)
    return {name: filtered(victim, x, images, ids) for name, images in found.items()}


def strength(
    name: str, data: Data, victim: Victim, fresh: Victim, ball: Ball, steps: int, device: str
) -> dict[str, Any]:
    """ECE and Brier score of every attack; the ratios to the best of the peers."""
    _, images, labels = data
    x, ids = images.to(device), np.arange(len(images))
    rows: dict[str, dict[str, float]] = {}
    predicted = None
    for attack_name, attack in ours(ball.radius, ball.norm, steps).items():
        started = time.perf_counter()
        result = attack.run(victim, x, labels, sample_ids=ids)
        seconds = time.perf_counter() - started
        predicted = result.predicted
        judged = result if result.fresh else result.under(fresh).only_kept()
        after = judged.after()
        rows[attack_name] = {
            "ece": after.ece,
            "brier": after.brier,
            "gradients": int(result.gradients.max()),
            "passes": float(result.passes.mean()),
            "seconds": seconds,
        }
    before = judged.before()
    assert predicted is not None
    with torch.enable_grad():
        found = peers(
            victim,
            x,
            torch.from_numpy(labels).to(device),
            torch.arange(len(x), device=device),
            ball,
            steps,
        )
    for peer, attacked in found.items():
        confidence, kept = confidences(fresh, attacked, ids, predicted, batch_size=1024)
        confidence = np.where(kept, confidence, judged.clean_confidence)
        after = calibration(predicted == labels, confidence)
        rows[peer] = {"ece": after.ece, "brier": after.brier, "gradients": steps}
    mine = {n: r for n, r in rows.items() if n not in PEERS}
    theirs = {n: r for n, r in rows.items() if n in PEERS}
    ratios = {
        "ece_best_over_peers": max(r["ece"] for r in mine.values())
        / max(r["ece"] for r in theirs.values()),
        "brier_best_over_peers": max(r["brier"] for r in mine.values())
        / max(r["brier"] for r in theirs.values()),
        "ece_guided_over_peers": rows["cce-guided"]["ece"] / max(r["ece"] for r in theirs.values()),
    }
    print(
        f"\n{name}: {len(x)} images, {ball.norm} {ball.radius:g}, {steps} gradients; without attack ECE "
        f"{before.ece:.4f}, Brier {before.brier:.4f}"
    )
    for attack_name, row in rows.items():
        print(f"  {attack_name:20s} ECE {row['ece']:.4f}  Brier {row['brier']:.4f}")
    print("  " + ", ".join(f"{key} {value:.3f}" for key, value in ratios.items()))
    return {
        "images": len(x),
        "norm": ball.norm,
        "radius": ball.radius,
        "steps": steps,
        "victim": victim.settings,
        "judged_by": fresh.settings,
        "clean": {"ece": before.ece, "brier": before.brier},
        "attacks": rows,
        "ratios": ratios,
    }


def over_seeds(cases: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and least of each ratio."""
    found = {}
    for name in cases[0]["ratios"]:
        values = np.array([case["ratios"][name] for case in cases])
        deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        found[name] = {
            "mean": float(values.mean()),
            "deviation": deviation,
            "least": float(values.min()),
        }
    return found
