# SPDX-License-Identifier: MIT
"""Shards: what one unit's draws gave, as a Parquet file that says itself whether it is whole."""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from certcal_ext.runs.units import Unit
from certcal_ext.smoothing.draws import Request
from certcal_ext.smoothing.sampling import Counts
from certcal_ext.smoothing.votes import ScoreHistogram

_KEY = b"certcal_shard"
_FORMAT = 1
_DIGITS = 32  # of the SHA-256 in a shard's name

#: Name of the request, unit, digest.
SHARD_NAME = re.compile(rf"[a-z0-9-]+\.r\d+-\d+\.d\d+-\d+\.[0-9a-f]{{{_DIGITS}}}\.parquet")


class DamagedShard(Exception):
    """Not the bytes that were written."""


def shard_bytes(run: str, request: Request, unit: Unit, counts: Counts) -> tuple[str, bytes]:
    """A shard's file.

    Args:
        run: fingerprint of the run.
        request: that the unit is part of.
        unit: the unit.
        counts: what its draws gave.

    Returns:
        The name, which ends in the digest of the bytes, and the bytes.
    """
    columns = {"sample": request.rows[unit.row : unit.row_end], "votes": counts.votes}
    if counts.scores is not None:
        sums = counts.scores.sums
        columns |= {"scores": counts.scores.counts, "sum_high": sums[:, 0], "sum_low": sums[:, 1]}
    table = pa.table({name: _column(values) for name, values in columns.items()})
    note = {"format": _FORMAT, "run": run, "request": request.digest, "unit": str(unit)}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_KEY: json.dumps(note).encode()}), buffer)
    content = buffer.getvalue()
    return f"{request.name}.{unit}.{_digest(content)}.parquet", content


def shard_of(content: bytes, name: str) -> tuple[dict[str, Any], pa.Table]:
    """What ``shard_bytes`` made.

    Returns:
        What the shard says of itself, and its table.

    Raises:
        DamagedShard: some of it is missing or was changed.
    """
    if name.split(".")[-2] != _digest(content):
        raise DamagedShard(name)
    table = pq.ParquetFile(pa.BufferReader(content)).read()
    note = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
    return note, table


def counts_of(table: pa.Table) -> Counts:
    """The counts of a shard's table."""
    votes = _matrix(table["votes"])
    if "scores" not in table.schema.names:
        return Counts(votes)
    words = [table[name].to_numpy() for name in ("sum_high", "sum_low")]
    return Counts(votes, ScoreHistogram(_matrix(table["scores"]), np.stack(words, axis=1)))


class Total:
    """The sum of a request's units, each counted once.

    Args:
        request: what is wanted.
        units: all of its units, as ``units_of`` cuts it.
        classes: K.

    Example:
        >>> request, unit = Request("votes", np.arange(2), 0, draws=5, group=64), Unit(0, 2, 0, 5)
        >>> total = Total(request, [unit], classes=3)
        >>> total.add(unit, Counts(np.array([[5, 0, 0], [2, 2, 1]])))
        >>> total.counts().votes.tolist()
        [[5, 0, 0], [2, 2, 1]]
    """

    def __init__(self, request: Request, units: list[Unit], classes: int) -> None:
        self._request, self._open = request, set(units)
        size = len(request.rows)
        scores = None
        if request.classes is not None:
            histogram, sums = (np.zeros((size, width), np.int64) for width in (request.bins, 2))
            scores = ScoreHistogram(histogram, sums)
        self._sum = Counts(np.zeros((size, classes), np.int64), scores)

    def add(self, unit: Unit, counts: Counts) -> None:
        """Adds the counts of a unit.

        Raises:
            ValueError: no unit of the request or one that was added before, or counts that are not those of its draws.
        """
        draws, what = unit.draw_end - unit.draw, f"{self._request.name}.{unit}"
        if unit not in self._open:
            raise ValueError(f"{what}: expected each unit once, and only those of the request")
        rows = slice(unit.row, unit.row_end)
        self._require(counts.votes, self._sum.votes[rows], draws, f"{what}: votes")
        if self._sum.scores is not None:
            if counts.scores is None:
                raise ValueError(f"{what}: expected scores, got votes only")
            own, total = counts.scores, self._sum.scores
            self._require(own.counts, total.counts[rows], draws, f"{what}: scores")
            total.counts[rows] += own.counts
            total.sums[rows] += own.sums
        self._sum.votes[rows] += counts.votes
        self._open.remove(unit)

    def counts(self) -> Counts:
        """The sums.

        Raises:
            ValueError: units are missing.
        """
        if self._open:
            raise ValueError(
                f"{self._request.name}: {len(self._open)} units are missing, first {min(self._open)}"
            )
        return self._sum

    @staticmethod
    def _require(counts: NDArray[Any], place: NDArray[Any], draws: int, what: str) -> None:
        if counts.shape != place.shape or (counts.sum(axis=1) != draws).any() or counts.min() < 0:
            raise ValueError(f"{what}: expected {draws} in each of {len(place)} rows")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _column(values: NDArray[np.int64]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(np.ascontiguousarray(values))
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.int64]:
    flat = column.combine_chunks().flatten().to_numpy()
    return np.array(flat, np.int64).reshape(len(column), -1)
