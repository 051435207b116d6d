# SPDX-License-Identifier: MIT
"""Where the numbers of a certificate come from, and how that travels with them."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, get_args

from certcal_ext import _check
from certcal_ext._load import core
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS

Kind = Literal["votes", "scores", "log", "intervals"]

#: How the interval of a row was made from its draws.
Interval = Literal["clopper-pearson", "sequence", "hoeffding", "bernstein", "betting", "cdf"]

#: Version of the stored form; raised when a reader of an older one would misread it.
_FORMAT = 3

#: Up to this form every table said l2, those of intervals too, whatever norm they hold in.
_ALWAYS_L2 = 2

#: The norms that have a name here, by how others write them.
_NORMS = {
    **dict.fromkeys(("0", "l0", "l_0"), "l0"),
    **dict.fromkeys(("1", "1.0", "l1", "l_1"), "l1"),
    **dict.fromkeys(("2", "2.0", "l2", "l_2", "euclidean"), "l2"),
    **dict.fromkeys(("inf", "linf", "l_inf", "l-inf", "linfty", "l_infty", "infinity"), "linf"),
}


_TEXTS = (
    "model_hash",
    "precision",
    "recalibration",
    "stopping",
    "source",
    "torch_version",
    "options",
)


#: The convention of reproducible builds: what is made while it is set was made at that time.
_EPOCH = "SOURCE_DATE_EPOCH"


def created_now() -> str:
    """The time as ISO 8601; that of SOURCE_DATE_EPOCH (seconds since 1970), where that is set.

    Raises:
        ValueError: SOURCE_DATE_EPOCH is no such number.
    """
    seconds = os.environ.get(_EPOCH)
    if seconds is None:
        return datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{_EPOCH}: expected seconds since 1970, got {seconds!r}") from error


def norm_name(norm: Any) -> str:
    """The name under which a norm is stored and compared.

    Args:
        norm: "l2", "linf", ..., as a number (2, ``math.inf``), or any other short text, which is kept as it is.

    Returns:
        "l0", "l1", "l2", "linf", or the text itself.

    Raises:
        TypeError: neither text nor a number.
        ValueError: an empty text.

    Source:
        This project.

    Example:
        >>> norm_name("L_inf"), norm_name(2)
        ('linf', 'l2')
    """
    if isinstance(norm, bool) or not isinstance(norm, str | int | float):
        raise TypeError(f'norm: expected a text such as "l2" or "linf", got {norm!r}')
    text = norm.strip() if isinstance(norm, str) else _check.shown(norm)
    if not text:
        raise ValueError(f"norm: expected the name of a norm, got {norm!r}")
    return _NORMS.get(text.lower(), text)


@dataclass(frozen=True)
class Provenance:
    """What a certificate was made from. Fields that do not apply or are not known are None.

    Attributes:
        kind: ``"votes"`` (counts of a smoothed classifier), ``"scores"`` (its mean softmax scores),
            ``"log"`` (printed radii) or ``"intervals"`` (another verifier).
        sigma: standard deviation of the noise, in pixel units.
        alpha: failure probability of one interval, both sides together.
        n0: draws that selected the class.
        n: draws that estimated its probability.
        seed: key of the noise.
        radius: size of the attacks that intervals of another verifier hold against; None: whatever
            radius is asked for.
        num_classes: number of classes.
        model_hash: hash of the model's weights.
        precision: number format in which the model ran.
        norm: norm of the attack. Gaussian smoothing certifies "l2", which None stands for there;
            intervals of another verifier have the norm that they were given with, and a ``radius``
            with it; None: the verifier's, which no sentence may then name.
        interval: how intervals were made from draws; None: Clopper-Pearson, or another verifier.
        recalibration: JSON of the monotone map that confidences go through, or None.
        stopping: JSON of the rule by which samples stopped early, or None.
        event_sigmas: of a stack (``stack``), the sigma of the noise of each model, the one that predicts first; or None.
        source: file or tool that the numbers came from.
        torch_version: version of torch that ran the model.
        package_version: version of this package that made the certificate.
        options: TOML of the command line's options that the result depends on, a file for
            ``--config``; None: not made from the command line. Not part of equality.
        created: time of making it, ISO 8601 (that of SOURCE_DATE_EPOCH where that is set); not part
            of equality.
        notes: remarks that a reader of the numbers should see.

    Raises:
        TypeError: a field of the wrong kind.
        ValueError: a field out of range, or ``sigma``, ``alpha`` or ``n`` missing where the kind
            needs them.
    """

    kind: Kind
    sigma: float | None = None
    alpha: float | None = None
    n0: int | None = None
    n: int | None = None
    seed: int | None = None
    radius: float | None = None
    num_classes: int | None = None
    model_hash: str | None = None
    precision: str | None = None
    norm: str | None = None
    interval: str | None = None
    recalibration: str | None = None
    stopping: str | None = None
    event_sigmas: tuple[float, ...] | None = None
    source: str | None = None
    torch_version: str | None = None
    package_version: str = core.__version__
    options: str | None = field(default=None, compare=False)
    created: str = field(default_factory=created_now, compare=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks every field, whether it came from a caller or from a file."""
        _check.choice("kind", self.kind, get_args(Kind))
        smoothed = self.kind != "intervals"
        if smoothed or self.sigma is not None:
            _check.positive_number("sigma", self.sigma)
        if smoothed or self.alpha is not None:
            _check.failure_probability("alpha", self.alpha)
        if smoothed or self.n is not None:
            _check.whole_number("n", self.n, 1, MAX_DRAWS)
        for name, least in (("n0", 0), ("seed", 0), ("num_classes", 2)):
            if getattr(self, name) is not None:
                _check.whole_number(name, getattr(self, name), least)
        if self.radius is not None:
            _check.radius("radius", self.radius)
        self._settle_norm(smoothed)
        if self.interval is not None:
            _check.choice("interval", self.interval, get_args(Interval))
        for name in _TEXTS:
            _require_text(name, getattr(self, name), optional=True)
        self._check_events()
        _ = self.planned_radii  # raises where the rules of stopping are none
        for name in ("package_version", "created"):
            _require_text(name, getattr(self, name), optional=False)
        if not isinstance(self.notes, tuple):
            raise TypeError(f"notes: expected a tuple of str, got {type(self.notes).__name__}")
        for note in self.notes:
            _require_text("notes", note, optional=False)

    def _check_events(self) -> None:
        if self.event_sigmas is None:
            return
        sigmas = tuple(
            _check.positive_number("event_sigmas", sigma)
            for sigma in _check.items("event_sigmas", self.event_sigmas)
        )
        if len(sigmas) < 2 or sigmas[0] != self.sigma or self.kind != "votes" or self.stopping:
            raise ValueError(
                f"event_sigmas: expected two or more, sigma = {self.sigma} first, of votes, got {sigmas}"
            )
        object.__setattr__(self, "event_sigmas", sigmas)

    def _settle_norm(self, smoothed: bool) -> None:
        if self.norm is not None:
            object.__setattr__(self, "norm", norm_name(self.norm))
        elif smoothed:
            object.__setattr__(self, "norm", "l2")
        if self.norm is not None and not smoothed and self.radius is None:
            raise ValueError(
                f"radius: expected the size in the {self.norm} norm at which the intervals hold, got None"
            )

    @property
    def planned_radii(self) -> tuple[float, ...] | None:
        """The l2 radii that a run which stopped samples early was planned for; None where none was.

        With labels, only there does the run mean to certify the samples that all draws would certify: elsewhere, wrong
        samples may be missing because they were not worth their draws.
        """
        if self.stopping is None:
            return None
        from certcal_ext.stopping.rules import Stopping

        return Stopping.from_json(self.stopping).radii

    def to_json(self) -> str:
        """The text that is stored with the table."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        """Reads what ``to_json`` wrote; fields that a later version added are left out.

        Raises:
            TypeError: a field of the wrong kind.
            ValueError: no such text, a format newer than this package knows, or a field out of
                range.
        """
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"text: expected str or bytes, got {type(text).__name__}")
        try:
            stored = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"text: expected the JSON of a provenance, got {text[:40]!r}"
            ) from error
        if not isinstance(stored, dict) or not isinstance(stored.get("format"), int):
            raise ValueError('provenance: expected a JSON object with a "format" number')
        if stored["format"] > _FORMAT:
            raise ValueError(
                f"provenance: written by a newer certcal_ext (format {stored['format']}, this one "
                f"knows {_FORMAT})"
            )
        known = {item.name for item in dataclasses.fields(cls)}
        values: dict[str, Any] = {name: stored[name] for name in stored if name in known}
        missing = {"kind", "package_version", "created"} - values.keys()
        if missing:
            raise ValueError(
                f"provenance: expected the fields {', '.join(sorted(missing))}, which are missing"
            )
        unnamed = values.get("norm") == "l2" or values.get("radius") is None
        if stored["format"] <= _ALWAYS_L2 and values["kind"] == "intervals" and unnamed:
            values["norm"] = None
        if isinstance(values.get("notes"), list):
            values["notes"] = tuple(values["notes"])
        return cls(**values)


def _require_text(name: str, value: object, optional: bool) -> None:
    if not (isinstance(value, str) or (optional and value is None)):
        raise TypeError(f"{name}: expected str, got {type(value).__name__}")
