# SPDX-License-Identifier: MIT
"""Any sequence of update, merge, state, resume and failed updates gives what all rows at once give, bit for bit.

The model is plain lists of rows. Hypothesis chooses the sequence; several objects live side by side, rows move between
them, and states are saved, added and loaded in between, as processes of a distributed run do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

import certcal_ext as cc

Row = tuple[bool, float, float]

# Edges of the bins, the ends, their neighbours, and numbers between.
_ENDS = st.one_of(
    st.sampled_from(
        [0.0, 1.0, 0.5, 0.2, 0.4, np.nextafter(0.2, 0), np.nextafter(0.4, 1), 5e-324, 1 - 2**-53]
    ),
    st.floats(0, 1),
)
_ROWS = st.lists(
    st.tuples(st.booleans(), _ENDS, _ENDS).map(lambda r: (r[0], min(r[1:]), max(r[1:]))),
    max_size=6,
)
_BAD_ROWS = st.sampled_from(
    [(True, 0.6, 0.5), (False, float("nan"), 0.5), (True, 0.1, 1.5), (False, -0.1, 0.5)]
)


def columns(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    right, lower, upper = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(right, bool), np.array(lower, float), np.array(upper, float)


@dataclass
class Held:
    """An object under test with all rows that it should hold."""

    state: Any
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A class with an ``update``: how it is made, and what all rows at once give."""

    new: Callable[[], Any]
    resumed: Callable[[Any], Any]
    result: Callable[[Any], Any]
    whole: Callable[..., Any]


def _ece(found: Any) -> tuple[float, list[int], int]:
    return found.value, found.signs.tolist(), found.n


def _ks_on_grid(right: Any, lower: Any, upper: Any) -> tuple[float, int]:
    """KsState's definition: ends go outward to multiples of 2^-6, and the value is exact for these."""
    grid = cc.certified_ks(right, np.floor(lower * 64) / 64, np.ceil(upper * 64) / 64)
    return grid.value, grid.n


_THRESHOLDS = [0.2, 0.4, 0.5, 1.0]
_EDGES = [0.0, 0.2, 0.4, 1.0]

KINDS: dict[str, Kind] = {
    "table": Kind(
        lambda: cc.EceTable(bins=5),
        lambda state: cc.EceTable.from_state(state, bins=5),
        lambda held: _ece(held.certify()),
        lambda *rows: _ece(cc.certified_ece(*rows, bins=5)),
    ),
    "ece": Kind(
        lambda: cc.EceState(edges=_EDGES, closed="left"),
        lambda state: cc.EceState.from_state(state, edges=_EDGES, closed="left"),
        lambda held: _ece(held.compute()),
        lambda *rows: _ece(cc.certified_ece(*rows, edges=_EDGES, closed="left")),
    ),
    "brier": Kind(
        cc.BrierState,
        cc.BrierState.from_state,
        lambda held: held.compute(),
        cc.certified_brier,
    ),
    "log loss": Kind(
        lambda: cc.LogLossState(clip=0.01),
        lambda state: cc.LogLossState.from_state(state, clip=0.01),
        lambda held: held.compute(),
        lambda *rows: cc.certified_log_loss(*rows, clip=0.01),
    ),
    "ks": Kind(
        lambda: cc.KsState(bits=6),
        lambda state: cc.KsState.from_state(state, bits=6),
        lambda held: (held.compute().value, held.compute().n),
        _ks_on_grid,
    ),
    "risk": Kind(
        lambda: cc.RiskCoverageState(_THRESHOLDS),
        lambda state: cc.RiskCoverageState.from_state(state, _THRESHOLDS),
        lambda held: [held.compute().risk.tolist(), held.compute().coverage.tolist()],
        lambda *rows: [
            getattr(cc.certified_risk_coverage(*rows, thresholds=_THRESHOLDS), name).tolist()
            for name in ("risk", "coverage")
        ],
    ),
}


