# SPDX-License-Identifier: MIT
"""``certcal doctor``, with a good, a missing and a broken compiled module."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import certcal_ext
from certcal_ext.cli import app
from certcal_ext.cli.doctor import why_no_gpu

MISSING = "import sys; sys.modules['certcal_ext._core'] = None"
BROKEN = """import sys, types
old = sys.modules['certcal_ext._core'] = types.ModuleType('certcal_ext._core')
old.__file__ = 'old.so'"""
RUN = "from certcal_ext.cli import main; main(sys.argv[1:])"


def start(before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{before}\n{RUN}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_shows_build_and_machine() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["compiled_module"]["loaded"] is True
    assert facts["compiled_module"]["version"] == certcal_ext.__version__
    assert facts["compiled_module"]["compiler"]
    assert isinstance(facts["compiled_module"]["cuda"], bool)
    assert facts["cpu"]["threads"] >= 1
    assert "scalar" in facts["cpu"]["simd"]
    assert facts["gpu"]["used"] or facts["gpu"]["reason"]
    assert facts["libraries"]["numpy"]


def test_the_text_says_the_same() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for words in (
        "compiled module",
        "compiler",
        "simd",
        "reason",
        "torch",
        certcal_ext.__version__,
    ):
        assert words in result.stdout


@pytest.mark.parametrize("before", [MISSING, BROKEN])
def test_a_bad_compiled_module_exits_2_with_the_command_that_rebuilds_it(before: str) -> None:
    result = start(before, "doctor")
    assert result.returncode == 2
    assert "loaded" in result.stdout
    assert "pip install --force-reinstall" in " ".join(result.stdout.split())
    assert "Traceback" not in result.stderr

    result = start(before, "doctor", "--json")
    assert result.returncode == 2
    facts = json.loads(result.stdout)
    assert facts["compiled_module"]["loaded"] is False
    assert "pip install --force-reinstall" in facts["compiled_module"]["error"]
    assert facts["gpu"]["reason"] == "the compiled module does not load"
    assert result.stderr.startswith("certcal: error: ")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["bound", "--help"]])
def test_help_works_without_the_compiled_module(arguments: list[str]) -> None:
    assert start(MISSING, *arguments).returncode == 0


def test_other_commands_say_how_to_rebuild(tmp_path: object) -> None:
    result = start(MISSING, "bound", __file__, "--sigma", "1", "--n", "10")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install --force-reinstall" in result.stderr


DEVICE = {"index": 0, "name": "GPU", "capability": "9.0", "memory_bytes": 1}


@pytest.mark.parametrize(
    ("status", "torch_cuda", "torch_sees", "words"),
    [
        ({}, "13.0", True, "does not load"),
        ({"compiled": False, "driver": None, "devices": []}, None, False, "CERTCAL_CUDA=ON"),
        ({"compiled": True, "driver": None, "devices": []}, None, False, "no NVIDIA driver"),
        (
            {"compiled": True, "driver": 13000, "error": "no device", "devices": []},
            "13.0",
            False,
            "the driver shows no GPU",
        ),
        ({"compiled": True, "driver": 13000, "devices": [DEVICE]}, None, False, "for CPUs only"),
        ({"compiled": True, "driver": 12000, "devices": [DEVICE]}, "13.0", False, "too old"),
    ],
)
def test_why_no_gpu(
    status: dict[str, object], torch_cuda: str | None, torch_sees: bool, words: str
) -> None:
    assert words in (why_no_gpu(status, torch_cuda, torch_sees) or "")


def test_a_usable_gpu_needs_no_reason() -> None:
    status = {"compiled": True, "driver": 13000, "devices": [DEVICE]}
    assert why_no_gpu(status, "13.0", True) is None


def test_hidden_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    status = {"compiled": True, "driver": 13000, "error": "no device", "devices": []}
    assert "CUDA_VISIBLE_DEVICES=''" in (why_no_gpu(status, "13.0", False) or "")
