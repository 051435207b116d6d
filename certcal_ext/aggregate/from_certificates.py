# SPDX-License-Identifier: MIT
"""From certificates by votes to the votes that an aggregate bound needs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from certcal_ext import _check
from certcal_ext.aggregate.setting import Setting
from certcal_ext.aggregate.votes import VoteHistogram
from certcal_ext.certificates.certificates import Certificates
from certcal_ext.certificates.evidence import selected_by_estimation
from certcal_ext.certificates.rows import shifts
from certcal_ext.certificates.table import numbers

if TYPE_CHECKING:
    from certcal_ext.certificates.provenance import Provenance


def setting_of(
    certificates: Certificates, radius: float, delta: float, scope: str = "certified"
) -> Setting:
    """The votes of certificates, for attacks of a radius.

    Args:
        certificates: by votes (Clopper-Pearson), with labels, whose class was selected by other draws.
        radius: l2 radius, in pixel units.
        delta: failure probability of one bound.
        scope: "certified", "all" or "robust".

    Returns:
        ``Setting``.

    Raises:
        TypeError: no ``Certificates``, or an argument of the wrong kind.
        ValueError: certificates from which no aggregate bound is proved, and what to do; no labels, or an argument
            out of range.

    Example:
        >>> made = Certificates.from_votes([99] * 300, 100, [0] * 300, [0] * 300, sigma=0.25)
        >>> setting_of(made, 0.25, delta=0.01).least
        [96]
    """
    if not isinstance(certificates, Certificates):
        raise TypeError(f"certificates: expected Certificates, got {type(certificates).__name__}")
    reach = _check.radius("radius", radius)
    made = certificates.provenance
    _require_votes(certificates, made)
    votes, draws, correct = (
        numbers(certificates.table, name) for name in ("votes", "n", "correct")
    )
    if correct is None:
        raise ValueError("labels: an aggregate bound needs them, and there are none")
    assert votes is not None  # certificates by votes have both
    assert draws is not None
    index = numbers(certificates.table, "index")
    histograms, least = [], []
    for n in np.unique(draws):
        rows = draws == n
        histograms.append(
            VoteHistogram.of(
                votes[rows], correct[rows], int(n), None if index is None else index[rows]
            )
        )
        least.append(_fewest(int(n), reach, made))
    shift = float(shifts(np.array([reach]), made.sigma)[0])
    return Setting(histograms, shift, delta, scope, least if scope == "certified" else None)


def _fewest(n: int, radius: float, made: Provenance) -> int:
    """The fewest votes with which a row is certified: of n, alpha and the radius alone, never of what came."""
    nobody = np.zeros(n + 1, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most of these abstain
        every = Certificates.from_votes(
            np.arange(n + 1), n, nobody, nobody, made.sigma or 1.0, alpha=made.alpha or 1.0
        )
    certified = every.rows_at(radius).certified
    return int(np.argmax(certified)) if certified.any() else n + 1


def _require_votes(certificates: Certificates, made: Provenance) -> None:
    """Raises where no proof applies."""
    if made.kind != "votes":
        raise ValueError(
            f"certificates: expected some by votes, got kind {made.kind!r}, which does not hold the votes of each row"
        )
    if selected_by_estimation(made):
        raise ValueError(
            "certificates: expected a class that other draws selected; with split= (--split) some of the draws select"
        )
    if made.stopping is not None:
        raise ValueError(
            "certificates: expected rows whose number of draws was fixed beforehand, got a run that stopped early; "
            "certify with one number of draws"
        )
    if certificates.table.column("runner_up_upper").null_count < len(certificates):
        raise ValueError(
            "certificates: expected none with runner-up bounds, as votes of one class do not tell who is certified; "
            "certify without runner_up"
        )
    if certificates.recalibration is not None:
        raise ValueError(
            "certificates: expected none that are recalibrated, as a map must be fixed before these draws; take "
            "recalibrated(None), and give Setting(image=) a map that was"
        )
