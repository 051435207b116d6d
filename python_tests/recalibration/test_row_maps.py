# SPDX-License-Identifier: MIT
"""Maps by label and stacks of events: monotone to the last bit, fitted to the optimum, sound under brute-force attacks."""

from __future__ import annotations

import itertools
import json
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtr

import certcal_ext as cc
from certcal_ext.certificates.recalibrate import recalibrate_split, stack_split
from certcal_ext.certificates.stack import stack
from certcal_ext.metrics.gaps import largest_gap
from certcal_ext.recalibration.fit import fit_recalibration
from certcal_ext.recalibration.maps import IdentityMap, LogisticMap, StepMap
from certcal_ext.recalibration.row_fits import fit_by_label, fit_stack
from certcal_ext.recalibration.row_maps import LabelMaps, RowMap, StackMap, read_map

pytestmark = pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")

KINDS = ("isotonic", "tradeoff", "temperature", "platt", "beta", "constant", "identity")


def draw_samples(seed: int, size: int, events: int = 1) -> tuple[Any, ...]:
    """Right or wrong, ends (N, J), labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, size)
    p = random.beta(4, 1, (size, events))
    right = (random.random(size) < p[:, 0] * (0.7 + 0.1 * labels)).astype(np.uint8)
    width = random.uniform(0, 0.3, (size, events))
    return right, np.maximum(p - width, 0), np.minimum(p + width, 1), labels


def stacks(random: np.random.Generator, events: int) -> StackMap:
    knots, rises = [], []
    for _ in range(events):
        inner = np.unique(random.random(random.integers(0, 4)))
        knots.append((0.0, *inner.tolist(), 1.0))
        rises.append(tuple(random.exponential(0.3, inner.size + 1).tolist()))
    offsets = {k: float(random.normal(0, 0.2)) for k in range(3)}
    return StackMap(float(random.normal(0, 0.3)), tuple(knots), tuple(rises), offsets)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_stack_is_monotone_and_its_ends_hold_the_exact_value(seed: int, events: int) -> None:
    random = np.random.default_rng(seed)
    mapping = stacks(random, events)
    p = random.random((5, events))
    p[0], p[1] = 0.0, 1.0
    step = np.where(random.random(p.shape) < 0.5, np.nextafter(p, 1.0), np.minimum(p + 0.1, 1.0))
    labels = random.integers(0, 4, 5)
    below, above = mapping.floor(p, labels), mapping.ceiling(step, labels)
    for z in (mapping(p, labels), mapping(step, labels), mapping((p + step) / 2, labels)):
        assert (below <= z).all()
        assert (z <= above).all()
    for row, label in zip(p, labels.tolist(), strict=True):
        exact = Fraction(mapping.base) + Fraction(mapping.offsets.get(label, 0.0))
        for z, knots, rises in zip(row, mapping.knots, mapping.rises, strict=True):
            for low, high, rise in zip(knots, knots[1:], rises, strict=False):
                piece = (Fraction(z) - Fraction(low)) / (Fraction(high) - Fraction(low))
                exact += Fraction(rise) * min(max(piece, Fraction(0)), Fraction(1))
        exact = min(max(exact, Fraction(0)), Fraction(1))
        one = row[None], np.array([label])
        assert mapping.floor(*one)[0] <= exact <= mapping.ceiling(*one)[0]
    assert (mapping.floor(p, None) <= below).all()
    assert (mapping.ceiling(step, None) >= above).all()


@given(st.integers(0, 2**32 - 1))
def test_any_map_is_read_back_bit_by_bit(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = {
        int(k): StepMap((0.5,), tuple(sorted(random.random(2).tolist())))
        for k in random.integers(0, 10**9, 3)
    }
    parts[7] = LogisticMap("beta", *random.random(3).tolist())
    for mapping in (LabelMaps("group", parts, IdentityMap()), stacks(random, 3), parts[7]):
        again = read_map(mapping.to_json())
        assert again == mapping
        assert type(again) is type(mapping)


def damaged(record: dict[str, Any]) -> list[Any]:
    """A record with each of its values replaced, removed, or doubled in a list."""
    result: list[Any] = []
    for name in record:
        result.append({key: value for key, value in record.items() if key != name})
        for value in (
            None,
            "x",
            -1.5,
            [],
            {},
            [1],
            {"a": 1},
            {"-1": 0.5},
            1e400,
            [[0.5, 0.4]],
            True,
        ):
            result.append({**record, name: value})
    return result


@pytest.mark.parametrize(
    "mapping",
    [
        LabelMaps("predicted", {1: StepMap((), (0.5,))}, IdentityMap()),
        StackMap(0.1, ((0.0, 1.0), (0.0, 0.5, 1.0)), ((0.3,), (0.1, 0.2)), {2: 0.1}),
    ],
)
def test_damaged_maps_are_refused_or_still_monotone(mapping: RowMap) -> None:
    record = json.loads(mapping.to_json())
    for other in damaged(record):
        try:
            found = read_map(json.dumps(other))
        except ValueError:
            continue
        assert isinstance(found, RowMap)  # another map, which is one
        p = np.linspace(0, 1, 9)[:, None].repeat(found.events, axis=1)
        for label in (0, 1, 2):
            values = found(p, np.full(9, label))
            assert (np.diff(values) >= -1e-12).all()
            assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_without_samples_or_others_has_the_common_map(kind: str) -> None:
    right, low, high, _ = draw_samples(0, 200)
    sample = right, low[:, 0], high[:, 0], (low + high)[:, 0] / 2
    fitted = fit_by_label(kind, sample, np.zeros(200, int))
    z = np.linspace(0, 1, 21)
    assert fitted(z, np.zeros(21, int)) == pytest.approx(fitted(z, np.ones(21, int)), abs=1e-6)
    small = fit_by_label(kind, sample, (np.arange(200) == 0).astype(int))
    assert fitted(z, np.ones(21, int)) == pytest.approx(small(z, np.full(21, 9)), abs=1e-6)
    with_few, common = small(z, np.ones(21, int)), small(z, np.full(21, 9))
    assert np.abs(with_few - common).max() < 0.1  # of one sample, and 50 others


@pytest.mark.parametrize("kind", ["isotonic", "constant"])
def test_no_monotone_map_of_a_label_is_better(kind: str) -> None:
    right, low, high, labels = draw_samples(1, 400)
    sample = right, low[:, 0], high[:, 0], (low + high)[:, 0] / 2
    fitted = fit_by_label(kind, sample, labels, prior=1e-3)
    rows = labels == 1
    position = np.where(right == 1, low[:, 0], high[:, 0])[rows]
    own = fit_recalibration(kind, right[rows], low[rows, 0], high[rows, 0])
    best = np.mean((right[rows] - own(position)) ** 2)
    assert np.mean((right[rows] - fitted(position, labels[rows])) ** 2) == pytest.approx(
        best, abs=1e-5
    )


def test_the_stack_is_the_best_non_negative_combination() -> None:
    right, low, high, labels = draw_samples(2, 300, events=2)
    fitted = fit_stack(right, low, high, labels, prior=5.0)
    points = np.where(right[:, None] == 1, low, high)

    def cost(base: float, rises: Any, offsets: Any) -> float:
        value = np.full(300, base)
        for j, knots in enumerate(fitted.knots):
            for k, (a, b) in enumerate(itertools.pairwise(knots)):
                value += rises[j][k] * np.clip((points[:, j] - a) / (b - a), 0, 1)
        value += np.array([offsets[label] for label in labels])
        return float(np.sum((right - value) ** 2) + 5.0 * sum(v**2 for v in offsets.values()))

    best = cost(fitted.base, fitted.rises, fitted.offsets)
    random = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(200):
            rises = [np.maximum(np.add(r, random.normal(0, size, len(r))), 0) for r in fitted.rises]
            offsets = {k: v + random.normal(0, size) for k, v in fitted.offsets.items()}
            assert best <= cost(fitted.base + random.normal(0, size), rises, offsets) + 1e-9


class Linear:
    """A smoothed linear classifier of two or three classes on the plane, with exact probabilities of its votes.

    The noisy logits are w_k . (x + sigma eps), and the class is 0 where w . x is above the first threshold, and so on: all
    events are of one direction, so every probability is known in closed form at every point.
    """

    def __init__(self, angle: float, thresholds: tuple[float, ...], sigma: float) -> None:
        self.direction = np.array([np.cos(angle), np.sin(angle)])
        self.cuts, self.sigma = np.array(thresholds), sigma

    def probabilities(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., K)"""
        s = (x @ self.direction)[..., None]
        below = ndtr((self.cuts - s) / self.sigma)
        ends = np.concatenate([np.zeros_like(s), below, np.ones_like(s)], axis=-1)
        return np.diff(ends, axis=-1)


