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
void noise_rows_scalar(const NoiseRows& rows, Value* out) {
  noise_rows<ScalarLanes>(rows, out);
}

template void noise_rows_scalar(const NoiseRows&, float*);
template void noise_rows_scalar(const NoiseRows&, Float16*);
template void noise_rows_scalar(const NoiseRows&, BFloat16*);

}  // namespace certcal
