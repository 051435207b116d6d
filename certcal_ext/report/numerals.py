# SPDX-License-Identifier: MIT
"""Every number of a page as text, each rounded as what it claims: tables, key numbers, bars, provenance."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from certcal_ext import _claims
from certcal_ext.certificates.statements import binning
from certcal_ext.metrics.registry import METRICS
from certcal_ext.report import words
from certcal_ext.report.facts import CLIP, THRESHOLD

if TYPE_CHECKING:
    from certcal_ext.certificates.curve import Curve
    from certcal_ext.metrics.base import Metric
    from certcal_ext.report.facts import Facts


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: its heading.
        short: its heading where there is little room, with the unit.
        role: "plain", "clean" (an estimate without attack), "worst" (a bound) or "constant".
    """

    name: str
    short: str
    role: str = "plain"


@dataclass(frozen=True)
class Cell:
    """A cell that may be marked.

    Attributes:
        text: what it says.
        best: whether it is the best of its column.
    """

    text: str
    best: bool = False

    def __str__(self) -> str:
        """What it says."""
        return self.text


_FIELDS = {
    "kind": "kind of certificate",
    "source": "source",
    "interval": "kind of interval",
    "recalibration": "recalibration",
    "stopping": "early stopping",
    "sigma": "noise, standard deviation (pixel units)",
    "n0": "draws to select the class, a sample",
    "n": "draws to estimate the confidence, a sample",
    "alpha": "alpha, failure probability of an interval",
    "seed": "seed of the noise",
    "num_classes": "classes",
    "norm": "norm of the perturbation",
    "radius": "radius of the intervals",
    "precision": "number format of the base classifier",
    "model_hash": "hash of the model",
    "package_version": "certcal_ext version",
    "torch_version": "torch version",
    "created": "created",
    "notes": "notes",
}
COLUMNS = (
    Column("Radius", "Radius"),
    Column("Certified", "Certi-\nfied"),
    Column("Certified accuracy", "Cert.\nacc. %"),
    Column("Accuracy where certified", "Acc.\n%"),
    Column("ECE", "ECE\n%", "clean"),
    Column("Certified ECE", "Cert.\nECE %", "worst"),
    Column("Brier", "Brier", "clean"),
    Column("Certified Brier", "Cert.\nBrier", "worst"),
    Column("Constant Brier", "Const.\nBrier", "constant"),
    Column("Certified skill", "Cert.\nskill"),
)


def curve_rows(curve: Curve, *, units: bool = True) -> list[list[str]]:
    """The cells, one list a radius in the order of ``COLUMNS``; an en dash where not defined.

    Args:
        curve: the metrics.
        units: whether cells say "%", or leave it to the heading.
    """
    right = np.rint(curve.certified_accuracy * curve.total)
    cells = [
        [
            _claims.size(float(curve.radius[k])),
            _claims.count(curve.certified[k]),
            _claims.share(right[k], curve.total[k]),
            _claims.share(right[k], curve.certified[k]),
            _claims.percent(curve.ece[k]),
            _claims.at_most(curve.certified_ece[k], as_percent=True),
            _claims.fixed(curve.brier[k]),
            _claims.at_most(curve.certified_brier[k]),
            _claims.at_least(curve.constant_brier[k]),
            _claims.at_least(curve.skill[k], 3),
        ]
        for k in range(len(curve.radius))
    ]
    return (
        cells if units else [[cell.removesuffix(_claims.PERCENT) for cell in row] for row in cells]
    )


GAIN_COLUMNS = (
    Column("Other half of the samples", ""),
    Column("Certified Brier", "", "worst"),
    Column("Certified ECE", "", "worst"),
    Column("Certified skill", ""),
    Column("Brier", "", "clean"),
    Column("ECE", "", "clean"),
    Column("Resolution", ""),
    Column("AUROC", ""),
)


