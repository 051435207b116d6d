# SPDX-License-Identifier: MIT
"""Readers of what others have stored: vote counts, certification logs, and tables of any form."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from decimal import Decimal
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from certcal_ext._file_kinds import what_it_seems
from certcal_ext._npz import read_npz
from certcal_ext._text_table import TextTable, parse_table, read_text
from certcal_ext.certificates.columns import Columns, kind_of, role_of
from certcal_ext.certificates.logs import CohenLog, log_of, votes_of_radius
from certcal_ext.certificates.stored_votes import ROLES, VoteCounts, counts_matrix, votes_of_arrays
from certcal_ext.certificates.table import require_rows

__all__ = [
    "CohenLog",
    "VoteCounts",
    "columns_of_json",
    "counts_matrix",
    "read_cohen_log",
    "read_columns",
    "read_counts",
    "votes_of_radius",
]

_LOG_HEADER = "idx, label, predict, radius, correct"
_MOST_CELLS = 2**26


def read_counts(path: str | PathLike[str], labels_key: str | None = None) -> VoteCounts:
    """Reads vote counts from an ``.npz`` file.

    Args:
        path: file with the array ``counts`` (N, K) and, where they are known, labels (N,) as ``label``, ``labels``, ``y`` or
            ``targets``, ``index``, ``sigma``, ``alpha`` and ``n``. Whole numbers may be stored as floats, labels as (N, 1)
            or one-hot rows. Rows may have sums of their own.
        labels_key: name of the labels, where it is another one.

    Returns:
        ``VoteCounts``.

    Raises:
        ValueError: the file is missing, truncated, no ``.npz`` file or without ``counts``; ``n`` is
            not the sum of a row; no array is named as labels are, and one may be the labels.

    Example:
        >>> import tempfile, numpy as np
        >>> path = os.path.join(tempfile.mkdtemp(), "votes.npz")
        >>> np.savez(path, counts=[[90, 10], [20, 80]], label=[0, 1], sigma=0.25)
        >>> read_counts(path).sigma
        0.25
    """
    expected = "expected an .npz file with the array counts (N, K)"
    try:
        _, names = read_npz(path, ())
        small = [name for name in names if role_of(name) in (*ROLES, None) or name == labels_key]
        arrays, _ = read_npz(path, small)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {expected}, but it cannot be read: {error}") from error
    try:
        return votes_of_arrays(arrays, labels_key)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_cohen_log(path: str | PathLike[str]) -> CohenLog:
    """Reads a certification log in the form of Cohen et al.'s ``certify.py`` (ICML 2019), or a dialect of it.

    A table in text with a header that names at least the label, the predicted class and the radius. Columns may be separated
    by tabs, commas, semicolons, bars or spaces; the text may be UTF-8 or UTF-16, packed with gzip, have comments, a column
    of row numbers in front and a summary at the end. Numbers such as 8.0 are whole. How far a printed radius can lie from
    the computed one is found from its digits (see ``printed_half_widths``). Columns of times and of results are passed over;
    those that say how rows were made are used or refused, and so are columns that are not known.

    Args:
        path: the log.

    Returns:
        ``CohenLog``.

    Raises:
        ValueError: the file is missing, empty, no such log, or broken off; the row (from 0) and
            line (from 1) are named.
    """
    expected = f"expected a certification log, a table with a header such as {_LOG_HEADER}"
    try:
        if not os.path.isfile(path):
            raise FileNotFoundError("there is no such file")
        columns = _text_columns(read_text(path), lambda names: kind_of(names) == "log")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a certification log, but it cannot be read: {error}"
        ) from error
    if columns is None:
        raise ValueError(f"{path}: {expected}; it seems to be {what_it_seems(path)}")
    try:
        return log_of(columns)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_columns(path: str | PathLike[str]) -> Columns:
    r"""Reads a table of any form that others write: text, JSON, ``.npz`` or Parquet.

    Args:
        path: the file.

    Returns:
        Its columns. Numbers that stood beside the columns are columns that are equal in every row.

    Raises:
        OSError: the file cannot be opened.
        ValueError: no such table. The caller names the file.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.csv"
        >>> _ = path.write_text("correct,lower,upper\n1,0.5,0.75\n")
        >>> read_columns(path).reals("upper")
        array([0.75])
    """
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        return _parquet_columns(path)
    if magic[:2] == b"PK":
        return _npz_columns(path)
    text = read_text(path)
    if text.lstrip()[:1] in ("{", "["):
        return columns_of_json(_json(text))
    columns = _text_columns(text, lambda names: kind_of(names) is not None)
    if columns is None:
        raise ValueError(f"it seems to be {what_it_seems(path)}")
    return columns


# ---- text -------------------------------------------------------------------------------------------------------------


def _text_columns(text: str, known: Any) -> Columns | None:
    table = parse_table(text, known)
    if table is None:
        return None
    _fit_rows(table)
    by_name: dict[str, list[str]] = {}
    for name, cells in zip(
        table.names, zip(*table.rows, strict=True) if table.rows else [], strict=False
    ):
        if not name and not any(cells):
            continue  # a separator at the end of every line
        if name in by_name:
            raise ValueError(f"column {name!r}: expected it once, and it is there twice")
        by_name[name] = list(cells)
    if not table.rows:
        by_name = {name: [] for name in table.names}
    return Columns(by_name, table.lines, table.notes, decimal_comma=table.separator == ";")


def _fit_rows(table: TextTable) -> None:
    """Brings every row to the length of the header; what is missing or too much may only belong to unused columns."""
    width = len(table.names)
    used = [at for at, name in enumerate(table.names) if role_of(name) is not None]
    needed = max(used, default=-1) + 1
    free_end = width > needed
    for row, cells in enumerate(table.rows):
        if len(cells) > width:
            surplus = cells[width:]
            if not free_end and any(surplus):
                raise ValueError(
                    f"row {row} (line {table.lines[row]}): expected {width} columns, got {len(cells)}"
                )
            if free_end:  # 1 day, 2:00:14
                cells[width - 1] = " ".join(cells[width - 1 :])
            del cells[width:]
        if len(cells) < needed or (len(cells) < width and not cells[needed - 1]):
            raise ValueError(
                f"row {row} (line {table.lines[row]}): expected {width} columns, got {len(cells)}; is the file cut off?"
            )
        cells += [""] * (width - len(cells))


# ---- JSON -------------------------------------------------------------------------------------------------------------


def _json(text: str) -> Any:
    """JSON, or one JSON value a line; numbers with a point keep their digits."""
    try:
        return json.loads(text, parse_float=Decimal)
    except RecursionError as error:
        raise ValueError("it is JSON that is nested too deep") from error
    except ValueError as error:
        try:
            return [
                json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()
            ]
        except (ValueError, RecursionError):
            raise ValueError(f"it seems to be JSON and is damaged: {error}") from error


def columns_of_json(value: Any) -> Columns:
    """Columns of a JSON value: records, or lists by name, or as pandas writes them, with single values beside.

    Args:
        value: as parsed.

    Returns:
        The columns.

    Raises:
        ValueError: nothing of the kind.

    Example:
        >>> columns_of_json({"norm": "linf", "rows": [{"lower": 0.1}, {"lower": 0.2}]}).texts("norm")
        ['linf', 'linf']
    """
    beside: dict[str, Any] = {}
    if isinstance(value, dict):
        if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
            names = [str(name) for name in value["columns"]]
            good = [
                row for row in value["data"] if isinstance(row, list) and len(row) == len(names)
            ]
            if len(good) != len(value["data"]):
                raise ValueError(
                    f"data: expected {len(names)} values in every row, as columns says"
                )
            value = [dict(zip(names, row, strict=True)) for row in good]
        else:
            beside = {name: one for name, one in value.items() if not isinstance(one, list | dict)}
            inside = {
                name: one for name, one in value.items() if isinstance(one, list | dict) and one
            }
            records = [
                one for one in inside.values() if isinstance(one, list) and isinstance(one[0], dict)
            ]
            nested = [
                one for one in inside.values() if isinstance(one, dict) and kind_of(one) is not None
            ]
            if len(records) == 1:
                value = records[0]
            elif len(nested) == 1:
                value = nested[0]
            else:
                value = inside
    if isinstance(value, list):
        if not value or not all(isinstance(row, dict) for row in value):
            raise ValueError("it is JSON, and neither a list of records nor lists by name")
        names = list(dict.fromkeys(name for row in value for name in row))
        cells = {name: [row.get(name) for row in value] for name in names}
    else:
        cells = {
            str(name): list(one.values()) if isinstance(one, dict) else list(one)
            for name, one in value.items()
        }
    return _one_length(cells, beside)


def _one_length(cells: Mapping[str, Any], beside: Mapping[str, Any]) -> Columns:
    """Columns of one length; what is one value for all rows becomes a column."""
    named = {name: len(one) for name, one in cells.items() if role_of(name) is not None}
    rows = max(named.values(), default=0)
    if not rows:
        raise ValueError(f"it holds {', '.join([*cells, *beside][:20]) or 'nothing'}")
    if rows * (len(cells) + len(beside)) > _MOST_CELLS:
        raise ValueError(
            f"it holds {rows} rows of {len(cells) + len(beside)} columns, which is too much"
        )
    result: dict[str, Any] = {}
    for name, one in cells.items():
        if len(one) == rows:
            result[name] = one
        elif name in named and len(one) != 1:
            raise ValueError(
                f"{name}: expected {rows} values, as the longest column has, got {len(one)}"
            )
        elif len(one) == 1 and name in named:
            result[name] = [one[0]] * rows
    for name, single in beside.items():
        if role_of(name) is not None and name not in result and single is not None:
            result[name] = [single] * rows
    return Columns(result)


# ---- arrays -----------------------------------------------------------------------------------------------------------


def _npz_columns(path: str | PathLike[str]) -> Columns:
    _, names = read_npz(path, ())
    if kind_of(names) is None:
        raise ValueError(f"it seems to be {what_it_seems(path)}")
    arrays, _ = read_npz(path, names if kind_of(names) == "log" else _with_roles(names))
    beside = {name: one.item() for name, one in arrays.items() if one.ndim == 0}
    cells: dict[str, NDArray[Any]] = {}
    for name, one in arrays.items():
        if one.ndim and one.dtype.kind in "biufU":
            cells[name] = one.reshape(-1) if one.ndim == 2 and one.shape[1] == 1 else one
    flat = {name: one for name, one in cells.items() if one.ndim == 1}
    deep = [name for name in cells if name not in flat and role_of(name) is not None]
    if deep:
        raise ValueError(f"{deep[0]}: expected shape (N,), got {cells[deep[0]].shape}")
    return _one_length(flat, beside)


def _with_roles(names: Collection[str]) -> list[str]:
    return [name for name in names if role_of(name) is not None]


def _parquet_columns(path: str | PathLike[str]) -> Columns:
    """Columns of numbers, truths and texts; lists are left out, as what a damaged file says of them cannot be checked."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            require_rows(file.metadata, os.path.getsize(path))
            schema = file.schema_arrow
            names = [field.name for field in schema if _plain_type(field.type)]
            if kind_of(names) is None:
                raise ValueError(f"it is a Parquet file of the columns {', '.join(schema.names)}")
            kept = names if kind_of(names) == "log" else _with_roles(names)
            table = file.read(columns=kept)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it is a Parquet file and cannot be read: {error}") from error
    return columns_of_arrow(table)


def _plain_type(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def columns_of_arrow(table: pa.Table) -> Columns:
    """Columns of an Arrow table, without those of lists and other structures.

    Args:
        table: the table.

    Returns:
        The columns.

    Example:
        >>> columns_of_arrow(pa.table({"lower": [0.5, None]})).texts("lower")
        ['0.5', '']
    """
    cells: dict[str, Any] = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        if not _plain_type(column.type):
            continue
        whole = pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
        # Of float32 NumPy prints the digits that were meant; a missing one is NaN there.
        plain = pa.types.is_floating(column.type) or (whole and not column.null_count)
        cells[name] = column.to_numpy() if plain else column.to_pylist()
    return Columns(cells)
