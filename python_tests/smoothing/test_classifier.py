# SPDX-License-Identifier: MIT
"""SmoothedClassifier: counts that are a pure function of the model, the images and the seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import mlp
from numpy.typing import NDArray
from sampled_models import Computed
from torch.utils.data import DataLoader, TensorDataset

import certcal_ext as cc
from certcal_ext.model_state import model_fingerprint
from certcal_ext.stopping.rules import Stopping

IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
SIGMA = 0.25
# Random models abstain often, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning")


def smoothed(seed: int = 0) -> cc.SmoothedClassifier:
    return cc.SmoothedClassifier(mlp(48, 4, seed=3), num_classes=4, sigma=SIGMA, seed=seed)


def votes_of(certificates: cc.Certificates) -> NDArray[np.int64]:
    result: NDArray[np.int64] = certificates.table["votes"].to_numpy()
    return result


def test_counts_are_the_votes_of_the_replayed_draws() -> None:
    """Selection takes draws 0 to n0 - 1, estimation the n after them, and nothing else."""
    n0, n = 20, 300
    smooth = smoothed(seed=5)
    certificates = smooth.certify(IMAGES, LABELS, n0=n0, n=n)
    model = smooth.model.eval()
    with torch.no_grad():
        first = cc.add_noise(IMAGES, SIGMA, seed=5, draws=range(n0))
        fresh = cc.add_noise(IMAGES, SIGMA, seed=5, draws=range(n0, n0 + n))
        selection = cc.count_votes(model(first.flatten(0, 1)).view(9, n0, 4))
        estimation = cc.count_votes(model(fresh.flatten(0, 1)).view(9, n, 4))
    chosen = selection.argmax(1)
    np.testing.assert_array_equal(certificates.table["predicted"], chosen)
    np.testing.assert_array_equal(votes_of(certificates), estimation[torch.arange(9), chosen])
    np.testing.assert_array_equal(certificates.table["n"], n)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("threads", [1, 2])
def test_counts_do_not_depend_on_batch_size_or_threads(batch_size: int, threads: int) -> None:
    expected = smoothed().certify(IMAGES, LABELS, n0=10, n=400, batch_size=1024)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        certificates = smoothed().certify(IMAGES, LABELS, n0=10, n=400, batch_size=batch_size)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert certificates.table.equals(expected.table)


def test_a_fresh_process_counts_the_same() -> None:
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from models import mlp\n"
        "import certcal_ext as cc\n"
        "images = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))\n"
        "smooth = cc.SmoothedClassifier(mlp(48, 4, seed=3), num_classes=4, sigma=0.25, seed=0)\n"
        "print(smooth.certify(images, n0=10, n=400).table['votes'].to_pylist())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parents[1])]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == str(votes_of(smoothed().certify(IMAGES, n0=10, n=400)).tolist())


def test_a_part_of_the_data_counts_as_in_the_whole() -> None:
    whole = smoothed().certify(IMAGES, LABELS, n0=10, n=200)
    part = smoothed().certify(IMAGES[3:7], LABELS[3:7], n0=10, n=200, sample_ids=[3, 4, 5, 6])
    assert part.table.equals(whole.table.slice(3, 4).combine_chunks())


def test_a_loader_counts_as_the_tensor() -> None:
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4)
    assert smoothed().certify(loader, n0=10, n=200) == smoothed().certify(
        IMAGES, LABELS, n0=10, n=200
    )


def test_the_seed_matters() -> None:
    votes = [votes_of(smoothed(seed).certify(IMAGES, n0=10, n=500)).tolist() for seed in (0, 1)]
    assert votes[0] != votes[1]


@pytest.mark.parametrize("failing", [False, True])
def test_the_model_and_the_random_state_come_back_as_they_were(failing: bool) -> None:
    smooth = smoothed()
    smooth.model.train()
    smooth.model[3].eval()  # type: ignore[index]
    modes = [module.training for module in smooth.model.modules()]
    before, state = model_fingerprint(smooth.model), torch.get_rng_state()
    images = IMAGES.clone()
    if failing:
        with torch.no_grad():
            smooth.model[4].bias[0] = float("nan")  # type: ignore[index]
        with pytest.raises(ValueError, match="model: expected finite logits"):
            smooth.certify(images, LABELS, n0=10, n=50)
    else:
        smooth.certify(images, LABELS, n0=10, n=50)
        assert model_fingerprint(smooth.model) == before
    assert [module.training for module in smooth.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, IMAGES)
    assert all(p.grad is None and p.requires_grad for p in smooth.model.parameters())


def test_scores_of_the_selected_class_are_certified() -> None:
    """The class, its votes and the draws are those of the certificate by votes."""
    n0, n, bins = 20, 300, 50
    smooth = smoothed(seed=5)
    certificates = smooth.certify(
        IMAGES, LABELS, n0=n0, n=n, confidence="scores", score_bins=bins, batch_size=100
    )
    by_votes = smooth.certify(IMAGES, LABELS, n0=n0, n=n)
    for column in ("index", "label", "predicted", "correct", "votes", "n"):
        assert certificates.table[column].equals(by_votes.table[column])
    with torch.no_grad():
        fresh = cc.add_noise(IMAGES, SIGMA, seed=5, draws=range(n0, n0 + n)).flatten(0, 1)
        scores = smooth.model.eval()(fresh).double().softmax(1).view(9, n, 4).numpy()
    of_class = scores[np.arange(9), :, certificates.table["predicted"].to_numpy()]
    # 2^-20: the polynomial exponential in float32; 2^-20 again: logits of other batches.
    np.testing.assert_allclose(
        certificates.table["confidence"], of_class.mean(axis=1), atol=2.0**-19
    )
    assert np.array(certificates.table["scores"].to_pylist()).shape == (9, bins)
    assert certificates.provenance.kind == "scores"
    assert certificates.provenance.n0 == n0


def test_votes_of_all_classes_are_kept_on_request() -> None:
    kept = smoothed().certify(IMAGES, LABELS, n0=10, n=200, keep_counts=True)
    counts = np.array(kept.table["counts"].to_pylist())
    assert (counts.sum(axis=1) == 200).all()
    np.testing.assert_array_equal(
        counts[np.arange(9), kept.table["predicted"].to_numpy()], votes_of(kept)
    )
    runner_up = smoothed().certify(IMAGES, LABELS, n0=10, n=200, runner_up=True)
    assert runner_up.table["runner_up_upper"].null_count == 0


def test_without_labels_metrics_say_so() -> None:
    certificates = smoothed().certify(IMAGES, n0=10, n=200)
    assert len(certificates.at(0.0).lower) == int((~certificates.abstained).sum())
    with pytest.raises(ValueError, match="labels"):
        certificates.brier([0.0])


def test_double_and_half_precision_models() -> None:
    for dtype, name in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16")):
        smooth = cc.SmoothedClassifier(mlp(48, 4, seed=3).to(dtype), 4, SIGMA)
        certificates = smooth.certify(IMAGES, LABELS, n0=10, n=100)
        assert certificates.provenance.precision == name
        assert (votes_of(certificates) <= 100).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_and_strides_do_not_change_certificates(dtype: torch.dtype) -> None:
    smooth = cc.SmoothedClassifier(mlp(48, 4, seed=3).to(dtype), 4, SIGMA)
    expected = smooth.certify(IMAGES, LABELS, n0=10, n=100)
    strided = torch.stack([IMAGES, IMAGES], dim=-1)[..., 0]
    for images in (IMAGES.contiguous(memory_format=torch.channels_last), strided):
        assert smooth.certify(images, LABELS, n0=10, n=100).table.equals(expected.table)


def test_provenance_tells_how_to_replay() -> None:
    smooth = smoothed(seed=9)
    made = smooth.certify(IMAGES, LABELS, n0=10, n=100, alpha=0.01).provenance
    assert (made.kind, made.sigma, made.alpha, made.n0, made.n, made.seed) == (
        "votes",
        SIGMA,
        0.01,
        10,
        100,
        9,
    )
    assert made.model_hash == model_fingerprint(smooth.model)
    assert made.torch_version == torch.__version__
    other = mlp(48, 4, seed=4)
    assert model_fingerprint(other) != made.model_hash


def test_progress_reaches_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    smoothed().certify(
        IMAGES, n0=10, n=100, batch_size=64, progress=lambda done, total: seen.append((done, total))
    )
    assert [total for _, total in seen] == [990] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (990, 990)
    smoothed().certify(IMAGES, n0=10, n=100, progress=True)
    captured = capsys.readouterr()
    assert "certifying: 100 % of 990 draws" in captured.err
    assert captured.out == ""


def test_more_abstentions_than_certificates_warn_with_the_best_radius() -> None:
    model = mlp(48, 4, seed=3)
    with torch.no_grad():
        model[4].weight.zero_()
        model[4].bias.zero_()
        model[1].weight[0] = torch.linspace(-1, 1, 48)
        model[4].weight[0, 0], model[4].weight[1, 0] = 1.0, -1.0
    smooth = cc.SmoothedClassifier(model, 4, SIGMA)
    with pytest.warns(UserWarning, match=r"abstain.*radius"):
        smooth.certify(IMAGES, LABELS, n0=10, n=8, alpha=1e-3)


class TestAdaptive:
    RULES = Stopping(radii=(0.05, 0.1), n_max=2000, n_min=50, planning=100)

    def test_its_draws_are_those_of_certify(self) -> None:
        smooth = smoothed(seed=5)
        smooth.model.train()
        seen: list[int] = []
        certificates = smooth.certify_adaptive(
            IMAGES, LABELS, self.RULES, n0=20, progress=lambda done, total: seen.append(done)
        )
        assert smooth.model.training
        table = certificates.table
        n, votes = table["n"].to_numpy(), votes_of(certificates)
        n = np.where(
            n < self.RULES.n_min, 0, n
        )  # a sample without estimation draws has 0 votes of 1
        assert n.any()
        assert seen[-1] == n.sum() + 9 * self.RULES.planning
        with smooth.selecting(IMAGES, n0=20) as chosen:
            np.testing.assert_array_equal(table["predicted"], chosen.classes)
            for row in range(9):
                again = chosen.source.votes([row], 120, int(n[row]))
                assert votes[row] == again[0]
        assert certificates.provenance.n0 == 20
        assert certificates.provenance.model_hash == model_fingerprint(smooth.model)

    def test_without_labels_and_with_ids(self) -> None:
        whole = smoothed().certify_adaptive(IMAGES, None, self.RULES, n0=10, sample_ids=range(9))
        assert whole.table["correct"].null_count == 9
        assert whole.table["index"].to_pylist() == list(range(9))

    @pytest.mark.parametrize(
        ("change", "kind", "message"),
        [
            ({"stopping": None}, TypeError, "stopping: expected a Stopping, got NoneType"),
            ({"alpha": 0.0}, ValueError, "alpha"),
            ({"n0": 0}, ValueError, "n0"),
            ({"labels": LABELS + 1}, ValueError, "labels: expected values"),
            ({"images": 3}, (TypeError, ValueError), "images"),
        ],
    )
    def test_bad_input(self, change: dict[str, Any], kind: Any, message: str) -> None:
        arguments = {"images": IMAGES, "labels": LABELS, "stopping": self.RULES, **change}
        with pytest.raises(kind, match=message):
            smoothed().certify_adaptive(**arguments)


class TestSelecting:
    def test_classes_and_votes_are_those_of_certify(self) -> None:
        smooth = smoothed(seed=5)
        expected = smooth.certify(IMAGES, LABELS, n0=20, n=300)
        smooth.model.train()
        with smooth.selecting(IMAGES, LABELS, n0=20) as chosen:
            assert not smooth.model.training
            votes = chosen.source.votes(range(9), 20, 100)
            later = chosen.source.votes(range(8), 120, 200)
        assert smooth.model.training
        np.testing.assert_array_equal(chosen.classes, expected.table["predicted"])
        np.testing.assert_array_equal(chosen.labels, LABELS)
        np.testing.assert_array_equal(chosen.ids, np.arange(9))
        np.testing.assert_array_equal(votes[:8] + later, votes_of(expected)[:8])

    def test_sample_ids_name_the_draws(self) -> None:
        expected = smoothed().certify(IMAGES[3:], n0=10, n=50, sample_ids=range(3, 9))
        with smoothed().selecting(IMAGES[3:], n0=10, sample_ids=range(3, 9)) as chosen:
            votes = chosen.source.votes(range(6), 10, 50)
        np.testing.assert_array_equal(votes, votes_of(expected))
        assert len(chosen.source) == 6

    def test_the_mode_comes_back_after_an_error(self) -> None:
        smooth = smoothed()
        smooth.model.train()
        with pytest.raises(ValueError, match="rows"), smooth.selecting(IMAGES, n0=10) as chosen:
            chosen.source.votes([9], 10, 1)
        assert smooth.model.training

    @pytest.mark.parametrize(
        ("change", "kind", "message"),
        [
            ({"n0": 0}, ValueError, "n0"),
            ({"batch_size": 0}, ValueError, "batch_size"),
            ({"labels": LABELS[:3]}, ValueError, "labels: expected 9 entries"),
            ({"sample_ids": [1, 2]}, ValueError, "sample_ids: expected one entry an image"),
            ({"sample_ids": range(10)}, ValueError, "sample_ids: expected 9 entries"),
            ({"images": IMAGES.double()}, TypeError, "images: expected float32"),
        ],
    )
    def test_bad_input(self, change: dict[str, Any], kind: type[Exception], message: str) -> None:
        arguments: dict[str, Any] = {"images": IMAGES, "labels": LABELS, "n0": 5, **change}
        with pytest.raises(kind, match=message), smoothed().selecting(**arguments):
            pass


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "kind", "message"),
        [
            ({"n0": 0}, ValueError, "n0: expected a whole number from 1 to 4294967295, got 0"),
            ({"n": 0}, ValueError, "n: expected a whole number from 1"),
            ({"n": 2.5}, TypeError, "n: expected a whole number"),
            ({"alpha": 0.0}, ValueError, "alpha"),
            ({"alpha": 1.0}, ValueError, "alpha"),
            ({"alpha": float("nan")}, ValueError, "alpha"),
            ({"batch_size": 0}, ValueError, "batch_size"),
            ({"labels": LABELS[:3]}, ValueError, "labels: expected 9 entries"),
            (
                {"labels": LABELS + 1},
                ValueError,
                r"labels: expected values in \[0, 4\), got 4 in row 3",
            ),
            (
                {"labels": LABELS - 1},
                ValueError,
                r"labels: expected values in \[0, 4\), got -1 in row 0",
            ),
            ({"labels": LABELS.float()}, TypeError, "labels: expected whole numbers"),
            (
                {"images": (IMAGES * 255).byte()},
                TypeError,
                "images: expected float32, got uint8; divide",
            ),
            ({"images": IMAGES.double()}, TypeError, "images: expected float32, got float64"),
            (
                {"images": IMAGES[:0], "labels": None},
                ValueError,
                "images: expected at least one image",
            ),
            ({"images": IMAGES[0, 0, 0], "labels": None}, ValueError, r"images: expected shape"),
            ({"images": 3, "labels": None}, TypeError, "images: expected a tensor or a DataLoader"),
            (
                {"images": [IMAGES], "labels": None},
                TypeError,
                r"DataLoader of \(images, labels\) pairs",
            ),
            (
                {"images": [], "labels": None},
                ValueError,
                "images: expected at least one image, got none",
            ),
            ({"sample_ids": [1, 2]}, ValueError, "sample_ids: expected one entry an image"),
            ({"sample_ids": range(-1, 8)}, ValueError, "sample_ids: expected at least 0"),
            ({"sample_ids": [3] * 9}, ValueError, "sample_ids: expected each number once"),
            ({"sample_ids": range(10)}, ValueError, "sample_ids: expected 9 entries"),
            ({"confidence": "logits"}, ValueError, 'confidence: expected "votes" or "scores", got'),
            ({"confidence": "scores", "score_bins": 0}, ValueError, "score_bins"),
            ({"confidence": "scores", "score_bins": 9.5}, TypeError, "score_bins"),
            ({"confidence": "scores", "keep_counts": True}, ValueError, "keep_counts: expected"),
            ({"confidence": "scores", "runner_up": True}, ValueError, "runner_up: expected False"),
            ({"progress": 3}, TypeError, "progress: expected True, False or a function"),
        ],
    )
    def test_arguments(self, change: dict[str, Any], kind: type[Exception], message: str) -> None:
        arguments: dict[str, Any] = {"images": IMAGES, "labels": LABELS, "n0": 5, "n": 20, **change}
        with pytest.raises(kind, match=message):
            smoothed().certify(**arguments)

    def test_nan_images_are_counted_and_named(self) -> None:
        images = IMAGES.clone()
        images[2, 0, 0, 0], images[5] = float("nan"), float("inf")
        with pytest.raises(ValueError, match="NaN or infinity in 2 images, first in image 2"):
            smoothed().certify(images, LABELS, n0=5, n=20)

    def test_images_outside_the_unit_interval_warn(self) -> None:
        with pytest.warns(UserWarning, match=r"expected pixels in \[0, 1\], got"):
            smoothed().certify(IMAGES * 2 - 1, LABELS, n0=5, n=20)

    @pytest.mark.parametrize(
        ("output", "kind", "message"),
        [
            (lambda x: x.new_zeros(len(x), 3), ValueError, r"expected logits of shape \(45, 4\)"),
            (lambda x: x.new_zeros(4), ValueError, "expected logits of shape"),
            (lambda x: (x,), TypeError, "expected logits as one tensor, got tuple"),
            (lambda x: x.new_zeros(len(x), 4).long(), TypeError, "expected dtype float32"),
            (
                lambda x: x.new_full((len(x), 4), float("nan")),
                ValueError,
                "NaN in 45 and infinity in 0 of 45",
            ),
            (
                lambda x: x.new_full((len(x), 4), float("inf")),
                ValueError,
                "NaN in 0 and infinity in 45 of 45",
            ),
        ],
    )
    def test_model_outputs(self, output: Any, kind: type[Exception], message: str) -> None:
        smooth = cc.SmoothedClassifier(Computed(output), num_classes=4, sigma=SIGMA)
        with pytest.raises(kind, match=message):
            smooth.certify(IMAGES, LABELS, n0=5, n=20)

    @pytest.mark.parametrize(
        ("change", "kind", "message"),
        [
            ({"model": lambda x: x}, TypeError, "model: expected a torch.nn.Module, got function"),
            ({"num_classes": 1}, ValueError, "num_classes"),
            ({"sigma": 0.0}, ValueError, "sigma"),
            ({"sigma": float("nan")}, ValueError, "sigma"),
            ({"seed": -1}, ValueError, "seed"),
            ({"seed": 1.5}, TypeError, "seed"),
        ],
    )
    def test_construction(
        self, change: dict[str, Any], kind: type[Exception], message: str
    ) -> None:
        arguments: dict[str, Any] = {
            "model": mlp(48, 4, 0),
            "num_classes": 4,
            "sigma": SIGMA,
            **change,
        }
        with pytest.raises(kind, match=message):
            cc.SmoothedClassifier(**arguments)
