# SPDX-License-Identifier: MIT
"""``certcal bound``: metrics by radius from counts, a log or certificates."""

from __future__ import annotations

from typing import Annotated

from certcal_ext.cli import _common, _options
from certcal_ext.cli._former import FormerOptions
from certcal_ext.cli._metrics import Metrics
from certcal_ext.cli._tables import answer
from certcal_ext.cli._unfold import Panel, unfolded

EXAMPLES = _common.examples(
    ("Vote counts of all test images, at round radii", "certcal bound counts.npz"),
    ("Chosen radii, for a program", "certcal bound counts.npz --radii 0,0.05,0.1,0.25,0.5 --json"),
    ("A certification log", "certcal bound log.tsv --sigma 0.25 --n 100000 --alpha 0.001"),
    (
        "Intervals of another verifier, which hold in the linf norm up to 8/255",
        "certcal bound intervals.csv --interval-norm linf --interval-radius 0.03137254901960784",
    ),
    ("Own bin edges", "certcal bound certificates.parquet --edges 0,0.5,0.8,0.9,0.95,1"),
    (
        "Valid for the whole data set at once, over all samples, and for the population",
        "certcal bound counts.npz --metrics all --scope all --delta 0.001 --population --clip 0.001",
    ),
)


@unfolded
def bound(
    file: _options.File,
    source: _options.SourceOfFile,
    where: _options.Bins,
    metrics: Metrics,
    former: Annotated[FormerOptions, Panel("Now subcommands", hidden=True)],
    out: _options.OutCertificates = None,
    as_json: _options.Json = False,
) -> None:
    """Certified accuracy, calibration error and Brier score at many radii, from FILE."""
    _common.writable(out, "--out")
    former.say(file)
    certificates = _common.read_certificates(file, source, keep_counts=metrics.need_counts)
    table = where.table(certificates)
    gain = former.gain(table, where.asked())
    if gain is not None:
        table = gain.others(table)
    parts = {
        "radii": table.curve(file),
        "metrics": metrics.part(table),
        "recalibration": None if gain is None else gain.part(table),
        **former.parts(file, source, table),
    }
    if out is not None:
        table.certificates.to_parquet(out)
    answer(table.head(file), parts, out, as_json)
