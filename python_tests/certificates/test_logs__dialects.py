# SPDX-License-Identifier: MIT
"""Certification logs as the field writes them: one set of rows in every dialect gives one set of certificates."""

from __future__ import annotations

import gzip
import itertools
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaincinv, ndtri

import certcal_ext as cc
from certcal_ext.certificates.logs import printed_half_widths
from certcal_ext.certificates.readers import read_cohen_log

pytestmark = pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")

SETTINGS: dict[str, Any] = {"sigma": 0.25, "n": 100_000, "alpha": 1e-3}
ROWS = [
    (0, 3, 3, "0.377", 1),
    (20, 8, 6, "0.0465", 0),
    (40, 1, -1, "0.0", 0),
    (60, 8, 8, "0.91", 1),
    (80, 0, 0, "0.6", 1),
    (100, 2, 5, "0.124", 0),
]
NAMES = ["idx", "label", "predict", "radius", "correct", "time"]


def table(
    rows: list[list[Any]] | None = None, names: list[str] | None = None, separator: str = "\t"
) -> str:
    rows = [[*row, "0:00:14.1"] for row in ROWS] if rows is None else rows
    lines = [names or NAMES, *rows]
    return "".join(separator.join(map(str, line)) + "\n" for line in lines)


def with_columns(changes: dict[str, Callable[[tuple[Any, ...], int], Any]]) -> str:
    """The log with columns replaced, added, or (None) taken away."""
    names, columns = list(NAMES), [[*column] for column in zip(*ROWS, strict=True)]
    columns.append(["0:00:14"] * len(ROWS))
    for name, of in changes.items():
        values = [of(row, at) for at, row in enumerate(ROWS)] if of is not None else None
        if name in names and values is None:
            del columns[names.index(name)], names[names.index(name)]
        elif name in names:
            columns[names.index(name)] = values  # type: ignore[assignment]
        else:
            names.insert(3, name)
            columns.insert(3, values)  # type: ignore[arg-type]
    return table([list(row) for row in zip(*columns, strict=True)], names)


def read(folder: Path, content: str | bytes, **settings: Any) -> cc.Certificates:
    path = folder / "log.tsv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return cc.Certificates.from_cohen_log(path, **(SETTINGS | settings))


def time(value: Any) -> dict[str, Any]:
    return {"time": lambda row, at: value}


