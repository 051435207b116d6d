# SPDX-License-Identifier: MIT
"""Parquet files: round trips, failed writes, and files that are broken, foreign or wrong."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import N, certificates, votes

import certcal_ext as cc

ALL_KINDS = {
    "votes": certificates,
    "votes without labels": lambda: cc.Certificates.from_counts(votes(9, 1)[0], None, sigma=0.5),
    "provenance": lambda: certificates().with_provenance(
        n0=100,
        seed=7,
        model_hash="ab12",
        precision="float32",
        torch_version="2.6",
        notes=("é", "b"),
    ),
    "intervals": lambda: cc.Certificates.from_intervals([1, 0], [0.1, 0.2], [0.3, 0.4], radius=1.5),
}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_parquet_gives_back_the_same(kind: str, tmp_path: Path) -> None:
    cert = ALL_KINDS[kind]()
    path = tmp_path / "certificates.parquet"
    cert.to_parquet(path)
    again = cc.Certificates.from_parquet(path)
    assert again == cert
    assert again.provenance.created == cert.provenance.created
    assert again.table.schema == cert.table.schema
    assert len(again) == len(cert)
    if cert.table.column("correct").null_count == 0:
        assert again.ece([0.0, 0.2]).tolist() == cert.ece([0.0, 0.2]).tolist()
    assert os.listdir(tmp_path) == ["certificates.parquet"]


def test_equality_looks_at_rows_and_provenance() -> None:
    cert = certificates()
    later = cert.with_provenance(created="2031-01-01T00:00:00+00:00")
    assert later == cert
    assert cert.with_provenance(seed=1) != cert
    assert certificates(seed=1) != cert
    assert cert != 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(cert)


def test_parquet_replaces_a_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    certificates(seed=0).to_parquet(path)
    certificates(seed=1).to_parquet(str(path))
    assert cc.Certificates.from_parquet(path) == certificates(seed=1)


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.parquet"
    certificates(seed=0).to_parquet(path)

    def fail(table: pa.Table, file: object, **options: object) -> None:
        file.write(b"PAR1 half of it")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        certificates(seed=1).to_parquet(path)
    with pytest.raises(OSError, match="No space left"):
        certificates(seed=1).to_parquet(tmp_path / "new.parquet")
    assert os.listdir(tmp_path) == ["c.parquet"]
    assert cc.Certificates.from_parquet(path) == certificates(seed=0)


def test_parquet_needs_a_folder_and_a_file_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path: expected a file in an existing folder"):
        certificates().to_parquet(tmp_path / "no" / "c.parquet")
    with pytest.raises(ValueError, match="path: expected a file, got the folder"):
        certificates().to_parquet(tmp_path)
    assert os.listdir(tmp_path) == []


def test_truncated_damaged_and_foreign_parquet(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    cert = certificates(500)
    cert.to_parquet(path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    votes_column = pq.read_metadata(path).row_group(0).column(4)
    damaged[votes_column.data_page_offset + votes_column.total_compressed_size // 2] ^= 0x40
    lied = whole.replace(
        b'"alpha": 0.001', b'"alpha": 0.101'
    )  # the footer has no checksum of its own
    assert lied != whole
    broken = [
        b"",
        b"PAR1",
        b"hello" * 100,
        whole[: len(whole) // 2],
        whole[:-1],
        bytes(damaged),
        lied,
    ]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a Parquet file of certificates") as caught:
            cc.Certificates.from_parquet(path)
        assert str(path) in str(caught.value)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ValueError, match="got one without the provenance"):
        cc.Certificates.from_parquet(path)
    with pytest.raises(ValueError, match="cannot be read"):
        cc.Certificates.from_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="cannot be read"):
        cc.Certificates.from_parquet(tmp_path)


def stored(
    cert: cc.Certificates, path: Path, table: pa.Table | None = None, **change: object
) -> Path:
    """Writes a file as ours, with a table or provenance that may be wrong."""
    facts = {**json.loads(cert.provenance.to_json()), **change}
    facts = {name: value for name, value in facts.items() if value != "gone"}
    table = (cert.table if table is None else table).replace_schema_metadata(
        {b"certcal": json.dumps(facts).encode()}
    )
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(format=99), "newer certcal_ext"),
        (dict(format="gone"), '"format" number'),
        (dict(kind="gone"), "expected the fields kind"),
        (dict(kind="magic"), "kind: expected one of votes, scores, log"),
        (dict(sigma=None), "sigma: expected a number"),
        (dict(sigma=-1), "sigma: expected a number above 0"),
        (dict(alpha=2), "alpha: expected a probability"),
        (dict(n=999), "votes: expected values|n: expected values"),
        (dict(n="many"), "n: expected a whole number"),
        (dict(seed=-1), "seed: expected"),
        (dict(model_hash=7), "model_hash: expected str"),
        (dict(notes="a"), "notes: expected a tuple"),
        (dict(notes=[1]), "notes: expected str"),
        (dict(radius=-1.0), "radius: expected a radius"),
    ],
)
def test_files_with_a_bad_provenance(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = stored(certificates(), tmp_path / "c.parquet", **change)
    with pytest.raises(ValueError, match=words) as caught:
        cc.Certificates.from_parquet(path)
    assert str(path) in str(caught.value)


def test_fields_that_a_later_version_adds_are_left_out(tmp_path: Path) -> None:
    cert = certificates()
    assert cc.Certificates.from_parquet(stored(cert, tmp_path / "c.parquet", extra=1)) == cert


def replaced(name: str, values: object) -> pa.Table:
    table = certificates(3).table
    at = table.schema.get_field_index(name)
    column = pa.array(values, table.schema.field(name).type)
    return table.set_column(at, pa.field(name, column.type), column)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (lambda: certificates(3).table.drop_columns(["votes"]), "expected the columns"),
        (lambda: certificates(3).table.slice(0, 0), "at least one sample"),
        (lambda: replaced("p_lower", [0.1, 0.2, None]), "p_lower: expected a value in every row"),
        (lambda: replaced("p_lower", [0.1, 0.2, math.nan]), "lower nan"),
        (lambda: replaced("p_lower", [0.1, 1.1, 0.1]), "row 1"),
        (lambda: replaced("confidence", [0.1, 1.1, 0.1]), "confidence: expected values from 0"),
        (lambda: replaced("confidence", [0.1, None, 0.1]), "confidence: expected a value in row 1"),
        (lambda: replaced("predicted", [0, -2, 0]), "predicted: expected values at least -1"),
        (lambda: replaced("label", [0, 0, -1]), "label: expected values at least 0"),
        (
            lambda: replaced("votes", [0, 0, N + 1]),
            "votes: expected at most n = 1000, got 1001 in row 2",
        ),
        (lambda: replaced("n", [N, N, N + 1]), "n: expected values from 1 to 1000"),
        (lambda: replaced("n", [N, N, 0]), "n: expected values from 1 to 1000"),
        (lambda: replaced("counts", [[1, 2], [1, 2], [1]]), "counts: expected lists of one length"),
        (lambda: replaced("counts", [[1, 2], [1, -2], [1, 1]]), "counts: expected counts of at"),
        (lambda: replaced("scores", [[1, 2], None, [1, 1]]), "scores: expected a list in every"),
        (lambda: replaced("runner_up_upper", [0.1, 2.0, 0.1]), "runner_up_upper: expected values"),
        (lambda: replaced("look", [0, -2, 0]), "look: expected values at least -1"),
        (lambda: replaced("planning_votes", [0, -2, 0]), "planning_votes: expected values"),
        (lambda: replaced("correct", [True, None, True]), "correct: expected a value in every row"),
        (lambda: replaced("label", [99, 99, 99]), "correct: expected False in row"),
    ],
)
def test_files_with_a_bad_table(tmp_path: Path, table: object, words: str) -> None:
    path = stored(certificates(3), tmp_path / "c.parquet", table())  # type: ignore[operator]
    with pytest.raises(ValueError, match=words) as caught:
        cc.Certificates.from_parquet(path)
    assert str(path) in str(caught.value)


def test_what_is_no_table_is_refused() -> None:
    cert = certificates(3)
    with pytest.raises(TypeError, match=r"table: expected a pyarrow\.Table, got dict"):
        cc.Certificates({}, cert.provenance)
    with pytest.raises(TypeError, match="provenance: expected a Provenance, got str"):
        cc.Certificates(cert.table, "votes")  # type: ignore[arg-type]
