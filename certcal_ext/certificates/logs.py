# SPDX-License-Identifier: MIT
"""Certification logs: what the dialects of the field say, and which vote counts a printed radius can stand for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betainc, ndtr, ndtri

from certcal_ext.certificates.columns import Columns, plain_name, role_of
from certcal_ext.certificates.evidence import NOT_OF_VOTES, SHARED_DRAWS, SHARED_MEANING
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_USED = (
    "index",
    "label",
    "predicted",
    "radius",
    "correct",
    "n",
    "n0",
    "sigma",
    "alpha",
    "norm",
    "distribution",
    "levels",
)
_ABSTAINED = re.compile(r"(?i)abstain(ed|s)?|reject(ed)?")

#: Words of columns that say how long a row took, where it came from, or what came out: never how it was made.
_HARMLESS = frozenset(
    """
    time times timestamp date sec secs second seconds ms min minutes duration elapsed eta took speed fps
    memory mem gpu device host rank worker path file filename fname url name names split fold subset dataset
    comment comments note notes remark status certified verified robust abstain abstained
    confidence conf score scores logit logits prob probs probability pr pa pb pabar pbbar pahat phat
    acc accuracy loss entropy margin rate cumulative running clean natural base vanilla
    top1 top2 top5 votes counts na nb runner
    """.split()  # noqa: SIM905
)

#: From so many different radii on, the last digits show how a column was printed.
_ENOUGH = 30
_DOUBT = 0.05
_SLACK = 1 + 1e-6  # for the rounding of the radius that the log's author computed
#: Radii may have been computed in float32, and ``write_log`` rounds six decimals down.
_LEAST = 1.001e-6

#: Probability of refusing a log whose settings are right.
_FALSE_ALARM = 1e-6


@dataclass(frozen=True, eq=False)
class CohenLog:
    """A certification log, one entry a row.

    Attributes:
        index: (N,) int64 sample ids.
        label: (N,) int64.
        predicted: (N,) int64, -1 where the log abstained.
        radius: (N,) float64 as printed.
        half_width: (N,) float64, how far the printed radius can lie from the one that was computed.
        n: (N,) int64 draws of each row, where the log says them, or None.
        sigma: standard deviation of the noise, where the log says it.
        alpha: failure probability of its one-sided bounds, where it says it.
        notes: what a reader of the numbers should know.
    """

    index: Ints
    label: Ints
    predicted: Ints
    radius: Floats
    half_width: Floats
    n: Ints | None = None
    sigma: float | None = None
    alpha: float | None = None
    notes: tuple[str, ...] = ()


def log_of(columns: Columns) -> CohenLog:
    """A log from its columns.

    Raises:
        ValueError: no rows, a value that is none, rows that contradict themselves, a sample twice, or a column that says how
            rows were made in a way that is not supported.
    """
    if not len(columns):
        raise ValueError("expected at least one row under the header, got none")
    notes = list(columns.notes)
    label = columns.wholes("label", 0)
    predicted = _predicted(columns)
    index = columns.wholes("index", 0) if columns.has("index") else np.arange(label.size)
    unique, first = np.unique(index, return_index=True)
    if unique.size != index.size:
        row = int(np.setdiff1d(np.arange(index.size), first)[0])
        raise ValueError(f"{columns.where(row)}: {columns.name('index')} {index[row]} came before")
    radius, half_width = _radii(columns, predicted != -1)
    notes += _correct_notes(columns, label == predicted)
    notes += _remarks(columns)
    own = _own_settings(columns)
    _refuse_unknown(columns)
    return CohenLog(index, label, predicted, radius, half_width, notes=tuple(notes), **own)


def _remarks(columns: Columns) -> list[str]:
    """What ``write_log`` says of the counts behind the radii, in the column ``note``."""
    said = {str(cell).strip() for cell in columns.cells.get("note", ())}
    if NOT_OF_VOTES in said:
        raise ValueError(f"note: expected a log of votes, but the log says that {NOT_OF_VOTES}")
    return [SHARED_DRAWS, SHARED_MEANING] if SHARED_DRAWS in said else []


def _predicted(columns: Columns) -> Ints:
    name = columns.name("predicted") or ""
    cells = columns.cells[name]
    if not isinstance(cells, np.ndarray):
        cells = [-1 if _ABSTAINED.fullmatch(str(cell).strip()) else cell for cell in cells]
        columns = Columns({**columns.cells, name: cells}, columns.lines)
    return columns.wholes("predicted", -1)


def _radii(columns: Columns, decided: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Radii, and how far each can lie from the one that was printed; 0 where the log abstained."""
    name, texts = columns.name("radius"), columns.texts("radius")
    values, units = np.zeros(len(texts)), np.ones(len(texts))
    for row, text in enumerate(texts):
        if not text and not decided[row]:
            continue
        if columns.decimal_comma:
            text = text.replace(",", ".")
        try:
            value = Decimal(text) if "_" not in text and text.isascii() else None
        except InvalidOperation:
            value = None
        if value is None:
            raise ValueError(f"{columns.where(row)}: {name}: expected a number, got {text[:40]!r}")
        if not value.is_finite() or not math.isfinite(value) or (value < 0 and decided[row]):
            raise ValueError(
                f"{columns.where(row)}: {name}: expected a finite number of at least 0, got {text[:40]!r}"
            )
        if not decided[row] and value > 0:
            raise ValueError(
                f"{columns.where(row)}: {name}: expected 0 where predict is -1 (abstained), got {text[:40]}"
            )
        values[row], units[row] = value, 10.0 ** min(max(int(value.as_tuple().exponent), -300), 300)
    half = np.zeros(len(texts))
    half[decided] = printed_half_widths(
        [t for t, d in zip(texts, decided, strict=True) if d], values[decided], units[decided]
    )
    return np.where(decided, values, 0.0), half


