# SPDX-License-Identifier: MIT
"""Every public callable with arguments that it accepts, and values of every kind to put in their place."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch

import certcal_ext as cc

Call = tuple[Callable[..., Any], dict[str, Any]]

#: Made anew for each call: nothing may come to depend on what an earlier one did.
WRONG: dict[str, Callable[[], Any]] = {
    "huge": lambda: 10**400,
    "huge_negative": lambda: -(10**400),
    "unprintable": lambda: 10**5000,
    "huge_fraction": lambda: Fraction(10**400, 3),
    "int64_overflow": lambda: 2**64,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "minus_inf": lambda: float("-inf"),
    "negative": lambda: -1,
    "half": lambda: 0.5,
    "true": lambda: True,
    "none": lambda: None,
    "text": lambda: "text",
    "bytes": lambda: b"bytes",
    "complex": lambda: 1j,
    "decimal": lambda: Decimal("0.5"),
    "object": object,
    "dict": lambda: {"a": 1},
    "set": lambda: {1, 2},
    "empty_list": list,
    "list": lambda: ["a", None],
    "huge_list": lambda: [10**400, 0.5],
    "ragged": lambda: [[1], [1, 2]],
    "tuple": lambda: (1.5, "b"),
    "class": lambda: int,
    "function": lambda: len,
    "array": lambda: np.array([0.25, np.nan, -1.0]),
    "matrix": lambda: np.zeros((2, 3)),
    "zero_d": lambda: np.array(0.5),
    "zero_d_object": lambda: np.array(None),
    "empty_array": lambda: np.zeros(0),
    "strings": lambda: np.array(["left", "right"]),
    "objects": lambda: np.array([None, 1], object),
    "dates": lambda: np.array(["2020-01-01"], "M8[D]"),
    "masked": lambda: np.ma.array([0.5, 0.5], mask=[True, False]),
    "masked_rows": lambda: [np.ma.array([1, 1], mask=[True, False])] * 2,
    "masked_scalar": lambda: np.ma.masked,
    "longdouble": lambda: np.longdouble(1) / 3,
    "longdoubles": lambda: np.array([1, 1], np.longdouble) / 3,
    "tensor": lambda: torch.zeros(2, 0),
    "complex_tensor": lambda: torch.zeros(2, dtype=torch.complex64),
}

SAMPLE: dict[str, Any] = {"correct": [1, 0], "lower": [0.25, 0.5], "upper": [0.5, 0.75]}
POINTS: dict[str, Any] = {"correct": [1, 0], "confidence": [0.25, 0.5]}
INTERVALS: dict[str, Any] = {"lower": [0.25, 0.5], "upper": [0.5, 0.75]}
WIDE: dict[str, Any] = {"lower": [[0.25, 0.5]] * 2, "upper": [[0.5, 0.75]] * 2}
HISTOGRAM: dict[str, Any] = {"counts": [[0, 2, 6, 2]], "mean": [0.6], "alpha": 0.01}


class Net(torch.nn.Module):
    """Two logits of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[1.0, -1.0, 0.5, 0.0], [0.0, 1.0, -0.5, 0.25]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(images.flatten(1))
        return result


@functools.cache
def net() -> Net:
    return Net().eval()


def images() -> torch.Tensor:
    return torch.linspace(0, 1, 8).reshape(2, 1, 2, 2)


@functools.cache
def certificates() -> cc.Certificates:
    return cc.Certificates.from_votes([90, 80], 100, [0, 1], [0, 0], 0.5, 0.01)


@functools.cache
def classifier() -> cc.SmoothedClassifier:
    return cc.SmoothedClassifier(net(), num_classes=2, sigma=0.5)


@functools.cache
def smoothed() -> cc.Certificates:
    return classifier().certify(images(), [0, 1], n0=4, n=20)


@functools.cache
def stopping() -> cc.Stopping:
    return cc.Stopping(radii=(0.1,), n_max=40, n_min=10, planning=10, planning_stages=1)


def replayed() -> cc.ReplayedVotes:
    return cc.ReplayedVotes([400, 300], 500)


@functools.cache
def adaptive() -> cc.AdaptiveResult:
    return cc.run_adaptive(replayed(), [1, 0], 0.5, stopping=stopping())


