# SPDX-License-Identifier: MIT
"""The sentences that may be quoted: who is attacked how, over which samples, and how sure it is.

The page, the command line and ``MetricCurve.statement`` say these things in the same words. Numbers are written by
``_claims``, each on its safe side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from certcal_ext._claims import at_least, at_most, count, size, sure, written
from certcal_ext.certificates.evidence import how_chosen
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.metrics.registry import metric_of
from certcal_ext.recalibration.maps import RecalibrationMap
from certcal_ext.recalibration.row_maps import read_map

if TYPE_CHECKING:
    from certcal_ext.certificates.bounds import MetricCurve
    from certcal_ext.metrics.base import Options

_MOST_EDGES = 20  # that a sentence lists


@dataclass(frozen=True, eq=False)
class Subject:
    """What a sentence is about, beside the numbers of its curve.

    Attributes:
        provenance: of the certificates; None: not known.
        total: N, all samples that were drawn for.
        options: how the metric is defined.
        common: whether the samples are those that every model of a comparison certifies.
    """

    provenance: Provenance | None
    total: int
    options: Options
    common: bool = False


def sentence(curve: MetricCurve, at: int) -> str:
    """See ``MetricCurve.statement``."""
    subject, radius = curve.subject, float(curve.radius[at])
    provenance = None if subject is None else subject.provenance
    here = (
        ""
        if provenance is not None and not names_radius(provenance)
        else f" at radius {size(radius)}"
    )
    if curve.samples[at] == 0:
        by = "by every model" if subject is not None and subject.common else ""
        words = f"No sample is certified {by}".rstrip()
        return f"{words}{here}, so there is no {metric_of(curve.metric).words} to bound."
    what = f"{_metric(curve)}{'' if provenance is None else ' of ' + classifier(provenance)} {_samples(curve, at)}"
    bound = curve.value
    if not np.isfinite(bound[at]):
        return (
            f"No finite bound on the {what} can be given{here}: a confidence may reach 0 or 1 where it is wrong. Report "
            "confidences that are clipped (clip=)."
        )
    drawn = "" if subject is None else f" of all {count(subject.total)} samples"
    if curve.joint is None or curve.delta is None:
        holds = f"Where the intervals{drawn} hold"
    else:
        holds = f"With probability at least {sure(curve.delta)} over the noise draws{drawn or ' of all samples'} together"
    units = " (in pixel units)" if provenance is not None and provenance.kind != "intervals" else ""
    lowest = metric_of(curve.metric).lowest
    limit = at_least if lowest else at_most
    text = (
        f"{holds}, no {attack(provenance, radius)}{units} on each sample, all at once, "
        f"{'lowers' if lowest else 'raises'} the {what} {'below' if lowest else 'above'} {limit(bound[at])}."
    )
    if curve.method is not None and curve.method[at] == "aggregate":
        text += " It says nothing of a single sample."
    if curve.population is not None:
        condition = ", given that they would be certified," if curve.scope == "certified" else ""
        text += (
            " With the same probability, over these draws and over the choice of the samples, independent ones of a "
            f"population, its expectation over new samples of that population{condition} stays at or "
            f"{'above' if lowest else 'below'} {limit(curve.population[at])} under such attacks."
        )
    selection = "" if provenance is None or curve.scope != "certified" else how_chosen(provenance)
    return f"{text} {selection}".rstrip()


def attack(provenance: Provenance | None, radius: float) -> str:
    """What the attacker may do, for a sentence with "no": a norm and a size only where they are known.

    Example:
        >>> attack(Provenance(kind="log", sigma=0.25, alpha=0.001, n=1000), 0.12346)
        'l2 attack of size 0.12346'
        >>> attack(Provenance(kind="intervals"), 0.5)
        "attack within the verifier's threat model"
    """
    if provenance is None:
        return f"attack of size {size(radius)}"
    if names_radius(provenance) and provenance.norm is not None:
        return f"{provenance.norm} attack of size {size(radius)}"
    return "attack within the verifier's threat model"


def names_radius(provenance: Provenance) -> bool:
    """Whether a radius means something: of another verifier's intervals only where they came with one."""
    return provenance.kind != "intervals" or provenance.radius is not None


def classifier(provenance: Provenance) -> str:
    """Whose confidences are bounded.

    Example:
        >>> classifier(Provenance(kind="votes", sigma=0.25, alpha=0.001, n=1000))
        'the smoothed classifier (exactly Gaussian noise, sigma 0.25; confidence: its share of votes)'
    """
    mapped = after_map(provenance)
    if provenance.kind == "intervals":
        return f"the classifier that was verified{mapped}"
    confidence = "mean softmax score" if provenance.kind == "scores" else "share of votes"
    noise = f"exactly Gaussian noise, sigma {written(provenance.sigma or 0.0)}"
    return f"the smoothed classifier ({noise}; confidence: its {confidence}{mapped})"


def after_map(provenance: Provenance) -> str:
    """Which map the confidences go through, with a comma before it; empty where there is none."""
    if provenance.recalibration is None:
        return ""
    mapping = read_map(provenance.recalibration)
    if isinstance(mapping, RecalibrationMap):
        return ", after the stored monotone map"
    label = "predicted class" if mapping.by == "predicted" else "group"
    if mapping.events == 1:
        return f", after the stored monotone map of its {label}"
    sigmas = ", ".join(map(written, provenance.event_sigmas or ()))
    return (
        f", put together with those of the other models for its class (sigma {sigmas}) by the stored increasing function of "
        f"its {label}"
    )


def binning(edges: NDArray[np.float64], closed: str) -> str:
    """The bins of a calibration error.

    Example:
        >>> binning(np.linspace(0, 1, 16), "right"), binning(np.array([0, 0.75, 1]), "left")
        ('15 bins of equal width, (low, high]', '2 bins with edges 0, 0.75, 1, [low, high)')
    """
    bins = len(edges) - 1
    ends = "(low, high]" if closed == "right" else "[low, high)"
    if np.array_equal(edges, np.linspace(0, 1, bins + 1)):
        return f"{bins} bin{'s' * (bins > 1)} of equal width, {ends}"
    if len(edges) > _MOST_EDGES:
        return f"{bins} bins of unequal width, {ends}"
    return f"{bins} bins with edges {', '.join(written(edge) for edge in edges)}, {ends}"


def _metric(curve: MetricCurve) -> str:
    """The metric with what defines it."""
    metric = metric_of(curve.metric)
    if curve.subject is None:
        return metric.words
    options = curve.subject.options
    details = ["all classes" if metric.of_classes else "top label"]
    if "bins" in metric.uses:
        details.append(binning(options.bins.edges, options.bins.closed))
    if "clip" in metric.uses and options.clip.clip is not None:
        limit = written(options.clip.clip)
        details.append(f"confidences clipped to [{limit}, 1 - {limit}] in {options.clip.dtype}")
    if "threshold" in metric.uses:
        details.append(f"accepted from confidence {written(options.threshold)} on")
    return f"{metric.words} ({', '.join(details)})"


def _samples(curve: MetricCurve, at: int) -> str:
    """Who the average is over."""
    number, subject = count(curve.samples[at]), curve.subject
    if curve.scope != "certified":
        return f"over all {number} samples, those not certified counted at their worst,"
    if subject is None:
        return f"over the {number} certified samples"
    if subject.provenance is not None and subject.provenance.kind == "intervals":
        return f"over all {number} samples of the intervals"
    by = "by every model compared" if subject.common else "at this radius"
    return f"over the {number} of {count(subject.total)} samples certified {by}"
