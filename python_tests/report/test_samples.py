# SPDX-License-Identifier: MIT
"""The worst samples of the report with their images: pictures, choice, page and command."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pages import Page, intervals, text_of, votes

from certcal_ext.report import render_report
from certcal_ext.report.facts import gather
from certcal_ext.report.png import encode, thumbnail
from certcal_ext.report.samples import worst_samples

# --- pictures --------------------------------------------------------------------------------


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)))
    | arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))
)
def test_pngs_decode_to_the_pixels(pixels: np.ndarray[Any, Any]) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with pillow.open(io.BytesIO(encode(pixels))) as image:
        image.load()
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_thumbnails() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(thumbnail(image), image)
    np.testing.assert_array_equal(thumbnail(image[None] / np.float32(255)), image)
    colours = thumbnail(np.stack([np.zeros((4, 4)), np.ones((4, 4)), np.full((4, 4), 0.5)]))
    assert colours.shape == (4, 4, 3)
    assert colours[0, 0].tolist() == [0, 255, 128]
    large = np.zeros((3, 224, 224), np.float32)
    large[:, :4, :4] = 1
    small = thumbnail(large)
    assert small.shape == (56, 56, 3)
    assert small[0, 0].tolist() == [255] * 3
    assert not small[1:].any()
    assert thumbnail(np.ones((1, 73, 5))).shape == (37, 3)  # the last block is smaller
    assert thumbnail(np.ones((1, 73, 5))).min() == 255
    assert thumbnail(np.stack([np.zeros((2, 2)), np.ones((2, 2))])).tolist() == [[128] * 2] * 2
    assert thumbnail([[-1.0, 2.0]]).tolist() == [[0, 255]]


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((1, 2, 3, 4)), np.zeros((3, 0, 4))])
def test_pictures_of_another_shape(bad: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="images: expected images of shape"):
        thumbnail(bad)


def test_pixels_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        thumbnail([[np.nan]])


# --- the worst samples -----------------------------------------------------------------------


def pictures(size: int) -> np.ndarray[Any, Any]:
    """(size, 1, 4, 4): the picture of row k is k / size."""
    return np.broadcast_to(
        (np.arange(size) / size).astype(np.float32)[:, None, None, None], (size, 1, 4, 4)
    )


def test_the_worst_samples_are_the_worst() -> None:
    made = votes(200).select(np.random.default_rng(3).permutation(200))
    chosen = made.at(0.1)
    found = worst_samples(made, chosen, pictures(200), class_names=["cat", "dog"])
    right = np.asarray(chosen.correct)
    assert found.wrong_total == int((~right).sum()) > 8
    assert found.right_total == int(right.sum())
    assert [sample.upper for sample in found.wrong] == sorted(chosen.upper[~right])[::-1][:8]
    assert [sample.lower for sample in found.right] == sorted(chosen.lower[right])[:8]
    index = made.table.column("index").to_pylist()
    for sample in (*found.wrong, *found.right):
        at = chosen.index.tolist().index(sample.index)
        assert (sample.lower, sample.upper) == (chosen.lower[at], chosen.upper[at])
        assert (
            sample.label
            == ["cat", "dog"][made.table.column("label")[index.index(sample.index)].as_py()]
        )
        assert (sample.label == sample.predicted) == right[at]
        assert sample.image is not None
        pixels = thumbnail(pictures(200)[index.index(sample.index)])
        assert base64.b64decode(sample.image.split(",")[1]) == encode(pixels)


def test_tensors_and_lists_are_images_too() -> None:
    torch = pytest.importorskip("torch")
    made = votes()
    plain = worst_samples(made, made.at(0.1), pictures(60))
    assert worst_samples(made, made.at(0.1), torch.tensor(pictures(60))) == plain
    assert worst_samples(made, made.at(0.1), pictures(60)[:, 0].tolist()) == plain


def test_samples_of_certificates_that_know_little() -> None:
    made = intervals()
    found = worst_samples(made, made.at(0.0))
    assert [sample.index for sample in found.wrong] == [2]
    assert [sample.index for sample in found.right] == [1, 0]
    assert found.wrong[0].predicted is None
    assert found.wrong[0].confidence is None
    text = text_of(render_report(made))
    assert "Sample 2" in text
    assert "attack: 50.0\N{EN DASH}60.0\N{NO-BREAK SPACE}%" in text


def test_the_page_shows_the_images() -> None:
    page = render_report(votes(), radius=0.1, images=pictures(60), class_names=["cat", "dog"])
    parsed = Page(page)
    found = gather(votes(), radius=0.1, images=pictures(60)).samples
    assert found is not None
    shown = [*found.wrong, *found.right]
    assert parsed.tags.count("img") == len(shown) > 8
    assert [value for name, value in parsed.attributes if name == "src"] == [
        sample.image for sample in shown
    ]
    alts = [value for name, value in parsed.attributes if name == "alt"]
    assert alts == [f"Image of sample {sample.index}" for sample in shown]
    assert "cat, is dog" in parsed.words
    assert "img" not in Page(render_report(votes(), radius=0.1)).tags


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": np.zeros((59, 1, 4, 4))}, "one image for each of the 60 samples, got 59"),
        ({"images": np.zeros((60, 16))}, "expected shape"),
        ({"images": np.zeros((60, 4, 4, 3))}, "transpose"),
        ({"images": np.full((60, 1, 4, 4), np.nan)}, "finite"),
        ({"class_names": ["only one"]}, "class_names: expected at least 2 names, got 1"),
        ({"compare": {"this model": votes()}}, "name: expected another name"),
        ({"compare": {"other": intervals()}}, "models|radius"),
        ({"compare": {str(k): votes() for k in range(6)}}, "at most 6 models"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_report(votes(), radius=0.1, **options)


def test_images_are_checked_before_the_work() -> None:
    with pytest.raises(ValueError, match="one image for each"):
        gather(votes(), radius=3.0, images=np.zeros((1, 1, 2, 2)))


def test_ten_thousand_samples_make_a_small_page() -> None:
    generator = np.random.default_rng(0)
    noise = generator.random((16, 3, 224, 224), dtype=np.float32)
    page = render_report(votes(10_000), images=_Repeated(noise, 10_000))
    assert len(page.encode()) < 600_000


class _Repeated:
    """10,000 large noisy images that take the memory of a few."""

    def __init__(self, images: np.ndarray[Any, Any], size: int) -> None:
        self.images, self.shape = images, (size, *images.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray[Any, Any]:
        picture: np.ndarray[Any, Any] = self.images[row % len(self.images)]
        return picture


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = votes().with_provenance(source="a")
    made.to_parquet(tmp_path / "a.parquet")
    votes(alpha=1e-5).to_parquet(tmp_path / "b.parquet")
    labels = made.table.column("label").to_numpy()
    np.savez(tmp_path / "images.npz", images=pictures(60), labels=labels)
    np.savez(tmp_path / "unlabelled.npz", images=pictures(60))
    np.savez(tmp_path / "few.npz", images=pictures(60)[:10])
    np.savez(tmp_path / "others.npz", images=pictures(60), labels=1 - labels)
    return tmp_path


def certcal(*arguments: object) -> Any:
    from typer.testing import CliRunner

    from certcal_ext.cli import app

    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_report_with_images_and_models(folder: Path) -> None:
    out = folder / "page.html"
    result = certcal(
        *(folder / "a.parquet", "--data", folder / "images.npz", "--out", out, "--radius", 0.1),
        *("--compare", folder / "b.parquet", "--class-names", "cat,<b>dog</b>", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    assert '"b.parquet"' in result.stdout
    parsed = Page(out.read_text(encoding="utf-8"))
    assert parsed.tags.count("img") > 8
    assert "cat, is <b>dog</b>" in parsed.words
    assert "Models side by side at radius 0.1" in parsed.words


def test_rows_find_their_images_by_sample_id(folder: Path) -> None:
    part = votes().select(np.arange(59, 9, -1))
    part.to_parquet(folder / "part.parquet")
    out = folder / "page.html"
    for data in ("images.npz", "unlabelled.npz"):
        result = certcal(folder / "part.parquet", "--data", folder / data, "--out", out)
        assert result.exit_code == 0, result.stderr
        page = out.read_text(encoding="utf-8")
        found = re.findall(r'base64,([^"]*)" alt="Image of sample (\d+)"', page)
        assert len(found) > 8
        for picture, index in found:
            assert base64.b64decode(picture) == encode(thumbnail(pictures(60)[int(index)]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("absent.npz", "no such file"),
        ("few.npz", "--data: expected the images that were certified, at least 60, got the 10"),
        ("others.npz", "the label of sample 0 is"),
        ("a.parquet", "expected a folder of images, .npz, .npy, .pt or an idx file"),
    ],
)
def test_other_images(folder: Path, data: str, message: str) -> None:
    out = folder / "page.html"
    result = certcal(folder / "a.parquet", "--data", folder / data, "--out", out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not out.exists()


def test_the_same_file_twice(folder: Path) -> None:
    result = certcal(folder / "a.parquet", "--compare", folder / "a.parquet")
    assert result.exit_code == 2
    assert "each once" in result.stderr
