# SPDX-License-Identifier: MIT
"""The weights in a file that fit a model, whatever training tool wrote them around it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

State = dict[str, Any]

#: Where checkpoints keep the weights, those of the model itself before averages of them.
_USUAL = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "state",
)

#: What tools put around a module: no part of its names.
_WRAPPERS = frozenset(
    ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
)

#: Names of counters that tools keep beside the weights (thop, averaged models, exponential averages).
_COUNTER = re.compile(r"(.*\.)?(total_ops|total_params|n_averaged|num_updates|decay|steps?|epoch)")

#: Counters of batch normalisation that older files do not have, and evaluation does not use.
_SINCE_TORCH_0_4 = "num_batches_tracked"

#: How deep a checkpoint is searched.
_DEPTH = 4


def fitting_state(model: torch.nn.Module, held: Any, path: Path) -> State:
    """The weights of a file under the names that the model has.

    Names may have wrappers (``module.``, ``_orig_mod.``) anywhere, and in front whatever all of them share, in the file or
    in the model; nothing is taken unless each weight of the model has exactly one of its shape.

    Args:
        model: to load them into.
        held: what the file holds.
        path: the file, for messages.

    Returns:
        Tensors by the model's names.

    Raises:
        ValueError: no weights, or none that fit; the message says what differs.

    Warns:
        UserWarning: counters of other tools were left out, or another part of the file fits too.
    """
    states = sorted(_states(held), key=lambda state: _rank(state[0]))
    if not states:
        kind = type(held).__name__
        raise ValueError(f"weights: expected a state dict in {path}, got {kind} without one")
    wanted = {name: tuple(value.shape) for name, value in _tensors(model.state_dict()).items()}
    fits = [(name, fit) for name, state in states if (fit := _fit(wanted, state)) is not None]
    if not fits:
        raise ValueError(
            f"weights: {path} does not fit the model: {_difference(wanted, states[0][1])}"
        )
    (place, (state, left)), others = fits[0], [name for name, _ in fits[1:]]
    if left:
        warnings.warn(
            f"weights: {path}: left out {_few(left)}, counters that are no weights of the model",
            stacklevel=4,
        )
    if others:
        warnings.warn(
            f"weights: {path}: took {place or 'its names'}; {_few(others)} would fit too",
            stacklevel=4,
        )
    return state


def _states(held: Any, place: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, State]]:
    """Mappings that hold tensors, with their place in the file."""
    if not isinstance(held, Mapping) or depth == 0:
        return
    state = _tensors(held)
    if state:
        yield place, state
    for name, value in held.items():
        yield from _states(value, f"{place}.{name}" if place else str(name), depth - 1)


def _tensors(held: Mapping[Any, Any]) -> State:
    import torch

    return {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}


def _rank(place: str) -> tuple[int, int]:
    """Usual places first, averages of weights last."""
    last = place.rsplit(".", 1)[-1]
    return _USUAL.index(last) if last in _USUAL else len(_USUAL) * (1 + bool(place)), len(place)


def _fit(wanted: Mapping[str, Any], state: State) -> tuple[State, list[str]] | None:
    """The state by the model's names, and counters that were left out; None where it does not fit."""
    extra = {
        name for name, value in state.items() if value.numel() == 1 and _COUNTER.fullmatch(name)
    }
    for left in (set(), extra) if extra else (set(),):
        kept = {name: value for name, value in state.items() if name not in left}
        if not any(name.endswith(_SINCE_TORCH_0_4) for name in kept):
            wanted = {n: shape for n, shape in wanted.items() if not n.endswith(_SINCE_TORCH_0_4)}
        for own, theirs in ((_same, _same), (_bare, _bare), (_inner, _inner)):
            mine, other = own(list(wanted)), theirs(list(kept))
            if mine is None or other is None or mine.keys() != other.keys():
                continue
            named = {mine[key]: kept[other[key]] for key in mine}
            if all(tuple(value.shape) == wanted[name] for name, value in named.items()):
                return named, sorted(left)
    return None


def _same(names: list[str]) -> dict[str, str] | None:
    return {name: name for name in names}


def _bare(names: list[str]) -> dict[str, str] | None:
    """Names by what they are without wrappers; None where two are then the same."""
    bare = {".".join(p for p in name.split(".") if p not in _WRAPPERS): name for name in names}
    return bare if len(bare) == len(names) else None


def _inner(names: list[str]) -> dict[str, str] | None:
    """The same without what all have in front, too."""
    bare = _bare(names)
    if not bare:
        return bare
    parts = [key.split(".") for key in bare]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return {key.split(".", shared)[-1]: name for key, name in bare.items()}


def _difference(wanted: Mapping[str, Any], state: State) -> str:
    """What keeps a state from the model, by the names that come nearest."""
    mine, theirs = (_inner(names) or {} for names in (list(wanted), list(state)))
    pairs = [(mine[key], theirs[key]) for key in mine if key in theirs]
    sizes = [
        f"{name} is {wanted[name]} in the model and {tuple(state[other].shape)} in the file"
        for name, other in pairs
        if wanted[name] != tuple(state[other].shape)
    ]
    if sizes:
        return f"size mismatch: {_few(sizes)}"
    missing = [name for key, name in mine.items() if key not in theirs]
    unexpected = [name for key, name in theirs.items() if key not in mine]
    return f"missing: {_few(missing)}; not in the model: {_few(unexpected)}"


def _few(names: list[str]) -> str:
    """The first three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3]) or 'none'}{more}"
