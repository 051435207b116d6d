# SPDX-License-Identifier: MIT
"""The report as one HTML file. Everything that comes from data is escaped by the template."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from certcal_ext import _claims
from certcal_ext._files import replacing
from certcal_ext.certificates.evidence import how_sure
from certcal_ext.certificates.statements import binning
from certcal_ext.report import table, words
from certcal_ext.report.facts import Facts, gather
from certcal_ext.report.figures import draw_all
from certcal_ext.report.templates import rendered

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates

_BINS = 15  # what ``certcal bound`` takes where nothing is said
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


def render_report(
    certificates: Certificates,
    *,
    radii: Sequence[float] | None = None,
    radius: float | None = None,
    bins: int = 15,
    edges: Sequence[float] | None = None,
    closed: str = "right",
    title: str = "Certified calibration",
    command: str | None = None,
    file: str = "certificates.parquet",
    delta: float | None = 1e-3,
    recalibrate: str | None = "isotonic",
    images: Any = None,
    class_names: Sequence[str] | None = None,
    compare: Mapping[str, Certificates] | None = None,
    name: str = "this model",
) -> str:
    """The report as HTML.

    Args:
        certificates: the certificates, with labels.
        radii: radii of the table; None chooses round ones up to the largest certified radius.
        radius: the radius of the headline and of the diagrams; None takes the largest listed one at
            which at least half of all samples are certified.
        bins: number of equal-width bins of the calibration error, where ``edges`` is None.
        edges: bin edges from 0 to 1.
        closed: "right": bins (lo, hi]; "left": [lo, hi).
        title: heading of the page.
        command: command line that made the certificates, shown under "How to reproduce".
        file: name of the file that holds the certificates, counts or log, for the command there.
        delta: failure probability of each bound that holds for the whole data set at once; None
            leaves them out.
        recalibrate: kind of the monotone map whose gain is shown ("isotonic", "beta", "platt",
            "temperature", "constant"), or None.
        images: (N, C, H, W) or (N, H, W) pixels in [0, 1] or uint8, array or tensor: the image of each row of the table, in
            its order. The worst samples are shown with them, at most 72 pixels a side; None shows them without.
        class_names: a name a class; None shows numbers.
        compare: further models by name, of the same samples, shown beside these certificates.
        name: of these certificates, beside ``compare``.

    Returns:
        The page.

    Raises:
        ImportError: jinja2 or matplotlib is missing.
        ValueError: an argument is out of range, the certificates hold no labels, there is not one image a row, or the models
            do not share their samples and labels.

    Example:
        >>> import numpy as np
        >>> from certcal_ext import Certificates
        >>> counts = np.array([[9990, 10], [8000, 2000]])
        >>> page = render_report(Certificates.from_counts(counts, np.array([0, 0]), sigma=0.25))
        >>> page.startswith("<!doctype html>")
        True
    """
    import certcal_ext

    models = None
    if compare:
        if name in compare:
            raise ValueError(f"name: expected another name than those in compare, got {name!r}")
        models = {name: certificates, **compare}
    facts = gather(
        certificates,
        radii=radii,
        radius=radius,
        bins=bins,
        edges=edges,
        closed=closed,
        delta=delta,
        recalibrate=recalibrate,
        images=images,
        class_names=class_names,
        models=models,
    )
    figures = draw_all(facts)
    return rendered(
        "template.html",
        figures,
        title=title,
        headline=words.headline(facts),
        standfirst=words.standfirst(facts),
        contents=_contents(facts, figures),
        bars=_bars(facts),
        verdict=words.verdict(facts),
        tiles=_tiles(facts),
        facts=facts,
        columns=table.COLUMNS,
        rows=table.rows(facts.curve),
        main=facts.main,
        whole=table.further_rows(facts),
        whole_columns=table.further_columns(facts),
        gain=table.gain_rows(facts),
        gain_columns=table.GAIN_COLUMNS,
        gain_words=words.gain(facts),
        models=table.model_rows(facts),
        model_columns=table.MODEL_COLUMNS,
        provenance=_provenance(facts),
        alpha=facts.provenance.alpha,
        intervals_only=facts.provenance.sigma is None,
        reach=words.reach(facts),
        radius=_claims.size(facts.radius),
        place=words.place(facts),
        binning=binning(facts.edges, facts.closed),
        how_sure=how_sure(facts.provenance, facts.total),
        joint_ece=_percent_up(words.joint(facts, "ece")),
        worst_ece=_percent_up(float(facts.curve.certified_ece[facts.main])),
        percent=_claims.percent,
        low=lambda value: _claims.at_least(value, 1, as_percent=True).removesuffix(_claims.PERCENT),
        high=lambda value: _claims.at_most(value, 1, as_percent=True).removesuffix(_claims.PERCENT),
        sureness=_claims.sureness,
        bins=len(facts.edges) - 1,
        command=command,
        again=_bound_command(facts, file),
        version=certcal_ext.__version__,
    )


def write_report(certificates: Certificates, path: str | Path, **options: Any) -> Path:
    """Writes the report; aside first, then renamed, so that no half page is ever left.

    Args:
        certificates: the certificates, with labels.
        path: the file to write; its folder must exist.
        options: keyword arguments of ``render_report``.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written.
        ImportError: jinja2 or matplotlib is missing.
        ValueError: an argument is out of range, the folder does not exist, or the certificates
            hold no labels.

    Example:
        >>> import numpy as np, tempfile
        >>> from certcal_ext import Certificates
        >>> certificates = Certificates.from_intervals([True, False], [0.8, 0.5], [0.9, 0.6])
        >>> write_report(certificates, tempfile.mkdtemp() + "/report.html").name
        'report.html'
    """
    path = Path(path)
    page = render_report(certificates, **options)
    with replacing(path) as file:
        file.write(page.encode("utf-8"))
    return path


def _contents(facts: Facts, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of the page: id and name."""
    parts = [
        ("figures", "Figures", "reliability" in figures or "ece" in figures),
        ("samples", "Worst samples", facts.samples is not None),
        ("models", "Models", facts.models is not None),
        ("recalibration", "Recalibration", bool(table.gain_rows(facts))),
        ("guarantee", "The guarantee", True),
        ("details", "All numbers", True),
        ("provenance", "Provenance", True),
    ]
    return [(target, name) for target, name, there in parts if there]


