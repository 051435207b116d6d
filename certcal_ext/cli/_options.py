# SPDX-License-Identifier: MIT
"""Options that several subcommands share: groups of them, and single ones, each with its help text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certcal_ext.certificates.file_options import FileOptions
from certcal_ext.cli._unfold import Panel

if TYPE_CHECKING:
    import torch

    from certcal_ext.datasets import ImageData

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

AllowRandom = Annotated[
    bool,
    typer.Option("--allow-random", help="Take a model that is random in evaluation mode."),
]

AllowBatchDependent = Annotated[
    bool,
    typer.Option(
        "--allow-batch-dependent",
        help="Take a model whose logits depend on the other images in the batch; proves nothing.",
    ),
]

AllowProbabilities = Annotated[
    bool,
    typer.Option("--allow-probabilities", help="Take a model that gives probabilities."),
]

Skip = Annotated[int, typer.Option(help="Leave out this many images at the start.")]


def allowed(random: bool, batch_dependent: bool, probabilities: bool) -> list[str]:
    """The names of what a user allows the model to be, as ``SmoothedClassifier`` takes them."""
    given = {
        "random": random,
        "batch_dependent": batch_dependent,
        "probabilities": probabilities,
    }
    return [name for name, allow in given.items() if allow]


Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]

Report = Annotated[Path | None, typer.Option(help="Also write the HTML page.", show_default=False)]

Sigma = Annotated[
    float,
    typer.Option(help="Standard deviation of the noise in [0, 1] pixel units.", show_default=False),
]

File = Annotated[
    Path,
    typer.Argument(
        help="Certificates (Parquet), vote counts (.npz with counts, label and sigma), a certification log in any "
        "dialect, or intervals of another verifier (CSV, TSV, JSON, .npz or Parquet with correct, lower and upper).",
        show_default=False,
    ),
]

_SOURCE = "What FILE does not say"

#: A group of options that are the fields of ``FileOptions``.
SourceOfFile = Annotated[FileOptions, Panel(_SOURCE, frozenset({"keep_counts"}))]

#: The same for subcommands that have ``--labels-key`` for images.
SourceBesideImages = Annotated[
    FileOptions, Panel(_SOURCE, frozenset({"keep_counts", "labels_key"}))
]


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Which images, with their labels."""

    data: Data
    labels: Labels = None
    images_key: ImagesKey = "images"
    labels_key: LabelsKey = "labels"
    max_value: MaxValue = 255.0

    def load(self, skip: int = 0, limit: int | None = None) -> ImageData:
        """Reads them.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: a file cannot be read, or holds something else.
        """
        from certcal_ext.datasets import load_images

        return load_images(
            self.data,
            self.labels,
            images_key=self.images_key,
            labels_key=self.labels_key,
            max_value=self.max_value,
            skip=skip,
            limit=limit,
        )


@dataclass(frozen=True, kw_only=True)
class SomeImageOptions(ImageOptions):
    """Which of the images, too."""

    skip: Skip = 0
    limit: Annotated[
        int | None, typer.Option(help="Take at most this many images.", show_default=False)
    ] = None

    def load_some(self) -> ImageData:
        """Reads those asked for; errors as ``load``."""
        return self.load(self.skip, self.limit)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and where it runs."""

    model: Model
    weights: Weights = None
    device: Device = "auto"

    def load(self) -> torch.nn.Module:
        """Builds the model on the CPU and loads its weights; errors as ``load_model``."""
        from certcal_ext.models import load_model

        return load_model(self.model, self.weights)
