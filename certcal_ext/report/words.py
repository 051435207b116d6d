# SPDX-License-Identifier: MIT
"""Numbers and sentences of a report; where they say "at most", the number is rounded up."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from certcal_ext.report.facts import Facts

PERCENT = "\N{NO-BREAK SPACE}%"
_NOTHING = "\N{EN DASH}"


def count(value: float) -> str:
    """A whole number with thousands marked.

    Example:
        >>> count(10000)
        '10,000'
    """
    return f"{int(value):,}"


def number(value: float, digits: int = 4, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number with at most ``digits`` decimals, an en dash for nan.

    Example:
        >>> number(0.25), number(0.107531), number(0.107531, rounding=ROUND_CEILING)
        ('0.25', '0.1075', '0.1076')
    """
    if not math.isfinite(value):
        return _NOTHING
    rounded = Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), rounding=rounding)
    text = f"{rounded:f}"
    return _signed(text.rstrip("0").rstrip(".") if "." in text else text)


def fixed(value: float, digits: int = 4, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number with exactly ``digits`` decimals, for columns.

    Example:
        >>> fixed(0.25), fixed(float("nan"))
        ('0.2500', '–')
    """
    if not math.isfinite(value):
        return _NOTHING
    rounded = Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), rounding=rounding)
    return _signed(f"{rounded:f}")


def percent(value: float, digits: int = 2, rounding: str = ROUND_HALF_EVEN) -> str:
    """A share as per cent.

    Example:
        >>> percent(0.18161, rounding=ROUND_CEILING).split()
        ['18.17', '%']
    """
    if not math.isfinite(value):
        return _NOTHING
    rounded = (
        Decimal(float(value)).scaleb(2).quantize(Decimal(1).scaleb(-digits), rounding=rounding)
    )
    return _signed(f"{rounded:f}") + PERCENT


def _signed(text: str) -> str:
    """A proper minus sign, and none before zero."""
    if not text.startswith("-"):
        return text
    return text[1:] if not text.strip("-0.") else "\N{MINUS SIGN}" + text[1:]


def at_most(value: float, *, as_percent: bool = False) -> str:
    """An upper bound, rounded up."""
    show = percent if as_percent else fixed
    return show(value, rounding=ROUND_CEILING)


def at_least(value: float, *, as_percent: bool = False) -> str:
    """A lower bound, rounded down."""
    show = percent if as_percent else fixed
    return show(value, rounding=ROUND_FLOOR)


def headline(facts: Facts) -> str:
    """The verdict in one line."""
    if facts.certified == 0:
        return f"Nothing is certified at radius {number(facts.radius)}"
    bound = at_most(float(facts.curve.certified_ece[facts.main]), as_percent=True)
    return f"Worst-case calibration error at radius {number(facts.radius)}: at most {bound}"


def verdict(facts: Facts) -> list[str]:
    """What is guaranteed, what it is worth and how sure it is, a paragraph each."""
    if facts.certified == 0:
        return [_nothing_certified(facts)]
    return [_guarantee(facts), _worth(facts), _sureness(facts)]


def _guarantee(facts: Facts) -> str:
    curve, row = facts.curve, facts.main
    share = percent(facts.certified / facts.total, 1)
    clean_ece, clean_brier = float(curve.ece[row]), float(curve.brier[row])
    beside_ece = f" (without attack: {percent(clean_ece)})" if math.isfinite(clean_ece) else ""
    beside_brier = f" (without attack: {fixed(clean_brier)})" if math.isfinite(clean_brier) else ""
    return (
        f"On {count(facts.certified)} of {count(facts.total)} samples ({share}) no perturbation of "
        f"{facts.provenance.norm} norm up to {number(facts.radius)} changes the prediction. An "
        f"attacker "
        "may move every one of them at once, each inside its own ball, to spoil the calibration: "
        "over these "
        "samples the expected calibration error stays at or below "
        f"{at_most(float(curve.certified_ece[row]), as_percent=True)}{beside_ece} and the Brier "
        f"score at "
        f"or below {at_most(float(curve.certified_brier[row]))}{beside_brier}."
    )


def _worth(facts: Facts) -> str:
    curve, row = facts.curve, facts.main
    constant, skill = float(curve.constant_brier[row]), float(curve.skill[row])
    if not math.isfinite(skill):
        return (
            "Every certified prediction is right, so a constant confidence of 1 would score a "
            "Brier score of 0 and the "
            "skill of the certificate is not defined."
        )
    if skill > 0:
        return (
            "Is that worth something? A constant confidence equal to the accuracy would score a "
            "Brier score of "
            f"{fixed(constant)}; the bound is lower (certified skill {number(skill, 3)}). So "
            f"even under attack "
            "the confidences are proven to tell right from wrong better than a constant."
        )
    return (
        "Is that worth something? A constant confidence equal to the accuracy would score a "
        "Brier score of "
        f"{fixed(constant)}, no worse than the bound (certified skill {number(skill, 3)}). So at "
        f"this radius "
        "the bound, true as it is, does not prove that the confidences tell more than a constant "
        "would."
    )


def _sureness(facts: Facts) -> str:
    alpha = facts.provenance.alpha
    if facts.provenance.kind == "intervals" or alpha is None:
        return (
            "How sure is it? The intervals were made elsewhere and are taken as they came: the "
            "bounds hold where "
            "the intervals hold. Given the intervals, they are exact and involve no chance."
        )
    failing = alpha * facts.total
    return (
        f"How sure is it? The bounds hold where the {count(facts.total)} confidence intervals "
        f"behind them hold. "
        f"Each one holds with a probability of at least "
        f"{number(100 * (1 - alpha), 6)}{PERCENT} "
        f"over the noise draws (1 - alpha, alpha = {alpha:g}), so on average at most "
        f"{number(failing, 2)} of the {count(facts.total)} fail. That all of them hold at once "
        f"is not claimed here."
    )


def _nothing_certified(facts: Facts) -> str:
    reach = (
        f" With n = {count(facts.provenance.n)} draws and alpha = {facts.provenance.alpha:g} no "
        f"sample could "
        f"be certified beyond {number(facts.best_radius)}."
        if facts.best_radius is not None and facts.provenance.n is not None
        else ""
    )
    return (
        f"None of the {count(facts.total)} samples keeps its prediction under every perturbation "
        f"of "
        f"{facts.provenance.norm} norm up to {number(facts.radius)}, so no calibration metric is "
        f"defined there.{reach}"
    )
