# SPDX-License-Identifier: MIT
"""``--config FILE.toml`` for every subcommand, and the options of a run as such a file.

The option is added from outside, so a subcommand is written as if there were none.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import shlex
import sys
import types
import typing
from collections.abc import Callable, Collection
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from certcal_ext._claims import written
from certcal_ext.cli._common import user_errors

#: Options that are numbers or names separated by commas: a list in the file.
COMMA_LISTS = frozenset({"radii", "stop_radii", "edges", "metrics"})

#: Options that say where results go or how fast they come, and not what they are.
BESIDE_THE_RESULT = frozenset(
    {
        "as_json",
        "batch_size",
        "checkpoint_every",
        "device",
        "estimate",
        "keep_work",
        "log",
        "out",
        "report",
        "resume",
        "tensorboard",
        "unit_draws",
        "work",
    }
)

_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    Path: "a path in quotes",
}

#: Options that a command line says even where they are as they were left: another version may have other defaults.
_ALWAYS_SAID = frozenset({"n0", "n", "alpha", "seed"})

_Run = tuple[typer.Context, dict[str, Any]]
_this_run: ContextVar[_Run | None] = ContextVar("this_run", default=None)


def configurable(function: Callable[..., None]) -> Callable[..., None]:
    """The same subcommand with ``--config`` as its last option.

    Args:
        function: of the subcommand, with typer's annotations.

    Returns:
        A function for ``typer.Typer.command``.
    """
    own = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def command(**values: Any) -> None:
        context = values.pop("context")
        values.pop("config")
        token = _this_run.set((context, values))
        try:
            function(**values)
        finally:
            _this_run.reset(token)

    extra = [
        inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Config
        ),
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
    ]
    kept = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own.parameters.values()]
    command.__signature__ = own.replace(parameters=[*kept, *extra])  # type: ignore[attr-defined]
    command.__annotations__ = {}  # the signature has them, evaluated
    return command


def options_of_this_run() -> str | None:
    """The options that the running subcommand's result depends on, as a file for ``--config``.

    Returns:
        TOML, a table named like the subcommand; None outside of a subcommand. Two runs that can only
        differ in where their results go and in speed have the same.
    """
    run = _this_run.get()
    return None if run is None else _to_toml(*run)


def command_of_this_run() -> str | None:
    """The same as a command line; None outside of a subcommand. Options that are as they were left are left out."""
    run = _this_run.get()
    if run is None:
        return None
    (context, values), words = run, ["certcal", str(run[0].info_name)]
    names = _option_names(context)
    for param in context.command.params:
        name, value = str(param.name), values.get(str(param.name))
        left = value == param.default and name not in _ALWAYS_SAID
        if left or name in BESIDE_THE_RESULT or value in (None, False):
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            if param.param_type_name == "option":
                words.append(f"--{names[name].replace('_', '-')}")
            if item is not True:
                words.append(written(item) if isinstance(item, float) else str(item))
    return shlex.join(words)


def read_options(
    path: Path, command: str, wanted: dict[str, Any], commands: Collection[str]
) -> dict[str, Any]:
    r"""The options for a subcommand from a TOML file.

    Options stand at the top of the file, or in a table named like their subcommand, so that one file
    can serve several; tables of other subcommands are passed over. Names are those of the command
    line without the dashes in front, with ``-`` or ``_``.

    Args:
        path: the file; paths inside it are relative to its folder.
        command: name of the subcommand.
        wanted: the type of each option.
        commands: names of all subcommands.

    Returns:
        The values by the names in ``wanted``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no TOML, a name that the subcommand does not have or has twice, or a value of the
            wrong type.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.toml"
        >>> _ = path.write_text('sigma = 0.25\n[bound]\nradii = [0, 0.25]\n')
        >>> read_options(path, "bound", {"sigma": float, "radii": str, "n": int}, {"bound"})
        {'sigma': 0.25, 'radii': '0,0.25'}
    """
    stored = _read(path)
    others = {name: part for name, part in stored.items() if isinstance(part, dict)}
    values: dict[str, Any] = {}
    for name in others:
        if name not in commands:
            raise ValueError(
                f"--config: {path}: [{name}]: expected a table named like a subcommand "
                f"({', '.join(sorted(commands))})"
            )
    top = {name: value for name, value in stored.items() if name not in others}
    for given, place in ((top, ""), (others.get(command, {}), f"[{command}] ")):
        for key, value in given.items():
            name = key.replace("-", "_")
            where = f"--config: {path}: {place}{key}"
            if name not in wanted:
                raise ValueError(
                    f"{where}: {command} has no such option; expected some of "
                    f"{', '.join(sorted(wanted))}"
                )
            if name in values:
                raise ValueError(f"{where}: expected each option once, got it twice")
            values[name] = _value(where, name, wanted[name], value, path.parent)
    return values


def _load(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the file's values the defaults of the options that follow."""
    if path is None or context.resilient_parsing:
        return path
    with user_errors():
        names = _option_names(context)
        hints = _types(context.command.callback)
        wanted = {key: hints[name] for name, key in names.items()}
        group = context.parent.command if context.parent is not None else None
        commands = getattr(group, "commands", {str(context.info_name): None})
        found = read_options(path, str(context.info_name), wanted, commands)
    by_key = {key: name for name, key in names.items()}
    context.default_map = {by_key[key]: value for key, value in found.items()}
    return path


