# SPDX-License-Identifier: MIT
"""Readers of a user's images and labels."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from certcal_ext.datasets import load_images

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def test_npz_of_uint8_is_scaled_and_gets_a_channel(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.array([1, 0], np.uint8))
    data = load_images(tmp_path / "x.npz")
    assert data.images.shape == (2, 1, 3, 4)
    assert data.images.dtype == np.float32
    np.testing.assert_array_equal(data.images[:, 0], PIXELS.astype(np.float32) / np.float32(255))
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [1, 0]
    assert data.ids.tolist() == [0, 1]


def test_npz_keys_can_be_chosen_and_floats_stay(tmp_path: Path) -> None:
    images = np.linspace(0, 1, 24).reshape(2, 3, 2, 2)
    np.savez(tmp_path / "x.npz", a=images, b=np.array([3, 4]))
    data = load_images(tmp_path / "x.npz", images_key="a", labels_key="b")
    np.testing.assert_array_equal(data.images, images.astype(np.float32))
    assert data.labels is not None
    assert data.labels.tolist() == [3, 4]


def test_label_is_found_under_its_other_name_and_may_be_absent(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, label=np.array([1, 0]))
    np.savez(tmp_path / "y.npz", images=PIXELS)
    assert load_images(tmp_path / "x.npz").labels is not None
    assert load_images(tmp_path / "y.npz").labels is None


@pytest.mark.parametrize("packed", [False, True])
def test_idx_finds_its_labels_beside_it(tmp_path: Path, packed: bool) -> None:
    pack = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    (tmp_path / f"t-images-idx3-ubyte{end}").write_bytes(pack(idx(PIXELS)))
    (tmp_path / f"t-labels-idx1-ubyte{end}").write_bytes(pack(idx(np.array([7, 2]))))
    data = load_images(tmp_path / f"t-images-idx3-ubyte{end}")
    assert data.images.shape == (2, 1, 3, 4)
    assert data.labels is not None
    assert data.labels.tolist() == [7, 2]


def test_skip_and_limit_keep_the_ids_of_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((9, 2, 2), np.uint8), labels=np.arange(9))
    data = load_images(tmp_path / "x.npz", skip=3, limit=4)
    assert data.ids.tolist() == [3, 4, 5, 6]
    assert data.labels is not None
    assert data.labels.tolist() == [3, 4, 5, 6]
    assert load_images(tmp_path / "x.npz", skip=8, limit=4).ids.tolist() == [8]


@pytest.mark.parametrize("form", ["tensor", "pair", "dictionary"])
def test_torch_files(tmp_path: Path, form: str) -> None:
    torch = pytest.importorskip("torch")
    images, labels = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    held = {"tensor": images, "pair": (images, labels)}.get(
        form, {"images": images, "labels": labels}
    )
    torch.save(held, tmp_path / "x.pt")
    torch.save(labels, tmp_path / "y.pt")
    data = load_images(tmp_path / "x.pt", tmp_path / "y.pt" if form == "tensor" else None)
    np.testing.assert_array_equal(data.images, images.numpy())
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2]


def test_a_torch_file_cannot_run_code(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(Path("x"), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="weights_only=True"):
        load_images(tmp_path / "x.pt")


def test_own_scale_and_the_warning_that_suggests_it(tmp_path: Path) -> None:
    images = np.full((1, 2, 2), 16, np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    assert load_images(tmp_path / "x.npz", max_value=16).images.max() == 1
    with pytest.warns(UserWarning, match="largest pixel is 16.*set max_value to 16"):
        load_images(tmp_path / "x.npz")


GOOD = {"images": np.zeros((2, 1, 2, 2)), "labels": np.array([0, 1])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros(2)}, "has nothing called 'images'; it holds other"),
        ({"images": np.zeros((0, 1, 2, 2))}, "at least one image"),
        ({"images": np.zeros((2, 4))}, r"shape \(N, C, H, W\) or \(N, H, W\), got \(2, 4\)"),
        ({"images": np.zeros((2, 8, 8, 3))}, r"look like \(N, H, W, C\)"),
        ({"images": np.full((2, 1, 2, 2), 1.5)}, r"in \[0, 1\], got values from 1.5 to 1.5"),
        ({"images": np.full((2, 1, 2, 2), np.nan)}, r"in \[0, 1\], got values from nan"),
        ({"images": np.full((2, 1, 2, 2), np.inf)}, r"in \[0, 1\]"),
        ({"images": np.full((2, 1, 2, 2), -0.1)}, "normalisation belongs inside the model"),
        ({"images": np.zeros((2, 1, 2, 2), np.int64)}, "uint8 or floating point, got int64"),
        ({"images": np.zeros((2, 1, 2, 2), complex)}, "got complex128"),
        ({**GOOD, "labels": np.array([0.0, 1.0])}, r"whole numbers of shape \(N,\), got float64"),
        ({**GOOD, "labels": np.zeros((2, 2), int)}, r"got int64 \(2, 2\)"),
        ({**GOOD, "labels": np.array([0])}, "one label for each of the 2 images, got 1"),
        ({**GOOD, "labels": np.array([0, -1])}, "labels >= 0, got -1"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": -1}, "skip: expected a number >= 0, got -1"),
        ({"skip": 2}, "skip: expected less than the 2 images"),
        ({"limit": 0}, "limit: expected a number >= 1, got 0"),
        ({"max_value": 0.0}, "max_value: expected a number > 0, got 0"),
        ({"max_value": 100.0}, "max_value: expected at least the largest pixel .*230, got 100"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, float], message: str) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path / "x.npz", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npz", b"PK\x03\x04 not really", "cannot be read as .npz"),
        ("x.npz", b"", "cannot be read as .npz"),
        ("x.bin", b"anything", "this is none of them"),
        ("x.bin", b"", "this is none of them"),
        ("x.idx", idx(PIXELS)[:-1], r"24 bytes expected for \(2, 3, 4\), got 23"),
        ("x.idx", idx(PIXELS)[:7], "truncated idx file"),
        ("x.gz", gzip.compress(idx(PIXELS))[:-9], "truncated or damaged gzip"),
        ("x.pt", b"PK\x03\x04 not really", "x.pt"),
        ("x.pt", b"", "x.pt"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if name.endswith(".pt"):
        pytest.importorskip("torch")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path / name)


def test_a_truncated_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS)
    content = (tmp_path / "x.npz").read_bytes()
    for kept in (len(content) // 3, len(content) - 5):
        (tmp_path / "y.npz").write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"cannot be read as \.npz"):
            load_images(tmp_path / "y.npz")


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="it holds a single array"):
        load_images(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["label", "labels", "target", "targets", "y", "y_true", "Labels"])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_labels_of_other_names(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, **{name: np.array([3, 1]).reshape(shape)})
    data = load_images(tmp_path / "x.npz")
    assert data.labels is not None
    assert data.labels.tolist() == [3, 1]


def test_names_of_a_split(tmp_path: Path) -> None:
    arrays = {
        "test_images": PIXELS,
        "test_labels": np.array([[3], [1]]),
        "train_labels": np.zeros(9),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    data = load_images(tmp_path / "x.npz", images_key="test_images")
    assert data.labels is not None
    assert data.labels.tolist() == [3, 1]


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, targets=np.array([3, 1]))
    with pytest.raises(ValueError, match="nothing called 'lables'; it holds images, targets"):
        load_images(tmp_path / "x.npz", labels_key="lables")
    np.savez(tmp_path / "y.npz", images=PIXELS, fine=np.array([3, 1]))
    with pytest.warns(UserWarning, match="no labels: none of images, fine has a usual name"):
        assert load_images(tmp_path / "y.npz").labels is None


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("x_test", "y_test")])
def test_npy_pairs(tmp_path: Path, images: str, labels: str) -> None:
    np.save(tmp_path / f"{images}.npy", PIXELS)
    assert load_images(tmp_path / f"{images}.npy").labels is None
    np.save(tmp_path / f"{labels}.npy", np.array([3, 1]))
    np.save(tmp_path / "other.npy", np.array([0, 2]))
    beside = load_images(tmp_path / f"{images}.npy")
    named = load_images(tmp_path / f"{images}.npy", tmp_path / "other.npy")
    assert beside.labels is not None
    assert named.labels is not None
    assert beside.labels.tolist() == [3, 1]
    assert named.labels.tolist() == [0, 2]


def test_npy_of_objects_and_cut_off(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}, 2], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"cannot be read as \.npy"):
        load_images(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", PIXELS)
    (tmp_path / "y.npy").write_bytes((tmp_path / "y.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"cannot be read as \.npy"):
        load_images(tmp_path / "y.npy")


@pytest.mark.parametrize("label", [int, "tensor"])
def test_a_list_of_pairs(tmp_path: Path, label: object) -> None:
    torch = pytest.importorskip("torch")
    made = torch.tensor if label == "tensor" else int
    pairs = [(torch.full((3, 4, 4), k / 8), made(k)) for k in range(2)]
    torch.save(pairs, tmp_path / "x.pt")
    data = load_images(tmp_path / "x.pt")
    assert data.images.shape == (2, 3, 4, 4)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]
    torch.save([*pairs, (torch.zeros(3, 5, 5), 1)], tmp_path / "x.pt")
    with pytest.raises(ValueError, match="images of one shape"):
        load_images(tmp_path / "x.pt")


@pytest.mark.parametrize("least", [0.0, -2.0e-7])
@pytest.mark.parametrize("most", [1.0, 1.0000002])
def test_rounding_at_the_ends(tmp_path: Path, least: float, most: float) -> None:
    images = np.linspace(least, most, 32, dtype=np.float32).reshape(2, 1, 4, 4)
    np.savez(tmp_path / "x.npz", images=images)
    read = load_images(tmp_path / "x.npz").images
    assert np.array_equal(read, images.clip(0, 1))
    np.savez(tmp_path / "x.npz", images=images + 1e-5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        load_images(tmp_path / "x.npz")


class TestFolder:
    def write(self, path: Path, size: tuple[int, int] = (5, 4), value: int = 7) -> None:
        image = pytest.importorskip("PIL.Image", reason="folders of images need Pillow")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("L", size, value).save(path)

    def test_classes_and_order(self, tmp_path: Path) -> None:
        for k, name in enumerate(["b/2.png", "b/10.png", "a/deep/1.PNG", "c/x.bmp"]):
            self.write(tmp_path / name, value=80 * k)
        (tmp_path / "readme.txt").write_text("no class")
        (tmp_path / "a" / "notes.txt").write_text("no image")
        data = load_images(tmp_path)
        assert data.classes == ("a", "b", "c")
        assert data.images.shape == (4, 3, 4, 5)
        assert data.labels is not None
        assert data.labels.tolist() == [0, 1, 1, 2]
        assert (data.images[:, 0, 0, 0] * 255).round().tolist() == [160, 80, 0, 240]
        some = load_images(tmp_path, skip=1, limit=2)
        assert some.ids.tolist() == [1, 2]
        assert np.array_equal(some.images, data.images[1:3])

    def test_what_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="expected a folder for each class"):
            load_images(tmp_path)
        self.write(tmp_path / "a" / "1.png")
        (tmp_path / "b").mkdir()
        with pytest.raises(ValueError, match="b has none"):
            load_images(tmp_path)
        self.write(tmp_path / "b" / "1.png", (9, 9))
        with pytest.raises(
            ValueError, match="images of one size, 5 x 4 as the first one, got 9 x 9"
        ):
            load_images(tmp_path)
        (tmp_path / "b" / "1.png").write_bytes(b"<html>")
        with pytest.raises(ValueError, match=r"1\.png: cannot be read as an image"):
            load_images(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_images(tmp_path / "nothing.npz")


def test_fashion_mnist(shared: Path) -> None:
    folder = shared / "data" / "fashion-mnist"
    data = load_images(folder / "t10k-images-idx3-ubyte.gz", limit=100)
    assert data.images.shape == (100, 1, 28, 28)
    assert data.labels is not None
    assert data.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert 0 <= data.images.min() < data.images.max() == 1