def _bars(facts: Facts) -> list[dict[str, Any]]:
    """The calibration error without attack and its bounds, to look at side by side."""
    if not facts.certified:
        return []
    bars = [("without attack", float(facts.curve.ece[facts.main]), "clean", False)]
    bars.append(
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
        bars.append((f"under attack at most, {sure} sure", joint, "worst", True))
        for curve in further.everyone:
            if curve.metric == "ece" and curve.joint is not None:
                name = f"all {_claims.count(facts.total)} samples at most, {sure} sure"
                bars.append((name, float(curve.joint[0]), "everyone", True))
    longest = max([value for _, value, _, _ in bars if math.isfinite(value)], default=0.0) or 1.0
    return [
        {
            "name": name,
            "value": _claims.at_most(value, as_percent=True) if bound else _claims.percent(value),
            "share": 100 * value / longest,
            "role": role,
        }
        for name, value, role, bound in bars
        if math.isfinite(value)
    ]


def _percent_up(value: float | None) -> str:
    return "" if value is None else _claims.at_most(value, as_percent=True)


def _bound_command(facts: Facts, file: str) -> str:
    """The command line that prints the numbers of the page."""
    made = facts.provenance
    options = ["--radii", ",".join(_claims.written(radius) for radius in facts.curve.radius)]
    bins = len(facts.edges) - 1
    if not np.array_equal(facts.edges, np.linspace(0, 1, bins + 1)):
        options += ["--edges", ",".join(repr(float(edge)) for edge in facts.edges)]
    elif bins != _BINS:
        options += ["--bins", str(bins)]
    if facts.closed != "right":
        options += ["--closed", facts.closed]
    if made.kind == "log" or file.endswith(".npz"):
        options += [
            "--sigma",
            _claims.written(made.sigma or 0.0),
            "--n",
            str(made.n),
            "--alpha",
            _claims.written(made.alpha or 0.0),
        ]
    return shlex.join(["certcal", "bound", file, *options])


def _tiles(facts: Facts) -> list[dict[str, str]]:
    """The key numbers: name, value, and a line below."""
    curve, row = facts.curve, facts.main
    right = round(float(curve.certified_accuracy[row]) * facts.total)
    tiles = [
        _tile(
            "Certified accuracy",
            _claims.share(right, facts.total),
            f"certified and right; certified: {_claims.share(facts.certified, facts.total)}",
        )
    ]
    if facts.certified:
        bound = float(curve.certified_ece[row])
        score = float(curve.certified_brier[row])
        tiles += [
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
        tiles.append(_tile("Abstentions", _claims.count(facts.abstained), beside))
        best = facts.best_radius
        beside = (
            ""
            if best is None
            else f"all {_claims.count(facts.provenance.n or 0)} votes for one class would give {_claims.size(best, 4)}"
        )
        tiles.append(_tile("Largest certified radius", _claims.size(facts.reach, 4), beside))
    return tiles


def _tile(name: str, value: str, note: str, role: str = "plain") -> dict[str, str]:
    return {"name": name, "value": value, "note": note, "role": role}


def _provenance(facts: Facts) -> list[tuple[str, str]]:
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
