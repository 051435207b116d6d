# SPDX-License-Identifier: MIT
"""Any file that certificates can be made of, told by its content: the one way in for the command line and for Python."""

from __future__ import annotations

import dataclasses
import json
import os
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from certcal_ext._npz import read_npz
from certcal_ext._text_table import read_text
from certcal_ext.certificates import from_draws, from_others
from certcal_ext.certificates.columns import Columns, kind_of
from certcal_ext.certificates.evidence import SHARED_DRAWS
from certcal_ext.certificates.file_options import FileOptions
from certcal_ext.certificates.from_draws import DEFAULT_ALPHA, Parts
from certcal_ext.certificates.logs import log_of
from certcal_ext.certificates.provenance import Provenance, norm_name
from certcal_ext.certificates.readers import read_columns, read_counts
from certcal_ext.certificates.stored_votes import votes_of_arrays
from certcal_ext.certificates.table import SCHEMA, holds_certificates, read_parquet, validate

_LOOKED_FOR = (
    "expected certificates (Parquet), vote counts (.npz with counts, labels and sigma), a certification log (a table with "
    "label, predict and radius), or intervals of another verifier (a table with correct, lower and upper)"
)
_WAY_OUT = "keep certificates as Parquet (to_parquet, certcal certify --out), which holds it"
#: Where pandas stores what ``to_pandas`` put beside a frame.
_PANDAS, _ATTRIBUTE = b"PANDAS_ATTRS", "certcal"
#: Ends may differ so much from those of their votes: a tool may have rounded them.
_CLOSE = 1e-5


def file(path: str | PathLike[str], **options: Any) -> Parts:
    r"""Certificates from any file that they can be made of, told by its content.

    * certificates: Parquet, the JSON of ``export``, or a frame of ``to_pandas`` that pandas wrote;
    * vote counts: ``.npz`` (see ``readers.read_counts``), JSON;
    * a certification log in any dialect (see ``readers.read_cohen_log``);
    * intervals of another verifier: a table with ``correct`` (or ``label`` and ``predicted``), ``lower`` and ``upper``, as
      CSV, TSV, JSON, ``.npz`` or Parquet, of pandas and polars too;
    * votes for each row's own class: a table with ``votes``, ``n`` and ``predicted``;
    * the CSV of ``export``, which has lost its provenance: ``sigma`` (and ``alpha``) give it back.

    Args:
        path: the file.
        **options: what the file does not say, see ``FileOptions``: ``sigma``, ``n``, ``alpha``, ``interval_radius``,
            ``interval_norm``, ``labels_key``, ``runner_up``, ``keep_counts``, ``split``, ``split_seed``.

    Returns:
        ``Certificates``.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: an option that does not exist, or of the wrong kind.
        ValueError: a file of no such kind, which the message names; an option that is missing, contradicts the file, or has
            no use for it; values that contradict each other.

    Warns:
        UserWarning: more samples abstain than are certified.

    Example:
        >>> import pathlib, tempfile
        >>> from certcal_ext import Certificates
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "verified.csv"
        >>> _ = path.write_text("correct,lower,upper\n1,0.8,0.9\n0,0.5,0.6\n")
        >>> made = Certificates.from_file(path, interval_norm="linf", interval_radius=8 / 255)
        >>> made.brier(8 / 255).round(3)
        array([0.2])
    """
    known = FileOptions(**options)
    if not os.path.isfile(path):
        what = "it is a folder" if os.path.isdir(path) else "no such file"
        raise FileNotFoundError(f"{path}: {what}")
    try:
        table, made = _parts(path, known)
        validate(table, made)
    except (TypeError, ValueError) as error:
        said = str(error)
        raise type(error)(said if os.fspath(path) in said else f"{path}: {said}") from error
    return table, made


