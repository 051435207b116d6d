# SPDX-License-Identifier: MIT
"""The subcommands bound, report and certify: results, exit codes, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import certcal_ext
from certcal_ext import Certificates
from certcal_ext.cli import app

COUNTS = np.random.default_rng(7).multinomial(1000, [0.9, 0.07, 0.03], 40)
LABELS = np.random.default_rng(8).choice(3, 40, p=[0.8, 0.1, 0.1])
NETS = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
    def forward(self, images):
        return self.layer(images.flatten(1))

def nan():
    net = Net()
    net.layer.bias.data[:] = float("nan")
    return net

class Flat(Net):
    def forward(self, images):
        return super().forward(images).sum(1)

class Narrow(torch.nn.Linear):
    def __init__(self):
        super().__init__(5, 3)

class NoisyNan(Net):
    def forward(self, images):
        inside = ((images >= 0) & (images <= 1)).all()
        return super().forward(images) * (1.0 if inside else float("nan"))
"""


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def run_json(*arguments: object) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return loaded


def fails(*arguments: object) -> str:
    """The one line on stderr of a command that has to fail, without its prefix."""
    result = run(*arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("accuracy on ")]
    assert result.stdout == ""
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("certcal: error: ")
    return str(lines[0].removeprefix("certcal: error: "))


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    np.savez(tmp_path / "counts.npz", counts=COUNTS, label=LABELS, sigma=0.25, n=1000)
    return tmp_path / "counts.npz"


# --- help and version -----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["certify", "bound", "report", "demo", "doctor"])
def test_help_has_examples(command: str) -> None:
    words = run(command, "--help").stdout
    assert "Examples" in words
    assert f"certcal {command}" in words
    assert "--json" in words


def test_version_and_unknown_commands() -> None:
    assert run("--version").stdout == f"certcal {certcal_ext.__version__}\n"
    run("unknown", code=2)
    run("bound", code=2)


def test_python_m_and_light_imports() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "certcal_ext", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for heavy in ("torch", "matplotlib", "numpy", "pyarrow", "jinja2"):
        assert f" {heavy}\n" not in result.stderr


# --- bound ----------------------------------------------------------------------------------


def test_bound_of_counts_is_the_curve(counts: Path) -> None:
    printed = run_json("bound", counts, "--radii", "0,0.05,0.1,0.2", "--bins", "10")
    expected = Certificates.from_counts(COUNTS, LABELS, sigma=0.25).curve(
        [0, 0.05, 0.1, 0.2], bins=10
    )
    assert [row["radius"] for row in printed["radii"]] == [0, 0.05, 0.1, 0.2]
    for name in ("certified", "certified_accuracy", "ece", "certified_ece", "certified_brier"):
        np.testing.assert_array_equal(
            np.array([row[name] for row in printed["radii"]], float), getattr(expected, name)
        )
    assert printed["total"] == 40
    assert printed["provenance"]["sigma"] == 0.25


def test_bound_writes_parquet_which_gives_the_same(counts: Path, tmp_path: Path) -> None:
    first = run_json("bound", counts, "--out", tmp_path / "c.parquet", "--alpha", "0.01")
    second = run_json("bound", tmp_path / "c.parquet")
    assert first["radii"] == second["radii"]
    assert second["provenance"]["alpha"] == 0.01


def test_bound_with_edges_and_closed_side(counts: Path) -> None:
    printed = run_json("bound", counts, "--radii", "0.1", "--edges", "0,0.9,1", "--closed", "left")
    expected = Certificates.from_counts(COUNTS, LABELS, sigma=0.25).ece(
        [0.1], edges=[0, 0.9, 1], closed="left"
    )
    assert printed["radii"][0]["certified_ece"] == expected[0]
    assert printed["edges"] == [0, 0.9, 1]


def test_bound_prints_a_table(counts: Path) -> None:
    words = run("bound", counts).stdout
    for column in ("Radius", "fied", "ECE %", "Brier", "Const.", "skill"):
        assert column in words


def test_a_radius_without_samples_is_null_and_warned_about(counts: Path) -> None:
    result = run("bound", counts, "--radii", "0,9", "--json")
    last = json.loads(result.stdout)["radii"][1]
    assert last["certified"] == 0
    assert last["certified_ece"] is None
    assert "certcal: warning: no sample is certified at radius 9" in result.stderr


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_bound_reproduces_the_golden_file(shared: Path, n: int) -> None:
    golden = json.loads((shared / "golden" / "cifar10_cohen_sigma_0.25.json").read_text())
    golden = [row for row in golden if row["n"] == n]
    file = shared / "data" / "cifar10_cohen_resnet110" / f"sigma_0.25_n_{n}.npz"
    printed = run_json("bound", file, "--radii", ",".join(str(row["R"]) for row in golden))
    names = {
        "certified": "N",
        "accuracy": "acc",
        "ece": "ece",
        "certified_ece": "cce",
        "brier": "brier",
        "certified_brier": "cbs",
        "constant_brier": "constant",
    }
    for found, wanted in zip(printed["radii"], golden, strict=True):
        for ours, theirs in names.items():
            assert found[ours] == pytest.approx(wanted[theirs], abs=1e-6)


