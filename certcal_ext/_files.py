# SPDX-License-Identifier: MIT
"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` at the end; on failure ``path`` stays as it was.

    Args:
        path: file to write; an existing one is replaced.

    Yields:
        The open file.

    Raises:
        ValueError: the folder does not exist, or ``path`` is one.
        OSError: the disk refuses.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "x"
        >>> with replacing(path) as file:
        ...     _ = file.write(b"all of it")
        >>> path.read_bytes()
        b'all of it'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise ValueError(f"path: expected a file in an existing folder, got {target}")
    if target.is_dir():
        raise ValueError(f"path: expected a file, got the folder {target}")
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        raise