@functools.cache
def victim() -> cc.PlainVictim:
    return cc.PlainVictim(net())


@functools.cache
def attacked() -> cc.AttackResult:
    return cc.AceAttack(radius=0.1, steps=1).run(victim(), images(), [0, 1])


@functools.cache
def smoothed_attack() -> cc.AttackResult:
    shown_to = cc.SmoothedVictim(net(), sigma=0.5, draws=4, confidence="votes")
    found = cc.AceAttack(radius=0.1, steps=1).run(shown_to, images(), [0, 1])
    return found.under(shown_to.with_draws(8))


@functools.cache
def split() -> cc.SplitRecalibration:
    rows = 8
    made = cc.Certificates.from_votes([90] * rows, 100, [0] * rows, [0, 1] * 4, 0.5, 0.01)
    return cc.recalibrate_split(made, 0.1)


def plain_calls() -> dict[str, Call]:
    """Of the metrics, the intervals, the maps and the states."""
    step = cc.StepMap((0.5,), (0.25, 0.75))
    table = cc.EceTable(bins=2)
    table.update(*SAMPLE.values())
    bernoulli = {"k": [5, 7], "n": 10, "alpha": 0.01}
    classwise = {"labels": [0, 1], "probabilities": [[0.75, 0.25]] * 2}
    shares = {"shares": [0.5], "confidence": [0.3, 0.6]}
    calls: dict[str, Call] = {
        name: (getattr(cc, name), SAMPLE)
        for name in cc.__all__
        if name.startswith(("certified_", "fit_", "lower_estimate_"))
    }
    calls |= {
        name: (getattr(cc, name), POINTS)
        for name in ("auroc", "brier", "ece", "ks", "log_loss", "mce", "risk_coverage")
    }
    calls |= {
        "certified_classwise_ece": (cc.certified_classwise_ece, {"labels": [0, 1], **WIDE}),
        "certified_ece_milp": (cc.certified_ece_milp, SAMPLE | {"time_limit": 5.0}),
        "certified_selective_risk": (cc.certified_selective_risk, SAMPLE | {"threshold": 0.5}),
        "lower_estimate_admm": (cc.lower_estimate_admm, SAMPLE | {"steps": 5}),
        "lower_estimate_dece": (cc.lower_estimate_dece, SAMPLE | {"steps": 5}),
        "classwise_ece": (cc.classwise_ece, classwise),
        "selective_risk": (cc.selective_risk, POINTS | {"threshold": 0.5}),
        "fit_recalibration": (cc.fit_recalibration, SAMPLE | {"kind": "platt"}),
        "fit_tradeoff": (cc.fit_tradeoff, SAMPLE | {"confidence": [0.3, 0.6], "share": 0.5}),
        "tradeoff_maps": (cc.tradeoff_maps, SAMPLE | shares),
        "resolution_curve": (
            cc.resolution_curve,
            SAMPLE | {"maps": [step], "confidence": [0.3, 0.6]},
        ),
        "recalibration_report": (
            cc.recalibration_report,
            SAMPLE | {"recalibration": step, "confidence": [0.3, 0.6]},
        ),
        "split_halves": (cc.split_halves, {"index": [0, 1, 2]}),
        "equal_mass_edges": (cc.equal_mass_edges, {"confidence": [0.3, 0.6]}),
        "equal_width_edges": (cc.equal_width_edges, {}),
        "clopper_pearson": (cc.clopper_pearson, bernoulli),
        "union_interval": (cc.union_interval, bernoulli),
        "mixture_interval": (cc.mixture_interval, bernoulli),
        "score_band": (cc.score_band, HISTOGRAM),
        "score_interval": (cc.score_interval, HISTOGRAM),
        "ScoreBand.at": (cc.score_band([[0, 2, 6, 2]], 0.01).at, {"shift": 0.1}),
        "CertifiedEce.worst_confidence_of": (table.certify().worst_confidence_of, SAMPLE),
        "CertifiedState.update": (cc.BrierState().update, SAMPLE),
        "CertifiedState.merge": (cc.BrierState().merge, {"other": cc.BrierState()}),
        "CertifiedState.from_state": (cc.BrierState.from_state, {"state": np.zeros(4, np.int64)}),
        "EceTable": (cc.EceTable, {}),
        "EceState": (cc.EceState, {}),
        "KsState": (cc.KsState, {}),
        "LogLossState": (cc.LogLossState, {}),
        "RiskCoverageState": (cc.RiskCoverageState, {}),
        "LinearConstraint": (cc.LinearConstraint, {"coefficients": [1.0, 0.0]}),
        "StepMap": (cc.StepMap, {"jumps": (0.5,), "levels": (0.25, 0.75)}),
        "LogisticMap": (cc.LogisticMap, {"family": "beta", "a": 1.0, "b": 1.0, "c": 0.0}),
        "MixtureMap": (cc.MixtureMap, {"first": step, "second": step, "share": 0.5}),
        "RecalibrationMap.__call__": (step, {"confidence": [0.5]}),
        "RecalibrationMap.lower_image": (step.lower_image, {"lower": [0.5]}),
        "RecalibrationMap.upper_image": (step.upper_image, {"upper": [0.5]}),
        "RecalibrationMap.image": (step.image, INTERVALS),
        "RecalibrationMap.from_json": (cc.RecalibrationMap.from_json, {"text": step.to_json()}),
    }
    return calls


