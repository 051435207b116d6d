# SPDX-License-Identifier: MIT
"""What is installed: complete, from where it was installed, and with a compiled module that any x86-64 Linux can load.

tools/check_wheel.sh runs this file, among others, in an environment that has nothing of the source tree; it says where that
environment is in CERTCAL_INSTALLED. The other tests here hold for every installation.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import certcal_ext
from certcal_ext import _core

LIBRARIES = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2"}
#: What extras bring; a module that needs one of them may say so.
EXTRAS = {"torch", "highspy", "typer", "rich", "matplotlib", "jinja2", "torchmetrics"}

needs_readelf = pytest.mark.skipif(
    shutil.which("readelf") is None, reason="needs readelf (binutils)"
)
on_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="is about x86-64")


def asks_for_extras_only(load: Callable[..., object], *arguments: object) -> None:
    try:
        load(*arguments)
    except (ImportError, SystemExit) as error:  # the command line ends with the words
        if not any(extra in str(error) for extra in EXTRAS):
            raise


def test_it_comes_from_the_environment_it_was_installed_into() -> None:
    installed = os.environ.get("CERTCAL_INSTALLED")
    if installed is None:
        pytest.skip("only tools/check_wheel.sh makes an environment for this")
    for module in (certcal_ext, _core):
        assert module.__file__ is not None
        assert Path(module.__file__).is_relative_to(installed)
    assert Path(sys.prefix) == Path(installed)


def test_every_module_is_there_and_asks_for_nothing_but_extras() -> None:
    folder = Path(certcal_ext.__file__ or "").parent
    files = [file.relative_to(folder).with_suffix("") for file in folder.rglob("*.py")]
    names = {".".join(["certcal_ext", *file.parts]).removesuffix(".__init__") for file in files}
    assert "certcal_ext.certificates.certificates" in names
    for name in sorted(names - {"certcal_ext.__main__"}):
        asks_for_extras_only(importlib.import_module, name)


def test_every_public_name_is_there() -> None:
    for name in certcal_ext.__all__:
        asks_for_extras_only(getattr, certcal_ext, name)


def test_files_beside_the_modules_are_installed() -> None:
    folder = Path(certcal_ext.__file__ or "").parent
    for name in ("py.typed", "_core.pyi", "demo/digits.npz", "demo/DIGITS_LICENSE.md"):
        assert (folder / name).is_file(), name
    for name in ("template.html", "attack_template.html", "style.css"):
        assert (folder / "report" / name).is_file(), name


def test_the_metadata_say_what_is_needed() -> None:
    about = metadata.metadata("certcal_ext")
    assert about["Version"] == certcal_ext.__version__ == _core.__version__
    required = [line for line in metadata.requires("certcal_ext") or [] if "extra ==" not in line]
    assert {re.split(r"[<>=!~ ]", line)[0] for line in required} == {"numpy", "scipy", "pyarrow"}
    assert about["Requires-Python"] == ">=3.10"
    files = {str(file) for file in metadata.files("certcal_ext") or []}
    assert any(re.search(r"dist-info/.*LICENSE$", name) for name in files), sorted(files)[:20]


@needs_readelf
@on_x86
def test_it_links_to_the_compiler_s_run_time_and_glibc_only() -> None:
    dynamic = subprocess.run(
        ["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", dynamic))
    assert needed <= LIBRARIES, needed
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
