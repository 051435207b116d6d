# SPDX-License-Identifier: MIT
"""States add: any split, order and merging of the samples gives the result of all at once, to the last bit."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import SIZES, Problem, problems, random_problem

import certcal_ext as cc
from certcal_ext import (
    BrierState,
    EceState,
    KsState,
    LogLossState,
    RiskCoverageState,
)
from certcal_ext.metrics.log_loss import certified_log_loss
from certcal_ext.metrics.risk_coverage import certified_risk_coverage
from certcal_ext.metrics.state import CertifiedState

#: Settings of each class that are not the default ones.
KINDS: list[tuple[type[CertifiedState[Any]], dict[str, Any]]] = [
    (BrierState, {}),
    (EceState, {"edges": [0.0, 0.3, 0.5, 1.0], "closed": "left"}),
    (LogLossState, {"clip": 1e-3}),
    (LogLossState, {}),
    (KsState, {"bits": 5}),
    (RiskCoverageState, {"thresholds": [0.25, 0.5, 0.9]}),
]
kinds = pytest.mark.parametrize(("kind", "settings"), KINDS, ids=lambda part: str(part)[-24:])


def same(here: Any, there: Any) -> bool:
    """Whether two results agree in every public field."""
    names = [f.name for f in dataclasses.fields(here) if not f.name.startswith("_")]
    return all(np.array_equal(getattr(here, name), getattr(there, name)) for name in names)


def on_grid(problem: Problem, bits: int) -> Problem:
    """The intervals with their ends moved outward to multiples of 2^-bits."""
    return problem._replace(
        lower=np.floor(problem.lower * 2**bits) / 2**bits,
        upper=np.ceil(problem.upper * 2**bits) / 2**bits,
    )


@kinds
@given(problem=problems(most_samples=30), data=st.data())
def test_any_split_and_order(
    kind: type[CertifiedState[Any]], settings: Any, problem: Problem, data: st.DataObject
) -> None:
    size = problem.correct.size
    order = np.array(data.draw(st.permutations(range(size))))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    whole = kind(**settings)
    whole.update(*problem[:3])
    parts = []
    for rows in np.split(order, cuts):
        part = kind(**settings)
        part.update(*(column[rows] for column in problem[:3]))
        parts.append(part)
    merged, streamed = kind(**settings), kind(**settings)
    for part, rows in zip(parts, np.split(order, cuts), strict=True):
        merged.merge(part)
        streamed.update(*(column[rows] for column in problem[:3]))
    summed = kind.from_state(sum(part.state() for part in parts), **settings)
    for other in (merged, streamed, summed, pickle.loads(pickle.dumps(whole))):
        assert np.array_equal(other.state(), whole.state())
        assert other.rows == whole.rows == size
        assert same(other.compute(), whole.compute())


@pytest.mark.parametrize("size", SIZES)
def test_equal_to_the_functions_on_all_samples(size: int) -> None:
    correct, lower, upper, edges, closed = random_problem(size, seed=size)
    expected = [
        (BrierState(), cc.certified_brier(correct, lower, upper)),
        (EceState(edges=edges, closed=closed), cc.certified_ece(correct, lower, upper)),
        (LogLossState(1e-9), certified_log_loss(correct, lower, upper, 1e-9)),
        (LogLossState(), certified_log_loss(correct, lower, upper)),
    ]
    for state, result in expected:
        for begin in range(0, size, 100):
            state.update(*(column[begin : begin + 100] for column in (correct, lower, upper)))
        assert same(state.compute(), result), type(state)


@given(problems(most_samples=20), st.sampled_from([1, 3, 12]))
def test_ks_is_the_exact_one_of_the_wider_intervals(problem: Problem, bits: int) -> None:
    state = KsState(bits)
    state.update(*problem[:3])
    value = state.compute().value
    wider = on_grid(problem, bits)
    assert value == cc.certified_ks(*wider[:3]).value  # sums of few such terms are exact
    assert value >= cc.certified_ks(*problem[:3]).value - 2.0**-50


@pytest.mark.parametrize("size", [257, 4097])
def test_what_the_grid_of_ks_costs(size: int) -> None:
    correct, lower, upper, _, _ = random_problem(size, seed=size)
    exact = cc.certified_ks(correct, lower, upper).value
    for bits in (6, 9, 12):
        state = KsState(bits)
        state.update(correct, lower, upper)
        inside = [
            np.bincount(np.floor(ends * 2**bits).astype(int)[ends * 2**bits % 1 > 0])
            for ends in (lower[correct], upper[correct], lower[~correct], upper[~correct])
        ]
        share = max(counts.max() for counts in inside) / size
        assert exact - 1e-12 <= state.compute().value <= exact + 2.0**-bits + share + 1e-12


@given(problems(most_samples=20))
def test_risk_is_exact_and_the_area_from_above(problem: Problem) -> None:
    thresholds = np.unique([0.0, 0.2, 0.5, *problem.edges])
    state = RiskCoverageState(thresholds)
    state.update(*problem[:3])
    result = state.compute()
    exact = certified_risk_coverage(*problem[:3], thresholds)
    for name in ("thresholds", "risk", "coverage", "errors", "kept", "n", "accuracy"):
        assert np.array_equal(getattr(result, name), getattr(exact, name)), name
    assert result.aurc >= exact.aurc - 1e-12
    ends = np.unique([*problem.lower, *problem.upper])
    finest = RiskCoverageState(ends)
    finest.update(*problem[:3])
    assert finest.compute().aurc == pytest.approx(exact.aurc, abs=1e-12)


def test_the_default_thresholds() -> None:
    state = RiskCoverageState()
    correct, lower, upper, _, _ = random_problem(4097, seed=0)
    state.update(correct, lower, upper)
    result = state.compute()
    assert np.array_equal(result.thresholds, np.linspace(0, 1, 1001))
    exact = certified_risk_coverage(correct, lower, upper).aurc
    assert exact <= result.aurc <= exact + 0.01


@kinds
def test_no_samples(kind: type[CertifiedState[Any]], settings: Any) -> None:
    state = kind(**settings)
    state.update([], [], [])
    assert state.rows == 0
    with pytest.raises(ValueError, match="expected at least one sample before a result"):
        state.compute()
    assert not state.state().any()


@kinds
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 1], [0.5, 0.5], [0.6, 0.4]), ValueError, "lower <= upper .* in row 1"),
        (([0], [0.5], [float("nan")]), ValueError, "lower <= upper"),
        (([1], [0.5], [0.6, 0.7]), ValueError, "upper: expected 1 entries"),
        (([2], [0.5], [0.6]), ValueError, "correct: expected booleans or 0 and 1"),
        (([1], ["a"], [0.6]), TypeError, "lower: expected real numbers"),
    ],
)
def test_a_bad_part_changes_nothing(
    kind: type[CertifiedState[Any]],
    settings: Any,
    arguments: Any,
    error: type[Exception],
    message: str,
) -> None:
    state = kind(**settings)
    state.update([1, 0], [0.25, 0.5], [0.5, 0.75])
    before = state.state()
    with pytest.raises(error, match=message):
        state.update(*arguments)
    assert np.array_equal(state.state(), before)
    assert state.rows == 2


@kinds
def test_what_is_handed_out_and_in_is_a_copy(
    kind: type[CertifiedState[Any]], settings: Any
) -> None:
    state = kind(**settings)
    state.update([1], [0.5], [0.75])
    given_out = state.state()
    again = kind.from_state(given_out, **settings)
    given_out[...] = -1
    assert same(again.compute(), state.compute())


@kinds
def test_bad_states(kind: type[CertifiedState[Any]], settings: Any) -> None:
    state = kind(**settings)
    state.update([1, 0, 1], [0.25, 0.5, 0.5], [0.5, 0.75, 0.75])
    good = state.state()
    with pytest.raises(TypeError, match="state: expected integers"):
        kind.from_state(good.astype(float), **settings)
    with pytest.raises(ValueError, match="state: expected shape"):
        kind.from_state(good.ravel()[:-1], **settings)
    with pytest.raises(ValueError, match="expected"):
        kind.from_state(-good, **settings)
    with pytest.raises(ValueError, match=r"expected at most 2\^36|expected counts"):
        kind.from_state(good * 2**35, **settings)


def spoiled(state: CertifiedState[Any], change: Callable[[Any], None]) -> Any:
    integers = state.state()
    change(integers)
    return integers


def plus(at: Any, value: int) -> Callable[[Any], None]:
    def change(integers: Any) -> None:
        integers[at] += value

    return change


@pytest.mark.parametrize(
    ("state", "change", "message"),
    [
        (BrierState(), plus(1, 5), "no more right ones"),
        (BrierState(), plus(2, 2**28), "no larger sum"),
        (LogLossState(), plus(1, 5), "right or infinite"),
        (LogLossState(), plus(2, 5), "right or infinite"),
        (LogLossState(), plus(2, 2), "sum of losses"),  # no finite loss is left
        (LogLossState(), plus(3, 2**34), "sum of losses"),
        (LogLossState(), plus(4, 2**28), "sum of losses"),
        (LogLossState(), plus(2, -1), "from 0 to"),
        (LogLossState(0.1), plus(2, 1), "no infinite loss with a clip"),
        (LogLossState(0.1), plus(3, -180_000), "sum of losses"),
        (BrierState(), plus(3, 2**28), "no larger sum"),
        (BrierState(), plus(0, 2**40), "at most 2"),
        (EceState(1), plus((1, 0, 0, 2), 2**26), "word of a sum above"),
        (EceState(1), plus((1, 0, 0, 1), 2**25), "no sum of lower ends above"),
        (EceState(1), plus((0, 0, 0, 4), -1), "from 0 to"),
        (KsState(3), plus((0, 2), 1), "as many lower as upper ends"),
        (KsState(3), plus((3, 2), 1), "as many lower as upper ends"),
        (KsState(3), plus((4, 6), 40), "sum of lower ends"),
        (KsState(3), plus((4, 6), -1), "sum of lower ends"),
        (KsState(3), plus((slice(0, 2), 3), 2**40), "at most 2"),
        (
            KsState(3),
            lambda s: s.__setitem__((slice(0, 2), slice(None, None, 8)), [[0, 1], [1, 0]]),
            "upper end at or above",
        ),
        (RiskCoverageState([0.0, 0.5]), plus((0, 0), 1), "below a threshold of 0"),
        (RiskCoverageState([0.5]), plus((1, 1), 1), "upper end at or above"),
        (
            RiskCoverageState([0.6]),
            lambda s: s[1:].__setitem__(slice(None), [[1, 0], [0, 1]]),
            "at or above",
        ),
    ],
)
def test_states_that_no_samples_give(
    state: CertifiedState[Any], change: Callable[[Any], None], message: str
) -> None:
    state.update([1, 0], [0.25, 0.5], [0.5, 0.75])
    settings = state._settings()
    with pytest.raises(ValueError, match=message):
        type(state).from_state(spoiled(state, change), **settings)


def test_merging_what_does_not_fit() -> None:
    with pytest.raises(TypeError, match="other: expected BrierState, got LogLossState"):
        BrierState().merge(LogLossState())  # type: ignore[arg-type]
    for one, other in (
        (LogLossState(), LogLossState(0.1)),
        (EceState(5), EceState(6)),
        (EceState(5), EceState(5, closed="left")),
        (KsState(3), KsState(4)),
        (RiskCoverageState([0.5]), RiskCoverageState([0.6])),
    ):
        with pytest.raises(ValueError, match="other: expected"):
            one.merge(other)


def test_a_state_holds_at_most_2_36_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certcal_ext.metrics.state.MAX_ROWS", 3)
    state = BrierState()
    state.update([1, 0], [0.5, 0.5], [0.5, 0.5])
    before = state.state()
    with pytest.raises(ValueError, match="at most 2\\^36 samples"):
        state.update([1, 0], [0.5, 0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match="at most 2\\^36 samples"):
        state.merge(state)
    assert np.array_equal(state.state(), before)
    assert state.rows == 2


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: KsState(0), ValueError),
        (lambda: KsState(21), ValueError),
        (lambda: KsState(1.5), TypeError),  # type: ignore[arg-type]
        (lambda: LogLossState(0.5), ValueError),
        (lambda: EceState(0), ValueError),
        (lambda: EceState(closed="both"), ValueError),
        (lambda: RiskCoverageState([0.5, 0.5]), ValueError),
    ],
)
def test_bad_settings(make: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        make()


def test_the_adapter_is_not_imported_unasked() -> None:
    code = "import sys, certcal_ext.metrics.registry; print('torchmetrics' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_adapter_says_what_it_needs() -> None:
    code = """
        import sys
        sys.modules["torch"] = None
        try:
            import certcal_ext.metrics.torchmetrics_adapter
        except ImportError as error:
            print(error)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert "pip install torchmetrics" in out.stdout