def test_bound_of_a_log(shared: Path) -> None:
    file = shared / "data" / "certify_logs" / "cifar10_cohen_resnet110_sigma_0.25.tsv"
    printed = run_json("bound", file, "--sigma", 0.25, "--n", 100_000, "--radii", "0,0.25,0.5")
    assert printed["total"] == 10_000
    assert 0.5 < printed["radii"][1]["certified_accuracy"] < 0.7
    assert "give it with --sigma" in fails("bound", file, "--n", 100_000)
    assert "give it with --n" in fails("bound", file, "--sigma", 0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--radii", "0,x"], "--radii: expected numbers separated by commas"),
        (["--radii", "nan"], "--radii: expected numbers separated by commas"),
        (["--radii", "-0.1"], "radii"),
        (["--bins", "0"], "bins"),
        (["--edges", "0,2"], "edges"),
        (["--closed", "both"], "closed"),
        (["--alpha", "2"], "alpha"),
        (["--sigma", "0.5"], "0.25"),
        (["--n", "999"], "1000"),
        (["--out", "no/such/folder/x.parquet"], "there is no folder"),
    ],
)
def test_bound_with_bad_options(counts: Path, options: list[str], words: str) -> None:
    before = sorted(counts.parent.iterdir())
    assert words in fails("bound", counts, *options)
    assert sorted(counts.parent.iterdir()) == before


def test_bound_of_bad_files(tmp_path: Path, counts: Path) -> None:
    assert "no such file" in fails("bound", tmp_path / "nothing.npz")
    (tmp_path / "short.npz").write_bytes(counts.read_bytes()[:200])
    assert "short.npz" in fails("bound", tmp_path / "short.npz")
    (tmp_path / "text.txt").write_text("hello\n")
    assert "certification log" in fails("bound", tmp_path / "text.txt", "--sigma", 1, "--n", 10)
    (tmp_path / "empty.parquet").write_bytes(b"PAR1")
    assert "Parquet" in fails("bound", tmp_path / "empty.parquet")
    np.savez(tmp_path / "uneven.npz", counts=[[3, 4], [3, 5]], label=[0, 1], sigma=1)
    assert run_json("bound", tmp_path / "uneven.npz")["total"] == 2
    np.savez(tmp_path / "bare.npz", counts=[[3, 4], [3, 4]], label=[0, 1])
    assert "sigma" in fails("bound", tmp_path / "bare.npz")
    np.savez(tmp_path / "unlabelled.npz", counts=[[99, 1]], sigma=1.0)
    assert "labels" in fails("bound", tmp_path / "unlabelled.npz")
    assert fails("bound", tmp_path)


def test_a_fault_can_be_traced(counts: Path) -> None:
    command = [sys.executable, "-m", "certcal_ext", "bound", str(counts), "--bins", "0"]
    for value, shown in (("", False), ("1", True)):
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "CERTCAL_TRACEBACK": value},
        )
        assert result.returncode != 0
        assert ("Traceback" in result.stderr) is shown


# --- report ---------------------------------------------------------------------------------


