# SPDX-License-Identifier: MIT
"""What every sum of samples shares: adding samples and states, back from integers, copies, and any number of threads."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check

#: A state holds at most this many samples; its 64-bit words cannot overflow below that.
MAX_ROWS = 2**36

#: A confidence is kept as a multiple of 2^-52, and a sum of them in two words, of which the lower one has 26 bits.
FRACTION_BITS = 52
LOW_BITS = 26

Integers = NDArray[np.int64]
Result = TypeVar("Result")
_Self = TypeVar("_Self", bound="CertifiedState[Any]")


class CertifiedState(ABC, Generic[Result]):
    """What all states share: adding samples, adding states, and back from integers.

    Threads may share an object: each method does its work alone (compiled code runs without Python's lock, so that lock
    does not see to it). Copies (``copy.copy``, ``copy.deepcopy``, ``pickle``) share nothing with the original.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """A state of no samples; ``shape`` is that of its integers."""
        self._lock = threading.RLock()
        self._state: Integers = np.zeros(shape, np.int64)
        self._rows = 0

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle is made of, at one moment between two updates."""
        with self._lock:
            fields = {name: value for name, value in self.__dict__.items() if name != "_lock"}
            return fields | {"_state": self._state.copy()}

    def __setstate__(self, fields: dict[str, Any]) -> None:
        """The object of these fields, with a lock of its own."""
        self.__dict__.update(fields)
        self._lock = threading.RLock()

    @classmethod
    def from_state(cls: type[_Self], state: Any, *arguments: Any, **named: Any) -> _Self:
        """An object with the integers of another one, or with the sum of those of several.

        Args:
            state: integers as ``state`` gives them; copied.
            *arguments: those of the class, as they were for that object.
            **named: likewise.

        Returns:
            A new object of this class.

        Raises:
            TypeError: ``state`` is no array of integers, or an argument is of the wrong kind.
            ValueError: its shape does not fit, it holds more than 2^36 samples, or no samples can give it.
        """
        result = cls(*arguments, **named)
        given = _check.array("state", state)
        _check.require_kind("state", given, "iu", "integers")
        if given.shape != result._state.shape:
            raise ValueError(f"state: expected shape {result._state.shape}, got {given.shape}")
        result._state[...] = given
        if (result._state < 0).any():  # as is what was 2^63 or more
            raise ValueError("state: expected integers from 0 to 2^63 - 1")
        result._rows = _within_most(result._checked_rows())
        return result

    @property
    def rows(self) -> int:
        """Number of samples so far."""
        return self._rows

    def update(self, correct: Any, lower: Any, upper: Any) -> None:
        """Adds samples. No samples are fine, and where one is bad none is added.

        Args:
            correct: (N,) booleans or 0/1, whether the prediction is right.
            lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
            upper: (N,) upper ends, each at least its lower end.

        Raises:
            TypeError: an argument is no array of numbers.
            ValueError: shapes that differ, bounds that are NaN, unordered or outside [0, 1], or more than 2^36 samples.
        """
        self.add_checked(*_check.intervals(correct, lower, upper))

    def add_checked(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> None:
        """``update`` for arrays that ``_check.intervals`` gave."""
        with self._lock:
            rows = _within_most(self._rows + right.size)
            self._add(right, low, high)
            self._rows = rows

    def merge(self: _Self, other: _Self) -> None:
        """Adds the samples of another object with the same settings.

        Raises:
            TypeError: ``other`` is of another class.
            ValueError: its settings differ, or the two together pass 2^36 samples.
        """
        if type(other) is not type(self):
            raise TypeError(f"other: expected {type(self).__name__}, got {type(other).__name__}")
        theirs = other._settings()
        for name, ours in self._settings().items():
            if theirs[name] != ours:
                raise ValueError(
                    f"other: expected {name}={_brief(ours)}, as here, got {_brief(theirs[name])}"
                )
        # In one order for every pair, so that two threads never wait for each other.
        first, second = sorted((self, other), key=id)
        with first._lock, second._lock:
            self._rows = _within_most(self._rows + other._rows)
            self._state += other._state

    def state(self) -> Integers:
        """The integers, int64, a copy. Adding those of two objects is merging the objects."""
        with self._lock:
            return np.array(self._state)

    def compute(self) -> Result:
        """The worst case over all samples so far.

        Raises:
            ValueError: there are none.
        """
        with self._lock:
            if not self._rows:
                raise ValueError(
                    f"{type(self).__name__}: expected at least one sample before a result, got none"
                )
            return self._result()

    @abstractmethod
    def _add(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> None:
        """Adds samples, whose order of bounds is still to be checked, to the integers: all of them or none."""

    @abstractmethod
    def _checked_rows(self) -> int:
        """The number of samples of a state given by the user, none of it negative; raises where none can give it."""

    @abstractmethod
    def _result(self) -> Result:
        """What ``compute`` gives for at least one sample."""

    def _settings(self) -> dict[str, Any]:
        """What two states must share to be added."""
        return {}


def possible_sums(high: Any, low: Any, count: Any, bits: int) -> Any:
    """Whether ``count`` terms from 0 to 2^bits can have these two words as their sum, in each entry.

    A term of 2^bits has a lower word of 0, so every upper word above ``2^(bits - LOW_BITS) - 1`` a term takes one such.
    """
    most_high = (1 << (bits - LOW_BITS)) - 1
    full = np.maximum(high - count * most_high, 0)
    return (full <= count) & (low <= (count - full) * ((1 << LOW_BITS) - 1))


def _within_most(rows: int) -> int:
    if rows > MAX_ROWS:
        raise ValueError(f"expected at most 2^36 samples in one state, got {rows}")
    return rows


def _brief(setting: Any) -> str:
    if isinstance(setting, list):
        return np.array2string(np.array(setting), threshold=6, precision=6)
    return repr(setting)
