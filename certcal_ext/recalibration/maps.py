# SPDX-License-Identifier: MIT
"""Monotone maps of confidences, which carry certificates along: [l, u] becomes [g(l), g(u)].

Here are the maps themselves, exact or rounded outward on intervals, and their JSON. They are fitted in
``recalibration_fit`` and measured in ``recalibration_report``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from certcal_ext import _check
from certcal_ext.intervals.clopper_pearson import Interval

#: Logistic maps move confidences into [EDGE, 1 - EDGE] first, so that their logarithms are finite.
EDGE = 2.0**-40
#: Largest coefficient of a logistic map.
MAX_COEFFICIENT = 1000.0

_FORMAT = "certcal recalibration map 1"
_FIELDS = {
    "identity": (),
    **dict.fromkeys(("isotonic", "constant"), ("jumps", "levels")),
    **dict.fromkeys(("temperature", "platt", "beta"), ("a", "b", "c")),
    "mixture": ("first", "second", "share"),
}
#: Longest JSON of a map that is read.
MAX_JSON = 2**26
_Floats = NDArray[np.float64]


class RecalibrationMap(ABC):
    """A non-decreasing map g from [0, 1] to [0, 1].

    Theorem (this project): for a non-decreasing g, g(z) lies in [g(l), g(u)] for every z in [l, u]. So
    if the confidence of a sample stays in [l, u] under every attack of norm R, the recalibrated one
    stays in [g(l), g(u)], with the same failure probability, provided that g does not depend on the
    draws that the interval was made from. The prediction is not touched.

    g is the float64 function that calling the map computes. The images of intervals hold the value at
    every float64 z of the interval, up to the last bit: they are exact where the computed function is
    itself monotone, and rounded outward where it may not be in its last bits.
    """

    @property
    @abstractmethod
    def kind(self) -> str:
        """``isotonic``, ``constant``, ``temperature``, ``platt``, ``beta``, ``identity`` or ``mixture``."""

    @abstractmethod
    def _values(self, z: _Floats) -> _Floats:
        """G(z) for checked z."""

    @property
    def slack(self) -> float:
        """How far a computed value may lie from an exactly monotone function; 0 where it is monotone itself."""
        return 0.0

    def __call__(self, confidence: Any) -> _Floats:
        """The recalibrated confidences.

        Args:
            confidence: confidences of any shape, in [0, 1].

        Returns:
            float64 array of that shape.

        Raises:
            TypeError: no array of numbers.
            ValueError: a confidence is NaN or outside [0, 1].
        """
        return self._values(_unit("confidence", confidence))

    def lower_image(self, lower: Any) -> _Floats:
        """A value that g does not fall below at or above ``lower``; arguments and errors as a call."""
        return self._floor(_unit("lower", lower))

    def upper_image(self, upper: Any) -> _Floats:
        """A value that g does not exceed at or below ``upper``; arguments and errors as a call."""
        return self._ceiling(_unit("upper", upper))

    def image(self, lower: Any, upper: Any) -> Interval:
        """The certified intervals after recalibration.

        Args:
            lower: (N,) lower ends of certified intervals, in [0, 1].
            upper: (N,) upper ends, each at least its lower end.

        Returns:
            ``Interval`` that holds g(z) for every z from ``lower`` to ``upper``.

        Raises:
            TypeError: an argument is no array of numbers.
            ValueError: shapes that differ, or bounds that are NaN, unordered or outside [0, 1].

        Example:
            >>> StepMap(jumps=(0.5,), levels=(0.25, 0.75)).image([0.1, 0.4], [0.4, 0.5])
            Interval(lower=array([0.25, 0.25]), upper=array([0.25, 0.75]))
        """
        low = _check.float_vector("lower", lower)
        high = _check.float_vector("upper", upper)
        if low.size != high.size:
            raise ValueError(
                f"lower, upper: expected as many upper as lower ends, got {low.size} and {high.size}"
            )
        _check.require_ordered(low, high)
        return Interval(self._floor(low), self._ceiling(high))

    # With h the exactly monotone function, s its slack and z >= l: g(z) >= h(z) - s >= h(l) - s >= g(l) - 2s.
    def _floor(self, z: _Floats) -> _Floats:
        values = self._values(z)
        if self.slack:
            values = np.maximum(0.0, np.nextafter(values - 2.0 * self.slack, -1.0))
        return values

    def _ceiling(self, z: _Floats) -> _Floats:
        values = self._values(z)
        if self.slack:
            values = np.minimum(1.0, np.nextafter(values + 2.0 * self.slack, 2.0))
        return values

    @abstractmethod
    def _fields(self) -> dict[str, Any]:
        """What JSON holds beside the kind."""

    def to_json(self) -> str:
        """The map as JSON; numbers are written so that they are read back bit by bit.

        Example:
            >>> text = StepMap(jumps=(0.5,), levels=(0.25, 0.75)).to_json()
            >>> RecalibrationMap.from_json(text)
            StepMap(jumps=(0.5,), levels=(0.25, 0.75))
        """
        return json.dumps({"format": _FORMAT, **self.record()}, allow_nan=False)

    def record(self) -> dict[str, Any]:
        """What JSON holds of the map."""
        return {"kind": self.kind, **self._fields()}

    @staticmethod
    def from_json(text: str | bytes) -> RecalibrationMap:
        """Reads what ``to_json`` wrote, and trusts none of it.

        Args:
            text: JSON, at most 64 MiB.

        Returns:
            A map equal to the one that was written.

        Raises:
            TypeError: no text.
            ValueError: no JSON, not of this format, or not a monotone map from [0, 1] to [0, 1].
        """
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"text: expected str or bytes, got {type(text).__name__}")
        if len(text) > MAX_JSON:
            raise ValueError(f"text: expected at most {MAX_JSON} characters, got {len(text)}")
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"text: expected the JSON of a recalibration map: {error}") from error
        if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
            raise ValueError(f'text: expected a JSON object with "format": "{_FORMAT}"')
        return map_of_record(record)


@dataclass(frozen=True)
class IdentityMap(RecalibrationMap):
    """g(z) = z.

    Example:
        >>> IdentityMap()([0.25, 1.0])
        array([0.25, 1.  ])
    """

    @property
    def kind(self) -> str:
        """``identity``."""
        return "identity"

    def _values(self, z: _Floats) -> _Floats:
        return np.array(z)

    def _fields(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class StepMap(RecalibrationMap):
    """A step function, continuous from the right: g(z) is the level after the last jump at or below z.

    Comparisons are exact, so images of intervals are exact.

    Attributes:
        jumps: (K,) strictly increasing positions in (0, 1]; at a jump the upper level holds.
        levels: (K + 1,) non-decreasing values in [0, 1].

    Raises:
        TypeError: entries that are no numbers.
        ValueError: wrong lengths, or values that are NaN, unordered or out of range.

    Example:
        >>> StepMap(jumps=(0.5,), levels=(0.25, 0.75))([0.0, 0.4999, 0.5, 1.0])
        array([0.25, 0.25, 0.75, 0.75])
    """

    jumps: tuple[float, ...]
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks the entries, whether they came from a fit, a caller or a file."""
        positions = _check.vector("jumps", self.jumps)
        jumps = _check.float_vector("jumps", positions if positions.size else np.zeros(0))
        levels = _check.float_vector("levels", self.levels)
        if levels.size != jumps.size + 1:
            raise ValueError(
                f"jumps, levels: expected one level more than jumps, got {jumps.size} and {levels.size}"
            )
        if not bool(((jumps > 0) & (jumps <= 1)).all() and (np.diff(jumps) > 0).all()):
            raise ValueError("jumps: expected strictly increasing numbers above 0, at most 1")
        if not bool(((levels >= 0) & (levels <= 1)).all() and (np.diff(levels) >= 0).all()):
            raise ValueError("levels: expected non-decreasing numbers in [0, 1]")
        object.__setattr__(self, "jumps", tuple(jumps.tolist()))
        object.__setattr__(self, "levels", tuple(levels.tolist()))

    @property
    def kind(self) -> str:
        """``isotonic``, or ``constant`` where there is no jump."""
        return "isotonic" if self.jumps else "constant"

    @cached_property
    def _arrays(self) -> tuple[_Floats, _Floats]:
        return np.array(self.jumps, np.float64), np.array(self.levels, np.float64)

    def _values(self, z: _Floats) -> _Floats:
        jumps, levels = self._arrays
        return levels[np.searchsorted(jumps, z, side="right")]

    def _fields(self) -> dict[str, Any]:
        return {"jumps": list(self.jumps), "levels": list(self.levels)}


