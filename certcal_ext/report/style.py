# SPDX-License-Identifier: MIT
"""How drawings look: one SVG that follows the page's light or dark theme.

Matplotlib only knows fixed colours. Each role gets a colour that nobody would choose, and after
drawing that colour is replaced by the page's CSS variable of the same role, so the browser colours
the same drawing in both themes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext.report.words import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_ROLES = ("ink", "muted", "grid", "card", "clean", "worst", "constant", "fourth", "fifth")
_VARIABLES = {f"#0a0b{number:02}": f"--{role}" for number, role in enumerate(_ROLES, 1)}
INK, MUTED, GRID, CARD, CLEAN, WORST, CONSTANT, FOURTH, FIFTH = _VARIABLES
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # words stay words: read aloud, searched, in the page's own font
    "svg.hashsalt": "certcal",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 2.0,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.2,
    "legend.labelcolor": INK,
}
DASHED = (0, (5, 1.5))
#: How a value is drawn that a constant confidence would have.
LEVEL: dict[str, Any] = {"color": CONSTANT, "linestyle": (0, (1.2, 1.4)), "linewidth": 2.2}
WIDTH = 4.6  # inches of 72 units: about the width of a phone, so that words stay readable there


@contextmanager
def settings() -> Iterator[None]:
    """Matplotlib settings of the report's drawings; the caller's own come back afterwards.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('drawings need matplotlib: pip install "certcal_ext[report]"') from error
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # Names from data may hold letters that matplotlib's font lacks; the reader's browser has them.
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def figure(height: float) -> Figure:
    """An empty drawing of the common width and the given height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def plain_text(text: str) -> str:
    r"""Text from data for a drawing: no formula, and shown even where it begins with an underscore.

    Example:
        >>> plain_text("cost in $")
        'cost in \\$'
    """
    shown = visible(text).replace("$", r"\$")
    return "\N{NO-BREAK SPACE}" + shown if shown.startswith("_") else shown


def legend(drawing: Figure, axes: Axes, columns: int) -> None:
    """Puts the legend of ``axes`` above the drawing, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper left", ncols=columns)


def percents(*axes: Axis) -> None:
    """Writes the numbers along axes as percentages, without a sign."""
    for axis in axes:
        axis.set_major_formatter(lambda value, _: f"{100 * abs(value):.4g} %")


def diagonal(axes: Axes) -> None:
    """The line of equal coordinates, behind what follows."""
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))


def reliability_axes(drawing: Figure) -> tuple[Axes, Axes]:
    """Axes for the accuracy against the confidence, and below for how many samples there are."""
    top, bottom = drawing.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    diagonal(top)
    top.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), ylabel="share of right predictions")
    bottom.set(xlabel="confidence", ylabel="samples")
    percents(bottom.yaxis)
    return top, bottom


def histogram(axes: Axes, edges: NDArray[Any], shares: NDArray[Any], colour: str) -> None:
    """Bars between the edges of bins."""
    widths = np.diff(edges)
    axes.bar(edges[:-1], shares, width=widths, align="edge", color=colour, alpha=0.75)


def to_svg(drawing: Figure, name: str, title: str, description: str) -> str:
    """The drawing as an ``<svg>`` element for a page.

    Args:
        drawing: the drawing, made inside ``settings()``.
        name: prefix of the ids inside, unique on the page, letters and hyphens.
        title: short name, read aloud by screen readers.
        description: what there is to see, in words with the main numbers.

    Returns:
        The element; the same bytes for the same drawing.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    drawing.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    labelled = f'role="img" aria-labelledby="{name}-title {name}-description"'
    words = (
        f'<title id="{name}-title">{escape(visible(title))}</title>'
        f'<desc id="{name}-description">{escape(visible(description))}</desc>'
    )
    return f"{head} {labelled}>{words}{rest}"
