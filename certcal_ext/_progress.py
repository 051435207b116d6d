# SPDX-License-Identifier: MIT
"""Counting finished draws and showing them: a bar on a terminal, a line now and then elsewhere, both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]


class Tally:
    """Draws done so far, reported as they come.

    Args:
        total: draws in all; None where the length of the data is not known, and then what is done counts as all.
        report: called as report(draws done, draws in all), or None.
    """

    def __init__(self, total: int | None, report: Report | None) -> None:
        self._total, self._report, self._done = total, report, 0

    def add(self, draws: int) -> None:
        """Some more draws are done."""
        self._done += draws
        if self._report is not None:
            self._report(self._done, self._done if self._total is None else self._total)


@contextmanager
def reporting(progress: bool | Report, what: str, unit: str) -> Iterator[Report | None]:
    """The function that a ``progress=`` argument stands for: itself, our own display for True, None for False.

    Raises:
        TypeError: neither a bool nor a function.
    """
    if callable(progress):
        yield progress
    elif progress is True:
        with shown(what, unit) as report:
            yield report
    elif progress is False:
        yield None
    else:
        raise TypeError(
            f"progress: expected True, False or a function, got {type(progress).__name__}"
        )


@contextmanager
def shown(what: str, unit: str) -> Iterator[Report]:
    """Shows how far a long step is.

    Args:
        what: the step, for example "certifying".
        unit: what is counted, for example "draws".

    Yields:
        A function of (done, total).
    """
    if sys.stderr.isatty() and _has_rich():
        with _bar(what) as show:
            yield show
    else:
        yield _Lines(what, unit)


def _has_rich() -> bool:
    from importlib.util import find_spec

    return find_spec("rich") is not None


@contextmanager
def _bar(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """A line at every tenth of the way and after each minute, but not within two seconds of the last; and one at the end.

    Plain text without control characters, for files and pipes.
    """

    _PAUSE, _LONG = 2.0, 60.0

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._started = self._last = time.monotonic()
        self._tenth = 0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        tenth = 10 * done // max(total, 1)
        finished = done >= total
        waited = now - self._last
        due = tenth > self._tenth or (waited >= self._LONG and not finished)
        if not due or (waited < self._PAUSE and not finished):
            return
        self._tenth, self._last = max(tenth, self._tenth), now
        left = (now - self._started) * (total - done) / max(done, 1)
        end = (
            f"took {duration(now - self._started)}" if finished else f"about {duration(left)} left"
        )
        line = f"{self._what}: {100 * done // max(total, 1)} % of {total:,} {self._unit}, {end}"
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A span of time in words.

    Example:
        >>> duration(4.2), duration(95), duration(7320)
        ('4 s', '1 min 35 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
