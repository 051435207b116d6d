# SPDX-License-Identifier: MIT
"""The trainer: exact resume, several processes, logs, and clear errors."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import OPTIONS, data, network, objective, settings, weights

import certcal_ext as cc
from certcal_ext.distributed import Group, local_device
from certcal_ext.models import load_model
from certcal_ext.smoothing.noise import MAX_DRAWS
from certcal_ext.training import METHODS, Gaussian, Settings, SmoothAdv, train
from certcal_ext.training.checkpoint import Checkpoint
from certcal_ext.training.settings import FIRST_DRAW
from certcal_ext.training.trainer import TrainingInterrupted

HERE = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and on a busy machine the two wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class StopAt(torch.nn.Module):
    """Raises a signal at a given forward pass in training mode."""

    def __init__(self, inner: torch.nn.Module, at: int, number: int) -> None:
        super().__init__()
        self.inner, self.at, self.number, self.seen = inner, at, number, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
            if self.seen == self.at:
                os.kill(os.getpid(), self.number)
        result: torch.Tensor = self.inner(x)
        return result


def test_every_method_has_options_here() -> None:
    assert set(OPTIONS) == set(METHODS)


@pytest.mark.parametrize("method", OPTIONS)
def test_every_method_learns(method: str) -> None:
    model = network()
    result = train(model, *data(), objective(method), settings(epochs=8, learning_rate=0.02))
    assert result.steps == 8 * (70 // 16)
    assert len(result.history) == 8
    assert result.history[-1]["clean_accuracy"] > 0.9
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert not model.training
    assert all(np.isfinite(list(record.values())).all() for record in result.history)


@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_run_that_was_stopped_goes_on_exactly(method: str, stop_at: int, tmp_path: Path) -> None:
    """With dropout, so that torch's generator counts; 4 steps an epoch, so also at its end."""
    expected = network(dropout=0.2)
    torch.manual_seed(7)
    whole = train(expected, *data(), objective(method), settings())

    path, log = tmp_path / "run.pt", tmp_path / "run.jsonl"
    torch.manual_seed(7)
    stopped = StopAt(network(dropout=0.2), stop_at, signal.SIGINT)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=f"after step {stop_at};"):
        train(stopped, *data(), objective(method), settings(), checkpoint=path, log=log)
    assert signal.getsignal(signal.SIGINT) is handler

    torch.manual_seed(99)
    again = StopAt(network(dropout=0.2, seed=5), -1, signal.SIGINT)
    resumed = train(
        again, *data(), objective(method), settings(), checkpoint=path, resume=True, log=log
    )
    assert torch.equal(weights(again.inner), weights(expected))
    assert resumed.steps == whole.steps
    for found, record in zip(resumed.history, whole.history, strict=True):
        for name in record.keys() - {"seconds"}:
            assert found[name] == record[name], name
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]


def test_sigterm_is_caught_too_and_ends_training_after_the_step(tmp_path: Path) -> None:
    model = StopAt(network(), 2, signal.SIGTERM)
    with pytest.raises(TrainingInterrupted):
        train(model, *data(), Gaussian(), settings(), checkpoint=tmp_path / "x.pt")
    assert Checkpoint.load(tmp_path / "x.pt").position.batch == 2


def test_without_a_checkpoint_a_signal_has_its_usual_effect() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        train(StopAt(network(), 2, signal.SIGINT), *data(), Gaussian(), settings())
    assert not isinstance(caught.value, TrainingInterrupted)


