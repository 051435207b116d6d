# SPDX-License-Identifier: MIT
"""What a certificate has to know of a model, and how the model, and what it is given, are kept as they were."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Formats that are coarser than float32.
_REDUCED = ("float16", "bfloat16", "float8")

#: What says that memory ran out: torch's allocators on a GPU and on the host, CUDA itself, and its libraries, which allocate
#: workspaces of their own. cuDNN, where no workspace fits, says that it finds no engine.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC(ATION)?_FAILED|_INSUFFICIENT_RESOURCES"
    r"|unable to find an engine",
    re.IGNORECASE,
)

#: What torch calls float32 that is computed in float32.
_EXACT = ("none", "ieee")


def model_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over the class name and every parameter and buffer (name, dtype, shape, bytes), in hexadecimal.

    Two models with the same weights and class share it, wherever they lie, and whether they or parts of them are compiled.
    """
    import torch

    digest = hashlib.sha256(class_name(model).encode())
    state = {name.replace("_orig_mod.", ""): value for name, value in model.state_dict().items()}
    for name, value in sorted(state.items()):
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name}:{value!r}".encode())
            continue
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def class_name(model: torch.nn.Module) -> str:
    """The name of a model's class, of the model inside where ``torch.compile`` wrapped it."""
    return type(getattr(model, "_orig_mod", model)).__qualname__


def place_of(model: torch.nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of a model's weights, and the dtype that its inputs have; None where it has no weights."""
    device = next((tensor.device for tensor in model.parameters()), None)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return device, dtype


def copied_for(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images as a model takes them, always a copy: a model may write into what it is given."""
    device, dtype = place_of(model)
    return images.detach().to(device or images.device, dtype or images.dtype, copy=True)


@contextmanager
def formats_seen() -> Iterator[set[str]]:
    """Collects the formats of floating point of all that torch computes inside: "float32", "bfloat16", ..."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    seen: set[str] = set()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            for value in tree_leaves(made):
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                    seen.add(str(value.dtype).removeprefix("torch."))
            return made

    with Watch():  # type: ignore[no-untyped-call]
        yield seen


def coarsest(formats: set[str], otherwise: str) -> str:
    """The coarsest of some formats; reduced ones joined by ``+``; ``otherwise`` where there is none."""
    reduced = {name for name in formats if name.startswith(_REDUCED)}
    return "+".join(sorted(reduced)) or min(formats, default=otherwise)  # "float32" < "float64"


def computed_in(model: torch.nn.Module, images: torch.Tensor) -> str:
    """The coarsest format of floating point that the model computes in, under autocast or without.

    It is seen, not asked for: parameters of float32 say nothing of a model that runs under autocast, or casts itself.

    Args:
        model: in evaluation mode.
        images: (B, ...) float32.

    Returns:
        "float32", "float64", "bfloat16", "float16", or reduced formats joined by ``+``.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     computed_in(model, torch.zeros(1, 4))
        'bfloat16'
        >>> computed_in(model, torch.zeros(1, 4)), computed_in(model.double(), torch.zeros(1, 4))
        ('float32', 'float64')
    """
    import torch

    given = copied_for(model, images)
    with torch.no_grad(), formats_seen() as seen:
        model(given)
    return coarsest(seen, str(given.dtype).removeprefix("torch."))


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that memory ran out, on a GPU or on the host.

    Only torch's allocator on a GPU has an error class of its own; all else is told by its words.
    """
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and float32 that is float32.

    Every submodule's own mode, its buffers and torch's settings come back as they were, also after an error.
    """
    import torch

    with kept_as_it_is(model), full_float32():
        model.eval()
        with torch.inference_mode():
            yield


@contextmanager
def modes_kept(model: torch.nn.Module) -> Iterator[None]:
    """Every submodule's own mode comes back, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def kept_as_it_is(model: torch.nn.Module) -> Iterator[None]:
    """Whatever is done to a model's modes, and whatever it does to its buffers when called, is undone afterwards."""
    import torch

    held = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        with modes_kept(model):
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, copy in held:
                if getattr(module, name, None) is not buffer:
                    setattr(module, name, buffer)
                if not torch.equal(buffer, copy):
                    buffer.copy_(copy)


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products and convolutions of float32 numbers in float32: no TF32, no bfloat16 inside; restored afterwards.

    torch computes convolutions in TF32 on a GPU unless told otherwise. It then rounds to 11 bits, which no margin of near
    ties allows for.
    """
    import torch

    newer = _newer_settings()
    with ExitStack() as undo:
        undo.callback(_put_back, newer)
        # The older settings first, where they can be read: code that reads them inside finds them in order.
        with contextlib.suppress(RuntimeError):
            precision = torch.get_float32_matmul_precision()
            if precision != "highest":
                undo.callback(torch.set_float32_matmul_precision, precision)
                torch.set_float32_matmul_precision("highest")
        owners: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
        for owner in owners:
            with contextlib.suppress(RuntimeError):
                if owner.allow_tf32:
                    undo.callback(setattr, owner, "allow_tf32", True)
                    owner.allow_tf32 = False
        _put_back([(owner, "ieee") for owner, _ in newer if owner.fp32_precision not in _EXACT])
        yield


def _newer_settings() -> list[tuple[Any, str]]:
    """The settings that torch has for each backend and operation since 2.9, and what they are."""
    import torch

    backends = (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn)
    owners = [
        getattr(backend, name, None) for backend in backends for name in ("matmul", "conv", "rnn")
    ]
    found = [(owner, getattr(owner, "fp32_precision", None)) for owner in owners]
    return [(owner, value) for owner, value in found if isinstance(value, str)]


def _put_back(settings: list[tuple[Any, str]]) -> None:
    for owner, value in settings:
        if owner.fp32_precision != value:
            owner.fp32_precision = value