@dataclass(frozen=True)
class LogisticMap(RecalibrationMap):
    """g(z) = 1 / (1 + exp(-t)) with t = a log z - b log(1 - z) + c and a, b >= 0.

    ``temperature``: a = b = 1/T, c = 0. ``platt``: a = b, on the logit of z. ``beta``: a, b and c are
    free (Kull, Silva Filho and Flach, AISTATS 2017). Confidences are first moved into [2^-40, 1 -
    2^-40]. Slopes of at least 0 make the exact function non-decreasing. The computed one lies within
    ``slack`` of it, so images of intervals are rounded outward by twice that.

    Attributes:
        family: ``temperature``, ``platt`` or ``beta``; the kind of the map.
        a: slope in log z, in [0, 1000].
        b: slope in -log(1 - z), in [0, 1000].
        c: offset, in [-1000, 1000].

    Raises:
        TypeError: entries that are no numbers.
        ValueError: values out of range, or that are not of the kind.

    Example:
        >>> LogisticMap("temperature", a=0.5, b=0.5, c=0.0)([0.5, 0.9]).round(3)
        array([0.5 , 0.75])
    """

    family: str
    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        """Checks the entries, whether they came from a fit, a caller or a file."""
        _check.choice("family", self.family, ("temperature", "platt", "beta"))
        for name in ("a", "b", "c"):
            value = _check.real_number(name, getattr(self, name))
            least = -MAX_COEFFICIENT if name == "c" else 0.0
            if not least <= value <= MAX_COEFFICIENT:
                raise ValueError(
                    f"{name}: expected a number from {least:g} to {MAX_COEFFICIENT:g}, got {value}"
                )
            object.__setattr__(self, name, value)
        if self.family != "beta" and self.a != self.b:
            raise ValueError(
                f"b: expected the value of a, {self.a}, in a {self.family} map, got {self.b}"
            )
        if self.family == "temperature" and self.c != 0:
            raise ValueError(f"c: expected 0 in a temperature map, got {self.c}")

    @property
    def kind(self) -> str:
        """The family."""
        return self.family

    @property
    def slack(self) -> float:
        """A bound on the error of a computed value.

        |log| is at most 27.8 here, so |t| and its parts stay below size = 28 (a + b) + |c|. Logarithms
        of 4 ulp, two products and two sums cost t at most 2^-49 size; the logistic function has slope
        1/4 at most and an error of its own of at most 2^-50. Doubled, for libraries that are worse.
        Without slopes t is c everywhere, and the computed values are equal: 0.
        """
        if self.a == self.b == 0:
            return 0.0
        size = 28.0 * (self.a + self.b) + abs(self.c)
        return 2.0**-50 * size + 2.0**-49

    def _values(self, z: _Floats) -> _Floats:
        inside = np.clip(z, EDGE, 1.0 - EDGE)
        return cast(_Floats, expit(self.a * np.log(inside) - self.b * np.log1p(-inside) + self.c))

    def _fields(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, "c": self.c}


