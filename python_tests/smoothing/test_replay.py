# SPDX-License-Identifier: MIT
"""Drawing again: what agrees, what is found to differ, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from models import mlp
from typer.testing import CliRunner, Result

from certcal_ext import Certificates, SmoothedClassifier
from certcal_ext.cli import app
from certcal_ext.cli.replay import chosen_rows, in_precision
from certcal_ext.smoothing.replay import MEAN_TOLERANCE, Replay, draws_of, replay
from certcal_ext.stopping.rules import Stopping

ROWS = 7
IMAGES = torch.from_numpy(np.random.default_rng(1).random((ROWS, 1, 4, 4)).astype(np.float32))
LABELS = torch.arange(ROWS) % 3
MODEL = mlp(16, 3, seed=5)


def smooth() -> SmoothedClassifier:
    return SmoothedClassifier(MODEL, num_classes=3, sigma=0.5, seed=11)


def made(kind: str) -> Certificates:
    if kind == "adaptive":
        rules = Stopping(radii=(0.1, 0.3), n_max=3000, planning=100)
        return smooth().certify_adaptive(IMAGES, LABELS, rules, n0=20)
    if kind == "sequence":
        rules = Stopping(radii=(0.1,), n_max=3000, planning=100, method="sequence")
        return smooth().certify_adaptive(IMAGES, LABELS, rules, n0=20)
    options: dict[str, dict[str, Any]] = {
        "votes": {},
        "counts": {"keep_counts": True},
        "runner-up": {"runner_up": True},
        "scores": {"confidence": "scores"},
        "betting": {"confidence": "scores", "score_interval": "betting", "score_bins": 100},
    }
    return smooth().certify(IMAGES, LABELS, n0=20, n=400, **options[kind])


KINDS = ["votes", "counts", "runner-up", "scores", "betting", "adaptive", "sequence"]


def changed(certificates: Certificates, column: str, row: int, value: Any) -> Certificates:
    """The table with one number replaced."""
    table = certificates.table
    at = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    values[row] = value
    field = table.schema.field(at)
    return Certificates(
        table.set_column(at, field, pa.array(values, field.type)), certificates.provenance
    )


def columns(result: Replay) -> set[tuple[int, str]]:
    return {(one.row, one.column) for one in result.mismatches}


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_drawn_is_drawn_again(kind: str) -> None:
    certificates = made(kind)
    for batch_size in (1024, 64):
        result = replay(certificates, MODEL, IMAGES, labels=LABELS, batch_size=batch_size)
        assert result.agrees, result.mismatches
        assert result.model_checked
        assert result.rows.tolist() == list(range(ROWS))
    drawn = certificates.table["n"].to_numpy().sum()
    planning = 100 if kind in ("adaptive", "sequence") else 0
    assert result.draws == draws_of(certificates) == drawn + ROWS * (20 + planning)


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
def test_rows_that_were_planned_for_in_stages() -> None:
    rules = Stopping(radii=(0.4,), n_max=20_000, planning=50)
    certificates = smooth().certify_adaptive(IMAGES, LABELS, rules, n0=20)
    planned = certificates.table["planning_draws"].to_numpy()
    assert set(planned) <= {50, 200, 800}
    assert len(set(planned)) > 1
    result = replay(certificates, MODEL, IMAGES)
    assert result.agrees, result.mismatches
    drawn = certificates.table["n"].to_numpy()[certificates.table["look"].to_numpy() >= 0].sum()
    assert result.draws == drawn + planned.sum() + ROWS * 20


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_is_found_out(kind: str) -> None:
    certificates = made(kind).with_provenance(seed=12)
    result = replay(certificates, MODEL, IMAGES)
    assert not result.agrees
    assert any(one.column == "votes" for one in result.mismatches)


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
def test_every_kind_of_number_is_compared() -> None:
    plain = made("votes")
    votes = int(plain.table["votes"][2].as_py())
    other = votes - 1 if votes else 1
    result = replay(changed(plain, "votes", 2, other), MODEL, IMAGES)
    assert (2, "votes") in columns(result)
    (words,) = [str(one) for one in result.mismatches if one.column == "votes"]
    assert words == f"sample 2 (row 2): votes is {other} in the table, {votes} when drawn again"

    upper = float(plain.table["p_upper"][4].as_py())
    nudged = changed(plain, "p_upper", 4, float(np.nextafter(upper, 0)))
    assert columns(replay(nudged, MODEL, IMAGES)) == {(4, "p_upper")}
    assert replay(nudged, MODEL, IMAGES, [0, 1, 3]).agrees
    assert columns(replay(nudged, MODEL, IMAGES, [3, 4])) == {(4, "p_upper")}
    mask = np.arange(ROWS) == 4
    assert columns(replay(nudged, MODEL, IMAGES, mask)) == {(4, "p_upper")}

    kept = made("counts")
    counts = list(kept.table["counts"][1].as_py())
    swapped = changed(kept, "counts", 1, counts[::-1])
    assert columns(replay(swapped, MODEL, IMAGES)) == {(1, "counts")}

    stopped = made("adaptive")
    planned = int(stopped.table["planning_votes"][0].as_py())
    result = replay(
        changed(stopped, "planning_votes", 0, planned + (-1 if planned else 1)), MODEL, IMAGES
    )
    assert (0, "planning_votes") in columns(result)
    wrong = replay(plain, MODEL, IMAGES, labels=(LABELS + 1) % 3)
    assert columns(wrong) == {(row, "label") for row in range(ROWS)}


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
def test_scores_may_move_to_the_bin_beside_and_no_further() -> None:
    certificates = made("betting")
    stored = np.array(certificates.table["scores"][3].as_py())
    full = int(stored.argmax())

    near, far = stored.copy(), stored.copy()
    near[full] -= 1
    near[full + 1 if full + 1 < stored.size else full - 1] += 1
    far[full] -= 1
    far[(full + 50) % 100] += 1
    # The ends of the changed histograms differ from the stored ends, which is found either way.
    beside = replay(changed(certificates, "scores", 3, near.tolist()), MODEL, IMAGES)
    assert beside.moved_scores == 1
    assert (3, "scores") not in columns(beside)
    distant = replay(changed(certificates, "scores", 3, far.tolist()), MODEL, IMAGES)
    assert (3, "scores") in columns(distant)

    mean = float(certificates.table["confidence"][3].as_py())
    moved = changed(certificates, "confidence", 3, mean + 3 * MEAN_TOLERANCE)
    assert (3, "confidence") in columns(replay(moved, MODEL, IMAGES))
    same = changed(certificates, "confidence", 3, mean + MEAN_TOLERANCE / 3)
    assert (3, "confidence") not in columns(replay(same, MODEL, IMAGES))


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
def test_images_are_found_by_number() -> None:
    certificates = smooth().certify(
        IMAGES, LABELS, n0=20, n=400, sample_ids=np.array([9, 4, 7, 1, 0, 30, 2])
    )
    ids = np.array([30, 4, 1, 0, 9, 2, 7])
    order = [5, 1, 3, 4, 0, 6, 2]
    assert replay(certificates, MODEL, IMAGES[order], sample_ids=ids).agrees
    assert not replay(certificates, MODEL, IMAGES, sample_ids=ids).agrees
    with pytest.raises(ValueError, match="images: expected those of all chosen rows, none has the"):
        replay(certificates, MODEL, IMAGES)
    assert replay(certificates.select([3, 4]), MODEL, IMAGES[[4, 3]]).agrees  # numbers 1 and 0


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
def test_half_precision_with_the_same_batches() -> None:
    model = mlp(16, 3, seed=5).to(torch.bfloat16)
    certificates = SmoothedClassifier(model, 3, sigma=0.5).certify(IMAGES, LABELS, n0=20, n=200)
    assert certificates.provenance.precision == "bfloat16"
    loaded = in_precision(mlp(16, 3, seed=5), certificates.provenance.precision)
    assert replay(certificates, loaded, IMAGES).agrees
    with pytest.raises(ValueError, match=r"expected the one that made the table .*bfloat16"):
        replay(certificates, MODEL, IMAGES)


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
def test_what_is_refused() -> None:
    certificates = made("votes")
    with pytest.raises(ValueError, match="model: expected the one that made the table"):
        replay(certificates, mlp(16, 3, seed=6), IMAGES)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
        replay(certificates, None, IMAGES)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="certificates: expected Certificates"):
        replay(None, MODEL, IMAGES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows: expected positions from 0 to 6"):
        replay(certificates, MODEL, IMAGES, [7])
    with pytest.raises(ValueError, match="batch_size"):
        replay(certificates, MODEL, IMAGES, batch_size=0)
    counts = Certificates.from_counts([[90, 10]], [0], sigma=0.25)
    with pytest.raises(ValueError, match="does not say seed and n0"):
        replay(counts, MODEL, IMAGES)
    verifier = Certificates.from_intervals([1], [0.5], [0.6])
    with pytest.raises(ValueError, match="intervals hold no draws"):
        replay(verifier, MODEL, IMAGES)
    unnamed = certificates.with_provenance(model_hash=None)
    assert not replay(unnamed, MODEL, IMAGES).model_checked
    with pytest.raises(ValueError, match="model: expected more than 2 classes"):
        replay(unnamed, mlp(16, 2, seed=1), IMAGES)


# --- the command ----------------------------------------------------------------------------

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 48).reshape(3, 16).sin() * 3)
            self.layer.bias.zero_()
    def forward(self, x):
        return self.layer(x.flatten(1))
class Other(Net):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("replay_net.py").write_text(NET)
    np.savez("d.npz", images=IMAGES.numpy(), labels=LABELS.numpy())
    result = cli("certify", "--sigma", "0.5", "--n0", "20", "--n", "300", "--skip", "2")
    assert result.exit_code == 0, result.stderr
    return tmp_path


def cli(command: str, *words: str, model: str = "replay_net:Net") -> Result:
    table = [] if command == "certify" else ["certificates.parquet"]
    given = [command, *table, "--model", model, "--data", "d.npz", *words]
    return CliRunner().invoke(app, given)


def test_the_command_agrees(folder: Path) -> None:
    result = cli("replay")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("all 5 rows agree (1,600 draws")
    assert "5 of 5 rows = 1,600 draws on cpu, about" in result.stderr
    printed = json.loads(cli("replay", "--sample", "3", "--json").stdout)
    assert printed["agrees"]
    assert printed["mismatches"] == []
    assert len(set(printed["rows"])) == 3
    printed = json.loads(cli("replay", "--estimate", "--json").stdout)
    assert printed["draws"] == 1600
    assert printed["seconds"] > 0


def test_the_command_finds_what_differs(folder: Path) -> None:
    stored = Certificates.from_parquet("certificates.parquet")
    lower = float(stored.table["p_lower"][1].as_py())
    bad = changed(stored, "p_lower", 1, float(np.nextafter(lower, 1)))
    bad.to_parquet("certificates.parquet")
    result = cli("replay")
    assert result.exit_code == 1
    assert "sample 3 (row 1): p_lower is" in result.stdout
    assert "1 of 5 rows differ" in result.stdout
    printed = cli("replay", "--rows", "1,0", "--json")
    assert printed.exit_code == 1
    (one,) = json.loads(printed.stdout)["mismatches"]
    assert (one["row"], one["index"], one["column"]) == (1, 3, "p_lower")
    assert cli("replay", "--rows", "0,2").exit_code == 0


@pytest.mark.parametrize(
    ("words", "model", "message"),
    [
        ([], "replay_net:Other", "model: expected the one that made the table"),
        (["--rows", "9"], "replay_net:Net", "--rows: expected rows from 0 to 4"),
        (["--rows", "x"], "replay_net:Net", "--rows: expected whole numbers"),
        (["--rows", "1", "--sample", "1"], "replay_net:Net", "expected one of the two"),
        (["--sample", "0"], "replay_net:Net", "--sample: expected at least 1"),
        (["--batch-size", "0"], "replay_net:Net", "batch_size"),
    ],
)
def test_bad_input_to_the_command(folder: Path, words: list[str], model: str, message: str) -> None:
    result = cli("replay", *words, model=model)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("certcal: error: ")
    assert message in result.stderr


def test_a_table_without_draws_is_refused_before_the_model_is_loaded(folder: Path) -> None:
    Certificates.from_intervals([1], [0.5], [0.6]).to_parquet("certificates.parquet")
    result = cli("replay", model="no_such_module:Net")
    assert result.exit_code == 2
    assert "hold no draws" in result.stderr
    Path("certificates.parquet").unlink()
    assert "no such file" in cli("replay").stderr


def test_the_choice_of_rows() -> None:
    assert chosen_rows(None, None, 0, 3) == [0, 1, 2]
    assert chosen_rows(None, 9, 0, 3) == [0, 1, 2]
    assert chosen_rows(None, 2, 0, 1000) != chosen_rows(None, 2, 1, 1000)
    assert chosen_rows(None, 2, 5, 1000) == chosen_rows(None, 2, 5, 1000)