TOTALS = list(itertools.accumulate(row[4] for row in ROWS))
DIALECTS: dict[str, str | bytes] = {
    "plain": table(),
    "time in seconds": with_columns(time("13.7")),
    "time whole": with_columns(time("14")),
    "time tiny": with_columns(time("9.5e-07")),
    "time empty": with_columns(time("")),
    "time with a unit": with_columns(time("13.7s")),
    "time of days": with_columns(time("1 day, 2:00:14")),
    "time of days, commas": with_columns(time("1 day, 2:00:14")).replace("\t", ","),
    "no time": table([list(row) for row in ROWS], NAMES[:5]),
    "no correct": with_columns({"correct": None}),  # type: ignore[dict-item]
    "true and false": with_columns({"correct": lambda row, at: bool(row[4])}),
    "TRUE and FALSE": with_columns({"correct": lambda row, at: str(bool(row[4])).upper()}),
    "whole floats": with_columns(
        {
            "label": lambda row, at: float(row[1]),
            "predict": lambda row, at: float(row[2]),
            "correct": lambda row, at: float(row[4]),
            "idx": lambda row, at: f"{row[0]}.",
        }
    ),
    "commas": table(separator=","),
    "commas and spaces": table(separator=", "),
    "semicolons": table(separator=";"),
    "semicolons, decimal commas": with_columns(
        {"radius": lambda row, at: row[3].replace(".", ",")}
    ).replace("\t", ";"),
    "spaces": table(separator=" "),
    "aligned": table(separator="     "),
    "Markdown": "| " + table(separator=" | ").replace("\n", " |\n| ", 1).replace("\n| ", "\n|---|---|---|---|---|---|\n", 1),
    "quotes": table([[f'"{cell}"' for cell in (*row, "0:00:14")] for row in ROWS], separator=","),
    "byte order mark": "\N{BOM}" + table(),
    "UTF-16": table().encode("utf-16"),
    "UTF-16 big": "\N{BOM}".encode("utf-16-be") + table().encode("utf-16-be"),
    "UTF-16 without mark": table().encode("utf-16-le"),
    "gzip": gzip.compress(table().encode()),
    "gzip of UTF-16": gzip.compress(table().encode("utf-16")),
    "Windows": table().replace("\n", "\r\n"),
    "old Mac": table().replace("\n", "\r"),
    "no end": table().rstrip("\n"),
    "blank lines": table().replace("\n", "\n\n") + "\n\n",
    "index of pandas": table(
        [[at, *row, "0:00:14"] for at, row in enumerate(ROWS)], ["", *NAMES], ","
    ),
    "index read back": table(
        [[at, *row, "0:00:14"] for at, row in enumerate(ROWS)], ["Unnamed: 0", *NAMES], ","
    ),
    "index without a name": table([[at, *row, "0:00:14"] for at, row in enumerate(ROWS)], NAMES),
    "separator at the end": table().replace("\n", "\t\n"),
    "comments": "# model: resnet110\n#\n" + table() + "# done\n",
    "comments inside": table().replace("\n60\t", "\n// resumed\n% here\n60\t"),
    "header as a comment": "# " + table(),
    "header twice": table().replace("\n60\t", "\n" + "\t".join(NAMES) + "\n60\t"),
    "other case": table(names=[name.upper() for name in NAMES]),
    "other names": table(names=["index", "Target", "prediction", "certified radius", "is_correct", "elapsed"]),
    "radius proved": table(names=["idx", "label", "predict", "radius proved", "correct", "time"]),
    "radius_proved, spaces": table(names=["idx", "label", "predict", "radius proved", "correct", "time"], separator=" "),
    "running total": with_columns({"correct": lambda row, at: TOTALS[at]}),
    "running accuracy": with_columns({"correct": lambda row, at: TOTALS[at] / (at + 1)}),
    "summary": table() + "sigma 0.25 accuracy of smoothed classifier 0.8000\n",
    "two summaries": table() + "\nmean radius: 0.41\ntotal time 13s, 6 images\n",
    "a row of means": table() + "mean\t\t\t0.43\t0.7\t0:00:13\n",
    "results beside": with_columns(
        {
            "pA": lambda row, at: 0.9,
            "time_forward": lambda row, at: 2.1,
            "levels_needed": lambda row, at: 1,
            "estimated_pr": lambda row, at: 0.97,
            "filename": lambda row, at: "a.png",
            "certified": lambda row, at: 1,
            "p_lower_bound": lambda row, at: 0.8,
        }
    ),
    "own settings": with_columns(
        {
            "sigma": lambda row, at: 0.25,
            "alpha": lambda row, at: 0.001,
            "samplesize": lambda row, at: 100_000,
            "N0": lambda row, at: 100,
            "norm": lambda row, at: "L2",
            "distribution": lambda row, at: "Gaussian",
        }
    ),
    "abstains in words": with_columns({"predict": lambda row, at: "ABSTAIN" if row[2] < 0 else row[2]}),
    "abstains without a radius": with_columns({"radius": lambda row, at: "nan" if row[2] < 0 else row[3]}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_every_dialect_gives_the_same_certificates(name: str, tmp_path: Path) -> None:
    plain, other = read(tmp_path, DIALECTS["plain"]), read(tmp_path, DIALECTS[name])
    assert other.table.equals(plain.table)
    assert other.provenance.sigma == 0.25
    assert (other.provenance.n, other.provenance.alpha) == (100_000, 1e-3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("summary", "passed over at the end: 'sigma 0.25 accuracy"),
        ("running total", "correct: derived from label and predict, as the column holds a running"),
        (
            "running accuracy",
            "correct: derived from label and predict, as the column holds no 0 or",
        ),
        ("own settings", "n: each row's own, 100000 to 100000"),
        ("header twice", "passed over: the header"),
        ("plain", "could not be checked against the log"),
    ],
)
def test_what_was_not_used_is_said(name: str, words: str, tmp_path: Path) -> None:
    assert any(words in note for note in read(tmp_path, DIALECTS[name]).provenance.notes)


def test_a_log_says_its_own_settings(tmp_path: Path) -> None:
    made = read(tmp_path, DIALECTS["own settings"], sigma=None, n=None, alpha=None)
    assert made.table.equals(read(tmp_path, table()).table)
    for change in ({"sigma": 0.5}, {"alpha": 0.01}):
        with pytest.raises(ValueError, match=r"as .* says, got"):
            read(tmp_path, DIALECTS["own settings"], **change)
    for missing in ("sigma", "n"):
        with pytest.raises(
            ValueError, match=rf"does not say its {missing}; give it with --{missing}"
        ):
            read(tmp_path, table(), **{missing: None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sigma": lambda row, at: 0.2 + at / 100}, "sigma: expected one number for all rows, got 0.2 to 0.25: a class"),
        ({"noise_sd": lambda row, at: 0.2 + at / 100}, "noise_sd: expected one number"),
        ({"alpha": lambda row, at: 0.001 * (1 + at % 2)}, "alpha: expected one number for all rows"),
        ({"samplesize": lambda row, at: 0}, "row 0 .*samplesize: expected a whole number of at least 1"),
        ({"samplesize": lambda row, at: "1e5"}, "row 0 .*samplesize: expected a whole number"),
        ({"norm": lambda row, at: "linf"}, "norm: expected l2 in every row, got linf: Gaussian noise"),
        ({"norm": lambda row, at: ["l1", "l2"][at % 2]}, "norm: expected l2 in every row, got l1, l2"),
        ({"noise type": lambda row, at: "laplace"}, "noise type: expected gaussian"),
        ({"levels_needed": lambda row, at: 1 + at % 2}, "levels_needed: expected 1 in every row"),
        ({"temperature": lambda row, at: 2}, "temperature: not known"),
        ({"radius_l1": lambda row, at: 2}, "radius_l1: not known"),
        ({"radius proved": lambda row, at: row[3]}, "radius proved: not known"),
        ({"gamma": lambda row, at: "x"}, "gamma: not known, and it may say how"),
        ({"target": lambda row, at: row[1]}, "target: not known"),
        ({"correct": lambda row, at: "maybe"}, "row 0 .*correct: expected a number, got 'maybe'"),
        ({"correct": lambda row, at: 1 - row[4]}, "row 0 .*correct: expected 1, as label and predict"),
        ({"radius": lambda row, at: "0.3_0"}, "row 0 .*radius: expected a number"),
        ({"radius": lambda row, at: ""}, "row 0 .*radius: expected a number, got ''"),
    ],
)  # fmt: skip
def test_columns_that_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read(tmp_path, with_columns(changes))


def test_rows_of_other_numbers_of_draws_are_certified_with_their_own(tmp_path: Path) -> None:
    n = np.array([1000, 2000, 5000, 100_000, 20_000, 50_000])
    share = np.array([0.9, 0.7, 0.95, 0.99, 0.6, 0.8])
    votes = (n * share).astype(int)
    radius = 0.25 * ndtri(betaincinv(votes, n - votes + 1.0, 1e-3))
    rows = [[at, 1, 1, f"{r:.6f}", k, 1] for at, (r, k) in enumerate(zip(radius, n, strict=True))]
    text = table(rows, ["idx", "label", "predict", "radius", "samplesize", "correct"])
    made = read(tmp_path, text, n=100_000)
    assert made.table["n"].to_pylist() == n.tolist()
    assert any(
        "1000 to 100000, as the log says, in place of 100000" in x for x in made.provenance.notes
    )
    true = cc.Certificates.from_votes(votes, n, [1] * 6, [1] * 6, 0.25, 1e-3)
    assert (made.table["p_lower"].to_numpy() <= true.table["p_lower"].to_numpy()).all()
    assert (made.table["p_upper"].to_numpy() >= true.table["p_upper"].to_numpy()).all()
    assert np.abs(made.table["confidence"].to_numpy() - share).max() < 1e-3


# --- printed digits -------------------------------------------------------------------------


def printed(value: float, form: str) -> str:
    if form == "digits":
        return f"{value:.3}"
    decimals = int(form[-1])
    text = f"{value:.{decimals}f}"
    return str(float(text)) if form.startswith("pandas") else text


FORMS = ["digits", *(f"fixed{d}" for d in range(5)), *(f"pandas{d}" for d in range(1, 5))]


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 300),
    forms=st.lists(st.sampled_from(FORMS), min_size=1, max_size=3),
    scale=st.sampled_from([0.12, 1.0, 64.0]),
)
def test_what_was_printed_lies_within_the_half_width(
    seed: int, rows: int, forms: list[str], scale: float
) -> None:
    random = np.random.default_rng(seed)
    true = random.random(rows) * scale * 3
    texts = [printed(float(value), str(random.choice(forms))) for value in true]
    values = np.array(texts, float)
    units = np.array([10.0 ** int(Decimal(text).as_tuple().exponent) for text in texts])
    half = printed_half_widths(texts, values, units)
    inside = np.abs(values - true) <= half
    if len(set(forms)) == 1:
        assert inside.all()
    else:  # digits that are missing in many rows are no accident
        assert inside.mean() >= 0.7
    assert (half <= 0.5 * units * 1.001 + 1.1e-6 * np.maximum(values, 1)).all()


