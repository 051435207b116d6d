// SPDX-License-Identifier: MIT
#include "simd_path.hpp"

#ifdef CERTCAL_X86
#include <cpuid.h>
#endif

namespace certcal {
namespace {

#ifdef CERTCAL_X86
// Older compilers' __builtin_cpu_supports does not know this name.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

std::vector<SimdPath> available_simd_paths() {
  std::vector<SimdPath> paths;
#ifdef CERTCAL_X86
  if (__builtin_cpu_supports("avx512f")) paths.push_back(SimdPath::kAvx512);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    paths.push_back(SimdPath::kAvx2);
  }
#endif
  paths.push_back(SimdPath::kScalar);
  return paths;
}

std::string simd_path_name(SimdPath path) {
  switch (path) {
    case SimdPath::kAvx512:
      return "avx512";
    case SimdPath::kAvx2:
      return "avx2";
    case SimdPath::kScalar:
      break;
  }
  return "scalar";
}

}  // namespace certcal