def _parts(path: str | PathLike[str], options: FileOptions) -> Parts:
    with open(path, "rb") as file:
        magic = file.read(4)
    own = "a file of certificates has its own"
    if magic == b"PAR1" and holds_certificates(path):
        options.refuse(own, "sigma", "n", "alpha", "interval_radius", "interval_norm", "labels_key")
        options.refuse("a file of certificates was made with or without it", "runner_up", "split")
        return read_parquet(path)
    if _is_npz(path, magic) and _npz_kind(path) in ("counts", "damaged"):
        return _of_counts(read_counts(path, options.labels_key), path, options)
    try:
        whole = None if magic[:2] == b"PK" or magic == b"PAR1" else _whole_json(path)
        columns = read_columns(path) if whole is None else None
    except (OSError, ValueError) as error:
        raise ValueError(f"{_LOOKED_FOR}; {error}") from error
    if whole is not None:
        options.refuse(own, "sigma", "n", "alpha", "interval_radius", "interval_norm")
        return whole
    assert columns is not None
    stored = _stored_by_pandas(path) if magic == b"PAR1" else None
    return of_columns(columns, path, options, stored)


def of_columns(
    columns: Columns,
    path: str | PathLike[str],
    options: FileOptions,
    stored: Provenance | None = None,
) -> Parts:
    """Table and provenance from columns, by what they are called.

    Args:
        columns: of any table.
        path: what they came from, for the provenance.
        options: what they do not say.
        stored: the provenance of a whole table, where it is known.

    Returns:
        The table and its provenance.

    Raises:
        TypeError: a value of the wrong kind.
        ValueError: columns that certificates cannot be made of, an option that is missing or has no use, or values that
            contradict each other.
    """
    kind = kind_of(columns.cells)
    if not len(columns):
        raise ValueError("expected at least one row of values, got none")
    if kind == "log" and columns.has("lower"):
        raise ValueError(
            "a table with radius, lower and upper, and without correct, is neither a log nor intervals"
        )
    if kind != "intervals":
        options.refuse(
            "only intervals of another verifier need it", "interval_radius", "interval_norm"
        )
    if kind != "counts":
        options.refuse(
            "only counts of all classes have a use for it", "runner_up", "split", "labels_key"
        )
    if kind == "certificates":
        return _of_certificates(columns, options, path, stored)
    if kind == "intervals":
        return _of_intervals(columns, options, path)
    if kind == "votes":
        return _of_votes(columns, options, path)
    if kind == "counts":
        return _of_counts(votes_of_arrays(_plain(columns), options.labels_key), path, options)
    if kind == "log":
        return from_others.of_log(log_of(columns), path, options.sigma, options.n, options.alpha)
    raise ValueError(f"{_LOOKED_FOR}; got the columns {', '.join(columns.cells) or 'none'}")


def _plain(columns: Columns) -> dict[str, Any]:
    """Arrays of votes: what is one number for all rows is one number."""
    arrays: dict[str, Any] = {}
    for name, cells in columns.cells.items():
        try:
            array = np.array(cells)
        except ValueError as error:  # rows of other lengths
            raise ValueError(f"{name}: expected as many values in every row") from error
        if array.dtype.kind == "O":
            array = np.array(cells, np.float64)
        single = columns.name("sigma") == name or columns.name("alpha") == name
        arrays[name] = array[:1] if single and np.unique(array).size == 1 else array
    return arrays


def _is_npz(path: str | PathLike[str], magic: bytes) -> bool:
    return magic[:2] == b"PK" or os.fspath(path).endswith(".npz")


def _npz_kind(path: str | PathLike[str]) -> str | None:
    try:
        return kind_of(read_npz(path, ())[1])
    except (OSError, ValueError):
        return "damaged"  # read_counts says how


def _of_counts(stored: Any, path: str | PathLike[str], options: FileOptions) -> Parts:
    options.refuse("only intervals of another verifier need it", "interval_radius", "interval_norm")
    named: from_others.StoredOptions = {
        "runner_up": options.runner_up,
        "keep_counts": options.keep_counts,
        "split": options.split,
        "seed": options.split_seed,
    }
    table, made = from_others.of_stored_votes(stored, path, options.sigma, options.alpha, named)
    draws = int(stored.counts.sum(axis=1).max())
    if options.n not in (None, draws):
        raise ValueError(f"n: {path} says {draws}, got {options.n}")
    return table, made


