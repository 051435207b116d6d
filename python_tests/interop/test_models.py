# SPDX-License-Identifier: MIT
"""Models of other libraries, and the toolbox's certify signature."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import Linear2, mlp
from scipy.special import ndtri
from torch import nn

from certcal_ext import Certificates, SmoothedClassifier
from certcal_ext.interop.art import ArtRandomizedSmoothing
from certcal_ext.interop.models import from_hugging_face, normalized

pytestmark = pytest.mark.filterwarnings("ignore:.*samples abstain:UserWarning")

IMAGES = torch.from_numpy(np.random.default_rng(1).random((6, 3, 8, 8)).astype(np.float32))
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Means(nn.Module):
    """The mean of each channel as its logit, in an object as transformers returns it."""

    def forward(self, pixel_values: torch.Tensor) -> Any:
        self.seen = pixel_values
        return SimpleNamespace(logits=pixel_values.mean((2, 3)), loss=None)


# --- normalisation --------------------------------------------------------------------------


def test_normalisation_goes_inside() -> None:
    inner = mlp(3 * 64, 4, seed=2).eval()
    model = normalized(inner, MEAN, DEVIATION)
    assert not model.training
    mean, deviation = (torch.tensor(part).reshape(3, 1, 1) for part in (MEAN, DEVIATION))
    torch.testing.assert_close(model(IMAGES), inner((IMAGES - mean) / deviation), rtol=0, atol=0)
    certificates = SmoothedClassifier(model, 4, sigma=0.25).certify(IMAGES, n0=5, n=200)
    assert len(certificates) == 6
    assert torch.equal(normalized(Means(), 0.5, 0.5)(IMAGES), ((IMAGES - 0.5) / 0.5).mean((2, 3)))


@pytest.mark.parametrize(
    ("mean", "deviation", "words"),
    [
        ([0.5] * 3, [0.2] * 2, "one number a channel in both"),
        (0.5, 0.0, "deviation"),
        (float("nan"), 1.0, "mean"),
    ],
)
def test_bad_normalisation(mean: Any, deviation: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        normalized(Means(), mean, deviation)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
        normalized(len, 0.5, 0.5)  # type: ignore[arg-type]


# --- Hugging Face ---------------------------------------------------------------------------


def processor(**changes: Any) -> SimpleNamespace:
    """What the image processor of a vision transformer stores."""
    stored = {
        "do_resize": True,
        "size": {"height": 4, "width": 6},
        "resample": 2,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.25, 0.5],
    }
    return SimpleNamespace(**(stored | changes))


def test_the_steps_of_a_processor() -> None:
    means = Means()
    model = from_hugging_face(means, processor())
    assert model(IMAGES).shape == (6, 3)
    assert means.seen.shape == (6, 3, 4, 6)
    small = nn.functional.interpolate(IMAGES, (4, 6), mode="bilinear", antialias=True)
    wanted = (small - 0.5) / torch.tensor([0.5, 0.25, 0.5]).reshape(3, 1, 1)
    torch.testing.assert_close(means.seen, wanted)
    same = from_hugging_face(means, processor(size={"height": 8, "width": 8}))
    same(IMAGES)
    assert torch.equal(means.seen, (IMAGES - 0.5) / torch.tensor([0.5, 0.25, 0.5]).reshape(3, 1, 1))
    for bare in (None, processor(do_resize=False, do_normalize=False)):
        assert torch.equal(from_hugging_face(means, bare)(IMAGES), IMAGES.mean((2, 3)))


def test_sizes_as_objects() -> None:
    means = Means()
    size = SimpleNamespace(height=4, width=6, shortest_edge=None)
    from_hugging_face(means, processor(size=size))(IMAGES)
    assert means.seen.shape == (6, 3, 4, 6)
    edge = SimpleNamespace(height=None, width=None, shortest_edge=4)
    from_hugging_face(means, processor(size=edge))(IMAGES)
    assert means.seen.shape == (6, 3, 4, 4)


def test_the_shorter_edge_and_a_crop() -> None:
    means = Means()
    wide = IMAGES[..., :4, :]  # 4 x 8
    asked = processor(
        size={"shortest_edge": 6, "height": None, "width": None},
        do_center_crop=True,
        crop_size={"height": 2, "width": 4},
    )
    from_hugging_face(means, asked)(wide)
    assert means.seen.shape == (6, 3, 2, 4)
    assert not torch.equal(means.seen[..., 0], means.seen[..., 1])
    flat = processor(do_resize=False, do_normalize=False, do_center_crop=True, crop_size=2)
    from_hugging_face(means, flat)(IMAGES)
    assert torch.equal(means.seen, IMAGES[..., 3:5, 3:5])
    with pytest.raises(ValueError, match="images: expected at least 9 x 9"):
        from_hugging_face(means, processor(do_resize=False, do_center_crop=True, crop_size=9))(
            IMAGES
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_rescale": False}, "do_rescale"),
        ({"image_mean": None}, "image_mean and image_std"),
        ({"size": {"longest_edge": 4}}, "size: expected height and width"),
        ({"size": None}, "size: expected height and width"),
        ({"size": {"height": 0, "width": 4}}, r"processor\.size\.height"),
        ({"resample": 5}, "resample: expected one of 0, 2, 3"),
        ({"do_center_crop": True}, "crop_size: expected"),
        ({"image_std": [0.5, 0.0, 0.5]}, "deviation"),
        ({"crop_pct": 0.875}, "crop_pct = 0.875 is a step that is not modelled"),
        ({"include_top": True}, "include_top"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor: expected 1/255"),
        ({"do_pad": True}, "do_pad"),
        ({"do_center_crop": True, "crop_size": 5}, "crop_size: expected at most the size"),
    ],
)
def test_processors_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_hugging_face(Means(), processor(**changes))


class Processor(SimpleNamespace):
    """Mimics an image processor: attributes, and a call that does what the class really does."""

    def __init__(self, hidden: Any = None, **changes: Any) -> None:
        super().__init__(**vars(processor(**changes)))
        self.hidden = hidden

    def __call__(self, images: list[Any], return_tensors: str) -> dict[str, Any]:
        assert return_tensors == "pt"
        (image,) = images
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        if self.do_resize:
            mode = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}[self.resample]
            size = (self.size["height"], self.size["width"])
            smooth = mode != "nearest-exact"
            pixels = nn.functional.interpolate(pixels, size, mode=mode, antialias=smooth)
            pixels = pixels.round().clip(0, 255)
        pixels = pixels / 255
        if self.do_normalize:
            mean, deviation = (
                torch.tensor(part).reshape(-1, 1, 1) for part in (self.image_mean, self.image_std)
            )
            pixels = (pixels - mean) / deviation
        return {"pixel_values": pixels if self.hidden is None else self.hidden(pixels)}


def test_a_processor_that_does_what_it_says_is_taken() -> None:
    for changes in (
        {},
        {"resample": 3},
        {"size": {"height": 32, "width": 32}, "resample": 0},
        {"do_resize": False},
        {"do_normalize": False},
        {"image_std": [0.01, 0.25, 0.5]},
    ):
        from_hugging_face(Means(), Processor(**changes))
    inside = SimpleNamespace(image_processor=Processor(), tokenizer=None)
    assert from_hugging_face(Means(), inside).size == (4, 6)
    as_list = Processor()
    as_list.hidden = lambda pixels: [pixels[0]]
    from_hugging_face(Means(), as_list)


@pytest.mark.parametrize(
    "hidden",
    [
        lambda pixels: pixels.flip(1),  # BGR
        lambda pixels: pixels * 2 - 1,
        lambda pixels: (pixels - 0.5) / 0.5,  # normalised twice
        lambda pixels: pixels.roll(1, 3),
        lambda pixels: pixels.transpose(2, 3).flip(2),
        lambda pixels: pixels[..., 1:, 1:],
        lambda pixels: pixels + 0.05,
        lambda pixels: pixels * float("nan"),
        lambda pixels: nn.functional.interpolate(
            nn.functional.interpolate(pixels, scale_factor=0.5), pixels.shape[-2:]
        ),
    ],
)
def test_a_processor_that_does_something_else_is_refused(hidden: Any) -> None:
    size = {"height": 16, "width": 24}
    from_hugging_face(Means(), Processor(size=size))
    with pytest.raises(ValueError, match=r"processor: on an image of .* Processor gives"):
        from_hugging_face(Means(), Processor(hidden, size=size))


def test_a_filter_that_is_another_one_is_found() -> None:
    class Other(Processor):
        def __call__(self, images: list[Any], return_tensors: str) -> dict[str, Any]:
            return Processor(size=self.size, resample=3)(images, return_tensors)

    with pytest.raises(ValueError, match="other pixels than its attributes say"):
        from_hugging_face(Means(), Other(size={"height": 16, "width": 24}))


def test_a_processor_that_fails_is_refused() -> None:
    def fails(pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such backend")

    with pytest.raises(ValueError, match=r"to be compared on an image of .* failed: no such"):
        from_hugging_face(Means(), Processor(fails))


REAL = {
    "ViT": None,
    "Beit": None,
    "DeiT": None,
    "Bit": None,
    "CLIP": None,
    "Siglip": None,
    "MobileNetV2": None,
    "ConvNext": "crop_pct",
    "PoolFormer": "crop_pct",
    "EfficientNet": "include_top",
    "MobileViT": "do_flip_channel_order",
    "Levit": "other pixels than its attributes say",
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_the_librarys_own_processors(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kind = getattr(transformers, f"{name}ImageProcessorPil", None) or getattr(
        transformers, f"{name}ImageProcessor"
    )
    if REAL[name] is None:
        from_hugging_face(Means(), kind())
        return
    with pytest.raises(ValueError, match=REAL[name]):
        from_hugging_face(Means(), kind())


def test_an_output_without_logits() -> None:
    class Words(nn.Module):
        def forward(self, images: torch.Tensor) -> Any:
            return {"logits": images}

    with pytest.raises(TypeError, match="model: expected logits, or an object that has them"):
        from_hugging_face(Words())(IMAGES)


def test_a_wrapped_model_is_certified() -> None:
    smooth = SmoothedClassifier(from_hugging_face(Means(), processor()), 3, sigma=0.25)
    certificates = smooth.certify(IMAGES, n0=5, n=100)
    again = smooth.certify(IMAGES, n0=5, n=100, batch_size=7)
    assert certificates.table.equals(again.table)


def test_a_vision_transformer_without_weights() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    vit = transformers.ViTForImageClassification(config)
    size = {"height": 8, "width": 8}
    model = from_hugging_face(vit, transformers.ViTImageProcessor(size=size))
    assert model(IMAGES).shape == (6, 3)
    assert len(SmoothedClassifier(model, 3, sigma=0.25).certify(IMAGES, n0=5, n=50)) == 6


# --- the toolbox ----------------------------------------------------------------------------

NET = mlp(3 * 64, 4, seed=2)


def art(**changes: Any) -> ArtRandomizedSmoothing:
    options: dict[str, Any] = {"nb_classes": 4, "sample_size": 50, "scale": 0.25, "alpha": 0.01}
    return ArtRandomizedSmoothing(NET, **(options | changes))


def test_the_signature_is_the_documented_one() -> None:
    parameters = inspect.signature(ArtRandomizedSmoothing.certify).parameters
    assert [(name, one.default) for name, one in parameters.items()] == [
        ("self", inspect.Parameter.empty),
        ("x", inspect.Parameter.empty),
        ("n", inspect.Parameter.empty),
        ("batch_size", 32),
    ]
    parameters = inspect.signature(ArtRandomizedSmoothing.predict).parameters
    assert list(parameters) == ["self", "x", "batch_size", "verbose", "kwargs"]
    assert (parameters["batch_size"].default, parameters["verbose"].default) == (128, False)
    parameters = inspect.signature(ArtRandomizedSmoothing).parameters
    defaults = [parameters[name].default for name in ("sample_size", "scale", "alpha")]
    assert defaults == [32, 0.1, 0.001]


def test_the_signature_is_that_of_the_installed_toolbox() -> None:
    name = "art.estimators.certification.randomized_smoothing.randomized_smoothing"
    theirs = pytest.importorskip(name, reason="the toolbox is not installed")
    for method in ("certify", "predict"):
        mine, other = (
            {
                key: one.default
                for key, one in inspect.signature(getattr(kind, method)).parameters.items()
            }
            for kind in (ArtRandomizedSmoothing, theirs.RandomizedSmoothingMixin)
        )
        assert mine == other


def test_classes_and_radii_are_those_of_the_votes() -> None:
    prediction, radius = art().certify(IMAGES.numpy(), n=2000)
    assert prediction.dtype == np.int64
    assert radius.dtype == np.float64
    certificates = SmoothedClassifier(NET, 4, sigma=0.25).certify(IMAGES, n0=50, n=2000, alpha=0.02)
    lower = certificates.table["p_lower"].to_numpy()  # two-sided at twice the level
    certain = lower > 0.5
    assert certain.any()
    np.testing.assert_array_equal(
        prediction, np.where(certain, certificates.table["predicted"].to_numpy(), -1)
    )
    np.testing.assert_allclose(radius, np.where(certain, 0.25 * ndtri(lower), 0.0), rtol=1e-12)
    for at in np.flatnonzero(certain):
        assert certificates.rows_at(radius[at]).certified[at]
    assert (art().certify(IMAGES.numpy(), 2000, 7)[1] == radius).all()


def test_an_undecided_image_abstains() -> None:
    # The smoothed confidence of the image in the middle is 1/2.
    model = Linear2(torch.ones(4), -2.0)
    smooth = ArtRandomizedSmoothing(model, 2, sample_size=100, scale=0.5, alpha=0.001)
    x = np.full((2, 1, 2, 2), 0.5, np.float32)
    x[1] = 0.9
    prediction, radius = smooth.certify(x, n=1000)
    assert prediction.tolist() == [-1, 1]
    assert radius[0] == 0.0
    exact = float((4 * 0.9 - 2) / 2)  # distance to the plane
    assert 0 < radius[1] < exact
    assert smooth.predict(x).tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert smooth.predict(x, is_abstain=False).sum(axis=1).tolist() == [1.0, 1.0]


def test_channels_last_and_other_units() -> None:
    first = art().certify(IMAGES.numpy(), n=500)
    last = art(channels_first=False).certify(np.moveaxis(IMAGES.numpy(), 1, 3), n=500)
    for mine, theirs in zip(first, last, strict=True):
        np.testing.assert_array_equal(mine, theirs)

    class Bright(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return NET(images / 256)  # type: ignore[no-any-return]

    NET.eval()
    bright = ArtRandomizedSmoothing(
        Bright(), 4, sample_size=50, scale=64.0, alpha=0.01, clip_values=(0, 256)
    )
    prediction, radius = bright.certify(256 * IMAGES.numpy(), n=500)
    np.testing.assert_array_equal(prediction, first[0])
    np.testing.assert_allclose(radius, 256 * first[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: art(scale=0.0), ValueError, "scale"),
        (lambda: art(alpha=0.5), ValueError, "alpha: expected a probability below 1/2"),
        (lambda: art(sample_size=0), ValueError, "sample_size"),
        (
            lambda: art(clip_values=(1, 0)),
            ValueError,
            "clip_values: expected the smaller one first",
        ),
        (lambda: art().certify(IMAGES.numpy(), n=0), ValueError, "n: expected"),
        (
            lambda: art().certify(IMAGES.numpy() + 1, n=9),
            ValueError,
            "x: expected pixels from 0 to 1",
        ),
        (lambda: art().certify(IMAGES.numpy() * np.nan, n=9), ValueError, "x: expected pixels"),
        (lambda: art().certify([["a"]], n=9), TypeError, "x: expected numbers"),
        (lambda: art().certify(IMAGES.numpy()[:0], n=9), ValueError, "at least one image"),
        (
            lambda: art(channels_first=False).certify(np.zeros((2, 3)), n=9),
            ValueError,
            "N, H, W, C",
        ),
        (lambda: art().predict(IMAGES.numpy(), is_abstain="no"), ValueError, "is_abstain"),
        (lambda: art().predict(IMAGES.numpy(), other=1), TypeError, "other"),
        (lambda: art().predict(IMAGES.numpy(), batch_size=0), ValueError, "batch_size"),
    ],
)
def test_bad_calls(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_nothing_of_it_is_loaded_with_the_package() -> None:
    import subprocess
    import sys

    code = (
        "import sys, certcal_ext; certcal_ext.Certificates; import certcal_ext.interop; "
        "bad = {'art', 'transformers', 'pandas', 'polars', 'timm', 'torch'} & set(sys.modules); "
        "raise SystemExit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_certificates_of_a_frame_of_intervals_are_the_papers() -> None:
    """The torchmetrics classes are reachable by name beside these."""
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from certcal_ext.metrics import torchmetrics_adapter

    metric = torchmetrics_adapter.CertifiedBrierScore()
    metric.update(torch.tensor([True, False]), torch.tensor([0.8, 0.5]), torch.tensor([0.9, 0.6]))
    wanted = Certificates.from_intervals([1, 0], [0.8, 0.5], [0.9, 0.6]).brier(0.0)[0]
    assert float(metric.compute()) == pytest.approx(wanted)
