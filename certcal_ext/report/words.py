# SPDX-License-Identifier: MIT
"""Sentences of a report; their numbers are written by ``_claims``."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING

from certcal_ext._claims import (
    PERCENT as PERCENT,
)  # with the others, for those that read a page's words
from certcal_ext._claims import (
    at_least,
    at_most,
    count,
    failure,
    fixed,
    number,
    percent,
    share,
    size,
    sureness,
)
from certcal_ext.certificates.evidence import how_chosen, how_sure
from certcal_ext.certificates.statements import attack, names_radius

if TYPE_CHECKING:
    from certcal_ext.report.facts import Facts

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode


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
        return f"Nothing is certified {place(facts)}"
    ece = joint(facts, "ece")
    if ece is not None and facts.further is not None and facts.further.delta is not None:
        return (
            f"No {attack(facts.provenance, facts.radius)} can push the calibration error above "
            f"{at_most(ece, as_percent=True)}, with {sureness(facts.further.delta)} confidence"
        )
    bound = at_most(float(facts.curve.certified_ece[facts.main]), as_percent=True)
    return f"Worst-case calibration error {place(facts)}: at most {bound}"


def place(facts: Facts) -> str:
    """Where the page's numbers are: at its radius, or inside intervals that came without one."""
    if names_radius(facts.provenance):
        return f"at radius {size(facts.radius)}"
    return "inside the given intervals"


def reach(facts: Facts) -> str:
    """What a certified sample withstands: perturbations of a norm and size, where they are known."""
    made = facts.provenance
    if not names_radius(made) or made.norm is None:
        return "perturbation within the verifier's threat model"
    return f"perturbation of {made.norm} norm up to {size(facts.radius)}"


def standfirst(facts: Facts) -> str:
    """Which samples the headline is about, in one or two sentences; empty where nothing is certified."""
    further = facts.further
    if facts.certified == 0 or further is None:
        return ""
    selected = f" {how_chosen(facts.provenance)}".rstrip()
    if facts.certified == facts.total:
        return f"Over all {count(facts.total)} samples, which keep their prediction under every such attack.{selected}"
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
    return text + selected


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
    certified = share(facts.certified, facts.total)
    clean_ece, clean_brier = float(curve.ece[row]), float(curve.brier[row])
    beside_ece = f" (without attack: {percent(clean_ece)})" if math.isfinite(clean_ece) else ""
    beside_brier = f" (without attack: {fixed(clean_brier)})" if math.isfinite(clean_brier) else ""
    return (
        f"Where all intervals hold: on {count(facts.certified)} of {count(facts.total)} samples ({certified}) no "
        f"{reach(facts)} changes the prediction. An attacker may move every one of them at once to "
        "spoil the calibration: over these samples the expected calibration error stays at or below "
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
            f"A constant confidence equal to the accuracy would score a Brier score of {at_least(constant)}; the "
            f"bound is lower (certified skill {at_least(skill, 3)}). So where all intervals hold the confidences are "
            "proven to tell right from wrong better than a constant, even under attack."
        )
    return (
        f"A constant confidence equal to the accuracy would score a Brier score of {at_least(constant)}, no worse "
        f"than the bound (certified skill {at_least(skill, 3)}). So at this radius the bound, true as it is, does "
        "not prove that the confidences tell more than a constant would."
    )


def _sureness(facts: Facts) -> str:
    made = facts.provenance
    each = how_sure(made, facts.total)
    if facts.provenance.kind == "intervals" or made.alpha is None:
        return f"{each} Given the intervals, the worst case is exact and involves no chance."
    worst = at_most(float(facts.curve.certified_ece[facts.main]), as_percent=True)
    each += f" The worst case of {worst} holds where all of them do."
    ece, brier = joint(facts, "ece"), joint(facts, "brier")
    further = facts.further
    if ece is None or brier is None or further is None or further.delta is None:
        return f"{each} That all of them hold at once is not claimed here."
    return (
        f"{each} For the data set as a whole: with a probability of at least {sureness(further.delta)} over all "
        "noise draws together the calibration error under attack is at most "
        f"{at_most(ece, as_percent=True)} (the headline), and with the same probability the Brier score at most "
        f"{at_most(brier)}. These allow for intervals that fail, and for the choice of the radius: whether "
        "an interval fails does not depend on it."
    )


def _nothing_certified(facts: Facts) -> str:
    made = facts.provenance
    limit = ""
    if facts.best_radius is not None and made.n is not None and made.alpha is not None:
        limit = (
            f" All of n = {count(made.n)} votes for one class would certify radius {size(facts.best_radius, 4)} at alpha = "
            f"{failure(made.alpha)}."
        )
    return (
        f"None of the {count(facts.total)} samples is certified to keep its prediction under every {reach(facts)}, so no "
        f"calibration metric is defined there.{limit}"
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
        else "the map is a constant: at this radius it scores as well on the fitting half as any map of its kind, and what "
        "these confidences tell is not kept under attack."
    )
    return (
        f"A monotone map of the confidences ({split.kind}), fitted to the worst case of one half of the "
        f"samples, takes the certified Brier score of the other {count(report.n)} certified ones from "
        f"{at_most(report.before.certified_brier)} to {at_most(report.after.certified_brier)} and their "
        f"certified calibration error from {at_most(report.before.certified_ece, as_percent=True)} to "
        f"{at_most(report.after.certified_ece, as_percent=True)}, where all intervals hold. {cost}{kept} No monotone map "
        "has a lower certified Brier score on the half that an isotonic one was fitted on."
    )


def mapping(text: str) -> str:
    """A stored map in a few words.

    Example:
        >>> from certcal_ext.recalibration.maps import StepMap
        >>> mapping(StepMap(jumps=(0.5,), levels=(0.25, 0.75)).to_json())
        'isotonic map, 2 levels from 0.25 to 0.75'
    """
    from certcal_ext.recalibration.maps import StepMap
    from certcal_ext.recalibration.row_maps import LabelMaps, RowMap, read_map

    stored = read_map(text)
    if isinstance(stored, LabelMaps):
        kinds = sorted({part.kind for part in stored.maps.values()})
        return f"{len(stored.maps)} maps ({', '.join(kinds)}) by {stored.by}, and a common one"
    if isinstance(stored, RowMap):
        return f"stack of the votes of {stored.events} models"
    if isinstance(stored, StepMap):
        low, high = number(stored.levels[0]), number(stored.levels[-1])
        return f"{stored.kind} map, {len(stored.levels)} levels from {low} to {high}"
    return f"{stored.kind} map"
