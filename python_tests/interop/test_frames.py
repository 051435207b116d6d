# SPDX-License-Identifier: MIT
"""Data frames and exported files: what goes out comes back, and nothing false comes in."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from certcal_ext import Certificates
from certcal_ext.cli import app
from certcal_ext.interop.export import FORMATS, certified_radii, export, read_back_alpha
from certcal_ext.interop.frames import from_frame, to_pandas, to_polars

COUNTS = np.random.default_rng(3).multinomial(1000, [0.8, 0.15, 0.05], 30)
COUNTS[:3] = [[500, 500, 0], [1000, 0, 0], [0, 1, 999]]
LABELS = np.random.default_rng(4).choice(3, 30)


def made(**options: Any) -> Certificates:
    selection = COUNTS.argmax(axis=1)
    return Certificates.from_counts(COUNTS, LABELS, 0.5, selection=selection, **options)


def scores() -> Certificates:
    histogram = np.random.default_rng(5).multinomial(400, [0.05, 0.1, 0.15, 0.7], 6)
    means = histogram @ ((np.arange(4) + 0.5) / 4) / 400
    return Certificates.from_scores(
        histogram, means, [350, 300, 100, 399, 400, 0], [0] * 6, [0] * 6, 0.5, interval="betting"
    )


# --- pandas and polars ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"keep_counts": True}, {"runner_up": True}])
def test_pandas_and_back(options: dict[str, bool]) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    certificates = made(**options)
    frame = to_pandas(certificates)
    assert frame.shape == (30, certificates.table.num_columns)
    assert str(frame["look"].dtype) == "Int64"
    assert from_frame(frame) == certificates
    some = frame[frame["votes"] > 500]
    rows = certificates.table["votes"].to_numpy() > 500
    assert from_frame(some, provenance=certificates.provenance) == certificates.select(rows)
    few = frame[["index", "p_lower", "p_upper", "confidence", "votes", "n", "predicted"]]
    assert from_frame(few, provenance=certificates.provenance).at(0.1).correct is None


@pytest.mark.parametrize("options", [{}, {"keep_counts": True}, {"runner_up": True}])
def test_polars_and_back(options: dict[str, bool]) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    certificates = made(**options)
    frame = to_polars(certificates)
    assert isinstance(frame, polars.DataFrame)
    assert from_frame(frame, provenance=certificates.provenance) == certificates
    with pytest.raises(ValueError, match=r"without their provenance.*or give the provenance= of"):
        from_frame(frame)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_intervals_and_votes_from_frames(library: str) -> None:
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    intervals = {
        "correct": [True, False],
        "lower": [0.8, 0.5],
        "upper": [0.9, 0.5],
        "x": ["a", "b"],
    }
    certificates = from_frame(frames.DataFrame(intervals), radius=0.5)
    assert certificates == Certificates.from_intervals([1, 0], [0.8, 0.5], [0.9, 0.5], 0.5)
    beside = intervals | {"confidence": [0.85, 0.5], "labels": [1, 2], "predicted": [1, 0]}
    assert from_frame(frames.DataFrame(beside)).at(0.1).predicted.tolist() == [1, 0]
    votes = {"votes": [990, 4000], "n": [1000, 4001], "predicted": [0, 1], "labels": [0, 0]}
    assert from_frame(frames.DataFrame(votes), sigma=0.25, alpha=0.01) == Certificates.from_votes(
        [990, 4000], [1000, 4001], [0, 1], [0, 0], 0.25, 0.01
    )
    with pytest.raises(ValueError, match="votes that does not say their noise; give --sigma"):
        from_frame(frames.DataFrame(votes))
    missing = intervals | {"upper": [0.9, None]}
    with pytest.raises(ValueError, match="row 1: upper: expected a number, and there is none"):
        from_frame(frames.DataFrame(missing))
    with pytest.raises(ValueError, match="expected 0 <= lower <= upper <= 1"):
        from_frame(frames.DataFrame(intervals | {"upper": [0.7, 0.5]}))
    with pytest.raises(ValueError, match="row 0: lower: expected a number, got 'a'"):
        from_frame(frames.DataFrame(intervals | {"lower": ["a", "b"]}))
    with pytest.raises(ValueError, match=r"frame: expected certificates .*; got the columns x"):
        from_frame(frames.DataFrame({"x": [1]}))
    with pytest.raises(ValueError, match="at least one"):
        from_frame(frames.DataFrame({name: [] for name in votes}), sigma=1.0)


def test_altered_tables_are_checked() -> None:
    certificates = made()
    table = certificates.table
    at = table.schema.get_field_index("votes")
    more = table.set_column(at, "votes", pa.array([1001] * 30))
    with pytest.raises(ValueError, match="votes: expected at most n = 1000"):
        from_frame(more, provenance=certificates.provenance)
    text = table.set_column(at, "votes", pa.array(["many"] * 30))
    with pytest.raises(TypeError, match="votes: expected int64"):
        from_frame(text, provenance=certificates.provenance)
    with pytest.raises(TypeError, match="frame: expected a DataFrame of pandas or polars"):
        from_frame([1, 2])
    for function in (to_pandas, to_polars):
        with pytest.raises(TypeError, match="certificates: expected Certificates"):
            function(table)


# --- the log --------------------------------------------------------------------------------


def cells(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text()), delimiter="\t"))


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
@pytest.mark.parametrize("kind", ["votes", "runner-up", "scores", "shared"])
def test_every_printed_radius_is_certified(kind: str, tmp_path: Path) -> None:
    certificates = {
        "votes": made,
        "runner-up": lambda: made(runner_up=True),
        "scores": scores,
        "shared": lambda: Certificates.from_counts(COUNTS, LABELS, 0.5),
    }[kind]()
    path = export(certificates, tmp_path / "log.tsv")
    rows = cells(path)
    assert len(rows) == len(certificates)
    radii = certified_radii(certificates)
    for row, (line, radius) in enumerate(zip(rows, radii, strict=True)):
        assert int(line["idx"]) == row
        if radius < 0:
            assert certificates.abstained[row]
            assert (line["predict"], line["correct"]) == ("-1", "0")
            assert float(line["radius"]) == 0
            continue
        printed = float(line["radius"])
        assert (
            Decimal(line["radius"]) <= Decimal(radius) < Decimal(line["radius"]) + Decimal("1e-6")
        )
        assert certificates.rows_at(printed).certified[row]
        assert certificates.rows_at(radius).certified[row]
        assert not certificates.rows_at(radius * (1 + 1e-12) + 1e-300).certified[row]
        assert int(line["correct"]) == int(line["label"] == line["predict"])


@given(
    votes=st.lists(st.integers(0, 500), min_size=1, max_size=8),
    sigma=st.sampled_from([0.12, 0.25, 1.0, 3.7]),
    alpha=st.sampled_from([1e-6, 1e-3, 0.05]),
)
@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
def test_a_log_that_is_read_back_holds_the_intervals(
    votes: list[int], sigma: float, alpha: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    certificates = Certificates.from_votes(
        votes, 500, [1] * len(votes), [1] * len(votes), sigma, alpha
    )
    path = tmp_path_factory.mktemp("log") / "log.tsv"
    export(certificates, path)
    level = read_back_alpha(certificates)
    assert level == alpha / 2
    again = Certificates.from_cohen_log(path, sigma, 500, level)
    for end, side in (("p_lower", -1), ("p_upper", 1)):
        written, read = (one.table[end].to_numpy() for one in (certificates, again))
        assert (side * read >= side * written).all()
    inside = again.rows_at(0.0).certified
    assert (inside <= certificates.rows_at(0.0).certified).all()


@pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")
def test_what_cannot_be_read_back_says_so() -> None:
    assert read_back_alpha(made()) == 5e-4
    assert read_back_alpha(made(runner_up=True)) is None
    uneven = Certificates.from_votes([990, 4000], [1000, 4001], [0, 1], [0, 0], 0.25)
    assert read_back_alpha(uneven) is None
    assert read_back_alpha(scores()) is None


def test_what_a_log_cannot_hold(tmp_path: Path) -> None:
    unlabelled = Certificates.from_counts(COUNTS, None, 0.5)
    with pytest.raises(ValueError, match="labels: a certification log needs them"):
        export(unlabelled, tmp_path / "log.tsv")
    verifier = Certificates.from_intervals([1], [0.5], [0.6])
    with pytest.raises(ValueError, match="no radius a sample"):
        export(verifier, tmp_path / "log.tsv")
    with pytest.raises(ValueError, match=r"path: expected a file ending in \.tsv, \.csv"):
        export(made(), tmp_path / "log.xlsx")
    with pytest.raises(ValueError, match="existing folder"):
        export(made(), tmp_path / "no" / "log.tsv")
    assert list(tmp_path.iterdir()) == []


# --- the other forms, and the command -------------------------------------------------------


def test_csv_and_json_hold_every_digit(tmp_path: Path) -> None:
    certificates = made(keep_counts=True)
    export(certificates, tmp_path / "c.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text())))
    table = certificates.table
    assert [float(row["p_lower"]) for row in rows] == table["p_lower"].to_pylist()
    assert "counts" not in rows[0]
    assert rows[0]["look"] == ""
    export(certificates, tmp_path / "c.json")
    stored = json.loads((tmp_path / "c.json").read_text())
    assert stored["provenance"]["sigma"] == 0.5
    assert [row["counts"] for row in stored["rows"]] == COUNTS.tolist()
    assert [row["p_upper"] for row in stored["rows"]] == table["p_upper"].to_pylist()
    export(certificates, tmp_path / "c.parquet")
    assert Certificates.from_parquet(tmp_path / "c.parquet") == certificates


def test_the_csv_is_read_by_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    certificates = made()
    frame = pandas.read_csv(export(certificates, tmp_path / "c.csv"))
    assert from_frame(frame, provenance=certificates.provenance) == certificates


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def test_the_command(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", counts=COUNTS, label=LABELS, sigma=0.5)
    result = run("export", tmp_path / "c.npz", "--to", tmp_path / "log.tsv", "--alpha", "0.002")
    said = f"certcal bound {tmp_path}/log.tsv --sigma 0.5 --n 1000 --alpha 0.001"
    assert f"read it with: {said}\n" in result.stdout
    run(*said.split()[1:], "--radii", "0,0.1")
    for ending in FORMATS[:-1]:
        printed = json.loads(
            run("export", tmp_path / "c.npz", "--to", tmp_path / f"x{ending}", "--json").stdout
        )
        assert printed["total"] == 30
        assert (printed["read_with"] is not None) == (ending == ".tsv")
        assert (tmp_path / f"x{ending}").is_file()
    back = run("export", tmp_path / "x.parquet", "--to", tmp_path / "again.csv")
    assert back.stdout == f"30 samples: {tmp_path}/again.csv\n"
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()


def test_the_options_of_the_run_are_exported(tmp_path: Path) -> None:
    certificates = made().with_provenance(options="[certify]\nsigma = 0.5\n")
    certificates.to_parquet(tmp_path / "c.parquet")
    assert Certificates.from_parquet(tmp_path / "c.parquet").provenance.options is not None
    run("export", tmp_path / "c.parquet", "--to", tmp_path / "run.toml")
    assert (tmp_path / "run.toml").read_text() == "[certify]\nsigma = 0.5\n"
    with pytest.raises(ValueError, match="options: the certificates hold none"):
        export(made(), tmp_path / "other.toml")


def test_bad_input_to_the_command(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", counts=COUNTS, sigma=0.5)
    for to, words in (
        ("x.doc", "--to: expected a file ending in .tsv"),
        ("no/x.csv", "there is no folder"),
        ("x.tsv", "needs them"),
    ):
        result = run("export", tmp_path / "c.npz", "--to", tmp_path / to, code=2)
        assert words in result.stderr
        assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]
