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
    ece = _joint(facts, "ece")
    if ece is not None and facts.further is not None and facts.further.delta is not None:
        sure = number(100 * (1 - facts.further.delta), 6)
        return (
            f"No {facts.provenance.norm} attack of size {number(facts.radius)} can push the "
            f"calibration error above {at_most(ece, as_percent=True)}, with {sure}{PERCENT} "
            "confidence"
        )
    bound = at_most(float(facts.curve.certified_ece[facts.main]), as_percent=True)
    return f"Worst-case calibration error at radius {number(facts.radius)}: at most {bound}"


def _joint(facts: Facts, metric: str) -> float | None:
    """The joint bound of a metric over the certified samples; None where there is none."""
    if facts.further is None:
        return None
    for curve in facts.further.certified:
        if curve.metric == metric and curve.joint is not None:
            return float(curve.joint[0])
    return None


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
    sure = number(100 * (1 - alpha), 6)
    each = (
        f"Each of the {count(facts.total)} confidence intervals holds with a probability of at least "
        f"{sure}{PERCENT} over its own noise draws (alpha = {alpha:g}); the numbers above hold where "
        "all of them do."
    )
    ece, brier = _joint(facts, "ece"), _joint(facts, "brier")
    further = facts.further
    if ece is None or brier is None or further is None or further.delta is None:
        failing = number(alpha * facts.total, 2)
        return (
            f"How sure is it? {each} On average at most {failing} of the intervals fail; that all of "
            "them hold at once is not claimed here."
        )
    return (
        f"How sure is it? {each} For the data set as a whole: with a probability of at least "
        f"{number(100 * (1 - further.delta), 6)}{PERCENT} over all noise draws together the "
        "calibration error under attack is at most "
        f"{at_most(ece, as_percent=True)}, and with the same probability the Brier score at most "
        f"{at_most(brier)}. These allow for intervals that fail."
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


def gain(facts: Facts) -> str:
    """What recalibration does, in words; empty where there is no map."""
    if facts.further is None or facts.further.gain is None:
        return ""
    report, split = facts.further.gain.report, facts.further.gain.split
    kept = (
        "the confidences say less, but what they say is kept under attack."
        if report.after.resolution > 0
        else "the map is a constant. At this radius the certified score of one number for all samples is as "
        "low as that of any monotone map: what these confidences tell cannot be kept under attack."
    )
    return (
        f"A monotone map of the confidences ({split.kind}), fitted to the worst case of one half of the "
        f"samples, takes the certified Brier score of the other {count(report.n)} certified ones from "
        f"{at_most(report.before.certified_brier)} to {at_most(report.after.certified_brier)} and their "
        f"certified calibration error from {at_most(report.before.certified_ece, as_percent=True)} to "
        f"{at_most(report.after.certified_ece, as_percent=True)}. It costs resolution, from "
        f"{fixed(report.before.resolution)} to {fixed(report.after.resolution)}: {kept} No "
        "monotone map has a lower certified Brier score on the half that an isotonic one was fitted on."
    )


def mapping(text: str) -> str:
    """A stored map in a few words.

    Example:
        >>> from certcal_ext.recalibration.maps import StepMap
        >>> mapping(StepMap(jumps=(0.5,), levels=(0.25, 0.75)).to_json())
        'isotonic map, 2 levels from 0.25 to 0.75'
    """
    from certcal_ext.recalibration.maps import RecalibrationMap, StepMap

    stored = RecalibrationMap.from_json(text)
    if isinstance(stored, StepMap):
        low, high = number(stored.levels[0]), number(stored.levels[-1])
        return f"{stored.kind} map, {len(stored.levels)} levels from {low} to {high}"
    return f"{stored.kind} map"
