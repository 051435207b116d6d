# SPDX-License-Identifier: MIT
"""What base classifiers are: random, dependent on the batch, giving probabilities, writing into their input, reduced."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import certcal_ext as cc
from certcal_ext import SmoothedClassifier, Stopping
from certcal_ext.attacks import AceAttack, PlainVictim, SmoothedVictim
from certcal_ext.model_checks import NOTES, checked_base
from certcal_ext.model_state import computed_in, frozen, full_float32
from certcal_ext.runs import certify_in_shards
from certcal_ext.smoothing.replay import replay
from certcal_ext.training import Gaussian, Settings, train

pytestmark = pytest.mark.filterwarnings("ignore:.*abstain.*:UserWarning")

IMAGES = torch.rand(9, 3, 6, 6, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(9) % 4


def body(scale: float = 3.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
        )
    with torch.no_grad():
        made[4].weight.mul_(scale)  # type: ignore[union-attr, operator]
    return made


class Around(nn.Module):
    """A network with a function before it and one behind it."""

    def __init__(
        self,
        before: Callable[[Any], Any] = lambda x: x,
        after: Callable[[Any], Any] = lambda z: z,
        inner: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.inner = inner or body()
        self.before, self.after = before, after

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.after(self.inner(self.before(images)))
        return result


class Trains(Around):
    """Leaves evaluation mode when it is called."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.train()
        return super().forward(images)


def without_statistics() -> nn.Module:
    made = body()
    made[1] = nn.BatchNorm2d(6, track_running_stats=False)  # type: ignore[index, operator]
    return made


def one_dimensional() -> nn.Module:
    """Fails on one image alone, as batch normalisation then has one number a channel."""
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(108, track_running_stats=False), nn.Linear(108, 4)
    )


def numpy_noise(z: torch.Tensor) -> torch.Tensor:
    return z + torch.from_numpy(np.random.standard_normal(z.shape)).float()


BAD: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "dropout": ("random", lambda: Around(lambda x: nn.functional.dropout(x, 0.3, training=True))),
    "own noise": ("random", lambda: Around(lambda x: x + 0.1 * torch.randn_like(x))),
    "little noise": ("random", lambda: Around(lambda x: x + 1e-5 * torch.randn_like(x))),
    "noise that torch does not draw": ("random", lambda: Around(after=numpy_noise)),
    "noise behind a softmax": (
        "random",
        lambda: Around(after=lambda z: z.softmax(1) + 0.01 * torch.rand_like(z)),
    ),
    "no statistics": ("batch_dependent", without_statistics),
    "training mode": ("batch_dependent", Trains),
    "mean of the batch": ("batch_dependent", lambda: Around(lambda x: x - x.mean())),
    "order": ("batch_dependent", lambda: Around(after=lambda z: z + torch.arange(len(z))[:, None])),
    "attention over the batch": (
        "batch_dependent",
        lambda: Around(after=lambda z: (z @ z.T).softmax(1) @ z),
    ),
    "fails alone": ("batch_dependent", one_dimensional),
    "squeezed alone": ("batch_dependent", lambda: Around(after=lambda z: z.squeeze())),
    "softmax": ("probabilities", lambda: Around(after=lambda z: z.softmax(1))),
    "sharp softmax": ("probabilities", lambda: Around(after=lambda z: (60 * z).softmax(1))),
    "softmax in half": (
        "probabilities",
        lambda: Around(after=lambda z: z.softmax(1), inner=body().bfloat16()).bfloat16(),
    ),
    "sigmoid": ("probabilities", lambda: Around(after=torch.sigmoid)),
    "sparsemax": (
        "probabilities",
        lambda: Around(after=lambda z: z.relu() / z.relu().sum(1, True)),
    ),
}

