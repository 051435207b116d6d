# SPDX-License-Identifier: MIT
"""Every example in a public docstring and every Python block of the README runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import pytest

import certcal_ext

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(certcal_ext.__path__, "certcal_ext.")
    if not module.name.endswith(("__main__", "._core"))
)
PAGES = ("README.md",)


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{page}:{position}", block)
        for page in PAGES
        for position, block in enumerate(
            re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
        )
    ]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning")
def test_docstring_examples(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    found = [
        test.name
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert len(found) > 10, found


@pytest.mark.parametrize(("where", "block"), python_blocks(), ids=lambda value: str(value)[:12])
def test_readme_blocks(
    where: str, block: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a random model abstains on most images, and says so
        exec(compile(block, where, "exec"), {})