@dataclass(frozen=True)
class MixtureMap(RecalibrationMap):
    """g(z) = (1 - share) first(z) + share second(z).

    A product with a number that is not negative and a sum are rounded monotonically, so the ends of the
    parts' images, put through the same operations, hold every computed value: exact where both parts are.

    Attributes:
        first: a map that is no mixture.
        second: another one.
        share: weight of the second, in [0, 1].

    Raises:
        TypeError: a part is no map, or ``share`` no number.
        ValueError: ``share`` is outside [0, 1], or a part is itself a mixture.

    Example:
        >>> MixtureMap(IdentityMap(), StepMap((), (0.5,)), share=0.5)([0.0, 1.0])
        array([0.25, 0.75])
    """

    first: RecalibrationMap
    second: RecalibrationMap
    share: float

    def __post_init__(self) -> None:
        """Checks the parts, whether they came from a caller or a file."""
        for name in ("first", "second"):
            part = getattr(self, name)
            if not isinstance(part, RecalibrationMap):
                raise TypeError(f"{name}: expected a RecalibrationMap, got {type(part).__name__}")
            if isinstance(part, MixtureMap):
                raise ValueError(f"{name}: expected a map that is no mixture, got one")
        share = _check.real_number("share", self.share)
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a number from 0 to 1, got {share}")
        object.__setattr__(self, "share", share)

    @property
    def kind(self) -> str:
        """``mixture``."""
        return "mixture"

    @property
    def slack(self) -> float:
        """The larger slack of the two parts."""
        return max(self.first.slack, self.second.slack)

    def _mixed(self, first: _Floats, second: _Floats) -> _Floats:
        return np.minimum(1.0, (1.0 - self.share) * first + self.share * second)

    def _values(self, z: _Floats) -> _Floats:
        return self._mixed(self.first._values(z), self.second._values(z))

    def _floor(self, z: _Floats) -> _Floats:
        return self._mixed(self.first._floor(z), self.second._floor(z))

    def _ceiling(self, z: _Floats) -> _Floats:
        return self._mixed(self.first._ceiling(z), self.second._ceiling(z))

    def _fields(self) -> dict[str, Any]:
        return {
            "first": self.first.record(),
            "second": self.second.record(),
            "share": self.share,
        }


