# SPDX-License-Identifier: MIT
"""Certificates as data frames of pandas or polars, and out of them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pyarrow as pa

from certcal_ext import _check
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.table import SCHEMA

__all__ = ["from_frame", "to_pandas", "to_polars"]

_INTERVALS = ("correct", "lower", "upper")
_BESIDE_INTERVALS = ("confidence", "labels", "predicted")
_ATTRIBUTE = "certcal"


def to_pandas(certificates: Certificates) -> Any:
    """The table, one row a sample; whole numbers and booleans stay so where values are missing.

    Args:
        certificates: the certificates.

    Returns:
        ``pandas.DataFrame`` with the columns of ``Certificates.table``; its ``attrs["certcal"]`` holds the provenance, so
        that ``from_frame`` can read it back.

    Raises:
        TypeError: no ``Certificates``.
        ImportError: pandas is missing.
    """
    _require(certificates)
    pandas = _library("pandas")
    nullable = {pa.int64(): pandas.Int64Dtype(), pa.bool_(): pandas.BooleanDtype()}
    frame = certificates.table.to_pandas(types_mapper=nullable.get)
    frame.attrs[_ATTRIBUTE] = certificates.provenance.to_json()
    return frame


def to_polars(certificates: Certificates) -> Any:
    """The table, one row a sample.

    Args:
        certificates: the certificates.

    Returns:
        ``polars.DataFrame`` with the columns of ``Certificates.table``. polars keeps nothing beside the columns: hold the
        provenance yourself, and give it to ``from_frame``.

    Raises:
        TypeError: no ``Certificates``.
        ImportError: polars is missing.
    """
    _require(certificates)
    return _library("polars").from_arrow(certificates.table)


def from_frame(
    frame: Any,
    *,
    provenance: Provenance | None = None,
    sigma: float | None = None,
    alpha: float = 1e-3,
    radius: float | None = None,
) -> Certificates:
    """Certificates from a data frame of pandas or polars (or an Arrow table), by the columns that it has.

    * the columns of ``Certificates.table``: what ``to_pandas`` or ``to_polars`` made, with all its rows or some;
    * ``correct``, ``lower``, ``upper`` and, where they are known, ``confidence``, ``labels``, ``predicted``: another
      verifier's intervals (``Certificates.from_intervals``);
    * ``votes``, ``n``, ``predicted`` and, where they are known, ``labels`` and ``index``: votes for each sample's own class,
      selected by separate draws (``Certificates.from_votes``).

    Other columns are passed over.

    Args:
        frame: the data.
        provenance: of a whole table; None takes what ``to_pandas`` stored.
        sigma: standard deviation of the noise, for votes.
        alpha: failure probability of an interval, for votes.
        radius: l2 radius at which intervals hold, for intervals; None: at whatever radius is asked for.

    Returns:
        ``Certificates``, checked as from any other source.

    Raises:
        TypeError: no data frame, or a column of the wrong kind.
        ValueError: columns that are none of the three, missing values, or values that contradict each other.

    Example:
        >>> frame = pa.table({"correct": [True, False], "lower": [0.8, 0.5], "upper": [0.9, 0.6]})
        >>> from_frame(frame, radius=0.5).brier(0.5).round(3)
        array([0.2])
    """
    table = _to_arrow(frame)
    names = set(table.schema.names)
    if names and not table.num_rows:
        raise ValueError("frame: expected at least one sample, got none")
    if {"p_lower", "p_upper", "index"} <= names:
        return _whole(table, provenance or _stored(frame))
    if set(_INTERVALS) <= names:
        correct, lower, upper = (_values(table, name) for name in _INTERVALS)
        beside: dict[str, Any] = {
            name: _values(table, name) for name in _BESIDE_INTERVALS if name in names
        }
        return Certificates.from_intervals(correct, lower, upper, radius, **beside)
    if {"votes", "n", "predicted"} <= names:
        if sigma is None:
            raise ValueError("sigma: expected a number, as the frame holds votes")
        labels = _values(table, "labels") if "labels" in names else None
        index = _values(table, "index") if "index" in names else None
        votes, draws, predicted = (_values(table, name) for name in ("votes", "n", "predicted"))
        return Certificates.from_votes(votes, draws, predicted, labels, sigma, alpha, index=index)
    raise ValueError(
        "frame: expected the columns of certificates, or correct, lower and upper, or votes, n and "
        f"predicted, got {', '.join(table.schema.names) or 'none'}"
    )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'to_{name} needs {name}: pip install "certcal_ext[{name}]"') from error


def _to_arrow(frame: Any) -> pa.Table:
    if isinstance(frame, pa.Table):
        return frame
    # By the name of its library, so that neither has to be installed.
    library = type(frame).__module__.partition(".")[0]
    try:
        if library == "pandas" and type(frame).__name__ == "DataFrame":
            return pa.Table.from_pandas(frame, preserve_index=False)
        if library == "polars" and type(frame).__name__ == "DataFrame":
            return frame.to_arrow()
    except pa.ArrowException as error:
        raise TypeError(f"frame: expected columns of numbers: {error}") from error
    raise TypeError(
        f"frame: expected a DataFrame of pandas or polars, or an Arrow table, got {type(frame).__name__}"
    )


def _stored(frame: Any) -> Provenance:
    text = getattr(frame, "attrs", {}).get(_ATTRIBUTE)
    if text is None:
        raise ValueError(
            "provenance: expected that of the certificates, as the frame does not hold it"
        )
    return Provenance.from_json(text)


def _whole(table: pa.Table, provenance: Provenance) -> Certificates:
    """A table with its columns in their order and types; those that are missing hold nothing."""
    arrays = []
    for field in SCHEMA:
        if field.name not in table.schema.names:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            arrays.append(table[field.name].cast(field.type))
        except pa.ArrowException as error:
            raise TypeError(f"{field.name}: expected {field.type}: {error}") from error
    return Certificates(pa.table(arrays, schema=SCHEMA).combine_chunks(), provenance)


def _values(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    column = table[name]
    if column.null_count:
        raise ValueError(f"{name}: expected a value in every row, {column.null_count} are missing")
    return _check.array(name, column.to_numpy())


def _require(certificates: Any) -> None:
    if not isinstance(certificates, Certificates):
        raise TypeError(f"certificates: expected Certificates, got {type(certificates).__name__}")
