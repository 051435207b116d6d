# SPDX-License-Identifier: MIT
"""Writes ``python_tests/data/metric_references.json``: what other libraries give for small fixed problems.

Needs torchmetrics, netcal, uncertainty-calibration and scikit-learn; run it where they are installed:

    python tools/make_metric_references.py

Each record names the library and its version, the call, the problem, and the function of certcal_ext with the arguments
under which both must agree. ``python_tests/metrics/test_base__plain.py`` compares with the file always, and with the
libraries themselves where they are installed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).resolve().parent.parent / "python_tests/data/metric_references.json"

#: Confidences are multiples of this, so that float32 holds them exactly.
GRID = 4096

#: float64 sums in another order, and float32 ones.
DOUBLE, SINGLE = 1e-12, 1e-6


def problems() -> dict[str, dict[str, Any]]:
    """By name: labels and, for each class, the probabilities in units of 1 / GRID."""
    random = np.random.default_rng(20240511)
    found = {}
    for name, size, classes, step in (
        ("spread", 300, 4, 1),
        ("on edges", 240, 3, GRID // 16),  # many confidences equal an edge of 8 bins
        ("few", 9, 3, 1),
    ):
        rows = []
        while len(rows) < size:
            row = random.multinomial(GRID // step, random.dirichlet(np.full(classes, 0.4))) * step
            if np.count_nonzero(row == row.max()) == 1:  # the predicted class is not ambiguous
                rows.append(row)
        units = np.array(rows)
        draw = random.random(size)[:, None]
        labels = (draw > np.cumsum(units / GRID, axis=1) ** 0.7).sum(axis=1).clip(0, classes - 1)
        found[name] = {"labels": labels.tolist(), "units": units.tolist()}
    return found


def arrays(problem: dict[str, Any]) -> dict[str, Any]:
    """Labels, probabilities of all classes, and confidence and correctness of the predicted one."""
    labels = np.array(problem["labels"])
    probabilities = np.array(problem["units"]) / GRID
    top = probabilities.argmax(axis=1)
    return {
        "labels": labels,
        "probabilities": probabilities,
        "confidence": probabilities.max(axis=1),
        "correct": (top == labels).astype(int),
    }


def torchmetrics_records(data: dict[str, Any]) -> list[dict[str, Any]]:
    """l1 and max norms; bins are [lo, hi), and a confidence of 1 has one of its own."""
    import torch
    from torchmetrics.functional import classification

    records = []
    probabilities = torch.tensor(data["probabilities"])
    labels = torch.tensor(data["labels"])
    for bins in (1, 8, 15):
        edges = [*np.linspace(0, 1, bins + 1)[:-1].tolist(), 1 - 2**-30, 1.0]
        for norm, metric in (("l1", "ece"), ("max", "mce")):
            value = classification.multiclass_calibration_error(
                probabilities, labels, probabilities.shape[1], n_bins=bins, norm=norm
            )
            records.append(
                {
                    "call": f"multiclass_calibration_error(n_bins={bins}, norm='{norm}')",
                    "metric": metric,
                    "arguments": {"edges": edges, "closed": "left"},
                    "value": float(value),
                    "tolerance": SINGLE,
                }
            )
    return records


def netcal_records(data: dict[str, Any]) -> list[dict[str, Any]]:
    """ECE and MCE; bins are [lo, hi), and confidences are clipped to [2^-52, 1 - 2^-52]."""
    from netcal.metrics import ECE, MCE

    records = []
    confidence, correct = data["confidence"], data["correct"]
    for bins in (1, 8, 15):
        for kind, metric in ((ECE, "ece"), (MCE, "mce")):
            records.append(
                {
                    "call": f"{kind.__name__}({bins}).measure",
                    "metric": metric,
                    "arguments": {"bins": bins, "closed": "left"},
                    "value": float(kind(bins).measure(confidence, correct)),
                    "tolerance": DOUBLE,
                }
            )
    quantiles = np.quantile(confidence, np.linspace(0, 1, 4))
    quantiles[[0, -1]] = 0, 1
    if (np.diff(quantiles) > 0).all():
        records.append(
            {
                "call": "ECE(3, equal_intervals=False).measure",
                "metric": "ece",
                "arguments": {"edges": quantiles.tolist(), "closed": "left"},
                "value": float(ECE(3, equal_intervals=False).measure(confidence, correct)),
                "tolerance": DOUBLE,
            }
        )
    return records


def uncertainty_calibration_records(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Top-label and marginal ECE with equal-width and equal-mass bins, (lo, hi]; area under the accuracy curve."""
    import calibration

    records = []
    probabilities, labels = data["probabilities"], data["labels"]
    confidence, correct = data["confidence"], data["correct"]
    for bins in (1, 8, 15):
        for call, metric, mode, arguments in (
            ("get_ece", "ece", "top-label", {"bins": bins}),
            ("get_ece", "classwise_ece", "marginal", {"bins": bins}),
            ("get_ece_em", "ece", "top-label", {"equal_mass": bins}),
        ):
            value = getattr(calibration, call)(probabilities, labels, num_bins=bins, mode=mode)
            records.append(
                {
                    "call": f"{call}(num_bins={bins}, mode='{mode}')",
                    "metric": metric,
                    "arguments": {**arguments, "closed": "right"},
                    "value": float(value),
                    "tolerance": DOUBLE,
                }
            )
    if np.unique(confidence).size == confidence.size:  # it takes equal ones in any order
        area, _ = calibration.get_selective_stats(confidence, correct)
        records.append(
            {
                "call": "1 - get_selective_stats()[0]",
                "metric": "aurc",
                "arguments": {},
                "value": 1 - float(area),
                "tolerance": DOUBLE,
            }
        )
    return records


def sklearn_records(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Brier score; log loss, which clips to [2^-52, 1 - 2^-52]."""
    from sklearn.metrics import brier_score_loss, log_loss

    confidence, correct = data["confidence"], data["correct"]
    return [
        {
            "call": "brier_score_loss",
            "metric": "brier",
            "arguments": {},
            "value": float(brier_score_loss(correct, confidence)),
            "tolerance": DOUBLE,
        },
        {
            "call": "log_loss",
            "metric": "log_loss",
            "arguments": {"clip": float(np.finfo(np.float64).eps)},
            "value": float(log_loss(correct, confidence, labels=[0, 1])),
            "tolerance": 1e-11,
        },
    ]


#: By name of the distribution: the module to import and what makes the records of one problem.
PEERS: dict[str, tuple[str, Callable[[dict[str, Any]], list[dict[str, Any]]]]] = {
    "torchmetrics": ("torchmetrics", torchmetrics_records),
    "netcal": ("netcal", netcal_records),
    "uncertainty-calibration": ("calibration", uncertainty_calibration_records),
    "scikit-learn": ("sklearn", sklearn_records),
}


def records_of(peer: str) -> list[dict[str, Any]]:
    """All records of one library, computed now."""
    _, make = PEERS[peer]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        return [
            {"peer": f"{peer} {version(peer)}", "problem": name, **record}
            for name, problem in problems().items()
            for record in make(arrays(problem))
        ]


def main() -> None:
    """Writes the file."""
    records = [record for peer in PEERS for record in records_of(peer)]
    lines = ",\n".join(json.dumps(record) for record in records)
    found = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(problem)}" for name, problem in problems().items()
    )
    TARGET.write_text(f'{{"grid": {GRID},\n"problems": {{\n{found}}},\n"records": [\n{lines}]}}\n')
    print(f"{len(records)} records in {TARGET}")


if __name__ == "__main__":
    main()
