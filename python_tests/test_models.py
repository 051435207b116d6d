# SPDX-License-Identifier: MIT
"""Loading a user's model and weights."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from certcal_ext.models import load_model  # noqa: E402
from certcal_ext.weights import fitting_state  # noqa: E402

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


def wrapped(names: list[str], how: str) -> list[str]:
    """Names as training tools write them."""
    prefix, middle = {
        "dp": ("module.", ""),
        "dp twice": ("module.module.", ""),
        "compiled": ("_orig_mod.", ""),
        "ddp compiled": ("module._orig_mod.", ""),
        "lightning": ("model.", ""),
        "deep": ("net.model.encoder.", ""),
        "inside": ("", "module."),
        "lightning of compiled inside": ("model.", "_orig_mod."),
    }[how]
    return [prefix + name.replace(".", f".{middle}", 1) for name in names]


@pytest.mark.parametrize(
    "how",
    ["dp", "dp twice", "compiled", "ddp compiled", "lightning", "deep", "inside",
     "lightning of compiled inside"],
)  # fmt: skip
@pytest.mark.parametrize("nest", [None, "net", "weights", "params", "model_ema", "a/b"])
@pytest.mark.parametrize("own_wrapper", [False, True])
def test_weights_of_training_tools(how: str, nest: str | None, own_wrapper: bool) -> None:
    body = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)
    )
    model = torch.nn.Sequential(torch.nn.Identity(), body) if own_wrapper else body
    state = {name: torch.rand_like(v) if v.ndim else v for name, v in body.state_dict().items()}
    held: object = dict(zip(wrapped(list(state), how), state.values(), strict=True))
    for name in reversed(nest.split("/") if nest else []):
        held = {name: held, "epoch": 3, "acc": 0.5, "optimizer": {"state": {}, "lr": [0.1]}}
    model.load_state_dict(fitting_state(model, held, Path("w.pt")))
    for name, value in body.state_dict().items():
        assert torch.equal(value, state[name])


def test_counters_are_left_out_and_named() -> None:
    model = torch.nn.Linear(4, 3)
    state = {**model.state_dict(), "total_ops": torch.zeros(1), "a.total_params": torch.zeros(1)}
    with pytest.warns(UserWarning, match="left out a.total_params, total_ops, counters"):
        assert fitting_state(model, state, Path("w.pt")).keys() == {"weight", "bias"}
    with pytest.raises(ValueError, match="not in the model: temperature"):
        fitting_state(model, {**model.state_dict(), "temperature": torch.zeros(1)}, Path("w.pt"))


def test_the_weights_themselves_come_before_their_average() -> None:
    model = torch.nn.Linear(4, 3)
    own, average = (
        {k: torch.full_like(v, x) for k, v in model.state_dict().items()} for x in (1, 2)
    )
    with pytest.warns(UserWarning, match=r"took state_dict; state_dict_ema would fit too"):
        fit = fitting_state(model, {"state_dict_ema": average, "state_dict": own}, Path("w.pt"))
    assert torch.equal(fit["weight"], own["weight"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><p>Virus scan warning", "seems to be a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "pointer of git-lfs"),
        (argparse.Namespace(lr=0.1), r"it holds argparse\.Namespace, .* torch\.save\("),
        (np.float64(0.5), r"it holds numpy\..*scalar, .* torch\.save\("),
    ],
)
def test_what_is_no_file_of_tensors(folder: Path, content: object, words: str) -> None:
    if isinstance(content, bytes):
        (folder / "w.pt").write_bytes(content)
    else:
        torch.save(
            {"state_dict": torch.nn.Linear(4, 3).state_dict(), "args": content}, folder / "w.pt"
        )
    with pytest.raises(ValueError, match=words):
        load_model("user_nets:build", folder / "w.pt")


@dataclasses.dataclass
class Output:
    logits: object
    loss: object = None


Pair = collections.namedtuple("Pair", "logits aux")


@pytest.mark.parametrize(
    "outer",
    [
        lambda y: (y, y.sum(1)),
        lambda y: [y],
        lambda y: {"loss": None, "logits": y},
        lambda y: Output(y),
        lambda y: Pair(y, y + 1),
    ],
)
def test_logits_are_taken_where_it_is_clear(
    folder: Path, monkeypatch: pytest.MonkeyPatch, outer: Callable[[Any], Any]
) -> None:
    inner, x = torch.nn.Linear(4, 3), torch.rand(5, 4)
    monkeypatch.setattr(
        torch.nn.Linear, "extra", staticmethod(lambda: Outer(inner, outer)), raising=False
    )
    model = load_model("torch.nn:Linear.extra")
    with pytest.warns(UserWarning, match="model: gives .*; .* is taken for the logits"):
        assert torch.equal(model(x), inner(x))
    assert torch.equal(model(x), inner(x))  # said once


@pytest.mark.parametrize(
    ("outer", "words"),
    [
        (lambda y: {"out": y}, r"got dict \(out: \(5, 3\)\)"),
        (lambda y: (torch.zeros(5, 7), y), r"got tuple \(0: \(5, 7\), 1: \(5, 3\)\)"),
        (lambda y: None, "got NoneType"),
        (lambda y: Output(None), "got Output"),
    ],
)
def test_logits_without_a_clear_place(
    monkeypatch: pytest.MonkeyPatch, outer: Callable[[Any], Any], words: str
) -> None:
    inner = torch.nn.Linear(4, 3)
    monkeypatch.setattr(
        torch.nn.Linear, "extra", staticmethod(lambda: Outer(inner, outer)), raising=False
    )
    with pytest.raises(TypeError, match=words):
        load_model("torch.nn:Linear.extra")(torch.rand(5, 4))


class Outer(torch.nn.Module):
    """What a function makes of another model's logits."""

    def __init__(self, inner: Any, outer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.inner, self.outer = inner, outer

    def forward(self, x: Any) -> Any:
        return self.outer(self.inner(x))


def test_unreadable_weights(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_model("user_nets:build", folder / "w.pt")
    (folder / "w.pt").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(ValueError, match=r"w\.pt"):
        load_model("user_nets:build", folder / "w.pt")
