# SPDX-License-Identifier: MIT
"""Attacks against certificates: does any confidence leave its interval, or any metric pass its bound?

Every attack on the plain and on the smoothed network, at every radius, is shown to noises that no attack saw, and its
confidences (shares of votes, and mean softmax scores) are compared with the certificates of both kinds. What comes nearest
to an end is estimated again by many more noises, as the error of an estimate hides an escape that is smaller.

Each attack at each radius is a part on disk, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import nn

import certcal_ext as cc
from certcal_ext.attacks import (
    Attack,
    AttackResult,
    PlainVictim,
    SmoothedVictim,
    Victim,
    compare_with_bound,
)
from certcal_ext.attacks.compare import mean_interval

KINDS = ("votes", "scores")
ALPHA, FALSE_ALARM = 1e-3, 1e-6
#: Of the fresh noises: beyond those of attacks and of the estimates of the guided attack. The second look has others.
FRESH, AGAIN = 2**29, 2**29 + 2**28
SEED_CERTIFIED, SEED_ATTACKED = 1, 3


@dataclass(frozen=True)
class Size:
    """How much is done: draws that certify, noises of an attack, fresh ones, those of the second look, and its samples."""

    n: int = 10_000
    draws: int = 16
    fresh: int = 500
    again: int = 20_000
    nearest: int = 100


@dataclass(frozen=True)
class Scene:
    """The network, its images, the certificates and the class that each certifies."""

    network: nn.Module
    images: torch.Tensor
    labels: NDArray[np.int64]
    sigma: float
    certificates: dict[str, cc.Certificates]

    @property
    def predicted(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.certificates["votes"].table["predicted"].to_numpy().copy()
        return found

    def victim(self, kind: str, draws: int, first: int | None = None) -> SmoothedVictim:
        victim = SmoothedVictim(
            self.network, sigma=self.sigma, draws=draws, seed=SEED_ATTACKED, confidence=kind
        )
        return victim if first is None else victim.with_draws(draws, first_draw=first)


def certified(
    network: nn.Module,
    images: torch.Tensor,
    labels: NDArray[np.int64],
    sigma: float,
    n: int,
    parts: Path,
) -> Scene:
    """Certificates by votes and by scores, made once."""
    found = {}
    for kind in KINDS:
        path = parts / f"certificates-{kind}.parquet"
        if not path.exists():
            smooth = cc.SmoothedClassifier(network, 10, sigma, seed=SEED_CERTIFIED)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = smooth.certify(images, labels, n0=100, n=n, alpha=ALPHA, confidence=kind)
            made.to_parquet(path)
        found[kind] = cc.Certificates.from_parquet(path)
    votes, scores = (found[kind].table["predicted"].to_numpy() for kind in KINDS)
    assert np.array_equal(votes, scores), "the same draws select the class"
    return Scene(network, images, labels, sigma, found)


def both_confidences(
    scene: Scene,
    images: torch.Tensor,
    ids: NDArray[np.int64],
    classes: NDArray[np.int64],
    draws: int,
    first: int,
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Share of votes and mean score of each image's class by the same noises, and whether the class is on top."""
    victims = {kind: scene.victim(kind, draws, first) for kind in KINDS}
    at_once = max(1, 2048 // draws)
    device = victims["votes"].device or images.device
    values: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
    kept = []
    with torch.no_grad():
        for part, number, chosen in zip(
            images.to(device).split(at_once),
            torch.from_numpy(ids).to(device).split(at_once),
            torch.from_numpy(classes).to(device).split(at_once),
            strict=True,
        ):
            outputs = victims["votes"].outputs(part, number, 2048)
            kept.append(outputs.predicted == chosen)
            for kind, victim in victims.items():
                values[kind].append(victim.confidence(outputs, chosen))
    return {k: torch.cat(v).cpu().numpy() for k, v in values.items()}, torch.cat(kept).cpu().numpy()


def run_part(
    scene: Scene, name: str, attack: Attack, victim: Victim, size: Size, clean: Any, path: Path
) -> None:
    """One attack at one radius, judged by fresh noises; its images and its result of both kinds go to disk."""
    ids = np.arange(len(scene.images))
    found = attack.run(victim, scene.images, scene.labels, predicted=scene.predicted)
    assert found.images is not None
    confidence, kept = both_confidences(
        scene, found.images, ids, scene.predicted, size.fresh, FRESH
    )
    np.save(path.with_suffix(".npy"), found.images.numpy())
    for kind in KINDS:
        fresh = scene.victim(kind, size.fresh, FRESH)
        dataclasses.replace(
            found,
            attack=name,
            settings={**found.settings, **fresh.settings, "seen": victim.settings},
            clean_confidence=clean[kind],
            attacked_confidence=confidence[kind],
            kept=kept,
            draws=size.fresh,
            fresh=True,
        ).to_parquet(path.with_suffix(f".{kind}.parquet"))


def run_parts(
    scene: Scene, attacks: dict[float, dict[str, Attack]], size: Size, parts: Path
) -> dict[str, list[AttackResult]]:
    """All parts that are not on disk yet; then all results by kind."""
    ids = np.arange(len(scene.images))
    clean: Any = None
    victims: dict[str, Victim] = {
        "plain": PlainVictim(scene.network),
        "smoothed": scene.victim("scores", size.draws),
        "votes": scene.victim("votes", size.draws),
    }
    todo = [
        (name, radius, seen, attacks[radius][name])
        for name in next(iter(attacks.values()))
        for radius in attacks
        # Only the guided attack asks how a confidence is counted: the others climb the score.
        for seen in (("plain", "smoothed", "votes") if name == "cce-guided" else ("plain", "smoothed"))
    ]  # fmt: skip
    for name, radius, seen, attack in todo:
        path = parts / f"{name}-{seen}-{radius:g}.part"
        if not path.with_suffix(".scores.parquet").exists():
            started = time.perf_counter()
            if clean is None:
                clean, _ = both_confidences(
                    scene, scene.images, ids, scene.predicted, size.fresh, FRESH
                )
            run_part(scene, f"{name} on {seen}", attack, victims[seen], size, clean, path)
            print(
                f"{name} on {seen}, R {radius:g}: {time.perf_counter() - started:.1f} s", flush=True
            )
    return {
        kind: [
            AttackResult.from_parquet(parts / f"{name}-{seen}-{radius:g}.{kind}.parquet")
            for name, radius, seen, _ in todo
        ]
        for kind in KINDS
    }


def second_look(
    scene: Scene, kind: str, results: list[AttackResult], size: Size, parts: Path
) -> dict[str, Any]:
    """The attacked confidences that come nearest to an end of their interval, by many more noises.

    Returns how many were looked at, how many lie outside beyond their error, of how many samples, and how near the
    nearest of them comes: the least distance of an estimate to the end, where below 0 is outside.
    """
    kept = parts / f"second-look-{kind}.json"
    if kept.exists():
        stored: dict[str, Any] = json.loads(kept.read_text())
        return stored
    looked, outside, nearest, samples = 0, 0, np.inf, set()
    by_radius: dict[float, list[AttackResult]] = {}
    for result in results:
        by_radius.setdefault(result.radius, []).append(result)
    beta = FALSE_ALARM / (2 * size.nearest * len(by_radius))
    for radius, here in by_radius.items():
        chosen = scene.certificates[kind].at(radius)
        if not len(chosen.index):
            continue
        moved = [result.rows(chosen.index) for result in here]
        room = np.stack(
            [
                np.minimum(
                    np.where(chosen.upper < 1, chosen.upper - r.attacked_confidence, np.inf),
                    np.where(chosen.lower > 0, r.attacked_confidence - chosen.lower, np.inf),
                )
                for r in moved
            ]
        )
        # The attack that brings a sample nearest, and of these the nearest samples.
        best, least = room.argmin(0), room.min(0)
        rows = np.argsort(least, kind="stable")[: size.nearest]
        images = torch.stack(
            [
                torch.from_numpy(
                    np.load(parts / f"{_file(here[best[row]])}.npy", mmap_mode="r")[
                        chosen.index[row]
                    ].copy()
                )
                for row in rows
            ]
        )
        ids = chosen.index[rows]
        confidence, _ = both_confidences(
            scene, images, ids, scene.predicted[ids], size.again, AGAIN
        )
        low, high = mean_interval(confidence[kind], size.again, beta)
        out = (low > chosen.upper[rows]) | (high < chosen.lower[rows])
        gap = np.minimum(
            chosen.upper[rows] - confidence[kind], confidence[kind] - chosen.lower[rows]
        )
        looked, outside, nearest = (
            looked + rows.size,
            outside + int(out.sum()),
            min(nearest, gap.min()),
        )
        samples |= set(ids[out].tolist())
    found = {
        "looked_at": looked,
        "draws": size.again,
        "outside": outside,
        "samples_outside": len(samples),
        "least_room": float(nearest),
    }  # fmt: skip
    kept.write_text(json.dumps(found))
    return found


def _file(result: AttackResult) -> str:
    name, seen = result.attack.split(" on ")
    return f"{name}-{seen}-{result.radius:g}"


def soundness(scene: Scene, attacks: dict[float, dict[str, Attack]], size: Size, parts: Path) -> dict[str, Any]:  # fmt: skip
    """The whole run. A violation stops it: ``compare_with_bound`` names the samples."""
    results = run_parts(scene, attacks, size, parts)
    found: dict[str, Any] = {"images": len(scene.images), "alpha": ALPHA, "size": dataclasses.asdict(size)}  # fmt: skip
    for kind in KINDS:
        report = compare_with_bound(
            scene.certificates[kind], results[kind], false_alarm=FALSE_ALARM
        )
        again = second_look(scene, kind, results[kind], size, parts)
        samples = len({one.index for one in report.outside})
        assert again["samples_outside"] <= report.allowed, again
        for row in report.rows:
            print(
                f"{kind} R {row.radius:g}: {row.certified} certified; ECE {row.clean_ece:.4f} <= {row.attack_ece:.4f} "
                f"({row.ece_attack}) <= {row.bound_ece:.4f}, ratio {row.ece_ratio:.3f}; Brier {row.clean_brier:.4f} <= "
                f"{row.attack_brier:.4f} ({row.brier_attack}) <= {row.bound_brier:.4f}, ratio {row.brier_ratio:.3f}"
            )
        print(
            f"  outside {samples} samples, allowed {report.allowed}; looks {report.looks}; second look {again}"
        )
        most = max(samples, again["samples_outside"])
        found[kind] = {
            "attacks": len({result.attack for result in results[kind]}),
            "looks": report.looks,
            "samples_outside": samples,
            "allowed": report.allowed,
            "p_value": float(binom.sf(most - 1, len(scene.images), ALPHA)),
            "second_look": again,
            "rows": report.to_table().to_pylist(),
        }  # fmt: skip
    return found