def test_precision_is_found_in_the_column() -> None:
    random = np.random.default_rng(3)
    true = random.random(2000) * 0.9
    for form, wanted in (
        ("digits", 5e-4),
        ("pandas3", 5e-4),
        ("fixed3", 5e-4),
        ("pandas1", 0.05),
        ("fixed2", 5e-3),
    ):
        texts = [printed(float(value), form) for value in true]
        values = np.array(texts, float)
        units = np.array([10.0 ** -len(text.partition(".")[2]) for text in texts])
        half = printed_half_widths(texts, values, units)
        large = values >= 0.1
        assert half[large] == pytest.approx(np.full(int(large.sum()), wanted), rel=1e-3)


# --- settings that are not the log's --------------------------------------------------------


def simulated(seed: int, rows: int, sigma: float, n: int, alpha: float, share: str) -> str:
    random = np.random.default_rng(seed)
    p = {
        "clear": 1 - random.beta(0.3, 3, rows) * (random.random(rows) < 0.7),
        "hard": random.beta(6, 2, rows) * 0.9,
        "equal": np.full(rows, 0.9),
    }[share]
    votes = random.binomial(n, np.clip(p, 0, 1))
    bound = np.where(votes > 0, betaincinv(np.maximum(votes, 1), n - votes + 1.0, alpha), 0.0)
    lines = []
    for at, q in enumerate(bound):
        certain = q >= 0.5
        radius = f"{sigma * ndtri(q):.3}" if certain else "0.0"
        lines.append([at, 1, 1 if certain else -1, radius, int(certain), "0:00:01"])
    return table(lines)


