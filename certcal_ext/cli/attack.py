# SPDX-License-Identifier: MIT
"""``certcal attack``: how far calibration falls when every prediction stays as it is."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext._progress import duration, shown
from certcal_ext.cli import _options
from certcal_ext.cli._common import STOPPED, examples, note, writable
from certcal_ext.cli._preflight import check_clean, model_errors
from certcal_ext.cli._tables import print_json
from certcal_ext.cli._unfold import Panel, unfolded

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from certcal_ext._progress import Report
    from certcal_ext.attacks import Attack, AttackResult, BoundReport, Victim
    from certcal_ext.datasets import ImageData

# (eta, omega) of the ACE attacks: up and down move every confidence; away and toward mean the true label.
_WAYS: dict[str, dict[str, Any]] = {
    "ace-up": {"eta": -1, "omega": "predicted"},
    "ace-down": {"eta": 1, "omega": "predicted"},
    "ace-away": {"eta": 1, "omega": "label"},
    "ace-toward": {"eta": -1, "omega": "label"},
}
NAMES = ("cce-guided", "brier", "dece", "one-step-ace", *_WAYS)
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


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """Which attack, and how hard it tries.

    Attributes:
        radius: largest norm of a perturbation, in [0, 1] pixel units.
        norm: l2 or linf.
        steps: gradients an image and start.
        restarts: starts; all but the first are random.
        bins: number of equal-width bins of the calibration error.
        seed: seed of noise and random starts.
    """

    radius: float
    kind: Annotated[str, typer.Option("--attack", help="One of " + ", ".join(NAMES) + ".")] = (
        "cce-guided"
    )
    norm: str = "l2"
    steps: int = 20
    restarts: int = 1
    bins: int = 15
    seed: int = 0

    def make(self) -> Attack:
        """The attack of that name.

        Raises:
            ValueError: no such attack, or an option out of range.
        """
        from certcal_ext import attacks

        common: dict[str, Any] = {"radius": self.radius, "norm": self.norm, "seed": self.seed}
        if self.kind == "one-step-ace":
            return attacks.OneStepAceAttack(**common)
        common |= {"steps": self.steps, "restarts": self.restarts}
        if self.kind in _WAYS:
            return attacks.AceAttack(**_WAYS[self.kind], **common)
        if self.kind == "brier":
            return attacks.BrierAttack(**common)
        binned: dict[str, type[attacks.DeceAttack | attacks.CceGuidedAttack]] = {
            "dece": attacks.DeceAttack,
            "cce-guided": attacks.CceGuidedAttack,
        }
        if self.kind not in binned:
            raise ValueError(f"--attack: expected one of {', '.join(NAMES)}, got {self.kind!r}")
        return binned[self.kind](bins=self.bins, **common)


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """The noise of the model under attack, if any.

    Attributes:
        sigma: attack the model under noise of this standard deviation.
        draws: noises an image, the same at every step; with --sigma.
        fresh_draws: other noises, by which the attacked images are judged; with --sigma.
        confidence: scores: mean softmax score; votes: share of the draws; with --sigma.
    """

    sigma: float | None = None
    draws: int = 32
    fresh_draws: int = 1000
    confidence: str = "scores"

    def victims(
        self, network: torch.nn.Module, seed: int, allow: list[str]
    ) -> tuple[Victim, Victim | None]:
        """What is attacked, and what judges: by noises after those of the attack and of its own estimates."""
        from certcal_ext.attacks import PlainVictim, SmoothedVictim
        from certcal_ext.attacks.victims import FIRST_DRAW

        if self.sigma is None:
            return PlainVictim(network, allow=allow), None
        victim = SmoothedVictim(
            network,
            sigma=self.sigma,
            draws=self.draws,
            seed=seed,
            confidence=self.confidence,  # type: ignore[arg-type]  # checked by the victim
            allow=allow,
        )
        return victim, victim.with_draws(self.fresh_draws, first_draw=FIRST_DRAW + FIRST_DRAW // 2)


@dataclass(frozen=True, kw_only=True)
class RunOptions(_options.RunOptions):
    """Beside what, too.

    Attributes:
        certificates: certificates of the same images (Parquet): attack what they certify, and set the result beside the
            bound.
    """

    certificates: Path | None = None


@dataclass(frozen=True, kw_only=True)
class OutputOptions(_options.PageOptions):
    """Where the results go.

    Attributes:
        out: the table, one row an image (Parquet).
    """

    out: Path = Path("attack.parquet")


@unfolded
def attack(
    model: _options.JudgedModel,
    images: _options.SomeImages,
    chosen: Annotated[AttackOptions, Panel("Attack")],
    noise: Annotated[NoiseOptions, Panel("Draws")],
    how: Annotated[RunOptions, Panel("Run")],
    output: Annotated[OutputOptions, Panel("Output")],
) -> None:
    """Attacks the calibration of a model: no prediction changes, confidences do.

    Radius and noise are in [0, 1] pixel units, so normalisation belongs inside the model. The table is written when
    the whole run has succeeded.
    """
    writable(output.out, "--out")
    writable(output.report, "--report")
    from certcal_ext.attacks import compare_with_bound
    from certcal_ext.certificates.certificates import Certificates

    kind, data = chosen.make(), images.load_some()
    if data.labels is None:
        raise ValueError("--labels: an attack on calibration needs labels")
    file = how.certificates
    certified = None if file is None else Certificates.from_parquet(file)
    predicted = None if certified is None else _predicted(certified, data.ids)
    network, where = model.load_there()
    check_clean(network, data, where, None)
    victim, fresh = noise.victims(network, chosen.seed, model.allow)
    job = _Job(kind, victim, fresh, data, predicted, how.batch_size)
    expected = job.seconds()
    note(f"attacking {len(data.images):,} images on {where}: about {duration(expected)}")
    if how.estimate:
        if output.as_json:
            print_json({"images": len(data.images), "seconds": expected})
        return
    started = time.perf_counter()
    try:
        result = job.all()
    except KeyboardInterrupt:
        note("certcal: stopped; nothing is written")
        raise typer.Exit(STOPPED) from None
    bins = chosen.bins
    bound = None if certified is None else compare_with_bound(certified, [result], bins=bins)
    seconds = time.perf_counter() - started
    result.to_parquet(output.out)
    if output.report is not None:
        from certcal_ext.report.attack_page import write_attack_report

        write_attack_report(result, output.report, bins=bins, bound=bound)
    _show(result, bins, bound, output, seconds)


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


@dataclass(frozen=True)
class _Job:
    """One attack on all images, or on some of them to see how long it takes."""

    attack: Attack
    victim: Victim
    fresh: Victim | None
    images: ImageData
    predicted: NDArray[np.int64] | None
    batch_size: int

    def all(self) -> AttackResult:
        """The attack on all images, judged by fresh noises; errors as ``run``."""
        with shown("attacking", "passes") as show:
            result = self.run(slice(None), show)
        if self.fresh is None:
            return result
        with shown("judging by fresh noises", "images") as show:
            judged = result.under(self.fresh, batch_size=self.batch_size, progress=show)
        return judged.only_kept()

    def run(self, rows: slice, show: Report | bool) -> AttackResult:
        """The attack on some images.

        Raises:
            ValueError: the model fails, or an argument does not fit.
        """
        import torch

        assert self.images.labels is not None  # checked by the caller
        with model_errors("under attack"):
            return self.attack.run(
                self.victim,
                torch.from_numpy(self.images.images[rows]),
                self.images.labels[rows],
                predicted=None if self.predicted is None else self.predicted[rows],
                sample_ids=self.images.ids[rows],
                batch_size=self.batch_size,
                progress=show,
            )

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
    output: OutputOptions,
    seconds: float,
) -> None:
    before, after = result.before(bins=bins), result.after(bins=bins)
    if output.as_json:
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
                "table": str(output.out),
                "report": None if output.report is None else str(output.report),
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
    typer.echo(f"table:  {output.out}")
    if output.report is not None:
        typer.echo(f"report: {output.report}")


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
