// SPDX-License-Identifier: MIT
#include "noise_kernel.hpp"

namespace certcal {
namespace {

struct ScalarLanes {
  using Float = float;
  using Word = uint32_t;
  static constexpr int kWidth = 1;
  static Word block_order() { return 0; }
  static void transpose(Float (&)[4]) {}
  static Float load(const float* p, int k) { return p[k]; }
  static void store(float* p, int k, Float x) { p[k] = x; }
};

}  // namespace

void noise_row_scalar(const float* image, float sigma, uint64_t seed, uint64_t sample_id,
                      uint32_t draw, int64_t begin, int64_t end, float* out) {
  noise_row<ScalarLanes>(image, sigma, seed, sample_id, draw, begin, end, out);
}

}  // namespace certcal
