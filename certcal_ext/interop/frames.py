# SPDX-License-Identifier: MIT
"""Certificates as data frames of pandas or polars, and out of them."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pyarrow as pa

from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.file_options import FileOptions
from certcal_ext.certificates.files import of_columns
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.readers import columns_of_arrow
from certcal_ext.certificates.table import SCHEMA

__all__ = ["from_frame", "to_pandas", "to_polars"]

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
    alpha: float | None = None,
    radius: float | None = None,
    norm: Any = None,
    n: int | None = None,
) -> Certificates:
    """Certificates from a data frame of pandas or polars (or an Arrow table), by the columns that it has.

    * the columns of ``Certificates.table``: what ``to_pandas`` or ``to_polars`` made, with all its rows or some;
    * the columns of any table that ``Certificates.from_file`` reads, under the same names: another verifier's intervals
      (``correct``, ``lower``, ``upper``), votes for each sample's own class (``votes``, ``n``, ``predicted``), or a
      certification log (``label``, ``predict``, ``radius``).

    Args:
        frame: the data.
        provenance: of a whole table; None takes what ``to_pandas`` stored.
        sigma: standard deviation of the noise, for votes and logs.
        alpha: failure probability of an interval, for votes and logs; 0.001 where not given.
        radius: size of the attacks that intervals hold against; None: at whatever radius is asked for.
        norm: the norm of that size; None: no sentence names one.
        n: draws, for logs.

    Returns:
        ``Certificates``, checked as from any other source.

    Raises:
        TypeError: no data frame, or a column of the wrong kind.
        ValueError: columns that are none of these, missing values, or values that contradict each other.

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
        stored = provenance or _stored(frame)
        if stored is not None:
            return _whole(table, stored)
    options = FileOptions(sigma=sigma, n=n, alpha=alpha, interval_radius=radius, interval_norm=norm)
    try:
        rows, made = of_columns(columns_of_arrow(table), "frame", options)
    except ValueError as error:
        said = str(error) if str(error).startswith("frame") else f"frame: {error}"
        lost = "; or give the provenance= of the certificates" if "p_lower" in names else ""
        raise ValueError(said + lost) from error
    return Certificates(rows, dataclasses.replace(made, source=None))


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


def _stored(frame: Any) -> Provenance | None:
    text = getattr(frame, "attrs", {}).get(_ATTRIBUTE)
    return None if text is None else Provenance.from_json(text)


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


def _require(certificates: Any) -> None:
    if not isinstance(certificates, Certificates):
        raise TypeError(f"certificates: expected Certificates, got {type(certificates).__name__}")