def linear_counts(
    seed: int, size: int, n: int, angle: float = 0.5
) -> tuple[list[Linear], Any, Any, list[Any]]:
    random = np.random.default_rng(seed)
    models = [Linear(0.3, (-0.2, 0.3), 0.25), Linear(angle, (-0.25, 0.35), 0.5)]
    x = random.normal(0, 0.5, (size, 2))
    labels = np.digitize(x @ models[0].direction + random.normal(0, 0.25, size), (-0.2, 0.3))
    counts = [
        np.stack([random.multinomial(n, p) for p in model.probabilities(x)]) for model in models
    ]
    return models, x, labels, counts


@pytest.mark.parametrize(("what", "angle"), [("predicted", 0.5), ("stack", 0.5), ("stack", 2.0)])
@pytest.mark.parametrize("selection", ["shared", "separate"])
def test_no_attack_leaves_what_is_certified(what: str, angle: float, selection: str) -> None:
    """Attacks from a fine ring and disc: confidences of certified samples stay inside, those of all within their gap."""
    models, x, labels, counts = linear_counts(3, 250, 4000, angle)
    classes = None if selection == "shared" else models[0].probabilities(x).argmax(axis=1)
    made = [
        cc.Certificates.from_counts(
            c, labels, m.sigma, 1e-4, classes if m is models[0] else None, keep_counts=True
        )
        for c, m in zip(counts, models, strict=True)
    ]
    radius = 0.1
    if what == "stack":
        split = stack_split(made, radius)
        certified = stack(made).recalibrated(split.mapping)
    else:
        split = recalibrate_split(made[0], radius, "isotonic", by="predicted")
        certified = made[0].recalibrated(split.mapping)
    mapping = split.mapping
    assert isinstance(mapping, RowMap)
    rows = certified.rows_at(radius)
    held = certified.at(radius)
    assert np.array_equal(held.lower, rows.lower[rows.certified])
    predicted = certified.table["predicted"].to_numpy()
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    moves = [r * np.stack([np.cos(turns), np.sin(turns)], 1) for r in (0.0, 0.05, 0.0999)]
    correct = certified.table["correct"].to_numpy(zero_copy_only=False)
    gap = rows.gap
    assert gap is not None
    for move in np.concatenate(moves):
        every = [model.probabilities(x + move) for model in models]
        chosen = every[0].argmax(axis=1)
        one = np.arange(len(x))
        p = np.stack([each[one, chosen] for each in every[: mapping.events]], axis=1)
        z = mapping(p, chosen)
        keep = rows.certified
        assert (chosen[keep] == predicted[keep]).all()
        assert (z[keep] >= rows.lower[keep]).all()
        assert (z[keep] <= rows.upper[keep]).all()
        assert (np.abs((chosen == labels) - z) <= gap).all()
    assert np.array_equal(correct, predicted == labels)
    assert 0 < np.count_nonzero(rows.certified) < len(x)


