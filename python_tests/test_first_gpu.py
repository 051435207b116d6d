# SPDX-License-Identifier: MIT
"""What would go wrong on the first GPU, as far as a machine without one can show it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OPTIONAL

from certcal_ext import SmoothedClassifier
from certcal_ext.distributed import process_group
from certcal_ext.model_state import class_name, is_out_of_memory, model_fingerprint
from certcal_ext.smoothing.sampling import Sampler

TESTS = Path(__file__).resolve().parent

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_a_missing_extra_skips_its_tests_and_does_not_stop_the_run(tmp_path: Path) -> None:
    """All tests marked cuda are collected where nothing optional is installed; why others are not is said."""
    (tmp_path / "sitecustomize.py").write_text(ABSENT.format(names=set(OPTIONAL)))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    mark = "ON_" + "DEVICE"  # by which gpu_check.sh finds them too
    on_gpu = [file for file in TESTS.rglob("test_*.py") if mark in file.read_text()]
    assert len(on_gpu) >= 4
    lacking = {"cli/test_bound.py": "typer"}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--collect-only", "-m", "cuda"]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:benchmark"]
        + [str(file) for file in (*on_gpu, *(TESTS / name for name in lacking))],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert all(f"{file.name}::" in run.stdout for file in on_gpu)
    for module in lacking.values():
        assert f"{module} is not installed" in run.stdout


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    MemoryError("std::bad_alloc"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
    RuntimeError("CUDA error: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES when calling `f`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
]
OTHERS = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    ValueError("out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_memory_that_ran_out_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


class Hungry(torch.nn.Module):
    """Has no memory for more than 10 images."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 10:
            raise self.error
        return x.flatten(1)[:, :3] * 4


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_every_kind_of_it_halves_the_batch(error: Exception) -> None:
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(Hungry(error).eval(), 3, 0.25, 0, 64)
    with torch.inference_mode(), pytest.warns(UserWarning, match="out of memory with"):
        found = sampler.gather(images, np.arange(3), 0, 40)
    assert found.votes.sum(axis=1).tolist() == [40, 40, 40]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(16, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.last = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(torch.relu(self.norm(self.first(x.flatten(1)))))
        return result


def wrapped(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def in_part(model: Any) -> Any:
    model.first = torch.compile(model.first, backend="eager")
    return model


def in_part_and_whole(model: Any) -> Any:
    return wrapped(in_part(model))


@pytest.mark.parametrize("compiled", [wrapped, in_place, in_part, in_part_and_whole])
def test_a_compiled_model_is_the_same_model(compiled: Any) -> None:
    """Its fingerprint, its name in the table, and its votes are those of the model that was compiled."""
    torch.manual_seed(0)
    plain, other = Net(), Net()
    other.load_state_dict(plain.state_dict())
    images = torch.rand(4, 1, 4, 4)
    expected = SmoothedClassifier(plain, 3, 0.25).certify(images, n0=10, n=40, batch_size=16)
    fingerprint = model_fingerprint(plain)
    model = compiled(other)
    assert model_fingerprint(model) == fingerprint
    assert class_name(model) == "Net"
    found = SmoothedClassifier(model, 3, 0.25).certify(images, n0=10, n=40, batch_size=16)
    assert found.provenance == expected.provenance
    assert found.table.equals(expected.table)


def test_one_process_computes_on_the_gpu_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The named GPU is current inside, and the former one afterwards, also after an error."""
    current = [0]

    @contextmanager
    def device(asked: Any) -> Iterator[None]:
        before, current[0] = current[0], torch.device(asked).index
        try:
            yield
        finally:
            current[0] = before

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group(torch.device("cuda", 1)):
        assert current == [1]
    assert current == [0]
    seen: list[int] = []

    def fails() -> None:
        with process_group(torch.device("cuda", 2)):
            seen.extend(current)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert (seen, current) == ([2], [0])
    with process_group(torch.device("cpu")):
        assert current == [0]


def test_the_command_line_makes_its_gpu_current(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer", reason="the command line needs typer")
    from certcal_ext.cli._preflight import to_device

    chosen: list[torch.device] = []
    network = Net()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(network, "to", lambda device: network)
    assert to_device(network, "cuda:1") == (network, torch.device("cuda", 1))
    assert chosen == [torch.device("cuda", 1)]
    to_device(network, "cpu")
    assert len(chosen) == 1