GOOD: dict[str, Callable[[], nn.Module]] = {
    "plain": body,
    "log-softmax": lambda: Around(after=lambda z: z.log_softmax(1)),
    "constant": lambda: Around(after=lambda z: z * 0 + torch.tensor([1.0, 0, 0, 0])),
    "constant and uniform": lambda: Around(after=lambda z: z * 0 + 0.25),
    "zero": lambda: Around(after=lambda z: z * 0),
    "untrained": lambda: Around(after=lambda z: z * 1e-3),
    "positive": lambda: Around(after=lambda z: z.relu()),
    "tiny and huge": lambda: Around(after=lambda z: z * 1e30),
    "two logits that sum to one": lambda: Around(
        after=lambda z: torch.stack([z[:, 0], 1 - z[:, 0], z[:, 1], -z[:, 1]], 1)
    ),
    "draws, and does not use it": lambda: Around(lambda x: x + 0 * torch.rand(())),
    "half": lambda: body().half(),
    "bfloat16": lambda: body().bfloat16(),
    "float64": lambda: body().double(),
    "inside autocast": lambda: Around(inner=Casts()),
    "in place": lambda: Around(lambda x: x.sub_(0.4).div_(0.25)),
}


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = body()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result: torch.Tensor = self.inner(images).float()
        return result


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def smoothed(model: nn.Module, **more: Any) -> SmoothedClassifier:
    return SmoothedClassifier(model, 4, 0.25, **more)


# --- refused before the run ---------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("size", [1, 9])
def test_bad_models_are_refused_and_may_be_allowed(name: str, size: int) -> None:
    kind, make = BAD[name]
    model = make()
    words = {
        "random": "called again",
        "batch_dependent": "batch",
        "probabilities": "expected logits",
    }
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    for batch_size in (1, 8, 1024):
        with frozen(model), pytest.raises(ValueError, match=words[kind]) as caught:
            checked_base(model, IMAGES[:size], 0.25, batch_size=batch_size)
        assert f"allow={kind!r}" in str(caught.value)
        assert f"--allow-{kind.replace('_', '-')}" in str(caught.value)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's numbers are not used up
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with frozen(model):
        found = checked_base(model, IMAGES[:size], 0.25, allow=NOTES)
    assert NOTES[kind] in found.notes


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("scores", [False, True])
def test_good_models_are_not_refused(name: str, scores: bool) -> None:
    model = GOOD[name]()
    for images in (IMAGES, IMAGES[:1], torch.zeros(2, 3, 6, 6)):
        for sigma in (0.0, 0.25, 2.0):
            with frozen(model):
                assert checked_base(model, images, sigma, scores=scores).notes == ()


def test_classes_alone_have_votes_and_no_scores() -> None:
    model = Around(after=lambda z: nn.functional.one_hot(z.argmax(1), 4).float())
    smoothed(model).certify(IMAGES, LABELS, n0=10, n=50)
    with pytest.raises(ValueError, match="expected logits, got rows of probabilities"):
        smoothed(model).certify(IMAGES, LABELS, n0=10, n=50, confidence="scores")


