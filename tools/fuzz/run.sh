#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Fuzzes everything for so many seconds in all: half for the C++ targets (clang's libFuzzer with the address and the
# undefined-behaviour sanitizer), half for the readers of files (atheris). One process at a time.
#
# Usage: tools/fuzz/run.sh [SECONDS]
#   New inputs are kept in build/fuzz/inputs, what ends a C++ target in build/fuzz/found, and what a reader may not do in
#   build/fuzz/inputs/<target>.found. A finding, once mended, is to be kept in csrc/fuzz/corpus or python_tests/fuzz_corpus.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds="${1:-600}"
bin="$PWD/.venv/bin"
cpp=(certify ece noise numbers votes)
readers=(attack checkpoint config counts idx log npz parquet plan table torch torch_file weights zip)

command -v clang++ >/dev/null || { echo "fuzz: needs clang++ with libFuzzer (Debian: apt-get install clang)" >&2; exit 1; }
"$bin/python" -c "import atheris" 2>/dev/null || "$bin/pip" install --quiet --disable-pip-version-check atheris

"$bin/cmake" -S . -B build/fuzz -G Ninja -DCMAKE_MAKE_PROGRAM="$bin/ninja" -DCMAKE_CXX_COMPILER=clang++ \
  -DCERTCAL_BUILD_PYTHON=OFF -DCERTCAL_BUILD_FUZZ=ON -DCERTCAL_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCERTCAL_SANITIZE=address,undefined,fuzzer-no-link
"$bin/cmake" --build build/fuzz
mkdir -p build/fuzz/inputs build/fuzz/found

options=(-rss_limit_mb=2048 -timeout=20 -len_control=20 -print_final_stats=1 -artifact_prefix=build/fuzz/found/)
failed=()
for target in "${cpp[@]}"; do
  echo "== C++ $target"
  mkdir -p "build/fuzz/inputs/$target"
  "build/fuzz/csrc/fuzz/fuzz_$target" "${options[@]}" -max_len=600 -max_total_time=$((seconds / 2 / ${#cpp[@]} + 1)) \
    "build/fuzz/inputs/$target" "csrc/fuzz/corpus/$target" || failed+=("$target")
done
for target in "${readers[@]}"; do
  echo "== reader of $target"
  inputs="build/fuzz/inputs/reader_$target"
  "$bin/python" tools/fuzz/fuzz_readers.py "$target" "$inputs" "${options[@]}" -max_len=20000 \
    -max_total_time=$((seconds / 2 / ${#readers[@]} + 1)) || failed+=("reader of $target")
  [[ ! -d "$inputs.found" ]] || failed+=("reader of $target")
done
if (( ${#failed[@]} )); then
  printf 'fuzz: finding: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "fuzz: no finding in $seconds seconds"
