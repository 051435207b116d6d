# SPDX-License-Identifier: MIT
"""Numbers and sentences of a report; where they say "at most", the number is rounded up."""

from __future__ import annotations

import math
import unicodedata
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from certcal_ext.report.facts import Facts

PERCENT = "\N{NO-BREAK SPACE}%"
_NOTHING = "\N{EN DASH}"
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode


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


def size(radius: float) -> str:
    """A radius in few digits, never more than it is: the claim must not reach further than the proof.

    Example:
        >>> size(0.1), size(0.12345678), size(2.0)
        ('0.1', '0.12345678', '2')
    """
    text = f"{radius:.6g}"
    return text if float(text) <= radius else repr(radius)


def sureness(delta: float) -> str:
    """1 - delta as per cent, rounded down.

    Example:
        >>> sureness(1e-3).split(), sureness(1e-9).split()
        (['99.9', '%'], ['99.9999999', '%'])
    """
    share = (Decimal(100) - 100 * Decimal(repr(delta))).quantize(
        Decimal(1).scaleb(-10), rounding=ROUND_FLOOR
    )
    text = f"{share:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + PERCENT


def visible(text: str) -> str:
    r"""Text from data with everything that hides or reorders other text written out.

    Control characters, marks that change the direction of writing, characters without width and halves of surrogate pairs
    become their number, so that a name is read as it is, and can be written as UTF-8.

    Example:
        >>> visible("cat\u202etac"), visible("a\x00b")
        ('cat\\u202etac', 'a\\u0000b')
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in _HIDDEN
        else f"\\u{ord(character):04x}"
        for character in text
    )


def shortened(text: str, most: int) -> str:
    """The text, with its middle left out where it is longer than ``most``.

    Example:
        >>> shortened("results/resnet110/certificates.parquet", 20)
        'results/re…s.parquet'
    """
    if len(text) <= most:
        return text
    front = most // 2
    return text[:front] + "\N{HORIZONTAL ELLIPSIS}" + text[len(text) - (most - front - 1) :]


def headline(facts: Facts) -> str:
    """The verdict in one line."""
    if facts.certified == 0:
        return f"Nothing is certified at radius {size(facts.radius)}"
    ece = joint(facts, "ece")
    if ece is not None and facts.further is not None and facts.further.delta is not None:
        return (
            f"No {facts.provenance.norm} attack of size {size(facts.radius)} can push the "
            f"calibration error above {at_most(ece, as_percent=True)}, with "
            f"{sureness(facts.further.delta)} confidence"
        )
    bound = at_most(float(facts.curve.certified_ece[facts.main]), as_percent=True)
    return f"Worst-case calibration error at radius {size(facts.radius)}: at most {bound}"


def standfirst(facts: Facts) -> str:
    """Which samples the headline is about, in one or two sentences; empty where nothing is certified."""
    further = facts.further
    if facts.certified == 0 or further is None:
        return ""
    if facts.certified == facts.total:
        return f"Over all {count(facts.total)} samples, which keep their prediction under every such attack."
    text = (
        f"Over the {count(facts.certified)} of {count(facts.total)} samples whose prediction is certified "
        "to stay under every such attack."
    )
    for curve in further.everyone:
        if curve.metric == "ece":
            bound = curve.worst if curve.joint is None else curve.joint
            sure = "" if curve.joint is None else ", with the same confidence"
            text += (
                f" Over all {count(facts.total)}, the others counted at their worst: at most "
                f"{at_most(float(bound[0]), as_percent=True)}{sure}."
            )
    return text


def joint(facts: Facts, metric: str) -> float | None:
    """The joint bound of a metric over the certified samples; None where there is none."""
    if facts.further is None:
        return None
    for curve in facts.further.certified:
        if curve.metric == metric and curve.joint is not None:
            return float(curve.joint[0])
    return None


def verdict(facts: Facts) -> list[tuple[str, str]]:
    """What is guaranteed, what it is worth and how sure it is: a question and its answer each."""
    if facts.certified == 0:
        return [("What is guaranteed?", _nothing_certified(facts))]
    return [
        ("What is guaranteed?", _guarantee(facts)),
        ("Is that worth something?", _worth(facts)),
        ("How sure is it?", _sureness(facts)),
    ]


def _guarantee(facts: Facts) -> str:
    curve, row = facts.curve, facts.main
    share = percent(facts.certified / facts.total, 1)
    clean_ece, clean_brier = float(curve.ece[row]), float(curve.brier[row])
    beside_ece = f" (without attack: {percent(clean_ece)})" if math.isfinite(clean_ece) else ""
    beside_brier = f" (without attack: {fixed(clean_brier)})" if math.isfinite(clean_brier) else ""
    return (
        f"Where all intervals hold: on {count(facts.certified)} of {count(facts.total)} samples ({share}) no "
        f"perturbation of {facts.provenance.norm} norm up to {size(facts.radius)} changes the prediction. An "
        "attacker may move every one of them at once, each inside its own ball, to spoil the calibration: over these "
        "samples the expected calibration error stays at or below "
        f"{at_most(float(curve.certified_ece[row]), as_percent=True)}{beside_ece} and the Brier score at or "
        f"below {at_most(float(curve.certified_brier[row]))}{beside_brier}."
    )


def _worth(facts: Facts) -> str:
    curve, row = facts.curve, facts.main
    constant, skill = float(curve.constant_brier[row]), float(curve.skill[row])
    if not math.isfinite(skill):
        return (
            "Every certified prediction is right, or every one is wrong, so a constant confidence would score a "
            "Brier score of 0 and the skill of the certificate is not defined."
        )
    if skill > 0:
        return (
            f"A constant confidence equal to the accuracy would score a Brier score of {fixed(constant)}; the "
            f"bound is lower (certified skill {number(skill, 3)}). So even under attack the confidences are "
            "proven to tell right from wrong better than a constant."
        )
    return (
        f"A constant confidence equal to the accuracy would score a Brier score of {fixed(constant)}, no worse "
        f"than the bound (certified skill {number(skill, 3)}). So at this radius the bound, true as it is, does "
        "not prove that the confidences tell more than a constant would."
    )


def _sureness(facts: Facts) -> str:
    alpha = facts.provenance.alpha
    if facts.provenance.kind == "intervals" or alpha is None:
        return (
            "The intervals were made elsewhere and are taken as they came: the bounds hold where the intervals "
            "hold. Given the intervals, they are exact and involve no chance."
        )
    each = (
        f"Each of the {count(facts.total)} confidence intervals holds with a probability of at least "
        f"{sureness(alpha)} over its own noise draws (alpha = {alpha:g}); the worst case of "
        f"{at_most(float(facts.curve.certified_ece[facts.main]), as_percent=True)} holds where all of them do."
    )
    ece, brier = joint(facts, "ece"), joint(facts, "brier")
    further = facts.further
    if ece is None or brier is None or further is None or further.delta is None:
        failing = number(alpha * facts.total, 2, rounding=ROUND_CEILING)
        return (
            f"{each} On average at most {failing} of the intervals fail; that all of them hold at once is not "
            "claimed here."
        )
    return (
        f"{each} For the data set as a whole: with a probability of at least {sureness(further.delta)} over all "
        "noise draws together the calibration error under attack is at most "
        f"{at_most(ece, as_percent=True)} (the headline), and with the same probability the Brier score at most "
        f"{at_most(brier)}. These allow for intervals that fail, and for the choice of the radius: an interval "
        "that fails does so at every radius."
    )


def _nothing_certified(facts: Facts) -> str:
    reach = (
        f" With n = {count(facts.provenance.n)} draws and alpha = {facts.provenance.alpha:g} no "
        f"sample could be certified beyond {number(facts.best_radius, rounding=ROUND_CEILING)}."
        if facts.best_radius is not None and facts.provenance.n is not None
        else ""
    )
    return (
        f"None of the {count(facts.total)} samples is certified to keep its prediction under every "
        f"perturbation of {facts.provenance.norm} norm up to {size(facts.radius)}, so no calibration "
        f"metric is defined there.{reach}"
    )


def gain(facts: Facts) -> str:
    """What recalibration does, in words; empty where there is no map."""
    if facts.further is None or facts.further.gain is None:
        return ""
    report, split = facts.further.gain.report, facts.further.gain.split
    before, after = fixed(report.before.resolution), fixed(report.after.resolution)
    cost = f"It costs resolution, from {before} to {after}: "
    if before == fixed(0.0):
        cost = "These confidences have next to no resolution to lose: "
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
        f"{at_most(report.after.certified_ece, as_percent=True)}. {cost}{kept} No "
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
