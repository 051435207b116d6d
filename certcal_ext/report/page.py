# SPDX-License-Identifier: MIT
"""The report as one HTML file. Everything that comes from data is escaped by the template."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from certcal_ext import _claims
from certcal_ext.certificates.evidence import how_sure
from certcal_ext.certificates.statements import binning
from certcal_ext.report import numerals, words
from certcal_ext.report.facts import Facts, gather
from certcal_ext.report.figures import draw_all
from certcal_ext.report.options import PageOptions
from certcal_ext.report.templates import render, write

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates

_BINS = PageOptions().bins


def render_report(
    certificates: Certificates, options: PageOptions | None = None, **changes: Any
) -> str:
    """The report as HTML.

    Args:
        certificates: the certificates, with labels.
        options: what the page shows; None takes the usual options.
        changes: fields of ``PageOptions`` by name, in place of those of ``options``.

    Returns:
        The page.

    Raises:
        ImportError: jinja2 or matplotlib is missing.
        TypeError: there is no such option.
        ValueError: an option is out of range, the certificates hold no labels, there is not one image a row, or the models
            do not share their samples and labels.

    Example:
        >>> import numpy as np
        >>> from certcal_ext import Certificates
        >>> counts = np.array([[9990, 10], [8000, 2000]])
        >>> made = Certificates.from_counts(counts, np.array([0, 0]), sigma=0.25)
        >>> render_report(made, radius=0.1).startswith("<!doctype html>")
        True
    """
    import certcal_ext

    page = PageOptions.of(options, **changes)
    facts = gather(certificates, page)
    figures = draw_all(facts)
    return render(
        "template.html",
        figures,
        title=page.title,
        facts=facts,
        contents=_contents(facts, figures),
        **_sentences(facts),
        **_numbers(facts),
        command=page.command,
        again=_bound_command(facts, page.file),
        version=certcal_ext.__version__,
    )


def write_report(
    certificates: Certificates, path: str | Path, options: PageOptions | None = None, **changes: Any
) -> Path:
    """Writes the report; aside first, then renamed, so that no half page is ever left.

    Args:
        certificates: the certificates, with labels.
        path: the file to write; its folder must exist.
        options: what the page shows; None takes the usual options.
        changes: fields of ``PageOptions`` by name, in place of those of ``options``.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written.
        ImportError: jinja2 or matplotlib is missing.
        TypeError: there is no such option.
        ValueError: an option is out of range, the folder does not exist, or the certificates
            hold no labels.

    Example:
        >>> import numpy as np, tempfile
        >>> from certcal_ext import Certificates
        >>> certificates = Certificates.from_intervals([True, False], [0.8, 0.5], [0.9, 0.6])
        >>> write_report(certificates, tempfile.mkdtemp() + "/report.html").name
        'report.html'
    """
    return write(path, render_report(certificates, options, **changes))


def _sentences(facts: Facts) -> dict[str, Any]:
    """What the page says, by its names in the template."""
    return {
        "headline": words.headline(facts),
        "standfirst": words.standfirst(facts),
        "verdict": words.verdict(facts),
        "gain_words": words.gain(facts),
        "reach": words.reach(facts),
        "place": words.place(facts),
        "binning": binning(facts.edges, facts.closed),
        "how_sure": how_sure(facts.provenance, facts.total),
    }


def _numbers(facts: Facts) -> dict[str, Any]:
    """The tables and single numbers, and how others are written, by their names in the template."""
    return {
        "bars": numerals.bars(facts),
        "tiles": numerals.tiles(facts),
        "columns": numerals.COLUMNS,
        "rows": numerals.curve_rows(facts.curve),
        "main": facts.main,
        "whole": numerals.metric_rows(facts),
        "whole_columns": numerals.metric_columns(facts),
        "gain": numerals.gain_rows(facts),
        "gain_columns": numerals.GAIN_COLUMNS,
        "models": numerals.model_rows(facts),
        "model_columns": numerals.MODEL_COLUMNS,
        "provenance": numerals.provenance(facts),
        "alpha": facts.provenance.alpha,
        "intervals_only": facts.provenance.sigma is None,
        "radius": _claims.size(facts.radius),
        "joint_ece": _percent_up(words.joint(facts, "ece")),
        "worst_ece": _percent_up(float(facts.curve.certified_ece[facts.main])),
        "percent": _claims.percent,
        "low": _without_unit(_claims.at_least),
        "high": _without_unit(_claims.at_most),
        "sureness": _claims.sureness,
        "bins": len(facts.edges) - 1,
    }


def _contents(facts: Facts, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of the page: id and name."""
    parts = [
        ("figures", "Figures", "reliability" in figures or "ece" in figures),
        ("samples", "Worst samples", facts.samples is not None),
        ("models", "Models", facts.models is not None),
        ("recalibration", "Recalibration", bool(numerals.gain_rows(facts))),
        ("guarantee", "The guarantee", True),
        ("details", "All numbers", True),
        ("provenance", "Provenance", True),
    ]
    return [(target, name) for target, name, there in parts if there]


def _percent_up(value: float | None) -> str:
    return "" if value is None else _claims.at_most(value, as_percent=True)


def _without_unit(claim: Callable[..., str]) -> Callable[[float], str]:
    """A share in percent where the template says so itself."""
    return lambda value: claim(value, 1, as_percent=True).removesuffix(_claims.PERCENT)


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