def test_report_writes_a_page(counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert run("report", counts, "--out", out, "--radius", "0.1").stdout == f"report: {out}\n"
    page = out.read_text()
    assert "at radius 0.1" in page
    assert f"certcal bound {counts}" in page
    assert run_json("report", counts, "--out", out)["report"] == str(out)


def test_report_leaves_the_old_page_where_it_fails(counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")
    assert "radii" in fails("report", counts, "--out", out, "--radii", "-1")
    assert "no such file" in fails("report", tmp_path / "x.npz", "--out", out)
    assert "expected a file name" in fails("report", counts, "--out", tmp_path)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.npz", "page.html"]


# --- certify --------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "cli_nets", raising=False)
    Path("cli_nets.py").write_text(NETS)
    weight = torch.tensor([[8.0, 0, 0, 0], [0, 8, 0, 0], [0, 0, 8, 0]])
    torch.save({"layer.weight": weight, "layer.bias": torch.zeros(3)}, "w.pt")
    torch.save({"layer.weight": weight}, "partial.pt")
    labels = np.arange(12) % 3
    images = np.full((12, 1, 2, 2), 0.2)
    images.reshape(12, 4)[np.arange(12), labels] = 0.8
    np.savez("data.npz", images=images, labels=labels)
    np.savez("shifted.npz", images=images, labels=(labels + 1) % 3)
    np.savez("large.npz", images=images, labels=labels + 1)
    np.savez("unlabelled.npz", images=images)
    np.savez("bright.npz", images=images * 255, labels=labels)
    return tmp_path


COMMAND = "certify --model cli_nets:Net --weights w.pt --data data.npz --sigma 0.25 --n0 20 --n 500"
BASE = COMMAND.split()


def test_certify_writes_certificates_and_report(work: Path) -> None:
    import torch

    result = run(*BASE, "--report", "page.html", "--json")
    printed = json.loads(result.stdout)
    stored = Certificates.from_parquet("certificates.parquet")
    assert printed["total"] == len(stored) == 12
    assert stored.provenance.n0 == 20
    assert stored.provenance.n == 500
    assert "certcal certify --model cli_nets:Net" in Path("page.html").read_text()
    assert "12 images x 520 draws = 6,240 forward passes on cpu" in result.stderr
    assert "votes for one class would certify radius" in result.stderr
    assert "accuracy on 12 clean images: 100.0%" in result.stderr
    assert "near chance" not in result.stderr
    assert "certifying: 100 % of 6,240 draws" in result.stderr

    with np.load("data.npz") as data:
        images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    from cli_nets import Net  # type: ignore[import-not-found]

    model = Net()
    model.load_state_dict(torch.load("w.pt", weights_only=True))
    direct = certcal_ext.SmoothedClassifier(model, num_classes=3, sigma=0.25).certify(
        images.float(), labels, n0=20, n=500
    )
    assert direct.table.equals(stored.table)


def test_certify_parts_have_the_draws_of_the_whole(work: Path) -> None:
    run(*BASE, "--out", "whole.parquet")
    run(*BASE, "--out", "part.parquet", "--skip", 4, "--limit", 5, "--batch-size", 7)
    run(*BASE, "--out", "seed.parquet", "--seed", 1)
    whole, part, seed = (
        Certificates.from_parquet(f"{name}.parquet").table for name in ("whole", "part", "seed")
    )
    assert part.equals(whole.slice(4, 5))
    assert not seed.equals(whole)


def test_certify_without_labels(work: Path) -> None:
    result = run(*[word.replace("data.npz", "unlabelled.npz") for word in BASE])
    assert "without labels there are no metrics" in result.stdout
    assert Path("certificates.parquet").exists()
    words = fails(*[word.replace("data.npz", "unlabelled.npz") for word in BASE], "--report", "r")
    assert "needs labels" in words


def test_certify_warns_of_wrong_labels(work: Path) -> None:
    result = run(*[word.replace("data.npz", "shifted.npz") for word in BASE])
    assert "certcal: warning: the model is right on 0.0% of 12 clean images" in result.stderr
    assert "wrong label order" in result.stderr


def test_certify_estimate_only(work: Path) -> None:
    printed = run_json(*BASE, "--estimate")
    assert printed["draws"] == 6240
    assert printed["seconds"] > 0
    assert 0 < printed["best_radius"] < 1
    assert not Path("certificates.parquet").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"--model": "cli_nets"}, "module:factory"),
        ({"--model": "cli_absent:Net"}, "no module 'cli_absent'"),
        ({"--model": "cli_nets:nothing"}, "nothing called"),
        ({"--model": "cli_nets:nan", "--weights": None}, "NaN or infinite logits on clean images"),
        ({"--model": "cli_nets:Flat"}, "expected logits of shape"),
        ({"--model": "cli_nets:Narrow", "--weights": None}, r"failed on images of shape (12, 1"),
        ({"--model": "cli_nets:NoisyNan"}, "NaN"),
        ({"--weights": "partial.pt"}, "missing: layer.bias"),
        ({"--weights": "absent.pt"}, "no such file"),
        ({"--weights": "cli_nets.py"}, "cli_nets.py"),
        ({"--data": "absent.npz"}, "no such file"),
        ({"--data": "bright.npz"}, "in [0, 1]"),
        ({"--data": "large.npz"}, "labels: expected 0 to 2"),
        ({"--labels": "absent.npz"}, "no such file"),
        ({"--images-key": "pixels"}, "nothing called 'pixels'"),
        ({"--sigma": "0"}, "sigma"),
        ({"--sigma": "nan"}, "sigma"),
        ({"--n": "0"}, "n:"),
        ({"--n0": "0"}, "n0:"),
        ({"--alpha": "1"}, "alpha"),
        ({"--batch-size": "0"}, "batch_size"),
        ({"--seed": "-1"}, "seed"),
        ({"--num-classes": "4"}, "the model has 3 classes, got 4"),
        ({"--device": "abacus"}, "--device: abacus cannot be used"),
        ({"--limit": "0"}, "limit"),
        ({"--skip": "12"}, "skip"),
        ({"--out": "absent/x.parquet"}, "there is no folder"),
        ({"--report": "absent/x.html"}, "there is no folder"),
    ],
)
def test_certify_with_bad_input(work: Path, options: dict[str, str | None], words: str) -> None:
    given = dict(zip(BASE[1::2], BASE[2::2], strict=True)) | options
    before = sorted(work.iterdir())
    arguments = [word for pair in given.items() if pair[1] is not None for word in pair]
    assert words in fails("certify", *arguments)
    assert [path for path in sorted(work.iterdir()) if path.name != "__pycache__"] == before


def test_certify_in_a_process_keeps_stdout_for_json(work: Path) -> None:
    command = [sys.executable, "-m", "certcal_ext", *BASE, "--limit", "2", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["total"] == 2
    assert "Traceback" not in result.stderr
