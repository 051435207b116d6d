# SPDX-License-Identifier: MIT
"""The compiled module: what it links, when it is loaded, and whether its stub says the truth."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import certcal_ext
from certcal_ext import _core

STUB = Path(certcal_ext.__file__).with_name("_core.pyi")


def stub_functions() -> dict[str, list[str]]:
    tree = ast.parse(STUB.read_text())
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def built_functions() -> dict[str, list[str]]:
    """Argument names as pybind11 prints them in the first line of the docstring."""
    functions = {}
    for name, value in inspect.getmembers(_core, inspect.isbuiltin):
        signature = value.__doc__.splitlines()[0]
        functions[name] = re.findall(r"(\w+): ", signature[: signature.index(") ->")])
    return functions


def test_the_stub_names_the_functions_and_arguments_of_the_build() -> None:
    assert stub_functions() == built_functions()


def test_the_package_and_the_module_have_one_version() -> None:
    assert certcal_ext.__version__ == _core.__version__ == _core.build_info()["version"]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = [
        "torch",
        "torchvision",
        "timm",
        "torchmetrics",
        "matplotlib",
        "jinja2",
        "typer",
        "rich",
        "highspy",
        "pandas",
    ]
    code = (
        "import sys, certcal_ext, certcal_ext.certificates.certificates, certcal_ext.smoothing.classifier, certcal_ext.cli\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    loaded = run_python(code)
    assert loaded.returncode == 0, loaded.stderr
    names = set(ast.literal_eval(loaded.stdout))
    assert names <= {"typer", "rich"}, names  # the command line itself is made of these two


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf (binutils)")
def test_the_module_links_neither_torch_nor_a_cuda_library() -> None:
    dynamic = subprocess.run(
        ["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = re.findall(r"NEEDED.*\[(.*?)\]", dynamic)
    assert needed
    assert not [name for name in needed if re.search("torch|c10|cuda|python", name)], needed


def test_a_broken_module_gives_the_rebuild_command(tmp_path: Path) -> None:
    package = tmp_path / "certcal_ext"
    source = Path(certcal_ext.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (package / "_core.py").write_text("raise ImportError('undefined symbol: x')\n")
    code = (
        f"import sys; sys.meta_path = [f for f in sys.meta_path if 'scikit' not in repr(type(f)).lower()]\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import certcal_ext\n"
        f"assert certcal_ext.__file__.startswith({str(tmp_path)!r}), certcal_ext.__file__\n"
        "certcal_ext.add_noise"
    )
    failed = run_python(code)
    assert failed.returncode == 1
    assert "ImportError" in failed.stderr
    assert "undefined symbol: x" in failed.stderr
    assert "pip install --force-reinstall" in failed.stderr


def test_cuda_status_answers_without_a_driver() -> None:
    status = _core.cuda_status()
    assert set(status) == {"compiled", "driver", "error", "devices"}
    assert status["compiled"] == _core.build_info()["cuda"]


class TestArguments:
    """The bindings' own checks, which the public functions rely on for memory safety."""

    def test_wrong_dtype(self) -> None:
        with pytest.raises(TypeError, match="lower: expected float64 values, got float32"):
            _core.shift_interval(
                np.zeros(3, "f8"), np.zeros(3, "f8"), 0.5, np.zeros(3, "f4"), np.zeros(3, "f8")
            )

    def test_wrong_shape(self) -> None:
        with pytest.raises(ValueError, match=r"upper: expected shape \(3,\), got \(4,\)"):
            _core.shift_interval(np.zeros(3), np.zeros(3), 0.5, np.zeros(3), np.zeros(4))

    def test_not_contiguous(self) -> None:
        with pytest.raises(ValueError, match="probit_lower: expected a contiguous array"):
            _core.shift_interval(np.zeros(6)[::2], np.zeros(3), 0.5, np.zeros(3), np.zeros(3))

    def test_read_only_output(self) -> None:
        out = np.zeros(3)
        out.flags.writeable = False
        with pytest.raises(ValueError, match="lower: expected a writable array"):
            _core.shift_interval(np.zeros(3), np.zeros(3), 0.5, out, np.zeros(3))

    def test_big_endian(self) -> None:
        with pytest.raises(TypeError, match="native byte order"):
            _core.shift_interval(np.zeros(3, ">f8"), np.zeros(3), 0.5, np.zeros(3), np.zeros(3))

    def test_not_an_array(self) -> None:
        with pytest.raises(TypeError, match="probit_lower: expected a NumPy array or a tensor"):
            _core.shift_interval([0.0], np.zeros(1), 0.5, np.zeros(1), np.zeros(1))

    @pytest.mark.parametrize(
        "edges", [[0.0, 0.5, 0.5, 1.0], [0.1, 1.0], [0.0, 0.9], [0.0, float("nan"), 1.0]]
    )
    def test_edges(self, edges: list[float]) -> None:
        bins = len(edges) - 1
        with pytest.raises(
            ValueError, match="edges: expected values strictly increasing from 0 to 1"
        ):
            _core.ece_solve(
                np.zeros((2, bins, bins, 5), "i8"), np.array(edges), np.zeros(bins, "i1")
            )

    @pytest.mark.parametrize("confidence", [float("nan"), -0.1, 1.1])
    def test_confidences_out_of_range(self, confidence: float) -> None:
        one = np.ones(1)
        with pytest.raises(ValueError, match=r"confidence: expected values in \[0, 1\]"):
            _core.certify(
                np.array([0]), np.ones(1, "u1"), np.array([confidence]), one, one, np.zeros(1),
                np.array([0.0, 1.0]), False, np.zeros((1, 2, 1, 1, 5), "i8"), np.zeros((1, 1, 4), "i8"),
                np.zeros((1, 4), "i8"),
            )  # fmt: skip

    def test_groups_out_of_range(self) -> None:
        one = np.ones(1)
        with pytest.raises(ValueError, match=r"group: expected values in \[0, 1\), got 1 at row 0"):
            _core.certify(
                np.array([1]), np.ones(1, "u1"), one, one, one, np.zeros(1), np.array([0.0, 1.0]), False,
                np.zeros((1, 2, 1, 1, 5), "i8"), np.zeros((1, 1, 4), "i8"), np.zeros((1, 4), "i8"),
            )  # fmt: skip
