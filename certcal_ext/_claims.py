# SPDX-License-Identifier: MIT
"""Numbers in words. What claims something is rounded so that the claim stays true: a bound up, a radius down.

Rounding is done on decimals, never in floating point: a float64 is a decimal fraction, and multiplying it by 10^4 to round
it would round it once more, in any direction. Computed numbers are taken at their exact value. Radii, alpha and delta were
*written* by someone, so they stand for the shortest decimal that reads back as them; what is computed from them is widened
by more than that difference (``rows.shifts``, the slack of the binomial tails).
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

PERCENT = "\N{NO-BREAK SPACE}%"
NOTHING = "\N{EN DASH}"
INFINITE = "infinite"

_SIGNIFICANT = 8  # digits of radii and of failure probabilities
_SURE = 12  # decimals of a probability of holding
_EXACT = Context(
    prec=1200
)  # more digits than any float64 has, so that only the wanted rounding happens


def count(value: float) -> str:
    """A whole number with thousands marked.

    Example:
        >>> count(10000)
        '10,000'
    """
    return f"{int(value):,}"


def number(value: float, digits: int = 4, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number with at most ``digits`` decimals, an en dash for nan; an estimate unless ``rounding`` says otherwise.

    Example:
        >>> number(0.25), number(0.107531), number(0.107531, rounding=ROUND_CEILING)
        ('0.25', '0.1075', '0.1076')
    """
    return _trimmed(fixed(value, digits, rounding))


def fixed(value: float, digits: int = 4, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number with exactly ``digits`` decimals, for columns; an estimate unless ``rounding`` says otherwise.

    Example:
        >>> fixed(0.25), fixed(float("nan"))
        ('0.2500', '–')
    """
    return _shown(value, 0, digits, rounding)


def percent(value: float, digits: int = 2, rounding: str = ROUND_HALF_EVEN) -> str:
    """A share as per cent; an estimate unless ``rounding`` says otherwise.

    Example:
        >>> percent(0.18161, rounding=ROUND_CEILING).split()
        ['18.17', '%']
    """
    shown = _shown(value, 2, digits, rounding)
    return shown + PERCENT if math.isfinite(value) else shown


def at_most(value: float, digits: int | None = None, *, as_percent: bool = False) -> str:
    """An upper bound, rounded up.

    Example:
        >>> at_most(0.1), at_most(0.25, as_percent=True).split()
        ('0.1001', ['25.00', '%'])
    """
    return _claim(value, digits, ROUND_CEILING, as_percent)


def at_least(value: float, digits: int | None = None, *, as_percent: bool = False) -> str:
    """A lower bound (an accuracy that no attack lowers, a skill, a yardstick that a bound is held against), rounded down.

    Example:
        >>> at_least(0.3), at_least(-0.0333, 3)
        ('0.2999', '−0.034')
    """
    return _claim(value, digits, ROUND_FLOOR, as_percent)


def share(part: float, whole: float, digits: int = 1) -> str:
    """Two counts as per cent, rounded down from the exact quotient; an en dash for 0 of 0.

    Example:
        >>> share(83, 100).split(), share(2, 3).split(), share(0, 0)
        (['83.0', '%'], ['66.6', '%'], '–')
    """
    if not whole:
        return NOTHING
    last = int(part) * 10 ** (2 + digits) // int(whole)
    return f"{Decimal(last).scaleb(-digits):f}" + PERCENT


def size(radius: float, digits: int = _SIGNIFICANT) -> str:
    """A radius in few digits, never more than it is: the claim must not reach further than the proof.

    Example:
        >>> size(0.1), size(0.12346), size(0.123456789), size(2.0), size(0.49972, 4)
        ('0.1', '0.12346', '0.12345678', '2', '0.4997')
    """
    return _written(radius, digits, ROUND_FLOOR)


def failure(alpha: float) -> str:
    """A failure probability in few digits, rounded up.

    Example:
        >>> failure(1e-3), failure(1e-7), failure(0.000123456789)
        ('0.001', '0.0000001', '0.00012345679')
    """
    return _written(alpha, _SIGNIFICANT, ROUND_CEILING)


def written(value: float) -> str:
    """A number that someone chose (an edge, sigma), as the shortest decimal that reads back as it.

    Example:
        >>> written(0.0), written(0.1), written(1e-7)
        ('0', '0.1', '0.0000001')
    """
    return _signed(_plain(Decimal(repr(float(value)))))


def sure(delta: float) -> str:
    """The probability of holding, 1 - delta, rounded down: below 1 whatever delta is.

    Example:
        >>> sure(1e-3), sure(1e-7), sure(1e-300)
        ('0.999', '0.9999999', '0.999999999999')
    """
    return _plain(_probability(delta, 0))


def sureness(delta: float) -> str:
    """The same as per cent.

    Example:
        >>> sureness(1e-3).split(), sureness(1e-9).split()
        (['99.9', '%'], ['99.9999999', '%'])
    """
    return _plain(_probability(delta, 2)) + PERCENT


def fewer_than(rate: float, total: int) -> str:
    """How many of ``total`` may fail on average, each with probability ``rate``: rounded up.

    Example:
        >>> fewer_than(1e-3, 500), fewer_than(1.5e-3, 10_000)
        ('0.5', '15')
    """
    expected = _EXACT.multiply(Decimal(repr(float(rate))), Decimal(total))
    return _plain(expected.quantize(Decimal("0.01"), ROUND_CEILING, _EXACT))


def _claim(value: float, digits: int | None, rounding: str, as_percent: bool) -> str:
    if math.isinf(value):
        return INFINITE if value > 0 else f"\N{MINUS SIGN}{INFINITE}"
    if as_percent:
        return percent(value, 2 if digits is None else digits, rounding)
    return fixed(value, 4 if digits is None else digits, rounding)


def _shown(value: float, shift: int, digits: int, rounding: str) -> str:
    """The value times 10^shift with exactly ``digits`` decimals."""
    if not math.isfinite(value):
        return NOTHING
    exact = Decimal(float(value)).scaleb(shift, _EXACT)
    return _signed(f"{exact.quantize(Decimal(1).scaleb(-digits), rounding, _EXACT):f}")


def _written(value: float, digits: int, rounding: str) -> str:
    """A number that someone wrote, in at most so many digits."""
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else INFINITE
    exact = Decimal(repr(float(value)))
    if len(exact.as_tuple().digits) > digits:
        exact = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding, _EXACT)
    return _signed(_plain(exact))


def _probability(delta: float, shift: int) -> Decimal:
    """1 - delta times 10^shift, rounded down."""
    exact = _EXACT.subtract(Decimal(1), Decimal(repr(float(delta)))).scaleb(shift, _EXACT)
    return exact.quantize(Decimal(1).scaleb(shift - _SURE), ROUND_FLOOR, _EXACT)


def _plain(value: Decimal) -> str:
    return _trimmed(f"{value:f}")


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _signed(text: str) -> str:
    """A proper minus sign, and none before zero."""
    if not text.startswith("-"):
        return text
    return text[1:] if not text.strip("-0.") else "\N{MINUS SIGN}" + text[1:]