def printed_half_widths(texts: list[str], values: Floats, units: Floats) -> Floats:
    """How far printed numbers can lie from those that were printed: half a unit of the last place.

    A text alone bounds that: 0.5 stands for [0.45, 0.55]. Where zeros at the end were not printed (``{:.3}``, pandas), it
    may stand for 0.500; that is taken where the column shows it: no text ends with a zero, and of many different values
    not more than the tenth that chance explains are shorter than the others, nor of the rows below the largest value.

    Args:
        texts: as printed.
        values: (N,) the numbers.
        units: (N,) one unit of each text's last place.

    Returns:
        (N,) float64, a little more than half a unit.

    Example:
        >>> printed_half_widths(["0.5", "1.23"], np.array([0.5, 1.23]), np.array([0.1, 0.01])).round(6)
        array([0.05 , 0.005])
    """
    least = _LEAST * np.maximum(values, 1.0)
    own = np.maximum(0.5 * units * _SLACK, least)
    different, first = np.unique(values, return_index=True)
    ends_with_zero = any(re.search(r"\.[0-9]+0$|\.0{2,}$", text) for text in texts)
    if ends_with_zero or different.size < _ENOUGH:
        return own
    # Significant digits, or decimals: the coarser of both, whichever it was.
    digits = np.floor(np.log10(np.maximum(values, 1e-300)) + 1e-9)
    most_digits = np.max(np.where(values > 0, digits - np.round(np.log10(units)) + 1, 0))
    by_digits = np.where(values > 0, 10.0 ** (digits - most_digits + 1), 0.0)
    column = np.maximum(0.5 * np.maximum(by_digits, units.min()) * _SLACK, least)
    short = own > 2 * column
    # Rows of one value are no evidence of their own, and many may have the largest one; but few rows may be short besides.
    below = values < different[-1]
    chances = [
        1.0 - bdtr(np.count_nonzero(of) - 1, of.size, 0.1) if of.any() else 1.0
        for of in (short[first], short[below])
    ]
    return np.minimum(own, column) if min(chances) >= _DOUBT else own


