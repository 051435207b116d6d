# SPDX-License-Identifier: MIT
"""Every public function, constructor and method with every wrong kind of every argument."""

from __future__ import annotations

import functools
import inspect
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from wrong_kinds import LISTS, WRONG, certificate_calls, model_calls, plain_calls, public_calls

PARTS: list[Callable[[], dict[str, Any]]] = [plain_calls, certificate_calls, model_calls]


@functools.cache
def calls() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # samples of so few draws abstain
        return {name: call for part in PARTS for name, call in part().items()}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what has not answered by then."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def arguments(function: Callable[..., Any]) -> list[str]:
    """The names of a callable's arguments; those of options too, which a ``TypedDict`` lists."""
    names = []
    for name, parameter in inspect.signature(function).parameters.items():
        options = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
        if options:
            names += inspect.unwrap(function).__globals__[options[1]].__annotations__
        elif parameter.kind not in LISTS:
            names.append(name)
    return names


def faults(name: str, function: Callable[..., Any], good: dict[str, Any]) -> list[str]:
    """What goes wrong other than by a TypeError or a ValueError that names the argument."""
    found = []
    for argument in arguments(function):
        for kind, make in WRONG.items():
            if argument == "progress" and kind in ("class", "function"):
                continue  # a function is the user's own, and so is what it raises
            try:
                with at_most(20), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    function(**(good | {argument: make()}))
            except (TypeError, ValueError) as error:
                if not re.search(rf"\b{argument}\b", str(error).split(":")[0]):
                    found.append(f"{name}({argument}={kind}): {type(error).__name__}: {error}")
            except BaseException as error:
                found.append(f"{name}({argument}={kind}): {type(error).__name__}: {error}")
    return [line[:300] for line in found]


def test_no_public_call_is_left_out() -> None:
    assert sorted(public_calls() - set(calls())) == []


@pytest.mark.parametrize("name", sorted(public_calls()))
def test_wrong_kinds(name: str) -> None:
    function, good = calls()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(**good)  # what the wrong kinds take the place of is right
    assert not faults(name, function, good)
