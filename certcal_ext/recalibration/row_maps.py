# SPDX-License-Identifier: MIT
"""Maps from what is certified of a row to its confidence: by a label that no attack changes, and from several events.

An *event* of noisy logits (a vote for the predicted class, by one smoothed model or another) has a probability that an
attack moves within certified ends. A map that is non-decreasing in each probability has its worst cases where all of them
are at an end, whatever the events have to do with each other. And which map it is may depend on anything that the
attack cannot change.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.intervals.clopper_pearson import Interval
from certcal_ext.recalibration.maps import MAX_JSON, RecalibrationMap, map_of_record, numbers_of

#: What a label may be: the certified prediction, or one that the user gives and states to be invariant.
BY = ("predicted", "group")

_FORMAT = "certcal row map 1"
_MOST_EVENTS = 64
_Floats = NDArray[np.float64]
_Labels = NDArray[np.int64] | None


class RowMap(ABC):
    """A map g(p, a) of the probabilities p of a row's events and its label a, non-decreasing in each probability.

    Theorem (this project): where an attack leaves the label as it is and moves p_j within [l_j, u_j], the confidence stays
    within [g(l, a), g(u, a)]. The prediction of a certified sample is such a label; so is whatever the attack has no way to
    touch.

    Attributes:
        by: what the label is, of ``BY``.
        events: J, how many probabilities a row has.
    """

    by: str
    events: int

    @property
    @abstractmethod
    def kind(self) -> str:
        """Name of the family."""

    @abstractmethod
    def floor(self, p: _Floats, labels: _Labels) -> _Floats:
        """(N,) what g does not fall below at or above (N, J) ``p``; ``labels`` None: whatever the label is."""

    @abstractmethod
    def ceiling(self, p: _Floats, labels: _Labels) -> _Floats:
        """(N,) what g does not exceed at or below (N, J) ``p``; ``labels`` None: whatever the label is."""

    @abstractmethod
    def values(self, p: _Floats, labels: NDArray[np.int64]) -> _Floats:
        """(N,) confidences."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What JSON holds."""

    def __call__(self, probabilities: Any, labels: Any) -> _Floats:
        """The confidences.

        Args:
            probabilities: (N, J) in [0, 1]; (N,) where there is one event.
            labels: (N,) whole numbers.

        Returns:
            (N,) float64.

        Raises:
            TypeError: no arrays of numbers.
            ValueError: shapes that differ, or a probability outside [0, 1].
        """
        p = _check.float_array("probabilities", _check.array("probabilities", probabilities))
        p = p[:, None] if p.ndim == 1 else p
        if p.ndim != 2 or p.shape[1] != self.events:
            raise ValueError(f"probabilities: expected shape (N, {self.events}), got {p.shape}")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError("probabilities: expected values in [0, 1]")
        return self.values(p, _check.int_vector("labels", labels, len(p)))

    def image(self, lower: _Floats, upper: _Floats, labels: _Labels) -> Interval:
        """The certified intervals of (N, J) ends."""
        return Interval(self.floor(lower, labels), self.ceiling(upper, labels))

    def to_json(self) -> str:
        """The map as JSON; numbers are written so that they are read back bit by bit."""
        return json.dumps({"format": _FORMAT, "kind": self.kind, **self.record()}, allow_nan=False)