def test_what_turns_right_may_have_no_vote_of_the_other_models() -> None:
    """The prediction becomes the true class, which the first model ranks above 0.4, and the second one may rule out."""
    second = StackMap(0.0, ((0.0, 1.0), (0.0, 1.0)), ((0.0,), (1.0,)), {})
    labels = np.array([0])

    def image(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return second.image(p, p, labels)

    wrong, ends = np.array([0], np.uint8), (np.array([[0.4, 0.9]]), np.array([[0.5, 0.95]]))
    assert largest_gap(wrong, *ends, image, top=True)[0] == 1.0
    assert largest_gap(1 - wrong, *ends, image, top=True)[0] == pytest.approx(0.1, abs=1e-12)


def test_labels_of_the_users_own(tmp_path: Path) -> None:
    """A group that stays: each group's map is its own, at whatever class the prediction is."""
    _, _, labels, counts = linear_counts(4, 300, 2000)
    made = cc.Certificates.from_counts(counts[0], labels, 0.25, 1e-3)
    group = np.arange(300) % 2
    split = recalibrate_split(made, 0.05, "constant", group=group)
    assert isinstance(split.mapping, LabelMaps)
    assert split.mapping.by == "group"
    levels = {k: part([0.5])[0] for k, part in split.mapping.maps.items()}
    held = split.certified.at(0.05)
    rows = split.certified.rows_at(0.05)
    label = split.certified.table["group"].to_numpy()[rows.certified]
    assert np.array_equal(held.lower, [levels[k] for k in label])
    assert np.array_equal(held.confidence, held.lower)
    path = tmp_path / "grouped.parquet"
    split.certified.to_parquet(path)
    assert cc.Certificates.from_parquet(path) == split.certified
    with pytest.raises(ValueError, match="expected a value in every row of group"):
        made.recalibrated(split.mapping)
    with pytest.raises(ValueError, match="by: expected None"):
        recalibrate_split(made, 0.05, by="predicted", group=group)
    with pytest.raises(ValueError, match="group: expected 300 entries"):
        recalibrate_split(made, 0.05, group=group[:10])


def test_files_without_new_columns_and_statements(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    _, _, labels, counts = linear_counts(5, 200, 2000)
    made = [
        cc.Certificates.from_counts(c, labels, s, keep_counts=True)
        for c, s in zip(counts, (0.25, 0.5), strict=True)
    ]
    plain, stacked = tmp_path / "plain.parquet", tmp_path / "stack.parquet"
    made[0].to_parquet(plain)
    assert not {"group", "event_votes", "event_draws"} & set(pq.read_schema(plain).names)
    assert cc.Certificates.from_parquet(plain) == made[0]
    split = stack_split(made, 0.1)
    split.certified.to_parquet(stacked)
    again = cc.Certificates.from_parquet(stacked)
    assert again == split.certified
    assert again.recalibration == split.mapping
    words = again.bound("brier", 0.1).statement()
    assert "other models for its class (sigma 0.25, 0.5)" in words
    by_class = recalibrate_split(made[0], 0.1, by="predicted").certified
    assert (
        "after the stored monotone map of its predicted class"
        in by_class.bound("ece", 0.1).statement()
    )


def test_joint_bounds_take_every_event_at_its_level() -> None:
    """The union bound's intervals are those of the same votes at delta / N, shared among the models."""
    _, _, labels, counts = linear_counts(6, 100, 5000)
    made = [
        cc.Certificates.from_counts(
            c, labels, s, 1e-3, np.argmax(counts[0], axis=1), keep_counts=True
        )
        for c, s in zip(counts, (0.25, 0.5), strict=True)
    ]
    certified = stack_split(made, 0.1).certified
    size = len(certified)
    joint = certified.bound("brier", 0.1, delta=1e-3, joint="union", scope="all").joint
    surer = [
        cc.Certificates.from_counts(
            c, labels, s, 1e-3 / size, np.argmax(counts[0], axis=1), keep_counts=True
        )
        for c, s in zip(counts, (0.25, 0.5), strict=True)
    ]
    ids = certified.table["index"].to_numpy()
    again = stack(surer).select(ids).recalibrated(certified.recalibration)
    assert joint == pytest.approx(again.bound("brier", 0.1, scope="all").worst, rel=1e-9)


@pytest.mark.slow
def test_all_events_of_a_row_hold_together() -> None:
    """Exact binomial test over many runs of few samples, at an alpha that failures can be seen at."""
    from scipy.stats import binomtest

    failed = total = 0
    for seed in range(40):
        models, x, labels, counts = linear_counts(100 + seed, 100, 300)
        chosen = models[0].probabilities(x).argmax(axis=1)
        made = [
            cc.Certificates.from_counts(c, labels, m.sigma, 0.1, chosen, keep_counts=True)
            for c, m in zip(counts, models, strict=True)
        ]
        both = stack(made)
        one = np.arange(100)
        lower, upper = both._guarantee.confidences.events(
            both._guarantee._raw(np.ones(100, bool), 0.0), np.ones(100, bool), 0.0
        )
        truth = np.stack([m.probabilities(x)[one, chosen] for m in models], axis=1)
        inside = ((lower <= truth) & (truth <= upper)).all(axis=1)
        failed, total = failed + int((~inside).sum()), total + 100
    assert binomtest(failed, total, 0.1, alternative="greater").pvalue > 1e-6
    assert failed > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: [a], "at least two"),
        (lambda a, b: [a, b.select(range(10))], "certificates: expected the samples of '0'"),
        (lambda a, b: [a, b.recalibrated(IdentityMap())], "without a map"),
        (lambda a, b: [a, stack([a, b])], "not stacked"),
    ],
)
def test_what_cannot_be_stacked(change: Any, message: str) -> None:
    _, _, labels, counts = linear_counts(7, 50, 100)
    a, b = (
        cc.Certificates.from_counts(c, labels, s, keep_counts=True)
        for c, s in zip(counts, (0.25, 0.5), strict=True)
    )
    with pytest.raises(ValueError, match=message):
        stack_split(change(a, b), 0.05)
    without = cc.Certificates.from_counts(counts[1], labels, 0.5)
    with pytest.raises(ValueError, match="votes of all classes"):
        stack_split([a, without], 0.05)


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_class_maps_say_something_at_sigma(shared: Path, sigma: float) -> None:
    """Published counts, mean of held-out halves: the best common map is a constant, the class alone is worth a skill."""
    path = shared / "data" / "cifar10_cohen_resnet110" / f"sigma_{sigma}_n_100000.npz"
    if not path.exists():
        pytest.skip(f"needs {path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cc.Certificates.from_npz(path, sigma=sigma, keep_counts=True)
    skills = {}
    for by in (None, "predicted"):
        reports = [
            recalibrate_split(made, sigma, seed=seed, by=by).reports([sigma])[0]
            for seed in range(5)
        ]
        skills[by] = np.mean([1 - r.after.certified_brier / r.constant_brier for r in reports if r])
    assert skills[None] < 0.002
    assert skills["predicted"] > 0.025


def test_the_command_line_fits_by_class(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from certcal_ext.cli import app

    _, _, labels, counts = linear_counts(8, 300, 2000)
    path, out = tmp_path / "counts.npz", tmp_path / "by_class.parquet"
    np.savez(path, counts=counts[0], labels=labels, sigma=0.25)
    ask = ["recalibrate", str(path), "--by", "predicted", "--fit-radius", "0.1", "--radii", "0.1"]
    said = CliRunner().invoke(app, [*ask, "--json", "--out", str(out)])
    assert said.exit_code == 0, said.output
    stored = read_map(json.loads(said.output)["recalibration"]["map"])
    assert cc.Certificates.from_parquet(out).recalibration == stored
    assert isinstance(stored, LabelMaps)
    words = CliRunner().invoke(app, ask).output
    assert "isotonic, by predicted class" in " ".join(words.split())
    wrong = CliRunner().invoke(app, [*ask[:3], "group"])
    assert wrong.exit_code == 2