def _correct_notes(columns: Columns, right: NDArray[np.bool_]) -> list[str]:
    """Checks the column ``correct``, or says that it was not used."""
    name = columns.name("correct")
    if name is None:
        return []
    try:
        said = columns.truths("correct")
    except ValueError:
        values = columns.reals("correct")  # raises for what is no number at all
        what = "a running total" if np.array_equal(values, np.cumsum(right)) else "no 0 or 1"
        return [f"{name}: derived from label and predict, as the column holds {what}"]
    differs = said != right
    if differs.any():
        if np.array_equal(said, np.cumsum(right)):
            return [f"{name}: derived from label and predict, as the column holds a running total"]
        row = int(np.argmax(differs))
        raise ValueError(
            f"{columns.where(row)}: {name}: expected {int(right[row])}, as label and predict say, got {int(said[row])}"
        )
    return []


def _own_settings(columns: Columns) -> dict[str, Any]:
    """What the log says itself of how its rows were made."""
    own: dict[str, Any] = {}
    if columns.has("n"):
        own["n"] = columns.wholes("n", 1)
        if own["n"].max() > MAX_DRAWS:
            raise ValueError(
                f"column {columns.name('n')}: expected draws from 1 to {MAX_DRAWS}, got {own['n'].max()}"
            )
    for role, why in (
        (
            "sigma",
            "a classifier whose noise depends on the image is not the smoothed classifier that the theorem is about",
        ),
        ("alpha", "rows of other failure probabilities are not supported"),
    ):
        if not columns.has(role):
            continue
        values = columns.reals(role)
        if values.min() != values.max():
            raise ValueError(
                f"column {columns.name(role)}: expected one number for all rows, got {values.min():g} to "
                f"{values.max():g}: {why}"
            )
        own[role] = float(values[0])
    for role, good, why in (
        ("norm", ("l2", "2", "2.0"), "Gaussian noise certifies the l2 norm"),
        (
            "distribution",
            ("gaussian", "normal", "gauss"),
            "radii of other noise are another function of the votes",
        ),
        (
            "levels",
            ("1", "1.0", "0", "0.0"),
            "rows that were drawn for in several levels have other numbers of draws",
        ),
    ):
        said = {text.lower() for text in columns.texts(role)} - {""}
        if len(said) > 1 or not said.issubset(good):
            raise ValueError(
                f"column {columns.name(role)}: expected {good[0]} in every row, got {', '.join(sorted(said)[:4])}: {why}"
            )
    return own


def _refuse_unknown(columns: Columns) -> None:
    for name in columns.others(_USED):
        words = set(plain_name(name).split())
        words |= {word.rstrip("0123456789") for word in words}
        if (
            words & _HARMLESS
            or role_of(name) in ("verified", "confidence")
            or _bound_of_a_share(words)
        ):
            continue
        if all(cell is None or not str(cell).strip() for cell in columns.cells[name]):
            continue
        raise ValueError(
            f"column {name}: not known, and it may say how the rows were made; take it out of the file if it "
            "does not"
        )


def _bound_of_a_share(words: set[str]) -> bool:
    """``p_lower``, ``pA lower bound``, ``p``."""
    around = {"p", "a", "b", "hat", "lower", "upper", "bound", "bar"}
    return "p" in words and words <= around


def votes_of_radius(
    radius: Floats, half_width: Floats, sigma: float, n: int | Ints, alpha: float
) -> tuple[Ints, Ints]:
    """The range of vote counts that a printed radius can stand for.

    The log's radius is ``sigma * Phi^-1(p)`` with p the one-sided Clopper-Pearson lower bound of k
    of n votes at ``alpha``, at least 1/2. That bound lies at or above some q exactly when
    P(Binomial(n, q) >= k) <= alpha, so both ends of the range are found by bisection over k, for
    all radii at once.

    Args:
        radius: (N,) printed radii.
        half_width: (N,) how far each can lie from the computed one.
        sigma: standard deviation of the noise.
        n: number of draws, of all or (N,) of each.
        alpha: failure probability of the log's one-sided bound.

    Returns:
        (N,) least and (N,) largest count. Where no count gives such a radius, the least is above
        the largest.
    """
    below = ndtr(np.maximum(radius - half_width, 0.0) / sigma)
    above = ndtr((radius + half_width) / sigma)
    draws = np.broadcast_to(np.asarray(n, np.int64), below.shape)
    # Counts whose bound reaches `below` start right after the last one with a tail above alpha.
    least = _last_count(below, draws, lambda tail: tail > alpha) + 1
    return least, _last_count(above, draws, lambda tail: tail >= alpha)


