# SPDX-License-Identifier: MIT
"""Options of ``certcal bound`` that became subcommands: they still work there, and say where they are now."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from certcal_ext.cli import baselines, compare, forecast, milp
from certcal_ext.cli._common import note
from certcal_ext.cli.recalibrate import Gain, MapOptions, split_and_fit

if TYPE_CHECKING:
    from certcal_ext.certificates.file_options import FileOptions
    from certcal_ext.cli._options import Table
    from certcal_ext.cli._tables import Part
    from certcal_ext.cli.recalibrate import Gain


@dataclass(frozen=True, kw_only=True)
class FormerOptions:
    """What ``bound`` did besides bounds.

    Attributes:
        recalibrate: now certcal recalibrate --kind.
        fit_radius: now certcal recalibrate --fit-radius.
        baselines: now certcal baselines.
        more_draws: now certcal forecast.
        compare: now certcal compare.
        max_attacked: now certcal milp --max-attacked.
        time_limit: now certcal milp --time-limit.
    """

    recalibrate: str | None = None
    fit_radius: float | None = None
    baselines: bool = False
    more_draws: bool = False
    compare: list[Path] | None = None
    max_attacked: int | None = None
    time_limit: float = 60.0

    def say(self, file: Path) -> None:
        """One line an option that is used, with its new command."""
        for option, used, words in (
            ("recalibrate", self.recalibrate, ["recalibrate", file, "--kind", self.recalibrate]),
            ("baselines", self.baselines, ["baselines", file]),
            ("compare", self.compare, ["compare", file, *(self.compare or [])]),
            ("more-draws", self.more_draws, ["forecast", file]),
            (
                "max-attacked",
                self.max_attacked,
                ["milp", file, "--max-attacked", self.max_attacked],
            ),
        ):
            if used not in (None, False, []):
                command = shlex.join(map(str, ["certcal", *words]))
                note(f"certcal: note: bound --{option} is a subcommand of its own now: {command}")

    def gain(self, table: Table, asked: list[float] | None) -> Gain | None:
        """The recalibration that is asked for."""
        if self.recalibrate is None:
            return None
        return split_and_fit(
            table.certificates, MapOptions(kind=self.recalibrate, fit_radius=self.fit_radius), asked
        )

    def parts(self, file: Path, source: FileOptions, table: Table) -> dict[str, Part | None]:
        """The further tables that are asked for, by their names in JSON."""
        compared, most = None, self.max_attacked
        if self.compare:
            models = compare.read_others(file, table.certificates, self.compare, source)
            compared = compare.part(table, models)
        return {
            "baselines": baselines.part(table) if self.baselines else None,
            "comparison": compared,
            "more_draws": forecast.part(table) if self.more_draws else None,
            "max_attacked": None if most is None else milp.part(table, most, self.time_limit),
        }
