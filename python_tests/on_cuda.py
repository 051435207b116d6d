# SPDX-License-Identifier: MIT
"""What the tests on a CUDA device share: whether there is one, copies, and streams on which data appears late."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from certcal_ext import _core

Array = NDArray[Any]

core: Any = _core  # arrays and tensors are handed over in lists
cuda: Any = torch.cuda


def why_no_device() -> str | None:
    status = _core.cuda_status()
    if not status["compiled"]:
        return "this build of certcal_ext has no CUDA"
    if not status["devices"]:
        return f"no CUDA device: {status['error']}"
    if not cuda.is_available():
        return "this build of torch has no CUDA, or finds no device"
    return None


NO_DEVICE = why_no_device()
ON_DEVICE = [
    pytest.mark.cuda,
    pytest.mark.skipif(NO_DEVICE is not None, reason=str(NO_DEVICE)),
]


def on_device(array: Array) -> Any:
    return torch.from_numpy(array.copy()).cuda()


def on_host(tensor: Any) -> Array:
    result: Array = tensor.cpu().numpy()
    return result


class Launches:
    """Gives copies of arrays on the device, and the handle of the stream on which they appear late.

    Each copy holds zeros until a slow kernel on the stream is done, so that a launch which went to
    another stream would read zeros. The end of the block waits for the stream.
    """

    def __init__(self, stream: Any, *arrays: Array) -> None:
        self.stream = stream
        self.arrays = arrays

    def __enter__(self) -> tuple[int, list[Any]]:
        sources = [on_device(array) for array in self.arrays]
        tensors = [torch.zeros_like(source) for source in sources]
        cuda.synchronize()
        self.context = cuda.stream(self.stream)
        self.context.__enter__()
        cuda._sleep(2_000_000)  # cycles: about a millisecond
        for tensor, source in zip(tensors, sources, strict=True):
            tensor.copy_(source)
        return int(self.stream.cuda_stream), tensors

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        self.stream.synchronize()
