# SPDX-License-Identifier: MIT
"""``certcal report``: the HTML page about counts, a log or certificates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import print_json
from certcal_ext.cli._unfold import Panel, unfolded

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


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What the page is about.

    Attributes:
        out: the page to write.
        compare: another model's file of the same kind and samples; may be given several times.
        radius: radius of the headline and diagrams. Default: the largest listed one with half of the samples certified.
        class_names: names of the classes, separated by commas.
        title: heading of the page.
    """

    out: Path = Path("report.html")
    compare: list[Path] | None = None
    radius: float | None = None
    class_names: str | None = None
    title: str = "Certified calibration"


@unfolded
def report(
    file: _options.File,
    source: _options.SourceBesideImages,
    images: Annotated[_options.AnyImageOptions, Panel("Data, shown with the worst samples")],
    where: _options.Bins,
    page: Annotated[PageOptions, Panel("Page")],
    as_json: _options.Json = False,
) -> None:
    """One self-contained HTML page about FILE: verdict, diagrams, worst samples, what is certified."""
    from certcal_ext.cli.compare import read_others
    from certcal_ext.report import write_report

    _common.writable(page.out, "--out")
    # Without images, the labels that are named are those of the counts.
    own = images.labels_key if images.data is None and images.labels_key != "labels" else None
    certificates = _common.read_certificates(file, source, labels_key=own)
    models = {}
    if page.compare:
        models = read_others(file, certificates, page.compare, source)
    name, *others = models or [file.name]
    names = page.class_names
    write_report(
        certificates,
        page.out,
        radii=where.asked(),
        radius=page.radius,
        **where.binning(certificates),
        title=page.title,
        file=str(file),
        images=None if images.data is None else images_of(certificates, images),
        class_names=None if names is None else names.split(","),
        compare={other: models[other] for other in others},
        name=name,
    )
    if as_json:
        printed = {"file": str(file), "report": str(page.out), "total": len(certificates)}
        print_json(printed | ({"models": list(models)} if models else {}))
    else:
        typer.echo(f"report: {page.out}")


def images_of(certificates: Certificates, images: _options.AnyImageOptions) -> NDArray[np.float32]:
    """The image of each row; a row's sample id is the position of its image in the file.

    Args:
        certificates: the certificates.
        images: options that name a file of them.

    Returns:
        (N, C, H, W) float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds fewer images, other labels, or no images.
    """
    import numpy as np

    held, data = images.load(), images.data
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
