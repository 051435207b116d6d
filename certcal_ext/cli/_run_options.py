# SPDX-License-Identifier: MIT
"""Options of a run that keeps what is finished, each with its help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Work = Annotated[
    Path | None,
    typer.Option(
        help="Folder for what is finished, shared by all processes; default: beside --out. Removed "
        "at the end.",
        show_default=False,
    ),
]

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what is in the folder, if there is anything.")
]

KeepWork = Annotated[
    bool, typer.Option("--keep-work", help="Leave the folder where it is at the end.")
]

UnitDraws = Annotated[
    int | None,
    typer.Option(
        help="Noisy images that are kept together: what an interruption can cost; default: about "
        "three seconds' worth. Does not change the result.",
        show_default=False,
    ),
]
