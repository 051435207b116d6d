# SPDX-License-Identifier: MIT
"""The bindings of a build with CUDA, on a stand-in for CUDA's run time: devices, errors, streams and captures.

``make test-cpp`` builds the module; its devices are memory of the host that a fake exporter hands out as torch does, which
is only while that device is current.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from certcal_ext import _core

BUILT = Path(__file__).resolve().parents[1] / "build" / "cpp" / "csrc" / "tests"

OUT_OF_MEMORY, ILLEGAL_ADDRESS, INVALID_CONFIGURATION = 2, 700, 9
OF_RUNNING_KERNELS = (214, 700, 702, 710, 714, 715, 716, 717, 718, 719)


def load() -> Any:
    found = sorted(BUILT.glob("certcal_cuda_on_host*.so"))
    if not found:
        pytest.skip("the module is not built: make test-cpp", allow_module_level=True)
    spec = importlib.util.spec_from_file_location("certcal_cuda_on_host", found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cuda: Any = load()
core: Any = _core


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    cuda.set_device(0)
    yield
    assert cuda.device() == 0, "the caller's device was not put back"
    assert cuda.last_error() == 0, "an error was left for whoever asks next"


class Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class Managed(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
CODES = {"i": 0, "u": 1, "f": 2}


class OnDevice:
    """An array that says it lies on a device, and refuses to be looked at while another one is current."""

    def __init__(self, array: NDArray[Any], index: int = 0) -> None:
        self.array, self.index = np.ascontiguousarray(array), index
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        dtype = DataType(CODES[array.dtype.kind], 8 * array.itemsize, 1)
        where = self.array.ctypes.data
        self.managed = Managed(
            where, Device(2, index), array.ndim, dtype, self.shape, None, 0, None, None
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.index

    def __dlpack__(self, stream: int | None = None) -> Any:
        if cuda.device() != self.index:
            raise BufferError(
                f"the tensor is on cuda:{self.index}, cuda:{cuda.device()} is current"
            )
        assert stream == -1  # nobody waits
        return new_capsule(ctypes.addressof(self.managed), b"dltensor", None)


class Pass:
    """Noise and votes of two samples, on a device and on the CPU."""

    def __init__(self, index: int = 0, draws: int = 6) -> None:
        rng = np.random.default_rng(3)
        self.images = rng.random((2, 24), np.float32)
        self.ids = np.array([4, 2**40], np.int64)
        self.noisy = np.zeros((2, draws, 24), np.float32)
        self.counts = np.zeros((2, 24), np.int64)
        self.ties = np.zeros((2, draws), np.uint8)
        self.margins = np.full(2, 0.05)
        self.faults = np.zeros(2, np.int64)
        self.offset = np.zeros(1, np.int64)
        self.index = index

    def there(self, name: str) -> OnDevice:
        return OnDevice(getattr(self, name), self.index)

    def noise(self, stream: int = 0, first: int = 3) -> None:
        cuda.add_noise(
            self.there("images"), self.there("noisy"), 0.5, 9, self.there("ids"), first,
            stream=stream, draw_offset=self.there("offset"),
        )  # fmt: skip

    def votes(self, stream: int = 0) -> None:
        names = ("noisy", "counts", "ties", "margins", "faults")
        cuda.count_votes(*(self.there(name) for name in names), stream=stream)

    def expected(self, first: int = 3) -> Pass:
        other = Pass(draws=self.noisy.shape[1])
        core.add_noise(other.images, other.noisy, 0.5, 9, other.ids, first)
        names = ("noisy", "counts", "ties", "margins", "faults")
        core.count_votes(*(getattr(other, name) for name in names))
        return other

    def check(self, first: int = 3) -> None:
        expected = self.expected(first)
        for name in ("noisy", "counts", "ties", "faults"):
            np.testing.assert_array_equal(getattr(self, name), getattr(expected, name))


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("current", [0, 1])
def test_tensors_may_lie_on_a_device_that_is_not_current(index: int, current: int) -> None:
    done = Pass(index)
    cuda.set_device(current)
    done.noise()
    done.votes()
    assert cuda.device() == current
    cuda.set_device(0)
    done.check()


def test_tensors_on_different_devices_are_refused() -> None:
    here, there = Pass(0), Pass(1)
    with pytest.raises(ValueError, match="out: expected a tensor on cuda:1 like images"):
        cuda.add_noise(there.there("images"), here.there("noisy"), 0.5, 9, there.there("ids"), 0)


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="CUDA error: cuda:7: invalid device ordinal"):
        Pass(7).noise()


def test_a_launch_that_fails_is_told() -> None:
    cuda.fail_next_launch(INVALID_CONFIGURATION)
    with pytest.raises(RuntimeError, match=r"^CUDA error: some error"):
        Pass(1).noise()


def test_memory_that_ran_out_is_told_so_that_it_is_recognised() -> None:
    from certcal_ext.model_state import is_out_of_memory

    cuda.fail_next_launch(OUT_OF_MEMORY)
    with pytest.raises(RuntimeError, match="CUDA error: out of memory") as caught:
        Pass().votes()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("code", OF_RUNNING_KERNELS)
def test_errors_of_kernels_that_ran_are_not_told_as_ours(code: int) -> None:
    cuda.fail_next_launch(code)
    with pytest.raises(RuntimeError, match="CUDA error of a kernel that was launched before"):
        Pass().votes()


def test_a_kernel_may_be_launched_for_the_first_time_inside_a_capture() -> None:
    """And what it reads is what is there when it is replayed: offsets, margins, images, ids."""
    done, stream = Pass(1), cuda.new_stream()
    cuda.unload_kernels()
    cuda.begin_capture(stream)
    done.noise(stream)
    done.votes(stream)
    launches = cuda.launches()
    graph = cuda.end_capture(stream)
    assert cuda.launches() == launches
    assert not done.noisy.any()
    for first in (3, 40, 2**31):
        done.offset[0] = first - 3
        for words in (done.counts, done.ties, done.faults):
            words[:] = 0
        cuda.replay(graph, stream)
        assert cuda.launches() == launches  # the stream has not come to it
        cuda.finish(stream)
        launches += 2
        assert cuda.launches() == launches
        done.check(first)


def test_work_on_a_stream_is_done_in_its_order() -> None:
    done, stream = Pass(), cuda.new_stream()
    done.noise(stream)
    done.votes(stream)
    assert not done.counts.any()
    cuda.finish(stream)
    done.check()


def test_draws_that_there_are_not_are_nan_on_a_device() -> None:
    done = Pass()
    done.offset[0] = 2**32
    done.noise()
    assert np.isnan(done.noisy).all()
