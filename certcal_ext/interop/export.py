# SPDX-License-Identifier: MIT
"""Certificates written for others: the field's tab-separated log, CSV, JSON, Parquet, or the options of the run."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from certcal_ext._files import replacing
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.evidence import NOT_OF_VOTES, SHARED_DRAWS, selected_by_estimation
from certcal_ext.certificates.guarantee import certified_radii
from certcal_ext.certificates.table import numbers

__all__ = ["FORMATS", "certified_radii", "export", "read_back_alpha", "write_log"]

#: Endings that ``export`` knows.
FORMATS = (".tsv", ".csv", ".json", ".parquet", ".toml")

_LOG = ("idx", "label", "predict", "radius", "correct", "time")
_DIGITS, _LARGEST = Decimal("0.000001"), 1e9  # the largest stands for a radius without end


def write_log(certificates: Certificates, path: str | os.PathLike[str]) -> None:
    """The certification log of Cohen et al.: idx, label, predict, radius, correct, time, separated by tabs.

    Radii have six decimals, rounded down, so that each is still certified. A sample that abstains has predict -1 and
    radius 0, and counts as wrong. No times are known, so they are 0:00:00.

    ``Certificates.from_cohen_log`` reads it back with sigma, n and :func:`read_back_alpha`; the intervals that it gives
    hold those that were written. A last column, ``note``, says where the class was selected by the draws that estimate it,
    which is then known again, and where radii do not stand for votes of one number of draws: such a log is refused.

    Args:
        certificates: with labels, and with draws behind them.
        path: file to write.

    Raises:
        ValueError: there are no labels, or another verifier's intervals; or the folder does not exist.
        OSError: the file cannot be written.
    """
    radii = certified_radii(certificates)
    labels, table = numbers(certificates.table, "label"), certificates.table
    note = None
    if read_back_alpha(certificates) is None:
        note = NOT_OF_VOTES
    elif selected_by_estimation(certificates.provenance):
        note = SHARED_DRAWS
    if labels is None:
        raise ValueError("labels: a certification log needs them, and there are none")
    predicted = table["predicted"].fill_null(-1).to_numpy()
    lines = ["\t".join(_LOG if note is None else (*_LOG, "note"))]
    end = "" if note is None else f"\t{note}"
    for index, label, chosen, radius in zip(
        table["index"].to_pylist(), labels.tolist(), predicted.tolist(), radii.tolist(), strict=True
    ):
        certified = radius >= 0 and chosen >= 0
        printed = (
            Decimal(min(radius, _LARGEST)).quantize(_DIGITS, ROUND_DOWN)
            if certified
            else Decimal(0)
        )
        shown = chosen if certified else -1
        cells = f"{index}\t{label}\t{shown}\t{printed:.6f}\t{int(shown == label)}\t0:00:00"
        lines.append(cells + end)
    _write(path, "\n".join(lines) + "\n")


def read_back_alpha(certificates: Certificates) -> float | None:
    """The alpha with which a log written from votes is read back.

    A log's bound is one-sided. That of a row here is the lower end of a two-sided interval, which spends half of alpha.

    Args:
        certificates: that were written.

    Returns:
        The alpha; None where the radii do not stand for votes of one number of draws (scores, early stopping, runner-up
        bounds, another log), so that the log must not be read back as if they did.
    """
    made = certificates.provenance
    draws = numbers(certificates.table, "n")
    if made.kind != "votes" or made.stopping is not None or made.alpha is None or draws is None:
        return None
    runner_up = certificates.table["runner_up_upper"].null_count < len(certificates)
    return None if runner_up or (draws != draws[0]).any() else made.alpha / 2


def export(certificates: Certificates, path: str | os.PathLike[str]) -> Path:
    r"""Writes certificates in the form that the file's ending names.

    * ``.tsv``: the field's certification log, see :func:`write_log`;
    * ``.csv``: the table without its lists (votes of all classes, histograms of scores), an empty cell where there is
      nothing, numbers with all their digits;
    * ``.json``: the provenance and the rows;
    * ``.parquet``: what ``Certificates.from_parquet`` reads;
    * ``.toml``: the options of the run that made them, for ``--config``.

    Args:
        certificates: the certificates.
        path: file to write; an existing one is replaced, and whatever fails, it stays as it was.

    Returns:
        The path.

    Raises:
        ValueError: another ending, or what the form needs is missing; or the folder does not exist.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> certificates = Certificates.from_votes([990, 500], 1000, [0, 0], [0, 0], sigma=0.25)
        >>> path = export(certificates, Path(tempfile.mkdtemp()) / "log.tsv")
        >>> print(path.read_text().splitlines()[1].replace("\t", " "))
        0 0 0 0.489719 1 0:00:00
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind == ".tsv":
        write_log(certificates, target)
    elif kind == ".csv":
        _write(target, _csv(certificates.table))
    elif kind == ".json":
        stored = {
            "provenance": json.loads(certificates.provenance.to_json()),
            "rows": [_finite(row) for row in certificates.table.to_pylist()],
        }
        _write(target, json.dumps(stored, indent=1, allow_nan=False) + "\n")
    elif kind == ".parquet":
        certificates.to_parquet(target)
    elif kind == ".toml":
        if certificates.provenance.options is None:
            raise ValueError("options: the certificates hold none; those of certcal certify do")
        _write(target, certificates.provenance.options)
    else:
        raise ValueError(f"path: expected a file ending in {', '.join(FORMATS)}, got {target.name}")
    return target


def _csv(table: pa.Table) -> str:
    names = [field.name for field in table.schema if not pa.types.is_list(field.type)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in table.select(names).to_pylist():
        writer.writerow(["" if row[name] is None else repr(row[name]) for name in names])
    return text.getvalue()


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def _write(path: str | os.PathLike[str], text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
