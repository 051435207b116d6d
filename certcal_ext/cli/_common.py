# SPDX-License-Identifier: MIT
"""What the subcommands share: one-line errors, lists of numbers, input and output files."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.file_options import FileOptions

BAD_INPUT = 2
_TRACEBACK = "CERTCAL_TRACEBACK"
STOPPED = 130


def note(message: str) -> None:
    """A line for people, on stderr."""
    typer.echo(message, err=True)


def examples(*pairs: tuple[str, str]) -> str:
    """The end of a help text: what to do and the command that does it."""
    return "\n\n".join(
        ["[bold]Examples[/bold]"]
        + [f"{what}:\n\n  [cyan]{command}[/cyan]" for what, command in pairs]
    )


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns errors about input into one line on stderr and exit code 2, and warnings into lines.

    With CERTCAL_TRACEBACK=1 in the environment errors go through, for reports of faults in certcal
    itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        try:
            yield
        except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
            if os.environ.get(_TRACEBACK):
                raise
            words = " ".join(str(error).split()) or type(error).__name__
            note(f"certcal: error: {words}")
            raise typer.Exit(BAD_INPUT) from None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: Any = None,
) -> None:
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
        note(f"certcal: warning: {' '.join(str(message).split())}")


def numbers(name: str, text: str | None) -> list[float] | None:
    """``0,0.1,0.5`` as numbers.

    Raises:
        ValueError: something in it is no finite number.

    Example:
        >>> numbers("radii", "0, 0.25")
        [0.0, 0.25]
    """
    if text is None:
        return None
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise ValueError(
            f"{name}: expected numbers separated by commas, for example 0,0.25,0.5, got {text!r}"
        )
    return values


def read_certificates(path: Path, source: FileOptions, **more: Any) -> Certificates:
    """``Certificates.from_file``, with its notes on what was read on stderr.

    Args:
        path: the file.
        source: what it does not say.
        more: options in place of those of ``source``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or something it does not hold was not given.
    """
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.evidence import SHARED_DRAWS, SHARED_MEANING
    from certcal_ext.certificates.from_others import LOG_POINT

    options = dataclasses.asdict(source) | more
    try:
        made = Certificates.from_file(path, **options)
    except ValueError as error:
        said = str(error).removeprefix(f"{path}: ")
        name = said.partition(": ")[0]
        if name in options:
            said = f"{path}: --{name.replace('_', '-')}{said.removeprefix(name)}"
            raise ValueError(said) from error
        raise
    for text in made.provenance.notes:
        if text not in (SHARED_DRAWS, SHARED_MEANING, LOG_POINT):  # said elsewhere
            note(f"certcal: note: {text}")
    return made


def writable(path: Path | None, name: str) -> None:
    """Checks before a long run that a file can be written there.

    Raises:
        ValueError: its folder does not exist or is not writable, or it is a folder.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{name}: expected a file name, got the folder {path}")
    if not path.parent.is_dir():
        raise ValueError(f"{name}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{name}: the folder {path.parent} is not writable")
