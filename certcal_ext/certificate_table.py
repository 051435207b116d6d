# SPDX-License-Identifier: MIT
"""The Arrow table behind ``Certificates``: columns, what must hold in them, Parquet files."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._files import replacing
from certcal_ext.provenance import Provenance

#: One row a sample that was drawn for, abstained ones too. p_lower and p_upper bound the
#: unperturbed smoothed confidence.
SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("predicted", pa.int64()),  # -1: the source abstained
        pa.field("correct", pa.bool_()),
        pa.field("votes", pa.int64()),  # for the predicted class
        pa.field("n", pa.int64()),
        pa.field("confidence", pa.float64()),
        pa.field("p_lower", pa.float64(), nullable=False),
        pa.field("p_upper", pa.float64(), nullable=False),
    ]
)

_METADATA_KEY = b"certcal"


def build(columns: dict[str, Any], rows: int) -> pa.Table:
    """A table in one chunk; None is a column of nulls, a masked array one with some."""
    arrays = []
    for field in SCHEMA:
        values = columns[field.name]
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        elif isinstance(values, np.ma.MaskedArray):
            arrays.append(pa.array(values.data, field.type, mask=np.ma.getmaskarray(values)))
        else:
            # Copied: Arrow would go on looking at the memory of the caller's array.
            arrays.append(pa.array(np.array(values), field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def numbers(table: pa.Table, name: str) -> NDArray[Any] | None:
    """A column as a read-only array, or None where it holds a null."""
    column = table.column(name)
    if column.null_count:
        return None
    values: NDArray[Any] = column.to_numpy()
    values.flags.writeable = False
    return values


def chosen(table: pa.Table, name: str, rows: NDArray[np.bool_]) -> NDArray[Any] | None:
    """The chosen rows of a column as a read-only array, or None where there are no values."""
    column = table.column(name)
    # Rows in which a log abstained have no confidence, but they are never among the chosen.
    values = column.filter(pa.array(rows))
    if values.null_count or column.null_count == len(column):
        return None
    result: NDArray[Any] = values.to_numpy()
    result.flags.writeable = False
    return result


def validate(table: Any, provenance: Any) -> None:
    """Checks what every certificate must satisfy, wherever it comes from.

    Raises:
        TypeError: no Arrow table, or no ``Provenance``.
        ValueError: other columns, no rows, or values that contradict each other.
    """
    if not isinstance(table, pa.Table):
        raise TypeError(f"table: expected a pyarrow.Table, got {type(table).__name__}")
    if not isinstance(provenance, Provenance):
        raise TypeError(f"provenance: expected a Provenance, got {type(provenance).__name__}")
    expected = [(field.name, field.type) for field in SCHEMA]
    if [(field.name, field.type) for field in table.schema] != expected:
        names = ", ".join(f"{name} {kind}" for name, kind in expected)
        raise ValueError(
            f"table: expected the columns {names}, got {', '.join(table.schema.names)}"
        )
    if not table.num_rows:
        raise ValueError("table: expected at least one sample, got none")
    for field in SCHEMA:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"{field.name}: expected a value in every row")
    _check.require_ordered(_filled(table, "p_lower", 0.0), _filled(table, "p_upper", 1.0))
    _require("confidence", _filled(table, "confidence", 0.5), 0.0, 1.0)
    _require("predicted", _filled(table, "predicted", 0), -1)
    _require("label", _filled(table, "label", 0), 0)
    votes = _filled(table, "votes", 0)
    _require("votes", votes, 0)
    if provenance.n is not None:
        _require("votes", votes, 0, provenance.n)
        _require("n", _filled(table, "n", provenance.n), provenance.n, provenance.n)
    correct = table.column("correct")
    if correct.null_count not in (0, table.num_rows):
        raise ValueError("correct: expected a value in every row or in none")
    known = (
        correct.null_count + table.column("label").null_count + table.column("predicted").null_count
    )
    if not known:
        agree = _filled(table, "label", 0) == _filled(table, "predicted", 0)
        differs = agree != _filled(table, "correct", False)
        if differs.any():
            row = int(np.argmax(differs))
            raise ValueError(
                f"correct: expected {bool(agree[row])} in row {row}, as label and predicted say"
            )
    if provenance.kind != "intervals":
        open_rows = table.column("confidence").is_null().to_numpy() & (
            _filled(table, "predicted", -1) != -1
        )
        if open_rows.any():
            raise ValueError(
                f"confidence: expected a value in row {int(np.argmax(open_rows))}, which has a "
                "prediction"
            )


def _filled(table: pa.Table, name: str, value: Any) -> NDArray[Any]:
    column = table.column(name)
    result: NDArray[Any] = (column.fill_null(value) if column.null_count else column).to_numpy()
    return result


def _require(name: str, values: NDArray[Any], least: float, most: float = np.inf) -> None:
    good = (values >= least) & (values <= most)
    if not good.all():
        row = int(np.argmin(good))
        limits = f"at least {least}" if most == np.inf else f"from {least} to {most}"
        raise ValueError(f"{name}: expected values {limits}, got {values[row]} in row {row}")


def write_parquet(table: pa.Table, provenance: Provenance, path: str | PathLike[str]) -> None:
    """Writes a file beside ``path`` and renames it.

    Whatever fails, ``path`` holds what it held before, or all that is new.

    Raises:
        ValueError: the folder does not exist, or ``path`` is one.
        OSError: the disk refuses.
    """
    stored = table.replace_schema_metadata({_METADATA_KEY: provenance.to_json().encode()})
    with replacing(path) as file:
        pq.write_table(stored, file, write_page_checksum=True)


def read_parquet(path: str | PathLike[str]) -> tuple[pa.Table, Provenance]:
    """Reads what ``write_parquet`` wrote; the content is not validated yet.

    Raises:
        ValueError: the file is missing, truncated, damaged, no Parquet file, or not one of
            certificates.
    """
    expected = "expected a Parquet file of certificates"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {expected}, but it cannot be read: {error}") from error
    stored = (table.schema.metadata or {}).get(_METADATA_KEY)
    if stored is None:
        raise ValueError(
            f"{path}: {expected}, got one without the provenance that certcal_ext writes"
        )
    try:
        provenance = Provenance.from_json(stored)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {expected}: {error}") from error
    return table.replace_schema_metadata(None).combine_chunks(), provenance
