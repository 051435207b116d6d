# SPDX-License-Identifier: MIT
"""What a file seems to be, from its first bytes: for errors that say more than that it cannot be read."""

from __future__ import annotations

import io
import zipfile
from os import PathLike

#: How much of a file is looked at.
HEAD = 4096

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a single array of NumPy (.npy)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"ARROW1", "an Arrow (Feather) file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"(\xb5/\xfd", "a zstd archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"version https://git-lfs", "a pointer of git-lfs, not the file itself"),
    (b"\x80\x02", "a pickle (which is never loaded, as it can run code)"),
    (b"\x80\x03", "a pickle (which is never loaded, as it can run code)"),
    (b"\x80\x04", "a pickle (which is never loaded, as it can run code)"),
    (b"\x80\x05", "a pickle (which is never loaded, as it can run code)"),
)


def what_it_seems(path: str | PathLike[str]) -> str:
    """What a file seems to be, for an error.

    Args:
        path: the file, which is there.

    Returns:
        A few words, such as "a web page"; of a table in text, the words of its first line.

    Raises:
        OSError: it cannot be opened.

    Source:
        This project; the first bytes are those of each format's specification.

    Example:
        >>> import tempfile, pathlib
        >>> name = pathlib.Path(tempfile.mkdtemp()) / "x"
        >>> _ = name.write_text("<!DOCTYPE html>")
        >>> what_it_seems(name)
        'a web page'
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
        if head[:2] == b"PK":
            return _of_zip(file)
    if not head:
        return "an empty file"
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return words
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:9].lower() == b"<!doctype" or text[:5].lower() in (b"<html", b"<head"):
        return "a web page"
    if text[:1] in b"{[" and text:
        return "JSON"
    if b"\0" in head:
        return "a binary file of a kind that is not known here"
    line = text.decode("utf-8", "replace").partition("\n")[0].strip()
    if not line:
        return "an empty text"
    return f"a text that starts with {line[:60]!r}"


def _of_zip(file: io.BufferedReader) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # whatever the parser makes of bytes from anywhere
        return "a damaged zip archive (.npz, .pt and .xlsx are such)"
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook (save it as .csv)"
    if any(name.endswith("data.pkl") for name in names):
        return "a file of torch"
    if names and all(name.endswith(".npy") for name in names):
        arrays = ", ".join(name.removesuffix(".npy")[:40] for name in names[:12])
        return f"an .npz file of the arrays {arrays}"
    return "a zip archive" if names else "an empty zip archive"