def metric_columns(facts: Facts) -> list[Column]:
    """The heading of ``metric_rows``."""
    further = facts.further
    if further is None:
        return []
    columns = [Column("Metric", ""), Column("Without attack", "", "clean")]
    columns.append(Column("Worst case", "", "worst"))
    if further.delta is not None:
        columns.append(Column("Valid jointly", "", "worst"))
    if further.everyone:
        columns.append(Column("Worst case, all samples", "", "worst"))
        if further.delta is not None:
            columns.append(Column("All samples, jointly", "", "worst"))
    return columns


def metric_rows(facts: Facts) -> list[list[str]]:
    """The cells of every metric at the main radius; each bound is rounded to its safe side."""
    further = facts.further
    if further is None:
        return []
    rows = []
    for at, curve in enumerate(further.certified):
        metric = METRICS[curve.metric]
        bound = _claims.at_least if metric.lowest else _claims.at_most
        row = [_named(metric), _claims.fixed(curve.plain[0]), bound(curve.worst[0])]
        row += [] if curve.joint is None else [bound(curve.joint[0])]
        if further.everyone:
            everyone = further.everyone[at]
            row.append(bound(everyone.worst[0]))
            row += [] if everyone.joint is None else [bound(everyone.joint[0])]
        rows.append(row)
    return rows


def _named(metric: Metric) -> str:
    """The metric with the options that the page takes."""
    details = {"clip": f", confidences clipped at {CLIP}", "threshold": f", from {THRESHOLD} on"}
    words = metric.words + "".join(details.get(option, "") for option in metric.uses)
    return words[:1].upper() + words[1:]


def gain_rows(facts: Facts) -> list[list[str]]:
    """Before and after recalibration, and the constant confidence; empty where there is no map."""
    if facts.further is None or facts.further.gain is None:
        return []
    gain = facts.further.gain
    report = gain.report
    rows = []
    for name, scores in (
        ("as it is", report.before),
        (f"recalibrated, {gain.split.kind}", report.after),
        ("recalibrated, with and without attack weighed equally", gain.kept.after),
    ):
        rows.append(
            [
                name,
                _claims.at_most(scores.certified_brier),
                _claims.at_most(scores.certified_ece, as_percent=True),
                _claims.at_least(scores.skill, 3),
                _claims.fixed(scores.brier),
                _claims.percent(scores.ece),
                _claims.fixed(scores.resolution),
                _claims.fixed(scores.auroc, 3),
            ]
        )
    nothing = _claims.fixed(float("nan"))
    constant, zero = report.constant_brier, _claims.fixed(0.0)
    cells = [_claims.at_most(constant), nothing, _claims.fixed(0.0, 3), _claims.fixed(constant)]
    cells += [nothing, zero, _claims.fixed(0.5, 3)]
    return [*rows, ["a constant confidence, their accuracy", *cells]]


MODEL_COLUMNS = (
    Column("Model", ""),
    Column("Certified", ""),
    Column("Certified accuracy", "", "clean"),
    Column("Certified ECE, all samples", "", "worst"),
    Column("Certified Brier, all samples", "", "worst"),
    Column("Accuracy, common samples", "", "clean"),
    Column("Certified ECE, common samples", "", "worst"),
    Column("Certified Brier, common samples", "", "worst"),
)


def model_rows(facts: Facts) -> list[list[Cell]]:
    """The cells of every model at the main radius, the best of each column marked; empty without a comparison."""
    if facts.models is None:
        return []
    rows = facts.models.rows
    names = ("accuracy", "ece", "brier", "common_accuracy", "common_ece", "common_brier")
    best = {}
    for name in names:
        values = [getattr(row, name) for row in rows if not math.isnan(getattr(row, name))]
        pick = max if name.endswith("accuracy") else min
        best[name] = pick(values) if values else None
    cells = []
    for row in rows:
        line = [Cell(row.name), Cell(_claims.count(row.certified))]
        for name in names:
            value = getattr(row, name)
            if name.endswith("accuracy"):
                whole = facts.models.common if name.startswith("common") else facts.models.total
                text = _claims.share(0 if math.isnan(value) else round(value * whole), whole)
            else:
                text = _claims.at_most(value, as_percent=name.endswith("ece"))
            line.append(Cell(text, best=value == best[name] and len(rows) > 1))
        cells.append(line)
    return cells


