# SPDX-License-Identifier: MIT
"""Work on a thread of its own that can be watched and interrupted, and lines about its progress."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

#: Called as (bound, incumbent, seconds).
Watch = Callable[[float, float, float], None]

#: Called by the work with what it has.
News = Callable[[float, float], None]

#: How often the calling thread looks at the work.
_PAUSE = 0.1


def watched(work: Callable[[News], None], stop: threading.Event, watch: Watch | None) -> bool:
    """Runs ``work`` to its end; whether Ctrl-C stopped it.

    HiGHS runs on a thread of its own and without the interpreter lock. Python raises
    KeyboardInterrupt on the main thread only, so never in HiGHS's callback, where an exception
    would have to pass through C++: the callback reads a flag, and the calling thread waits, calls
    ``watch``, and sets the flag.

    Args:
        work: called on the other thread; has to end soon after ``stop`` is set.
        stop: the flag.
        watch: called on the calling thread whenever there is news; its exceptions stop the work
            and pass through, as those of the work do.

    Raises:
        KeyboardInterrupt: the second Ctrl-C, while the work is being stopped.
    """
    finished = threading.Event()
    news: list[tuple[float, float]] = []
    failed: list[BaseException] = []

    def tell(bound: float, incumbent: float) -> None:
        news[:] = [(bound, incumbent)]

    def run() -> None:
        try:
            work(tell)
        except BaseException as error:
            failed.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=run, name="certcal-highs", daemon=True)
    started, interrupted = time.perf_counter(), False
    last: tuple[float, float] | None = None
    try:
        thread.start()
        while not finished.wait(_PAUSE):
            latest = news[0] if news else None
            if watch is not None and latest is not None and latest != last:
                last = latest
                watch(*latest, time.perf_counter() - started)
    except KeyboardInterrupt:
        interrupted = True
        stop.set()
        while not finished.wait(_PAUSE):
            continue
    except BaseException:
        stop.set()
        finished.wait()
        raise
    thread.join()
    if failed:
        raise failed[0]
    return interrupted


class Lines:
    """A line on stderr when there is news, at most every two seconds."""

    _EVERY = 2.0

    def __init__(self) -> None:
        self._last = -self._EVERY

    def __call__(self, bound: float, incumbent: float, seconds: float) -> None:
        """One line, unless the last was printed just now."""
        if seconds - self._last < self._EVERY:
            return
        self._last = seconds
        print(
            f"certified_ece_milp: bound {bound:.6f}, best found {incumbent:.6f}, "
            f"gap {bound - incumbent:.6f}, {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