def adapter() -> Any:
    pytest.importorskip("torchmetrics")
    return __import__("certcal_ext.metrics.torchmetrics_adapter", fromlist=["x"])


def metrics_and_values(problem: Problem) -> list[tuple[str, dict[str, Any], float]]:
    correct, lower, upper, _, _ = problem
    ks, area = KsState(6), RiskCoverageState()
    for state in (ks, area):
        state.update(correct, lower, upper)
    return [
        ("CertifiedCalibrationError", {"bins": 10}, cc.certified_ece(*problem[:3], 10).value),
        ("CertifiedBrierScore", {}, cc.certified_brier(*problem[:3]).value),
        ("CertifiedLogLossScore", {"clip": 0.01}, certified_log_loss(*problem[:3], 0.01).value),
        ("CertifiedKsError", {"bits": 6}, ks.compute().value),
        ("CertifiedAurc", {}, area.compute().aurc),
    ]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.filterwarnings("ignore")  # of torchmetrics
def test_torchmetrics_adapter(which: int) -> None:
    module = adapter()
    import torch

    problem = random_problem(257, seed=1)
    name, settings, expected = metrics_and_values(problem)[which]
    metric = getattr(module, name)(**settings)
    parts = [[torch.from_numpy(c[at::3].copy()) for c in problem[:3]] for at in range(3)]
    for part in parts:
        metric.update(*part)
    value = metric.compute()
    assert value.dtype == torch.float64
    assert value.item() == expected
    again = pickle.loads(pickle.dumps(metric))
    assert again.compute().item() == expected
    half = metric.clone().set_dtype(torch.float16)
    assert half.sums.dtype == torch.int64
    assert half.result().n == 257

    metric.reset()
    assert not metric.sums.any()
    with pytest.raises(ValueError, match="expected at least one sample"):
        metric.compute()
    batch_value = metric(*parts[0])  # forward: the value of this batch, and it is added
    assert batch_value.item() == metric.result().value
    for part in parts[1:]:
        metric(*part)
    assert metric.compute().item() == expected
    with pytest.raises(ValueError, match="lower <= upper"):
        metric.update([1], [0.5], [0.4])
    assert metric.compute().item() == expected


def test_torchmetrics_adapter_sums_across_processes(tmp_path: Path) -> None:
    adapter()
    code = """
        import sys
        import numpy as np
        import torch
        import torch.distributed as dist
        from certcal_ext.metrics.torchmetrics_adapter import CertifiedCalibrationError

        rank, store, data = int(sys.argv[1]), sys.argv[2], np.load(sys.argv[3])
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
        metric = CertifiedCalibrationError()
        metric.update(*(torch.from_numpy(data[name][rank::2]) for name in ("c", "l", "u")))
        print(repr(metric.compute().item()), metric.result().n)
        dist.destroy_process_group()
    """
    correct, lower, upper, _, _ = random_problem(1001, seed=4)
    np.savez(tmp_path / "data.npz", c=correct, l=lower, u=upper)
    arguments = [str(tmp_path / "store"), str(tmp_path / "data.npz")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(rank), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0].split() for process in processes]
    expected = repr(cc.certified_ece(correct, lower, upper).value)
    assert outputs == [[expected, "501"], [expected, "500"]]  # result() stays with its process
