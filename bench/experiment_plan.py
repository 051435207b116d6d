# SPDX-License-Identifier: MIT
"""Plans of the experiment: what is trained, certified and compared, read from TOML and checked before anything runs."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certcal_ext.training import METHODS, Objective, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Run:
    """One method with its candidates.

    Attributes:
        name: as it stands in the tables.
        method: of ``certcal train``.
        start: "name/candidate" of the run whose weights it starts from, or None.
        settings: of training, in place of the data set's.
        options: of the objective, shared by all candidates.
        candidates: further options, one dictionary a candidate; one of them is chosen on the validation images.
    """

    name: str
    method: str
    start: str | None
    settings: dict[str, Any]
    options: dict[str, Any]
    candidates: tuple[dict[str, Any], ...]

    def objective(self, candidate: int) -> Objective:
        return METHODS[self.method](**self.options, **self.candidates[candidate])


@dataclass(frozen=True)
class DataPlan:
    """What is done on one data set.

    Attributes:
        name: "fashion-mnist" or "digits".
        model: module:factory.
        sigma: of training and certification.
        training, validation, test: numbers of images.
        test_skip: images left out before the first test image; those that earlier choices have seen.
        radii: l2 radii of the tables.
        n0, n: draws an image of the test set.
        validation_n: draws that estimate, an image of the validation set.
        batch_size: noisy images a forward pass of certification.
        settings: of all runs.
        runs: the methods.
    """

    name: str
    model: str
    sigma: float
    training: int
    validation: int
    test: int
    test_skip: int
    radii: tuple[float, ...]
    n0: int
    n: int
    validation_n: int
    batch_size: int
    settings: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.training, self.validation, self.test, self.test_skip

    def run(self, name: str) -> Run:
        return next(run for run in self.runs if run.name == name)

    def training_settings(self, run: Run, seed: int) -> Settings:
        return Settings(**{"sigma": self.sigma, "seed": seed} | self.settings | run.settings)

    def stages(self) -> list[list[Run]]:
        """Runs whose starts are done by earlier stages."""
        stages: list[list[Run]] = []
        done: set[str] = set()
        left = list(self.runs)
        while left:
            ready = [r for r in left if r.start is None or r.start.split("/")[0] in done]
            if not ready:
                names = ", ".join(r.name for r in left)
                raise ValueError(f"{self.name}: start: expected runs without circles, got {names}")
            stages.append(ready)
            done |= {run.name for run in ready}
            left = [run for run in left if run.name not in done]
        return stages


@dataclass(frozen=True)
class Plan:
    """The whole experiment.

    Attributes:
        name: of the plan and of the folder of its work.
        result: of the files in bench/results.
        seeds: of weights, order and noise.
        alpha: failure probability of one certificate.
        bins: of the calibration error.
        within: candidates count whose certified accuracy is at most so much below the best.
        least_accuracy: the main radius is the largest at which the reference certifies so many.
        reference: the run that others are compared with.
        data: the data sets.
    """

    name: str
    result: str
    seeds: tuple[int, ...]
    alpha: float
    bins: int
    within: float
    least_accuracy: float
    reference: str
    data: tuple[DataPlan, ...]


def read_plan(path: Path) -> Plan:
    """Reads and checks a plan.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: something in it is unknown, missing or out of range; it is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"plan: no such file: {path}")
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"plan: {path} is no TOML: {error}") from error
    try:
        return _plan(held)
    except (AttributeError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"plan: {path}: a value of another kind than expected: {error}") from error


def _plan(held: dict[str, Any]) -> Plan:
    """The plan of what a file holds, checked."""
    data = tuple(_data(name, table) for name, table in held.pop("datasets", {}).items())
    made = _made(Plan, "plan", {**held, "data": data})
    if not data or not made.seeds:
        raise ValueError("plan: expected at least one data set and one seed")
    for part in data:
        names = [run.name for run in part.runs]
        if len(set(names)) != len(names) or made.reference not in names:
            raise ValueError(
                f"{part.name}: expected runs of different names, one of them {made.reference!r}, got {names}"
            )
        part.stages()
        for run, number in itertools.product(part.runs, range(max(map(_count, part.runs)))):
            if number < len(run.candidates):
                try:
                    run.objective(number)
                    part.training_settings(run, made.seeds[0])
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{part.name}, {run.name}/{number}: {error}") from error
    return made


def _count(run: Run) -> int:
    return len(run.candidates)


def _data(name: str, table: dict[str, Any]) -> DataPlan:
    runs = tuple(_run(name, run) for run in table.pop("runs", []))
    made = _made(
        DataPlan, name, {"settings": {}, "test_skip": 0, **table, "name": name, "runs": runs}
    )
    known = {run.name: run for run in runs}
    for run in runs:
        start, _, number = (run.start or "").partition("/")
        fits = start in known and number.isdigit() and int(number) < len(known[start].candidates)
        if run.start is not None and not fits:
            raise ValueError(
                f"{name}, {run.name}: start: expected run/candidate, got {run.start!r}"
            )
    return made


def _run(data: str, table: dict[str, Any]) -> Run:
    where = f"{data}, {table.get('name', 'a run')}"
    if table.get("method") not in METHODS:
        raise ValueError(f"{where}: method: expected one of {', '.join(METHODS)}")
    full = {"start": None, "settings": {}, "options": {}, "candidates": [{}]} | table
    return _made(Run, where, full)


def _made(kind: Any, where: str, held: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(kind)}
    unknown, missing = sorted(held.keys() - names), sorted(names - held.keys())
    if unknown or missing:
        raise ValueError(f"{where}: unknown: {unknown or 'none'}; missing: {missing or 'none'}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in held.items()})
