# SPDX-License-Identifier: MIT
"""Tables in text files as people have them: any separator, encoding and packing, comments and summaries around."""

from __future__ import annotations

import codecs
import csv
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike

from certcal_ext._file_kinds import HEAD, what_it_seems

#: A packed text that unpacks to more is refused.
_MOST_TEXT = 2**28
#: A header is looked for in so many lines.
_FIRST_LINES = 100
_COMMENT = re.compile(r"\s*(#|%|//)+\s*")
_RULE = re.compile(r"[\s|+:=-]*")  # under the header of a table in Markdown
#: Whitespace comes last: it would also split words.
_SEPARATORS = ("\t", ",", ";", "|", None)
_TWO_WORDS = re.compile(r"(?i)\b(radius|certified|cert) (proved|proven|radius|certified)\b")
_WHOLE = re.compile(r"[0-9]{1,15}(\.0*)?")
_DAYS = re.compile(r"-?[0-9]+ days?")  # of a time, before its comma


@dataclass
class TextTable:
    """Cells of a table, all as text.

    Attributes:
        names: of the columns, as they stand in the header; "" for a column of row numbers without a name.
        rows: a list of cells a row, as many as there are names.
        lines: the number of each row's line in the file, from 1.
        separator: what stood between cells; None: whitespace.
        notes: what was passed over.
    """

    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    separator: str | None
    notes: list[str] = field(default_factory=list)


def read_text(path: str | PathLike[str]) -> str:
    """A file as text: UTF-8 or UTF-16, with or without a byte order mark, plain or packed with gzip.

    Args:
        path: the file.

    Returns:
        The text, without the mark.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no text, or unpacks to more than 256 MB. The caller names the file.

    Source:
        This project.

    Example:
        >>> import gzip, tempfile, pathlib
        >>> name = pathlib.Path(tempfile.mkdtemp()) / "x.gz"
        >>> _ = name.write_bytes(gzip.compress("\N{BOM}a,b".encode("utf-16")))
        >>> read_text(name)
        'a,b'
    """
    with open(path, "rb") as file:
        data = file.read(_MOST_TEXT + 1)
    if data[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(data, _MOST_TEXT + 1)
        except zlib.error as error:
            raise ValueError(f"it is packed with gzip and damaged: {error}") from error
        if not unpacker.eof and len(data) <= _MOST_TEXT:
            raise ValueError("it is packed with gzip and cut off")
    if len(data) > _MOST_TEXT:
        raise ValueError(f"it holds more than {_MOST_TEXT} bytes of text")
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data[:HEAD]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        return data.decode(encoding).lstrip("\N{BOM}")
    except UnicodeDecodeError as error:
        raise ValueError(f"it seems to be {what_it_seems(path)}: {error}") from error


def parse_table(text: str, known: Callable[[Sequence[str]], bool]) -> TextTable | None:
    r"""Finds the header and the rows under it.

    Comments (``#``, ``%``, ``//``) and blank lines are passed over, also before the header; so is a header that is repeated.
    Lines after the last row that do not start with a row's number are a summary, which a note names.

    Args:
        text: of the whole file.
        known: whether some words are a header.

    Returns:
        The table, or None where no line is a header. Rows may still have fewer or more cells than names.

    Source:
        This project.

    Example:
        >>> table = parse_table("# a log\nidx radius\n0 0.5\n1 0.25\nmean 0.375 of 2\n", lambda names: "radius" in names)
        >>> table.rows, table.lines, table.notes
        ([['0', '0.5'], ['1', '0.25']], [3, 4], ["passed over at the end: 'mean 0.375 of 2'"])
    """
    lines = text.splitlines()
    for at, line in enumerate(lines[:_FIRST_LINES]):
        bare = _COMMENT.sub("", line, count=1) if _COMMENT.match(line) else line
        for separator in _SEPARATORS:
            names = split_line(
                _TWO_WORDS.sub(r"\1_\2", bare) if separator is None else bare, separator
            )
            if known(names):
                return _under_header(lines, at, names, separator)
    return None


def split_line(line: str, separator: str | None) -> list[str]:
    """The cells of a line, without quotes and outer spaces."""
    if separator is None:
        return line.split()
    if separator == "|":
        line = line.strip().removeprefix("|").removesuffix("|")
    if '"' in line:
        try:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
        except csv.Error:
            pass  # then the quotes are none
    return [cell.strip() for cell in line.split(separator)]


def _under_header(lines: list[str], at: int, names: list[str], separator: str | None) -> TextTable:
    table = TextTable(names, [], [], separator)
    header, repeated, kept = lines[at].strip(), 0, []
    for number, line in enumerate(lines[at + 1 :], at + 2):
        if not line.strip() or _COMMENT.match(line) or (separator == "|" and _RULE.fullmatch(line)):
            continue
        if line.strip() == header:
            repeated += 1
            continue
        kept.append((number, split_line(line, separator), line))
    last = len(kept)
    while last and not _starts_a_row(kept[last - 1][1], len(names)):
        last -= 1
    if last:
        table.notes += [
            f"passed over at the end: {line.strip()[:80]!r}" for _, _, line in kept[last:]
        ]
        kept = kept[:last]
    if repeated:
        table.notes.append(f"passed over: the header, repeated {repeated} times")
    one_more = all(
        len(cells) == len(names) + 1
        and _WHOLE.fullmatch(cells[0])
        and int(float(cells[0])) - at in (0, 1)
        and not _DAYS.fullmatch(cells[-2])
        for at, (_, cells, _) in enumerate(kept)
    )
    if kept and one_more and names[0]:
        table.names = ["", *names]  # row numbers, under no name
    table.rows = [cells for _, cells, _ in kept]
    table.lines = [number for number, _, _ in kept]
    return table


def _starts_a_row(cells: list[str], columns: int) -> bool:
    """Whether a line may be a row, also one that was cut off: a summary starts with a word, or is prose."""
    first = next((cell for cell in cells if cell), "")
    words = {"true", "false", "yes", "no"}
    number = re.fullmatch(r"[-+]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][-+]?[0-9]*)?", first)
    return (number is not None or first.lower() in words) and len(cells) <= 2 * columns
