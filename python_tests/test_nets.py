# SPDX-License-Identifier: MIT
"""The standard networks: shapes, sizes, independence of the batch, and their arguments."""

from __future__ import annotations

import pytest
import torch

from certcal_ext.models import load_model
from certcal_ext.nets import Normalise, ResNet, SmallCnn, resnet8, resnet20, small_cnn


def weights(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", [4, 7, 8, 28, 32, 33])
def test_small_cnn_takes_any_size(size: int) -> None:
    network = SmallCnn(3, size, 5, width=4, hidden=8)
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 5)


def test_sizes_are_as_described() -> None:
    assert weights(small_cnn()) == 52_266
    # He et al. count 0.27 million weights for 20 layers and 3 channels.
    assert 265_000 < weights(ResNet(20)) < 280_000
    assert weights(resnet8()) < weights(resnet20())


@pytest.mark.parametrize("size", [28, 32])
def test_resnet_takes_both_sizes(size: int) -> None:
    network = ResNet(8, 1, 7, width=8)
    assert network(torch.zeros(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("make", [small_cnn, resnet8])
def test_outputs_depend_on_no_other_image_and_no_mode(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    network = make()
    images = torch.rand(5, 1, 28, 28)
    together = network.train()(images)
    alone = torch.cat([network.eval()(image[None]) for image in images])
    # Sums of another order: float32 rounding only.
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_gradient_reaches_every_weight() -> None:
    network = resnet8()
    network(torch.rand(4, 1, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_normalise_works_a_channel_at_a_time() -> None:
    images = torch.rand(2, 3, 4, 4)
    mean, deviation = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    found = Normalise(mean, deviation)(images)
    for channel in range(3):
        expected = (images[:, channel] - mean[channel]) / deviation[channel]
        torch.testing.assert_close(found[:, channel], expected)


def test_networks_load_by_name() -> None:
    assert weights(load_model("certcal_ext.nets:small_cnn")) == 52_266


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SmallCnn(1, 3), "size: expected a whole number at least 4, got 3"),
        (lambda: SmallCnn(1, 28, 1), "classes: expected a whole number at least 2"),
        (lambda: ResNet(9), r"depth: expected 6 n \+ 2, such as 8, 20 or 110, got 9"),
        (lambda: ResNet(2), "depth: expected a whole number at least 8"),
        (lambda: Normalise(0.5, 0.0), "deviation: expected finite numbers"),
        (lambda: Normalise(float("nan"), 1.0), "mean: expected finite numbers"),
    ],
)
def test_bad_arguments(build, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build()


def test_a_size_that_is_no_whole_number() -> None:
    with pytest.raises(TypeError, match="size: expected a whole number"):
        SmallCnn(1, 28.0)  # type: ignore[arg-type]
