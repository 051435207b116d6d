# SPDX-License-Identifier: MIT
"""Loads the compiled module, or says how to build it."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

REBUILD_COMMAND = "pip install --force-reinstall --no-deps --no-cache-dir certcal_ext"


def load_core() -> ModuleType:
    """Imports ``certcal_ext._core``.

    Raises:
        ImportError: The module is missing, was built for another Python or version, or cannot be linked. The message holds
            the command that rebuilds it.
    """
    try:
        core = importlib.import_module("certcal_ext._core")
    except ImportError as error:
        raise ImportError(
            f"certcal_ext: the compiled module could not be loaded ({error}). "
            f"Rebuild it with: {REBUILD_COMMAND}   (in a checkout: pip install --force-reinstall --no-deps .)"
        ) from error
    for name in ("add_noise", "count_votes", "certify", "ece_update"):
        if not hasattr(core, name):
            raise ImportError(
                f"certcal_ext: the compiled module {core.__file__} has no '{name}': it comes from another version. "
                f"Rebuild it with: {REBUILD_COMMAND}"
            )
    return core


if TYPE_CHECKING:
    from certcal_ext import _core as core
else:

    def __getattr__(name: str) -> Any:
        """``from certcal_ext._load import core`` loads it; importing this file alone does not, so ``certcal doctor`` can."""
        if name == "core":
            return load_core()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["REBUILD_COMMAND", "core", "load_core"]