@dataclass(frozen=True)
class LabelMaps(RowMap):
    """A monotone map for each label.

    Attributes:
        by: "predicted" or "group".
        maps: by label, at least 0.
        common: the map of any other label.

    Raises:
        TypeError: a map is none, or a label no whole number.
        ValueError: another ``by``, or a label below 0.

    Example:
        >>> from certcal_ext.recalibration.maps import IdentityMap, StepMap
        >>> LabelMaps("predicted", {3: StepMap((), (0.9,))}, IdentityMap())([0.5, 0.5], [3, 0])
        array([0.9, 0.5])
    """

    by: str
    maps: Mapping[int, RecalibrationMap]
    common: RecalibrationMap
    events: int = 1

    def __post_init__(self) -> None:
        """Checks the parts, whether they came from a fit, a caller or a file."""
        _check.choice("by", self.by, BY)
        _check.whole_number("events", self.events, 1, 1)
        for label, part in (*self.maps.items(), (0, self.common)):
            _check.whole_number("maps", label, 0)
            if not isinstance(part, RecalibrationMap):
                raise TypeError(f"maps: expected RecalibrationMaps, got {type(part).__name__}")
        object.__setattr__(self, "maps", {int(k): self.maps[k] for k in sorted(self.maps)})

    @property
    def kind(self) -> str:
        """``by_label``."""
        return "by_label"

    def values(self, p: _Floats, labels: NDArray[np.int64]) -> _Floats:
        """See ``RowMap.values``."""
        return self._each(p, labels, lambda part, z: part(z))

    def floor(self, p: _Floats, labels: _Labels) -> _Floats:
        """See ``RowMap.floor``."""
        if labels is None:
            return np.min(
                [part.lower_image(p[:, 0]) for part in self._all], axis=0, out=np.empty(len(p))
            )
        return self._each(p, labels, lambda part, z: part.lower_image(z))

    def ceiling(self, p: _Floats, labels: _Labels) -> _Floats:
        """See ``RowMap.ceiling``."""
        if labels is None:
            return np.max(
                [part.upper_image(p[:, 0]) for part in self._all], axis=0, out=np.empty(len(p))
            )
        return self._each(p, labels, lambda part, z: part.upper_image(z))

    @property
    def _all(self) -> list[RecalibrationMap]:
        return [self.common, *self.maps.values()]

    def _each(
        self,
        p: _Floats,
        labels: NDArray[np.int64],
        image: Callable[[RecalibrationMap, _Floats], _Floats],
    ) -> _Floats:
        result = np.empty(len(p))
        for label in np.unique(labels):
            rows = labels == label
            result[rows] = image(self.maps.get(int(label), self.common), p[rows, 0])
        return result

    def record(self) -> dict[str, Any]:
        """See ``RowMap.record``."""
        maps = {str(label): part.record() for label, part in self.maps.items()}
        return {"by": self.by, "maps": maps, "common": self.common.record()}


@dataclass(frozen=True)
class StackMap(RowMap):
    """z = base + sum of increasing piecewise linear functions of the probabilities + offset of the label, in [0, 1].

    The function of event j is 0 at 0 and rises by ``rises[j][k]`` between ``knots[j][k]`` and ``knots[j][k + 1]``. The
    computed value lies within ``slack`` of an exactly monotone one, so ends are rounded outward by twice that.

    Attributes:
        base: the constant.
        knots: for each event, strictly increasing numbers in [0, 1], at least two.
        rises: for each event, one number of at least 0 less than knots.
        offsets: by label, at least 0; any other label has 0.

    Raises:
        TypeError: an entry of the wrong kind.
        ValueError: an entry out of range, or lengths that do not match.

    Example:
        >>> StackMap(0.1, ((0.0, 1.0), (0.0, 0.5)), ((0.4,), (0.2,)), {1: 0.1})([[0.5, 1.0]], [1]).round(3)
        array([0.6])
    """

    base: float
    knots: tuple[tuple[float, ...], ...]
    rises: tuple[tuple[float, ...], ...]
    offsets: Mapping[int, float]
    by: str = "predicted"

    def __post_init__(self) -> None:
        """Checks the entries, whether they came from a fit, a caller or a file."""
        _check.choice("by", self.by, BY)
        base = self._bounded("base", self.base)
        knots, rises = (_check.items(name, getattr(self, name)) for name in ("knots", "rises"))
        if not 1 <= len(knots) <= _MOST_EVENTS or len(knots) != len(rises):
            raise ValueError(f"knots, rises: expected one tuple an event, at most {_MOST_EVENTS}")
        pairs = [_piecewise(t, r) for t, r in zip(knots, rises, strict=True)]
        for label in self.offsets:
            _check.whole_number("offsets", label, 0)
        offsets = {int(k): self._bounded("offsets", self.offsets[k]) for k in sorted(self.offsets)}
        fields = {"base": base, "knots": tuple(t for t, _ in pairs), "offsets": offsets}
        for name, value in {**fields, "rises": tuple(r for _, r in pairs)}.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def _bounded(name: str, value: Any) -> float:
        number = _check.real_number(name, value)
        if abs(number) > 1e6:
            raise ValueError(f"{name}: expected numbers from -1e6 to 1e6, got {number}")
        return number

    @property
    def events(self) -> int:  # type: ignore[override]
        """J."""
        return len(self.knots)

    @property
    def kind(self) -> str:
        """``stack``."""
        return "stack"

    @cached_property
    def slack(self) -> float:
        """A bound on the error of a computed value.

        A piece (p - t) / d, clipped to [0, 1], has an error of at most 4 half ulps of 1, its product with a rise one more,
        and each of m + 2 sums one of the size of what is summed. Doubled.
        """
        rises = [rise for event in self.rises for rise in event]
        size = abs(self.base) + sum(rises) + max(map(abs, self.offsets.values()), default=0.0)
        return 2.0**-52 * (len(rises) + 8) * size

    def _exact(self, p: _Floats, offset: Any) -> _Floats:
        total = np.full(len(p), self.base)
        for j, (knots, rises) in enumerate(zip(self.knots, self.rises, strict=True)):
            for low, high, rise in zip(knots, knots[1:], rises, strict=False):
                total += rise * np.clip((p[:, j] - low) / (high - low), 0.0, 1.0)
        total += offset
        return total

    def _offset(self, labels: NDArray[np.int64]) -> _Floats:
        return np.array([self.offsets.get(label, 0.0) for label in labels.tolist()], np.float64)

    def values(self, p: _Floats, labels: NDArray[np.int64]) -> _Floats:
        """See ``RowMap.values``."""
        return np.clip(self._exact(p, self._offset(labels)), 0.0, 1.0)

    def floor(self, p: _Floats, labels: _Labels) -> _Floats:
        """See ``RowMap.floor``."""
        least = min((0.0, *self.offsets.values())) if labels is None else self._offset(labels)
        down = np.nextafter(self._exact(p, least) - 2.0 * self.slack, -np.inf)
        return np.clip(down, 0.0, 1.0)

    def ceiling(self, p: _Floats, labels: _Labels) -> _Floats:
        """See ``RowMap.ceiling``."""
        most = max((0.0, *self.offsets.values())) if labels is None else self._offset(labels)
        up = np.nextafter(self._exact(p, most) + 2.0 * self.slack, np.inf)
        return np.clip(up, 0.0, 1.0)

    def record(self) -> dict[str, Any]:
        """See ``RowMap.record``."""
        offsets = {str(label): value for label, value in self.offsets.items()}
        pieces = {"knots": list(map(list, self.knots)), "rises": list(map(list, self.rises))}
        return {"by": self.by, "base": self.base, **pieces, "offsets": offsets}


