# SPDX-License-Identifier: MIT
"""Small pictures inside the page: images as PNG, with nothing but zlib."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2  # colour types of the format
_UP = 2  # row filter: the difference to the row above
_DIMENSIONS = (2, 3)


def thumbnail(image: Any, most: int = 72) -> NDArray[np.uint8]:
    """An image as 8-bit pixels, larger ones averaged over square blocks.

    Args:
        image: (H, W), (1, H, W) or (3, H, W) pixels in [0, 1], or uint8 in 0..255; values outside are cut off, and of any
            other number of channels the mean is shown.
        most: longest side of the result, in pixels.

    Returns:
        (h, w) or (h, w, 3) uint8.

    Raises:
        ValueError: another shape, no pixel, or a pixel that is not finite.

    Example:
        >>> thumbnail([[0.0, 0.5], [1.0, 2.0]]).tolist()
        [[0, 128], [255, 255]]
        >>> thumbnail(np.ones((3, 100, 144))).shape
        (50, 72, 3)
    """
    pixels = np.asarray(image)
    if pixels.ndim not in _DIMENSIONS or pixels.size == 0:
        raise ValueError(
            f"images: expected images of shape (C, H, W) or (H, W), got {pixels.shape}"
        )
    full = 255.0 if pixels.dtype == np.uint8 else 1.0
    values = np.atleast_3d(pixels.T).T.astype(np.float64) / full  # (C, H, W)
    if not np.isfinite(values).all():
        raise ValueError("images: expected finite pixels, got NaN or infinity")
    if values.shape[0] != 3:
        values = values.mean(axis=0, keepdims=True)
    values = np.clip(values, 0.0, 1.0)
    block = -(-max(values.shape[1:]) // most)
    values = _block_means(_block_means(values, block, 1), block, 2)
    rounded = np.floor(values * 255.0 + 0.5).astype(np.uint8)
    return rounded[0] if rounded.shape[0] == 1 else np.moveaxis(rounded, 0, 2)


def _block_means(values: NDArray[np.float64], block: int, axis: int) -> NDArray[np.float64]:
    """Means of ``block`` neighbours along an axis; the last block may be smaller."""
    starts = np.arange(0, values.shape[axis], block)
    sizes = np.diff(np.append(starts, values.shape[axis]))
    shape = [1, 1, 1]
    shape[axis] = -1
    means: NDArray[np.float64] = np.add.reduceat(values, starts, axis=axis) / sizes.reshape(shape)
    return means


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file, 8 bits a channel.

    Args:
        pixels: (h, w) grey or (h, w, 3) red, green and blue.

    Returns:
        The file; the same bytes for the same pixels.

    Source:
        W3C, Portable Network Graphics, third edition.

    Example:
        >>> encode(np.zeros((2, 2), np.uint8))[1:4]
        b'PNG'
    """
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.column_stack([np.full(height, _UP, np.uint8), rows - above])  # modulo 256
    colour = _GREY if pixels.ndim == 2 else _RGB
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 9)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def data_uri(image: Any) -> str:
    """An image as the address of an ``<img>`` that needs no file; arguments as ``thumbnail``.

    Example:
        >>> data_uri([[0.0, 1.0]])[:22]
        'data:image/png;base64,'
    """
    return "data:image/png;base64," + base64.b64encode(encode(thumbnail(image))).decode("ascii")
