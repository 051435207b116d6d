# SPDX-License-Identifier: MIT
"""Loading a user's model and weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from certcal_ext.models import load_model  # noqa: E402

SOURCE = """
import torch

def build():
    return torch.nn.Linear(4, 3)

def broken():
    raise RuntimeError("no such layer")

def number():
    return 3

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

value = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "user_nets.py").write_text(SOURCE)
    (tmp_path / "user_broken.py").write_text("1 / 0\n")
    (tmp_path / "user_needs.py").write_text("import not_installed_at_all\n")
    monkeypatch.chdir(tmp_path)
    for name in ("user_nets", "user_broken", "user_needs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("spec", ["user_nets:build", "user_nets:Net"])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_arrive(folder: Path, spec: str, nested: str | None, prefix: str) -> None:
    state = {f"{prefix}weight": torch.rand(3, 4), f"{prefix}bias": torch.rand(3)}
    torch.save(state if nested is None else {nested: state, "epoch": 3}, folder / "w.pt")
    path = list(sys.path)
    model = load_model(spec, folder / "w.pt")
    assert torch.equal(model.weight, state[f"{prefix}weight"])
    assert not model.training
    assert sys.path == path


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("user_nets", ValueError, "expected module:factory"),
        (":build", ValueError, "expected module:factory"),
        ("user_nets:nothing", ValueError, "has nothing called 'nothing'"),
        ("user_nets:value", ValueError, "to be a function or class, got int"),
        ("user_nets:number", ValueError, "to return a torch.nn.Module, got int"),
        ("user_nets:broken", ValueError, "raised RuntimeError: no such layer"),
        ("user_absent:build", ImportError, "no module 'user_absent' in "),
        ("user_broken:build", ImportError, "raised ZeroDivisionError"),
        ("user_needs:build", ImportError, "not_installed_at_all"),
    ],
)
def test_bad_models(folder: Path, spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(spec)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"weight": torch.zeros(3, 4)}, "missing: bias; not in the model: none"),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(3), "x": torch.zeros(1)}, "model: x"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(3)}, "size mismatch"),
        ({}, "expected a state dict"),
        (torch.zeros(2), "expected a state dict .* got Tensor"),
        (Path("x"), "weights_only=True"),
    ],
)
def test_bad_weights(folder: Path, held: object, message: str) -> None:
    torch.save(held, folder / "w.pt")
    with pytest.raises(ValueError, match=message):
        load_model("user_nets:build", folder / "w.pt")


def test_unreadable_weights(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_model("user_nets:build", folder / "w.pt")
    (folder / "w.pt").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(ValueError, match=r"w\.pt"):
        load_model("user_nets:build", folder / "w.pt")
