# SPDX-License-Identifier: MIT
"""What a user typed before ``bound`` was split and options were grouped: every option is still there and does the same."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import typer.main
from typer.testing import CliRunner

from certcal_ext.cli import app

GROUP: Any = typer.main.get_command(app)
COUNTS = np.random.default_rng(7).multinomial(1000, [0.9, 0.07, 0.03], 60)
LABELS = np.random.default_rng(8).choice(3, 60, p=[0.8, 0.1, 0.1])

#: Subcommand: options that take a value, and options that take none, as they were then.
THEN = {
    "certify": (
        "model data sigma weights labels images-key labels-key max-value n0 n alpha "
        "confidence score-interval stop-radii tolerance max-draws batch-size seed num-classes "
        "device limit skip out report work unit-draws config",
        "runner-up keep-counts resume keep-work allow-random allow-batch-dependent "
        "allow-probabilities estimate json",
    ),
    "bound": (
        "sigma n alpha interval-radius interval-norm labels-key split split-seed radii bins "
        "edges closed metrics scope delta joint clip clip-dtype threshold recalibrate "
        "fit-radius compare max-attacked time-limit out config",
        "runner-up equal-mass population baselines more-draws json",
    ),
    "replay": (
        "model data weights labels images-key labels-key max-value rows sample seed "
        "batch-size device config",
        "estimate json",
    ),
    "train": (
        "model weights device data labels images-key labels-key max-value skip limit method "
        "radius draws steps metric weight cross-entropy margin-weight interval window "
        "admm-steps sigma epochs batch-size optimizer learning-rate weight-decay warmup "
        "radius-warmup precision seed out checkpoint-every log tensorboard config",
        "resume estimate json",
    ),
    "attack": (
        "model data radius weights labels images-key labels-key max-value attack norm steps "
        "restarts sigma draws fresh-draws confidence certificates bins batch-size seed device "
        "limit skip out report config",
        "allow-random allow-batch-dependent allow-probabilities estimate json",
    ),
    "report": (
        "sigma n alpha interval-radius interval-norm split split-seed out data labels "
        "images-key labels-key max-value class-names compare radius radii bins edges closed "
        "title config",
        "runner-up json",
    ),
    "export": (
        "sigma n alpha interval-radius interval-norm labels-key split split-seed to config",
        "runner-up json",
    ),
    "demo": (
        "out seed config",
        "quick json",
    ),
    "doctor": (
        "config",
        "json",
    ),
}
ARGUMENTS = {"bound": ["f.npz"], "replay": ["t.parquet"], "report": ["f.npz"], "export": ["f.npz"]}


@pytest.mark.parametrize("name", sorted(THEN))
def test_every_option_is_still_taken(name: str) -> None:
    values, flags = (text.split() for text in THEN[name])
    words = [*ARGUMENTS.get(name, []), *(f"--{flag}" for flag in flags)]
    for option in values:
        words += [] if option == "config" else [f"--{option}", "1"]
    context = GROUP.commands[name].make_context(name, words, parent=typer.Context(GROUP))
    given = {
        max(param.opts, key=len): context.params[param.name] for param in context.command.params
    }
    assert all(given[f"--{flag}"] is True for flag in flags)
    for option in values:
        if option != "config":
            assert given[f"--{option}"] in (1, 1.0, "1", Path("1"), [Path("1")], (Path("1"),)), (
                option
            )
    assert "--config" in given


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("former")
    np.savez(home / "a b.npz", counts=COUNTS, label=LABELS, sigma=0.25)
    np.savez(home / "other.npz", counts=COUNTS[::-1], label=LABELS, sigma=0.25)
    return home


def printed(words: list[str]) -> tuple[Any, str]:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    text = re.sub(r'"(seconds|created)": [^,\n]*', r'"\1": 0', result.stdout)
    return json.loads(text), result.stderr


@pytest.mark.parametrize(
    ("options", "command", "more", "parts"),
    [
        ("--compare other.npz", "compare", "", ["comparison"]),
        ("--recalibrate platt --fit-radius 0.1", "recalibrate", "--fit-radius 0.1", ["recalibration", "radii"]),
        ("--baselines", "baselines", "", ["baselines"]),
        ("--more-draws", "forecast", "", ["more_draws"]),
        ("--max-attacked 1 --time-limit 20", "milp", "--time-limit 20", ["max_attacked"]),
    ],
)  # fmt: skip
def test_an_option_that_is_a_subcommand_now(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    command: str,
    more: str,
    parts: list[str],
) -> None:
    monkeypatch.chdir(folder)
    rest = ["--radii", "0.1", "--json"]
    then, said = printed(["bound", "a b.npz", *options.split(), *rest])
    (line,) = [line for line in said.splitlines() if "subcommand of its own" in line]
    assert line.startswith(f"certcal: note: bound {options.split()[0]} ")
    named = shlex.split(line.rpartition(": ")[2])
    assert named[:3] == ["certcal", command, "a b.npz"]
    now, said = printed([*named[1:], *more.split(), *rest])
    assert "subcommand of its own" not in said
    assert all(then[part] is not None and then[part] == now[part] for part in parts)
    assert now.keys() <= then.keys()


def test_what_is_no_former_option_says_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found, said = printed(["bound", "a b.npz", "--radii", "0.1", "--metrics", "brier", "--json"])
    assert said == ""
    keys = ["baselines", "comparison", "more_draws", "max_attacked", "recalibration", "written"]
    assert [found[key] for key in keys] == [None] * len(keys)
    text = CliRunner().invoke(app, ["bound", "--help"]).stdout
    assert not re.search(
        "--(recalibrate|baselines|more-draws|compare|max-attacked|time-limit)", text
    )
