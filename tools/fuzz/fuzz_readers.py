# SPDX-License-Identifier: MIT
"""Coverage-guided fuzzing of the readers of files with atheris; what it finds is to be kept in python_tests/fuzz_corpus.

Run with: python tools/fuzz/fuzz_readers.py TARGET FOLDER [options of libFuzzer, such as -max_total_time=60]

FOLDER keeps the inputs that reached something new; the seeds and the committed inputs are put into it first. A finding does
not end the run: the shortest input of each kind goes to FOLDER.found, and the exit status is then 1. The targets are those
of python_tests/fuzz_targets.py.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import logging
import os
import sys
import tempfile
import traceback
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python_tests"), str(ROOT)]
for finder in sys.meta_path:
    # An editable install finds modules before atheris can; only the compiled one is left to it.
    if hasattr(finder, "known_source_files"):
        finder.known_source_files.clear()
        finder.submodule_search_locations.clear()

import torch  # noqa: E402

# Only this part of torch is followed, as it is what a hostile file speaks to.
del sys.modules["torch._weights_only_unpickler"]
with atheris.instrument_imports(include=["torch"]):
    torch.serialization._weights_only_unpickler = importlib.import_module(
        "torch._weights_only_unpickler"
    )
with atheris.instrument_imports(include=["certcal_ext", "experiment_plan", "tomllib", "json"]):
    import fuzz_targets
    import tomllib  # noqa: F401

    import certcal_ext.attacks.result
    import certcal_ext.certificates.certificates
    import certcal_ext.cli._config
    import certcal_ext.datasets
    import certcal_ext.models
    import certcal_ext.training.checkpoint  # noqa: F401

    sys.path.append(str(fuzz_targets.BENCH))
    import experiment_plan  # noqa: F401


def kind_of(error: BaseException) -> str:
    """Type and place of the error behind a finding: what two findings of one cause share."""
    cause = error.__cause__ or error
    last = traceback.extract_tb(cause.__traceback__)[-1]
    return f"{type(cause).__name__}-{Path(last.filename).stem}-{last.lineno}"


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in fuzz_targets.TARGETS:
        sys.exit(f"usage: fuzz_readers.py {'|'.join(fuzz_targets.TARGETS)} FOLDER [options]")
    name, corpus = sys.argv[1], Path(sys.argv[2])
    target = fuzz_targets.TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    kept = ROOT / "python_tests" / "fuzz_corpus" / name
    committed = sorted(kept.iterdir()) if kept.is_dir() else []
    for seed in [*target.seeds(), *(file.read_bytes() for file in committed)]:
        (corpus / hashlib.sha256(seed).hexdigest()[:20]).write_bytes(seed)
    logging.disable(logging.CRITICAL)
    found = corpus.with_name(corpus.name + ".found")
    with tempfile.TemporaryDirectory() as folder:

        def one(data: bytes) -> None:
            try:
                fuzz_targets.run(target, data, Path(folder))
            except fuzz_targets.Finding as finding:
                found.mkdir(exist_ok=True)
                kept = found / kind_of(finding)
                if not kept.exists() or kept.stat().st_size > len(data):
                    print(f"FOUND {kept.name}: {finding}", file=sys.stderr)
                    kept.write_bytes(data)

        atexit.register(report, found)

        atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], one)
        atheris.Fuzz()


def report(found: Path) -> None:
    """Says how many kinds there are, as libFuzzer ends the process by itself."""
    if found.is_dir():
        print(f"{len(list(found.iterdir()))} kinds of findings in {found}", file=sys.stderr)
        os._exit(1)


if __name__ == "__main__":
    main()
