# SPDX-License-Identifier: MIT
"""Scopes and joint validity, against every way in which samples may behave."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import plain_ece
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

import certcal_ext as cc
from certcal_ext.metrics.base import Options, Samples
from certcal_ext.metrics.gaps import largest_gap
from certcal_ext.metrics.registry import METRICS as EVERY
from certcal_ext.metrics.registry import metric_of
from certcal_ext.recalibration.maps import StepMap

FALSE_ALARM = 1e-6
EDGES = np.linspace(0, 1, 6)
OPTIONS = Options.of(edges=EDGES, clip=0.01, threshold=0.6)
METRICS = [name for name, metric in EVERY.items() if not metric.of_classes and not metric.lowest]


def value(metric: str, correct: NDArray[np.bool_], z: NDArray[np.float64]) -> float:
    """The plain metric, written once more."""
    c = correct.astype(float)
    if metric == "brier":
        return float(np.mean((c - z) ** 2))
    if metric == "ece":
        return plain_ece(c, z, EDGES, "right")
    if metric == "ks":
        return float(max(abs((c - z)[z <= t].sum()) for t in z) / z.size)
    if metric == "mce":
        bins = np.searchsorted(EDGES[1:-1], z, "left")
        return float(max(abs((c - z)[bins == b].mean()) for b in np.unique(bins)))
    if metric == "log_loss":
        clipped = np.clip(z, 0.01, 0.99)
        return float(-np.mean(np.log(np.where(correct, clipped, 1 - clipped))))
    accepted = z >= 0.6
    return float(np.mean(~correct[accepted])) if accepted.any() else 0.0


def random_samples(rng: np.random.Generator, n: int) -> tuple[NDArray, NDArray, NDArray]:
    correct = rng.random(n) < 0.7
    ends = np.sort(rng.choice(np.r_[rng.random(8), EDGES, 0.6], (2, n)), axis=0)
    return correct, ends[0], ends[1]


@pytest.mark.parametrize("metric", METRICS)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 4))
def test_k_failed_intervals_cannot_pass_the_bound(metric: str, seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    correct, low, high = random_samples(rng, n)
    samples = Samples(correct.view(np.uint8), low, high, None, np.empty(0))
    bound = metric_of(metric).failed(samples, OPTIONS, k)
    assert bound >= metric_of(metric).worst(samples, OPTIONS) - 1e-12
    for _ in range(30):
        z = low + (high - low) * rng.choice([0, 1, rng.random()], n)
        c = correct.copy()
        failed = rng.choice(n, min(k, n), replace=False)
        c[failed] = rng.random(failed.size) < 0.3
        z[failed] = rng.choice([0.0, 1.0, 0.6, rng.random()], failed.size)
        assert value(metric, c, z) <= bound + 1e-12


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mapped", [False, True])
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_scope_all_covers_whatever_class_the_attack_makes(
    metric: str, mapped: bool, seed: int, n: int
) -> None:
    """Samples are vectors of three class probabilities, whose own class has one inside the interval."""
    rng = np.random.default_rng(seed)
    label, own = rng.integers(0, 3, n), rng.integers(0, 3, n)
    low, high = np.sort(rng.random((2, n)), axis=0)
    certified = (low > 0.5) & (rng.random(n) < 0.8)
    g = StepMap(jumps=(0.4, 0.8), levels=(0.1, 0.5, 0.9)) if mapped else None
    image = (lambda z: (g(z), g(z))) if g is not None else (lambda z: (z, z))
    correct = label == own
    gap = largest_gap(correct.view(np.uint8), low, high, image, top=True)
    inside = image(low)[0][certified], image(high)[1][certified]
    samples = Samples(correct[certified].view(np.uint8), *inside, None, gap[~certified])
    bound = metric_of(metric).worst(samples, OPTIONS)
    for _ in range(20):
        z = low + (high - low) * rng.random(n)
        share = rng.random(n)
        p = np.empty((n, 3))
        rows = np.arange(n)
        p[rows, own] = z
        p[rows, (own + 1) % 3] = (1 - z) * share
        p[rows, (own + 2) % 3] = (1 - z) * (1 - share)
        predicted = np.where(certified, own, p.argmax(axis=1))
        confidence = p[rows, predicted]
        if g is not None:
            confidence = g(confidence)
        assert value(metric, predicted == label, confidence) <= bound + 1e-12


def test_gap_of_scores_knows_no_order_of_confidences() -> None:
    """With votes for the prediction, a right class may come to the top with any mean score."""
    gap = largest_gap(np.array([0, 1], np.uint8), *np.full((2, 2), 0.7), lambda z: (z, z), False)
    assert gap.tolist() == [1.0, pytest.approx(0.3)]
    gap = largest_gap(np.array([0, 1], np.uint8), *np.full((2, 2), 0.7), lambda z: (z, z), True)
    assert gap.tolist() == [pytest.approx(0.7), pytest.approx(0.3)]


def drawn(rng: np.random.Generator, p: NDArray, n: int, alpha: float) -> cc.Certificates:
    labels = np.zeros(p.size, np.int64)
    predicted = (np.arange(p.size) % 5 == 0).astype(np.int64)  # every fifth is wrong
    return cc.Certificates.from_votes(rng.binomial(n, p), n, predicted, labels, 0.25, alpha)


@pytest.mark.parametrize("joint", ["binomial", "union", "best"])
@pytest.mark.parametrize("scope", ["certified", "all"])
@pytest.mark.parametrize("metric", ["brier", "ece", "ks"])
def test_joint_bounds_cover_the_truth(joint: str, scope: str, metric: str) -> None:
    """The true worst case, from the exact probabilities, is above the bound no more often than delta."""
    rng = np.random.default_rng(3)
    p = rng.beta(6, 1, 60)
    alpha, delta, radius, trials, failures = 0.2, 0.3, 0.05, 120, 0
    truth_low, truth_high = ndtr(ndtri(p) - radius / 0.25), ndtr(ndtri(p) + radius / 0.25)
    correct = np.arange(p.size) % 5 != 0
    for _ in range(trials):
        made = drawn(rng, p, 100, alpha)
        curve = made.bound(metric, radius, scope=scope, delta=delta, joint=joint)
        assert curve.joint is not None
        keep = made.rows_at(radius).certified if scope == "certified" else truth_low > 0.5
        rest = np.zeros(p.size, bool) if scope == "certified" else ~keep
        gap = largest_gap(correct.view(np.uint8), truth_low, truth_high, lambda z: (z, z), True)
        chosen = correct[keep].view(np.uint8), truth_low[keep], truth_high[keep]
        samples = Samples(*chosen, None, gap[rest])
        if scope == "certified" and (truth_low[keep] <= 0.5).any():
            samples = Samples(  # a prediction was certified that can change: its gap is the truth
                *(values[truth_low[keep] > 0.5] for values in chosen),
                None,
                gap[keep & (truth_low <= 0.5)],
            )
        truth = metric_of(metric).worst(samples, Options.of())
        failures += truth > curve.joint[0]
    assert binomtest(failures, trials, delta, alternative="greater").pvalue > FALSE_ALARM


@pytest.mark.parametrize("scope", ["certified", "all"])
@pytest.mark.parametrize("metric", ["brier", "log_loss", "selective_risk"])
def test_population_bounds_cover(metric: str, scope: str) -> None:
    rng = np.random.default_rng(4)
    alpha, delta, n, trials, failures = 1e-3, 0.3, 400, 60, 0
    options = {"clip": 0.01, "threshold": 0.6, "scope": scope}

    def population(size: int) -> tuple[NDArray, NDArray]:
        p = rng.beta(5, 1, size)
        return p, rng.random(size) < p

    def worst(p: NDArray, right: NDArray) -> float:
        low, high = ndtr(ndtri(p) - 0.2), ndtr(ndtri(p) + 0.2)
        keep = low > 0.5
        gap = largest_gap(right.view(np.uint8), low, high, lambda z: (z, z), True)
        rest = ~keep if scope == "all" else np.zeros(p.size, bool)
        samples = Samples(right[keep].view(np.uint8), low[keep], high[keep], None, gap[rest])
        return metric_of(metric).worst(samples, OPTIONS)

    truth = worst(*population(200_000))
    for _ in range(trials):
        p, right = population(n)
        votes = rng.binomial(20_000, p)  # draws enough that certified and certifiable agree
        made = cc.Certificates.from_votes(
            votes, 20_000, 1 - right.astype(int), np.zeros(n, int), 0.25, alpha
        )
        curve = made.bound(metric, 0.05, delta=delta, population=True, **options)
        assert curve.population is not None
        assert curve.population[0] >= curve.worst[0] - 1e-12
        failures += truth > curve.population[0] + 0.004  # the truth's own sampling error
    assert binomtest(failures, trials, delta, alternative="greater").pvalue > FALSE_ALARM


def certificates(**options: object) -> cc.Certificates:
    rng = np.random.default_rng(5)
    counts = np.stack([rng.multinomial(1000, q) for q in rng.dirichlet([0.3] * 4, 300)])
    labels = np.where(rng.random(300) < 0.8, counts.argmax(1), rng.integers(0, 4, 300))
    selection = counts.argmax(1)
    return cc.Certificates.from_counts(counts, labels, 0.25, selection=selection, **options)


def test_without_options_it_is_the_curve() -> None:
    made, radii = certificates(), [0.0, 0.1, 0.3]
    curve = made.curve(radii)
    assert made.bound("brier", radii).worst.tolist() == curve.certified_brier.tolist()
    assert made.bound("ece", radii).worst.tolist() == curve.certified_ece.tolist()
    assert made.bound("ece", radii).plain == pytest.approx(curve.ece)
    assert (
        made.ece(radii, scope="all").tolist()
        == made.bound("ece", radii, scope="all").worst.tolist()
    )
    assert (
        made.brier(radii, delta=0.01).tolist()
        == made.bound("brier", radii, delta=0.01).joint.tolist()
    )


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_are_ordered(metric: str) -> None:
    made, radii = certificates(), np.linspace(0, 0.5, 6)
    options = {"clip": 1e-3, "delta": 0.01}
    certified = made.bound(metric, radii, **options)
    everyone = made.bound(metric, radii, scope="all", **options)
    for curve in (certified, everyone):
        assert curve.joint is not None
        assert (curve.joint >= curve.worst - 1e-12).all()
        assert len(curve.statement()) > 40
    assert (everyone.samples == 300).all()
    assert (np.diff(everyone.worst) >= -1e-12).all()  # the same samples at every radius


def test_best_is_the_lower_of_the_two_at_half_of_delta() -> None:
    made = certificates()
    best = made.bound("ece", [0.1], delta=0.02, joint="best")
    halves = [made.bound("ece", [0.1], delta=0.01, joint=j).joint[0] for j in ("binomial", "union")]
    assert best.joint[0] == min(halves)
    assert best.method[0] == ("binomial", "union")[int(np.argmin(halves))]


def test_runner_up_certifies_more_and_stays_sound() -> None:
    plain, better = certificates(), certificates(runner_up=True)
    assert better.at(0.0).index.size > plain.at(0.0).index.size
    assert better.table.column("counts").null_count == 0
    again = cc.Certificates(better.table, better.provenance)
    assert again.curve([0.0, 0.1]).certified_ece.tolist() == better.ece([0.0, 0.1]).tolist()
    # p_A > p_B must hold with the true probabilities where it is certified
    rng = np.random.default_rng(6)
    p = np.array([0.40, 0.39, 0.21])
    wrong = 0
    for _ in range(50):
        counts = rng.multinomial(200, p, 20)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that most abstain is what should happen
            made = cc.Certificates.from_counts(  # the class of 0.39: whoever certifies it is wrong
                counts, None, 0.25, 0.1, selection=np.ones(20, int), runner_up=True
            )
        wrong += made.at(0.0).index.size
    assert binomtest(wrong, 1000, 0.1, alternative="greater").pvalue > FALSE_ALARM


def test_shared_draws_pay_for_it() -> None:
    made = certificates()
    shared = made.with_provenance(notes=("the class was selected by the draws that estimate it",))
    for scope in ("certified", "all"):
        ours = made.bound("brier", 0.1, delta=0.01, joint="binomial", scope=scope)
        theirs = shared.bound("brier", 0.1, delta=0.01, joint="binomial", scope=scope)
        assert theirs.failures > ours.failures
        assert theirs.joint[0] > ours.joint[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "auc"}, "metric: expected one of ece, "),
        ({"scope": "some"}, 'scope: expected "certified" or "all"'),
        ({"delta": 0.0}, "delta: expected a probability"),
        ({"joint": "none"}, "joint: expected one of best"),
        ({"population": True}, "population: expected delta"),
        ({"population": True, "delta": 0.1, "metric": "ece"}, "population: expected a metric"),
        ({"population": True, "delta": 0.1, "metric": "log_loss"}, "clip: expected a number"),
        ({"clip": 0.7}, "clip: expected a number above 0 and below 0.5"),
        ({"threshold": 2}, "threshold: expected a confidence"),
        ({"radii": -1}, "radii: expected finite radii"),
        ({"bins": 0}, "bins: expected"),
    ],
)
def test_bad_options(options: dict, words: str) -> None:
    arguments = {"metric": "brier", "radii": 0.1, **options}
    with pytest.raises(ValueError, match=words):
        certificates().bound(**arguments)


def test_intervals_of_another_verifier_have_no_alpha() -> None:
    made = cc.Certificates.from_intervals([1, 0], [0.6, 0.2], [0.7, 0.3], radius=0.5)
    assert made.bound("ece", 0.5).worst[0] == pytest.approx(made.ece(0.5)[0])
    with pytest.raises(ValueError, match="delta: expected None"):
        made.bound("ece", 0.5, delta=0.1)
    with pytest.raises(ValueError, match=r"at most 0\.5"):
        made.bound("ece", 0.6)


def test_select_and_recalibrated() -> None:
    made = certificates()
    half = made.select(np.arange(300) < 150)
    assert len(half) == 150
    assert made.select([3, 1]).table.column("index").to_pylist() == [3, 1]
    for bad, words in ((np.zeros(300, bool), "at least one"), ([300], "positions from 0 to 299")):
        with pytest.raises(ValueError, match=words):
            made.select(bad)
    g = StepMap(jumps=(0.7,), levels=(0.3, 0.8))
    mapped = made.recalibrated(g)
    assert mapped.recalibration == g
    assert set(mapped.at(0.1).lower) <= {0.3, 0.8}
    plain = made.at(0.1)
    ece = cc.certified_ece(plain.correct, g(plain.lower), g(plain.upper)).value
    assert mapped.ece(0.1)[0] == ece
    assert mapped.recalibrated(None) == made
    with pytest.raises(TypeError, match="mapping: expected a RecalibrationMap"):
        made.recalibrated(lambda z: z)


def test_levels_too_small_to_evaluate_loosen_and_never_tighten() -> None:
    """delta / N may fall below the smallest level of an interval: the union bound is then left out."""
    made = certificates()
    tiny = made.bound("brier", 0.1, delta=2e-13)
    assert tiny.method[0] == "binomial"
    with pytest.raises(ValueError, match="union"):
        made.bound("brier", 0.1, delta=2e-13, joint="union")
    kept = certificates(keep_counts=True)
    assert kept.classwise(0.1, delta=2e-13).method[0] == "binomial"
    with pytest.raises(ValueError, match="union"):
        kept.classwise(0.1, delta=2e-13, joint="union")


def test_a_clip_costs_the_sure_and_right_too() -> None:
    """Every row right with all of its votes: a model that clips at 0.01 still loses -log 0.99 on each."""
    rows = np.zeros(2000, np.int64)
    made = cc.Certificates.from_votes(rows + 100_000, 100_000, rows, rows, 0.25)
    curve = made.bound("log_loss", 0.0, delta=1e-3, clip=0.01, population=True)
    for value in (curve.plain, curve.worst, curve.joint, curve.population):
        assert value[0] >= -np.log(0.99)
    assert curve.worst[0] == pytest.approx(-np.log(0.99), abs=1e-9)