def map_of_record(record: Any) -> RecalibrationMap:
    """The map that a JSON object describes; anything unexpected is a ValueError."""
    if not isinstance(record, dict):
        raise ValueError(f"text: expected a JSON object for a map, got {type(record).__name__}")
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValueError(f"text: expected a kind among {', '.join(_FIELDS)}, got {kind!r:.60}")
    fields = {name: value for name, value in record.items() if name != "kind"}
    if set(fields) != set(_FIELDS[kind]):
        raise ValueError(
            f"text: expected the fields {', '.join(_FIELDS[kind]) or 'of no other name'} for kind {kind}, "
            f"got {', '.join(sorted(fields))[:200]}"
        )
    try:
        result = _build(kind, fields)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"text: expected the numbers of a {kind} map: {error}") from error
    if result.kind != kind:
        raise ValueError(f"text: expected a map of kind {kind}, got one of kind {result.kind}")
    return result


def _build(kind: str, fields: dict[str, Any]) -> RecalibrationMap:
    if kind == "identity":
        return IdentityMap()
    if kind in ("isotonic", "constant"):
        return StepMap(numbers_of("jumps", fields["jumps"]), numbers_of("levels", fields["levels"]))
    if kind == "mixture":
        parts = {name: fields[name] for name in ("first", "second")}
        if any(isinstance(part, dict) and part.get("kind") == "mixture" for part in parts.values()):
            raise ValueError("text: expected parts of a mixture that are no mixtures")
        first, second = (map_of_record(part) for part in parts.values())
        return MixtureMap(first, second, fields["share"])
    return LogisticMap(kind, fields["a"], fields["b"], fields["c"])


def numbers_of(name: str, value: Any) -> tuple[float, ...]:
    """The numbers of a list in JSON; anything else is a ValueError or a TypeError."""
    if not isinstance(value, list):
        raise ValueError(f"text: expected a list of numbers in {name}, got {type(value).__name__}")
    return tuple(_check.real_number(name, number) for number in value)


def _unit(name: str, value: Any) -> _Floats:
    """A float64 array of any shape with values in [0, 1]."""
    result = _check.float_array(name, _check.array(name, value))
    good = (result >= 0) & (result <= 1)
    if not bool(good.all()):
        raise ValueError(f"{name}: expected values in [0, 1], got {result[~good].flat[0]}")
    return result
