# SPDX-License-Identifier: MIT
"""Options of a subcommand from dataclasses: each field is an option, each dataclass a group of the help text.

A subcommand takes a few objects, ``settings: Annotated[Settings, Panel("Training")]``, and the command line is made from
their fields: name, type and default are the field's, the help is what the class says of its attribute. So an option
stands once, in the class that checks it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer
from typer.models import OptionInfo

from certcal_ext.cli._common import user_errors


@dataclasses.dataclass(frozen=True)
class Panel:
    """Marks a parameter of a subcommand whose fields are options.

    Attributes:
        title: of the group in ``--help``.
        without: fields that are no options and keep their default.
        hidden: whether the help text leaves them out.
    """

    title: str
    without: frozenset[str] = frozenset()
    hidden: bool = False


def unfolded(function: Callable[..., None]) -> Callable[..., None]:
    """The same subcommand with the fields of its groups as parameters, for typer.

    The groups are built from the options before the subcommand runs; what a group's own checks refuse is an error of
    the user like any other (one line, exit code 2).

    Args:
        function: of the subcommand; parameters annotated with a ``Panel`` are dataclasses.

    Returns:
        A function of keyword arguments only.
    """
    own = inspect.signature(function, eval_str=True)
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    flat: list[inspect.Parameter] = []
    for item in own.parameters.values():
        kind, panel = _group(item.annotation)
        if panel is None:
            flat.append(item.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        options = list(_parameters(kind, panel))
        groups[item.name] = kind, [option.name for option in options]
        flat += options

    @functools.wraps(function)
    def command(**values: Any) -> None:
        with user_errors():
            for name, (kind, fields) in groups.items():
                values[name] = kind(**{field: values.pop(field) for field in fields})
            function(**values)

    command.__signature__ = own.replace(parameters=flat)  # type: ignore[attr-defined]
    return command


def _group(annotation: Any) -> tuple[Any, Panel | None]:
    """The dataclass and its ``Panel``, where the annotation has one."""
    if typing.get_origin(annotation) is Annotated:
        kind, *marks = typing.get_args(annotation)
        for mark in marks:
            if isinstance(mark, Panel):
                return kind, mark
    return annotation, None


def _parameters(kind: type[Any], panel: Panel) -> typing.Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(kind, include_extras=True)
    helps = _attribute_texts(kind)
    for field in dataclasses.fields(kind):
        if not field.init or field.name in panel.without:
            continue
        hint = hints[field.name]
        marked = typing.get_origin(hint) is Annotated
        hint, *marks = typing.get_args(hint) if marked else (hint,)
        option = next((copy.copy(mark) for mark in marks if isinstance(mark, OptionInfo)), None)
        if option is None:
            flags = (f"--{field.name.replace('_', '-')}",) if hint is bool else ()
            option = typer.Option(*flags, help=helps.get(field.name, ""))
        needed = field.default is dataclasses.MISSING
        if needed or field.default is None:
            option.show_default = False
        option.rich_help_panel, option.hidden = panel.title, panel.hidden
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if needed else field.default,
            annotation=Annotated[_plain(hint), option],
        )


def _plain(hint: Any) -> Any:
    """A type that typer takes: words of a ``Literal`` are checked by the class that has them."""
    if typing.get_origin(hint) is Literal:
        return str
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.Optional[  # noqa: UP045  # built from a value
            next(_plain(part) for part in typing.get_args(hint) if part is not type(None))
        ]
    return hint


def _attribute_texts(kind: type[Any]) -> dict[str, str]:
    """What the docstrings say of the attributes, each as a sentence; those of base classes too."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = re.search(r"Attributes:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(base) or "", re.DOTALL)
        for name, text in re.findall(
            r"^    (\w+): (.*(?:\n        .*)*)", section[1] if section else "", re.MULTILINE
        ):
            words = " ".join(text.replace("``", "").split())
            name_first = re.match(r"\S+(:| or )", words)  # of a method or a choice, as it is typed
            texts[name] = words if name_first else words[:1].upper() + words[1:]
    return texts