def certificate_calls() -> dict[str, Call]:
    """Of tables of certificates and what is made of them."""
    made, curve = certificates(), certificates().bound("ece", [0.1])
    scores = {
        "histogram": [[0, 2, 6, 2]],
        "mean": [0.6],
        "votes": [8],
        "predicted": [0],
        "labels": [0],
        "sigma": 0.5,
    }
    counts = {"counts": [[90, 10]], "labels": [0], "sigma": 0.5}
    votes = {"votes": [90], "n": 100, "predicted": [0], "labels": [0], "sigma": 0.5}
    of = {
        "at": {"radius": 0.1},
        "rows_at": {"radius": 0.1},
        "bound": {"metric": "ece", "radii": [0.1]},
        "brier": {"radii": [0.1]},
        "ece": {"radii": [0.1]},
        "curve": {"radii": [0.1]},
        "recalibrated": {"mapping": cc.IdentityMap()},
        "select": {"rows": [0]},
        "grouped": {"labels": [0, 1]},
        "events_at": {"radius": 0.1},
        "from_counts": counts,
        "from_votes": votes,
        "from_scores": scores,
        "from_intervals": SAMPLE | {"norm": "linf", "radius": 0.1},
        "from_adaptive": {"result": adaptive(), "predicted": [0, 1], "labels": [0, 0]},
    }
    calls: dict[str, Call] = {
        f"Certificates.{name}": (getattr(made, name), arguments) for name, arguments in of.items()
    }
    full = cc.Certificates.from_counts([[90, 10], [20, 80]], [0, 1], 0.5, keep_counts=True)
    calls |= {
        "Certificates.classwise": (full.classwise, {"radii": [0.1]}),
        "Certificates": (cc.Certificates, {"table": made.table, "provenance": made.provenance}),
        "MetricCurve.statement": (curve.statement, {"at": 0}),
        "compare": (cc.compare, {"models": {"a": made, "b": made}, "radii": [0.1]}),
        "Comparison.best": (cc.compare({"a": made, "b": made}, [0.1]).best, {"at": 0}),
        "compare_with_bound": (
            cc.compare_with_bound,
            {"certificates": smoothed(), "results": [smoothed_attack()]},
        ),
        "SplitRecalibration.reports": (split().reports, {"radii": [0.1]}),
        "SplitRecalibration.resolution_curve": (split().resolution_curve, {"radius": 0.1}),
        "Provenance": (cc.Provenance, {"kind": "intervals", "norm": "linf", "radius": 0.1}),
        "Provenance.from_json": (cc.Provenance.from_json, {"text": made.provenance.to_json()}),
    }
    rows = 8
    many = cc.Certificates.from_votes([90] * rows, 100, [0] * rows, [0, 1] * 4, 0.5, 0.01)
    voted = [
        cc.Certificates.from_counts([[90, 10]] * rows, [0, 1] * 4, sigma, 0.01, keep_counts=True)
        for sigma in (0.5, 1.0)
    ]
    calls["stack_split"] = (cc.stack_split, {"certificates": voted, "radius": 0.1})
    calls["recalibrate_split"] = (cc.recalibrate_split, {"certificates": many, "radius": 0.1})
    return calls


