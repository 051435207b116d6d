# SPDX-License-Identifier: MIT
"""What an attack found: confidences before and after, metrics, norms; a table on disk."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._files import replacing
from certcal_ext._progress import Report, Tally, reporting
from certcal_ext.attacks.geometry import START_DRAW
from certcal_ext.metrics import brier, ece, ks, mce

if TYPE_CHECKING:
    import torch

    from certcal_ext.attacks.victims import Victim

_METADATA_KEY = b"certcal_attack"
_FORMAT = 1

#: What fixes the noises of a victim.
_NOISE = ("victim", "sigma", "seed", "first_draw", "draws")

_COLUMNS = {
    "index": pa.int64(),
    "label": pa.int64(),
    "predicted": pa.int64(),
    "correct": pa.bool_(),
    "clean_confidence": pa.float64(),
    "attacked_confidence": pa.float64(),
    "kept": pa.bool_(),
    "l2": pa.float64(),
    "linf": pa.float64(),
    "gradients": pa.int64(),
    "passes": pa.int64(),
}


@dataclass(frozen=True)
class Calibration:
    """Calibration metrics of some confidences.

    Attributes:
        n: number of samples.
        accuracy: share of right predictions.
        confidence: mean confidence.
        ece: expected calibration error.
        brier: top-label Brier score.
        ks: Kolmogorov-Smirnov calibration error.
        mce: maximum calibration error.
    """

    n: int
    accuracy: float
    confidence: float
    ece: float
    brier: float
    ks: float
    mce: float


def calibration(
    correct: Any, confidence: Any, *, bins: int = 15, edges: Any = None, closed: str = "right"
) -> Calibration:
    """All metrics of some confidences; arguments and errors as ``certcal_ext.ece``.

    Example:
        >>> calibration([1, 0], [1.0, 0.5], bins=2).ece
        0.25
    """
    right = _check.correct_vector("correct", correct)
    points = _check.float_vector("confidence", confidence, right.size)
    return Calibration(
        n=right.size,
        ece=ece.ece(right, points, bins, edges, closed),
        brier=brier.brier(right, points),
        ks=ks.ks(right, points),
        mce=mce.mce(right, points, bins, edges, closed),
        accuracy=float(right.mean()),
        confidence=float(points.mean()),
    )


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack on some samples; every prediction is the one without attack.

    Attributes:
        attack: its name.
        settings: its options and the victim's.
        index: (N,) int64 sample ids.
        label: (N,) int64.
        predicted: (N,) int64, the class whose confidence was attacked.
        correct: (N,) bool.
        clean_confidence: (N,) float64.
        attacked_confidence: (N,) float64.
        kept: (N,) bool, whether the victim predicts ``predicted`` on the attacked image. False only where it
            does not on the clean one, which then was left as it is, or after ``under`` with other noises.
        l2: (N,) float64, norm of the perturbation.
        linf: (N,) float64.
        gradients: (N,) int64, gradients that the attack took; one for all draws of an image.
        passes: (N,) int64, forward passes beside them.
        draws: number of noises behind a confidence.
        fresh: whether the confidences are of noises that the attack did not see, below draw 2^31; true without noise.
        images: (N, ...) attacked images, or None after reading a file.
        clean_images: (N, ...) images without attack, or None.
    """

    attack: str
    settings: dict[str, Any]
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    correct: NDArray[np.bool_]
    clean_confidence: NDArray[np.float64]
    attacked_confidence: NDArray[np.float64]
    kept: NDArray[np.bool_]
    l2: NDArray[np.float64]
    linf: NDArray[np.float64]
    gradients: NDArray[np.int64]
    passes: NDArray[np.int64]
    draws: int
    fresh: bool
    images: torch.Tensor | None = field(default=None, repr=False)
    clean_images: torch.Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Number of samples."""
        return self.index.size

    @property
    def radius(self) -> float:
        """Radius of the attack, in pixel units."""
        return float(self.settings["radius"])

    @property
    def norm(self) -> str:
        """Norm of the attack, ``"l2"`` or ``"linf"``."""
        return str(self.settings["norm"])

    def before(self, **bins: Any) -> Calibration:
        """Metrics without attack; keywords ``bins``, ``edges`` and ``closed`` as ``certcal_ext.ece``."""
        return calibration(self.correct, self.clean_confidence, **bins)

    def after(self, **bins: Any) -> Calibration:
        """Metrics under attack; keywords as ``before``."""
        return calibration(self.correct, self.attacked_confidence, **bins)

    def under(
        self, victim: Victim, *, batch_size: int = 1024, progress: bool | Report = False
    ) -> AttackResult:
        """The same images shown to another victim, such as the same one under fresh noises.

        Args:
            victim: what gives the confidences, such as ``SmoothedVictim.with_draws(1000)``.
            batch_size: inputs a forward pass.
            progress: True shows how far it is; or a function of (images done, images in all).

        Returns:
            A result with the victim's confidences and ``kept``; ``settings`` names the victim.

        Raises:
            ValueError: the result was read from a file and holds no images.
        """
        if self.images is None or self.clean_images is None:
            raise ValueError("images: this result was read from a file, which holds no images")
        from certcal_ext.attacks.ascent import confidences
        from certcal_ext.attacks.victims import Victim as AnyVictim

        _check.instance("victim", victim, AnyVictim)
        _check.whole_number("batch_size", batch_size, 1)
        seen = self.settings.get("seen", {name: self.settings.get(name) for name in _NOISE})
        with reporting(progress, "judging by fresh noises", "images") as report:
            tally = Tally(2 * len(self), report)
            (clean, _), (attacked, kept) = (
                confidences(
                    victim,
                    images,
                    self.index,
                    self.predicted,
                    batch_size=batch_size,
                    on_pass=tally.add,
                )
                for images in (self.clean_images, self.images)
            )
        return dataclasses.replace(
            self,
            settings={**self.settings, **victim.settings, "seen": seen},
            clean_confidence=clean,
            attacked_confidence=attacked,
            kept=kept,
            draws=victim.draws,
            fresh=not _share_noises(seen, victim.settings),
        )

    def only_kept(self) -> AttackResult:
        """The result with every image that is predicted otherwise put back to the clean one.

        Under fresh noises some images near the border of their class change it: an attack with few noises
        did not see that. What is left changes no prediction under these noises either.

        Raises:
            ValueError: the result was read from a file and holds no images.
        """
        if self.images is None or self.clean_images is None:
            raise ValueError("images: this result was read from a file, which holds no images")
        images = self.images.clone()
        lost = ~self.kept
        images[lost] = self.clean_images[lost]
        return dataclasses.replace(
            self,
            attacked_confidence=np.where(lost, self.clean_confidence, self.attacked_confidence),
            l2=np.where(lost, 0.0, self.l2),
            linf=np.where(lost, 0.0, self.linf),
            images=images,
        )

    def rows(self, index: Any) -> AttackResult:
        """The result on some samples, in the order asked for.

        Args:
            index: (M,) sample ids.

        Raises:
            ValueError: an id that is not among the samples.
        """
        wanted = _check.int_vector("index", index)
        order = np.argsort(self.index, kind="stable")
        at = np.searchsorted(self.index, wanted, sorter=order).clip(0, max(0, len(self) - 1))
        rows = order[at] if len(self) else at
        found = self.index[rows] == wanted if len(self) else np.zeros(wanted.size, np.bool_)
        if not found.all():
            raise ValueError(
                f"index: expected ids of attacked samples, got {wanted[int(np.argmin(found))]}, which was not attacked"
            )
        changes: dict[str, Any] = {name: getattr(self, name)[rows] for name in _COLUMNS}
        for name in ("images", "clean_images"):
            held = getattr(self, name)
            changes[name] = None if held is None else held[rows]
        return dataclasses.replace(self, **changes)

    def to_table(self) -> pa.Table:
        """An Arrow table, one row a sample; the settings travel in its metadata."""
        arrays = [pa.array(getattr(self, name), kind) for name, kind in _COLUMNS.items()]
        stored = {
            "format": _FORMAT,
            "attack": self.attack,
            "draws": self.draws,
            "fresh": self.fresh,
            "settings": self.settings,
        }
        schema = pa.schema(
            [pa.field(name, kind, nullable=False) for name, kind in _COLUMNS.items()],
            metadata={_METADATA_KEY: json.dumps(stored).encode()},
        )
        return pa.Table.from_arrays(arrays, schema=schema)

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Writes the table, without the images; aside first and then renamed.

        Raises:
            ValueError: the folder does not exist, or ``path`` is one.
            OSError: the disk refuses.
        """
        with replacing(path) as file:
            pq.write_table(self.to_table(), file, write_page_checksum=True)

    @classmethod
    def from_parquet(cls, path: str | PathLike[str]) -> AttackResult:
        """Reads what ``to_parquet`` wrote.

        Raises:
            ValueError: the file is missing, damaged, or not one of an attack.
        """
        expected = "expected a Parquet file of an attack"
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
            columns_there = [(field.name, field.type) for field in table.schema]
            text = (table.schema.metadata or {}).get(_METADATA_KEY)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {expected}, but it cannot be read: {error}") from error
        if text is None or columns_there != list(_COLUMNS.items()):
            raise ValueError(f"{path}: {expected}, got one with other columns or without settings")
        if any(column.null_count for column in table.columns):
            raise ValueError(f"{path}: {expected}, got one with missing values")
        stored = _settings_of(text, path, expected)
        columns = {name: table.column(name).to_numpy() for name in _COLUMNS}
        return cls(
            attack=stored["attack"],
            settings=stored["settings"],
            draws=stored["draws"],
            fresh=stored["fresh"],
            **columns,
        )


def _settings_of(text: bytes, path: str | PathLike[str], expected: str) -> dict[str, Any]:
    """What ``to_table`` put beside the columns, each field of its own kind."""
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {expected}, got settings that are no JSON: {error}") from error
    kinds = {"format": int, "attack": str, "draws": int, "fresh": bool, "settings": dict}
    if not isinstance(stored, dict) or any(
        type(stored.get(name)) is not kind for name, kind in kinds.items()
    ):
        raise ValueError(f"{path}: {expected}, got settings with other fields")
    if stored["format"] > _FORMAT:
        raise ValueError(f"{path}: written by a newer certcal_ext (format {stored['format']})")
    return stored


def _share_noises(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two victims draw some of the same noises.

    Draws from 2^31 on are those of random starts and of estimates inside an attack, whatever its victim draws.
    """
    if other.get("sigma") is not None and other["first_draw"] + other["draws"] > START_DRAW:
        return True
    if one.get("sigma") is None or other.get("sigma") is None or one["seed"] != other["seed"]:
        return False
    first, second = (range(v["first_draw"], v["first_draw"] + v["draws"]) for v in (one, other))
    return max(first.start, second.start) < min(first.stop, second.stop)
