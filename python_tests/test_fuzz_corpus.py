# SPDX-License-Identifier: MIT
"""What the fuzzer found, and inputs that reach much of the readers' code, replayed without a fuzzer.

``fuzz_corpus/<target>/`` holds the inputs; ``make fuzz`` looks for new ones. Besides them, every seed is cut and changed at
places that are the same in each run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fuzz_targets import BENCH, TARGETS, Finding, Target, run

CORPUS = Path(__file__).resolve().parent / "fuzz_corpus"
TORCH = {"torch", "torch_file", "weights", "checkpoint", "attack", "plan"}


def target_of(name: str) -> Target:
    if name in TORCH:
        pytest.importorskip("torch")
    if name == "config":
        pytest.importorskip("typer")
        pytest.importorskip("tomllib")
    if name == "plan" and not BENCH.is_dir():
        pytest.skip("the plans' reader is in bench/, which is not installed")
    if name == "plan":
        pytest.importorskip("tomllib")
    return TARGETS[name]


def changed(seed: bytes, random: np.random.Generator) -> bytes:
    """The seed with a few bytes replaced, a piece taken out, or a piece doubled."""
    data = bytearray(seed)
    for _ in range(int(random.integers(1, 4))):
        first, last = sorted(random.integers(0, len(data) + 1, 2))
        last = min(last, first + 12)
        how = random.integers(3)
        if how == 0:
            data[first:last] = random.bytes(last - first)
        elif how == 1:
            del data[first:last]
        else:
            data[first:first] = data[first:last]
        data = data or bytearray(b"\0")
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    target = target_of(name)
    files = sorted((CORPUS / name).iterdir())
    assert files, f"no inputs for {name}"
    for file in files:
        try:
            run(target, file.read_bytes(), tmp_path)
        except Finding as finding:
            pytest.fail(f"{file.name}: {finding}")


@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds_are_read_or_refused(name: str, tmp_path: Path) -> None:
    target = target_of(name)
    random = np.random.default_rng(list(name.encode()))
    answers = set()
    for seed in target.seeds():
        for _ in range(40):
            data = changed(seed, random)
            try:
                answers.add(run(target, data, tmp_path) == "read")
            except Finding as finding:
                pytest.fail(f"{data!r}: {finding}")
    assert False in answers  # some of them are refused


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_is_read(name: str, tmp_path: Path) -> None:
    target = target_of(name)
    assert "read" in {run(target, seed, tmp_path) for seed in target.seeds()}


def test_what_none_may_raise_is_a_finding(tmp_path: Path) -> None:
    def breaks(path: Path) -> None:
        {}["key"]

    def says_nothing(path: Path) -> None:
        raise ValueError("bad input")

    def refuses(path: Path) -> None:
        raise ValueError(f"{path}: bad input")

    with pytest.raises(Finding, match="KeyError"):
        run(Target(".x", breaks, list), b"", tmp_path)
    with pytest.raises(Finding, match="does not name the file"):
        run(Target(".x", says_nothing, list), b"", tmp_path)
    assert run(Target(".x", refuses, list), b"", tmp_path).endswith("bad input")
    assert run(Target(".x", lambda path: None, list), b"", tmp_path) == "read"
