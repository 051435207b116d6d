# SPDX-License-Identifier: MIT
"""Loading a user's model: ``module:factory`` gives the architecture, a file gives the weights.

Weights are read with ``weights_only=True``, so the file cannot run code; the factory is the user's
own code and does.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certcal_ext.datasets import load_torch_file
from certcal_ext.weights import fitting_state

if TYPE_CHECKING:
    import torch


def load_model(spec: str, weights: str | Path | None = None) -> torch.nn.Module:
    """Builds a model with ``module:factory`` and loads its weights; on the CPU and in eval mode.

    The module is looked for in the current folder first, then on the import path. The factory is
    called without arguments (a class works as well) and returns a ``torch.nn.Module`` from images
    in [0, 1] to logits. Where it gives more, its logits are taken: a field or key ``logits``, or the
    first of a tuple.

    Args:
        spec: ``module:factory``, for example ``my_models:resnet110`` or ``package.module:Net``.
        weights: file written by ``torch.save``: a state dict, or a checkpoint that holds one
            anywhere. Prefixes of ``DataParallel``, ``torch.compile``, Lightning and the like are
            taken off. None keeps what the factory returned.

    Returns:
        The model.

    Raises:
        ValueError: the spec, the factory or the weights do not fit; the message says which and how.
        ImportError: the module cannot be imported, or torch is missing.
        FileNotFoundError: the weights file does not exist.

    Warns:
        UserWarning: counters of other tools in the file were left out, or another part of it fits too;
            later, that logits were taken out of what the model gives.

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
    model.register_forward_hook(_logits_alone)
    return model.eval()


#: Models of which it was said how their logits are taken.
_TOLD: weakref.WeakSet[Any] = weakref.WeakSet()


def _logits_alone(model: Any, images: Any, output: Any) -> Any:
    """A forward hook: the logits of an output that holds them in a clear place."""
    import torch

    if isinstance(output, torch.Tensor):
        return output
    logits = (
        output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    )
    place = "its field logits is"
    if logits is None and isinstance(output, tuple | list) and output:
        logits, place = output[0], "the first is"
        rows = [x for x in output if isinstance(x, torch.Tensor) and x.ndim == 2]
        if len({x.shape[1] for x in rows}) > 1:
            logits = None  # features and logits, in any order
    if not (isinstance(logits, torch.Tensor) and logits.ndim == 2):
        raise TypeError(
            f"model: expected logits as one tensor, or with a clear place, got {_shape_of(output)}; return the logits alone"
        )
    if model not in _TOLD:
        _TOLD.add(model)
        warnings.warn(
            f"model: gives {_shape_of(output)}; {place} taken for the logits", stacklevel=2
        )
    return logits


def _shape_of(output: Any) -> str:
    """What came, in a few words."""
    held = (
        output.items()
        if isinstance(output, Mapping)
        else enumerate(output if isinstance(output, tuple | list) else ())
    )
    parts = [f"{name}: {tuple(getattr(x, 'shape', ())) or type(x).__name__}" for name, x in held]
    return type(output).__name__ + (f" ({', '.join(parts[:4])})" if parts else "")


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
    state = fitting_state(model, load_torch_file(path), path)
    try:
        model.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"weights: {path} does not fit the model: {reason}") from error
