#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Everything that only a machine with a CUDA GPU can show, in one run without network:
#
#   bash tools/gpu_check.sh [FOLDER_OF_WHEELS]
#   bash tools/gpu_check.sh --short [FOLDER_FOR_RESULTS]      the most of it, in at most 8 minutes; see gpu_short.sh
#   bash tools/gpu_check.sh --dry-run [FOLDER_FOR_RESULTS]    the steps of --short on a machine without a GPU
#
# Builds the extension with CUDA required, runs the tests marked cuda, the checkers of compute-sanitizer, the C++ benchmarks
# and the Python peers, and leaves bench/results/gpu.json: device, driver, versions, commit, and for each step its exit code and
# log. Exits with 1 if a step failed; the file is written all the same. Needs Python 3.10 or newer with torch, nvcc and a GPU;
# whatever else is missing (scikit-build-core, pybind11, cmake, pytest, ...) comes from the folder of wheels. Google Benchmark is
# found where CMake finds it (CMAKE_PREFIX_PATH). PYTHON names the interpreter, CERTCAL_COMMIT the commit where there is no git.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
case "${1:-}" in --short | --dry-run) exec bash "$root/tools/gpu_short.sh" "$@" ;; esac
cd "$root" || exit 1
python=${PYTHON:-python3}
wheels=${1:-}
work=build/gpu_check
logs=bench/results/gpu_logs
results=bench/results/gpu.json

stop() {
  echo "gpu_check: $1" >&2
  exit 1
}

# ---- is this the machine? Nothing is written where it is not. ----
command -v nvidia-smi >/dev/null || stop "no GPU here: nvidia-smi was not found"
nvidia-smi -L 2>/dev/null | grep -q '^GPU' || stop "no GPU here: nvidia-smi lists none"
command -v "$python" >/dev/null || stop "'$python' was not found (set PYTHON=...)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || stop "Python 3.10 or newer is needed, got $("$python" --version)"
"$python" -c 'import torch' 2>/dev/null || stop "'$python' has no torch (set PYTHON=...)"
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || stop "torch finds no CUDA device"
nvcc=$(PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH:/usr/local/cuda/bin" command -v "${CUDACXX:-nvcc}") ||
  stop "nvcc was not found (set CUDACXX or CUDA_HOME)"
[ -z "$wheels" ] || [ -d "$wheels" ] || stop "no folder $wheels"
[ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd)
export CUDACXX=$nvcc

rm -rf "$work" "$logs"
mkdir -p "$work/empty" "$logs"
steps=$work/steps.tsv # name, exit code or "skipped", seconds, note
: >"$steps"

# step NAME COMMAND...: runs it into its own log; a failure is noted and the next step runs.
step() {
  local name=$1 started=$SECONDS code=0
  shift
  echo "gpu_check: $name ..."
  "$@" >"$logs/$name.log" 2>&1 || code=$?
  printf '%s\t%s\t%s\t\n' "$name" "$code" $((SECONDS - started)) >>"$steps"
  if [ "$code" -ne 0 ]; then
    echo "gpu_check: $name FAILED with exit code $code, the end of $logs/$name.log:" >&2
    tail -n 15 "$logs/$name.log" >&2
  fi
  return "$code"
}

skip() {
  echo "gpu_check: $1 skipped: $2"
  printf '%s\tskipped\t0\t%s\n' "$1" "$2" >>"$steps"
}

# ---- an environment beside the one with torch, which it sees and does not change ----
make_environment() {
  "$python" -m venv --without-pip "$work/venv" || return
  "$python" - "$work"/venv/lib/python3.*/site-packages <<'PYTHON'
import pathlib, site, sys, sysconfig

folders = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
if site.ENABLE_USER_SITE:
    folders.append(site.getusersitepackages())
# Bare paths: the .pth files in those folders are not read, so no editable install of certcal_ext gets in the way.
(pathlib.Path(sys.argv[1]) / "parent.pth").write_text("\n".join(dict.fromkeys(folders)) + "\n")
PYTHON
}
venv=$root/$work/venv/bin/python
# Not the folder: one file that cannot be imported here would end the run of all.
mapfile -t cuda_tests < <(grep -rl --include='test_*.py' ON_DEVICE "$root/python_tests")
pip_install() {
  "$venv" -m pip install --no-index ${wheels:+--find-links "$wheels"} --disable-pip-version-check "$@"
}
install_tools() {
  pip_install "scikit-build-core>=0.10" "pybind11>=2.12" "cmake>=3.25" ninja \
    "numpy>=1.24" "scipy>=1.10" "pyarrow>=14" "pytest>=8" "hypothesis>=6.100" "matplotlib>=3.7"
}
build_extension() {
  CERTCAL_CUDA=ON pip_install --no-deps --no-build-isolation --ignore-installed -C build-dir="$work/python" "$root"
}
# From an empty folder, so that the installed package is imported and not its sources.
from_nowhere() { (cd "$work/empty" && "$@"); }
run_doctor() {
  from_nowhere "$venv" -c 'import sys, certcal_ext._core as core
status = core.cuda_status()
print(core.__file__, core.build_info(), status, sep="\n")
sys.exit(None if core.__file__.startswith(sys.prefix) and status["compiled"] and status["devices"] else "not usable")'
}
run_tests() {
  from_nowhere "$venv" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -m cuda -rs \
    --junitxml "$root/$work/cuda.xml" "${cuda_tests[@]}" &&
    "$venv" - "$work/cuda.xml" <<'PYTHON'
import sys
import xml.etree.ElementTree as tree

suite = next(tree.parse(sys.argv[1]).iter("testsuite"))
tests, skipped = int(suite.get("tests")), int(suite.get("skipped"))
print(f"{tests - skipped} tests ran on the device, {skipped} were skipped")
sys.exit("no test ran on the device" if tests == skipped else 0)
PYTHON
}
# Small cases of every kernel: the checkers slow them down a hundredfold. Without torch's cache each array is an allocation of
# its own, whose ends the checkers know.
run_sanitizer() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 from_nowhere "$sanitizer" --tool "$1" --error-exitcode 9 --target-processes all \
    "$venv" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -q \
    -m cuda -k 'test_noise_has and (33 or 256) or test_noise_of_every_dtype or test_votes_and_scores and 33' \
    "${cuda_tests[@]}"
}
build_cpp() {
  "$venv" -m cmake -S . -B "$work/cpp" -DCERTCAL_CUDA=ON -DCERTCAL_BUILD_PYTHON=OFF -DCERTCAL_BUILD_TESTS=OFF \
    -DCERTCAL_BUILD_BENCH=ON && "$venv" -m cmake --build "$work/cpp" -j
}
run_bench() {
  "$work/cpp/bench/bench_$1" --benchmark_min_time=0.1 --benchmark_repetitions=7 --benchmark_report_aggregates_only=true \
    --benchmark_out_format=json --benchmark_out="bench/results/gpu_cpp_$1.json" && check_cuda_timed "$1"
}
check_cuda_timed() {
  [ "$1" = ece ] || [ "$1" = certify ] || grep -q '"cuda": "timed"' "bench/results/gpu_cpp_$1.json" || { echo "bench_$1 timed nothing on CUDA"; return 1; }
}
run_peers() { from_nowhere "$venv" "$root/bench/peers.py" --name gpu_peers; }