@pytest.mark.parametrize("sigma", [0.12, 0.25, 1.0])
@pytest.mark.parametrize("n", [1000, 100_000])
def test_settings_that_the_largest_radius_contradicts_are_refused(
    sigma: float, n: int, tmp_path: Path
) -> None:
    text = simulated(1, 1000, sigma, n, 1e-3, "clear")
    made = read(tmp_path, text, sigma=sigma, n=n)
    assert len(made.provenance.notes) == 1  # nothing about settings that could not be checked
    for wrong in (
        {"sigma": 2 * sigma},
        {"sigma": 1.1 * sigma},
        {"sigma": sigma / 2},
        {"n": 10 * n},
        {"n": 2 * n},
        {"n": n // 10},
        {"alpha": 0.05},
        {"alpha": 1e-5},
    ):
        with pytest.raises(ValueError, match=r"are not the log's: \d+ rows|are these the log's"):
            read(tmp_path, text, **({"sigma": sigma, "n": n} | wrong))


def test_right_settings_are_never_refused(tmp_path: Path) -> None:
    """Each of 400 logs is refused with probability at most 1e-6: a false alarm in 2,500 runs, with fixed seeds."""
    kinds = itertools.product(
        range(34), ["hard", "equal"], [(1000, 0.25), (100_000, 0.5), (30, 1.0)], [60, 1000]
    )
    for seed, share, (n, sigma), rows in itertools.islice(kinds, 400):
        text = simulated(seed, rows, sigma, n, 1e-3, share)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(tmp_path, text, sigma=sigma, n=n)


def test_a_log_that_reaches_no_end_says_so(tmp_path: Path) -> None:
    made = read(tmp_path, simulated(0, 500, 0.25, 100_000, 1e-3, "hard"))
    assert (
        "sigma = 0.25, n = 100000 and alpha = 0.001 could not be checked"
        in made.provenance.notes[-1]
    )


def test_a_file_that_is_no_log_is_called_what_it_is(tmp_path: Path) -> None:
    for content, words in (
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG image|cannot be read"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of git-lfs"),
        (b"", "an empty file"),
        (b"epoch,loss\n1,2\n", "a text that starts with 'epoch,loss'"),
        (gzip.compress(table().encode())[:-20], "packed with gzip and cut off"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_cohen_log(tmp_path / "x")
