# SPDX-License-Identifier: MIT
"""Every example in a public docstring and every Python block of the README and of docs/ runs."""

from __future__ import annotations

import doctest
import enum
import importlib
import pkgutil
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch

import certcal_ext

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(certcal_ext.__path__, "certcal_ext.")
    if not module.name.endswith(("__main__", "._core"))
)
PAGES = ("README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))


def python_blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


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


def model_libraries() -> dict[str, ModuleType]:
    """Stand-ins for timm and torchvision, with what the pages use of them; no test loads pretrained weights."""

    class Recipe(NamedTuple):
        mean: tuple[float, ...] = (0.485, 0.456, 0.406)
        std: tuple[float, ...] = (0.229, 0.224, 0.225)

    class Network(torch.nn.Module):
        pretrained_cfg: ClassVar = Recipe()._asdict()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scores = torch.linspace(-1, 1, 1000)
            return images.mean((1, 2, 3))[:, None] * scores

    class Weights(enum.Enum):
        DEFAULT = enum.auto()

        def transforms(self) -> Recipe:
            return Recipe()

    def resnet50(weights: Weights | None = None) -> Network:
        return Network()

    def create_model(name: str, pretrained: bool = False) -> Network:
        return Network()

    found = {name: ModuleType(name) for name in ("timm", "torchvision")}
    vars(found["timm"])["create_model"] = create_model
    models = SimpleNamespace(resnet50=resnet50, ResNet50_Weights=Weights)
    vars(found["torchvision"])["models"] = models
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)])
def test_pages(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Blocks run one after the other, as a reader would, in a folder with a file of votes.

    ``model``, ``images``, ``labels`` and ``smooth`` are the reader's own.
    """
    monkeypatch.chdir(tmp_path)
    for library, stand_in in model_libraries().items():
        if f"import {library}\n" in "".join(python_blocks(page)):
            monkeypatch.setitem(sys.modules, library, stand_in)
    random = np.random.default_rng(0)
    counts = np.stack([random.multinomial(2000, p) for p in random.dirichlet([0.3] * 4, 300)])
    labels = np.where(random.random(300) < 0.85, counts.argmax(1), random.integers(0, 4, 300))
    np.savez("counts.npz", counts=counts, label=labels, sigma=0.25)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    names: dict[str, object] = {
        "model": model,
        "images": torch.rand(20, 1, 8, 8),
        "labels": torch.randint(4, (20,)),
        "smooth": certcal_ext.SmoothedClassifier(model, num_classes=4, sigma=0.25),
    }
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a random model abstains on most images, and says so
        for block in python_blocks(page):
            if ">>>" in block:
                test = doctest.DocTestParser().get_doctest(block, names, page, page, 0)
                assert runner.run(test, clear_globs=False).failed == 0
                names = test.globs
            else:
                exec(compile(block, page, "exec"), names)
