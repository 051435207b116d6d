# SPDX-License-Identifier: MIT
"""Readers of a user's images and labels: ``.npz``, idx (plain or gzip) and ``.pt`` files.

Images come back as float32 (N, C, H, W) in [0, 1], the space in which noise and radius are
measured. Normalisation belongs inside the model, so pixel values outside [0, 1] are an error here
and not silently scaled.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext._npz import MOST_EXPANSION, read_npz

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class ImageData:
    """Images and labels read from files.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, or None where the files hold none.
        ids: (N,) int64, the position of each image in its file: the sample id of its noise.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    ids: NDArray[np.int64]


def load_images(
    data: str | Path,
    labels: str | Path | None = None,
    *,
    images_key: str = "images",
    labels_key: str = "labels",
    max_value: float = 255.0,
    skip: int = 0,
    limit: int | None = None,
) -> ImageData:
    """Reads images, and labels where there are any.

    ``.npz`` and dictionaries in ``.pt`` files are asked for ``images_key`` and ``labels_key``
    (where the labels key is missing, ``label`` is tried, then the labels count as absent); a
    ``.pt`` file may also hold a tensor or a pair. Any other name is read as idx, the format of
    MNIST and Fashion-MNIST, gzip or not; the labels of ``...-images-idx3-ubyte`` are found in
    ``...-labels-idx1-ubyte`` beside it.

    Args:
        data: file of the images, (N, C, H, W) or (N, H, W), uint8 or floating point.
        labels: file of the labels, (N,) whole numbers; same formats.
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
    raw_images, raw_labels = _read(data, images_key, labels_key)
    if labels is None and raw_labels is None:
        labels = _idx_labels_beside(data)
    if labels is not None:
        first, second = _read(Path(labels), labels_key, labels_key)
        raw_labels = first if second is None else second
    total = len(raw_images) if raw_images.ndim else 0
    if raw_images.size == 0:
        raise ValueError(
            f"{data}: expected at least one image, got an array of shape {raw_images.shape}"
        )
    if skip >= total:
        raise ValueError(f"skip: expected less than the {total} images of {data}, got {skip}")
    kept = slice(skip, total if limit is None else min(total, skip + limit))
    checked = None if raw_labels is None else _labels(raw_labels, total, labels or data)[kept]
    return ImageData(
        images=_pixels(raw_images[kept], data, max_value),
        labels=checked,
        ids=np.arange(kept.start, kept.stop, dtype=np.int64),
    )


def _read(path: Path, key: str, labels_key: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The array called ``key``, and the labels where the same file holds them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".npz":
        return _read_npz(path, key, labels_key)
    if path.suffix in (".pt", ".pth"):
        return _read_torch(path, key, labels_key)
    return _read_idx(path), None


def _read_npz(path: Path, key: str, labels_key: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        held, names = read_npz(path, {key, labels_key, "label"})
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as .npz ({error})") from error
    if key not in held:
        raise ValueError(_no_key(path, key, names))
    found = next((name for name in (labels_key, "label") if name in held), None)
    return held[key], held[found] if found is not None and found != key else None


def _read_torch(path: Path, key: str, labels_key: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{path}: needs torch: pip install "certcal_ext[torch]"') from error
    held = load_torch_file(path)
    labels: Any = None
    if isinstance(held, dict):
        if key not in held:
            raise ValueError(_no_key(path, key, [str(name) for name in held]))
        found = next((name for name in (labels_key, "label") if name in held), None)
        labels = held[found] if found is not None and found != key else None
        held = held[key]
    elif isinstance(held, list | tuple) and len(held) == 2:
        held, labels = held
    return _own_numbers(path, held), None if labels is None else _own_numbers(path, labels)


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
    except pickle.UnpicklingError as error:
        reason = "it holds more than tensors and plain containers, or is no torch file"
        raise ValueError(
            f"{path}: cannot be loaded safely (weights_only=True): {reason}"
        ) from error
    except Exception as error:  # torch's readers let through what their own code stumbles over
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be read as a torch file ({first})") from error


def _read_idx(path: Path) -> NDArray[Any]:
    """The idx format: two zero bytes, type code, number of dimensions, big-endian sizes, data."""
    content = path.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    # Of a packed file the header first, as it may unpack to a thousand times its size.
    head = _unpacked(path, content, 4 + 4 * 255) if packed else content
    known = len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _IDX_DTYPES
    if not known:
        raise ValueError(
            f"{path}: expected .npz, .pt or an idx file (plain or .gz); this is none of them"
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


def _idx_labels_beside(path: Path) -> Path | None:
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    return beside if beside != path and beside.is_file() else None


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
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{path}: expected pixels in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "noise and radius live in [0, 1] pixel units, and normalisation belongs inside the "
            "model"
        )
    return pixels


def _labels(labels: NDArray[Any], total: int, path: str | Path) -> NDArray[np.int64]:
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
