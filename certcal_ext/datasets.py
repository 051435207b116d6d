# SPDX-License-Identifier: MIT
"""Readers of a user's images and labels: folders of images, ``.npz``, ``.npy``, idx (plain or gzip) and ``.pt`` files.

Images come back as float32 (N, C, H, W) in [0, 1], the space in which noise and radius are
measured. Normalisation belongs inside the model, so pixel values outside [0, 1] are an error here
and not silently scaled.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext._file_kinds import what_it_seems
from certcal_ext._npz import MOST_EXPANSION, read_npz
from certcal_ext.certificates.columns import role_of
from certcal_ext.image_folder import ImageFolder

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHANNELS = (1, 3)

#: So far outside [0, 1] is an error of rounding, in float32.
_ROUNDING = 2.0**-20

#: What labels are called where nobody says.
_LABELS = "labels"

#: Parts of names of images, and what labels are called in their place.
_LABELS_FOR = (("images-idx3", "labels-idx1"), ("images", "labels"), ("x_", "y_"), ("X_", "y_"))


@dataclass(frozen=True)
class ImageData:
    """Images and labels read from files.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, or None where the files hold none.
        ids: (N,) int64, the position of each image in its file: the sample id of its noise.
        classes: names of the classes, where images are files in a folder for each; else None.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    ids: NDArray[np.int64]
    classes: tuple[str, ...] | None = None


def load_images(
    data: str | Path,
    labels: str | Path | None = None,
    *,
    images_key: str = "images",
    labels_key: str = _LABELS,
    max_value: float = 255.0,
    skip: int = 0,
    limit: int | None = None,
) -> ImageData:
    """Reads images, and labels where there are any.

    ``.npz`` and dictionaries in ``.pt`` files are asked for ``images_key`` and ``labels_key``
    (where nobody named another, ``label``, ``targets``, ``y`` and their like are tried, then the
    labels count as absent); a ``.pt`` file may also hold a tensor, a pair, or a list of (image, label)
    pairs. A folder holds a folder of image files for each class. ``.npy`` is one array. Any other
    name is read as idx, the format of MNIST and Fashion-MNIST, gzip or not. The labels of
    ``images.npy`` and ``...-images-idx3-ubyte`` are found in ``labels.npy`` and
    ``...-labels-idx1-ubyte`` beside them.

    Args:
        data: file of the images, (N, C, H, W) or (N, H, W), uint8 or floating point; or a folder.
        labels: file of the labels, (N,) or (N, 1) whole numbers; same formats.
        images_key: name of the images inside ``data``.
        labels_key: name of the labels inside ``labels``, or inside ``data`` where ``labels`` is
            None.
        max_value: the value of a full-bright pixel in uint8 images; they are divided by it.
        skip: number of images left out at the start, >= 0.
        limit: largest number of images to keep, >= 1, or None for all.

    Returns:
        The images, labels and ids.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file cannot be read, or holds something other than images in [0, 1] with one
            label each.

    Example:
        >>> import numpy as np, tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> np.savez(folder / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3))
        >>> load_images(folder / "x.npz").images.shape
        (3, 1, 8, 8)
    """
    if skip < 0:
        raise ValueError(f"skip: expected a number >= 0, got {skip}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected a number >= 1, got {limit}")
    if not 0 < max_value < float("inf"):
        raise ValueError(f"max_value: expected a number > 0, got {max_value}")
    data = Path(data)
    folder = ImageFolder.of(data) if data.is_dir() else None
    raw_images, raw_labels = _raw(data, labels, folder, images_key, labels_key)
    total = len(raw_images)
    if skip >= total:
        raise ValueError(f"skip: expected less than the {total} images of {data}, got {skip}")
    kept = slice(skip, total if limit is None else min(total, skip + limit))
    checked = None if raw_labels is None else _labels(raw_labels, total, labels or data)[kept]
    return ImageData(
        images=_pixels(raw_images[kept], data, max_value),
        labels=checked,
        ids=np.arange(kept.start, kept.stop, dtype=np.int64),
        classes=None if folder is None else folder.classes,
    )


def _raw(
    data: Path, labels: str | Path | None, folder: ImageFolder | None, key: str, labels_key: str
) -> tuple[Any, NDArray[Any] | None]:
    """Images, or a folder of them, and labels, as the files have them."""
    images: Any
    truth: NDArray[Any] | None
    if folder is not None:
        images, truth = folder, folder.labels
    else:
        images, truth = _read(data, key, labels_key, labels is None)
        if not (images.ndim and images.size):
            raise ValueError(
                f"{data}: expected at least one image, got an array of shape {images.shape}"
            )
    if labels is None and truth is None:
        labels = _labels_beside(data)
    if labels is not None:
        first, second = _read(Path(labels), labels_key, labels_key, False)
        truth = first if second is None else second
    return images, truth