def _of_intervals(columns: Columns, options: FileOptions, path: str | PathLike[str]) -> Parts:
    options.refuse("intervals of another verifier have none", "sigma", "n", "alpha")
    if columns.has("verified") and not columns.truths("verified").all():
        raise ValueError(
            f"column {columns.name('verified')}: expected only rows that were verified, as each counts as certified; leave "
            "the others out"
        )
    size = _one_of(columns, ("radius", "size"), options.interval_radius, "interval_radius")
    norm = columns.constant("norm") or None
    given = options.interval_norm
    if None not in (given, norm) and norm_name(given) != norm_name(norm):
        raise ValueError(
            f"interval_norm: expected {norm}, as the file says, got {options.interval_norm}"
        )
    norm = given if norm is None else norm
    if norm is not None and size is None:
        raise ValueError(
            f"interval_radius: expected the size in the {norm} norm at which the intervals hold, got None"
        )
    label = columns.wholes("label", 0) if columns.has("label") else None
    predicted = columns.wholes("predicted", 0) if columns.has("predicted") else None
    correct = columns.truths("correct") if columns.has("correct") else label == predicted
    table, made = from_others.intervals(
        correct,
        columns.reals("lower"),
        columns.reals("upper"),
        size,
        columns.reals("confidence") if columns.has("confidence") else None,
        label,
        predicted,
        norm=norm,
        index=columns.wholes("index") if columns.has("index") else None,
    )
    return table, dataclasses.replace(made, source=os.fspath(path), notes=tuple(columns.notes))


def _one_of(
    columns: Columns, roles: tuple[str, ...], given: float | None, what: str
) -> float | None:
    """One number that the file or the caller says."""
    own = None
    for role in roles:
        if columns.has(role):
            values = columns.reals(role)
            if values.min() != values.max() or own not in (None, values[0]):
                raise ValueError(
                    f"column {columns.name(role)}: expected one size for all rows, got {values.min():g} to "
                    f"{values.max():g}; make one file a size"
                )
            own = float(values[0])
    if None not in (own, given) and own != given:
        raise ValueError(f"{what}: expected {own:g}, as the file says, got {given}")
    return given if own is None else own


def _require_draws(columns: Columns, options: FileOptions) -> None:
    most = int(columns.wholes("n").max())
    if options.n not in (None, most):
        raise ValueError(f"n: expected {most}, as the file says, got {options.n}")


def _sigma_alpha(columns: Columns, options: FileOptions, what: str) -> tuple[float, float | None]:
    sigma = _one_of(columns, ("sigma",), options.sigma, "sigma")
    if sigma is None:
        raise ValueError(
            f"{what}; give --sigma, the noise, and --alpha where it was not 0.001 (sigma= and alpha= in Python)"
        )
    return sigma, _one_of(columns, ("alpha",), options.alpha, "alpha")


def _of_votes(columns: Columns, options: FileOptions, path: str | PathLike[str]) -> Parts:
    """Votes for each row's class, which other draws selected."""
    _require_draws(columns, options)
    sigma, alpha = _sigma_alpha(columns, options, "a table of votes that does not say their noise")
    table, made = from_draws.votes(
        columns.wholes("votes"),
        columns.wholes("n"),
        columns.wholes("predicted"),
        columns.wholes("label") if columns.has("label") else None,
        sigma,
        DEFAULT_ALPHA if alpha is None else alpha,
        index=columns.wholes("index") if columns.has("index") else None,
    )
    return table, dataclasses.replace(made, source=os.fspath(path), notes=tuple(columns.notes))


# ---- whole tables -----------------------------------------------------------------------------------------------------


