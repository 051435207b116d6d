# SPDX-License-Identifier: MIT
"""The training experiment: trains, chooses on validation images, certifies test images, and writes tables and plots.

Run with: python bench/experiment.py bench/plans/reduced.toml [--jobs 2] [--threads 1] [--device auto] [--work FOLDER]
[--results FOLDER] [--only DATA SET]. It can be stopped at any time: what is done is kept, and a training run that was
stopped goes on exactly. Fashion-MNIST is found through CERTCAL_SHARED, default ../shared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from experiment_jobs import Job, check_unchanged, do
from experiment_measures import all_measures, measures
from experiment_plan import DataPlan, Plan, Run, read_plan
from experiment_report import write_markdown, write_picture
from harness import RESULTS, environment

from certcal_ext import Certificates
from certcal_ext._progress import duration

ROOT = Path(__file__).resolve().parent.parent


def jobs_of(kind: str, plan: Plan, data: DataPlan, runs: Iterable[Run], options: Any) -> list[Job]:
    return [
        Job(
            kind,
            plan,
            data,
            run,
            candidate,
            seed,
            options.work / plan.name / data.name,
            options.device,
            options.threads,
        )
        for run in runs
        for candidate in range(len(run.candidates))
        for seed in plan.seeds
    ]


def run_all(jobs: list[Job], options: argparse.Namespace, what: str) -> float:
    """Runs what is not done yet, some at the same time; returns the seconds it took."""
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        check_unchanged(job)
    left = [job for job in jobs if not job.done]
    started = time.perf_counter()
    if left:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
            running = {pool.submit(do, job): job for job in left}
            for number, future in enumerate(as_completed(running), 1):
                future.result()
                spent = duration(time.perf_counter() - started)
                name = running[future].result.name
                print(f"{what}: {number} of {len(left)} ({name}), {spent}", flush=True)
    return time.perf_counter() - started


def choose(
    plan: Plan, data: DataPlan, found: dict[tuple[str, int], dict[str, Any]]
) -> dict[str, Any]:
    """The main radius, and a candidate of each method: the lowest certified Brier score within reach of the best accuracy.

    Args:
        plan: the plan.
        data: the data set's part.
        found: by method and candidate, the measures of the validation images, means over the seeds.

    Returns:
        The radius, its number, the best certified accuracy there, and by method the candidate and whether it is
        within reach.
    """
    radii = np.array(data.radii)
    reference = np.max(
        [m["certified_accuracy"] for (name, _), m in found.items() if name == plan.reference],
        axis=0,
    )
    reached = np.flatnonzero(reference >= plan.least_accuracy)
    if not reached.size:
        raise ValueError(
            f"{data.name}: radii: expected one at which {plan.reference} certifies {plan.least_accuracy:.0%}, "
            f"it certifies {reference.round(3).tolist()}"
        )
    at = int(reached[np.argmax(radii[reached])])
    best = max(m["certified_accuracy"][at] for m in found.values())
    chosen = {}
    for run in data.runs:
        own = {number: m for (name, number), m in found.items() if name == run.name}
        within = {
            number: m
            for number, m in own.items()
            if m["certified_accuracy"][at] >= best - plan.within
        }
        if within:
            number = min(within, key=lambda n: within[n]["certified_brier"][at])
        else:
            number = max(own, key=lambda n: own[n]["certified_accuracy"][at])
        chosen[run.name] = {"candidate": number, "within": bool(within)}
    return {"radius": float(radii[at]), "at": at, "best": best, "runs": chosen}


def validated(plan: Plan, data: DataPlan, jobs: list[Job]) -> dict[tuple[str, int], dict[str, Any]]:
    """Means over the seeds of the validation images' measures, by run and candidate."""
    groups: dict[tuple[str, int], list[dict[str, list[float]]]] = {}
    for job in jobs:
        made = Certificates.from_parquet(job.result)
        groups.setdefault((job.run.name, job.candidate), []).append(
            measures(made, data.radii, plan.bins)
        )
    return {
        key: {name: np.mean([one[name] for one in several], axis=0) for name in several[0]}
        for key, several in groups.items()
    }


def costs(jobs: list[Job], chosen: dict[str, Any]) -> dict[str, Any]:
    """Training times of the chosen candidates, with the run that they start from and without."""
    records = {job.stem: json.loads(job.result.read_text()) for job in jobs}
    result = {}
    for name, choice in chosen.items():
        own, inner, whole, cpu, whole_cpu = [], [], [], [], []
        for job in jobs:
            if job.run.name != name or job.candidate != choice["candidate"]:
                continue
            record = records[job.stem]
            start = job.start()
            before = None if start is None else records[start.stem]
            own.append(record["seconds"])
            whole.append(record["seconds"] + (0.0 if before is None else before["seconds"]))
            cpu.append(cpu_of(record))
            whole_cpu.append(cpu_of(record) + (0.0 if before is None else cpu_of(before)))
            inner.append(record["seconds_inside"].get("inner", 0.0) / record["seconds"])
            per_step = record["seconds"] / record["steps"]
        result[name] = {
            "seconds": summary(own),
            "seconds_with_start": summary(whole),
            "cpu_seconds": summary(cpu),
            "cpu_seconds_with_start": summary(whole_cpu),
            "inner_share": summary(inner),
            "inner_milliseconds": 1e3 * float(np.mean(inner)) * per_step,
            "weights": record["weights"],
            "device": record["device"],
        }
    return result


