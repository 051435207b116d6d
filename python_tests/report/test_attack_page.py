# SPDX-License-Identifier: MIT
"""The attack page: one lookup of bins for diagram and metric, and nothing of data that hides or reorders text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attack_problems import result_of

from certcal_ext import Certificates
from certcal_ext.report import attack_page
from certcal_ext.report.attack_page import render_attack_report
from certcal_ext.report.page import render_report
from certcal_ext.report.templates import render

HIDDEN = "\u202e\u200b\x00\u2028\x07\u2066\ud800"


def test_hidden_characters_are_written_out_wherever_they_come_from() -> None:
    result = result_of([0.5], [0.6], 10, [True], 0.1)
    foreign = dataclasses.replace(
        result,
        attack=f"own{HIDDEN}",
        settings={**result.settings, f"key{HIDDEN}": f"value{HIDDEN}", "norm": f"l2{HIDDEN}"},
    )
    page = render_attack_report(foreign, title=f"title{HIDDEN}")
    for character in HIDDEN:
        assert character not in page
        assert page.count(f"\\u{ord(character):04x}") >= 5
    page.encode("utf-8")


def test_every_page_is_rendered_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def counted(template: str, figures: dict[str, str], **values: Any) -> str:
        used.append(template)
        return render(template, figures, **values)

    monkeypatch.setattr("certcal_ext.report.attack_page.render", counted)
    monkeypatch.setattr("certcal_ext.report.page.render", counted)
    render_attack_report(result_of([0.5], [0.6], 10, [True], 0.1))
    render_report(Certificates.from_counts([[9990, 10], [8000, 2000]], [0, 0], sigma=0.25))
    assert used == ["attack_template.html", "template.html"]


@pytest.mark.parametrize("bins", [1, 3, 5, 7, 10, 15, 49])
def test_the_diagram_shows_the_bins_of_the_error(
    bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At edges, and next to them: the marks of the diagram give the calibration error that stands in its caption."""
    edges = np.linspace(0, 1, bins + 1)
    inner = np.unique(np.clip([edges, np.nextafter(edges, 2), np.nextafter(edges, -1)], 0, 1))
    # What a lookup by multiplication gets wrong.
    grid = np.arange(1001) / 1000
    odd = grid[np.ceil(grid * bins) - 1 != np.searchsorted(edges, grid) - 1]
    confidence = np.concatenate([inner, odd, [0.0, 1.0]])
    correct = np.arange(confidence.size) % 3 == 0
    result = result_of(confidence, confidence[::-1], 1000, correct, 0.1)
    drawn: list[tuple[Any, Any, Any]] = []
    bubbles: Callable[..., None] = attack_page.bubbles

    def seen(axes: Any, diagram: Any, *look: str) -> None:
        some = diagram.count > 0
        drawn.append((diagram.confidence[some], diagram.accuracy[some], diagram.count[some]))
        bubbles(axes, diagram, *look)

    monkeypatch.setattr(attack_page, "bubbles", seen)
    render_attack_report(result, bins=bins)
    for (x, y, held), metrics in zip(
        drawn, (result.before(bins=bins), result.after(bins=bins)), strict=True
    ):
        assert held.sum() == confidence.size
        error = float((np.abs(x - y) * held).sum() / held.sum())
        assert error == pytest.approx(metrics.ece, abs=1e-12)
