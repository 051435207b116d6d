#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# sdist -> wheel -> an empty environment -> the tests, in a folder where nothing of the source tree can be imported.
#
# Usage: tools/check_wheel.sh [--all | --build] [FOLDER]
#   By default the environment has the wheel with what it depends on, and what the tests themselves import; the files below
#   run. With --all it has every extra, and all tests run but those that read bench/, docs/ or tools/. --build tests nothing.
#   FOLDER keeps the sdist and the wheel; without it they are thrown away. PYTHON chooses the interpreter.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
what=core
case "${1:-}" in
  --all | --build) what="${1#--}"; shift ;;
esac
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "${1:-$work/dist}"
dist="$(cd "${1:-$work/dist}" && pwd)"
rm -f "$dist"/certcal_ext-*.tar.gz "$dist"/certcal_ext-*.whl

# Files of the source tree that these tests need are none: they stand on the installed package alone.
core_tests=(certificates/test_bounds test_fuzz_corpus certificates/test_table certificates/test_certificates certificates/test_samples__classes metrics/test_ece_table metrics/test_edges test_golden
            test_hostile intervals/test_clopper_pearson certificates/test_readers metrics/test_selective metrics/test_state__machine stopping/test_rules certificates/test_validity test_wheel)
# What reads bench/, docs/ or tools/, or the readers of the training extra's plans.
tree_tests=(test_docs_claims test_examples test_experiment milp/test_solve__limits test_gpu_short test_peers_certify test_ptxas)

echo "== sdist"
"${PYTHON:-python3}" -m venv "$work/build"
pip=("$work/build/bin/pip" --quiet --disable-pip-version-check)
"${pip[@]}" install "scikit-build-core>=0.10"
(cd "$root" && "$work/build/bin/python" -c \
  "import sys; from scikit_build_core import build; build.build_sdist(sys.argv[1])" "$dist")
sdist="$(ls "$dist"/certcal_ext-*.tar.gz)"
size="$(stat -c %s "$sdist")"
echo "$(basename "$sdist"): $size bytes"
(( size < 3000000 )) || { echo "expected an sdist below 3 MB" >&2; exit 1; }
# Listed first: grep would stop reading at its first match, which ends tar with an error.
tar tzf "$sdist" > "$work/names"
for name in LICENSE README.md pyproject.toml CMakeLists.txt csrc/core/normal_cdf_table.inc third_party/doctest/doctest.h; do
  grep -qx "certcal_ext-[^/]*/$name" "$work/names" || { echo "the sdist lacks $name" >&2; exit 1; }
done
if grep -E '/(build|\.venv|\.ci)/|\.so$|bench/results/' "$work/names"; then
  echo "the sdist holds what does not belong there" >&2
  exit 1
fi

echo "== wheel, from the sdist alone"
(cd "$work" && CERTCAL_CUDA="${CERTCAL_CUDA:-OFF}" "${pip[@]}" wheel --no-deps --wheel-dir "$dist" "$sdist")
wheel="$(ls "$dist"/certcal_ext-*.whl)"
echo "$(basename "$wheel"): $(stat -c %s "$wheel") bytes"

[[ "$what" != build ]] || exit 0

echo "== an empty environment"
"${PYTHON:-python3}" -m venv "$work/env"
pip=("$work/env/bin/pip" --quiet --disable-pip-version-check)
if [[ "$what" == all ]]; then
  "${pip[@]}" install -c "$root/constraints.txt" "$wheel[test]"
else
  "${pip[@]}" install "$wheel"
  "$work/env/bin/pip" --disable-pip-version-check freeze
  # Before anything else is there: the package works with what it says it depends on.
  (cd "$work" && "$work/env/bin/python" - <<'PY'
import certcal_ext as cc

certificates = cc.Certificates.from_counts([[990, 10], [100, 900]], [0, 0], sigma=0.25)
certificates.to_parquet("c.parquet")
assert cc.Certificates.from_parquet("c.parquet") == certificates
print("bound without extras:", certificates.bound("ece", 0.25, scope="all", delta=0.01).joint)
PY
  )
  "${pip[@]}" install "pytest>=8" "hypothesis>=6.100" "mpmath>=1.3"
fi

echo "== tests"
mkdir "$work/tests"
cp -r "$root/python_tests" "$work/tests/"
find "$work/tests" -name __pycache__ -type d -prune -exec rm -rf {} +
cp "$root/pyproject.toml" "$work/tests/"  # pytest's settings
cd "$work/tests"
unset PYTHONPATH
files=("--deselect=python_tests/test_golden.py::test_referee_agrees_wherever_it_finishes")  # needs highspy
for name in "${core_tests[@]}"; do files+=("python_tests/$name.py"); done
if [[ "$what" == all ]]; then
  files=(python_tests)
  for name in "${tree_tests[@]}"; do files+=("--ignore=python_tests/$name.py"); done
fi
CERTCAL_INSTALLED="$work/env" CERTCAL_SHARED="${CERTCAL_SHARED:-$root/../shared}" \
  "$work/env/bin/python" -m pytest -q -p no:cacheprovider "${files[@]}"
