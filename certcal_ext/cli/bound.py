# SPDX-License-Identifier: MIT
"""``certcal bound``: metrics by radius from counts, a log or certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from certcal_ext.cli import _common, _options
from certcal_ext.cli._unfold import unfolded

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
    (
        "Recalibrated on one half of the samples for radius 0.25, certified on the other",
        "certcal bound counts.npz --recalibrate isotonic --fit-radius 0.25 --radii 0,0.1,0.25,0.5",
    ),
    ("Two models, on samples that both certify and on all", "certcal bound a.npz --compare b.npz"),
    ("The paper's own estimates beside the exact value", "certcal bound counts.npz --baselines"),
)


@unfolded
def bound(
    file: _options.File,
    source: _options.SourceOfFile,
    radii: Annotated[
        str | None,
        typer.Option(
            help="Radii, separated by commas. Default: round ones up to the largest certified "
            "radius.",
            show_default=False,
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
    equal_mass: Annotated[
        bool,
        typer.Option("--equal-mass", help="Bins that hold equally many clean confidences."),
    ] = False,
    closed: Annotated[
        str, typer.Option(help="right: bins (low, high]; left: [low, high).")
    ] = "right",
    metrics: Annotated[
        str | None,
        typer.Option(
            help="A second table: all, or some of brier, ece, ks, mce, log_loss, selective_risk, "
            "accuracy, classwise_ece (from counts), separated by commas.",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        str,
        typer.Option(
            help="certified: over the samples certified at the radius; all: over every sample, the "
            "others at their worst. Only all compares models fairly."
        ),
    ] = "certified",
    delta: Annotated[
        float | None,
        typer.Option(
            help="Also bounds that hold for the whole data set at once but for this probability.",
            show_default=False,
        ),
    ] = None,
    joint: Annotated[
        str, typer.Option(help="How: binomial, union, or the better of the two (best).")
    ] = "best",
    population: Annotated[
        bool,
        typer.Option(
            "--population",
            help="Also for the population that the samples come from (Brier, log loss with --clip, "
            "selective risk, accuracy); needs --delta.",
        ),
    ] = False,
    clip: Annotated[
        float | None,
        typer.Option(
            help="Log loss of confidences reported in [CLIP, 1 - CLIP].", show_default=False
        ),
    ] = None,
    clip_dtype: Annotated[
        str,
        typer.Option(
            help="float64 or float32: what the deployed model clips in, for the log loss."
        ),
    ] = "float64",
    threshold: Annotated[
        float, typer.Option(help="Confidence from which the selective risk accepts.")
    ] = 0.5,
    recalibrate: Annotated[
        str | None,
        typer.Option(
            help="Fit a monotone map on the worst case of one half of the samples and certify the "
            "other half: isotonic (lowest certified Brier score), tradeoff (keeps more resolution), "
            "beta, platt, temperature or constant.",
            show_default=False,
        ),
    ] = None,
    fit_radius: Annotated[
        float | None,
        typer.Option(
            help="Radius that the map is fitted at. Default: the largest one listed at which half "
            "of the fitting half is certified.",
            show_default=False,
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Also the paper's approximate solvers (ADMM, differentiable ECE, Brier-worst), "
            "which can understate the worst case.",
        ),
    ] = False,
    more_draws: Annotated[
        bool,
        typer.Option(
            "--more-draws",
            help="Also what 2, 4 and 10 times the draws would be expected to give (estimates).",
        ),
    ] = False,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another model's file for the same samples, side by side with FILE; may be repeated.",
            show_default=False,
        ),
    ] = None,
    max_attacked: Annotated[
        int | None,
        typer.Option(
            help="Also the worst ECE if at most this many samples are attacked (a mixed-integer "
            "program: for hundreds of samples; see --time-limit).",
            show_default=False,
        ),
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option(help="Seconds for each program of --max-attacked; a looser bound after."),
    ] = 60.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the certificates to this Parquet file.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table.")
    ] = False,
) -> None:
    """Certified accuracy, calibration error and Brier score at many radii, from FILE."""
    with _common.user_errors():
        from certcal_ext.certificates.guarantee import default_radii
        from certcal_ext.cli import _baselines, _compare, _metrics, _more_draws, _recalibrate

        _common.writable(out, "--out")
        names = _metrics.chosen(
            metrics, asked_more=delta is not None or population or scope != "certified"
        )
        asked = _common.numbers("--radii", radii)
        limits = _common.numbers("--edges", edges)
        certificates = _common.read_certificates(file, source, keep_counts="classwise_ece" in names)
        listed = default_radii(certificates) if asked is None else asked
        if equal_mass:
            limits = _metrics.equal_mass(certificates, bins, limits)
        gain = None
        if recalibrate is not None:
            gain = _recalibrate.split_and_fit(certificates, recalibrate, fit_radius, asked)
            certificates = gain.certified
        binning: dict[str, Any] = {"bins": bins, "edges": limits, "closed": closed}
        curve = certificates.curve(listed, **binning)
        found = _metrics.curves(
            certificates,
            names,
            listed,
            {"scope": scope, "delta": delta, "joint": joint, "population": population},
            {**binning, "clip": clip, "threshold": threshold, "dtype": clip_dtype},
        )
        models, beside = {}, None
        if compare:
            models = _compare.read_others(file, certificates, compare, source)
            beside = _compare.records(models, listed, binning)
        gains = None if gain is None else gain.by_radius(listed, binning)
        estimates = _baselines.by_radius(certificates, listed, binning) if baselines else None
        expected = _more_draws.by_radius(certificates, listed, bins) if more_draws else None
        attacked = None
        if max_attacked is not None:
            attacked = _baselines.attacked(certificates, listed, binning, max_attacked, time_limit)
        if out is not None:
            certificates.to_parquet(out)
        if as_json:
            _common.print_json(
                {
                    "file": str(file),
                    "provenance": _common.provenance(certificates),
                    "total": len(certificates),
                    "abstained": int(certificates.abstained.sum()),
                    "bins": bins if limits is None else len(limits) - 1,
                    "edges": limits,
                    "closed": closed,
                    "planned_radii": certificates.planned_radii,
                    "radii": _common.curve_records(curve),
                    "metrics": _metrics.records(found),
                    "recalibration": None if gain is None else gain.records(gains),
                    "baselines": estimates,
                    "comparison": beside,
                    "more_draws": expected,
                    "max_attacked": attacked,
                    "written": None if out is None else str(out),
                }
            )
            return
        abstained = int(certificates.abstained.sum())
        title = f"{file.name}: {len(certificates):,} samples, {abstained:,} abstained"
        _common.print_curve(curve, title, _common.meaning(certificates))
        if found:
            _metrics.show(found, f"Bounds, scope {scope}")
        if gain is not None and gains is not None:
            gain.show(gains)
        if estimates is not None:
            _baselines.show(estimates)
        if beside is not None:
            _compare.show(beside, models)
        if expected is not None:
            _more_draws.show(expected)
        if attacked is not None:
            _baselines.show_attacked(attacked)
        if out is not None:
            typer.echo(f"certificates: {out}")
