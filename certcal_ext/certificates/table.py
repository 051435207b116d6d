# SPDX-License-Identifier: MIT
"""The Arrow table behind ``Certificates``: columns, what must hold in them, Parquet files."""

from __future__ import annotations

import hashlib
import os
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._files import replacing
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS

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
        pa.field("prediction_lower", pa.float64()),  # of the votes' probability, if not p_lower
        pa.field("runner_up_upper", pa.float64()),  # of the next class, if better than 1 - lower
        pa.field("look", pa.int64()),  # with early stopping: which look the interval is of
        pa.field("planning_votes", pa.int64()),  # of the draws that planned how many to take
        pa.field("planning_draws", pa.int64()),  # how many those were
        pa.field("counts", pa.list_(pa.int64())),  # votes of all classes
        pa.field("scores", pa.list_(pa.int64())),  # histogram of the class's softmax scores
        pa.field("group", pa.int64()),  # a label that no attack changes
        pa.field("event_votes", pa.list_(pa.int64())),  # of a stack: of each model for the class
        pa.field("event_draws", pa.list_(pa.int64())),
    ]
)

#: Columns that files written before they existed do not have.
_LATER = (
    "prediction_lower",
    "runner_up_upper",
    "look",
    "planning_votes",
    "planning_draws",
    "counts",
    "scores",
    "group",
    "event_votes",
    "event_draws",
)

#: Columns that are stored only where they hold something, so that versions from before them read the other files.
_OPTIONAL = ("group", "event_votes", "event_draws")

#: How many rows a file may have: so many in any file, and so many for each of its bytes.
_FEW_ROWS, _ROWS_A_BYTE = 2**20, 256

_METADATA_KEY = b"certcal"
_DIGEST_KEY = b"certcal_sha256"  # of both: pages have checksums, the footer has none


def build(columns: dict[str, Any], rows: int) -> pa.Table:
    """A table in one chunk; None is a column of nulls, a masked array one with some."""
    arrays = []
    for field in SCHEMA:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        elif pa.types.is_list(field.type):
            arrays.append(_lists(values, field.type))
        elif isinstance(values, np.ma.MaskedArray):
            arrays.append(pa.array(values.data, field.type, mask=np.ma.getmaskarray(values)))
        else:
            # Copied: Arrow would go on looking at the memory of the caller's array.
            arrays.append(pa.array(np.array(values), field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _lists(values: NDArray[np.int64], kind: pa.ListType) -> pa.Array:
    """(N, K) numbers as N lists."""
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    flat = np.array(values, np.int64).reshape(-1)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=kind)


def matrix(table: pa.Table, name: str) -> NDArray[np.int64] | None:
    """A column of lists as an (N, K) array, or None where it holds a null."""
    column = table.column(name)
    if column.null_count:
        return None
    lists = column.combine_chunks()
    flat: NDArray[np.int64] = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, -1)


def numbers(table: pa.Table, name: str) -> NDArray[Any] | None:
    """A column as a read-only array, or None where it holds a null."""
    column = table.column(name)
    if column.null_count:
        return None
    values: NDArray[Any] = column.to_numpy()
    values.flags.writeable = False
    return values


def values_at(table: pa.Table, name: str, rows: NDArray[np.bool_]) -> NDArray[Any] | None:
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
        draws = _filled(table, "n", provenance.n)
        _require("n", draws, 1, provenance.n)
        over = votes > draws
        if over.any():
            row = int(np.argmax(over))
            raise ValueError(
                f"votes: expected at most n = {draws[row]}, got {votes[row]} in row {row}"
            )
    _require("prediction_lower", _filled(table, "prediction_lower", 0.0), 0.0, 1.0)
    _require("runner_up_upper", _filled(table, "runner_up_upper", 1.0), 0.0, 1.0)
    _require("look", _filled(table, "look", 0), -1)
    _require("planning_votes", _filled(table, "planning_votes", 0), 0)
    _require("planning_draws", _filled(table, "planning_draws", 0), 0)
    for name in ("counts", "scores", "event_votes", "event_draws"):
        _require_lists(table, name)
    _require("group", _filled(table, "group", 0), 0)
    _require_events(table, provenance)
    if provenance.kind == "scores" and table.column("scores").null_count:
        raise ValueError("scores: expected a histogram in every row")
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


def _require_lists(table: pa.Table, name: str) -> None:
    """Lists of one length of numbers of at least 0, or nulls only."""
    column = table.column(name)
    if column.null_count == len(column):
        return
    if column.null_count:
        raise ValueError(f"{name}: expected a list in every row or in none")
    lists = column.combine_chunks()
    sizes = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if sizes.size != 1 or sizes[0] < 2:
        raise ValueError(
            f"{name}: expected lists of one length of at least 2, got {sizes.min()} to {sizes.max()}"
        )
    flat = lists.flatten()
    if flat.null_count or int(flat.to_numpy(zero_copy_only=False).min()) < 0:
        raise ValueError(f"{name}: expected counts of at least 0")


