# SPDX-License-Identifier: MIT
"""One way in for every file: what it is is told by its content, and what it does not say is asked for by name."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import certcal_ext as cc
from certcal_ext.cli import app
from certcal_ext.interop.export import export
from certcal_ext.interop.frames import to_pandas

pytestmark = pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")

RANDOM = np.random.default_rng(5)
LOWER = RANDOM.random(40) * 0.6
UPPER = LOWER + RANDOM.random(40) * 0.4
LABELS = RANDOM.integers(0, 3, 40)
PREDICTED = np.where(RANDOM.random(40) < 0.7, LABELS, (LABELS + 1) % 3)
CORRECT = (LABELS == PREDICTED).astype(int)
COUNTS = RANDOM.multinomial(1000, [0.9, 0.07, 0.03], 40)
INTERVALS = cc.Certificates.from_intervals(CORRECT, LOWER, UPPER)


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def columns() -> dict[str, Any]:
    return {"correct": CORRECT, "lower": LOWER, "upper": UPPER}


def lines(separator: str = ",", **more: Any) -> str:
    held = columns() | more
    rows = zip(*(np.asarray(part).tolist() for part in held.values()), strict=True)
    return "\n".join([separator.join(held), *(separator.join(map(str, row)) for row in rows)])


def records() -> list[dict[str, Any]]:
    return [
        {"correct": bool(c), "lower": low, "upper": high}
        for c, low, high in zip(CORRECT, LOWER.tolist(), UPPER.tolist(), strict=True)
    ]


def as_lists() -> dict[str, list[Any]]:
    return {name: part.tolist() for name, part in columns().items()}


def npz(path: Path, **arrays: Any) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)


FORMS: dict[str, Any] = {
    "x.csv": lambda path: path.write_text(lines()),
    "x.tsv": lambda path: path.write_text(lines("\t")),
    "x.txt": lambda path: path.write_text("# from a verifier\n" + lines(" ")),
    "semicolons.csv": lambda path: path.write_text(lines(";").replace(".", ",")),
    "x.csv.gz": lambda path: path.write_bytes(gzip.compress(lines().encode())),
    "utf16.csv": lambda path: path.write_text(lines(), encoding="utf-16"),
    "truths.csv": lambda path: path.write_text(lines(correct=CORRECT.astype(bool))),
    "floats.csv": lambda path: path.write_text(lines(correct=CORRECT.astype(float))),
    "records.json": lambda path: path.write_text(json.dumps(records())),
    "lists.json": lambda path: path.write_text(json.dumps(as_lists())),
    "lines.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, records()))),
    "inside.json": lambda path: path.write_text(json.dumps({"tool": "x", "results": records()})),
    "split.json": lambda path: path.write_text(
        json.dumps({"columns": list(records()[0]), "data": [list(r.values()) for r in records()]})
    ),
    "pandas.json": lambda path: path.write_text(
        json.dumps({n: dict(zip(map(str, range(40)), v, strict=True)) for n, v in as_lists().items()})
    ),
    "x.npz": lambda path: npz(path, **columns()),
    "packed.npz": lambda path: np.savez_compressed(path, **columns()),
    "column.npz": lambda path: npz(path, **{n: v.reshape(-1, 1) for n, v in columns().items()}),
    "no_ending": lambda path: npz(path, **columns()),
    "x.parquet": lambda path: pq.write_table(pa.table(columns()), path),
    "bools.parquet": lambda path: pq.write_table(pa.table(columns() | {"correct": CORRECT > 0}), path),
    "beside.parquet": lambda path: pq.write_table(
        pa.table(columns() | {"logits": [[0.0, 1.0]] * 40, "name": ["a"] * 40}), path
    ),
    "other names.csv": lambda path: path.write_text(
        lines().replace("correct,lower,upper", "Is_Correct,lower_bound,UB")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FORMS))
def test_intervals_of_every_form_are_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMS[name](path)
    made = cc.Certificates.from_file(path)
    assert made.table.equals(INTERVALS.table)
    assert (made.provenance.kind, made.provenance.norm) == ("intervals", None)
    assert made.provenance.source == str(path)
    again = cc.Certificates.from_file(path, interval_norm="Linf", interval_radius=8 / 255)
    assert (again.provenance.norm, again.provenance.radius) == ("linf", 8 / 255)
    printed = json.loads(run("bound", path, "--radii", "0", "--json").stdout)
    assert printed["radii"][0]["certified_ece"] == pytest.approx(INTERVALS.ece(0.0)[0], abs=1e-12)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_of_intervals_that_were_written(library: str, tmp_path: Path) -> None:
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    frame = frames.DataFrame(columns() | {"label": LABELS, "predicted": PREDICTED})
    wanted = cc.Certificates.from_intervals(
        CORRECT, LOWER, UPPER, labels=LABELS, predicted=PREDICTED
    ).table
    write = {
        "pandas": [("a.csv", "to_csv"), ("a.parquet", "to_parquet"), ("a.json", "to_json")],
        "polars": [
            ("a.csv", "write_csv"),
            ("a.parquet", "write_parquet"),
            ("a.json", "write_json"),
        ],
    }[library]
    for name, method in write:
        options = {"double_precision": 15} if method == "to_json" else {}
        getattr(frame, method)(tmp_path / name, **options)
        made = cc.Certificates.from_file(tmp_path / name)
        assert made.table.drop_columns(["p_lower", "p_upper"]).equals(
            wanted.drop_columns(["p_lower", "p_upper"])
        )
        assert np.abs(made.table["p_lower"].to_numpy() - LOWER).max() < 1e-14


def test_a_file_of_intervals_says_size_and_norm_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(lines(norm=["linf"] * 40, eps=[0.03] * 40, idx=range(100, 140)))
    made = cc.Certificates.from_file(path)
    assert (made.provenance.norm, made.provenance.radius) == ("linf", 0.03)
    assert made.table["index"].to_pylist() == list(range(100, 140))
    npz(tmp_path / "x.npz", **columns(), norm="l1", radius=2.0)
    made = cc.Certificates.from_file(tmp_path / "x.npz")
    assert (made.provenance.norm, made.provenance.radius) == ("l1", 2.0)
    (tmp_path / "x.json").write_text(json.dumps({"norm": "l2", "eps": 0.5, "rows": records()}))
    assert cc.Certificates.from_file(tmp_path / "x.json").provenance.radius == 0.5
    for options, words in (
        ({"interval_norm": "l2"}, "interval_norm: expected linf, as the file says, got l2"),
        ({"interval_radius": 0.1}, "interval_radius: expected 0.03, as the file says, got 0.1"),
    ):
        with pytest.raises(ValueError, match=words):
            cc.Certificates.from_file(path, **options)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"eps": [0.1, 0.2] * 20},
            "column eps: expected one size for all rows, got 0.1 to 0.2; make one",
        ),
        ({"norm": ["l1", "l2"] * 20, "eps": [1] * 40}, "norm: expected the same in every row"),
        ({"norm": ["linf"] * 40}, "interval_radius: expected the size in the linf norm"),
        ({"verified": [True, False] * 20}, "verified: expected only rows that were verified"),
        ({"lower": [-0.1] * 40}, "expected 0 <= lower <= upper <= 1"),
        ({"upper": ["x"] * 40}, r"row 0 \(line 2\): upper: expected a number"),
        ({"upper": [""] * 40}, r"row 0 \(line 2\): upper"),
        ({"correct": [2] * 40}, r"row 0 \(line 2\): correct: expected true or false"),
        ({"label": LABELS, "predicted": (LABELS + 1) % 3}, "correct: expected False in row"),
    ],
)
def test_intervals_that_are_refused(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(lines(**more))
    with pytest.raises(ValueError, match=words) as caught:
        cc.Certificates.from_file(path)
    assert str(path) in str(caught.value)


def test_options_without_a_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(lines())
    npz(tmp_path / "c.npz", counts=COUNTS, y=LABELS, sigma=0.25)
    cc.Certificates.from_file(tmp_path / "c.npz").to_parquet(tmp_path / "c.parquet")
    for name, options in (
        ("x.csv", ("--sigma", 0.25)),
        ("x.csv", ("--runner-up",)),
        ("x.csv", ("--split", 10)),
        ("c.npz", ("--interval-norm", "linf")),
        ("c.npz", ("--interval-radius", 0.5)),
        ("c.parquet", ("--sigma", 0.25)),
        ("c.parquet", ("--labels-key", "y")),
    ):
        said = run("bound", tmp_path / name, *options, code=2).stderr
        assert f"{options[0]}: " in said
        assert "leave it out" in said
    with pytest.raises(TypeError, match="noise"):
        cc.Certificates.from_file(tmp_path / "x.csv", noise=1)


# --- certificates that went through other hands ---------------------------------------------


def votes() -> cc.Certificates:
    return cc.Certificates.from_counts(COUNTS, LABELS, 0.25, 1e-3)


@pytest.mark.parametrize("form", ["csv", "pandas csv", "pandas parquet", "bare parquet"])
def test_certificates_that_lost_their_provenance(form: str, tmp_path: Path) -> None:
    made, path = votes(), tmp_path / "back"
    if form == "csv":
        export(made, tmp_path / "back.csv")
        path = tmp_path / "back.csv"
    elif form == "bare parquet":
        pq.write_table(made.table, path)
    else:
        pytest.importorskip("pandas", reason="pandas is not installed")
        frame = to_pandas(made)
        frame.attrs.clear()
        frame.to_csv(path) if form == "pandas csv" else frame.to_parquet(path)
    said = run("bound", path, code=2).stderr
    assert "without their provenance" in said
    assert "--sigma" in said
    assert "--alpha" in said
    back = cc.Certificates.from_file(path, sigma=0.25)
    assert back.table.drop_columns(["counts"]).equals(made.table.drop_columns(["counts"]))
    assert (back.provenance.kind, back.provenance.sigma, back.provenance.n) == ("votes", 0.25, 1000)
    radii = [0.0, 0.1]
    assert (back.ece(radii) == made.ece(radii)).all()
    # Which draws selected the class is lost: a joint bound is then never below that of either case.
    for scope in ("certified", "all"):
        joint = [one.bound("brier", radii, delta=1e-2, scope=scope).joint for one in (back, made)]
        assert (joint[0] >= joint[1]).all()
    with pytest.raises(ValueError, match=r"not those of its votes at alpha = 0.05.*--alpha"):
        cc.Certificates.from_file(path, sigma=0.25, alpha=0.05)
    run("bound", path, "--sigma", 0.25, "--alpha", 0.001, "--n", 1000)
    assert "--n: expected 1000" in run("bound", path, "--sigma", 0.25, "--n", 99, code=2).stderr


def test_what_no_option_gives_back_names_the_way_out(tmp_path: Path) -> None:
    scores = cc.Certificates.from_scores(
        [[10, 90], [50, 50]], [0.8, 0.5], [90, 50], [0, 1], [0, 1], 0.25
    )
    beside = cc.Certificates.from_counts(COUNTS, LABELS, 0.25, runner_up=True)
    for made, words in ((scores, "with scores"), (beside, "with a bound on the next class")):
        path = export(made, tmp_path / "x.csv")
        with pytest.raises(ValueError, match=f"{words}.*keep certificates as Parquet"):
            cc.Certificates.from_file(path, sigma=0.25)


@pytest.mark.parametrize("kind", ["votes", "runner-up", "scores", "intervals"])
def test_json_that_was_exported_is_read_back_whole(kind: str, tmp_path: Path) -> None:
    made = {
        "votes": votes,
        "runner-up": lambda: cc.Certificates.from_counts(COUNTS, LABELS, 0.25, runner_up=True),
        "scores": lambda: cc.Certificates.from_scores(
            [[10, 90], [50, 50]], [0.8, 0.5], [90, 50], [0, 1], [0, 1], 0.25
        ),
        "intervals": lambda: cc.Certificates.from_intervals(
            CORRECT, LOWER, UPPER, 0.1, norm="linf"
        ),
    }[kind]()
    path = export(made, tmp_path / "x.json")
    assert cc.Certificates.from_file(path) == made


def test_a_frame_that_pandas_wrote_keeps_its_provenance(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    made = votes()
    to_pandas(made).to_parquet(tmp_path / "x.parquet")
    back = cc.Certificates.from_file(tmp_path / "x.parquet")
    assert back.provenance == made.provenance
    assert back.table.equals(made.table)


# --- counts ---------------------------------------------------------------------------------

STORED: dict[str, dict[str, Any]] = {
    "plain": {"counts": COUNTS, "label": LABELS},
    "floats": {"counts": COUNTS.astype(float), "label": LABELS.astype(float)},
    "float32": {"counts": COUNTS.astype(np.float32), "labels": LABELS.astype(np.uint8)},
    "column": {"counts": COUNTS, "label": LABELS.reshape(-1, 1)},
    "row": {"counts": COUNTS, "label": LABELS.reshape(1, -1)},
    "one-hot": {"counts": COUNTS, "y": np.eye(3)[LABELS]},
    "y": {"counts": COUNTS, "y": LABELS},
    "targets": {"counts": COUNTS, "targets": LABELS},
    "target": {"counts": COUNTS, "target": LABELS},
    "y_true": {"counts": COUNTS, "y_true": LABELS},
    "capital": {"counts": COUNTS, "Labels": LABELS},
    "n a row": {"counts": COUNTS, "label": LABELS, "n": np.full(40, 1000)},
    "ids": {"counts": COUNTS, "label": LABELS, "idx": np.arange(40)},
}


@pytest.mark.parametrize("name", sorted(STORED))
def test_counts_of_every_form_are_the_same(name: str, tmp_path: Path) -> None:
    npz(tmp_path / "c.npz", **STORED[name], sigma=0.25)
    made = cc.Certificates.from_file(tmp_path / "c.npz")
    assert made.table.equals(votes().table)
    assert cc.Certificates.from_npz(tmp_path / "c.npz") == made


def test_counts_in_json(tmp_path: Path) -> None:
    held = {"counts": COUNTS.tolist(), "labels": LABELS.tolist(), "sigma": 0.25}
    (tmp_path / "c.json").write_text(json.dumps(held))
    assert cc.Certificates.from_file(tmp_path / "c.json").table.equals(votes().table)


def test_rows_of_other_sums_are_certified_with_their_own(tmp_path: Path) -> None:
    counts = COUNTS.copy()
    counts[7] *= 3
    counts[9, 0] += 1
    npz(tmp_path / "c.npz", counts=counts, y=LABELS, sigma=0.25)
    made = cc.Certificates.from_file(tmp_path / "c.npz")
    n = counts.sum(axis=1)
    assert made.table["n"].to_pylist() == n.tolist()
    won = counts.max(axis=1)
    wanted = cc.Certificates.from_votes(won, n, counts.argmax(axis=1), LABELS, 0.25)
    for name in ("p_lower", "p_upper", "confidence", "votes"):
        assert made.table[name].equals(wanted.table[name])
    assert (made.ece([0.0, 0.2]) == wanted.ece([0.0, 0.2])).all()
    halves = cc.Certificates.from_file(tmp_path / "c.npz", split=100, split_seed=1)
    assert halves.table["n"].to_pylist() == (n - 100).tolist()


def test_labels_of_another_name_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    npz(path, counts=COUNTS, lables=LABELS, sigma=0.25, seed=3)
    said = run("bound", path, code=2).stderr
    for word in ("counts", "lables", "--labels-key lables"):
        assert word in said
    assert run("bound", path, "--labels-key", "lables").stdout
    assert cc.Certificates.from_npz(path, labels_key="lables").table.equals(votes().table)
    said = run("bound", path, "--labels-key", "labels", code=2).stderr
    assert "there is no array 'labels'; the file holds counts, lables, sigma, seed" in said
    npz(path, counts=COUNTS, y=LABELS, target=LABELS, sigma=0.25)
    assert "expected one for label" in run("bound", path, code=2).stderr
    run("bound", path, "--labels-key", "y")


# --- files that are something else ----------------------------------------------------------

OTHERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "page": (b"<!doctype html>\n<html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
    "pickle": (pickle.dumps({"counts": [1]}, 4), "a pickle"),
    "words": (b"hello\nworld\n", "a text that starts with 'hello'"),
    "table": (b"epoch,loss\n1,0.5\n", "epoch,loss"),
    "json": (b'{"accuracy": 0.9}', "accuracy"),
    "broken json": (b'{"lower": [0.1, ', "damaged"),
    "json of numbers": (b"[1, 2, 3]", "JSON"),
    "deep json": (b"[" * 100_000, "JSON"),
    "binary": (b"\0\1\2\3" * 50, "cannot be|binary|expected"),
}


@pytest.mark.parametrize("name", sorted(OTHERS))
@pytest.mark.parametrize("ending", [".csv", "", ".npz"])
def test_errors_say_what_the_file_seems_to_be(name: str, ending: str, tmp_path: Path) -> None:
    content, words = OTHERS[name]
    path = tmp_path / f"file{ending}"
    path.write_bytes(content)
    said = run("bound", path, "--sigma", 0.25, code=2).stderr
    assert path.name in said
    assert "does not say its" not in said  # that is of a log
    if ending != ".npz":
        assert any(word in said for word in words.split("|"))
        assert "expected certificates (Parquet), vote counts" in said


def test_other_arrays_and_tables_are_named(tmp_path: Path) -> None:
    npz(tmp_path / "x.npz", images=np.zeros((2, 2)), y=[0, 1])
    assert "images, y" in run("bound", tmp_path / "x.npz", code=2).stderr
    np.save(tmp_path / "x.npy", COUNTS)
    assert "a single array of NumPy" in run("bound", tmp_path / "x.npy", code=2).stderr
    pq.write_table(pa.table({"loss": [0.1]}), tmp_path / "x.parquet")
    assert "Parquet file of the columns loss" in run("bound", tmp_path / "x.parquet", code=2).stderr
    assert "it is a folder" in run("bound", tmp_path, code=2).stderr


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("key", ["counts", "y", "sigma", "lower", "radius", "other"])
def test_no_file_runs_code(key: str, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    evil = np.array([Payload(target)] * 40, object)
    for arrays in (
        {"counts": COUNTS, "y": LABELS, "sigma": 0.25},
        columns(),
        {"label": LABELS, "predict": LABELS, "radius": LOWER},
    ):
        npz(tmp_path / "x.npz", **(arrays | {key: evil}))
        CliRunner().invoke(app, ["bound", str(tmp_path / "x.npz"), "--sigma", "1", "--n", "10"])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Payload(target)))
    run("bound", tmp_path / "x.pkl", code=2)
    assert not target.exists()
