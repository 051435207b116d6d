# SPDX-License-Identifier: MIT
"""Arrays from ``.npz`` files that nobody vouches for: nothing is allocated for what a file claims and cannot hold."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from os import PathLike
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

#: Deflate makes at most 1032 bytes of one (three bits for 258 bytes), and a few of an empty block.
MOST_EXPANSION = 1032
_MOST_HEADER = 10_000


def read_npz(
    path: str | PathLike[str], wanted: Collection[str]
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Some arrays of an ``.npz`` file.

    Args:
        path: the file, as ``numpy.savez`` and ``numpy.savez_compressed`` write them.
        wanted: names of the arrays to read; those that the file does not have are left out.

    Returns:
        The arrays by name, and the names of all arrays in the file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: no such file, damaged, with Python objects in place of numbers, or with a header
            that claims another size than the file has. The caller names the file.

    Source:
        This project.

    Example:
        >>> import tempfile
        >>> name = tempfile.mkdtemp() + "/x.npz"
        >>> np.savez(name, a=np.arange(3), b=np.zeros(2))
        >>> read_npz(name, {"a", "c"})
        ({'a': array([0, 1, 2])}, ['a', 'b'])
    """
    with open(path, "rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise ValueError("it holds a single array")
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                held = {
                    name: _array(archive, info) for name, info in members.items() if name in wanted
                }
        except ValueError:
            raise
        except Exception as error:  # whatever the parsers make of bytes from anywhere
            raise ValueError(str(error) or type(error).__name__) from error
    return held, list(members)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed in a way that NumPy does not write")
    most = info.compress_size
    if info.compress_type == zipfile.ZIP_DEFLATED:
        most = MOST_EXPANSION * (most + 1)
    if info.file_size > most:
        raise ValueError(
            f"{info.filename} claims {info.file_size} bytes, and {info.compress_size} stored ones "
            f"hold at most {most}"
        )
    with archive.open(info) as stream:
        dtype, shape = _header(stream)
        claimed, there = math.prod(shape) * dtype.itemsize, info.file_size - stream.tell()
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"{info.filename} holds {dtype} and no numbers")
    if claimed != there or min(shape, default=1) < 0:
        raise ValueError(
            f"{info.filename} claims {claimed} bytes for {dtype} {shape}, and has {there}"
        )
    with archive.open(info) as stream:
        result: NDArray[Any] = np.lib.format.read_array(
            stream, allow_pickle=False, max_header_size=_MOST_HEADER
        )
    return result


def _header(stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected an array of version 1 or 2, got {version}")
    read = np.lib.format.read_array_header_1_0
    if version == (2, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream, max_header_size=_MOST_HEADER)
    return dtype, shape
