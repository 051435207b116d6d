# SPDX-License-Identifier: MIT
"""``certcal attack`` and its page."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from models import mlp
from typer.testing import CliRunner, Result

import certcal_ext as cc
from certcal_ext.attacks import AttackResult, BrierAttack, SmoothedVictim, compare_with_bound
from certcal_ext.cli.attack import NAMES, attack
from certcal_ext.report.attack_page import render_attack_report, write_attack_report

SAMPLES = 24


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its weights and images, and the test in it."""
    monkeypatch.chdir(tmp_path)
    # A name of its own: modules stay loaded between tests.
    Path("attacked_net.py").write_text(
        "import torch\n\n\ndef net():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 32), torch.nn.ReLU(),\n"
        "        torch.nn.Dropout(0.5), torch.nn.Linear(32, 4))\n"
    )
    model = mlp(12, 4, 0)
    torch.save(model.state_dict(), "weights.pt")
    images = torch.rand(SAMPLES, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model.eval()(images).argmax(1).numpy().copy()
    labels[::5] = (labels[::5] + 1) % 4
    np.savez("data.npz", images=images.numpy(), labels=labels)
    np.savez("bare.npz", images=images.numpy())
    return tmp_path


def run(*words: str) -> Result:
    app = typer.Typer()
    app.command("attack")(attack)
    common = ["--model", "attacked_net:net", "--weights", "weights.pt", "--device", "cpu"]
    return CliRunner().invoke(app, [*common, *words])


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_by_its_name(folder: Path, name: str) -> None:
    done = run("--data", "data.npz", "--radius", "0.3", "--attack", name, "--steps", "4", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["total"] == said["kept"] == SAMPLES
    assert said["largest_l2"] <= 0.3
    assert said["before"]["accuracy"] == said["after"]["accuracy"]
    result = AttackResult.from_parquet("attack.parquet")
    assert result.after().ece == said["after"]["ece"]
    # Each name does what it says.
    moved = result.attacked_confidence - result.clean_confidence
    right = result.correct
    if name == "ace-up":
        assert (moved >= 0).all()
    if name == "ace-down":
        assert (moved <= 0).all()
    if name == "brier":
        assert (moved[right] <= 0).all()
        assert (moved[~right] >= 0).all()
    if name == "ace-away":
        assert (moved[right] <= 0).all()
    if name == "ace-toward":
        assert (moved[right] >= 0).all()


@pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning")
def test_beside_the_certificates(folder: Path) -> None:
    held = np.load("data.npz")
    model = mlp(12, 4, 0)
    certificates = cc.SmoothedClassifier(model, 4, 0.1, seed=7).certify(
        torch.from_numpy(held["images"]), held["labels"], n0=50, n=500
    )
    certificates.to_parquet("certificates.parquet")
    line = (
        "--data data.npz --radius 0.02 --sigma 0.1 --draws 8 --fresh-draws 200 --confidence votes "
        "--attack brier --steps 3 --certificates certificates.parquet --report page.html"
    )
    words = line.split()
    done = run(*words)
    assert done.exit_code == 0, done.output
    certified = len(certificates.at(0.02).index)
    assert f"on {certified} images certified at this radius: ECE" in done.stdout
    page = Path("page.html").read_text()
    assert "Beside the bound" in page
    assert "the model under noise of standard deviation 0.1" in page

    for extra, message in (
        (["--limit", "5"], "expected one row an image, got 24 rows for 5 images"),
        (["--confidence", "scores"], "expected the confidence of the certificates, votes"),
        (["--norm", "linf"], "expected the norm of the certificates, l2, got linf"),
    ):
        done = run(*words, *extra)
        assert done.exit_code == 2
        assert message in " ".join(done.stderr.split())


def test_bad_input_is_one_line_and_leaves_nothing(folder: Path) -> None:
    for words, message in (
        ("--data data.npz --radius 0.1 --attack pgd", "--attack: expected one of cce-guided"),
        ("--data data.npz --radius -1", "radius: expected a radius of at least 0"),
        ("--data data.npz --radius 0.1 --norm l1", 'norm: expected "l2" or "linf"'),
        ("--data bare.npz --radius 0.1", "labels"),
        ("--data none.npz --radius 0.1", "none.npz"),
        ("--data data.npz --radius 0.1 --sigma -1", "sigma: expected a number above 0"),
        ("--data data.npz --radius 0.1 --out none/attack.parquet", "--out: there is no folder"),
        ("--data data.npz --radius 0.1 --certificates data.npz", "data.npz"),
    ):
        done = run(*words.split())
        assert done.exit_code == 2, words
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        assert len(errors) == 1, done.stderr
        assert message in errors[0]
        assert not Path("attack.parquet").exists()


def test_the_page(tmp_path: Path) -> None:
    model = mlp(12, 4, 0)
    images = torch.rand(12, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    labels = np.zeros(12, dtype=np.int64)
    labels[0] = 3
    result = BrierAttack(radius=0.3, steps=3).run(model, images, labels)
    page = render_attack_report(result, bins=10, title="<b>A & B</b>")
    assert "&lt;b&gt;A &amp; B&lt;/b&gt;" in page
    assert f"{result.before(bins=10).ece:.4f}" in page
    assert f"{result.after(bins=10).brier:.4f}" in page
    assert page.count("<svg") == 3
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "://" not in re.sub(r'xmlns[^ >]*="[^"]*"', "", page)  # nothing is loaded
    assert "#0a0b" not in page  # every colour follows the theme
    assert "Beside the bound" not in page
    named = dataclasses.replace(
        result, attack="<i>mine</i>", settings={**result.settings, "note": "<script>"}
    )
    foreign = render_attack_report(named)
    assert "&lt;i&gt;mine&lt;/i&gt; moved" in foreign
    assert "<script>" not in foreign
    vacuous = cc.Certificates.from_intervals(
        result.correct, np.zeros(12), np.ones(12), radius=0.3, norm="l2"
    )
    bound = compare_with_bound(vacuous, [result])
    assert "Beside the bound" in render_attack_report(result, bound=bound)
    assert write_attack_report(result, tmp_path / "page.html").read_text().startswith("<!doctype")
    with pytest.raises(ValueError, match="bins: expected"):
        render_attack_report(result, bins=0)


def test_the_page_of_one_sample_and_of_foreign_noises() -> None:
    model = mlp(12, 4, 0)
    images = torch.full((1, 1, 3, 4), 0.5)
    victim = SmoothedVictim(model, sigma=0.3, draws=3)
    own = BrierAttack(radius=0.0).run(victim, images, [0]).predicted
    result = BrierAttack(radius=0.1).run(victim, images, [0], predicted=(own + 1) % 4)
    page = render_attack_report(result)
    assert "by the 3 noises of the attack" in page
    assert "On 1 image the class that had to stay is not on top" in page
    assert "these count as without attack" in page  # it was left alone
    assert "no prediction changes" in page
    moved = dataclasses.replace(result, l2=result.l2 + 0.05)
    page = render_attack_report(moved)
    assert "no prediction changes" not in page
    assert "% under attack" in page


def test_an_estimate_runs_nothing(folder: Path) -> None:
    words = ("--data", "data.npz", "--radius", "0.3", "--sigma", "0.1", "--fresh-draws", "20")
    done = run(*words, "--steps", "4", "--estimate", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["images"] == SAMPLES
    assert 0 < said["seconds"] < 600
    assert f"attacking {SAMPLES} images on cpu: about" in done.stderr
    assert not Path("attack.parquet").exists()
    done = run(*words, "--steps", "4")
    assert done.exit_code == 0, done.output
    # What is done and what is left are told, for both halves.
    assert re.search(r"attacking: 100 % of [\d,]+ passes, took", done.stderr)
    assert f"judging by fresh noises: 100 % of {2 * SAMPLES} images, took" in done.stderr


def test_an_interrupt_leaves_no_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BrierAttack.run

    def interrupted(self: BrierAttack, victim: Any, images: Any, *rest: Any, **named: Any) -> Any:
        if len(images) == SAMPLES and named["progress"]:
            raise KeyboardInterrupt
        return whole(self, victim, images, *rest, **named)

    monkeypatch.setattr(BrierAttack, "run", interrupted)
    done = run("--data", "data.npz", "--radius", "0.3", "--attack", "brier")
    assert done.exit_code == 130
    assert "stopped; nothing is written" in done.stderr
    assert not Path("attack.parquet").exists()


def test_bad_models_and_data_are_named_before_the_attack(folder: Path) -> None:
    held = np.load("data.npz")
    Path("attacked_bad.py").write_text(
        "import torch\n\n\ndef soft():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.Softmax(1))\n\n\n"
        "class Nothing(torch.nn.Module):\n    def forward(self, x):\n"
        "        return torch.full((len(x), 4), torch.nan)\n"
    )
    np.savez("wide.npz", images=2 * held["images"], labels=held["labels"])
    np.savez("fifth.npz", images=held["images"], labels=np.full(SAMPLES, 9))
    app = typer.Typer()
    app.command("attack")(attack)
    for words, message in (
        ("--model attacked_bad:soft --data data.npz", "got rows of probabilities"),
        ("--model attacked_bad:Nothing --data data.npz", "NaN or infinite logits"),
        ("--model attacked_bad:soft --weights weights.pt --data data.npz", "weights.pt"),
        ("--model attacked_net:net --data wide.npz", "[0, 1]"),
        ("--model attacked_net:net --data fifth.npz", "labels: expected 0 to 3"),
    ):
        done = CliRunner().invoke(app, [*words.split(), "--radius", "0.1", "--device", "cpu"])
        assert done.exit_code == 2, (words, done.output)
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        assert len(errors) == 1, done.stderr
        assert message in errors[0], errors
        assert not Path("attack.parquet").exists()


def test_labels_at_chance_are_a_warning(folder: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    images = generator.random((60, 1, 3, 4), dtype=np.float32)
    np.savez("chance.npz", images=images, labels=generator.integers(0, 4, 60))
    done = run("--data", "chance.npz", "--radius", "0.1", "--attack", "one-step-ace")
    assert done.exit_code == 0, done.output
    assert "near chance for 4 classes" in done.stderr
