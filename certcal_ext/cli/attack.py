# SPDX-License-Identifier: MIT
"""``certcal attack``: how far calibration falls when every prediction stays as it is."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext._progress import duration, shown
from certcal_ext.cli import _options
from certcal_ext.cli._common import examples, note, print_json, user_errors, writable
from certcal_ext.cli._preflight import check_clean, first_line, to_device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from certcal_ext._progress import Report
    from certcal_ext.attacks import Attack, AttackResult, BoundReport, Victim
    from certcal_ext.datasets import ImageData

NAMES = (
    "cce-guided",
    "brier",
    "dece",
    "one-step-ace",
    "ace-up",
    "ace-down",
    "ace-away",
    "ace-toward",
)

_STOPPED = 130
#: A trial shorter than this says little about the run.
_PROBE_SECONDS = 0.5

EXAMPLES = examples(
    (
        "The strongest attack on the calibration error of a plain model, with its page",
        "certcal attack --model my_models:resnet --weights model.pt --data test.npz --radius 0.25 "
        "--limit 1000 --report attack.html",
    ),
    (
        "On the smoothed model, beside what it was certified to withstand",
        "certcal attack --model my_models:resnet --weights model.pt --data test.npz --radius 0.25 "
        "--sigma 0.25 --confidence votes --certificates certificates.parquet",
    ),
    (
        "Only say how long it would take",
        "certcal attack --model net:Net --data test.npz --radius 0.25 --sigma 0.25 --estimate",
    ),
    (
        "Another attack, in the linf norm",
        "certcal attack --model net:Net --data test.npz --radius 0.0078 --norm linf --attack brier",
    ),
)


def attack(
    model: _options.Model,
    data: _options.Data,
    radius: Annotated[
        float,
        typer.Option(
            help="Largest norm of a perturbation, in [0, 1] pixel units.", show_default=False
        ),
    ],
    weights: _options.Weights = None,
    labels: _options.Labels = None,
    images_key: _options.ImagesKey = "images",
    labels_key: _options.LabelsKey = "labels",
    max_value: _options.MaxValue = 255.0,
    kind: Annotated[
        str, typer.Option("--attack", help="One of " + ", ".join(NAMES) + ".")
    ] = "cce-guided",
    norm: Annotated[str, typer.Option(help="l2 or linf.")] = "l2",
    steps: Annotated[int, typer.Option(help="Gradients an image and start.")] = 20,
    restarts: Annotated[int, typer.Option(help="Starts; all but the first are random.")] = 1,
    sigma: Annotated[
        float | None,
        typer.Option(
            help="Attack the model under noise of this standard deviation.", show_default=False
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(help="Noises an image, the same at every step; with --sigma.")
    ] = 32,
    fresh_draws: Annotated[
        int,
        typer.Option(help="Other noises, by which the attacked images are judged; with --sigma."),
    ] = 1000,
    confidence: Annotated[
        str,
        typer.Option(help="scores: mean softmax score; votes: share of the draws; with --sigma."),
    ] = "scores",
    certificates: Annotated[
        Path | None,
        typer.Option(
            help="Certificates of the same images (Parquet): attack what they certify, and set "
            "the result beside the bound.",
            show_default=False,
        ),
    ] = None,
    bins: Annotated[
        int, typer.Option(help="Number of equal-width bins of the calibration error.")
    ] = 15,
    batch_size: Annotated[int, typer.Option(help="Inputs a forward pass.")] = 1024,
    seed: Annotated[int, typer.Option(help="Seed of noise and random starts.")] = 0,
    device: _options.Device = "auto",
    limit: Annotated[
        int | None, typer.Option(help="Attack at most this many images.", show_default=False)
    ] = None,
    skip: _options.Skip = 0,
    out: Annotated[Path, typer.Option(help="The table, one row an image (Parquet).")] = Path(
        "attack.parquet"
    ),
    report: _options.Report = None,
    allow_random: _options.AllowRandom = False,
    allow_batch_dependent: _options.AllowBatchDependent = False,
    allow_probabilities: _options.AllowProbabilities = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what the run would take.")
    ] = False,
    as_json: _options.Json = False,
) -> None:
    """Attacks the calibration of a model: no prediction changes, confidences do.

    Radius and noise are in [0, 1] pixel units, so normalisation belongs inside the model. The table is written when
    the whole run has succeeded.
    """
    with user_errors():
        writable(out, "--out")
        writable(report, "--report")
        from certcal_ext.attacks import compare_with_bound
        from certcal_ext.certificates.certificates import Certificates
        from certcal_ext.datasets import load_images
        from certcal_ext.models import load_model

        chosen = _attack(kind, radius, norm, steps, restarts, seed, bins)
        images = load_images(
            data,
            labels,
            images_key=images_key,
            labels_key=labels_key,
            max_value=max_value,
            skip=skip,
            limit=limit,
        )
        if images.labels is None:
            raise ValueError("--labels: an attack on calibration needs labels")
        certified = None if certificates is None else Certificates.from_parquet(certificates)
        predicted = None if certified is None else _predicted(certified, images.ids)
        network, where = to_device(load_model(model, weights), device)
        check_clean(network, images, where, None)
        allow = _options.allowed(allow_random, allow_batch_dependent, allow_probabilities)
        victim = _victim(network, sigma, draws, seed, confidence, allow)
        fresh = None if sigma is None else _fresh(victim, fresh_draws)
        job = _Job(chosen, victim, fresh, images, predicted, batch_size)
        expected = job.seconds()
        note(f"attacking {len(images.images):,} images on {where}: about {duration(expected)}")
        if estimate:
            if as_json:
                print_json({"images": len(images.images), "seconds": expected})
            return
        started = time.perf_counter()
        try:
            with shown("attacking", "passes") as show:
                result = job.run(slice(None), show)
            if fresh is not None:
                with shown("judging by fresh noises", "images") as show:
                    result = result.under(fresh, batch_size=batch_size, progress=show).only_kept()
        except KeyboardInterrupt:
            note("certcal: stopped; nothing is written")
            raise typer.Exit(_STOPPED) from None
        bound = None if certified is None else compare_with_bound(certified, [result], bins=bins)
        seconds = time.perf_counter() - started
        result.to_parquet(out)
        if report is not None:
            from certcal_ext.report.attack_page import write_attack_report

            write_attack_report(result, report, bins=bins, bound=bound)
        _show(result, bins, bound, out, report, seconds, as_json)


def _attack(
    kind: str, radius: float, norm: str, steps: int, restarts: int, seed: int, bins: int
) -> Attack:
    """The attack of a name.

    Raises:
        ValueError: no such attack, or an option out of range.
    """
    from certcal_ext.attacks import (
        AceAttack,
        BrierAttack,
        CceGuidedAttack,
        DeceAttack,
        OneStepAceAttack,
    )

    common: dict[str, Any] = {"radius": radius, "norm": norm, "seed": seed}
    if kind == "one-step-ace":
        return OneStepAceAttack(**common)
    common |= {"steps": steps, "restarts": restarts}
    # (eta, omega): up and down move every confidence; away and toward mean the true label.
    ways: dict[str, dict[str, Any]] = {
        "ace-up": {"eta": -1, "omega": "predicted"},
        "ace-down": {"eta": 1, "omega": "predicted"},
        "ace-away": {"eta": 1, "omega": "label"},
        "ace-toward": {"eta": -1, "omega": "label"},
    }
    if kind in ways:
        return AceAttack(**ways[kind], **common)
    if kind == "brier":
        return BrierAttack(**common)
    if kind == "dece":
        return DeceAttack(bins=bins, **common)
    if kind == "cce-guided":
        return CceGuidedAttack(bins=bins, **common)
    raise ValueError(f"--attack: expected one of {', '.join(NAMES)}, got {kind!r}")


def _victim(
    network: Any, sigma: float | None, draws: int, seed: int, confidence: str, allow: list[str]
) -> Victim:
    from certcal_ext.attacks import PlainVictim, SmoothedVictim

    if sigma is None:
        return PlainVictim(network, allow=allow)
    return SmoothedVictim(
        network,
        sigma=sigma,
        draws=draws,
        seed=seed,
        confidence=confidence,  # type: ignore[arg-type]  # checked by the victim
        allow=allow,
    )


def _fresh(victim: Victim, draws: int) -> Victim:
    """Noises after those of the attack and of its own estimates."""
    from certcal_ext.attacks import SmoothedVictim
    from certcal_ext.attacks.victims import FIRST_DRAW

    assert isinstance(victim, SmoothedVictim)  # the caller asked for noise
    return victim.with_draws(draws, first_draw=FIRST_DRAW + FIRST_DRAW // 2)


def _predicted(certificates: Any, ids: Any) -> Any:
    """The certified class of each image.

    Raises:
        ValueError: an image that was not certified.
    """
    import numpy as np

    index = certificates.table["index"].to_numpy()
    order = np.argsort(index, kind="stable")
    at = order[np.searchsorted(index, ids, sorter=order).clip(0, len(index) - 1)]
    missing = index[at] != ids
    if missing.any():
        raise ValueError(
            f"--certificates: expected a row for every image, none has index {ids[missing][0]}; "
            "use the --skip and --limit of certify"
        )
    if len(ids) != len(index):
        raise ValueError(
            f"--certificates: expected one row an image, got {len(index)} rows for {len(ids)} "
            "images; use the --skip and --limit of certify"
        )
    return certificates.table["predicted"].to_numpy()[at]


@dataclasses.dataclass(frozen=True)
class _Job:
    """One attack on all images, or on some of them to see how long it takes."""

    attack: Attack
    victim: Victim
    fresh: Victim | None
    images: ImageData
    predicted: NDArray[np.int64] | None
    batch_size: int

    def run(self, rows: slice, show: Report | bool) -> AttackResult:
        """The attack on some images.

        Raises:
            ValueError: the model fails, or an argument does not fit.
        """
        import torch

        assert self.images.labels is not None  # checked by the caller
        try:
            return self.attack.run(
                self.victim,
                torch.from_numpy(self.images.images[rows]),
                self.images.labels[rows],
                predicted=None if self.predicted is None else self.predicted[rows],
                sample_ids=self.images.ids[rows],
                batch_size=self.batch_size,
                progress=show,
            )
        except RuntimeError as error:
            hint = "; try a smaller --batch-size" if "memory" in str(error).lower() else ""
            raise ValueError(f"model: failed under attack: {first_line(error)}{hint}") from error

    def seconds(self) -> float:
        """Expected time, from the real thing on the first images: on one, and on more until the time means something.

        A pass over few images takes nearly as long as one over a batch, so what a batch costs and what an image costs are
        told apart.
        """
        total = len(self.images.images)
        self._trial(1)  # warms up
        some, one = 1, self._trial(1)
        spent = one
        while spent < _PROBE_SECONDS and 10 * some < total:
            some = min(total, 4 * some)
            spent = self._trial(some)
        each = max(0.0, spent - one) / max(1, some - 1)
        batches = math.ceil(total * self.victim.draws / self.batch_size)
        return batches * max(0.0, one - each) + total * (each if some > 1 else one / batches)

    def _trial(self, some: int) -> float:
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = self.run(slice(0, some), False)
            if self.fresh is not None:
                result.under(self.fresh, batch_size=self.batch_size)
        return time.perf_counter() - started


def _show(
    result: AttackResult,
    bins: int,
    bound: BoundReport | None,
    out: Path,
    report: Path | None,
    seconds: float,
    as_json: bool,
) -> None:
    before, after = result.before(bins=bins), result.after(bins=bins)
    if as_json:
        print_json(
            {
                "attack": result.attack,
                "settings": result.settings,
                "total": len(result),
                "kept": int(result.kept.sum()),
                "before": dataclasses.asdict(before),
                "after": dataclasses.asdict(after),
                "bound": None if bound is None else bound.to_table().to_pylist(),
                "gradients": int(result.gradients.max()),
                "largest_l2": float(result.l2.max()),
                "largest_linf": float(result.linf.max()),
                "table": str(out),
                "report": None if report is None else str(report),
                "seconds": seconds,
            }
        )
        return
    typer.echo(
        f"{result.attack}, {result.norm} radius {result.radius:g}: {len(result):,} images, accuracy "
        f"{before.accuracy:.1%} before and after, {duration(seconds)}"
    )
    for name in ("ece", "brier", "ks", "mce", "confidence"):
        typer.echo(f"  {name:<11} {getattr(before, name):.4f} -> {getattr(after, name):.4f}")
    for line in () if bound is None else _beside(bound):
        typer.echo(line)
    typer.echo(f"table:  {out}")
    if report is not None:
        typer.echo(f"report: {report}")


def _beside(bound: BoundReport) -> list[str]:
    """Attack and bound of each radius in words: bounds rounded up, probabilities of holding down."""
    from certcal_ext._claims import at_most, fixed, sureness

    lines = [
        f"  on {row.certified:,} images certified at this radius: "
        + "; ".join(
            f"{name} {fixed(clean)} -> {fixed(attack)}, certified {at_most(worst)} where all intervals hold, "
            f"{at_most(joint)} where up to {bound.allowed} of them fail"
            for name, clean, attack, worst, joint in (
                ("ECE", row.clean_ece, row.attack_ece, row.bound_ece, row.joint_ece),
                ("Brier", row.clean_brier, row.attack_brier, row.bound_brier, row.joint_brier),
            )
        )
        for row in bound.rows
    ]
    sure = sureness(bound.false_alarm).replace("\N{NO-BREAK SPACE}", " ")
    lines.append(
        f"  outside their intervals: {len({one.index for one in bound.outside}):,} samples, by chance at most "
        f"{bound.allowed:,} with probability at least {sure}; bounds assume exact Gaussian noise"
    )
    return lines