def cpu_of(record: dict[str, Any]) -> float:
    """Processor time of a training run; not known of one that was interrupted."""
    spent = record["cpu_seconds"]
    return float("nan") if spent is None else float(spent)


def summary(values: list[float]) -> dict[str, Any]:
    several = len(values) > 1
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if several else float("nan"),
        "values": values,
    }


def compared(plan: Plan, data: DataPlan, choice: dict[str, Any], result: dict[str, Any]) -> Any:
    """Reductions against the reference at the main radius, seed by seed, by confidence and method."""
    at = choice["at"]
    table: dict[str, Any] = {}
    for confidence, part in result.items():
        plain = part["plain"]
        base = plain[plan.reference]
        for name in plain:
            if name == plan.reference:
                continue
            row = {}
            for metric in ("certified_brier", "certified_ece"):
                ours, theirs = (np.array(m[metric]["values"])[:, at] for m in (plain[name], base))
                row[f"{metric}_cut"] = summary((1 - ours / theirs).tolist())
            ours, theirs = (
                np.array(m["certified_accuracy"]["values"])[:, at] for m in (plain[name], base)
            )
            row["accuracy_gain"] = summary((ours - theirs).tolist())
            table.setdefault(confidence, {})[name] = row
    return table


def on_data(plan: Plan, data: DataPlan, options: argparse.Namespace) -> dict[str, Any]:
    """All of one data set."""
    seconds = {"training": 0.0}
    training: list[Job] = []
    for stage in data.stages():
        jobs = jobs_of("train", plan, data, stage, options)
        seconds["training"] += run_all(jobs, options, f"{data.name}: training")
        training += jobs
    validation = jobs_of("validation", plan, data, data.runs, options)
    seconds["validation"] = run_all(validation, options, f"{data.name}: validation")
    candidates = validated(plan, data, validation)
    choice = choose(plan, data, candidates)
    tests = [
        job
        for job in jobs_of("test", plan, data, data.runs, options)
        if job.candidate == choice["runs"][job.run.name]["candidate"]
    ]
    seconds["test"] = run_all(tests, options, f"{data.name}: test")
    chosen: dict[str, dict[int, Certificates]] = {}
    for job in tests:
        chosen.setdefault(job.run.name, {})[job.seed] = Certificates.from_parquet(job.result)
    found = all_measures(chosen, data, plan.bins)
    at = choice["at"]
    return {
        "sigma": data.sigma,
        "model": data.model,
        "images": {
            "training": data.training,
            "validation": data.validation,
            "test": data.test,
            "test_skip": data.test_skip,
        },
        "draws": {"n0": data.n0, "n": data.n, "validation_n": data.validation_n},
        "radii": list(data.radii),
        "choice": choice,
        "candidates": [
            {
                "run": name,
                "options": data.run(name).candidates[number],
                "start": data.run(name).start,
                **{
                    measure: float(values[at])
                    for measure, values in measured.items()
                    if measure
                    in ("certified_accuracy", "certified_brier", "certified_ece", "skill")
                },
            }
            for (name, number), measured in candidates.items()
        ],
        "costs": costs(training, choice["runs"]),
        "compared": compared(plan, data, choice, found),
        "measures": found,
        "seconds": seconds,
    }


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path, help="TOML file, such as bench/plans/reduced.toml")
    parser.add_argument("--jobs", type=int, default=2, help="processes at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads a process")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "experiment")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", default=None, help="one data set; writes no results")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    options = arguments(words)
    try:
        plan = read_plan(options.plan)
        names = [data.name for data in plan.data]
        if options.only not in (None, *names):
            raise ValueError(f"--only: expected one of {', '.join(names)}, got {options.only!r}")
        found = {
            data.name: on_data(plan, data, options)
            for data in plan.data
            if options.only in (None, data.name)
        }
    except (ValueError, OSError) as error:
        print(f"experiment: error: {error}", file=sys.stderr)
        return 2
    record = {
        "command": f"python bench/experiment.py {options.plan}",
        "environment": environment(),
        "plan": {
            "name": plan.name,
            "seeds": list(plan.seeds),
            "alpha": plan.alpha,
            "bins": plan.bins,
        },
        "measurements": found,
    }
    target = options.results if options.only is None else options.work / plan.name
    target.mkdir(parents=True, exist_ok=True)
    files = [target / f"{plan.result}.{ending}" for ending in ("json", "md", "svg")]
    files[0].write_text(json.dumps(rounded(record), indent=1, allow_nan=False) + "\n")
    write_markdown(record, plan, files[1])
    write_picture(record, plan, files[2])
    print("\n".join(f"{path} written" for path in files))
    return 0


def rounded(value: Any) -> Any:
    """For the file: five significant digits are enough, and what is not a number is null."""
    if isinstance(value, dict):
        return {str(key): rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
