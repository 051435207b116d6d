# SPDX-License-Identifier: MIT
"""``certcal report``: the HTML page about counts, a log or certificates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext.cli import _common, _options
from certcal_ext.cli._unfold import unfolded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from certcal_ext.certificates.certificates import Certificates

EXAMPLES = _common.examples(
    (
        "The page about a set of certificates, with the images of the worst samples",
        "certcal report certificates.parquet --data test.npz --out report.html",
    ),
    (
        "About radius 0.5, from vote counts",
        "certcal report counts.npz --radius 0.5 --out report.html",
    ),
    (
        "From a certification log",
        "certcal report log.tsv --sigma 0.25 --n 100000 --out report.html",
    ),
    (
        "Several models on one page",
        "certcal report a.parquet --compare b.parquet --compare c.parquet --out models.html",
    ),
)


@unfolded
def report(
    file: _options.File,
    source: _options.SourceBesideImages,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="The images that were certified, shown with the worst samples: .npz, .pt or idx.",
            show_default=False,
        ),
    ] = None,
    labels: _options.Labels = None,
    images_key: _options.ImagesKey = "images",
    labels_key: _options.LabelsKey = "labels",
    max_value: _options.MaxValue = 255.0,
    class_names: Annotated[
        str | None,
        typer.Option(help="Names of the classes, separated by commas.", show_default=False),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another model's file of the same kind and samples; may be given several times.",
            show_default=False,
        ),
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(
            help="The radius of the headline and diagrams. Default: the largest listed one with "
            "half of the samples certified.",
            show_default=False,
        ),
    ] = None,
    radii: Annotated[
        str | None,
        typer.Option(
            help="Radii of the table, separated by commas. Default: round ones.", show_default=False
        ),
    ] = None,
    bins: Annotated[
        int, typer.Option(help="Number of equal-width bins of the calibration error.")
    ] = 15,
    edges: Annotated[
        str | None,
        typer.Option(
            help="Bin edges from 0 to 1, separated by commas, in place of --bins.",
            show_default=False,
        ),
    ] = None,
    closed: Annotated[
        str, typer.Option(help="right: bins (low, high]; left: [low, high).")
    ] = "right",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Certified calibration",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of the file name.")
    ] = False,
) -> None:
    """One self-contained HTML page about FILE: verdict, diagrams, worst samples, what is certified."""
    with _common.user_errors():
        from certcal_ext.cli._compare import read_others
        from certcal_ext.report import write_report

        _common.writable(out, "--out")
        listed = _common.numbers("--radii", radii)
        limits = _common.numbers("--edges", edges)
        # Without images, the labels that are named are those of the counts.
        own = labels_key if data is None and labels_key != "labels" else None
        certificates = _common.read_certificates(file, source, labels_key=own)
        models = read_others(file, certificates, compare, source) if compare else {}
        name, *others = models or [file.name]
        images = None
        if data is not None:
            keys: dict[str, Any] = {
                "images_key": images_key,
                "labels_key": labels_key,
                "max_value": max_value,
            }
            images = images_of(certificates, data, labels, **keys)
        write_report(
            certificates,
            out,
            radii=listed,
            radius=radius,
            bins=bins,
            edges=limits,
            closed=closed,
            title=title,
            file=str(file),
            images=images,
            class_names=None if class_names is None else class_names.split(","),
            compare={other: models[other] for other in others},
            name=name,
        )
        if as_json:
            printed = {"file": str(file), "report": str(out), "total": len(certificates)}
            _common.print_json(printed | ({"models": list(models)} if models else {}))
        else:
            typer.echo(f"report: {out}")


def images_of(
    certificates: Certificates, data: Path, labels: Path | None, **keys: Any
) -> NDArray[np.float32]:
    """The image of each row; a row's sample id is the position of its image in the file.

    Args:
        certificates: the certificates.
        data: file of the images.
        labels: file of the labels, or None.
        keys: further options of ``load_images``.

    Returns:
        (N, C, H, W) float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds fewer images, other labels, or no images.
    """
    import numpy as np

    from certcal_ext.datasets import load_images

    held = load_images(data, labels, **keys)
    index = certificates.table.column("index").to_numpy()
    last = int(index.max())
    if last >= len(held.images) or int(index.min()) < 0:
        raise ValueError(
            f"--data: expected the images that were certified, at least {last + 1}, got the "
            f"{len(held.images)} of {data}"
        )
    known = certificates.table.column("label")
    if held.labels is not None and known.null_count == 0:
        differ = np.flatnonzero(held.labels[index] != known.to_numpy())
        if differ.size:
            row = int(differ[0])
            raise ValueError(
                f"--data: expected the images that were certified, but the label of sample {index[row]} "
                f"is {held.labels[index[row]]} in {data} and {known[row].as_py()} in the certificates"
            )
    chosen: NDArray[np.float32] = held.images[index]
    return chosen
