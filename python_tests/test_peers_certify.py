# SPDX-License-Identifier: MIT
"""The benchmarks that need a GPU, at a tiny size on the CPU: the code is known to run, and its checks can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return pytest.importorskip("peers_certify", reason="bench/ is not beside the tests")


def tiny(peers: Any, which: int) -> Any:
    make = (
        lambda: peers.resnet50(width=4, blocks=(1, 1, 1, 1)),
        lambda: peers.cifar_resnet(depth=8),
    )[which]
    return dataclasses.replace(
        peers.SETTINGS[which],
        make_model=make, pixels=32, samples=2, n0=16, n=64, batch=32, classic_batch=32,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*abstain")
@pytest.mark.parametrize("which", [0, 1])
def test_both_rows_are_measured(peers: Any, which: int, capsys: pytest.CaptureFixture[str]) -> None:
    setting = tiny(peers, which)
    bench = peers.Bench(quick=True)
    peers.certification(bench, setting, "cpu")
    capsys.readouterr()
    assert [row["peer"] for row in bench.rows] == ["the bare forward pass", "the classic loop"]
    assert [row["images"] for row in bench.rows] == [2 * 80] * 2
    assert all(row["peer_over_ours"]["median"] > 0 for row in bench.rows)
    goals = [row["goal"] for row in bench.rows]
    assert goals == ([1 / 1.03, 1.3] if which == 0 else [None, 3.0])


def test_the_models_have_the_sizes_of_the_literature(peers: Any) -> None:
    with torch.device("meta"):
        large, small = peers.resnet50(), peers.cifar_resnet()
        assert sum(p.numel() for p in large.parameters()) == 25_557_032
        assert 1.7e6 < sum(p.numel() for p in small.parameters()) < 1.75e6
        assert large.eval()(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
        assert small.eval()(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in small.modules()) == 109 + 2


def test_the_bare_pass_sees_as_many_images(peers: Any) -> None:
    seen: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            seen.append(len(x))
            return x

    peers.bare_passes(Counting(), torch.zeros(32, 1), tiny(peers, 0))
    assert sum(seen) == 2 * 80
    assert max(seen) == 32


def test_votes_of_another_distribution_are_noticed(peers: Any) -> None:
    import certcal_ext as cc

    setting = dataclasses.replace(tiny(peers, 1), n=1000)
    ours = cc.Certificates.from_counts([[900, 100]], [0], sigma=0.25)
    peers.check(ours, [(0, 890, 0.8)], setting)
    with pytest.raises(AssertionError):
        peers.check(ours, [(0, 700, 0.6)], setting)
    with pytest.raises(AssertionError, match="different classes"):
        peers.check(ours, [(1, 900, 0.8)], setting)