def ways(model: nn.Module, tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """All that takes logits of a model."""
    smooth = smoothed(model)
    rules = Stopping(radii=(0.1,), n_max=400, planning=50)
    loader = [(IMAGES[:5], LABELS[:5]), (IMAGES[5:], LABELS[5:])]
    good = smoothed(body()).certify(IMAGES, LABELS, n0=10, n=50)
    attack = AceAttack(radius=0.1, steps=2)
    return {
        "votes": lambda: smooth.certify(IMAGES, LABELS, n0=10, n=50),
        "scores": lambda: smooth.certify(loader, n0=10, n=50, confidence="scores"),
        "adaptive": lambda: smooth.certify_adaptive(IMAGES, LABELS, rules, n0=10),
        "shards": lambda: certify_in_shards(
            smooth, IMAGES, LABELS, n0=10, n=50, work=tmp_path / "w"
        ),
        "replay": lambda: replay(good.with_provenance(model_hash=None), model, IMAGES),
        "attack": lambda: attack.run(PlainVictim(model), IMAGES, LABELS),
        "smoothed attack": lambda: attack.run(
            SmoothedVictim(model, sigma=0.25, draws=4), IMAGES, LABELS
        ),
    }


@pytest.mark.parametrize("name", ["dropout", "no statistics", "softmax", "sigmoid"])
def test_every_way_in_refuses_them(name: str, tmp_path: Path) -> None:
    model = BAD[name][1]()
    for way, run in ways(model, tmp_path).items():
        with pytest.raises(ValueError, match="--allow-"):
            run()
        assert not (tmp_path / "w").exists(), way


def test_training_refuses_probabilities() -> None:
    settings = Settings(sigma=0.1, epochs=1, batch_size=3)
    for name in ("softmax", "sigmoid"):
        with pytest.raises(ValueError, match="model: expected logits"):
            train(BAD[name][1](), IMAGES, LABELS, Gaussian(), settings)


@pytest.mark.parametrize("name", ["dropout", "no statistics", "softmax"])
def test_what_was_allowed_stands_in_the_table(name: str, tmp_path: Path) -> None:
    kind, make = BAD[name]
    smooth = smoothed(make(), allow=[kind])
    made = smooth.certify(IMAGES, LABELS, n0=10, n=100)
    shards = certify_in_shards(smooth, IMAGES, LABELS, n0=10, n=100, work=tmp_path / "w")
    for one in (made, shards):
        assert NOTES[kind] in one.provenance.notes
    made.to_parquet(tmp_path / "c.parquet")
    again = cc.Certificates.from_parquet(tmp_path / "c.parquet")
    if kind == "random":
        with pytest.raises(ValueError, match="of a random model"):
            replay(again, smooth.model, IMAGES)
    else:
        assert replay(again, smooth.model, IMAGES).agrees
    with pytest.raises(ValueError, match="batch size: 1024 there, 8 now") as caught:
        certify_in_shards(
            smooth, IMAGES, LABELS, n0=10, n=100, work=tmp_path / "w", batch_size=8, resume=True
        )
    assert caught.value


@pytest.mark.parametrize(
    ("allow", "kind", "message"),
    [
        ("dropout", ValueError, "allow: expected some of random, batch_dependent, probabilities"),
        (3, TypeError, "allow: expected a list, got int 3"),
        ([3], TypeError, r"allow: expected names, got \[3\]"),
        (None, TypeError, "allow: expected a list, got NoneType None"),
    ],
)
def test_allow_is_checked(allow: Any, kind: type[Exception], message: str) -> None:
    for make in (
        lambda: smoothed(body(), allow=allow),
        lambda: PlainVictim(body(), allow=allow),
        lambda: SmoothedVictim(body(), sigma=0.1, allow=allow),
    ):
        with pytest.raises(kind, match=message):
            make()


# --- nothing that a user passes is changed ------------------------------------------------------

IN_PLACE: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "normalised": (lambda x: x.sub_(0.4).div_(0.25), lambda x: (x - 0.4) / 0.25),
    "unit length": (
        lambda x: x.div_(x.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)).mul(8),
        lambda x: x / x.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1) * 8,
    ),
    "clamped": (lambda x: x.clamp_(0.2, 0.8), lambda x: x.clamp(0.2, 0.8)),
    "zeroed afterwards": (lambda x: (x + 0, x.zero_())[0], lambda x: x + 0),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_models_that_write_into_their_input(name: str, tmp_path: Path) -> None:
    numbers = {}
    for inplace, function in zip((True, False), IN_PLACE[name], strict=True):
        model = Around(function)
        images, labels = IMAGES.clone(), LABELS.clone()
        smooth = smoothed(model)
        rules = Stopping(radii=(0.1,), n_max=400, planning=50)
        made = [
            smooth.certify(images, labels, n0=10, n=200, keep_counts=True, batch_size=7),
            smooth.certify(images, labels, n0=10, n=200, confidence="scores"),
            smooth.certify_adaptive(images, labels, rules, n0=10),
            certify_in_shards(smooth, images, labels, n0=10, n=200, work=tmp_path / str(inplace)),
        ]
        assert replay(made[0], model, images).agrees
        attacks = [
            AceAttack(radius=0.2, steps=3).run(victim, images, labels)
            for victim in (PlainVictim(model), SmoothedVictim(model, sigma=0.25, draws=4))
        ]
        train(model, images, labels, Gaussian(), Settings(sigma=0.1, epochs=1, batch_size=3))
        assert torch.equal(images, IMAGES)
        assert torch.equal(labels, LABELS)
        numbers[inplace] = [one.table.drop_columns([]) for one in made] + [
            one.attacked_confidence for one in attacks
        ]
    for one, other in zip(numbers[True], numbers[False], strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
        else:
            assert one.equals(other)


class Counts(Around):
    """Keeps a count, and replaces a buffer, at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1  # type: ignore[operator]
        self.last = torch.ones(3)
        return super().forward(images)


def test_buffers_come_back() -> None:
    model = Counts()
    last = model.last
    smoothed(model).certify(IMAGES, LABELS, n0=10, n=50)
    assert float(model.calls) == 0  # type: ignore[arg-type]
    assert model.last is last
    AceAttack(radius=0.1, steps=2).run(PlainVictim(model), IMAGES, LABELS)
    assert float(model.calls) == 0  # type: ignore[arg-type]


# --- what the model computes in -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (body, "float32"),
        (lambda: body().double(), "float64"),
        (lambda: body().half(), "float16"),
        (lambda: body().bfloat16(), "bfloat16"),
        (Casts, "bfloat16"),
        (lambda: Around(after=lambda z: z.half()), "float16"),
        (lambda: Around(after=lambda z: z.half().float().bfloat16()), "bfloat16+float16"),
        (lambda: Around(after=lambda z: z.double()), "float32"),
    ],
)
def test_precision_is_what_the_model_computes_in(
    make: Callable[[], nn.Module], expected: str
) -> None:
    model = make()
    with frozen(model):
        assert computed_in(model, IMAGES) == expected
    assert smoothed(model).certify(IMAGES, n0=5, n=20).provenance.precision == expected
    with torch.autocast("cpu", dtype=torch.bfloat16), frozen(body()):
        assert computed_in(body(), IMAGES[:1]) == "bfloat16"


def test_under_autocast_a_table_says_so_and_replay_wants_the_same(tmp_path: Path) -> None:
    model = body()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = smoothed(model).certify(IMAGES, LABELS, n0=10, n=100, batch_size=16)
        assert made.provenance.precision == "bfloat16"
        assert replay(made, model, IMAGES, batch_size=16).agrees
        shards = certify_in_shards(
            smoothed(model), IMAGES, LABELS, n0=10, n=100, batch_size=16, work=tmp_path / "w"
        )
        assert shards.table.equals(made.table)
        assert shards.provenance.precision == "bfloat16"
    with pytest.raises(ValueError, match=r"to compute in bfloat16, .* got float32"):
        replay(made, model, IMAGES, batch_size=16)
    plain = smoothed(model).certify(IMAGES, LABELS, n0=10, n=100)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"to compute in float32, .* got bfloat16"),
    ):
        replay(plain, model, IMAGES)


def flags() -> dict[str, Any]:
    """What torch's settings of float32 say, where they can be read."""
    backends = torch.backends
    found: dict[str, Any] = {}
    for name, read in {
        "matmul": lambda: backends.cuda.matmul.allow_tf32,
        "cudnn": lambda: backends.cudnn.allow_tf32,
        "all": torch.get_float32_matmul_precision,
    }.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "mixed"
    for owner in (backends.cuda, backends.cudnn, backends.mkldnn):
        for name in ("matmul", "conv", "rnn"):
            place = getattr(owner, name, None)
            if hasattr(place, "fp32_precision"):
                found[f"{owner.__name__} {name}"] = place.fp32_precision
    return found


SETTINGS: dict[str, Callable[[], None]] = {
    "as torch comes": lambda: None,
    "matmul": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "convolutions": lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
    "neither": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
}


@pytest.fixture
def _settings() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("name", SETTINGS)
def test_float32_is_float32_inside_and_settings_come_back(name: str) -> None:
    SETTINGS[name]()
    before = flags()
    seen: list[dict[str, Any]] = []
    model = Around(lambda x: (seen.append(flags()), x)[1])
    smoothed(model).certify(IMAGES, n0=5, n=20)
    assert seen
    AceAttack(radius=0.1, steps=1).run(PlainVictim(model), IMAGES, LABELS)
    for one in seen:
        assert not {"tf32", "bf16", "high", "medium", "True"} & set(map(str, one.values()))
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert flags() == before


# --- near ties ----------------------------------------------------------------------------------


class Tipped(nn.Module):
    """Near ties that a batch tips, by what rounding does to logits of that size; each image has its own size.

    Logits are z and -z, so a near tie is just where both are small.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        size = 10.0 ** (flat[:, :1].double().round() / 4)
        tip = 1e-7 * size * (1 if len(images) % 2 else -1)
        z = ((flat[:, 1:2].double() * 3).round() / 3 * size + tip).float()
        return torch.cat([z, -z], 1)


@pytest.mark.parametrize("order", ["small first", "large first", "mixed"])
def test_votes_do_not_depend_on_the_batch_whatever_the_size_of_logits(order: str) -> None:
    """One image with small logits at the start set the margin of all others."""
    images = torch.zeros(16, 1, 2, 2)
    sizes = torch.linspace(-12, 12, 16)
    if order == "large first":
        sizes = sizes.flip(0)
    elif order == "mixed":
        sizes = sizes[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    images[:, 0, 0, 0] = sizes
    counts = []
    for batch_size in (1, 7, 64, 1000):
        smooth = SmoothedClassifier(Tipped(), 2, 0.3, seed=5, allow=["batch_dependent"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = smooth.certify(images, n0=20, n=300, batch_size=batch_size, keep_counts=True)
        assert not made.provenance.notes  # what the batch does is rounding
        counts.append(np.array(made.table["counts"].to_pylist()))
    for other in counts[1:]:
        np.testing.assert_array_equal(counts[0], other)


# --- names of samples, and sigma ----------------------------------------------------------------


def test_equal_sample_ids_are_refused_wherever_they_name_draws(tmp_path: Path) -> None:
    smooth = smoothed(body())
    rules = Stopping(radii=(0.1,), n_max=400, planning=50)
    table = smooth.certify(IMAGES, LABELS, n0=5, n=20)
    ids = [4, 1, 2, 3, 4, 5, 6, 7, 8]
    loader = [(IMAGES[:5], LABELS[:5]), (IMAGES[5:], LABELS[5:])]
    ways: list[Callable[[Any], Any]] = [
        lambda ids: smooth.certify(IMAGES, LABELS, n0=5, n=20, sample_ids=ids),
        lambda ids: smooth.certify(loader, n0=5, n=20, sample_ids=ids),
        lambda ids: smooth.certify_adaptive(IMAGES, LABELS, rules, n0=5, sample_ids=ids),
        lambda ids: certify_in_shards(
            smooth, IMAGES, LABELS, n0=5, n=20, sample_ids=ids, work=tmp_path / "w"
        ),
        lambda ids: replay(table, smooth.model, IMAGES, sample_ids=ids),
        lambda ids: AceAttack(radius=0.1, steps=1).run(
            PlainVictim(body()), IMAGES, LABELS, sample_ids=ids
        ),
        lambda ids: train(
            body(),
            IMAGES,
            LABELS,
            Gaussian(),
            Settings(sigma=0.1, epochs=1, batch_size=3),
            sample_ids=ids,
        ),
    ]
    for way in ways:
        for given in (ids, np.array(ids), torch.tensor(ids)):
            with pytest.raises(ValueError, match=r"sample_ids: expected each .* 4 2 times"):
                way(given)


@pytest.mark.parametrize("sigma", [0.12, 0.1, 1 / 3, 0.25, 0.7, 1.1, 1e-3, 17.3])
def test_the_noise_that_is_drawn_is_what_is_certified(sigma: float) -> None:
    """In numbers: shifts in units of the sigma that was drawn with, no smaller ones."""
    drawn = float(np.float32(sigma))
    smooth = SmoothedClassifier(body(), 4, sigma, seed=3)
    made = smooth.certify(IMAGES, LABELS, n0=10, n=200)
    assert smooth.sigma == made.provenance.sigma == drawn
    zero = np.zeros((1, 4), np.float32)
    noise = cc.add_noise(zero, sigma, draws=range(20000)).astype(np.float64)
    exact = cc.add_noise(zero, 1.0, draws=range(20000)).astype(np.float64)
    # One rounding more, of the product.
    assert np.abs(noise / exact / drawn - 1).max() <= 2.0**-24 * 1.001


@pytest.mark.parametrize("sigma", [1e-46, 1e-40, 1e39, 0.0, -1.0, float("inf"), float("nan")])
def test_sigmas_that_float32_does_not_have_are_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        SmoothedClassifier(body(), 4, sigma)
    with pytest.raises(ValueError, match="sigma"):
        SmoothedVictim(body(), sigma=sigma)


# --- the command line ---------------------------------------------------------------------------

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    def forward(self, x): return self.body(x) * 4
class Dropped(Net):
    def forward(self, x): return super().forward(nn.functional.dropout(x, .5, training=True))
class Centred(Net):
    def forward(self, x): return super().forward(x - x.mean(0, keepdim=True))
class Soft(Net):
    def forward(self, x): return super().forward(x).softmax(1)
class InPlace(Net):
    def forward(self, x): return super().forward(x.sub_(.45).div_(.25))
class OutOfPlace(Net):
    def forward(self, x): return super().forward((x - .45) / .25)
"""

COMMANDS = {
    "certify": ["--sigma", "0.2", "--n", "100", "--n0", "10"],
    "attack": ["--sigma", "0.2", "--radius", "0.1", "--draws", "4", "--steps", "2"],
}


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets_of_bases.py").write_text(NETS)
    rng = np.random.default_rng(0)
    pixels = rng.random((20, 3, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=pixels, labels=rng.integers(0, 3, 20))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def command(name: str, net: str, *more: str) -> Any:
    from typer.testing import CliRunner

    from certcal_ext.cli import app

    words = [name, "--model", f"nets_of_bases:{net}", "--data", "x.npz", "--out", f"{net}.parquet"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CliRunner().invoke(app, [*words, *COMMANDS[name], *more])


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("net", "flag"),
    [
        ("Dropped", "--allow-random"),
        ("Centred", "--allow-batch-dependent"),
        ("Soft", "--allow-probabilities"),
    ],
)
def test_commands_refuse_bad_models_and_say_how_to_allow_them(
    name: str, net: str, flag: str, nets: Path
) -> None:
    refused = command(name, net)
    assert refused.exit_code == 2
    assert flag in refused.stderr
    assert not list(nets.glob("*.parquet*"))
    allowed = command(name, net, flag)
    assert allowed.exit_code == 0, allowed.stderr
    if name == "certify":
        made = cc.Certificates.from_parquet(f"{net}.parquet")
        assert set(made.provenance.notes) & set(NOTES.values())
        assert flag.removeprefix("--").replace("-", "_") in str(made.provenance.options).replace(
            "-", "_"
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_give_the_same_for_models_that_write_into_their_input(
    name: str, nets: Path
) -> None:
    import pyarrow.parquet as pq

    for net in ("InPlace", "OutOfPlace"):
        done = command(name, net)
        assert done.exit_code == 0, done.stderr
    assert pq.read_table("InPlace.parquet").equals(pq.read_table("OutOfPlace.parquet"))