def _require_events(table: pa.Table, provenance: Provenance) -> None:
    """Votes and draws of every event of a stack, the first of them those of the row; or none."""
    votes, draws = matrix(table, "event_votes"), matrix(table, "event_draws")
    count = 0 if provenance.event_sigmas is None else len(provenance.event_sigmas)
    if votes is None or draws is None or not count:
        if count or votes is not None or draws is not None:
            raise ValueError(f"event_votes, event_draws: expected lists of {count} numbers")
        return
    if not votes.shape == draws.shape == (len(table), count):
        raise ValueError(f"event_votes, event_draws: expected lists of {count} numbers")
    if not ((draws >= 1) & (draws <= MAX_DRAWS) & (votes <= draws)).all():
        raise ValueError("event_votes: expected at most as many as event_draws, at least one draw")
    own = np.stack([_filled(table, "votes", -1), _filled(table, "n", -1)], axis=1)
    if not np.array_equal(own, np.stack([votes[:, 0], draws[:, 0]], axis=1)):
        raise ValueError("event_votes: expected those of the row first")


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


def _digest(text: bytes, rows: int) -> bytes:
    return hashlib.sha256(b"%d %s" % (rows, text)).hexdigest().encode()


def write_parquet(table: pa.Table, provenance: Provenance, path: str | PathLike[str]) -> None:
    """Writes a file beside ``path`` and renames it.

    Whatever fails, ``path`` holds what it held before, or all that is new.

    Raises:
        ValueError: the folder does not exist, or ``path`` is one.
        OSError: the disk refuses.
    """
    text = provenance.to_json().encode()
    unused = [name for name in _OPTIONAL if table[name].null_count == len(table)]
    stored = table.drop_columns(unused).replace_schema_metadata(
        {_METADATA_KEY: text, _DIGEST_KEY: _digest(text, len(table))}
    )
    with replacing(path) as file:
        pq.write_table(stored, file, write_page_checksum=True)


def _require_possible(about: pq.FileMetaData, size: int) -> None:
    """Raises where a file of some bytes has more rows, or other columns, than any certificates of that size.

    Columns that repeat a value take next to nothing in a file and all their room in memory: a few kB could claim 10^9 rows.
    The lengths of lists are not looked at: pyarrow ends the process where what it says of a column is damaged.
    """
    unknown = [name for name in about.schema.to_arrow_schema().names if name not in SCHEMA.names]
    if unknown:  # of any type, and not needed
        raise ValueError(
            f"expected the columns {', '.join(SCHEMA.names)}, got {', '.join(unknown)}"
        )
    require_rows(about, size)


def require_rows(about: pq.FileMetaData, size: int) -> None:
    """Raises where a file of some bytes claims more rows than any table of that size has."""
    if about.num_rows > _FEW_ROWS + _ROWS_A_BYTE * size:
        raise ValueError(f"it claims {about.num_rows} rows in {size} bytes")


def holds_certificates(path: str | PathLike[str]) -> bool:
    """Whether a Parquet file has a provenance of certcal_ext; True where only ``read_parquet`` can say what it is."""
    try:
        with pq.ParquetFile(path) as file:
            return _METADATA_KEY in (file.metadata.metadata or {})
    except (pa.ArrowException, OSError, ValueError):
        return True


def read_parquet(path: str | PathLike[str]) -> tuple[pa.Table, Provenance]:
    """Reads what ``write_parquet`` wrote; the content is not validated yet.

    Raises:
        ValueError: the file is missing, truncated, damaged, no Parquet file, or not one of
            certificates.
    """
    expected = "expected a Parquet file of certificates"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            # The key alone, not its text: of that there are two copies, and a table has the right one.
            if _METADATA_KEY in (file.metadata.metadata or {}):
                _require_possible(file.metadata, os.path.getsize(path))
                table = file.read()
            else:
                table = pa.table({})
        # Names are decoded when they are first looked at.
        names, metadata = table.schema.names, table.schema.metadata or {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path}: {expected}, but it cannot be read: {error}") from error
    if _METADATA_KEY not in metadata:
        raise ValueError(
            f"{path}: {expected}, got one without the provenance that certcal_ext writes"
        )
    stored = metadata[_METADATA_KEY]
    expected_digest = _digest(stored, len(table))
    if metadata.get(_DIGEST_KEY, expected_digest) != expected_digest:
        raise ValueError(f"{path}: {expected}, but its provenance or its number of rows is damaged")
    try:
        provenance = Provenance.from_json(stored)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {expected}: {error}") from error
    table = table.replace_schema_metadata(None).combine_chunks()
    for name in _LATER:
        if name not in names:
            table = table.append_column(
                SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type)
            )
    if sorted(table.schema.names) == sorted(
        SCHEMA.names
    ):  # some of the later ones may have been left out
        table = table.select(SCHEMA.names)
    return table, provenance