def model_calls() -> dict[str, Call]:
    """Of what runs a model."""
    logits = torch.zeros(2, 3, 2)
    run = {"images": images(), "labels": [0, 1]}
    attack = cc.AceAttack(radius=0.1, steps=1)
    result = attacked()
    source = {"model": net(), "num_classes": 2, "sigma": 0.5}
    calls: dict[str, Call] = {
        "add_noise": (cc.add_noise, {"x": images(), "sigma": 0.5}),
        "count_votes": (cc.count_votes, {"logits": logits}),
        "score_histogram": (cc.score_histogram, {"logits": logits}),
        "ScoreHistogram": (cc.ScoreHistogram, {"counts": [[1, 2]], "sums": [5]}),
        "SmoothedClassifier": (cc.SmoothedClassifier, source),
        "SmoothedClassifier.certify": (classifier().certify, run | {"n0": 4, "n": 20}),
        "SmoothedClassifier.certify_adaptive": (
            classifier().certify_adaptive,
            run | {"stopping": stopping(), "n0": 4},
        ),
        "replay": (cc.replay, {"certificates": smoothed(), "model": net(), "images": images()}),
        "Stopping": (cc.Stopping, {"radii": (0.1,)}),
        "Stopping.from_json": (cc.Stopping.from_json, {"text": stopping().to_json()}),
        "Stopping.lower": (stopping().lower, {"correct": 1}),
        "Stopping.share": (stopping().share, {"look": 0}),
        "ReplayedVotes": (cc.ReplayedVotes, {"votes": [400, 300], "draws": 500}),
        "run_adaptive": (
            cc.run_adaptive,
            {"source": replayed(), "correct": [1, 0], "sigma": 0.5, "stopping": stopping()},
        ),
        "what_more_draws_buy": (cc.what_more_draws_buy, {"result": adaptive()}),
        "AdaptiveResult.at_level": (adaptive().at_level, {"alpha": 0.01}),
        "VoteSource": (cc.VoteSource, source | {"seed": 0, "images": images()}),
        "PlainVictim": (cc.PlainVictim, {"model": net()}),
        "SmoothedVictim": (cc.SmoothedVictim, {"model": net(), "sigma": 0.5, "draws": 2}),
        "SmoothedVictim.with_draws": (
            cc.SmoothedVictim(net(), sigma=0.5).with_draws,
            {"draws": 2},
        ),
        "Attack.run": (attack.run, run | {"victim": victim()}),
        "AttackResult.rows": (result.rows, {"index": [0]}),
        "AttackResult.under": (result.under, {"victim": victim()}),
    }
    calls |= {
        f"{name}Attack": (getattr(cc, f"{name}Attack"), {"radius": 0.1})
        for name in ("Ace", "Brier", "CceGuided", "Dece", "OneStepAce")
    }
    return calls


#: Parts that other code of the package, or a subclass, calls with arguments that it has checked.
INNER = {
    "add_checked", "solve", "objective", "confidence", "inputs", "outputs", "selecting", "signed",
    "votes", "settings", "source", "checked", "check", "with_provenance", "run_after", "take", "sampler",
}  # fmt: skip
#: Files: what comes of paths is for the tests of readers.
FILES = {"from_file", "from_npz", "from_parquet", "from_cohen_log", "to_parquet"}


LISTS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def public_calls() -> set[str]:
    """The names of all public functions, constructors that check, and methods with arguments."""
    names: set[str] = set()
    for name in cc.__all__:
        part = getattr(cc, name)
        if inspect.isclass(part):
            checks = not dataclasses.is_dataclass(part) or hasattr(part, "__post_init__")
            if checks and inspect.signature(part).parameters and not inspect.isabstract(part):
                names.add(name)
            for method, function in inspect.getmembers(part, callable):
                if (method.startswith("_") and method != "__call__") or method in INNER | FILES:
                    continue
                given = inspect.signature(function).parameters
                if any(p.kind not in LISTS and p.name != "self" for p in given.values()):
                    names.add(function.__qualname__)
        elif callable(part):
            names.add(name)
    return names
