# SPDX-License-Identifier: MIT
"""What a run writes down: one JSON object a line, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from certcal_ext._files import replacing


class Log:
    """A JSONL file and TensorBoard; either may be absent.

    Args:
        path: the JSONL file, or None.
        writer: a ``SummaryWriter``, or None.
    """

    def __init__(self, path: Path | None, writer: Any = None) -> None:
        self._path, self._writer = path, writer

    def start(self, step: int) -> None:
        """Begins anew (step 0), or drops the records after the step at which a run goes on."""
        if self._path is None:
            return
        kept = []
        if step and self._path.is_file():
            kept = [line for line in self._path.read_text().splitlines() if _whole(line, step)]
        with replacing(self._path) as file:
            file.write("".join(line + "\n" for line in kept).encode())

    def write(self, record: dict[str, Any]) -> None:
        """Writes a record; it holds ``step``, the steps done."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        if self._writer is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._writer.add_scalar(name, value, record["step"])


def _whole(line: str, step: int) -> bool:
    """Whether a line is a record of a step that is done; the last line of a killed run may be cut."""
    try:
        return int(json.loads(line)["step"]) <= step
    except (json.JSONDecodeError, KeyError, TypeError):
        return False


@contextmanager
def open_log(path: Path | None, tensorboard: Path | None) -> Iterator[Log]:
    """Opens both.

    Args:
        path: the JSONL file, or None.
        tensorboard: folder of TensorBoard's files, or None.

    Raises:
        ImportError: ``tensorboard`` is given and not installed.
    """
    if tensorboard is None:
        yield Log(path)
        return
    writer = summary_writer(tensorboard)
    try:
        yield Log(path, writer)
    finally:
        writer.close()


def summary_writer(folder: Path) -> Any:
    """TensorBoard's writer.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard: not installed here: pip install tensorboard") from error
    return SummaryWriter(str(folder))