def test_checkpoints_every_few_steps_are_points_to_go_on_from(tmp_path: Path) -> None:
    expected = network()
    train(expected, *data(), Gaussian(), settings())
    path = tmp_path / "run.pt"

    class Fails(torch.nn.Module):
        """Fails in the seventh training pass."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.seen = network(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += self.training
            if self.seen == 7:
                raise MemoryError("no more")
            result: torch.Tensor = self.inner(x)
            return result

    model = Fails()
    with pytest.raises(MemoryError):
        train(model, *data(), Gaussian(), settings(), checkpoint=path, checkpoint_every=1)
    assert Checkpoint.load(path).position.epoch == 1
    assert Checkpoint.load(path).position.batch == 2
    model.seen = 100
    train(model, *data(), Gaussian(), settings(), checkpoint=path, resume=True)
    assert torch.equal(weights(model.inner), weights(expected))


def test_going_on_from_a_finished_run_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    model = network()
    first = train(model, *data(), Gaussian(), settings(), checkpoint=path)
    other = network(seed=3)
    again = train(other, *data(), Gaussian(), settings(), checkpoint=path, resume=True)
    assert torch.equal(weights(model), weights(other))
    assert again.history == first.history
    assert again.seconds == first.seconds


def test_a_checkpoint_is_a_file_of_weights_too(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "run.pt"
    model = network()
    train(model, *data(), Gaussian(), settings(epochs=1), checkpoint=path)
    monkeypatch.syspath_prepend(str(HERE))
    loaded = load_model("training_runs:network", path)
    assert torch.equal(weights(loaded), weights(model))


def test_fine_tuning_starts_from_the_weights_it_is_given() -> None:
    model = network()
    train(model, *data(), Gaussian(), settings(epochs=6, learning_rate=5e-3))
    tuned = SmoothAdv(radius=0.2)
    fresh = train(network(), *data(), tuned, settings(epochs=1))
    result = train(model, *data(), tuned, settings(epochs=1))
    assert result.history[0]["loss"] < fresh.history[0]["loss"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    found = []
    for seed in (0, 0, 1):
        model = network()
        torch.manual_seed(1000 + len(found))  # nothing depends on torch's own generator
        train(model, *data(), Gaussian(), settings(seed=seed))
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_noise_follows_the_samples_ids() -> None:
    """The same images in another order and with their numbers: one batch sees the same noisy images."""
    images, labels = data(16)
    flipped = torch.arange(15, -1, -1)
    losses = []
    for order in (torch.arange(16), flipped):
        result = train(
            network(),
            images[order],
            labels[order],
            Gaussian(draws=2),
            settings(epochs=1),
            sample_ids=order,
        )
        losses.append(result.history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_training_never_draws_what_certification_draws() -> None:
    assert settings().first_draw(0, 8) == FIRST_DRAW == 3 * 2**30
    assert settings().first_draw(5, 8) == FIRST_DRAW + 40
    assert FIRST_DRAW + 2**30 == MAX_DRAWS
    with pytest.raises(ValueError, match="draws: expected at most 2"):
        settings().first_draw(2**28, 4)


# --- schedules and precision ---------------------------------------------------------------------


def test_schedules() -> None:
    made = Settings(sigma=0.25, epochs=4, warmup=1.0, radius_warmup=2.0)
    shares = [made.learning_rate_share(step, 10) for step in range(40)]
    assert shares[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert shares[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(shares[10:]))
    assert shares[25] == pytest.approx(0.5)
    assert 0 < shares[-1] < 0.01
    assert [made.radius_share(step, 10) for step in (0, 5, 10, 20, 39)] == [0, 0.25, 0.5, 1, 1]
    assert Settings(sigma=0.25).radius_share(0, 10) == 1.0
    assert Settings(sigma=0.25, epochs=1, warmup=9).learning_rate_share(0, 1) == 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_bfloat16_trains_float32_weights(optimizer: str) -> None:
    model = network()
    made = settings(precision="bfloat16", optimizer=optimizer, epochs=4, learning_rate=0.02)
    result = train(model, *data(), SmoothAdv(radius=0.1), made)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact = network()
    train(exact, *data(), SmoothAdv(radius=0.1), settings(optimizer=optimizer, epochs=4))
    assert not torch.equal(weights(model), weights(exact))


# --- several processes ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["certificate", "cce-act"])
def test_two_processes_train_what_one_trains(method: str, tmp_path: Path) -> None:
    """Also the memory of tables, which are summed over the processes. Float sums have another order: some 1e-6."""
    script = str(HERE / "training_runs.py")
    single = network()
    whole = train(single, *data(), objective(method), settings())
    log, path = tmp_path / "two.jsonl", tmp_path / "run.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, script, str(log), method, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    held = Checkpoint.load(path)
    found = network()
    found.load_state_dict(held.weights)
    torch.testing.assert_close(weights(found), weights(single), rtol=1e-3, atol=2e-4)
    assert len(held.random) == 2
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert lines[0]["loss"] == pytest.approx(whole.history[0]["loss"], rel=1e-4)
    # The model of one process goes on from the checkpoint of two.
    train(found, *data(), objective(method), settings(), checkpoint=path, resume=True)


def test_shares_of_a_batch_are_neighbours_and_cover_it() -> None:
    rows = np.arange(11)
    parts = [Group(rank, 3).share(rows) for rank in range(3)]
    assert [len(part) for part in parts] == [4, 4, 3]
    assert np.array_equal(np.concatenate(parts), rows)


# --- logs ----------------------------------------------------------------------------------------


def test_tensorboard_says_what_is_missing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="tensorboard: not installed here: pip install"):
        train(network(), *data(), Gaussian(), settings(), tensorboard=tmp_path)


def test_tensorboard_gets_the_numbers_of_the_log(tmp_path: Path, monkeypatch: Any) -> None:
    written: dict[tuple[str, int], float] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "board")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written[name, step] = value

        def close(self) -> None:
            written["closed", 0] = 1.0

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = tmp_path / "log.jsonl"
    train(network(), *data(), Gaussian(), settings(), tensorboard=tmp_path / "board", log=log)
    for line in map(json.loads, log.read_text().splitlines()):
        for name in ("loss", "accuracy", "clean_accuracy"):
            assert written[name, line["step"]] == line[name]
    assert written["closed", 0] == 1.0


def test_progress_counts_the_steps() -> None:
    seen: list[tuple[int, int]] = []
    made = settings()
    train(network(), *data(), Gaussian(), made, progress=lambda a, b: seen.append((a, b)))
    assert seen == [(step, 8) for step in range(1, 9)]


# --- bad input -----------------------------------------------------------------------------------


def run(model: Any = None, images: Any = None, labels: Any = None, **options: Any) -> None:
    x, y = data()
    train(
        network() if model is None else model,
        x if images is None else images,
        y if labels is None else labels,
        options.pop("objective", Gaussian()),
        options.pop("settings", settings()),
        **options,
    )


def test_a_model_that_gives_probabilities() -> None:
    model = torch.nn.Sequential(network(), torch.nn.Softmax(1))
    with pytest.raises(ValueError, match="model: expected logits, got rows of probabilities"):
        run(model)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"images": data()[0] * 255},
            ValueError,
            r"images: expected pixels in \[0, 1\], got .* to 2",
        ),
        ({"images": data()[0] - 0.5}, ValueError, r"images: expected pixels in \[0, 1\], got -0"),
        ({"images": data()[0] * float("nan")}, ValueError, r"images: expected pixels in \[0, 1\]"),
        ({"images": data()[0].double()}, TypeError, "images: expected float32, got float64"),
        ({"images": (data()[0] * 9).byte()}, TypeError, "divide uint8 images by 255"),
        ({"images": "x"}, TypeError, "images: expected a tensor, got str"),
        (
            {"images": data()[0][:0], "labels": data()[1][:0]},
            ValueError,
            "images: expected at least one",
        ),
        ({"labels": data()[1][:5]}, ValueError, "labels: expected 70 entries"),
        ({"labels": data()[1].double()}, TypeError, "labels: expected whole numbers"),
        (
            {"labels": data()[1] + 1},
            ValueError,
            "labels: expected 0 to 3, as the model has 4 classes",
        ),
        ({"labels": data()[1] - 1}, ValueError, "labels: expected at least 0, got -1"),
        ({"model": "x"}, TypeError, "model: expected a torch.nn.Module"),
        ({"model": torch.nn.Flatten()}, ValueError, "labels: expected|model: expected"),
        ({"model": torch.nn.Linear(3, 4)}, ValueError, "model: failed on images of shape"),
        ({"objective": "smoothadv"}, TypeError, "objective: expected an Objective"),
        ({"settings": {}}, TypeError, "settings: expected Settings"),
        ({"resume": True}, ValueError, "resume: expected a checkpoint to go on from"),
        ({"sample_ids": [1, 2]}, ValueError, "sample_ids: expected"),
        ({"checkpoint": "no/such/folder/x.pt"}, ValueError, "checkpoint: there is no folder"),
    ],
)
def test_bad_input(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    if isinstance(change.get("model"), torch.nn.Flatten):
        change = {**change, "images": torch.full((70, 1, 8, 8), 0.5)}
        message = "optimizer got an empty parameter list"
    with pytest.raises(kind, match=message):
        run(**change)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"sigma": 0.0}, ValueError, "sigma: expected a number above 0"),
        ({"epochs": 0}, ValueError, "epochs: expected a whole number at least 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size: expected a whole number"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate: expected a number above 0"),
        ({"warmup": -1.0}, ValueError, "warmup: expected at least 0"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm: expected a number above 0"),
        ({"optimizer": "adam"}, ValueError, 'optimizer: expected "adamw" or "sgd"'),
        ({"precision": "float16"}, ValueError, 'precision: expected "float32" or "bfloat16"'),
        ({"seed": -1}, ValueError, "seed: expected a whole number from 0"),
    ],
)
def test_bad_settings(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        settings(**options)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_loss_that_is_nan_names_the_step_and_keeps_the_checkpoint(
    method: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"

    class Breaks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.seen = network(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += self.training
            result: torch.Tensor = self.inner(x)
            return result * float("nan") if self.seen == 6 else result

    with pytest.raises(ValueError, match=r"got NaN or infinity in epoch 2, batch 2; a smaller"):
        train(Breaks(), *data(), objective(method), settings(), checkpoint=path)
    held = Checkpoint.load(path)
    assert held.position.epoch == 1
    assert all(bool(torch.isfinite(value).all()) for value in held.weights.values())


def test_a_loss_that_overflows_is_found_before_the_weights_change() -> None:
    class Huge(Gaussian):
        def loss(self, step: Any) -> torch.Tensor:
            return super().loss(step) * 1e30 * 1e30

    model = network()
    before = weights(model).clone()
    with pytest.raises(
        ValueError, match="loss: expected a finite number, got inf in epoch 1, batch 1"
    ):
        train(model, *data(), Huge(), settings())
    assert torch.equal(weights(model), before)


def test_labels_that_do_not_match_are_warned_of_after_one_epoch() -> None:
    images, labels = data(200)
    mixed = labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    with pytest.warns(UserWarning, match="labels that do not match the images"):
        train(network(), images, mixed, Gaussian(), settings(epochs=1, batch_size=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(network(), images, labels, Gaussian(), settings(batch_size=4, learning_rate=0.01))


def test_an_existing_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="exists already; go on from it with resume"):
        run(checkpoint=path)
    assert path.read_bytes() == b"precious"


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    run(checkpoint=path)
    again = {"checkpoint": path, "resume": True}
    wider = torch.nn.Sequential(wider_network(width=8))
    before = weights(wider).clone()
    with pytest.raises(
        ValueError, match=r"of another architecture: 0\.layers\.1\.weight is of shape"
    ):
        run(wider, **again)
    assert torch.equal(weights(wider), before)
    with pytest.raises(
        ValueError, match=r"another architecture: 1\.weight is absent there and of shape"
    ):
        run(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), **again)
    with pytest.raises(ValueError, match=r"settings\.epochs was 2 and is 3"):
        run(settings=settings(epochs=3), **again)
    with pytest.raises(ValueError, match=r"objective\.method was 'gaussian' and is 'smoothadv'"):
        run(objective=SmoothAdv(radius=0.1), **again)
    with pytest.raises(ValueError, match="another run: data was"):
        run(images=data(seed=1)[0], **again)


def wider_network(width: int) -> torch.nn.Module:
    from certcal_ext.nets import SmallCnn

    return SmallCnn(1, 8, 4, width=width, hidden=16)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pt"
    with pytest.raises(FileNotFoundError, match="checkpoint: no such file"):
        run(checkpoint=missing, resume=True)
    plain = tmp_path / "plain.pt"
    torch.save(network().state_dict(), plain)
    with pytest.raises(ValueError, match="is no checkpoint of certcal train"):
        run(checkpoint=plain, resume=True)
    cut = tmp_path / "cut.pt"
    run(checkpoint=cut)
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot be read|cannot be loaded"):
        run(checkpoint=cut, resume=True)
    newer = tmp_path / "newer.pt"
    held = torch.load(_checkpoint(tmp_path), weights_only=True)
    torch.save({**held, "certcal_training": 2}, newer)
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        run(checkpoint=newer, resume=True)


def _checkpoint(folder: Path) -> Path:
    path = folder / "good.pt"
    run(checkpoint=path)
    return path


def test_devices() -> None:
    assert local_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device:"):
        local_device("no-such-device")
    if not torch.cuda.is_available():
        assert local_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="device: cuda cannot be used: torch sees no GPU"):
            local_device("cuda")


def test_data_smaller_than_a_batch_is_one_batch() -> None:
    images, labels = data(5)
    result = train(network(), images, labels, Gaussian(), settings(epochs=40, learning_rate=0.02))
    assert result.steps == 40


def test_one_image_of_one_class_trains() -> None:
    images, labels = data(1)
    result = train(network(), images, labels, objective("certificate"), settings())
    assert result.steps == 2


def test_certificates_of_a_trained_model() -> None:
    """The whole way: trained with noise, a model is certified where an untrained one is not."""
    model = network()
    train(model, *data(), Gaussian(draws=2), settings(epochs=10, learning_rate=0.02))
    images, labels = data(20, seed=5)
    smooth = cc.SmoothedClassifier(model, num_classes=4, sigma=0.25)
    made = smooth.certify(images, labels, n0=20, n=200, confidence="scores")
    assert made.curve(0.1).certified_accuracy[0] > 0.8
