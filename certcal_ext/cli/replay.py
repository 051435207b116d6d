# SPDX-License-Identifier: MIT
"""``certcal replay``: certificates checked by drawing their noise again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certcal_ext._progress import duration, shown
from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import print_json
from certcal_ext.cli._unfold import Panel, unfolded

if TYPE_CHECKING:
    import torch

    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.datasets import ImageData
    from certcal_ext.smoothing.replay import Replay

EXAMPLES = _common.examples(
    (
        "Ten rows chosen at random",
        "certcal replay certificates.parquet --model net:Net --weights net.pt --data test.npz "
        "--sample 10",
    ),
    (
        "Three rows, counted from 0",
        "certcal replay certificates.parquet --model net:Net --data test.npz --rows 0,5,17",
    ),
    (
        "Every row, for a program",
        "certcal replay certificates.parquet --model net:Net --data test.npz --json",
    ),
    (
        "Only say how long it would take",
        "certcal replay certificates.parquet --model net:Net --data test.npz --estimate",
    ),
)

_DIFFERS = 1
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Which rows.

    Attributes:
        rows: rows of the table, counted from 0, separated by commas. Default: all.
        sample: so many rows, chosen at random.
    """

    rows: str | None = None
    sample: int | None = None
    seed: Annotated[int, typer.Option(help="Seed of the choice of --sample.", min=0)] = 0


@unfolded
def replay(
    table: Annotated[
        Path, typer.Argument(help="Certificates (Parquet) of certcal certify.", show_default=False)
    ],
    model: _options.Model,
    images: _options.Images,
    which: Annotated[RowOptions, Panel("Draws")],
    how: Annotated[_options.RunOptions, Panel("Run")],
    as_json: _options.Json = False,
) -> None:
    """Draws the noise of a table's rows again and checks votes, scores and ends bit for bit.

    Sigma, seed and numbers of draws are the table's own; give the model and the images that it was made
    with. Exits 0 where all agree, 1 where something differs, 2 on bad input, such as another model.
    """
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such file")
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.smoothing.replay import draws_of

    certificates = Certificates.from_parquet(table)
    draws_of(certificates)  # refuses tables that hold no draws before anything is loaded
    chosen = chosen_rows(which.rows, which.sample, which.seed, len(certificates))
    data = images.load()
    network, where = model.load_there()
    network = in_precision(network, certificates.provenance.precision)
    expected = draws_of(certificates.select(chosen))
    seconds = _seconds(certificates, network, data, chosen, how.batch_size, expected)
    _common.note(
        f"{len(chosen):,} of {len(certificates):,} rows = {expected:,} draws on {where}, about "
        f"{duration(seconds)}"
    )
    if how.estimate:
        if as_json:
            print_json({"rows": chosen, "draws": expected, "seconds": seconds})
        return
    started = time.perf_counter()
    with shown("drawing again", "draws") as show:
        result = _replay(certificates, network, data, chosen, how.batch_size, show)
    _show(result, table, time.perf_counter() - started, as_json)
    if not result.agrees:
        raise typer.Exit(_DIFFERS)


def chosen_rows(rows: str | None, sample: int | None, seed: int, total: int) -> list[int]:
    """The rows to draw for again, in increasing order.

    Args:
        rows: as the user wrote them, or None.
        sample: how many to choose at random, or None; more than there are is all.
        seed: of the choice.
        total: rows of the table.

    Returns:
        Positions.

    Raises:
        ValueError: both were given, no whole numbers, or numbers out of range.

    Example:
        >>> chosen_rows("5,0,5", None, 0, 10), len(chosen_rows(None, 3, 0, 10))
        ([0, 5], 3)
    """
    if rows is not None and sample is not None:
        raise ValueError("--rows, --sample: expected one of the two")
    if sample is not None:
        import numpy as np

        if sample < 1:
            raise ValueError(f"--sample: expected at least 1, got {sample}")
        random = np.random.default_rng(seed)
        return sorted(random.choice(total, min(sample, total), replace=False).tolist())
    if rows is None:
        return list(range(total))
    try:
        listed = sorted({int(word) for word in rows.split(",")})
    except ValueError:
        raise ValueError(
            f"--rows: expected whole numbers separated by commas, for example 0,5,17, got {rows!r}"
        ) from None
    if listed[0] < 0 or listed[-1] >= total:
        raise ValueError(f"--rows: expected rows from 0 to {total - 1}, got {rows!r}")
    return listed


def in_precision(network: torch.nn.Module, precision: str | None) -> torch.nn.Module:
    """The model in the number format of a table, where that is a single one.

    Args:
        network: the model as it was loaded.
        precision: as a table's provenance has it.

    Returns:
        The model.
    """
    import torch

    known = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
    return network.to(known[precision]) if precision in known else network


def _replay(
    certificates: Certificates,
    network: torch.nn.Module,
    images: ImageData,
    rows: list[int],
    batch_size: int,
    show: object,
) -> Replay:
    import torch

    from certcal_ext.cli._preflight import model_errors
    from certcal_ext.smoothing.replay import replay as run

    with model_errors("while drawing"):
        return run(
            certificates,
            network,
            torch.from_numpy(images.images),
            rows,
            labels=images.labels,
            sample_ids=images.ids,
            batch_size=batch_size,
            progress=show,  # type: ignore[arg-type]  # a function of (done, total), or False
        )


def _seconds(
    certificates: Certificates,
    network: torch.nn.Module,
    images: ImageData,
    rows: list[int],
    batch_size: int,
    draws: int,
) -> float:
    """How long it will take, by the draws of the first row; a model that does not fit is refused here."""
    from certcal_ext.smoothing.replay import draws_of

    first = draws_of(certificates.select(rows[:1]))
    started = time.perf_counter()
    _replay(certificates, network, images, rows[:1], batch_size, False)
    return (time.perf_counter() - started) * draws / first


def _show(result: Replay, table: Path, seconds: float, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "table": str(table),
                "rows": result.rows.tolist(),
                "draws": result.draws,
                "agrees": result.agrees,
                "mismatches": [vars(one) for one in result.mismatches],
                "moved_scores": result.moved_scores,
                "model_checked": result.model_checked,
                "seconds": seconds,
            }
        )
        return
    for one in result.mismatches[:_SHOWN]:
        typer.echo(str(one))
    if len(result.mismatches) > _SHOWN:
        typer.echo(f"and {len(result.mismatches) - _SHOWN:,} more")
    bad = len({one.row for one in result.mismatches})
    took = f"{result.draws:,} draws, {duration(seconds)}"
    if bad:
        typer.echo(f"{bad:,} of {len(result.rows):,} rows differ ({took})")
    else:
        typer.echo(f"all {len(result.rows):,} rows agree ({took})")
    if result.moved_scores:
        typer.echo(
            f"{result.moved_scores:,} scores lie in the bin beside the stored one, as batches of "
            "another size explain"
        )
    if not result.model_checked:
        typer.echo("the table holds no hash of its model, so only the draws speak for it")
