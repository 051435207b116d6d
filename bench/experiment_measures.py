# SPDX-License-Identifier: MIT
"""What the experiment measures on certificates: both scopes, common samples, with and without recalibration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from experiment_plan import DataPlan

import certcal_ext as cc
from certcal_ext.certificates.compare import compare
from certcal_ext.certificates.recalibrate import SplitRecalibration, recalibrate_split

#: Measures of one model at each radius.
NAMES = (
    "certified_accuracy",
    "accuracy",
    "brier",
    "ece",
    "certified_brier",
    "certified_ece",
    "skill",
    "certified_brier_all",
    "certified_ece_all",
)
CONFIDENCES = ("scores", "votes")


def by_votes(made: cc.Certificates) -> cc.Certificates:
    """The certificates of the votes of the same draws."""
    table, of = made.table, made.provenance
    columns = (table.column(name).to_numpy() for name in ("votes", "n", "predicted", "label"))
    votes, n, predicted, label = columns
    index = table.column("index").to_numpy()
    return quietly(
        lambda: cc.Certificates.from_votes(
            votes, n, predicted, label, of.sigma, of.alpha, index=index
        )
    )


def quietly(function: Callable[[], Any]) -> Any:
    """Runs it without the warnings of radii or models at which nothing is certified: tables show that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no sample is certified|.*samples abstain")
        return function()


def measures(made: cc.Certificates, radii: Any, bins: int) -> dict[str, list[float]]:
    """One list a measure, an entry a radius; nan where nothing is certified."""
    curve = quietly(lambda: made.curve(radii, bins))
    found = {name: getattr(curve, name).tolist() for name in NAMES if not name.endswith("_all")}
    found["certified_brier_all"] = made.bound("brier", radii, scope="all").worst.tolist()
    found["certified_ece_all"] = made.bound("ece", radii, scope="all", bins=bins).worst.tolist()
    return found


def split_at(made: cc.Certificates, radius: float) -> SplitRecalibration | None:
    """Recalibrated at a radius: fitted on one half, to be certified on the other; None where a half has no sample."""
    try:
        return recalibrate_split(made, radius)
    except ValueError:
        return None


def recalibrated(made: cc.Certificates, radii: Any, bins: int) -> dict[str, dict[str, list[float]]]:
    """The other half before and after a map fitted for each radius."""
    result: dict[str, dict[str, list[float]]] = {"half": {}, "recalibrated": {}}
    for radius in radii:
        split = split_at(made, radius)
        for when in result:
            half = None if split is None else split.plain if when == "half" else split.certified
            found = {} if half is None else measures(half, [radius], bins)
            for name in NAMES:
                value = found.get(name, [float("nan")])[0]
                result[when].setdefault(name, []).append(value)
    return result


def on_common_samples(
    models: Mapping[str, cc.Certificates], radii: Any, bins: int
) -> dict[str, dict[str, list[float]]]:
    """By model, on the samples that all of them certify: accuracy, both bounds, and how many samples."""
    result: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for metric in ("brier", "ece"):
        found = quietly(lambda metric=metric: compare(models, radii, metric, bins=bins))
        for name, curve in found.curves.items():
            result[name][f"certified_{metric}"] = curve.worst.tolist()
            result[name]["accuracy"] = found.accuracy[name].tolist()
            result[name]["samples"] = curve.samples.tolist()
    return result


def recalibrated_on_common_samples(
    models: Mapping[str, cc.Certificates], radii: Any, bins: int
) -> dict[str, dict[str, list[float]]]:
    """The same of the other halves, each model recalibrated for each radius."""
    result: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for radius in radii:
        splits = {name: split_at(made, radius) for name, made in models.items()}
        known = {name: split.certified for name, split in splits.items() if split is not None}
        found = on_common_samples(known, [radius], bins) if len(known) == len(models) else {}
        for name in models:
            for measure in ("certified_brier", "certified_ece", "accuracy", "samples"):
                value = found.get(name, {}).get(measure, [float("nan")])[0]
                result[name].setdefault(measure, []).append(value)
    return result


def spread(values: list[list[float]]) -> dict[str, Any]:
    """Over seeds, at each radius: mean, standard deviation (n - 1) and the values themselves."""
    rows = np.array(values, np.float64)
    several = len(rows) > 1
    return {
        "mean": rows.mean(0).tolist(),
        "std": rows.std(0, ddof=1).tolist() if several else [float("nan")] * rows.shape[1],
        "values": rows.tolist(),
    }


def over_seeds(records: list[dict[str, list[float]]]) -> dict[str, Any]:
    return {name: spread([record[name] for record in records]) for name in records[0]}


def all_measures(
    chosen: Mapping[str, Mapping[int, cc.Certificates]], plan: DataPlan, bins: int
) -> dict[str, Any]:
    """Everything of the chosen models: by confidence, scope and method, over the seeds.

    Args:
        chosen: certificates by method and seed.
        plan: the radii.
        bins: of the calibration error.
    """
    seeds = sorted(next(iter(chosen.values())))
    result: dict[str, Any] = {}
    for confidence in CONFIDENCES:
        models = {
            name: {
                seed: made if confidence == "scores" else by_votes(made)
                for seed, made in by_seed.items()
            }
            for name, by_seed in chosen.items()
        }
        part: dict[str, Any] = {"plain": {}, "half": {}, "recalibrated": {}}
        for name, by_seed in models.items():
            part["plain"][name] = over_seeds(
                [measures(by_seed[seed], plan.radii, bins) for seed in seeds]
            )
            halves = [recalibrated(by_seed[seed], plan.radii, bins) for seed in seeds]
            for when in ("half", "recalibrated"):
                part[when][name] = over_seeds([half[when] for half in halves])
        for key, function in (
            ("common", on_common_samples),
            ("common_recalibrated", recalibrated_on_common_samples),
        ):
            found = [
                function({name: models[name][seed] for name in models}, plan.radii, bins)
                for seed in seeds
            ]
            part[key] = {name: over_seeds([one[name] for one in found]) for name in models}
        result[confidence] = part
    return result
