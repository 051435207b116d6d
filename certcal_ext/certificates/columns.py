# SPDX-License-Identifier: MIT
"""Columns of tables that others made, by the names that are in use for them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["certificates", "intervals", "votes", "log", "counts"]

#: What each column is called, in lower case with one space between words. The first name is the one in errors.
NAMES: dict[str, tuple[str, ...]] = {
    "index": ("index", "idx", "id", "ids", "image id", "img id", "sample", "sample id", "sample idx", "image idx",
              "img idx"),
    "label": ("label", "labels", "y", "y true", "target", "targets", "true label", "true", "gt", "ground truth"),
    "predicted": ("predict", "predicted", "prediction", "predictions", "pred", "preds", "y pred", "predicted class"),
    "correct": ("correct", "is correct", "right"),
    "radius": ("radius", "radius proved", "radius proven", "certified radius", "cert radius", "radius certified"),
    "lower": ("lower", "lower bound", "lb", "l", "lo", "low", "conf lower", "lower confidence", "confidence lower"),
    "upper": ("upper", "upper bound", "ub", "u", "hi", "high", "conf upper", "upper confidence", "confidence upper"),
    "confidence": ("confidence", "conf", "clean confidence"),
    "votes": ("votes", "na", "count"),
    "counts": ("counts", "class counts", "all votes"),
    "n": ("n", "samplesize", "sample size", "samples", "num samples", "n samples", "number of samples", "draws",
          "num draws", "n draws", "sample num", "num sample"),
    "n0": ("n0", "selection draws", "n selection"),
    "sigma": ("sigma", "noise sd", "noise std", "sd", "std", "noise level", "smoothing sigma", "sigma test", "noise"),
    "alpha": ("alpha", "failure probability", "failprob"),
    "norm": ("norm", "lp", "p norm", "lp norm", "attack norm", "threat model"),
    "size": ("eps", "epsilon", "perturbation", "attack radius"),
    "distribution": ("distribution", "noise type", "noise distribution", "smoothing distribution"),
    "levels": ("levels needed", "level", "levels"),
    "verified": ("verified", "certified", "is certified", "is verified", "robust"),
    "p_lower": ("p lower",),
    "p_upper": ("p upper",),
    "prediction_lower": ("prediction lower",),
    "runner_up_upper": ("runner up upper",),
    "look": ("look",),
    "planning_votes": ("planning votes",),
    "planning_draws": ("planning draws",),
    "scores": ("scores",),
}  # fmt: skip
_ROLES = {name: role for role, names in NAMES.items() for name in names}

_NEEDED: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "certificates": (("p_lower", "p_upper", "predicted"),),
    "counts": (("counts",),),
    "intervals": (("lower", "upper", "correct"), ("lower", "upper", "label", "predicted")),
    "votes": (("votes", "n", "predicted"),),
    "log": (("label", "predicted", "radius"),),
}

#: Row numbers that a tool wrote in front: pandas calls them so when it reads them back.
_UNNAMED = re.compile(r"unnamed( \d+)*|level \d+|row( names| number)?|")
_WHOLE = re.compile(r"([-+]?[0-9]{1,18})(\.0*)?")  # of 64 bits
_NUMBER = re.compile(r"(?i)[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]{1,4})?")
_TRUTHS = {"true": True, "false": False, "yes": True, "no": False, "t": True, "f": False}
_MISSING = ("", "nan", "none", "null", "na", "n/a", "<na>")


def plain_name(name: str) -> str:
    """A column's name in lower case, with one space between words.

    Example:
        >>> plain_name(" Radius_Proved ")
        'radius proved'
    """
    return " ".join(re.sub(r"[\s_.:-]+", " ", str(name)).lower().split())


def role_of(name: str) -> str | None:
    """What a column holds, by its name; None where that is not known."""
    return _ROLES.get(plain_name(name))


def kind_of(names: Iterable[str]) -> Kind | None:
    """What a table with these columns is; None where it is none that certificates can be made of.

    Example:
        >>> kind_of(["idx", "Label", "predict", "radius proved", "time"])
        'log'
    """
    roles = {role_of(name) for name in names}
    for kind, sets in _NEEDED.items():
        if any(roles.issuperset(needed) for needed in sets):
            return kind
    return None


@dataclass
class Columns:
    """Columns of one length, and what stood beside them.

    Attributes:
        cells: by name as the file has it: an array of numbers or booleans, or a list of texts and None.
        lines: the line of each row in a text file, or None.
        notes: what a reader of the result should know.
        decimal_comma: whether numbers may have a comma for a point.
    """

    cells: Mapping[str, Any]
    lines: list[int] | None = None
    notes: list[str] = field(default_factory=list)
    decimal_comma: bool = False

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.cells.values()))) if self.cells else 0

    def where(self, row: int) -> str:
        """A row, for an error."""
        return f"row {row}" + (f" (line {self.lines[row]})" if self.lines else "")

    def name(self, role: str) -> str | None:
        """The column with a role, as the file calls it; None where there is none.

        Raises:
            ValueError: two columns can have the role.
        """
        found = [name for name in self.cells if role_of(name) == role]
        if len(found) > 1:
            exact = [name for name in found if plain_name(name) == NAMES[role][0]]
            if len(exact) != 1:
                raise ValueError(
                    f"columns {' and '.join(found)}: expected one column for {role}; take the other out of the file"
                )
            found = exact
        return found[0] if found else None

    def has(self, role: str) -> bool:
        """Whether there is such a column, with a value in some row."""
        name = self.name(role)
        return name is not None and not all(map(_missing, self.cells[name]))

    def others(self, used: Iterable[str]) -> list[str]:
        """Columns without a role, or with none of some roles."""
        named = {self.name(role) for role in used}
        return [name for name in self.cells if name not in named and not is_row_number(name)]

    def reals(self, role: str) -> NDArray[np.float64]:
        """(N,) float64, all finite."""
        return np.array(self._parsed(role, self._real, "a number", "fiu"), np.float64)

    def wholes(self, role: str, least: int = -(2**62)) -> NDArray[np.int64]:
        """(N,) int64 of at least ``least``; numbers such as 8.0 are whole."""
        values = np.array(self._parsed(role, _whole, "a whole number", "iu"), np.int64)
        if values.size and values.min() < least:
            row = int(np.argmax(values < least))
            raise ValueError(
                f"{self.where(row)}: {self.name(role)}: expected a whole number of at least {least}, got {values[row]}"
            )
        return values

    def truths(self, role: str) -> NDArray[np.bool_]:
        """(N,) bool, of true and false, or 0 and 1."""
        return np.array(self._parsed(role, _truth, "true or false, or 0 or 1", "b"), np.bool_)

    def texts(self, role: str) -> list[str]:
        """(N,) texts, as printed; "" where a value is missing."""
        name = self.name(role)
        return ["" if _missing(cell) else _text(cell) for cell in self.cells[name]] if name else []

    def constant(self, role: str) -> str | None:
        """The text that every row has; None where there is no such column.

        Raises:
            ValueError: rows differ.
        """
        values = set(self.texts(role))
        if len(values) > 1:
            raise ValueError(
                f"{self.name(role)}: expected the same in every row, got {_some(values)}"
            )
        return values.pop() if values else None

    def _real(self, cell: Any) -> float | None:
        text = _text(cell)
        if self.decimal_comma and text.count(",") == 1:
            text = text.replace(",", ".")
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        return value if math.isfinite(value) else None

    def _parsed(self, role: str, parse: Any, wanted: str, kinds: str) -> Any:
        name = self.name(role)
        if name is None:
            raise ValueError(f"expected a column {NAMES[role][0]}, got {', '.join(self.cells)}")
        cells = self.cells[name]
        if isinstance(cells, np.ndarray) and cells.dtype.kind in kinds and _plain(cells):
            return cells
        values = []
        for row, cell in enumerate(cells):
            if _missing(cell):
                raise ValueError(f"{self.where(row)}: {name}: expected {wanted}, and there is none")
            value = parse(cell)
            if value is None:
                raise ValueError(
                    f"{self.where(row)}: {name}: expected {wanted}, got {_text(cell)[:40]!r}"
                )
            values.append(value)
        return values


def is_row_number(name: str) -> bool:
    """Whether a column has the name of one that only numbers rows."""
    return _UNNAMED.fullmatch(plain_name(name)) is not None


def _plain(cells: NDArray[Any]) -> bool:
    """Whether all are numbers that float64 or int64 hold."""
    if cells.dtype.kind == "f":
        return bool(np.isfinite(cells).all())
    return cells.dtype != np.uint64 or not cells.size or int(cells.max()) < 2**63


def _whole(cell: Any) -> int | None:
    found = _WHOLE.fullmatch(_text(cell))
    return int(found[1]) if found else None


def _truth(cell: Any) -> bool | None:
    text = _text(cell).lower()
    if text in _TRUTHS:
        return _TRUTHS[text]
    whole = _whole(text)
    return bool(whole) if whole in (0, 1) else None


def _text(cell: Any) -> str:
    return str(cell).strip()


def _missing(cell: Any) -> bool:
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip().lower() in _MISSING
    return isinstance(cell, float | np.floating) and math.isnan(cell)


def _some(values: Iterable[str]) -> str:
    shown = sorted(values)
    return ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "")
