#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The most that some minutes on a GPU can show, in the order of what is worth most; see gpu_check.sh --short.
#
#   bash tools/gpu_check.sh --short [FOLDER_FOR_RESULTS]      on a machine with a GPU: at most 8 minutes in all
#   bash tools/gpu_check.sh --dry-run [FOLDER_FOR_RESULTS]    each step on a CPU, with the package as PYTHON has it
#
# Every step has a limit, and what it found is on disk when it ends, so a run that is cut leaves all that it found by then:
# steps.jsonl, record.json, kernels.jsonl, loop.jsonl, cuda.xml and log.txt. Needs Python 3.10 or newer with torch, NumPy,
# SciPy, PyArrow, pytest, hypothesis, scikit-build-core, pybind11, cmake and ninja, and nvcc; no git and no network.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
dry=
[ "${1:-}" != --dry-run ] || dry=1
case "${1:-}" in --short | --dry-run) shift ;; esac
out=$(mkdir -p "${1:-$root/bench/results/gpu_short}" && cd "${1:-$root/bench/results/gpu_short}" && pwd) || exit 1
python=$(command -v "${PYTHON:-python3}") || { echo "gpu_check: '${PYTHON:-python3}' was not found (set PYTHON=...)" >&2; exit 1; }
total=${CERTCAL_GPU_SECONDS:-480}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -f "$out"/{steps.jsonl,record.json,kernels.jsonl,loop.jsonl,cuda.xml,log.txt}
export PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH:/usr/local/cuda/bin" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
failed=0

# step NAME LIMIT COMMAND...: its seconds and exit code are written when it ends; 124: it ran past its limit, or past all.
step() {
  local name=$1 limit=$2 started=$SECONDS code=0
  shift 2
  local left=$((total - SECONDS))
  [ "$limit" -le "$left" ] || limit=$left
  echo "==== $name" >>"$out/log.txt"
  if [ "$limit" -lt 5 ]; then
    code=124
    echo "no time is left" >>"$out/log.txt"
  else
    timeout -k 5 "$limit" "$@" >>"$out/log.txt" 2>&1 || code=$?
  fi
  echo "{\"step\": \"$name\", \"exit\": $code, \"seconds\": $((SECONDS - started)), \"at\": $SECONDS}" | tee -a "$out/steps.jsonl"
  [ "$code" -eq 0 ] || failed=1
  return "$code"
}

# An environment beside the one with torch, which it sees and does not change; machine code for the GPU that is there only.
build() {
  set -e
  "$python" -m venv --without-pip "$work/venv"
  "$python" - "$work"/venv/lib/python3.*/site-packages <<'PYTHON'
import pathlib, site, sys, sysconfig

folders = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
(pathlib.Path(sys.argv[1]) / "parent.pth").write_text("\n".join(dict.fromkeys(folders)) + "\n")
PYTHON
  architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
  CERTCAL_CUDA=ON "$work/venv/bin/python" -m pip install --no-index --no-deps --no-build-isolation --ignore-installed \
    --disable-pip-version-check -C "cmake.define.CERTCAL_CUDA_ARCHITECTURES=$architecture" -C build-dir="$work/build" "$root"
}
export -f build
export python work root

if [ -n "$dry" ]; then
  export CERTCAL_DRY_RUN=1
  py=$python
  step build 60 "$py" -c 'import certcal_ext._core' || exit 1
else
  step build 130 bash -c build || exit 1
  py=$work/venv/bin/python
fi
cd "$work" || exit 1 # so that the installed package is imported and not its sources
short="$py $root/tools/gpu_short.py"
# Not the folder: one file that cannot be imported here would end the run of all.
mapfile -t tests < <(grep -rl --include='test_*.py' ON_DEVICE "$root/python_tests")
checked=("$py" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -q -m cuda)
step doctor 20 $short record "$out/record.json"
step kernels 70 $short kernels "$out/kernels.jsonl"
step tests 110 "${checked[@]}" -rs --junitxml "$out/cuda.xml" "${tests[@]}"
step loop 80 $short loop "$out/loop.jsonl"
# Without torch's cache each array is an allocation of its own, whose ends the checker knows. Kernels with shared memory race.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
memory='test_noise_into or test_votes_and_scores_of_any_number_of_classes and (33 or 1000)'
races='test_votes_and_scores_of_any_number_of_classes and (10 or 257) and float32'
if [ -n "$dry" ]; then
  checker() { shift; step "$@" --collect-only; }
else
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/compute-sanitizer/compute-sanitizer 2>/dev/null)
  checker() {
    local tool=$1
    shift
    step "$1" "$2" "${sanitizer:-compute-sanitizer}" --tool "$tool" --error-exitcode 9 --target-processes all "${@:3}"
  }
fi
checker memcheck memcheck 45 "${checked[@]}" -x -k "$memory" "$root/python_tests/test_cuda.py"
checker racecheck racecheck 45 "${checked[@]}" -x -k "$races" "$root/python_tests/test_cuda.py"
cat "$out"/record.json "$out"/kernels.jsonl "$out"/loop.jsonl "$out"/steps.jsonl 2>/dev/null
grep -E "passed|failed|error" "$out/log.txt" | tail -n 5
exit "$failed"