def _piecewise(knots: Any, rises: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    t, r = _check.float_vector("knots", knots), _check.float_vector("rises", rises)
    if not (t.size == r.size + 1 >= 2 and t[0] >= 0 and t[-1] <= 1 and (np.diff(t) > 0).all()):
        raise ValueError(
            "knots: expected strictly increasing numbers in [0, 1], one more than rises"
        )
    if not ((r >= 0) & (r <= 1e6)).all():
        raise ValueError("rises: expected numbers from 0 to 1e6")
    return tuple(t.tolist()), tuple(r.tolist())


def read_map(text: str | bytes) -> RecalibrationMap | RowMap:
    """Reads what ``to_json`` of any map wrote, and trusts none of it.

    Args:
        text: JSON, at most 64 MiB.

    Returns:
        A map equal to the one that was written.

    Raises:
        TypeError: no text.
        ValueError: no JSON, or not of a map.

    Example:
        >>> from certcal_ext.recalibration.maps import IdentityMap
        >>> read_map(LabelMaps("predicted", {}, IdentityMap()).to_json()).kind
        'by_label'
    """
    if not isinstance(text, (str, bytes)) or len(text) > MAX_JSON:
        return RecalibrationMap.from_json(text)  # which says what is wrong with it
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return RecalibrationMap.from_json(text)
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        return RecalibrationMap.from_json(text)
    try:
        if record["kind"] == "by_label":
            maps = {_label(key): map_of_record(part) for key, part in record["maps"].items()}
            return LabelMaps(record["by"], maps, map_of_record(record["common"]))
        if record["kind"] == "stack":
            knots, rises = (
                tuple(numbers_of(name, event) for event in record[name])
                for name in ("knots", "rises")
            )
            offsets = {_label(key): value for key, value in record["offsets"].items()}
            return StackMap(record["base"], knots, rises, offsets, record["by"])
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"text: expected the parts of a row map: {error!r}") from error
    raise ValueError(f"text: expected a kind of row map, got {_check.shown(record['kind'])}")


def _label(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(f"text: expected whole numbers as labels, got {text[:40]!r}")
    return int(text)
