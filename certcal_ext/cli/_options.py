# SPDX-License-Identifier: MIT
"""Options that several subcommands share, each with its help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        help="module:factory; called without arguments, returns a torch module from images "
        "in [0, 1] to logits.",
        show_default=False,
    ),
]

Data = Annotated[
    Path,
    typer.Option(
        help="Images: .npz, .pt or idx (plain or .gz), uint8 or in [0, 1].", show_default=False
    ),
]

Weights = Annotated[
    Path | None,
    typer.Option(
        help="State dict for the model (loaded with weights_only=True).", show_default=False
    ),
]

Labels = Annotated[
    Path | None,
    typer.Option(
        help="Labels, where the file of the images does not hold them.", show_default=False
    ),
]

ImagesKey = Annotated[str, typer.Option(help="Name of the images inside .npz or .pt.")]

LabelsKey = Annotated[str, typer.Option(help="Name of the labels inside .npz or .pt.")]

MaxValue = Annotated[float, typer.Option(help="Value of a full-bright pixel in uint8 images.")]

Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:1 ...; auto takes a GPU if there is one.")
]

Skip = Annotated[int, typer.Option(help="Leave out this many images at the start.")]

Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]

Report = Annotated[Path | None, typer.Option(help="Also write the HTML page.", show_default=False)]

Sigma = Annotated[
    float,
    typer.Option(help="Standard deviation of the noise in [0, 1] pixel units.", show_default=False),
]

SigmaOfFile = Annotated[
    float | None,
    typer.Option(
        help="Noise of the smoothed classifier, where FILE does not hold it.", show_default=False
    ),
]

DrawsOfFile = Annotated[
    int | None, typer.Option(help="Draws a sample, for a log.", show_default=False)
]

AlphaOfFile = Annotated[
    float | None,
    typer.Option(
        help="Failure probability of an interval, for counts and logs; 0.001 where not given.",
        show_default=False,
    ),
]

SplitOfFile = Annotated[
    int | None,
    typer.Option(
        "--split",
        help="Draws of the counts, taken at random, that only select the class; the others estimate it, and every interval "
        "holds with 1 - alpha. Without, the same draws do both. 100 is a usual number.",
        show_default=False,
    ),
]

SplitSeed = Annotated[
    int,
    typer.Option("--split-seed", help="Seed of --split; fix it before you look at the result."),
]