_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file with options; those on the command line win.",
        show_default=False,
        is_eager=True,
        callback=_load,
    ),
]


def _option_names(context: typer.Context) -> dict[str, str]:
    """How the user calls each parameter of the subcommand: ``kind`` is ``--attack``."""
    return {
        str(param.name): max(param.opts, key=len).lstrip("-").replace("-", "_")
        for param in context.command.params
        if param.name not in (None, "config", "help")
    }


def _types(callback: Any) -> dict[str, Any]:
    """The type of each parameter, without ``None`` and typer's annotations."""
    hints = {item.name: item.annotation for item in inspect.signature(callback).parameters.values()}
    return {name: _without_none(hint) for name, hint in hints.items()}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"--config: {path}: no such file")
    # In the standard library from Python 3.11 on, and before that the package it came from.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        stored: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--config: {path}: expected TOML: {error}") from error
    return stored


def _value(where: str, name: str, kind: Any, value: Any, folder: Path) -> Any:
    """A value of the file as click takes it from its defaults."""
    if typing.get_origin(kind) is list:
        (inner,) = typing.get_args(kind)
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected a list, each {_EXPECTED[inner]}, got {value!r}")
        return [_value(where, name, inner, item, folder) for item in value]
    if name in COMMA_LISTS and isinstance(value, list):
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int | float | str):
                raise ValueError(f"{where}: expected numbers or texts in the list, got {item!r}")
        return ",".join(item if isinstance(item, str) else repr(item) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 2**53:
            raise ValueError(f"{where}: expected a number that a float holds, got {value}")
        return float(value)
    if kind is Path and isinstance(value, str):
        return str(folder / value)
    if type(value) is not kind:
        more = ", or a list" if name in COMMA_LISTS else ""
        expected = _EXPECTED.get(kind, "another type")
        raise ValueError(f"{where}: expected {expected}{more}, got {value!r}")
    return value


def _to_toml(context: typer.Context, values: dict[str, Any]) -> str:
    """The options that a result depends on."""
    names = _option_names(context)
    lines = [f"[{context.info_name}]"]
    for name in sorted(values.keys() - BESIDE_THE_RESULT):
        value = values[name]
        if value is None or value is False or value == []:
            continue
        lines.append(f"{names[name].replace('_', '-')} = {_literal(value)}")
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, bool):
        return "true"
    if isinstance(value, int | float):
        return repr(value)
    # Every JSON string is a basic string of TOML, but for one character that JSON leaves as it is.
    return json.dumps(str(value)).replace("\x7f", "\\u007f")