def _read(
    path: Path, key: str, labels_key: str, wanted: bool
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The array called ``key``, and the labels where the same file holds them; ``wanted``: and has to, under their name."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".npy":
        return _read_npy(path), None
    if path.suffix == ".npz":
        return _read_npz(path, key, labels_key, wanted)
    if path.suffix in (".pt", ".pth"):
        return _read_torch(path, key, labels_key, wanted)
    return _read_idx(path), None


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        # Mapped, so that nothing is allocated for what a file claims and does not hold.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as .npy ({error})") from error


def _read_npz(
    path: Path, key: str, labels_key: str, wanted: bool
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        names = read_npz(path, ())[1]
        key, labels = _keys(path, names, key, labels_key, wanted)
        held = read_npz(path, {key, *([] if labels is None else [labels])})[0]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as .npz ({error})") from error
    except ValueError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: cannot be read as .npz ({error})") from error
    return held[key], None if labels is None else held[labels]


def _keys(
    path: Path, names: list[str], key: str, labels_key: str, wanted: bool
) -> tuple[str, str | None]:
    """The names of images and labels in a file; of labels alone, where those are asked for."""
    alone = key == labels_key
    likely = [labels_key, *(key.replace(a, b) for a, b in _LABELS_FOR if a in key and not alone)]
    if labels_key == _LABELS:
        likely += sorted((name for name in names if role_of(name) == "label"), key=_usual)
    labels = next((name for name in likely if name in names and (alone or name != key)), None)
    if alone:
        if labels is None:
            raise ValueError(_no_key(path, key, names))
        return labels, None
    if key not in names or (wanted and labels is None and labels_key != _LABELS):
        raise ValueError(_no_key(path, labels_key if key in names else key, names))
    if wanted and labels is None and len(names) > 1:
        warnings.warn(
            f"{path}: no labels: none of {', '.join(names)} has a usual name of them; if one is, name it with labels_key",
            stacklevel=5,
        )
    return key, labels


def _usual(name: str) -> tuple[bool, str]:
    """Where several names are those of labels, the plainest comes first."""
    return name not in ("label", "target", "targets", "y"), name


def _read_torch(
    path: Path, key: str, labels_key: str, wanted: bool
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f'{path}: needs torch: pip install "certcal_ext[torch]"') from error
    held = load_torch_file(path)
    labels: Any = None
    if isinstance(held, dict):
        entries = {str(name): value for name, value in held.items()}
        key, name = _keys(path, list(entries), key, labels_key, wanted)
        held, labels = entries[key], None if name is None else entries[name]
    elif isinstance(held, list | tuple) and held and all(map(_is_pair, held)):
        if len({tuple(image.shape) for image, _ in held}) > 1:
            raise ValueError(f"{path}: expected images of one shape in its (image, label) pairs")
        labels = torch.tensor([int(label) for _, label in held])
        held = torch.stack([image for image, _ in held])
    elif isinstance(held, list | tuple) and len(held) == 2:
        held, labels = held
    return _own_numbers(path, held), None if labels is None else _own_numbers(path, labels)


def _is_pair(item: Any) -> bool:
    """Whether it is an image with its label."""
    import torch

    if not (isinstance(item, list | tuple) and len(item) == 2):
        return False
    image, label = item
    whole = isinstance(label, int) or (
        isinstance(label, torch.Tensor) and label.numel() == 1 and not label.is_floating_point()
    )
    return isinstance(image, torch.Tensor) and image.ndim in (2, 3) and whole


def _own_numbers(path: Path, value: Any) -> NDArray[Any]:
    """A tensor's numbers, each of which the file holds: a file of one number can claim any shape."""
    import torch

    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        raise ValueError(
            f"{path}: expected a tensor, a pair of tensors or a dictionary, got {kind}"
        )
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise ValueError(f"{path}: expected dense tensors, got {value.dtype} in {value.layout}")
    claimed, held = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if claimed > held:
        raise ValueError(
            f"{path}: expected a number in the file for each pixel or label, got {held} bytes for the "
            f"shape {tuple(value.shape)}"
        )
    try:
        return value.numpy(force=True)
    except (RuntimeError, TypeError) as error:  # bfloat16, for one, has no counterpart
        raise ValueError(
            f"{path}: expected tensors of a type that NumPy has, got {value.dtype}"
        ) from error


def load_torch_file(path: str | Path) -> Any:
    """``torch.load`` on the CPU with ``weights_only=True``: tensors and containers, no code is run.

    Raises:
        ValueError: the file is no such thing, or is truncated.

    Example:
        >>> import tempfile, torch
        >>> name = tempfile.mkdtemp() + "/x.pt"
        >>> torch.save(torch.zeros(2), name)
        >>> load_torch_file(name)
        tensor([0., 0.])
    """
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers let through what their own code stumbles over
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise ValueError(
                f"{path}: cannot be loaded safely (weights_only=True): it holds {named[1]}, more than tensors and "
                "plain containers. If you trust the file, save its tensors alone, in Python: "
                f"import torch; x = torch.load({str(path)!r}, weights_only=False); "
                "torch.save({k: v for k, v in x.get('state_dict', x).items() if torch.is_tensor(v)}, 'tensors.pt')"
            ) from error
        seems = what_it_seems(path)
        if isinstance(error, pickle.UnpicklingError):
            first = "cannot be loaded safely (weights_only=True), or is no torch file"
        raise ValueError(
            f"{path}: cannot be read as a torch file; it seems to be {seems} ({first})"
        ) from error


def _read_idx(path: Path) -> NDArray[Any]:
    """The idx format: two zero bytes, type code, number of dimensions, big-endian sizes, data."""
    content = path.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    # Of a packed file the header first, as it may unpack to a thousand times its size.
    head = _unpacked(path, content, 4 + 4 * 255) if packed else content
    known = len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _IDX_DTYPES
    if not known:
        raise ValueError(
            f"{path}: expected a folder of images, .npz, .npy, .pt or an idx file (plain or .gz); this is none of them, and "
            f"seems to be {what_it_seems(path)}"
        )
    dims = head[3]
    start = 4 + 4 * dims
    sizes = head[4:start]
    shape = struct.unpack(f">{len(sizes) // 4}I", sizes[: len(sizes) // 4 * 4])
    if dims > 4:
        raise ValueError(f"{path}: expected at most 4 dimensions, got {dims}")
    dtype = np.dtype(_IDX_DTYPES[head[2]])
    expected = math.prod(shape) * dtype.itemsize
    if packed and expected <= MOST_EXPANSION * len(content):
        content = _unpacked(path, content, start + expected + 1)
    elif packed:
        content = head
    if len(shape) != dims or len(content) - start != expected:
        held = max(0, len(content) - start)
        there = "more" if held > expected else f"{held}"
        raise ValueError(
            f"{path}: truncated idx file: {expected} bytes expected for {shape}, got {there}"
        )
    return np.frombuffer(content[start:], dtype=dtype).reshape(shape)


def _unpacked(path: Path, content: bytes, most: int) -> bytes:
    """The first bytes of what a gzip file holds."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            return stream.read(most)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: truncated or damaged gzip file ({error})") from error


def _labels_beside(path: Path) -> Path | None:
    """A file of labels beside that of the images, where one file holds one array."""
    if path.suffix in (".npz", ".pt", ".pth"):
        return None
    beside = (path.with_name(path.name.replace(a, b)) for a, b in _LABELS_FOR if a in path.name)
    return next((file for file in beside if file.is_file()), None)


def _no_key(path: Path, key: str, names: list[str]) -> str:
    return f"{path}: has nothing called {key!r}; it holds {', '.join(names) or 'nothing'}"


def _pixels(images: NDArray[Any], path: Path, max_value: float) -> NDArray[np.float32]:
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise ValueError(
            f"{path}: expected images of shape (N, C, H, W) or (N, H, W), got {images.shape}"
        )
    if images.shape[1] not in _CHANNELS and images.shape[3] in _CHANNELS:
        hint = "they look like (N, H, W, C); transpose them with .transpose(0, 3, 1, 2)"
        raise ValueError(
            f"{path}: expected images of shape (N, C, H, W), got {images.shape}: {hint}"
        )
    if images.dtype == np.uint8:
        largest = int(images.max())
        if largest > max_value:
            raise ValueError(
                f"max_value: expected at least the largest pixel of {path}, {largest}, got "
                f"{max_value:g}"
            )
        if 0 < 4 * largest < max_value:
            warnings.warn(
                f"{path}: the largest pixel is {largest}, dark for a scale of 0 to {max_value:g}; "
                f"if {largest} means full-bright, set max_value to {largest}",
                stacklevel=3,
            )
        return np.ascontiguousarray(images.astype(np.float32) / np.float32(max_value))
    if images.dtype.kind != "f":
        raise ValueError(
            f"{path}: expected images of type uint8 or floating point, got {images.dtype}"
        )
    pixels: NDArray[np.float32] = np.ascontiguousarray(images, dtype=np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ValueError(
            f"{path}: expected pixels in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "noise and radius live in [0, 1] pixel units, and normalisation belongs inside the "
            "model"
        )
    return pixels.clip(0, 1) if low < 0 or high > 1 else pixels


def _labels(labels: NDArray[Any], total: int, path: str | Path) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected labels as whole numbers of shape (N,), got {labels.dtype} "
            f"{labels.shape}"
        )
    if len(labels) != total:
        raise ValueError(
            f"{path}: expected one label for each of the {total} images, got {len(labels)}"
        )
    smallest = int(labels.min())
    if smallest < 0:
        raise ValueError(f"{path}: expected labels >= 0, got {smallest}")
    return labels.astype(np.int64)
