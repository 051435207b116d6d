// SPDX-License-Identifier: MIT
#include "noise.hpp"

#include <algorithm>

#include "noise_kernel.hpp"
#include "parallel.hpp"

namespace certcal {
namespace {

constexpr int64_t kPieceElements = 4096;  // a multiple of every path's step
constexpr int64_t kGrainPieces = 8;       // below some 10^5 elements a thread costs more than it saves

NoiseRow row_function(SimdPath path) {
#ifdef CERTCAL_X86
  if (path == SimdPath::kAvx512) return noise_row_avx512;
  if (path == SimdPath::kAvx2) return noise_row_avx2;
#endif
  (void)path;
  return noise_row_scalar;
}

}  // namespace

std::vector<SimdPath> available_simd_paths() {
  std::vector<SimdPath> paths;
#ifdef CERTCAL_X86
  if (__builtin_cpu_supports("avx512f")) paths.push_back(SimdPath::kAvx512);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
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

void add_noise_cpu(const float* images, const int64_t* sample_ids, float sigma, uint64_t seed,
                   int64_t batch, int64_t elements, uint32_t first_draw, int64_t draws, float* out,
                   int threads, SimdPath path) {
  if (batch <= 0 || elements <= 0 || draws <= 0) return;
  const NoiseRow row = row_function(path);
  const int64_t pieces = (elements + kPieceElements - 1) / kPieceElements;
  const int64_t row_grain = std::max<int64_t>(1, kGrainPieces * kPieceElements / elements);
  const int64_t grain = pieces > 1 ? kGrainPieces : row_grain;
  parallel_for(batch * draws * pieces, grain, threads, [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t line = item / pieces;
      const int64_t begin = (item % pieces) * kPieceElements;
      const int64_t b = line / draws;
      const uint32_t draw = first_draw + static_cast<uint32_t>(line % draws);
      row(images + b * elements, sigma, seed, static_cast<uint64_t>(sample_ids[b]), draw, begin,
          std::min(begin + kPieceElements, elements), out + line * elements);
    }
  });
}

}  // namespace certcal
