# SPDX-License-Identifier: MIT
"""What a certificate by Gaussian noise assumes and floating point does not keep: the noise hides every bit of the input.

Voracek and Hein, "Sound randomized smoothing in floating-point arithmetic" (ICLR 2023). These tests say that the limit is
real and that it is told; a certificate that holds in floating point needs another noise.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from models import LowBits

import certcal_ext as cc
from certcal_ext.attacks import (
    AttackResult,
    BoundViolation,
    BrierAttack,
    SmoothedVictim,
    compare_with_bound,
)
from certcal_ext.report.attack_page import render_attack_report

SIGMA, RADIUS, SAMPLES = 0.25, 0.25, 8
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def broken() -> tuple[cc.Certificates, AttackResult]:
    """Gray images that a network reading low bits classifies, certified, and the same 2^-25 darker."""
    images = torch.full((SAMPLES, 1, 16, 16), 0.5)
    labels = torch.zeros(SAMPLES, dtype=torch.int64)
    model = LowBits()
    certificates = cc.SmoothedClassifier(model, 2, SIGMA, seed=3).certify(
        images, labels, n0=10, n=10_000, keep_counts=True
    )
    victim = SmoothedVictim(model, sigma=SIGMA, draws=4, seed=3, confidence="votes")
    seen = BrierAttack(radius=0.0, steps=1)
    with pytest.raises(ValueError, match="logits that can be differentiated"):
        seen.run(victim, images, labels)  # no gradient finds this attack
    darker = images - 2.0**-25
    delta = (darker - images).double().flatten(1)
    assert bool((delta == -(2.0**-25)).all())
    unmoved = np.zeros(SAMPLES)
    result = AttackResult(
        attack="low bits",
        settings={"radius": RADIUS, "norm": "l2", **victim.settings},
        index=np.arange(SAMPLES),
        label=labels.numpy(),
        predicted=labels.numpy(),
        correct=np.ones(SAMPLES, np.bool_),
        clean_confidence=unmoved,
        attacked_confidence=unmoved,
        kept=np.ones(SAMPLES, np.bool_),
        l2=delta.norm(dim=1).numpy(),
        linf=delta.abs().amax(1).numpy(),
        gradients=np.zeros(SAMPLES, np.int64),
        passes=np.zeros(SAMPLES, np.int64),
        draws=4,
        fresh=False,
        images=darker,
        clean_images=images,
    )
    return certificates, result.under(victim.with_draws(1000))


def test_a_network_that_reads_low_bits_breaks_a_certificate(
    broken: tuple[cc.Certificates, AttackResult],
) -> None:
    """Certified above 0.98 against size 0.25; size 5e-7 leaves a share of (1 - P(-4 < z < -2))^256 = 0.003."""
    certificates, result = broken
    certified = certificates.at(RADIUS)
    assert len(certified.index) == SAMPLES
    assert certified.lower.min() > 0.98
    assert result.l2.max() < 5e-7
    assert result.clean_confidence.min() == 1.0
    assert result.attacked_confidence.max() < 0.02
    assert not result.kept.any()


def test_the_comparison_with_attacks_finds_it(
    broken: tuple[cc.Certificates, AttackResult],
) -> None:
    certificates, result = broken
    with pytest.raises(BoundViolation, match="8 of 8 samples left their certified intervals"):
        compare_with_bound(certificates, [result])


def test_the_limit_is_told(broken: tuple[cc.Certificates, AttackResult]) -> None:
    """Where a bound is printed, and in the documentation, with the number that this file measures."""
    certificates, result = broken
    clean = dataclasses.replace(result, attacked_confidence=result.clean_confidence)
    page = render_attack_report(clean, bound=compare_with_bound(certificates, [clean]))
    assert "assume exact Gaussian noise" in " ".join(page.split())
    told = " ".join((DOCS / "attacks.md").read_text(encoding="utf-8").split())
    for words in ("exact Gaussian noise", "Voracek and Hein (ICLR 2023)", "0.3 %", "5e-7"):
        assert words in told, words
