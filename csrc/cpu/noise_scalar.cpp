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
  template <class Value>
  static void store(Value* p, int k, Float x) {
    round_to(x, p[k]);
  }
};

}  // namespace

template <class Value>
void noise_row_scalar(const float* image, float sigma, uint64_t seed, uint64_t sample_id,
                      uint32_t draw, int64_t begin, int64_t size, Value* out) {
  noise_row<ScalarLanes>(image, sigma, seed, sample_id, draw, begin, size, out);
}

template void noise_row_scalar<float>(const float*, float, uint64_t, uint64_t, uint32_t, int64_t,
                                      int64_t, float*);
template void noise_row_scalar<Float16>(const float*, float, uint64_t, uint64_t, uint32_t, int64_t,
                                        int64_t, Float16*);
template void noise_row_scalar<BFloat16>(const float*, float, uint64_t, uint64_t, uint32_t, int64_t,
                                         int64_t, BFloat16*);

}  // namespace certcal
