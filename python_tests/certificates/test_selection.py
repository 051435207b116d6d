# SPDX-License-Identifier: MIT
"""Class and probability from one set of draws: what holds, and what splitting the draws buys."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial
from typer.testing import CliRunner

import certcal_ext as cc
from certcal_ext.certificates import selection as selection_module
from certcal_ext.certificates.evidence import how_sure, row_factor, selected_by_estimation
from certcal_ext.certificates.selection import split_counts
from certcal_ext.cli import app
from certcal_ext.intervals.clopper_pearson import clopper_pearson
from certcal_ext.stopping.adaptive import ReplayedVotes

#: Chance that a correct implementation fails one of the statistical tests.
FALSE_ALARM = 1e-6
SIGMA = 0.25


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write ``total`` as a sum of ``parts`` counts."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield first, *rest


@st.composite
def counts_to_split(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    classes, total = draw(st.integers(2, 5)), draw(st.integers(2, 60))
    rows = draw(st.integers(1, 5))
    counts = []
    for _ in range(rows):
        cuts = sorted(
            draw(st.lists(st.integers(0, total), min_size=classes - 1, max_size=classes - 1))
        )
        counts.append(np.diff([0, *cuts, total]))
    return np.array(counts), draw(st.integers(1, total - 1))


@given(counts_to_split(), st.integers(0, 2**63))
def test_a_split_takes_so_many_draws_of_every_row(
    problem: tuple[np.ndarray, int], seed: int
) -> None:
    counts, draws = problem
    before = counts.copy()
    selected, rest = split_counts(counts, draws, seed)
    taken = counts - rest
    assert (rest >= 0).all()
    assert (taken >= 0).all()
    assert (taken.sum(axis=1) == draws).all()
    assert np.array_equal(selected, taken.argmax(axis=1))
    assert np.array_equal(counts, before)
    again = split_counts(counts, draws, seed)
    assert np.array_equal(again[0], selected)
    assert np.array_equal(again[1], rest)


class Enumerated:
    """A generator whose hypergeometric takes the outcome that a path says, and keeps its probability exactly."""

    def __init__(self, path: list[int]) -> None:
        self.path, self.choices, self.probability = list(path), [], Fraction(1)

    def hypergeometric(self, good: np.ndarray, bad: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        g, b, m = int(good[0]), int(bad[0]), int(wanted[0])
        possible = range(max(0, m - b), min(g, m) + 1)
        at = self.path.pop(0) if self.path else 0
        self.choices.append((at, len(possible)))
        k = possible[at]
        self.probability *= Fraction(math.comb(g, k) * math.comb(b, m - k), math.comb(g + b, m))
        return np.array([k])


def every_split(counts: tuple[int, ...], draws: int) -> Iterator[tuple[Any, Fraction]]:
    """All parts that ``split_counts`` can take, each with its probability, by its own code."""
    path: list[int] = []
    while True:
        random = Enumerated(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                selection_module.np.random, "default_rng", lambda seed, random=random: random
            )
            _, rest = split_counts(np.array([counts]), draws)
        yield tuple(np.array(counts) - rest[0]), random.probability
        done = random.choices
        while done and done[-1][0] + 1 == done[-1][1]:
            done.pop()
        if not done:
            return
        path = [at for at, _ in done[:-1]] + [done[-1][0] + 1]


@pytest.mark.parametrize(("n", "draws"), [(5, 1), (5, 2), (4, 3)])
def test_the_parts_are_independent_multinomials_exactly(n: int, draws: int) -> None:
    # Exact enumeration with rational probabilities: the joint law of the two parts is the product of two multinomials.
    p = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]

    def law(counts: tuple[int, ...]) -> Fraction:
        ways = math.factorial(sum(counts)) // math.prod(map(math.factorial, counts))
        return ways * math.prod(share**k for share, k in zip(p, counts, strict=True))

    joint: dict[Any, Fraction] = defaultdict(Fraction)
    for counts in compositions(n, 3):
        for taken, chance in every_split(counts, draws):
            rest = tuple(k - t for k, t in zip(counts, taken, strict=True))
            joint[tuple(map(int, taken)), tuple(map(int, rest))] += law(counts) * chance
    pairs = list(itertools.product(compositions(draws, 3), compositions(n - draws, 3)))
    assert set(joint) == set(pairs)
    for taken, rest in pairs:
        assert joint[taken, rest] == law(taken) * law(rest)


@pytest.mark.parametrize("p", ["uniform 1000", "uniform 100", "two", "steep"])
def test_intervals_of_split_counts_hold_for_every_row(p: str) -> None:
    # A row's interval misses with probability at most alpha, whatever its probabilities: exact binomial test, false alarm
    # 1e-6. Where the same draws select, it misses far more often (the reason for all this), and rows that are certified and
    # wrong are at most 3/2 alpha.
    alpha, rows, n = 0.05, 2000, 400
    shares = {
        "uniform 1000": np.full(1000, 1e-3),
        "uniform 100": np.full(100, 1e-2),
        "two": np.array([0.5, 0.5]),
        "steep": np.array([0.55, 0.3, 0.1, 0.05]),
    }[p]
    counts = np.random.default_rng(7).multinomial(n, shares, rows)

    def failures(**options: Any) -> tuple[int, int]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that most abstain is what should happen
            made = cc.Certificates.from_counts(counts, None, SIGMA, alpha, **options)
        true = shares[made.table.column("predicted").to_numpy()]
        low, high = (made.table.column(name).to_numpy() for name in ("p_lower", "p_upper"))
        missed = (low > true) | (true > high)
        certified = ~made.abstained
        return int(missed.sum()), int((certified & (missed | (true <= 0.5))).sum())

    missed, _ = failures(split=100, seed=3)
    assert binomtest(missed, rows, alpha, alternative="greater").pvalue > FALSE_ALARM
    shared, certified_wrong = failures()
    assert binomtest(certified_wrong, rows, 1.5 * alpha, alternative="greater").pvalue > FALSE_ALARM
    if p.startswith("uniform"):
        assert shared > 3 * alpha * rows


@pytest.mark.parametrize(
    ("classes", "n", "alpha"), [(2, 12, 0.2), (3, 14, 0.2), (3, 20, 0.1), (4, 12, 0.3)]
)
def test_what_shared_draws_may_fail_with_exactly(classes: int, n: int, alpha: float) -> None:
    # Theorem of docs/theory.md, section 7, by exact enumeration of all counts, over probabilities on a grid and at random:
    # certified and wrong at most 3/2 alpha; that, or a wrong interval at alpha / K of the selected class, at most 2 alpha.
    counts = np.array(list(compositions(n, classes)))
    chosen = counts.argmax(axis=1)
    k = counts[np.arange(len(counts)), chosen]
    own, wide = clopper_pearson(k, n, alpha), clopper_pearson(k, n, alpha / classes)
    rng = np.random.default_rng(0)
    shares = [rng.dirichlet(np.full(classes, s)) for s in (0.3, 1.0, 5.0) for _ in range(40)]
    for first in np.linspace(0.02, 0.98, 49):
        shares.append(np.r_[first, np.full(classes - 1, (1 - first) / (classes - 1))])
        shares.append(np.r_[first, 1 - first, np.zeros(classes - 2)])
    plain = 0.0
    for p in shares:
        chance, true = multinomial.pmf(counts, n, p), p[chosen]
        missed = (true < own.lower) | (true > own.upper)
        wrong = (own.lower > 0.5) & (missed | (true <= 0.5))
        other = (true < wide.lower) | (true > wide.upper)
        assert chance[wrong].sum() <= 1.5 * alpha
        assert chance[wrong | other].sum() <= 2 * alpha
        plain = max(plain, float(chance[missed].sum()))
    assert classes == 2 or plain > alpha  # what "each interval holds with 1 - alpha" would deny


def test_every_interval_that_is_shown_for_a_row_is_one_that_is_proved() -> None:
    counts = np.random.default_rng(1).multinomial(300, [0.56, 0.3, 0.14], 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shared = cc.Certificates.from_counts(counts, None, SIGMA, 0.05)
    rows = shared.rows_at(0.0)
    k = shared.table.column("votes").to_numpy()
    own, wide = clopper_pearson(k, 300, 0.05), clopper_pearson(k, 300, 0.05 / 3)
    assert 0 < rows.certified.sum() < 50
    for end, proved, open_end in zip((rows.lower, rows.upper), own, wide, strict=True):
        assert np.allclose(end, np.where(rows.certified, proved, open_end), atol=1e-9)
        assert not np.allclose(end, proved, atol=1e-4)


def test_a_union_over_shared_draws_pays_for_rows_that_it_no_longer_certifies() -> None:
    # In scope "certified" too: a row that is certified at alpha and not at delta / N is charged by its interval at
    # alpha / K, which may fail beside the 3/2 alpha of certified rows.
    counts = np.random.default_rng(2).multinomial(1000, [0.56, 0.3, 0.14], 60)
    made = cc.Certificates.from_counts(counts, np.zeros(60, int), SIGMA, 0.05)
    delta = 0.01
    for scope in ("certified", "all"):
        union = made.bound("brier", 0.0, delta=delta, joint="union", scope=scope).joint[0]
        level = delta / 60 / 2
        certified = made.rows_at(0.0).certified
        k = made.table.column("votes").to_numpy()
        own, wide = clopper_pearson(k, 1000, level), clopper_pearson(k, 1000, level / 3)
        still = own.lower > 0.5
        assert (certified & ~still).any()
        right = made.table.column("correct").to_numpy()
        gap = np.where(right, 1 - own.lower, own.upper)
        charged = np.where(right, 1 - wide.lower, np.maximum(wide.upper, 1 - wide.lower))
        terms = np.where(still, gap, charged) ** 2
        among = certified if scope == "certified" else np.ones(60, bool)
        assert union == pytest.approx(terms[among].mean(), abs=1e-9)
    assert row_factor(made.provenance, everyone=False) == 1.5
    assert row_factor(made.provenance, everyone=True) == 2.0


def test_the_split_is_part_of_what_is_known(tmp_path: Path) -> None:
    counts = [[990, 10], [100, 900], [600, 400]]
    path = tmp_path / "votes.npz"
    np.savez(path, counts=counts, label=[0, 0, 1], sigma=SIGMA)
    made = cc.Certificates.from_npz(path, split=100, seed=5)
    assert (made.provenance.n0, made.provenance.n) == (100, 900)
    assert not selected_by_estimation(made.provenance)
    assert "100 of each row's given draws" in made.provenance.notes[0]
    assert "seed 5" in made.provenance.notes[0]
    again = cc.Certificates.from_counts(counts, [0, 0, 1], SIGMA, split=100, seed=5)
    assert again.table.equals(made.table)
    other = cc.Certificates.from_counts(counts, [0, 0, 1], SIGMA, split=100, seed=6)
    assert not other.table.equals(made.table)
    assert "holds with probability 1 - 0.001" in how_sure(made.provenance, 3)


def test_shared_draws_claim_what_is_proved() -> None:
    made = cc.Certificates.from_counts([[990, 10], [100, 900]], [0, 0], SIGMA)
    told = how_sure(made.provenance, 2000)
    assert "3/2 of alpha = 0.001" in told
    assert "at most 3 of 2,000" in told
    assert "holds with probability" not in told
    assert any("3/2 alpha" in note and "split=" in note for note in made.provenance.notes)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"split": 0}, ValueError, "split: expected"),
        ({"split": 1000}, ValueError, "split: expected fewer than the 1000 draws"),
        ({"split": 2.5}, TypeError, "split"),
        ({"split": 10, "seed": -1}, ValueError, "seed"),
        ({"split": 10, "selection": [0, 0]}, ValueError, "split: expected None where selection"),
    ],
)
def test_bad_splits(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        cc.Certificates.from_counts([[990, 10], [100, 900]], [0, 0], SIGMA, **options)


def test_draws_beyond_the_hypergeometric_are_refused() -> None:
    with pytest.raises(ValueError, match="counts: expected at most 999999999 draws to split"):
        split_counts([[10**9, 0]], 10)
    with pytest.raises(ValueError, match="draws"):
        ReplayedVotes([10**9], 10**9)


def test_the_command_line_splits_counts(tmp_path: Path) -> None:
    path, made = tmp_path / "votes.npz", tmp_path / "made.parquet"
    counts = np.random.default_rng(4).multinomial(1000, [0.8, 0.15, 0.05], 40)
    np.savez(path, counts=counts, label=np.zeros(40, int), sigma=SIGMA)
    run = CliRunner()

    def asked(*options: str) -> Any:
        return run.invoke(app, ["bound", str(path), "--radii", "0.1", *options])

    split = ("--split", "100", "--split-seed", "3")
    printed = json.loads(asked(*split, "--json", "--out", str(made), "--n", "1000").stdout)
    assert (printed["provenance"]["n0"], printed["provenance"]["n"]) == (100, 900)
    stored = cc.Certificates.from_parquet(made)
    expected = cc.Certificates.from_counts(counts, np.zeros(40, int), SIGMA, split=100, seed=3)
    assert stored.table.equals(expected.table)
    assert "3/2 of alpha" in " ".join(asked().output.split())
    told = " ".join(asked(*split).output.split())
    assert "holds with probability 1 - 0.001" in told
    assert "3/2" not in told
    page, rows = tmp_path / "page.html", tmp_path / "rows.json"
    assert run.invoke(app, ["report", str(path), "--out", str(page), *split]).exit_code == 0
    assert "100 of each row" in page.read_text()
    assert run.invoke(app, ["export", str(path), "--to", str(rows), *split]).exit_code == 0
    assert json.loads(rows.read_text())["provenance"]["n0"] == 100
    for other, words in ((made, "--split"), (path, "split: expected fewer")):
        refused = run.invoke(app, ["bound", str(other), "--split", "1000"])
        assert refused.exit_code == 2
        assert words in refused.stderr
