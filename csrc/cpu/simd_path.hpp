// SPDX-License-Identifier: MIT
// Which instruction set the hand-written vector loops use. All give the same bits.
#pragma once

#include <string>
#include <vector>

namespace certcal {

enum class SimdPath { kScalar, kAvx2, kAvx512 };

// The paths that this processor can run, best first; the scalar one is always there.
std::vector<SimdPath> available_simd_paths();
std::string simd_path_name(SimdPath path);

// The one of three functions that belongs to a path.
template <class Function>
Function for_path(SimdPath path, Function scalar, Function avx2, Function avx512) {
  if (path == SimdPath::kAvx512) return avx512;
  return path == SimdPath::kAvx2 ? avx2 : scalar;
}

}  // namespace certcal
