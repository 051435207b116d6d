# SPDX-License-Identifier: MIT
"""NumPy arrays and torch tensors behind one small face, so that the operations below serve both.

torch is never imported here: where a tensor comes in, it is already loaded.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from certcal_ext import _check


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(value: Any) -> str:
    """``"float32"`` for both ``numpy.float32`` and ``torch.float32``."""
    return str(value.dtype).removeprefix("torch.")


def prepared(name: str, value: Any, dtypes: tuple[str, ...]) -> Any:
    """``value`` as a contiguous array or tensor (without gradient) of one of ``dtypes``, where it lies.

    Raises:
        TypeError: not an array, or of another dtype.
        ValueError: a tensor on a device that is neither CPU nor CUDA.
    """
    if is_tensor(value):
        if value.device.type not in ("cpu", "cuda"):
            raise ValueError(f"{name}: expected a tensor on cpu or cuda, got one on {value.device}")
        array = value.detach()
    else:
        array = _check.array(name, value)
    if dtype_name(array) not in dtypes:
        raise TypeError(f"{name}: expected dtype {' or '.join(dtypes)}, got {dtype_name(array)}")
    return array.contiguous() if is_tensor(array) else np.ascontiguousarray(array)


def zeros_like_place(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Zeros of ``shape`` and ``dtype``, of the kind of ``like`` and on its device."""
    if is_tensor(like):
        torch = sys.modules["torch"]
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=like.device)
    return np.zeros(shape, dtype=dtype)


def empty_like_place(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """As :func:`zeros_like_place`, with whatever the memory holds."""
    if is_tensor(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    return np.empty(shape, dtype=dtype)


def int64_vector_at(name: str, value: Any, size: int, like: Any) -> Any:
    """``value`` as a contiguous int64 vector of ``size`` entries where ``like`` lies.

    Raises:
        TypeError: not whole numbers.
        ValueError: of another shape.
    """
    array = _check.array(name, value)
    if array.size:
        _check.require_kind(name, array, "iu", "whole numbers")
    if array.shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},), got {array.shape}")
    array = np.ascontiguousarray(array, dtype=np.int64)
    if is_tensor(like):
        return sys.modules["torch"].as_tensor(array).to(like.device)
    return array


def handed_over(value: Any) -> Any:
    """``value`` as the compiled module takes it fastest: a CPU tensor as the NumPy array on the same memory."""
    # NumPy has no bfloat16; such a tensor goes over as it is.
    if is_tensor(value) and value.device.type == "cpu" and dtype_name(value) != "bfloat16":
        return value.numpy()
    return value


def handed_back(value: Any, like: Any) -> Any:
    """``value``, computed on what :func:`handed_over` made of ``like``, as a tensor where ``like`` is one."""
    if is_tensor(like) and not is_tensor(value):
        return sys.modules["torch"].from_numpy(value)
    return value


def current_stream(value: Any) -> int:
    """The handle of the caller's current CUDA stream on the tensor's device; 0 on the CPU."""
    if is_tensor(value) and value.device.type == "cuda":
        return int(sys.modules["torch"].cuda.current_stream(value.device).cuda_stream)
    return 0
