# SPDX-License-Identifier: MIT
"""Aggregate bounds of certificates: the rows that are counted are those certified, and what is not proved is refused."""

from __future__ import annotations

import numpy as np
import pytest

import certcal_ext as cc
from certcal_ext.aggregate import aggregate_brier, setting_of
from certcal_ext.stopping.rules import Stopping

pytestmark = pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning")


@pytest.mark.parametrize("radius", [0.0, 0.1, 0.25, 0.4])
def test_the_counted_rows_are_the_certified_ones(radius: float) -> None:
    """For rows of several numbers of draws, whatever votes came."""
    rng = np.random.default_rng(3)
    draws = rng.choice([30, 100, 160], 400)
    votes = rng.binomial(draws, rng.beta(6, 1, 400))
    made = cc.Certificates.from_votes(
        votes,
        draws,
        np.zeros(400, np.int64),
        rng.integers(0, 2, 400),
        0.25,
        index=rng.permutation(400),
    )
    setting = setting_of(made, radius, 0.01)
    assert setting.rows == len(made.at(radius).index)
    assert setting.least is not None
    for one, least in zip(setting.votes, setting.least, strict=True):
        k = votes[draws == one.n]
        assert one.counted(least) == int((k >= least).sum())
        assert np.array_equal(made.rows_at(radius).certified[draws == one.n], k >= least)
    everyone = setting_of(made, radius, 0.01, "all")
    assert everyone.rows == 400
    if radius == 0.25:
        today = made.bound("brier", radius, delta=0.01, scope="all").joint
        assert today is not None
        assert aggregate_brier(everyone).value < today[0]


def test_what_is_not_proved_is_refused_with_what_to_do() -> None:
    counts = np.array([[95, 5], [60, 40]])
    votes = cc.Certificates.from_votes([95, 60], 100, [0, 0], [0, 1], 0.25)
    shared = cc.Certificates.from_counts(counts, [0, 1], 0.25)
    runner = cc.Certificates.from_counts(counts, [0, 1], 0.25, selection=[0, 0], runner_up=True)
    flat = votes.recalibrated(cc.IdentityMap())
    intervals = cc.Certificates.from_intervals([1, 0], [0.5, 0.5], [0.9, 0.9], radius=0.1)
    rules = Stopping(radii=(0.1,), n_max=1000, planning=10)
    stopped = votes.with_provenance(stopping=rules.to_json())
    unlabelled = cc.Certificates.from_votes([95, 60], 100, [0, 0], None, 0.25)
    for made, message in (
        (shared, "expected a class that other draws selected; with split="),
        (runner, "expected none with runner-up bounds"),
        (flat, "expected none that are recalibrated"),
        (intervals, "expected some by votes, got kind 'intervals'"),
        (stopped, "got a run that stopped early"),
        (unlabelled, "labels: an aggregate bound needs them"),
    ):
        with pytest.raises(ValueError, match=message):
            setting_of(made, 0.1, 0.01)
    with pytest.raises(TypeError, match="certificates: expected Certificates, got list"):
        setting_of([1], 0.1, 0.01)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="radius"):
        setting_of(votes, -0.1, 0.01)
