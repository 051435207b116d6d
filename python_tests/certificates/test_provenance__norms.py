# SPDX-License-Identifier: MIT
"""Intervals of another verifier have the norm that they were given with, or none: never one that nobody named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import certcal_ext as cc
from certcal_ext.certificates.compare import compare
from certcal_ext.certificates.provenance import Provenance, norm_name

STORED = Path(__file__).parents[1] / "data" / "stored"
ROWS: tuple[Any, ...] = ([1, 0, 1], [0.6, 0.5, 0.2], [0.9, 0.6, 0.4])


def test_no_norm_is_named_where_none_was_given(tmp_path: Path) -> None:
    for radius in (None, 0.5):
        made = cc.Certificates.from_intervals(*ROWS, radius)
        assert made.provenance.norm is None
        made.to_parquet(tmp_path / "c.parquet")
        assert cc.Certificates.from_parquet(tmp_path / "c.parquet") == made
    assert cc.Certificates.from_counts([[90, 10]], [0], 0.25).provenance.norm == "l2"


@pytest.mark.parametrize(
    ("given_as", "name"),
    [
        ("linf", "linf"),
        ("Linf", "linf"),
        (" L_inf", "linf"),
        (math.inf, "linf"),
        (np.inf, "linf"),
        ("l1", "l1"),
        (1, "l1"),
        (2, "l2"),
        (2.0, "l2"),
        ("L2", "l2"),
        ("l0", "l0"),
        ("Wasserstein", "Wasserstein"),
    ],
)
def test_a_norm_is_stored_under_one_name(given_as: Any, name: str, tmp_path: Path) -> None:
    made = cc.Certificates.from_intervals(*ROWS, radius=8 / 255, norm=given_as)
    assert (made.provenance.norm, made.provenance.radius) == (name, 8 / 255)
    made.to_parquet(tmp_path / "c.parquet")
    assert cc.Certificates.from_parquet(tmp_path / "c.parquet").provenance.norm == name


@pytest.mark.parametrize(
    ("norm", "radius", "error", "words"),
    [
        ("linf", None, ValueError, "radius: expected the size in the linf norm"),
        ("", 0.1, ValueError, "norm: expected the name of a norm"),
        (True, 0.1, TypeError, "norm: expected a text"),
        (["l2"], 0.1, TypeError, "norm: expected a text"),
        ("linf", -1.0, ValueError, "radius"),
    ],
)
def test_norms_that_are_refused(norm: Any, radius: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        cc.Certificates.from_intervals(*ROWS, radius=radius, norm=norm)


@given(text=st.text(min_size=1, max_size=12).filter(str.strip))
def test_naming_twice_is_naming_once(text: str) -> None:
    assert norm_name(norm_name(text)) == norm_name(text)


@pytest.mark.parametrize("name", ["intervals", "intervals_unnamed_radius"])
def test_older_files_of_intervals_name_no_norm(name: str) -> None:
    """Version 0.1.0 wrote l2 into every table, those of linf verifiers too."""
    assert cc.Certificates.from_parquet(STORED / f"{name}.parquet").provenance.norm is None


def test_older_files_keep_what_somebody_wrote() -> None:
    stored = json.loads(Provenance(kind="intervals", radius=0.5, norm="linf").to_json())
    stored["format"] = 2
    assert Provenance.from_json(json.dumps(stored)).norm == "linf"
    stored["norm"] = "l2"
    assert Provenance.from_json(json.dumps(stored)).norm is None
    stored["format"] = 3
    assert Provenance.from_json(json.dumps(stored)).norm == "l2"


def test_two_norms_are_not_compared() -> None:
    def of(norm: str | None) -> cc.Certificates:
        return cc.Certificates.from_intervals(*ROWS, 0.1, labels=[0, 1, 0], norm=norm)

    compare({"a": of("linf"), "b": of("Linf")}, 0.1)
    compare({"a": of(None), "b": of(None)}, 0.1)
    for pair, words in (
        (("linf", "l2"), "the linf norm in 'a' and the l2 norm in 'b'"),
        ((None, "l2"), "an unnamed norm in 'a' and the l2 norm in 'b'"),
        (("l2", None), "the l2 norm in 'a' and an unnamed norm in 'b'"),
    ):
        with pytest.raises(ValueError, match=words):
            compare({"a": of(pair[0]), "b": of(pair[1])}, 0.1)


def test_ids_are_kept() -> None:
    made = cc.Certificates.from_intervals(*ROWS, index=[7, 3, 9])
    assert made.table["index"].to_pylist() == [7, 3, 9]
    with pytest.raises(ValueError, match="index: expected 3 entries"):
        cc.Certificates.from_intervals(*ROWS, index=[7, 3])
