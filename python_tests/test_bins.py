# SPDX-License-Identifier: MIT
"""Bins as objects: one lookup, the one of the definition, on edges and beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from problems import bin_edges
from reference import bin_of

import certcal_ext as cc
from certcal_ext.bins import Bins

PACKAGE = Path(__file__).resolve().parent.parent / "certcal_ext"


@given(bin_edges(6), st.sampled_from(["left", "right"]), st.floats(0, 1))
def test_the_bin_of_a_confidence(edges: NDArray[np.float64], closed: str, other: float) -> None:
    bins = Bins.of(edges=edges, closed=closed)
    z = np.unique([*edges, *np.nextafter(edges[1:], 0), *np.nextafter(edges[:-1], 1), other])
    assert bins.index(z).tolist() == [bin_of(p, edges, closed) for p in z]
    assert len(bins) == len(edges) - 1
    assert bins.closed_left == (closed == "left")


def test_bins_are_taken_where_their_arguments_are() -> None:
    bins = Bins.of(edges=[0.0, 0.3, 1.0], closed="left")
    assert Bins.of(bins) is bins
    rows = [1, 0, 1], [0.2, 0.3, 0.6], [0.3, 0.5, 0.9]
    for function in (cc.certified_ece, cc.certified_mce):
        by_hand = function(*rows, edges=bins.edges, closed="left")
        assert function(*rows, bins).value == by_hand.value
    table = cc.EceTable(bins)
    table.update(*rows)
    assert cc.EceTable.from_state(table.state(), bins).certify().cells.index(0.3) == 1
    with pytest.raises(ValueError, match="read-only"):
        bins.edges[0] = 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bins": 0}, "bins: expected"),
        ({"edges": [0.0, 0.5]}, "edges: expected"),
        ({"closed": "both"}, "closed: expected"),
        ({"closed": np.array(["left"])}, "closed: expected"),
    ],
)
def test_bad_bins(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Bins.of(**arguments)


def test_nobody_else_looks_a_bin_up() -> None:
    """Each copy of the lookup is a place where the ends of bins can drift apart."""
    found = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if re.search(r"searchsorted\([^)]*edges", file.read_text(encoding="utf-8"))
    }
    assert found <= {"bins.py", "attacks/targets.py"}  # the latter looks edges up in edges