def _of_certificates(
    columns: Columns, options: FileOptions, path: str | PathLike[str], stored: Provenance | None
) -> Parts:
    """The table of certificates as CSV, or through a frame: with its provenance, or what of it the options give back."""
    if stored is not None:
        options.refuse("the file holds the provenance of its certificates", "sigma", "n", "alpha")
        return _table_of(columns), stored
    lost = "the columns of certificates without their provenance, which says how they were made"
    for name, what in (
        ("prediction_lower", "scores"),
        ("runner_up_upper", "a bound on the next class"),
        ("look", "rows that stopped early"),
    ):
        if columns.has(name):
            raise ValueError(
                f"{lost}; with {what} (column {name}) options cannot give it back: {_WAY_OUT}"
            )
    if not columns.has("n"):
        raise ValueError(
            f"{lost}; intervals of another verifier: rename p_lower and p_upper to lower and upper, and give size and norm"
        )
    _require_draws(columns, options)
    sigma, alpha = _sigma_alpha(columns, options, lost)
    if not columns.has("votes"):
        if alpha is None:
            raise ValueError(f"{lost}; from a log, also --alpha (alpha= in Python) is needed")
        n = int(columns.wholes("n", 1).max())
        return _table_of(columns), Provenance(
            kind="log",
            sigma=sigma,
            alpha=alpha,
            n=n,
            source=os.fspath(path),
            notes=tuple(columns.notes),
        )
    risk = DEFAULT_ALPHA if alpha is None else alpha
    table, made = from_draws.votes(
        columns.wholes("votes"),
        columns.wholes("n"),
        columns.wholes("predicted"),
        columns.wholes("label") if columns.has("label") else None,
        sigma,
        risk,
        index=columns.wholes("index") if columns.has("index") else None,
    )
    for end in ("p_lower", "p_upper"):
        apart = np.abs(table[end].to_numpy() - columns.reals(end)) > _CLOSE
        if apart.any():
            row = int(np.argmax(apart))
            raise ValueError(
                f"{end}: the intervals of the file are not those of its votes at alpha = {risk:g} ({columns.where(row)}); "
                "give the right one with --alpha (alpha= in Python)"
            )
    # Whether other draws selected the class is lost too: what is said of shared ones holds in both cases.
    notes = (
        SHARED_DRAWS,
        "the provenance was lost; whether other draws selected the class is not known",
    )
    return table, dataclasses.replace(made, source=os.fspath(path), notes=(*notes, *columns.notes))


def _table_of(columns: Columns) -> pa.Table:
    """The columns in the order and types of certificates; lists are left out, missing cells are nulls."""
    rows, arrays = len(columns), []
    for field in SCHEMA:
        name = None if pa.types.is_list(field.type) else columns.name(field.name)
        if name is None:
            arrays.append(pa.nulls(rows, field.type))
            continue
        texts = columns.texts(field.name)
        there = [row for row, text in enumerate(texts) if text]
        part = Columns({name: [texts[row] for row in there]}, [row + 1 for row in there])
        values: Any = part.truths(field.name) if pa.types.is_boolean(field.type) else None
        if values is None:
            whole = pa.types.is_integer(field.type)
            values = part.wholes(field.name) if whole else part.reals(field.name)
        filled: list[Any] = [None] * rows
        for row, value in zip(there, values.tolist(), strict=True):
            filled[row] = value
        arrays.append(pa.array(filled, field.type))
    return pa.table(arrays, schema=SCHEMA)


def _whole_json(path: str | PathLike[str]) -> Parts | None:
    """What ``export`` wrote as JSON; None where it is something else."""
    text = read_text(path)
    if '"provenance"' not in text or '"rows"' not in text:
        return None
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(stored, dict) or not {"provenance", "rows"} <= stored.keys():
        return None
    made = Provenance.from_json(json.dumps(stored["provenance"]))
    rows = stored["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("rows: expected a list of records")
    try:
        arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in SCHEMA]
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"rows: expected the values of certificates: {error}") from error
    return pa.table(arrays, schema=SCHEMA), made


def _stored_by_pandas(path: str | PathLike[str]) -> Provenance | None:
    """The provenance that ``to_pandas`` put into the frame's ``attrs`` and pandas into its file."""
    with pq.ParquetFile(path) as file:
        text = (file.schema_arrow.metadata or {}).get(_PANDAS)
    try:
        held = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    inner = held.get(_ATTRIBUTE) if isinstance(held, dict) else None
    return Provenance.from_json(inner) if isinstance(inner, str) else None
