# SPDX-License-Identifier: MIT
"""Public names of a package that are loaded when they are first used, from the list in its stub ``__init__.pyi``."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(
    package: str, path: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: its name.
        path: of its ``__init__.py``; the stub ``__init__.pyi`` beside it has a line ``from module import name as name``
            for each name, so that type checkers and this loader read the same list.

    Returns:
        The two functions, and the names.
    """
    tree = ast.parse(Path(path).with_suffix(".pyi").read_text(encoding="utf-8"))
    home = {
        item.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for item in node.names
    }

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return load, names, sorted(home)