# ---- the steps ----
if step environment make_environment && step install_tools install_tools && step build_extension build_extension &&
  step doctor run_doctor; then
  step tests_marked_cuda run_tests

  sanitizer=$(PATH="$PATH:$(dirname "$nvcc"):$(dirname "$nvcc")/../compute-sanitizer:/usr/local/cuda/bin" command -v compute-sanitizer)
  for tool in memcheck racecheck; do
    if [ -n "$sanitizer" ]; then
      step "sanitizer_$tool" run_sanitizer "$tool"
    else
      skip "sanitizer_$tool" "compute-sanitizer is not on this machine"
    fi
  done

  mkdir -p "$work/find"
  printf 'cmake_minimum_required(VERSION 3.25)\nproject(find LANGUAGES CXX)\nfind_package(benchmark REQUIRED)\n' \
    >"$work/find/CMakeLists.txt"
  if "$venv" -m cmake -S "$work/find" -B "$work/find/build" >"$logs/find_benchmark.log" 2>&1; then
    if step build_cpp build_cpp; then
      for name in noise votes certify ece; do step "bench_$name" run_bench "$name"; done
    fi
  else
    skip bench_cpp "Google Benchmark is not on this machine"
  fi
  step ptxas "$venv" tools/check_ptxas.py
  step peers run_peers
else
  echo "gpu_check: what follows needs this step; nothing else was run" >&2
fi

# ---- the record ----
commit=${CERTCAL_COMMIT:-$(git describe --always --dirty 2>/dev/null)}
"$python" - "$steps" "$logs" "$results" "$nvcc" "$commit" "$work/cuda.xml" <<'PYTHON'
import json
import os
import pathlib
import platform
import subprocess
import sys
import xml.etree.ElementTree as tree

import torch

steps_file, logs, results, nvcc, commit, junit = sys.argv[1:]


def output(*command):
    run = subprocess.run(command, capture_output=True, text=True)
    return run.stdout.strip().splitlines()


def quietly(function):
    """What a function says, or why it says nothing: the record is written in any case."""
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


steps = {}
for line in pathlib.Path(steps_file).read_text().splitlines():
    name, code, seconds, note = line.split("\t")
    steps[name] = (
        {"skipped": note}
        if code == "skipped"
        else {"exit_code": int(code), "seconds": int(seconds), "log": f"{logs}/{name}.log"}
    )
failed = [name for name, step in steps.items() if step.get("exit_code")]
tests = None
if os.path.exists(junit):
    suite = next(tree.parse(junit).iter("testsuite"))
    tests = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
query = "name,driver_version,memory.total,clocks.max.sm"
record = {
    "command": "bash tools/gpu_check.sh",
    "ok": not failed,
    "failed": failed,
    "environment": {
        "commit": commit or None,
        "devices": output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"),
        "device": quietly(torch.cuda.get_device_name),
        "compute_capability": quietly(torch.cuda.get_device_capability),
        "nvcc": (output(nvcc, "--version") or [None])[-1],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "load_average": os.getloadavg(),
    },
    "tests_marked_cuda": tests,
    "steps": steps,
    "results": sorted(str(path) for path in pathlib.Path("bench/results").glob("gpu_*.json")),
}
pathlib.Path(results).write_text(json.dumps(record, indent=2) + "\n")
print(f"gpu_check: {results} written; " + ("FAILED: " + ", ".join(failed) if failed else "all steps passed"))
sys.exit(bool(failed))
PYTHON