class States(RuleBasedStateMachine):
    """Objects of one kind, saved integers, and the rows that are in each."""

    objects: Any = Bundle("objects")
    saved: Any = Bundle("saved")

    @initialize(target=objects, name=st.sampled_from(sorted(KINDS)))
    def start(self, name: str) -> Held:
        self.kind = KINDS[name]
        self.held: list[Held] = []
        return self._keep(self.kind.new(), [])

    def _keep(self, state: Any, rows: list[Row]) -> Held:
        held = Held(state, rows)
        self.held.append(held)
        return held

    @rule(target=objects)
    def create(self) -> Held:
        return self._keep(self.kind.new(), [])

    @rule(held=objects, rows=_ROWS)
    def update(self, held: Held, rows: list[Row]) -> None:
        held.state.update(*columns(rows))
        held.rows += rows

    @rule(held=objects, rows=_ROWS, bad=_BAD_ROWS, at=st.integers(0, 6))
    def failed_update(self, held: Held, rows: list[Row], bad: Row, at: int) -> None:
        before = held.state.state()
        broken = [*rows[:at], bad, *rows[at:]]
        with pytest.raises(ValueError, match=f"row {min(at, len(rows))}$"):
            held.state.update(*columns(broken))
        assert np.array_equal(held.state.state(), before)

    @rule(held=objects, other=objects)
    def merge(self, held: Held, other: Held) -> None:
        rows = list(other.rows)  # an object may be merged into itself
        held.state.merge(other.state)
        held.rows += rows

    @rule(target=saved, held=objects)
    def save(self, held: Held) -> Any:
        return held.state.state(), tuple(held.rows)

    @rule(target=saved, one=saved, other=saved)
    def add(self, one: Any, other: Any) -> Any:
        return one[0] + other[0], one[1] + other[1]

    @rule(target=objects, saved=consumes(saved))
    def resume(self, saved: Any) -> Held:
        held = self._keep(self.kind.resumed(saved[0]), list(saved[1]))
        saved[0][...] = -1  # the object has its own copy
        return held

    @rule(held=objects)
    def look(self, held: Held) -> None:
        """What is given out can be changed without harm."""
        held.state.state()[...] = -5

    @invariant()
    def all_rows_at_once_give_the_same(self) -> None:
        for held in getattr(self, "held", []):
            assert held.state.rows == len(held.rows)
            if held.rows:
                assert self.kind.result(held.state) == self.kind.whole(*columns(held.rows))
            else:
                with pytest.raises(ValueError, match="at least one sample"):
                    self.kind.result(held.state)


_COUNTS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 1)), min_size=1, max_size=5
)  # of 20 votes for class 0, and the label


def of_rows(rows: list[tuple[int, int]]) -> cc.Certificates:
    """Certificates of these votes and labels; that few of them are certified is no matter here."""
    counts = [[votes, 20 - votes] for votes, _ in rows]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* samples abstain", category=UserWarning)
        return cc.Certificates.from_counts(counts, [label for _, label in rows], 0.25, 0.1)


class Tables(RuleBasedStateMachine):
    """Certificates that are written, read, selected from and put together, beside lists of rows."""

    tables: Any = Bundle("tables")

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        self.files = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(target=tables, rows=_COUNTS)
    def create(self, rows: list[tuple[int, int]]) -> Any:
        return of_rows(rows), rows

    @rule(target=tables, held=tables)
    def round_trip(self, held: Any) -> Any:
        path = Path(self.folder.name) / f"{self.files % 2}.parquet"  # half of the writes replace
        self.files += 1
        held[0].to_parquet(path)
        again = cc.Certificates.from_parquet(path)
        assert again == held[0]
        return again, held[1]

    @rule(target=tables, held=tables, data=st.data())
    def select(self, held: Any, data: st.DataObject) -> Any:
        rows = held[1]
        chosen = data.draw(
            st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6), label="rows"
        )
        return held[0].select(np.array(chosen)), [rows[k] for k in chosen]

    @rule(target=tables, held=tables, other=tables)
    def put_together(self, held: Any, other: Any) -> Any:
        table = pa.concat_tables([held[0].table, other[0].table])
        return cc.Certificates(table, held[0].provenance), held[1] + other[1]

    @rule(held=tables, radius=st.sampled_from([0.0, 0.1, 0.3]))
    def metric_is_that_of_the_rows(self, held: Any, radius: float) -> None:
        fresh = of_rows(held[1])
        assert len(held[0]) == len(held[1])
        for metric in ("brier", "ece"):
            made, expected = (
                table.bound(metric, radius, scope="all").worst.tolist()
                for table in (held[0], fresh)
            )
            assert made == expected


TestStates = States.TestCase
TestStates.settings = settings(stateful_step_count=25)
TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=40, stateful_step_count=12)