def tiles(facts: Facts) -> list[dict[str, str]]:
    """The key numbers: name, value, and a line below."""
    curve, row = facts.curve, facts.main
    right = round(float(curve.certified_accuracy[row]) * facts.total)
    shown = [
        _tile(
            "Certified accuracy",
            _claims.share(right, facts.total),
            f"certified and right; certified: {_claims.share(facts.certified, facts.total)}",
        )
    ]
    if facts.certified:
        bound = float(curve.certified_ece[row])
        score = float(curve.certified_brier[row])
        shown += [
            _tile(
                "Certified ECE",
                _claims.at_most(bound, as_percent=True),
                f"without attack {_claims.percent(float(curve.ece[row]))}",
                "worst",
            ),
            _tile(
                "Certified Brier score",
                _claims.at_most(score),
                f"without attack {_claims.fixed(float(curve.brier[row]))}",
                "worst",
            ),
            _tile(
                "Constant confidence",
                _claims.at_least(float(curve.constant_brier[row])),
                f"its Brier score; certified skill {_claims.at_least(float(curve.skill[row]), 3)}",
                "constant",
            ),
        ]
    if facts.provenance.sigma is not None:
        beside = f"of {_claims.count(facts.total)} samples, at radius 0"
        shown.append(_tile("Abstentions", _claims.count(facts.abstained), beside))
        best = facts.best_radius
        beside = (
            ""
            if best is None
            else f"all {_claims.count(facts.provenance.n or 0)} votes for one class would give {_claims.size(best, 4)}"
        )
        shown.append(_tile("Largest certified radius", _claims.size(facts.reach, 4), beside))
    return shown


def _tile(name: str, value: str, note: str, role: str = "plain") -> dict[str, str]:
    return {"name": name, "value": value, "note": note, "role": role}


def provenance(facts: Facts) -> list[tuple[str, str]]:
    """Every known field of the provenance, and how the page was made."""
    rows = []
    for field in dataclasses.fields(facts.provenance):
        value = getattr(facts.provenance, field.name)
        if value is None or value == () or value == "":
            continue
        text = "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if field.name == "recalibration":
            text = words.mapping(text)
        rows.append((_FIELDS.get(field.name, field.name.replace("_", " ")), text))
    rows.append(("bins of the calibration error", binning(facts.edges, facts.closed)))
    rows.append(("bin edges", ", ".join(_claims.written(edge) for edge in facts.edges)))
    return rows


def bars(facts: Facts) -> list[dict[str, Any]]:
    """The calibration error without attack and its bounds, to look at side by side."""
    if not facts.certified:
        return []
    values = [("without attack", float(facts.curve.ece[facts.main]), "clean", False)]
    values.append(
        (
            "under attack at most, if all intervals hold",
            float(facts.curve.certified_ece[facts.main]),
            "worst",
            True,
        )
    )
    further = facts.further
    joint = words.joint(facts, "ece")
    if joint is not None and further is not None and further.delta is not None:
        sure = _claims.sureness(further.delta)
        values.append((f"under attack at most, {sure} sure", joint, "worst", True))
        for curve in further.everyone:
            if curve.metric == "ece" and curve.joint is not None:
                name = f"all {_claims.count(facts.total)} samples at most, {sure} sure"
                values.append((name, float(curve.joint[0]), "everyone", True))
    longest = max([value for _, value, _, _ in values if math.isfinite(value)], default=0.0) or 1.0
    return [
        {
            "name": name,
            "value": _claims.at_most(value, as_percent=True) if bound else _claims.percent(value),
            "share": 100 * value / longest,
            "role": role,
        }
        for name, value, role, bound in values
        if math.isfinite(value)
    ]