def _last_count(q: Floats, n: Ints, keeps: Any) -> Ints:
    """The last k in [0, n] whose P(Binomial(n, q) >= k) is kept; once one is not, none is."""
    low, high = np.zeros(q.size, np.int64), n + 1
    while (high - low > 1).any():
        middle = np.clip((low + high) // 2, 1, n)
        tail = betainc(middle.astype(np.float64), n - middle + 1.0, q)
        good = keeps(tail) & (high - low > 1)
        bad = ~keeps(tail) & (high - low > 1)
        low, high = np.where(good, middle, low), np.where(bad, middle, high)
    return low


def settings_note(log: CohenLog, sigma: float, n: int, alpha: float) -> str | None:
    """Checks sigma, n and alpha against the largest radius, which shows them where rows won all votes.

    n of n votes give the radius sigma * Phi^-1(alpha^(1/n)), which many rows of a good model share, and n - 1 votes a
    clearly smaller one. With other settings the largest printed radius would be one of many that are possible, and it is
    unlikely that many rows share it while none lies above or right below. That is bounded over every probability that rows
    can have, and summed over the places where the largest radius can be.

    Args:
        log: the log.
        sigma: standard deviation of the noise, as it is said to be.
        n: draws of every row.
        alpha: failure probability of the log's bounds.

    Returns:
        None where the largest radius is the one of n of n votes; a note where it is not, and the log does not contradict.

    Raises:
        ValueError: the log contradicts these settings; right ones are refused with probability at most 1e-6.
    """
    settings = f"sigma = {sigma:g}, n = {n} and alpha = {alpha:g}"
    unchecked = f"{settings} could not be checked against the log, in which no row clearly reaches their largest radius"
    decided = log.predicted != -1
    if not decided.any():
        return unchecked
    different, first, rows = np.unique(log.radius[decided], return_index=True, return_counts=True)
    half = log.half_width[decided][first[-2:]]
    least, largest = votes_of_radius(different[-2:], half, sigma, n, alpha)
    if largest[-1] >= n:
        return None
    empty = int(least[-1]) - (int(largest[0]) + 1 if different.size > 1 else 1)
    if empty < 1:
        return unchecked  # the next radius is the next that can be printed
    gap = 1 << (empty.bit_length() - 1)
    share = _largest_share(int(least[-1]), int(largest[-1]), int(least[-1]) - gap, n)
    most = sigma * max(float(ndtri(alpha ** (1.0 / n))), 0.0)
    places = min(n, 2 + most / (2 * half[-1])) * n.bit_length()
    if int(rows[-1]) * math.log(share) + math.log(places) < math.log(_FALSE_ALARM):
        raise ValueError(
            f"{settings} are not the log's: {rows[-1]} rows share its largest radius, {different[-1]:g}, with none above "
            f"and none right below. So it is the one of n of n votes, which with these settings would be {most:.4g}"
        )
    return unchecked


def _largest_share(least: int, largest: int, bottom: int, n: int) -> float:
    """The most, over p, of P(least <= count <= largest | count >= bottom), for counts of Binomial(n, p)."""
    deviation = math.sqrt(n * (bottom / n) * (1 - bottom / n)) + 1.0
    ends = max(bottom - 9 * deviation, 1.0), min(largest + 9 * deviation, n - 1e-3)
    shares = np.linspace(*ends, 4000) / n
    reach = [betainc(float(k), n - k + 1.0, shares) for k in (least, largest + 1, max(bottom, 1))]
    seen = reach[2] > 1e-250
    most = ((reach[0] - reach[1])[seen] / reach[2][seen]).max() * 1.02
    return float(min(max(most, 1e-9), 1.0))
