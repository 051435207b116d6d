# SPDX-License-Identifier: MIT
"""Options that several subcommands share, in groups; help texts are what a group's class says of its attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext.certificates.file_options import FileOptions
from certcal_ext.cli._common import numbers
from certcal_ext.cli._tables import Part, curve_part, head_of
from certcal_ext.cli._unfold import Panel

if TYPE_CHECKING:
    import torch

    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.datasets import ImageData

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON in place of a table.", rich_help_panel="Output")
]

File = Annotated[
    Path,
    typer.Argument(
        help="Certificates (Parquet), vote counts (.npz with counts, label and sigma), a certification log in any "
        "dialect, or intervals of another verifier (CSV, TSV, JSON, .npz or Parquet with correct, lower and upper).",
        show_default=False,
    ),
]

OutCertificates = Annotated[
    Path | None,
    typer.Option(
        help="Also write the certificates to this Parquet file.",
        show_default=False,
        rich_help_panel="Output",
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
class BinOptions:
    """At which radii, and into which bins confidences are sorted.

    Attributes:
        radii: radii of the tables, separated by commas. Default: round ones up to the largest certified radius.
        bins: number of equal-width bins of the calibration error.
        edges: bin edges from 0 to 1, separated by commas, in place of --bins.
        equal_mass: bins that hold equally many clean confidences.
        closed: right: bins (low, high]; left: [low, high).
    """

    radii: str | None = None
    bins: int = 15
    edges: str | None = None
    equal_mass: bool = False
    closed: str = "right"

    def __post_init__(self) -> None:
        """Refuses what is no list of numbers."""
        numbers("--radii", self.radii)
        if self.equal_mass and numbers("--edges", self.edges) is not None:
            raise ValueError("--equal-mass: expected without --edges")

    def asked(self) -> list[float] | None:
        """The radii that were asked for."""
        return numbers("--radii", self.radii)

    def table(self, certificates: Certificates) -> Table:
        """These radii and bins for the samples of a file.

        Raises:
            ValueError: ``--equal-mass`` for certificates that hold no confidences.
        """
        from certcal_ext.certificates.guarantee import default_radii

        listed = self.asked()
        if listed is None:
            listed = default_radii(certificates)
        return Table(certificates, listed, self.binning(certificates))

    def binning(self, certificates: Certificates) -> dict[str, Any]:
        """``bins``, ``edges`` and ``closed`` of the calibration errors; errors as ``table``."""
        edges = numbers("--edges", self.edges)
        if self.equal_mass:
            edges = _equal_mass(certificates, self.bins)
        return {"bins": self.bins, "edges": edges, "closed": self.closed}


Bins = Annotated[BinOptions, Panel("Radii and bins")]


@dataclass(frozen=True)
class Table:
    """What the tables of a subcommand are about.

    Attributes:
        certificates: the samples.
        radii: a row a radius.
        binning: ``bins``, ``edges`` and ``closed`` of the calibration errors.
    """

    certificates: Certificates
    radii: list[float]
    binning: dict[str, Any]

    def head(self, file: Path) -> dict[str, Any]:
        """What JSON says before the tables."""
        edges = self.binning["edges"]
        bins = self.binning["bins"] if edges is None else len(edges) - 1
        return head_of(
            file, self.certificates, bins=bins, edges=edges, closed=self.binning["closed"]
        )

    def curve(self, file: Path) -> Part:
        """Accuracy, ECE and Brier score by radius."""
        held, abstained = self.certificates, int(self.certificates.abstained.sum())
        title = f"{file.name}: {len(held):,} samples, {abstained:,} abstained"
        return curve_part(held, held.curve(self.radii, **self.binning), title)


def _equal_mass(certificates: Certificates, bins: int) -> list[float]:
    """Edges of bins that hold equally many clean confidences."""
    from certcal_ext.metrics.edges import equal_mass_edges

    confidence = certificates.confidence
    if confidence is None:
        raise ValueError("--equal-mass: these certificates hold no confidences without attack")
    result: list[float] = equal_mass_edges(confidence[confidence >= 0], bins).tolist()
    return result


@dataclass(frozen=True, kw_only=True)
class AnyImageOptions:
    """Which images, if any, with their labels.

    Attributes:
        data: images: .npz, .npy, .pt or idx (plain or .gz), uint8 or in [0, 1]; or a folder with a folder for each class.
        labels: file of the labels, where that of the images does not hold them.
        images_key: name of the images inside .npz or .pt.
        labels_key: name of the labels inside .npz or .pt.
        max_value: value of a full-bright pixel in uint8 images.
    """

    data: Path | None = None
    labels: Path | None = None
    images_key: str = "images"
    labels_key: str = "labels"
    max_value: float = 255.0

    def load(self, skip: int = 0, limit: int | None = None) -> ImageData:
        """Reads them.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: a file cannot be read, or holds something else.
        """
        from certcal_ext.datasets import load_images

        if self.data is None:
            raise ValueError("--data: expected a file of images")
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
class ImageOptions(AnyImageOptions):
    """The same where images are needed."""

    data: Path = field()


@dataclass(frozen=True, kw_only=True)
class SomeImageOptions(ImageOptions):
    """Which of the images, too.

    Attributes:
        skip: leave out this many images at the start.
        limit: take at most this many images.
    """

    skip: int = 0
    limit: int | None = None

    def load_some(self) -> ImageData:
        """Reads those asked for; errors as ``load``."""
        return self.load(self.skip, self.limit)


Images = Annotated[ImageOptions, Panel("Data")]
SomeImages = Annotated[SomeImageOptions, Panel("Data")]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and where it runs.

    Attributes:
        model: module:factory; called without arguments, returns a torch module from images in [0, 1] to logits.
        weights: state dict for the model (loaded with weights_only=True).
        device: auto, cpu, cuda or cuda:1 ...; auto takes a GPU if there is one.
    """

    model: str
    weights: Path | None = None
    device: str = "auto"

    def load(self) -> torch.nn.Module:
        """Builds the model on the CPU and loads its weights; errors as ``load_model``."""
        from certcal_ext.models import load_model

        return load_model(self.model, self.weights)

    def load_there(self) -> tuple[torch.nn.Module, torch.device]:
        """The model on its device, and the device; errors as ``load_model`` and ``to_device``."""
        from certcal_ext.cli._preflight import to_device

        return to_device(self.load(), self.device)


@dataclass(frozen=True, kw_only=True)
class JudgedModelOptions(ModelOptions):
    """What the model may be, too, that is looked at before a run.

    Attributes:
        allow_random: take a model that is random in evaluation mode.
        allow_batch_dependent: take a model whose logits depend on the other images in the batch; proves nothing.
        allow_probabilities: take a model that gives probabilities.
    """

    allow_random: bool = False
    allow_batch_dependent: bool = False
    allow_probabilities: bool = False

    @property
    def allow(self) -> list[str]:
        """The names of what is allowed, as ``SmoothedClassifier`` takes them."""
        names = ("random", "batch_dependent", "probabilities")
        return [name for name in names if getattr(self, f"allow_{name}")]


Model = Annotated[ModelOptions, Panel("Model")]
JudgedModel = Annotated[JudgedModelOptions, Panel("Model")]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How it runs.

    Attributes:
        batch_size: noisy images a forward pass; does not change the result.
        estimate: only say what the run would take.
    """

    batch_size: int = 1024
    estimate: bool = False


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where the results go besides a file of their own.

    Attributes:
        report: also write the HTML page.
    """

    report: Path | None = None
    as_json: Json = False
