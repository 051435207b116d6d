# SPDX-License-Identifier: MIT
"""Bound against attack in numbers: a row a radius, and the samples that left their intervals."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pyarrow as pa

from certcal_ext._claims import written


class BoundViolation(ValueError):
    """An attack got past a certificate, beyond what the failure probabilities explain."""


@dataclass(frozen=True)
class BoundRow:
    """One radius.

    Attributes:
        radius: in pixel units.
        certified: number of samples certified there; the metrics are theirs.
        clean_ece: ECE without attack.
        attack_ece: largest ECE under the attacks, none of them included.
        ece_attack: the attack that reached it.
        bound_ece: certified ECE where every interval of the certificates holds.
        joint_ece: certified ECE where as many of them fail as ``BoundReport.allowed`` says.
        clean_brier: Brier score without attack.
        attack_brier: largest Brier score.
        brier_attack: the attack that reached it.
        bound_brier: certified Brier score where every interval holds.
        joint_brier: certified Brier score where so many fail.
    """

    radius: float
    certified: int
    clean_ece: float
    attack_ece: float
    ece_attack: str
    bound_ece: float
    joint_ece: float
    clean_brier: float
    attack_brier: float
    brier_attack: str
    bound_brier: float
    joint_brier: float

    @property
    def ece_ratio(self) -> float:
        """Attack over bound; at most 1 unless a sample is outside its interval."""
        return self.attack_ece / self.bound_ece if self.bound_ece > 0 else 1.0

    @property
    def brier_ratio(self) -> float:
        """Attack over bound; at most 1 unless a sample is outside its interval."""
        return self.attack_brier / self.bound_brier if self.bound_brier > 0 else 1.0


@dataclass(frozen=True)
class Outside:
    """A sample whose confidence left its interval.

    Attributes:
        index: its id.
        radius: the radius.
        attack: the attack, or "no attack".
        confidence: the estimate.
        nearest: the value nearest to the interval that the draws of the estimate allow.
        lower: certified lower end.
        upper: certified upper end.
    """

    index: int
    radius: float
    attack: str
    confidence: float
    nearest: float
    lower: float
    upper: float

    def __str__(self) -> str:
        """The sentence of an error."""
        return (
            f"sample {self.index}: confidence {self.confidence:.6g} (at the least {self.nearest:.6g}) under {self.attack} "
            f"at radius {written(self.radius)}, certified interval [{written(self.lower)}, {written(self.upper)}]"
        )


@dataclass(frozen=True)
class BoundReport:
    """Clean metric <= best attack <= joint bound, by radius; <= bound where no sample is outside.

    Attributes:
        rows: one a radius, in increasing order.
        outside: samples that left their intervals, as many as the failure probability explains.
        allowed: how many distinct samples that may be.
        looks: confidences that were compared with intervals.
        false_alarm: probability that this comparison calls sound certificates violated, at most.
    """

    rows: tuple[BoundRow, ...]
    outside: tuple[Outside, ...]
    allowed: int
    looks: int
    false_alarm: float

    def to_table(self) -> pa.Table:
        """An Arrow table, one row a radius, with the ratios."""
        records = [
            {
                **dataclasses.asdict(row),
                "ece_ratio": row.ece_ratio,
                "brier_ratio": row.brier_ratio,
            }
            for row in self.rows
        ]
        return pa.Table.from_pylist(records)
