# SPDX-License-Identifier: MIT
"""``certcal train`` from the command line: files in, a checkpoint out, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from training_runs import data
from typer.testing import CliRunner, Result

from certcal_ext.cli.train import EXAMPLES, make_objective, train
from certcal_ext.models import load_model
from certcal_ext.training import METHODS, Settings
from certcal_ext.training import train as train_directly

FACTORY = """
import os, signal
import torch
from certcal_ext.nets import SmallCnn
def build():
    return SmallCnn(1, 8, 4, width=4, hidden=16)
class Stops(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.seen = build(), 0
    def forward(self, x):
        self.seen += self.training
        if self.training and self.seen == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner(x)
class Hasty(Stops):
    def __init__(self):
        super().__init__()
        self.seen = 1
class Quiet(Stops):
    def forward(self, x):
        return self.inner(x)
def probabilities():
    return torch.nn.Sequential(build(), torch.nn.Softmax(1))
"""

app = typer.Typer(pretty_exceptions_enable=False)
app.command(epilog=EXAMPLES)(train)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    name = "factory_" + tmp_path.name.replace("-", "_")
    (tmp_path / f"{name}.py").write_text(FACTORY)
    images, labels = data()
    np.savez(tmp_path / "train.npz", images=images.numpy(), labels=labels.numpy())
    np.savez(tmp_path / "bare.npz", images=images.numpy())
    return tmp_path


def run(folder: Path, *words: str, **changes: str) -> Result:
    options = {
        "--model": f"factory_{folder.name.replace('-', '_')}:build",
        "--data": "train.npz",
        "--sigma": "0.25",
        "--method": "gaussian",
        "--out": "model.pt",
        "--epochs": "2",
        "--batch-size": "16",
        "--device": "cpu",
    } | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return CliRunner().invoke(app, [*(w for pair in options.items() for w in pair), *words])
    finally:
        torch.set_num_threads(threads)


def test_a_run_leaves_a_checkpoint_and_a_table(folder: Path) -> None:
    result = run(folder, log="log.jsonl")
    assert result.exit_code == 0, result.output
    assert "clean accuracy" in result.stdout
    assert "checkpoint: model.pt" in result.stdout
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2
    load_model(f"factory_{folder.name.replace('-', '_')}:build", folder / "model.pt")


def test_json(folder: Path) -> None:
    result = run(folder, "--json", method="cce-act", radius="0.2", window="2")
    assert result.exit_code == 0, result.output
    held = json.loads(result.stdout)
    assert held["steps"] == 8
    assert held["objective"]["radius"] == 0.2
    assert held["objective"]["window"] == 2
    assert 0 < held["share_of_seconds"]["inner"] < held["share_of_seconds"]["attack"] < 1
    assert [record["epoch"] for record in held["history"]] == [1, 2]


def test_resume_needs_the_same_command(folder: Path) -> None:
    assert run(folder).exit_code == 0
    again = run(folder)
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert run(folder, "--resume").exit_code == 0
    other = run(folder, "--resume", epochs="3")
    assert other.exit_code == 2
    assert "settings.epochs was 2 and is 3" in other.output


def test_an_interruption_leaves_a_checkpoint_to_go_on_from(folder: Path) -> None:
    model = f"factory_{folder.name.replace('-', '_')}:Stops"
    stopped = run(folder, model=model)
    assert stopped.exit_code == 130
    assert "stopped after step 2; go on from model.pt with --resume" in stopped.output
    result = run(folder, "--resume", "--json", model=model)
    assert result.exit_code == 130  # its second step, the fourth of the run
    result = run(
        folder, "--resume", "--json", model=f"factory_{folder.name.replace('-', '_')}:Quiet"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 8


def test_an_interruption_of_the_estimate(folder: Path) -> None:
    stopped = run(folder, model=f"factory_{folder.name.replace('-', '_')}:Hasty")
    assert stopped.exit_code == 130
    assert "stopped; nothing is written" in stopped.output
    assert not (folder / "model.pt").exists()


def test_fine_tuning(folder: Path) -> None:
    assert run(folder).exit_code == 0
    options: dict[str, str] = {"weights": "model.pt", "out": "tuned.pt", "method": "certificate"}
    result = run(folder, **options, radius="0.2", metric="ece", margin_weight="0.1")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "--method: expected one of gaussian, smoothadv"),
        ({"method": "smoothadv"}, "--radius: smoothadv needs it"),
        ({"radius": "0.1"}, "--radius: gaussian has no such option"),
        ({"data": "bare.npz"}, "--labels: training needs them"),
        ({"data": "none.npz"}, "none.npz: no such file"),
        ({"out": "no/folder.pt"}, "--out: there is no folder"),
        ({"sigma": "0"}, "sigma: expected a number above 0"),
        ({"optimizer": "adam"}, "optimizer: expected"),
        ({"device": "cuda:77"}, "device:"),
        ({"method": "certificate", "radius": "0.1", "metric": "ks"}, "metric: expected"),
        ({"tensorboard": "board"}, "tensorboard: not installed here"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, changes: dict[str, str], message: str, monkeypatch: Any
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = run(folder, **changes)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (folder / "model.pt").exists()


def test_probabilities_are_refused(folder: Path) -> None:
    result = run(folder, model=f"factory_{folder.name.replace('-', '_')}:probabilities")
    assert result.exit_code == 2
    assert "got rows of probabilities" in result.output


def test_every_method_has_options_on_the_command_line() -> None:
    for method in METHODS:
        options: dict[str, Any] = {} if method == "gaussian" else {"radius": 0.25}
        assert make_objective(method, **options).name == method


def test_an_estimate_comes_first(folder: Path) -> None:
    result = run(folder, "--estimate", "--json")
    assert result.exit_code == 0, result.output
    held = json.loads(result.stdout)
    assert held["steps"] == 8
    assert held["draws"] == 8 * 16 * make_objective("gaussian").draws
    assert held["seconds"] > 0
    assert "8 steps of 16 images with" in result.stderr
    assert not (folder / "model.pt").exists()
    result = run(folder)
    assert result.stderr.index("about") < result.stderr.index("training: ")


@pytest.mark.parametrize(
    ("method", "more"),
    [("gaussian", {}), ("certificate", {"radius": 0.2, "metric": "ece", "window": 2})],
)
def test_the_estimate_leaves_no_trace_in_the_run(
    folder: Path, method: str, more: dict[str, Any]
) -> None:
    result = run(folder, method=method, **{name: str(value) for name, value in more.items()})
    assert result.exit_code == 0, result.output
    factory = f"factory_{folder.name.replace('-', '_')}:build"
    torch.manual_seed(0)
    network = load_model(factory)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = Settings(sigma=0.25, epochs=2, batch_size=16)
        train_directly(network, *data(), make_objective(method, **more), settings)
    finally:
        torch.set_num_threads(threads)
    stored = load_model(factory, folder / "model.pt")
    for mine, theirs in zip(network.parameters(), stored.parameters(), strict=True):
        assert torch.equal(mine, theirs)
