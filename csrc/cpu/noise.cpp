// SPDX-License-Identifier: MIT
#include "noise.hpp"

#include <algorithm>

#include "noise_kernel.hpp"
#include "parallel.hpp"

namespace certcal {
namespace {

constexpr int64_t kPieceElements = 4096;  // a multiple of every path's step
constexpr int64_t kGrainPieces = 8;  // below some 10^5 elements a thread costs more than it saves

NoiseRow row_function(SimdPath path) {
#ifdef CERTCAL_X86
  return for_path(path, noise_row_scalar, noise_row_avx2, noise_row_avx512);
#else
  (void)path;
  return noise_row_scalar;
#endif
}

}  // namespace

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
