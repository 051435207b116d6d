# SPDX-License-Identifier: MIT
"""Loading a user's model: ``module:factory`` gives the architecture, a file gives the weights.

Weights are read with ``weights_only=True``, so the file cannot run code; the factory is the user's
own code and does.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certcal_ext.datasets import load_torch_file

if TYPE_CHECKING:
    import torch

_NESTED = ("state_dict", "model_state_dict", "model")
_PARALLEL = "module."


def load_model(spec: str, weights: str | Path | None = None) -> torch.nn.Module:
    """Builds a model with ``module:factory`` and loads its weights; on the CPU and in eval mode.

    The module is looked for in the current folder first, then on the import path. The factory is
    called without arguments (a class works as well) and returns a ``torch.nn.Module`` from images
    in [0, 1] to logits.

    Args:
        spec: ``module:factory``, for example ``my_models:resnet110`` or ``package.module:Net``.
        weights: file written by ``torch.save``: a state dict, or a checkpoint that holds one under
            ``state_dict``, ``model_state_dict`` or ``model``. The prefix ``module.`` of
            ``DataParallel`` is taken off. None keeps what the factory returned.

    Returns:
        The model.

    Raises:
        ValueError: the spec, the factory or the weights do not fit; the message says which and how.
        ImportError: the module cannot be imported, or torch is missing.
        FileNotFoundError: the weights file does not exist.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError('models need torch: pip install "certcal_ext[torch]"') from error
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"weights: no such file: {weights}")
    factory = _factory(spec)
    try:
        model = factory()
    except Exception as error:
        raise ValueError(f"model: {spec} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"model: expected {spec} to return a torch.nn.Module, got {type(model).__name__}"
        )
    if weights is not None:
        _load_weights(model, Path(weights))
    return model.eval()


def _factory(spec: str) -> Any:
    name, _, attribute = spec.partition(":")
    if not name or not attribute:
        raise ValueError(
            f"model: expected module:factory, for example my_models:build, got {spec!r}"
        )
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ImportError(
                f"model: no module {name!r} in {folder} or on the import path"
            ) from error
        raise ImportError(f"model: importing {name!r} failed: {error}") from error
    except Exception as error:
        raise ImportError(
            f"model: importing {name!r} raised {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"model: module {name!r} has nothing called {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(
            f"model: expected {spec} to be a function or class, got {type(found).__name__}"
        )
    return found


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    held = load_torch_file(path)
    for key in _NESTED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping) or not held:
        raise ValueError(f"weights: expected a state dict in {path}, got {type(held).__name__}")
    state: dict[str, Any] = {str(key): value for key, value in held.items()}
    if all(key.startswith(_PARALLEL) for key in state):
        wanted = model.state_dict()
        if not all(key in wanted for key in state):
            state = {key.removeprefix(_PARALLEL): value for key, value in state.items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"weights: {path} does not fit the model: {reason}") from error
    if missing or unexpected:
        raise ValueError(
            f"weights: {path} does not fit the model: {_few('missing', missing)}; "
            f"{_few('not in the model', unexpected)}"
        )


def _few(what: str, names: list[str]) -> str:
    """The first three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3]) or 'none'}{more}"
